"""This program again, or another one, in a user namespace (`spec/userns.md` 5).

A user without root rights cannot mount or give files away; inside a namespace where he is root he can.
"""

from __future__ import annotations

import os
import sys

from orlop.errors import NotSupported
from orlop.system import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
        code = run(again, environ, warn)
    else:
        # Root of a container who may not mount: the same ids again, in a namespace where he may.
        code = run(again, environ, warn, present("uid"), present("gid"))
    return code if code >= 0 else 128 - code


def present(kind: str) -> list[tuple[int, int]]:
    """The ranges of ids that exist here, but for 0, which is mapped in any case. `kind`: "uid" or "gid"."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        rows = [line.split() for line in file]
    ranges = [(int(start), int(count)) for start, _, count in rows]
    return [(max(start, 1), count - (start == 0)) for start, count in ranges if start or count > 1]


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    uids: Ranges | None = None,
    gids: Ranges | None = None,
) -> int:
    """Run a program inside; its status, or minus the signal that it was killed by.

    Args:
        uids, gids: ranges to be had inside; those of /etc/subuid and /etc/subgid if not given.
        warn: is told if none are set aside.

    Raises:
        As `enter`; an OSError with a file name if the program cannot be started.
    """
    try:
        return userns.enter_namespace(argv, environ=environ, uids=uids, gids=gids, warn=warn)
    except OSError as error:
        if error.filename is not None:
            raise
        text = f"making a user namespace: {os.strerror(error.errno or 0).lower()}"
        raise NotSupported(text, peer=text) from error
