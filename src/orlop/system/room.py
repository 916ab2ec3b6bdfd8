"""Blocks kept for the moment when a file system has none left.

They are allocated behind the end of a file that is there anyway. Its size stays as it is, so no program reads them,
copies them or minds them, and they lie on the file system that will need them. How: the old xfs calls, which Linux
answers on every file system that can allocate at all, because they need no foreign function.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

_RESERVE, _GIVE_BACK = 0x4030582A, 0x4030582B  # FS_IOC_RESVSP64, FS_IOC_UNRESVSP64
_SPACE = struct.Struct("=hh4xqqiI16x")
_PAGE = 4096
_SHARE = 16
"""What is kept is at most this part of a file system, and half of what is free: it is there for other things."""


def free(path: str) -> int:
    """The bytes that the file system of `path` has left for this user."""
    space = os.statvfs(path)
    return space.f_bavail * space.f_frsize


def keep(path: str, size: int, *, again: int = 0) -> None:
    """Keep about `size` bytes behind the end of a file, or as much as the file system can spare.

    `again`: so much was kept, and given up, a moment ago; if there is no room, half of it is, or half of that.
    """
    fd = _opened(path)
    if fd is None:
        return
    try:
        kept = os.fstat(fd).st_blocks * 512
        if kept >= size:
            return
        space = os.fstatvfs(fd)
        spared = min(space.f_blocks // _SHARE, space.f_bavail // 2) * space.f_frsize
        size = min(size, max(kept, spared, again))
        while size // _PAGE * _PAGE > kept + _PAGE:
            try:
                fcntl.ioctl(fd, _RESERVE, _SPACE.pack(0, os.SEEK_SET, 0, size // _PAGE * _PAGE, 0, 0))
                return
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    return  # a file system that allocates when it writes, or a quota
            size //= 2
    finally:
        os.close(fd)


def give_back(path: str) -> int:
    """Give up what is kept behind the end of a file; how much that was."""
    fd = _opened(path)
    if fd is None:
        return 0
    try:
        status = os.fstat(fd)
        kept = status.st_blocks * 512
        if kept <= _PAGE:
            return 0
        try:  # for tmpfs, which the other way does not reach
            begin = -(-status.st_size // _PAGE) * _PAGE
            fcntl.ioctl(fd, _GIVE_BACK, _SPACE.pack(0, os.SEEK_SET, begin, 1 << 40, 0, 0))
        except OSError:
            pass
        os.ftruncate(fd, status.st_size)
        return kept
    except OSError:
        return 0  # whoever needs the room finds out
    finally:
        os.close(fd)


def _opened(path: str) -> int | None:
    """A file that may be cut to the size it has, as it will never have another: something is in it already."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return fd
    os.close(fd)
    return None
