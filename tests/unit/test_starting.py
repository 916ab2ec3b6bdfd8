"""A thread or process that the system refuses is an error that callers expect, and leaves nothing open behind."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orlop.stream import compression, fingerprints, workers
from orlop.stream.pieces import PieceStream
from orlop.system import accounts, confine, longmount, removal, starting, userns


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd")), threading.active_count()
    yield
    assert (sorted(os.listdir("/proc/self/fd")), threading.active_count()) == before


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("_thread.start_new_thread", refuse)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(os, "posix_spawn", refuse)
    monkeypatch.setattr("_posixsubprocess.fork_exec", refuse)
    monkeypatch.setattr("subprocess._fork_exec", refuse, raising=False)


STARTERS: dict[str, Callable[[], object]] = {
    "worker": lambda: workers.Worker(print),
    "converter": lambda: compression.decompressed([b""], compression.GZIP),
    "working directory": lambda: longmount._in_directory("/", print),
}


@pytest.mark.parametrize("name", STARTERS)
def test_a_thread_that_is_refused_is_an_os_error(name: str, no_threads: None) -> None:
    with pytest.raises(OSError, match=r"cannot start .*thread.*: Resource") as caught:
        STARTERS[name]()
    assert caught.value.errno == errno.EAGAIN


PROCESSES: dict[str, Callable[[], object]] = {
    "forked worker": lambda: confine.start("os:getpid", method="fork"),
    "spawned worker": lambda: confine.start("os:getpid", method="spawn"),
    "namespace": lambda: userns.enter_namespace(["true"], environ={}, uids=(), gids=()),
    "program": lambda: starting.program(["true"]),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_that_is_refused_is_an_error_that_says_what_for(name: str, no_processes: None) -> None:
    with pytest.raises(OSError, match=r"cannot start .*(worker|true).*: Resource") as caught:
        PROCESSES[name]()
    assert caught.value.errno == errno.EAGAIN


def test_getent_that_cannot_be_started_is_an_error(tmp_path: Path, no_processes: None) -> None:
    (tmp_path / "getent").write_text("")
    (tmp_path / "getent").chmod(0o755)
    with pytest.raises(OSError, match=f"cannot start {tmp_path}/getent: "):
        accounts.user("nobody-of-this-name", path=str(tmp_path))


def test_a_program_that_is_not_there_is_named_as_ever() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        starting.program(["/nowhere/at/all"])
    assert caught.value.filename == "/nowhere/at/all"


def test_a_stream_that_cannot_be_compressed_is_closed(no_threads: None) -> None:
    """Under a diff it holds the locks of the layers, and nobody has it to close."""
    closed: list[bool] = []
    with pytest.raises(OSError):
        compression.compressed(PieceStream([], [lambda: closed.append(True)]), compression.GZIP)
    assert closed == [True]


def test_a_tree_is_removed_without_a_second_process(
    tmp_path: Path, no_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "_WORTH_HELP", 10)
    monkeypatch.setattr(removal.probe, "single_threaded", lambda: True)
    for number in range(50):
        (tmp_path / f"tree/{number}/deep").mkdir(parents=True)
    removal.remove_tree(str(tmp_path / "tree"), workers=2)
    assert not (tmp_path / "tree").exists()


# --- files that are read in threads -------------------------------------------------------------------------

LARGE = bytes(1 << 17)


def opened(path: Path) -> int:
    path.write_bytes(LARGE)
    return os.open(path, os.O_RDONLY)


def test_without_threads_files_are_read_all_the_same(tmp_path: Path, no_threads: None) -> None:
    found: dict[int, object] = {}
    with fingerprints.Readers(found.__setitem__) as readers:
        for number in range(5):
            readers.read(number, opened(tmp_path / "file"), len(LARGE), lambda fd, size: size + 1)
    assert found == dict.fromkeys(range(5), len(LARGE) + 1)


def test_one_thread_reads_where_there_are_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = threading.Thread.start, []

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    found: list[int] = []
    with fingerprints.Readers(lambda number, result: found.append(number)) as readers:
        for number in range(20):
            readers.read(
                number, opened(tmp_path / "file"), len(LARGE), lambda fd, size: threading.get_ident()
            )
    assert found == list(range(20))


def test_files_that_wait_when_reading_is_given_up_are_closed(tmp_path: Path) -> None:
    go_on = threading.Event()

    def key_of(fd: int, size: int) -> int:
        go_on.wait()
        return 0

    with pytest.raises(KeyboardInterrupt), fingerprints.Readers(lambda *args: None) as readers:
        readers._threads_max = 1
        for number in range(4):
            readers.read(number, opened(tmp_path / "file"), len(LARGE), key_of)
        threading.Timer(0.05, go_on.set).start()
        raise KeyboardInterrupt


def test_an_error_that_is_none_of_the_file_is_raised(tmp_path: Path) -> None:
    def key_of(fd: int, size: int) -> int:
        raise MemoryError

    with pytest.raises(MemoryError), fingerprints.Readers(lambda *args: None) as readers:
        for number in range(10):
            readers.read(number, opened(tmp_path / "file"), len(LARGE), key_of)
