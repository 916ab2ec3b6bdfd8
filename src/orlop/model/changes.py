"""What differs between two layers, one path at a time (`spec/archive.md` 6)."""

from __future__ import annotations

import os

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["A", "C", "D"]

ADDED: Kind = "A"
MODIFIED: Kind = "C"
DELETED: Kind = "D"


class Change(Value):
    """One changed path. `path` begins with `/` and is never the root; sorting goes by its bytes.

    `kind` is `"A"` (added), `"C"` (modified) or `"D"` (deleted; nothing below a deleted directory is listed).
    """

    __slots__ = ("kind", "path")
    __match_args__ = ("path", "kind")

    path: bytes
    kind: Kind

    def __init__(self, path: bytes, kind: Kind) -> None:
        self._fill(path, kind)

    def __lt__(self, other: Change) -> bool:
        return (self.path, self.kind) < (other.path, other.kind)

    def __le__(self, other: Change) -> bool:
        return (self.path, self.kind) <= (other.path, other.kind)

    def __str__(self) -> str:
        """`A /etc/motd`. Bytes of the path that are not UTF-8 stay as surrogate escapes."""
        return f"{self.kind} {os.fsdecode(self.path)}"
