"""The records of one table in memory, in file order, with their indexes, and what of them is not on disk yet.

Rule: the indexes are kept in this file alone. Everything else asks `find` and friends, and changes rows through
`add`, `put` and `remove`. Documents are never changed, only replaced: values handed out earlier keep theirs.

Rule: what is asked decides what it costs. Documents stand at positions in a list; a row is made of one when somebody
wants it, an index when somebody first looks something up that way. Listing needs neither.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import accumulate, chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orlop.formats.recordfiles import Contents
    from orlop.model.record import Document

    # What a record can be found by: a member that is text or a list of text, or a function that gives texts.
    Key = str | Callable[[Document], Iterable[str]]


class Row:
    """One record: its document, the number of the file it lives in, and where in that file its text stands.

    `place` is None as long as it stands nowhere. `at` is the position among all rows.
    """

    __slots__ = ("at", "document", "home", "place")

    def __init__(self, document: Document, home: int, place: int | None = None, at: int = -1) -> None:
        self.document = document
        self.home = home
        self.place = place
        self.at = at

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
        self.in_file_order = True  # as a program would list them that loads the files now
        self.robbed: set[int] = set()
        self.passed_over: list[str] = []
        self._second_key = second_key
        parts = [contents.documents for contents in files]
        self._documents: list[Document | None] = list(chain.from_iterable(parts))
        self._starts = [0, *accumulate(map(len, parts))][: len(parts)]  # the position of each file's first
        self._last_home = max([home for home, part in enumerate(parts) if part], default=0)
        self._rows: dict[int, Row] = {}  # by position, those that were asked for
        self._twins = False  # there are records with the same id
        # Not on disk yet: rows that came or changed, places whose records went.
        self._changed: dict[int, dict[Row, None]] = {}
        self._dropped: dict[int, list[int]] = {}
        # From what is looked up to positions. Made when first asked for, whole and at once as threads that read share
        # them; then kept up to date.
        self._ids: dict[str, int] | None = None
        self._names: dict[str, int] | None = None
        self._prefixes: list[str] | None = None
        self._members: dict[Key, dict[str, list[int]]] = {}
        ids = [contents.column("id") for contents in files]
        names = list(chain.from_iterable([contents.column("names") for contents in files]))
        if not (_all_differ(ids) and _all_differ(names)):
            self._resolve(unique_ids)

    def __iter__(self) -> Iterator[Row]:
        return iter([self._row(at) for at, document in enumerate(self._documents) if document is not None])

    def __len__(self) -> int:
        return len(list(self.documents()))

    def documents(self) -> Iterator[Document]:
        """The documents in order; cheaper than going through the rows."""
        return filter(None, self._documents)

    # --- asking -----------------------------------------------------------------------------------------

    def by_id(self, id: str) -> Row | None:
        at = self._by_id().get(id)
        return None if at is None else self._row(at)

    def owner_of(self, name: str) -> Row | None:
        at = self._by_name().get(name)
        return None if at is None else self._row(at)

    def find(self, ref: str) -> Row | None:
        """Exact id, exact name, exact second key, unique prefix of an id; in this order (`spec/records.md` 9)."""
        return self.find_exactly(ref) or self._by_prefix(ref)

    def find_exactly(self, ref: str) -> Row | None:
        """The same without prefixes."""
        return self.by_id(ref) or self.owner_of(ref) or self._by_second_key(ref)

    def holding(self, key: Key, value: str) -> list[Row]:
        """The rows that have `value` for `key`, in order: as that member, in that list, or as the function says."""
        index = self._members.get(key)
        if index is None:
            index = {}
            for at, document in enumerate(self._documents):
                if document is not None:
                    for held in _held(document, key):
                        index.setdefault(held, []).append(at)
            self._members[key] = index
        return [self._row(at) for at in index.get(value, ())]

    def in_order(self, ids: Iterable[str]) -> list[str]:
        """Those ids that there are, in the order of their rows."""
        positions = self._by_id()
        return sorted([id for id in ids if id in positions], key=positions.__getitem__)

    def _by_second_key(self, ref: str) -> Row | None:
        held = self.holding(self._second_key, ref) if self._second_key else None
        return held[-1] if held else None

    def _by_prefix(self, ref: str) -> Row | None:
        if not ref:
            return None
        prefixes = self._prefixes
        if prefixes is None:
            # Ids with a blank are not found by prefix; the peers do not enter them either.
            prefixes = self._prefixes = sorted([id for id in self._by_id() if " " not in id])
        at = bisect_left(prefixes, ref)
        near = prefixes[at : at + 2]
        if not near or not near[0].startswith(ref) or (len(near) == 2 and near[1].startswith(ref)):
            return None  # none, or more than one: both are "not known"
        return self.by_id(near[0])

    # --- changing ---------------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Append a row. A name that another row has is the caller's to have refused or taken before."""
        id, document, at = row.id, row.document, len(self._documents)
        row.at = at
        self.in_file_order = self.in_file_order and row.home >= self._last_home
        self._last_home = max(self._last_home, row.home)
        self._documents.append(document)
        self._rows[at] = row
        if self._prefixes is not None and id not in self._by_id() and " " not in id:
            insort(self._prefixes, id)
        if self._ids is not None:
            self._ids[id] = at
        self._enter_names(row)
        for key, index in self._members.items():
            for held in _held(document, key):
                index.setdefault(held, []).append(at)
        self._changed.setdefault(row.home, {})[row] = None

    def put(self, row: Row, document: Document) -> None:
        """Give a row a new document (same id)."""
        old, at = row.document, row.at
        self._leave_names(row)
        row.document = self._documents[at] = document
        self._enter_names(row)
        for key, index in self._members.items():
            before, after = _held(old, key), _held(document, key)
            if before != after:
                for held in before:
                    index[held].remove(at)
                for held in after:
                    insort(index.setdefault(held, []), at)
        self._changed.setdefault(row.home, {})[row] = None

    def remove(self, row: Row) -> list[Row]:
        """Take a row away, and with it any other of the same id, whose data it is, too; those that went."""
        id = row.id
        gone = [twin for twin in self if twin.id == id] if self._twins else [row]
        if not gone:
            return gone  # its twin took it along
        for twin in gone:
            self._leave_names(twin)
            for key, index in self._members.items():
                for held in _held(twin.document, key):
                    index[held].remove(twin.at)
            self._drop(twin)
        if self._ids is not None:
            del self._ids[id]
        if self._prefixes is not None and " " not in id:
            del self._prefixes[bisect_left(self._prefixes, id)]
        return gone

    def take_names(self, row: Row, names: Iterable[str]) -> set[int]:
        """Take `names` away from whichever other rows have them; the files of those rows are returned."""
        taken = set(names)
        positions = self._by_name()
        owners = {positions.get(name, row.at) for name in taken} - {row.at}
        for owner in map(self._row, owners):
            document = {**owner.document, "names": [name for name in owner.names if name not in taken]}
            if not document["names"]:
                del document["names"]
            self.put(owner, document)
        return {self._row(owner).home for owner in owners}

    # --- what is to be saved ----------------------------------------------------------------------------

    @property
    def are_saved(self) -> bool:
        """True if the files say all that the rows say."""
        return not (self._changed or self._dropped)

    def changes(self, home: int) -> tuple[list[Row], list[int]]:
        """Of one file, the rows that came or changed, in the order in which they did, and the places whose records
        went. Told once: who asks puts them on disk, or has the table loaded again."""
        return list(self._changed.pop(home, ())), self._dropped.pop(home, [])

    def _drop(self, row: Row) -> None:
        self._documents[row.at] = None
        del self._rows[row.at]
        self._changed.get(row.home, {}).pop(row, None)
        if row.place is not None:
            self._dropped.setdefault(row.home, []).append(row.place)

    # --- inside -----------------------------------------------------------------------------------------

    def _row(self, at: int) -> Row:
        row = self._rows.get(at)
        if row is None:
            document = self._documents[at]
            assert document is not None
            home = bisect_right(self._starts, at) - 1
            # Of several threads that make it, one has made it: rows are compared by what they are.
            row = self._rows.setdefault(at, Row(document, home, at - self._starts[home], at))
        return row

    def _by_id(self) -> dict[str, int]:
        ids = self._ids
        if ids is None:
            documents = enumerate(self._documents)
            ids = self._ids = {document["id"]: at for at, document in documents if document is not None}
        return ids

    def _by_name(self) -> dict[str, int]:
        names = self._names
        if names is None:
            names = self._names = {
                name: at
                for at, document in enumerate(self._documents)
                if document is not None and "names" in document
                for name in document["names"]
            }
        return names

    def _enter_names(self, row: Row) -> None:
        if self._names is not None:
            for name in row.names:
                self._names[name] = row.at

    def _leave_names(self, row: Row) -> None:
        if self._names is not None:
            for name in row.names:
                if self._names.get(name) == row.at:
                    del self._names[name]

    def _resolve(self, unique_ids: bool) -> None:
        ids = self._ids = {}
        self._names = {}
        for at, document in enumerate(self._documents):
            if document is None:
                continue
            row = self._row(at)
            if row.id in ids:
                if unique_ids:
                    self.passed_over.append(row.id)
                    self._drop(row)
                    continue
                self._twins = True
            names = row.names
            self.robbed |= self.take_names(row, names)
            ids[row.id] = at
            if unique_ids and len({*names}) != len(names):
                self.put(row, {**document, "names": list(dict.fromkeys(names))})
            else:
                self._enter_names(row)


def _held(document: Document, key: Key) -> Iterable[str]:
    """The texts that a record is found by under a key, each once."""
    held = document.get(key) if type(key) is str else key(document)  # type: ignore[operator]
    if not held:
        return ()
    return (held,) if type(held) is str else tuple(dict.fromkeys(held))


def _all_differ(lists: list[list[str]]) -> bool:
    return len(set().union(*lists)) == sum(map(len, lists))
