"""Numbers for the content of files: equal files have equal numbers, and different ones most likely do not."""

from __future__ import annotations

import errno
import os

from orlop.system import starting
from orlop.system.extents import data_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Thread
    from types import TracebackType
    from typing import Self

    Key = Callable[[int, int], int]
    """A number for the content of an open file of a size."""

METHODS = ("crc", "size", "sha256")
"""What there is to tell files apart by; "size" reads none."""

_STEP = 1 << 20
_ZEROS = bytes(_STEP)
_IN_LINE = 1 << 16
"""Files up to this size are read at once: handing them to a thread takes longer."""
_THREADS_MAX = 16
_AHEAD = 4
"""Open files that may wait for each thread."""


def key_function(method: str) -> Key:
    if method == "size":
        return _by_size
    if method == "crc":
        try:
            from fastcrc.crc64 import xz
        except ImportError:
            return _by_sha256  # where there is no wheel: slower, and the same files are equal
        return lambda fd, size: _crc(fd, size, xz)
    return _by_sha256


def _by_size(fd: int, size: int) -> int:
    return 0


def _crc(fd: int, size: int, xz: Callable[[bytes, int], int]) -> int:
    crc = 0
    for block in _blocks(fd, size):
        crc = xz(block, crc)
    return crc


def _by_sha256(fd: int, size: int) -> int:
    from hashlib import sha256

    digest = sha256()
    for block in _blocks(fd, size):
        digest.update(block)
    return int.from_bytes(digest.digest()[:8], "big")


def _blocks(fd: int, size: int) -> Iterator[bytes]:
    """The content of an open file; steps of nothing but zeros are left out, and what follows has its place in front.

    Holes are not read: an archive of a kilobyte makes a file of terabytes. Zeros on the disk give the same, as they
    are the same content. OSError (ESTALE) if the file is not as long as it was.
    """
    looked_at = given = 0
    for start, end in data_ranges(fd, size):
        for at in range(max(looked_at, start - start % _STEP), end, _STEP):
            looked_at = at + _STEP
            block = os.pread(fd, _STEP, at)
            if block == _ZEROS[: len(block)]:
                continue
            if at != given:
                yield at.to_bytes(8, "little")
            given = looked_at
            yield block
    if os.fstat(fd).st_size != size:
        raise OSError(errno.ESTALE, "file was changed while it was read")


class Readers:
    """Reads files in threads, large ones, and small ones at once. A context manager; all is read when it is left.

    `take(number, result)` is called in the caller's thread, with a key or an OSError. A thread that the system has
    none to give for is done without.
    """

    def __init__(self, take: Callable[[int, int | OSError], object]) -> None:
        from _queue import SimpleQueue

        self._take = take
        self._threads: list[Thread] = []
        self._threads_max = min(2 * (os.cpu_count() or 1), _THREADS_MAX)
        self._open: SimpleQueue[tuple[int, Key, int, int] | None] = SimpleQueue()
        self._done: SimpleQueue[tuple[int, int | BaseException]] = SimpleQueue()
        self._waiting: dict[int, int | BaseException | None] = {}  # in the order of their reading

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._collect(0)
        finally:
            self._stop()

    def read(self, number: int, fd: int, size: int, key_of: Key) -> None:
        """Find the key of an open file. The descriptor is closed when that is done."""
        if size > _IN_LINE and self._has_thread():
            self._waiting[number] = None
            self._open.put((number, key_of, fd, size))
            self._collect(_AHEAD * len(self._threads))
            return
        try:
            self._take(number, _closing(key_of, fd, size))
        except OSError as error:
            self._take(number, error)

    def _has_thread(self) -> bool:
        """Whether there is one, after starting another if all are busy."""
        if len(self._threads) <= len(self._waiting) and len(self._threads) < self._threads_max:
            try:
                self._threads.append(starting.thread(self._run, "orlop-reader"))
            except OSError:
                self._threads_max = len(self._threads)
        return bool(self._threads)

    def _run(self) -> None:
        while (file := self._open.get()) is not None:
            number, key_of, fd, size = file
            try:
                self._done.put((number, _closing(key_of, fd, size)))
            except BaseException as error:  # raised in the caller, whatever it is
                self._done.put((number, error))

    def _collect(self, allowed: int) -> None:
        while len(self._waiting) > allowed:
            first = next(iter(self._waiting))
            while (result := self._waiting[first]) is None:
                number, found = self._done.get()
                self._waiting[number] = found
            del self._waiting[first]
            if not isinstance(result, int | OSError):
                raise result
            self._take(first, result)

    def _stop(self) -> None:
        """Close what no thread has begun with, and wait for the rest."""
        from _queue import Empty

        try:
            while (file := self._open.get_nowait()) is not None:
                os.close(file[2])
        except Empty:
            pass
        for _ in self._threads:
            self._open.put(None)
        for thread in self._threads:
            thread.join()


def _closing(key_of: Key, fd: int, size: int) -> int:
    try:
        return key_of(fd, size)
    finally:
        os.close(fd)
