"""Locks exclude, whoever holds them and however he ends; the token tells the others (`spec/locking.md`)."""

import errno
import fcntl
import gc
import os
import queue
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import peers
from orlop.errors import Conflict, LockTimeout, ReadOnly, UnsafePath
from orlop.system import forks, locks
from orlop.system.locks import LockFile, keep_in_child

OURS = """
import sys
from orlop.system.locks import LockFile
for line in sys.stdin:
    order, _, path = line.strip().partition(" ")
    if order in "rw":
        lock = LockFile.at(path)
        lock.acquire(order)
    elif order == "renew":
        lock.renew()
    else:
        lock.release()
    print("done", flush=True)
"""

# What the Go programs do, in the words of Python: a classic record lock over the whole file.
POSIX = """
import fcntl, os, sys
for line in sys.stdin:
    order, _, path = line.strip().partition(" ")
    if order in "rw":
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.lockf(fd, fcntl.LOCK_SH if order == "r" else fcntl.LOCK_EX)
    else:
        os.close(fd)
    print("done", flush=True)
"""

SOON = 10.0
NOT_YET = 0.05


class Process:
    """Another program, which takes and frees locks when told to."""

    def __init__(self, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def tell(self, *words: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")

    def done(self, within: float = SOON) -> bool:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], within)
        return bool(ready) and self.process.stdout.readline() == b"done\n"

    def do(self, *words: object) -> None:
        self.tell(*words)
        assert self.done()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()


class Thread:
    """The same for another thread of this process."""

    def __init__(self) -> None:
        self.orders: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self.answers: queue.Queue[BaseException | None] = queue.Queue()
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self) -> None:
        while order := self.orders.get():
            try:
                if order[0] in "rw":
                    lock = LockFile.at(order[1])
                    lock.acquire(order[0])  # type: ignore[arg-type]
                else:
                    lock.release()
                self.answers.put(None)
            except BaseException as error:
                self.answers.put(error)

    def tell(self, order: str, path: object = "") -> None:
        self.orders.put((order, str(path)))

    def done(self, within: float = SOON) -> bool:
        try:
            answer = self.answers.get(timeout=within)
        except queue.Empty:
            return False
        if answer is not None:
            raise answer
        return True

    def do(self, order: str, path: object = "") -> None:
        self.tell(order, path)
        assert self.done()

    def stop(self) -> None:
        self.orders.put(None)
        self.thread.join()


KINDS: dict[str, Callable[[], Process | Thread]] = {
    "thread": Thread,
    "ours": lambda: Process(OURS),
    "posix": lambda: Process(POSIX),
}


@pytest.fixture(scope="module")
def pairs() -> Iterator[dict[tuple[str, int], Process | Thread]]:
    made = {(kind, number): make() for kind, make in KINDS.items() for number in (0, 1)}
    yield made
    for agent in made.values():
        agent.stop()


@pytest.fixture
def start() -> Iterator[Callable[[str], Process | Thread]]:
    made: list[Process | Thread] = []

    def begin(kind: str) -> Process | Thread:
        made.append(KINDS[kind]())
        return made[-1]

    yield begin
    for agent in made:
        agent.stop()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "layers.lock")


@pytest.fixture
def lock(path: str) -> LockFile:
    return LockFile.at(path)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    seen: list[tuple[str, str]] = []
    monkeypatch.setattr(locks, "on_wait", lambda path, mode: seen.append((path, mode)))
    return seen


def run(code: str, *arguments: str) -> str:
    """What a program of one thread prints. (pytest may have several.)"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- exclusion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("modes", ["rr", "rw", "wr", "ww"])
def test_who_holds_excludes_who_asks_unless_both_read(
    pairs: dict[tuple[str, int], Process | Thread], path: str, first: str, second: str, modes: str
) -> None:
    holder, asker = pairs[first, 0], pairs[second, 1]
    holder.do(modes[0], path)
    asker.tell(modes[1], path)
    if modes == "rr":
        assert asker.done()
    else:
        assert not asker.done(NOT_YET)
    holder.do("free")
    if modes != "rr":
        assert asker.done()
    asker.do("free")


def test_threads_and_processes_count_without_a_mistake(path: str, tmp_path: Path) -> None:
    """Twelve counters, most of them in other processes, that read, add one and write under the lock."""
    (tmp_path / "count").write_text("0")
    code = """
