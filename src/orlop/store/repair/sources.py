"""Where the content of a damaged file may still be had: equal layers, copies in additional stores, copies of a copy.

Rule: nothing is believed that does not have the size and the checksum that the layer's own record has for it.
"""

from __future__ import annotations

import os

from orlop.drivers.layerfiles import DirectoryFiles
from orlop.errors import StorageError
from orlop.formats import crc64
from orlop.store.check.contents import valid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from orlop.drivers.api import Inspector, LayerTree
    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.check.look import Look
    from orlop.store.check.nodes import Node

_BLOCK = 1 << 20


class Sources:
    """Finds content for the layers of one store. A context manager: what it opened is closed with it."""

    def __init__(self, look: Look, inspector: Inspector | None) -> None:
        self._look = look
        self._inspector = inspector
        self._open: dict[str, DirectoryFiles | None] = {}
        self._update = crc64.best()
        self._digests: dict[str, list[tuple[TableAsFound, Document]]] | None = None
        self._children: dict[str, list[str]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for files in self._open.values():
            if files is not None:
                files.close()
        self._open.clear()

    # --- layers -------------------------------------------------------------------------------------------

    def equal_layers(self, document: Document) -> list[tuple[TableAsFound, Document]]:
        """Other records of the same archive: in our table, and those of any id in additional stores."""
        if self._digests is None:
            self._digests = {}
            for table in self._look.layers:
                for other in table.by_id.values():
                    digest = valid(other.get("diff-digest"))
                    if digest:
                        self._digests.setdefault(digest, []).append((table, other))
        found = self._digests.get(valid(document.get("diff-digest")), [])
        return [(table, other) for table, other in found if table.read_only or other["id"] != document["id"]]

    def places(self, id: str) -> Iterator[LayerTree]:
        """Where the files that a layer brought may lie once more; first what is likely."""
        inspector = self._inspector
        found = self._look.layer(id)
        if inspector is None or found is None:
            return
        for other in (id, *self._above(id)):
            place = self._tree(other)
            # A difference holds what the layer itself brought, and nothing of those below.
            if place is not None and (place.whole or other == id):
                yield place
        yield from inspector.copies(id)
        for table, document in self.equal_layers(found[1]):
            if table.read_only:
                yield from inspector.copies(document["id"])
            elif (place := self._tree(document["id"])) is not None:
                yield place

    def _tree(self, id: str) -> LayerTree | None:
        found = self._look.layers[0].by_id.get(id)
        if found is None or self._inspector is None:
            return None
        try:
            return self._inspector.tree(id, found.get("parent") or None)
        except (OSError, StorageError):
            return None

    def _above(self, id: str) -> Iterator[str]:
        """All layers that are built on one."""
        if self._children is None:
            self._children = {}
            for other, document in self._look.layers[0].by_id.items():
                self._children.setdefault(document.get("parent") or "", []).append(other)
        waiting, seen = [id], {id}
        while waiting:
            for child in self._children.get(waiting.pop(), ()):
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)
                    yield child

    # --- files --------------------------------------------------------------------------------------------

    def find(self, id: str, path: bytes, node: Node, *, not_in: str) -> int | None:
        """A file with the content that `node` asks for, at `path` in a layer that has what layer `id` brought.

        Open for reading, at its start; the descriptor is the caller's. `not_in` is the directory of the damaged one.
        """
        if node.checksum is None:
            return None
        for place in self.places(id):
            for directory in place.directories:
                if directory != not_in and (fd := self._checked(directory, path, node)) is not None:
                    return fd
        return None

    def _checked(self, directory: str, path: bytes, node: Node) -> int | None:
        if directory not in self._open:
            try:
                self._open[directory] = DirectoryFiles([directory])
            except OSError:
                self._open[directory] = None
        files = self._open[directory]
        if files is None:
            return None
        try:
            fd = files.open(path)
        except (OSError, StorageError):
            return None
        try:
            if has_content(fd, node, self._update):
                os.lseek(fd, 0, os.SEEK_SET)
                return fd
        except OSError:
            pass
        os.close(fd)
        return None


def has_content(fd: int, node: Node, update: crc64.Update) -> bool:
    """Whether an open file holds what a node asks for."""
    if os.fstat(fd).st_size != node.size:
        return False
    crc = 0
    while block := os.read(fd, _BLOCK):
        crc = update(block, crc)
    return crc64.stored(crc) == node.checksum
