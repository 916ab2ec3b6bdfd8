"""Workers: what they can reach, what they hold, how they end, and what comes back from them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peers
from orlop import errors
from orlop.system import beneath, confine, locks, probe, replies

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

Start = Callable[..., confine.Worker]


@pytest.fixture(params=["fork", "spawn"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """`confine.start` by one method, for functions of tests/confined.py. No process and no descriptor may be left."""
    before = descriptors()

    def started(function: str, *arguments: Any, **options: Any) -> confine.Worker:
        return confine.start(f"confined:{function}", arguments, method=request.param, **options)

    yield started
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def wait_until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# --- talking --------------------------------------------------------------------------------------------------


def test_messages_go_there_and_notes_come_back(start: Start) -> None:
    with start("echo", 1, "two", b"\xff", None, (3, [4]), {"five": 5}) as worker:
        for message in (b"", b"x", b"y" * 3_000_000):
            worker.send(message)
            assert worker.notes(wait=True) == [message]
        assert worker.notes() == []
        assert worker.result() == (1, "two", b"\xff", None, (3, (4,)), {"five": 5})
    with pytest.raises(ValueError, match="has ended"):
        worker.send(b"more")
    with pytest.raises(ValueError, match="has ended"):
        worker.result()


def test_a_worker_that_talks_more_than_the_pipe_holds_does_not_hang(start: Start) -> None:
    with start("flood", 20_000) as worker:
        assert worker.result() == 20_000
        assert len(worker.notes() if worker.pid else worker._notes) == 20_000


def test_a_result_that_comes_early_is_kept(start: Start) -> None:
    with start("early") as worker:
        time.sleep(0.3)
        assert worker.result() == "done"


def test_what_a_worker_says_is_bounded(start: Start) -> None:
    with start("nonsense") as worker, pytest.raises(ChildProcessError, match="nonsense"):
        worker.notes(wait=True)


# --- what it is -----------------------------------------------------------------------------------------------


def test_a_worker_holds_what_it_was_given_and_nothing_else(start: Start, tmp_path: Path) -> None:
    leak = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leak, True)
    lent, kept = os.pipe()
    old = os.umask(0o027)
    try:
        with start("state", lend=(lent,), keep=(kept,)) as worker:
            found = worker.result()
    finally:
        os.umask(old)
        for fd in (leak, lent, kept):
            os.close(fd)
    assert found["pid"] != os.getpid()
    assert (found["umask"], found["mask"]) == (0o027, 0)
    assert len(found["lent"]) == 1
    # 0 to 2, two ends of pipes, one lent, one kept
    assert len(found["descriptors"]) == 7
    assert set(found["lent"]) < set(found["descriptors"])


def test_no_handler_of_the_parent_runs_in_a_worker(start: Start) -> None:
    """A handler that cleans up, or exits with a message, must not do so twice."""
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        with start("state") as worker:
            found = worker.result()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == blocked | {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGUSR1, old)
    assert int(found["caught"], 16) & ((1 << 32) - 1) == 0
    assert int(found["blocked"], 16) == 0
    for number in (signal.SIGINT, signal.SIGPIPE):
        assert int(found["ignored"], 16) >> (number - 1) & 1


def test_a_spawned_worker_sees_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "/nowhere")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    with confine.start("confined:state", method="spawn") as worker:
        assert worker.result()["flags"] == (1, 1)


def test_spawning_needs_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RuntimeError, match=r"sys\.executable is empty"):
        confine.start("confined:state", method="spawn")
    assert descriptors() == before


def test_a_package_outside_the_path_is_found_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install may hook the import instead of the path; an empty entry means a directory that moves."""
    package = str(Path(errors.__file__).parents[1])
    monkeypatch.setattr(sys, "path", ["", *[entry for entry in sys.path if entry != package]])
    with confine.start("confined:early", method="spawn") as worker:
        assert worker.result() == "done"


