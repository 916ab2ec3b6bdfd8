"""Repair as a plan: what would be done about a report, and doing it (`spec/check-repair.md` 5).

Rule 1: A plan is made of what is wrong now; what a report tells that is no longer so is passed over.
Rule 2: When it is applied everything that it is about is looked at again under the exclusive locks, before anything
        is done: if something else is found than when the plan was made, nothing is done.
Rule 3: Where a table is lost or unreadable only the tables are made again: with those it can be told, by the next
        check, what else is wrong.
"""

from __future__ import annotations

import os

from orlop.drivers.api import SupportsInspection
from orlop.errors import PlanOutdated, StorageError
from orlop.model.digest import Digest
from orlop.model.findings import CheckReport, Finding
from orlop.model.plan import Assumption, Kept, Outcome, Plan, Step
from orlop.store.check.checking import Parts, Survey, leniency_of
from orlop.store.check.look import Look
from orlop.store.plan import told
from orlop.store.repair.bench import Bench, Choice
from orlop.store.repair.mounts import MountsMending
from orlop.store.repair.tables import TablesMending, wanted_records
from orlop.store.repair.treatment import treat
from orlop.store.tables import LOOK, WRITE, emptied
from orlop.store.weighing import freed, weighed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.records.blocks import View
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    Progress = Callable[[object], object]
    Subjects = set[tuple[str, str, bool]]

_CHOICE = ("containers", "unreferenced")


def plan(engine: Engine, report: CheckReport, choice: Choice) -> Plan:
    """See `Store.plan_repair`."""
    parts = _parts(report.parts, report.max_age)
    subjects = {(f.kind, f.id, f.read_only) for f in report.findings}
    with Look(engine) as look:
        found = _findings(look, parts, subjects)
        records = _tables(look, found)
        of_files = [*records.steps, *MountsMending(look).steps]
    assumptions = [*_assumptions(look, found), *_choices(choice, report)]
    if records.is_grave:
        kept = Kept(
            "store", reason="what else is wrong shows when the records are there again: check once more"
        )
        return Plan("repair", of_files, [*records.keeps, kept], 0, assumptions)
    with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        engine.driver_held()
        with engine.open(layers=LOOK, images=LOOK, containers=LOOK, graph_held=True) as tables:
            with Look(engine, held=True) as held:
                everything = [*found, *_rest(report)]
                leniency = leniency_of(held)
                bench = Bench(engine, held, tables, everything, choice, leniency, records.recorded)
                with bench.sources:
                    treat(bench)
    steps = [weighed(r.step, r.paths, tells_mounts=False) if r.paths else r.step for r in bench.remedies]
    paths = [path for remedy in bench.remedies for path in remedy.paths]
    return Plan(
        "repair", [*of_files, *steps], [*records.keeps, *bench.keeps], freed(engine, paths), assumptions
    )


def carry_out(engine: Engine, plan: Plan, progress: Progress | None = None) -> Outcome:
    """For `store.apply`.

    Raises:
        PlanOutdated: something else is wrong than when the plan was made; nothing was done.
    """
    choice, parts = _chosen(plan)
    subjects = {(a.kind, a.id, False) for a in plan.assumptions if a.fact == "findings"}
    done: list[Step] = []
    failed: list[tuple[Step, str]] = []
    wanted = {step.target for step in plan.steps}
    with Look(engine, exclusive=True) as look:
        found = _findings(look, parts, subjects)
        _require(plan, _assumptions(look, found))
        records = _tables(look, found)
        for mending in (records, MountsMending(look)):
            steps = [step for step in mending.steps if step.target in wanted]
            if steps:
                try:
                    mending.carry_out()
                    done += steps
                except (StorageError, OSError) as error:
                    failed += [(step, str(error)) for step in steps]
    if not records.is_grave and not failed:
        _treat(engine, plan, choice, parts, subjects, done, failed)
    lost = sum(step.size_bytes for step in plan.steps if step not in done)
    return told(Outcome("repair", done, failed, max(plan.freed_bytes - lost, 0)), progress)


