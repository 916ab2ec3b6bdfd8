"""Work on files that somebody else chose, done by a process that can reach nothing else.

    parent                                          worker
      start("module:function", arguments, root=fd)    function(link, *arguments)
      worker.send(message)                      ──▶   link.receive()
      worker.notes()                            ◀──   link.note(bytes)
      worker.result()                           ◀──   what the function returns or raises

Rule 1: The root directory of the worker is the directory it works in, wherever the process may chroot; where not,
        `link.root` resolves beneath it by openat2. The worker holds no descriptor but those it was given.
Rule 2: Nothing is imported after the root was entered. The files in there are an attacker's, and a library that
        was loaded from such a root ran as root (CVE-2019-14271).
Rule 3: The worker ends when its parent does: by a death signal, and because its pipe closes. Until then it keeps
        the descriptors listed in `keep`, such as that of the lock under which it writes, so the lock is never free
        while it writes, not even when the parent is killed.
Rule 4: What comes back is bytes of a few plain types (`system.replies`). Nothing that a worker says is executed.

A process with one thread forks; any other spawns a fresh interpreter, as a fork would keep locks that its other
threads held for ever. Both then run the same code, `_serve`.

LIMIT: the kernel sends the death signal when the *thread* that started the worker ends. Start and use a worker in
one thread.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import sys
from select import POLLIN, POLLOUT, poll

from orlop.system import beneath, libc, probe, replies, starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any, Self

_PIPE_SIZE = 1 << 20
_REPLY_MAX = 16 << 20
_SIGINT, _SIGKILL, _SIGPIPE, _SIGSTOP = 2, 9, 13, 19  # `signal` imports `enum`: 5 ms, for every worker

_BOOT = (
    "import sys; sys.path[:] = sys.argv[3:]; from orlop.system.confine import _serve; _serve(*sys.argv[1:3])"
)


# --- the parent's side --------------------------------------------------------------------------------------


class Worker:
    """A running worker, as its parent sees it. Made by `start`; leaving the block without `result()` kills it.

    Every call may raise what the function in the worker raised, and `ChildProcessError` if the worker was killed.
    After that, and after `result()`, the worker is gone: reaped, its descriptors closed.
    """

    def __init__(self, pid: int, orders: int, answers: int) -> None:
        self.pid = pid
        self._orders = orders
        self._answers = answers
        self._received = bytearray()
        self._notes: list[bytes] = []
        self._result: object = None
        self._finished = False
        os.set_blocking(orders, False)
        self._both = poll()
        self._both.register(orders, POLLOUT)
        self._both.register(answers, POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def send(self, message: bytes) -> None:
        """Hand over one message, waiting for room in the pipe, and noticing at once if the worker failed."""
        self._check()
        left = memoryview(len(message).to_bytes(4, "little") + message)
        while left:
            ready = dict(self._both.poll())
            # A pipe without a reader is not written to: a program may have left SIGPIPE to kill it.
            if self._answers in ready or ready[self._orders] != POLLOUT:
                self._read()
            else:
                try:
                    left = left[os.write(self._orders, left) :]
                except BlockingIOError:
                    pass  # less room than the message needs to go in at once
                except BrokenPipeError:
                    self._read()  # it ended just now; what it said is still to be read

    def notes(self, *, wait: bool = False) -> list[bytes]:
        """The notes that came since the last call; with `wait`, at least one."""
        self._check()
        while wait and not self._notes:
            self._read()
        found, self._notes = self._notes, []
        return found

    def result(self) -> Any:
        """Close the pipe, wait for the worker's end, and return what its function returned."""
        self._check()
        os.close(self._orders)
        self._orders = -1
        while not self._finished:
            self._read()
        self._reap()
        return self._result

    def abort(self) -> None:
        """Kill the worker if it still runs, and wait for its end."""
        if self.pid:
            try:
                os.kill(self.pid, _SIGKILL)
            except ProcessLookupError:
                pass  # reaped by somebody who waits for any child, or never a zombie as SIGCHLD is ignored
            self._reap()

    def _check(self) -> None:
        if not self.pid:
            raise ValueError("the worker has ended")

    def _read(self) -> None:
        """Wait for the worker to say something and take note of it; raise if it is an error or the end."""
        data = os.read(self._answers, 1 << 16)
        if not data:
            raise self._ended()
        self._received += data
        received = self._received
        while len(received) >= 5:
            length = int.from_bytes(received[1:5], "little")
            if length > _REPLY_MAX:
                self.abort()
                raise ChildProcessError(errno.EPROTO, "the worker process talks nonsense")
            if len(received) < 5 + length:
                break
            kind, body = received[0], bytes(received[5 : 5 + length])
            del received[: 5 + length]
            if kind == _NOTE:
                self._notes.append(body)
            elif kind == _RESULT:
                self._result = replies.decode(body)
                self._finished = True
            else:
                self._reap()
                raise replies.error_from(body)

    def _ended(self) -> ChildProcessError:
        status = self._reap()
        if status is not None and os.WIFSIGNALED(status):
            how = f"was killed by signal {os.WTERMSIG(status)}"
        else:
            how = "ended" if status is None else f"ended with status {os.waitstatus_to_exitcode(status)}"
        return ChildProcessError(errno.ECHILD, f"the worker process {how} before its work was done")

    def _reap(self) -> int | None:
        """Close what belongs to the worker and wait for its end. Its wait status, if nobody else took it."""
        for fd in (self._orders, self._answers):
            if fd >= 0:
                os.close(fd)
        self._orders = self._answers = -1
        pid, self.pid = self.pid, 0
        try:
            return os.waitpid(pid, 0)[1] if pid else None
        except ChildProcessError:
            return None


