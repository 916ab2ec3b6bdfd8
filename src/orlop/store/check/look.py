"""What all tables of a store say at one moment, and which layers the driver has then.

Rule: nothing is changed and nothing stops: a table whose lock cannot be had, or whose file cannot be read, is a fact.
The locks are held shared, in their order (`store/tables`), while the files are read, and no longer unless asked to.
"""

from __future__ import annotations

from orlop.errors import BadRecords, LockTimeout, NotSupported, StorageError
from orlop.model.ids import is_component
from orlop.records.asfound import TableAsFound
from orlop.store import othermode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Self

    from orlop.drivers.api import Driver
    from orlop.model.record import Document
    from orlop.records.table import Table
    from orlop.store.engine import Engine


class Look:
    """See the module. A context manager: the locks are held until `release`, or the end of the block.

    layers, images   tables, the primary one first; of images, those that are ours before foreign ones
    containers       the table of containers
    unlocked         (path, why) of locks that could not be taken; their tables were read all the same
    driver_ids       layers of the driver's home; None if they cannot be listed
    elsewhere        ids of layers and containers whose records only the other mode of opening the store shows
    """

    layers: list[TableAsFound]
    images: list[TableAsFound]
    containers: TableAsFound

    def __init__(self, engine: Engine, *, held: bool = False, exclusive: bool = False) -> None:
        """`held`: the caller has all tables open, and `storage.lock`, so none of their locks is taken here.

        `exclusive`: the tables that are ours are held exclusively, for who is to write their files anew.
        """
        self.engine = engine
        self.unlocked: list[tuple[str, str]] = []
        self.driver: Driver = engine.ready_driver if held else engine.driver()
        self._takes_locks = not held
        self._exclusive = exclusive
        self.driver_ids: set[str] | None = None
        self.elsewhere: dict[str, set[str]] = {}
        self._held: list[Any] = []

    def __enter__(self) -> Self:
        engine = self.engine
        try:
            self.layers = [self._found(table) for table in (engine.layers, *engine.additional_layers())]
            self.images = [self._found(table) for table in (engine.images, *engine.additional_images())]
            self.containers = self._found(engine.containers)
            try:
                self.driver_ids = {id for id in self.driver.ids() if is_component(id)}
            except (NotSupported, OSError):
                self.driver_ids = None
            self.elsewhere = self._elsewhere()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        while self._held:
            self._held.pop().__exit__(None, None, None)

    def _found(self, table: Table) -> TableAsFound:
        held = True
        for lock in table.locks if self._takes_locks else ():
            try:
                take = lock.writing if self._exclusive and not table.read_only else lock.reading
                block = take(timeout=self.engine.options.lock_timeout)
                block.__enter__()
                self._held.append(block)
            except LockTimeout:
                raise
            except (StorageError, OSError) as error:
                held = False
                self.unlocked.append((lock.path, str(error)))
        return TableAsFound(table, held=held)

    def _elsewhere(self) -> dict[str, set[str]]:
        try:
            return othermode.ids(self.engine)
        except (BadRecords, OSError):
            # What is recorded there is unknown, so nothing at home is without a record for certain.
            return {"image": set(), "layer": set(self.driver_ids or ()), "container": set()}

    def tables(self) -> list[TableAsFound]:
        return [*self.layers, *self.images, self.containers]

    # --- asking -------------------------------------------------------------------------------------------

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """What the lock files said; as long as it is the same nobody has changed a record."""
        return tuple([table.token for table in self.tables()])

    def layer(self, id: str) -> tuple[TableAsFound, Document] | None:
        return _find(self.layers, id)

    def image(self, id: str) -> tuple[TableAsFound, Document] | None:
        return _find(self.images, id)

    def is_recorded(self, kind: str, id: str) -> bool:
        """Whether one of the tables that are ours has a record that can be read, or the store's other mode has."""
        own = {"layer": self.layers[:1], "image": self.images, "container": [self.containers]}[kind]
        return id in self.elsewhere[kind] or any(id in table.by_id for table in own)

    def orphans(self) -> list[str]:
        """The layers of the driver's home that have no such record."""
        return [id for id in sorted(self.driver_ids or ()) if not self.is_recorded("layer", id)]

    def doubted(self, id: str) -> bool:
        """Whether a record that was set aside mentions something."""
        return any(aside.mentions(id) for table in self.tables() for _, aside in table.asides())

    def is_missing(self, tables: list[TableAsFound], id: str) -> bool:
        """Whether it is certain that none of these tables has a record of this id, not even a damaged one."""
        if any(id in table.by_id for table in tables):
            return False
        return all(table.is_whole and all(aside.id != id for _, aside in table.asides()) for table in tables)

    def chain(self, id: str) -> Iterator[str]:
        """The recorded layers from this one downwards; ends where a record is missing, or comes again."""
        seen: set[str] = set()
        while id and id not in seen:
            found = self.layer(id)
            if found is None:
                return
            seen.add(id)
            yield id
            id = found[1].get("parent") or ""


def _find(tables: list[TableAsFound], id: str) -> tuple[TableAsFound, Document] | None:
    for table in tables:
        document = table.by_id.get(id)
        if document is not None:
            return table, document
    return None
