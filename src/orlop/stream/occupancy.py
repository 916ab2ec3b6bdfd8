"""What trees really take on the disk, and what becomes free when they go.

Allocated blocks are counted, not lengths of files: a hole takes nothing. An inode with several names counts once, and
so does a block on which several files lie (a reflink). What something *else* holds as well is not freed by removing
one holder: a further name of the inode, a further file on the block.

Rule 1: Every step of a walk is one name in an open directory, and nothing but regular files is opened: one of the
        trees may be a running container's.
Rule 2: What is mounted below a tree is not part of it.
Rule 3: Memory grows with the files that share something, not with all files.

LIMIT: of compressed extents (btrfs) the length of their content is counted, as `du` and `btrfs fi du` do. A file that
is removed while a process has it open becomes free when that process closes it.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.stream.overlap import Ranges
from orlop.stream.walk import walk
from orlop.system import mounts
from orlop.system.descent import GONE, Descent, private_view
from orlop.system.sharing import BLOCK, Space, Spaces, open_to_ask, shared_extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from types import TracebackType
    from typing import Self

    Extents = list[tuple[int, int, bool]]
    Holders = frozenset[int]

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = _FILE | os.O_DIRECTORY
_SUBVOLUME = 256  # the inode number of every root of a btrfs subvolume


def occupied(paths: Iterable[str]) -> int:
    """Bytes of the disk that what lies at and below `paths` takes; shared ones once. Missing paths take none."""
    with Count() as count:
        for path in _outermost(paths):
            count.tree(path, 0)
        count.finish()
        return sum(count.alone.values()) + sum(count.shared().values())


def freed_by_removing(paths: Iterable[str], *, beside: Iterable[str] = ()) -> int:
    """Bytes of the disk that become free when `paths`, with all below them, are removed.

    A block that is marked as shared counts only if all who share it are known to go. The kernel does not say who they
    are, so they are looked for in the trees `beside` (which may contain `paths`). What is shared and was met there
    only once is shared with something elsewhere, and stays. Without `beside` no such block counts. Missing paths free
    nothing.
    """
    paths = _outermost(paths)
    goes = frozenset((_GOES,))
    with Count() as count:
        for path in paths:
            count.tree(path, _GOES)
        beside = _outermost(beside) if count.shares else []
        if beside:
            going = set(filter(None, map(_inode_at, paths)))
            for path in beside:
                count.view(path)
                count.tree(path, _STAYS, leave_out=going)
        count.finish(elsewhere=_STAYS)
        return count.alone.get(goes, 0) + (count.shared().get(goes, 0) if beside else 0)


_GOES, _STAYS = 0, 1


def _outermost(paths: Iterable[str]) -> list[str]:
    """The same paths, absolute, without those that lie below another one: nothing is counted twice."""
    found: list[list[str]] = []
    for names in sorted(_components(path) for path in paths):
        if not found or names[: len(found[-1])] != found[-1]:
            found.append(names)
    return ["/".join(names) or "/" for names in found]


def _components(path: str) -> list[str]:
    """The names of a path whose directories are no symlinks; its last name may be one."""
    directory, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(directory), name).rstrip("/").split("/")


def _inode_at(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None
    return status.st_dev, status.st_ino


class _Named:
    """An inode with several names, of which `unseen` were not met yet."""

    __slots__ = ("extents", "holders", "size", "space", "unseen")

    def __init__(self, size: int, extents: Extents, space: Space, unseen: int, holders: Holders) -> None:
        self.size = size
        self.extents = extents
        self.space = space
        self.unseen = unseen
        self.holders = holders


class Count:
    """Bytes of the disk by who holds them; a context manager. Holders are numbers of the caller's choice, 0 or more.

    No tree is counted twice, nor one within another: `leave_out` is there for that. `finish` comes before the
    results: `alone`, the bytes that no other file lies on, and `shared()`, each by the set of their holders.
    """

    def __init__(self) -> None:
        self.alone: dict[Holders, int] = {}
        self._spaces = Spaces()
        self._named: dict[tuple[int, int], _Named] = {}
        self._ranges: dict[tuple[object, bool], Ranges] = {}
        self._views: dict[str, int] = {}
        self._points: set[str] | None = None
        self._elsewhere: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._views:
            os.close(self._views.popitem()[1])

    # --- results ----------------------------------------------------------------------------------------------

    @property
    def shares(self) -> bool:
        """Whether anything counted so far lies on blocks that are marked as shared."""
        return bool(self._ranges) or any(named.extents for named in self._named.values())

    def finish(self, *, elsewhere: int | None = None) -> None:
        """Everything was walked. What has holders that were not met, it seems, is held by `elsewhere`, too."""
        self._elsewhere = elsewhere
        others = frozenset(() if elsewhere is None else (elsewhere,))
        for named in self._named.values():
            self._settle(named.size, named.extents, named.space, named.holders | others)
        self._named.clear()

    def shared(self) -> dict[Holders, int]:
        """Bytes on which more than one file may lie, each block once.

        LIMIT: of holders elsewhere it is known that there are some only where just one was met here.
        """
        found: dict[Holders, int] = {}
        for ranges in self._ranges.values():
            for start, end, holders, met in ranges.sweep():
                if met == 1 and self._elsewhere is not None:
                    holders |= {self._elsewhere}
                found[holders] = found.get(holders, 0) + end - start
        return found

    # --- walking ----------------------------------------------------------------------------------------------

    def view(self, root: str) -> None:
        """Walk what lies below `root` in a private view, in which nothing is mounted and no device can be opened.

        That is quicker, and takes privileges. Making and dropping a view takes milliseconds, so it is for many trees
        below one root. Without the privileges they are walked with more care.
        """
        try:
            fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._views[root] = private_view(fd, with_mounts=False)
            finally:
                os.close(fd)
        except OSError:
            pass

    def tree(self, root: str, holder: int, *, leave_out: Container[tuple[int, int]] = ()) -> None:
        """Count what lies at and below `root` for `holder`.

        `leave_out` are (device, inode) of what is passed over with all below it. What vanishes meanwhile is, too.
        """
        holders = frozenset((holder,))
        try:
            status = os.lstat(root)
            if (status.st_dev, status.st_ino) in leave_out:
                return
            if not stat.S_ISDIR(status.st_mode):
                with Descent(os.path.dirname(root) or ".") as at:
                    space = self._spaces.of(at.fd, at.status.st_dev)
                    self._listed(os.path.basename(root), status, space, at.fd, holders)
                return
            at = self._opened(root, status)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        with at:
            try:
                self._below(at, root, holders, leave_out)
            except OSError as error:
                if error.filename is not None:
                    # A listing names its descriptor.
                    name = "" if isinstance(error.filename, int) else os.fsdecode(error.filename)
                    error.filename = os.path.join(root, name)
                raise

    def extents(self, fd: int, device: int, holder: int) -> None:
        """Count only the blocks of an open file that are marked as shared. `device` is its `st_dev`."""
        space = self._spaces.of(fd, device)
        self._settle(0, _extents(fd, space), space, frozenset((holder,)))

    def _opened(self, root: str, status: os.stat_result) -> Descent:
        for base, view in self._views.items():
            if root == base or root.startswith(base + "/"):
                fd = os.open(root[len(base) + 1 :] or ".", _DIRECTORY, dir_fd=view)
                at = Descent.of(fd, guarded=True)
                if os.path.samestat(at.status, status):
                    return at
                at.close()  # it is a mount
        at = Descent(root)
        if not os.path.samestat(at.status, status):
            at.close()
            raise OSError(errno.ESTALE, "directory was replaced while it was looked at", root)
        return at

    def _below(self, at: Descent, root: str, holders: Holders, leave_out: Container[tuple[int, int]]) -> None:
        def visit(names: list[str], inode: int, above: os.stat_result | None) -> list[tuple[str, int]]:
            here = (at.status.st_dev, at.status.st_ino)
            if above is not None:
                if here in leave_out:
                    return []
                as_listed = at.guarded or here == (above.st_dev, inode)
                if not as_listed and self._is_mounted(at, above, root, names):
                    return []
            return self._directory(at, holders, leave_out)

        walk(at, visit)

    def _is_mounted(self, at: Descent, above: os.stat_result, root: str, names: list[str]) -> bool:
        """Whether the current directory, which is not the one that its parent lists, was mounted there."""
        if at.status.st_dev != above.st_dev:
            # A subvolume lies in the space of its parent. Nothing else has another device without a mount.
            space = self._spaces.of(at.fd, at.status.st_dev)
            return at.status.st_ino != _SUBVOLUME or space is not self._spaces.of(at.fd, above.st_dev)
        # Some file systems number directories anew when they are looked at (overlay without `xino`).
        if self._points is None:
            self._points = {mount.point for mount in mounts.mount_table()}
        return "/".join((os.path.realpath(root), *names)) in self._points

    def _directory(
        self, at: Descent, holders: Holders, leave_out: Container[tuple[int, int]]
    ) -> list[tuple[str, int]]:
        """Count the current directory and the files in it; (name, inode) of the directories in it."""
        fd = at.fd
        space = self._spaces.of(fd, at.status.st_dev)
        alone = at.status.st_blocks
        directories = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append((entry.name, entry.inode()))
                    continue
                try:
                    if at.guarded and space.shares and entry.is_file(follow_symlinks=False):
                        self._guarded(entry.name, space, fd, holders, leave_out)
                        continue
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
                    continue
                if leave_out and (status.st_dev, status.st_ino) in leave_out:
                    continue
                if status.st_nlink > 1 or (space.shares and status.st_blocks):
                    self._listed(entry.name, status, space, fd, holders)
                else:
                    alone += status.st_blocks
        self.alone[holders] = self.alone.get(holders, 0) + alone * BLOCK
        return directories

    def _guarded(
        self, name: str, space: Space, dir_fd: int, holders: Holders, leave_out: Container[tuple[int, int]]
    ) -> None:
        """Count what is listed as a regular file, in a view in which opening has no effects whatever it is by now."""
        try:
            fd = os.open(name, _FILE, dir_fd=dir_fd)
        except OSError as error:
            if error.errno not in _CANNOT_OPEN:
                raise
            status = os.lstat(name, dir_fd=dir_fd)
            if (status.st_dev, status.st_ino) not in leave_out:
                self._listed(name, status, space, dir_fd, holders)
            return
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) not in leave_out and not self._is_met(status, holders):
                asked = status.st_blocks and stat.S_ISREG(status.st_mode)
                self._count(status, _extents(fd, space) if asked else [], space, holders)
        finally:
            os.close(fd)

    def _listed(self, name: str, status: os.stat_result, space: Space, dir_fd: int, holders: Holders) -> None:
        """Count something that is no directory, and that may be shared."""
        if self._is_met(status, holders):
            return
        extents: Extents = []
        if space.shares and status.st_blocks and stat.S_ISREG(status.st_mode):
            try:
                fd = open_to_ask(name, dir_fd)
                try:
                    if os.path.samestat(os.fstat(fd), status):
                        extents = _extents(fd, space)
                finally:
                    os.close(fd)
            except OSError as error:
                # Nobody but its owner may ask about a file without read permission: it counts as sharing nothing.
                if error.errno not in GONE and error.errno != errno.EACCES:
                    raise
        self._count(status, extents, space, holders)

    def _is_met(self, status: os.stat_result, holders: Holders) -> bool:
        """Whether this is a further name of an inode that was counted."""
        if status.st_nlink == 1:
            return False
        key = (status.st_dev, status.st_ino)
        named = self._named.get(key)
        if named is None:
            return False
        named.unseen -= 1
        named.holders |= holders
        if not named.unseen:
            self._settle(named.size, named.extents, named.space, named.holders)
            del self._named[key]
        return True

    def _count(self, status: os.stat_result, extents: Extents, space: Space, holders: Holders) -> None:
        size = status.st_blocks * BLOCK
        for start, end, _ in extents:
            size -= end - start
        size = max(size, 0)  # blocks were given to it meanwhile
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            self._named[key] = _Named(size, extents, space, status.st_nlink - 1, holders)
        else:
            self._settle(size, extents, space, holders)

    def _settle(self, size: int, extents: Extents, space: Space, holders: Holders) -> None:
        self.alone[holders] = self.alone.get(holders, 0) + size
        for start, end, encoded in extents:
            ranges = self._ranges.get((space.key, encoded))
            if ranges is None:
                ranges = self._ranges[space.key, encoded] = Ranges()
            for holder in holders:
                ranges.add(start, end, holder)


def _extents(fd: int, space: Space) -> Extents:
    """The extents of an open file that are marked as shared."""
    try:
        return shared_extents(fd)
    except OSError as error:
        if error.errno not in _CANNOT_TELL:
            raise
        space.shares = False
        return []


_CANNOT_OPEN = frozenset((errno.EACCES, errno.EPERM, errno.ENXIO))  # no permission; a socket or device by now
_CANNOT_TELL = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS))
