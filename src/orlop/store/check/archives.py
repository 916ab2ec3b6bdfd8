"""A layer's archive put together in passing: every byte read once, hashed, and compared with the tar-split record.

What `stream/split` does for a diff, for who wants to know all that is wrong and not only the first of it: a file that
is not what was recorded is noted, and the next one looked at. The headers come out on the way (`spec/tar-split.md`
8.4), so that the tree can be compared as well.

Rule: A record that another program wrote, and that never could give its archive back byte for byte, is no damage
(`Reading.inexact`): sparse members, content of whiteouts, half a padding (`spec/tar-split.md` 6.5, 6.6).
"""

from __future__ import annotations

import os

from orlop.errors import StorageError, UnsafePath
from orlop.formats import crc64, tarheader, tarsplit
from orlop.store.check.findings import raise_if_ours
from orlop.stream.ingest import Expanded, has_no_file
from orlop.stream.reader import TarReader
from orlop.stream.split import read_record
from orlop.stream.workers import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.drivers.api import LayerFiles
    from orlop.formats.tarheader import Entry
    from orlop.formats.tarsplit import SplitFile
    from orlop.stream.measure import Readable

    TakeEntry = Callable[[Entry, bytes | None, int], object]

_BLOCK = 1 << 20
_PIECE = 256 << 10  # worth a step of the thread that hashes
_PLAIN_TYPES = frozenset(b"0123456")

CUT_PADDING = "padding that was cut short, of which the record has nothing"
"""One value of `Reading.inexact`: the archive comes out shorter by less than a block."""


class Told:
    """How much of an entry could be told: everything, all but what its file holds now, or hardly more than a name."""

    ALL, UNREAD, PARTLY = range(3)


class Problem:
    """A file of the layer that is not what was recorded.

    `code` is "missing", "kind", "size", "content" or "unreadable"; `text` says the same with what was found.
    """

    __slots__ = ("checksum", "code", "error", "name", "size", "text")

    def __init__(self, file: SplitFile, code: str, text: str, error: Exception | None = None) -> None:
        self.name = file.name
        self.size = file.size
        self.checksum = file.checksum
        self.code = code
        self.text = text
        self.error = error


class Reading:
    """One pass over the record of a layer, and its files.

    digest      of the archive, with the algorithm asked for; "" if it cannot be put together
    size        of the archive in bytes, going by the record
    read        bytes of files
    problems    files that are not what was recorded
    error       why the record could not be read to its end; None if it was
    inexact     why the record could never give back what was applied, should it not; "" if it should
    followed    every header could be read, and was handed to `take`
    """

    def __init__(self, algorithm: str = "sha256") -> None:
        self.digest = ""
        self.size = 0
        self.entries = 0
        self.read = 0
        self.problems: list[Problem] = []
        self.error: StorageError | OSError | None = None
        self.inexact = ""
        self.followed = False
        self._algorithm = algorithm
        self._update = crc64.best()

    def run(self, record: Readable, files: LayerFiles | None, take: TakeEntry | None = None) -> None:
        """`take(entry, checksum, told)` is called for each header. Without `files` the headers are all that is read.

        `told` is UNREAD if the content stands in the record itself, so that no file was looked at, and PARTLY for an
        entry of which only name, size and checksum are known.
        """
        headers = _Headers(take, self._update)
        hashing = _Hashing(self._algorithm) if files is not None else None
        try:
            for batch in read_record(record):
                for item in batch:
                    if isinstance(item, bytes):
                        headers.segment(item)
                        self.size += len(item)
                        if hashing is not None:
                            hashing.add(item)
                    elif item.type == tarsplit.FILE:
                        headers.file(item)
                        self.size += item.size
                        if item.size and files is not None and hashing is not None:
                            self._look_at(item, files, hashing, headers)
            headers.end()
            if hashing is not None:
                self.digest = hashing.finish()
        except (StorageError, OSError) as error:
            raise_if_ours(error)
            self.error = error
        finally:
            if hashing is not None:
                hashing.stop()
        self.entries = headers.entries
        self.inexact = headers.inexact
        self.followed = self.error is None and not headers.lost

    def _look_at(self, file: SplitFile, files: LayerFiles, hashing: _Hashing, headers: _Headers) -> None:
        try:
            fd = files.open(file.name)
        except (OSError, UnsafePath) as error:
            if headers.never_had(file):
                hashing.stop()
                return
            raise_if_ours(error)
            self._refused(file, error, hashing)
            return
        try:
            if file.size <= _BLOCK:
                self._small(fd, file, hashing)
            else:
                self._large(fd, file, hashing)
        except OSError as error:
            raise_if_ours(error)
            self._note(file, "unreadable", f"cannot be read: {error.strerror}", error, hashing)
        finally:
            os.close(fd)

    def _small(self, fd: int, file: SplitFile, hashing: _Hashing) -> None:
        data = os.read(fd, file.size + 1)  # a byte more, so that one call tells the size
        self.read += len(data)
        if len(data) != file.size:
            self._other_size(fd, file, hashing)
        else:
            hashing.add(data)
            if crc64.stored(self._update(data, 0)) != file.checksum:
                self.problems.append(Problem(file, "content", "has another content"))

    def _large(self, fd: int, file: SplitFile, hashing: _Hashing) -> None:
        if os.fstat(fd).st_size != file.size:
            self._other_size(fd, file, hashing)
            return
        left, crc = file.size, 0
        while left and (block := os.read(fd, min(left, _BLOCK))):
            crc = self._update(block, crc)
            hashing.add(block)
            left -= len(block)
        self.read += file.size - left
        if left:
            self._other_size(fd, file, hashing)
        elif crc64.stored(crc) != file.checksum:
            # Perhaps the record is wrong about it: the digest of the whole will tell.
            self.problems.append(Problem(file, "content", "has another content"))

    def _other_size(self, fd: int, file: SplitFile, hashing: _Hashing) -> None:
        text = f"has {os.fstat(fd).st_size} bytes instead of {file.size}"
        self._note(file, "size", text, None, hashing)

    def _refused(self, file: SplitFile, error: OSError | UnsafePath, hashing: _Hashing) -> None:
        if isinstance(error, FileNotFoundError):
            self._note(file, "missing", "is missing", error, hashing)
        elif isinstance(error, UnsafePath | NotADirectoryError | IsADirectoryError):
            self._note(file, "kind", "is not a regular file", error, hashing)
        else:
            self._note(file, "unreadable", f"cannot be opened: {error.strerror}", error, hashing)

    def _note(
        self, file: SplitFile, code: str, text: str, error: Exception | None, hashing: _Hashing
    ) -> None:
        self.problems.append(Problem(file, code, text, error))
        hashing.stop()  # what the rest would come to says nothing


