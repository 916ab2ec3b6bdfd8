"""A layer out of a zstd:chunked blob, by its table of contents (`spec/chunked.md` 11-13, 17, 25).

    table of contents ─┐
                       ├→ the tar, put together again → compared with the table → unpacked → facts
    tar-split ── names ┘
       frames of the blob, by name

Rule 1. Everything hangs on one digest, that of the compressed table, which came with the manifest. It says which
tar-split and which content belong to the blob; what does not have those digests is refused.
Rule 2. The table and the tar must tell of the same layer: each entry of the tar is looked up in the table when it
comes and is compared in every field, its content by digest. What the table has besides is refused, too. Two programs
that read different halves of the blob would else see two layers.
Rule 3. There is one parser of tar and one unpacker: what comes out is what a full pull makes.
"""

from __future__ import annotations

import os

from orlop.chunked.source import read_ranges
from orlop.errors import BadTOC, LimitExceeded, PartialPullImpossible
from orlop.formats import chunkedblob, limits, toc
from orlop.formats.tarsplit import clean_name, quoted
from orlop.model.staging import TOC_FORMAT_ITEM, TOC_ITEM, Differ, StagedOutput
from orlop.stream import compression
from orlop.stream.ingest import ingest
from orlop.stream.measure import blocks_of
from orlop.stream.pieces import PieceStream
from orlop.stream.split import assemble_lines
from orlop.stream.unpack import staged_unpacker
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from orlop.chunked.source import ByteSource
    from orlop.formats.chunkedblob import Places, Span
    from orlop.formats.tarheader import Entry
    from orlop.model.staging import DifferOptions
    from orlop.stream.unpack import Unpacker

_DIRECTORY_FORMAT = b'{"format":0}'
_IN_MEMORY = 1 << 20  # files up to this size pass through memory, larger ones through a file without a name


def open_differ(
    source: ByteSource,
    annotations: Mapping[str, str],
    pull_options: Mapping[str, str],
    driver: str,
    *,
    staging: bool,
) -> ChunkedDiffer:
    """What makes a layer out of the blob; its table and tar-split are read and verified here.

    `annotations` are those of the blob in a manifest that was verified. `staging`: `driver`, named so, takes files
    that were made ready.

    Raises:
        PartialPullImpossible: pull the blob as a whole.
        BadTOC, BadArchive, LimitExceeded: something is wrong with the blob; no other way of reading it helps.
    """
    if pull_options.get("enable_partial_images", "").lower() != "true":
        raise PartialPullImpossible('the pull option enable_partial_images is not "true"')
    if not staging:
        raise PartialPullImpossible(
            f'the driver "{driver}" makes layers from archives only; overlay can pull in part',
            peer=f"graph driver {driver} does not support partial pull",
        )
    places = chunkedblob.places_of(annotations)
    if places is None:
        raise PartialPullImpossible(
            "no annotation says where the blob has a table of contents", peer="no TOC found"
        )
    if places.tar_split is None:
        raise PartialPullImpossible(
            "the blob has no tar-split, without which nobody can tell whether its table of contents tells the truth",
            peer="zstd:chunked layers without tar-split data don't support partial pulls",
        )
    claimed = max(places.toc.length, places.toc.size)
    if claimed > limits.TOC_MAX:
        raise PartialPullImpossible(
            f"the table of contents has {claimed} bytes; at most {limits.TOC_MAX} are read",
            peer="manifest too big",
        )
    packed, split = _read_metadata(source, places, places.tar_split)
    data = b"".join(_bounded(packed, limits.TOC_MAX, "table of contents"))
    table = toc.parse(data, places.toc.offset - chunkedblob.HEADER_SIZE)
    if not table.tar_split_digest:
        raise PartialPullImpossible(
            "the table of contents has no digest of the tar-split",
            peer="zstd:chunked layers without tar-split data don't support partial pulls",
        )
    _verify("tar-split", split, table.tar_split_digest)
    return ChunkedDiffer(source, places.toc_digest, data, table, split)


def _read_metadata(source: ByteSource, places: Places, tar_split: Span) -> tuple[bytes, bytes]:
    """The table and the tar-split, compressed. The table is verified."""
    spans = sorted((places.toc, tar_split), key=lambda span: span.offset)
    if places.toc.offset < chunkedblob.HEADER_SIZE or spans[0].offset + spans[0].length > spans[1].offset:
        raise BadTOC("by the annotations, table of contents and tar-split lie upon each other")
    if spans[1].offset + spans[1].length > source.size:
        raise BadTOC(f"by the annotations, the blob has more than its {source.size} bytes")
    if tar_split.length > limits.TOC_MAX:
        raise LimitExceeded(
            f"the tar-split of the blob has {tar_split.length} bytes; at most {limits.TOC_MAX} are read",
            limit=limits.TOC_MAX,
        )
    found = read_ranges(source, [(span.offset, span.length) for span in spans])
    if spans[0] is not places.toc:
        found.reverse()
    packed, split = found
    _verify("table of contents", packed, places.toc_digest)
    return packed, split


def _verify(what: str, data: bytes, wanted: str) -> None:
    from hashlib import sha256

    found = f"sha256:{sha256(data).hexdigest()}"
    if found != wanted:
        raise BadTOC(f"the {what} of the blob was to be {wanted}, and is {found}", wanted=wanted, found=found)


