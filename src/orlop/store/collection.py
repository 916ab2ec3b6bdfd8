"""What layers, images and containers have in common for their users: looking up, names, metadata, data.

A collection differs in three things: which tables it opens, which error says "not known", which value comes out.
Rule: every method opens the tables it needs, works, and closes them; nothing of a table is handed out.
"""

from __future__ import annotations

from orlop.store.tables import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Generic, TypeVar

    from orlop.errors import NotFound
    from orlop.model.record import Record
    from orlop.records.blocks import Editor, View
    from orlop.records.rows import Row
    from orlop.store.data import Data
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    T = TypeVar("T", bound=Record)
    D = TypeVar("D")

    class _Of(Generic[T]):
        pass
else:

    class _Of:
        """`Generic` for the reader; the real one would import `typing`."""

        def __class_getitem__(cls, item: object) -> type:
            return cls


class Collection(_Of["T"]):
    """Records of one kind. References are an id, a name, or a unique prefix of an id."""

    noun = ""
    _unknown: type[NotFound]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- where to look (subclasses) -----------------------------------------------------------------------

    def _opening(self, mode: str) -> Tables:
        """The block with this kind's tables; additional stores only for reading."""
        raise TypeError("a Collection is one of Layers, Images, Containers")

    def _views(self, tables: Tables) -> tuple[View, ...]:
        """The views inside the block, the primary one first."""
        raise TypeError("a Collection is one of Layers, Images, Containers")

    def _find(self, tables: Tables, ref: str) -> tuple[View, Row] | None:
        for view in self._views(tables):
            row = view.find(ref)
            if row is not None:
                return view, row
        return None

    def _changing(self, tables: Tables, ref: str) -> tuple[Editor, Row] | None:
        """The record to be changed: in the primary table only."""
        editor = self._views(tables)[0]
        row = editor.find(ref)
        return None if row is None else (editor, row)  # type: ignore[return-value]

    def _not_known(self, ref: str) -> NotFound:
        return self._unknown(f"no {self.noun} has the id, name or unique prefix {ref!r}", ref=ref)

    def _value(self, view: View, row: Row) -> T:
        value: T = view.value(row)  # type: ignore[assignment]
        return value

    # --- looking up ---------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[T]:
        """All records as of now, in the order of the files: the primary table, then additional stores."""
        return iter(self._all())

    def _all(self) -> list[T]:
        with self._opening(READ) as tables:
            return self._values(tables)

    def _values(self, tables: Tables) -> list[T]:
        values: list[Any] = [value for view in self._views(tables) for value in view.values()]
        return values

    def json(self) -> str:
        """All records as the text of a JSON array, the quickest form: mostly the very text of the files."""
        with self._opening(READ) as tables:
            parts = [view.json()[1:-1] for view in self._views(tables)]
        return "[" + ",".join(filter(None, parts)) + "]"

    def __len__(self) -> int:
        with self._opening(READ) as tables:
            return sum(len(view.rows) for view in self._views(tables))

    def __contains__(self, ref: object) -> bool:
        if not isinstance(ref, str):
            return False
        with self._opening(READ) as tables:
            return self._find(tables, ref) is not None

    def __getitem__(self, ref: str) -> T:
        """The record that `ref` names.

        Raises:
            LayerUnknown, ImageUnknown, ContainerUnknown: each is a NotFound and a KeyError.
        """
        with self._opening(READ) as tables:
            found = self._find(tables, ref)
            if found is None:
                raise self._not_known(ref)
            return self._value(*found)

    def get(self, ref: str, default: D | None = None) -> T | D | None:
        """The record that `ref` names, or `default`."""
        with self._opening(READ) as tables:
            found = self._find(tables, ref)
            return default if found is None else self._value(*found)

    # --- names and metadata -------------------------------------------------------------------------------

    def names(self, ref: str) -> tuple[str, ...]:
        """The names of a record as of now, the one given last first."""
        return tuple(self[ref].names)  # type: ignore[attr-defined]

    def set_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Give a record exactly these names, taking them from other records of this kind; the names it has now."""
        return self._rename(ref, "set", names)

    def add_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Put names in front of those a record has, taking them from others; the names it has now."""
        return self._rename(ref, "add", names)

    def remove_names(self, ref: str, names: Iterable[str]) -> tuple[str, ...]:
        """Take names off a record; absent ones are fine. The names it has now."""
        return self._rename(ref, "remove", names)

    def _rename(self, ref: str, operation: str, names: Iterable[str]) -> tuple[str, ...]:
        from orlop.store import arguments

        wanted = arguments.names(names)
        with self._opening(WRITE) as tables:
            found = self._changing(tables, ref)
            if found is None:
                raise self._not_known(ref)
            return self._give_names(*found, operation, wanted)

    def _give_names(self, editor: Editor, row: Row, operation: str, names: list[str]) -> tuple[str, ...]:
        """Carry out "set", "add" or "remove" with `names`; the names that the record has then."""
        from orlop.store import arguments

        if operation == "add":
            names = arguments.names([*names, *row.names])
        elif operation == "remove":
            names = [name for name in row.names if name not in names]
        editor.set_names(row, names, **self._history(row, names))
        return tuple(names)

    def _history(self, row: Row, names: list[str]) -> dict[str, object]:
        """Members that change along with the names (images keep a history)."""
        return {}

    def metadata(self, ref: str) -> str:
        """The caller's own text of a record; empty if none was set."""
        metadata: str = self[ref].metadata  # type: ignore[attr-defined]
        return metadata

    def set_metadata(self, ref: str, metadata: str) -> None:
        """Replace the caller's own text of a record."""
        from orlop.store import arguments

        arguments.metadata(metadata)
        with self._opening(WRITE) as tables:
            found = self._changing(tables, ref)
            if found is None:
                raise self._not_known(ref)
            editor, row = found
            editor.change(row, {"metadata": metadata})

    # --- big data -----------------------------------------------------------------------------------------

    def data(self, ref: str) -> Data:
        """The big data of a record: a mapping from keys to bytes, with `size(key)`, `digest(key)`, `open(key)`.

        The reference is resolved now, the items are read when they are asked for.

        Raises:
            LayerUnknown, ImageUnknown, ContainerUnknown.
        """
        from orlop.store.data import Data

        record = self[ref]
        return Data(self, record.id)  # type: ignore[attr-defined]
