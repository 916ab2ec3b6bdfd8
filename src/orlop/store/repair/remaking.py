"""A layer whose content is gone, made again from the archive of an equal one."""

from __future__ import annotations

import os

from orlop.errors import StorageError
from orlop.model.digest import Digest
from orlop.store import layering
from orlop.store.blob import Blob
from orlop.store.check.archives import Reading
from orlop.store.check.contents import mappings_of, valid
from orlop.system.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.drivers.api import Inspector, LayerTree
    from orlop.model.record import Document
    from orlop.records.trash import Trash
    from orlop.store.check.look import Look
    from orlop.store.engine import Engine
    from orlop.store.repair.sources import Sources
    from orlop.store.tables import Tables

_FACTS = (
    "compressed-diff-digest",
    "compressed-size",
    "compression",
    "diff-digest",
    "diff-size",
    "uidset",
    "gidset",
)


class Source:
    """An archive to be had: the record of it, the place of its files, and whose they are."""

    __slots__ = ("name", "place", "record")

    def __init__(self, name: str, record: str, place: LayerTree) -> None:
        self.name = name
        self.record = record
        self.place = place


def source_of(look: Look, inspector: Inspector | None, sources: Sources, document: Document) -> Source | None:
    """An equal layer whose archive can be put together."""
    digest = valid(document.get("diff-digest"))
    if not digest or inspector is None:
        return None
    own = look.layers[0].table.tar_split_path(document["id"])  # type: ignore[attr-defined]
    for name, record, place in _candidates(inspector, sources, document):
        for path in (record, own):
            reading = Reading(Digest(digest).algorithm)
            try:
                with os.fdopen(open_regular(path), "rb") as split, place.files() as files:
                    reading.run(split, files)
            except (OSError, StorageError):
                continue
            if reading.digest == digest:
                return Source(name, path, place)
    return None


def _candidates(
    inspector: Inspector, sources: Sources, document: Document
) -> Iterator[tuple[str, str, LayerTree]]:
    for table, other in sources.equal_layers(document):
        path: str = table.table.tar_split_path(other["id"])  # type: ignore[attr-defined]
        if table.read_only:
            for place in inspector.copies(other["id"]):
                yield f"layer {other['id']} of {table.directory}", path, place
            continue
        try:
            own = inspector.tree(other["id"], other.get("parent") or None)
        except (OSError, StorageError):
            continue
        if own is not None:
            yield f"layer {other['id']}", path, own


def remake(
    engine: Engine, tables: Tables, inspector: Inspector, document: Document, source: Source, rubbish: Trash
) -> None:
    """Make the layer anew. Its record stays as it is; what the driver has left of it is set aside."""
    from orlop.records.layers import flag
    from orlop.stream.pieces import PieceStream
    from orlop.stream.split import assemble

    id, parent = document["id"], document.get("parent") or None
    row = layering.require_layer(tables, id)
    mappings = mappings_of(document)
    driver = engine.ready_driver
    flag(
        tables.layers, row, incomplete=True
    )  # if we die here the next writer deletes it: there is nothing to lose
    tables.layers.save()
    driver.remove(id, rubbish.set_aside)
    driver.create(id, parent, writable=False, mappings=mappings, label=document.get("mountlabel") or "")
    with os.fdopen(open_regular(source.record), "rb") as record:
        files = source.place.files()
        with PieceStream(assemble(record, files.open), on_close=(files.close,)) as archive:
            blob = Blob(archive, diff_digest=document["diff-digest"])
            layering.fill(engine, tables, row, blob, mappings, volatile=False)
    tables.layers.change(row, {key: document.get(key) or _empty(key) for key in _FACTS})
    waiting = [(id, parent)]
    while waiting:  # the layers above list what lies below them, which may have been more
        at, below = waiting.pop()
        above = [child.id for child in tables.layers.rows.holding("parent", at)]
        inspector.mend(at, below, above)
        waiting += [(other, at) for other in above]
    engine.sync(id)
    flag(tables.layers, row, incomplete=None)
    tables.layers.save()


def _empty(key: str) -> object:
    if key.endswith("digest"):
        return ""
    return [] if key.endswith("set") else 0
