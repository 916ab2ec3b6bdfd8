"""What mends what: from findings to steps, and how each step is carried out (`spec/check-repair.md` 5).

Made twice, as a search for garbage is: to show what would be done, with the tables open for looking; and again under
the exclusive locks, while it is done. The order of remedies is the order in which they are carried out.

Rule 1: The least that mends. What can be had elsewhere is copied, what can be made again is made again, what only
        lost its owner, mode, time or attributes gets them back; and only what is left is removed.
Rule 2: What is removed takes with it what is worth nothing without it: layers on top, images of them. Containers go
        only if the caller said so; without that everything stays that they need.
"""

from __future__ import annotations

import os

from orlop.errors import BadRecords
from orlop.store.repair.bench import Bench, Remedy, nothing
from orlop.store.repair.containers import ContainerRepair
from orlop.store.repair.images import ImageRepair
from orlop.store.repair.layers import LayerRepair
from orlop.store.rubbish import Search
from orlop.system.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.records.trash import Trash
    from orlop.store.repair.bench import Do


def treat(bench: Bench) -> None:
    """Fill a bench with the remedies for its findings, in order."""
    _names(bench)
    LayerRepair(bench)
    ImageRepair(bench)
    ContainerRepair(bench)
    removals, keeps = bench.doom.remedies()
    bench.remedies += removals
    bench.keeps += keeps
    _files(bench)
    _leftovers(bench)


def _names(bench: Bench) -> None:
    for kind, id in bench.findings:
        for finding in bench.about(kind, id, ("duplicate-name",)):
            # Whoever opens the table for writing settles it.
            reason = f"its name {finding.name!r} goes to the later one that has it"
            bench.add("rewrite", kind, id, finding.path, reason, nothing)


def _files(bench: Bench) -> None:
    for kind, id in bench.findings:
        for finding in bench.about(kind, id, ("mode", "owner")):
            bench.add("rewrite", "file", id, finding.path, finding.remedy, _settling(finding.path))


def _settling(path: str) -> Do:
    """Mode and owner of a file of the store's own, as whoever owns its directory makes it."""

    def do(_: Trash) -> None:
        fd = open_regular(path)
        try:
            owner = os.stat(os.path.dirname(path))
            os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)

    return do


def _leftovers(bench: Bench) -> None:
    found = [finding for findings in bench.findings.values() for finding in findings]
    told = {(f.path or (f.kind, f.id)) for f in found if f.code == "leftover"}
    if not told:
        return
    try:
        search = Search(bench.engine, bench.tables)
    except BadRecords:
        return  # beside a table that is lost nothing is garbage for certain
    bench.remedies += [
        Remedy(find.step, find.take, find.paths)
        for find in search.finds
        if (find.step.path or (find.step.kind, find.step.id)) in told
    ]
