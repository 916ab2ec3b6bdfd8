"""Paths that somebody else chose, resolved beneath an open directory and never outside.

Rule 1: A path is resolved by the kernel in one step, from an open root, with the root as the end of every `..` and
        the start of every absolute symlink. It is never joined to a string, and never checked first and used later
        (CVE-2018-15664).
Rule 2: Only parents are resolved by path. What happens to the last name happens in the open parent, by that one
        name, and follows nothing.
Rule 3: A handle says where a path led when it was opened. Whoever removes a directory or a symlink below the root
        calls `forget()`: the handles that are kept may not be where their paths lead now.

Three ways of resolving give the same answers:

    by_kernel       openat2 with RESOLVE_IN_ROOT; Linux 5.6 and later
    by_walking      name by name, for kernels without it
    inside_chroot   plain opening, in a process whose root directory *is* the root (`system.confine`)
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import UnsafePath
from orlop.system import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    Resolver = Callable[[int, bytes, int, int], int]

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_HANDLES = 128
"""Directories that a `Root` keeps open. Archives go directory by directory, and a process may open 1,024 files."""

_SYMLINKS = 40
"""Symlinks followed on one path; the kernel's own limit."""

_PATH_MAX = 4096


class Root:
    """What lies beneath one open directory. `fd` stays the caller's."""

    def __init__(self, fd: int, resolve: Resolver | None = None) -> None:
        self.fd = fd
        self.resolve = resolve or best_resolver()
        self._handles: dict[bytes, int] = {}  # path -> descriptor, least recently used first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()

    def open(self, path: bytes, flags: int, mode: int = 0) -> int:
        """Open `path`; symlinks are followed beneath the root, the last one unless `flags` has O_NOFOLLOW.

        Opening what is no regular file can block or have effects of its own: see `open_regular`.
        """
        return self.resolve(self.fd, path.lstrip(b"/") or b".", flags | os.O_CLOEXEC, mode)

    def open_regular(self, path: bytes) -> int:
        """Open the regular file at `path` for reading.

        What else may stand there is never opened: a FIFO blocks for ever, a device acts (CVE-2024-9676).

        Raises:
            UnsafePath: something else stands there.
        """
        handle = self.open(path, os.O_PATH)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UnsafePath(f"{os.fsdecode(path)!r} was to be read, and is no regular file", path=path)
            return os.open(b"/proc/self/fd/%d" % handle, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(handle)

    def directory(self, path: bytes) -> int:
        """A handle of the directory at `path`; symlinks are followed, the last one too.

        The handle is lent: good until `forget()`, or until 128 other directories were asked for.
        """
        if not path:
            return self.fd
        fd = self._handles.pop(path, -1)
        if fd < 0:
            fd = self.open(path, DIRECTORY)
            self._make_room()
        self._handles[path] = fd
        return fd

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """A handle of the directory that holds `path`, and the name there.

        Raises:
            UnsafePath: the path ends in no name: it is empty, or ends in `.` or `..`.
        """
        directory, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise UnsafePath(f"{os.fsdecode(path)!r} ends in no name", path=path)
        return self.directory(directory), name

    def adopt(self, path: bytes, fd: int) -> None:
        """Keep `fd`, the directory at `path` that the caller has just opened."""
        known = self._handles.pop(path, -1)
        if known >= 0:
            os.close(known)
        else:
            self._make_room()
        self._handles[path] = fd

    def forget(self) -> None:
        """Close all handles: some path may lead elsewhere from now on."""
        for fd in self._handles.values():
            os.close(fd)
        self._handles.clear()

    def _make_room(self) -> None:
        if len(self._handles) >= _HANDLES:
            os.close(self._handles.pop(next(iter(self._handles))))


# --- three ways to resolve ----------------------------------------------------------------------------------


def by_kernel(root_fd: int, path: bytes, flags: int, mode: int) -> int:
    return libc.openat2(root_fd, path, flags, mode, libc.RESOLVE_IN_ROOT | libc.RESOLVE_NO_MAGICLINKS)


def inside_chroot(root_fd: int, path: bytes, flags: int, mode: int) -> int:
    return os.open(path, flags, mode, dir_fd=root_fd)


def by_walking(root_fd: int, path: bytes, flags: int, mode: int) -> int:
    """Name by name; `..` goes back to the handle it came from, so that a moved directory leads nowhere new.

    LIMIT: one descriptor a level while it runs, so paths some thousand levels deep fail with EMFILE.
    """
    if len(path) >= _PATH_MAX:  # what the kernel would say
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    creates_only = flags & os.O_EXCL and flags & os.O_CREAT
    follow = not (flags & os.O_NOFOLLOW or creates_only)
    names = path.split(b"/")[::-1]  # the next one is the last
    trail = [root_fd]
    links = 0
    try:
        while True:
            name = names.pop()
            if name == b".." and len(trail) > 1:
                os.close(trail.pop())
            if name in (b"", b".", b".."):
                if names:
                    continue
                return os.open(b".", flags & ~os.O_NOFOLLOW, mode, dir_fd=trail[-1])
            if not names and not follow:
                return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=trail[-1])
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=trail[-1])
            except FileNotFoundError:
                if names or not flags & os.O_CREAT:
                    raise
                return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=trail[-1])
            kind = stat.S_IFMT(os.fstat(fd).st_mode)
            if kind != stat.S_IFLNK:
                if not names:
                    os.close(fd)
                    return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=trail[-1])
                trail.append(fd)
                if kind != stat.S_IFDIR:
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                continue
            try:
                text = os.readlink(b"", dir_fd=fd)
            finally:
                os.close(fd)
            links += 1
            if links > _SYMLINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if text.startswith(b"/"):
                while len(trail) > 1:
                    os.close(trail.pop())
            names += text.split(b"/")[::-1]
    finally:
        for fd in trail[1:]:
            os.close(fd)


def best_resolver() -> Resolver:
    """`by_kernel`, or `by_walking` where the kernel (or a seccomp filter that does not know the call) refuses it."""
    global _best
    if _best is None:
        try:
            os.close(by_kernel(libc.AT_FDCWD, b".", os.O_PATH | os.O_CLOEXEC, 0))
            _best = by_kernel
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
                raise
            _best = by_walking
    return _best


_best: Resolver | None = None


# --- by one name in an open directory -----------------------------------------------------------------------


def remove_at(dir_fd: int, name: bytes) -> None:
    """Remove what stands at `name`, with everything below if it is a directory. Absence is fine.

    Two descriptors, however deep the tree: the way back up is `..`, which must be where the way down came from.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as refused:  # EPERM is what POSIX says for a directory
        try:
            fd = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
        except NotADirectoryError:
            raise refused from None
    above: list[os.stat_result] = []
    try:
        left = [_remove_files(fd)]  # for each level the directories that are still to go
        while True:
            if left[-1]:
                child = os.open(left[-1][-1], DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                above.append(os.fstat(fd))
                os.close(fd)
                fd = child
                left.append(_remove_files(fd))
                continue
            if not above:
                break
            left.pop()
            parent = os.open(b"..", DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = parent
            if not os.path.samestat(os.fstat(fd), above.pop()):
                raise OSError(errno.ESTALE, "directory was moved while it was removed", left[-1][-1])
            os.rmdir(left[-1].pop(), dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)


def _remove_files(fd: int) -> list[bytes]:
    """Unlink what is no directory, and name the directories.

    Once more until there is nothing to unlink: a file system may skip entries while others are being removed.
    """
    while True:
        directories = []
        removed = False
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    directories.append(name)
                else:
                    os.unlink(name, dir_fd=fd)
                    removed = True
        if not removed:
            return directories
