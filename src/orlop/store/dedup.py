"""Deduplication: files of image layers that have the same content come to lie on the same blocks (`spec/dedup.md`).

What there is to share is found, and read, without a lock: the kernel compares again before it shares. The layer table
is held, for reading, while a layer is worked on: nobody deletes it then, and everybody may go on reading, since
nothing that can be read changes. (The peers hold it for writing, and all the time.) Layers of containers are not
touched.
"""

from __future__ import annotations

import os

from orlop.drivers.api import SupportsSharing
from orlop.errors import ReflinksNotSupported
from orlop.model.plan import Assumption, Kept, Outcome, Plan, Step
from orlop.model.report import DedupResult
from orlop.store import assumptions
from orlop.store.plan import told
from orlop.store.tables import READ
from orlop.stream.fingerprints import METHODS
from orlop.system import sharing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.store.engine import Engine
    from orlop.store.tables import Tables
    from orlop.stream.deduplication import Deduplication

    Progress = Callable[[object], object] | None

_STEP = 100
"""Layers between two reports of progress."""


def plan(engine: Engine, method: str = "crc", progress: Progress = None) -> _WorkedOut:
    """See `Store.plan_dedup`."""
    # By size alone nobody knows what would be shared until it is: for a plan it has to be read.
    return _planned(engine, "crc" if method == "size" else method, progress)


def dedup(engine: Engine, method: str, *, dry_run: bool, progress: Progress = None) -> DedupResult:
    """See `Store.dedup`."""
    try:
        found = plan(engine, method, progress) if dry_run else _planned(engine, method, progress)
    except ReflinksNotSupported:
        return DedupResult(0)
    skipped = [f"{kept.path}: {kept.reason}" for kept in found.keeps]
    if dry_run:
        shared = found.together_bytes + sum(step.size_bytes for step in found.steps)
        return DedupResult(shared, found.freed_bytes, skipped)
    outcome, shared = _carry_out(engine, found, progress, exactly=False)
    skipped += [f"{step.path}: {error}" for step, error in outcome.failed]
    return DedupResult(found.together_bytes + shared, outcome.freed_bytes, skipped)


def carry_out(engine: Engine, plan: Plan, progress: Progress = None) -> Outcome:
    """Share what a plan lists; for `store.apply`. One made elsewhere, or applied before, is worked out once more.

    Raises:
        PlanOutdated: a layer is gone or was replaced; nothing was done.
    """
    if not isinstance(plan, _WorkedOut) or plan.work.is_spent:
        method = next((a.value for a in plan.assumptions if a.fact == "method"), "")
        again = _planned(engine, method, progress)
        assumptions.require(plan, again.assumptions)
        wanted = {step.target for step in plan.steps}
        steps = [step for step in again.steps if step.target in wanted]
        again_as_planned = Plan("dedup", steps, again.keeps, again.freed_bytes, plan.assumptions)
        plan = _WorkedOut.of(again_as_planned, again.work, again.layers, again.together_bytes)
    outcome, _ = _carry_out(engine, plan, progress, exactly=True)
    return told(outcome, progress)


class _WorkedOut(Plan):
    """A plan with all that was found out to make it. As a value it is the plan: equal to it, pickled as it."""

    __slots__ = ("layers", "together_bytes", "work")

    work: Deduplication
    layers: list[_Layer]
    together_bytes: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self._values() == other._values()

    def __hash__(self) -> int:
        return super().__hash__()

    def __repr__(self) -> str:
        return repr(Plan(*self._values()))  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Callable[..., Plan], tuple[object, ...]]:
        return Plan, self._values()

    @classmethod
    def of(cls, plan: Plan, work: Deduplication, layers: list[_Layer], together_bytes: int) -> _WorkedOut:
        made = cls(*plan._values())  # type: ignore[arg-type]
        for name, value in (("work", work), ("layers", layers), ("together_bytes", together_bytes)):
            object.__setattr__(made, name, value)
        return made


class _Layer:
    """A layer whose files may be shared."""

    __slots__ = ("directory", "id")

    def __init__(self, id: str, directory: str) -> None:
        self.id = id
        self.directory = directory

    def assumption(self) -> Assumption:
        """That its directory is the very one that was looked at."""
        try:
            status = os.lstat(self.directory)
            value = f"{status.st_dev}:{status.st_ino}"
        except OSError:
            value = ""
        return Assumption("layer", self.id, "directory", value)


