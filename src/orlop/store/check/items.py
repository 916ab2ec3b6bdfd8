"""Big-data items: there, readable, and as the record says (`spec/check-repair.md` 3.1a, 3.2, 3.3)."""

from __future__ import annotations

import os

from orlop.errors import InvalidDigest, InvalidKey, StorageError, UnsafePath
from orlop.formats.limits import DATA_ITEM_MAX
from orlop.model.digest import Digest
from orlop.model.findings import ODDITY, Finding
from orlop.records.bigdata import Items
from orlop.store.check.findings import about, exposed_file, raise_if_ours
from orlop.store.check.wording import system_text
from orlop.system import files
from orlop.system.extents import data_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.check.findings import Subject

_BLOCK = 1 << 20
_MANIFEST_MAX = 4 << 20
_CALLERS_OWN = "userdata"


class ItemCheck:
    """Looks at the items of records of one table. `count(items, bytes)` is told what was read."""

    def __init__(self, table: TableAsFound, count: Callable[[int, int], object]) -> None:
        self._table = table
        self._items = Items(table.table, durable=False)
        self._count = count
        try:
            self._owner = os.stat(table.directory).st_uid
        except OSError:
            self._owner = os.geteuid()

    def of_record(self, document: Document) -> Iterator[Finding]:
        id = document["id"]
        subject = about(self._table, id)
        keys = document.get("big-data-names") or ()
        names = set()
        for key in keys:
            try:
                path = self._items.path(id, key)
            except InvalidKey as problem:
                yield subject.finding("data-key", str(problem), name=key, remedy="taken off the record")
                continue
            names.add(os.path.basename(path))
            yield from self._of_item(subject, document, key, path)
        yield from self._unknown(subject, names)

    def _of_item(self, subject: Subject, document: Document, key: str, path: str) -> Iterator[Finding]:
        noun, item = self._table.noun, f'data item "{key}"'

        def wrong(code: str, text: str, *peers: str) -> Finding:
            lines = tuple([f"{item}: {line}" for line in peers])
            remedy = _remedy(noun)
            return subject.finding(code, f"{item} {text}", path=path, name=key, remedy=remedy, peers=lines)

        try:
            fd = self._items.descriptor(document["id"], key)
        except FileNotFoundError:
            yield wrong("data-missing", f"is missing ({path})", f"{noun} data item is missing")
            return
        except (OSError, UnsafePath) as problem:
            raise_if_ours(problem)
            yield wrong("data-unreadable", f"cannot be read: {problem}", _reason(problem))
            return
        try:
            status = os.fstat(fd)
            size = status.st_size
            wanted = (document.get("big-data-sizes") or {}).get(key) or 0
            recorded = (document.get("big-data-digests") or {}).get(key)
            if noun == "layer":  # whose records tell neither
                _digest(fd, size, None)
            elif size != wanted:  # it is not read: a sparse file of terabytes costs its maker nothing
                text = f"has {size} bytes, and should have {wanted} ({path})"
                yield wrong("data-size", text, f"{noun} data item has incorrect size")
            elif size > DATA_ITEM_MAX:
                text = f"{item} has {size} bytes; more than {DATA_ITEM_MAX} are not read ({path})"
                yield subject.finding("data-large", text, grade=ODDITY, path=path, name=key)
                return
            else:
                digest = _digest(fd, size, recorded)
                if digest and digest != recorded and not _is_signed_manifest(fd, key, size):
                    yield wrong("data-digest", f"is {digest}, and should be {recorded} ({path})")
            self._count(1, size if noun == "layer" or size == wanted else 0)
            yield from exposed_file(subject, path, status, self._owner)
        except OSError as problem:
            raise_if_ours(problem)
            yield wrong("data-unreadable", f"cannot be read: {problem.strerror}", _reason(problem))
        finally:
            os.close(fd)

    def _unknown(self, subject: Subject, names: set[str]) -> Iterator[Finding]:
        """Files beside the items that no key is for. Nobody knows whose they are, so they stay."""
        directory = os.path.join(self._table.directory, subject.id)
        try:
            found = os.listdir(directory)
        except OSError:
            return
        for name in sorted(found):
            if name in names or name.startswith(files.TEMPORARY):
                continue
            if name == _CALLERS_OWN and self._table.noun != "layer":
                continue
            path = os.path.join(directory, name)
            yield subject.finding(
                "data-unknown", f"{path} is none of its data items", grade=ODDITY, path=path
            )


def _digest(fd: int, size: int, recorded: str | None) -> str:
    """The digest, or "" if there is none to compare with; then it is only read, without its holes."""
    from hashlib import new

    algorithm = ""
    try:
        algorithm = Digest.parse(recorded).algorithm if recorded else ""
    except InvalidDigest:
        pass  # an item may have any text for a digest; those that matter are looked at with the record
    if not algorithm:
        for start, end in data_ranges(fd, size):
            while start < end and (block := os.pread(fd, min(_BLOCK, end - start), start)):
                start += len(block)
        return ""
    hasher = new(algorithm)
    while block := os.read(fd, _BLOCK):
        hasher.update(block)
    return f"{algorithm}:{hasher.hexdigest()}"


def _is_signed_manifest(fd: int, key: str, size: int) -> bool:
    """Whether it is a manifest of the first schema with signatures, whose digest is that of a part of it."""
    if not key.startswith("manifest") or size > _MANIFEST_MAX:
        return False
    from orlop.formats import gojson

    try:
        value = gojson.decode(os.pread(fd, size, 0))
    except ValueError:
        return False
    return type(value) is dict and value.get("schemaVersion") == 1 and "signatures" in value


def _remedy(noun: str) -> str:
    if noun == "image":
        return "copied from where the same item is; else the image is removed, or the item is taken off it"
    return "taken off the record"


def _reason(problem: StorageError | OSError) -> str:
    return system_text(problem) if isinstance(problem, OSError) and problem.errno else str(problem)
