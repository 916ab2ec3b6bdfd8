"""Lock files shared with the other programs that use a store (`spec/locking.md`).

    lock = LockFile.at("/var/lib/containers/storage/overlay-layers/layers.lock")
    with lock.reading():                      # shared: other readers may be inside, threads and processes
        seen = lock.token()
    with lock.writing(timeout=30):            # exclusive; LockTimeout after 30 seconds
        seen = lock.renew()                   # tells everybody else to load the table again

Rule 1: Open-file-description locks (`F_OFD_SETLKW`), never `flock`, never `F_SETLKW`. They exclude the record locks
        of the others, they exclude each other inside one process, and closing an unrelated descriptor of the file
        does not drop them. What must hold between programs rests on them alone; the rest of this file is about
        fairness among the threads of one process, and about clear errors.
Rule 2: One object per file (device and inode) and process, whatever path led to it. The file is opened anew for
        every acquisition that finds the lock not held, so a file that was replaced meanwhile is noticed.
Rule 3: Threads take turns (`turns.py`), then one of them takes the file. Nothing is reentrant, nothing is upgraded.
Rule 4: A lock belongs to the process that took it. A forked child holds nothing and has no descriptor of a lock
        file, except those named in `keep_in_child`.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import stat
import struct
import time
from _weakref import ref
from itertools import count

from orlop.errors import Conflict, LockTimeout, ReadOnly, UnsafePath
from orlop.system import files
from orlop.system.forks import close_noted, keep_in_child, open_noted
from orlop.system.turns import Turns, WaitsForItself, left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.system.turns import Mode

__all__ = ["TOKEN_SIZE", "LockFile", "keep_in_child", "on_wait"]

TOKEN_SIZE = 64

on_wait: Callable[[str, Mode], object] | None = None
"""Called with the path and the mode when a lock is not free at once, before the wait: the debug log hangs here."""

_BUSY = (errno.EAGAIN, errno.EACCES)
# What the blocking call may answer although waiting further is right. ENOLCK: no memory for locks at the moment.
_PASSING = (errno.EINTR, errno.ENOLCK, errno.EDEADLK)
_REPLACED_TRIES = 1000

_finding = _thread.RLock()  # two threads must not make an object each for one file
_live: dict[int, ref[LockFile]] = {}  # by id(): every object there is
_count = count(1)


class LockFile:
    """One lock file. Made by `LockFile.at`, taken by `reading`, `writing` or `try_writing`."""

    __slots__ = (
        "__weakref__",
        "_entry",
        "_fd",
        "_forgotten",
        "_key",
        "_lent",
        "_paths",
        "_turns",
        "read_only",
    )

    def __init__(self, path: str, key: tuple[int, int], *, read_only: bool) -> None:
        self.read_only = read_only
        self._paths = [path]
        self._key = key
        self._forgotten = False
        self._reset()
        number = id(self)
        _live[number] = ref(self, lambda _: _live.pop(number, None))

    def _reset(self) -> None:
        """Nobody holds it, nobody waits."""
        self._fd: int | None = None
        self._lent = False  # somebody has asked for the descriptor
        self._turns = Turns()
        self._entry = _thread.allocate_lock()  # of several readers, one takes the file lock for all

    @classmethod
    def at(cls, path: str, *, read_only: bool = False) -> LockFile:
        """The lock object of the file at `path`, which is created if missing (0644, its directories 0700).

        `read_only` is for stores that somebody else owns: the lock can only be taken shared. Raises `Conflict` if
        this process has the same file as the other kind; `UnsafePath` if `path` is no regular file (a link or a FIFO
        put there would have us lock what somebody else chose, or wait for ever); `OSError` with the path if it cannot
        be opened. A missing one on a read-only file system is no error for who only reads.
        """
        path = os.path.abspath(path)
        with _finding:
            try:
                fd = _open(path, read_only)
            except OSError as error:
                if read_only and error.errno == errno.EROFS:
                    return _Absent(path)
                raise
            try:
                key = _key_of(os.fstat(fd))
            finally:
                close_noted(fd)
            lock = _find(path, key) or cls(path, key, read_only=read_only)
        if lock.read_only != read_only:
            text = f'lock "{path}" is not a {"read-only" if read_only else "read-write"} lock'
            raise Conflict(text, peer=text, path=path)
        return lock

    def __repr__(self) -> str:
        return f"<LockFile {self.path!r} held={self.held!r}>"

    @property
    def path(self) -> str:
        return self._paths[0]

    @property
    def held(self) -> Mode | None:
        """How this process holds the lock: not at all, "r" (shared) or "w" (exclusively)."""
        return None if self._fd is None else self._turns.mode

    def fileno(self) -> int:
        """The descriptor that carries the lock; a child that keeps it open keeps the lock taken until it ends."""
        fd = self._held_fd()
        self._lent = True
        return fd

    def _held_fd(self) -> int:
        if self._fd is None:
            raise RuntimeError(f'lock "{self.path}" is not held')
        return self._fd

    def forget(self) -> None:
        """The owner has no more use for this object: the next `at` makes another one, of either kind."""
        self._forgotten = True

    # --- taking it ------------------------------------------------------------------------------------------

    def reading(self, timeout: float | None = None) -> _Holding:
        """A block that holds the lock shared. `timeout` is in seconds; None waits for ever."""
        return _Holding(self, "r", timeout)

    def writing(self, timeout: float | None = None) -> _Holding:
        """A block that holds the lock exclusively."""
        return _Holding(self, "w", timeout)

    def try_writing(self) -> bool:
        """Take the lock exclusively if nobody has it; whether that was so. Undone by `release`."""
        try:
            self.acquire("w", timeout=0)
        except LockTimeout:
            return False
        return True

    def acquire(self, mode: Mode, timeout: float | None = None) -> None:
        """Take the lock, for what must hold it longer than a block lasts. Any thread may `release` it.

        Raises:
            LockTimeout: it was not free in time; or, whatever the timeout, the only thread of the process has it.
            ReadOnly.
        """
        if mode == "w" and self.read_only:
            raise ReadOnly(f'lock "{self.path}" is open for reading only', path=self.path)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if not self._turns.take(mode, deadline, lambda: _tell(self.path, mode)):
                raise self._timeout(mode, "another thread of this process")
        except WaitsForItself:
            # What more threads would find out by waiting, or never.
            raise self._timeout(
                mode,
                "this thread",
                "; what holds it, as the open stream of a diff does, has to be closed: it would wait for itself",
            ) from None
        try:
            self._take_file(mode, deadline)
        except BaseException:
            self._turns.leave(self._close)
            raise

    def release(self) -> None:
        self._held_fd()
        self._turns.leave(self._close)

    # --- the last writer's token ----------------------------------------------------------------------------

    def token(self) -> bytes:
        """The token of the last writer: 64 bytes, in a fresh file fewer or none. Only equality means anything."""
        return os.pread(self._held_fd(), TOKEN_SIZE, 0)

    def renew(self) -> bytes:
        """Write a new token and return it. Whoever remembers another one loads the table again."""
        if self.held != "w":
            raise RuntimeError(f'lock "{self.path}" is not held exclusively')
        token = _new_token()
        # One call: a reader without the lock, or one after a crash, never sees two halves.
        if os.pwrite(self._held_fd(), token, 0) != TOKEN_SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
        return token

    # --- the file, once it is our turn ----------------------------------------------------------------------

    def _take_file(self, mode: Mode, deadline: float | None) -> None:
        if not self._entry.acquire(timeout=left(deadline)):
            raise self._timeout(mode, "another process")  # for which another reader of ours waits, too
        try:
            if self._fd is None:
                self._fd = self._locked(mode, deadline)
        finally:
            self._entry.release()

    def _locked(self, mode: Mode, deadline: float | None) -> int:
        for _ in range(_REPLACED_TRIES):
            if len(self._paths) > 1:  # of several names, one that still leads to our file
                self._paths = sorted(self._paths, key=lambda path: _key_at(path) != self._key)
            fd = _open(self.path, self.read_only)
            try:
                self._wait(fd, mode, deadline)
                key = _key_of(os.fstat(fd))
                # Whoever removes a lock file does so while holding it, so only a file that is still in its place
                # when we have it excludes those who come after us.
                if key == _key_at(self.path):
                    self._key = key
                    return fd
            except BaseException:
                close_noted(fd)
                raise
            close_noted(fd)
        raise OSError(errno.ESTALE, "the lock file is replaced again and again", self.path)

    def _wait(self, fd: int, mode: Mode, deadline: float | None) -> None:
        wanted = _flock(fcntl.F_RDLCK if mode == "r" else fcntl.F_WRLCK)
        told = False
        pause = 0.001
        while True:
            seconds = left(deadline)
            # Without a deadline the kernel wakes us up; with one there is nothing but asking again.
            command = fcntl.F_OFD_SETLKW if told and seconds < 0 else fcntl.F_OFD_SETLK
            try:
                fcntl.fcntl(fd, command, wanted)
                return
            except OSError as error:
                passing = error.errno in _BUSY or (error.errno in _PASSING and seconds != 0)
                if not passing:
                    raise OSError(error.errno, error.strerror, self.path) from None
            if seconds == 0:
                raise self._timeout(mode, _holder(fd, wanted))
            if told:
                time.sleep(0.01 if seconds < 0 else min(pause, seconds))
                pause = min(pause * 2, 0.05)
            else:
                _tell(self.path, mode)
                told = True

    def _timeout(self, mode: Mode, holder: str, advice: str = "") -> LockTimeout:
        kind = "shared" if mode == "r" else "exclusive"
        text = f'the {kind} lock "{self.path}" was not free in time: {holder} has it{advice}'
        return LockTimeout(text, path=self.path)

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        lent, self._lent = self._lent, False
        if fd is None:
            return
        if not lent:
            # Closing would free the lock, were there no copies: in a child that has not come to closing them yet, in
            # a program that another thread is just starting. A child that was given one, though, goes on holding it.
            try:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK))
            except OSError:
                pass  # closing does it, if later
        close_noted(fd)


class _Absent(LockFile):
    """The lock of a store on a read-only file system that has no lock file: nobody writes there, all may read.

    Should it be written elsewhere meanwhile, the times of its files say so; its token says nothing.
    """

    __slots__ = ()

    def __init__(self, path: str) -> None:
        super().__init__(path, (0, 0), read_only=True)
        self.forget()

    def acquire(self, mode: Mode, timeout: float | None = None) -> None:
        if mode == "w":
            raise ReadOnly(f'lock "{self.path}" is on a read-only file system', path=self.path)

    def release(self) -> None:
        pass

    def token(self) -> bytes:
        return b""


class _Holding:
    __slots__ = ("_lock", "_mode", "_pid", "_timeout")

    def __init__(self, lock: LockFile, mode: Mode, timeout: float | None) -> None:
        self._lock = lock
        self._mode = mode
        self._timeout = timeout

    def __enter__(self) -> LockFile:
        self._lock.acquire(self._mode, self._timeout)
        self._pid = os.getpid()
        return self._lock

    def __exit__(self, *_: object) -> None:
        if self._pid == os.getpid():  # a child forked inside the block comes by here too, and holds nothing
            self._lock.release()


def _open(path: str, read_only: bool) -> int:
    flags = os.O_RDONLY if read_only else os.O_RDWR
    # NOFOLLOW: a link would have us create or lock a file of somebody else's choice. NONBLOCK: a FIFO would hang us.
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            fd = open_noted(path, flags, 0o644)
        except FileNotFoundError:
            files.make_dirs(os.path.dirname(path), 0o700)
            fd = open_noted(path, flags, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UnsafePath(f'lock file "{path}" is not a regular file', path=path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        close_noted(fd)
        raise UnsafePath(f'lock file "{path}" is not a regular file', path=path)
    return fd


def _find(path: str, key: tuple[int, int]) -> LockFile | None:
    """The object of the file `key`, to which `path` leads. The caller has `_finding`."""
    for entry in list(_live.values()):
        lock = entry()
        if lock is None or lock._forgotten:
            continue
        if path in lock._paths:
            lock._key = key  # which is new if the file was replaced
            return lock
        # The number of a removed file is soon given to another one: ask whether the object's own name leads here.
        if lock._key == key and any(_key_at(name) == key for name in lock._paths):
            lock._paths.append(path)
            return lock
    return None


def _key_of(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _key_at(path: str) -> tuple[int, int] | None:
    try:
        return _key_of(os.lstat(path))
    except FileNotFoundError:
        return None


def _flock(kind: int) -> bytes:
    """`struct flock` over the whole file. l_pid must be 0 for this kind of lock."""
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def _holder(fd: int, wanted: bytes) -> str:
    """Who has a lock that we cannot get, as far as the kernel tells: no number for locks of our own kind."""
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted)
    pid = struct.unpack("@hhqqi4x", found)[4]
    return f"process {pid}" if pid > 0 else "another process"


def _tell(path: str, mode: Mode) -> None:
    if on_wait is not None:
        on_wait(path, mode)


def _new_token() -> bytes:
    return struct.pack("<QQI", time.time_ns(), next(_count), os.getpid()) + os.urandom(44)


def _forget_in_child() -> None:
    global _finding
    _finding = _thread.RLock()
    for entry in list(_live.values()):
        if (lock := entry()) is not None:
            lock._reset()


os.register_at_fork(after_in_child=_forget_in_child)
