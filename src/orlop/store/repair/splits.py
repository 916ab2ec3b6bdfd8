"""A tar-split file made again, or had from an equal layer: whichever gives the archive that the record tells of."""

from __future__ import annotations

import os

from orlop.errors import ContentChanged, StorageError
from orlop.model.digest import Digest
from orlop.store.check.archives import Reading
from orlop.store.check.contents import mappings_of, valid
from orlop.system import files
from orlop.system.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.drivers.api import Inspector
    from orlop.model.record import Document
    from orlop.store.check.look import Look
    from orlop.store.repair.sources import Sources
    from orlop.stream.split import Writable

_BLOCK = 1 << 20


class SplitMending:
    """`source` is a path to copy, GENERATED, or "" if there is none."""

    GENERATED = "<generated>"

    def __init__(
        self, look: Look, inspector: Inspector | None, sources: Sources, document: Document, path: str
    ) -> None:
        self._look = look
        self._inspector = inspector
        self._document = document
        self._path = path
        self._digest = valid(document.get("diff-digest"))
        self.source = self._find(sources) if self._digest else ""

    def carry_out(self, *, durable: bool) -> None:
        """Put it in its place. OSError, or ContentChanged if the source is no longer what it was."""
        if self.source == self.GENERATED:
            with files.replacing(self._path, durable=durable) as out:
                if self._generate(out) != self._digest:
                    raise ContentChanged(f"the archive made of layer {self._document['id']} has changed")
            return
        fd = open_regular(self.source)
        try:
            with files.replacing(self._path, durable=durable) as out:
                while block := os.read(fd, _BLOCK):
                    out.write(block)
        finally:
            os.close(fd)

    def _find(self, sources: Sources) -> str:
        for table, document in sources.equal_layers(self._document):
            path: str = table.table.tar_split_path(document["id"])  # type: ignore[attr-defined]
            if path != self._path and self._gives_archive(path):
                return path
        try:
            with open(os.devnull, "wb") as nowhere:
                return self.GENERATED if self._generate(nowhere) == self._digest else ""
        except (OSError, StorageError):
            return ""

    def _gives_archive(self, path: str) -> bool:
        """Whether a record and this layer's files make the archive."""
        if self._inspector is None:
            return False
        reading = Reading(Digest(self._digest).algorithm)
        try:
            place = self._inspector.tree(self._document["id"], self._document.get("parent") or None)
            if place is None:
                return False
            with os.fdopen(open_regular(path), "rb") as record, place.files() as layer:
                reading.run(record, layer)
        except (OSError, StorageError):
            return False
        return reading.digest == self._digest

    def _generate(self, out: Writable) -> str:
        """Digest of the archive that the driver makes of the layer; its record is written to `out`."""
        from orlop.stream.ingest import ingest

        parent = self._document.get("parent") or None
        above = self._look.layer(parent) if parent else None
        maps, maps_above = mappings_of(self._document), mappings_of(above[1] if above else None)
        with self._look.driver.diff(self._document["id"], parent, maps, maps_above) as stream:
            digest: str = ingest(stream, None, out).diff_digest
        return digest
