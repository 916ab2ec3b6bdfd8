"""How each kind of rubbish is taken away under the locks: most is only set aside, and deleted when they are free."""

from __future__ import annotations

import os

from orlop.errors import Conflict
from orlop.store import containers, images
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.drivers.api import Driver, Leftover, SupportsLeftovers
    from orlop.records.layers import LayerTable
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    Take = Callable[[Trash], object]


def setting_aside(path: str) -> Take:
    return lambda rubbish: rubbish.set_aside(path)


def removing(path: str) -> Take:
    return lambda _: files.remove_tree(path)


def discarding(driver: Driver, layer_id: str) -> Take:
    return lambda rubbish: driver.remove(layer_id, rubbish.set_aside)


def dropping(driver: SupportsLeftovers, leftover: Leftover) -> Take:
    return lambda rubbish: driver.drop(leftover, rubbish.set_aside)


def dropping_layer(engine: Engine, tables: Tables, row: Row) -> Take:
    return lambda rubbish: engine.layers.remove(tables.layers, [row], rubbish)


def dropping_image(engine: Engine, tables: Tables, id: str) -> Take:
    return lambda rubbish: images.remove_records(engine, images.own_images(tables, id), rubbish)


def dropping_container(engine: Engine, tables: Tables, row: Row) -> Take:
    return lambda rubbish: containers.remove_records(engine, tables.containers, [row], rubbish)


def recovering(table: LayerTable, path: str) -> Take:
    def take(_: Trash) -> None:
        problems = table.recover_trash()
        if os.path.lexists(path):
            raise problems[0] if problems else Conflict(f"{path} is in use again", path=path)

    return take
