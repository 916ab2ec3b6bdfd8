"""Records written beside the reading, and layers put together from them."""

import errno
import gzip
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orlop.errors import BadTarSplit, ContentChanged, DuplicatePath
from orlop.formats import crc64, limits, tarsplit
from orlop.formats.tarsplit import file_line, segment_line
from orlop.stream.pieces import FilePiece, PieceStream
from orlop.stream.split import SplitWriter, assemble


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert threading.active_count() == 1


def items(record: bytes) -> list[bytes | tarsplit.SplitFile]:
    return [item for batch in tarsplit.parse([gzip.decompress(record)]) for item in batch]


# --- writing ------------------------------------------------------------------------------------------------


def test_a_record_is_one_gzip_stream_of_lines() -> None:
    out = io.BytesIO()
    with SplitWriter(out) as split:
        split.header(b"header", b"f")
        split.file(b"f", 5, 0x1234)
        split.header(b"next", b"d/")
        split.file(b"d/", 0)
        split.segment(b"end")
        split.segment(b"")
        split.finish()
    assert gzip.decompress(out.getvalue()) == (
        segment_line(b"header", 0)
        + file_line(b"f", 5, 0x1234, 1)
        + segment_line(b"next", 2)
        + file_line(b"d/", 0, 0, 3)
        + segment_line(b"end", 4)
    )


def test_an_empty_record_is_a_gzip_stream_too() -> None:
    out = io.BytesIO()
    with SplitWriter(out) as split:
        split.finish()
    assert out.getvalue().startswith(b"\x1f\x8b")
    assert gzip.decompress(out.getvalue()) == b""


def test_segments_without_a_header_are_cut_to_a_megabyte() -> None:
    out = io.BytesIO()
    with SplitWriter(out) as split:
        split.segment(bytes(2 * limits.TRAILING_SEGMENT_MAX + 5))
        split.finish()
    assert [len(item) for item in items(out.getvalue()) if isinstance(item, bytes)] == [1 << 20, 1 << 20, 5]


def test_many_entries_are_passed_on_in_batches() -> None:
    written: list[int] = []

    class Out:
        def write(self, data: bytes) -> None:
            written.append(len(data))

    with SplitWriter(Out()) as split:
        for n in range(5000):
            split.header(os.urandom(512), b"%d" % n)
            split.file(b"%d" % n, 0)
        before = len(written)
        split.finish()
    assert before > 0, "all was kept to the end"


def test_a_name_is_refused_before_its_entry_goes_anywhere() -> None:
    with SplitWriter(io.BytesIO()) as split:
        split.header(b"h", b"./a")
        split.file(b"./a", 0)
        with pytest.raises(DuplicatePath):
            split.header(b"h", b"a/")


def test_a_full_disk_is_the_callers_error_and_leaves_no_thread() -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"), SplitWriter(Full()) as split:
        for _ in range(100_000):
            split.segment(os.urandom(1000))
        pytest.fail("nobody noticed")
    with pytest.raises(OSError, match="No space"), SplitWriter(Full()) as split:
        split.finish()


# --- putting together ---------------------------------------------------------------------------------------


