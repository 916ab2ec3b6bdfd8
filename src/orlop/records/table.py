"""A table: JSON files that several programs read and write under one lock (`spec/records.md`, `spec/locking.md`).

    with table.reading() as view:       # shared lock; reloaded if another program wrote
        row = view.find(ref)

    with table.writing() as editor:     # exclusive lock; leaving saves once, an exception saves nothing
        editor.change(row, metadata="...")

Layers, images and containers are this one table with three declarations (`records/layers`, `images`,
`containers`).

Rules
1. What is in memory is trusted only while the lock is held and the token is the remembered one.
2. The remembered token is the one read *before* loading, or written by our own save. A load that fails remembers
   nothing, neither token nor times of files, so the next block tries again.
3. A save writes the token first, then replaces each changed file; a crash between costs others a needless reload.
4. A record that does not fit is set aside: named in `damage`, written back as it was found, never acted on. What it
   names is not free to be used or deleted (`doubted`).
5. A file that cannot be read as records at all stops its table, not the store. An additional store is only read, and
   stops nothing.
6. What a dead process left is cleared away before the first change. Failing at that is damage, not an obstacle.
"""

from __future__ import annotations

import _thread
import os

from orlop.errors import BadRecords, LimitExceeded, ReadOnly, StorageError, UnsafePath
from orlop.formats import gojson
from orlop.formats.limits import RECORDS_FILE_MAX
from orlop.formats.recordfiles import Aside, Contents, parse
from orlop.formats.records import encode
from orlop.records import bigdata
from orlop.records.blocks import Editor, Looking, NeedsWriting, Reading, Uncollected, Writing
from orlop.records.rows import Row, Rows
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.model.record import Document, Record
    from orlop.system.locks import LockFile


