"""`mountpoints.json`: which layers are mounted, where, and how often (`spec/mounting.md` 1, `spec/records.md` 7).

It lies below the run root, is lost with a reboot, and is never synced. Its lock is taken last, only while the
layer table is held.

Rules
1. An entry that does not fit is named in `damage`, passed over, and written back as it was found.
2. A file that is no list of entries hides which layers are mounted. Layers can still be read; what would write the
   file anew, and so every change of layers, is refused with `BadRecords` until it is gone.
"""

from __future__ import annotations

from orlop.errors import BadRecords, LimitExceeded, UnsafePath
from orlop.formats import gojson
from orlop.formats.limits import RECORDS_FILE_MAX
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from orlop.records.rows import Rows
    from orlop.system.locks import LockFile


class Mount:
    """One mounted layer: an absolute path, and how many mounts have to be undone."""

    __slots__ = ("count", "path")

    def __init__(self, path: str, count: int) -> None:
        self.path = path
        self.count = count


_NONE = Mount("", 0)


class Mountpoints:
    """The mount state of a layer table; `of` and `by_path` answer for the moment of the last `refresh`."""

    def __init__(self, path: str, lock: LockFile, timeout: float | None) -> None:
        self.path = path
        self.lock = lock
        self.damage: tuple[str, ...] = ()
        self._timeout = timeout
        self._token: bytes | None = None
        self._mounts: dict[str, Mount] = {}
        self._asides: list[str] = []
        self._unreadable: str | None = None  # why

    def forget(self) -> None:
        self._token = None

    def of(self, layer_id: str) -> Mount:
        """The mount of a layer; count 0 and an empty path if it has none."""
        return self._mounts.get(layer_id, _NONE)

    def by_path(self, path: str) -> str | None:
        """The id of the layer mounted at `path`."""
        return next((id for id, mount in self._mounts.items() if mount.path == path), None)

    def mounted(self) -> list[str]:
        """The ids of layers with a mount, in file order."""
        return [id for id, mount in self._mounts.items() if mount.count > 0]

    def __bool__(self) -> bool:
        """True if any layer has an entry."""
        return bool(self._mounts)

    def refresh(self, rows: Rows) -> None:
        """Read the file again if another program wrote it."""
        with self.lock.reading(timeout=self._timeout):
            self._refresh(rows)

    def set(self, rows: Rows, layer_id: str, mount: Mount) -> None:
        """Record the mount of one layer and save. The layer table is held exclusively."""
        with self.lock.writing(timeout=self._timeout):
            self._refresh(rows)
            self._refuse_if_unreadable()
            self._mounts[layer_id] = mount
            self._write(rows)

    def saving(self, rows: Rows, write: Callable[[], None]) -> None:
        """Run `write` (a save of layer records) and write the mounts anew, all under the mount lock.

        The peers do so at every save of layers; mounts of layers that are gone vanish here.
        """
        with self.lock.writing(timeout=self._timeout):
            self._refresh(rows)
            self._refuse_if_unreadable()
            write()
            self._write(rows)

    def _refuse_if_unreadable(self) -> None:
        if self._unreadable is not None:
            raise BadRecords(
                f'loading "{self.path}": {self._unreadable}', path=self.path, reason=self._unreadable
            )

    def _refresh(self, rows: Rows) -> None:
        token = self.lock.token()
        if token != self._token or self._unreadable is not None:
            self._load(rows)
            self._token = token

    def _load(self, rows: Rows) -> None:
        found = read_mounts(self.path)
        mounts: dict[str, Mount] = {}
        for id, mount in found.mounts:
            row = rows.find(id) if mount.path else None
            if row is not None:
                mounts[row.id] = mount
        self._mounts, self._asides = mounts, found.asides
        self._unreadable, self.damage = found.unreadable, found.damage

    def _write(self, rows: Rows) -> None:
        there = rows.in_order(self._mounts) if self._mounts else []
        mounts = {id: self._mounts[id] for id in there}
        lasting = {id: mount for id, mount in mounts.items() if mount.path and mount.count > 0}
        token = self.lock.renew()
        try:
            files.write_atomic(self.path, encoded(lasting, self._asides), durable=False)
        except BaseException:
            self.forget()
            raise
        self._mounts = lasting
        self._token = token


def encoded(mounts: dict[str, Mount], asides: Iterable[str] = ()) -> bytes:
    """The content of a file with these entries, and those texts after them."""
    encode = gojson.encode_text
    texts = [
        f'{{"id":{encode(id)},"path":{encode(mount.path)},"count":{mount.count}}}'
        for id, mount in mounts.items()
    ]
    return gojson.bytes_of("[" + ",".join([*texts, *asides]) + "]")


class MountsFound:
    """What the file says: its entries, the texts of those that do not fit, what is wrong, and why it is no list."""

    __slots__ = ("asides", "damage", "mounts", "unreadable")

    def __init__(self) -> None:
        self.mounts: list[tuple[str, Mount]] = []
        self.asides: list[str] = []
        self.damage: tuple[str, ...] = ()
        self.unreadable: str | None = None


def read_mounts(path: str) -> MountsFound:
    """Read the file, which need not be there."""
    found = MountsFound()
    damage: list[str] = []
    try:
        try:
            data = files.read(path, limit=RECORDS_FILE_MAX)
        except FileNotFoundError:
            data = b""
        for value, text in gojson.elements(gojson.text_of(data)):
            try:
                found.mounts.append(_read_mount(value))
            except ValueError as problem:
                found.asides.append(text)
                damage.append(f"{path}: {problem}")
    except (gojson.SyntaxProblem, LimitExceeded, UnsafePath) as problem:
        found = MountsFound()
        found.unreadable = str(problem)
        damage = [f'loading "{path}": {found.unreadable}']
    found.damage = tuple(damage)
    return found


def _read_mount(value: Any) -> tuple[str, Mount]:
    if type(value) is not dict:
        raise ValueError("wanted an object for each mount, found something else")
    members = {key.lower(): item for key, item in value.items() if item is not None}
    id, path, count = members.get("id", ""), members.get("path", ""), members.get("count", 0)
    if type(id) is not str or type(path) is not str or type(count) is not int:
        raise ValueError("wanted id, path (text) and count (integer) for each mount, found other types")
    return id, Mount(path, count)
