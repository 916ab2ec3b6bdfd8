"""Compressed streams: what is read, what is refused, what it may cost."""

import bz2
import gzip
import io
import lzma
import os
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from orlop.errors import BadArchive, CompressionNotSupported, LimitExceeded
from orlop.formats import limits
from orlop.stream import compression
from orlop.stream.compression import BZIP2, GZIP, NONE, XZ, ZSTD, compressed, decompress, decompressed, detect
from orlop.stream.pieces import PieceStream

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    BZIP2: bz2.compress,
    GZIP: gzip.compress,
    XZ: lzma.compress,
    ZSTD: zstd.compress,
}
KINDS = pytest.mark.parametrize("kind", COMPRESS)
DATA = b"".join(b"%d " % n for n in range(60_000)) + os.urandom(5000)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert threading.active_count() == 1


@pytest.fixture(params=["isal", "zlib"])
def gzip_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """isal, and what stands in where it has no wheel."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.igzip_lib", None)
    return str(request.param)


def cut(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def plain(data: bytes, kind: int, size: int = 1000) -> bytes:
    return b"".join(decompress(cut(data, size), kind))


@KINDS
@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_streams_are_read_whatever_their_blocks(kind: int, size: int, gzip_library: str) -> None:
    data = DATA[:20_000] if size < 1000 else DATA
    assert detect(COMPRESS[kind](data)) == kind
    assert plain(COMPRESS[kind](data), kind, size) == data


@KINDS
def test_concatenated_members_are_one_stream(kind: int, gzip_library: str) -> None:
    members = [DATA, b"", b"x", DATA[:70_000], b""]
    data = b"".join(COMPRESS[kind](member) for member in members)
    for size in (100, 1 << 20):
        assert plain(data, kind, size) == b"".join(members)


@KINDS
def test_an_empty_member_is_an_empty_stream(kind: int, gzip_library: str) -> None:
    assert plain(COMPRESS[kind](b""), kind) == b""


@KINDS
@pytest.mark.parametrize("junk", [b"junk", b"j", b"\1" * 4000, b"\0"])
def test_anything_after_the_last_member_is_refused(kind: int, junk: bytes, gzip_library: str) -> None:
    for size in (1 << 20, 50):
        with pytest.raises(BadArchive):
            plain(COMPRESS[kind](b"data") + junk, kind, size)


@KINDS
def test_a_stream_cut_anywhere_is_refused(kind: int, gzip_library: str) -> None:
    data = COMPRESS[kind](b"some data, some data" + os.urandom(30))
    for stop in range(len(data)):
        if detect(data[:stop]) != kind:
            continue  # not even known for what it is
        with pytest.raises(BadArchive) as caught:
            plain(data[:stop], kind, 1 << 20)
        assert caught.value.peer == "unexpected EOF", stop


@KINDS
def test_a_stream_with_a_damaged_end_is_refused(kind: int, gzip_library: str) -> None:
    """The last bytes are checksums in every format (zstd's is optional, so it is asked for)."""
    options = {zstd.CompressionParameter.checksum_flag: 1}
    data = bytearray(zstd.compress(DATA, options=options) if kind == ZSTD else COMPRESS[kind](DATA))
    data[-6 if kind == GZIP else -3] ^= 1
    with pytest.raises(BadArchive):
        plain(bytes(data), kind)


@KINDS
def test_garbage_behind_the_magic_is_refused(kind: int, gzip_library: str) -> None:
    magic = dict(compression._MAGIC)[kind]
    with pytest.raises((BadArchive, LimitExceeded)):
        plain(magic + b"\xff" * 500, kind)


def test_gzip_headers_may_have_all_their_fields(gzip_library: str) -> None:
    packed = gzip.compress(DATA)
    head = (
        bytes([0x1F, 0x8B, 8, 2 | 4 | 8 | 16]) + packed[4:10] + struct.pack("<H", 5) + b"extraname\0comment\0"
    )
    check = struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    assert plain(head + check + packed[10:], GZIP) == DATA
    with pytest.raises(BadArchive):
        plain(head + b"no" + packed[10:], GZIP)


@pytest.mark.parametrize("padding", [4, 400, 8192])
def test_xz_streams_may_be_padded(padding: int) -> None:
    packed = lzma.compress(b"a")
    assert plain(packed + bytes(padding) + packed + bytes(padding), XZ) == b"aa"
    with pytest.raises(BadArchive, match="padding"):
        plain(packed + bytes(padding - 1), XZ)


def test_skippable_frames_of_zstd_are_skipped() -> None:
    """zstd:chunked keeps its table of contents in one, behind the data."""
    skippable = struct.pack("<II", 0x184D2A50, 10_000) + bytes(10_000)
    packed = zstd.compress(DATA)
    assert plain(packed + skippable + packed + skippable, ZSTD) == DATA * 2


def test_an_error_says_what_was_found_and_after_what() -> None:
    with pytest.raises(
        BadArchive, match=r"tar\.gz stream with something else after 2 complete members: 6a 75"
    ) as gz:
        plain(gzip.compress(b"a") * 2 + b"junk", GZIP)
    assert gz.value.peer == "gzip: invalid header"
    with pytest.raises(BadArchive) as zst:
        plain(zstd.compress(b"a") + b"junk", ZSTD)
    assert zst.value.peer == "magic number mismatch"


# --- what it may cost ---------------------------------------------------------------------------------------


@KINDS
def test_a_bomb_comes_in_pieces(kind: int) -> None:
    bomb = COMPRESS[kind](bytes(30 << 20))
    sizes = [len(piece) for piece in decompress([bomb], kind)]
    assert sum(sizes) == 30 << 20
    assert max(sizes) <= 1 << 20


def zstd_frame(window_log: int) -> bytes:
    """A frame of three bytes that claims a window."""
    return (
        b"\x28\xb5\x2f\xfd" + bytes([0, (window_log - 10) << 3]) + struct.pack("<I", 3 << 3 | 1)[:3] + b"abc"
    )


def test_zstd_windows_have_a_limit() -> None:
    assert plain(zstd_frame(limits.ZSTD_WINDOW_LOG_MAX), ZSTD) == b"abc"
    for window_log in (28, 31, 41):
        with pytest.raises(LimitExceeded):
            plain(zstd_frame(window_log), ZSTD)


def test_xz_dictionaries_have_a_limit() -> None:
    """`xz -9` must be readable; a dictionary of a gigabyte and a half is an attack."""

    def packed(dictionary: int) -> bytes:
        small = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}
        data = bytearray(lzma.compress(b"abc", check=lzma.CHECK_NONE, filters=[small]))
        # Byte 12 starts the block header; its filter's property is the dictionary in steps of half powers of two.
        at = data.index(b"\x21\x01", 12) + 2
        data[at] = dictionary
        end = 12 + (data[12] + 1) * 4 - 4
        data[end : end + 4] = struct.pack("<I", zlib.crc32(data[12:end]))
        return bytes(data)

    assert plain(packed(28), XZ) == b"abc"  # 64 MiB
    with pytest.raises(LimitExceeded):
        plain(packed(37), XZ)  # 1.5 GiB


