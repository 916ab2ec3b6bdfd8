"""What mends an image: its data items by a twin, an additional store's copy, or what they prove themselves."""

from __future__ import annotations

import os

from orlop.errors import InvalidDigest, InvalidKey, StorageError
from orlop.model.digest import Digest
from orlop.records.bigdata import Items
from orlop.store.repair.bench import OF_DATA
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from orlop.model.findings import Finding
    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.check.look import Look
    from orlop.store.repair.bench import Bench


class ImageRepair:
    """Adds remedies for all images of the bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        for table in bench.look.images:
            for document in table.by_id.values() if not table.read_only else ():
                if bench.about("image", document["id"]) and not self._layers(document):
                    mending = ItemMending(bench.look, document)
                    for finding in bench.about("image", document["id"], OF_DATA):
                        self._item(document, finding, mending)

    def _layers(self, document: Document) -> bool:
        """Whether the image is lost with its layers."""
        bench, id = self._bench, document["id"]
        gone = {finding.name for finding in bench.about("image", id, ("image-layer-missing",))}
        lost = {layer for layer in gone if ("layer", layer) not in bench.restored}
        if not lost:
            return False
        if bench.evidence.needs(document.get("layer") or "", lost):
            bench.doom.image(id, f"its layer {min(lost)} is lost")
            return True
        kept = [copy for copy in document.get("mapped-layers") or () if not bench.evidence.needs(copy, lost)]
        bench.change("image", id, {"mapped-layers": kept}, "a copy of its top layer is lost")
        return False

    def _item(self, document: Document, finding: Finding, mending: ItemMending) -> None:
        bench, id, key = self._bench, document["id"], finding.name
        if mending.is_right(key):
            bench.change("image", id, mending.members_of(key), f'data item "{key}" is recorded as it is')
            return
        source = mending.source_of(key)
        if source is not None:
            durable = bench.engine.options.durable
            bench.add(
                "rewrite",
                "file",
                id,
                finding.path,
                f"copied from {source}",
                lambda _: copy_item(source, finding.path, durable=durable),
            )
        elif is_vital(key):
            bench.doom.image(id, f'its data item "{key}" is damaged, and nowhere else')
        else:
            bench.drop_item("image", id, finding)


class ItemMending:
    """For the items of one image of ours."""

    def __init__(self, look: Look, document: Document) -> None:
        self._look = look
        self._document = document
        self._table = next(t for t in look.images if not t.read_only and document["id"] in t.by_id)

    def is_right(self, key: str) -> bool:
        """Whether the item has the digest that is recorded, or the one that its key is: then the record is wrong."""
        data = self._read(self._table, self._document, key)
        if data is None:
            return False
        digest = str(Digest.of(data))
        return (self._document.get("big-data-digests") or {}).get(key) == digest or key.endswith(digest)

    def members_of(self, key: str) -> Callable[[Document], dict[str, Any]]:
        """What the record should say, given what it says otherwise."""
        data = self._read(self._table, self._document, key) or b""
        digest = str(Digest.of(data))

        def members(document: Document) -> dict[str, Any]:
            return {
                "big-data-sizes": {**(document.get("big-data-sizes") or {}), key: len(data)},
                "big-data-digests": {**(document.get("big-data-digests") or {}), key: digest},
            }

        return members

    def source_of(self, key: str) -> str | None:
        """The path of a file that holds what the item should."""
        wanted = (self._document.get("big-data-digests") or {}).get(key)
        try:
            Digest.parse(wanted or "")
        except InvalidDigest:
            return None
        for table, document, other in self._candidates(key):
            data = self._read(table, document, other)
            if data is not None and Digest.of(data) == wanted:
                return _path(table, document, other)
        return None

    def _candidates(self, key: str) -> Iterator[tuple[TableAsFound, Document, str]]:
        for other in self._document.get("big-data-names") or ():
            if other != key:
                yield self._table, self._document, other
        for table in self._look.images:
            if table is self._table:
                continue
            document = table.by_id.get(self._document["id"])
            for other in (document or {}).get("big-data-names") or ():
                if document is not None:
                    yield table, document, other

    def _read(self, table: TableAsFound, document: Document, key: str) -> bytes | None:
        path = _path(table, document, key)
        try:
            return files.read(path) if path else None
        except (OSError, StorageError):
            return None


def copy_item(source: str, path: str, *, durable: bool) -> None:
    """Put a copy of one item in the place of another, whatever lies there."""
    data = files.read(source)
    files.make_own_dir(os.path.dirname(path))
    if os.path.lexists(path) and not os.path.isfile(path):
        files.remove_tree(path)
    files.write_atomic(path, data, durable=durable)


def is_vital(key: str) -> bool:
    """Whether an image is of no use without the item: its manifest, or what that refers to by digest."""
    return key.startswith(("manifest", "sha256:"))


def _path(table: TableAsFound, document: Document, key: str) -> str:
    try:
        return Items(table.table, durable=False).path(document["id"], key)
    except InvalidKey:
        return ""
