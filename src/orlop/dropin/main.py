"""From the words of the command line to one command on one open store (`spec/cli.md` 1.4).

Rule 1: the order of events is a contract: flags, configuration, command, its flags, count of arguments,
        namespace, store, answer. Scripts know what fails first.
Rule 2: nothing is imported before it is needed. A small command costs about twice the bare interpreter, and that
        is most of what anybody feels of it.
"""

from __future__ import annotations

import gc
import os
import sys

from orlop.dropin import commands
from orlop.dropin.flags import HelpWanted, Values, WrongFlag, parse
from orlop.dropin.streams import Call, OutputLost, Refusal, Streams
from orlop.errors import StorageError
from orlop.model.options import StoreOptions
from orlop.system import program as process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from orlop.dropin.commands import Command
    from orlop.store.store import Store

FAILED = 1
_NO_STORE: Any = None
WRONG_AFTER_COMMAND = 125


def run() -> NoReturn:
    """The installed program: answers, and ends the process."""
    # It lives for milliseconds, or streams bytes: there is no garbage worth looking for.
    gc.disable()
    process.insist_on_utf_8()
    process.occupy_standard_streams()
    streams = Streams()
    try:
        status = main(os.path.basename(sys.argv[0]), sys.argv[1:], streams)
        streams.flush()
    except OutputLost as lost:
        if lost.reader_left:
            process.die_of("SIGPIPE")
        status = FAILED
        streams.err(f"{lost}\n")
        streams.flush()
    except KeyboardInterrupt:
        process.die_of("SIGINT")
    # All is written and closed by now, and taking the interpreter down would take longer than `version`.
    os._exit(status)


def main(program: str, words: list[str], streams: Streams) -> int:
    """Run one command line; returns the exit status. `program` is the name that help and hints show."""
    try:
        before, rest = parse(words, (*commands.GLOBAL, commands.HELP))
    except WrongFlag as wrong:
        from orlop.dropin import usage

        usage.wrong_before_command(program, wrong, streams)
        return FAILED
    except HelpWanted as help:
        from orlop.dropin import usage

        return usage.help_before_command(program, help.spelling, streams)
    if before.on("help") or not rest:
        from orlop.dropin import usage

        usage.general(program, streams, all_on_stdout=before.on("help"))
        return 0 if before.on("help") else FAILED
    word, *rest = rest
    command = commands.find(word)
    if command is None:
        streams.out(f"{word}: unrecognized command.\n")
        return FAILED
    wanted = _Wanted(before, streams)
    try:
        wanted.values, args = parse(rest, (*commands.GLOBAL, *command.flags), wanted.values)
    except WrongFlag as wrong:
        from orlop.dropin import usage

        usage.complain(f"{program} {word}", wrong, streams)
        return WRONG_AFTER_COMMAND
    except HelpWanted:
        from orlop.dropin import usage

        usage.of_command(program, word, command, wanted.values, streams)
        return WRONG_AFTER_COMMAND
    problem = _wrong_count(command, args)
    if problem:
        from orlop.dropin import usage

        streams.out(f"{word}: {problem}.\n")
        usage.of_command(program, word, command, wanted.values, streams)
        return FAILED
    return _answered(wanted, command, args, streams)


class _Wanted:
    """The values of the flags that stand on both sides of the command, and what the configuration adds to them."""

    def __init__(self, before: Values, streams: Streams) -> None:
        self.values = before
        self.streams = streams
        self.configured = StoreOptions()
        self.problem: StorageError | OSError | None = None
        # Until the flags behind the command are known, warnings are told; from then on only with --debug.
        self._level_is_known = False
        if not any(before.get(flag.key) for flag in commands.STORE):
            from orlop.config.load import Configuration

            try:
                self._take(Configuration(warn=self.warn).effective())
            except (StorageError, OSError) as error:
                self.problem = error  # wrong flags are told first; opening the store fails with this
        self._level_is_known = True

    def _take(self, configured: StoreOptions) -> None:
        """Nothing was said about the store, so all options are those of the configuration."""
        before = self.values
        self.values = Values(
            {
                "graph": configured.graph_root,
                "run": configured.run_root,
                "storage-driver": configured.driver,
                "storage-opt": list(configured.driver_options),
                "image-store": configured.image_store or "",
                "transient-store": configured.transient,
            }
        )
        self.values.update(before)
        self.configured = configured

    def warn(self, message: str) -> None:
        if self.values.on("debug") or not self._level_is_known:
            self.streams.log("warning", message)

    def open(self) -> Store:
        """The store.

        Raises:
            StorageError, OSError, ValueError: the configuration cannot be used, or the store not be opened.
        """
        from orlop.store.opening import completed
        from orlop.store.store import Store

        if self.problem:
            raise self.problem
        values = self.values
        options = completed(
            self.configured.replace(
                graph_root=values.text("graph"),
                run_root=values.text("run"),
                driver=values.text("storage-driver"),
                driver_options=values.list("storage-opt"),
                image_store=values.text("image-store"),
                transient=values.on("transient-store"),
            ),
            warn=self.warn,
        )
        if values.on("debug"):
            _log_settings(options, self.streams)
        return Store(options)


def _answered(wanted: _Wanted, command: Command, args: list[str], streams: Streams) -> int:
    """Enter a namespace if need be; open the store, run the command, close the store."""
    if not command.needs_store:
        return _run(Call(_NO_STORE, command, wanted.values, args, streams))
    try:
        status = _status_from_namespace(wanted)
        if status is not None:
            return status
        store = wanted.open()
    except (StorageError, OSError, ValueError) as error:
        from orlop.dropin.text import describe_opening

        streams.out(f"error initializing: {describe_opening(error)}\n")
        return FAILED
    with store:
        return _run(Call(store, command, wanted.values, args, streams))


def _run(call: Call) -> int:
    try:
        return call.command.load()(call)
    except (StorageError, OSError, Refusal) as error:
        from orlop.dropin.text import describe

        call.complain(describe(error))
        return FAILED


def _status_from_namespace(wanted: _Wanted) -> int | None:
    """What the same command line ended with in a namespace; None if it is to be answered here."""
    asked = wanted.values.get("unshare")
    if asked is False or (asked is None and process.may_mount()):
        return None
    from orlop.system import inside

    if inside.is_inside(os.environ):
        return None
    wanted.streams.flush()
    return inside.enter(bool(asked), os.environ, wanted.warn)


def _log_settings(options: StoreOptions, streams: Streams) -> None:
    """What the log begins with. From now on it also tells of every wait for a lock, and what the library warns of."""
    from orlop.system import locks, log

    streams.log("debug", f"Root: {options.graph_root}")
    streams.log("debug", f"Run Root: {options.run_root}")
    streams.log("debug", f"Driver Name: {options.driver}")
    streams.log("debug", f"Driver Options: [{' '.join(options.driver_options)}]")

    log.listen(streams.log)

    def waiting(path: str, mode: str) -> None:
        streams.log("debug", f"waiting for {path} ({mode})")
        streams.flush()

    locks.on_wait = waiting


def _wrong_count(command: Command, args: list[str]) -> str:
    if len(args) < command.least:
        return "more arguments required"
    if len(args) > command.most:
        return f"too many arguments ([{' '.join(args)}])"
    return ""
