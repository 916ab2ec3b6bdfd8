"""Digests: `<algorithm>:<lower-case hex>` (`spec/records.md` section 3).

Rule: only a digest that went through `Digest.parse` may become part of a path or be compared with content.
"""

from __future__ import annotations

from orlop.errors import InvalidDigest

HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX = frozenset("0123456789abcdef")
_ALGORITHM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ENCODED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=_-")

MALFORMED = "invalid checksum digest format"
WRONG_LENGTH = "invalid checksum digest length"
UNSUPPORTED = "unsupported digest algorithm"


class Digest(str):
    """A digest as text. `Digest.parse` checks it; values read from records are taken as they are stored."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check `text` and return it as a `Digest`.

        Raises:
            InvalidDigest: malformed, wrong length, or an algorithm that is not supported.
        """
        algorithm, _, encoded = text.partition(":")
        if not algorithm or not encoded:
            raise _invalid(text, MALFORMED)
        length = HEX_LENGTHS.get(algorithm)
        if length is None:
            raise _invalid(text, UNSUPPORTED if _is_well_formed(algorithm, encoded) else MALFORMED)
        if len(encoded.encode("utf-8", "surrogatepass")) != length:
            raise _invalid(text, WRONG_LENGTH)
        if not _HEX.issuperset(encoded):
            raise _invalid(text, MALFORMED)
        return cls(text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The sha256 digest of `data`."""
        from hashlib import sha256

        return cls("sha256:" + sha256(data).hexdigest())

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]


def _is_well_formed(algorithm: str, encoded: str) -> bool:
    """Words of an algorithm are parted by single `+`, `.`, `_` or `-`, as the peers have it."""
    for sign in "+._":
        algorithm = algorithm.replace(sign, "-")
    return _ENCODED.issuperset(encoded) and all(
        word and _ALGORITHM.issuperset(word) for word in algorithm.split("-")
    )


def _invalid(text: str, peer: str) -> InvalidDigest:
    shown = text if len(text) <= 160 else text[:157] + "..."
    return InvalidDigest(
        f"digest {shown!r}: wanted sha256:, sha384: or sha512: and that many hex digits ({peer})",
        peer=peer,
        digest=text,
    )
