"""The one tar parse: blocks in; entries, payload and the bytes between payloads out (`spec/tar-split.md` 5, 6).

Rule 1. Whoever needs to know what is in a layer asks here. Record, owners and unpacker see the same entries by
construction: no second parser can disagree (CVE-2025-62518, promises E1).
Rule 2. Every byte of the stream comes out exactly once, in order: in `raw`, in `payload()` or in `trailing()`.
Rule 3. Nothing is held but the current block and what stands in front of one entry (`limits.SEGMENT_MAX`).

    reader = TarReader(blocks)
    for entry in reader:
        reader.raw              # what stands between the previous payload and this one: one tar-split segment
        reader.payload()        # memoryviews into the blocks, in order, `entry.size` bytes in all
    reader.raw                  # padding of the last payload and the end-of-archive blocks
    reader.trailing()           # whatever follows them

What a payload loop leaves unread is skipped. Names are not cleaned and may repeat: that is for the record and the
unpacker to judge, as are the types that a layer may hold.
"""

from __future__ import annotations

from orlop.errors import BadArchive, LimitExceeded, UnsafeOwner
from orlop.formats import limits, tarheader, tarsparse
from orlop.formats.tarheader import BLOCK, ZERO_BLOCK, Entry, has_payload

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Entry", "TarReader"]

_META_TYPES = frozenset((*b"xgLK",))


