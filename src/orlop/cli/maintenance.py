"""`orlop check`, `dedup`, `gc` and `repair`: looking after a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli import render
from orlop.cli.main import DAMAGE

if TYPE_CHECKING:
    from orlop.cli.main import Session
    from orlop.model.findings import CheckReport, Finding


@click.command()
@click.option("--quick", is_flag=True, help="Do not read the layers themselves.")
@click.option("--all", "everything", is_flag=True, help="Tell oddities, too: unusual, and no harm.")
@click.option("--json", "as_json", is_flag=True, help="The whole report as one JSON document.")
@click.pass_obj
def check(session: Session, quick: bool, everything: bool, as_json: bool) -> int:
    """Look for damage and leftovers. Nothing is changed, and the store may be in use.

    The exit status is 3 if something is damaged. Leftovers alone, which `orlop gc` removes, are none.

    \b
    Examples:
      orlop check --quick
      orlop check
      orlop check --json | jq '.findings[] | select(.grade == "damage")'
    """
    with session.open() as store, render.Progress() as progress:
        report = store.check(quick=quick, progress=progress)
    if as_json:
        render.as_document(report.json())
    else:
        _show(report, everything)
    return DAMAGE if report.of_grade("damage") else 0


def _show(report: CheckReport, everything: bool) -> None:
    for finding in report.findings:
        if everything or finding.grade != "oddity":
            click.echo(_told(finding))
    counts = dict(report.checked)
    kinds = ("layers", "images", "containers", "items")
    looked = ", ".join(f"{counts[kind]} {kind[:-1] if counts[kind] == 1 else kind}" for kind in kinds)
    click.echo(f"{looked} looked at, {render.size(counts['bytes'])} read: {_verdict(report)}")


def _told(finding: Finding) -> str:
    what = render.short(finding.id) or finding.path
    text = finding.text.removeprefix(f"{finding.kind} {finding.id}".rstrip() + ": ")
    for end in (" ", ": "):
        text = text.removeprefix(f"{finding.path}{end}")
    lines = [f"{finding.grade}: {finding.kind} {what}: {text}"]
    if finding.since is not None:
        lines.append(f"    since {finding.since} or before")
    if finding.remedy:
        lines.append(f"    repair: {finding.remedy}")
    return "\n".join(map(render.printable, lines))


def _verdict(report: CheckReport) -> str:
    if report.is_clean:
        return "all is well"
    counts = {"damaged": len(report.of_grade("damage")), "left behind": len(report.of_grade("leftover"))}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


@click.command()
@click.option(
    "--method", type=click.Choice(["crc", "size", "sha256"]), default="crc", help="How equal files are found."
)
@render.planned
@click.pass_obj
def dedup(session: Session, method: str, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Let files with the same content share their blocks, on xfs and btrfs.

    The kernel compares the files before it shares anything. No content, time or link count changes.

    \b
    Examples:
      orlop dedup --dry-run
      orlop dedup --yes
    """
    with session.open() as store:
        with render.Progress() as progress:
            plan = store.plan_dedup(method=method, progress=progress)
        return render.carry_out(store, plan, dry_run=dry_run, yes=yes, as_json=as_json)


@click.command()
@render.planned
@click.pass_obj
def gc(session: Session, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove leftovers: layers and data that no record names, and what dead processes were writing.

    What is mounted, in use by a running operation, or mentioned by a damaged record stays. Beside a table that was
    lost nothing is removed at all.

    \b
    Examples:
      orlop gc --dry-run
      orlop gc --yes --json
    """
    with session.open() as store:
        return render.carry_out(store, store.plan_gc(), dry_run=dry_run, yes=yes, as_json=as_json)


@click.command()
@click.option(
    "--containers", is_flag=True, help="Also change containers, or remove them where nothing else helps."
)
@click.option(
    "--unreferenced", is_flag=True, help="Also remove old layers that no image and no container needs."
)
@click.option("--quick", is_flag=True, help="Only look for what is found without reading the layers.")
@render.planned
@click.pass_obj
def repair(
    session: Session,
    containers: bool,
    unreferenced: bool,
    quick: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Check the store, and put right what is damaged, with the least loss.

    What can be had from another store is copied, what can be made again is made again, and what only lost its owner,
    mode, time or attributes gets them back. Only what is left is removed, with what is worth nothing without it. The
    exit status is 3 if something damaged has to stay.

    \b
    Examples:
      orlop repair --dry-run
      orlop repair --yes
      orlop repair --containers --yes --json
    """
    with session.open() as store:
        with render.Progress() as progress:
            report = store.check(quick=quick, progress=progress)
        plan = store.plan_repair(report, containers=containers, unreferenced=unreferenced)
        status = render.carry_out(store, plan, dry_run=dry_run, yes=yes, as_json=as_json)
    return status or (DAMAGE if plan.keeps else 0)
