"""Copying a whole file tree, which is how a driver without snapshots makes a child layer (`spec/drivers.md` 3.5).

Three passes:

    walk          makes the directories, open to us only, and copies every file that has one name
    links         copies what has several names once, and links the rest: one table knows what was copied
    directories   owner, mode and times, the last visited first. Earlier, the times would change again, and a user
                  who is not root could not write into a directory that is read-only

Regular files are nearly all of the work. When there are many, a second process takes every batch that it has time
for. Both go by single names in open directories (`system.descent`), so nothing in the tree leads out of it.

LIMIT: what the last pass needs is kept in memory, about 700 bytes for a directory.
"""

from __future__ import annotations

import os

from orlop.stream.filecopy import FileCopier
from orlop.system.descent import DIRECTORY, FILE, Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.system.confine import Worker

_BATCH = 64
"""Files handed over at a time: some milliseconds of work, against which passing them on costs nothing."""

_AHEAD = 2
"""Batches that the other process may have: one that it works on, and the next."""

_ALONE = 1000
"""Files after which a second process is worth its start."""

_OURS_ALONE = 0o700


def copy_tree(
    source: str,
    target: str,
    *,
    rootless: bool = False,
    ignore_chown_errors: bool = False,
    processes: int = 2,
) -> None:
    """Copy what lies in `source` into the existing, empty directory `target`, the root's own attributes included.

    Kept: content and its holes, owner, mode, times to the nanosecond, hard links, symlinks, FIFOs, sockets,
    devices, and the extended attributes that `xattrs.copied` names. `rootless` and `ignore_chown_errors` are those
    of `FileCopier`. `processes` is 1 or 2.

    Raises OSError naming the path below the root. What was copied so far is left to the caller to remove.
    """
    files = FileCopier(rootless=rootless, ignore_chown_errors=ignore_chown_errors)
    with Descent(source) as old, Descent(target) as new:
        try:
            copy = _TreeCopy(files, old, new)
            with _Helper(files, old.fd, new.fd, wanted=processes > 1) as helper:
                copy.walk(helper)
                copy.linked += helper.finish()
            with Descent(target) as first:
                copy.link(first)
            copy.finish_directories()
        except OSError as error:
            if isinstance(error.filename, bytes):
                error.filename = os.fsdecode(error.filename)
            raise


class _Directory:
    """What the last pass needs to know."""

    __slots__ = ("attributes", "path", "status")

    def __init__(self, path: bytes, status: os.stat_result, attributes: Mapping[bytes, bytes]) -> None:
        self.path = path
        self.status = status
        self.attributes = attributes


