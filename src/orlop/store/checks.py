"""What callers may give a record, checked where it comes in and nowhere else: what lies on disk is loaded as it is.

Every program that shares the store loads all records whole; without limits one caller makes all of them slow.
"""

from __future__ import annotations

from orlop.errors import LimitExceeded
from orlop.formats.limits import DATA_ITEM_MAX, METADATA_MAX, NAME_MAX, NAMES_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


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
            raise TypeError(f"a name is a text; found {type(name).__name__}")
        size = len(name.encode("utf-8", "surrogatepass"))
        if size > NAME_MAX:
            raise LimitExceeded(f"the name {name[:40]!r}... has {size} bytes; at most {NAME_MAX} are taken")
    return wanted


def metadata(given: str) -> str:
    """The metadata, unless it is too long: LimitExceeded."""
    if not isinstance(given, str):
        raise TypeError(f"metadata is a text; found {type(given).__name__}")
    size = len(given.encode("utf-8", "surrogatepass"))
    if size > METADATA_MAX:
        raise LimitExceeded(f"metadata of {size} bytes; at most {METADATA_MAX} are taken")
    return given


def item(key: str, data: bytes) -> bytes:
    """A data item of an image or container, unless it is too long: LimitExceeded."""
    if len(data) > DATA_ITEM_MAX:
        raise LimitExceeded(
            f"data item {key!r} has {len(data)} bytes; at most {DATA_ITEM_MAX} are taken", key=key
        )
    return data
