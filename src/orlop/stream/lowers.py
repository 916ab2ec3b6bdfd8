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
    """The lower directories of one layer, nearest first, kept open."""

    def __init__(self, directories: Iterable[str] = ()) -> None:
        self._descents: list[Descent] = []
        try:
            for directory in directories:
                self._descents.append(Descent(directory))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for lower in self._descents:
            lower.close()

    def find(self, path: bytes) -> os.stat_result | None:
        """The status of `path`, relative to the layer's root, in the nearest lower that says something about it.

        None if no lower has it, or if one deletes it, or a directory above it, before another shows it.
        """
        parents, name = place_of(path)
        names = [*parents, name]
        for lower in self._descents:
            try:
                lower.go(parents)
            except OSError as error:
                if error.errno not in GONE:
                    raise
            try:
                # The name itself, or the ancestor at which this lower ends.
                status = os.lstat(names[lower.depth], dir_fd=lower.fd)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                continue
            if is_whiteout(status):
                return None
            if lower.depth == len(parents):
                return status
        return None
