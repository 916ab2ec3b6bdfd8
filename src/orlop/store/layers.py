"""Layers, for users of the store (`spec/records.md` 4, 14, 15, 20.1)."""

from __future__ import annotations

from orlop.errors import LayerUnknown, NotALayer
from orlop.model.digest import Digest
from orlop.model.idmap import IDENTITY, IDMappings
from orlop.model.layer import Layer
from orlop.store.collection import Collection
from orlop.store.tables import READ, WRITE, emptied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, BinaryIO

    from orlop.records.blocks import View
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.blob import Blob
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


class Layers(Collection[Layer]):
    """`store.layers`."""

    noun = "layer"
    _unknown = LayerUnknown

    def _opening(self, mode: str) -> Tables:
        return self._engine.open(layers=mode, additional=mode == READ)

    def _views(self, tables: Tables) -> tuple[View, ...]:
        return (tables.layers, *tables.other_layers)

    # --- making -------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        id: str | None = None,
        parent: str | None = None,
        names: Iterable[str] = (),
        label: str = "",
        writable: bool = True,
        mappings: IDMappings = IDENTITY,
        host_uids: bool = False,
        host_gids: bool = False,
        template: str | None = None,
        metadata: str = "",
        volatile: bool = False,
        data: Mapping[str, bytes | BinaryIO] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Layer:
        """Make a layer with the content of its parent, or of a template, or an empty one.

        Args:
            id: 64 random hex digits if not given.
            parent: the layer to build on, by id, name or prefix; may live in an additional store.
            names: unused names.
            label: SELinux mount label.
            writable: False for a layer of an image; in a split store it then goes to the image store.
            mappings: id maps of the content on disk; the parent's if not given, else the store's.
            host_uids, host_gids: no mapping of that kind at all.
            template: a layer whose content is copied, with the facts about it.
            volatile: recorded without sync, and lost in a crash.
            data: big-data items to store with it.
            flags: kept in the record for other programs.

        Raises:
            LayerUnknown: parent or template.
            ParentIsContainer, DuplicateID, DuplicateName, UnsafeID.
        """
        return self._make(
            None,
            parent=parent,
            template=template,
            mappings=mappings,
            host_uids=host_uids,
            host_gids=host_gids,
            id=id,
            names=names,
            label=label,
            writable=writable,
            metadata=metadata,
            volatile=volatile,
            data=data,
            flags=flags,
        )

    def put(
        self,
        blob: BinaryIO,
        *,
        id: str | None = None,
        parent: str | None = None,
        names: Iterable[str] = (),
        label: str = "",
        writable: bool = False,
        mappings: IDMappings = IDENTITY,
        host_uids: bool = False,
        host_gids: bool = False,
        metadata: str = "",
        volatile: bool = False,
        digest: str | None = None,
        diff_digest: str | None = None,
        trusted_digest: str | None = None,
        trusted_size: int | None = None,
        trusted_diff_digest: str | None = None,
        data: Mapping[str, bytes | BinaryIO] | None = None,
        flags: Mapping[str, Any] | None = None,
        progress: Callable[[object], None] | None = None,
    ) -> Layer:
        """Make a layer and fill it from a tar, in any compression, read to its end. All or nothing.

        While the store is locked by somebody else, what is no file of a disk is read on, and kept aside in the graph
        root: it may be a pipe into which the owner of the lock writes.

        Args:
            blob: a readable binary file, pipe or anything with `read(n)`.
            digest, diff_digest: what blob and uncompressed tar have to be (sha256); verified.
            trusted_digest: sha256 digest that the layer's blob is known by, recorded without looking; may be that of
                another compression of the same tar.
            trusted_size: bytes of the blob that `trusted_digest` speaks of.
            trusted_diff_digest: sha256 digest of the uncompressed tar, recorded without looking.
            progress: called with the events of `model.events` while the blob is read, and once at the end.
            Others as for `create`.

        Raises:
            BadArchive, DuplicatePath, Unsafe, LimitExceeded: what is wrong with the blob; nothing is left of it.
        """
        from orlop.store.blob import Blob

        source = Blob(
            blob,
            digest=digest,
            diff_digest=diff_digest,
            trusted_digest=trusted_digest,
            trusted_size=trusted_size,
            trusted_diff_digest=trusted_diff_digest,
            progress=progress,
        )
        layer = self._make(
            source,
            parent=parent,
            mappings=mappings,
            host_uids=host_uids,
            host_gids=host_gids,
            id=id,
            names=names,
            label=label,
            writable=writable,
            metadata=metadata,
            volatile=volatile,
            data=data,
            flags=flags,
        )
        if progress is not None:
            from orlop.model.events import LayerStored

            progress(LayerStored(layer.id, layer.diff_size))
        return layer

    def _make(self, blob: Blob | None, **wanted: Any) -> Layer:
        """Find what the arguments name, and make the layer; `wanted` are those of `layering.drafted`."""
        from orlop.store import layering
        from orlop.store.ahead import reading_ahead

        engine = self._engine
        with emptied(engine) as rubbish, reading_ahead(blob, engine.open(layers=WRITE)) as tables:
            draft = layering.drafted(engine, tables, **wanted)
            return layering.make_layer(engine, tables, rubbish, draft, blob)[0]

    # --- asking -------------------------------------------------------------------------------------------

    def size(self, ref: str) -> int:
        """Bytes of the layer's uncompressed diff as recorded; -1 if not known."""
        return self[ref].size

    def by_compressed_digest(self, digest: str) -> list[Layer]:
        """The layers whose blob had this digest. May be empty."""
        return self._by_digest("compressed-diff-digest", digest)

    def by_diff_digest(self, digest: str) -> list[Layer]:
        """The layers whose uncompressed tar has this digest (diff-id). May be empty."""
        return self._by_digest("diff-digest", digest)

    def by_toc_digest(self, digest: str) -> list[Layer]:
        """The layers pulled by a table of contents of this digest. May be empty."""
        return self._by_digest("toc-digest", digest)

    def _by_digest(self, member: str, digest: str) -> list[Layer]:
        Digest.parse(digest)
        with self._opening(READ) as tables:
            return [
                self._value(view, row)
                for view in self._views(tables)
                for row in view.rows.holding(member, digest)
            ]

    # --- deleting -----------------------------------------------------------------------------------------

    def delete(self, ref: str, *, dry_run: bool = False) -> None:
        """Delete a layer that nothing needs any more; `dry_run` only tells whether that is so.

        Raises:
            NotALayer: unknown in this store.
            LayerHasChildren, LayerUsedByImage, LayerUsedByContainer: delete those first.
        """
        from orlop.store.leaving import refuse_if_needed

        engine = self._engine
        with (
            emptied(engine, freeing=True) as rubbish,
            engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
        ):
            row = tables.layers.find(ref)
            if row is None:
                raise NotALayer(f"no layer of this store has the id, name or unique prefix {ref!r}", ref=ref)
            refuse_if_needed(tables, row)
            if not dry_run:
                delete_layers(engine, tables, [row], rubbish)
                forget_copies(tables, {row.id})


def delete_layers(
    engine: Engine,
    tables: Tables,
    rows: list[Row],
    rubbish: Trash,
    release: Callable[[], None] | None = None,
) -> None:
    """Unmount layers until they are not mounted, then delete them; no questions asked.

    `release` drops what points at them, once their deletion is decided (`records/layers`).
    """
    from orlop.store import mounting

    for row in rows:
        mounting.unmount_fully(engine, tables, row)
    engine.layers.remove(tables.layers, rows, rubbish, release)


def forget_copies(tables: Tables, ids: set[str]) -> None:
    """Take layers that are gone off the lists of mapped copies."""
    for editor in tables.own_images():
        for image in {row for id in ids for row in editor.rows.holding("mapped-layers", id)}:
            mapped = image.document["mapped-layers"]
            editor.change(image, {"mapped-layers": [id for id in mapped if id not in ids]})