import sys, threading
from orlop.system.locks import LockFile
def count():
    for _ in range(25):
        with LockFile.at(sys.argv[1]).writing():
            with open(sys.argv[2], "r+") as file:
                number = int(file.read()) + 1
                file.seek(0)
                file.write(str(number))
        with LockFile.at(sys.argv[1]).reading():
            with open(sys.argv[2]) as file:
                assert int(file.read()) >= number
threads = [threading.Thread(target=count) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code, path, str(tmp_path / "count")]) for _ in range(3)
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == str(3 * 4 * 25)


# Takes the lock at random. Whoever is inside leaves a mark, and looks whose marks there are.
RANDOM = """
import fcntl, os, random, sys, threading, time
from orlop.system.locks import LockFile
path, marks, kind, count, seed = sys.argv[1:]
def visit(chance, name):
    for turn in range(int(count)):
        mode = chance.choice("rrw")
        if kind == "posix":
            fd = os.open(path, os.O_RDWR)
            fcntl.lockf(fd, fcntl.LOCK_SH if mode == "r" else fcntl.LOCK_EX)
        else:
            lock = LockFile.at(path)
            if mode == "w" and chance.random() < 0.2:
                if not lock.try_writing():
                    continue
            else:
                try:
                    lock.acquire(mode, timeout=chance.choice([None, None, 0.002, 5]))
                except TimeoutError:
                    continue
        mark = f"{marks}/{mode}{name}"
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        if chance.random() < 0.3:
            time.sleep(chance.random() / 500)
        inside = os.listdir(marks)
        os.unlink(mark)
        os.close(fd) if kind == "posix" else lock.release()
        if len(inside) > 1 and (mode == "w" or any(other[0] == "w" for other in inside)):
            print(inside, flush=True)
            os._exit(1)
threads = [
    threading.Thread(target=visit, args=(random.Random(f"{seed} {number}"), f"{seed}-{number}"))
    for number in range(1 if kind == "posix" else 3)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def visit_at_random(path: str, marks: Path, count: int) -> None:
    marks.mkdir()
    LockFile.at(path)
    running = [
        subprocess.Popen([sys.executable, "-c", RANDOM, path, str(marks), kind, str(count), str(seed)])
        for seed, kind in enumerate(("ours", "posix", "ours", "posix"))
    ]
    assert [process.wait(1200) for process in running] == [0] * 4
    assert os.listdir(marks) == []


def test_a_writer_is_never_in_company(path: str, tmp_path: Path) -> None:
    visit_at_random(path, tmp_path / "marks", 40)


@pytest.mark.deep
def test_deep_a_writer_is_never_in_company(path: str, tmp_path: Path) -> None:
    """The same with 10,000 visits (`N=`)."""
    visit_at_random(path, tmp_path / "marks", int(os.environ.get("N") or 10_000) // 8)


@pytest.mark.parametrize("kind", ["ours", "posix"])
def test_a_killed_holder_holds_nothing(
    lock: LockFile, start: Callable[[str], Process], kind: str, path: str
) -> None:
    holder = start(kind)
    holder.do("w", path)
    assert not lock.try_writing()
    holder.process.kill()
    with lock.writing(timeout=SOON):
        pass


def test_a_stopped_holder_still_holds_and_the_time_out_says_who(
    lock: LockFile, start: Callable[[str], Process], path: str
) -> None:
    holder = start("posix")
    holder.do("w", path)
    holder.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(LockTimeout) as caught:
        with lock.reading(timeout=0.2):
            pass
    assert time.monotonic() - begun >= 0.2
    assert f"process {holder.process.pid} has it" in str(caught.value)
    assert path in str(caught.value)
    assert caught.value.path == path
    assert lock.held is None
    holder.process.send_signal(signal.SIGCONT)


def test_opening_and_closing_the_file_elsewhere_frees_nothing(
    lock: LockFile, start: Callable[[str], Process], path: str
) -> None:
    """It would free a classic record lock: a size check or a backup is enough."""
    asker = start("posix")
    with lock.writing():
        Path(path).read_bytes()
        LockFile.at(path)
        asker.tell("w", path)
        assert not asker.done(NOT_YET)
    assert asker.done()


# --- forks --------------------------------------------------------------------------------------------------


def test_a_forked_child_holds_nothing_and_frees_nothing(path: str, start: Callable[[str], Process]) -> None:
    printed = run(
        """
