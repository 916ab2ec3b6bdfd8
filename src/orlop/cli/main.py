"""`orlop`: the command for people (design section 4). It parses, calls the library, shows; it decides nothing.

Rules
1. What was asked for goes to standard output, talk (plans about to be carried out, progress, warnings, errors) to
   standard error. With `--json` standard output is one JSON document and nothing else.
2. Nothing destructive happens before its plan was shown and agreed to: `--dry-run` ends there, `--yes` agrees
   beforehand, and without a terminal to ask on one of the two is needed.
3. Exit status: 0 done; 1 failed; 2 wrong usage; 3 damage was found; 4 locked by somebody else, or timed out.
4. An ordinary user is answered from within his user namespace, as by the drop-in: outside of it half of his own store
   is closed to him, and what he cannot read would look damaged.
5. A store is opened if it is there, and of the driver that is meant. None of these commands has any use for one that
   a typing error has just made, and beside a second one every program asks which of them is meant.

A command's module is imported when the command runs. Colour and bars only on a terminal, and not with NO_COLOR.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from orlop import errors
from orlop.cli import render
from orlop.system import program

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from orlop.model.options import StoreOptions
    from orlop.store.store import Store

FAILED, USAGE, DAMAGE, LOCKED = 1, 2, 3, 4
ANSWER_LOST = "the answer cannot be written to standard output"


class _Root(click.Path):
    """A directory that opening the store will look at: what cannot be read is no wrong usage."""

    def __init__(self) -> None:
        super().__init__(readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:  # a variable that is not set must not mean the system's store
            self.fail("wanted a path, found an empty one", param, ctx)
        return super().convert(value, param, ctx)


def _seconds(ctx: click.Context, param: click.Parameter, given: str | None) -> float | None:
    try:
        seconds = None if given is None else float(given)
    except ValueError:
        seconds = -1
    if seconds is not None and not seconds >= 0:  # nor is "nan", for which one would wait for ever
        raise click.BadParameter(f"wanted seconds, a number from 0 on; found {given!r}", ctx, param)
    return seconds


# Command -> module of this room and the sentence of the overview, so that `orlop --help` imports none of them.
COMMANDS = {
    "check": ("maintenance", "look for damage and leftovers"),
    "dedup": ("maintenance", "let equal files share their blocks (xfs, btrfs)"),
    "df": ("usage", "what takes the space, and what can be had back"),
    "gc": ("maintenance", "remove leftovers: what no record names"),
    "repair": ("maintenance", "put right what a check finds, with the least loss"),
    "rm": ("change", "delete containers, images and layers"),
}


class Commands(click.Group):
    """The commands of the table above, each imported when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"orlop.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(COMMANDS.items())])