class TarReader:
    """Iterates over the entries of a tar stream that comes in blocks (`bytes`) of any size."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._block = b""
        self._view = memoryview(b"")
        self._pos = 0  # within the block
        self._base = 0  # of the block within the stream
        self._owed = 0  # payload of the current entry that was not handed out yet
        self._ended = False
        self.raw = b""

    @property
    def offset(self) -> int:
        """Position in the stream, in bytes."""
        return self._base + self._pos

    def __iter__(self) -> Iterator[Entry]:
        parse_header = tarheader.parse_header
        meta_types, owner_max = _META_TYPES, limits.OWNER_MAX
        pad = 0  # owed by the previous payload
        meta = _Meta()
        try:
            while True:
                if self._owed:
                    self._skip()
                start = self._pos
                stop = start + pad + BLOCK
                if stop <= len(self._block):
                    raw = self._block[start:stop]
                    self._pos = stop
                else:
                    raw = self._take(pad + BLOCK)
                # A header that begins with a NUL is nearly always the end.
                if (len(raw) < pad + BLOCK or not raw[pad]) and self._at_end(raw, pad):
                    self.raw = meta.raw + self.raw
                    self._ended = True
                    return

                entry = parse_header(raw, pad)
                if entry.type in meta_types:
                    pad = -entry.size % BLOCK
                    data = self._read_meta(meta, entry, raw)
                    if entry.type == tarheader.GLOBAL_HEADER:
                        entry = _global_entry(entry, data)
                        self.raw = meta.finish()
                        yield entry
                    continue
                if meta.parts:
                    raw = self._apply_meta(meta, entry, raw)
                elif not entry.type:
                    _resolve_old_type(entry)
                elif entry.type == tarheader.OLD_SPARSE:
                    raw = self._apply_old_sparse(entry, raw)
                if not has_payload(entry.type):
                    entry.size = entry.real_size = 0
                if not 0 <= entry.uid <= owner_max or not 0 <= entry.gid <= owner_max:
                    raise UnsafeOwner(
                        f"owner {entry.uid}:{entry.gid} of {entry.name!r} is not a user and group id",
                        name=entry.name,
                        uid=entry.uid,
                        gid=entry.gid,
                    )
                self._owed = entry.size
                # A map at the head of the payload is read already, and is whole blocks.
                pad = -entry.size % BLOCK
                self.raw = raw
                yield entry
        except BadArchive as error:
            if "offset" in error.facts:
                raise
            # The parsers know only the block they were given. What fails at once mostly never was an archive.
            never = "no tar archive, plain or compressed, begins so: " if self.offset == BLOCK else ""
            raise BadArchive(
                f"{never}{error}, in the header before byte {self.offset}",
                peer=error.peer,
                offset=self.offset,
            ) from None

    def payload(self) -> Iterable[memoryview]:
        """The rest of the current entry's payload, in pieces that share the blocks' memory."""
        start = self._pos
        stop = start + self._owed
        if stop <= len(self._block):
            self._owed = 0
            self._pos = stop
            return (self._view[start:stop],) if stop > start else ()
        return self._payload_pieces()

    def trailing(self) -> Iterator[bytes]:
        """After the last entry: what follows the end-of-archive blocks, as it stands, to the end of the stream."""
        if not self._ended:
            raise ValueError("the archive has not been read to its end")
        if self._pos < len(self._block):
            rest = self._block[self._pos :]
            self._pos = len(self._block)
            yield rest
        while self._next_block():
            self._pos = len(self._block)
            yield self._block

    # --- bytes -----------------------------------------------------------------------------------------------

    def _next_block(self) -> bool:
        """Go on to the next block, which is not empty; False at the end of the stream."""
        for block in self._blocks:
            if block:
                self._base += len(self._block)
                self._block = block
                self._view = memoryview(block)
                self._pos = 0
                return True
        return False

    def _take(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end of the stream."""
        parts = []
        while count:
            part = self._block[self._pos : self._pos + count]
            if part:
                self._pos += len(part)
                count -= len(part)
                parts.append(part)
            elif not self._next_block():
                break
        return b"".join(parts)

    def _take_all(self, count: int) -> bytes:
        data = self._take(count)
        if len(data) < count:
            raise self._cut_off("inside a header")
        return data

    def _payload_pieces(self) -> Iterator[memoryview]:
        while self._owed:
            if self._pos == len(self._block) and not self._next_block():
                raise self._cut_off(f"{self._owed} bytes before the end of a payload")
            part = self._view[self._pos : self._pos + self._owed]
            self._pos += len(part)
            self._owed -= len(part)
            yield part

    def _skip(self) -> None:
        for _ in self.payload():
            pass

    def _cut_off(self, where: str) -> BadArchive:
        return BadArchive(
            f"unexpected end of the archive at byte {self.offset}, {where}",
            peer="unexpected EOF",
            offset=self.offset,
        )

    # --- the end ---------------------------------------------------------------------------------------------

    def _at_end(self, raw: bytes, pad: int) -> bool:
        """Whether `raw` (padding and what should be a header) ends the archive; then `self.raw` is what it ends with.

        The stream may end cleanly, inside padding, after one zero block or after two. Bytes of padding that is cut
        off are kept, or the layer could not be given back as it came.
        """
        header = raw[pad:]
        if header and len(header) < BLOCK:
            raise self._cut_off("inside a header")
        if header and header != ZERO_BLOCK:
            return False
        second = self._take(BLOCK) if header else b""
        if second and len(second) < BLOCK:
            raise self._cut_off("inside the second zero block")
        if second and second != ZERO_BLOCK:
            raise tarheader.invalid("a zero block is followed by a block that is not zero")
        self.raw = raw + second
        return True

    # --- what comes before or with a header --------------------------------------------------------------------

    def _read_meta(self, meta: _Meta, entry: Entry, raw: bytes) -> bytes:
        """The data that belongs to a PAX or long-name header, noted for the entry that follows."""
        if entry.size > limits.META_DATA_MAX:
            raise LimitExceeded(
                f"tar header of type {chr(entry.type)!r} at byte {self.offset} claims {entry.size} bytes of data; "
                f"at most {limits.META_DATA_MAX} are read",
                peer="archive/tar: header field too long",
                offset=self.offset,
                limit=limits.META_DATA_MAX,
            )
        data = self._take_all(entry.size)
        meta.add(raw, data)
        if entry.type == tarheader.LONG_NAME:
            meta.name = tarheader.text(data)
        elif entry.type == tarheader.LONG_LINK:
            meta.linkname = tarheader.text(data)
        elif entry.type == tarheader.PAX_HEADER:
            meta.records = tarheader.parse_pax(data)
        return data

    def _apply_meta(self, meta: _Meta, entry: Entry, raw: bytes) -> bytes:
        """Make the header what the meta headers say; answers the whole segment."""
        records = meta.records
        if records:
            tarheader.apply_pax(entry, records)
        # A GNU long name wins over a PAX path, as with the peers.
        entry.name = meta.name or entry.name
        entry.linkname = meta.linkname or entry.linkname
        if not entry.type:
            _resolve_old_type(entry)
        meta.add(raw)
        raw = meta.finish()
        if entry.type == tarheader.OLD_SPARSE:
            return self._apply_old_sparse(entry, raw)
        if records and (form := tarsparse.pax_form(records)):
            return self._apply_pax_sparse(entry, raw, records, form)
        return raw

    def _apply_old_sparse(self, entry: Entry, raw: bytes) -> bytes:
        fragments, entry.real_size, extended = tarsparse.old_gnu(raw[-BLOCK:])
        parts, total = [raw], len(raw)
        while extended:
            block = self._take_all(BLOCK)
            parts.append(block)
            total = _bounded(total + BLOCK)
            more, extended = tarsparse.old_gnu_extension(block)
            fragments += more
        entry.sparse = tarsparse.checked(fragments, entry.real_size, entry.size)
        return b"".join(parts)

    def _apply_pax_sparse(self, entry: Entry, raw: bytes, records: dict[bytes, bytes], form: str) -> bytes:
        if not has_payload(entry.type):
            raise tarheader.invalid(f"sparse member of type {chr(entry.type)!r}")
        entry.name = records.get(b"GNU.sparse.name") or entry.name
        real_size = tarsparse.pax_real_size(records)
        entry.real_size = entry.size if real_size is None else real_size
        if form == "records":
            fragments = tarsparse.map_in_records(records)
        else:
            # The map is the head of the payload. It counts to the segment, so that what `payload()` gives is content
            # and nothing else, and a record of the segments holds the map.
            payload_map = tarsparse.PayloadMap()
            parts = [raw]
            while not payload_map.complete:
                if entry.size < BLOCK:
                    raise tarheader.invalid("the map of a sparse member is longer than the member")
                block = self._take_all(BLOCK)
                parts.append(block)
                entry.size -= BLOCK
                payload_map.feed(block)
            fragments = payload_map.fragments()
            raw = b"".join(parts)
        entry.sparse = tarsparse.checked(fragments, entry.real_size, entry.size)
        return raw


