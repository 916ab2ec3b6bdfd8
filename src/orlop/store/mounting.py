"""Mounting layers and containers, and counting it (`spec/mounting.md` 3 to 5).

Counts belong to everybody who uses the run root. The caller's reference is resolved to the full id first: the peers
hand names on to the driver, which mounts nothing, or forgets a mount without undoing it.
"""

from __future__ import annotations

import os

from orlop.errors import (
    ConfigError,
    LayerNotMounted,
    LayerUnknown,
    NotSupported,
    ReadOnly,
    StorageError,
)
from orlop.model.container import Container
from orlop.model.idmap import IDENTITY
from orlop.records.mountpoints import Mount
from orlop.store.layering import mappings_of
from orlop.store.tables import READ, WRITE, unknown_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.model.idmap import IDMappings
    from orlop.records.rows import Row
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


def mount(engine: Engine, ref: str, *, label: str = "") -> str:
    """Mount a container or layer; the absolute path where its files are until `unmount`.

    Raises:
        LayerUnknown: neither container nor layer (images are not mounted this way).
        ReadOnly: a layer of an additional store.
        NotSupported: the container was made where the driver maps ids while mounting, which it does not do here.
    """
    container = _container(engine, ref)
    target = container.layer if container else ref
    mappings = container.mappings if container else IDENTITY
    options = container.mount_options if container else ()
    volatile = container.volatile and not engine.options.disable_volatile if container else False
    # The graph lock stays for the whole call: a shutdown must not pull the driver's home away meanwhile.
    with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        engine.driver_held()
        with engine.open(layers=WRITE, graph_held=True) as tables:
            view, row = tables.layer(target)
            if view is not tables.layers:
                raise ReadOnly(
                    f"layer {row.id} belongs to an additional store, which is only read",
                    peer="mounting read/only store images is not allowed: " + ReadOnly.peer,
                    id=row.id,
                )
            return _mount_layer(
                engine, tables, row, label=label, mappings=mappings, options=options, volatile=volatile
            )


def _mount_layer(
    engine: Engine,
    tables: Tables,
    row: Row,
    *,
    label: str,
    mappings: IDMappings,
    options: Sequence[str],
    volatile: bool,
) -> str:
    mounts = engine.layers.mounts
    assert mounts is not None
    known = mounts.of(row.id)
    if known.count > 0 and known.path and _is_mounted(known.path):
        mounts.set(tables.layers.rows, row.id, Mount(known.path, known.count + 1))
        return known.path
    driver = engine.ready_driver
    # A layer whose files were re-owned for the container is not mapped a second time.
    on_disk = mappings_of(row)
    shifted = mappings if mappings and not on_disk and driver.supports_shifting(mappings) else IDENTITY
    if mappings not in (shifted, on_disk):
        # Made where the driver mapped ids while mounting: its files have the ids of the host, not the container's.
        raise NotSupported(
            f"layer {row.id} is stored without the container's id maps, and the driver does not map ids here",
            peer=f"cannot mount layer {row.id}: shifting not enabled",
            id=row.id,
        )
    path = os.path.normpath(
        driver.mount(
            row.id,
            label=label or row.document.get("mountlabel") or "",
            mappings=shifted,
            options=options,
            volatile=volatile,
        )
    )
    try:
        mounts.set(tables.layers.rows, row.id, Mount(path, known.count + 1))
    except BaseException as error:
        try:
            driver.unmount(row.id)  # uncounted nobody would ever do it
        except (StorageError, OSError) as second:
            error.add_note(f"and what was mounted at {path} stays there: {second}")
        raise
    return path


def _is_mounted(path: str) -> bool:
    """Counts may be of before a reboot, and somebody may have unmounted what we mounted."""
    from orlop.system.mounts import is_mount_point

    try:
        return is_mount_point(path)
    except FileNotFoundError:
        return False  # the driver makes it anew


def mount_image(engine: Engine, ref: str, *, options: tuple[str, ...] = (), label: str = "") -> str:
    """Mount the files of an image read-only, with the host's ids (`spec/mounting.md` 5).

    Raises:
        ImageUnknown; LayerUnknown: an image without layers, or whose layers lie in an additional store.
        ConfigError: the option `rw`. ReadOnly: only copies with other id maps are there, in a store we only read.
    """
    from orlop.store.tables import emptied
    from orlop.store.toplayer import pick_top_layer

    if "rw" in options:
        raise ConfigError(
            "an image is mounted read-only; found the option rw", peer=' "rw" option not supported'
        )
    with emptied(engine) as rubbish, engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        engine.driver_held()
        with engine.open(layers=WRITE, images=WRITE, graph_held=True) as tables:
            found = tables.image(ref)
            top = pick_top_layer(engine, tables, rubbish, found, IDENTITY, host_uids=True, host_gids=True)
            row = None if top is None else tables.layers.rows.by_id(top.id)
            if top is None:
                raise _without_layer(found[1].id)
            if row is None:
                raise _not_here(tables, found[1].id, top.id)
            if mappings_of(row):
                raise ReadOnly(
                    f"image {found[1].id} has only copies with id maps, and its store is only read",
                    peer="cannot create an image with canonical UID/GID mappings in a read-only store",
                )
            return _mount_layer(
                engine,
                tables,
                row,
                label=label,
                mappings=IDENTITY,
                options=(*options, *(() if "ro" in options else ("ro",))),
                volatile=False,
            )


