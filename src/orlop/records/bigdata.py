"""Big data: named items beside a record, one file each (`spec/records.md` 18).

An item and the record that knows its size and digest are two files, which no call replaces together. So a note is
made first, naming the item; then come the file, the record, and the end of the note. Who loads the table and finds a
note of a dead process makes the record say what the file holds (`mend`): the old item or the new, never one with the
other's digest. Notes, and the temporary files of items, lie in the table's directory, where one look finds them.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidKey, StorageError, UnsafePath
from orlop.formats import gojson
from orlop.formats.bigdata import file_name
from orlop.model.digest import Digest
from orlop.model.ids import are_harmless, looks_generated
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Any, BinaryIO

    from orlop.records.blocks import Editor
    from orlop.records.rows import Row
    from orlop.records.table import Table

_BLOCK = 1 << 20
_NOTE = ".tmp-set-"  # found, like every temporary file, by who loads the table next
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

    def read(self, id: str, key: str, *, limit: int | None = None) -> bytes:
        """The item; FileNotFoundError if there is none, LimitExceeded if it has more than `limit` bytes."""
        return files.read_open(self.descriptor(id, key), self.path(id, key), limit=limit)

    def open(self, id: str, key: str) -> BinaryIO:
        """The item as a readable file; FileNotFoundError if there is none."""
        return os.fdopen(self.descriptor(id, key), "rb")

    def descriptor(self, id: str, key: str) -> int:
        """The item open for reading; FileNotFoundError if there is none, UnsafePath if it is no file.

        Neither directory nor file may be a link, nor may opening wait.

        Whoever prepares an additional store could else have root read `/etc/shadow` for an image's manifest, copy it
        with the image, or stand still before a FIFO.
        """
        path = self.path(id, key)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(os.path.dirname(path), flags)
        try:
            return files.open_regular(path, dir_fd=directory)
        finally:
            os.close(directory)

    def store(
        self, editor: Editor, row: Row, key: str, data: bytes | BinaryIO, digest: str | None = None
    ) -> None:
        """Replace one item of a record and bring the record up to date; both are on disk on return.

        `digest` stands in for the sha256 of the data (manifests with a digest of their own). Layers record names
        only, no sizes and digests.
        """
        self._refuse(row.id, {key: data})
        sha = Digest.of(data) if isinstance(data, bytes) else ""
        note = {"id": row.id, "key": key, "digest": digest or "", "sha256": sha}
        with _Note(self._table, note, durable=self._durable):
            members = self._put(row.document, row.id, {key: data}, {key: digest} if digest else {})
            if members:
                editor.change(row, members)
                editor.save()

    def store_all(
        self, id: str, data: Mapping[str, bytes | BinaryIO], digests: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Write the items of a record that is being made; the members that the record has to have for them.

        `digests` are those, by key, that are not to be the sha256 of the item.
        The caller sees to it that the items go if the record does not come: `making`, or a layer's flag.
        """
        self._refuse(id, data)
        return self._put({}, id, data, digests or {})

    def making(self, id: str) -> _Making:
        """A block around `store_all` and the saving of a new record: after a crash both are there, or neither."""
        return _Making(self._table, id)

    def removing(self, ids: list[str]) -> _Note:
        """A block around the removal of records, then of their data: after a crash no data is left without them."""
        return _Note(self._table, {"ids": ids})

    def _refuse(self, id: str, data: Mapping[str, bytes | BinaryIO]) -> None:
        """Raise for what cannot be stored, before anything is written."""
        for key, value in data.items():
            self.path(id, key)
            if self._table.noun != "layer" and not isinstance(value, bytes):
                raise TypeError(f"data items of a {self._table.noun} are bytes; found {type(value).__name__}")

    def _put(
        self,
        document: Mapping[str, Any],
        id: str,
        data: Mapping[str, bytes | BinaryIO],
        given: Mapping[str, str],
    ) -> dict[str, Any]:
        """Write files; the members of the record that change."""
        if not data:
            return {}
        directory = os.path.join(self._table.directory, id)
        if files.make_own_dir(directory) and self._durable:
            files.sync_dir(self._table.directory)
        names = list(document.get("big-data-names") or ())
        sizes = dict(document.get("big-data-sizes") or {})
        digests = dict(document.get("big-data-digests") or {})
        for key, value in data.items():
            self._write(self.path(id, key), value)
            if key not in names:
                names.append(key)
            if isinstance(value, bytes):
                sizes[key] = len(value)
                digests[key] = str(given.get(key) or Digest.of(value))
        members: dict[str, Any] = {"big-data-names": names}
        if self._table.noun != "layer":
            members |= {"big-data-sizes": sizes, "big-data-digests": digests}
        return {k: v for k, v in members.items() if v != (document.get(k) or type(v)())}

    def _write(self, path: str, data: bytes | BinaryIO) -> None:
        with files.replacing(path, durable=self._durable, temp_dir=self._table.directory) as out:
            if isinstance(data, bytes):
                out.write(data)
            else:
                while block := data.read(_BLOCK):
                    out.write(block)


