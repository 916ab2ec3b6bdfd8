"""Damaged records that lost their id: whose they are, where what lies there proves it.

A layer has the recorded archive, and lies on the recorded parent. The data items of an image or container have the
recorded digests; or a container names an image that has no record, and was made of the layer of this one. What is
true of exactly one thing without a record is taken for its; otherwise nobody is given a record that may be another's.
"""

from __future__ import annotations

import os

from orlop.model.image import tops_of
from orlop.records import bigdata
from orlop.store.repair.rebuild import data_members

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.check.look import Look
    from orlop.store.repair.lostlayers import LostLayers


class Nameless:
    """Finds each id at most once."""

    def __init__(self, look: Look, layers: LostLayers) -> None:
        self._look = look
        self._layers = layers
        self._given: set[str] = set()

    def id_of(self, table: TableAsFound, document: Document) -> str:
        """The id of the only thing without a record that a record, of which all but the id is known, can be of."""
        if table.noun == "layer":
            found = [id for id in self._look.orphans() if self._is_layer(id, document)]
        else:
            found = [id for id in self._without_record(table) if self._has_items(table, id, document)]
            if table.noun == "image":
                found += [id for id in self._named_by_containers(document) if id not in found]
        found = [id for id in found if id not in self._given and not self._look.doubted(id)]
        if len(found) != 1:
            return ""
        self._given.add(found[0])
        return found[0]

    def _is_layer(self, id: str, document: Document) -> bool:
        parent = self._layers.parent(id)
        if parent is not None and parent != (document.get("parent") or ""):
            return False
        told = self._layers.archive_members(id).get("diff-digest")
        return told == (document.get("diff-digest") or None)

    def _without_record(self, table: TableAsFound) -> list[str]:
        return [
            id for id in bigdata.directories(table.directory) if not self._look.is_recorded(table.noun, id)
        ]

    def _has_items(self, table: TableAsFound, id: str, document: Document) -> bool:
        digests = document.get("big-data-digests")
        return (
            bool(digests) and data_members(os.path.join(table.directory, id))["big-data-digests"] == digests
        )

    def _named_by_containers(self, document: Document) -> Iterator[str]:
        """The images without a record of which a container is made that lies on the layer of this one."""
        tops = tops_of(document)
        for box in self._look.containers.by_id.values():
            id = box.get("image") or ""
            layer = self._look.layer(box.get("layer") or "")
            below = (layer[1].get("parent") or "") if layer is not None else ""
            if id and below in tops and not self._look.is_recorded("image", id):
                yield id
