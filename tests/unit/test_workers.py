"""Threads beside the caller's: order, errors, and that none is ever left behind."""

import threading
from collections.abc import Iterator

import pytest

from orlop.stream.workers import DEPTH, Converted, Worker


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_a_worker_does_its_work_in_order() -> None:
    done: list[bytes] = []
    worker = Worker(done.append)
    blocks = [b"%d" % n for n in range(50)]
    for block in blocks:
        worker.put(block)
    worker.finish()
    assert done == blocks


def test_an_error_in_a_worker_is_raised_in_the_caller() -> None:
    def work(block: bytes) -> None:
        raise OSError(28, "No space left on device")

    worker = Worker(work)
    with pytest.raises(OSError, match="No space"):
        for _ in range(3 * DEPTH):
            worker.put(b"x")
    with pytest.raises(OSError, match="No space"):
        worker.finish()
    worker.stop()


def test_a_worker_stops_without_doing_what_waits() -> None:
    entered, go_on = threading.Event(), threading.Event()
    done: list[bytes] = []

    def work(block: bytes) -> None:
        entered.set()
        go_on.wait()
        done.append(block)

    worker = Worker(work)
    for block in (b"a", b"b", b"c"):
        worker.put(block)
    entered.wait()
    threading.Timer(0.05, go_on.set).start()
    worker.stop()
    assert done == [b"a"]


def doubled(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield block
        yield block


def test_what_is_converted_comes_in_order() -> None:
    converted = Converted(doubled, (b"%d" % n for n in range(100)))
    assert list(converted) == [b"%d" % (n // 2) for n in range(200)]
    assert list(converted) == [], "the end stays the end"
    converted.stop()


def test_the_source_is_read_in_the_callers_thread() -> None:
    """A foreign object, which may block for ever, must not hold a worker."""
    readers = set()

    def blocks() -> Iterator[bytes]:
        for _ in range(20):
            readers.add(threading.current_thread())
            yield b"x"

    assert len(list(Converted(doubled, blocks()))) == 40
    assert readers == {threading.current_thread()}


def test_an_error_of_the_converter_comes_after_what_it_gave() -> None:
    def convert(blocks: Iterator[bytes]) -> Iterator[bytes]:
        yield next(blocks)
        raise ValueError("broken")

    converted = Converted(convert, [b"a", b"b", b"c", b"d", b"e"])
    assert next(converted) == b"a"
    with pytest.raises(ValueError, match="broken"):
        next(converted)
    with pytest.raises(StopIteration):
        next(converted)


def test_an_error_of_the_source_is_the_callers() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"a"
        raise ConnectionResetError("gone")

    converted = Converted(doubled, blocks())
    with pytest.raises(ConnectionResetError):
        list(converted)
    converted.stop()


def test_a_converter_that_reads_nothing_ends() -> None:
    converted = Converted(lambda blocks: iter([b"x"]), (b"y" for _ in range(1000)))
    assert list(converted) == [b"x"]


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_converter_with_more_to_give_stops(taken: int) -> None:
    def convert(blocks: Iterator[bytes]) -> Iterator[bytes]:
        while True:
            yield b"x"

    converted = Converted(convert, [b"a"])
    for _ in range(taken):
        next(converted)
    converted.stop()
    converted.stop()
    assert next(converted, None) is None


def test_a_converter_that_waits_for_input_stops() -> None:
    converted = Converted(doubled, iter(()))
    converted.stop()


def test_only_so_much_is_read_ahead() -> None:
    read = 0

    def blocks() -> Iterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b"x"

    converted = Converted(doubled, blocks())
    next(converted)
    assert read <= 2 * DEPTH
    converted.stop()
