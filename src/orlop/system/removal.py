"""Removing a tree: quickly, however deep or wide it is, and nothing outside of it.

Rule 1: Every step is one name in an open directory. A symlink is removed, never followed; a directory that is
        swapped for one while we work is not entered.
Rule 2: What is mounted below the tree is unmounted before anything is removed: a bind mount in it would have us
        empty the directory that it shows.
Rule 3: A large tree is removed by two processes that walk it in opposite order and meet somewhere. They need not
        talk: what one finds missing, the other has removed. The first walks all of it, and only its errors count.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice

from orlop.system import libc, mounts, probe, starting
from orlop.system.descent import GONE, Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BATCH = 4096
"""Entries taken from a directory at a time: a directory of millions is not held in memory."""

_WORTH_HELP = 2000
"""Entries after which a second process is started; below that it costs more than it saves."""

_ATTEMPTS = 10
"""Sweeps before giving up. The second is for what was mounted or created below the tree meanwhile, and for file
systems that leave entries out of a listing while others are being removed."""


def remove_tree(path: str, *, workers: int = 1) -> None:
    """Remove a directory with all below it, or a single file. If there is nothing, that is fine.

    With `workers=2` a large tree is removed by two processes, if this one has a single thread. Raises `OSError` for
    the first entry that cannot be removed.
    """
    path = path.rstrip("/")
    if os.path.basename(path) in ("", ".", ".."):
        raise ValueError(f'"{path}" does not name a directory to remove')
    for attempt in range(1, _ATTEMPTS + 1):
        mounts.unmount_below(path)
        try:
            _remove(path, workers)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY, errno.ENOENT) or attempt == _ATTEMPTS:
                raise


def _remove(path: str, workers: int) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(path)
        return
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        _open_up(path, None)
    with Descent(path) as at:
        if not os.path.samestat(at.status, status):  # it followed a symlink that was not there before
            raise OSError(errno.ESTALE, "directory was replaced while it was to be removed", path)
        helper = _Helper(path, status) if workers > 1 else None
        try:
            _sweep(at, helper)
        except BaseException:
            if helper is not None:
                helper.kill()
            raise
        if helper is not None:
            helper.wait()
    os.rmdir(path)


def _sweep(at: Descent, helper: _Helper | None = None, *, backwards: bool = False) -> None:
    """Remove all below the current directory of `at`."""
    waiting = [_clear(at, helper, backwards)]
    while True:
        if waiting[-1]:
            if _enter(at, waiting[-1][-1]):
                waiting.append(_clear(at, helper, backwards))
            else:
                waiting[-1].pop()
            continue
        waiting.pop()
        if not waiting:
            return
        at.leave()
        _discard(os.rmdir, waiting[-1].pop(), at.fd)


def _clear(at: Descent, helper: _Helper | None, backwards: bool) -> list[str]:
    """Remove what is no directory from the current one; the names of the directories, the first to enter last."""
    directories: list[str] = []
    with os.scandir(at.fd) as entries:
        while batch := list(islice(entries, _BATCH)):
            others: list[str] = []
            for entry in batch:
                (directories if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
            if backwards:
                others.reverse()
            fd = at.fd
            for name in others:
                try:
                    os.unlink(name, dir_fd=fd)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if error.errno == errno.EISDIR:  # the file system does not tell kinds, or it was swapped
                        directories.append(name)
                    else:
                        _discard(os.unlink, name, fd)
            if helper is not None:
                helper.offer(len(batch))
    if not backwards:
        directories.reverse()
    return directories


def _enter(at: Descent, name: str) -> bool:
    """Step into a directory; False if it is gone, or was something else, which is removed."""
    try:
        try:
            at.enter(os.fsencode(name))
        except PermissionError:
            _open_up(name, at.fd)
            at.enter(os.fsencode(name))
    except OSError as error:
        if error.errno not in GONE:
            raise
        if error.errno != errno.ENOENT:
            _discard(os.unlink, name, at.fd)
        return False
    return True


def _discard(call: Callable[..., None], name: str, dir_fd: int) -> None:
    """Unlink or rmdir; it may be gone. Layers hold directories without write permission, and an ordinary user who
    owns one has to allow himself to empty it."""
    try:
        try:
            call(name, dir_fd=dir_fd)
        except PermissionError:
            os.fchmod(dir_fd, 0o700)
            call(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass


def _open_up(name: str, dir_fd: int | None) -> None:
    """Allow ourselves to read a directory. By way of a descriptor: chmod by name would follow a symlink."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


class _Helper:
    """The second process, started when the tree turns out to be large."""

    __slots__ = ("_path", "_removed", "_root", "pid")

    def __init__(self, path: str, root: os.stat_result) -> None:
        self._path = path
        self._root = root
        self._removed = 0
        self.pid = 0

    def offer(self, removed: int) -> None:
        """So many more entries are gone."""
        self._removed += removed
        if self._removed >= _WORTH_HELP and not self.pid:
            self._removed = 0
            # Else a lock that another thread has at this moment would stay taken in the child for ever.
            if probe.single_threaded():
                self._start()

    def _start(self) -> None:
        signals = __import__("_signal")
        libc.load()
        parent = os.getpid()
        blocked = signals.pthread_sigmask(signals.SIG_BLOCK, signals.valid_signals())
        try:
            try:
                self.pid = starting.fork("a process that helps to remove a tree")
            except OSError:
                return  # there is none to be had: it takes longer
            if not self.pid:  # with all signals blocked: the handlers of the program are not for this process
                try:
                    libc.die_with_parent(parent)
                    with Descent(self._path) as at:
                        if os.path.samestat(at.status, self._root):
                            _sweep(at, backwards=True)
                finally:
                    os._exit(0)  # whatever it did not manage, the parent will
        finally:
            signals.pthread_sigmask(signals.SIG_SETMASK, blocked)

    def wait(self) -> None:
        """Wait for its end, if there was a second process at all."""
        pid, self.pid = self.pid, 0
        if pid:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass  # somebody who waits for any child took it

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, 9)
            self.wait()
