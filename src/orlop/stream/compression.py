"""Compressed streams in and out (`spec/archive.md` 1).

Rule 1. Libraries only. Programs of the host or, worse, of the layer are never run (CVE-2014-9357, CVE-2019-14271,
CVE-2026-41567).
Rule 2. What a stream claims does not decide how much memory it gets: output comes in pieces, windows and dictionaries
have limits.
Rule 3. A stream is whole or an error: concatenated members are read as one, a truncated or damaged one or anything
else after the last is refused. (Peers that run `pigz` tolerate the latter; those that do not refuse it as we do.)
"""

from __future__ import annotations

from orlop.errors import BadArchive, CompressionNotSupported, LimitExceeded
from orlop.formats import limits
from orlop.stream.pieces import PieceStream
from orlop.stream.workers import Converted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    class Decoder(Protocol):
        """One member of a stream."""

        @property
        def eof(self) -> bool: ...

        @property
        def needs_input(self) -> bool: ...

        @property
        def unused_data(self) -> bytes: ...

        def decompress(self, data: bytes, max_length: int) -> bytes: ...

    class Encoder(Protocol):
        def compress(self, data: bytes, /) -> bytes: ...

        def flush(self) -> bytes: ...


# As in layer records.
NONE, BZIP2, GZIP, XZ, ZSTD = range(5)

EXTENSIONS = ("tar", "tar.bz2", "tar.gz", "tar.xz", "tar.zst")

_MAGIC = ((BZIP2, b"BZh"), (GZIP, b"\x1f\x8b\x08"), (XZ, b"\xfd7zXZ\0"), (ZSTD, b"\x28\xb5\x2f\xfd"))
_MAGIC_SIZE = 10
_OUTPUT_SIZE = 1024 * 1024
_FIRST_INPUT_SIZE = 32 * 1024
_INPUT_SIZE = 256 * 1024
_ZSTD_SKIPPABLE = tuple(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))


def detect(first: bytes) -> int:
    """The kind of a stream by its first ten bytes (or fewer, if it is shorter)."""
    for kind, magic in _MAGIC:
        if first.startswith(magic):
            return kind
    return NONE


def peek(blocks: Iterable[bytes]) -> tuple[int, Iterator[bytes]]:
    """The kind of a stream, and its blocks with none missing."""
    from itertools import chain

    rest = iter(blocks)
    first = b""
    for block in rest:
        first += block
        if len(first) >= _MAGIC_SIZE:
            break
    return detect(first), chain((first,), rest) if first else rest


# --- in ------------------------------------------------------------------------------------------------------


def decompressed(blocks: Iterable[bytes], kind: int) -> Converted:
    """The content of a compressed stream, in blocks of up to 1 MiB, decompressed in a thread (to be stopped)."""
    return Converted(lambda taken: decompress(taken, kind), blocks)


def decompress(blocks: Iterable[bytes], kind: int) -> Iterator[bytes]:
    """As `decompressed`, in the caller's thread."""
    new_decoder, magic = _DECODERS[kind], dict(_MAGIC)[kind]
    starts = (magic, *_ZSTD_SKIPPABLE) if kind == ZSTD else (magic,)
    waiting = _Input(blocks)
    members = 0
    while True:
        if members and kind == XZ:
            _skip_padding(waiting)
        if not waiting.has(1) and members:
            return
        if not waiting.starts_with(starts):
            raise _no_member(waiting, kind, members)
        decoder = new_decoder()
        # A member's first input is small: what it leaves over is copied, and there may be a member each 20 bytes.
        size = _FIRST_INPUT_SIZE
        while not decoder.eof:
            data = b""
            if decoder.needs_input:
                data = waiting.take(size)
                size = _INPUT_SIZE
                if not data:
                    raise _cut_off(kind)
            try:
                piece = decoder.decompress(data, _OUTPUT_SIZE)
            except Exception as error:
                raise _mapped(error, kind) from None
            if piece:
                yield piece
        waiting.give_back(len(decoder.unused_data))
        members += 1


class _Input:
    """The part of a compressed stream that no decoder has used yet."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._block = b""
        self._pos = 0

    def has(self, count: int) -> bool:
        """Whether there are so many bytes; they are then in one piece."""
        while len(self._block) - self._pos < count:
            more = next(self._blocks, b"")
            if not more:
                return False
            self._block = self._block[self._pos :] + more
            self._pos = 0
        return True

    def starts_with(self, starts: tuple[bytes, ...]) -> bool:
        self.has(_MAGIC_SIZE)
        return self._block.startswith(starts, self._pos)

    def take(self, count: int) -> bytes:
        self.has(1)
        piece = self._block[self._pos : self._pos + count]
        self._pos += len(piece)
        return piece

    def give_back(self, count: int) -> None:
        """Undo the end of the last `take`."""
        self._pos -= count


def _skip_padding(waiting: _Input) -> None:
    """xz streams may be followed by zeros to a multiple of four bytes."""
    padding = 0
    while zeros := waiting.take(4096):
        rest = len(zeros.lstrip(b"\0"))
        padding += len(zeros) - rest
        if rest:
            waiting.give_back(rest)
            break
    if padding % 4:
        raise BadArchive(f"tar.xz stream with {padding} bytes of padding", peer="xz: invalid header")


def _no_member(waiting: _Input, kind: int, members: int) -> BadArchive:
    if not waiting.has(4):
        return _cut_off(kind)
    return BadArchive(
        f"{EXTENSIONS[kind]} stream with something else after {members} complete members: {waiting.take(8).hex(' ')}",
        peer="magic number mismatch" if kind == ZSTD else f"{_NAMES[kind]}: invalid header",
    )


_NAMES = ("none", "bzip2", "gzip", "xz", "zstd")


def _cut_off(kind: int) -> BadArchive:
    return BadArchive(f"{EXTENSIONS[kind]} stream ends before its data does", peer="unexpected EOF")


def _mapped(error: Exception, kind: int) -> Exception:
    """The library's complaint as one of ours; what is no complaint about the data stays what it is."""
    said = str(error)
    if kind == XZ and "limit" in said.lower():
        return LimitExceeded(
            f"tar.xz stream that needs more than {limits.XZ_MEMORY_MAX} bytes to be read",
            limit=limits.XZ_MEMORY_MAX,
        )
    if kind == ZSTD and "too much memory" in said:
        return LimitExceeded(
            f"tar.zst stream with a window of more than {1 << limits.ZSTD_WINDOW_LOG_MAX} bytes",
            limit=1 << limits.ZSTD_WINDOW_LOG_MAX,
        )
    if isinstance(error, MemoryError):
        return error
    return BadArchive(f"{EXTENSIONS[kind]} stream is damaged: {said}", peer=f"{_NAMES[kind]}: {said}")


