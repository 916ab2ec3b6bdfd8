"""What a program of ours does first, and how it ends (not for the library: all of it is about the whole process)."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def insist_on_utf_8() -> None:
    """Start anew where the locale has another encoding: records are UTF-8, and paths must stay the bytes they are."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def occupy_standard_streams() -> None:
    """Give closed ones to /dev/null. Else a lock file would be opened as number 1, and an answer written into it.

    An answer that nobody can have is a failure all the same: standard output is then a file that cannot be written.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number, which is this one.
            os.open("/dev/null", os.O_RDONLY if fd == 1 else os.O_RDWR)


def may_mount() -> bool:
    """Whether it runs as a root who may mount. Everybody else does his work in a user namespace."""
    if os.geteuid() != 0:
        return False
    from orlop.system import probe

    return probe.has_capability(probe.CAP_SYS_ADMIN) is not False


def listen_for_interrupts() -> None:
    """Undo what a program's first lines did, so that an interrupt while it is being imported ends it silently."""
    import _signal  # type: ignore[import-not-found]  # the module `signal` imports `enum`

    if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def die_of(name: str) -> NoReturn:
    """End as a program does that never heard of the signal ("SIGINT"): a shell tells the two apart."""
    import _signal

    number = getattr(_signal, name)
    _signal.signal(number, _signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
