"""Entries and payload on their way into the confined process that unpacks them.

    parent                        a pipe: batches of entries            worker
      Feed.entry, Feed.data  ──▶  ════════════════════════════════  ──▶   Payload, and a loop over entries
                                  a ring of 16 MB: their payload
                             ◀──  how much of the ring is free again  ◀──

The ring is memory of both processes, so payload is copied once, and neither side makes a system call for it. A
message is None at the end of the archive, else (bytes of payload that are new in the ring, entries). An entry is
the tuple (type, name, mode, uid, gid, size, mtime, atime, extra) with extra either None or
(linkname, devmajor, devminor, xattrs, sparse, real_size); its payload is the next `size` bytes of the ring.

Rule: whoever is about to wait has said all it knows. The worker reports what it took before it waits for more; the
parent announces what it put in before it waits for room, or it holds back less than half of the ring (an entry that
is not complete, and those before it), and the worker is busy with the rest. So one of the two can always go on.
"""

from __future__ import annotations

import errno
import os
from marshal import dumps, loads
from mmap import mmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from orlop.stream.reader import Entry
    from orlop.system.confine import Link, Worker

    Record = tuple[int, bytes, int, int, int, int, int, int | None, tuple[Any, ...] | None]

RING_SIZE = 16 << 20

_BATCH = 256  # entries
_STEP = 1 << 20  # bytes announced together; a longer payload goes ahead of its end


class Ring:
    """The memory, as the parent sees it. `fd` is for the worker; `free` is how many bytes there is room for."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("orlop-ring", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, RING_SIZE)
            self._memory = mmap(self.fd, RING_SIZE)
        except BaseException:
            os.close(self.fd)
            raise
        self._view = memoryview(self._memory)
        self._written = 0
        self.free = RING_SIZE

    def put(self, view: bytes | memoryview) -> int:
        """Copy as much as there is room for; how much that was."""
        count = len(view)
        if count > self.free:
            count = self.free
            view = view[:count]
        start = self._written % RING_SIZE
        end = start + count
        if end <= RING_SIZE:
            self._view[start:end] = view
        else:
            first = RING_SIZE - start
            self._view[start:] = view[:first]
            self._view[: end - RING_SIZE] = view[first:]
        self._written += count
        self.free -= count
        return count

    def taken(self, total: int) -> None:
        """The worker took `total` bytes since the beginning."""
        self.free = RING_SIZE - (self._written - total)

    def close(self) -> None:
        self._view.release()
        self._memory.close()
        os.close(self.fd)


class Feed:
    """The parent's end: takes entries and their payload, and hands them on in batches."""

    def __init__(self, worker: Worker, ring: Ring) -> None:
        self._worker = worker
        self._ring = ring
        self._batch: list[Record] = []
        self._unannounced = 0  # bytes in the ring that the worker does not know of
        self._ahead = False  # the current entry was handed on before its payload was complete
        self.due = 0  # bytes of the current entry that are still to come

    def entry(self, e: Entry) -> None:
        if len(self._batch) >= _BATCH or self._unannounced >= _STEP:
            self._announce()
        size = e.size
        extra = None
        if e.linkname or e.xattrs or e.sparse is not None or e.devmajor or e.devminor:
            sparse = None if e.sparse is None else list(e.sparse)
            extra = (e.linkname, e.devmajor, e.devminor, e.xattrs, sparse, e.real_size)
        self._batch.append((e.type, e.name, e.mode, e.uid, e.gid, size, e.mtime_ns, e.atime_ns, extra))
        self.due = size
        if size > _STEP:
            self._announce()
            self._ahead = True

    def data(self, view: bytes | memoryview) -> None:
        if len(view) > self.due:
            raise ValueError(f"{len(view)} bytes of payload for an entry that takes {self.due} more")
        ring = self._ring
        while True:
            count = ring.put(view)
            self._unannounced += count
            self.due -= count
            if count == len(view):
                break
            view = memoryview(view)[count:]
            if self._ahead:
                self._announce()
            if not ring.free:
                self._note_taken(self._worker.notes(wait=True))
        if self._ahead and (self._unannounced >= _STEP or not self.due):
            self._announce()
            self._ahead = self.due > 0

    def end(self) -> None:
        self._announce()
        self._worker.send(dumps(None))

    def _announce(self) -> None:
        if self._batch or self._unannounced:
            # Version 2: later ones look for repeated objects, which costs more than it saves.
            self._worker.send(dumps((self._unannounced, self._batch), 2))
            self._batch = []
            self._unannounced = 0
            self._note_taken(self._worker.notes())

    def _note_taken(self, notes: list[bytes]) -> None:
        if notes:
            self._ring.taken(int(notes[-1]))


class Payload:
    """The worker's end of the ring: payload of entries, taken in the order of the archive."""

    def __init__(self, link: Link, ring: memoryview) -> None:
        self._link = link
        self._ring = ring
        self._at = 0
        self._taken = 0
        self.available = 0  # bytes in the ring that were not taken yet
        self.due = 0  # bytes of the current entry that were not taken yet

    def copy(self, fd: int, size: int) -> None:
        """Write the next `size` bytes to a file."""
        start = self._at
        end = start + size
        if size <= self.available and end < RING_SIZE:
            # Nearly every file: all there, in one piece.
            piece = self._ring[start:end]
            written = os.write(fd, piece)
            while written < size:
                written += os.write(fd, piece[written:])
            self._at = end
            self._taken += size
            self.available -= size
            self.due -= size
            return
        for piece in self.pieces(size):
            while piece:
                piece = piece[os.write(fd, piece) :]

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, as they come. A piece is valid until the next one is asked for."""
        while size:
            if not self.available:
                self.acknowledge()
                message = self._link.receive()
                if message is None:
                    raise BrokenPipeError(errno.EPIPE, "the parent is gone")
                self.available += loads(message)[0]
                continue
            count = min(size, self.available, RING_SIZE - self._at)
            yield self._ring[self._at : self._at + count]
            self._at = (self._at + count) % RING_SIZE
            self._taken += count
            self.available -= count
            self.due -= count
            size -= count

    def discard(self) -> None:
        """Take what is left of the current entry, for an entry whose payload nobody wants."""
        for _ in self.pieces(self.due):
            pass

    def acknowledge(self) -> None:
        """Tell the parent how much of the ring is free again."""
        self._link.note(b"%d" % self._taken)
