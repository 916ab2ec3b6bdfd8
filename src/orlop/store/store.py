"""`Store`: three collections and a few verbs over one graph root."""

from __future__ import annotations

from orlop.errors import ConfigError, LayerUnknown, NotAnID, StillMounted, StorageError
from orlop.store.containers import Containers
from orlop.store.engine import WRITE, Engine
from orlop.store.images import Images
from orlop.store.layers import Layers
from orlop.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType
    from typing import Any, BinaryIO, Self

    from orlop.drivers.api import Driver
    from orlop.model.changes import Change
    from orlop.model.idmap import IDMappings
    from orlop.model.options import StoreOptions
    from orlop.store.collection import Collection
    from orlop.stream.pieces import PieceStream


class Store:
    """Container storage that podman, buildah, skopeo and CRI-O may use at the same moment.

    Made by `orlop.open_store`; a context manager. `layers`, `images` and `containers` are collections. Methods that
    take a `ref` without saying of what look for layers first, then images, then containers. Threads may share a
    store; a child process opens its own.
    """

    layers: Layers
    images: Images
    containers: Containers

    def __init__(self, options: StoreOptions) -> None:
        """Opens the roots, makes what is missing, starts the driver. Prefer `orlop.open_store`."""
        self._engine = Engine(options)
        self.options = options
        self.layers = Layers(self._engine)
        self.images = Images(self._engine)
        self.containers = Containers(self._engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store. Nothing is open between calls, so this only stops further use (`Free`)."""
        self._engine.close()
        self._engine = _Closed()  # type: ignore[assignment]
        for collection in (self.layers, self.images, self.containers):
            collection._engine = self._engine

    def __repr__(self) -> str:
        return f"<Store {self.graph_root}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def graph_root(self) -> str:
        """The persistent root, absolute."""
        return self.options.graph_root

    @property
    def run_root(self) -> str:
        """The root that is lost on reboot, absolute."""
        return self.options.run_root

    @property
    def image_store(self) -> str | None:
        """The second root of a split store."""
        return self.options.image_store

    @property
    def transient(self) -> bool:
        """Whether containers are kept in the run root."""
        return self.options.transient

    @property
    def driver_name(self) -> str:
        return self._engine.driver_name

    @property
    def driver_options(self) -> tuple[str, ...]:
        return self.options.driver_options

    @property
    def mappings(self) -> IDMappings:
        """The id maps of layers that have nothing to inherit them from."""
        return self.options.mappings

    @property
    def durability(self) -> str:
        """ "full" if an acknowledged change survives power loss, else "none"."""
        return "full" if self.options.durable else "none"

    def driver(self) -> Driver:
        """The graph driver as it is now (`drivers/api.py`)."""
        return self._engine.driver()

    def status(self) -> list[tuple[str, str]]:
        """Pairs that describe the store, then those of its driver."""
        return [
            ("Root", self.graph_root),
            ("Run Root", self.run_root),
            ("Driver Name", self.driver_name),
            ("Driver Options", "[" + " ".join(self.driver_options) + "]"),
            *self._engine.driver().status(),
        ]

    def version(self) -> list[tuple[str, str]]:
        return [("Version", __version__)]

    def damage(self) -> tuple[str, ...]:
        """What was found damaged, and set aside, in the records read so far; a sentence each."""
        return self._engine.damage()

    # --- any kind of thing --------------------------------------------------------------------------------

    def lookup(self, ref: str) -> str:
        """The full id of a layer, image or container.

        Raises:
            LayerUnknown: nothing is called that.
        """
        return str(self._record(ref).id)

    def exists(self, ref: str) -> bool:
        return any(ref in kind for kind in self._kinds())

    def names(self, ref: str) -> tuple[str, ...]:
        """The names of a layer, image or container, the one given last first."""
        return tuple(self._record(ref).names)

    def set_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Give it exactly these names, taking them from others of its kind; the names it has now."""
        return self._rename("set_names", ref, names)

    def add_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Put names in front of those it has, taking them from others of its kind; the names it has now."""
        return self._rename("add_names", ref, names)

    def remove_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Take names off it; the names it has now."""
        return self._rename("remove_names", ref, names)

    def metadata(self, ref: str) -> str:
        """The caller's own text of a layer, image or container. NotAnID if there is nothing of that name."""
        for kind in self._kinds():
            record = kind.get(ref)
            if record is not None:
                metadata: str = record.metadata
                return metadata
        raise _no_id(ref)

    def set_metadata(self, ref: str, metadata: str) -> None:
        """Replace the caller's own text. NotAnID if this store has nothing of that name."""
        for kind in self._kinds():
            try:
                kind.set_metadata(ref, metadata)
                return
            except kind._unknown:
                continue
        raise _no_id(ref)

    def _kinds(self) -> tuple[Collection[Any], ...]:
        return (self.layers, self.images, self.containers)

    def _record(self, ref: str) -> Any:
        for kind in self._kinds():
            record = kind.get(ref)
            if record is not None:
                return record
        raise _nothing(ref)

    def _rename(self, operation: str, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        wanted = list(names) if not isinstance(names, str) else names
        for kind in self._kinds():
            try:
                result: tuple[str, ...] = getattr(kind, operation)(ref, wanted)
                return result
            except kind._unknown:
                continue
        raise _nothing(ref)

    # --- mounting -----------------------------------------------------------------------------------------

    def mount(self, ref: str, *, label: str = "") -> str:
        """Mount a container or layer, and count it; the absolute path of its files.

        Every `mount` wants one `unmount`; `mounted` does both. `label` overrides the recorded SELinux label.

        Raises:
            LayerUnknown, ReadOnly, StorageError.
        """
        from orlop.store import mounting

        return mounting.mount(self._engine, ref, label=label)

    def unmount(self, ref: str, *, force: bool = False) -> bool:
        """Undo one mount, or with `force` all, also those of others; True if it is still mounted."""
        from orlop.store import mounting

        return mounting.unmount(self._engine, ref, force=force)

    def mounted(self, ref: str, *, label: str = "") -> _Mounted:
        """A block in which a container or layer is mounted; gives its `pathlib.Path`."""
        return _Mounted(self, ref, label)

    def mount_image(self, ref: str, *, options: Iterable[str] = (), label: str = "") -> str:
        """Mount an image's files, read-only, and count it; the absolute path. Undone by `unmount_image`.

        Raises:
            ImageUnknown; LayerUnknown: no layer, or only in an additional store; ConfigError: the option `rw`.
        """
        from orlop.store import mounting

        return mounting.mount_image(self._engine, ref, options=tuple(options), label=label)

    def unmount_image(self, ref: str, *, force: bool = False) -> bool:
        """Undo one `mount_image`, or with `force` all; True if it is still mounted."""
        from orlop.store import mounting

        return mounting.unmount_image(self._engine, ref, force=force)

    def mount_count(self, ref: str) -> int:
        """How often a container or layer is mounted, as recorded; may be out of date on return."""
        from orlop.store import mounting

        return mounting.count(self._engine, ref)

    def layer_parent_owners(self, ref: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """User and group ids above a layer's mount point that its id maps do not contain; ascending."""
        from orlop.store import mounting

        return mounting.parent_owners(self._engine, ref)

    def container_parent_owners(self, ref: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The same for a container's layer."""
        from orlop.store import mounting

        return mounting.parent_owners(self._engine, ref, of_container=True)

    def shutdown(self, *, force: bool = False) -> list[str]:
        """Undo what opening the driver did to the machine; the ids of layers that were mounted.

        Raises:
            StillMounted: layers are mounted. With `force` they are unmounted first, and the error is raised all the
                same, as the peers do; a second call succeeds. The error carries `layers`.
        """
        from orlop.store import mounting

        engine = self._engine
        with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
            driver = engine.driver_held()
            with engine.open(layers=WRITE, additional=False, graph_held=True) as tables:
                mounts = engine.layers.mounts
                assert mounts is not None
                mounted = mounts.mounted()
                first: Exception | None = None
                for id in mounted if force else ():
                    row = tables.layers.rows.by_id(id)
                    try:
                        if row is not None:
                            mounting.unmount_fully(engine, tables, row)
                    except (StorageError, OSError) as error:
                        first = first or error
                if first is not None:
                    raise first
                if mounted:
                    raise StillMounted(
                        f"{len(mounted)} layers are mounted ({mounted[0]}, ...)",
                        peer=f"a layer is mounted: {StillMounted.peer}",
                        layers=tuple(mounted),
                    )
                engine.graph_lock.renew()
                driver.shutdown()
        return mounted

    # --- contents -----------------------------------------------------------------------------------------

    def changes(self, layer: str, parent: str | None = None) -> list[Change]:
        """What a layer changes relative to its parent, or to any other layer; sorted by path.

        Raises:
            LayerUnknown.
        """
        from orlop.store import diffs

        return diffs.changes(self._engine, layer, parent)

    def diff(self, layer: str, parent: str | None = None, *, compression: int | None = None) -> PieceStream:
        """The same as a tar stream, which must be closed.

        A layer that was put comes back bit for bit (`spec/tar-split.md`). `compression` is a code of the layer
        record: 0 none, 2 gzip, 4 zstd; None takes the kind the layer came in. The layer table stays locked until
        the stream is closed.

        Raises:
            LayerUnknown, CompressionNotSupported (bzip2, xz).
            While reading: ContentChanged, BadTarSplit; what was read before is then not to be used.
        """
        from orlop.store import diffs

        return diffs.diff(self._engine, layer, parent, compression=compression)

    def diff_size(self, layer: str, parent: str | None = None) -> int:
        """Bytes of the files that `changes` lists as added or modified."""
        from orlop.store import diffs

        return diffs.diff_size(self._engine, layer, parent)

    def apply_diff(self, layer: str, blob: BinaryIO) -> int:
        """Unpack a tar, in any compression, onto an existing layer; bytes of its entries.

        Unlike `layers.put` this is not all or nothing: after an error the files unpacked so far stay, and the
        record is as before.

        Raises:
            LayerUnknown, BadArchive, Unsafe.
        """
        from orlop.store import layering

        engine = self._engine
        with engine.open(layers=WRITE, additional=False) as tables:
            row = layering.require_layer(tables, layer)
            mappings = layering.mappings_of(row)
            volatile = row.home == engine.layers.volatile_home
            size = layering.fill(engine, tables, row, layering.Blob(blob), mappings, volatile=volatile)
            engine.sync(row.id, volatile=volatile)
            return size

    # --- the driver's own layers --------------------------------------------------------------------------

    def storage_layers(self) -> list[str]:
        """The layers that the driver holds at home, with or without a record; sorted."""
        return sorted(self._engine.driver().ids())

    def create_storage_layer(
        self,
        *,
        id: str | None = None,
        parent: str | None = None,
        label: str = "",
        writable: bool = True,
        mappings: IDMappings | None = None,
    ) -> str:
        """Make a layer in the driver only, without a record; its id. For tests of what the driver does."""
        from orlop.errors import DuplicateID
        from orlop.model.idmap import IDENTITY
        from orlop.model.ids import check_new_id
        from orlop.store.layering import new_id

        engine = self._engine
        with engine.open(layers=WRITE, additional=False) as tables:
            if id:
                check_new_id("layer", id)
            made = id or new_id(tables.layers)
            engine.ready_driver.check_id(made)
            # An empty table is written first: a driver layer beside a missing table would look like a lost table.
            if not engine.layers.files[0].found:
                tables.layers.dirty.add(0)
                tables.layers.save()
            try:
                engine.ready_driver.create(
                    made, parent, writable=writable, mappings=mappings or IDENTITY, label=label
                )
            except DuplicateID:
                pass  # the peers take an existing one for the one wanted
        return made

    # --- deleting -----------------------------------------------------------------------------------------

    def delete(self, ref: str) -> None:
        """Delete a container with its layer, or an image's record, or a layer, without asking who needs it.

        Prefer `layers.delete`, `images.delete` and `containers.delete`.

        Raises:
            LayerUnknown: nothing is called that. NotALayer: a container whose layer has no record.
        """
        from orlop.store import deleting

        deleting.delete(self._engine, ref)

    def wipe(self) -> None:
        """Delete everything: containers, images, layers, and what else the driver holds."""
        from orlop.store import deleting

        deleting.wipe(self._engine)


class _Mounted:
    """See `Store.mounted`."""

    def __init__(self, store: Store, ref: str, label: str) -> None:
        self._store = store
        self._ref = ref
        self._label = label

    def __enter__(self) -> Path:
        from pathlib import Path

        return Path(self._store.mount(self._ref, label=self._label))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._store.unmount(self._ref)
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"and {self._ref} could not be unmounted: {second}")


class _Closed:
    """Stands in for the engine of a closed store."""

    def close(self) -> None:
        """Closing twice is fine."""

    def __getattr__(self, name: str) -> object:
        raise ConfigError("this store was closed; open it again to use it")


def _nothing(ref: str) -> LayerUnknown:
    return LayerUnknown(f"no layer, image or container has the id, name or unique prefix {ref!r}", ref=ref)


def _no_id(ref: str) -> NotAnID:
    return NotAnID(f"no layer, image or container has the id, name or unique prefix {ref!r}", ref=ref)
