"""Copying what is no directory, one name at a time, from one open directory to another (`spec/drivers.md` 3.5).

Rule 1: Nothing is followed: not a symlink of the source, which may lead out of it, nor one copied a moment ago.
Rule 2: Content, then owner, attributes, mode, times: changing the owner clears setuid bits and capabilities, and
        writing changes times.

`serve` is the same work done by a second process, for `treecopy`.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.system import extents, xattrs
from orlop.system.descent import Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.system.confine import Link

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PERMISSIONS = 0o777  # setuid, setgid and sticky wait for the owner
_ALL_BITS = 0o7777
_BLOCK = 512  # the unit of st_blocks, whatever the file system's is


class FileCopier:
    """Copies entries of directories. It remembers, for one run, what the two file systems cannot do.

    `rootless` leaves out devices and `trusted.*`, which such a process cannot make. `ignore_chown_errors` keeps
    going where an owner cannot be set. Errors are OSError, their `filename` the name in the directory.
    """

    def __init__(self, *, rootless: bool, ignore_chown_errors: bool) -> None:
        self.rootless = rootless
        self.ignore_chown_errors = ignore_chown_errors
        self.wanted: Callable[[str], bool] = xattrs.compared if rootless else xattrs.copied
        self._memory = extents.Memory()
        self._read_flags = _READ | os.O_NOATIME

    def regular(self, source: int, target: int, names: Sequence[bytes]) -> list[bytes]:
        """Copy regular files. Those that have several names are not copied but returned: to copy one of them takes
        knowing which others were, and only one process can know that."""
        return [name for name in names if not self.file(source, target, name, single=True)]

    def file(self, source: int, target: int, name: bytes, *, single: bool = False) -> bool:
        """Copy one regular file. With `single`, one that has several names is left alone: then False."""
        try:
            old = self._open(name, source)
            try:
                status = os.fstat(old)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.ESTALE, "file was replaced while its directory was copied")
                if single and status.st_nlink > 1:
                    return False
                new = os.open(name, _CREATE, status.st_mode & _PERMISSIONS, dir_fd=target)
                try:
                    size = status.st_size
                    if size:
                        sparse = status.st_blocks * _BLOCK < size
                        extents.clone_or_copy(old, new, size, self._memory, sparse=sparse)
                    self.finish(new, os.fstat(new), status, self.attributes(old))
                finally:
                    os.close(new)
            finally:
                os.close(old)
        except OSError as error:
            error.filename = name
            raise
        return True

    def special(self, source: int, target: int, name: bytes) -> None:
        """Copy a symlink, FIFO, socket or device. None of them is opened."""
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.mknod(name, mode, dir_fd=target)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            if self.rootless:
                return
            os.mknod(name, mode, status.st_rdev, dir_fd=target)
        else:
            raise OSError(errno.ESTALE, "entry was replaced while its directory was copied", name)
        made = os.stat(name, dir_fd=target, follow_symlinks=False)
        new_owner = _owners(made) != _owners(status)
        if new_owner:
            try:
                os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            except OSError:
                if not self.ignore_chown_errors:
                    raise
        found = xattrs.read_beneath(source, name, self.wanted)
        if found:
            xattrs.write_beneath(target, name, found)
        # chown takes setuid and setgid, from devices and FIFOs as from files.
        if (made.st_mode != mode or new_owner) and not stat.S_ISLNK(mode):
            os.chmod(name, mode & _ALL_BITS, dir_fd=target)  # would follow, but this is our own node
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def attributes(self, fd: int) -> Mapping[bytes, bytes]:
        """What a copy keeps of an open file's or directory's extended attributes; mostly nothing."""
        return xattrs.read(fd, self.wanted)

    def finish(
        self, fd: int, made: os.stat_result, status: os.stat_result, found: Mapping[bytes, bytes]
    ) -> None:
        """Give an open file or directory, which is as `made` says, the owner, mode and times of its original."""
        if made.st_uid != status.st_uid or made.st_gid != status.st_gid:
            try:
                os.fchown(fd, status.st_uid, status.st_gid)
            except OSError:
                if not self.ignore_chown_errors:
                    raise
        if found:
            xattrs.write(fd, found)
        if made.st_mode != status.st_mode:
            os.fchmod(fd, status.st_mode & _ALL_BITS)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _open(self, name: bytes, directory: int) -> int:
        try:
            return os.open(name, self._read_flags, dir_fd=directory)
        except PermissionError as error:
            # Only the owner and root may leave the access time alone; others do without.
            if error.errno != errno.EPERM or self._read_flags == _READ:
                raise
        self._read_flags = _READ
        return os.open(name, _READ, dir_fd=directory)


def _owners(status: os.stat_result) -> tuple[int, int]:
    return status.st_uid, status.st_gid


def serve(link: Link, rootless: bool, ignore_chown_errors: bool) -> None:
    """Copy the files that `treecopy` sends: one message a batch, a directory's path and the names in it.

    The answer is a note, the directory and those files that have several names, and a byte in the third descriptor.
    """
    source, target, done = link.lent
    files = FileCopier(rootless=rootless, ignore_chown_errors=ignore_chown_errors)
    with Descent(f"/proc/self/fd/{source}") as old, Descent(f"/proc/self/fd/{target}") as new:
        while (message := link.receive()) is not None:
            directory, *names = message.split(b"\0")
            path = directory.split(b"/") if directory else []
            try:
                old.go(path)
                new.go(path)
                left_alone = files.regular(old.fd, new.fd, names)
            except OSError as error:
                error.filename = os.path.join(directory, error.filename or b"")
                raise
            link.note(b"\0".join([directory, *left_alone]))
            os.write(done, b".")
