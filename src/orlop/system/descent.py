"""Where a walk stands beneath a root: a chain of open directories.

A container may swap a directory for a symlink while its tree is walked (CVE-2018-15664). So no step here resolves
a path: a directory is entered by one name in its open parent, never through a symlink, and left for the parent
that was open before.

A tree may be thousands of levels deep (promise A8), and a process may hold a thousand descriptors. So only the
deepest directories of the chain stay open; one that was closed is reached again by `..` from its child, and must
be the very directory it was.
"""

from __future__ import annotations

import errno
import os
import struct

from orlop.errors import UnsafePath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

KEPT_OPEN = 64
"""Directories above the current one that stay open. Two trees at once stay far below the usual limit of 1024."""

GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE))
"""What the kernel answers when a name that was listed is no more, or is another kind of thing now."""

GUARD_AFTER = 1000
"""Files after which `Descent.guard` has paid for itself: it takes 5 ms and saves 5 µs a file."""

FILE, DIRECTORY, OTHER = 1, 2, 3

_OPEN_TREE_CLONE = 0x1
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_GUARDS = 0x01 | 0x02 | 0x04 | 0x08  # MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = _FILE | os.O_DIRECTORY


class Descent:
    """The open directories from a root down to the current one.

    `fd` is the descriptor of the current directory and `status` what fstat said about it when it was opened. Both
    belong to the descent and change with its steps. `guarded` says whether `guard` has succeeded.
    """

    __slots__ = ("_above", "_closed", "_kept_open", "_names", "fd", "guarded", "status")

    def __init__(self, root: str, *, kept_open: int = KEPT_OPEN) -> None:
        """Open `root`, a path of our own: symlinks in it are followed."""
        self._begin(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), kept_open)

    @classmethod
    def of(cls, fd: int, *, guarded: bool = False) -> Self:
        """A descent from an open directory, which belongs to it from now on."""
        made = cls.__new__(cls)
        made._begin(fd, KEPT_OPEN)
        made.guarded = guarded
        return made

    def _begin(self, fd: int, kept_open: int) -> None:
        self.fd = fd
        self._kept_open = kept_open
        self.status = os.fstat(fd)
        self._above: list[tuple[int, os.stat_result]] = []
        self._closed = 0  # so many at the beginning of `_above` have been closed again
        self._names: list[bytes] = []
        self.guarded = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._above[self._closed :]:
            os.close(self._above.pop()[0])
        self._above.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def enter(self, name: bytes) -> None:
        """Go into the directory `name` of the current one.

        Raises OSError, and stays, if it cannot be opened; `GONE` holds the codes for "no such directory", among
        them ENOTDIR for a symlink in its place.
        """
        fd = open_unnoticed(name, _DIRECTORY, self.fd)
        self._above.append((self.fd, self.status))
        self._names.append(name)
        self.fd = fd
        self.status = os.fstat(fd)
        if len(self._above) - self._closed > self._kept_open:
            above, status = self._above[self._closed]
            os.close(above)
            self._above[self._closed] = (-1, status)
            self._closed += 1

    def leave(self) -> None:
        """Go back to the parent.

        Raises OSError (ESTALE), and stays, if it had to be opened again and `..` leads elsewhere: somebody moved
        the current directory, perhaps to where this walk has no business.
        """
        fd, status = self._above[-1]
        if fd < 0:
            fd = open_unnoticed(b"..", _DIRECTORY, self.fd)
            if not os.path.samestat(os.fstat(fd), status):
                os.close(fd)
                raise OSError(errno.ESTALE, "directory was moved while it was read", self._names[-1])
            self._closed -= 1
        os.close(self.fd)
        self._above.pop()
        self._names.pop()
        self.fd, self.status = fd, status

    def go(self, path: Sequence[bytes]) -> None:
        """Go to the directory at `path`, the names from the root down to it (`names_of`).

        Raises as `enter` and `leave` do; `depth` then says how many of the names were entered.
        """
        same = 0
        for ours, wanted in zip(self._names, path, strict=False):
            if ours != wanted:
                break
            same += 1
        while len(self._names) > same:
            self.leave()
        for name in path[same:]:
            self.enter(name)

    def guard(self) -> bool:
        """Go on in a private view of the mount in which nothing can be written and no device can be opened.

        Whoever opens files beneath a root that others change opens, now and then, what they have just put there.
        In a guarded descent the worst that can be is a FIFO, so a file may be opened by its name and looked at
        afterwards. True if that is so from now on; the kernel (5.12) gives such a view to privileged processes only.
        """
        if not self.guarded and not self._closed:
            try:
                view = private_view(self._above[0][0] if self._above else self.fd, with_mounts=True)
            except OSError:
                return False
            guarded = Descent.__new__(Descent)
            guarded._begin(view, self._kept_open)
            try:
                guarded.go(self._names)
                same = os.path.samestat(guarded.status, self.status)
            except OSError:
                same = False
            if not same:
                guarded.close()
                return False
            self.close()
            self.fd, self.status, self._above = guarded.fd, guarded.status, guarded._above
            self.guarded = True
        return self.guarded

    def open_guarded(self, name: bytes) -> int:
        """Open for reading what is listed as a regular file. Look at it before use; in a guarded descent only."""
        return open_unnoticed(name, _FILE, self.fd)

    @property
    def depth(self) -> int:
        """Directories between the root and the current one, which counts; 0 at the root."""
        return len(self._names)

    def entries(self) -> list[tuple[bytes, int, int]]:
        """(name, kind, inode) of what the current directory lists, sorted by the bytes of the names.

        `kind` is FILE, DIRECTORY or OTHER. Kind and inode are what the directory says: it may be another thing by
        now, and on a mount point the inode is that of the directory underneath.
        """
        with os.scandir(self.fd) as found:
            return sorted([(os.fsencode(entry.name), _kind(entry), entry.inode()) for entry in found])


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return FILE
    return DIRECTORY if entry.is_dir(follow_symlinks=False) else OTHER


