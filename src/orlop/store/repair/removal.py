"""What has to be removed because it cannot be mended, with all that is worth nothing without it."""

from __future__ import annotations

from orlop.errors import StorageError
from orlop.model.plan import Kept, Step
from orlop.store.leaving import Leaving, layers_to_go
from orlop.store.needs import Needs
from orlop.store.weighing import places_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.needs import Object
    from orlop.store.repair.bench import Remedy
    from orlop.store.tables import Tables

    Do = Callable[[Trash], object]


class Doom:
    """Gathers what is beyond mending. `containers` may be removed if the caller said so."""

    def __init__(self, engine: Engine, tables: Tables, containers: bool) -> None:
        self._engine = engine
        self._tables = tables
        self._may_remove_containers = containers
        self._layers: dict[str, str] = {}
        self._images: dict[str, str] = {}
        self._containers: dict[str, str] = {}

    def layer(self, id: str, why: str) -> None:
        self._layers.setdefault(id, why)

    def image(self, id: str, why: str) -> None:
        self._images.setdefault(id, why)

    def container(self, id: str, why: str) -> None:
        self._containers.setdefault(id, why)

    def remedies(self) -> tuple[list[Remedy], list[Kept]]:
        """Removals, what nothing needs first; and what must stay because a container needs it."""
        keeps: list[Kept] = []
        layers, images, boxes = dict(self._layers), dict(self._images), dict(self._containers)
        for id, why in self._layers.items():
            self._spread(id, why, layers, images, boxes)
        for image, why in images.items():
            for box in self._tables.containers.rows.holding("image", image):
                if self._layer_of(box) in layers:
                    boxes.setdefault(box.id, f"its image {image} is removed: {why}")
        if not self._may_remove_containers:
            held = self._held()
            for kind, doomed in (("layer", layers), ("image", images), ("container", boxes)):
                for id in [id for id in doomed if (kind, id) in held]:
                    keeps.append(Kept(kind, id, reason=f"{doomed.pop(id)}; {held[kind, id]}"))
        return self._steps(layers, images, boxes), keeps

    # --- what goes with what ------------------------------------------------------------------------------

    def _spread(
        self, id: str, why: str, layers: dict[str, str], images: dict[str, str], boxes: dict[str, str]
    ) -> None:
        """A layer takes with it what is built on it, and what is made of that."""
        waiting = [id]
        while waiting:
            at = waiting.pop()
            reason = f"layer {id} is lost: {why}"
            for child in self._tables.layers.rows.holding("parent", at):
                if child.id not in layers or child.id == id:
                    layers.setdefault(child.id, reason)
                    if child.id != id:
                        waiting.append(child.id)
            for view in self._tables.own_images():
                for image in view.rows.holding("layer", at):
                    images.setdefault(image.id, reason)
            for box in self._tables.containers.rows.holding("layer", at):
                boxes.setdefault(box.id, reason)

    def _layer_of(self, box: Row) -> str:
        return box.document.get("layer") or ""

    def _held(self) -> dict[Object, str]:
        """Everything that containers need, for who must not touch them."""
        needs = Needs(self._engine, self._tables)
        held: dict[Object, str] = {}
        for id in needs.container_layer:
            held["container", id] = "containers are not to be removed"
            for object in needs.needed_by_container(id):
                held.setdefault(object, f"container {id} needs it, and containers are not to be removed")
        return held

    # --- steps --------------------------------------------------------------------------------------------

    def _steps(self, layers: dict[str, str], images: dict[str, str], boxes: dict[str, str]) -> list[Remedy]:
        from orlop.store.repair.bench import Remedy

        tables = self._tables
        rows = [row for view in tables.own_images() for row in view.rows if row.id in images]
        box_rows = [row for id in boxes if (row := tables.containers.rows.by_id(id)) is not None]
        layer_rows = [row for id in layers if (row := tables.layers.rows.by_id(id)) is not None]
        box_layers = [
            row for box in box_rows if (row := tables.layers.rows.by_id(self._layer_of(box))) is not None
        ]
        leaving = Leaving(box_rows, rows, [*layer_rows, *box_layers])
        for id in layers_to_go(tables, rows, leaving)[0]:
            layers.setdefault(id, "nothing needs it without its image")
        found: list[Remedy] = []
        for box in box_rows:
            paths = [*self.places("container", box.id), *self.places("layer", self._layer_of(box))]
            step = Step("remove", "container", box.id, reason=boxes[box.id])
            found.append(Remedy(step, self._removing_container(box.id), paths))
        for image, why in images.items():
            for box in tables.containers.rows.holding("image", image):
                if box.id not in boxes:
                    reason = f"its image {image} is removed"
                    found.append(
                        Remedy(
                            Step("rewrite", "container", box.id, reason=reason), self._without_image(box.id)
                        )
                    )
            step = Step("remove", "image", image, reason=why)
            found.append(Remedy(step, self._removing_image(image), self.places("image", image)))
        of_boxes = {self._layer_of(box) for box in box_rows}
        for id in self._deepest_first(layers):
            if id not in of_boxes:
                step = Step("remove", "layer", id, reason=layers[id])
                found.append(Remedy(step, self._removing_layer(id), self.places("layer", id)))
        return found

    def places(self, kind: str, id: str) -> list[str]:
        """What there is of one thing, for who wants to know what its removal frees."""
        try:
            return places_of(self._engine, kind, id) if id else []
        except StorageError:  # an id that can be no file name
            return []

    def _deepest_first(self, layers: dict[str, str]) -> list[str]:
        def depth(id: str) -> int:
            steps, seen = 0, set()
            row = self._tables.layers.rows.by_id(id)
            while row is not None and row.id not in seen:
                seen.add(row.id)
                steps += 1
                row = self._tables.layers.rows.by_id(row.document.get("parent") or "")
            return steps

        return sorted(layers, key=depth, reverse=True)

    # --- doing it -----------------------------------------------------------------------------------------

    def _removing_container(self, id: str) -> Do:
        def do(rubbish: Trash) -> None:
            from orlop.store.containers import delete_with_layer

            box = self._tables.containers.rows.by_id(id)
            if box is not None:
                layer = self._tables.layers.rows.by_id(self._layer_of(box))
                delete_with_layer(self._engine, self._tables, box, layer, rubbish)

        return do

    def _without_image(self, id: str) -> Do:
        def do(_: Trash) -> None:
            box = self._tables.containers.rows.by_id(id)
            if box is not None:
                self._tables.containers.change(box, {"image": ""})
                self._tables.containers.save()

        return do

    def _removing_image(self, id: str) -> Do:
        def do(rubbish: Trash) -> None:
            from orlop.store.images import remove_records

            found = [(editor, editor.rows.by_id(id)) for editor in self._tables.own_images()]
            remove_records(self._engine, [(editor, row) for editor, row in found if row is not None], rubbish)

        return do

    def _removing_layer(self, id: str) -> Do:
        def do(rubbish: Trash) -> None:
            from orlop.store.layers import delete_layers

            row = self._tables.layers.rows.by_id(id)
            if row is None:
                return
            delete_layers(self._engine, self._tables, [row], rubbish)
            for editor in self._tables.own_images():
                for image in list(editor.rows):
                    mapped = image.document.get("mapped-layers") or []
                    if id in mapped:
                        editor.change(image, {"mapped-layers": [other for other in mapped if other != id]})
                        editor.save()

        return do
