"""Records of the same store that this mode of opening it does not see (`spec/records.md` 24.1).

A transient store keeps records of containers and their layers in the run root. Who opens it without saying that it is
transient sees the directories of these containers, which may be running, and no records. The other way round it is
the same with volatile containers. Nobody is to collect what he merely does not see.
"""

from __future__ import annotations

import os

from orlop.model.container import Container
from orlop.model.layer import Layer
from orlop.records.table import TableFile
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.record import Record
    from orlop.store.engine import Engine


def ids(engine: Engine) -> dict[str, set[str]]:
    """The ids of layers and containers in the files of the other mode. The layer table is held.

    Raises:
        BadRecords: a file cannot be read, or a record in it.
    """
    run = not engine.options.transient
    layers = os.path.join(engine.place("layers", run=run), "volatile-layers.json")
    containers = os.path.join(engine.place("containers", run=run), "volatile-containers.json")
    found: dict[str, set[str]] = {"image": set(), "layer": _ids(layers, Layer), "container": set()}
    if os.path.lexists(containers):
        lock = LockFile.at(os.path.join(os.path.dirname(containers), "containers.lock"))
        with lock.reading(timeout=engine.options.lock_timeout):
            found["container"] = _ids(containers, Container)
    return found


def _ids(path: str, kind: type[Record]) -> set[str]:
    from orlop.errors import BadRecords

    _, contents = TableFile(path, durable=False).read(kind)
    for aside in contents.asides:
        raise BadRecords(f"{path}: {aside}", path=path)
    return set(contents.column("id"))
