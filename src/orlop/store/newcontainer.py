"""Making a container: maps, labels, a layer on top of an image's, and the record (`spec/records.md` 19.1)."""

from __future__ import annotations

from orlop.model.container import Container
from orlop.model.timestamp import Timestamp
from orlop.records import containers as homes
from orlop.store import layering
from orlop.store.tables import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from orlop.model.autouserns import AutoUserNS
    from orlop.model.idmap import IDMappings
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


class Wanted:
    """The arguments of `Containers.create`, checked as far as that can be done without the store."""

    image: str | None
    id: str | None
    names: tuple[str, ...]
    layer: str | None
    metadata: str
    volatile: bool
    mappings: IDMappings
    host_uids: bool
    host_gids: bool
    auto_userns: AutoUserNS | None
    labels: tuple[str, str]  # of processes, of files
    label_options: tuple[str, ...]
    mount_options: tuple[str, ...]
    storage_opt: Mapping[str, str] | None
    data: Mapping[str, bytes]
    flags: Mapping[str, Any]

    def __init__(self, **arguments: Any) -> None:
        vars(self).update(arguments)


def make_container(engine: Engine, tables: Tables, rubbish: Trash, wanted: Wanted) -> Container:
    """The new container. The layer table is open for writing, and the image table if there is an image.

    Raises:
        As `Containers.create`; then nothing of it stays but a mapped copy of the image's top layer.
    """
    found = tables.image(wanted.image) if wanted.image else None
    if wanted.auto_userns is not None:
        from orlop.store import userns

        wanted.mappings = userns.allocate(
            engine, tables, rubbish, found[1] if found else None, wanted.auto_userns
        )
    wanted.labels = _labels(tables, wanted)
    base = None
    inherited = engine.options.mappings
    if found is not None:
        from orlop.store.toplayer import pick_top_layer

        base = pick_top_layer(
            engine, tables, rubbish, found, wanted.mappings, wanted.host_uids, wanted.host_gids
        )
        inherited = layering.mappings_of(base)
    draft = layering.Draft(
        id=wanted.layer,
        parent=base,
        label=wanted.labels[1],
        writable=True,
        mappings=layering.effective_mappings(
            engine, wanted.mappings, inherited, host_uids=wanted.host_uids, host_gids=wanted.host_gids
        ),
        volatile=wanted.volatile,
        storage_opt=wanted.storage_opt,
    )
    # What can be refused without a layer is refused before one is copied; the table is looked at again below.
    with engine.open(containers=READ) as early:
        layering.check_free(early.containers, wanted.id, wanted.names)
    # The record is written while the layer is still flagged: after a crash both are there, or neither.
    recorded: list[Container] = []
    layering.make_layer(
        engine,
        tables,
        rubbish,
        draft,
        seal=lambda layer: recorded.append(_record(engine, wanted, found[1].id if found else "", layer)),
    )
    return recorded[0]


def _labels(tables: Tables, wanted: Wanted) -> tuple[str, str]:
    if any(wanted.labels):
        return wanted.labels
    from orlop.system import selinux

    if not selinux.is_enabled():
        return "", ""
    taken = [document.get("mountlabel") or "" for document in tables.layers.rows.documents()]
    return selinux.container_labels(wanted.label_options, taken)


def _record(engine: Engine, wanted: Wanted, image_id: str, layer_id: str) -> Container:
    flags: dict[str, Any] = {
        **wanted.flags,
        "ProcessLabel": wanted.labels[0],
        "MountLabel": wanted.labels[1],
    }
    if wanted.mount_options:
        flags["MountOpts"] = list(wanted.mount_options)
    if wanted.volatile:
        flags["Volatile"] = True
    with engine.open(containers=WRITE) as tables:
        editor = tables.containers
        layering.check_free(editor, wanted.id, wanted.names)
        document: dict[str, Any] = {
            "id": wanted.id or layering.new_id(editor),
            "names": list(wanted.names),
            "image": image_id,
            "layer": layer_id,
            "metadata": wanted.metadata,
            "created": str(Timestamp.now()),
            "uidmap": layering.maps_document(wanted.mappings.uids),
            "gidmap": layering.maps_document(wanted.mappings.gids),
            "flags": flags,
        }
        items = engine.items(editor.table, volatile=wanted.volatile)
        with items.making(document["id"]):
            document |= items.store_all(document["id"], wanted.data)
            row = editor.add(document, homes.VOLATILE if wanted.volatile else homes.STABLE)
            editor.save()
        value = editor.value(row)
        assert isinstance(value, Container)
        return value