class Session:
    """What every command gets: how to open the store, and how to talk."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = {name: value for name, value in options.items() if value is not None}

    def open(self) -> Store:
        """The store that the command line and the configuration name.

        Raises:
            click.exceptions.Exit: all was done in a user namespace; with the status that it ended with there.
            FileNotFoundError: there is no store in the root that is meant.
            Others: as `orlop.open_store`.
        """
        from orlop.system import inside

        if not (program.may_mount() or inside.is_inside(os.environ)):
            sys.stdout.flush()
            # It would be told each time that no subordinate ids are set aside; a store without them needs none.
            raise click.exceptions.Exit(inside.enter(False, os.environ, lambda warning: None))
        import orlop
        from orlop.store.opening import completed, opened

        configuration = orlop.Configuration(warn=_warn)
        given = orlop.StoreOptions(**self._options)
        options = completed(given, configuration=configuration)
        options = options.replace(driver=_driver_of_store(options))
        try:
            return opened(given, options, configuration)
        except OSError as error:
            if error.errno == errno.EROFS:
                error.add_note(_frozen(options))
            raise


def _frozen(options: StoreOptions) -> str:
    """LIMIT: what to do about a root on a read-only file system: locks are files that are opened for writing."""
    return (
        "a store that cannot be written is looked at as an additional store of another one, even an empty one: "
        f"--option {options.driver}.imagestore={options.graph_root}"
    )


def _driver_of_store(options: StoreOptions) -> str:
    """The driver of the store that lies in the roots that are meant; "" if there are several to choose from.

    Raises:
        FileNotFoundError: there is no store, or none of the driver that was asked for.
        PermissionError, NotADirectoryError: nobody can say.
        DriverNotSupported: it is no driver's name, or that of one that is not here.
    """
    from orlop.drivers import registry

    driver = options.driver
    if driver:
        registry.check_name(driver, options.graph_root)
    for root in filter(None, (options.graph_root, options.image_store)):
        there = registry.stored_in(root)
        if not there:
            raise FileNotFoundError(errno.ENOENT, "there is no store here", root)
        if options.driver and options.driver not in there:
            found = ", ".join(there)
            raise FileNotFoundError(
                errno.ENOENT, f'there is no store of the driver "{driver}" here, but one of {found}', root
            )
        if not driver and len(there) == 1:
            driver = there[0]
    return driver


def _warn(message: str) -> None:
    click.echo(f"orlop: {render.printable(message)}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--root", "graph_root", type=_Root(), help="Graph root, where the store lies.")
@click.option("--runroot", "--run", "run_root", type=_Root(), help="Run root, lost on reboot.")
@click.option("--driver", "--storage-driver", "-d", help="Driver: overlay, vfs, ...")
@click.option(
    "--option",
    "--storage-opt",
    "-o",
    "driver_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Driver option.",
)
@click.option("--imagestore", "--image-store", "image_store", type=_Root(), help="Second root, for images.")
@click.option("--transient", "--transient-store", is_flag=True, help="Containers live in the run root.")
@click.option(
    "--lock-timeout", callback=_seconds, metavar="SECONDS", help="Give up waiting for others after so long."
)
@click.version_option(package_name="orlop")
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:
    """Look after container storage that podman, buildah, skopeo and CRI-O use.

    \b
    Examples:
      orlop df                     what takes the space
      orlop check --quick          is all well?
      orlop gc --dry-run           what would be removed, and why
      orlop --root /mnt/store --runroot /run/store df

    Without --root the store is the one that podman would use. Every command takes --json.
    """
    ctx.obj = Session(options)


def run(args: list[str] | None = None) -> int:
    """The whole command: `args` without the program's name; the exit status."""
    _prepare_streams()
    program.listen_for_interrupts()
    try:
        # A command returns its exit status; click hands it through outside of its standalone mode.
        status = cli.main(args=args, prog_name="orlop", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as left:
        return left.exit_code
    except click.Abort as left:
        if isinstance(left.__cause__, KeyboardInterrupt):
            # Not "nothing was done": somebody may have had enough in the middle of it.
            click.echo("orlop: interrupted", err=True)
            program.die_of("SIGINT")
        click.echo("orlop: nothing was done", err=True)
        return FAILED
    except click.ClickException as wrong:
        wrong.show()
        return USAGE if isinstance(wrong, click.UsageError) else FAILED
    except errors.LockTimeout as busy:
        return _failed(busy, LOCKED)
    except (errors.StorageError, OSError) as problem:
        lost = isinstance(problem, OSError) and problem.filename == ANSWER_LOST
        if lost or isinstance(problem, BrokenPipeError):
            # Nobody can have the rest of the answer. What is still buffered must not fail once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(problem, BrokenPipeError):
            return FAILED  # whoever read has seen enough
        return _failed(problem, DAMAGE if isinstance(problem, errors.Damaged) else FAILED)


class _Answer(io.FileIO):
    """Standard output, whose errors say that they are its own: a full disk below it is not the store's."""

    def __init__(self) -> None:
        super().__init__(1, "w", closefd=False)

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, ANSWER_LOST) from error


def _prepare_streams() -> None:
    """UTF-8, and three streams that are open: Python has None for one that was closed when it started."""
    program.insist_on_utf_8()
    program.occupy_standard_streams()
    for name, fd in (("stdin", 0), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, "r" if fd == 0 else "w", encoding="utf-8", closefd=False))
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Answer()),
            encoding="utf-8" if sys.stdout is None else sys.stdout.encoding,
            errors=None if sys.stdout is None else sys.stdout.errors,
            line_buffering=sys.stdout is not None and sys.stdout.isatty(),
        )


def _failed(problem: Exception, status: int) -> int:
    click.echo(f"orlop: {render.printable(_sentence(problem))}", err=True)
    for note in getattr(problem, "__notes__", ()):
        click.echo(f"       {render.printable(note)}", err=True)
    return status


def _sentence(problem: Exception) -> str:
    """What went wrong, without the number that Python puts in front of an error of the system."""
    if isinstance(problem, OSError) and problem.strerror:
        where = "" if problem.filename is None else f"{os.fsdecode(problem.filename)}: "
        return where + problem.strerror
    return str(problem)