def test_only_a_process_with_one_thread_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[str] = []
    for name in ("_fork", "_spawn"):
        real = getattr(confine, name)
        monkeypatch.setattr(confine, name, lambda *a, name=name, real=real: (ways.append(name), real(*a))[1])
    script = textwrap.dedent("""
        import os, sys, threading
        sys.path[:] = {path!r}
        from orlop.system import confine
        ways = []
        fork, spawn = confine._fork, confine._spawn
        confine._fork = lambda *a: ways.append("fork") or fork(*a)
        confine._spawn = lambda *a: ways.append("spawn") or spawn(*a)
        def once():
            with confine.start("confined:early") as worker:
                worker.result()
        once()
        thread = threading.Thread(target=once)
        thread.start()
        thread.join()
        while len(os.listdir("/proc/self/task")) > 1:  # the kernel takes a moment more
            pass
        once()
        print(*ways)
    """).format(path=[entry for entry in sys.path if os.path.isabs(entry)])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fork", "spawn", "fork"]
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert not probe.single_threaded()
        with confine.start("confined:early") as worker:
            worker.result()
    finally:
        stop.set()
        thread.join()
    assert ways == ["_spawn"]


# --- where it is ----------------------------------------------------------------------------------------------


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[int]:
    """An open directory with a file, a climbing symlink, and modules in wait for somebody who imports."""
    (tmp_path / "jail/proc/self").mkdir(parents=True)
    (tmp_path / "jail/file").write_text("inside")
    (tmp_path / "file").write_text("outside")
    os.symlink("../../../../../../file", tmp_path / "jail/up")
    os.symlink("/file", tmp_path / "jail/abs")
    for place in ("", *[entry.lstrip("/") for entry in sys.path if entry]):
        (tmp_path / "jail" / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "jail" / place / "trap.py").write_text("raise SystemExit('trapped')")
    fd = os.open(tmp_path / "jail", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("path", ["file", "/file", "../file", "up", "abs"])
def test_every_path_of_a_worker_ends_in_its_root(start: Start, jail: int, path: str) -> None:
    peers.need_root()
    with start("inside", path, root=jail) as worker:
        names, data, chroot = worker.result()
    assert data == b"inside"
    assert "file" in names
    assert chroot
    if path == "/file":
        with start("plain_open", path, root=jail) as worker:
            assert worker.result() == b"inside"


def test_nothing_is_imported_from_the_root(start: Start, jail: int) -> None:
    """CVE-2019-14271: a library that was loaded inside a container's root ran as root of the host."""
    with (
        start("load", root=jail) as worker,
        pytest.raises(RuntimeError, match="ModuleNotFoundError, trap was to be imported inside"),
    ):
        worker.result()


def test_a_worker_that_may_not_chroot_resolves_beneath_its_root(jail: int) -> None:
    """Without CAP_SYS_CHROOT, the kernel's openat2 gives the same answers."""
    script = textwrap.dedent("""
        import ctypes, os, struct, sys
        sys.path[:] = {path!r}
        from orlop.system import confine, libc
        fd = os.open({jail!r}, os.O_RDONLY)
        if os.geteuid() == 0:  # root without CAP_SYS_CHROOT, for good
            libc.prctl(24, 18)
            head, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
            head = ctypes.create_string_buffer(head)
            libc.call("capget", head, sets)
            effective, permitted, *rest = struct.unpack("6I", sets.raw)
            sets.raw = struct.pack("6I", effective & ~(1 << 18), permitted & ~(1 << 18), *rest)
            libc.call("capset", head, sets)
        for method in ("fork", "spawn"):
            for path in ("file", "/file", "../file", "up", "abs"):
                with confine.start("confined:inside", (path,), root=fd, method=method) as worker:
                    names, data, chroot = worker.result()
                assert data == b"inside" and not chroot, (data, chroot)
        print("good")
    """).format(
        path=[entry for entry in sys.path if os.path.isabs(entry)], jail=os.readlink(f"/proc/self/fd/{jail}")
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "good\n", done.stderr


# --- errors ---------------------------------------------------------------------------------------------------


def test_an_error_comes_back_as_what_it_was(start: Start) -> None:
    with start("fail", "ours") as worker, pytest.raises(errors.BadArchive, match=r"^a sentence$") as ours:
        worker.result()
    assert (ours.value.peer, ours.value.name, ours.value.count) == (
        "unhandled tar header type 55",
        b"\xff",
        3,
    )
    with start("fail", "system") as worker, pytest.raises(FileNotFoundError) as system:
        worker.result()
    assert (system.value.filename, system.value.filename2) == (b"from", b"to")
    with start("fail", "plain") as worker, pytest.raises(FileNotFoundError, match="'/nowhere/at/all'"):
        worker.result()
    with (
        start("fail", "mappings") as worker,
        pytest.raises(ValueError, match="container ID 5 cannot") as maps,
    ):
        worker.result()
    assert type(maps.value) is errors.InvalidMappings
    with start("fail", "memory") as worker, pytest.raises(MemoryError):
        worker.result()
    with (
        start("fail", "defect") as worker,
        pytest.raises(RuntimeError, match=r"TypeError, a mistake, confined.py:\d+"),
    ):
        worker.result()
    with start("fail", "sysexit") as worker, pytest.raises(RuntimeError, match="SystemExit, 7"):
        worker.result()


@pytest.mark.parametrize(
    ("kind", "how"), [("killed", "was killed by signal 9"), ("exit", "ended with status 3")]
)
def test_a_worker_that_vanishes_is_an_error(start: Start, kind: str, how: str) -> None:
    with start("fail", kind) as worker, pytest.raises(ChildProcessError, match=how):
        worker.result()


def test_a_target_that_is_not_there_is_an_error(start: Start) -> None:
    for missing in ("nothing", "os.path:nothing"):
        with pytest.raises(RuntimeError, match="AttributeError"):
            start(missing).result()


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
def test_an_error_reaches_a_parent_that_is_sending(start: Start, size: int) -> None:
    """Whether it waits for room in the pipe, or for nothing at all."""
    with start("fail_after", 3) as worker, pytest.raises(errors.UnsafePath, match="enough"):
        for _ in range(100_000):
            worker.send(b"x" * size)


def test_an_error_reaches_a_parent_that_waits_for_a_note(start: Start) -> None:
    with start("fail_after", 1) as worker:
        worker.send(b"x")
        with pytest.raises(errors.UnsafePath, match="enough"):
            worker.notes(wait=True)


def test_a_parent_that_dies_of_broken_pipes_does_not_die(start: Start) -> None:
    """Filters set SIGPIPE to its default; a worker that failed must be an error there, too."""
    old = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        for _ in range(20):
            with start("fail_after", 1) as worker, pytest.raises(errors.UnsafePath):
                while True:
                    worker.send(b"x" * 50_000)
    finally:
        signal.signal(signal.SIGPIPE, old)


# --- ends -----------------------------------------------------------------------------------------------------


def test_leaving_the_block_ends_the_worker(start: Start, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt), start("hold", str(told)):
        wait_until(told.exists, "the worker never ran")
        raise KeyboardInterrupt
    assert gone(int(told.read_text()))


def test_a_parent_that_ignores_its_children_is_no_problem(start: Start) -> None:
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with start("echo", 5) as worker:
            assert worker.result() == (5,)
        with start("fail", "exit") as worker, pytest.raises(ChildProcessError, match="ended before"):
            worker.result()
    finally:
        signal.signal(signal.SIGCHLD, old)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_dies_with_its_parent_and_holds_the_lock_until_then(tmp_path: Path, method: str) -> None:
    """J3: whoever is killed while a layer is written, nobody gets the layer's lock before the writing stopped."""
    told, path = tmp_path / "pid", tmp_path / "lock"
    script = textwrap.dedent("""
        import os, sys
        sys.path[:] = {path!r}
        from orlop.system import confine, locks
        lock = locks.LockFile.at({lock!r})
        with lock.writing():
            worker = confine.start("confined:hold", ({told!r},), keep=[lock.fileno()], method={method!r})
            worker.result()
    """).format(path=[e for e in sys.path if os.path.isabs(e)], lock=str(path), told=str(told), method=method)
    parent = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_until(told.exists, "the worker never ran")
        pid = int(told.read_text())
        lock = locks.LockFile.at(str(path))
        assert not lock.try_writing()
        os.kill(pid, signal.SIGSTOP)  # so that it cannot end as quickly as it should
        held = Path(f"/proc/{pid}/fd")
        assert any(os.readlink(fd) == str(path) for fd in held.iterdir())
        os.kill(pid, signal.SIGCONT)
        assert not lock.try_writing()
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: gone(pid), "the worker outlived its parent")
    assert lock.try_writing()
    lock.release()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_unlocked_parent_does_not_unlock_its_worker(tmp_path: Path, method: str) -> None:
    """The hook that closes lock files in children must leave a worker the ones it is to keep."""
    lock = locks.LockFile.at(str(tmp_path / "lock"))
    with lock.writing():
        worker = confine.start("confined:echo", keep=[lock.fileno()], method=method)
    with worker:
        worker.send(b"x")
        assert worker.notes(wait=True) == [b"x"]
        if lock.try_writing():  # only where releasing does not unlock what a copy of the descriptor holds
            lock.release()
            pytest.fail("the lock was free while the worker held it")
        worker.result()
    assert lock.try_writing()
    lock.release()


def test_a_process_without_standard_streams_can_have_workers() -> None:
    """A daemon that closed 0, 1 and 2 gets its pipes and files under those numbers, which a worker replaces."""
    script = textwrap.dedent("""
        import os, sys
        sys.path[:] = {path!r}
        from orlop.system import confine
        out = os.dup(1)
        for fd in (0, 1, 2):
            os.close(fd)
        for method in ("fork", "spawn"):
            with confine.start("confined:echo", (method,), method=method) as worker:
                worker.send(b"x")
                assert worker.notes(wait=True) == [b"x"]
                os.write(out, worker.result()[0].encode())
            fd = os.open("/", os.O_RDONLY)
            assert fd < 3
            with confine.start("confined:state", lend=(fd,), method=method) as worker:
                assert worker.result()["lent"][0] > 2
            os.close(fd)
            os.write(out, b",")
    """).format(path=[e for e in sys.path if os.path.isabs(e)])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.stdout == b"fork,spawn,"


def test_a_process_without_descriptors_left_fails_cleanly(start: Start) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for spare in range(6):
        highest = max(map(int, descriptors()))
        filler = [os.dup(0) for _ in range(highest - len(descriptors()) + 2)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(filler) + 1 + spare, hard))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                start("early", keep=(0, 0, 0), lend=(0,)).result()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in filler:
                os.close(fd)


