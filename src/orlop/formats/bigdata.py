"""From the key of a big-data item to its file name (`spec/records.md` 18.1).

Existing stores are full of such files, so the rule is the peers' to the byte, odd corner included: the walk over
the key consumes the first unusual character before it looks whether anything is left, and so a key whose only
unusual character is its last one is taken as it is.
"""

from __future__ import annotations

from orlop.errors import InvalidKey

_PLAIN = frozenset(".0123456789abcdefghijklmnopqrstuvwxyz")
_MAX_NAME_BYTES = 255


def file_name(key: str) -> str:
    """The file that holds the item `key`, a single path component.

    Raises:
        InvalidKey: the key is empty, or its file name would be another directory (`..`, `a/b`), or too long.
    """
    if not key:
        raise InvalidKey("a big-data item needs a key; found the empty string", key=key)
    unusual = next((at for at, sign in enumerate(key) if sign not in _PLAIN), len(key))
    try:
        # Bytes of a command line that are not UTF-8 count as the bytes they are.
        raw = key.encode("utf-8", "surrogateescape")
        name = raw if unusual >= len(key) - 1 else _encoded(raw)
    except UnicodeEncodeError:
        name = b""
    # What lies behind the last slash is dropped by the peers' path cleaning; a slash anywhere else is a path.
    name = name.rstrip(b"/")
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name or len(name) > _MAX_NAME_BYTES:
        raise InvalidKey(
            f"big-data key {key[:80]!r}: its file name {name[:80]!r} would not be one entry of a directory",
            key=key,
        )
    return name.decode("utf-8", "surrogateescape")


def _encoded(raw: bytes) -> bytes:
    from binascii import b2a_base64

    return b"=" + b2a_base64(raw, newline=False)
