"""Deleting without asking, wiping, and plans for both kinds of deletion (`spec/records.md` 20).

A direct deletion builds no plan and walks no tree. A plan is made while the tables are only read; what it lists is
weighed when they are free again. As with every reader, loading them finishes what a dead process left half done.
"""

from __future__ import annotations

import time

from orlop.errors import ImageUsedByContainer, LayerUnknown, NotALayer
from orlop.model.container import Container
from orlop.model.image import Image
from orlop.model.layer import Layer
from orlop.model.plan import Outcome, Plan, Step
from orlop.store import assumptions, containers, images
from orlop.store.layers import delete_layers, forget_copies
from orlop.store.leaving import Leaving, layers_to_go, refuse_if_needed
from orlop.store.plan import told
from orlop.store.tables import READ, WRITE, emptied
from orlop.store.weighing import freed, places_of, weighed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orlop.model.plan import Kept
    from orlop.records.blocks import Editor, View
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    Record = Container | Image | Layer


def delete(engine: Engine, ref: str) -> None:
    """Delete a container with its layer, or an image's record, or a layer; no safety checks.

    Raises:
        LayerUnknown: nothing is called that.
        NotALayer: a container whose layer has no record.
    """
    with (
        emptied(engine, freeing=True) as rubbish,
        engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
    ):
        container, found, row = _meant(tables, ref)
        if container is not None:
            layer = tables.layers.rows.by_id(container.document.get("layer") or "")
            if layer is None:
                raise NotALayer(f"container {container.id} has a layer without a record", ref=ref)
            containers.delete_with_layer(engine, tables, container, layer, rubbish)
        elif found:
            images.remove_records(engine, found, rubbish)
        elif row is not None:
            delete_layers(engine, tables, [row], rubbish)


def wipe(engine: Engine) -> None:
    """Delete all containers, images and layers, newest first, then what else the driver holds."""
    with (
        emptied(engine, freeing=True) as rubbish,
        engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
    ):
        _wipe(engine, tables, rubbish)


def _wipe(engine: Engine, tables: Tables, rubbish: Trash) -> None:
    def release() -> None:
        containers.remove_records(engine, tables.containers, tables.containers.rows, rubbish)
        every = [(editor, row) for editor in tables.own_images() for row in editor.rows]
        images.remove_records(engine, every, rubbish)

    delete_layers(engine, tables, _newest_first(tables), rubbish, release)
    driver = engine.ready_driver
    for id in driver.ids():
        driver.check_id(id)
        driver.remove(id, rubbish.set_aside)


def _newest_first(tables: Tables) -> list[Row]:
    return sorted(tables.layers.rows, key=lambda row: Layer(row.document).created.ns, reverse=True)


def _meant(tables: Tables, ref: str) -> tuple[Row | None, list[tuple[Editor, Row]], Row | None]:
    """The container, or the records of the image, or the layer that a reference means; one of the three.

    They are looked through in this order. But what has exactly that id or name goes before all of which it is only
    the beginning: the peers delete a container `abcd` when asked for the layer `abc`.

    Raises:
        LayerUnknown: nothing is called that.
    """
    for exactly in (True, False):
        container = _found(tables.containers, ref, exactly)
        if container is not None:
            return container, [], None
        found = images.own_images(tables, ref, exactly=exactly)
        if found:
            return None, found, None
        layer = _found(tables.layers, ref, exactly)
        if layer is not None:
            return None, [], layer
    raise LayerUnknown(f"no container, image or layer of this store is called {ref!r}", ref=ref)


def _found(view: View, ref: str, exactly: bool) -> Row | None:
    return view.find_exactly(ref) if exactly else view.find(ref)


# --- plans --------------------------------------------------------------------------------------------------


def plan_delete(engine: Engine, refs: Iterable[str]) -> Plan:
    """What the deletion of containers, images and layers, all at once, would take along, and what it would leave.

    Of each, containers are looked through first, then images, then layers.

    Raises:
        LayerUnknown: nothing of this store is called that.
        ImageUsedByContainer, LayerHasChildren, LayerUsedByImage, LayerUsedByContainer: by one that is not asked for.
        BadRecords: a damaged record mentions a layer that is asked for.
    """
    with engine.open(layers=READ, images=READ, containers=READ, additional=False) as tables:
        departure = _Departure(engine, tables, refs)
        facts = assumptions.of_steps(engine, tables, departure.steps)
    return _weighed(engine, Plan("delete", departure.steps, departure.keeps, 0, facts), departure.paths)


def plan_wipe(engine: Engine) -> Plan:
    """What `wipe` would delete: everything of this store."""
    with engine.open(layers=READ, images=READ, containers=READ, additional=False) as tables:
        everything = _Departure(engine, tables, ())
        everything.take_all()
        facts = assumptions.of_store(engine, tables)
    return _weighed(engine, Plan("wipe", everything.steps, (), 0, facts), everything.paths)


def carry_out(engine: Engine, plan: Plan, progress: Callable[[object], object] | None = None) -> Outcome:
    """Do what a plan to delete, or to wipe, lists; for `store.apply`.

    Raises:
        PlanOutdated: a fact that it rests on has changed; nothing was done.
    """
    with (
        emptied(engine, freeing=True) as rubbish,
        engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
    ):
        if plan.verb == "wipe":
            assumptions.require(plan, assumptions.of_store(engine, tables))
            _wipe(engine, tables, rubbish)
        else:
            assumptions.require(plan, assumptions.of_steps(engine, tables, plan.steps))
            _remove(engine, tables, plan.steps, rubbish)
    return told(Outcome(plan.verb, plan.steps, (), plan.freed_bytes), progress)


