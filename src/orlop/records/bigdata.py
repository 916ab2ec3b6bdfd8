"""Big data: named items beside a record, one file each (`spec/records.md` 18).

The file is replaced first, then the record; readers that hold the old file keep the old content. Temporary files lie
in the table's directory, so that one look there finds what a dead process left.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidKey
from orlop.formats.bigdata import file_name
from orlop.model.digest import Digest
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from orlop.records.rows import Row
    from orlop.records.table import Editor, Table

_BLOCK = 1 << 20
_RESERVED = "userdata"  # the directory that callers own, beside the items


class Items:
    """The item files of one table."""

    def __init__(self, table: Table, *, durable: bool) -> None:
        self._table = table
        self._durable = durable

    def path(self, id: str, key: str) -> str:
        """Where the item lies.

        Raises:
            InvalidKey: no file can have that key.
        """
        name = file_name(key)
        if name == _RESERVED and self._table.noun != "layer":
            raise InvalidKey(
                f"big-data key {key!r} is the name of the {self._table.noun}'s own directory", key=key
            )
        return os.path.join(self._table.directory, id, name)

    def read(self, id: str, key: str) -> bytes:
        """The item; FileNotFoundError if there is none."""
        return files.read(self.path(id, key))

    def open(self, id: str, key: str) -> BinaryIO:
        """The item as a readable file; FileNotFoundError if there is none."""
        return open(self.path(id, key), "rb")

    def store(
        self, editor: Editor, row: Row, key: str, data: bytes | BinaryIO, digest: str | None = None
    ) -> None:
        """Replace the item and bring the record up to date; both are on disk on return.

        `digest` stands in for the sha256 of the data (manifests with a digest of their own). Layers record names
        only, no sizes and digests.
        """
        path = self.path(row.id, key)
        # First of all the token: if we die now, the next program looks for what we left behind.
        self._table.renew_tokens()
        directory = os.path.dirname(path)
        if not os.path.isdir(directory):
            files.make_dirs(directory)
            if self._durable:
                files.sync_dir(self._table.directory)
        size = 0
        with files.replacing(path, durable=self._durable, temp_dir=self._table.directory) as out:
            if isinstance(data, bytes | bytearray | memoryview):
                out.write(data)
                size = len(data)
            else:
                while block := data.read(_BLOCK):
                    out.write(block)
        if self._table.noun == "layer":
            members = {}
        else:
            if not isinstance(data, bytes | bytearray | memoryview):
                raise TypeError("items of images and containers are given as bytes")
            members = self._facts(row, key, size, digest or Digest.of(bytes(data)))
        names = row.document.get("big-data-names") or []
        if key not in names:
            members["big-data-names"] = [*names, key]
        if members:
            editor.change(row, members)
            editor.save()

    def _facts(self, row: Row, key: str, size: int, digest: str) -> dict[str, Any]:
        sizes = row.document.get("big-data-sizes") or {}
        digests = row.document.get("big-data-digests") or {}
        if sizes.get(key) == size and digests.get(key) == digest:
            return {}
        return {"big-data-sizes": {**sizes, key: size}, "big-data-digests": {**digests, key: str(digest)}}
