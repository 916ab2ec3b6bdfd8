"""The flag grammar of the drop-in, which is neither getopt nor argparse (`spec/cli.md` 1.2). Pure: words in,
values out.

Rule 1: flags come before arguments; the first word that is no flag ends the flags for good.
Rule 2: nothing is guessed: no abbreviations, no `-nvalue`, and a flag that needs a value takes the next word
        whatever it looks like.
Rule 3: a wrong word is named to the letter, because scripts compare the message.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SWITCH, TEXT, LIST = "switch", "text", "list"

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_HELP = ("--help", "-help", "-h")


class Flag:
    """One flag: all its spellings, what it takes, a line of help, and the text that holds if it is not given. Its key
    is the first spelling."""

    __slots__ = ("default", "help", "key", "kind", "spellings")

    def __init__(self, spellings: str, help: str, kind: str = TEXT, default: str = "") -> None:
        self.spellings = tuple(spellings.split())
        self.key = self.spellings[0].lstrip("-")
        self.help = help
        self.kind = kind
        self.default = default


class Values(dict[str, "bool | str | list[str]"]):
    """The values of flags by key. A flag that was not given is False, empty text or an empty list."""

    def on(self, key: str) -> bool:
        return self.get(key) is True

    def text(self, key: str) -> str:
        value = self.get(key, "")
        assert isinstance(value, str), key
        return value

    def list(self, key: str) -> list[str]:
        value = self.get(key, [])
        assert isinstance(value, list), key
        return value


class WrongFlag(Exception):
    """Words that the grammar refuses; `messages` are the lines to show, in order."""

    def __init__(self, *messages: str) -> None:
        super().__init__(*messages)
        self.messages = messages


class HelpWanted(Exception):
    """One of the help spellings that is not a flag of its own here."""

    def __init__(self, spelling: str) -> None:
        super().__init__(spelling)
        self.spelling = spelling


def parse(
    words: Sequence[str], flags: Iterable[Flag], given: Mapping[str, bool | str | list[str]] | None = None
) -> tuple[Values, list[str]]:
    """The values of the flags at the head of `words`, and the arguments after them.

    `given` holds the values so far: texts and switches are replaced, lists are added to.

    Raises:
        WrongFlag: a word that is no flag, a value that is missing or no boolean.
        HelpWanted: `--help`, `-help` or `-h`, alone or as a letter of a group.
    """
    known = {}
    values = Values(given or {})
    for flag in flags:
        if flag.default:
            values.setdefault(flag.key, flag.default)
        for spelling in flag.spellings:
            known[spelling] = flag
    queue = list(reversed(words))  # the next word is at the end
    while queue:
        word = queue[-1]
        if word[:1] != "-" or word == "-":
            break
        queue.pop()
        if word == "--":
            break
        if word[1] == "=":
            raise WrongFlag(f"bad flag syntax: {word}")
        spelling, equals, value = word.partition("=")
        if spelling in known:
            _set(values, known[spelling], spelling, _unquoted(value) if equals else None, queue)
        elif spelling in _HELP:
            raise HelpWanted(spelling)
        elif spelling[1] == "-" or len(spelling) == 2:
            raise WrongFlag(_undefined(spelling))
        else:
            _set_group(values, known, spelling, queue)
    queue.reverse()
    return values, queue


def _set_group(values: Values, known: Mapping[str, Flag], group: str, queue: list[str]) -> None:
    """`-tj`: each letter as if it stood alone; a letter that needs a value takes the word after the group."""
    for letter in group[1:]:
        spelling = "-" + letter
        if spelling not in known:
            if spelling in _HELP:
                raise HelpWanted(spelling)
            raise WrongFlag(_undefined(group))
        try:
            _set(values, known[spelling], spelling, None, queue)
        except WrongFlag as wrong:
            raise WrongFlag(*wrong.messages, _undefined(group)) from None


def _set(values: Values, flag: Flag, spelling: str, value: str | None, queue: list[str]) -> None:
    """`value` is what stood behind `=`, or None."""
    if flag.kind == SWITCH:
        values[flag.key] = True if value is None else _boolean(value, spelling)
        return
    if value is None:
        if not queue:
            raise WrongFlag(f"flag needs an argument: {spelling}")
        value = queue.pop()
    values[flag.key] = [*values.list(flag.key), value] if flag.kind == LIST else value


def _boolean(value: str, spelling: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    from orlop.dropin.text import quote

    shown = quote(value)
    raise WrongFlag(
        f"invalid boolean value {shown} for  {spelling}: strconv.ParseBool: parsing {shown}: invalid syntax"
    )


def _unquoted(value: str) -> str:
    """Without one pair of matching outer quotes. A lone quote character is no pair."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def _undefined(spelling: str) -> str:
    return f"flag provided but not defined: {spelling}"


def table(flags: Iterable[Flag], values: Values, home: str = "") -> str:
    """The option table of a help text: spellings, the value that holds, description (`spec/cli.md` 1.3)."""
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.spellings[0].lower()):
        left = "  " + ", ".join(flag.spellings)
        shown = _shown(flag, values, home)
        rows.append((f"{left}={shown}" if shown else left, flag.help))
    width = max(len(left) for left, _ in rows) + 4
    return "".join(f"{left:{width}}{help}\n" for left, help in rows)


def _shown(flag: Flag, values: Values, home: str) -> str:
    if flag.kind == LIST:
        return f"[{' '.join(values.list(flag.key))}]"
    if flag.kind == SWITCH:
        return "true" if values.on(flag.key) else ""
    text = values.text(flag.key) or flag.default
    if text == "0":
        return ""
    # A whole path component, unlike the peers, who turn /rooted into ~ed for a home of /root.
    return "~" + text[len(home) :] if home and (text + "/").startswith(home + "/") else text
