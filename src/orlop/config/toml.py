"""TOML text into tables. Pure.

Every storage.conf that distributions ship is plain: one key a line, strings without escapes, booleans, lists of
strings. Importing `tomllib` for those would more than double the time of a small command on every machine that has
the file, so plain text is read here.

Rule: the plain reader answers only what `tomllib` would answer, and hands everything else over. It is allowed to
be timid, never to differ; test_config_toml.py compares the two on generated text.
"""

from __future__ import annotations

from orlop.errors import ConfigError
from orlop.formats.limits import CONFIG_DEPTH_MAX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Table = dict[str, Any]

_BLANKS = " \t"
_DIGITS = frozenset("0123456789")
_BARE = _DIGITS | frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-")
# None of these inside a string: escapes, or what the simple splitting below would take for structure.
_HARD = frozenset('"\\#\t,[]{}')


def decode(text: str, path: str) -> Table:
    """The tables of a file; `path` is for the message.

    Raises:
        ConfigError: not TOML.
        LimitExceeded: nested more deeply than anything that has a meaning.
    """
    tables = plain(text)
    if tables is not None:
        return tables
    import tomllib

    from orlop.config import statements

    statements.check_depth(text, path)
    try:
        return tomllib.loads(text)
    except ValueError as error:  # more than TOMLDecodeError: numbers of thousands of digits
        # Before 3.14 only the text of the error says where it is.
        _, _, place = str(error).partition("(at line ")
        line = place.partition(",")[0]
        raise ConfigError(
            f"{path}: wanted TOML: {error}", path=path, line=int(line) if line else None
        ) from error


def plain(text: str) -> Table | None:
    """`text` decoded if it is plain, None if only the whole grammar can tell."""
    if not text.replace("\n", "").replace("\t", "").isprintable():
        return None
    root: Table = {}
    tables = {"": root}
    table = root
    lines = iter(text.split("\n"))
    for line in lines:
        line = line.strip(_BLANKS)
        if not line or line[0] == "#":
            continue
        if line[0] == "[":
            name, _, rest = line[1:].partition("]")
            parent, dot, last = name.rpartition(".")
            if name in tables or parent not in tables or bool(dot) != bool(parent):
                return None
            if name.count(".") >= CONFIG_DEPTH_MAX:
                return None
            if not is_bare(last) or last in tables[parent] or not _is_blank(rest) or "]" not in line:
                return None
            table = tables[name] = tables[parent][last] = {}
            continue
        key, equals, value = line.partition("=")
        key, value = key.rstrip(_BLANKS), value.lstrip(_BLANKS)
        if not equals or not is_bare(key) or key in table:
            return None
        if value[:1] == "[":
            value = _joined(value, lines)
        decoded = _value(value)
        if decoded is None:
            return None
        table[key] = decoded
    return root


def _joined(value: str, lines: Iterator[str]) -> str:
    """A list that goes on over several lines, in one line; nothing if it is not a plain one."""
    parts = [value]
    while "]" not in parts[-1]:
        more = next(lines, None)
        # A string must not go over the end of a line, and a comment would swallow what is joined to it.
        if more is None or parts[-1].count('"') % 2 or "#" in parts[-1]:
            return ""
        parts.append(more.strip(_BLANKS))
    return " ".join(parts)


def _value(text: str) -> str | bool | int | list[str] | Table | None:
    if text[:1] == '"':
        # Three quotes open a string of several lines: the rest is not blank then.
        value, closed, rest = text[1:].partition('"')
        return value if closed and "\\" not in value and "\t" not in value and _is_blank(rest) else None
    if text[:1] == "[":
        inside, _, rest = text[1:].partition("]")
        items = inside.split(",")
        if not items[-1].strip(_BLANKS):
            items.pop()  # TOML lets a list end with a comma
        found = [_string(item) for item in items]
        return [f for f in found if f is not None] if None not in found and _is_blank(rest) else None
    if text[:1] == "{":
        inside, closed, rest = text[1:].partition("}")
        return _inline(inside) if closed and _is_blank(rest) else None
    word = text.partition("#")[0].rstrip(_BLANKS)
    if word and _DIGITS.issuperset(word) and len(word) < 16:
        return int(word) if word == "0" or word[0] != "0" else None
    return {"true": True, "false": False}.get(word)


def _inline(text: str) -> Table | None:
    """The inside of `{key = "text", ...}`."""
    table: Table = {}
    for item in text.split(",") if text.strip(_BLANKS) else ():
        key, _, value = item.partition("=")
        key = key.strip(_BLANKS)
        found = _string(value)
        if found is None or key in table or not is_bare(key):
            return None
        table[key] = found
    return table


def _string(text: str) -> str | None:
    text = text.strip(_BLANKS)
    inside = text[1:-1]
    plain = len(text) > 1 and text[0] == text[-1] == '"' and _HARD.isdisjoint(inside)
    return inside if plain else None


def is_bare(key: str) -> bool:
    return bool(key) and _BARE.issuperset(key)


def _is_blank(rest: str) -> bool:
    """Nothing but blanks and a comment."""
    rest = rest.strip(_BLANKS)
    return not rest or rest[0] == "#"
