"""Images of additional stores, copied into this one when they are to be changed (`spec/records.md` 17).

Foreign records are not ours to change. So an image that gets other names is copied first, record and data, and shares
its id with the foreign one, which stays. Making an image under the id of a foreign one takes over its facts, too.
"""

from __future__ import annotations

from orlop.errors import DataUnknown
from orlop.formats.limits import DATA_ITEM_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from orlop.records.blocks import View
    from orlop.records.rows import Row
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    T = TypeVar("T")

# Not `mapped-layers`: those layers are the other store's. Items come with their files, flags only by a rename.
_FACTS = ("digest", "names-history", "metadata", "created")


class Foreign:
    """What is taken over from the record of an image in another store."""

    __slots__ = ("_engine", "_row", "_view")

    def __init__(self, engine: Engine, view: View, row: Row) -> None:
        self._engine = engine
        self._view = view
        self._row = row

    @property
    def names(self) -> list[str]:
        return self._row.names

    def facts(self) -> dict[str, Any]:
        """The members that a new image under this id starts from."""
        document = self._row.document
        return {member: document[member] for member in _FACTS if member in document}

    def document(self) -> dict[str, Any]:
        """The record of a plain copy, without its items."""
        members = (*_FACTS, "id", "names", "layer", "flags")
        return {member: value for member, value in self._row.document.items() if member in members}

    def items(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """The data items, and the digests that are recorded for them.

        Raises:
            DataUnknown: the record names an item that is not there; a copy without it would be another image.
        """
        items = self._engine.items(self._view.table)
        data = {}
        for key in self._row.document.get("big-data-names") or ():
            try:
                data[key] = items.read(self._row.id, key, limit=DATA_ITEM_MAX)
            except (FileNotFoundError, NotADirectoryError) as error:
                path = items.path(self._row.id, key)
                raise DataUnknown(
                    f'image "{self._row.id}" of {self._view.table.directory} has lost its data item {key!r}: {path}',
                    kind="image",
                    key=key,
                    id=self._row.id,
                    path=path,
                ) from error
        recorded = self._row.document.get("big-data-digests") or {}
        return data, {key: recorded[key] for key in data if recorded.get(key)}


def foreign_of_id(engine: Engine, tables: Tables, id: str | None) -> Foreign | None:
    """The image of exactly this id in an additional store, the first that has one."""
    if not id:
        return None
    for view in tables.other_images:
        row = view.rows.by_id(id)
        if row is not None:
            return Foreign(engine, view, row)
    return None


def pull_up(engine: Engine, tables: Tables, view: View, row: Row, change: Callable[[Row], T]) -> T:
    """Copy an image of an additional store into the primary table, which is open for writing, and change the copy.

    `change` gets the new row; what it returns is returned. Copy and change are saved together. Nothing is stolen for
    the copy: the names that the image brings have to be free.

    Raises:
        DuplicateName: an image of this store has one of them. DataUnknown, LimitExceeded: an item cannot be copied.
    """
    from orlop.store import layering

    foreign = Foreign(engine, view, row)
    layering.check_free(tables.images, None, tuple(foreign.names))
    data, digests = foreign.items()
    items = engine.items(tables.images.table)
    with items.making(row.id):
        made = tables.images.add(foreign.document() | items.store_all(row.id, data, digests))
        result = change(made)
        tables.images.save()
    return result
