"""Files of a layer by the names that an archive has for them, without mounting anything.

Names are hostile, and so is the tree: a container may have put a symlink, a FIFO or a device where the archive had
a file. A name is resolved beneath the layer's root and nowhere else. What stands there is opened in a view of the
layer in which devices cannot be opened (`Descent.guard`); where the kernel gives us none, and whenever that open
fails, it is looked at through a handle first, which opens nothing.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.drivers.api import LayerFiles
from orlop.errors import UnsafePath
from orlop.formats.tarsplit import clean_name
from orlop.system.beneath import Root
from orlop.system.descent import Descent, open_unnoticed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_READ_AT_ONCE = _READ | os.O_NOFOLLOW | os.O_NONBLOCK
_METACOPY = "trusted.overlay.metacopy"
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR)


class DirectoryFiles(LayerFiles):
    """The files below one or more directories of our own choosing; the first that has a name counts.

    The first directory is opened at once, another one when a name was found in none before it: there may be hundreds.
    What is no directory is a callable that gives us the files of that place, which are closed with ours.
    """

    def __init__(self, places: Iterable[str | Callable[[], LayerFiles]]) -> None:
        first, *self._others = places
        self._places = [_opened(first)]

    def close(self) -> None:
        for place in self._places:
            place.close()
        self._places, self._others = [], []

    def _searched(self) -> Iterator[LayerFiles]:
        yield from self._places
        while self._others:
            place = _opened(self._others[0])
            del self._others[0]
            self._places.append(place)
            yield place

    def open(self, name: bytes) -> int:
        if b"\0" in name:
            raise UnsafePath(f"{name!r} cannot be the name of a file", path=name)
        if b"/.." in name:  # it need not name a directory that is there, and was unpacked without it
            name = clean_name(b"/" + name)[1:]
        first: OSError | None = None
        for place in self._searched():
            try:
                return place.open(name)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                first = first or error
        raise first or ValueError("the files of this layer were closed")


def older_files(directory: str) -> Callable[[], LayerFiles]:
    """A place for `DirectoryFiles` in which files may have been re-owned: see `OlderFiles`."""
    return lambda: OlderFiles(directory)


class OlderFiles(LayerFiles):
    """The files of older content by name, but for those that have no data: with `metacopy=on` just their owners were
    copied up, and what is in them is further below."""

    def __init__(self, directory: str) -> None:
        self._files = DirectoryFiles([directory])

    def close(self) -> None:
        self._files.close()

    def open(self, name: bytes) -> int:
        fd = self._files.open(name)
        try:
            os.getxattr(fd, _METACOPY)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):
                return fd
            os.close(fd)
            raise
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "the file's data are further below", os.fsdecode(name))


def _opened(place: str | Callable[[], LayerFiles]) -> LayerFiles:
    return _Place(place) if isinstance(place, str) else place()


class _Place(LayerFiles):
    """One directory, with handles of those below it that were asked for last: archives go directory by directory."""

    __slots__ = ("_at", "_root")

    def __init__(self, directory: str) -> None:
        self._at = Descent(directory)
        self._at.guard()
        self._root = Root(self._at.fd)

    def close(self) -> None:
        self._root.forget()
        self._at.close()

    def open(self, name: bytes) -> int:
        parent, last = self._root.parent(name)
        if self._at.guarded:
            try:
                fd = os.open(last, _READ_AT_ONCE, dir_fd=parent)
            except OSError as error:
                if error.errno in _NOT_HERE:
                    error.filename = os.fsdecode(name)
                    raise
            else:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    return fd
                os.close(fd)
        return _open_looking(parent, last, name)


def _open_looking(parent: int, last: bytes, name: bytes) -> int:
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
