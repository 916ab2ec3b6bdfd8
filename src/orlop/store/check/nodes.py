"""What should lie at the names of a tree (`expected`)."""

from __future__ import annotations

from orlop.formats.tarheader import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    Facts = tuple[int, int, int]

WHITEOUT = 0
"""The kind of a node that says: what layers below have here is gone."""


class Node:
    """What should lie at a name.

    kind       a type of `formats/tarheader`, never HARD_LINK, or WHITEOUT
    facts      (mode, uid, gid) as the archive has them, None where it only implies the thing
    size       bytes of a file; the number of a device
    mtime_ns   None where it cannot be known
    text       of a symlink
    xattrs     None for none
    checksum   of a file's content, as a tar-split record has it; None if it is empty or unknown
    layer      number of the layer that said the last word about it
    origin     number of the layer that brought its content, negative if nobody has looked at the file yet
    """

    __slots__ = ("checksum", "facts", "kind", "layer", "mtime_ns", "origin", "size", "text", "xattrs")

    def __init__(
        self,
        kind: int,
        layer: int,
        facts: Facts | None = None,
        *,
        size: int = 0,
        mtime_ns: int | None = None,
        text: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
        checksum: bytes | None = None,
    ) -> None:
        self.kind = kind
        self.facts = facts
        self.size = size
        self.mtime_ns = mtime_ns
        self.text = text
        self.xattrs = xattrs
        self.checksum = checksum
        self.layer = self.origin = layer


class Directory(Node):
    """`listed`, `touched`: number of the layer that last had an entry for it, or changed what is in it. `opaque`: it
    hides what layers below have in it."""

    __slots__ = ("children", "listed", "opaque", "touched")

    def __init__(self, layer: int, facts: Facts | None = None) -> None:
        super().__init__(DIRECTORY, layer, facts)
        self.children: dict[bytes, Node] = {}
        self.listed = 0
        self.touched = layer
        self.opaque = False

    @property
    def known_mtime_ns(self) -> int | None:
        # Times of directories are set when an archive ends, so what it did before that does not count.
        return self.mtime_ns if self.listed >= self.touched else None
