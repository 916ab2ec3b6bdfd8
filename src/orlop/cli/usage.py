"""`orlop df`: where the disk went."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli import render
from orlop.cli.main import DAMAGE

if TYPE_CHECKING:
    from orlop.cli.main import Session
    from orlop.model.report import ObjectUsage, UsageReport

_SUMS = (
    ("held by containers", "held_bytes"),
    ("images and layers no container needs", "idle_bytes"),
    ("records", "record_bytes"),
    ("other programs' files", "foreign_bytes"),
    ("unaccounted for", "unaccounted_bytes"),
    ("total", "total_bytes"),
)


@click.command()
@click.option("--layers", is_flag=True, help="List each layer, too.")
@click.option("--json", "as_json", is_flag=True, help="All of it as one JSON document.")
@click.pass_obj
def df(session: Session, layers: bool, as_json: bool) -> int:
    """What takes the space, and what can be had back.

    Allocated blocks count, each once: hard links and reflinks are not counted twice. UNIQUE is what nothing else lies
    on; FREED is what deleting the object alone would free now.

    \b
    Examples:
      orlop df
      orlop df --layers
      orlop df --json | jq .unaccounted
    """
    with session.open() as store, render.Progress() as progress:
        report = store.usage(progress=progress)
    if as_json:
        render.as_document(report.json())
        return DAMAGE if report.damage else 0
    objects = [*report.images, *report.containers, *(report.layers if layers else ())]
    if objects:
        heads = ("KIND", "ID", "NAME", "SIZE", "UNIQUE", "FREED")
        render.table(heads, map(_row, objects), right=(3, 4, 5))
        click.echo()
    render.table(
        ("WHERE", "SIZE"), [(text, render.size(getattr(report, name))) for text, name in _SUMS], right=(1,)
    )
    _unaccounted(report)
    for line in report.damage:
        click.echo(f"damage: {render.printable(line)}", err=True)
    return DAMAGE if report.damage else 0


def _row(of: ObjectUsage) -> tuple[str, ...]:
    sizes = map(render.size, (of.occupied_bytes, of.unique_bytes, of.reclaimable_bytes))
    return (of.kind, render.short(of.id), " ".join(of.names), *sizes)


def _unaccounted(report: UsageReport) -> None:
    if report.unaccounted:
        asking = "`orlop gc --dry-run` says which of them can go"
        if report.damage:
            asking = "records are damaged or lost, and `orlop check` says which"
        click.echo(f"\nNo record explains these; {asking}:")
        rows = [
            (path.path, render.size(path.occupied_bytes), render.age(path.age_seconds), path.reason)
            for path in report.unaccounted
        ]
        render.table(("PATH", "SIZE", "AGE", "WHY"), rows, right=(1,))
