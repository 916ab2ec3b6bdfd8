"""What a plan to delete rests on: facts from the records, asked for when it is made and again before it is applied.

    of an object    `record` (a digest of all it says), `children`, `images`, `containers` (who needs it; ids with
                    blanks between), `mounts` (how often it is mounted, and where, if the kernel shows that), `doubt`
                    (of a damaged record)
    of the store    `layers`, `images`, `containers`, `driver layers`: how many, and a digest of the ids

What is *not* asked again is whether more could go by now: a plan does what it lists, and nothing else.
"""

from __future__ import annotations

from orlop.errors import PlanOutdated, UnsafeID
from orlop.formats.records import encode
from orlop.model.digest import Digest
from orlop.model.plan import Assumption
from orlop.store.shown import Shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.model.plan import Plan, Step
    from orlop.records.blocks import View
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


def of_steps(engine: Engine, tables: Tables, steps: Iterable[Step]) -> list[Assumption]:
    """The facts that the removal of layers, images and containers rests on. The tables are open."""
    shown = Shown()
    return [
        Assumption(step.kind, step.id, fact, value)
        for step in steps
        for fact, value in _facts(engine, tables, shown, step.kind, step.id)
    ]


def of_store(engine: Engine, tables: Tables) -> list[Assumption]:
    """The facts that a removal of everything rests on."""
    kinds = {
        "layers": [row.id for row in tables.layers.rows],
        "images": [row.id for view in tables.own_images() for row in view.rows],
        "containers": [row.id for row in tables.containers.rows],
        "driver layers": engine.ready_driver.ids(),
    }
    return [
        Assumption(
            "store",
            "",
            kind,
            f"{len(ids)} {Digest.of(' '.join(sorted(ids)).encode('utf-8', 'surrogatepass'))}",
        )
        for kind, ids in kinds.items()
    ]


def require(plan: Plan, now: Iterable[Assumption]) -> None:
    """Compare what a plan assumes with what is.

    Raises:
        PlanOutdated: the first that differs.
    """
    found = {(fact.kind, fact.id, fact.fact): fact.value for fact in now}
    for assumed in plan.assumptions:
        value = found.get((assumed.kind, assumed.id, assumed.fact))
        if value != assumed.value:
            raise PlanOutdated(
                f"{_difference(assumed, value)} since the plan was made: nothing was done, make a new plan",
                kind=assumed.kind,
                id=assumed.id,
                fact=assumed.fact,
                wanted=assumed.value,
                found=value,
            )


def _difference(assumed: Assumption, value: str | None) -> str:
    name = f"{assumed.kind} {assumed.id}".rstrip()
    if assumed.fact == "record":
        return f"{name} {'has changed' if value else 'has gone'}"
    was, now = (text[:200] or "none" for text in (assumed.value, value or ""))
    return f"the {assumed.fact} of {name} have changed from {was} to {now}"


def _facts(engine: Engine, tables: Tables, shown: Shown, kind: str, id: str) -> Iterator[tuple[str, str]]:
    if kind == "container":
        yield "record", _record([tables.containers], id)
        return
    boxes = tables.containers.rows
    if kind == "image":
        yield "record", _record(tables.own_images(), id)
        yield "containers", _joined(row.id for row in boxes.holding("image", id))
        return
    mounts = engine.layers.mounts
    assert mounts is not None
    users = [
        row.id
        for view in tables.own_images()
        for row in view.rows
        if row.document.get("layer") == id or id in (row.document.get("mapped-layers") or ())
    ]
    yield "record", _record([tables.layers], id)
    yield "children", _joined(row.id for row in tables.layers.rows.holding("parent", id))
    yield "images", _joined(users)
    yield "containers", _joined(row.id for row in boxes.holding("layer", id))
    yield "mounts", " ".join(filter(None, (str(mounts.of(id).count), _mounted(engine, shown, id))))
    yield "doubt", tables.doubted(id) or ""


def _mounted(engine: Engine, shown: Shown, id: str) -> str:
    try:
        return shown.of_layer(engine.ready_driver.places(id))
    except UnsafeID:
        return ""  # what can be no directory is mounted nowhere


def _joined(ids: Iterable[str]) -> str:
    return " ".join(sorted(set(ids)))


def _record(views: Iterable[View], id: str) -> str:
    """The digest of a record, or of both that a split store has of an image; empty if there is none."""
    rows = [(view, view.rows.by_id(id)) for view in views]
    texts = [encode(view.table.record, row.document) for view, row in rows if row is not None]
    return str(Digest.of("\n".join(texts).encode("utf-8", "surrogatepass"))) if texts else ""
