"""A table: JSON files that several programs read and write under one lock (`spec/records.md`, `spec/locking.md`).

    with table.reading() as view:       # shared lock; reloaded if another program wrote
        row = view.find(ref)

    with table.writing() as editor:     # exclusive lock; leaving saves once, an exception saves nothing
        editor.change(row, metadata="...")

Layers, images and containers are this one table with three declarations (`records/layers`, `images`,
`containers`).

Rules
1. What is in memory is trusted only while the lock is held and the token is the remembered one.
2. The remembered token is the one read *before* loading, or written by our own save.
3. A save writes the token first, then replaces each changed file; a crash between costs others a needless reload.
4. A record that does not fit is set aside: named in `damage`, written back as it was found, never acted on.
5. A file that cannot be read as records at all stops its table, not the store.
"""

from __future__ import annotations

import _thread
import os

from orlop.errors import BadRecords, ReadOnly
from orlop.formats import gojson
from orlop.formats.records import Misfit, encode, fitted
from orlop.model.ids import is_component
from orlop.records.rows import Row, Rows
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

    from orlop.model.record import Document, Record
    from orlop.system.locks import LockFile

# A table is reloaded for repair at most this often before its error is final (`spec/locking.md` 4.2).
REPAIR_ATTEMPTS = 3


class TableFile:
    """One JSON file of a table. `durable` files survive power loss; volatile ones are written without sync."""

    __slots__ = ("durable", "found", "mtime_ns", "path")

    def __init__(self, path: str, *, durable: bool) -> None:
        self.path = path
        self.durable = durable
        self.mtime_ns: int | None = None
        self.found = False  # it held something when it was last read

    def changed(self) -> bool:
        """True if another program replaced the file since we read or wrote it; a missing file has not changed."""
        try:
            return os.stat(self.path).st_mtime_ns != self.mtime_ns
        except FileNotFoundError:
            return False


class Aside:
    """A record that does not fit: its text, to be written back as it is, and what is wrong with it."""

    __slots__ = ("home", "reason", "text")

    def __init__(self, text: str, home: int, reason: str) -> None:
        self.text = text
        self.home = home
        self.reason = reason


class NeedsWriting(Exception):
    """What was loaded wants repair, and only a shared lock is held."""