class _Note:
    """A file that names what is being written, for whoever comes after us if we do not come to the end."""

    def __init__(self, table: Table, what: dict[str, Any], *, durable: bool = False) -> None:
        """`durable`: the note is on disk before what it names is touched, for who comes after a power loss."""
        self._table = table
        self._what = what
        self._durable = durable
        self._path = os.path.join(table.directory, f"{_NOTE}{int.from_bytes(os.urandom(8), 'little')}")

    def __enter__(self) -> None:
        # First of all the token: it makes the next program load the table, and so find the note.
        self._table.renew_tokens()
        try:
            files.write_atomic(self._path, gojson.encode(self._what).encode(), durable=self._durable)
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._end()
            except OSError:
                # All is done that was wanted. The next load finds the note, sees so, and removes it.
                self._table.forget()
        else:
            self._table.forget()  # and the next load mends what we may have left half done

    def _end(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass


class _Making(_Note):
    def __init__(self, table: Table, id: str) -> None:
        super().__init__(table, {"id": id})
        self._directory = os.path.join(table.directory, id)
        self._id = id

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is not None and self._table.find_by_id(self._id) is None:
            try:
                _unmake(self._directory)
                self._end()
            except OSError as second:
                error.add_note(
                    f"and {self._directory} could not be removed, which the next load will do: {second}"
                )


def is_note(name: str) -> bool:
    """Whether a temporary file is a note."""
    return name.startswith(_NOTE)


def directories(directory: str) -> list[str]:
    """What lies in a table's directory and can only be the data of a record that was there, or is still."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    begun = {
        id for id, _, _ in _read_notes(directory, names)
    }  # their records were to follow, or to go before
    return [name for name in names if looks_generated(name) and name not in begun]


def mend(table: Table, editor: Editor, names: list[str]) -> None:
    """Finish, or undo, what notes of dead processes name. The exclusive lock is held; the caller saves."""
    for id, key, what in _read_notes(table.directory, names):
        if editor.rows.by_id(id) is not None:
            _mend(table, editor, id, key, what)
        elif table.doubted(id) is None:
            if what.get("ids"):
                table.finish_removal(id)
            else:
                _unmake(os.path.join(table.directory, id))


def _read_notes(directory: str, names: list[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Of each note the ids, each with the key and all it says.

    One that cannot be read was not yet whole when its writer died, so nothing of what it would name was written.
    """
    for name in filter(is_note, names):
        try:
            what = gojson.decode(files.read(os.path.join(directory, name)))
            ids, key = what.get("ids") or [what["id"]], what.get("key", "")
            harmless = isinstance(key, str) and are_harmless(ids)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, StorageError):
            continue
        for id in ids if harmless else ():
            yield id, key, what


def _unmake(directory: str) -> None:
    """Remove the items of a record that did not come; not its callers' own files, which may have been there before.

    Those of an image in an additional store lie in our root, and are there while we make a copy of it.
    """
    if not files.is_directory(directory):
        return  # nor anything behind a link, which somebody else put there
    names = os.listdir(directory)
    for name in names:
        if name != _RESERVED:
            files.remove_tree(os.path.join(directory, name))
    if _RESERVED not in names:
        os.rmdir(directory)


def _mend(table: Table, editor: Editor, id: str, key: str, what: Mapping[str, Any]) -> None:
    row = editor.rows.by_id(id)
    if row is None or not key:
        return
    items = Items(table, durable=True)
    try:
        data = items.read(id, key) if table.noun != "layer" else b""
        os.stat(items.path(id, key))
    except (FileNotFoundError, NotADirectoryError, InvalidKey, UnsafePath):
        return
    sha = str(Digest.of(data))
    names = row.document.get("big-data-names") or []
    members: dict[str, Any] = {} if key in names else {"big-data-names": [*names, key]}
    if table.noun != "layer":
        digest = what.get("digest") if what.get("digest") and what.get("sha256") == sha else sha
        sizes = row.document.get("big-data-sizes") or {}
        digests = row.document.get("big-data-digests") or {}
        if what.get("sha256") == sha or (sizes.get(key) != len(data)):
            members |= {
                "big-data-sizes": {**sizes, key: len(data)},
                "big-data-digests": {**digests, key: digest},
            }
    if members:
        editor.change(row, members)
