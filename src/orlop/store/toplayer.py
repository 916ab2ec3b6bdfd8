"""Which layer a container of an image is built on: the top layer, or a copy with other id maps
(`spec/records.md` 19.2, `spec/mounting.md` 6.2)."""

from __future__ import annotations

from orlop.errors import StorageError
from orlop.model.idmap import IDENTITY, IDMappings
from orlop.store import layering
from orlop.store.tables import unknown_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.records.blocks import View
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


def pick_top_layer(
    engine: Engine,
    tables: Tables,
    rubbish: Trash,
    image: tuple[View, Row],
    mappings: IDMappings,
    host_uids: bool,
    host_gids: bool,
) -> Row | None:
    """The layer to build on; None for an image without layers. May make, and register, a mapped copy.

    Raises:
        LayerUnknown: the image names layers, and none of them has a record.
    """
    view, image_row = image
    top = image_row.document.get("layer") or ""
    if not top:
        return None
    shiftable = bool(mappings) and engine.ready_driver.supports_shifting(mappings)
    fallback: tuple[View, Row] | None = None
    for table in (tables.layers, *tables.other_layers):
        for id in (top, *(image_row.document.get("mapped-layers") or ())):
            row = table.rows.by_id(id)
            if row is None or not _has_parent(tables, row):
                continue
            if _matches(row, mappings, shiftable, host_uids, host_gids):
                return row
            fallback = fallback or (table, row)
    if fallback is None:
        raise unknown_layer(top)
    table, row = fallback
    if table is not tables.layers or view is not tables.images:
        return row  # the container's own layer is re-owned instead: foreign records are not ours to extend
    return _mapped_copy(engine, tables, rubbish, image_row, row, IDENTITY if shiftable else mappings)


def _has_parent(tables: Tables, row: Row) -> bool:
    parent = row.document.get("parent") or ""
    return not parent or tables.find_layer(parent) is not None


def _matches(row: Row, mappings: IDMappings, shiftable: bool, host_uids: bool, host_gids: bool) -> bool:
    held = layering.mappings_of(row)
    if shiftable and not held:
        return True
    if (host_uids and held.uids) or (host_gids and held.gids):
        return False
    return held == mappings


def _mapped_copy(
    engine: Engine, tables: Tables, rubbish: Trash, image: Row, source: Row, mappings: IDMappings
) -> Row:
    parent_id = source.document.get("parent") or ""
    parent = tables.find_layer(parent_id) if parent_id else None
    draft = layering.Draft(
        parent=parent[1] if parent else None,
        template=source,
        label=source.document.get("mountlabel") or "",
        writable=False,
        mappings=mappings,
    )

    def register(id: str) -> None:
        # While the copy is flagged: after a crash it is on the image's list, or there is no copy.
        mapped = image.document.get("mapped-layers") or []
        tables.images.change(image, {"mapped-layers": [*mapped, id]})
        tables.images.save()

    try:
        made, _ = layering.make_layer(engine, tables, rubbish, draft, seal=register)
    except (StorageError, OSError) as error:
        error.add_note(f"while making a copy of layer {source.id} with other id maps")
        raise
    return layering.require_layer(tables, made.id)
