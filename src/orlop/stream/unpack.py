"""Unpacking a layer: entries in, files in a directory, done by a confined process (`spec/archive.md` 5).

    with Unpacker(directory, rules="layer", keep_fds=[lock]) as unpacker:
        for entry in reader:
            unpacker.entry(entry)
            for view in reader.payload():
                unpacker.data(view)
        result = unpacker.finish()

Rule 1: This process never touches the tree. It opens the directory, and that handle is all the worker gets
        (`system.confine`); what the worker does with names is in `stream.extract`.
Rule 2: Until the worker is gone the call does not return, whether it ends well, fails, or is interrupted. So whoever
        holds the layer's lock holds it for as long as somebody writes. `keep_fds` are for the one case in which this
        process cannot wait: when it is killed.
Rule 3: The first error of the worker is the error of the next call here, at the latest when 256 entries or a
        megabyte have gathered.
"""

from __future__ import annotations

import os

from orlop.model.idmap import IDENTITY
from orlop.model.value import Value
from orlop.stream import extract  # a forked worker has it then
from orlop.stream.ring import Feed, Ring
from orlop.system import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from orlop.formats.tarheader import Entry
    from orlop.model.idmap import IDMappings
    from orlop.model.staging import DifferOptions


class UnpackResult(Value):
    """What came of an archive.

    `size` is the sum of the sizes in its headers, in bytes. `warnings` are sentences about what was left out.
    """

    __slots__ = ("size", "warnings")
    __match_args__ = ("size", "warnings")

    size: int
    warnings: tuple[str, ...]

    def __init__(self, size: int, warnings: Iterable[str] = ()) -> None:
        self._fill(size, tuple(warnings))


class Unpacker:
    """Puts the entries of one archive into one directory. A context manager, for one thread.

    Args:
        directory: of our own choosing, and no symlink. What it holds already is the tree that is built upon.
        rules: "layer" (whiteouts delete: `spec/archive.md` 5.3) or "tree" (whiteouts are kept: 5.2).
        mappings: the archive's owners, container ids, become host ids. Not covered: `InvalidMappings`.
        ignore_chown_errors: an owner that cannot be set is a warning.
        in_userns: this process is root of a user namespace only: devices are left out, refused attributes are
            warnings.
        whiteouts: for tree rules, the attribute that marks opaque directories (`xattrs.OPAQUE` or
            `xattrs.OPAQUE_ROOTLESS`), to keep whiteouts as overlay does. None keeps them as plain files, for
            fuse-overlayfs.
        force_mask: for tree rules, the mode that everything gets; the real owner and mode go to an attribute.
        keep_fds: descriptors of which the worker holds copies until it ends.
        method: "fork" or "spawn" to have the worker started so; left out, it is whichever is right.
    """

    def __init__(
        self,
        directory: str,
        *,
        rules: str,
        mappings: IDMappings = IDENTITY,
        ignore_chown_errors: bool = False,
        in_userns: bool = False,
        whiteouts: str | None = None,
        force_mask: int | None = None,
        keep_fds: Sequence[int] = (),
        method: str | None = None,
    ) -> None:
        if rules not in ("layer", "tree"):
            raise ValueError(f"rules are 'layer' or 'tree', not {rules!r}")
        if rules == "layer" and (whiteouts is not None or force_mask is not None):
            raise ValueError("whiteouts and force_mask go with tree rules only")
        self._directory = directory
        self._options = {
            "rules": rules,
            "uids": [(m.container_id, m.host_id, m.size) for m in mappings.uids],
            "gids": [(m.container_id, m.host_id, m.size) for m in mappings.gids],
            "ignore_chown_errors": ignore_chown_errors,
            "in_userns": in_userns,
            "whiteouts": whiteouts,
            "force_mask": force_mask,
        }
        self._keep_fds = tuple(keep_fds)
        self._method = method
        self._worker: confine.Worker | None = None
        self._ring: Ring | None = None
        self._feed: Feed | None = None
        self._size = 0

    def __enter__(self) -> Self:
        root = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._ring = Ring()
            self._worker = confine.start(
                f"{extract.__name__}:run",
                (self._options,),
                root=root,
                lend=(self._ring.fd,),
                keep=self._keep_fds,
                method=self._method,
            )
            self._feed = Feed(self._worker, self._ring)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(root)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def entry(self, entry: Entry) -> None:
        """The next entry of the archive. All payload of the one before must have been given."""
        feed = self._running()
        if feed.due:
            raise ValueError(f"the entry before {entry.name!r} lacks {feed.due} bytes of payload")
        self._size += entry.real_size
        feed.entry(entry)

    def data(self, view: bytes | memoryview) -> None:
        """The next bytes of the current entry's payload, in pieces of any size. They are copied at once."""
        self._running().data(view)

    def finish(self) -> UnpackResult:
        """The archive has ended: wait until everything is in place. Once, at the end of the block."""
        feed = self._running()
        if feed.due:
            raise ValueError(f"the last entry lacks {feed.due} bytes of payload")
        assert self._worker is not None
        try:
            feed.end()
            return UnpackResult(self._size, self._worker.result())
        finally:
            self._close()

    def _running(self) -> Feed:
        if self._feed is None:
            raise ValueError("the unpacker is not open: it is used within its block, and before finish()")
        return self._feed

    def _close(self) -> None:
        """End the worker, if it still runs, and let go of everything."""
        worker, ring = self._worker, self._ring
        self._worker = self._ring = self._feed = None
        try:
            if worker is not None:
                worker.abort()
        finally:
            if ring is not None:
                ring.close()


def staged_unpacker(target: str, options: DifferOptions) -> Unpacker:
    """Unpacks into a directory in which a layer is made ready, as its driver wants it; for differs."""
    return Unpacker(
        target,
        rules="tree",
        mappings=options.mappings,
        ignore_chown_errors=options.ignore_chown_errors,
        in_userns=options.in_userns,
        whiteouts=options.whiteouts,
        force_mask=options.force_mask,
        keep_fds=options.keep_fds,
    )
