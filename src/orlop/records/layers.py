"""The layer table: three files, mounts beside it, and what a dead process left half made (`spec/records.md` 11, 15).

What this table needs of later rooms comes as callables. `discard(id, trash)` moves what the driver has of a layer
into the trash, `stored_ids()` lists the layers that the driver holds, `release(ids)` drops the images and containers
that are built on layers whose deletion was decided and not finished.
"""

from __future__ import annotations

import os

from orlop.errors import StorageError
from orlop.model.layer import Layer
from orlop.records import trash
from orlop.records.blocks import Editor, View
from orlop.records.mountpoints import Mountpoints
from orlop.records.table import Table, TableFile
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.formats.recordfiles import Contents
    from orlop.model.record import Document, Record
    from orlop.records.rows import Row, Rows
    from orlop.records.trash import Trash

STABLE = 0


class LayerTable(Table):
    """Layers of one graph root. `image_store`: second root of a split store; `transient`: volatile files in the
    run root; `run_directory` is None for additional stores, which have no mounts."""

    def __init__(
        self,
        directory: str,
        *,
        run_directory: str | None,
        image_directory: str | None = None,
        transient: bool = False,
        read_only: bool = False,
        durable: bool = True,
        lock_timeout: float | None = None,
        discard: Callable[[str, Trash], None] | None = None,
        stored_ids: Callable[[], list[str]] | None = None,
        release: Callable[[set[str]], None] | None = None,
        temp_roots: tuple[str, ...] = (),
        prune: Callable[[], object] | None = None,
    ) -> None:
        stable = [TableFile(os.path.join(directory, "layers.json"), durable=durable)]
        locks = [LockFile.at(os.path.join(directory, "layers.lock"), read_only=read_only)]
        self.image_home = STABLE
        if image_directory is not None:
            self.image_home = len(stable)
            stable.append(TableFile(os.path.join(image_directory, "layers.json"), durable=durable))
            locks.append(LockFile.at(os.path.join(image_directory, "layers.lock"), read_only=read_only))
        volatile_directory = run_directory if transient and run_directory else directory
        volatile = TableFile(os.path.join(volatile_directory, "volatile-layers.json"), durable=False)
        self.volatile_home = len(stable)
        super().__init__(
            noun="layer",
            record=Layer,
            directory=directory,
            table_files=(*stable, volatile),
            locks=tuple(locks),
            read_only=read_only,
            watch_files=True,
            lock_timeout=lock_timeout,
        )
        self.mounts: Mountpoints | None = None
        if run_directory is not None and not read_only:
            lock = LockFile.at(os.path.join(run_directory, "mountpoints.lock"))
            self.mounts = Mountpoints(os.path.join(run_directory, "mountpoints.json"), lock, lock_timeout)
        self.trash_root = os.path.join(directory, "tmp")
        self._discard = discard
        self._stored_ids = stored_ids
        self._release = release
        self._temp_roots = temp_roots
        self._prune = prune
        self._durable = durable

    # --- places -----------------------------------------------------------------------------------------

    def tar_split_path(self, id: str) -> str:
        return os.path.join(self.directory, id + ".tar-split.gz")

    def data_directory(self, id: str) -> str:
        return os.path.join(self.directory, id)

    def beside(self, id: str) -> tuple[str, ...]:
        """All that this table keeps of a layer, besides the record."""
        return (self.tar_split_path(id), self.data_directory(id))

    def home_for(self, *, volatile: bool, writable: bool) -> int:
        """The file that a new record goes to (`spec/records.md` 2)."""
        if volatile:
            return self.volatile_home
        return STABLE if writable else self.image_home

    def trash_roots(self) -> tuple[str, ...]:
        """Where things set aside may lie: the table's own root, then those of the driver."""
        return (self.trash_root, *self._temp_roots)

    def recover_trash(self) -> list[OSError]:
        """Delete what dead processes set aside, or made ready; what went wrong. The table is held exclusively."""
        problems = [problem for root in self.trash_roots() for problem in trash.recover(root)]
        if self._prune is not None:
            try:
                self._prune()
            except OSError as error:
                problems.append(error)
        self._remove_empty_roots()
        return problems

    def _remove_empty_roots(self) -> None:
        for root in self._temp_roots:
            try:
                os.rmdir(root)  # in a driver's home older peers take it for a layer
            except OSError:
                pass  # not there, or in use

    def new_trash(self) -> Trash:
        return trash.Trash(self.trash_root)

    # --- values -----------------------------------------------------------------------------------------

    def value(self, row: Row) -> Layer:
        return self.value_of(row.document)

    def value_of(self, document: Document) -> Layer:
        if self.mounts:
            mount = self.mounts.of(document["id"])
            if mount.count:
                return Layer(document, mount_point=mount.path, mount_count=mount.count)
        return Layer(document, read_only=True) if self.read_only else Layer(document)

    def values_of(self, documents: Iterable[Document]) -> list[Record]:
        documents = list(documents)
        values = super().values_of(documents)
        if self.mounts:  # few of many layers
            mounted = {*self.mounts.mounted()}
            for number, document in enumerate(documents):
                if document["id"] in mounted:
                    values[number] = self.value_of(document)
        return values

    @property
    def damage(self) -> tuple[str, ...]:
        return (*super().damage, *(self.mounts.damage if self.mounts is not None else ()))

    # --- removing ---------------------------------------------------------------------------------------

    def remove(
        self,
        editor: Editor,
        rows: list[Row],
        rubbish: Trash,
        release: Callable[[], None] | None = None,
    ) -> None:
        """Flag layers, set everything of them aside, drop the records (`spec/records.md` 15.2).

        Each step is on disk before the next. The flag decides: from then on whoever loads the table next finishes
        the deletion. `release` takes away what points at the layers, an image or a container. What was set aside
        is deleted by `rubbish.empty()`, once the locks are released. If the driver cannot let go of a layer, its
        record stays, flagged, and the next load tries again.
        """
        for row in rows:
            if not is_incomplete(row):
                flag(editor, row, incomplete=True)
        editor.save()
        if release is not None:
            release()
        try:
            for row in rows:
                if self._discard is not None:
                    self._discard(row.id, rubbish)
                for path in self.beside(row.id):
                    rubbish.set_aside(path)
                editor.remove(row)
        finally:
            try:
                editor.save()
            except OSError as error:
                if error.errno not in trash.NO_ROOM:
                    raise
                rubbish.empty()  # with the lock held: what was set aside is the room that is missing
                editor.save()

    # --- loading and saving -----------------------------------------------------------------------------

    def _refresh(self, *, may_write: bool, as_is: bool = False) -> None:
        super()._refresh(may_write=may_write, as_is=as_is)
        if self.mounts is not None:
            self.mounts.refresh(self._rows)

    def _load(self, *, as_is: bool) -> None:
        if self.mounts is not None:
            self.mounts.forget()  # mounts are matched with rows, and the rows are new
        super()._load(as_is=as_is)

    def _settle(self) -> None:
        # Before the first change, and only then: beside a table that was lost nothing at all is deleted.
        problems = self.recover_trash()
        super()._settle()
        self._remove_empty_roots()
        self._left += [f"what was set aside to be deleted stays: {problem}" for problem in problems]

    def _swept(self) -> set[str]:
        # The mount lock is only ever taken under the lock of this table.
        return super()._swept() | ({os.path.dirname(self.mounts.path)} if self.mounts is not None else set())

    def _around_save(self, write: Callable[[], None]) -> None:
        if self.mounts is None:
            write()
        else:
            self.mounts.saving(self._rows, write)

    def _is_unfinished(self, contents: Contents) -> bool:
        return any(flags.get("incomplete") is True for flags in contents.column("flags"))

    def _repair(self, editor: Editor) -> list[str]:
        """Delete layers whose making or deletion never ended. One that resists stays and is named; others go on."""
        unfinished = [row for row in editor.rows if is_incomplete(row)]
        rubbish = self.new_trash()
        resisting = []
        if self._release is not None:
            self._release({row.id for row in unfinished})
        for row in unfinished:
            try:
                self.remove(editor, [row], rubbish)
            except (StorageError, OSError) as error:
                resisting.append(f"layer {row.id} is incomplete and cannot be deleted: {error}")
        try:
            rubbish.empty()
        except OSError as error:
            resisting.append(f"what was set aside to be deleted stays: {error}")
        return resisting

    def _doubts(self, rows: Rows) -> str | None:
        """An empty or missing table beside layers with content is damage, not "no layers".

        A peer that trusts it deletes all data at the next collection of garbage (P11).
        """
        if self._stored_ids is None or all(file.found for file in self.files[: self.volatile_home]):
            return None
        try:
            stored = self._stored_ids()
        except OSError:
            return None
        claimed = {aside.id for aside in self.asides()}
        orphans = [id for id in stored if id not in claimed and rows.by_id(id) is None]
        return self._lost(orphans, "layer") if orphans else None


def is_incomplete(row: Row) -> bool:
    """True while a layer is being made or deleted; only the boolean counts."""
    flags = row.document.get("flags")
    return flags is not None and flags.get("incomplete") is True


def flag(editor: Editor, row: Row, **flags: object) -> None:
    """Set flags of a layer record; a value of None takes the flag away."""
    merged = {**(row.document.get("flags") or {}), **flags}
    editor.change(row, {"flags": {key: value for key, value in merged.items() if value is not None}})


def layer_of(view: View, row: Row) -> Layer:
    """The value of a layer row, with its type."""
    value = view.value(row)
    assert isinstance(value, Layer)
    return value
