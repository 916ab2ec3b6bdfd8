"""`check`, and its repair (`spec/check-repair.md` 6, `spec/cli.md` 10.4).

What is wrong is told in the lines that the peers have for it, so scripts find what they look for. Of a thing that is
damaged and that none of their lines is about, our own sentence is told, in their form: a check that is silent about
damage is worse than one that scripts know in part.

Rule: what was reported, and neither mended nor removed, ends in an error and in status 1.
"""

from __future__ import annotations

from orlop.dropin.maintenance import and_unmount
from orlop.dropin.streams import Refusal
from orlop.errors import StorageError
from orlop.model.findings import DAMAGE, GROUPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.dropin.streams import Call
    from orlop.model.findings import CheckReport, Finding
    from orlop.model.plan import Kept, Outcome, Plan, Step

_KINDS = ("layer", "image", "container")
_MEMBERS = dict(zip(GROUPS, ("Layers", "ROLayers", "Images", "ROImages", "Containers"), strict=True))


def check(call: Call) -> int:
    from orlop.dropin.durations import seconds

    try:
        max_age = seconds(call.values.text("max"))
    except ValueError as wrong:
        raise Refusal(str(wrong)) from wrong
    return and_unmount(call, lambda: _checked(call, max_age))


def _checked(call: Call, max_age: float) -> int:
    values = call.values
    # Quick is what it is there: layers are read all the same, their trees are not looked at. What belongs to nobody
    # is the matter of `gc`.
    report = call.store.check(layer_contents=not values.on("quick"), leftovers=False, max_age=max_age)
    told = _Told(report)
    told.print(call)
    if values.on("repair") or values.on("force"):
        return _repair(call, report, told)
    if any(told.lists.values()):
        raise Refusal(told.verdict(*GROUPS))
    return 1 if told.others else 0


class _Told:
    """What is said of a report: for each of `GROUPS` id to lines; and `others`, lines about anything else."""

    def __init__(self, report: CheckReport) -> None:
        self.lists = {
            group: {id: list(lines) for id, lines in ids.items()}
            for group, ids in report.peer_lists().items()
        }
        self.others: list[str] = []
        self.findings = [finding for finding in report.findings if finding.peers or finding.grade == DAMAGE]
        subjects = {
            line.removeprefix("read-only ").partition(": ")[0]
            for ids in self.lists.values()
            for lines in ids.values()
            for line in lines
        }
        for finding in self.findings:
            if finding.kind not in _KINDS or not finding.id:
                self.others.append(finding.text)
            elif not finding.peers and f"{finding.kind} {finding.id}" not in subjects:
                line = f"read-only {finding.text}" if finding.read_only else finding.text
                self.lists[_group(finding)].setdefault(finding.id, []).append(line)

    def print(self, call: Call) -> None:
        if call.json:
            call.answer_object(
                {
                    _MEMBERS[group]: {id: [{}] * len(lines) for id, lines in ids.items()}
                    for group, ids in self.lists.items()
                }
            )
        else:
            for group, ids in self.lists.items():
                for id, lines in ids.items():
                    call.say(f"{_name(group)} {id}:")
                    for line in lines:
                        call.say(f" {line}")
        for line in self.others:
            call.complain(line)

    def verdict(self, *groups: str) -> str:
        """How many there are of each, in their words: layers and images, not lines about them."""
        return ", ".join(f"{len(self.lists[group])} {_name(group)} errors" for group in groups)


def _group(finding: Finding) -> str:
    return ("read_only_" if finding.read_only else "") + f"{finding.kind}s"


def _name(group: str) -> str:
    return group.removesuffix("s").replace("read_only_", "read-only ")


# --- repair -----------------------------------------------------------------------------------------------


def _repair(call: Call, report: CheckReport, told: _Told) -> int:
    force = call.values.on("force")
    plan = call.store.plan_repair(report, containers=force, unreferenced=True)
    outcome = call.store.apply(plan)
    errors = list(_errors(call, told, plan, outcome))
    if errors:
        if call.json:
            call.answer([{}] * len(errors))
        else:
            for error in errors:
                call.complain(error)
        raise Refusal(errors[0])
    groups = ("read_only_layers", "read_only_images", *(() if force else ("containers",)))
    # By the letter: a container that was reported counts even if what it needs was mended. They never mend it.
    if any(told.lists[group] for group in groups):
        raise Refusal(told.verdict(*groups))
    return 0


def _errors(call: Call, told: _Told, plan: Plan, outcome: Outcome) -> Iterator[str]:
    """What was tried and failed, what had to stay, and what nothing helps against; images before layers."""
    for step, error in outcome.failed:
        yield f"{_attempt(step)}: {error}"
    kept = {(keep.kind, keep.id): keep for keep in plan.keeps}
    for id in told.lists["images"]:
        if ("image", id) in kept:
            yield _refusal(call, kept["image", id])
    # Parents were looked at first; children are deleted first.
    for kind, id in reversed(kept):
        if kind == "layer" and id in told.lists["layers"]:
            tries = 1 if call.values.on("force") else len(told.lists["layers"][id])  # they try for every line
            yield from [_refusal(call, kept[kind, id])] * tries
    yield from [keep.reason for keep in plan.keeps if keep.kind not in _KINDS]
    removed = {(step.kind, step.id) for step in outcome.done if step.action == "remove"}
    for finding in told.findings:
        counted = finding.read_only and finding.kind in _KINDS
        if not (finding.remedy or counted or finding.subject in removed or finding.subject in kept):
            yield finding.text


def _attempt(step: Step) -> str:
    name = f"{step.kind} {step.id or step.path}"
    return f"deleting {name}" if step.action == "remove" else f"repairing {name}"


def _refusal(call: Call, kept: Kept) -> str:
    """Why a thing stays: what deleting it says if a container is in the way, else our reason."""
    if not call.values.on("force"):
        from orlop.dropin.text import describe

        collection = call.store.images if kept.kind == "image" else call.store.layers
        try:
            collection.delete(kept.id, dry_run=True)
        except (StorageError, OSError) as error:
            return f"deleting {kept.kind} {kept.id}: {describe(error)}"
    return f"{kept.kind} {kept.id}: {kept.reason}"