import os, sys
from orlop.system.locks import LockFile
lock, other = LockFile.at(sys.argv[1]), LockFile.at(sys.argv[1] + "2")
with lock.writing():
    fd = lock.fileno()
    with other.reading():
        pid = os.fork()
        if not pid:
            believes = (lock.held, other.held)
            try:
                os.fstat(fd)
            except OSError as error:
                believes += (error.errno,)
            for misuse in (lock.renew, lock.token, lock.release, lock.fileno):
                try:
                    misuse()
                except RuntimeError:
                    believes += (misuse.__name__,)
            believes += (lock.try_writing(),)
            print(believes, flush=True)
    # The child comes by the end of the block, too.
    if not pid:
        print("came by", flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    print(lock.held, other.held, flush=True)
    pid = os.fork()
    if not pid:
        os._exit(0 if not lock.try_writing() else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
        path,
    )
    assert printed.split("\n") == [
        f"(None, None, {errno.EBADF}, 'renew', 'token', 'release', 'fileno', False)",
        "came by",
        "w None",
        "0",
    ]


def test_a_lock_is_free_after_release_although_a_child_lives_on(path: str) -> None:
    """Right after a fork the child has a copy of the descriptor. It closes that; the lock does not wait for it."""
    printed = run(
        """
import os, sys, time
os.register_at_fork(after_in_child=lambda: time.sleep(0.5))  # before ours is registered, so it comes first
from orlop.system.locks import LockFile
lock = LockFile.at(sys.argv[1])
lock.acquire("w")
pid = os.fork()
if not pid:
    os._exit(0)
lock.release()
print(lock.try_writing())
""",
        path,
    )
    assert printed == "True"


def test_a_child_that_keeps_the_descriptor_keeps_the_lock_until_it_ends(path: str, lock: LockFile) -> None:
    """A worker that writes under a lock must not write on when its parent was killed and the lock is free."""
    code = """
import os, sys, time
from orlop.system.locks import LockFile, keep_in_child
lock, other = LockFile.at(sys.argv[1]), LockFile.at(sys.argv[1] + "2")
with lock.writing(), other.writing():
    with keep_in_child([lock.fileno()]):
        pid = os.fork()
    if not pid:
        print(os.getpid(), lock.held, flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        pid, held = process.stdout.readline().decode().split()
        assert held == "None"
        process.kill()
        process.wait()
        assert not lock.try_writing()
        with LockFile.at(path + "2").writing(timeout=SOON):  # was not named, so the child does not have it
            pass
        os.kill(int(pid), signal.SIGKILL)
        with lock.writing(timeout=SOON):
            pass


def test_a_fork_amid_waiting_threads_leaves_usable_locks(path: str) -> None:
    printed = run(
        """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
from orlop.system.locks import LockFile
lock, other = LockFile.at(sys.argv[1]), LockFile.at(sys.argv[1] + "2")
lock.acquire("w")
def wait():
    with lock.reading():
        pass
threads = [threading.Thread(target=wait) for _ in range(3)]
for thread in threads:
    thread.start()
time.sleep(0.1)
pid = os.fork()
if not pid:
    with other.writing(timeout=5):
        other.renew()
    try:
        lock.acquire("w", timeout=0.05)
    except TimeoutError:
        os._exit(0)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
lock.release()
for thread in threads:
    thread.join()
""",
        path,
    )
    assert printed == "0"


def test_a_blocked_asker_can_be_forked_without_keeping_the_lock(
    path: str, start: Callable[[str], Process]
) -> None:
    """The descriptor of a lock that is still being waited for is closed in a child as well."""
    holder = start("posix")
    holder.do("w", path)
    code = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
from orlop.system.locks import LockFile
lock = LockFile.at(sys.argv[1])
def wait():
    lock.acquire("w")
    lock.release()
thread = threading.Thread(target=wait)
thread.start()
time.sleep(0.2)
pid = os.fork()
if not pid:
    time.sleep(60)
print(pid, flush=True)
thread.join()
os.kill(pid, 9) if sys.stdin.readline() else None
os.waitpid(pid, 0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        holder.do("free")
        with LockFile.at(path).writing(timeout=SOON):
            pass
        process.stdin.write(b"end\n")
        process.stdin.close()
        assert process.wait(30) == 0


def test_a_child_that_was_given_the_descriptor_keeps_the_lock_after_release(
    lock: LockFile, start: Callable[[str], Process], path: str
) -> None:
    """However early the parent lets go: what the child writes is under the lock."""
    asker = start("posix")
    with lock.writing():
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()]) as child:
            lock.release()
            asker.tell("w", path)
            assert not asker.done(0.3)
            child.communicate(b"")
        assert asker.done()
        asker.do("free")
        lock.acquire("w")


def test_keeping_ends_with_the_block() -> None:
    with keep_in_child([7]), keep_in_child([8]):
        assert set(*forks._kept.values()) == {7, 8}
    assert not forks._kept


# --- threads ------------------------------------------------------------------------------------------------


def test_a_writer_gets_its_turn_although_readers_keep_coming(lock: LockFile) -> None:
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            with lock.reading():
                time.sleep(0.002)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with lock.writing(timeout=SOON):
                assert lock.held == "w"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_reader_gets_its_turn_although_writers_keep_coming(lock: LockFile) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with lock.writing():
                time.sleep(0.002)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            with lock.reading(timeout=SOON):
                assert lock.held == "r"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_readers_share_one_descriptor_and_the_last_one_frees_it(
    lock: LockFile, start: Callable[[str], Thread | Process], path: str
) -> None:
    reader, asker = start("thread"), start("posix")
    reader.do("r", path)
    with lock.reading():
        fd = lock.fileno()
        reader.do("free")
        assert lock.held == "r"
        assert lock.fileno() == fd
        asker.tell("w", path)
        assert not asker.done(NOT_YET)
    assert asker.done()


def test_a_writer_that_gives_up_lets_the_readers_behind_it_in(
    lock: LockFile, start: Callable[[str], Thread]
) -> None:
    writer_gave_up: list[str] = []

    def give_up() -> None:
        try:
            lock.acquire("w", timeout=0.2)
        except LockTimeout as error:
            writer_gave_up.append(str(error))

    with lock.reading():
        writer = threading.Thread(target=give_up)
        writer.start()
        time.sleep(0.05)
        reader = start("thread")
        reader.tell("r", lock.path)
        assert not reader.done(NOT_YET)  # behind the writer, or the writer would starve
        writer.join()
        assert reader.done()
        reader.do("free")
    assert "another thread of this process has it" in writer_gave_up[0]


def test_a_reader_whose_time_is_up_does_not_take_the_lock_from_the_other(
    lock: LockFile, start: Callable[[str], Process | Thread], path: str
) -> None:
    """Two readers of ours wait for another program: one for ever, one for a moment."""
    holder, patient = start("posix"), start("thread")
    holder.do("w", path)
    patient.tell("r", path)
    assert not patient.done(NOT_YET)
    with pytest.raises(LockTimeout):
        lock.acquire("r", timeout=0.05)
    holder.do("free")
    assert patient.done()
    assert lock.held == "r"
    patient.do("free")
    assert lock.held is None


def test_an_exception_while_waiting_leaves_the_queue_in_order(
    lock: LockFile, start: Callable[[str], Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a signal handler raises."""

    def interrupt(path: str, mode: str) -> None:
        raise KeyboardInterrupt

    holder, other = start("thread"), start("thread")
    holder.do("w", lock.path)
    monkeypatch.setattr(locks, "on_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire("w")
    monkeypatch.setattr(locks, "on_wait", None)
    other.tell("w", lock.path)
    holder.do("free")
    assert other.done()
    other.do("free")
    assert lock.held is None


def test_a_signal_ends_the_wait_for_another_program(path: str, start: Callable[[str], Process]) -> None:
    holder = start("posix")
    holder.do("w", path)
    code = """
import os, signal, sys
from orlop.system import forks, locks
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background is started with it ignored
lock = locks.LockFile.at(sys.argv[1])
locks.on_wait = lambda path, mode: print("waiting", flush=True)
before = len(os.listdir("/proc/self/fd"))
try:
    lock.acquire("w")
except KeyboardInterrupt:
    print(lock.held, len(os.listdir("/proc/self/fd")) - before)
"""
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"waiting\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"None 0\n"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_only_thread_is_told_that_it_waits_for_itself(path: str, workers: int) -> None:
    """With an open diff stream this is easy to do, and for ever is a long time. The error is that of many threads.

    What compresses that stream in a thread of its own does not let go of the lock.
    """
    printed = run(
        """
import sys
from orlop.errors import LockTimeout
from orlop.stream.workers import Worker
from orlop.system.locks import LockFile
working = [Worker(print) for _ in range(int(sys.argv[2]))]
lock = LockFile.at(sys.argv[1])
for held, wanted in ("rw", "wr", "ww"):
    lock.acquire(held)
    try:
        lock.acquire(wanted)
    except LockTimeout as error:
        print(sys.argv[1] in str(error), "wait for itself" in str(error), lock.held == held)
    lock.release()
print(lock.held)
""",
        path,
        str(workers),
    )
    assert printed.split("\n") == ["True True True"] * 3 + ["None"]


def test_another_thread_may_let_go_of_what_the_only_other_one_waits_for(path: str) -> None:
    printed = run(
        """
import sys, threading, time
from orlop.stream.workers import Worker
from orlop.system.locks import LockFile
working = Worker(print)
lock = LockFile.at(sys.argv[1])
lock.acquire("w")
timer = threading.Timer(0.1, lock.release)
timer.start()
lock.acquire("w")
print(lock.held)
""",
        path,
    )
    assert printed == "w"


# --- waiting ------------------------------------------------------------------------------------------------


def test_waiting_is_announced_once_with_what_is_waited_for(
    lock: LockFile, start: Callable[[str], Process], waits: list[tuple[str, str]], path: str
) -> None:
    with lock.writing():
        pass
    assert waits == []
    holder = start("posix")
    holder.do("r", path)
    timer = threading.Timer(0.1, lambda: holder.tell("free"))
    timer.start()
    with lock.writing():
        assert waits == [(path, "w")]
    timer.join()
    assert holder.done()
    holder.do("w", path)
    with pytest.raises(LockTimeout):
        lock.acquire("r", timeout=0.1)
    assert waits == [(path, "w"), (path, "r")]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EDEADLK, errno.EINTR])
