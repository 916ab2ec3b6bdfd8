"""What a layer changed, read off its upper directory (`spec/archive.md` 6.2). (The tar of it: `stream.pack`.)

The upper directory may be a running container's: everything is reached as `Descent` reaches it.
"""

from __future__ import annotations

import os
import stat

from orlop.model.changes import ADDED, DELETED, MODIFIED, Change
from orlop.stream.compare import entered, is_other_time, within_limit
from orlop.stream.lowers import Lowers, is_whiteout
from orlop.stream.unpack import Unpacker
from orlop.system import xattrs
from orlop.system.descent import DIRECTORY, GONE, Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.formats.tarheader import Entry
    from orlop.model.changes import Kind

_SYMLINK = ord("2")


def upper_changes(upper: str, lowers: Sequence[str], mark: str) -> list[Change]:
    """The changes that an upper directory stands for, sorted by path.

    A file in it was added or modified, even if it is now as it was. A directory that differs in nothing from the one
    below it (it is there because something in it changed) is listed only if something in it was added or deleted.
    `mark` is the attribute of opaque directories.
    """
    found = _Changes(mark)
    with Descent(upper) as at, Lowers(lowers) as below:
        prefix = b""
        levels = [(0, iter(at.entries()))]  # how long the prefix of each is
        while levels:
            length, entries = levels[-1]
            prefix = prefix[:length]
            for name, kind, _ in entries:
                path = prefix + name
                if kind == DIRECTORY and entered(at, name):
                    found.directory(path, at, below)
                    prefix = path + b"/"
                    levels.append((len(prefix), iter(at.entries())))
                    break
                try:
                    status = os.lstat(name, dir_fd=at.fd)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
                    continue
                found.other(path, status, below)
            else:
                levels.pop()
                if levels:
                    at.leave()
    found.changes.sort(key=lambda change: change.path)
    return found.changes


class _Changes:
    def __init__(self, mark: str) -> None:
        self.changes: list[Change] = []
        self._length = 0  # of all paths together
        self._mark = mark
        self._listed: set[bytes] = set()
        self._settled: set[bytes] = set()
        """Directories that are listed, with all above them."""

    def directory(self, path: bytes, at: Descent, below: Lowers) -> None:
        """`path` is the current directory of the descent."""
        was = below.find(path)
        if was is not None and xattrs.read(at.fd, self._is_mark).get(os.fsencode(self._mark)) == b"y":
            self._note(path, DELETED)  # and what is in it now is new
        elif was is None:
            self._note(path, ADDED)
        elif _differ(at.status, was):
            self._note(path, MODIFIED)
        else:
            return
        self._listed.add(path)

    def other(self, path: bytes, status: os.stat_result, below: Lowers) -> None:
        if is_whiteout(status):
            self._note(path, DELETED)
        else:
            self._note(path, ADDED if below.find(path) is None else MODIFIED)

    def _is_mark(self, name: str) -> bool:
        return name == self._mark

    def _note(self, path: bytes, kind: Kind) -> None:
        if kind != MODIFIED:
            # All of them: one that is listed may lie below one that is not, because it differs and that one does not.
            # Once for each: at every level anew, a tree of a thousand levels took minutes.
            above = path.rpartition(b"/")[0]
            while above and above not in self._settled:
                self._settled.add(above)
                if above not in self._listed:
                    self._listed.add(above)
                    self._add(above, MODIFIED)
                above = above.rpartition(b"/")[0]
        self._add(path, kind)

    def _add(self, path: bytes, kind: Kind) -> None:
        self._length = within_limit(self._length + len(path) + 1)
        self.changes.append(Change(b"/" + path, kind))


def _differ(now: os.stat_result, was: os.stat_result) -> bool:
    if not stat.S_ISDIR(was.st_mode) or (now.st_mode, now.st_size) != (was.st_mode, was.st_size):
        return True
    return now.st_mtime_ns != was.st_mtime_ns and is_other_time(now.st_mtime_ns, was.st_mtime_ns)


class UpperUnpacker(Unpacker):
    """Unpacks into an upper directory, and counts as its disk usage is counted: symlinks by their text."""

    def entry(self, e: Entry) -> None:
        super().entry(e)
        if e.type == _SYMLINK:
            self._size += len(e.linkname)
