"""What a layer changes: as a list, as a size, as a tar (`spec/tar-split.md` 8, `spec/archive.md` 7.2)."""

from __future__ import annotations

import os

from orlop.drivers.api import SupportsFiles
from orlop.model.idmap import IDENTITY
from orlop.store import layering
from orlop.store.tables import WRITE
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.changes import Change
    from orlop.model.idmap import IDMappings
    from orlop.records.blocks import View
    from orlop.records.rows import Row
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables
    from orlop.stream.pieces import PieceStream


class _Pair:
    """A layer, and what it is compared with: ids, id maps, and whether that is its recorded parent."""

    __slots__ = ("against", "against_mappings", "is_parent", "mappings", "row", "view")

    def __init__(self, tables: Tables, ref: str, parent: str | None) -> None:
        self.view, self.row = tables.layer(ref)
        recorded = self.row.document.get("parent") or ""
        self.mappings = layering.mappings_of(self.row)
        if parent:
            # An unknown reference is an error; the peers silently take the parent instead.
            self.against: str = tables.layer(parent)[1].id
        else:
            self.against = recorded
        self.is_parent = self.against == recorded
        other = tables.find_layer(self.against) if self.against else None
        self.against_mappings: IDMappings = layering.mappings_of(other[1]) if other else IDENTITY


def changes(engine: Engine, ref: str, parent: str | None = None) -> list[Change]:
    """What `ref` changes relative to `parent` (its own parent if not given), sorted by path."""
    with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        driver = engine.driver_held()
        with engine.open(layers=WRITE, graph_held=True) as tables:
            pair = _Pair(tables, ref, parent)
            return driver.changes(pair.row.id, pair.against or None, pair.mappings, pair.against_mappings)


def diff_size(engine: Engine, ref: str, parent: str | None = None) -> int:
    """Bytes of the files that `changes` would list as added or modified."""
    with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        driver = engine.driver_held()
        with engine.open(layers=WRITE, graph_held=True) as tables:
            pair = _Pair(tables, ref, parent)
            return driver.diff_size(pair.row.id, pair.against or None, pair.mappings, pair.against_mappings)


def diff(
    engine: Engine, ref: str, parent: str | None = None, *, compression: int | None = None
) -> PieceStream:
    """A stream with the layer's tar: exactly what was put, where that is known, else made from the files.

    The layer table stays locked until the stream is closed. `compression` is a code of the layer record (0 none,
    2 gzip, 4 zstd); None takes the layer's own.
    """
    tables: Tables | None = None
    with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        engine.driver_held()
        tables = engine.open(layers=WRITE, graph_held=True)
        tables.__enter__()
    try:
        pair = _Pair(tables, ref, parent)
        kind = pair.row.document.get("compression") or 0 if compression is None else compression
        from orlop.stream import compression as kinds

        kinds.check_output(kind)
        stream = _plain(engine, pair)
        stream.on_close(tables.close)
    except BaseException:
        tables.close()
        raise
    return kinds.compressed(stream, kind) if kind else stream


def _plain(engine: Engine, pair: _Pair) -> PieceStream:
    driver = engine.ready_driver
    if pair.is_parent:
        exact = _exact(engine, pair.view, pair.row)
        if exact is not None:
            return exact
    return driver.diff(pair.row.id, pair.against or None, pair.mappings, pair.against_mappings)


def _exact(engine: Engine, view: View, row: Row) -> PieceStream | None:
    """The very bytes that were put, put together from the tar-split file; None if there is no such file."""
    from orlop.stream.pieces import PieceStream
    from orlop.stream.split import assemble

    path = view.table.tar_split_path(row.id)  # type: ignore[attr-defined]
    try:
        record = os.fdopen(files.open_regular(path), "rb")
    except FileNotFoundError:
        return None
    try:
        driver = engine.ready_driver
        assert isinstance(driver, SupportsFiles)
        layer = driver.files(row.id)
        return PieceStream(assemble(record, layer.open), on_close=(layer.close, record.close))
    except BaseException:
        record.close()
        raise