# --- what travels ---------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.integers() | st.binary() | st.text(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=6,
)


@given(PLAIN)
def test_values_come_back_as_they_went(value: object) -> None:
    assert replies.decode(replies.encode(value)) == value


@given(st.binary())
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        replies.decode(data)


def test_nesting_is_bounded() -> None:
    data = b"n" + bytes(4)
    for _ in range(2000):
        data = b"t" + len(data).to_bytes(4, "little") + data
    with pytest.raises(ValueError, match="deeply"):
        replies.decode(data)


@pytest.mark.parametrize(
    "error",
    [
        errors.BadArchive("a sentence", peer="its name", path=b"\xff", n=1, none=None, pair=(1, "two")),
        errors.InvalidMappings("text", id=5),
        FileNotFoundError(2, "gone", b"name"),
        OSError(28, "full", "from", None, "to"),
        OSError(5, None),
    ],
)
def test_errors_are_described_and_made_again(error: BaseException) -> None:
    again = replies.error_from(replies.described(error))
    assert (type(again), str(again)) == (type(error), str(error))
    if isinstance(error, errors.StorageError):
        assert isinstance(again, errors.StorageError)
        assert (again.facts, again.peer) == (error.facts, error.peer)


def test_defects_are_told_with_their_place() -> None:
    def defect() -> None:
        raise LookupError("mistake")

    with pytest.raises(LookupError) as caught:
        defect()
    again = replies.error_from(replies.described(caught.value))
    assert type(again) is RuntimeError
    assert "LookupError, mistake, test_confine.py:" in str(again)
    assert "OSError, odd, ?" in str(replies.error_from(replies.described(OSError("odd"))))
    assert type(replies.error_from(replies.described(MemoryError()))) is MemoryError


@pytest.mark.parametrize(
    "data", [b"", b"n", b"z" + bytes(4), b"n" + bytes(5), b"b\xff\xff\xff\xff", b"i" + bytes(4)]
)
def test_what_is_no_value_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        replies.decode(data)


def test_a_dict_is_no_key() -> None:
    pair = replies.encode({}) + replies.encode(1)
    with pytest.raises(ValueError, match="not a value"):
        replies.decode(b"d" + len(pair).to_bytes(4, "little") + pair)


def test_names_of_errors_do_not_name_anything_else() -> None:
    forged = replies.encode(("ours", "TYPE_CHECKING", "x", "", {}))
    assert isinstance(replies.error_from(forged), RuntimeError)
    assert isinstance(replies.error_from(replies.encode(("ours", "Mapping", "x", "", {}))), RuntimeError)


def test_facts_of_odd_kinds_are_shown() -> None:
    error = errors.Damaged("x", found={1.5}, where=beneath)
    again = replies.error_from(replies.described(error))
    assert again.facts["found"] == "{1.5}"
