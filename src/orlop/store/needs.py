"""Who needs which layer, as the records say; and from that, for whom bytes of the disk are taken.

An image needs its top layer, its mapped copies and all below them; a container its own layer and all below it, and
its image with all that needs. Parents that have no record, or lead in a circle, end a chain.
"""

from __future__ import annotations

from orlop.model.report import ObjectUsage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orlop.model.report import Kind
    from orlop.records.rows import Row
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    Object = tuple[str, str]
    """A kind ("layer", "image", "container") and an id."""


class Needs:
    """A consistent copy of what the records say; of use after their locks are released."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        """Copies what the three tables, which are open, say. Images of additional stores are nothing of ours."""
        mounts = engine.layers.mounts
        rows = list(tables.layers.rows)
        images = [
            row
            for view in (tables.images, *tables.other_images)
            if not view.table.read_only
            for row in view.rows
        ]
        boxes = list(tables.containers.rows)
        self.names: dict[Object, tuple[str, ...]] = {
            (kind, row.id): tuple(row.names)
            for kind, of_kind in (("layer", rows), ("image", images), ("container", boxes))
            for row in of_kind
        }
        self.parents: dict[str, str] = {row.id: row.document.get("parent") or "" for row in rows}
        self.mounted = {row.id for row in rows if mounts is not None and mounts.of(row.id).count}
        self.image_layers = {row.id: self._chain(_tops(row)) for row in images}
        self.container_layer: dict[str, str] = {row.id: row.document.get("layer") or "" for row in boxes}
        self.container_image: dict[str, str] = {row.id: row.document.get("image") or "" for row in boxes}

    def _chain(self, tops: Iterable[str]) -> dict[str, None]:
        """The recorded layers from `tops` downwards, each once, in order."""
        found: dict[str, None] = {}
        for at in tops:
            while at in self.parents and at not in found:
                found[at] = None
                at = self.parents[at]
        return found

    def needed_by_container(self, id: str) -> dict[Object, None]:
        """Everything that a container needs, itself and its layer first."""
        image = self.container_image[id]
        layers = self._chain((self.container_layer[id], *self.image_layers.get(image, ())))
        found: dict[Object, None] = {("container", id): None}
        found.update(dict.fromkeys(("layer", layer) for layer in layers))
        if image in self.image_layers:
            found["image", image] = None
        return found

    def loose(self) -> dict[str, None]:
        """The layers on which an unneeded layer is built: no image and no container needs that one."""
        needed = {layer for layers in self.image_layers.values() for layer in layers}
        needed |= {
            id
            for box in self.container_layer
            for kind, id in self.needed_by_container(box)
            if kind == "layer"
        }
        return self._chain(self.parents[layer] for layer in self.parents if layer not in needed)


def _tops(image: Row) -> list[str]:
    return [image.document.get("layer") or "", *(image.document.get("mapped-layers") or ())]


class Shares:
    """Bytes of the disk divided among those who need them.

    `numbers` are the holders that are objects; other numbers among the holders stand for somebody else.
    """

    def __init__(self, needs: Needs, numbers: Mapping[Object, int]) -> None:
        self._needs = needs
        self._numbers = numbers
        self._images: dict[int, list[str]] = {}  # number -> the images that need the object
        self._containers: dict[int, list[str]] = {}
        self._own: dict[int, str] = {}  # number -> the container whose layer or data it is
        for image, layers in needs.image_layers.items():
            for object in (("image", image), *[("layer", layer) for layer in layers]):
                if object in numbers:
                    self._images.setdefault(numbers[object], []).append(image)
        for box, layer in needs.container_layer.items():
            for object in needs.needed_by_container(box):
                if object in numbers:
                    self._containers.setdefault(numbers[object], []).append(box)
            self._own.update(
                (numbers[o], box) for o in (("container", box), ("layer", layer)) if o in numbers
            )
        loose = {numbers.get(("layer", layer)) for layer in needs.loose()}
        self._sole_image = {
            number: images[0]
            for number, images in self._images.items()
            if len(images) == 1
            and number not in loose
            and all(needs.container_image[box] == images[0] for box in self._containers.get(number, ()))
        }
        self._sole_container = {
            number: box
            for number, box in self._own.items()
            if self._containers[number] == [box] and number not in self._images and number not in loose
        }
        self._occupied: dict[Object, int] = {}
        self._unique: dict[Object, int] = {}
        self._objects = {number: object for object, number in numbers.items()}

    def held(self, holders: frozenset[int]) -> bool:
        """Whether a container needs one of these holders."""
        return not self._containers.keys().isdisjoint(holders)

    def add(self, holders: frozenset[int], size: int) -> None:
        """Bytes that these hold together."""
        objects: set[Object] = {self._objects[number] for number in holders if number in self._objects}
        objects = {object for object in objects if object[0] == "layer"}
        objects.update(("image", image) for number in holders for image in self._images.get(number, ()))
        objects.update(("container", self._own[number]) for number in holders if number in self._own)
        for object in objects:
            self._occupied[object] = self._occupied.get(object, 0) + size
        for object in self._sole_owners(holders):
            self._unique[object] = self._unique.get(object, 0) + size

    def _sole_owners(self, holders: frozenset[int]) -> Iterator[Object]:
        """The layer, the image and the container that hold all of this alone."""
        if len(holders) == 1:
            (number,) = holders
            if self._objects.get(number, ("",))[0] == "layer":
                yield self._objects[number]
        for kind, sole in (("image", self._sole_image), ("container", self._sole_container)):
            owners = {sole.get(number, "") for number in holders}
            if len(owners) == 1 and "" not in owners:
                yield kind, owners.pop()

    def rows(self, kind: Kind) -> list[ObjectUsage]:
        """What came of it for each object of a kind, in the order of the records."""
        needs = self._needs
        found = []
        parents = {parent for parent in needs.parents.values() if parent}
        for object, names in needs.names.items():
            if object[0] != kind:
                continue
            id = object[1]
            number = self._numbers.get(object, -1)
            images, boxes = self._images.get(number, []), self._containers.get(number, [])
            unique = self._unique.get(object, 0)
            if kind == "layer":
                idle = not (images or boxes or id in parents or id in needs.mounted)
            elif kind == "image":
                images, idle = [], not boxes
            else:
                boxes, idle = [], needs.container_layer[id] not in needs.mounted
            found.append(
                ObjectUsage(
                    kind,
                    id,
                    names,
                    self._occupied.get(object, 0),
                    unique,
                    unique if idle else 0,
                    images,
                    boxes,
                )
            )
        return found
