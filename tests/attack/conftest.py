"""The fixtures of attacks on the unpacker; what they do is told in tests/attacks.py."""

from attacks import attack, canary, place, root, way

__all__ = ["attack", "canary", "place", "root", "way"]
