"""Identifiers of layers, images and containers (`spec/records.md` section 8).

An id is a path component in several directories, so what we create follows a rule that older programs do not
have: letters, digits, `_ . -`, at most 200 bytes, not starting with a dot or dash. Ids found on disk need only be
harmless as a component: the peers accept `a b`, and a store that holds such a layer must stay usable.

The directory `<id>` of a record's data lies beside the files of its table. An id that is the name of one of those
files would have a deletion take the table away, so neither kind of id may be one.
"""

from __future__ import annotations

from orlop.errors import UnsafeID

MAX_ID_BYTES = 200
"""For new ids; leaves room for what the table's files and the trash put before and behind."""

MAX_COMPONENT_BYTES = 255
_HEAD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_TAIL = _HEAD | frozenset("_.-")
_HEX = frozenset("0123456789abcdef")

# What else may lie in a table's directory. One list for the three kinds: an image called `layers.json` gains nobody
# anything.
_TAKEN = frozenset(
    f"{volatile}{kind}s.{end}"
    for kind in ("layer", "image", "container", "mountpoint")
    for volatile in ("", "volatile-")
    for end in ("json", "lock")
) | {"tmp"}
_LONGEST_TAKEN = max(map(len, _TAKEN))


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
    delete any more (CVE-2014-9358, CVE-2021-20291), and deleting the layer `layers.json` deletes all records.

    Raises:
        UnsafeID: with the rule that was broken.
    """
    shown = id if len(id) <= 80 else id[:77] + "..."
    if not id or id[0] not in _HEAD or not _TAIL.issuperset(id) or len(id) > MAX_ID_BYTES:
        raise UnsafeID(
            f"{kind} id {shown!r}: wanted letters, digits, '_', '.' and '-', beginning with a letter or digit, "
            f"at most {MAX_ID_BYTES} bytes; found {len(id)} characters that are not all of that kind",
            id=id,
            kind=kind,
        )
    if names_a_file(id):
        raise UnsafeID(
            f"{kind} id {shown!r}: wanted a name of its own, found that of a file the store keeps beside it",
            id=id,
            kind=kind,
        )


def is_component(id: str) -> bool:
    """True if an id read from a record can only ever name one directory entry."""
    return (
        id not in ("", ".", "..")
        and "/" not in id
        and "\0" not in id
        and len(id.encode("utf-8", "surrogatepass")) <= MAX_COMPONENT_BYTES
    )


def names_a_file(id: str) -> bool:
    """True if the store keeps a file of its own where the directory of that id would be."""
    return id in _TAKEN or id.endswith(".tar-split.gz") or id.startswith(".tmp-")


def are_harmless(ids: list[str]) -> bool:
    """True if each is a component and none names a file of the store. Quick where all are like generated ones."""
    together = "".join(ids)
    if together.isascii() and not any(sign in together for sign in "/.\0"):
        lengths = {*map(len, ids)}
        if not lengths or (min(lengths) > _LONGEST_TAKEN and max(lengths) <= MAX_COMPONENT_BYTES):
            return True
    return all(is_component(id) and not names_a_file(id) for id in ids)


def looks_generated(id: str) -> bool:
    """True for 64 lower-case hex digits, the shape that garbage collection may touch."""
    return len(id) == 64 and _HEX.issuperset(id)
