"""What the lower directories of an overlay layer know about a name (`spec/archive.md` 3.4 and 6.2).

Each lower is reached as `Descent` reaches a tree: it is an unpacked image, and its symlinks are somebody's idea.

LIMIT: a symlink on the way is not followed, where the peers follow it (even out of the layer). A directory that is
new in a place which a lower reaches through a symlink only is not known there. Nothing shows through either way.
"""

from __future__ import annotations

import os
import stat

from orlop.system.descent import GONE, Descent, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is how overlay notes on disk that a name is deleted: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class Lowers:
    """The lower directories of one layer, nearest first.

    The nearest answer most questions and are kept open. A layer may have five hundred of them, and a process may
    not have many more descriptors.
    """

    def __init__(self, directories: Iterable[str] = ()) -> None:
        self._directories = tuple(directories)
        self._open: list[Descent] = []  # of the first so many

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def find(self, path: bytes) -> os.stat_result | None:
        """The status of `path`, relative to the layer's root, in the nearest lower that says something about it.

        None if no lower has it, or if one deletes it, or a directory above it, before another shows it.
        """
        parents, name = place_of(path)
        for number, directory in enumerate(self._directories):
            if number < len(self._open):
                status, reached = _look(self._open[number], parents, name)
            elif number < _KEPT_LOWERS:
                self._open.append(Descent(directory, kept_open=_KEPT_DIRECTORIES))
                status, reached = _look(self._open[number], parents, name)
            else:
                with Descent(directory) as lower:
                    status, reached = _look(lower, parents, name)
            if status is not None:
                if is_whiteout(status):
                    return None
                if reached:
                    return status
        return None


_KEPT_LOWERS, _KEPT_DIRECTORIES = 32, 7  # together at most 256 descriptors


def _look(lower: Descent, parents: list[bytes], name: bytes) -> tuple[os.stat_result | None, bool]:
    """The status of the entry, and True; or of the ancestor at which this lower ends, and False."""
    try:
        lower.go(parents)
    except OSError as error:
        if error.errno not in GONE:
            raise
    reached = lower.depth == len(parents)
    try:
        return os.lstat(name if reached else parents[lower.depth], dir_fd=lower.fd), reached
    except OSError as error:
        if error.errno not in GONE:
            raise
        return None, reached
