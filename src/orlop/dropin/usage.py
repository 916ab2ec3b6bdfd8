"""Help texts and complaints about flags: what goes to which stream (`spec/cli.md` 1.2 and 1.3).

The wording is ours. The streams are not: the option table is on standard error unless help was asked for by its
full name before the command.
"""

from __future__ import annotations

import os

from orlop.dropin import commands
from orlop.dropin.flags import Values, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.dropin.commands import Command
    from orlop.dropin.flags import Flag, WrongFlag
    from orlop.dropin.streams import Streams

_HELP_WANTED = "flag: help requested"
_WHILE = "while parsing arguments (1)"


def general(program: str, streams: Streams, *, all_on_stdout: bool = False) -> None:
    """What there is: all commands, and the flags that stand before them."""
    streams.out(f"Usage: {program} command [options [...]]\n\nCommands:\n\n")
    for command in commands.COMMANDS:
        streams.out(f"  {command.names[0]:30}{command.summary}\n")
    streams.out("\nOptions:\n")
    options = _table((*commands.GLOBAL, commands.HELP), Values())
    (streams.out if all_on_stdout else streams.err)(options)


def help_before_command(program: str, spelling: str, streams: Streams) -> int:
    """`-help`, which is about to go, and `-h`, which is an error there. Returns the exit status."""
    if spelling == "-help":
        general(program, streams, all_on_stdout=True)
        streams.err("Warning: '-help' is deprecated, it will be replaced by '--help' soon. See usage.\n")
        return 0
    general(program, streams)
    streams.out(f"{_HELP_WANTED} {_WHILE}\n")
    return 1


def wrong_before_command(program: str, wrong: WrongFlag, streams: Streams) -> None:
    complain(program, wrong, streams)
    streams.err(_table((*commands.GLOBAL, commands.HELP), Values()))
    streams.out(f"{wrong.messages[-1]} {_WHILE}\n")
    general(program, streams)


def complain(called: str, wrong: WrongFlag, streams: Streams) -> None:
    """Each message with a hint. `called` is the program, and the command if it was reached."""
    for message in wrong.messages:
        streams.err(f"{message}\nSee '{called} --help'.\n")


def of_command(program: str, word: str, command: Command, values: Values, streams: Streams) -> None:
    """Help for one command, called `word` by the user, with the values that hold."""
    streams.out(f"Usage: {program} {word} [options [...]] {command.pattern}".rstrip())
    streams.out(f"\n\n{command.summary}\n\nOptions:\n")
    streams.err(_table((*commands.GLOBAL, *command.flags), values))


def _table(flags: Iterable[Flag], values: Values) -> str:
    if "unshare" not in values and os.geteuid() != 0:
        values = Values(values, unshare=True)  # what happens to him who says nothing
    return "\n" + table(flags, values, os.environ.get("HOME", "").rstrip("/"))
