"""Threads beside the caller's: digests and (de)compression, where the libraries let go of the interpreter lock.

Rule 1. What is foreign (a blob, a sink) is only ever touched in the caller's thread. A worker waits for nothing but
its queue, so stopping it takes one step of its work, and a read that never returns cannot hold a thread back.
Rule 2. Queues are bounded by a handful of blocks.
Rule 3. An error in a worker is raised in the caller at the next call. `stop` never raises and always returns with the
thread gone.
"""

from __future__ import annotations

from orlop.system import starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEPTH = 4  # blocks in a queue: enough to ride out a slow step, a few megabytes


class Worker:
    """A thread that does `work(block)` for each block put, in order."""

    def __init__(self, work: Callable[[bytes], object]) -> None:
        from _queue import SimpleQueue
        from threading import Semaphore

        self._work = work
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = Semaphore(DEPTH)
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = starting.thread(self._run, "orlop-worker")

    def put(self, block: bytes) -> None:
        self._room.acquire()
        self._raise()
        self._queue.put(block)

    def finish(self) -> None:
        """Wait until everything put is done."""
        self._queue.put(None)
        self._thread.join()
        self._raise()

    def stop(self) -> None:
        """Drop what is waiting, and be gone."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (block := self._queue.get()) is not None:
            if self._error is None and not self._stopping:
                try:
                    self._work(block)
                except BaseException as error:  # raised in the caller, whatever it is
                    self._error = error
            self._room.release()


class Converted:
    """Iterates over what `convert(blocks)` gives, while `convert` runs in a thread.

    The blocks themselves are read in the caller's thread, a few ahead of the converter.
    """

    def __init__(
        self, convert: Callable[[Iterator[bytes]], Iterator[bytes]], blocks: Iterable[bytes]
    ) -> None:
        from _queue import SimpleQueue
        from threading import Semaphore

        self._convert = convert
        self._blocks = iter(blocks)
        self._input: SimpleQueue[bytes | None] = SimpleQueue()
        self._output: SimpleQueue[bytes | _Taken | BaseException | None] = SimpleQueue()
        self._room = Semaphore(DEPTH)
        self._wanted = DEPTH // 2  # blocks to have ready for the converter
        self._fed = self._ended = self._stopping = False
        self._thread = starting.thread(self._run, "orlop-converter")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._ended:
            while self._wanted and not self._fed:
                block = next(self._blocks, None)
                self._input.put(block)
                self._fed = block is None
                self._wanted -= 1
            item = self._output.get()
            if isinstance(item, bytes):
                self._room.release()
                return item
            if isinstance(item, _Taken):
                self._wanted += 1
                continue
            self._ended = True
            self._thread.join()
            if item is not None:
                raise item
        raise StopIteration

    def stop(self) -> None:
        """Drop everything, and be gone."""
        self._ended = self._stopping = True
        self._room.release()
        self._input.put(None)
        self._thread.join()

    def _taken(self) -> Iterator[bytes]:
        while (block := self._input.get()) is not None and not self._stopping:
            self._output.put(_TAKEN)
            yield block

    def _run(self) -> None:
        end = None
        try:
            for block in self._convert(self._taken()):
                self._room.acquire()
                if self._stopping:
                    return
                self._output.put(block)
        except BaseException as error:  # raised in the caller, whatever it is
            end = error
        self._output.put(end)


class _Taken:
    """Says that the converter took a block."""


_TAKEN = _Taken()
