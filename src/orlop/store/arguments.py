"""What callers may give, checked where it comes in and nowhere else: what lies on disk is loaded as it is.

Every program that shares the store loads all records whole; without limits one caller makes all of them slow. What is
of the wrong kind is told here, in the caller's terms, before anything is opened: further down it would be an error
about something that he never heard of.
"""

from __future__ import annotations

from orlop.errors import LimitExceeded
from orlop.formats.limits import DATA_ITEM_MAX, METADATA_MAX, NAME_MAX, NAMES_MAX
from orlop.model.idmap import IDMappings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from orlop.model.findings import CheckReport


def names(given: Iterable[str]) -> list[str]:
    """The names, each once, in order.

    Raises:
        TypeError: a single text, or something that is no text.
        LimitExceeded: too many, or one that is too long.
    """
    if isinstance(given, str):
        raise TypeError(f"names are a list of texts; found the single text {given!r}")
    wanted = list(dict.fromkeys(given))
    if len(wanted) > NAMES_MAX:
        raise LimitExceeded(f"{len(wanted)} names for one record; at most {NAMES_MAX} are taken")
    for name in wanted:
        if not isinstance(name, str):
            raise TypeError(f"a name is a text; found {_kind(name)}")
        size = len(name.encode("utf-8", "surrogatepass"))
        if size > NAME_MAX:
            raise LimitExceeded(f"the name {name[:40]!r}... has {size} bytes; at most {NAME_MAX} are taken")
    return wanted


def metadata(given: str) -> str:
    """The metadata, unless it is too long: LimitExceeded."""
    if not isinstance(given, str):
        raise TypeError(f"metadata is a text; found {_kind(given)}")
    size = len(given.encode("utf-8", "surrogatepass"))
    if size > METADATA_MAX:
        raise LimitExceeded(f"metadata of {size} bytes; at most {METADATA_MAX} are taken")
    return given


def items(given: Mapping[str, Any] | None, *, of_layer: bool = False) -> Mapping[str, Any]:
    """The data items of a new record, each as `item` lets it pass; those of a layer may be readable files.

    Raises:
        TypeError: no mapping, or from or to something else.
        LimitExceeded: an item of an image or container is too long.
    """
    if given is None:
        return {}
    if not callable(getattr(given, "items", None)):
        raise TypeError(f"data: wanted a mapping from keys to bytes; found {_kind(given)}")
    for key, value in given.items():
        item(key, value, of_layer=of_layer)
    return given


def item(key: str, data: Any, *, of_layer: bool = False) -> None:
    """Refuse what is no data item: bytes, or for a layer also a file opened for reading them.

    Raises:
        TypeError: something else.
        LimitExceeded: it is one of an image or container, and too long.
    """
    if not isinstance(key, str):
        raise TypeError(f"a data item's key is a text; found {_kind(key)}")
    if of_layer and callable(getattr(data, "read", None)):
        return
    if not isinstance(data, bytes):
        wanted = "bytes, or a file opened for reading them" if of_layer else "bytes"
        raise TypeError(f"data item {key!r}: wanted {wanted}; found {_kind(data)}")
    if not of_layer and len(data) > DATA_ITEM_MAX:
        raise LimitExceeded(
            f"data item {key!r} has {len(data)} bytes; at most {DATA_ITEM_MAX} are taken", key=key
        )


def mappings(given: IDMappings) -> IDMappings:
    """The id maps; TypeError if they are something else."""
    if not isinstance(given, IDMappings):
        raise TypeError(f"mappings: wanted orlop.IDMappings; found {_kind(given)}")
    return given


def refs(given: tuple[str, ...]) -> tuple[str, ...]:
    """References, given one by one; TypeError if one is no text."""
    for ref in given:
        if not isinstance(ref, str):
            raise TypeError(f"wanted ids or names, each an argument of its own; found {_kind(ref)}")
    return given


def file(name: str, data: bytes) -> None:
    """Refuse a file's name that is no text, and content that is no bytes: TypeError."""
    if not isinstance(name, str):
        raise TypeError(f"name: wanted a text; found {_kind(name)}")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data: wanted bytes; found {_kind(data)}")


def report(given: CheckReport) -> CheckReport:
    """What a check returned; TypeError if it is something else."""
    from orlop.model.findings import CheckReport

    if not isinstance(given, CheckReport):
        raise TypeError(f"report: wanted what `check` returned; found {_kind(given)}")
    return given


def _kind(given: object) -> str:
    return type(given).__name__