def _remove(engine: Engine, tables: Tables, steps: Iterable[Step], rubbish: Trash) -> None:
    """Delete what the steps name, layers being the last to go; one decision, finished after a crash by the next."""
    ids: dict[str, list[str]] = {"container": [], "image": [], "layer": []}
    for step in steps:
        ids[step.kind].append(step.id)

    def release() -> None:
        boxes = [row for id in ids["container"] if (row := tables.containers.rows.by_id(id)) is not None]
        containers.remove_records(engine, tables.containers, boxes, rubbish)
        found = [pair for id in ids["image"] for pair in images.own_images(tables, id)]
        images.remove_records(engine, found, rubbish)

    rows = [row for id in ids["layer"] if (row := tables.layers.rows.by_id(id)) is not None]
    delete_layers(engine, tables, rows, rubbish, release)
    forget_copies(tables, set(ids["layer"]))


class _Departure:
    """What goes, in order: containers and images, then layers, none before those that are built on it."""

    def __init__(self, engine: Engine, tables: Tables, refs: Iterable[str]) -> None:
        self.steps: list[Step] = []
        self.keeps: list[Kept] = []
        self.paths: list[list[str]] = []  # of each step
        self._engine = engine
        self._tables = tables
        boxes: dict[str, Row] = {}
        pictures: dict[str, list[Row]] = {}
        layers: dict[str, Row] = {}
        for ref in refs:
            box, found, layer = _meant(tables, ref)
            if box is not None:
                boxes[box.id] = box
            elif found:
                pictures[found[0][1].id] = [row for _, row in found]
            elif layer is not None:
                layers[layer.id] = layer
        self._decide(boxes, pictures, layers)

    def _decide(self, boxes: dict[str, Row], pictures: dict[str, list[Row]], layers: dict[str, Row]) -> None:
        tables = self._tables
        for box in boxes.values():
            self._add(Container(box.document), "it was asked for")
        leaving = Leaving(
            boxes.values(), [row for rows in pictures.values() for row in rows], layers.values()
        )
        for id, rows in pictures.items():
            for box in tables.containers.rows.holding("image", id):
                if box.id not in boxes:
                    raise ImageUsedByContainer(
                        f'image "{id}" is used by container {box.id}: delete that first, or with it',
                        id=id,
                        container=box.id,
                    )
            self._add(Image(rows[0].document), "it was asked for")
        for box in boxes.values():
            own = tables.layers.rows.by_id(box.document.get("layer") or "")
            if own is not None and own.id not in layers:
                self._add(Layer(own.document), f"it is the layer of container {box.id}")
                leaving.layers.add(own.id)
        for layer in sorted(layers.values(), key=self._depth, reverse=True):
            refuse_if_needed(tables, layer, leaving)
            self._add(Layer(layer.document), "it was asked for")
        for id, rows in pictures.items():
            going, keeps = layers_to_go(tables, rows, leaving)
            for layer_id in going:
                row = tables.layers.rows.by_id(layer_id)
                if row is not None:
                    self._add(Layer(row.document), f"only image {id} needs it")
            leaving.layers.update(going)
            self.keeps += keeps
        self.keeps = [kept for kept in dict.fromkeys(self.keeps) if kept.id not in leaving.layers]

    def _depth(self, row: Row) -> int:
        """How many layers lie below one."""
        seen = {row.id}
        at = self._tables.layers.rows.by_id(row.document.get("parent") or "")
        while at is not None and at.id not in seen:
            seen.add(at.id)
            at = self._tables.layers.rows.by_id(at.document.get("parent") or "")
        return len(seen)

    def take_all(self) -> None:
        """Everything goes; also what the driver holds without a record."""
        tables, driver = self._tables, self._engine.ready_driver
        for box in tables.containers.rows:
            self._add(Container(box.document), "everything goes")
        seen: set[str] = set()
        for row in (row for view in tables.own_images() for row in view.rows):
            if row.id not in seen:
                seen.add(row.id)
                self._add(Image(row.document), "everything goes")
        for row in _newest_first(tables):
            self._add(Layer(row.document), "everything goes")
        for id in sorted(driver.ids()):
            if tables.layers.rows.by_id(id) is None:
                places = driver.places(id)
                self._step("layer", id, places, None, "everything goes, with and without a record")

    def _add(self, record: Record, reason: str) -> None:
        """One step for a record with all that belongs to it."""
        engine = self._engine
        if isinstance(record, Layer):
            mounts = engine.layers.mounts
            if mounts is not None and mounts.of(record.id).count:
                reason += "; it is mounted, and is unmounted first"
            kind = "layer"
        else:
            kind = "image" if isinstance(record, Image) else "container"
        age = max(time.time() - record.created.ns / 1e9, 0.0) if record.created.ns > 0 else None
        id = str(record.id)
        self._step(kind, id, places_of(engine, kind, id), age, reason)

    def _step(self, kind: str, id: str, paths: list[str], age: float | None, reason: str) -> None:
        self.steps.append(Step("remove", kind, id, paths[0] if paths else "", 0, age, reason))
        self.paths.append(paths)


def _weighed(engine: Engine, plan: Plan, paths: list[list[str]]) -> Plan:
    """The same plan with the sizes of its steps, and what becomes free."""
    steps = [weighed(step, places) for step, places in zip(plan.steps, paths, strict=True)]
    everything = [path for places in paths for path in places]
    return Plan(plan.verb, steps, plan.keeps, freed(engine, everything), plan.assumptions)
