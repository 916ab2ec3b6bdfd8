"""Removal in two steps: set aside by rename under the lock, delete once it is free again (`spec/records.md` 15).

A trash root holds pairs `lock-<n>` and `temp-dir-<n>`. Whoever holds the lock of a pair is still using it; a pair
whose lock is free belongs to a dead process, and whoever finds it deletes it. Peers from 1.59 on do the same in the
same directories, older ones never look there.

Everything goes to the trash root of the layer table as long as it is on the same file system; only what a driver
keeps on a mount of its own goes to the driver's own root. That one is removed as soon as it is empty: older peers
take it for a layer.
"""

from __future__ import annotations

import errno
import os

from orlop.system import files
from orlop.system.ownlock import OwnedLock, is_owned, own

_LOCK = "lock-"
_DIRECTORY = "temp-dir-"
_ATTEMPTS = 1000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NAME_MAX = 255


class Trash:
    """Things set aside by one operation. `set_aside` under the table's lock, `empty` after its release."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._bins: dict[str, _Bin] = {}

    def set_aside(self, path: str, own_root: str | None = None) -> bool:
        """Move a file or directory away; False if it does not exist.

        `own_root`, directly in a driver's home, is used if `path` lies on another mount than the usual root, and is
        tried first if that home is a mount.
        """
        roots = [self._root] if own_root is None else [self._root, own_root]
        if own_root is not None and self._is_apart(own_root):
            roots.reverse()
        for root in roots:
            try:
                return self._bin(root).take(path)
            except OSError as error:
                if error.errno in NO_ROOM:
                    return self._remove(path)
                if error.errno != errno.EXDEV or root == roots[-1]:
                    raise
        raise AssertionError("unreachable")

    def _is_apart(self, own_root: str) -> bool:
        if own_root in self._bins:
            return True
        from orlop.system import mounts

        try:
            return mounts.is_mount_point(os.path.dirname(own_root))
        except FileNotFoundError:
            return False

    def _remove(self, path: str) -> bool:
        """Delete at once, under the lock: a disk too full to set something aside is one that must be freed."""
        there = os.path.lexists(path)
        files.remove_tree(path)
        return there

    def empty(self) -> None:
        """Delete everything that was set aside. Every bin is tried; the first error is raised."""
        first: BaseException | None = None
        for bin in self._bins.values():
            try:
                bin.empty()
            except BaseException as error:
                if first is None:
                    first = error
                else:
                    first.add_note(f"and: {error}")
        self._bins.clear()
        if first is not None:
            raise first

    def foreign_roots(self) -> list[str]:
        """Roots in use besides the usual one, to be removed under the lock once they are empty."""
        return [root for root in self._bins if root != self._root]

    def _bin(self, root: str) -> _Bin:
        if root not in self._bins:
            self._bins[root] = _Bin(root)
        return self._bins[root]


class _Bin:
    """One locked pair below a root, made when the first thing comes."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock: OwnedLock | None = None
        self._directory = ""
        self._taken = 0

    def take(self, path: str) -> bool:
        if not os.path.lexists(path):
            return False
        if self._lock is None:
            self._open()
        # The number makes the name; of the old one as much as a name can hold, for people.
        name = os.fsencode(f"{self._taken}-{os.path.basename(path)}")[:_NAME_MAX]
        target = os.path.join(self._directory, os.fsdecode(name))
        self._taken += 1
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return False
        return True

    def empty(self) -> None:
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            files.remove_tree(self._directory, workers=2)
            os.unlink(lock.path)
        finally:
            lock.close()  # what could not be deleted is left to whoever looks here next

    def _open(self) -> None:
        files.make_dirs(self._root)
        for _ in range(_ATTEMPTS):
            number = str(int.from_bytes(os.urandom(4), "little"))
            lock = own(os.path.join(self._root, _LOCK + number), exclusive_create=True)
            if lock is None:
                continue
            self._directory = os.path.join(self._root, _DIRECTORY + number)
            try:
                os.mkdir(self._directory, 0o700)
            except BaseException:
                os.unlink(lock.path)
                lock.close()
                raise
            self._lock = lock
            return
        raise OSError(errno.EAGAIN, f"no free lock name after {_ATTEMPTS} attempts", self._root)


def recover(root: str) -> list[OSError]:
    """Delete what dead processes left below a trash root. Pairs in use are passed over.

    All pairs are tried; what went wrong is returned, not raised: rubbish is nothing that a store must stop for.
    """
    try:
        numbers = _numbers(root)
    except OSError as error:
        return [error]
    problems = []
    for number in numbers:
        try:
            lock = own(os.path.join(root, _LOCK + number))
            if lock is None:
                continue
            try:
                files.remove_tree(os.path.join(root, _DIRECTORY + number))
                os.unlink(lock.path)
            finally:
                lock.close()
        except OSError as error:
            problems.append(error)
    return problems


def abandoned(root: str) -> list[str]:
    """What `recover` would delete: the directory of each pair of a dead process, or its lock if it has none."""
    found = []
    for number in _numbers(root):
        lock, directory = os.path.join(root, _LOCK + number), os.path.join(root, _DIRECTORY + number)
        try:
            if not is_owned(lock):
                found.append(directory if os.path.lexists(directory) else lock)
        except OSError:
            pass  # no file that could be a lock: `recover` says so, and leaves it
    return found


def _numbers(root: str) -> list[str]:
    """The numbers of the pairs below a trash root; none if there is no root, or a symlink to what is not ours."""
    try:
        found = os.listdir(root) if not os.path.islink(root) else []
    except FileNotFoundError:
        return []
    return sorted(
        {
            name.removeprefix(prefix)
            for name in found
            for prefix in (_LOCK, _DIRECTORY)
            if name.startswith(prefix)
        }
    )
