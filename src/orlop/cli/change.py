"""`orlop rm`: what takes away what somebody named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orlop.cli import render

if TYPE_CHECKING:
    from orlop.cli.main import Session


@click.command()
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@render.planned
@click.pass_obj
def rm(session: Session, refs: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool) -> int:
    """Delete containers, images and layers, all at once, and the layers that nothing else needs.

    \b
    Examples:
      orlop rm --dry-run example.org/base:1
      orlop rm --yes box-1 box-2 example.org/base:1
    """
    with session.open() as store:
        return render.carry_out(store, store.plan_delete(*refs), dry_run=dry_run, yes=yes, as_json=as_json)
