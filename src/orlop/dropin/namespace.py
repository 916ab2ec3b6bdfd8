"""The command `unshare`: a program that the user names, in a user namespace (`spec/userns.md` 5)."""

from __future__ import annotations

import os

from orlop.dropin.streams import Refusal
from orlop.system import inside, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.dropin.streams import Call


def unshare(call: Call) -> int:
    """The command: run a program in a namespace, also for root; whatever its status was, a failure is 1."""
    words = call.args or [os.environ.get("SHELL") or "/bin/sh"]
    call.streams.flush()
    try:
        if inside.is_inside(os.environ):
            code = userns.run_program(words, environ=dict(os.environ) | {userns.CONFIGURED: "done"})
        else:
            code = inside.run(words, os.environ, call.warn)
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


def _signal_name(number: int) -> str:
    from signal import strsignal

    return (strsignal(number) or f"signal {number}").lower()
