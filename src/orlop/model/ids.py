"""Identifiers of layers, images and containers (`spec/records.md` section 8).

An id is a path component in several directories, so what we create follows a rule that older programs do not
have: letters, digits, `_ . -`, at most 200 bytes, not starting with a dot or dash. Ids found on disk need only be
harmless as a component: the peers accept `a b`, and a store that holds such a layer must stay usable.
"""

from __future__ import annotations

from orlop.errors import UnsafeID

MAX_ID_BYTES = 200
_HEAD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_TAIL = _HEAD | frozenset("_.-")
_HEX = frozenset("0123456789abcdef")


class LayerID(str):
    """The id of a layer; generated ones are 64 lower-case hex digits."""

    __slots__ = ()


class ImageID(str):
    """The id of an image."""

    __slots__ = ()


class ContainerID(str):
    """The id of a container."""

    __slots__ = ()


def check_new_id(kind: str, id: str) -> None:
    """Refuse an id that a new record must not have.

    Without this, `../../evil` or `.` as an id makes directories outside the store or a record that no program can
    delete any more (CVE-2014-9358, CVE-2021-20291).

    Raises:
        UnsafeID: with the rule that was broken.
    """
    if not id or id[0] not in _HEAD or not _TAIL.issuperset(id) or len(id) > MAX_ID_BYTES:
        shown = id if len(id) <= 80 else id[:77] + "..."
        raise UnsafeID(
            f"{kind} id {shown!r}: wanted letters, digits, '_', '.' and '-', beginning with a letter or digit, "
            f"at most {MAX_ID_BYTES} bytes; found {len(id)} characters that are not all of that kind",
            id=id,
            kind=kind,
        )


def is_component(id: str) -> bool:
    """True if an id read from a record can only ever name one directory entry."""
    return (
        id not in ("", ".", "..")
        and "/" not in id
        and "\0" not in id
        and len(id.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES
    )


def looks_generated(id: str) -> bool:
    """True for 64 lower-case hex digits, the shape that garbage collection may touch."""
    return len(id) == 64 and _HEX.issuperset(id)
