"""`orlop gc`: looking after a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli import render

if TYPE_CHECKING:
    from orlop.cli.main import Session


@click.command()
@render.planned
@click.pass_obj
def gc(session: Session, dry_run: bool, yes: bool, as_json: bool) -> int:
    """Remove what no record names: layers and data left behind, and what dead processes were writing.

    What is mounted, in use by a running operation, or mentioned by a damaged record stays. Beside a table that was
    lost nothing is removed at all.

    \b
    Examples:
      orlop gc --dry-run
      orlop gc --yes --json
    """
    with session.open() as store:
        return render.carry_out(store, store.plan_gc(), dry_run=dry_run, yes=yes, as_json=as_json)
