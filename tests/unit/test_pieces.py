"""Streams made of pieces: read like files, sent by the kernel, closed whatever happens."""

import fcntl
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from orlop.errors import ContentChanged
from orlop.stream.pieces import FilePiece, PieceStream

BIG = os.urandom(3_000_001)


def file(tmp_path: Path, data: bytes, size: int | None = None, **more: object) -> FilePiece:
    path = tmp_path / f"piece-{len(list(tmp_path.iterdir()))}"
    path.write_bytes(data)
    return FilePiece(os.open(path, os.O_RDONLY), len(data) if size is None else size, **more)  # type: ignore[arg-type]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def stream(tmp_path: Path) -> tuple[PieceStream, bytes]:
    pieces = [
        b"",
        b"head",
        file(tmp_path, b"small"),
        b"",
        b"x" * 700_000,
        file(tmp_path, BIG),
        file(tmp_path, b""),
        b"t",
    ]
    return PieceStream(iter(pieces)), b"headsmall" + b"x" * 700_000 + BIG + b"t"


@pytest.mark.parametrize("size", [100, 65_536, 1 << 20, 1 << 24])
def test_reads_are_exact_but_the_last(tmp_path: Path, size: int) -> None:
    made, data = stream(tmp_path)
    with made:
        got = []
        while block := made.read(size):
            got.append(block)
    assert b"".join(got) == data
    assert {len(block) for block in got[:-1]} <= {size}


def test_everything_at_once_and_then_nothing(tmp_path: Path) -> None:
    made, data = stream(tmp_path)
    with made:
        assert made.read(0) == b""
        assert made.read() == data
        assert made.read() == made.read(5) == b""
        assert made.readinto(bytearray(5)) == 0


def test_iteration_gives_bytes(tmp_path: Path) -> None:
    made, data = stream(tmp_path)
    with made:
        blocks = list(made)
    assert b"".join(blocks) == data
    assert all(type(block) is bytes and 0 < len(block) <= 1 << 20 for block in blocks)


def test_a_buffer_is_filled(tmp_path: Path) -> None:
    made, data = stream(tmp_path)
    with made:
        buffer = bytearray(1_000_000)
        assert made.readinto(buffer) == 1_000_000
        assert buffer == data[:1_000_000]
        rest = bytearray(len(data))
        assert made.readinto(memoryview(rest)) == len(data) - 1_000_000
        assert rest[: len(data) - 1_000_000] == data[1_000_000:]


def read_all(fd: int) -> tuple[threading.Thread, list[bytes]]:
    got: list[bytes] = []

    def read() -> None:
        with open(fd, "rb") as source:
            got.append(source.read())

    thread = threading.Thread(target=read)
    thread.start()
    return thread, got


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("already_read", [0, 7, 500_000, 900_000])
def test_writing_into_a_pipe(tmp_path: Path, blocking: bool, already_read: int) -> None:
    made, data = stream(tmp_path)
    reading, writing = os.pipe()
    thread, got = read_all(reading)
    os.set_blocking(writing, blocking)
    with made:
        head = made.read(already_read)
        assert made.write_to(writing) == len(data) - already_read
        assert fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ) >= 1 << 20
    os.close(writing)
    thread.join()
    assert head + got[0] == data


@pytest.mark.parametrize("flags", [0, os.O_APPEND])
def test_writing_into_a_file(tmp_path: Path, flags: int) -> None:
    """The kernel does not send into a file opened for appending."""
    made, data = stream(tmp_path)
    target = os.open(tmp_path / "target", os.O_CREAT | os.O_RDWR | flags)
    with made:
        made.write_to(target)
    os.close(target)
    assert (tmp_path / "target").read_bytes() == data


def test_writing_into_a_socket(tmp_path: Path) -> None:
    made, data = stream(tmp_path)
    ours, theirs = socket.socketpair()
    thread, got = read_all(theirs.detach())
    with made, ours:
        made.write_to(ours.fileno())
    thread.join()
    assert got[0] == data