class Layer:
    """Files of a layer in a directory, and a record of some of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = b""
        self.stream = b""
        self.opened: list[int] = []
        self.starts: dict[str, int] = {}  # of files in the stream

    def segment(self, data: bytes) -> None:
        self.record += segment_line(data, 0)
        self.stream += data

    def file(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)
        self.starts[name] = len(self.stream)
        self.record += file_line(name.encode(), len(data), crc64.best()(data, 0), 0)
        self.stream += data

    def open(self, name: bytes) -> int:
        self.opened.append(os.open(os.fsencode(self.path) + b"/" + name, os.O_RDONLY | os.O_NONBLOCK))
        return self.opened[-1]

    def assemble(self, record: bytes | None = None) -> PieceStream:
        packed = gzip.compress(self.record) if record is None else record
        return PieceStream(assemble(io.BytesIO(packed), self.open))


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    made = Layer(tmp_path)
    made.segment(b"head")
    made.file("small", b"small file")
    made.segment(b"")
    made.file("empty", b"")
    made.segment(b"between" * 1000)
    made.file("big", os.urandom(2_500_000))
    made.file("exactly-one-megabyte", os.urandom(1 << 20))
    made.segment(b"end")
    return made


def test_a_layer_is_put_together_again(layer: Layer) -> None:
    with layer.assemble() as stream:
        assert stream.read() == layer.stream


def test_large_files_are_left_to_the_kernel_and_small_neighbours_are_one_piece(layer: Layer) -> None:
    pieces = list(assemble(io.BytesIO(gzip.compress(layer.record)), layer.open))
    kinds = [type(piece) for piece in pieces if piece]
    assert kinds[:2] == [bytes, FilePiece]
    for piece in pieces:
        if isinstance(piece, FilePiece):
            assert (piece.name, piece.size) == (b"big", 2_500_000)
            piece.close()


def test_no_descriptor_is_left(layer: Layer) -> None:
    with layer.assemble() as stream:
        stream.read()
    for fd in layer.opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_no_descriptor_is_left_of_a_file_that_was_not_asked_for(layer: Layer) -> None:
    with layer.assemble() as stream:
        assert stream.read(5) == layer.stream[:5]
    assert len(layer.opened) == 2, "the large file was opened to know where the small pieces end"
    for fd in layer.opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


CHANGES: dict[str, Callable[[Path], object]] = {
    "another byte": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "shorter": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("name", ["small", "big"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_refused_before_a_byte_of_it_is_sent(layer: Layer, name: str, change: str) -> None:
    CHANGES[change](layer.path / name)
    sent = b""
    with layer.assemble() as stream, pytest.raises(ContentChanged) as caught:
        while block := stream.read(100):
            sent += block
    assert caught.value.peer == f'file integrity checksum failed for "{name}"'
    assert caught.value.name == name.encode()
    assert layer.stream.startswith(sent)
    assert len(sent) <= layer.starts[name]
    for fd in layer.opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_missing_file_is_an_error(layer: Layer) -> None:
    (layer.path / "small").unlink()
    with layer.assemble() as stream, pytest.raises(FileNotFoundError):
        stream.read()


def test_names_go_to_the_opener_as_they_were_recorded(layer: Layer) -> None:
    asked: list[bytes] = []

    def open_file(name: bytes) -> int:
        asked.append(name)
        return os.open(layer.path / "small", os.O_RDONLY)

    line = file_line(b"../\xff/./small", 10, crc64.best()(b"small file", 0), 0)
    assert b"".join(assemble(io.BytesIO(gzip.compress(line)), open_file)) == b"small file"  # type: ignore[arg-type]
    assert asked == [b"../\xff/./small"]


def test_entries_of_other_types_are_passed_over(layer: Layer) -> None:
    layer.record = b'{"type":3,"name":"small","size":5,"payload":"YQ=="}\n' + layer.record
    with layer.assemble() as stream:
        assert stream.read() == layer.stream


@pytest.mark.parametrize(
    ("record", "peer"),
    [(b"", "EOF"), (b"hello world, no gzip", "gzip: invalid header"), (b"\x1f", "gzip: invalid header")],
)
def test_what_is_no_record_is_refused_at_once(layer: Layer, record: bytes, peer: str) -> None:
    with pytest.raises(BadTarSplit) as caught:
        assemble(io.BytesIO(record), layer.open)
    assert caught.value.peer == peer


def damaged(how: str, layer: Layer) -> bytes:
    packed = bytearray(gzip.compress(layer.record))
    if how == "cut off":
        return bytes(packed[:-9])
    if how == "junk behind it":
        return bytes(packed + b"junk")
    if how == "wrong check sum":
        packed[-8] ^= 1
        return bytes(packed)
    if how == "half a line":
        return gzip.compress(layer.record[:-10])
    if how == "a name twice":
        return gzip.compress(layer.record + file_line(b"./small", 0, 0, 9))
    raise ValueError(how)


@pytest.mark.parametrize(
    "how", ["cut off", "junk behind it", "wrong check sum", "half a line", "a name twice"]
)
def test_a_damaged_record_is_an_error_while_reading(layer: Layer, how: str) -> None:
    with layer.assemble(damaged(how, layer)) as stream:
        for _ in range(2):
            with pytest.raises((BadTarSplit, DuplicatePath)):
                stream.read()


def test_a_record_of_several_gzip_members_is_read(layer: Layer) -> None:
    half = len(layer.record) // 2
    packed = gzip.compress(layer.record[:half]) + gzip.compress(b"") + gzip.compress(layer.record[half:], 9)
    with layer.assemble(packed) as stream:
        assert stream.read() == layer.stream


def test_an_empty_record_is_an_empty_stream(layer: Layer) -> None:
    with layer.assemble(gzip.compress(b"")) as stream:
        assert stream.read() == b""
