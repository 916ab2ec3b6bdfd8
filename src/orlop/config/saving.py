"""A configuration file read, changed by a program, and written back (`spec/config.md` 13).

    path = Configuration().default_file()
    tables = saving.read(path)
    tables["storage"]["driver"] = "overlay"
    saving.write(path, tables)

Rule 1: what is written would be read as the same tables, or nothing is written.
Rule 2: keys that we do not know are kept, unlike with the peers; comments are lost, as with them.
"""

from __future__ import annotations

import os
import stat

from orlop.config import storageconf, toml
from orlop.config.load import text_of
from orlop.errors import ConfigError
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Table = dict[str, Any]

_NEW_MODE = 0o644  # other users' programs read it
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def read(path: str) -> Table:
    """The tables of a file, every key as it is spelt there; none at all if there is no such file.

    Raises:
        ConfigError, LimitExceeded: as `Configuration.load`.
    """
    if not os.path.lexists(path):
        return {}
    text = text_of(path)
    storageconf.checked(text, path, lambda message: None)
    return toml.decode(text, path)


def write(path: str, tables: Table) -> None:
    """Replace the file by one that says this, old or new even after power loss. What is empty is left out.

    Links to the file stay links, and its mode stays; a new one may be read by all. Missing directories are made.

    Raises:
        ConfigError: a value of a type that its key does not take, or that TOML does not have.
        OSError.
    """
    kept = _without_empty(tables)
    text = "".join(_lines(kept, ()))
    storageconf.checked(text, path, lambda message: None)
    if toml.decode(text, path) != kept:
        raise ConfigError(f"{path} would not be read as what is to be written", path=path)
    real = os.path.realpath(path)
    files.make_dirs(os.path.dirname(real), 0o755)
    try:
        mode = stat.S_IMODE(os.stat(real).st_mode)
    except FileNotFoundError:
        mode = _NEW_MODE
    files.write_atomic(real, text.encode(), mode=mode, durable=True)


def _without_empty(table: Table) -> Table:
    kept = {
        key: _without_empty(value)
        if isinstance(value, dict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in table.items()
    }
    return {key: value for key, value in kept.items() if value or isinstance(value, float)}


def _lines(table: Table, at: tuple[str, ...]) -> list[str]:
    """A table: first its values, because whatever follows a header belongs to that."""
    lines = [
        f"{_key(key)} = {_value(value)}\n" for key, value in table.items() if not isinstance(value, dict)
    ]
    if at and (lines or not table):
        lines.insert(0, f"[{'.'.join(map(_key, at))}]\n")
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, (*at, key))
    return lines


def _key(key: str) -> str:
    return key if toml.is_bare(key) else _string(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, int | float) or hasattr(value, "isoformat"):
        return str(value)
    raise ConfigError(f"wanted a value that TOML has, found a {type(value).__name__}")


def _string(text: str) -> str:
    escaped = [
        _ESCAPES.get(sign) or (f"\\u{ord(sign):04x}" if ord(sign) < 32 or sign == "\x7f" else sign)
        for sign in text
    ]
    return f'"{"".join(escaped)}"'