class Table:
    """See the module. Subclasses fill in `_repair` (load time, exclusive lock) and `_around_save`."""

    def __init__(
        self,
        *,
        noun: str,
        record: type[Record],
        directory: str,
        table_files: tuple[TableFile, ...],
        locks: tuple[LockFile, ...],
        read_only: bool = False,
        unique_ids: bool = True,
        second_key: str | None = None,
        watch_files: bool = False,
        lock_timeout: float | None = None,
    ) -> None:
        """`noun`: layer, image, container. `locks`: taken in order; the first one's token is the table's."""
        self.noun = noun
        self.record = record
        self.directory = directory
        self.files = table_files
        self.locks = locks
        self.read_only = read_only
        self.damage: tuple[str, ...] = ()
        self._unique_ids = unique_ids
        self._second_key = second_key
        self._watch_files = watch_files
        self._timeout = lock_timeout
        self._token: bytes | None = None
        self._doubt: str | None = None
        self._rows = Rows(second_key)
        self._asides: list[Aside] = []
        self._load_mutex = _thread.allocate_lock()

    # --- the two blocks ---------------------------------------------------------------------------------

    def reading(self, prepare: Callable[[], object] | None = None) -> Reading:
        """A block in which the table can be asked, and is as the files are.

        `prepare` is called, with no lock held, before a repair that a load turns out to need.
        """
        return Reading(self, prepare)

    def writing(self) -> Writing:
        """A block in which the table can be changed.

        Raises (on entering):
            ReadOnly: the table belongs to an additional store.
            BadRecords: the table cannot be trusted, so nothing may be built on it.
        """
        if self.read_only:
            raise ReadOnly(f'{self.noun} table at "{self.directory}" is read-only', path=self.directory)
        return Writing(self)

    def forget(self) -> None:
        """Make the next block read the files again: memory and disk may differ."""
        self._token = None

    def value(self, row: Row) -> Record:
        """The frozen value of a row, with what is known beside the record."""
        return self.record(row.document, read_only=self.read_only)

    # --- for subclasses ---------------------------------------------------------------------------------

    def _accept(self, document: Document) -> Document:
        """The last word on a record that fits its declaration; raises `Misfit` to set it aside."""
        return document

    def _wants_repair(self, rows: Rows) -> bool:
        """True if the rows just read can only be used after `_repair`."""
        return False

    def _repair(self, editor: Editor) -> list[str]:
        """Under the exclusive lock, after a load: put right what a dead process left; returns what stays damaged."""
        return []

    def _doubts(self, rows: Rows) -> str | None:
        """A reason not to build on what was read, or None. Asked under the exclusive lock only."""
        return None

    def _around_save(self, write: Callable[[], None]) -> None:
        write()

    # --- loading ----------------------------------------------------------------------------------------

    def _is_stale(self) -> bool:
        if self._token is None or self.locks[0].token() != self._token:
            return True
        return self._watch_files and any(file.changed() for file in self.files)

    def _refresh(self, *, may_write: bool) -> None:
        # Several threads may hold the lock shared; one of them reloads, the others wait for it here.
        with self._load_mutex:
            if self._is_stale():
                self._load(may_write=may_write)

    def _load(self, *, may_write: bool) -> None:
        token = self.locks[0].token()
        rows = Rows(self._second_key)
        asides: list[Aside] = []
        dirty: set[int] = set()
        for home, file in enumerate(self.files):
            for row in self._read(home, file, asides):
                if self._unique_ids and rows.by_id(row.id) is not None:
                    continue  # the earlier one counts; this one goes with the next save of its file
                names = row.names
                if len(set(names)) != len(names):
                    row.document, row.text = {**row.document, "names": list(dict.fromkeys(names))}, None
                dirty |= rows.take_names(row, names)  # a later record owns a name that two records list
                rows.add(row)
        repair = bool(dirty) or self._wants_repair(rows)
        if repair and not self.read_only and not may_write:
            raise NeedsWriting
        self._rows, self._asides, self._token = rows, asides, token
        damage = [f"{self.files[a.home].path}: {a.reason}" for a in asides]
        doubt = self._doubts(rows) if may_write and not self.read_only else None
        if doubt:
            damage.append(doubt)
        elif may_write and not self.read_only:
            files.clear_temporaries(self.directory)
            editor = Editor(self, dirty)
            try:
                damage += self._repair(editor)
                editor.save()
            except BaseException:
                self.forget()
                raise
        self._doubt = doubt
        self.damage = tuple(damage)

    def _read(self, home: int, file: TableFile, asides: list[Aside]) -> Iterator[Row]:
        try:
            file.mtime_ns = os.stat(file.path).st_mtime_ns
            data = files.read(file.path)
        except FileNotFoundError:
            file.found = False
            return
        file.found = bool(data)
        elements = gojson.elements(data)
        while True:
            try:
                value, text = next(elements)
            except StopIteration:
                return
            except gojson.SyntaxProblem as problem:
                raise BadRecords(
                    f'loading "{file.path}": {problem}', path=file.path, reason=str(problem), noun=self.noun
                ) from None
            try:
                document = self._accept(fitted(self.record, value))
                if not is_component(document["id"]):
                    # Acting on `../x` or `.` would reach another layer's directory, or outside (N3).
                    raise Misfit(
                        f"id {document['id'][:80]!r} is not a name that one directory entry can have"
                    )
            except Misfit as misfit:
                asides.append(Aside(text, home, str(misfit)))
            else:
                yield Row(document, home, text)

    # --- saving -----------------------------------------------------------------------------------------

    def _save(self, homes: set[int]) -> None:
        contents = {home: self._encoded(home).encode() for home in sorted(homes)}

        def write() -> None:
            self.renew_tokens()
            for home, content in contents.items():
                file = self.files[home]
                file.mtime_ns = files.write_atomic(file.path, content, durable=file.durable)
                file.found = True

        try:
            files.make_dirs(self.directory)
            self._around_save(write)
        except BaseException:
            self.forget()
            raise

    def renew_tokens(self) -> None:
        """Tell every other program that this table changed; the exclusive lock is held."""
        tokens = [lock.renew() for lock in self.locks]
        self._token = tokens[0]

    def _encoded(self, home: int) -> str:
        texts = []
        for row in self._rows:
            if row.home == home:
                if row.text is None:
                    row.text = encode(self.record, row.document)
                texts.append(row.text)
        texts += [aside.text for aside in self._asides if aside.home == home]
        return "[" + ",".join(texts) + "]"


