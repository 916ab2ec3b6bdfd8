"""How things look: tables, sizes, ages, plans, progress; for a terminal, or for whatever reads a pipe.

In a pipe a table is lines of fields with two blanks between them, without colour and never cut to a width.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.model.plan import Outcome, Plan, Step
    from orlop.store.store import Store

_THINGS = ("layer", "image", "container", "record")

_NEW = "just now"

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(number: int) -> str:
    """Bytes for people: `1.5 GiB`."""
    at = float(number)
    for unit in _UNITS:
        if abs(at) < 1024 or unit == _UNITS[-1]:
            break
        at /= 1024
    return f"{number} B" if unit == "B" else f"{at:.1f} {unit}"


def age(seconds: float | None) -> str:
    """A time span for people, in its largest unit: `3 days`. Empty for None."""
    if seconds is None:
        return ""
    for span, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= span:
            count = int(seconds // span)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return _NEW


def short(id: str) -> str:
    """An id as people compare them: the first twelve digits of a generated one."""
    return id[:12] if len(id) == 64 else id


def printable(text: str) -> str:
    """Text that somebody else chose, without what would move a cursor or hide a line: `\\x1b` for an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str) -> str:
    """A sentence as `printable`, its ids as those beside it: the first twelve digits."""
    import re

    return re.sub(r"\b[0-9a-f]{64}\b", lambda found: short(found[0]), printable(text))


def as_document(document: object) -> None:
    """One JSON document on standard output; a byte that is not UTF-8 is `\\udc` and its two hex digits."""
    text = json.dumps(document, indent=2, ensure_ascii=not _speaks_utf8())
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(document, indent=2)
    click.echo(text)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """A table on standard output. `right` are the columns of numbers, counted from 0."""
    lines = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        shown = Table(box=None, pad_edge=False, header_style="bold")
        for column, head in enumerate(heads):
            shown.add_column(head, justify="right" if column in right else "left", overflow="fold")
        for line in lines:
            shown.add_row(*map(_escaped, line))
        Console().print(shown)
        return
    every = [list(heads), *lines]
    widths = [max(len(line[column]) for line in every) for column in range(len(heads))]
    for line in every:
        cells = [
            c.rjust(w) if i in right else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def plan(of: Plan, *, err: bool) -> None:
    """A plan in words: what is done and why, what stays and why, what it frees."""

    def say(text: str) -> None:
        click.echo(text, err=err)

    if not of.steps:
        say("nothing to do")
    for step in of.steps:
        say(f"{step.action} {_what(step)}{_facts(step)}")
    for kept in of.keeps:
        what = " ".join(filter(None, (kept.kind, short(kept.id), kept.path if not kept.id else "")))
        say(f"keep {printable(what)}: {shortened(kept.reason)}")
    if of.steps:
        count = len(of.steps)
        say(f"{count} step{'s' if count > 1 else ''}, {size(of.freed_bytes)} freed")


def outcome(of: Outcome) -> None:
    """What came of it, on standard output; failures on standard error."""
    for step, problem in of.failed:
        click.echo(f"failed: {step.action} {_what(step)}: {printable(problem)}", err=True)
    click.echo(f"{len(of.done)} done, {len(of.failed)} failed, {size(of.freed_bytes)} freed")


def agree(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless `yes` was said beforehand.

    Raises:
        click.Abort: no. click.UsageError: there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            "nobody is there to agree to this plan: give --yes, or --dry-run to only see it"
        )
    click.confirm(question, abort=True, err=True)


def _what(step: Step) -> str:
    is_thing = step.id and step.kind in _THINGS  # whose path says no more than the id
    return printable(f"{step.kind} {short(step.id) if is_thing else step.path or short(step.id)}")


def _facts(step: Step) -> str:
    old = {"": "", _NEW: "new"}.get(span := age(step.age_seconds), f"{span} old")
    facts = [size(step.size_bytes) if step.size_bytes else "", old, shortened(step.reason)]
    return f" ({', '.join(filter(None, facts))})" if any(facts) else ""


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _speaks_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


class Progress:
    """Progress of long work as one line that is written over, on a terminal; nothing at all elsewhere."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shows:
            click.echo("\r\x1b[K", nl=False, err=True)

    def __call__(self, event: object) -> None:
        text = _told(event) if self._shows else ""
        if text:
            click.echo(f"\r\x1b[K{printable(text)[:100]}", nl=False, err=True)


def _told(event: object) -> str:
    """An event in a few words."""
    from orlop.model import events

    if isinstance(event, events.Advanced):
        return f"{event.task}: {event.done} of {event.total}"
    if isinstance(event, events.StepDone):
        return f"{event.step.action} {_what(event.step)}"
    if isinstance(event, events.StepFailed):
        return f"failed: {event.step.action} {_what(event.step)}"
    return ""


def planned(command: Any) -> Any:
    """The options of every command that makes a plan."""
    for option in (
        click.option(
            "--json", "as_json", is_flag=True, help="Plan, or what came of it, as one JSON document."
        ),
        click.option("--yes", "-y", is_flag=True, help="Agree to the plan beforehand."),
        click.option("--dry-run", "-n", is_flag=True, help="Only show the plan."),
    ):
        command = option(command)
    return command


def carry_out(store: Store, of: Plan, *, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Show a plan, have it agreed to, do it, say what came of it; the exit status of the command."""
    if dry_run:
        as_document(of.json()) if as_json else plan(of, err=False)
        return 0
    if of.steps or of.keeps:
        plan(of, err=True)
    if of.steps:
        agree("Do this?", yes=yes)
    with Progress() as progress:
        came_of_it = store.apply(of, progress)
    if as_json:
        as_document(came_of_it.json())
    elif of.steps:
        outcome(came_of_it)
    elif not of.keeps:
        click.echo("nothing to do")
    return 1 if came_of_it.failed else 0
