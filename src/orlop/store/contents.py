"""The verbs of `Store` that work on files: mounting, changes, diffs, and the driver's layers as they are."""

from __future__ import annotations

from orlop.errors import ImageUnknown, LayerUnknown
from orlop.store import arguments
from orlop.store.tables import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Any, BinaryIO

    from orlop.chunked.source import ByteSource
    from orlop.model.changes import Change
    from orlop.model.idmap import IDMappings
    from orlop.model.layer import Layer
    from orlop.model.staging import Differ, StagedOutput
    from orlop.store.engine import Engine
    from orlop.stream.pieces import PieceStream


class Contents:
    """Part of `Store`."""

    _engine: Engine

    # --- mounting -----------------------------------------------------------------------------------------

    def mount(self, ref: str, *, label: str = "") -> str:
        """Mount a container or layer, and count it; the absolute path of its files.

        Every `mount` wants one `unmount`; the block `mounted` does both. `label` overrides the recorded SELinux
        label. The files of an image are mounted by `mount_image`.

        Raises:
            LayerUnknown: no container and no layer is called that. ReadOnly: only an additional store has it.
            StorageError: the driver cannot mount it.
        """
        from orlop.store import mounting

        return mounting.mount(self._engine, ref, label=label)

    def unmount(self, ref: str, *, force: bool = False) -> bool:
        """Undo one mount, or with `force` all, also those of others; True if it is still mounted."""
        from orlop.store import mounting

        return mounting.unmount(self._engine, ref, force=force)

    def mounted(self, ref: str, *, label: str = "") -> _Mounted:
        """A block in which a container, a layer or, read-only, an image is mounted; gives its `pathlib.Path`.

        Containers and layers are looked through first, then images. `label` overrides the recorded SELinux label.
        Entering it raises as `mount` and `mount_image` do.
        """
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
        """User and group ids above a container's mount point that its layer's id maps do not contain; ascending."""
        from orlop.store import mounting

        return mounting.parent_owners(self._engine, ref, of_container=True)

    # --- contents -----------------------------------------------------------------------------------------

    def changes(self, layer: str, parent: str | None = None) -> list[Change]:
        """What a layer changes relative to its parent, or to any other layer; sorted by path.

        Raises:
            LayerUnknown.
        """
        from orlop.store import diffs

        return diffs.changes(self._engine, layer, parent)

    def diff(self, layer: str, parent: str | None = None, *, compression: int | None = None) -> PieceStream:
        """What a layer changes relative to its parent, or to any other layer, as a tar stream, which must be closed.

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
        from orlop.store.ahead import reading_ahead
        from orlop.store.blob import Blob

        engine = self._engine
        source = Blob(blob)
        with reading_ahead(source, engine.open(layers=WRITE, additional=False)) as tables:
            row = layering.require_layer(tables, layer)
            mappings = layering.mappings_of(row)
            volatile = row.home == engine.layers.volatile_home
            return layering.fill(engine, tables, row, source, mappings, volatile=volatile)

    # --- content made ready beforehand --------------------------------------------------------------------

    def prepare_staged_layer(
        self,
        differ: Differ,
        *,
        mappings: IDMappings | None = None,
        host_uids: bool = False,
        host_gids: bool = False,
    ) -> StagedOutput:
        """Let a differ make the files of a layer ready, before there is a layer (`spec/chunked.md` 19, 20).

        No lock of a table is held meanwhile, so the differ may use the store. What it returns goes to
        `apply_staged_layer`, or to `cleanup_staged_layer`. If the differ fails, nothing of it stays.

        Args:
            mappings, host_uids, host_gids: those that the layer will have; the store's own if not given.

        Raises:
            NotSupported: the driver cannot do it; overlay can.
        """
        from orlop.store import staging

        return staging.prepare(self._engine, differ, mappings, host_uids=host_uids, host_gids=host_gids)

    def apply_diff_with_differ(self, to: str, differ: Differ) -> StagedOutput:
        """Let a differ make the files of a layer ready; the older form of `prepare_staged_layer`.

        Args:
            to: has to be empty: a layer that is there already cannot be filled so.

        Raises:
            NotSupported: `to` is not empty, or the driver cannot do it; overlay can.
        """
        from orlop.store import staging

        staging.refuse_target(to)
        return self.prepare_staged_layer(differ)

    def apply_staged_layer(
        self,
        output: StagedOutput,
        *,
        id: str,
        parent: str | None = None,
        names: Iterable[str] = (),
        label: str = "",
        writable: bool = False,
        mappings: IDMappings | None = None,
        host_uids: bool = False,
        host_gids: bool = False,
        metadata: str = "",
        volatile: bool = False,
        data: Mapping[str, bytes | BinaryIO] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Layer:
        """Make a layer of what was made ready: all or nothing.

        The tar-split record of `output` is closed in any case. After an error `output` is good for
        `cleanup_staged_layer` only, which is the caller's to call.

        If a layer has that id (or name), its content is replaced, and all arguments but `flags` go unused. One that
        has the digest of the output keeps what it has, and the output is cleaned up.

        Args:
            id: of the new layer.
            flags: merged into those of the record.
            Others as for `layers.put`.

        Raises:
            As `layers.put`. StillMounted: the layer to be replaced is mounted. Conflict: `output` was applied or
            cleaned up, or is another process's. InvalidMappings: it was made with other id maps. NotSupported: the
            driver cannot do it, or the layer would lie on another file system.
        """
        from orlop.model.idmap import IDENTITY
        from orlop.store import staging

        return staging.apply(
            self._engine,
            output,
            id,
            flags or {},
            parent=parent,
            names=names,
            label=label,
            writable=writable,
            mappings=IDENTITY if mappings is None else mappings,
            host_uids=host_uids,
            host_gids=host_gids,
            metadata=metadata,
            volatile=volatile,
            data=data,
        )

    def cleanup_staged_layer(self, output: StagedOutput) -> None:
        """Remove what was made ready and will not be applied. What is gone already is fine.

        Raises:
            Conflict: it is another process's. UnsafePath: it was not made by this store.
        """
        from orlop.store import staging

        staging.clean_up(self._engine, output)

    def chunked_differ(self, source: ByteSource, annotations: Mapping[str, str]) -> Differ:
        """What makes a layer of a zstd:chunked blob by its table of contents: for `prepare_staged_layer`.

        The table is read and verified at once, the content later; `source` stays the caller's to close. `annotations`
        are those of the blob in a manifest that was verified. The layer has no compressed digest, as the blob was
        not read as a whole.

        Raises:
            PartialPullImpossible: `enable_partial_images` is not set, the driver cannot do it, or the blob is not of
                that kind; it can be had by `layers.put`.
            BadTOC, BadArchive, LimitExceeded: something is wrong with the blob.
        """
        from orlop.store import staging

        return staging.chunked_differ(self._engine, source, annotations)

    def differ_target(self, layer: str) -> str:
        """The directory that holds the files of a layer, an absolute path.

        Raises:
            LayerUnknown: also if only an additional store has it. NotSupported: the driver keeps none.
        """
        from orlop.store import staging

        return staging.differ_target(self._engine, layer)

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
        mappings = IDENTITY if mappings is None else arguments.mappings(mappings)
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
                engine.ready_driver.create(made, parent, writable=writable, mappings=mappings, label=label)
            except DuplicateID:
                pass  # the peers take an existing one for the one wanted
        return made


class _Mounted:
    """See `Store.mounted`."""

    def __init__(self, store: Contents, ref: str, label: str) -> None:
        self._store = store
        self._ref = ref
        self._label = label
        self._unmount = store.unmount

    def __enter__(self) -> Path:
        from pathlib import Path

        store = self._store
        try:
            return Path(store.mount(self._ref, label=self._label))
        except LayerUnknown as unknown:
            try:
                path = store.mount_image(self._ref, label=self._label)
            except ImageUnknown:
                what = "layer, image or container"
                raise LayerUnknown(
                    f"no {what} has the id, name or unique prefix {self._ref!r}", ref=self._ref
                ) from unknown
            self._unmount = store.unmount_image
            return Path(path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._unmount(self._ref)
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"and {self._ref} could not be unmounted: {second}")