def test_a_flood_of_tiny_members_takes_time_in_proportion(gzip_library: str) -> None:
    """A member each 20 bytes: handing what is left over to the next one must not copy all of it each time."""
    flood = gzip.compress(b"") * 50_000
    started = time.process_time()
    assert plain(flood, GZIP, 1 << 20) == b""
    assert time.process_time() - started < 8, "copying it all each time takes more than a minute"


# --- in threads ---------------------------------------------------------------------------------------------


@KINDS
def test_decompression_in_a_thread_gives_the_same(kind: int) -> None:
    assert b"".join(decompressed(cut(COMPRESS[kind](DATA)), kind)) == DATA


def test_errors_come_out_of_the_thread() -> None:
    with pytest.raises(BadArchive):
        list(decompressed([gzip.compress(DATA)[:-5]], GZIP))


@pytest.mark.parametrize("data", [b"", b"x", b"BZ", b"\x1f\x8b", b"a tar, say" * 10])
def test_anything_else_is_not_compressed(data: bytes) -> None:
    for size in (1, 3, 100):
        kind, blocks = compression.peek(cut(data, size))
        assert kind == NONE
        assert b"".join(blocks) == data


@KINDS
def test_a_kind_is_known_however_little_comes_at_first(kind: int) -> None:
    data = COMPRESS[kind](b"data")
    for size in (1, 3, 100):
        found, blocks = compression.peek(cut(data, size))
        assert found == kind
        assert b"".join(blocks) == data


# --- out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NONE, GZIP, ZSTD])
def test_a_stream_is_compressed_and_closed_with_what_it_was_made_of(kind: int, gzip_library: str) -> None:
    closed = []
    inner = PieceStream(iter([DATA[:100], DATA[100:]]), on_close=[lambda: closed.append(1)])
    with compressed(inner, kind) as stream:
        packed = stream.read()
    assert closed == [1]
    unpack = {NONE: bytes, GZIP: gzip.decompress, ZSTD: zstd.decompress}[kind]
    assert unpack(packed) == DATA
    if kind == ZSTD:
        assert packed[4] & 4, "frames carry a checksum"


def test_a_compressed_stream_may_be_given_up_half_way() -> None:
    closed = []
    inner = PieceStream((os.urandom(1 << 20) for _ in range(1000)), on_close=[lambda: closed.append(1)])
    with compressed(inner, GZIP) as stream:
        assert len(stream.read(5_000_000)) == 5_000_000
    assert closed == [1]


def test_an_error_of_the_source_ends_the_compressed_stream() -> None:
    def pieces() -> Iterator[bytes]:
        yield DATA
        raise BadArchive("broken")

    with compressed(PieceStream(pieces()), GZIP) as stream:
        for _ in range(2):
            with pytest.raises(BadArchive):
                stream.read()


@pytest.mark.parametrize(("kind", "extension"), [(BZIP2, "tar.bz2"), (XZ, "tar.xz")])
def test_bzip2_and_xz_are_not_written(kind: int, extension: str) -> None:
    with PieceStream(iter([b"data"])) as stream, pytest.raises(CompressionNotSupported) as caught:
        compressed(stream, kind)
    assert caught.value.peer == f"unsupported compression format {extension}"
    with pytest.raises(CompressionNotSupported):
        compression.check_output(kind)


def test_the_fast_encoder_is_for_records() -> None:
    out = io.BytesIO()
    encoder = compression.encoder(GZIP, fast=True)
    out.write(encoder.compress(DATA) + encoder.flush())
    assert gzip.decompress(out.getvalue()) == DATA
