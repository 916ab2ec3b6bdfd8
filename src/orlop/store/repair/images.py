"""Data items of images put right: by a twin, by an additional store's copy, or by what they prove themselves."""

from __future__ import annotations

import os

from orlop.errors import InvalidDigest, InvalidKey, StorageError
from orlop.model.digest import Digest
from orlop.records.bigdata import Items
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.check.look import Look


class ItemMending:
    """For the items of one image of ours."""

    def __init__(self, look: Look, document: Document) -> None:
        self._look = look
        self._document = document
        self._table = next(t for t in look.images if not t.read_only and document["id"] in t.by_id)

    def record_of(self, key: str) -> dict[str, Any] | None:
        """The members to be recorded, if the item is right and the record is not.

        The item is right if it has the digest that is recorded, or the one that its key is.
        """
        data = self._read(self._table, self._document, key)
        if data is None:
            return None
        digest = str(Digest.of(data))
        digests = self._document.get("big-data-digests") or {}
        sizes = self._document.get("big-data-sizes") or {}
        if digests.get(key) != digest and not key.endswith(digest):
            return None
        return {
            "big-data-sizes": {**sizes, key: len(data)},
            "big-data-digests": {**digests, key: digests.get(key) if digests.get(key) == digest else digest},
        }

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
    if os.path.lexists(path) and not os.path.isfile(path):
        files.remove_tree(path)
    files.make_dirs(os.path.dirname(path))
    files.write_atomic(path, data, durable=durable)


def is_vital(document: Document, key: str) -> bool:
    """Whether an image is of no use without the item: its manifest, or what that refers to by digest."""
    return key.startswith(("manifest", "sha256:"))


def _path(table: TableAsFound, document: Document, key: str) -> str:
    try:
        return Items(table.table, durable=False).path(document["id"], key)
    except InvalidKey:
        return ""