def start(
    target: str,
    arguments: Sequence[object] = (),
    *,
    root: int | None = None,
    lend: Sequence[int] = (),
    keep: Sequence[int] = (),
    method: str | None = None,
) -> Worker:
    """Start `function(link, *arguments)` of `target`, "module:function", in a process of its own.

    Arguments are numbers, texts, bytes, None, and tuples, lists and dicts of them (what `marshal` carries).
    `root` is an open directory to confine the worker to. It finds copies of the descriptors `lend` in `link.lent`,
    and holds copies of those in `keep` until it ends. All of them stay the caller's. `method` is "fork" or "spawn";
    left out, it is whichever is right here.
    """
    if method is None:
        method = "fork" if probe.single_threaded() else "spawn"
    copies: list[int] = []  # none is 0, 1 or 2, which a worker replaces
    ends: list[int] = []
    try:
        for fd in (*lend, *keep, *(() if root is None else (root,))):
            copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
        ends += _pipe()
        ends += _pipe()
        orders_in, orders, answers, answers_out = ends
        try:
            fcntl.fcntl(orders, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        except OSError:
            pass  # the user's allowance of pipe memory is used up: messages then take more turns
        given = tuple(copies[: len(lend)])
        into = -1 if root is None else copies[-1]
        setup: Any = (os.getpid(), into, given, tuple(copies), target, tuple(arguments))
        first = marshal.dumps(setup)
        if method == "fork":
            pid = _fork(orders_in, answers_out, (orders, answers))
        else:
            pid = _spawn(orders_in, answers_out, copies)
        worker = Worker(pid, orders, answers)
        ends = [orders_in, answers_out]
    finally:
        for fd in copies + ends:
            os.close(fd)
    try:
        worker.send(first)
    except BaseException:
        worker.abort()
        raise
    return worker


def _pipe() -> tuple[int, ...]:
    """A pipe whose ends are not 0, 1 or 2, which they would be in a process that closed those."""
    pair = os.pipe()
    if min(pair) > 2:
        return pair
    try:
        return tuple([fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in pair])
    finally:
        for fd in pair:
            os.close(fd)


def _fork(orders: int, answers: int, parents: tuple[int, int]) -> int:
    signals = __import__("_signal")
    blocked = signals.pthread_sigmask(signals.SIG_BLOCK, signals.valid_signals())
    try:
        pid = starting.fork("a worker process")
        if not pid:
            try:
                # With the parent's ends still open here, the pipe of a parent killed right now would never close.
                for fd in parents:
                    os.close(fd)
                _serve(orders, answers)
            finally:
                os._exit(1)
        return pid
    finally:
        signals.pthread_sigmask(signals.SIG_SETMASK, blocked)


def _spawn(orders: int, answers: int, copies: list[int]) -> int:
    import orlop

    if not sys.executable:
        raise RuntimeError(
            "this process has threads, so a worker needs a fresh interpreter, but sys.executable is empty"
        )
    package = os.path.dirname(os.path.dirname(os.path.abspath(orlop.__file__)))
    path = [entry for entry in sys.path if os.path.isabs(entry)]
    if package not in path:
        path.append(package)
    flags = ["-I", "-S"] + ["-B"] * sys.dont_write_bytecode
    command = [sys.executable, *flags, "-c", _BOOT, str(orders), str(answers), *path]
    # Copied onto themselves: that is how posix_spawn lets a descriptor through to the new program.
    actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in (orders, answers, *copies)]
    try:
        return os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsigmask=())
    except OSError as error:
        raise starting.refused(f"a worker process ({sys.executable})", error) from error


