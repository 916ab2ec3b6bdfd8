"""Maps of sparse tar members: old GNU, PAX 0.0, 0.1 and 1.0 (`spec/tar-split.md` 6.5).

A map is a list of (offset, length) pairs: where in the file each run of the payload belongs. Maps come from outside
and decide what is written where, so `checked` is the only way out of here.
"""

from __future__ import annotations

from orlop.errors import LimitExceeded
from orlop.formats import limits
from orlop.formats.tarheader import INT63_MAX, decimal, invalid, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    Map = list[tuple[int, int]]


def checked(fragments: Map, real_size: int, physical: int) -> tuple[tuple[int, int], ...] | None:
    """The map without empty runs, if they lie in order inside the file and use up the payload exactly.

    None if there are no holes: the payload is the file.
    """
    reached = total = 0
    for offset, length in fragments:
        if offset < reached or length < 0 or offset + length > real_size:
            raise invalid(
                f"sparse map ({offset}, {length}) out of order or beyond the file's {real_size} bytes"
            )
        reached = offset + length
        total += length
    if total != physical or not 0 <= real_size <= INT63_MAX:
        raise invalid(f"sparse map of {total} bytes for a payload of {physical} and a file of {real_size}")
    if total == real_size:
        return None
    return tuple((offset, length) for offset, length in fragments if length)


# --- old GNU -------------------------------------------------------------------------------------------------


def old_gnu(header: bytes) -> tuple[Map, int, bool]:
    """(map, real size, extension blocks follow) of a header of type `S`."""
    if header[257:265] != b"ustar  \0":
        raise invalid("sparse member (type S) outside the GNU format")
    return _pairs(header, 386, 4), number(header[483:495]), header[482] > 0


def old_gnu_extension(block: bytes) -> tuple[Map, bool]:
    """(map, another block follows) of one extension block."""
    return _pairs(block, 0, 21), block[504] > 0


def _pairs(block: bytes, start: int, count: int) -> Map:
    fragments = []
    for at in range(start, start + 24 * count, 24):
        if not block[at]:
            break
        fragments.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
    return fragments


# --- PAX -----------------------------------------------------------------------------------------------------


def pax_form(records: dict[bytes, bytes]) -> str | None:
    """`"records"` if the map stands in the records (0.0, 0.1), `"payload"` if at the head of the payload (1.0).

    None for an ordinary file: also where the version is one that nobody knows, as every reader has it.
    """
    version = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
    if version == (b"1", b"0"):
        return "payload"
    if version in ((b"0", b"0"), (b"0", b"1")):
        return "records"
    if version == (b"", b"") and records.get(b"GNU.sparse.map"):
        return "records"
    return None


def pax_real_size(records: dict[bytes, bytes]) -> int | None:
    value = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
    return decimal(value) if value else None


def map_in_records(records: dict[bytes, bytes]) -> Map:
    count = decimal(records.get(b"GNU.sparse.numblocks", b""))
    joined = records.get(b"GNU.sparse.map", b"")
    # Counted before it is split: a value of commas would become a list many times its size.
    found = joined.count(b",") + 1 if joined else 0
    if found != 2 * count:
        raise invalid(f"sparse map of {count} runs with {found} numbers")
    return _paired([decimal(value) for value in joined.split(b",")] if joined else [])


class PayloadMap:
    """The map at the head of a 1.0 member, fed block by block until `complete`: a count, then offsets and lengths,
    one decimal a line, padded to a whole block."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._lines = 0
        self._wanted: int | None = None

    @property
    def complete(self) -> bool:
        return self._wanted is not None and self._lines >= self._wanted

    def feed(self, block: bytes) -> None:
        self._text += block
        self._lines += block.count(b"\n")
        if len(self._text) > limits.SPARSE_MAP_MAX:
            raise LimitExceeded(
                f"the map of a sparse tar member is longer than {limits.SPARSE_MAP_MAX} bytes",
                peer="archive/tar: sparse file map too long",
                limit=limits.SPARSE_MAP_MAX,
            )
        if self._wanted is None and self._lines:
            count = decimal(bytes(self._text[: self._text.index(b"\n")]))
            if count < 0:
                raise invalid(f"sparse map of {count} runs")
            self._wanted = 1 + 2 * count

    def fragments(self) -> Map:
        return _paired([decimal(bytes(line)) for line in self._text.split(b"\n")[1 : self._wanted]])


def _paired(values: list[int]) -> Map:
    return list(zip(values[::2], values[1::2], strict=True))
