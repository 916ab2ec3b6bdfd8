"""Digests and sizes of what went by; blobs of all kinds as blocks."""

import io
import os
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest

from orlop.stream.measure import BLOCK_SIZE, Measured, blocks_of


def digest(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_what_goes_by_is_counted_and_hashed(count: int) -> None:
    blocks = [bytes([n]) * 1000 for n in range(count)]
    measured = Measured(blocks)
    assert list(measured) == blocks
    assert (measured.digest, measured.size) == (digest(b"".join(blocks)), 1000 * count)


def test_a_known_digest_is_taken_over_and_sizes_are_counted_all_the_same() -> None:
    measured = Measured([b"abc", b"def"], known="sha256:known")
    assert list(measured) == [b"abc", b"def"]
    assert (measured.digest, measured.size) == ("sha256:known", 6)


@pytest.mark.parametrize("known", [None, "sha256:known"])
def test_asking_before_the_end_is_an_error(known: str | None) -> None:
    measured = Measured([b"abc", b"def", b"ghi"], known=known)
    for n, _ in enumerate(measured):
        with pytest.raises(ValueError, match="before the stream was read"):
            _ = measured.digest
        with pytest.raises(ValueError, match="before the stream was read"):
            _ = measured.size
        if n == 1:
            break
    measured.stop()
    assert threading.active_count() == 1


class Trickle(io.RawIOBase):
    """Gives one to seven bytes at a time, as a socket may."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        part = self.data[: len(self.data) % 7 + 1][: len(memoryview(buffer))]  # type: ignore[arg-type]
        memoryview(buffer)[: len(part)] = part  # type: ignore[arg-type]
        self.data = self.data[len(part) :]
        return len(part)


def as_pipe(data: bytes) -> int:
    reading, writing = os.pipe()

    def fill() -> None:
        with open(writing, "wb") as out:
            out.write(data)

    threading.Thread(target=fill).start()
    return reading


BLOBS: dict[str, Callable[[bytes], object]] = {
    "memory": io.BytesIO,
    "buffered": lambda data: io.BufferedReader(io.BytesIO(data)),  # type: ignore[arg-type]
    "trickle": lambda data: Trickle(data[:5000]),
    "pipe": as_pipe,
    "file of a pipe": lambda data: open(as_pipe(data), "rb"),
    "raw file of a pipe": lambda data: open(as_pipe(data), "rb", buffering=0),
}


@pytest.mark.parametrize("kind", BLOBS)
def test_whatever_can_be_read_is_a_blob(kind: str) -> None:
    data = os.urandom(3 * BLOCK_SIZE + 17)
    blob = BLOBS[kind](data)
    blocks = list(blocks_of(blob))  # type: ignore[arg-type]
    assert b"".join(blocks) == (data[:5000] if kind == "trickle" else data)
    assert all(0 < len(block) <= BLOCK_SIZE for block in blocks)
    assert all(len(block) >= BLOCK_SIZE // 4 for block in blocks[:-1]), "small reads are gathered"
    if isinstance(blob, int):
        os.close(blob)
    else:
        blob.close()  # type: ignore[attr-defined]


def test_a_blob_is_read_from_where_it_stands() -> None:
    blob = io.BytesIO(b"0123456789")
    blob.seek(4)
    assert list(blocks_of(blob)) == [b"456789"]


def test_text_and_non_blocking_streams_are_mistakes() -> None:
    with pytest.raises(TypeError, match="binary mode"):
        next(blocks_of(io.StringIO("text")))  # type: ignore[arg-type]

    class NotReady:
        def read(self, size: int) -> None:
            return None

    with pytest.raises(BlockingIOError):
        next(blocks_of(NotReady()))  # type: ignore[arg-type]


def test_an_error_of_the_blob_passes_through() -> None:
    def broken() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        raise ConnectionResetError("gone")

    measured = Measured(broken())
    with pytest.raises(ConnectionResetError):
        list(measured)
    measured.stop()
    assert threading.active_count() == 1
