"""The records of one table in memory, in file order, with their indexes.

Rule: the indexes are kept in this file alone. Everything else asks `find` and friends, and changes rows through
`add`, `put` and `remove`. Documents are never changed, only replaced: values handed out earlier keep theirs.
"""

from __future__ import annotations

from bisect import bisect_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.model.record import Document


class Row:
    """One record: its document, its JSON text (None once it changed), and the index of the file it lives in."""

    __slots__ = ("document", "home", "text")

    def __init__(self, document: Document, home: int, text: str | None = None) -> None:
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


class Rows:
    """Ordered rows, found by id, by name, by a second key (the layer of a container), by unique prefix, by digest."""

    def __init__(self, second_key: str | None = None) -> None:
        self._order: list[Row] = []
        self._ids: dict[str, Row] = {}
        self._names: dict[str, Row] = {}
        self._second_key = second_key
        self._second: dict[str, Row] = {}
        # Built when first asked for, dropped when a row comes, goes or changes.
        self._prefixes: list[str] | None = None
        self._members: dict[str, dict[str, list[Row]]] = {}

    def __iter__(self) -> Iterator[Row]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)

    # --- asking -----------------------------------------------------------------------------------------

    def by_id(self, id: str) -> Row | None:
        return self._ids.get(id)

    def owner_of(self, name: str) -> Row | None:
        return self._names.get(name)

    def find(self, ref: str) -> Row | None:
        """Exact id, exact name, exact second key, unique prefix of an id; in this order (`spec/records.md` 9)."""
        return self._ids.get(ref) or self._names.get(ref) or self._second.get(ref) or self._by_prefix(ref)

    def holding(self, member: str, value: str) -> list[Row]:
        """The rows whose `member` (text) is `value`, in order."""
        index = self._members.get(member)
        if index is None:
            index = {}
            for row in self._order:
                held = row.document.get(member)
                if held:
                    index.setdefault(held, []).append(row)
            self._members[member] = index
        return index.get(value, [])

    def _by_prefix(self, ref: str) -> Row | None:
        if not ref:
            return None
        if self._prefixes is None:
            # Ids with a blank are not found by prefix; the peers do not enter them either.
            self._prefixes = sorted(id for id in self._ids if " " not in id)
        at = bisect_left(self._prefixes, ref)
        near = self._prefixes[at : at + 2]
        if not near or not near[0].startswith(ref) or (len(near) == 2 and near[1].startswith(ref)):
            return None  # none, or more than one: both are "not known"
        return self._ids[near[0]]

    # --- changing ---------------------------------------------------------------------------------------

    def add(self, row: Row) -> None:
        """Append a row. A name that another row has is the caller's to have refused or taken before."""
        self._order.append(row)
        self._enter(row)
        self._members.clear()

    def put(self, row: Row, document: Document) -> None:
        """Give a row a new document (same id)."""
        self._leave(row)
        row.document, row.text = document, None
        self._enter(row)
        self._members.clear()

    def remove(self, row: Row) -> None:
        self._order.remove(row)
        self._leave(row)
        if self._ids.get(row.id) is row:
            del self._ids[row.id]
            self._prefixes = None
        self._members.clear()

    def take_names(self, row: Row, names: Iterable[str]) -> set[int]:
        """Take `names` away from whichever other rows have them; the files of those rows are returned."""
        robbed: dict[int, Row] = {}
        for name in names:
            owner = self._names.get(name)
            if owner is not None and owner is not row:
                robbed[id(owner)] = owner
        taken = set(names)
        for owner in robbed.values():
            self.put(owner, {**owner.document, "names": [n for n in owner.names if n not in taken]})
        return {owner.home for owner in robbed.values()}

    def _enter(self, row: Row) -> None:
        if row.id not in self._ids:
            self._prefixes = None
        self._ids[row.id] = row
        for name in row.names:
            self._names[name] = row
        if self._second_key:
            key = row.document.get(self._second_key)
            if key:
                self._second[key] = row

    def _leave(self, row: Row) -> None:
        for name in row.names:
            if self._names.get(name) is row:
                del self._names[name]
        if self._second_key:
            key = row.document.get(self._second_key)
            if key and self._second.get(key) is row:
                del self._second[key]