def test_a_passing_trouble_is_tried_again(
    lock: LockFile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, answers = fcntl.fcntl, [number, number, number]

    def fail(fd: int, command: int, argument: bytes) -> object:
        if answers:
            raise OSError(answers.pop(), "try again")
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", fail)
    begun = time.monotonic()
    with lock.writing():
        assert answers == []
    assert time.monotonic() - begun >= 0.02


def test_a_lasting_trouble_is_an_error_with_the_path(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks must not look like a lock that somebody holds."""
    before = len(os.listdir("/proc/self/fd"))
    for number in (errno.EIO, errno.EINVAL):

        def fail(*arguments: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "fcntl", fail)
        with pytest.raises(OSError) as caught:
            lock.acquire("w")
        assert (caught.value.errno, caught.value.filename) == (number, lock.path)
        assert not isinstance(caught.value, LockTimeout)
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before
    assert lock.try_writing()
    lock.release()


def test_a_try_says_busy_for_busy_only(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def fail(fd: int, command: int, argument: bytes) -> object:
        if command == fcntl.F_OFD_GETLK:
            return real(fd, command, argument)
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(OSError) as caught:
        lock.try_writing()
    assert caught.value.errno == errno.ENOLCK


def test_a_try_does_not_wait_for_threads_either(lock: LockFile, start: Callable[[str], Thread]) -> None:
    holder = start("thread")
    holder.do("r", lock.path)
    assert not lock.try_writing()
    holder.do("free")
    assert lock.try_writing()
    assert lock.held == "w"
    assert not LockFile.at(lock.path).try_writing()
    lock.release()


# --- misuse -------------------------------------------------------------------------------------------------


def test_what_needs_the_lock_is_refused_without_it(lock: LockFile) -> None:
    for misuse in (lock.release, lock.token, lock.renew, lock.fileno):
        with pytest.raises(RuntimeError, match="not held"):
            misuse()
    with lock.reading():
        with pytest.raises(RuntimeError, match="not held exclusively"):
            lock.renew()
    with lock.writing():
        lock.release()
        with pytest.raises(RuntimeError, match="not held"):
            lock.release()
        lock.acquire("w")
    assert lock.held is None


# --- files and paths ----------------------------------------------------------------------------------------


def test_a_missing_file_and_its_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "overlay-layers" / "tmp" / "layers.lock"
    before = os.umask(0o022)
    try:
        LockFile.at(str(path))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert path.stat().st_size == 0


def test_whatever_path_leads_to_a_file_there_is_one_object(
    tmp_path: Path, start: Callable[[str], Thread]
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    lock = LockFile.at(str(tmp_path / "real" / "lock"))
    os.link(tmp_path / "real" / "lock", tmp_path / "hard")
    for path in ("real/../real//lock", "link/lock", "hard"):
        assert LockFile.at(str(tmp_path / path)) is lock
    assert LockFile.at(str(tmp_path / "other")) is not lock
    asker = start("thread")
    with lock.writing():
        asker.tell("w", tmp_path / "link" / "lock")
        assert not asker.done(NOT_YET)
    assert asker.done()
    asker.do("free")


def test_of_two_paths_the_one_that_is_left_will_do(tmp_path: Path, start: Callable[[str], Process]) -> None:
    """A store reached through a mount that goes away must not be locked in an empty directory instead."""
    lock = LockFile.at(str(tmp_path / "first"))
    os.link(tmp_path / "first", tmp_path / "second")
    assert LockFile.at(str(tmp_path / "second")) is lock
    os.unlink(tmp_path / "first")
    asker = start("posix")
    with lock.writing():
        asker.tell("w", tmp_path / "second")
        assert not asker.done(NOT_YET)
    assert asker.done()
    assert not (tmp_path / "first").exists()


def test_a_file_made_anew_while_idle_is_the_one_that_is_locked(
    lock: LockFile, path: str, start: Callable[[str], Process]
) -> None:
    old = os.stat(path).st_ino
    Path(path + ".new").touch()
    os.rename(path + ".new", path)
    assert os.stat(path).st_ino != old
    asker = start("posix")
    with lock.writing():
        asker.tell("w", path)
        assert not asker.done(NOT_YET)
    assert asker.done()
    assert LockFile.at(path) is lock


def test_a_file_made_anew_while_it_is_waited_for_is_noticed(
    lock: LockFile, path: str, start: Callable[[str], Process | Thread]
) -> None:
    """Else the waiter would hold a lock on a file that nobody can find any more, and exclude nobody."""
    holder, waiter, asker = start("posix"), start("thread"), start("posix")
    holder.do("w", path)
    waiter.tell("w", path)
    assert not waiter.done(NOT_YET)
    os.unlink(path)
    holder.do("free")
    assert waiter.done()
    assert os.path.exists(path)
    asker.tell("w", path)
    assert not asker.done(NOT_YET)
    waiter.do("free")
    assert asker.done()


def test_an_inode_number_that_is_used_again_is_another_lock(tmp_path: Path) -> None:
    """Lock files of removals come and go, and the file system gives their numbers to the next ones."""
    lock = LockFile.at(str(tmp_path / "first"))
    key = (tmp_path / "first").stat().st_ino
    os.unlink(tmp_path / "first")
    for number in range(50):
        other = LockFile.at(str(tmp_path / str(number)))
        assert other is not lock
        if (tmp_path / str(number)).stat().st_ino == key:
            break
        if number > 40:
            pytest.skip("this file system does not use an inode number again")


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """In a directory that others can write to, each of these would lock, create or wait for what they chose."""
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "dangling").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as unix:
        directory = os.open(tmp_path, os.O_PATH)
        unix.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
        before = len(os.listdir("/proc/self/fd"))
        for name in ("link", "dangling", "fifo", "directory", "socket"):
            for read_only in (False, True):
                with pytest.raises(UnsafePath, match="not a regular file") as caught:
                    LockFile.at(str(tmp_path / name), read_only=read_only)
                assert caught.value.path == str(tmp_path / name)
        assert len(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_turns_into_a_link_is_refused_when_it_is_taken(lock: LockFile, path: str) -> None:
    os.rename(path, path + ".real")
    os.symlink(path + ".real", path)
    with pytest.raises(UnsafePath):
        lock.acquire("w")
    os.unlink(path)
    assert lock.try_writing()
    lock.release()


def test_a_file_that_cannot_be_opened_is_an_error_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        LockFile.at(str(tmp_path / "file" / "lock"))
    assert caught.value.filename == str(tmp_path / "file" / "lock")


def test_a_read_only_lock_can_be_shared_only(tmp_path: Path, start: Callable[[str], Process]) -> None:
    peers.need_root()
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "layers.lock"
    path.write_bytes(b"t" * 64)
    for options in ("--bind", "--options=remount,bind,ro"):
        subprocess.run(["mount", options, tmp_path / "store", tmp_path / "store"], check=True)
    try:
        with pytest.raises(OSError) as caught:
            LockFile.at(str(path))
        assert (caught.value.errno, caught.value.filename) == (errno.EROFS, str(path))
        lock = LockFile.at(str(path), read_only=True)
        with lock.reading():
            assert lock.token() == b"t" * 64
            with pytest.raises(RuntimeError):
                lock.renew()
        for take in (lock.writing().__enter__, lock.try_writing):
            with pytest.raises(ReadOnly):
                take()
        missing = LockFile.at(str(tmp_path / "store" / "missing.lock"), read_only=True)
        with missing.reading(timeout=0), missing.reading(timeout=0):
            assert missing.token() == b""  # nobody can write there, so nobody can have written
        with pytest.raises(ReadOnly):
            missing.writing().__enter__()
    finally:
        peers.unmount_below(tmp_path)


@pytest.mark.parametrize(("first", "kind"), [(True, "read-write"), (False, "read-only")])
def test_one_file_cannot_be_read_only_and_read_write(path: str, first: bool, kind: str) -> None:
    """A store that is its own additional store is a mistake in the configuration."""
    lock = LockFile.at(path, read_only=first)
    with pytest.raises(Conflict) as caught:
        LockFile.at(path, read_only=not first)
    assert str(caught.value) == caught.value.peer == f'lock "{path}" is not a {kind} lock'
    lock.forget()
    assert LockFile.at(path, read_only=not first).read_only is not first


def test_objects_and_descriptors_do_not_pile_up(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd")), len(locks._live), len(forks._noted)
    for number in range(200):
        lock = LockFile.at(str(tmp_path / str(number)))
        with lock.writing():
            lock.renew()
            os.unlink(lock.path)
    del lock
    assert (len(os.listdir("/proc/self/fd")), len(locks._live), len(forks._noted)) == before


# --- tokens -------------------------------------------------------------------------------------------------


def test_a_token_is_64_bytes_of_time_count_process_and_chance(lock: LockFile, path: str) -> None:
    begun = time.time_ns()
    with lock.writing():
        assert lock.token() == b""
        first = lock.renew()
        assert Path(path).read_bytes() == lock.token() == first
        second = lock.renew()
        assert Path(path).read_bytes() == second
    moment, count, pid = struct.unpack_from("<QQI", first)
    assert begun <= moment <= time.time_ns()
    assert pid == os.getpid()
    assert struct.unpack_from("<QQI", second)[1] == count + 1
    assert len(first) == len(second) == 64
    assert first[20:] != second[20:]


def test_a_token_is_written_with_one_call(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = os.pwrite, []
    monkeypatch.setattr(os, "pwrite", lambda *call: (written.append(call[1:]), real(*call))[1])
    with lock.writing():
        token = lock.renew()
    assert written == [(token, 0)]


def test_a_token_that_found_no_room_is_an_error(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 20)
    with lock.writing(), pytest.raises(OSError) as caught:
        lock.renew()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, lock.path)


@pytest.mark.parametrize("content", [b"", b"short", b"0123456789abcdef" * 4, b"x" * 200])
def test_any_content_is_a_token_of_at_most_64_bytes(lock: LockFile, path: str, content: bytes) -> None:
    Path(path).write_bytes(content)
    with lock.reading():
        assert lock.token() == content[:64]


def test_a_token_of_another_process_is_seen(
    lock: LockFile, start: Callable[[str], Process], path: str
) -> None:
    with lock.writing():
        mine = lock.renew()
    other = start("ours")
    other.do("w", path)
    other.do("renew")
    other.do("free")
    with lock.reading():
        theirs = lock.token()
        assert theirs == lock.token()
    assert theirs != mine
    assert struct.unpack_from("<QQI", theirs)[2] == other.process.pid


def test_no_two_of_many_tokens_are_equal(tmp_path: Path) -> None:
    found: list[bytes] = []

    def renew(number: int) -> None:
        lock = LockFile.at(str(tmp_path / str(number)))
        with lock.writing():
            found.extend(lock.renew() for _ in range(200))

    threads = [threading.Thread(target=renew, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({token[8:16] for token in found}) == len(found) == 800
