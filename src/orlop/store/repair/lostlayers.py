"""Records of layers that the driver has and no table names: what can still be told of them.

Digest and size of the archive come from tar-split file and files, those of the blob from a manifest, the parent from
what the driver notes (overlay), an image's configuration, or the tree (vfs): a layer shows what its parent shows,
but for what its own archive changes.
"""

from __future__ import annotations

import os

from orlop.drivers.api import DependsOnLayers
from orlop.errors import StorageError
from orlop.model.idmap import IDENTITY
from orlop.store.check.archives import Reading
from orlop.store.check.compare import Comparison, Leniency
from orlop.store.check.expected import Tree
from orlop.store.check.trees import Growing
from orlop.store.repair.rebuild import configuration_in, items_in, made_at
from orlop.system.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from orlop.drivers.api import Inspector
    from orlop.formats.tarheader import Entry
    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.check.compare import Difference
    from orlop.store.check.look import Look
    from orlop.store.repair.rebuild import Configuration

_LENIENT = Leniency(owners=True, times=True, devices=True)
"""For telling trees apart: whose layer it was is not known yet."""


class LostLayers:
    """Records of layers that the driver has and no table names."""

    def __init__(self, look: Look, inspector: Inspector | None) -> None:
        self._look = look
        self._inspector = inspector
        self._configurations: list[Configuration] | None = None

    def documents(self, ids: Iterable[str], known: Iterable[Document]) -> list[Document]:
        """The records of these; `known` are those that there are. Parents come before their children."""
        found = {id: self._document(id) for id in ids}
        told: set[str] = set()
        for id, document in found.items():
            parent = self.parent(id)
            if parent is not None:
                told.add(id)
                if parent:
                    document["parent"] = parent
        untold = {id: document for id, document in found.items() if id not in told}
        everything = {document["id"]: document for document in known} | found
        placed = self._put_in_chains(untold, list(known))
        self._put_where_they_fit({id: d for id, d in untold.items() if id not in placed}, everything)
        for id, document in found.items():
            found[id] = self._ordered(document | self._blob_of(document))
        return _parents_first(found)

    def _document(self, id: str) -> Document:
        table = self._look.layers[0].table
        document: Document = {"id": id, "created": str(made_at(self._look.driver.places(id)[-1]))}
        document |= self.archive_members(id)
        names = list(items_in(os.path.join(table.directory, id)))
        if names:
            document["big-data-names"] = names
        return document

    def archive_members(self, id: str) -> dict[str, Any]:
        """What the tar-split file and the files say; nothing, if they do not make an archive."""

        uids: set[int] = set()
        gids: set[int] = set()

        def take(entry: Entry, checksum: bytes | None, told: int) -> None:
            if not entry.name.rstrip(b"/").rpartition(b"/")[2].startswith(b".wh."):
                uids.add(entry.uid)
                gids.add(entry.gid)

        reading = Reading()
        table: Any = self._look.layers[0].table
        try:
            place = self._inspector.tree(id, self.parent(id) or None) if self._inspector else None
            if place is None:
                return {}
            with (
                os.fdopen(open_regular(table.tar_split_path(id)), "rb") as record,
                place.files() as layer,
            ):
                reading.run(record, layer, take)
        except (OSError, StorageError):
            return {}
        if not reading.digest or reading.problems or reading.error:
            return {}
        return {
            "diff-digest": reading.digest,
            "diff-size": reading.size,
            "uidset": sorted(uids),
            "gidset": sorted(gids),
        }

    def parent(self, id: str) -> str | None:
        """The layer right below, as the driver knows it; None if this driver does not."""
        driver = self._look.driver
        if not isinstance(driver, DependsOnLayers):
            return None
        try:
            needed = driver.needs(id)
        except (OSError, StorageError):
            return ""
        return needed[0] if needed else ""

    def _put_in_chains(self, found: dict[str, Document], known: list[Document]) -> set[str]:
        """Give layers of which the driver does not know it the parents that images and containers tell; which."""
        placed: set[str] = set()
        for configuration in self._all_configurations():
            below = ""
            for digest in configuration.diff_ids:
                there = [
                    d for d in known if d.get("diff-digest") == digest and (d.get("parent") or "") == below
                ]
                lost = [
                    d
                    for d in found.values()
                    if d.get("diff-digest") == digest
                    and (d["id"] not in placed or (d.get("parent") or "") == below)
                ]
                if not there and not lost:
                    break
                document = (there or lost)[0]
                if not there:
                    placed.add(document["id"])
                    if below:
                        document["parent"] = below
                below = document["id"]
        for box in self._look.containers.by_id.values():
            image = self._look.image(box.get("image") or "")
            layer = box.get("layer") or ""
            if layer in found and layer not in placed and image is not None and image[1].get("layer"):
                found[layer]["parent"] = image[1]["layer"]
                placed.add(layer)
        return placed

    def _put_where_they_fit(self, found: dict[str, Document], everything: dict[str, Document]) -> None:
        """Give layers of which nobody tells it the parent whose tree, with their own archive, is what they show."""
        filled = {id: document for id, document in found.items() if document.get("diff-digest")}
        waiting = dict(filled)
        placed = True
        while waiting and placed:
            placed = False
            candidates = ["", *[id for id in everything if id not in waiting]]
            for id in list(waiting):
                parent = next((other for other in candidates if self._fits(id, other, everything)), None)
                if parent is not None:
                    placed = True
                    del waiting[id]
                    if parent:
                        everything[id]["parent"] = parent

    def _fits(self, id: str, parent: str, everything: dict[str, Document]) -> bool:
        """Whether a layer shows what its own archive makes of the tree of `parent`."""
        chain = [id]
        while parent and parent not in chain and parent in everything:
            chain.append(parent)
            parent = everything[parent].get("parent") or ""
        growing = Growing(Tree(whole=True))
        table: Any = self._look.layers[0].table
        try:
            place = self._inspector.tree(id, None) if self._inspector is not None else None
            if parent or place is None or not place.whole:
                return False
            for other in reversed(chain):
                growing.tree.begin(other)
                reading = Reading()
                with os.fdopen(open_regular(table.tar_split_path(other)), "rb") as record:
                    reading.run(record, None, growing.add)
                if not growing.is_known(reading):
                    return False
            Comparison(growing.tree, place, IDENTITY, _LENIENT, _differs, contents=False).run()
        except (OSError, StorageError, _Different):
            return False
        return True

    def _blob_of(self, document: Document) -> dict[str, Any]:
        """Digest and size of the blob as it was published, if a manifest tells them."""
        digest = document.get("diff-digest")
        for configuration in self._all_configurations():
            for blob, other in zip(configuration.blobs, configuration.diff_ids, strict=False):
                if digest == other:
                    compression = blob[2] if blob[2] >= 0 else 0 if blob[0] == digest else 2
                    return {
                        "compressed-diff-digest": blob[0],
                        "compressed-size": blob[1],
                        "compression": compression,
                    }
        return {}

    def _all_configurations(self) -> list[Configuration]:
        if self._configurations is None:
            self._configurations = [
                configuration
                for directory in _image_directories(self._look.images)
                if (configuration := configuration_in(directory)) is not None
            ]
        return self._configurations

    def _ordered(self, document: Document) -> Document:
        fields = self._look.layers[0].table.record.FIELDS
        return {key: document[key] for key in fields if key in document}


class _Different(Exception):
    pass


def _differs(difference: Difference) -> None:
    raise _Different


def _image_directories(tables: list[TableAsFound]) -> list[str]:
    found = []
    for table in tables:
        try:
            names = sorted(os.listdir(table.directory))
        except OSError:
            continue
        found += [path for name in names if os.path.isdir(path := os.path.join(table.directory, name))]
    return found


def _parents_first(documents: dict[str, Document]) -> list[Document]:
    ordered: dict[str, Document] = {}
    for id in documents:
        way: list[str] = []
        at = id
        while at in documents and at not in ordered and at not in way:
            way.append(at)
            at = documents[at].get("parent") or ""
        for each in reversed(way):
            ordered[each] = documents[each]
    return list(ordered.values())
