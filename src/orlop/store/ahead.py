"""A blob is read before, and while, the layer it is for has to wait (`spec/locking.md` 10.1).

Who writes into a pipe may need, or hold, the very lock that its reader wants: `diff X | import-layer` on one store.
So the first bytes of a pipe are waited for without the lock, which the writer has by then; and as long as a lock is
not free the blob is read on, and kept aside. A file of a disk waits for nobody, and is left alone.

Rule: no lock is held, and none is waited for, while a blob is read ahead.

LIMIT: the store is opened before, which takes `storage.lock`. A third program that holds that one while it waits for
the layers (a mount, any first look of the Go program) stops a pipeline whose reader was not open yet when it came.
"""

from __future__ import annotations

from io import BytesIO

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
        blob = self._blob
        if blob is None or not blob.may_wait_for_us():
            return self._tables.__enter__()
        root = self._tables.engine.options.graph_root  # where there must be room for the layer, too
        ahead = self._ahead = blob.source = _Ahead(blob.source, root)
        try:
            goes_on = ahead.read_first()
            while goes_on:
                try:
                    return self._tables.at_once()
                except LockTimeout:
                    goes_on = ahead.read_on()
            return self._tables.__enter__()  # nobody waits for us to read any more
        except BaseException:
            ahead.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._tables.__exit__(kind, error, trace)
        finally:
            if self._ahead is not None:
                self._ahead.close()


class _Ahead:
    """A blob of which some was read already."""

    def __init__(self, source: Any, directory: str) -> None:
        from orlop.stream.measure import blocks_of

        self._source = source
        self._blocks = blocks_of(source)
        self._directory = directory
        self._kept: Any = BytesIO()
        self._size = 0
        self._is_rewound = False

    def read_first(self) -> bool:
        """Read what there is, at least a byte, and keep it; False at the end."""
        from orlop.stream.measure import BLOCK_SIZE, read_block

        # A buffered file's `read` waits until it has all that was asked for.
        read_some = getattr(self._source, "read1", None)
        return self._keep(read_some(BLOCK_SIZE) if read_some else read_block(self._source, BLOCK_SIZE))

    def read_on(self) -> bool:
        """Read a block, and keep it; False at the end."""
        return self._keep(next(self._blocks, b""))

    def read(self, size: int = -1) -> bytes:
        if not self._is_rewound:
            self._kept.seek(0)
            self._is_rewound = True
        data: bytes = self._kept.read(size) or self._source.read(size)
        return data

    def close(self) -> None:
        self._kept.close()

    def _keep(self, block: bytes) -> bool:
        before, self._size = self._size, self._size + len(block)
        if before <= _IN_MEMORY < self._size:
            from tempfile import TemporaryFile

            in_memory, self._kept = self._kept, TemporaryFile(dir=self._directory)
            self._kept.write(in_memory.getvalue())
        self._kept.write(block)
        return bool(block)
