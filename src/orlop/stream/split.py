"""The tar-split record of a layer: written while the layer is read, and the layer put together from it again
(`spec/tar-split.md` 5, 7).

Rule 1. A record that says a layer can be given back byte for byte must be right about it. Bytes that no file of the
layer will hold stand in the record itself.
Rule 2. Nothing of a file is sent before its size and checksum are those of the record.
"""

from __future__ import annotations

import os
import stat

from orlop.errors import BadArchive, BadTarSplit, ContentChanged
from orlop.formats import crc64, limits, tarsplit
from orlop.stream import compression
from orlop.stream.measure import blocks_of
from orlop.stream.pieces import FilePiece
from orlop.stream.workers import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Protocol, Self

    from orlop.stream.measure import Readable
    from orlop.stream.pieces import Piece

    class Writable(Protocol):
        def write(self, data: bytes, /) -> object: ...


_BATCH = 512 * 1024  # of JSON for one step of the compressor
_PIECE = 256 * 1024
_READ_WHOLE = 1024 * 1024  # files up to this size are read once, checked and sent from memory


class SplitWriter:
    """Writes a record to `out` as one stream, compressed in a thread: gzip, as the store keeps it, or another `kind`.

    For each entry `header`, then `file` or `kept`; `segment` for what follows the last one; `finish` at the end.
    Leaving the block by an exception, or without `finish`, drops what is not written; `out` is the caller's.
    """

    def __init__(self, out: Writable, *, kind: int = compression.GZIP) -> None:
        self._out = out
        self._encoder = compression.encoder(kind, fast=True)
        self._worker = Worker(_compressing(out, self._encoder))
        self._names = tarsplit.Names()
        self._lines: list[bytes] = []
        self._waiting = 0  # bytes of lines
        self._position = 0
        self.size = 0
        """Bytes of all lines, once it is finished."""

    def header(self, raw: bytes, name: bytes) -> None:
        """The segment in front of an entry. Raises `DuplicatePath` before anything is done with that entry."""
        self._names.add(name)
        self._add(tarsplit.segment_line(raw, self._position))

    def file(self, name: bytes, size: int, crc: int = 0) -> None:
        """The entry's payload is the file of that name."""
        self._add(tarsplit.file_line(name, size, crc, self._position))

    def segment(self, data: bytes | memoryview) -> None:
        """Bytes that stand in the stream and in no file, of any number."""
        for start in range(0, len(data), limits.TRAILING_SEGMENT_MAX):
            piece = data[start : start + limits.TRAILING_SEGMENT_MAX]
            self._add(tarsplit.segment_line(piece, self._position))

    def finish(self) -> None:
        self._pass_on()
        self._worker.finish()
        self._out.write(self._encoder.flush())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._worker.stop()

    def _add(self, line: bytes) -> None:
        self._lines.append(line)
        self._position += 1
        self._waiting += len(line)
        if self._waiting >= _BATCH:
            self._pass_on()

    def _pass_on(self) -> None:
        batch = b"".join(self._lines)
        self.size += len(batch)
        self._worker.put(batch)
        self._lines.clear()
        self._waiting = 0


def _compressing(out: Writable, encoder: compression.Encoder) -> Callable[[bytes], None]:
    def compress(batch: bytes) -> None:
        if data := encoder.compress(batch):
            out.write(data)

    return compress


# --- reading -------------------------------------------------------------------------------------------------


def read_record(record: Readable) -> Iterator[list[tarsplit.Item]]:
    """The items of a record, in lists. What is no gzip stream is refused at once, not at the first item."""
    kind, blocks = compression.peek(blocks_of(record))
    where = getattr(record, "name", "the record")
    if kind != compression.GZIP:
        first = next(blocks, b"")
        raise BadTarSplit(
            f"{where} is not a gzip stream" if first else f"{where} is empty",
            peer="gzip: invalid header" if first else "EOF",
        )
    return _items_of(blocks, where)


def _items_of(blocks: Iterator[bytes], where: object) -> Iterator[list[tarsplit.Item]]:
    try:
        yield from tarsplit.parse(compression.decompress(blocks, compression.GZIP))
    except BadArchive as error:
        raise BadTarSplit(f"{where} is damaged: {error}", peer=error.peer) from None


def assemble(record: Readable, open_file: Callable[[bytes], int]) -> Iterator[Piece]:
    """The stream that the record is of, as pieces.

    `record` is open at its start and stays the caller's. `open_file(name)` opens a file of the layer for reading: the
    name is as the archive had it, and must not be taken outside the layer. `ContentChanged` is raised in place of a
    file that is not what was recorded.

    LIMIT: a file that somebody changes between its check and its way into the pipe is sent changed. Consumers verify
    the digest of the whole.
    """
    return _assembled(read_record(record), open_file)


def assemble_lines(lines: Iterable[bytes], open_file: Callable[[bytes], int]) -> Iterator[Piece]:
    """As `assemble`, of a record that comes as its lines, in pieces of any size."""
    return _assembled(tarsplit.parse(lines), open_file)


def _assembled(items: Iterator[list[tarsplit.Item]], open_file: Callable[[bytes], int]) -> Iterator[Piece]:
    update = crc64.best()
    parts: list[bytes] = []  # neighbours in memory, to be one piece
    size = 0
    for batch in items:
        for item in batch:
            if isinstance(item, bytes):
                part: Piece = item
            elif item.size and item.type == tarsplit.FILE:
                part = _checked_file(item, open_file(item.name), update)
            else:
                continue  # other types are of a later format's making; the peers pass over them too
            if isinstance(part, FilePiece):
                yield b"".join(parts)
                parts.clear()
                size = 0
                yield part
                continue
            parts.append(part)
            size += len(part)
            if size >= _PIECE:
                yield b"".join(parts)
                parts.clear()
                size = 0
    yield b"".join(parts)


def _checked_file(file: tarsplit.SplitFile, fd: int, update: crc64.Update) -> Piece:
    """The file if it is what was recorded: as bytes, or for the kernel to send."""
    try:
        found = os.fstat(fd)
        # What is no regular file could block or never end.
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
            raise _changed(file, f"has {found.st_size} bytes instead of {file.size}")
        if file.size <= _READ_WHOLE:
            data = os.read(fd, file.size)
            while len(data) < file.size and (more := os.read(fd, file.size - len(data))):
                data += more
            if crc64.stored(update(data, 0)) != file.checksum or len(data) != file.size:
                raise _changed(file, "has another content")
            os.close(fd)
            return data
        crc = at = 0
        buffer = bytearray(_READ_WHOLE)
        view = memoryview(buffer)
        while count := os.preadv(fd, [buffer], at):
            crc = update(view[:count], crc)
            at += count
        if crc64.stored(crc) != file.checksum or at != file.size:
            raise _changed(file, "has another content")
        return FilePiece(fd, file.size, name=file.name)
    except BaseException:
        os.close(fd)
        raise


def _changed(file: tarsplit.SplitFile, how: str) -> ContentChanged:
    name = tarsplit.quoted(file.name)
    return ContentChanged(
        f"file {name} of the layer {how}: it is not what was put into the layer",
        peer=f"file integrity checksum failed for {name}",
        name=file.name,
    )
