"""Diffs for drivers that keep whole trees: compare two, archive what differs, unpack over what is there.

A driver inherits `NaiveDiff` and writes only what is its own (`vfs`, `btrfs`, `zfs`; overlay falls back to it where
its own way does not hold). See `spec/drivers.md` 1.3.

Every method mounts what it looks at, read-only, and lets go of it again: of the parent as soon as the list of
changes is known, of the layer when the work is done or the stream is closed, whatever happened in between.
"""

from __future__ import annotations

import os
import time

from orlop.drivers.api import Driver
from orlop.model.idmap import IDENTITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from orlop.model.changes import Change
    from orlop.model.idmap import IDMappings
    from orlop.stream.pieces import PieceStream
    from orlop.stream.unpack import Unpacker

_READ_ONLY = ("ro",)


class NaiveDiff(Driver):
    """The archive half of a driver, worked out from mounted trees."""

    ignore_chown_errors: bool = False
    """Set by a driver's option: unpacking goes on where an owner cannot be set."""

    def unpacking(
        self,
        id: str,
        parent: str | None,
        *,
        mappings: IDMappings = IDENTITY,
        label: str = "",
        keep_fds: Sequence[int] = (),
    ) -> Unpacker:
        from orlop.drivers.mounted import MountedUnpacker

        return MountedUnpacker(
            self,
            id,
            label=label,
            mappings=mappings,
            ignore_chown_errors=self.ignore_chown_errors,
            in_userns=self.options.rootless,
            keep_fds=keep_fds,
        )

    def diff(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> PieceStream:
        from orlop.stream import pack
        from orlop.stream.pieces import PieceStream

        began = time.time()
        root = self.mount(id, label=label, options=_READ_ONLY)
        try:
            if not parent:
                whole = pack.pack_tree(root, mappings=mappings, on_skip=log_skipped)
                return PieceStream(whole, on_close=(lambda: self.unmount(id),))
            found = self._compared(root, parent, mappings, parent_mappings, label)
            pieces = pack.pack_changes(root, found, mappings, on_skip=log_skipped)
            return PieceStream(pieces, on_close=(lambda: self.unmount(id), lambda: _wait_past(began)))
        except BaseException:
            self.unmount(id)
            raise

    def changes(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> list[Change]:
        with _mounted(self, id, label) as root:
            return self._compared(root, parent, mappings, parent_mappings, label)

    def diff_size(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> int:
        from orlop.stream import compare

        with _mounted(self, id, label) as root:
            found = self._compared(root, parent, mappings, parent_mappings, label)
            return compare.changes_size(root, found)

    def _compared(
        self,
        root: str,
        parent: str | None,
        mappings: IDMappings,
        parent_mappings: IDMappings,
        label: str,
    ) -> list[Change]:
        from orlop.stream import compare

        if not parent:
            return compare.compare_trees(root, None, mappings, parent_mappings)
        with _mounted(self, parent, label) as old:
            return compare.compare_trees(root, old, mappings, parent_mappings)


class _mounted:
    """A layer mounted for reading, for the length of a block."""

    __slots__ = ("_driver", "_id", "_label")

    def __init__(self, driver: Driver, id: str, label: str) -> None:
        self._driver = driver
        self._id = id
        self._label = label

    def __enter__(self) -> str:
        return self._driver.mount(self._id, label=self._label, options=_READ_ONLY)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._driver.unmount(self._id)


def _wait_past(began: float) -> None:
    """Wait for the second after the one in which a diff began.

    A tree restored from the archive has times of whole seconds, and times are compared by the second then. A file
    that is changed again within this second would look the same to the next diff.
    """
    left = int(began) + 1 - time.time()
    if 0 < left <= 1:  # more: somebody set the clock back
        time.sleep(left)


def log_skipped(path: bytes, error: Exception) -> None:
    from orlop.system import log

    log.warn(__name__, "left %r out of the archive: %s", os.fsdecode(path), error)
