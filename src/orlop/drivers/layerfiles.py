"""Files of a layer by the names that an archive has for them, without mounting anything.

Names are hostile, and so is the tree: a container may have put a symlink, a FIFO or a device where the archive had
a file. A name is resolved beneath the layer's root and nowhere else, and what stands there is looked at through a
handle that reads nothing before it is opened.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.drivers.api import LayerFiles
from orlop.errors import UnsafePath
from orlop.system.beneath import Root
from orlop.system.descent import open_unnoticed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR)


class DirectoryFiles(LayerFiles):
    """The files below one or more directories; the first that has a name counts."""

    def __init__(self, directories: Iterable[str]) -> None:
        self._roots: list[Root] = []
        try:
            for directory in directories:
                self._roots.append(Root(os.open(directory, _DIRECTORY)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for root in self._roots:
            root.forget()
            os.close(root.fd)
        self._roots = []

    def open(self, name: bytes) -> int:
        if b"\0" in name:
            raise UnsafePath(f"{name!r} cannot be the name of a file", path=name)
        first: OSError | None = None
        for root in self._roots:
            try:
                return _open_regular(root, name)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                first = first or error
        raise first or ValueError("the files of this layer were closed")


def _open_regular(root: Root, name: bytes) -> int:
    # Archives go directory by directory, and the root remembers the last ones: one name is left to look up.
    parent, last = root.parent(name)
    try:
        handle = os.open(last, _LOOK, dir_fd=parent)
    except OSError as error:
        error.filename = os.fsdecode(name)
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsafePath(f"{os.fsdecode(name)!r} of the layer is not a regular file", path=name)
        return open_unnoticed(b"/proc/self/fd/%d" % handle, _READ, handle)
    finally:
        os.close(handle)
