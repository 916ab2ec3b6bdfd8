"""Copying what is in a file: by sharing its extents where the file system can, by bytes where it cannot.

A clone (reflink) costs one call and no space; copy_file_range lets the kernel or a file server do the work; the rest
is read and written. What a pair of file systems cannot do it will not do for the next file either: `Memory` keeps
that for one run, so that 25,000 files pay for one refusal (`spec/drivers.md` 3.5, `spec/dedup.md` 5).
"""

from __future__ import annotations

import errno
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FICLONE = 0x40049409
"""ioctl(destination, FICLONE, source): make the whole file share the source's extents."""

_STEP = 64 << 20
"""Bytes handed to the kernel at a time: one call is not interruptible, and Ctrl-C should not wait for 2 GiB."""

_SMALL = 1 << 20
"""Up to here one sendfile is quicker than copy_file_range, which on file systems without extent sharing is the same
splice behind more checks (measured: ext4 1.35 s for 25,000 files against 0.85 s)."""

_NO_CLONE_HERE = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV))
"""Refusals of FICLONE that speak of the file systems, not of the file: copy_file_range will not share either."""

_NO_RANGE = frozenset((errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM))
"""Refusals of copy_file_range after which bytes are copied. EPERM comes from seccomp filters of container hosts."""


class Memory:
    """What is still worth trying between the file systems of one run."""

    __slots__ = ("clone", "copy_range", "shares")

    def __init__(self) -> None:
        self.clone = True
        self.copy_range = True
        self.shares = True  # a copy_file_range may still share extents, so small files use it too


def clone_or_copy(source: int, target: int, size: int, memory: Memory, *, sparse: bool = False) -> None:
    """Copy `size` bytes, the source's size by `fstat`, into a fresh empty file. Both descriptors stand at 0.

    `sparse` says that the source has fewer blocks than its size needs; its holes are then kept, as they are by a
    clone. A source that shrinks meanwhile gives what was there: the loop ends where the file does.
    """
    if not size:
        return
    if memory.clone:
        try:
            fcntl.ioctl(target, FICLONE, source)
        except OSError as error:
            # Whatever the reason, bytes can still be copied; if it was the disk (ENOSPC, EIO), that copy says so.
            memory.clone = False
            if error.errno in _NO_CLONE_HERE:
                memory.shares = False
            if error.errno == errno.EXDEV:
                memory.copy_range = False
        else:
            return
    if sparse:
        _copy_data(source, target, size, memory)
    elif size <= _SMALL and not memory.shares:
        _send(source, target, 0, size)
    else:
        _copy_range(source, target, 0, size, memory)


def _copy_data(source: int, target: int, size: int, memory: Memory) -> None:
    """Copy the parts that hold data; what lies between them stays a hole."""
    for start, end in data_ranges(source, size):
        _copy_range(source, target, start, end - start, memory)
    os.ftruncate(target, size)


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a file that holds data; between them are holes. Moves the file's position."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            if error.errno != errno.EINVAL:
                raise
            start, end = end, size  # a file system that does not tell
        else:
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def _copy_range(source: int, target: int, start: int, count: int, memory: Memory) -> None:
    end = start + count
    while memory.copy_range and start < end:
        try:
            done = os.copy_file_range(source, target, min(end - start, _STEP), start, start)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
            memory.copy_range = False
            break
        if not done:  # the end of a file that shrank; or a file system that says 0 and means "cannot"
            break
        start += done
    if start < end:
        _send(source, target, start, end - start)


def _send(source: int, target: int, start: int, count: int) -> None:
    end = start + count
    if start:
        os.lseek(target, start, os.SEEK_SET)
    while start < end:
        try:
            done = os.sendfile(target, source, start, min(end - start, _STEP))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            _read_and_write(source, target, start, end)  # a file system without splice
            return
        if not done:
            return
        start += done


def _read_and_write(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        block = os.pread(source, min(end - start, 1 << 20), start)
        if not block:
            return
        start += len(block)
        view = memoryview(block)
        while view:
            view = view[os.write(target, view) :]
