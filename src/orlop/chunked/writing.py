"""A tar becomes a zstd:chunked blob: the same tar to every decoder, and its files can be had one by one
(`spec/chunked.md` 5, 6).

Rule 1. The blob unpacks to the tar, byte for byte, or there is no blob: what the table cannot say is refused, and
goes into an ordinary zstd blob. (The peers write blobs of some such tars, which nobody can pull.)
Rule 2. No frame is empty, and each chunk is one.
"""

from __future__ import annotations

from io import BytesIO

from orlop.chunked.cutting import Cutter
from orlop.errors import NotSupported
from orlop.formats import chunkedblob, crc64, toc
from orlop.formats.chunkedblob import HEADER_SIZE, Places, Span
from orlop.formats.tarsplit import quoted
from orlop.stream import compression
from orlop.stream.ingest import has_no_file
from orlop.stream.measure import blocks_of
from orlop.stream.reader import TarReader
from orlop.stream.split import SplitWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.formats.tarheader import Entry
    from orlop.stream.measure import Blob
    from orlop.stream.split import Writable

LEVEL = 10
"""Of zstd, unless told otherwise."""


def write(tar: Blob, out: Writable, *, level: int = LEVEL) -> dict[str, str]:
    """Write the blob of an uncompressed tar to `out`; the annotations that its manifest has to carry.

    LIMIT: memory grows with the number of entries (about 1,000 bytes each): the table comes last.

    Raises:
        BadArchive, DuplicatePath, LimitExceeded: as reading any layer.
        NotSupported: the table of contents cannot say it: types that tar has besides the usual ones, sparse files,
            names that are not UTF-8, whiteouts with content.
    """
    frames = _Frames(out, level)
    record = BytesIO()
    reader = TarReader(blocks_of(tar))
    entries: list[toc.Listed] = []
    with SplitWriter(record, kind=compression.ZSTD) as split:
        for entry in reader:
            _refuse(entry)
            split.header(reader.raw, entry.name)
            frames.write(reader.raw)
            listed = toc.Listed(entry)
            crc = _content(reader.payload(), listed, frames) if entry.size else 0
            split.file(entry.name, entry.size, crc)
            entries.append(listed)
        split.segment(reader.raw)
        frames.write(reader.raw)
        for rest in reader.trailing():
            split.segment(rest)
            frames.write(rest)
        split.finish()
    frames.end()
    return _finish(frames, entries, record.getvalue(), split.size).annotations()


def _refuse(entry: Entry) -> None:
    why = toc.unsayable(entry)
    if not why and entry.size and has_no_file(entry.name):
        why = "is a whiteout and has content"
    if why:
        sentence = (
            f"entry {quoted(entry.name)} {why}: the table of contents of a zstd:chunked blob cannot say so. "
            "Compress the layer with plain zstd."
        )
        peer = sentence if entry.type in toc.NAMES else f"unknown tarball type: {entry.type}"
        raise NotSupported(sentence, peer=peer, name=entry.name)


def _content(payload: Iterable[memoryview], listed: toc.Listed, frames: _Frames) -> int:
    """Write the chunks of a file and note them; the CRC-64 of it."""
    from hashlib import sha256

    frames.end()
    cutter, update = Cutter(), crc64.best()
    whole, part = sha256(), sha256()
    crc = size = position = 0
    zeros = False
    start = frames.position

    def take(pieces: Iterable[tuple[bytes, bool] | None]) -> None:
        nonlocal part, size, position, zeros, start
        for piece in pieces:
            if piece is not None:
                data, zeros = piece
                frames.write(data)
                part.update(data)
                size += len(data)
                continue
            frames.end()
            digest = f"sha256:{part.hexdigest()}"
            listed.chunks.append(toc.Chunk(start, frames.position, size, position, digest, zeros))
            position += size
            part, size, start = sha256(), 0, frames.position

    for view in payload:
        crc = update(view, crc)
        whole.update(view)
        take(cutter.feed(view))
    take(cutter.finish())
    listed.digest = f"sha256:{whole.hexdigest()}"
    return crc


def _finish(frames: _Frames, entries: list[toc.Listed], split: bytes, split_size: int) -> Places:
    """Write what follows the data."""
    from hashlib import sha256

    table = toc.encode(toc.TOC(entries, f"sha256:{sha256(split).hexdigest()}"))
    packed = frames.packed(table)
    toc_span = Span(frames.position + HEADER_SIZE, len(packed), len(table))
    frames.raw(chunkedblob.skippable(packed))
    split_span = Span(frames.position + HEADER_SIZE, len(split), split_size)
    frames.raw(chunkedblob.skippable(split))
    places = Places(f"sha256:{sha256(packed).hexdigest()}", toc_span, split_span)
    frames.raw(chunkedblob.skippable(chunkedblob.footer(places)))
    return places


class _Frames:
    """Writes frames to `out`, and knows where it is."""

    def __init__(self, out: Writable, level: int) -> None:
        self._out = out
        self._frames = compression.ZstdFrames(level)
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Add to the frame."""
        self.raw(self._frames.compress(data))

    def end(self) -> None:
        self.raw(self._frames.end())

    def packed(self, data: bytes) -> bytes:
        """`data` as one frame, which is not written yet."""
        return self._frames.compress(data) + self._frames.end()

    def raw(self, data: bytes) -> None:
        if data:
            self._out.write(data)
            self.position += len(data)
