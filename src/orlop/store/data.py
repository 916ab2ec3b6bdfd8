"""Big data of one record as a mapping (`spec/records.md` 18).

data = store.images.data("example.org/base:1")
data["manifest"] = b"..."
data.digest("manifest"), data.size("manifest"), list(data)
"""

from __future__ import annotations

import os

from orlop.errors import DataUnknown, DigestUnknown, InvalidKey, LimitExceeded, SizeUnknown
from orlop.formats.limits import DATA_ITEM_MAX
from orlop.model.digest import Digest
from orlop.store import arguments
from orlop.store.tables import READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from orlop.records.blocks import Editor
    from orlop.records.rows import Row
    from orlop.store.collection import Collection
    from orlop.store.tables import Tables


class Data:
    """Named items of one layer, image or container. Keys are any text but the empty one; values are bytes."""

    def __init__(self, collection: Collection[Any], id: str) -> None:
        self._collection = collection
        self._engine = collection._engine
        self.id = id

    # --- asking -------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order in which they were first set."""
        return iter(self.keys())

    def keys(self) -> tuple[str, ...]:
        """The keys as of now, in the order in which they were first set."""
        with self._collection._opening(READ) as tables:
            row = self._record(tables)
            return tuple(row.document.get("big-data-names") or ())

    def items(self) -> list[tuple[str, bytes]]:
        """Keys and items, read whole one by one."""
        return [(key, self[key]) for key in self.keys()]

    def values(self) -> list[bytes]:
        """The items, read whole one by one."""
        return [self[key] for key in self.keys()]

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __getitem__(self, key: str) -> bytes:
        """The whole item.

        Raises:
            DataUnknown: there is no item of that key.
            LimitExceeded: it has more than `DATA_ITEM_MAX` bytes; `open` it.
            UnsafePath: something else than a file lies in its place.
        """
        with self.open(key) as file:
            size = os.fstat(file.fileno()).st_size
            # Another program may have written it, and a sparse file of terabytes costs its maker nothing.
            if size > DATA_ITEM_MAX:
                raise LimitExceeded(
                    f"data item {key!r} has {size} bytes; at most {DATA_ITEM_MAX} are read at once", key=key
                )
            return file.read(size)

    def get(self, key: str, default: bytes | None = None) -> bytes | None:
        """The whole item of that key, or `default` if there is none."""
        try:
            return self[key]
        except DataUnknown:
            return default

    def open(self, key: str) -> BinaryIO:
        """The item as a readable file, to be closed; a later replacement does not change what it reads.

        Raises:
            DataUnknown: there is no item of that key.
            InvalidKey: the empty key, for a container.
            UnsafePath: something else than a file lies in its place.
        """
        noun = self._collection.noun
        if not key and noun == "container":
            raise InvalidKey("a container's big-data item needs a key", key=key, kind=noun, action="get")
        path = ""
        with self._collection._opening(READ) as tables:
            for view in self._collection._views(tables):
                row = view.rows.by_id(self.id)
                if row is None:
                    continue
                try:
                    return self._engine.items(view.table).open(row.id, key)
                except (FileNotFoundError, NotADirectoryError) as error:
                    path = error.filename
                except InvalidKey:  # no file can have it
                    path = f"{view.table.directory}/{row.id}/{key}"
        raise DataUnknown(
            f'{noun} "{self.id}" has no data item {key!r}',
            kind=noun,
            key=key,
            id=self.id,
            path=path,
        )

    def size(self, key: str) -> int:
        """Bytes of the item, as recorded, else as found.

        Raises:
            SizeUnknown: there is no item of that key.
        """
        recorded = self._recorded("big-data-sizes", key, "size")
        if recorded is not None:
            return int(recorded)
        try:
            with self.open(key) as file:
                return os.fstat(file.fileno()).st_size
        except DataUnknown:
            raise SizeUnknown(
                f'{self._collection.noun} "{self.id}" has no data item {key!r}', key=key, id=self.id
            ) from None

    def digest(self, key: str) -> Digest:
        """The digest of the item, as recorded; for containers computed where it is not.

        Raises:
            DigestUnknown: no item of that key, or none recorded.
        """
        recorded = self._recorded("big-data-digests", key, "digest")
        noun = self._collection.noun
        if recorded:
            try:
                return Digest.parse(recorded)
            except ValueError:
                pass
        elif noun == "container":
            try:
                return Digest.of(self[key])
            except DataUnknown:
                pass
        raise DigestUnknown(f'no digest of data item {key!r} of {noun} "{self.id}"', key=key, id=self.id)

    # --- changing -----------------------------------------------------------------------------------------

    def __setitem__(self, key: str, data: bytes) -> None:
        self.put(key, data)

    def put(self, key: str, data: bytes | BinaryIO, *, digest: str | None = None) -> None:
        """Replace an item; on return it is on disk.

        Args:
            key: any text but the empty one.
            data: bytes; for layers also a readable file.
            digest: for manifests whose digest is not the sha256 of their bytes (signed schema 1).

        Raises:
            InvalidKey: empty, or a key that no file can have.
            LayerUnknown, ImageUnknown, ContainerUnknown: the record is gone, or lives in an additional store.
        """
        collection = self._collection
        noun = collection.noun
        if not key:
            raise InvalidKey(f"a data item of a {noun} needs a key", key=key, kind=noun, action="set")
        if isinstance(data, bytearray | memoryview):
            data = bytes(data)
        if noun != "layer" and callable(getattr(data, "read", None)):
            data = data.read(DATA_ITEM_MAX + 1)  # type: ignore[union-attr]
        arguments.item(key, data, of_layer=noun == "layer")
        if digest is not None:
            Digest.parse(digest)
        with collection._opening(WRITE) as tables:
            editor: Editor = collection._views(tables)[0]  # type: ignore[assignment]
            row = editor.rows.by_id(self.id)
            if row is None:
                raise collection._not_known(self.id)
            volatile = row.home != 0 and not editor.table.files[row.home].durable
            self._engine.items(editor.table, volatile=volatile).store(editor, row, key, data, digest)

    # --- inside -------------------------------------------------------------------------------------------

    def _record(self, tables: Tables) -> Row:
        # By the id alone: another record may have a name like that, or an id that begins so.
        for view in self._collection._views(tables):
            row = view.rows.by_id(self.id)
            if row is not None:
                return row
        raise self._collection._not_known(self.id)

    def _recorded(self, member: str, key: str, action: str) -> Any:
        noun = self._collection.noun
        if not key and noun == "container":
            raise InvalidKey("a container's big-data item needs a key", key=key, kind=noun, action=action)
        with self._collection._opening(READ) as tables:
            for view in self._collection._views(tables):
                row = view.rows.by_id(self.id)
                if row is not None and key in (row.document.get(member) or ()):
                    return row.document[member][key]
        return None

    def __repr__(self) -> str:
        return f"<data of {self._collection.noun} {self.id}>"