def private_view(root: int, *, with_mounts: bool) -> int:
    """An open directory: `root`, on a copy of its mount that belongs to nobody and ends with its last handle.

    Nothing can be written in it and no device opened. `with_mounts`: what is mounted below is in it as well. Raises
    OSError where the kernel (5.12) does not give us such a view.
    """
    from ctypes import create_string_buffer

    from orlop.system import libc

    below = _AT_RECURSIVE if with_mounts else 0
    flags = _OPEN_TREE_CLONE | below | _AT_EMPTY_PATH | os.O_CLOEXEC
    copy = libc.syscall("open_tree", root, b"", flags)
    try:
        change = create_string_buffer(struct.pack("=QQQQ", _GUARDS, 0, 0, 0), 32)
        libc.syscall("mount_setattr", copy, b"", below | _AT_EMPTY_PATH, change, len(change))
        return os.open(".", _DIRECTORY, dir_fd=copy)
    finally:
        os.close(copy)


def names_of(path: bytes) -> list[bytes]:
    """The names along a path relative to a root; a slash at either end is ignored, `.` and the root are no names.

    Raises UnsafePath for an empty, `.` or `..` component: `..` would lead out of the root by way of the kernel.
    """
    path = path.strip(b"/")
    names = [] if path in (b"", b".") else path.split(b"/")
    if not _NOT_NAMES.isdisjoint(names):
        raise UnsafePath(f"{os.fsdecode(path)!r} is not a plain path below a root", path=path)
    return names


def place_of(path: bytes) -> tuple[list[bytes], bytes]:
    """(names of the directories, last name) of a path relative to a root. Raises UnsafePath, also for the root."""
    names = names_of(path)
    if not names:
        raise UnsafePath("the root of a tree was given where a path below it was wanted", path=path)
    return names[:-1], names[-1]


_NOT_NAMES = frozenset((b"", b".", b".."))


def open_unnoticed(name: bytes, flags: int, dir_fd: int | None = None) -> int:
    """Open without marking the file as accessed, where the kernel allows us that (the owner, or root).

    What is looked at stays as it was, and a first export does not write an inode for every file that it reads.
    """
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return os.open(name, flags, dir_fd=dir_fd)
