"""Paths as configurations write them (`spec/config.md` 7): variables, links, and what makes two names one store."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_SHELL_NAMES = frozenset("*#$@!?-0123456789")  # names of one sign, as in a shell


def absolute(path: str) -> str:
    """`path` from the root directory on, clean; symbolic links stay what they are."""
    return clean(path if path[:1] == "/" else os.path.join(os.getcwd(), path))


def clean(path: str) -> str:
    """No `.`, `..` or doubled slashes. `os.path.normpath` keeps two at the beginning, a second name of a store."""
    normal = os.path.normpath(path)
    return "/" + normal.lstrip("/") if normal[0] == "/" else normal


def resolved(path: str) -> str:
    """Symbolic links resolved if all of the path exists, else only clean; relative if it was."""
    try:
        real = os.path.realpath(path, strict=True)
    except OSError:
        return clean(path)
    return real if path[0] == "/" else os.path.relpath(real)


def expanded(path: str, environ: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced, by nothing if unset. What a variable holds is not looked at again.

    In every corner as the peers do it, because one file must not name two stores: `$1` and `$$` are variables that
    nobody sets, `${` without an end is swallowed, and a `$` before anything else stays. (`os.path.expandvars` keeps
    unset ones, and imports `re`.)
    """
    done = []
    at = 0
    while 0 <= (dollar := path.find("$", at)) < len(path) - 1:
        done.append(path[at:dollar])
        at = dollar + 1
        sign = path[at]
        if sign == "{":
            name, closed, _ = path[at + 1 :].partition("}")
            at += len(name) + 2 if closed else 1
            name = name if closed else ""
        elif sign in _SHELL_NAMES:
            name = sign
            at += 1
        else:
            rest = path[at:]
            name = rest[: len(rest) - len(rest.lstrip(_NAME))]
            at += len(name)
            if not name:
                done.append("$")
        done.append(environ.get(name, "") if name else "")
    return "".join([*done, path[at:]])