def test_a_reader_that_is_gone_is_an_error(tmp_path: Path) -> None:
    made, _ = stream(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    with made, pytest.raises(BrokenPipeError):
        made.write_to(writing)
    os.close(writing)


# --- files --------------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[PieceStream], object]] = {
    "read": lambda made: made.read(),
    "read a bit": lambda made: made.read(10_000_000),
    "readinto": lambda made: made.readinto(bytearray(10_000_000)),
    "iterate": list,
    "write": lambda made: made.write_to(os.open("/dev/null", os.O_WRONLY)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [100, 2_000_000])
def test_a_file_that_became_shorter_is_an_error(tmp_path: Path, way: str, size: int) -> None:
    piece = file(tmp_path, b"x" * (size - 1), size, name=b"etc/\xff")
    with PieceStream(iter([b"a", piece])) as made, pytest.raises(ContentChanged) as caught:
        WAYS[way](made)
    assert f"after {size - 1} of its {size} bytes" in str(caught.value)
    assert caught.value.name == b"etc/\xff"


@pytest.mark.parametrize("way", WAYS)
def test_no_more_than_the_size_is_sent_of_a_file_that_grew(tmp_path: Path, way: str) -> None:
    target = tmp_path / "target"
    with PieceStream(iter([file(tmp_path, b"abcdef" * 20_000, 60_001)])) as made:
        fd = os.open(target, os.O_CREAT | os.O_WRONLY)
        assert made.write_to(fd) == 60_001
        os.close(fd)
    assert target.stat().st_size == 60_001


def test_descriptors_are_closed_as_soon_as_files_are_sent(tmp_path: Path) -> None:
    events: list[str] = []
    first = file(tmp_path, b"first", on_sent=lambda: events.append("sent"))
    fd = first.fd

    def pieces() -> Iterator[bytes | FilePiece]:
        yield first
        events.append("next")
        assert not is_open(fd)
        yield b"x"

    with PieceStream(pieces()) as made:
        made.read()
    assert events == ["sent", "next"]


def test_closing_early_closes_the_file_being_read(tmp_path: Path) -> None:
    piece = file(tmp_path, BIG)
    fd = piece.fd
    with PieceStream(iter([piece])) as made:
        made.read(10)
        assert is_open(fd)
    assert not is_open(fd)


# --- errors and the end -------------------------------------------------------------------------------------


def failing(pieces: Iterable[bytes] = (b"good",)) -> Iterator[bytes]:
    yield from pieces
    raise ContentChanged("it changed")


def test_a_broken_stream_stays_broken() -> None:
    """A consumer that tries again must not be told that the stream is complete."""
    with PieceStream(failing()) as made:
        assert made.read(4) == b"good"
        for way in WAYS.values():
            with pytest.raises(ContentChanged):
                way(made)


def test_closing_runs_everything_in_order() -> None:
    events: list[str] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            events.append("pieces")

    with PieceStream(pieces(), on_close=[lambda: events.append("one")]) as made:
        made.on_close(lambda: events.append("two"))
        made.read(1)
        assert not made.closed
    assert events == ["pieces", "one", "two"]
    assert made.closed
    made.close()
    assert len(events) == 3
    with pytest.raises(ValueError, match="closed"):
        made.read(1)


def test_what_fails_while_closing_stops_nothing_and_hides_nothing() -> None:
    events: list[str] = []

    def fail(what: str) -> Callable[[], None]:
        def closer() -> None:
            events.append(what)
            raise OSError(what)

        return closer

    made = PieceStream([], on_close=[fail("one"), lambda: events.append("two"), fail("three")])
    with pytest.raises(OSError, match="one") as caught:
        made.close()
    assert events == ["one", "two", "three"]
    assert caught.value.__notes__ == ["and while closing: OSError('three')"]

    with pytest.raises(ContentChanged) as first, PieceStream(failing(), on_close=[fail("four")]) as made:
        made.read()
    assert first.value.__notes__ == ["and while closing: OSError('four')"]
    with pytest.raises(OSError, match="five"), PieceStream([], on_close=[fail("five")]):
        pass


def test_a_stream_that_nobody_closed_says_so() -> None:
    closed: list[int] = []
    with pytest.warns(ResourceWarning, match="unclosed"):
        PieceStream(iter([b"x"]), on_close=[lambda: closed.append(1)])
    assert closed == [1]


def test_a_stream_that_nobody_closed_is_closed_where_the_warning_is_an_error() -> None:
    closed: list[int] = []
    stream = PieceStream(iter([b"x"]), on_close=[lambda: closed.append(1)])
    with warnings.catch_warnings(), pytest.raises(ResourceWarning, match="unclosed"):
        warnings.simplefilter("error")
        stream.__del__()
    assert closed == [1]