class TableFile:
    """One JSON file of a table. `durable` files survive power loss; volatile ones are written without sync."""

    __slots__ = ("asides", "contents", "durable", "found", "mtime_ns", "path")

    def __init__(self, path: str, *, durable: bool) -> None:
        self.path = path
        self.durable = durable
        self.mtime_ns: int | None = None
        self.found = False  # it held something when it was last read or written
        self.contents: Contents | None = None  # once it was read
        self.asides: list[Aside] = []

    def changed(self) -> bool:
        """True if another program replaced the file since we read or wrote it; a missing file has not changed."""
        try:
            return os.stat(self.path).st_mtime_ns != self.mtime_ns
        except FileNotFoundError:
            return False

    def read(self, kind: type[Record]) -> tuple[int | None, Contents]:
        """Its time and what it says; nothing is remembered yet.

        Raises:
            BadRecords: it is not a list of records, or no file.
        """
        try:
            mtime_ns = os.stat(self.path, follow_symlinks=False).st_mtime_ns
            return mtime_ns, parse(kind, files.read(self.path, limit=RECORDS_FILE_MAX), self.contents)
        except FileNotFoundError:
            return None, parse(kind, b"")
        except (gojson.SyntaxProblem, LimitExceeded, UnsafePath) as problem:
            raise BadRecords(
                f'loading "{self.path}": {problem}', path=self.path, reason=str(problem)
            ) from problem

    def remember(self, mtime_ns: int | None, contents: Contents) -> None:
        self.mtime_ns = mtime_ns
        self.found = not contents.is_void
        self.contents = contents
        self.asides = contents.asides


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
        self._unique_ids = unique_ids
        self._second_key = second_key
        self._watch_files = watch_files
        self._timeout = lock_timeout
        self._token: bytes | None = None
        self._rows = Rows()
        self._damage: list[str] = []
        self._left: list[str] = []  # what of a dead process could not be cleared away
        self._doubt: str | None = None
        self._wants_repair = False
        self._settled = False  # nothing of a dead process is left since the last load
        self._load_mutex = _thread.allocate_lock()

    # --- the two blocks ---------------------------------------------------------------------------------

    def reading(self, prepare: Callable[[], object] | None = None) -> Reading:
        """A block in which the table can be asked, and is as the files are.

        `prepare` is called, with no lock held, before a repair that a load turns out to need.
        """
        return Reading(self, prepare)

    def looking(self) -> Looking:
        """A block in which the table can be asked, and is as a dead process may have left it."""
        return Looking(self)

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

    def find_by_id(self, id: str) -> Row | None:
        """The row of exactly this id, as memory has it."""
        return self._rows.by_id(id)

    def value(self, row: Row) -> Record:
        """The frozen value of a row, with what is known beside the record."""
        return self.value_of(row.document)

    def value_of(self, document: Document) -> Record:
        return self.record(document, read_only=True) if self.read_only else self.record(document)

    def values_of(self, documents: Iterable[Document]) -> list[Record]:
        if self.read_only:
            return [self.value_of(document) for document in documents]
        return list(self.record.all_of(documents))

    # --- what is wrong with it --------------------------------------------------------------------------

    @property
    def damage(self) -> tuple[str, ...]:
        """What was found wrong when the table was last loaded, a sentence each."""
        return (*self._damage, *self._left)

    def asides(self) -> list[Aside]:
        """The records that were set aside."""
        return [aside for file in self.files for aside in file.asides]

    def doubted(self, id: str) -> str | None:
        """Why `id` must be left alone though no usable record has it: one that was set aside mentions it.

        Nobody knows what that record would say if it could be read; whoever deletes what has no record, or what
        nothing refers to, asks here first.
        """
        return next((aside.reason for aside in self.asides() if aside.mentions(id)), None)

    def require_trust(self) -> None:
        """Raise `BadRecords` if what was read must not be built on, or what it does not name be deleted."""
        if self._doubt is not None:
            raise BadRecords(self._doubt, path=self.directory)

    def temporaries(self) -> list[str]:
        """Unfinished files of dead processes, which the next change removes. The lock is held, in either mode."""
        return [
            os.path.join(directory, name)
            for directory in sorted(self._swept())
            for name in sorted(_temporaries(directory))
        ]

    def finish_removal(self, id: str) -> None:
        """Remove what lies beside a record that is gone; whoever took that away did not come to it."""
        files.remove_tree(os.path.join(self.directory, id))

    # --- for subclasses ---------------------------------------------------------------------------------

    def _accept(self, document: Document) -> Document:
        """The last word on a document that is to be written."""
        return document

    def _admit(self, contents: Contents) -> None:
        """The same for what was read: sets aside, or replaces, what its declaration alone lets pass."""

    def _is_unfinished(self, contents: Contents) -> bool:
        """True if what a file says can only be used after `_repair`."""
        return False

    def _repair(self, editor: Editor) -> list[str]:
        """Under the exclusive lock, after a load: put right what a dead process left; returns what stays damaged."""
        return []

    def _doubts(self, rows: Rows) -> str | None:
        """A reason not to build on what was read, or None."""
        return None

    def _lost(self, orphans: list[str], of_what: str) -> str:
        """`of_what`: what one of them is."""
        missing = next(file.path for file in self.files if not file.found)
        more = f" and {len(orphans) - 1} more" if len(orphans) > 1 else ""
        return (
            f'"{missing}" is missing or empty, but there is {of_what} {orphans[0][:24]}{more} that no record names: '
            'this is damage, and nothing is written or collected; put the file back, or let "orlop repair" make the '
            "records again from what is there"
        )

    def _swept(self) -> set[str]:
        """The directories whose temporary files are made under the lock of this table only."""
        return {self.directory, *(os.path.dirname(lock.path) for lock in self.locks)}

    def _around_save(self, write: Callable[[], None]) -> None:
        write()

    # --- loading ----------------------------------------------------------------------------------------

    def _is_stale(self) -> bool:
        if self._token is None or self.locks[0].token() != self._token:
            return True
        return self._watch_files and any(file.changed() for file in self.files)

    def _refresh(self, *, may_write: bool, as_is: bool = False) -> None:
        """Bring memory up to date. `as_is`: use also what wants repair."""
        # Several threads may hold the lock shared; one of them reloads, the others wait for it here.
        with self._load_mutex:
            if self._is_stale():
                self._load(as_is=as_is or may_write)
            if may_write and not self._settled and self._doubt is None:
                try:
                    self._settle()
                except (OSError, StorageError) as problem:
                    # A full disk, for example, must not keep anybody from deleting. The next block tries again.
                    self._load(as_is=True)
                    self._left = [f"what a dead process left cannot be cleared away: {problem}"]

    def _load(self, *, as_is: bool) -> None:
        with Uncollected(lasting=True):
            self._read_files(as_is)

    def _read_files(self, as_is: bool) -> None:
        token = self.locks[0].token()
        found: list[tuple[int | None, Contents]] = []
        damage: list[str] = []
        for file in self.files:
            try:
                mtime_ns, contents = file.read(self.record)
                self._admit(contents)
            except (OSError, BadRecords) as problem:
                if not self.read_only:
                    self._damage, self._left = [str(problem)], []
                    raise
                mtime_ns, contents = file.mtime_ns, parse(self.record, b"")
                damage.append(str(problem))
            found.append((mtime_ns, contents))
            damage += [f"{file.path}: {aside}" for aside in contents.asides]
        loaded = [contents for _, contents in found]
        rows = Rows(loaded, second_key=self._second_key, unique_ids=self._unique_ids)
        wants_repair = any(map(self._is_unfinished, loaded))
        if (rows.robbed or wants_repair) and not (as_is or self.read_only):
            raise NeedsWriting
        damage += [f"{self.directory}: a second record of {self.noun} {id}" for id in rows.passed_over]
        for file, state in zip(self.files, found, strict=True):
            file.remember(*state)
        self._rows, self._token, self._settled = rows, token, self.read_only
        self._wants_repair = wants_repair
        self._doubt = None if self.read_only else self._doubts(rows)
        self._damage, self._left = [*damage, self._doubt] if self._doubt else damage, []

    def _settle(self) -> None:
        problems = []
        left = {directory: _temporaries(directory) for directory in self._swept()}
        editor = Editor(self)
        for home in self._rows.robbed:
            editor.dirty.add(home)
        try:
            if any(map(bigdata.is_note, left.get(self.directory, ()))):
                bigdata.mend(self, editor, left[self.directory])
            if self._wants_repair:
                problems += self._repair(editor)
            editor.save()
        except BaseException:
            self.forget()
            raise
        # Last of all, as the notes that were acted upon are among them: dying here, the next one acts again.
        for directory, names in left.items():
            try:
                if names:
                    files.clear_temporaries(directory)
            except OSError as problem:
                problems.append(str(problem))
        self._left = problems
        self._settled = True

    # --- saving -----------------------------------------------------------------------------------------

    def _save(self, homes: Iterable[int]) -> None:
        homes = list(homes)

        def write() -> None:
            self.renew_tokens()
            for home in homes:
                file = self.files[home]
                assert file.contents is not None
                file.mtime_ns = files.write_atomic(file.path, file.contents.blocks(), durable=file.durable)
                file.found = True

        try:
            for home in homes:
                self._encode(home)
                files.make_dirs(os.path.dirname(self.files[home].path))
            self._around_save(write)
        except BaseException as error:
            self._advise(error, homes)
            self.forget()
            raise

    def _advise(self, error: BaseException, homes: list[int]) -> None:
        """Tell whoever reads the error what is wanting on a full disk before anything can be deleted from it.

        LIMIT: where no room is kept (`system/room`), and less is left than the records take, nothing can be deleted.
        A table that is not written beside the old one is gone after a crash in the middle, and a layer that loses its
        files before its record says so is damaged after one. So a deletion cannot begin with no room at all.
        """
        from orlop.records.trash import NO_ROOM

        if not isinstance(error, OSError) or error.errno not in NO_ROOM:
            return
        if error.filename is None:
            error.filename = self.directory
        contents = [self.files[home].contents for home in homes]
        size = sum(len(block) for one in contents if one is not None for block in one.blocks())
        error.add_note(
            f"records are written anew before the old ones go, which takes {size:,} bytes and a file at least: make "
            "that room by removing something else from this file system, then deleting from the store makes more"
        )

    def renew_tokens(self) -> None:
        """Tell every other program that this table changed; the exclusive lock is held."""
        tokens = [lock.renew() for lock in self.locks]
        self._token = tokens[0]

    def _encode(self, home: int) -> None:
        """Bring the text of a file up to date with the rows."""
        contents = self.files[home].contents
        assert contents is not None
        changed, dropped = self._rows.changes(home)
        for place in dropped:
            contents.drop(place)
        for row in changed:
            row.place = contents.put(row.place, encode(self.record, row.document))


def _temporaries(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if name.startswith(files.TEMPORARY)]
    except FileNotFoundError:
        return []
