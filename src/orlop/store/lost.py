"""Which records were lost: what lies there without one, though something tells that it had one.

The one place where this is decided. A check reports these, a repair records them again, and a collection of garbage
leaves them alone, so none of the three can take for garbage what another one wants to save.

    a layer         a record names it (a layer, image or container), or a recorded layer lies on it; or it was filled
                    once, as its tar-split file says, and no layer has a record
    an image        a container names it
    any of them     there is a damaged record without an id, which may be that of any, or may name any

Once one record of a kind was lost nobody knows which others were: then all that lies there without one is taken for
lost. LIMIT: what nothing points to, beside a table with other records, is garbage; of images and containers also
beside one that says plainly that there is nothing (`[]`).
"""

from __future__ import annotations

import os

from orlop.drivers.api import DependsOnLayers
from orlop.errors import StorageError
from orlop.model.ids import is_component
from orlop.model.image import tops_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from orlop.drivers.api import Driver
    from orlop.formats.recordfiles import Aside
    from orlop.model.record import Document
    from orlop.records.blocks import View
    from orlop.records.layers import LayerTable
    from orlop.records.table import Table
    from orlop.store.check.look import Look
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    Recorded = Callable[[str, str], bool]
    Orphans = Callable[[], Iterable[str]]
    Found = tuple[str, str]
    """The id of what lost its record, or "" for any; and what tells it."""

KINDS = ("layer", "image", "container")

_NAMED_BY = {"layer": KINDS, "image": ("image", "container"), "container": ("container",)}
"""The kinds whose records have or name something of a kind."""


class Lost:
    """See the module. Nothing is looked at before it is asked for; the tables are held.

    `documents` are the records of each kind that can be read, `asides` those of ours that were set aside; `recorded`
    are ids that have a record somewhere; `orphans` are layers of the driver's home without one.
    """

    def __init__(
        self,
        driver: Driver,
        layers: LayerTable,
        images: Iterable[Table],
        *,
        documents: Mapping[str, Iterable[Document]],
        asides: Mapping[str, Iterable[Aside]],
        recorded: Recorded,
        orphans: Orphans,
    ) -> None:
        self._driver = driver
        self._layers = layers
        self._image_directories = [table.directory for table in images if not table.read_only]
        self._documents = documents
        self._asides = asides
        self._claimed = {kind: {aside.id for aside in asides[kind]} for kind in KINDS}
        self._recorded = recorded
        self._orphans = orphans
        self._found: dict[str, dict[str, str]] = {}
        self._doubt = ""

    def why(self, kind: str, id: str) -> str:
        """What tells that something without a record has lost it; "" if nothing does."""
        if kind not in self._found:
            self._found[kind] = {}
            for lost, reason in self._losses(kind):
                self._found[kind].setdefault(lost, reason)
        found = self._found[kind]
        if id in found:
            return f"records were lost, this one's too: {found[id]}"
        for other, reason in found.items():
            return (
                f"records were lost, and nobody knows which: {f'of {kind} {other}, ' * bool(other)}{reason}"
            )
        return ""

    @property
    def doubt(self) -> str:
        """Why no layer is garbage for certain, though nothing tells that records of layers were lost."""
        self.why("layer", "")
        return self._doubt

    # --- what tells it ------------------------------------------------------------------------------------

    def _losses(self, kind: str) -> Iterator[Found]:
        for of_kind in _NAMED_BY[kind]:
            for aside in self._asides[of_kind]:
                if aside.is_nameless:
                    yield "", f"a damaged record of some {of_kind} has no id ({aside.reason})"
        if kind == "layer":
            yield from self._lost_layers()
        elif kind == "image":
            for box in self._documents["container"]:
                id = box.get("image") or ""
                if id and not self._has_record("image", id) and self.has_data(id):
                    yield id, f"container {box['id']} needs it"

    def _lost_layers(self) -> Iterator[Found]:
        for id, who in self._layers_named():
            if id and not self._has_record("layer", id) and self.is_there(id):
                yield id, f"{who} needs it"
        yield from self._layers_below()
        # Beside other records one that nobody names is what a program left behind: there are stores with thousands.
        if not any(True for _ in self._documents["layer"]):
            for id in self._orphans():
                if not self._has_record("layer", id) and os.path.lexists(self._layers.tar_split_path(id)):
                    yield id, "it was filled once, and no layer has a record"

    def _layers_below(self) -> Iterator[Found]:
        if not isinstance(self._driver, DependsOnLayers):
            return
        for document in self._documents["layer"]:
            try:
                needed = self._driver.needs(document["id"])
            except (StorageError, OSError) as error:
                self._doubt = self._doubt or f"what layer {document['id']} needs cannot be told: {error}"
                continue
            for id in needed:
                if not self._has_record("layer", id) and self.is_there(id):
                    yield id, f"layer {document['id']} lies on it"

    def _layers_named(self) -> Iterator[Found]:
        for document in self._documents["layer"]:
            yield document.get("parent") or "", f"layer {document['id']}"
        for document in self._documents["image"]:
            for id in tops_of(document):
                yield id, f"image {document['id']}"
        for document in self._documents["container"]:
            yield document.get("layer") or "", f"container {document['id']}"

    def _has_record(self, kind: str, id: str) -> bool:
        """Also a damaged one."""
        return self._recorded(kind, id) or id in self._claimed[kind]

    def is_there(self, id: str) -> bool:
        """Whether the driver has something of a layer, be it in the image store."""
        try:
            return bool(self._driver.places(id))
        except StorageError:
            return False  # no id that could be a directory

    def has_data(self, id: str) -> bool:
        return is_component(id) and any(
            os.path.isdir(os.path.join(directory, id)) for directory in self._image_directories
        )


def of_tables(engine: Engine, tables: Tables, *, recorded: Recorded, orphans: Orphans) -> Lost:
    """For who has the tables open."""
    images: list[View] = [tables.images, *tables.other_images]
    views: dict[str, list[View]] = {
        "layer": [tables.layers],
        "image": images,
        "container": [tables.containers],
    }
    return Lost(
        engine.ready_driver,
        engine.layers,
        [view.table for view in images],
        documents={kind: [row.document for view in of for row in view.rows] for kind, of in views.items()},
        asides={
            kind: [aside for view in of if not view.table.read_only for aside in view.table.asides()]
            for kind, of in views.items()
        },
        recorded=recorded,
        orphans=orphans,
    )


def of_look(look: Look) -> Lost:
    """For who looks the tables over as they are."""
    found = {"layer": look.layers[:1], "image": look.images, "container": [look.containers]}
    return Lost(
        look.driver,
        look.engine.layers,
        [table.table for table in look.images],
        documents={kind: [d for table in of for d in table.by_id.values()] for kind, of in found.items()},
        asides={
            kind: [aside for table in of if not table.read_only for _, aside in table.asides()]
            for kind, of in found.items()
        },
        recorded=look.is_recorded,
        orphans=look.orphans,
    )