def _bounded(packed: bytes, limit: int, what: str) -> Iterator[bytes]:
    """What is in a zstd frame, up to a limit: what it claims itself is worth nothing."""
    total = 0
    for piece in compression.decompress([packed], compression.ZSTD):
        total += len(piece)
        if total > limit:
            raise LimitExceeded(f"the {what} of the blob unpacks to more than {limit} bytes", limit=limit)
        yield piece


class ChunkedDiffer(Differ):
    """Made by `open_differ`; good for one `apply`. `source` must stay open until then.

    LIMIT: all content is read from the blob. What other layers hold already is not looked for yet.
    """

    def __init__(
        self, source: ByteSource, toc_digest: str, data: bytes, table: toc.TOC, split: bytes
    ) -> None:
        self._source = source
        self._toc_digest = toc_digest
        self._data = data
        self._table = table
        self._split = split

    def apply(self, target: str, options: DifferOptions) -> StagedOutput:
        """Put the tar together, unpack it into `target`, and make sure that it is what the table says."""
        record = os.fdopen(files.nameless(target), "w+b")
        try:
            lines = _bounded(self._split, limits.TAR_SPLIT_LINES_MAX, "tar-split")
            content = _Content(self._source, self._table, target)
            with staged_unpacker(target, options) as unpacker:
                checked = _Checked(unpacker, self._table)
                with PieceStream(assemble_lines(lines, content.open)) as tar:
                    facts = ingest(tar, checked, record)
                checked.finish()
                unpacker.finish()
            record.seek(0)
            return StagedOutput(
                uncompressed_digest=facts.diff_digest,
                toc_digest=self._toc_digest,
                size=facts.diff_size,
                uids=facts.uids,
                gids=facts.gids,
                root_mode=checked.root_mode,
                data={TOC_ITEM: self._data, TOC_FORMAT_ITEM: _DIRECTORY_FORMAT},
                tar_split=record,
            )
        except BaseException:
            record.close()
            raise


class _Content:
    """The files of the blob by name. What is in them is verified later, by `_Checked`."""

    def __init__(self, source: ByteSource, table: toc.TOC, directory: str) -> None:
        self._source = source
        self._table = table
        self._directory = directory  # on whose file system large files pass through

    def open(self, name: bytes) -> int:
        """A file with the content of an entry."""
        listed = self._table.entries.get(name)
        if listed is None or not listed.chunks:
            raise BadTOC(f"tar-split contains an entry for {quoted(name)} missing in TOC", name=name)
        size = listed.entry.size
        fd = os.memfd_create("content") if size <= _IN_MEMORY else files.nameless(self._directory)
        try:
            for piece in self._pieces(listed, size):
                files.write_all(fd, piece)
            os.lseek(fd, 0, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _pieces(self, listed: toc.Listed, size: int) -> Iterator[bytes]:
        offset, end = listed.chunks[0].offset, listed.chunks[-1].end
        stream = next(self._source.ranges([(offset, end - offset)]))
        for piece in compression.decompress(blocks_of(stream), compression.ZSTD):
            yield piece[:size]
            size -= len(piece)
            if size <= 0:
                return  # what follows are frames of the next headers


class _Checked:
    """Stands before the unpacker: passes on what the table has just so."""

    def __init__(self, unpacker: Unpacker, table: toc.TOC) -> None:
        from hashlib import sha256

        self._unpacker = unpacker
        self._left = dict(table.entries)
        self._new_hash = sha256
        self._hash: Any = None
        self._due: toc.Listed | None = None
        self.root_mode: int | None = None

    def entry(self, entry: Entry, /) -> None:
        self._compare_content()
        listed = self._left.pop(entry.name, None)
        if listed is None:
            raise BadTOC(
                f"tar-split contains an entry for {quoted(entry.name)} missing in TOC", name=entry.name
            )
        field = "sparse" if entry.sparse is not None else toc.difference(listed.entry, entry)
        if field:
            raise BadTOC(
                f"the table of contents and the tar differ about the {field} of {quoted(entry.name)}",
                name=entry.name,
                field=field,
            )
        if entry.size:
            self._due, self._hash = listed, self._new_hash()
        if clean_name(b"/" + entry.name) == b"/" and clean_name(entry.name) != b".":
            self.root_mode = entry.mode & 0o7777
        self._unpacker.entry(entry)

    def data(self, view: memoryview, /) -> None:
        self._hash.update(view)
        self._unpacker.data(view)

    def finish(self) -> None:
        """The tar has ended."""
        self._compare_content()
        if self._left:
            first: Iterable[bytes] = sorted(self._left)[:1]
            raise BadTOC(
                f"the table of contents has {len(self._left)} entries that the tar has not: "
                f"{', '.join(map(quoted, first))}, ..."
            )

    def _compare_content(self) -> None:
        listed, self._due = self._due, None
        if listed is not None and f"sha256:{self._hash.hexdigest()}" != listed.digest:
            name = quoted(listed.entry.name)
            raise BadTOC(
                f"the content of {name} is not what the table of contents says",
                peer=f"checksum mismatch for {name}",
                name=listed.entry.name,
            )
