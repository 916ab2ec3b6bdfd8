"""What differs between two directory trees, and how large a tree is (`spec/archive.md` 6.1, 6.4; `spec/dedup.md` 3).

Everything is reached as `Descent` reaches it: one of the trees may be a running container's, which swaps what it
likes while we look (CVE-2018-15664). Content is never compared. A file that was changed and got
its old size and times back is unchanged, here as in every program that shares the store.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidMappings, LimitExceeded
from orlop.formats.limits import CHANGED_PATHS_MAX
from orlop.model.changes import ADDED, DELETED, MODIFIED, Change
from orlop.model.idmap import IDENTITY
from orlop.system import xattrs
from orlop.system.descent import DIRECTORY, FILE, GONE, GUARD_AFTER, Descent, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.model.changes import Kind
    from orlop.model.idmap import IDMappings

    Owner = tuple[int, int]

_SECOND = 1_000_000_000


# --- changes ------------------------------------------------------------------------------------------------


def compare_trees(
    new_root: str,
    old_root: str | None = None,
    new_maps: IDMappings = IDENTITY,
    old_maps: IDMappings = IDENTITY,
) -> list[Change]:
    """What was added, modified or deleted in the tree below `new_root` since it was as below `old_root`.

    Sorted by path. Without `old_root` everything is an addition. Owners are compared as the container sees them. A
    deleted directory is one change; a directory that has changes below it is modified.
    """
    comparison = _Comparison(new_maps, old_maps)
    with Descent(new_root) as new:
        if old_root is None:
            comparison.add_all(new, b"/")
        else:
            with Descent(old_root) as old:
                comparison.pair(new, old)
    comparison.changes.sort(key=_path)
    return comparison.changes


def _path(change: Change) -> bytes:
    return change.path


def within_limit(length: int) -> int:
    """`length`, the bytes of all paths of a list of changes.

    Raises:
        LimitExceeded: a process that goes down step by step can make trees of which the paths fill any memory.
    """
    if length > CHANGED_PATHS_MAX:
        raise LimitExceeded(f"the changed paths have more than {CHANGED_PATHS_MAX} bytes together")
    return length


class _Comparison:
    def __init__(self, new_maps: IDMappings, old_maps: IDMappings) -> None:
        self.changes: list[Change] = []
        self._length = 0  # of all paths together
        self._new_maps = new_maps
        self._old_maps = old_maps
        self._mapped = bool(new_maps or old_maps)
        self._owners: dict[tuple[Owner, Owner], bool] = {}

    def _note(self, path: bytes, kind: Kind) -> None:
        self._length = within_limit(self._length + len(path))
        self.changes.append(Change(path, kind))

    def add_all(self, new: Descent, prefix: bytes) -> None:
        """Everything below the current directory is new. The descent ends where it was."""
        # Of each level how long its prefix is: a prefix for each would be gigabytes where a container went down deep.
        levels = [(len(prefix), iter(new.entries()))]
        while levels:
            length, entries = levels[-1]
            prefix = prefix[:length]
            for name, kind, _ in entries:
                path = prefix + name
                if not _is_there(new, name, kind):
                    continue
                self._note(path, ADDED)
                if kind == DIRECTORY and entered(new, name):
                    prefix = path + b"/"
                    levels.append((len(prefix), iter(new.entries())))
                    break
            else:
                levels.pop()
                if levels:
                    new.leave()

    def pair(self, new: Descent, old: Descent) -> None:
        """Two roots. The descents go down together, where both trees have a directory of the name."""
        # Of each level: how long its prefix is, the entries still to be looked at, and how many changes were known
        # before it. If there are more when it is done its directory is modified; -1 for the root, and where that is
        # known already.
        prefix = b"/"
        levels = [(len(prefix), iter(self._unlike(new, old, prefix)), -1)]
        guarded, looked = False, 0
        while levels:
            length, entries, before = levels[-1]
            prefix = prefix[:length]
            for name, kind, shared in entries:
                path = prefix + name
                if not shared:
                    self._add(new, name, kind, path)
                elif kind == DIRECTORY and _entered_both(new, old, name):
                    if self._differ(new.status, old.status) or _attributes(new.fd) != _attributes(old.fd):
                        self._note(path, MODIFIED)
                        before = -1
                    else:
                        before = len(self.changes)
                    prefix = path + b"/"
                    unlike = self._unlike(new, old, prefix)
                    levels.append((len(prefix), iter(unlike), before))
                    looked += len(unlike)
                    if looked >= GUARD_AFTER and not guarded:
                        guarded, looked = new.guard() and old.guard(), 0
                    break
                elif not (guarded and kind == FILE and self._look_guarded(new, old, name, path)):
                    self._look(new, old, name, path)
            else:
                levels.pop()
                if 0 <= before < len(self.changes):
                    self._note(prefix[:-1], MODIFIED)
                if levels:
                    new.leave()
                    old.leave()

    def _unlike(self, new: Descent, old: Descent, prefix: bytes) -> list[tuple[bytes, int, bool]]:
        """(name, kind, is in both) of what the new directory lists, without names that are one file in both trees.

        What only the old one has is noted as deleted.
        """
        same_device = new.status.st_dev == old.status.st_dev
        left = {name: (kind, inode) for name, kind, inode in old.entries()}
        unlike = []
        for name, kind, inode in new.entries():
            was = left.pop(name, None)
            if was is None or was[1] != inode or not same_device:
                unlike.append((name, kind, was is not None))
        for name, (kind, _) in left.items():
            if _is_there(old, name, kind):
                self._note(prefix + name, DELETED)
        return unlike

    def _add(self, new: Descent, name: bytes, kind: int, path: bytes) -> None:
        if not _is_there(new, name, kind):
            return
        self._note(path, ADDED)
        if kind == DIRECTORY and entered(new, name):
            self.add_all(new, path + b"/")
            new.leave()

    def _look(self, new: Descent, old: Descent, name: bytes, path: bytes) -> None:
        """A name of both trees that is not a directory in both."""
        now, was = _status(new, name), _status(old, name)
        if was is None:
            if now is not None:
                self._add(new, name, DIRECTORY, path)
            return
        if now is None:
            self._note(path, DELETED)
            return
        if self._differ(now, was) or _insides_differ(new, old, name, now):
            self._note(path, MODIFIED)
        if stat.S_ISDIR(now.st_mode) and not stat.S_ISDIR(was.st_mode) and entered(new, name):
            self.add_all(new, path + b"/")
            new.leave()

    def _look_guarded(self, new: Descent, old: Descent, name: bytes, path: bytes) -> bool:
        """`_look` by open files, which is quicker than by name. False if they could not be opened."""
        try:
            new_fd = new.open_guarded(name)
        except OSError:
            return False
        try:
            old_fd = old.open_guarded(name)
        except OSError:
            os.close(new_fd)
            return False
        try:
            now = os.fstat(new_fd)
            if not stat.S_ISREG(now.st_mode):
                return False
            if self._differ(now, os.fstat(old_fd)) or _attributes(new_fd) != _attributes(old_fd):
                self._note(path, MODIFIED)
            return True
        finally:
            os.close(new_fd)
            os.close(old_fd)

    def _differ(self, now: os.stat_result, was: os.stat_result) -> bool:
        if now.st_mode != was.st_mode or now.st_rdev != was.st_rdev:
            return True
        # The time of a directory tells of what is in it, which is compared itself. (The peers ask for the bit, which
        # block devices have, too: their times do not count either, and the two must list the same.)
        timed = not now.st_mode & stat.S_IFDIR
        if timed and now.st_size != was.st_size:
            return True
        if timed and now.st_mtime_ns != was.st_mtime_ns and is_other_time(now.st_mtime_ns, was.st_mtime_ns):
            return True
        if self._mapped:
            return self._owners_differ((now.st_uid, now.st_gid), (was.st_uid, was.st_gid))
        return now.st_uid != was.st_uid or now.st_gid != was.st_gid

    def _owners_differ(self, now: Owner, was: Owner) -> bool:
        known = self._owners.get((now, was))
        if known is None:
            new, old = now, was
            try:
                new = self._new_maps.to_container(*now)
                old = self._old_maps.to_container(*was)
            except InvalidMappings:
                pass  # what has no number in the container is compared by the host's
            known = self._owners[now, was] = new != old
        return known


def is_other_time(now_ns: int, was_ns: int) -> bool:
    """Whether of two different times the one cannot be the other.

    Trees that came out of a tar have whole seconds: nanoseconds count only if both sides have some.
    """
    seconds, ns = divmod(now_ns, _SECOND)
    old_seconds, old_ns = divmod(was_ns, _SECOND)
    return seconds != old_seconds or bool(ns and old_ns)


def entered(at: Descent, name: bytes) -> bool:
    """Enter a directory; False if it is none any more."""
    try:
        at.enter(name)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return False
    return True


def _entered_both(new: Descent, old: Descent, name: bytes) -> bool:
    if not entered(new, name):
        return False
    if entered(old, name):
        return True
    new.leave()
    return False


def _is_there(at: Descent, name: bytes, kind: int) -> bool:
    """Whether a listed name leads to something.

    A whiteout does not, and a mounted overlay lists those in directories that have nothing below them to merge with.
    """
    return kind in (DIRECTORY, FILE) or _status(at, name) is not None


def _status(at: Descent, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=at.fd)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None


def _attributes(fd: int) -> dict[bytes, bytes]:
    return xattrs.read(fd, xattrs.compared)


def _insides_differ(new: Descent, old: Descent, name: bytes, now: os.stat_result) -> bool:
    """What lstat does not say: the text of a symlink, and extended attributes."""
    try:
        if stat.S_ISLNK(now.st_mode) and os.readlink(name, dir_fd=new.fd) != os.readlink(name, dir_fd=old.fd):
            return True
        found = xattrs.read_beneath(new.fd, name, xattrs.compared)
        return found != xattrs.read_beneath(old.fd, name, xattrs.compared)
    except OSError as error:
        if error.errno not in _REPLACED:
            raise
        return True  # it was replaced while we looked, so it is not as it was


_REPLACED = GONE | {errno.EINVAL}


# --- sizes --------------------------------------------------------------------------------------------------


def changes_size(root: str, changes: Iterable[Change]) -> int:
    """Bytes of the added and modified files among `changes`, in the tree below `root`.

    Directories count nothing, a file with several listed names counts once, one that is gone does not count.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    with Descent(root) as at:
        for change in sorted(changes, key=_path):
            if change.kind == DELETED:
                continue
            parents, name = place_of(change.path)
            try:
                at.go(parents)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                continue
            status = _status(at, name)
            if status is None or stat.S_ISDIR(status.st_mode):
                continue
            if status.st_nlink > 1:
                inode = (status.st_dev, status.st_ino)
                if inode in seen:
                    continue
                seen.add(inode)
            total += status.st_size
    return total


def usage(directory: str) -> tuple[int, int]:
    """(bytes, inodes) of a directory and all below it.

    Bytes are the lengths of all that is no directory; a file with several names counts once. Inodes count
    directories too, the given one included. What vanishes during the walk is ignored.
    """
    size = 0
    with Descent(directory) as at:
        inodes = {at.status.st_ino}
        levels = [iter(at.entries())]
        while levels:
            for name, kind, _ in levels[-1]:
                if kind == DIRECTORY and entered(at, name):
                    inodes.add(at.status.st_ino)
                    levels.append(iter(at.entries()))
                    break
                status = _status(at, name)
                if status is not None and status.st_ino not in inodes:
                    inodes.add(status.st_ino)
                    if not stat.S_ISDIR(status.st_mode):
                        size += status.st_size
            else:
                levels.pop()
                if levels:
                    at.leave()
    return size, len(inodes)