class _TreeCopy:
    """The three passes, over two descents that go side by side."""

    def __init__(self, files: FileCopier, old: Descent, new: Descent) -> None:
        self.files = files
        self.old = old
        self.new = new
        self.directories: list[_Directory] = []
        self.linked: list[tuple[bytes, bytes]] = []  # directory and name of the files that have several names

    def walk(self, helper: _Helper) -> None:
        """Directories by the bytes of their names, parents before what they hold."""
        left = [self._enter(b"", helper)]
        paths = [b""]
        while left:
            if not left[-1]:
                left.pop()
                paths.pop()
                if left:
                    self.old.leave()
                    self.new.leave()
                continue
            name = left[-1].pop()
            path = os.path.join(paths[-1], name)
            with _at(paths[-1]):
                os.mkdir(name, _OURS_ALONE, dir_fd=self.new.fd)
                self.old.enter(name)
                self.new.enter(name)
            paths.append(path)
            left.append(self._enter(path, helper))

    def _enter(self, path: bytes, helper: _Helper) -> list[bytes]:
        """Copy the files of the current directory; the names of its directories, the first one last."""
        old, new = self.old.fd, self.new.fd
        directories, regular = [], []
        with _at(path):
            self.directories.append(_Directory(path, self.old.status, self.files.attributes(old)))
            for name, kind, _ in self.old.entries():
                if kind == DIRECTORY:
                    directories.append(name)
                elif kind == FILE:
                    regular.append(name)
                else:
                    self.files.special(old, new, name)
        for start in range(0, len(regular), _BATCH):
            batch = regular[start : start + _BATCH]
            if not helper.take(path, batch):
                with _at(path):
                    self.linked += [(path, name) for name in self.files.regular(old, new, batch)]
        directories.reverse()
        return directories

    def link(self, first: Descent) -> None:
        """`first` goes to where the first copy of each file lies."""
        copies: dict[tuple[int, int], tuple[list[bytes], bytes]] = {}
        for directory, name in sorted(self.linked):
            path = _names(directory)
            with _at(directory):
                self.old.go(path)
                self.new.go(path)
                status = os.stat(name, dir_fd=self.old.fd, follow_symlinks=False)
                inode = (status.st_dev, status.st_ino)
                if inode in copies:
                    place, other = copies[inode]
                    first.go(place)
                    os.link(other, name, src_dir_fd=first.fd, dst_dir_fd=self.new.fd, follow_symlinks=False)
                else:
                    self.files.file(self.old.fd, self.new.fd, name)
                    copies[inode] = (path, name)

    def finish_directories(self) -> None:
        for directory in reversed(self.directories):
            with _at(directory.path):
                self.new.go(_names(directory.path))
                self.files.finish(self.new.fd, self.new.status, directory.status, directory.attributes)


class _Helper:
    """The second process, which starts when there is enough to do.

    It answers every batch with a note, the files that it left alone, and with a byte in a pipe of its own: that one
    can be asked without waiting.
    """

    def __init__(self, files: FileCopier, old: int, new: int, *, wanted: bool) -> None:
        self._files = files
        self._old = os.dup(old)
        self._new = os.dup(new)
        self._wanted = wanted
        self._seen = 0
        self._worker: Worker | None = None
        self._done = -1
        self._ahead = 0  # batches handed over and not done, as far as we know
        self._unanswered = 0

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker:
            self._worker.abort()
        for fd in (self._old, self._new, self._done):
            if fd >= 0:
                os.close(fd)

    def take(self, directory: bytes, names: list[bytes]) -> bool:
        """Whether the other process copies these files. Raises what it had to say about earlier ones."""
        if self._worker is None:
            self._seen += len(names)
            if not self._wanted or self._seen < _ALONE:
                return False
            try:
                self._worker = self._start()
            except (OSError, RuntimeError):
                # No process to be had (a limit on their number, an interpreter that is part of another program).
                self._wanted = False
                return False
        try:
            self._ahead -= len(os.read(self._done, 4096))
        except BlockingIOError:
            pass
        if self._ahead >= _AHEAD:
            return False
        self._worker.send(b"\0".join([directory, *names]))
        self._ahead += 1
        self._unanswered += 1
        return True

    def finish(self) -> list[tuple[bytes, bytes]]:
        """Wait for the last batch. The files that the other process left alone: directories and names."""
        left_alone: list[tuple[bytes, bytes]] = []
        if self._worker is None:
            return left_alone
        while self._unanswered:
            for note in self._worker.notes(wait=True):
                self._unanswered -= 1
                directory, *names = note.split(b"\0")
                left_alone += [(directory, name) for name in names]
        self._worker.result()
        return left_alone

    def _start(self) -> Worker:
        from orlop.system import confine

        self._done, done = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return confine.start(
                "orlop.stream.filecopy:serve",
                (self._files.rootless, self._files.ignore_chown_errors),
                lend=(self._old, self._new, done),
            )
        finally:
            os.close(done)


class _at:
    """Errors in the block happened in this directory: their names become paths."""

    __slots__ = ("_directory",)

    def __init__(self, directory: bytes) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            name = (
                error.filename if isinstance(error.filename, bytes) else b""
            )  # a listing names its descriptor
            error.filename = os.path.join(self._directory, name)


def _names(directory: bytes) -> list[bytes]:
    return directory.split(b"/") if directory else []
