"""A table of regular files in many trees, small enough for millions of them.

Rule 1: Memory is for numbers and names, some 70 bytes a file; paths are kept once for each directory.
Rule 2: A file is opened as it was found or not at all: by names beneath its tree, and it must be the same inode of
        the same size.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.stream.walk import walk
from orlop.system.descent import GONE, Descent
from orlop.system.sharing import open_to_ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self


class Files:
    """Regular files of some trees, by numbers from 0 on, in the order of the trees."""

    def __init__(self, trees: Sequence[str]) -> None:
        from array import array

        self.trees = trees
        self.device = [0] * len(trees)
        """The `st_dev` of each tree; what has another one is not a part of it."""
        self.size = array("Q")
        self.inode = array("Q")
        self._directory = array("I")  # file -> directory
        self._tree = array("I")  # directory -> tree
        self._paths: list[bytes] = []  # of directories, below their trees
        self._names = bytearray()
        self._name_end = array("Q")
        self._sizes: dict[int, bool] = {}  # whether there is more than one file of a size
        self._linked: set[int] = set()  # inodes with several names

    def __len__(self) -> int:
        return len(self.size)

    def add_tree(self, number: int) -> None:
        """Take in the files of a tree. An inode with several names is taken in once, empty files not at all."""
        try:
            at = Descent(self.trees[number])
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        with at:
            self.device[number] = device = at.status.st_dev

            def visit(names: list[str], inode: int, above: os.stat_result | None) -> list[tuple[str, int]]:
                return self._add_directory(number, at, names) if at.status.st_dev == device else []

            walk(at, visit)

    def _add_directory(self, tree: int, at: Descent, names: list[str]) -> list[tuple[str, int]]:
        directories = []
        number = len(self._paths)
        before = len(self)
        with os.scandir(at.fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append((entry.name, entry.inode()))
                elif entry.is_file(follow_symlinks=False):
                    try:
                        self._add(number, entry.name, entry.stat(follow_symlinks=False))
                    except OSError as error:
                        if error.errno not in GONE:
                            raise
        if len(self) > before:
            self._paths.append(os.fsencode("/".join(names)))
            self._tree.append(tree)
        return directories

    def _add(self, directory: int, name: str, status: os.stat_result) -> None:
        if not status.st_size or not stat.S_ISREG(status.st_mode):
            return
        if status.st_nlink > 1:
            inode = status.st_dev << 64 | status.st_ino
            if inode in self._linked:
                return
            self._linked.add(inode)
        self.size.append(status.st_size)
        self.inode.append(status.st_ino)
        self._directory.append(directory)
        self._names += os.fsencode(name)
        self._name_end.append(len(self._names))
        self._sizes[status.st_size] = status.st_size in self._sizes

    def tree_of(self, number: int) -> int:
        return self._tree[self._directory[number]]

    def place(self, number: int) -> tuple[int, bytes, bytes]:
        """(tree, path of the directory below it, name) of a file."""
        directory = self._directory[number]
        start = self._name_end[number - 1] if number else 0
        return (
            self._tree[directory],
            self._paths[directory],
            bytes(self._names[start : self._name_end[number]]),
        )

    def path(self, number: int) -> str:
        """The path of a file, for people."""
        tree, directory, name = self.place(number)
        return os.fsdecode(os.path.join(os.fsencode(self.trees[tree]), directory, name))

    def has_twin(self, number: int) -> bool:
        """Whether another file has the size of this one."""
        return self._sizes[self.size[number]]


class Opener:
    """Opens files by their numbers; quickest in the order of the numbers. A context manager."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._tree = -1
        self._at: Descent | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._at is not None:
            self._at.close()
            self._at, self._tree = None, -1

    def open(self, number: int) -> int:
        """A descriptor for reading. OSError if it is not there any more; ESTALE if it is another file by now."""
        tree, directory, name = self._files.place(number)
        if tree != self._tree or self._at is None:
            self.close()
            self._at = Descent(self._files.trees[tree])
            self._tree = tree
        try:
            self._at.go(directory.split(b"/") if directory else ())
            fd = open_to_ask(os.fsdecode(name), self._at.fd)
        except OSError:
            self.close()  # it stands somewhere on the way
            raise
        status = os.fstat(fd)
        if status.st_ino != self._files.inode[number] or status.st_size != self._files.size[number]:
            os.close(fd)
            raise OSError(errno.ESTALE, "file was replaced or changed", name)
        return fd