def _bzip2() -> Decoder:
    from bz2 import BZ2Decompressor

    return BZ2Decompressor()


def _xz() -> Decoder:
    from lzma import FORMAT_XZ, LZMADecompressor

    return LZMADecompressor(format=FORMAT_XZ, memlimit=limits.XZ_MEMORY_MAX)


def _gzip() -> Decoder:
    try:
        from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor
    except ImportError:
        return _ZlibDecoder()
    return IgzipDecompressor(flag=DECOMP_GZIP)  # type: ignore[no-any-return,unused-ignore]


def _zstd() -> Decoder:
    zstd = _zstd_module()
    return zstd.ZstdDecompressor(  # type: ignore[no-any-return,attr-defined]
        options={zstd.DecompressionParameter.window_log_max: limits.ZSTD_WINDOW_LOG_MAX}  # type: ignore[attr-defined]
    )


def _zstd_module() -> object:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        from backports import zstd
    return zstd


_DECODERS: dict[int, Callable[[], Decoder]] = {BZIP2: _bzip2, GZIP: _gzip, XZ: _xz, ZSTD: _zstd}


class _ZlibDecoder:
    """zlib where isal has no wheel: a gzip member with the interface of the other decoders."""

    def __init__(self) -> None:
        from zlib import decompressobj

        self._inner = decompressobj(31)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.eof = self._inner.eof
        # A full piece may leave output inside the decoder without any input left over.
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < max_length
        self.unused_data = self._inner.unused_data
        return piece


# --- out -----------------------------------------------------------------------------------------------------


def check_output(kind: int) -> None:
    """Refuse a kind that cannot be written, before anything is locked or opened for it."""
    if kind not in (NONE, GZIP, ZSTD):
        is_known = kind in range(len(_NAMES))  # a record may say anything, and so may a caller
        raise CompressionNotSupported(
            f"streams are compressed with gzip or zstd, not with {_NAMES[kind] if is_known else repr(kind)}",
            peer=f"unsupported compression format {EXTENSIONS[kind] if is_known else ''}",
        )


def compressed(stream: PieceStream, kind: int) -> PieceStream:
    """`stream` compressed, in a thread; closing the result closes `stream`."""
    check_output(kind)
    if kind == NONE:
        return stream
    try:
        new_encoder = encoder(kind)
        converted = Converted(lambda taken: _compress(taken, new_encoder), stream)
    except BaseException:
        stream.close()  # nobody else would: with a diff, the layers would stay locked
        raise
    return PieceStream(converted, on_close=(converted.stop, stream.close))


def encoder(kind: int, *, fast: bool = False) -> Encoder:
    """A gzip or zstd compressor: at the library's default level, or `fast` (gzip level 1)."""
    if kind == GZIP:
        try:
            from isal import isal_zlib as zlib
        except ImportError:
            import zlib  # type: ignore[no-redef]
        level = 1 if fast else zlib.Z_DEFAULT_COMPRESSION
        return zlib.compressobj(level, zlib.DEFLATED, 31)  # type: ignore[no-any-return,unused-ignore]
    if kind == ZSTD:
        zstd = _zstd_module()
        return zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: True})  # type: ignore
    raise ValueError(f"no encoder for kind {kind}")


def _compress(blocks: Iterator[bytes], encoder: Encoder) -> Iterator[bytes]:
    for block in blocks:
        if piece := encoder.compress(block):
            yield piece
    yield encoder.flush()


class ZstdFrames:
    """Compresses to zstd frames that can each be read without the others, with a checksum of its content."""

    def __init__(self, level: int) -> None:
        zstd = _zstd_module()
        parameter = zstd.CompressionParameter  # type: ignore[attr-defined]
        self._encoder = zstd.ZstdCompressor(  # type: ignore[attr-defined]
            options={parameter.compression_level: level, parameter.checksum_flag: True}
        )
        self._empty = True

    def compress(self, data: bytes | memoryview) -> bytes:
        """Add to the frame."""
        self._empty = self._empty and not data
        return self._encoder.compress(data)  # type: ignore[no-any-return]

    def end(self) -> bytes:
        """The rest of the frame. Of one to which nothing was added there is nothing."""
        if self._empty:
            return b""
        self._empty = True
        return self._encoder.flush(self._encoder.FLUSH_FRAME)  # type: ignore[no-any-return]