class _Meta:
    """Meta headers seen since the last entry: their bytes, and what they say about the next one."""

    __slots__ = ("linkname", "name", "parts", "records", "total")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.total = 0
        self.name = self.linkname = b""
        self.records: dict[bytes, bytes] | None = None

    @property
    def raw(self) -> bytes:
        return b"".join(self.parts)

    def add(self, *parts: bytes) -> None:
        # Meta headers may follow each other without end; what counts of them is the last of each kind.
        self.total = _bounded(self.total + sum(map(len, parts)))
        self.parts += parts

    def finish(self) -> bytes:
        """The bytes, and forget everything."""
        raw = self.raw
        self.__init__()  # type: ignore[misc]
        return raw


def _bounded(total: int) -> int:
    if total > limits.SEGMENT_MAX:
        raise LimitExceeded(
            f"more than {limits.SEGMENT_MAX} bytes of tar headers in front of one entry",
            limit=limits.SEGMENT_MAX,
        )
    return total


def _global_entry(entry: Entry, data: bytes) -> Entry:
    """A global header is an entry of its own with nothing but a name, as with the peers.

    Its records apply to no other entry: a layer's files do not change owner or size by what stands far in front of
    them. So only their form matters, not what their values are.
    """
    return Entry(tarheader.parse_pax(data).get(b"path") or entry.name, type=entry.type)


def _resolve_old_type(entry: Entry) -> None:
    """Type NUL is from before directories had a type of their own."""
    entry.type = tarheader.DIRECTORY if entry.name.endswith(b"/") else tarheader.REGULAR