class _Hashing:
    """A digest worked out in a thread, from pieces of any size in order."""

    def __init__(self, algorithm: str) -> None:
        from hashlib import new

        self._algorithm = algorithm
        self._hasher = new(algorithm)
        self._worker: Worker | None = None
        self._parts: list[bytes] = []
        self._waiting = 0
        self._stopped = False

    def add(self, data: bytes) -> None:
        if self._stopped:
            return
        self._parts.append(data)
        self._waiting += len(data)
        if self._waiting >= _PIECE:
            if self._worker is None:
                self._worker = Worker(self._hasher.update)
            self._worker.put(self._joined())

    def finish(self) -> str:
        """The digest; "" after `stop`."""
        if self._stopped:
            return ""
        if self._worker is not None:
            self._worker.finish()
        self._hasher.update(self._joined())
        return f"{self._algorithm}:{self._hasher.hexdigest()}"

    def stop(self) -> None:
        self._stopped = True
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _joined(self) -> bytes:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._waiting = 0
        return data


class _Headers:
    """The headers in the segments of a record, each with what the file entry behind it says.

    `lost`: a header could not be read (a laxer program took the archive), so those that follow are not told.
    """

    def __init__(self, take: TakeEntry | None, update: crc64.Update) -> None:
        self.entries = 0
        self.inexact = ""
        self.lost = False
        self._take = take
        self._update = update
        self._entry: Entry | None = None  # the last one
        self._is_partial = False  # its sparse map was not recorded
        self._head = 0  # bytes of its header, which is whole blocks, but for a global one with its records
        self._payload = 0  # bytes of content that are still to come in segments
        self._expanded: Expanded | None = None
        self._pad = 0
        self._ended = False

    def segment(self, data: bytes) -> None:
        if self._ended or self.lost:
            return
        if self._expanded is not None:
            part = memoryview(data)[: self._payload]
            self._expanded.add(part)
            self._payload -= len(part)
            if self._payload:
                return
            self._tell(crc64.stored(self._expanded.finish()), Told.UNREAD)
            self._expanded = None
            data = data[len(part) :]
        head = data[self._pad :]
        self._pad = max(0, self._pad - len(data))
        if not head:
            return
        if not head[0]:
            self._ended = True
            return
        self._head = len(head)
        try:
            self._entry = self._parsed(head)
        except StorageError:
            self.lost = True

    def _parsed(self, head: bytes) -> Entry | None:
        self._is_partial = False
        if len(head) == tarheader.BLOCK and head[156] in _PLAIN_TYPES:
            entry = tarheader.parse_header(head, 0)
            if not tarheader.has_payload(entry.type):
                entry.size = entry.real_size = 0
            return entry
        try:
            return next(iter(TarReader([head])), None)
        except StorageError:
            if b"GNU.sparse." not in head:
                raise
        # A sparse member whose map stood in its content, and that the peers leave out of the record.
        self._is_partial = True
        return tarheader.parse_header(head[-tarheader.BLOCK :], 0)

    def file(self, item: SplitFile) -> None:
        entry = self._entry
        if entry is None or self.lost:
            return
        self.entries += 1
        self._pad = -(self._head + entry.size) % tarheader.BLOCK
        if self._is_partial:
            self.inexact = "a sparse member, whose map the record does not have"
            entry.name, entry.type, entry.real_size = item.name, tarheader.REGULAR, item.size
            self._tell(item.checksum, Told.PARTLY)
        elif entry.size and not item.size:
            self._payload = entry.size
            self._expanded = Expanded(entry, self._update)
        else:
            if entry.sparse is not None and item.size == entry.real_size:
                self.inexact = "a sparse member, of which the record has the expanded content"
            elif item.size and self.never_had(item):
                self.inexact = "content for something that is no file"
            self._tell(item.checksum or None)

    def never_had(self, item: SplitFile) -> bool:
        """Whether the last entry has content in the record that no file of a layer holds."""
        entry = self._entry
        return entry is not None and (not tarheader.has_payload(entry.type) or has_no_file(item.name))

    def end(self) -> None:
        if self._expanded is not None:
            self.lost = True
        elif not self._ended and self._pad:
            self.inexact = self.inexact or CUT_PADDING

    def _tell(self, checksum: bytes | None, told: int = Told.ALL) -> None:
        if self._take is not None and self._entry is not None:
            self._take(self._entry, checksum, told)
