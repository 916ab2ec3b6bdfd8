"""Sizes of images and containers (`spec/records.md` 22, `spec/dedup.md` 3)."""

from __future__ import annotations

import os

from orlop.errors import ContainerUnknown, LayerUnknown
from orlop.model.layer import Layer
from orlop.store.layering import mappings_of
from orlop.store.tables import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.records.rows import Row
    from orlop.store.containers import Containers
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


def image_size(engine: Engine, ref: str) -> int:
    """Bytes of all layers below the top layer and its mapped copies, each once, plus the image's data."""
    engine.driver()
    with engine.open(layers=READ, images=READ) as tables:
        _, image = tables.image(ref)
        starts = [image.document.get("layer") or "", *(image.document.get("mapped-layers") or ())]
        seen: set[str] = set()
        total = 0
        for at in starts:
            while at and at not in seen:
                seen.add(at)
                layer = tables.find_layer(at)
                if layer is None:
                    raise LayerUnknown(
                        f"image {image.id} is built on layer {at}, which has no record",
                        peer=f'locating layer with ID "{at}": {LayerUnknown.peer}',
                        ref=at,
                    )
                total += layer_bytes(engine, tables, layer[1])
                at = layer[1].document.get("parent") or ""
        return total + _data_bytes(image)


def layer_bytes(engine: Engine, tables: Tables, row: Row) -> int:
    """Bytes of one layer's diff: as recorded, else as the driver measures them."""
    layer = Layer(row.document)
    if layer.diff_digest and layer.diff_size != -1:
        return layer.diff_size
    return driver_diff_size(engine, tables, row)


def driver_diff_size(engine: Engine, tables: Tables, row: Row) -> int:
    """Bytes of the files that a layer adds to its parent."""
    parent = row.document.get("parent") or None
    known = tables.find_layer(parent) if parent else None
    return engine.ready_driver.diff_size(
        row.id, parent, mappings_of(row), mappings_of(known[1] if known else None)
    )


def container_size(engine: Engine, containers: Containers, ref: str) -> int:
    """Bytes of a container: what its layer adds, its data, its two directories."""
    engine.driver()
    directories = (containers.directory(ref), containers.run_directory(ref))
    with engine.open(layers=READ, containers=READ) as tables:
        container = tables.containers.find(ref)
        if container is None:
            raise ContainerUnknown(f"no container has the id, name or unique prefix {ref!r}", ref=ref)
        at = container.document.get("layer") or ""
        layer = tables.find_layer(at)
        if layer is None:
            raise LayerUnknown(
                f"container {container.id} has layer {at}, which has no record",
                peer=f'locating layer with ID "{at}": {LayerUnknown.peer}',
                ref=at,
            )
        total = driver_diff_size(engine, tables, layer[1])
        total += _data_bytes(container)
    from orlop.stream.compare import usage

    return total + sum(usage(os.fspath(directory))[0] for directory in directories)


def _data_bytes(row: Row) -> int:
    sizes: dict[str, int] = row.document.get("big-data-sizes") or {}
    return sum(sizes.values())
