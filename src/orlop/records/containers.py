"""The container table: a declaration (`spec/records.md` 6, 11.3)."""

from __future__ import annotations

import os

from orlop.model.container import Container
from orlop.records import bigdata
from orlop.records.table import Table, TableFile
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.record import Document
    from orlop.records.rows import Row, Rows

STABLE, VOLATILE = 0, 1


class ContainerTable(Table):
    """Containers of one store. In a transient store, lock and volatile file lie in the run root."""

    def __init__(
        self,
        directory: str,
        *,
        run_directory: str,
        transient: bool = False,
        durable: bool = True,
        lock_timeout: float | None = None,
    ) -> None:
        moving = run_directory if transient else directory
        super().__init__(
            noun="container",
            record=Container,
            directory=directory,
            table_files=(
                TableFile(os.path.join(directory, "containers.json"), durable=durable),
                TableFile(os.path.join(moving, "volatile-containers.json"), durable=False),
            ),
            locks=(LockFile.at(os.path.join(moving, "containers.lock")),),
            second_key="layer",
            lock_timeout=lock_timeout,
        )
        self._transient = transient
        self._run_directory = run_directory

    def _swept(self) -> set[str]:
        return {*super()._swept(), self._run_directory}

    def _doubts(self, rows: Rows) -> str | None:
        """As for images (P11). A reboot takes the records of a transient store, not their data: that is no loss."""
        stable, volatile = self.files
        if stable.found:
            return None
        never_written = stable.mtime_ns is None and (
            volatile.found
            or self._transient
            # This store was opened as a transient one before.
            or os.path.lexists(os.path.join(self._run_directory, "volatile-containers.json"))
        )
        if never_written:
            return None
        claimed = {aside.id for aside in self.asides()}
        orphans = [
            id for id in bigdata.directories(self.directory) if id not in claimed and rows.by_id(id) is None
        ]
        return self._lost(orphans, "the data of a container,") if orphans else None

    def value(self, row: Row) -> Container:
        return self.value_of(row.document)

    def value_of(self, document: Document) -> Container:
        return Container(document)
