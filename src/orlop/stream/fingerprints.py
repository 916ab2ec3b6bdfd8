"""Numbers for the content of files: equal files have equal numbers, and different ones most likely do not."""

from __future__ import annotations

import errno
import os

from orlop.system.extents import data_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor
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

    `take(number, result)` is called in the caller's thread, with a key or an OSError.
    """

    def __init__(self, take: Callable[[int, int | OSError], object]) -> None:
        self._take = take
        self._threads = 0
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: dict[Future[int], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            self._collect(0)

    def read(self, number: int, fd: int, size: int, key_of: Key) -> None:
        """Find the key of an open file. The descriptor is closed when that is done."""
        if size <= _IN_LINE:
            try:
                self._take(number, _closing(key_of, fd, size))
            except OSError as error:
                self._take(number, error)
            return
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = min(2 * (os.cpu_count() or 1), _THREADS_MAX)
            self._pool = ThreadPoolExecutor(self._threads, "orlop-reader")
        self._waiting[self._pool.submit(_closing, key_of, fd, size)] = number
        self._collect(_AHEAD * self._threads)

    def _collect(self, allowed: int) -> None:
        while len(self._waiting) > allowed:
            first = next(iter(self._waiting))
            number = self._waiting.pop(first)
            try:
                self._take(number, first.result())
            except OSError as error:
                self._take(number, error)


def _closing(key_of: Key, fd: int, size: int) -> int:
    try:
        return key_of(fd, size)
    finally:
        os.close(fd)
