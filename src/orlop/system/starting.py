"""Starting threads and processes: what the system refuses is an `OSError` that says what was to be started.

Left alone, a refused thread is a RuntimeError, which no caller expects of a disk that fills or a group of processes
that may have no more (`pids.max`), and a refused fork does not say what for.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen
    from threading import Thread
    from typing import Any


_threads: list[Thread] = []


def refused(what: str, error: OSError | RuntimeError) -> OSError:
    """The error to raise. Python does not tell why there is no new thread; the kernel's answer is EAGAIN."""
    number = getattr(error, "errno", None) or errno.EAGAIN
    return OSError(number, f"cannot start {what}: {os.strerror(number)}")


def thread(work: Callable[[], object], name: str) -> Thread:
    """Do `work` in a thread, which does not keep the process from ending."""
    from threading import Thread

    started = Thread(target=work, name=name, daemon=True)
    try:
        started.start()
    except RuntimeError as error:
        raise refused(f"the thread {name}", error) from error
    _threads[:] = [each for each in _threads if each.is_alive()]
    _threads.append(started)
    return started


def only_ours() -> bool:
    """Whether all threads of this process but one were started here: they work for that one, and let go of no lock.

    False if it cannot be found out (no /proc).
    """
    try:
        running = set(os.listdir("/proc/self/task"))
    except OSError:
        return False
    return len(running - {str(each.native_id) for each in _threads if each.is_alive()}) == 1


def fork(what: str) -> int:
    """As `os.fork`."""
    try:
        return os.fork()
    except OSError as error:
        raise refused(what, error) from error


def program(argv: list[str], **how: Any) -> Popen[bytes]:
    """As `subprocess.Popen`, unbuffered; a program that is not there is an error with its name, as ever."""
    import subprocess

    try:
        return subprocess.Popen(argv, bufsize=0, **how)
    except OSError as error:
        if error.filename is not None:
            raise
        raise refused(argv[0], error) from error