def _planned(engine: Engine, method: str, progress: Progress) -> _WorkedOut:
    from orlop.stream.deduplication import Deduplication
    from orlop.stream.duplicates import Duplicates
    from orlop.stream.filetable import Files

    if method not in METHODS:
        raise ValueError(f"a method of deduplication: wanted one of {', '.join(METHODS)}; found {method!r}")
    layers = _image_layers(engine)
    _require_reflinks(engine, layers)
    assumed = [Assumption("store", "", "method", method), *[layer.assumption() for layer in layers]]
    files = Files([layer.directory for layer in layers])
    for number in range(len(layers)):
        _report(progress, "find", number, len(layers))
        files.add_tree(number)
    found = Duplicates(files, method, lambda done, total: _report(progress, "hash", done, total, always=True))
    roots = [root for root in (engine.options.graph_root, engine.options.image_store) if root]
    work = Deduplication(found, roots)
    steps = []
    for tree, count, size in work.trees():
        layer = layers[tree]
        reason = f"{count} file{'s' if count > 1 else ''} with the content of others"
        steps.append(Step("share", "layer", layer.id, layer.directory, size, reason=reason))
    keeps = [
        Kept("file", layers[files.tree_of(n)].id, files.path(n), reason) for n, reason in found.unreadable
    ]
    made = Plan("dedup", steps, keeps, work.expected(), assumed)
    return _WorkedOut.of(made, work, layers, found.together_bytes)


def _image_layers(engine: Engine) -> list[_Layer]:
    """The layers of all images, of additional stores too, as far as they are in the primary table; parents first."""
    with engine.open(images=READ) as tables:
        tops = _tops(tables)
    driver = engine.driver()
    if not isinstance(driver, SupportsSharing):
        raise ReflinksNotSupported(
            f"the layers of driver {driver.name!r} have no files that could be made to share blocks"
        )
    found: dict[str, None] = {}
    with engine.open(layers=READ, additional=False) as tables:
        for top in tops:
            chain = []
            row = tables.layers.rows.by_id(top)
            while row is not None and row.id not in found and row.id not in chain:
                chain.append(row.id)
                row = tables.layers.rows.by_id(row.document.get("parent") or "")
            found.update(dict.fromkeys(reversed(chain)))
        places = [(id, driver.own_files(id)) for id in found]
    return [_Layer(id, directory) for id, directory in places if directory is not None]


def _tops(tables: Tables) -> list[str]:
    found = []
    for view in (tables.images, *tables.other_images):
        for row in view.rows:
            found += [row.document.get("layer") or "", *(row.document.get("mapped-layers") or ())]
    return found


def _require_reflinks(engine: Engine, layers: list[_Layer]) -> None:
    """Raise ReflinksNotSupported if no layer lies where files can share blocks."""
    places = {os.stat(layer.directory).st_dev: layer.directory for layer in layers}
    directories = list(places.values()) or [engine.options.graph_root]
    if not any(map(sharing.reflinks, directories)):
        raise ReflinksNotSupported(
            f"deduplication wants a file system with reflinks, as btrfs and xfs have them; found one without at "
            f"{engine.options.graph_root}",
            path=engine.options.graph_root,
        )


def _carry_out(engine: Engine, plan: _WorkedOut, progress: Progress, *, exactly: bool) -> tuple[Outcome, int]:
    """The outcome, and the lengths of the files that were made to share."""
    from orlop.stream.deduplication import Unable

    trees = {layer.id: number for number, layer in enumerate(plan.layers)}
    done: list[Step] = []
    failed: list[tuple[Step, str]] = []
    shared = 0
    engine.driver()
    if exactly:
        with engine.open(layers=READ, additional=False) as tables:
            known = [layer for layer in plan.layers if tables.layers.rows.by_id(layer.id) is not None]
            method = [assumed for assumed in plan.assumptions if assumed.fact == "method"]
            assumptions.require(plan, [*method, *[layer.assumption() for layer in known]])
    with plan.work as work:
        for at, step in enumerate(plan.steps):
            _report(progress, "share", at, len(plan.steps))
            with engine.open(layers=READ, additional=False) as tables:
                if tables.layers.rows.by_id(step.id) is None:
                    failed.append((step, "the layer was deleted meanwhile"))
                    continue
                try:
                    result = work.share(trees[step.id])
                except Unable as error:
                    failed += [(left, f"{error.strerror}: no reflinks here") for left in plan.steps[at:]]
                    break
            shared += result.bytes
            if result.errors:
                failed.append(
                    (step, f"{len(result.errors)} files could not be shared: {result.errors[0]}, ...")
                )
            else:
                done.append(step)
    _report(progress, "share", len(plan.steps), len(plan.steps), always=True)
    return Outcome("dedup", done, failed, work.freed()), shared


def _report(progress: Progress, task: str, done: int, total: int, *, always: bool = False) -> None:
    if progress is not None and (always or done % _STEP == 0):
        from orlop.model.events import Advanced

        progress(Advanced(task, done, total))
