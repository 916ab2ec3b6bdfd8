"""Where the statements of a TOML text stand, and how deep they go: what `tomllib` does not tell. Pure.

Imported for text that is not plain, and for errors. A *statement* is a table's header or a key with its value; it
ends with its line, unless a list or a string goes on.
"""

from __future__ import annotations

import re
import tomllib

from orlop.errors import LimitExceeded
from orlop.formats.limits import CONFIG_DEPTH_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

# What may hold signs that are none (strings, comments), and the signs. Possessive, so that nothing is tried twice.
_TOKEN = re.compile(
    r"""
      \"{3} (?: [^"\\]++ | \\. | "(?!"") )*+ \"{3,5}
    | '{3} (?: [^']++ | '(?!'') )*+ '{3,5}
    | " (?: [^"\\\n]++ | \\. )*+ "
    | ' [^'\n]*+ '
    | \# [^\n]*+
    | [\n\[\]{}.,=]
    """,
    re.VERBOSE | re.DOTALL,
)


def check_depth(text: str, path: str) -> None:
    """Refuse what would make `tomllib` recurse without end, or calculate without end. `path` is for the message."""
    depth = parts = line = 0
    for token in _TOKEN.finditer(text):
        sign = token[0]
        line += sign.count("\n")
        if sign in ("[", "{"):
            depth += 1
        elif sign in ("]", "}"):
            depth = max(depth - 1, 0)
        parts = parts + 1 if sign == "." else parts if sign[0] in "\"'" else 0
        if depth > CONFIG_DEPTH_MAX or parts > CONFIG_DEPTH_MAX:
            raise LimitExceeded(
                f"{path}, line {line + 1}: nested more deeply than the {CONFIG_DEPTH_MAX} levels allowed",
                path=path,
                line=line + 1,
                limit=CONFIG_DEPTH_MAX,
            )


def line_of(text: str, keys: Sequence[str]) -> int:
    """The number of the line, from 1, with which the value of these keys begins. `text` is valid, and has them."""
    wanted = tuple(keys)
    header: tuple[str, ...] = ()
    for number, statement in _statements(text.replace("\r\n", "\n")):
        if statement[0] == "[":
            header = tuple(_keys_of(tomllib.loads(statement)))
            found = header[: len(wanted)] == wanted
        else:
            found = wanted[: len(header)] == header and _has(tomllib.loads(statement), wanted[len(header) :])
        if found:
            return number
    raise ValueError(f"no statement gives {wanted} a value")


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement with the number of its first line."""
    number = line = 1
    start = depth = 0
    for token in _TOKEN.finditer(text + "\n"):
        sign = token[0]
        line += sign.count("\n")
        depth += (sign in ("[", "{")) - (sign in ("]", "}"))
        if sign == "\n" and not depth:
            statement = text[start : token.start()].lstrip(" \t")
            if statement and statement[0] != "#":
                yield number, statement
            number, start = line, token.end()


def _keys_of(table: dict[str, Any]) -> Iterator[str]:
    """The parts of a header, from what it makes."""
    while table:
        ((key, inside),) = table.items()
        yield key
        table = inside[0] if isinstance(inside, list) else inside


def _has(value: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
