"""The records of one table in memory, in file order, with their indexes.

Rule: the indexes are kept in this file alone. Everything else asks `find` and friends, and changes rows through
`add`, `put` and `remove`. Documents are never changed, only replaced: values handed out earlier keep theirs.

Reading a table and listing it needs no index; they are made when somebody first asks for a certain row.
"""

from __future__ import annotations

import _thread
from bisect import bisect_left, insort
from itertools import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from orlop.formats.records import Contents
    from orlop.model.record import Document


class Row:
    """One record: its document, the index of the file it lives in, and its JSON text there.

    `text` is a number as long as it is the text of that place of the file as it was read; None once it changed.
    """

    __slots__ = ("document", "home", "text")

    def __init__(self, document: Document, home: int, text: str | int | None = None) -> None:
        self.document = document
        self.home = home
        self.text = text

    @property
    def id(self) -> str:
        id: str = self.document["id"]
        return id

    @property
    def names(self) -> list[str]:
        names: list[str] = self.document.get("names") or []
        return names

    def __repr__(self) -> str:
        return f"<row {self.id}>"


class Rows:
    """Ordered rows, found by id, by name, by a second key (the layer of a container), by unique prefix, by member."""

    def __init__(
        self,
        files: Sequence[Contents] = (),
        *,
        second_key: str | None = None,
        unique_ids: bool = True,
    ) -> None:
        """`files` is what each of them says, in load order.

        Where two records claim the same, the table decides as the peers do: of one id the earlier record counts
        (without `unique_ids` both stay, and the later is found by it), of one name the later. `robbed` are the
        homes of the records that lost a name, `passed_over` the ids of those that do not count.
        """
        self.untouched = True  # as the files are: nothing resolved, nothing changed since
        self.robbed: set[int] = set()
        self.passed_over: list[str] = []
        self._second_key = second_key
        self._parts = [contents.documents for contents in files]
        self._order: dict[Row, None] | None = None
        self._mutex = _thread.allocate_lock()
        self._ids: dict[str, Row] = {}
        self._twins = False  # there are records with the same id
        self._names: dict[str, Row] = {}
        # Built when first asked for; then kept up to date.
        self._prefixes: list[str] | None = None
        self._members: dict[str, dict[str, list[Row]]] = {}
        ids = [contents.column("id") for contents in files]
        names = [names for contents in files for names in contents.column("names")]
        if not (_all_differ(ids) and _all_differ(names)):
            self._resolve(unique_ids)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._indexed())

    def __len__(self) -> int:
        if self._order is not None:
            return len(self._order)
        return sum(len(part) - part.count(None) for part in self._parts)

    def documents(self) -> Iterator[Document]:
        """The documents in order; cheaper than going through the rows."""
        if self._order is not None:
            return iter([row.document for row in self._order])
        return filter(None, chain.from_iterable(self._parts))

    # --- asking -----------------------------------------------------------------------------------------

    def by_id(self, id: str) -> Row | None:
        self._indexed()
        return self._ids.get(id)

    def owner_of(self, name: str) -> Row | None:
        self._indexed()
        return self._names.get(name)

    def find(self, ref: str) -> Row | None:
        """Exact id, exact name, exact second key, unique prefix of an id; in this order (`spec/records.md` 9)."""
        self._indexed()
        return self._ids.get(ref) or self._names.get(ref) or self._by_second_key(ref) or self._by_prefix(ref)

    def holding(self, member: str, value: str) -> list[Row]:
        """The rows whose `member` (text) is `value`, in order."""
        index = self._members.get(member)
        if index is None:
            index = {}
            for row in self._indexed():
                held = row.document.get(member)
                if held:
                    index.setdefault(held, []).append(row)
            self._members[member] = index
        return list(index.get(value, ()))

    def _by_second_key(self, ref: str) -> Row | None:
        held = self.holding(self._second_key, ref) if self._second_key else None
        return held[-1] if held else None

    def _by_prefix(self, ref: str) -> Row | None:
        if not ref:
            return None
        prefixes = self._prefixes
        if prefixes is None:
            # Ids with a blank are not found by prefix; the peers do not enter them either.
            prefixes = self._prefixes = sorted([id for id in self._ids if " " not in id])
        at = bisect_left(prefixes, ref)
        near = prefixes[at : at + 2]
        if not near or not near[0].startswith(ref) or (len(near) == 2 and near[1].startswith(ref)):
            return None  # none, or more than one: both are "not known"
        return self._ids[near[0]]

    # --- changing ---------------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Append a row. A name that another row has is the caller's to have refused or taken before."""
        self._indexed()[row] = None
        self.untouched = False
        id = row.id
        if self._prefixes is not None and id not in self._ids and " " not in id:
            insort(self._prefixes, id)
        self._enter(row)
        for member, index in self._members.items():
            held = row.document.get(member)
            if held:
                index.setdefault(held, []).append(row)

    def put(self, row: Row, document: Document) -> None:
        """Give a row a new document (same id)."""
        self._indexed()
        self.untouched = False
        old = row.document
        self._leave_names(row)
        row.document, row.text = document, None
        for name in row.names:
            self._names[name] = row
        for member in list(self._members):
            if old.get(member) != document.get(member):
                del self._members[member]  # where the row stands among others is not worth finding out

    def remove(self, row: Row) -> list[Row]:
        """Take a row away, and with it any other of the same id, whose data it is, too; those that went."""
        order = self._indexed()
        self.untouched = False
        id = row.id
        gone = [twin for twin in order if twin.id == id] if self._twins else [row]
        for twin in gone:
            del order[twin]
            self._leave_names(twin)
            for member, index in self._members.items():
                held = twin.document.get(member)
                if held:
                    index[held].remove(twin)
        del self._ids[id]
        if self._prefixes is not None and " " not in id:
            del self._prefixes[bisect_left(self._prefixes, id)]
        return gone

    def take_names(self, row: Row, names: Iterable[str]) -> set[int]:
        """Take `names` away from whichever other rows have them; the files of those rows are returned."""
        self._indexed()
        taken = set(names)
        owners = {
            owner for name in taken if (owner := self._names.get(name)) is not None and owner is not row
        }
        for owner in owners:
            document = {**owner.document, "names": [name for name in owner.names if name not in taken]}
            if not document["names"]:
                del document["names"]
            self.put(owner, document)
        return {owner.home for owner in owners}

    # --- indexes ----------------------------------------------------------------------------------------

    def _indexed(self) -> dict[Row, None]:
        if self._order is None:
            with self._mutex:  # threads that read share the rows
                if self._order is None:
                    order: dict[Row, None] = {}
                    for home, part in enumerate(self._parts):
                        for place, document in enumerate(part):
                            if document is not None:
                                row = Row(document, home, place)
                                order[row] = None
                                self._enter(row)
                    self._order = order
                    self._parts = []  # not cleared: another thread may be going through it
        return self._order

    def _resolve(self, unique_ids: bool) -> None:
        self._order = {}
        for home, part in enumerate(self._parts):
            for place, document in enumerate(part):
                if document is None:
                    continue
                row = Row(document, home, place)
                if row.id in self._ids:
                    if unique_ids:
                        self.untouched = False
                        self.passed_over.append(row.id)
                        continue
                    self._twins = True
                names = row.names
                if unique_ids and len({*names}) != len(names):
                    self.untouched = False
                    row.document, row.text = {**document, "names": list(dict.fromkeys(names))}, None
                self.robbed |= self.take_names(row, names)
                self._order[row] = None
                self._enter(row)
        self._parts = []

    def _enter(self, row: Row) -> None:
        document = row.document
        self._ids[document["id"]] = row
        for name in document.get("names", ()):
            self._names[name] = row

    def _leave_names(self, row: Row) -> None:
        for name in row.names:
            if self._names.get(name) is row:
                del self._names[name]


def _all_differ(lists: list[list[str]]) -> bool:
    return len(set().union(*lists)) == sum(map(len, lists))
