"""Which layers may go, and what needs those that may not (`spec/records.md` 20.1, 20.2).

A deletion asks for one thing, or for several at once: what goes with it needs nothing any more (`Leaving`).
"""

from __future__ import annotations

from orlop.errors import BadRecords, LayerHasChildren, LayerUsedByContainer, LayerUsedByImage
from orlop.model.image import tops_of
from orlop.model.plan import Kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.records.rows import Key, Row
    from orlop.store.tables import Tables


class Leaving:
    """What is decided to go as well."""

    __slots__ = ("containers", "images", "layers")

    def __init__(
        self, containers: Iterable[Row] = (), images: Iterable[Row] = (), layers: Iterable[Row] = ()
    ) -> None:
        self.containers = {row.id for row in containers}
        self.images = {row.id for row in images}
        self.layers = {row.id for row in layers}


_NOTHING = Leaving()


def _images(tables: Tables, key: Key, layer_id: str) -> Iterator[Row]:
    """Of the images that are ours, in both tables of a split store, those that have a layer for `key`."""
    for view in tables.own_images():
        yield from view.rows.holding(key, layer_id)


def refuse_if_needed(tables: Tables, row: Row, leaving: Leaving = _NOTHING) -> None:
    """Raise for the first that needs a layer.

    Raises:
        LayerHasChildren, LayerUsedByImage, LayerUsedByContainer.
        BadRecords: a damaged record mentions it.
    """
    children = [
        child.id for child in tables.layers.rows.holding("parent", row.id) if child.id not in leaving.layers
    ]
    if children:
        raise LayerHasChildren(
            f'layer "{row.id}" has children ({len(children)}, {children[0]} is one): delete those first, or delete '
            "the image that uses it",
            id=row.id,
            child=children[0],
            children=tuple(children),
        )
    for image in _images(tables, "layer", row.id):
        if image.id not in leaving.images:
            raise LayerUsedByImage(
                f'layer "{row.id}" is the top layer of image {image.id}', id=row.id, image=image.id
            )
    for container in tables.containers.rows.holding("layer", row.id):
        if container.id not in leaving.containers:
            raise LayerUsedByContainer(
                f'layer "{row.id}" is the changing layer of container {container.id}',
                id=row.id,
                container=container.id,
            )
    why = tables.doubted(row.id)
    if why is not None:
        raise BadRecords(
            f'layer "{row.id}" is mentioned by a damaged record, which may need it: {why}; mend that one first',
            id=row.id,
            reason=why,
        )


def layers_to_go(
    tables: Tables, images: list[Row], leaving: Leaving = _NOTHING
) -> tuple[list[str], list[Kept]]:
    """The layers that only these records of an image need: mapped copies, top, ancestors; and the first that stay.

    Layers that are leaving anyway are in neither.
    """
    layers = tables.layers.rows
    going: dict[str, None] = {}
    keeps: list[Kept] = []

    def stays(id: str) -> bool:
        why = _need(tables, id, images, {*going, *leaving.layers}, leaving)
        if why:
            keeps.append(Kept("layer", id, reason=why))
        return bool(why)

    for id in dict.fromkeys(id for image in images for id in image.document.get("mapped-layers") or ()):
        if layers.by_id(id) is not None and id not in leaving.layers and not stays(id):
            going[id] = None
    for image in images:
        at, seen = image.document.get("layer") or "", set(going)
        while at and at not in seen:
            seen.add(at)
            row = layers.by_id(at)
            if row is None or (at not in leaving.layers and stays(at)):
                break
            if at not in leaving.layers:
                going[at] = None
            at = row.document.get("parent") or ""
    return list(going), keeps


def _need(tables: Tables, id: str, images: list[Row], gone: set[str], leaving: Leaving) -> str:
    for other in _images(tables, tops_of, id):
        if other not in images and other.id not in leaving.images:
            return f"image {other.id} needs it"
    boxes = tables.containers.rows
    named = (boxes.by_id(id), boxes.owner_of(id), *boxes.holding("layer", id))
    for box in named:
        if box is not None and box.id not in leaving.containers:
            return f"container {box.id} needs it"
    for child in tables.layers.rows.holding("parent", id):
        if child.id not in gone:
            return f"layer {child.id} is built on it"
    why = tables.doubted(id)
    return f"a damaged record mentions it: {why}" if why is not None else ""
