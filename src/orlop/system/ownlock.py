"""A lock file with one owner: tried, never waited for (`spec/records.md` 15.3, staging directories).

Other than the locks of tables, such a file exists only as long as its owner; when the owner dies the lock is free,
which is how the next program knows that what lies beside it is rubbish.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# struct flock on 64-bit Linux: type, whence, start, length, pid. The whole file, and pid 0 as OFD locks require.
_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_owned: dict[int, OwnedLock] = {}


class OwnedLock:
    """A held lock; `close` frees it. The file is the owner's to unlink before that."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        _owned[fd] = self

    def fileno(self) -> int:
        """The descriptor that holds the lock, for a child process to keep it with; -1 once it is free."""
        return self._fd

    @property
    def is_held(self) -> bool:
        """False once it was closed, and in a child of the process that took it."""
        return self._fd >= 0

    def close(self) -> None:
        """Free the lock; a second call does nothing."""
        if self._fd >= 0:
            _owned.pop(self._fd, None)
            os.close(self._fd)
            self._fd = -1


def is_owned(path: str) -> bool:
    """Whether somebody holds the lock of that file at this moment. Without a file nobody does; none is made."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    finally:
        os.close(fd)
    kind: int = struct.unpack_from("h", answer)[0]
    return kind != fcntl.F_UNLCK


def own(path: str, *, exclusive_create: bool = False) -> OwnedLock | None:
    """Create (or open) `path` and take its lock without waiting; None if somebody has it, or the name is taken.

    `exclusive_create`: the file must be new.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(
            path, flags | (os.O_EXCL if exclusive_create else 0), 0o600 if exclusive_create else 0o644
        )
    except FileExistsError:
        return None
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
        # Between our open and our lock the owner may have unlinked the file: then we hold a lock nobody sees.
        if os.fstat(fd).st_nlink == 0:
            os.close(fd)
            return None
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return None
        raise
    return OwnedLock(path, fd)


def _forget_in_child() -> None:
    # A forked child must not keep a lock alive that its parent gave up.
    for lock in list(_owned.values()):
        lock.close()


os.register_at_fork(after_in_child=_forget_in_child)
