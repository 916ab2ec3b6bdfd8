"""Deleting without asking, and wiping (`spec/records.md` 20.3, 20.4)."""

from __future__ import annotations

from orlop.errors import LayerUnknown, NotALayer
from orlop.model.layer import Layer
from orlop.store import containers, images
from orlop.store.layers import delete_layers
from orlop.store.tables import WRITE, emptied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.store.engine import Engine


def delete(engine: Engine, ref: str) -> None:
    """Delete a container with its layer, or an image's record, or a layer; no safety checks.

    Raises:
        LayerUnknown: nothing is called that.
        NotALayer: a container whose layer has no record.
    """
    with (
        emptied(engine) as rubbish,
        engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
    ):
        container = tables.containers.find(ref)
        if container is not None:
            layer = tables.layers.rows.by_id(container.document.get("layer") or "")
            if layer is None:
                raise NotALayer(f"container {container.id} has a layer without a record", ref=ref)
            containers.delete_with_layer(engine, tables, container, layer, rubbish)
            return
        found = images.own_images(tables, ref)
        if found:
            images.remove_records(engine, found, rubbish)
            return
        row = tables.layers.find(ref)
        if row is None:
            raise LayerUnknown(f"no container, image or layer of this store is called {ref!r}", ref=ref)
        delete_layers(engine, tables, [row], rubbish)


def wipe(engine: Engine) -> None:
    """Delete all containers, images and layers, newest first, then what else the driver holds."""
    with (
        emptied(engine) as rubbish,
        engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
    ):
        for container in list(tables.containers.rows):
            containers.remove_record(engine, tables.containers, container, rubbish)
        for editor in tables.own_images():
            for image in list(editor.rows):
                images.remove_record(engine, editor, image, rubbish)
        rows = sorted(tables.layers.rows, key=lambda row: Layer(row.document).created.ns, reverse=True)
        delete_layers(engine, tables, rows, rubbish)
        driver = engine.ready_driver
        for id in driver.ids():
            driver.check_id(id)
            driver.remove(id, rubbish.set_aside)