def unmount_image(engine: Engine, ref: str, *, force: bool = False) -> bool:
    """Undo one mount of an image, or all with `force`; True if it is still mounted."""
    with engine.open(layers=WRITE, images=READ) as tables:
        _, image = tables.image(ref)
        candidates = [*(image.document.get("mapped-layers") or ()), image.document.get("layer") or ""]
        rows = [row for id in candidates if (row := tables.layers.rows.by_id(id)) is not None]
        row = next((row for row in rows[:-1] if not mappings_of(row)), rows[-1] if rows else None)
        if row is None:
            layer = candidates[-1]
            raise _not_here(tables, image.id, layer) if layer else _without_layer(image.id)
        return unmount_layer(engine, tables, row, force=force)


def _without_layer(image: str) -> LayerUnknown:
    return LayerUnknown(f"image {image} has no layer to be mounted", ref=image)


def _not_here(tables: Tables, image: str, layer: str) -> LayerUnknown:
    if tables.find_layer(layer) is None:
        return unknown_layer(layer)
    return LayerUnknown(
        f"image {image} cannot be mounted: its layer {layer} is in an additional store, which is only read: mount it "
        "there, or make a container of the image and mount that",
        ref=layer,
    )


def unmount(engine: Engine, ref: str, *, force: bool = False) -> bool:
    """Undo one mount, or all of them with `force`; True if the layer is still mounted.

    Unmounting what is not mounted is fine.

    Raises:
        LayerUnknown: neither container nor layer of this store.
    """
    container = _container(engine, ref)
    with engine.open(layers=WRITE, additional=False) as tables:
        row = tables.layers.find(container.layer if container else ref)
        if row is None:
            raise unknown_layer(ref)
        return unmount_layer(engine, tables, row, force=force)


def unmount_layer(engine: Engine, tables: Tables, row: Row, *, force: bool = False) -> bool:
    """As `unmount`, for a row."""
    mounts = engine.layers.mounts
    assert mounts is not None
    known = mounts.of(row.id)
    count = 1 if force else known.count
    if count > 1:
        mounts.set(tables.layers.rows, row.id, Mount(known.path, count - 1))
        return True
    try:
        engine.ready_driver.unmount(row.id, last=True)
    except FileNotFoundError:
        pass  # there is nothing left to unmount
    mounts.set(tables.layers.rows, row.id, Mount("", 0))
    return False


def unmount_fully(engine: Engine, tables: Tables, row: Row) -> None:
    """Undo every recorded mount of a layer, at once: a damaged count may be any number."""
    mounts = engine.layers.mounts
    assert mounts is not None
    if mounts.of(row.id).count > 0:
        unmount_layer(engine, tables, row, force=True)


def count(engine: Engine, ref: str) -> int:
    """How often a container or layer is mounted, as recorded.

    Raises:
        LayerUnknown.
    """
    container = _container(engine, ref)
    with engine.open(layers=READ, additional=False) as tables:
        row = tables.layers.find(container.layer if container else ref)
        if row is None:
            raise LayerUnknown(f"no container or layer of this store is called {ref!r}", ref=ref)
        mounts = engine.layers.mounts
        assert mounts is not None
        return mounts.of(row.id).count


def _container(engine: Engine, ref: str) -> Container | None:
    with engine.open(containers=READ) as tables:
        row = tables.containers.find(ref)
        return None if row is None else Container(row.document)


def parent_owners(
    engine: Engine, ref: str, *, of_container: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Owners of the directories above a mount point that the layer's id maps cannot express (`mounting.md` 6.3).

    Raises:
        LayerUnknown, ContainerUnknown.
        LayerNotMounted: the layer has id maps, and no mount point.
    """
    from orlop.store.owners import owners_above

    if of_container:
        from orlop.errors import ContainerUnknown

        container = _container(engine, ref)
        if container is None:
            raise ContainerUnknown(f"no container has the id, name or unique prefix {ref!r}", ref=ref)
        ref = container.layer
    with engine.open(layers=READ, additional=False) as tables:
        row = tables.layers.find(ref)
        if row is None:
            raise unknown_layer(ref)
        layer = engine.layers.value(row)
        if not layer.mappings:
            return (), ()
        if not layer.mount_point or not os.path.lexists(layer.mount_point):
            raise LayerNotMounted(f"layer {row.id} has id maps, but is not mounted", id=row.id)
        return owners_above(layer.mount_point, layer.mappings)