def _treat(
    engine: Engine,
    plan: Plan,
    choice: Choice,
    parts: Parts,
    subjects: Subjects,
    done: list[Step],
    failed: list[tuple[Step, str]],
) -> None:
    waiting = {_name(step): step for step in plan.steps if step not in done}
    if not waiting:
        return
    with (
        emptied(engine, freeing=True) as rubbish,
        engine.graph_lock.writing(timeout=engine.options.lock_timeout),
    ):
        engine.driver_held()
        with engine.open(layers=WRITE, images=WRITE, containers=WRITE, graph_held=True) as tables:
            with Look(engine, held=True) as look:
                found = _findings(look, parts, subjects)
                everything = [*found, *_listed(plan)]
                bench = Bench(engine, look, tables, everything, choice, leniency_of(look), set())
                with bench.sources:
                    treat(bench)
                    for remedy in bench.remedies:
                        step = waiting.pop(_name(remedy.step), None)
                        if step is None:
                            continue
                        try:
                            remedy.do(rubbish)
                            done.append(step)
                        except (StorageError, OSError) as error:
                            if step.action == "remove" and step.path and not os.path.lexists(step.path):
                                done.append(step)  # what came before has taken it along
                            else:
                                failed.append((step, str(error)))
            # What is no longer called for was put right when the tables were opened, or by what came before.
            for step in waiting.values():
                if step.action == "remove" and _is_recorded(tables, step):
                    failed.append((step, "what was wrong is not so any more; check once more"))
                else:
                    done.append(step)


def _is_recorded(tables: Tables, step: Step) -> bool:
    views: dict[str, list[View]] = {"layer": [tables.layers], "container": [tables.containers]}
    views["image"] = [*tables.own_images()]
    return any(view.rows.by_id(step.id) is not None for view in views.get(step.kind, ()))


def _name(step: Step) -> tuple[str, ...]:
    """What tells one step from the others: several may be about one record."""
    return (*step.target, step.reason)


# --- what is wrong ----------------------------------------------------------------------------------------


def _findings(look: Look, parts: Parts, subjects: Subjects) -> list[Finding]:
    """What is wrong with these, as it is now."""
    survey = Survey(parts)
    of_files = survey.of_files(look, subjects)
    found = [finding for of_one in of_files.values() for finding in of_one]
    found += [f for f in survey.of_records(look) if (f.kind, f.id, f.read_only) in subjects]
    return [finding for finding in found if not finding.read_only]


def _tables(look: Look, found: Iterable[Finding]) -> TablesMending:
    driver = look.driver
    inspector = driver.inspector() if isinstance(driver, SupportsInspection) else None
    return TablesMending(look, inspector, wanted_records(found))


def _rest(report: CheckReport) -> list[Finding]:
    """Findings of a report that are not looked for record by record."""
    return [f for f in report.findings if f.code == "leftover" and (not f.path or os.path.lexists(f.path))]


def _listed(plan: Plan) -> list[Finding]:
    """The same for a plan: what it is to remove as rubbish."""
    return [
        Finding("leftover", "leftover", step.kind, step.reason, id=step.id, path=step.path)
        for step in plan.steps
        if step.action == "remove"
    ]


def _assumptions(look: Look, found: Iterable[Finding]) -> list[Assumption]:
    """What is wrong with each thing, as a digest; and what the files of records hold that are to be written anew."""
    of: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        of.setdefault((finding.kind, finding.id), []).append(f"{finding.code} {finding.path} {finding.text}")
    return [
        Assumption(
            kind, id, "findings", str(Digest.of("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")))
        )
        for (kind, id), lines in sorted(of.items())
    ]


def _require(plan: Plan, now: Iterable[Assumption]) -> None:
    found = {(a.kind, a.id): a.value for a in now}
    for assumed in plan.assumptions:
        if assumed.fact == "findings" and found.get((assumed.kind, assumed.id)) != assumed.value:
            name = f"{assumed.kind} {assumed.id}".rstrip()
            raise PlanOutdated(
                f"what is wrong with {name} is not what the plan was made for; nothing was done, check again",
                kind=assumed.kind,
                id=assumed.id,
                fact="findings",
            )


# --- what was chosen, kept with the plan ------------------------------------------------------------------


def _choices(choice: Choice, report: CheckReport) -> list[Assumption]:
    facts = {
        "choice": " ".join(name for name in _CHOICE if getattr(choice, name)),
        "parts": " ".join(report.parts),
        "max_age": repr(report.max_age),
    }
    return [Assumption("store", "", fact, value) for fact, value in facts.items()]


def _chosen(plan: Plan) -> tuple[Choice, Parts]:
    facts = {a.fact: a.value for a in plan.assumptions if a.kind == "store"}
    chosen = facts.get("choice", "").split()
    parts = _parts(facts.get("parts", "").split(), float(facts.get("max_age", "inf")))
    return Choice(**{name: name in chosen for name in _CHOICE}), parts


def _parts(names: Iterable[str], max_age: float) -> Parts:
    wanted = set(names)
    every = [name for name in Parts.__slots__ if name != "max_age"]
    return Parts(max_age=max_age, **{name: name in wanted for name in every})
