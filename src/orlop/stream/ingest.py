"""A blob becomes a layer: measured, decompressed, read once, recorded, unpacked (`spec/records.md` 16.1).

    blob → measure → decompress → measure → read tar ┬→ tar-split
                                                     └→ sink

Rule 1. The stream is read to its end: what follows the archive belongs to the digests and to the record.
Rule 2. On an error everything stops at once, and no thread is left.
Rule 3. Blob and sink are touched in the caller's thread alone.
"""

from __future__ import annotations

from orlop.formats import crc64, limits
from orlop.model.value import Value
from orlop.stream import compression
from orlop.stream.measure import Measured, blocks_of
from orlop.stream.reader import Entry, TarReader
from orlop.stream.split import SplitWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from orlop.stream.measure import Blob
    from orlop.stream.split import Writable
    from orlop.stream.workers import Converted

    class Sink(Protocol):
        """Takes each entry, then its payload in pieces that are valid until the call returns."""

        def entry(self, entry: Entry, /) -> object: ...

        def data(self, view: memoryview, /) -> object: ...


class LayerFacts(Value):
    """What a layer record says about the stream that filled it.

    uids, gids      sorted, as the archive has them, without those of whiteouts
    payload_total   sum of the sizes of all entries, sparse ones with their holes, in bytes
    """

    __slots__ = __match_args__ = (
        "compressed_digest",
        "compressed_size",
        "diff_digest",
        "diff_size",
        "compression",
        "uids",
        "gids",
        "payload_total",
    )

    compressed_digest: str
    compressed_size: int
    diff_digest: str
    diff_size: int
    compression: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    payload_total: int

    def __init__(
        self,
        compressed_digest: str,
        compressed_size: int,
        diff_digest: str,
        diff_size: int,
        compression: int,
        uids: tuple[int, ...],
        gids: tuple[int, ...],
        payload_total: int,
    ) -> None:
        self._fill(
            compressed_digest, compressed_size, diff_digest, diff_size, compression, uids, gids, payload_total
        )


def ingest(
    blob: Blob,
    sink: Sink | None,
    split_out: Writable,
    *,
    original_digest: str | None = None,
    original_size: int | None = None,
    trusted_diff_digest: str | None = None,
) -> LayerFacts:
    """Read a layer from `blob`: entries to `sink` (if any), the tar-split record to `split_out`.

    `original_digest` and `original_size` (both or the digest alone) are of the blob as it is published, which need
    not be the bytes that come; `trusted_diff_digest` is of the uncompressed stream. What is given is believed, as
    with the peers, and not computed again; digests other than sha256 count as not given.

    The sink's and `split_out`'s end are the caller's: nothing is valid before this returns. Raises `Damaged`,
    `Unsafe`, `LimitExceeded`, and what blob, sink and `split_out` raise.
    """
    original_digest, known_diff = _sha256_or_none(original_digest), _sha256_or_none(trusted_diff_digest)
    kind, blocks = compression.peek(blocks_of(blob))
    stages: list[Measured | Converted] = []
    try:
        if kind == compression.NONE:
            # One stream, hashed once. A published digest says nothing about it: the peers take it for the diff
            # digest too, which is wrong when the blob was decompressed on the way.
            both_known = original_digest is not None and known_diff is not None
            wire = tar = Measured(blocks, known=known_diff if both_known else None)
            stages = [tar]
        else:
            wire = Measured(blocks, known=original_digest)
            plain = compression.decompressed(wire, kind)
            stages = [plain, wire]
            tar = Measured(plain, known=known_diff)
            stages.append(tar)
        with SplitWriter(split_out) as split:
            reading = _Reading(tar, split, sink)
            reading.run()
            split.finish()
    finally:
        for stage in stages:
            stage.stop()
    return LayerFacts(
        compressed_digest=original_digest or wire.digest,
        compressed_size=original_size if original_digest and original_size is not None else wire.size,
        diff_digest=known_diff or tar.digest,
        diff_size=tar.size,
        compression=kind,
        uids=tuple(sorted(reading.uids)),
        gids=tuple(sorted(reading.gids)),
        payload_total=reading.payload_total,
    )


def _sha256_or_none(digest: str | None) -> str | None:
    return digest if digest and digest.startswith("sha256:") else None


class _Reading:
    """One pass over the tar: what goes where."""

    def __init__(self, blocks: Iterable[bytes], split: SplitWriter, sink: Sink | None) -> None:
        self._reader = TarReader(blocks)
        self._split = split
        self._sink = sink
        self._crc = crc64.best()
        self._recorded = 0  # payload bytes that stand in the record
        self.uids: set[int] = set()
        self.gids: set[int] = set()
        self.payload_total = 0

    def run(self) -> None:
        reader, split, sink, update = self._reader, self._split, self._sink, self._crc
        uids, gids = self.uids, self.gids
        total = 0
        for entry in reader:
            name, size = entry.name, entry.size
            split.header(reader.raw, name)
            marked = b".wh." in name
            if not marked or not _is_whiteout(name):
                uids.add(entry.uid)
                gids.add(entry.gid)
            total += entry.real_size
            if sink is not None:
                sink.entry(entry)
            if entry.sparse is not None or (marked and size and has_no_file(name)):
                self._unusual_payload(entry)
                continue
            crc = 0
            if size:
                for view in reader.payload():
                    crc = update(view, crc)
                    if sink is not None:
                        sink.data(view)
            split.file(name, size, crc)
        split.segment(reader.raw)
        for rest in reader.trailing():
            split.segment(rest)
        self.payload_total = total

    def _unusual_payload(self, entry: Entry) -> None:
        """Payload that no file of the layer can give back: a sparse member's, whose file has the holes filled, or a
        whiteout's, which has no file.

        It is recorded as segments, the file entry saying size 0. Every reader of records then gives the layer back
        byte for byte, the peers' included; their own record of such a layer yields another stream, or an error.
        Past the limit we do as they do.
        """
        if self._recorded + entry.size <= limits.RECORDED_PAYLOAD_MAX:
            self._recorded += entry.size
            self._split.file(entry.name, 0)
            for view in self._reader.payload():
                self._split.segment(view)
                if self._sink is not None:
                    self._sink.data(view)
            return
        content = Expanded(entry, self._crc)
        for view in self._reader.payload():
            content.add(view)
            if self._sink is not None:
                self._sink.data(view)
        self._split.file(entry.name, entry.real_size, content.finish())


class Expanded:
    """Checksum of a sparse member's payload with its holes."""

    def __init__(self, entry: Entry, update: crc64.Update) -> None:
        self._runs = list(reversed(entry.sparse or ((0, entry.size),)))
        self._size = entry.real_size
        self._update = update
        self._crc = 0
        self._reached = 0  # in the file

    def add(self, view: memoryview) -> None:
        while len(view):
            offset, length = self._runs.pop()
            self._hole(offset)
            part = view[:length]
            view = view[length:]
            self._crc = self._update(part, self._crc)
            self._reached += len(part)
            if len(part) < length:
                self._runs.append((offset + len(part), length - len(part)))

    def finish(self) -> int:
        self._hole(self._size)
        return self._crc

    def _hole(self, until: int) -> None:
        self._crc = crc64.update_zeros(until - self._reached, self._crc)
        self._reached = until


def _is_whiteout(name: bytes) -> bool:
    return name.rstrip(b"/").rpartition(b"/")[2].startswith(b".wh.")


def has_no_file(name: bytes) -> bool:
    """Whiteouts, and what is below `.wh..wh.plnk`, which is no file under layer rules."""
    return name.startswith(b".wh.") or b"/.wh." in name
