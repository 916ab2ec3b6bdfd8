"""`mountpoints.json`: which layers are mounted, where, and how often (`spec/mounting.md` 1, `spec/records.md` 7).

It lies below the run root, is lost with a reboot, and is never synced. Its lock is taken last, only while the
layer table is held.
"""

from __future__ import annotations

from orlop.errors import BadRecords
from orlop.formats import gojson
from orlop.formats.gojson import encode_text as encode
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.records.rows import Rows
    from orlop.system.locks import LockFile


class Mount:
    """One mounted layer: an absolute path, and how many mounts have to be undone."""

    __slots__ = ("count", "path")

    def __init__(self, path: str, count: int) -> None:
        self.path = path
        self.count = count


class Mountpoints:
    """The mount state of a layer table; `of` and `by_path` answer for the moment of the last `refresh`."""

    def __init__(self, path: str, lock: LockFile, timeout: float | None) -> None:
        self.path = path
        self.lock = lock
        self._timeout = timeout
        self._token: bytes | None = None
        self._mounts: dict[str, Mount] = {}

    def forget(self) -> None:
        self._token = None

    def of(self, layer_id: str) -> Mount:
        """The mount of a layer; count 0 and an empty path if it has none."""
        return self._mounts.get(layer_id) or Mount("", 0)

    def by_path(self, path: str) -> str | None:
        """The id of the layer mounted at `path`."""
        return next((id for id, mount in self._mounts.items() if mount.path == path), None)

    def mounted(self) -> list[str]:
        """The ids of layers with a mount, in file order."""
        return [id for id, mount in self._mounts.items() if mount.count > 0]

    def refresh(self, rows: Rows) -> None:
        """Read the file again if another program wrote it."""
        with self.lock.reading(timeout=self._timeout):
            if self.lock.token() != self._token:
                self._load(rows)

    def set(self, rows: Rows, layer_id: str, mount: Mount) -> None:
        """Record the mount of one layer and save. The layer table is held exclusively."""
        with self.lock.writing(timeout=self._timeout):
            if self.lock.token() != self._token:
                self._load(rows)
            self._mounts[layer_id] = mount
            self._write(rows)

    def saving(self, rows: Rows, write: Callable[[], None]) -> None:
        """Run `write` (a save of layer records) and write the mounts anew, all under the mount lock.

        The peers do so at every save of layers; mounts of layers that are gone vanish here.
        """
        with self.lock.writing(timeout=self._timeout):
            if self.lock.token() != self._token:
                self._load(rows)
            write()
            self._write(rows)

    def _load(self, rows: Rows) -> None:
        token = self.lock.token()
        mounts: dict[str, Mount] = {}
        try:
            data = files.read(self.path)
        except FileNotFoundError:
            data = b""
        try:
            for value, _ in gojson.elements(data):
                id, mount = _read_mount(value)
                row = rows.find(id)
                if row is not None and mount.path:
                    mounts[row.id] = mount
        except ValueError as problem:
            raise BadRecords(
                f'loading "{self.path}": {problem}', path=self.path, reason=str(problem)
            ) from None
        self._mounts, self._token = mounts, token

    def _write(self, rows: Rows) -> None:
        lasting = {
            row.id: mount
            for row in rows
            if (mount := self._mounts.get(row.id)) is not None and mount.path and mount.count > 0
        }
        texts = [
            f'{{"id":{encode(id)},"path":{encode(mount.path)},"count":{mount.count}}}'
            for id, mount in lasting.items()
        ]
        token = self.lock.renew()
        try:
            files.write_atomic(self.path, ("[" + ",".join(texts) + "]").encode(), durable=False)
        except BaseException:
            self.forget()
            raise
        self._mounts = lasting
        self._token = token


def _read_mount(value: Any) -> tuple[str, Mount]:
    if type(value) is not dict:
        raise ValueError(f"wanted an object for each mount, found {gojson.encode(value)[:60]}")
    members = {key.lower(): item for key, item in value.items() if item is not None}
    id, path, count = members.get("id", ""), members.get("path", ""), members.get("count", 0)
    if type(id) is not str or type(path) is not str or type(count) is not int:
        raise ValueError(f"wanted id, path (text) and count (integer), found {gojson.encode(value)[:120]}")
    return id, Mount(path, count)