# --- the worker's side --------------------------------------------------------------------------------------


class Link:
    """What a worker's function has: the way to its parent, the root, and what it was lent.

    `root` is there if the worker was started with one. `umask` is what the parent had; the worker's is 0.
    """

    root: beneath.Root

    def __init__(self, orders: int, answers: int) -> None:
        self._orders = open(orders, "rb", buffering=1 << 17)
        self._answers = answers
        self.lent: tuple[int, ...] = ()
        self.umask = 0

    def receive(self) -> bytes | None:
        """The next message. None if the parent closed the pipe, on purpose or by dying."""
        length = self._orders.read(4)
        if len(length) < 4:
            return None
        message = self._orders.read(int.from_bytes(length, "little"))
        return message if len(message) == int.from_bytes(length, "little") else None

    def note(self, body: bytes) -> None:
        self._say(_NOTE, body)

    def _say(self, kind: int, body: bytes) -> None:
        left = bytes((kind,)) + len(body).to_bytes(4, "little") + body
        while left:
            left = left[os.write(self._answers, left) :]


_NOTE, _RESULT, _ERROR = range(3)


def _serve(orders: int | str, answers: int | str) -> None:
    """The whole life of a worker. Never returns."""
    link = Link(int(orders), int(answers))
    try:
        value = _work(link, int(orders), int(answers))
        link._say(_RESULT, replies.encode(value))
        os._exit(0)
    except BrokenPipeError:
        os._exit(1)  # the parent is gone
    except BaseException as error:
        try:
            link._say(_ERROR, replies.described(error))
        finally:
            os._exit(1)


def _work(link: Link, orders: int, answers: int) -> object:
    import gc
    from importlib import import_module

    first = link.receive()
    if first is None:
        os._exit(1)
    parent, root, link.lent, copies, target, arguments = marshal.loads(first)
    libc.die_with_parent(parent)
    _quiet_signals()
    _close_all_but({orders, answers, *copies})
    gc.disable()  # nothing here makes cycles, and a collection would copy every page of a forked parent
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    link.umask = os.umask(0)
    if root >= 0:
        link.root = beneath.Root(root, _enter(root))
    sys.meta_path[:] = [_Nothing]
    return function(link, *arguments)


class _Nothing:
    """Rule 2: what finds modules in a worker, once it is where it works."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        raise ModuleNotFoundError(f"{name} was to be imported inside the root of a worker", name=name)


def _enter(root: int) -> beneath.Resolver:
    """Make `root` the root directory, if we may. How paths are to be resolved from now on."""
    os.fchdir(root)
    try:
        os.chroot(".")
    except PermissionError:
        return beneath.best_resolver()
    os.chdir("/")
    return beneath.inside_chroot


def _quiet_signals() -> None:
    """No handler of the parent's may run here, and an interrupt from the keyboard is the parent's to answer."""
    signals = __import__("_signal")
    for number in signals.valid_signals() - {_SIGKILL, _SIGSTOP}:
        # Also where Python knows of no handler: libraries in C set some (faulthandler, readline).
        if signals.getsignal(number) != signals.SIG_IGN:
            signals.signal(number, signals.SIG_DFL)
    signals.signal(_SIGINT, signals.SIG_IGN)
    signals.signal(_SIGPIPE, signals.SIG_IGN)
    signals.set_wakeup_fd(-1)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())


def _close_all_but(wanted: set[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):  # taken, so that no file of an archive is ever opened as standard error
        os.dup2(null, fd)
    wanted |= {0, 1, 2}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in wanted:
            try:
                os.close(int(name))
            except OSError:
                pass  # the one that listed the directory
