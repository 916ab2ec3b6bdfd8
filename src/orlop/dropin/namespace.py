"""Programs in a user namespace: this one again (`--unshare`), or one that the user names (`spec/userns.md` 5).

A user without root rights cannot mount or give files away; inside a namespace where he is root he can.
"""

from __future__ import annotations

import os
import sys

from orlop.dropin.streams import Refusal
from orlop.errors import NotSupported
from orlop.system import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.dropin.streams import Call

    Ranges = Sequence[tuple[int, int]]


def is_inside(environ: Mapping[str, str]) -> bool:
    """Root here, and somebody else outside, or told so: this is the second start."""
    outside = environ.get(userns.ROOTLESS_UID, "")
    return os.geteuid() == 0 and (outside.strip("0") != "" or bool(environ.get(userns.CONFIGURED)))


def enter(asked: bool, environ: Mapping[str, str], warn: Callable[[str], None]) -> int:
    """Run this very command line inside; returns the exit status for ours: 128 and the signal if it was killed.

    Raises:
        OSError, NotSupported: no namespace can be made here. ConfigError: /etc/subuid or /etc/subgid is malformed.
    """
    again = [sys.executable, *sys.orig_argv[1:]]
    if os.geteuid() != 0 or asked:
        code = _run_inside(again, environ, warn)
    else:
        # Root of a container who may not mount: the same ids again, in a namespace where he may.
        code = _run_inside(again, environ, warn, present("uid"), present("gid"))
    return code if code >= 0 else 128 - code


def present(kind: str) -> list[tuple[int, int]]:
    """The ranges of ids that exist here, but for 0, which is mapped in any case. `kind`: "uid" or "gid"."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        rows = [line.split() for line in file]
    ranges = [(int(start), int(count)) for start, _, count in rows]
    return [(max(start, 1), count - (start == 0)) for start, count in ranges if start or count > 1]


def unshare(call: Call) -> int:
    """The command: run a program in a namespace, also for root; whatever its status was, a failure is 1."""
    words = call.args or [os.environ.get("SHELL") or "/bin/sh"]
    call.streams.flush()
    try:
        if is_inside(os.environ):
            code = userns.run_program(words, environ=dict(os.environ) | {userns.CONFIGURED: "done"})
        else:
            code = _run_inside(words, os.environ, call.warn)
    except OSError as error:
        if error.filename != words[0]:
            raise
        if "/" not in words[0]:
            from orlop.dropin.text import quote

            raise Refusal(f"exec: {quote(words[0])}: executable file not found in $PATH") from error
        from orlop.dropin.text import system_text

        raise Refusal(system_text(error, "fork/exec")) from error
    if code:
        raise Refusal(f"exit status {code}" if code > 0 else f"signal: {_signal_name(-code)}")
    return 0


def _run_inside(
    argv: Sequence[str],
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    uids: Ranges | None = None,
    gids: Ranges | None = None,
) -> int:
    try:
        return userns.enter_namespace(argv, environ=environ, uids=uids, gids=gids, warn=warn)
    except OSError as error:
        if error.filename is not None:
            raise
        text = f"making a user namespace: {os.strerror(error.errno or 0).lower()}"
        raise NotSupported(text, peer=text) from error


def _signal_name(number: int) -> str:
    from signal import strsignal

    return (strsignal(number) or f"signal {number}").lower()
