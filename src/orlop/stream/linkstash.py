"""Hard links of aufs in a layer archive (`spec/archive.md` 5.3).

Some old archives carry the content of hard-linked files below `.wh..wh.plnk`, and link to it from where it belongs.
Under layer rules those files are no part of the layer: each link becomes a file of its own.
"""

from __future__ import annotations

import os

from orlop.errors import BadArchive, LimitExceeded
from orlop.formats import limits
from orlop.formats.tarsplit import clean_name, quoted
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.stream.place import Source
    from orlop.stream.ring import Record


class LinkStash:
    """The files below `.wh..wh.plnk`, by their last name.

    One file without a name holds the contents of all: it leaves no trace, whatever happens, and the times of the
    directory stay as they are.
    """

    def __init__(self, directory: int) -> None:
        """`directory` is open, and lies on the file system that is to hold the contents."""
        self._fd = files.nameless(directory)
        self._end = 0
        self._kept: dict[bytes, tuple[Record, int]] = {}

    def keep(self, base: bytes, record: Record, source: Source) -> None:
        if len(self._kept) >= limits.AUFS_LINKS_MAX:
            raise LimitExceeded(f"archive has more than {limits.AUFS_LINKS_MAX} files for hard links of aufs")
        size = record[5]
        self._kept[base] = (record, self._end)
        os.lseek(self._fd, self._end, os.SEEK_SET)
        source.copy(self._fd, size)
        self._end += size

    def find(self, linkname: bytes) -> tuple[Record, Source]:
        """The entry and the payload that stand for a hard link to `linkname`."""
        base = clean_name(linkname).rpartition(b"/")[2]
        if base not in self._kept:
            raise BadArchive(
                f"hard link to {quoted(linkname)}, which the archive does not carry",
                peer="invalid aufs hardlink",
                linkname=linkname,
            )
        record, start = self._kept[base]
        return record, _Kept(self._fd, start)

    def close(self) -> None:
        os.close(self._fd)


class _Kept:
    """The payload of one kept file; may be taken any number of times."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._at = start

    def pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            data = os.pread(self._fd, min(size, 1 << 20), self._at)
            self._at += len(data)
            size -= len(data)
            yield memoryview(data)

    def copy(self, fd: int, size: int) -> None:
        for piece in self.pieces(size):
            while piece:
                piece = piece[os.write(fd, piece) :]
