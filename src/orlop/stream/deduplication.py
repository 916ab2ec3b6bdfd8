"""Having files with the same content lie on the same blocks, and knowing what that frees (`spec/dedup.md` 2).

Only the kernel's own request is used: it locks both files, compares them, and changes which blocks a file lies on,
nothing else. So a file that somebody writes to meanwhile is safe, and whatever moment this is killed at, every file
has the content that it had.
"""

from __future__ import annotations

import errno
import os

from orlop.stream.filetable import Opener
from orlop.stream.occupancy import Count
from orlop.system import sharing
from orlop.system.descent import GONE
from orlop.system.extents import data_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from orlop.stream.duplicates import Duplicates
    from orlop.stream.filetable import Files

_GOES, _STAYS = 0, 1
_SOURCES_MAX = 64
"""Files that are tried as the source of one that differs from its first.

LIMIT: with a key of the content there is one; by size alone there may be any number, and each is read as far as the
first difference. Equal files beyond that many are not found."""


class Unable(OSError):
    """The file system cannot share blocks."""


class Result:
    """What came of one tree: files and bytes that lie on the blocks of others now, and what went wrong."""

    __slots__ = ("bytes", "errors", "files")

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self.errors: list[str] = []


class Deduplication:
    """The work that `Duplicates` found, done tree by tree; a context manager.

    `beside` are trees in which everything lies that may lie on the same blocks; the files themselves are among it.
    """

    def __init__(self, found: Duplicates, beside: Iterable[str]) -> None:
        self._found = found
        self._files = found.files
        self._others: dict[int, list[int]] = {}  # source -> files that differ from it, to be tried next
        self._done = bytearray(len(found.files))
        self._alone = 0
        self.is_spent = False
        """Whether the work was begun: the figures are those of one time."""
        self._span: dict[int, tuple[int, int]] = {}  # tree -> where its files stand in the list of targets
        for at, number in enumerate(found.targets):
            tree = self._files.tree_of(number)
            self._span[tree] = (self._span.get(tree, (at, at))[0], at + 1)
        self._count = Count()
        self._tangled = [number for number in found.targets if found.tangled[number]]
        if self._tangled:
            self._count_tangled(beside)

    def __enter__(self) -> Self:
        self.is_spent = True
        self._targets, self._sources = Opener(self._files), Opener(self._files)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._targets.close()
        self._sources.close()

    # --- figures ----------------------------------------------------------------------------------------------

    def trees(self) -> list[tuple[int, int, int]]:
        """(tree, files, bytes) of what is to lie on the blocks of others."""
        size, targets = self._files.size, self._found.targets
        return [
            (tree, end - start, sum([size[number] for number in targets[start:end]]))
            for tree, (start, end) in sorted(self._span.items())
        ]

    def expected(self) -> int:
        """Bytes of the disk that become free if everything succeeds."""
        return sum([self._found.alone[number] for number in self._found.targets]) + self._let_go()

    def freed(self) -> int:
        """Bytes of the disk that did become free."""
        with Opener(self._files) as opener:
            self._hold([number for number in self._tangled if not self._done[number]], opener, _STAYS)
        return self._alone + self._let_go()

    def _let_go(self) -> int:
        """Bytes of blocks on which only files lie that go elsewhere."""
        return self._count.shared().get(frozenset((_GOES,)), 0)

    def _count_tangled(self, beside: Iterable[str]) -> None:
        """Find out who else lies on the blocks of files that already share some."""
        with self._count as count, Opener(self._files) as opener:
            gone = self._hold(self._tangled, opener, _GOES)
            leave_out = _Inodes(self._files, [number for number in self._tangled if number not in gone])
            for root in beside:
                count.view(root)
                count.tree(root, _STAYS, leave_out=leave_out)
        self._count.finish(elsewhere=_STAYS)

    def _hold(self, numbers: Iterable[int], opener: Opener, holder: int) -> set[int]:
        """Count the shared blocks of files for a holder; the files that could not be opened."""
        gone = set()
        for number in numbers:
            try:
                fd = opener.open(number)
            except OSError:
                gone.add(number)
                continue
            try:
                self._count.extents(fd, self._files.device[self._files.tree_of(number)], holder)
            finally:
                os.close(fd)
        return gone

    # --- work -------------------------------------------------------------------------------------------------

    def share(self, tree: int) -> Result:
        """Have the files of a tree lie on the blocks of their twins.

        Raises:
            Unable: the file system cannot do it.
        """
        result = Result()
        start, end = self._span.get(tree, (0, 0))
        for at in range(start, end):
            try:
                size = self._share(self._found.targets[at], self._found.sources[at])
            except Unable:
                raise
            except OSError as error:
                if error.errno not in GONE:
                    result.errors.append(error.strerror or str(error))
                continue
            result.files += size > 0
            result.bytes += size
        return result

    def _share(self, number: int, source: int) -> int:
        size = self._files.size[number]
        target = self._targets.open(number)
        try:
            # What was shared when the plan was made is counted apart, though one may have it alone by now.
            before = min(_alone(target), self._found.alone[number])
            others = self._others.get(source, ())
            problem: OSError | None = None
            for candidate in (source, *others):
                try:
                    fd = self._sources.open(candidate)
                except OSError as error:
                    problem = problem or error
                    continue
                try:
                    done = _share_all(fd, target, size)
                except OSError as error:
                    if error.errno in _UNABLE:
                        raise Unable(error.errno, error.strerror) from error
                    problem = problem or error
                    continue
                finally:
                    os.close(fd)
                if done:
                    self._done[number] = done == size
                    self._alone += before - _alone(target)
                    return done
            if problem is not None:
                raise problem
            if len(others) < _SOURCES_MAX:
                self._others.setdefault(source, []).append(number)
            return 0
        finally:
            os.close(target)


_UNABLE = frozenset((errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS))


def _share_all(source: int, target: int, size: int) -> int:
    """How many bytes from the beginning are shared now. The kernel may do a part at a time (1 GiB).

    The target's holes take no blocks that could be shared, and the kernel would read terabytes of them.
    """
    begun = False
    for start, end in data_ranges(target, size):
        at = start
        while at < end:
            done = sharing.share(source, target, at, end - at)
            if not done:
                return at if begun else 0
            begun = True
            at += done
    return size if begun else 0


def _alone(fd: int) -> int:
    """Bytes of blocks on which only this open file lies."""
    try:
        return sum([each.length for each in sharing.extents(fd) if not each.shared])
    except OSError:  # a file system that shares, and does not tell
        return 0


class _Inodes:
    """The (device, inode) of many files, as a container of numbers."""

    def __init__(self, files: Files, numbers: Iterable[int]) -> None:
        from array import array

        self._of: dict[int, array[int]] = {}
        for number in numbers:
            self._of.setdefault(files.device[files.tree_of(number)], array("Q")).append(files.inode[number])
        for device, inodes in self._of.items():
            self._of[device] = array("Q", sorted(inodes))

    def __contains__(self, inode: object) -> bool:
        from bisect import bisect_left

        assert isinstance(inode, tuple)
        device, number = inode
        inodes = self._of.get(device)
        if inodes is None:
            return False
        at = bisect_left(inodes, number)
        return at < len(inodes) and inodes[at] == number
