"""Running the whole command line again inside a user namespace (`--unshare`; `spec/userns.md` 5).

A user without root rights cannot mount or give files away; inside a namespace where he is root he can. The program
starts itself anew there, and passes the exit status on.
"""

from __future__ import annotations

import os
import sys

from orlop.system import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def is_inside(environ: Mapping[str, str]) -> bool:
    """Root here, and somebody else outside, or told so: this is the second start."""
    outside = environ.get(userns.ROOTLESS_UID, "")
    return os.geteuid() == 0 and (outside.strip("0") != "" or bool(environ.get(userns.CONFIGURED)))


def enter(asked: bool, environ: Mapping[str, str], warn: Callable[[str], None]) -> int:
    """Run this very command line inside; returns the exit status for ours.

    Raises:
        OSError: no namespace can be made here. ConfigError: /etc/subuid or /etc/subgid is malformed.
    """
    again = [sys.executable, *sys.orig_argv[1:]]
    if os.geteuid() != 0 or asked:
        return userns.enter_namespace(again, environ=environ, warn=warn)
    # Root of a container who may not mount: the same ids again, in a namespace where he may.
    ids = [present(kind) for kind in ("uid", "gid")]
    return userns.enter_namespace(again, environ=environ, uids=ids[0], gids=ids[1], warn=warn)


def present(kind: str) -> list[tuple[int, int]]:
    """The ranges of ids that exist here, but for 0, which is mapped in any case. `kind`: "uid" or "gid"."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        rows = [line.split() for line in file]
    ranges = [(int(start), int(count)) for start, _, count in rows]
    return [(max(start, 1), count - (start == 0)) for start, count in ranges if start or count > 1]