class View:
    """The rows of a table inside a block."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows = table._rows

    def find(self, ref: str) -> Row | None:
        """By id, name (second key, for containers) or unique prefix; None if there is none."""
        return self.rows.find(ref)

    def value(self, row: Row) -> Record:
        return self.table.value(row)

    def values(self) -> list[Record]:
        value = self.table.value
        return [value(row) for row in self.rows]


class Editor(View):
    """The rows of a table inside a writing block. Nothing is on disk before `save`, which leaving the block calls."""

    def __init__(self, table: Table, dirty: set[int] | None = None) -> None:
        super().__init__(table)
        self.dirty = dirty or set()

    def add(self, document: Document, home: int = 0) -> Row:
        row = Row(self.table._accept(document), home)
        self.rows.add(row)
        self.dirty.add(home)
        return row

    def change(self, row: Row, members: dict[str, Any]) -> None:
        """Replace members, named by their JSON keys, of one record."""
        self.rows.put(row, self.table._accept({**row.document, **members}))
        self.dirty.add(row.home)

    def set_names(self, row: Row, names: list[str], **members: Any) -> None:
        """Give the record these names, taking them from whoever has them (`spec/records.md` 10)."""
        self.dirty |= self.rows.take_names(row, names)
        self.change(row, {"names": names, **members})

    def remove(self, row: Row) -> None:
        self.rows.remove(row)
        self.dirty.add(row.home)

    def save(self) -> None:
        """Put what changed on disk now; durable when it returns, for files that are."""
        if self.dirty:
            self.table._save(self.dirty)
            self.dirty = set()


class _Block:
    """What both blocks share: the locks, taken in order and released in the reverse."""

    _mode = ""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._held: list[Any] = []

    def _take(self) -> None:
        try:
            for lock in self.table.locks:
                block = getattr(lock, self._mode)(timeout=self.table._timeout)
                block.__enter__()
                self._held.append(block)
        except BaseException:
            self._release()
            raise

    def _release(self) -> None:
        while self._held:
            self._held.pop().__exit__(None, None, None)


class Reading(_Block):
    _mode = "reading"

    def __init__(self, table: Table, prepare: Callable[[], object] | None = None) -> None:
        super().__init__(table)
        self._prepare = prepare

    def __enter__(self) -> View:
        for attempt in range(REPAIR_ATTEMPTS + 1):
            self._take()
            try:
                self.table._refresh(may_write=False)
            except NeedsWriting:
                self._release()
                if attempt == REPAIR_ATTEMPTS:
                    raise BadRecords(
                        f"the {self.table.noun} table wants repair again after {attempt} repairs; "
                        "another program keeps writing records that need it",
                        path=self.table.directory,
                    ) from None
                if self._prepare is not None:
                    self._prepare()
                with Writing(self.table, trusting=False):
                    pass
            except BaseException:
                self._release()
                raise
            else:
                return View(self.table)
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()


class Writing(_Block):
    _mode = "writing"

    def __init__(self, table: Table, *, trusting: bool = True) -> None:
        super().__init__(table)
        self._trusting = trusting
        self.editor: Editor | None = None

    def __enter__(self) -> Editor:
        self._take()
        try:
            self.table._refresh(may_write=True)
            if self._trusting and self.table._doubt:
                raise BadRecords(self.table._doubt, path=self.table.directory)
            self.editor = Editor(self.table)
        except BaseException:
            self._release()
            raise
        return self.editor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        editor = self.editor
        try:
            if editor is not None and editor.dirty:
                if kind is None:
                    editor.save()
                else:
                    self.table.forget()
        finally:
            self._release()
