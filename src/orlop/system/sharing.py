"""Which parts of the disk files have in common: asking the kernel, and having it make them common.

Files of xfs, btrfs and a few others may lie on the same blocks (reflinks). FIEMAP says of each extent of a file
where it lies and whether something else lies there too, but not what (`spec/dedup.md` 2, 5).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys

from orlop.system import libc
from orlop.system.descent import open_unnoticed

BLOCK = 512
"""The unit of `st_blocks`, whatever the file system's is."""

_FIEMAP = 0xC020_660B
_HEADER = struct.Struct("=QQIIII")  # start, length, flags, extents in the answer, room for extents, reserved
_EXTENT = struct.Struct("=QQQ16xI12x")  # offset in the file, place on the disk, length, flags
_ROOM = 17
"""Extents in one answer: so many fit into the buffer for which `fcntl.ioctl` lets other threads run."""

_SYNC = 0x1  # write what waits to be written first: that has no place yet
_LAST, _NO_PLACE, _ENCODED, _SHARED = 0x1, 0x2 | 0x4 | 0x200, 0x8, 0x2000
_END = 2**64 - 1

_ASKED, _SYNCED = (
    _HEADER.pack(0, _END, flags, 0, _ROOM, 0) + bytes(_ROOM * _EXTENT.size) for flags in (0, _SYNC)
)
_COUNT, _COUNT_AT = struct.Struct("=I"), 20

_FIDEDUPERANGE = 0xC018_9436
_DEDUPE = struct.Struct(
    "=QQH6xqQQi4x"
)  # offset, length, number of targets; target, its offset; bytes shared, status
_DIFFERS = 1

_FS_INFO, _GEOMETRY = 0x8400_941F, 0x8070_5864
_REFLINK = 1 << 20

BTRFS, XFS = 0x9123_683E, 0x5846_5342
_NEVER = frozenset(
    (0xEF53, 0x0102_1994, 0x8584_58F6, 0x7371_7368, 0xE0F5_E1E2)
)  # ext, tmpfs, ramfs, squashfs, erofs

ENCODED_SCALE = 32
"""Of a compressed extent the kernel tells the place and the length of the content, not how much it takes there. A
place times 32 keeps extents of 128 KiB, the longest, apart that lie 4 KiB apart, the nearest."""


class Space:
    """One file system's blocks. `key` tells it from others, `shares` whether files may have blocks in common."""

    __slots__ = ("key", "magic", "shares")

    def __init__(self, key: object, magic: int, shares: bool) -> None:
        self.key = key
        self.magic = magic
        self.shares = shares


class Spaces:
    """The file systems met in one run, by device number; a subvolume of btrfs has a number of its own."""

    def __init__(self) -> None:
        self._by_device: dict[int, Space] = {}
        self._by_key: dict[object, Space] = {}

    def of(self, fd: int, device: int) -> Space:
        """The space that an open directory with this `st_dev` lies in."""
        space = self._by_device.get(device)
        if space is None:
            space = _space(fd, device)
            space = self._by_device[device] = self._by_key.setdefault(space.key, space)
        return space


def _space(fd: int, device: int) -> Space:
    magic = libc.filesystem_magic(fd)
    try:
        if magic == BTRFS:
            return Space(fcntl.ioctl(fd, _FS_INFO, bytes(1024))[16:32], magic, True)
        if magic == XFS:
            flags = int.from_bytes(fcntl.ioctl(fd, _GEOMETRY, bytes(112))[92:96], sys.byteorder)
            return Space(device, magic, bool(flags & _REFLINK))
    except OSError:
        pass  # an older kernel, or one that does not tell us: then by asking each file
    return Space(device, magic, magic not in _NEVER)


class Extent:
    """Where a part of a file lies: `length` bytes from `offset` on, at `place` of its file system.

    Those that are `encoded` (compressed) have their places in a space of their own (`ENCODED_SCALE`).
    """

    __slots__ = ("encoded", "length", "offset", "place", "shared")

    def __init__(self, offset: int, place: int, length: int, encoded: bool, shared: bool) -> None:
        self.offset = offset
        self.place = place
        self.length = length
        self.encoded = encoded
        self.shared = shared


def shared_extents(fd: int) -> list[tuple[int, int, bool]]:
    """(start, end, encoded) of the parts of an open file's blocks that something else may lie on as well.

    Bytes on the disk, in order of the file. Raises `OSError`: EOPNOTSUPP where the file system does not tell.
    """
    return [(each.place, each.place + each.length, each.encoded) for each in extents(fd) if each.shared]


def extents(fd: int, *, sync: bool = False) -> list[Extent]:
    """The blocks of an open file, in order of the file. Raises as `shared_extents`.

    What has no place yet, or none of its own, is left out; with `sync` everything gets its place first.
    """
    found = []
    answer = bytearray(_SYNCED if sync else _ASKED)
    while True:
        fcntl.ioctl(fd, _FIEMAP, answer)
        count: int = _COUNT.unpack_from(answer, _COUNT_AT)[0]
        offset = length = kind = 0
        for at in range(_HEADER.size, _HEADER.size + count * _EXTENT.size, _EXTENT.size):
            offset, place, length, kind = _EXTENT.unpack_from(answer, at)
            if not kind & _NO_PLACE:
                encoded = kind & _ENCODED != 0
                place = place * ENCODED_SCALE if encoded else place
                found.append(Extent(offset, place, length, encoded, kind & _SHARED != 0))
        if not count or kind & _LAST:
            return found
        after = offset + length
        _HEADER.pack_into(answer, 0, after, _END - after, _SYNC if sync else 0, 0, _ROOM, 0)


def share(source: int, target: int, offset: int, length: int) -> int:
    """Have two open files lie on the same blocks from `offset` on; how many bytes do so now.

    The kernel locks both, compares them, and changes nothing unless they are equal: no content, no time. 0 if they
    differ. It may do less than was asked for. Both may be open for reading only: that keeps nobody from running a
    program that is a target, and needs to own it, or the powers of root (Linux 4.19).

    Raises:
        OSError: EOPNOTSUPP or ENOTTY where the file system cannot do it; EXDEV between two of them.
    """
    request = bytearray(_DEDUPE.pack(offset, length, 1, target, offset, 0, 0))
    fcntl.ioctl(source, _FIDEDUPERANGE, request)
    done, status = _DEDUPE.unpack(request)[5:]
    if status < 0:
        raise OSError(-status, os.strerror(-status))
    return 0 if status == _DIFFERS else done


def reflinks(directory: str) -> bool:
    """Whether files on the file system of a directory may have blocks in common, as far as it tells beforehand."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _space(fd, os.fstat(fd).st_dev).shares
    finally:
        os.close(fd)


def open_to_ask(name: str, dir_fd: int) -> int:
    """Open a regular file for reading, where others may put something else in its place at any moment.

    Its access time stays as it is, where the kernel allows that. Opening a FIFO blocks, and a device acts. Raises
    OSError; ESTALE if it is no regular file.
    """
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if os.fstat(handle).st_mode & 0o170000 != 0o100000:
            raise OSError(errno.ESTALE, "file was replaced while it was looked at", name)
        return open_unnoticed(b"/proc/self/fd/%d" % handle, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(handle)
