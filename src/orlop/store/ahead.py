"""A blob that is read on while the layer it is for has to wait (`spec/locking.md` 10.1).

Who writes into a pipe may hold the very lock that its reader waits for: `diff X | import-layer` on one store. So as
long as a lock is not free, the blob is read, and kept aside; a layer that need not wait costs nothing of this.

Rule: no lock is held, and none is waited for, while a blob is read ahead.
"""

from __future__ import annotations

from orlop.errors import LockTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from orlop.store.blob import Blob
    from orlop.store.tables import Tables

_IN_MEMORY = 4 << 20  # bytes of a blob; what is more goes into a file that has no name


class reading_ahead:
    """The block of `tables`, entered as soon as its locks are free; meanwhile `blob`, if there is one, is read.

    with reading_ahead(blob, engine.open(layers=WRITE)) as tables:
        ...
    """

    def __init__(self, blob: Blob | None, tables: Tables) -> None:
        self._blob = blob
        self._tables = tables
        self._ahead: _Ahead | None = None

    def __enter__(self) -> Tables:
        try:
            blob = self._blob
            while blob is not None and blob.may_wait_for_us():
                try:
                    return self._tables.at_once()
                except LockTimeout:
                    if not self._read_on(blob):
                        break  # nobody waits for us to read any more
            return self._tables.__enter__()
        except BaseException:
            self._close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._tables.__exit__(kind, error, trace)
        finally:
            self._close()

    def _read_on(self, blob: Blob) -> bool:
        if self._ahead is None:
            root = self._tables.engine.options.graph_root  # where there must be room for the layer, too
            self._ahead = blob.source = _Ahead(blob.source, root)
        return self._ahead.read_on()

    def _close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()


class _Ahead:
    """A blob of which some was read already."""

    def __init__(self, source: Any, directory: str) -> None:
        from tempfile import SpooledTemporaryFile

        from orlop.stream.measure import blocks_of

        self._source = source
        self._blocks = blocks_of(source)
        self._kept = SpooledTemporaryFile(_IN_MEMORY, dir=directory)
        self._is_rewound = False

    def read_on(self) -> bool:
        """Read a block, and keep it; False at the end."""
        block = next(self._blocks, b"")
        self._kept.write(block)
        return bool(block)

    def read(self, size: int = -1) -> bytes:
        if not self._is_rewound:
            self._kept.seek(0)
            self._is_rewound = True
        data: bytes = self._kept.read(size) or self._source.read(size)
        return data

    def close(self) -> None:
        self._kept.close()
