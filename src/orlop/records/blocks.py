"""The blocks in which a table is read or changed, and what each hands out (`spec/locking.md` 4, 5).

A View asks, an Editor changes; neither is of use outside its block. What they work on is `records/table`.
"""

from __future__ import annotations

import gc

from orlop.errors import DuplicateID
from orlop.formats.records import encode_all, trimmed
from orlop.records.rows import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Literal

    from orlop.model.record import Document, Record
    from orlop.records.table import Table

# A table is reloaded for repair at most this often, then it is used as it is (`spec/locking.md` 4.2).
REPAIR_ATTEMPTS = 3

_MANY = 10_000  # objects: less is not worth a search of its own


class NeedsWriting(Exception):
    """What was loaded wants repair, and only a shared lock is held."""


class Uncollected:
    """A block that makes many objects, none of them garbage, and is not to be held up by the search for some.

    `lasting` objects, such as records that were loaded, are looked at once, and not again while they are young.
    """

    __slots__ = ("_lasting", "_was_on")

    def __init__(self, *, lasting: bool = False) -> None:
        self._lasting = lasting
        self._was_on = False

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.disable()

    def __exit__(self, *args: object) -> None:
        if self._was_on:
            if self._lasting and gc.get_count()[0] > _MANY:
                gc.collect(1)
            gc.enable()


class View:
    """The rows of a table inside a block."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows = table._rows

    def find(self, ref: str) -> Row | None:
        """By id, name (second key, for containers) or unique prefix; None if there is none."""
        return self.rows.find(ref)

    def find_exactly(self, ref: str) -> Row | None:
        """The same, but not by the beginning of an id."""
        return self.rows.find_exactly(ref)

    def value(self, row: Row) -> Record:
        return self.table.value(row)

    def values(self) -> list[Record]:
        with Uncollected():
            return self.table.values_of(self.rows.documents())

    def json(self) -> str:
        """All records as the text of a JSON array; where possible the text of the files, which costs nothing."""
        if self.rows.in_file_order and self.rows.are_saved:
            parts = [file.contents.canonical() if file.contents else None for file in self.table.files]
            if None not in parts:
                return "[" + ",".join(filter(None, parts)) + "]"
        return "[" + encode_all(self.table.record, self.rows.documents()) + "]"


class Homes(dict[int, None]):
    """The files to be saved, in the order in which that has to happen."""

    def add(self, home: int) -> None:
        self.setdefault(home)

    def add_last(self, home: int) -> None:
        self.pop(home, None)
        self.add(home)


class Editor(View):
    """The rows of a table inside a writing block. Nothing is on disk before `save`, which leaving the block calls."""

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self.dirty = Homes()

    def add(self, document: Document, home: int = 0) -> Row:
        """Append a record.

        Raises:
            DuplicateID: another record has that id, even one that was set aside.
        """
        id, noun = document["id"], self.table.noun
        if self.rows.by_id(id) is not None or any(aside.id == id for aside in self.table.asides()):
            raise DuplicateID(f'{noun} id "{id}" is in use already', kind=noun, id=id)
        row = Row(self._normal(document), home)
        self.rows.add(row)
        self.dirty.add(home)
        return row

    def change(self, row: Row, members: dict[str, Any]) -> None:
        """Replace members, named by their JSON keys, of one record."""
        self.rows.put(row, self._normal({**row.document, **members}))
        self.dirty.add(row.home)

    def set_names(self, row: Row, names: list[str], **members: Any) -> None:
        """Give the record these names, taking them from whoever has them (`spec/records.md` 10)."""
        robbed = self.rows.take_names(row, names)
        self.change(row, {"names": names, **members})
        for home in robbed - {row.home}:
            # After the file of the new owner: if we die between, a name has two owners, not none.
            self.dirty.add_last(home)

    def remove(self, row: Row) -> None:
        for gone in self.rows.remove(row):
            self.dirty.add(gone.home)

    def save(self) -> None:
        """Put what changed on disk now; durable when it returns, for files that are."""
        if self.dirty:
            self.table._save(self.dirty)
            self.dirty = Homes()

    def _normal(self, document: Document) -> Document:
        return self.table._accept(trimmed(self.table.record, document))


class _Block:
    """What both blocks share: the locks, taken in order and released in the reverse."""

    _mode: Literal["reading", "writing"]

    def __init__(self, table: Table) -> None:
        self.table = table
        self.timeout = table._timeout  # seconds to wait for each lock; None is for ever
        self._held: list[Any] = []

    def _take(self) -> None:
        try:
            for lock in self.table.locks:
                block = getattr(lock, self._mode)(timeout=self.timeout)
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
                self.table._refresh(may_write=False, as_is=attempt == REPAIR_ATTEMPTS)
            except NeedsWriting:
                self._release()
            except BaseException:
                self._release()
                raise
            else:
                break
            if self._prepare is not None:
                self._prepare()
            with Writing(self.table, trusting=False):
                pass
        return View(self.table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()


class Looking(_Block):
    """As `Reading`, but nothing is put right: what a dead process left half made is shown as it lies there."""

    _mode = "reading"

    def __enter__(self) -> View:
        self._take()
        try:
            self.table._refresh(may_write=False, as_is=True)
            view = View(self.table)
            if self.table._wants_repair or view.rows.robbed:
                self.table.forget()  # whoever comes next puts it right
        except BaseException:
            self._release()
            raise
        return view

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
            if self._trusting:
                self.table.require_trust()
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
