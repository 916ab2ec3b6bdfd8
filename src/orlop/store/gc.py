"""Collecting garbage: `GarbageCollect` of the peers, and what their collection forgets (`spec/records.md` 25).

What counts as garbage is told in `store/rubbish`. It is looked for twice: to show and weigh it, without locks while
weighing; and again under the locks, while it is set aside. It is deleted when the locks are free.
"""

from __future__ import annotations

import os

from orlop.errors import StorageError
from orlop.model.plan import Assumption, Outcome, Plan, Step
from orlop.store.plan import told
from orlop.store.rubbish import Search
from orlop.store.tables import LOOK, WRITE, emptied
from orlop.store.weighing import freed, weighed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.store.engine import Engine

    Progress = Callable[[object], object]


def plan(engine: Engine) -> Plan:
    """What a collection would take away, and what it would leave though no record names it.

    Raises:
        BadRecords: a table was lost or cannot be read.
    """
    with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        engine.driver_held()
        with engine.open(layers=LOOK, images=LOOK, containers=LOOK, graph_held=True) as tables:
            search = Search(engine, tables)
    return Plan(
        "gc",
        [weighed(find.step, find.paths) for find in search.finds],
        search.keeps,
        freed(engine, [path for find in search.finds for path in find.paths]),
        [Assumption(find.step.kind, find.step.path, "needed by") for find in search.finds],
    )


def collect(engine: Engine, *, dry_run: bool = False, progress: Progress | None = None) -> Outcome:
    """Take away what is garbage now. What came into use since we looked is left alone, without a word."""
    found = plan(engine)
    if dry_run:
        return Outcome("gc", found.steps, (), found.freed_bytes)
    return _carry_out(engine, found, progress, exactly=False)


def carry_out(engine: Engine, plan: Plan, progress: Progress | None = None) -> Outcome:
    """Take away what a plan lists; for `store.apply`.

    Raises:
        PlanOutdated: something of it is needed by now; nothing was done.
    """
    return _carry_out(engine, plan, progress, exactly=True)


def _carry_out(engine: Engine, plan: Plan, progress: Progress | None, *, exactly: bool) -> Outcome:
    # Loading the tables for writing clears away some of it, so it is asked before what is there at all.
    steps = [step for step in plan.steps if not step.path or os.path.lexists(step.path)]
    done: list[Step] = []
    failed: list[tuple[Step, str]] = []
    taken = False
    try:
        with (
            emptied(engine, freeing=True) as rubbish,
            engine.graph_lock.writing(timeout=engine.options.lock_timeout),
        ):
            engine.driver_held()
            with engine.open(layers=WRITE, images=WRITE, containers=WRITE, graph_held=True) as tables:
                search = Search(engine, tables)
                if exactly:
                    search.require(steps)
                for step, find in search.matching(steps):
                    try:
                        if find is not None:
                            find.take(rubbish)
                        done.append(step)
                    except (StorageError, OSError) as error:
                        failed.append((step, str(error)))
            taken = True
    except OSError as error:
        if not taken:
            raise
        where = Step("remove", "directory", "", engine.layers.trash_root, reason="it was set aside")
        failed.append((where, str(error)))
    lost = sum(step.size_bytes for step in plan.steps if step not in done)
    return told(Outcome("gc", done, failed, max(plan.freed_bytes - lost, 0)), progress)
