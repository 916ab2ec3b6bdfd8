"""Containers, for users of the store (`spec/records.md` 6, 19)."""

from __future__ import annotations

import os

from orlop.errors import ContainerUnknown, NotAContainer
from orlop.model.container import Container
from orlop.model.idmap import IDENTITY, IDMappings
from orlop.store.directories import Directories
from orlop.store.tables import READ, WRITE, emptied
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from orlop.model.autouserns import AutoUserNS
    from orlop.records.blocks import Editor, View
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


class Containers(Directories[Container]):
    """`store.containers`. A container is also found by the id of its layer."""

    noun = "container"
    _unknown = ContainerUnknown

    def _opening(self, mode: str) -> Tables:
        return self._engine.open(containers=mode)

    def _views(self, tables: Tables) -> tuple[View, ...]:
        return (tables.containers,)

    # --- making -------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        image: str | None = None,
        id: str | None = None,
        names: Iterable[str] = (),
        layer: str | None = None,
        metadata: str = "",
        volatile: bool = False,
        mappings: IDMappings = IDENTITY,
        host_uids: bool = False,
        host_gids: bool = False,
        auto_userns: AutoUserNS | None = None,
        process_label: str = "",
        mount_label: str = "",
        label_options: Iterable[str] = (),
        mount_options: Iterable[str] = (),
        storage_opt: Mapping[str, str] | None = None,
        data: Mapping[str, bytes] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Container:
        """Make a container: a record, and a layer of its own on top of an image's. All or nothing.

        Args:
            image: by id, name or prefix; None for a container without an image.
            id, layer: ids of the container and of its layer; random if not given.
            names: unused names.
            metadata: the caller's own text.
            volatile: recorded without sync, mounted without sync where the driver can; lost in a crash.
            mappings, host_uids, host_gids: id maps, or none; the image's if not given.
            auto_userns: have maps made of ids that are set aside for containers and that no other container of this
                store has (`spec/userns.md` 4).
            process_label, mount_label: SELinux labels; both or neither. Neither: chosen where SELinux is on.
            label_options: how they are chosen: `disable`, or `type:`, `level:`, ... with a value
                (`system.selinux.container_labels`).
            mount_options: options of each later mount.
            storage_opt: options for the driver, such as a size.
            data: big-data items to store with it.
            flags: kept in the record for other programs.

        Raises:
            ImageUnknown, LayerUnknown, DuplicateID, DuplicateName, UnsafeID, InvalidMappings.
            With `auto_userns`, NotEnoughIDs: too few ids are free, or none are set aside. LimitExceeded: the image
            needs more ids than the configuration allows, or its passwd file is endless. BadRecords: nobody can tell
            which ids a container has. ValueError: together with maps, or with those of the host.
        """
        from orlop.store import arguments
        from orlop.store.newcontainer import Wanted, make_container

        engine = self._engine
        names = tuple(arguments.names(names))
        arguments.metadata(metadata)
        data = arguments.items(data)
        if bool(process_label) != bool(mount_label):
            raise ValueError(
                "wanted both SELinux labels or neither; found "
                f"process_label={process_label!r}, mount_label={mount_label!r}"
            )
        if auto_userns is not None and (mappings or host_uids or host_gids):
            raise ValueError("wanted an automatic user namespace or given id maps; found both")
        arguments.mappings(mappings)
        mappings = IDMappings(() if host_uids else mappings.uids, () if host_gids else mappings.gids)
        mappings.check_overlaps()
        wanted = Wanted(
            image=image,
            id=id,
            names=names,
            layer=layer,
            metadata=metadata,
            volatile=volatile or engine.options.transient,
            mappings=mappings,
            host_uids=host_uids,
            host_gids=host_gids,
            auto_userns=auto_userns,
            labels=(process_label, mount_label),
            label_options=tuple(label_options),
            mount_options=tuple(mount_options),
            storage_opt=storage_opt,
            data=data,
            flags=flags or {},
        )
        gives_ids = auto_userns is not None or bool(mappings)
        with emptied(engine) as rubbish, _userns_lock(engine, gives_ids):
            with engine.open(layers=WRITE, images=WRITE if image else None) as tables:
                return make_container(engine, tables, rubbish, wanted)

    # --- asking -------------------------------------------------------------------------------------------

    def by_layer(self, ref: str) -> Container:
        """The container whose layer this is.

        Raises:
            LayerUnknown: no such layer. ContainerUnknown: no container has it.
        """
        with self._engine.open(layers=READ, containers=READ) as tables:
            id = tables.layer(ref)[1].id
            for row in tables.containers.rows.holding("layer", id):
                return self._value(tables.containers, row)
        raise ContainerUnknown(f"layer {id} is no container's layer", ref=ref)

    def size(self, ref: str) -> int:
        """Bytes that the container adds to its image: layer, data, directories (`spec/records.md` 22)."""
        from orlop.store import sizes

        return sizes.container_size(self._engine, self, ref)

    # --- deleting -----------------------------------------------------------------------------------------

    def delete(self, ref: str) -> None:
        """Delete a container, its layer, its data and its directories.

        Raises:
            NotAContainer.
        """
        engine = self._engine
        with (
            emptied(engine, freeing=True) as rubbish,
            engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
        ):
            row = tables.containers.find(ref)
            if row is None:
                raise NotAContainer(f"no container has the id, name or unique prefix {ref!r}", ref=ref)
            layer = tables.layers.rows.by_id(row.document.get("layer") or "")
            delete_with_layer(engine, tables, row, layer, rubbish)


def delete_with_layer(engine: Engine, tables: Tables, row: Row, layer: Row | None, rubbish: Trash) -> None:
    """Delete a container and its layer, if that has a record: both, or after a crash the next writer does."""
    from orlop.store.layers import delete_layers

    rows = [layer] if layer is not None else []
    delete_layers(
        engine, tables, rows, rubbish, lambda: remove_records(engine, tables.containers, [row], rubbish)
    )


def remove_records(engine: Engine, editor: Editor, rows: Iterable[Row], rubbish: Trash) -> None:
    """Take records of containers away, saved once, their directories before them (`spec/records.md` 19.3)."""
    rows = list(rows)
    for row in rows:
        run, own = directories_of(engine, row.id)
        rubbish.set_aside(own)
        files.remove_tree(run)
    for row in rows:
        editor.remove(row)
    editor.save()


def directories_of(engine: Engine, id: str) -> tuple[str, str]:
    """What goes with the record of a container: in the run root, then in the graph root."""
    run, own = (os.path.join(engine.place("containers", run=run), id) for run in (True, False))
    return run, own


class _Nothing:
    def __enter__(self) -> None:
        return

    def __exit__(self, *args: object) -> None:
        return


def _userns_lock(engine: Engine, wanted: bool) -> Any:
    """Ranges of ids are given out under a lock of their own; explicit maps take it too (`spec/locking.md` 8)."""
    return engine.userns_lock.writing(timeout=engine.options.lock_timeout) if wanted else _Nothing()
