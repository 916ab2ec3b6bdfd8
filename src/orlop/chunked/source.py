"""Where the bytes of a blob come from, when not all of them are wanted (`spec/chunked.md` 10)."""

from __future__ import annotations

import abc
import os

from orlop.errors import BadArchive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orlop.stream.measure import Readable


class ByteSource(abc.ABC):
    """A blob, known by its size in bytes, that gives any part of itself."""

    size: int

    @abc.abstractmethod
    def ranges(self, wanted: Sequence[tuple[int, int]]) -> Iterator[Readable]:
        """A stream for each (offset, length), in order; a stream is valid until the next is asked for.

        The ranges are sorted, do not overlap, and lie within the blob; there is at least one.
        """


class BlobFile(ByteSource):
    """A blob in a file, which stays the caller's to close."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def ranges(self, wanted: Sequence[tuple[int, int]]) -> Iterator[Readable]:
        for offset, length in wanted:
            yield _Part(self._fd, offset, length)


class _Part:
    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd = fd
        self._at = offset
        self._rest = length

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, min(size, self._rest), self._at)
        self._at += len(data)
        self._rest -= len(data)
        return data


def read_ranges(source: ByteSource, wanted: Sequence[tuple[int, int]]) -> list[bytes]:
    """Some ranges as bytes; each as long as asked for, or `BadArchive`. Only for lengths that were bounded before."""
    found = []
    streams = source.ranges(wanted)
    for offset, length in wanted:
        stream = next(streams, None)
        parts = []
        rest = length
        while stream is not None and rest and (data := stream.read(min(rest, 1 << 20))):
            parts.append(data)
            rest -= len(data)
        if rest:
            raise BadArchive(
                f"of {length} bytes of the blob at {offset}, {length - rest} came",
                peer="not enough data returned from the server",
            )
        found.append(b"".join(parts))
    return found
