"""Directories of images and containers for their callers' own files (`spec/records.md` 21).

One lies in the graph root, one in the run root; both go with the record. Whoever is inside a container may be able to
write there, so names are resolved beneath the directory, which is no link itself, and never lead out of it.
"""

from __future__ import annotations

import errno
import os

from orlop.formats.limits import DATA_ITEM_MAX
from orlop.store import arguments
from orlop.store.collection import Collection
from orlop.store.tables import READ, WRITE
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from orlop.model.record import Record

    T = TypeVar("T", bound=Record)


class Directories(Collection["T"]):
    """Part of `Images` and `Containers`."""

    def directory(self, ref: str) -> str:
        """A directory for the caller's own files, deleted with the record; made if it is not there."""
        return self._directory(ref, run=False)

    def run_directory(self, ref: str) -> str:
        """A directory for the caller's own files, gone with the next boot; made if it is not there."""
        return self._directory(ref, run=True)

    def write_file(self, ref: str, name: str, data: bytes, *, run: bool = False) -> None:
        """Replace a file below `directory`, or with `run` below `run_directory`; the old one or the new, never half.

        Missing parents are made, mode 0700; the file has mode 0600.

        Raises:
            ImageUnknown, ContainerUnknown.
            UnsafePath: the name is empty, or leads out of the directory; or that is a link.
        """
        arguments.file(name, data)
        parts = _parts(name)
        # The table is held, so that the record does not go meanwhile; and see `_replace`.
        with self._engine.open(
            images=WRITE if self.noun == "image" else None,
            containers=WRITE if self.noun == "container" else None,
        ) as tables:
            found = self._find(tables, ref)
            if found is None:
                raise self._not_known(ref)
            self._replace(found[1].id, parts, data, run)

    def _replace(self, id: str, parts: list[bytes], data: bytes, run: bool) -> None:
        from orlop.system.beneath import DIRECTORY, Root

        durable = self._engine.options.durable and not run
        place = self._engine.place(f"{self.noun}s", run=run)
        base, is_new = self._make(id, run)
        for above in (place, os.path.dirname(base)) if durable and is_new else ():
            files.sync_dir(above)
        top = os.open(base, DIRECTORY | os.O_NOFOLLOW)
        try:
            with Root(top) as root:
                for depth in range(1, len(parts)):
                    parent, last = root.parent(b"/".join(parts[:depth]))
                    try:
                        os.mkdir(last, 0o700, dir_fd=parent)
                    except FileExistsError:
                        continue
                    if durable:
                        files.sync_dir(f"/proc/self/fd/{parent}")
                parent, last = root.parent(b"/".join(parts))
                path = f"/proc/self/fd/{parent}/{os.fsdecode(last)}"
                try:
                    # Unfinished it lies beside the table, where whoever loads that for a change removes what dead
                    # processes left. Beside its name it would stay for ever, for what lies there is the caller's.
                    with files.replacing(path, durable=durable, temp_dir=place) as out:
                        out.write(data)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    files.write_atomic(path, data, durable=durable)  # something is mounted there
        finally:
            os.close(top)

    def read_file(self, ref: str, name: str, *, run: bool = False) -> bytes:
        """A file below `directory`, or with `run` below `run_directory`.

        Raises:
            ImageUnknown, ContainerUnknown, FileNotFoundError.
            LimitExceeded: it has more than `DATA_ITEM_MAX` bytes.
            UnsafePath: the name is empty or leads out of the directory, or what it names is no regular file.
        """
        from orlop.system.beneath import DIRECTORY, Root

        top = os.open(self._directory(ref, run=run), DIRECTORY | os.O_NOFOLLOW)
        try:
            with Root(top) as root:
                # Some of these are bound into containers, who may write what they like to them.
                return files.read_open(root.open_regular(b"/".join(_parts(name))), name, limit=DATA_ITEM_MAX)
        finally:
            os.close(top)

    def _directory(self, ref: str, *, run: bool) -> str:
        # The table is held, or a record that goes meanwhile would leave the directory behind.
        with self._opening(READ) as tables:
            found = self._find(tables, ref)
            if found is None:
                raise self._not_known(ref)
            return self._make(found[1].id, run)[0]

    def _make(self, id: str, run: bool) -> tuple[str, bool]:
        """The directory, and whether it is new."""
        above = os.path.join(self._engine.place(f"{self.noun}s", run=run), id)
        files.make_own_dir(above)
        return f"{above}/userdata", files.make_own_dir(f"{above}/userdata")


def _parts(name: str) -> list[bytes]:
    from orlop.errors import UnsafePath

    parts = [part for part in os.fsencode(name).split(b"/") if part not in (b"", b".")]
    if not parts or b".." in parts or name.startswith("/"):
        raise UnsafePath(f"wanted a name below the directory; found {name!r}", path=name)
    return parts
