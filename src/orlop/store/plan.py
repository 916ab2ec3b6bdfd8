"""Applying plans: each is carried out by the use case that made it, after it asked for every assumption again."""

from __future__ import annotations

from orlop.model.plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.model.plan import Outcome
    from orlop.store.engine import Engine

_MADE_BY = {
    "delete": "deleting",
    "wipe": "deleting",
    "gc": "gc",
    "dedup": "dedup",
    "repair": "repair.planning",
}
"""Which file of this room makes the plans of a verb, and has `carry_out(engine, plan, progress)` for them."""


def apply(engine: Engine, plan: Plan, progress: Callable[[object], object] | None = None) -> Outcome:
    """Do what a plan says, and nothing else.

    Raises:
        PlanOutdated: the store is not as it was when the plan was made; nothing was done.
        ValueError: no plan of a verb that there is.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"wanted a plan, found {type(plan).__name__}")
    if plan.verb not in _MADE_BY:
        raise ValueError(f"wanted a plan of {', '.join(_MADE_BY)}; found one of {plan.verb!r}")
    room = __import__(f"orlop.store.{_MADE_BY[plan.verb]}", fromlist=["carry_out"])
    outcome: Outcome = room.carry_out(engine, plan, progress)
    return outcome


def told(outcome: Outcome, progress: Callable[[object], object] | None) -> Outcome:
    """Tell `progress` what became of each step; no lock is held by now."""
    if progress is not None:
        from orlop.model.events import StepDone, StepFailed

        for step in outcome.done:
            progress(StepDone(step))
        for step, error in outcome.failed:
            progress(StepFailed(step, error))
    return outcome
