"""Users and groups of this machine, by name or number (`spec/userns.md` 3.1).

The C library knows the local files, and asks whatever directory service the machine has. An interpreter that brings
a C library of its own sees the local files only: what it does not find is looked for by `getent`, which comes with
the machine.
"""

from __future__ import annotations

import os

from orlop.errors import AccountUnknown, ConfigError
from orlop.formats import passwd
from orlop.formats.passwd import Account
from orlop.system import starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_OUTPUT_MAX = 1 << 20
_FAILURES = {
    1: "getent reported invalid parameters/database unknown",
    3: "getent database doesn't support enumeration",
}


def user(who: str, *, path: str = os.defpath) -> Account:
    """The user of that name, or else of that number. `path`: the directories in which to look for `getent`.

    Raises:
        AccountUnknown: there is none. ConfigError: `getent` cannot say.
    """
    import pwd

    entry = _of_library(who, pwd.getpwnam, pwd.getpwuid)
    if entry is not None:
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    return _asked("passwd", who, path)


def group(who: str, *, path: str = os.defpath) -> Account:
    """The group likewise; its `uid` is None."""
    import grp

    entry = _of_library(who, grp.getgrnam, grp.getgrgid)
    if entry is not None:
        return Account(entry.gr_name, None, entry.gr_gid)
    return _asked("group", who, path)


def _of_library(who: str, by_name: Callable[[str], Any], by_number: Callable[[int], Any]) -> Any:
    try:
        return by_name(who)
    except (KeyError, ValueError):  # ValueError: no text that a name could be
        pass
    if who.isascii() and who.isdigit() and len(who) <= 10:
        try:
            return by_number(int(who))
        except (KeyError, OverflowError):
            pass
    return None


def _asked(database: str, who: str, path: str) -> Account:
    """What `getent` says."""
    unknown = f'getent unable to find entry "{who}" in {database} database'
    program = _getent(path)
    # A name that looks like a switch is one to getent, and nobody's name.
    if program is None or not who or who.startswith("-") or "\0" in who:
        raise AccountUnknown(f"no entry of the {database} database is called {who!r}", peer=unknown, ref=who)
    from subprocess import DEVNULL, PIPE

    argv = [program, database, who]
    with starting.program(argv, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env={"LC_ALL": "C"}) as process:
        output, _ = process.communicate()
    if process.returncode == 0:
        entries = (passwd.users if database == "passwd" else passwd.groups)(output[:_OUTPUT_MAX])
        for entry in entries:
            return entry
    if process.returncode in (0, 2):
        raise AccountUnknown(f"{program} knows no {database} entry {who!r}", peer=unknown, ref=who)
    text = _FAILURES.get(process.returncode, f"getent ended with status {process.returncode}")
    raise ConfigError(f"looking for {who!r} in the {database} database: {text}", peer=text, ref=who)


def _getent(path: str) -> str | None:
    """The program of that name; one that turns out to be another (busybox) takes other arguments."""
    for directory in path.split(":"):
        found = os.path.join(directory, "getent")
        if directory.startswith("/") and os.access(found, os.X_OK):
            return found if os.path.basename(os.path.realpath(found)) == "getent" else None
    return None
