"""One entry of an archive becomes one file: what is set, in which order, by which handle (`spec/archive.md` 5.4).

Rule 1: The file is made, and made anew: exclusively, in an open directory, by one name. What stood there before is
        never written through, so no link that an archive planted leads anywhere.
Rule 2: Content, then owner, mode, times, attributes. chown clears setuid bits and capabilities, writing moves times.
Rule 3: Nothing that was made is opened, but regular files and directories: opening a device acts.
Rule 4: A call is made only where what is there differs from what is wanted. In a large layer that is most of the
        time saved.

Runs in the confined worker (`stream.extract`), with a umask of 0. The worker has one thread, so its working directory
may be moved about: that is how attributes of a symlink or device are set in an open directory.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import BadArchive, UnsafeOwner
from orlop.formats.limits import OWNER_MAX
from orlop.system.beneath import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Protocol

    from orlop.model.idmap import IDMappings

    class Source(Protocol):
        """Where the payload of an entry comes from."""

        def pieces(self, size: int) -> Iterator[memoryview]: ...

        def copy(self, fd: int, size: int) -> None: ...


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LATEST = 2**63 - 1  # nanoseconds: April 2262
_SPECIAL_BITS = 0o6000

OVERRIDE = b"user.containers.override_stat"
"""Owner, mode and type as a mount program shows them, in a store with a force mask (`spec/drivers.md` 4.13)."""

_OVERLAY_ATTRIBUTES = (b"trusted.overlay.", b"user.overlay.")


class Placer:
    """Makes files in open directories.

    `at` is always the descriptor of the directory, `name` the name in it. A maker raises FileExistsError before it
    did anything if something stands there.
    """

    def __init__(
        self,
        mappings: IDMappings,
        *,
        ignore_chown_errors: bool = False,
        in_userns: bool = False,
        change_owner: bool = True,
    ) -> None:
        self.warnings = Warnings()
        self._mappings = mappings
        self._ignore_chown_errors = ignore_chown_errors
        self._in_userns = in_userns
        self._change_owner = change_owner
        self._owners: dict[tuple[int, int], tuple[int, int]] = {}

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids for those of a header.

        Raises:
            InvalidMappings: the maps do not cover them.
            UnsafeOwner: no such id exists. To chown, 2^32-1 means "leave it", which leaves root (CVE-2024-40635).
        """
        try:
            return self._owners[uid, gid]
        except KeyError:
            pass
        mapped = self._mappings.to_host(uid, gid)
        for id in (uid, gid, *mapped):
            if not 0 <= id <= OWNER_MAX:
                raise UnsafeOwner(f"owner {uid}:{gid} cannot be an owner of files here", uid=uid, gid=gid)
        if len(self._owners) > 10_000:  # an archive may have a new owner on every file
            self._owners.clear()
        self._owners[uid, gid] = mapped
        return mapped

    # --- makers -----------------------------------------------------------------------------------------------

    def regular(
        self,
        at: int,
        name: bytes,
        source: Source,
        size: int,
        owner: tuple[int, int],
        mode: int,
        times: tuple[int, int],
        xattrs: Mapping[bytes, bytes] | None = None,
        sparse: tuple[Sequence[tuple[int, int]], int] | None = None,
    ) -> None:
        """A regular file of `size` bytes of payload. `sparse` says where they go, and how long the file is."""
        fd = os.open(name, _CREATE, mode & 0o777, dir_fd=at)
        try:
            if sparse is not None:
                _fill_sparse(fd, source, *sparse)
            elif size:
                source.copy(fd, size)
            self._settle(fd, owner, mode)
            os.utime(fd, ns=times)
            if xattrs:
                self._set_xattrs(fd, xattrs, name)
        finally:
            os.close(fd)

    def directory(
        self,
        at: int,
        name: bytes,
        owner: tuple[int, int],
        mode: int,
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> tuple[int, os.stat_result]:
        """A directory, or the one that is there: its descriptor, which is the caller's, and its status.

        It has no times yet: everything that is put into it would change them again.
        """
        try:
            os.mkdir(name, mode & 0o777 | 0o700, dir_fd=at)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise
        fd = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
        try:
            return fd, self.redo_directory(fd, name, owner, mode, xattrs)
        except BaseException:
            os.close(fd)
            raise

    def redo_directory(
        self, fd: int, name: bytes, owner: tuple[int, int], mode: int, xattrs: Mapping[bytes, bytes] | None
    ) -> os.stat_result:
        """What `directory` does to one that is open already."""
        status = self._settle(fd, owner, mode)
        if xattrs:
            self._set_xattrs(fd, xattrs, name)
        return status

    def symlink(
        self,
        at: int,
        name: bytes,
        text: bytes,
        owner: tuple[int, int],
        times: tuple[int, int],
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> None:
        os.symlink(text, name, dir_fd=at)
        self._settle_at(at, name, owner, 0, times, xattrs)

    def node(
        self,
        at: int,
        name: bytes,
        device: tuple[int, int, int],
        owner: tuple[int, int],
        mode: int,
        times: tuple[int, int],
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """A FIFO or device: (`S_IF...`, major, minor). Devices are for the host's root: `in_userns` there are none.

        12 bits of the major and 20 of the minor number are what the kernel keeps of them.
        """
        kind, major, minor = device
        if kind != stat.S_IFIFO and self._in_userns:
            return
        os.mknod(name, mode | kind, os.makedev(major & 0xFFF, minor & 0xF_FFFF), dir_fd=at)
        self._settle_at(at, name, owner, mode, times, xattrs)

    def hard_link(
        self,
        at: int,
        name: bytes,
        target_at: int,
        target: bytes,
        owner: tuple[int, int],
        mode: int,
        times: tuple[int, int],
        xattrs: Mapping[bytes, bytes] | None = None,
    ) -> None:
        """Another name for `target`, itself if it is a symlink. The metadata of the last name is that of all.

        But a symlink keeps its times: no peer sets them through a further name.
        """
        os.link(target, name, src_dir_fd=target_at, dst_dir_fd=at, follow_symlinks=False)
        self._settle_at(at, name, owner, mode, times, xattrs, is_new=False)

    def give(self, fd: int, owner: tuple[int, int]) -> None:
        """Give a directory that the archive only implies to its owner; its mode stays as it was made."""
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != owner:
            self._chown(fd, owner)

    def whiteout(self, at: int, name: bytes, owner: tuple[int, int]) -> None:
        """What overlay takes for "not here any more". FileExistsError is final: a layer cannot have both.

        But a whiteout that is there already is what is wanted: a diff may be applied once more, after an accident.
        """
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=at)
        except FileExistsError:
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if not stat.S_ISCHR(found.st_mode) or found.st_rdev != 0:
                raise
        status = os.stat(name, dir_fd=at, follow_symlinks=False)
        if self._change_owner and (status.st_uid, status.st_gid) != owner:
            self._chown(name, owner, at)

    # --- metadata ---------------------------------------------------------------------------------------------

    def _settle(self, fd: int, owner: tuple[int, int], mode: int) -> os.stat_result:
        status = os.fstat(fd)
        if self._change_owner and (status.st_uid, status.st_gid) != owner:
            self._chown(fd, owner)
        # chown took no bits from `mode`: it spares directories, and files are made without setuid and setgid.
        if status.st_mode & 0o7777 != mode:
            os.fchmod(fd, mode)
        return status

    def _settle_at(
        self,
        at: int,
        name: bytes,
        owner: tuple[int, int],
        mode: int,
        times: tuple[int, int],
        xattrs: Mapping[bytes, bytes] | None,
        *,
        is_new: bool = True,
    ) -> None:
        """The same for what must not or cannot be opened."""
        status = os.stat(name, dir_fd=at, follow_symlinks=False)
        chowned = False
        if self._change_owner and (status.st_uid, status.st_gid) != owner:
            chowned = self._chown(name, owner, at)
        if not stat.S_ISLNK(status.st_mode) and (
            status.st_mode & 0o7777 != mode or (chowned and mode & _SPECIAL_BITS)
        ):
            # chmod would follow a symlink (CVE-2021-32760). There is none: it was looked at a moment ago, and where
            # this process is not alone in its root, it has no powers that the other one lacks.
            os.chmod(name, mode, dir_fd=at)
        if is_new or not stat.S_ISLNK(status.st_mode):
            os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)
        if xattrs:
            os.fchdir(at)
            self._set_xattrs(name, xattrs, name)

    def _chown(self, target: int | bytes, owner: tuple[int, int], at: int | None = None) -> bool:
        uid, gid = owner
        try:
            if at is None:
                os.chown(target, uid, gid)
            else:
                os.chown(target, uid, gid, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if self._ignore_chown_errors:
                self.warnings.add("owners could not be set, and were left as they are", f"{uid}:{gid}")
                return False
            if error.errno == errno.EINVAL:
                text = "potentially insufficient UIDs or GIDs available in user namespace (requested "
                text += f"{uid}:{gid}): Check /etc/subuid and /etc/subgid if configured locally "
                text += f'and run "podman system migrate": {error.strerror}'
                raise OSError(errno.EINVAL, text) from error
            raise
        return True

    def _set_xattrs(self, target: int | bytes, xattrs: Mapping[bytes, bytes], name: bytes) -> None:
        for key, value in xattrs.items():
            try:
                os.setxattr(target, key, value, follow_symlinks=isinstance(target, int))
            except OSError as error:
                refused = error.errno == errno.EPERM and self._in_userns
                if error.errno != errno.ENOTSUP and not refused:
                    raise OSError(
                        error.errno, f"extended attribute {os.fsdecode(key)}: {error.strerror}", name
                    ) from error
                self.warnings.add(
                    "extended attributes are not possible here, and were left out", os.fsdecode(key)
                )

    def settable(self, xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Those attributes of an entry that an archive may set."""
        for key in xattrs:
            if key.startswith(_OVERLAY_ATTRIBUTES):
                self.warnings.add("attributes of overlay itself were left out", os.fsdecode(key))
            elif key == OVERRIDE:
                self.warnings.add("owners for a mount program were left out", os.fsdecode(key))
        return settable(xattrs)


def settable(xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Those attributes of an entry that an archive may set.

    Those of overlay, raw on an upper directory, hide or expose files of other layers (the overlay CVEs of 2021-23);
    the override is the store's own; a label is this machine's to give.
    """
    return {
        key: value
        for key, value in xattrs.items()
        if not key.startswith(_OVERLAY_ATTRIBUTES) and key not in (OVERRIDE, b"security.selinux")
    }


def override(owner: tuple[int, int], mode: int, kind: int, device: tuple[int, int]) -> bytes:
    """The value of `OVERRIDE` for a type of `formats/tarheader`."""
    numbers = f"{device[0]}-{device[1]}"
    words = {b"5": "dir", b"6": "pipe", b"3": f"char-{numbers}", b"4": f"block-{numbers}"}
    return f"{owner[0]}:{owner[1]}:{mode:04o}:{words.get(bytes([kind]), 'file')}".encode()


def file_times(atime: int | None, mtime: int) -> tuple[int, int]:
    """(atime, mtime) to set, in nanoseconds: never accessed before it was written; what no peer can write is 1970."""
    if atime is None or atime < mtime:
        atime = mtime
    return (atime if 0 <= atime <= _LATEST else 0, mtime if 0 <= mtime <= _LATEST else 0)


def symlink_times(atime: int | None, mtime: int) -> tuple[int, int]:
    return (mtime if atime is None or atime < mtime else atime, mtime)


def directory_times(atime: int | None, mtime: int) -> tuple[int, int]:
    """Directories have the access time of their header; without one it is 1970."""
    return (atime if atime and 0 <= atime <= _LATEST else 0, mtime if 0 <= mtime <= _LATEST else 0)


def _fill_sparse(fd: int, source: Source, fragments: Sequence[tuple[int, int]], real_size: int) -> None:
    """Payload to its places; what lies between is a hole, which reads as zeros and takes no room."""
    os.ftruncate(fd, real_size)
    for offset, length in fragments:
        if offset < 0 or length < 0 or offset + length > real_size:
            raise BadArchive(
                f"sparse member has a piece at {offset} of {length} bytes in a file of {real_size}"
            )
        for piece in source.pieces(length):
            write_at(fd, piece, offset)
            offset += len(piece)


def write_at(fd: int, piece: memoryview, offset: int) -> None:
    while piece:
        count = os.pwrite(fd, piece, offset)
        piece = piece[count:]
        offset += count


class Warnings:
    """What was left out, told in a few sentences however large the archive."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, list[str]]] = {}

    def add(self, what: str, example: str) -> None:
        count, examples = self._kinds.get(what, (0, []))
        if len(examples) < 3 and example not in examples:
            examples.append(example[:100])
        self._kinds[what] = (count + 1, examples)

    def sentences(self) -> list[str]:
        return [
            f"{what}: {count} times ({', '.join(examples)})"
            for what, (count, examples) in self._kinds.items()
        ]
