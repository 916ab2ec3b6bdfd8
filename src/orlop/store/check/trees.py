"""The expected trees of layers, one after the other.

A layer that is kept as a difference has a tree of its own. One that is kept whole (vfs) shows all that lies below it
as well: its tree grows from that of its parent, if that was the last one; else the archives below are read again,
their headers only.
"""

from __future__ import annotations

import os

from orlop.errors import StorageError, UnsafePath
from orlop.store.check.archives import Reading, Told
from orlop.store.check.expected import Tree, Unfollowable
from orlop.system.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.drivers.api import Inspector, LayerTree
    from orlop.formats.tarheader import Entry
    from orlop.model.record import Document
    from orlop.store.check.look import Look


class Growing:
    """A tree while the archive of its top layer is read."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.failed = False

    def add(self, entry: Entry, checksum: bytes | None, told: int) -> None:
        if not self.failed:
            try:
                self.tree.apply(entry, checksum, facts_known=told != Told.PARTLY, read=told != Told.UNREAD)
            except Unfollowable:
                self.failed = True

    def is_known(self, reading: Reading) -> bool:
        """Whether all of the archive was read and could be followed; if not, nothing can be built on the tree."""
        self.failed = self.failed or not reading.followed
        return not self.failed


class Trees:
    def __init__(self, look: Look, inspector: Inspector | None) -> None:
        self._look = look
        self._inspector = inspector
        self._last: Growing | None = None
        self._distrusted: set[str] = set()

    def distrust(self, id: str) -> None:
        """The tar-split record of this layer is wrong, so nothing can be built on what it says."""
        self._distrusted.add(id)

    def of(self, document: Document, place: LayerTree) -> Growing | None:
        """A tree to which the layer's own archive is to be added; None if what lies below cannot be told."""
        id = document["id"]
        if not place.whole:
            growing = Growing(Tree(whole=False, masked=place.force_mask is not None))
            growing.tree.begin(id)
            return growing
        chain = list(self._look.chain(document.get("parent") or ""))[::-1]
        growing_below = self._below(chain) if self._is_whole(document, chain) else None
        self._last = growing_below
        if growing_below is not None:
            growing_below.tree.begin(id)
        return growing_below

    def _is_whole(self, document: Document, chain: list[str]) -> bool:
        """Whether the chain of parents ends with a layer that has none, and all of it is to be trusted."""
        if not self._distrusted.isdisjoint(chain):
            return False
        found = self._look.layer(chain[0]) if chain else (None, document)
        return found is not None and not found[1].get("parent")

    def _below(self, chain: list[str]) -> Growing | None:
        last = self._last
        if last is not None and last.tree.layers == chain and not last.failed:
            return last
        growing = Growing(Tree(whole=True))
        for id in chain:
            growing.tree.begin(id)
            if not self._read(id, growing):
                return None
        return growing

    def _read(self, id: str, growing: Growing) -> bool:
        """Whether the headers of a layer could be added."""
        found = self._look.layer(id)
        if found is None:
            return False
        reading = Reading()
        try:
            fd = open_regular(found[0].table.tar_split_path(id))  # type: ignore[attr-defined]
            with os.fdopen(fd, "rb") as record:
                reading.run(record, None, growing.add)
        except FileNotFoundError:
            return self._is_empty(found[1])
        except (OSError, UnsafePath):
            return False
        return growing.is_known(reading)

    def _is_empty(self, document: Document) -> bool:
        """A layer that was never filled shows what lies below it; what that is is known if that is nothing."""
        if self._inspector is None or document.get("parent"):
            return False
        try:
            place = self._inspector.tree(document["id"], None)
            return place is not None and not any(map(os.listdir, place.directories))
        except (OSError, StorageError):
            return False
