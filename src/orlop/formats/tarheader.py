"""Tar headers and PAX records: bytes to values (`spec/tar-split.md` 6).

Rule 1. Nothing malformed is skipped or guessed: a header that two readers could take for two things is no header
(CVE-2025-62518). The exceptions are the ones that every tar program makes, and each is named where it is made.
Rule 2. Names stay bytes, numbers stay integers, times are whole nanoseconds.
Rule 3. Opening an archive of 60,000 files must not take a second, so no byte is looked at in a loop, and fields that
repeat from header to header (owner, mode, time, the tail from the magic on) are decoded once and remembered.
"""

from __future__ import annotations

import stat
from struct import Struct
from zlib import adler32

from orlop.errors import BadArchive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Key = TypeVar("Key")
    Value = TypeVar("Value")

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)

REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0123456"
PAX_HEADER, GLOBAL_HEADER = b"xg"
LONG_NAME, LONG_LINK, OLD_SPARSE = b"LKS"

TYPES = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
"""By what a mode says of the kind of a file. An archive has no sockets."""

XATTR_PREFIX = b"SCHILY.xattr."

INT63_MAX = 2**63 - 1


class Entry:
    """One member of an archive, after long names and PAX records.

    name, linkname  as the archive has them: not cleaned, never with a NUL
    type            ASCII code of the type; the old NUL is resolved to `0` or `5`
    mode, uid, gid  as in the header; mode may carry bits beyond 07777
    size            bytes of payload that follow; 0 for types 1 to 6 whatever the header says
    mtime_ns        nanoseconds since 1970, exact, any sign; atime_ns and ctime_ns are None if the header has none
    xattrs          name to value, without the `SCHILY.xattr.` prefix; None if there are none
    sparse          None, or where the payload goes: (offset, length) pairs in order, lengths adding up to `size`
    real_size       size of the file: `size`, or for a sparse member its length with the holes
    """

    __slots__ = (
        "atime_ns",
        "ctime_ns",
        "devmajor",
        "devminor",
        "gid",
        "linkname",
        "mode",
        "mtime_ns",
        "name",
        "real_size",
        "size",
        "sparse",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        name: bytes,
        linkname: bytes = b"",
        type: int = REGULAR,
        mode: int = 0,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime_ns: int = 0,
        atime_ns: int | None = None,
        devmajor: int = 0,
        devminor: int = 0,
        xattrs: dict[bytes, bytes] | None = None,
        sparse: tuple[tuple[int, int], ...] | None = None,
        real_size: int | None = None,
        ctime_ns: int | None = None,
    ) -> None:
        self.name = name
        self.linkname = linkname
        self.type = type
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime_ns = mtime_ns
        self.atime_ns = atime_ns
        self.ctime_ns = ctime_ns
        self.devmajor = devmajor
        self.devminor = devminor
        self.xattrs = xattrs
        self.sparse = sparse
        self.real_size = size if real_size is None else real_size

    def __repr__(self) -> str:
        return f"<Entry {chr(self.type)!r} {self.name!r} mode={self.mode:o} {self.uid}:{self.gid} size={self.size}>"


def has_payload(type: int) -> bool:
    """Types 1 to 6 never have a payload or padding; every other one has, the unknown ones included."""
    return not HARD_LINK <= type <= FIFO


def invalid(what: str, *, peer: str = "invalid tar header") -> BadArchive:
    return BadArchive(f"invalid tar header: {what}", peer=peer)


# --- what was decoded before ---------------------------------------------------------------------------------

_REMEMBERED_MAX = 4096  # an archive chooses the keys, so each table is emptied when it is full

_numbers: dict[bytes, int] = {}
_owners: dict[bytes, tuple[int, int, int]] = {}
_checksums: dict[bytes, int] = {}
_tails: dict[bytes, tuple[bytes, int, int, int | None, int | None]] = {}


def _remember(table: dict[Key, Value], key: Key, value: Value) -> Value:
    if len(table) >= _REMEMBERED_MAX:
        table.clear()
    table[key] = value
    return value


# --- fields --------------------------------------------------------------------------------------------------


def text(field: bytes) -> bytes:
    """A string field: up to the first NUL, else all of it."""
    return field.partition(b"\0")[0]


def number(field: bytes) -> int:
    """A numeric field: octal, or base-256 if its first bit is set."""
    value = _numbers.get(field)
    if value is None:
        value = _remember(_numbers, field, _base256(field) if field[0] & 0x80 else _octal(field))
    return value


def _octal(field: bytes) -> int:
    digits = text(field.strip(b" \0"))
    # Not left to int() alone: it takes signs, underscores and blanks, and no other tar program does.
    if digits and not digits.isdigit():
        raise invalid(f"{field!r} is not an octal number")
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise invalid(f"{field!r} is not an octal number") from None


def _base256(field: bytes) -> int:
    # Two's complement, big-endian; the top bit is only the marker, the next one is the sign.
    bits = len(field) * 8 - 1
    value = int.from_bytes(field, "big") & (1 << bits) - 1
    if field[0] & 0x40:
        value -= 1 << bits
    if not -INT63_MAX - 1 <= value <= INT63_MAX:
        raise invalid(f"number {field!r} does not fit into 63 bits")
    return value


def decimal(value: bytes) -> int:
    """A number in a PAX record: signed decimal of at most 63 bits."""
    digits = value[1:] if value[:1] in (b"-", b"+") else value
    if digits.isdigit() and len(digits.lstrip(b"0")) <= 19:
        result = int(value)
        if -INT63_MAX - 1 <= result <= INT63_MAX:
            return result
    raise invalid(f"{value[:40]!r} is not a decimal number of 63 bits")


def nanoseconds(value: bytes) -> int:
    """A time in a PAX record: decimal seconds with a fraction, cut (not rounded) to nanoseconds."""
    seconds, _, fraction = value.partition(b".")
    if fraction and not fraction.isdigit():
        raise invalid(f"{value[:40]!r} is not a time")
    whole = decimal(seconds) * 1_000_000_000
    part = int(fraction[:9].ljust(9, b"0"))
    # "-0.5" is before 1970 although its whole seconds are 0.
    return whole - part if seconds.startswith(b"-") else whole + part


# --- the 512 bytes -------------------------------------------------------------------------------------------

_HEADER = Struct("<100s 24s 12s 12s 8s B 100s 255s")


def parse_header(data: bytes, start: int = 0) -> Entry:
    """The header in `data[start : start + 512]`, before any meta header is applied. Zero blocks are the caller's."""
    name, owner, size, mtime, checksum, type, linkname, tail = _HEADER.unpack_from(data, start)

    # The low half of Adler-32 is one plus the sum of the bytes modulo 65521, exact for the 256 bytes of half a
    # header (at most 65280): a checksum in C, where sum() takes ten times as long.
    expected = _checksums.get(checksum)
    found = (adler32(data[start : start + 256]) & 0xFFFF) + (
        adler32(data[start + 256 : start + 512]) & 0xFFFF
    )
    if found != expected:
        _verify_checksum(data[start : start + BLOCK], checksum)

    owned = _owners.get(owner)
    if owned is None:
        owned = (number(owner[:8]), number(owner[8:16]), number(owner[16:]))
        _remember(_owners, owner, owned)
    ending = _tails.get(tail)
    if ending is None:
        ending = _remember(_tails, tail, _parse_tail(tail))
    prefix, devmajor, devminor, atime_ns, ctime_ns = ending

    name = name.partition(b"\0")[0]
    if prefix:
        name = prefix + b"/" + name
    length = number(size)
    if length < 0 and has_payload(type):
        raise invalid(f"negative size {length}")
    return Entry(
        name,
        linkname.partition(b"\0")[0],
        type,
        *owned,
        length,
        number(mtime) * 1_000_000_000,
        atime_ns,
        devmajor,
        devminor,
        ctime_ns=ctime_ns,
    )


def _verify_checksum(block: bytes, field: bytes) -> None:
    """The field must hold the sum of the header with the field as spaces, over unsigned or (old Sun) signed bytes."""
    wanted = _octal(field)
    total = sum(block) - sum(field) + 8 * 0x20
    signed = total - 256 * sum(byte >> 7 for byte in block[:148] + block[156:])
    if wanted not in (total, signed):
        raise invalid(f"checksum {wanted}, but the bytes add up to {total}")
    # As `found` has it: the field as it stands, and one for each of the two Adler sums.
    _remember(_checksums, field, wanted + sum(field) - 8 * 0x20 + 2)


def _parse_tail(tail: bytes) -> tuple[bytes, int, int, int | None, int | None]:
    """(prefix, devmajor, devminor, atime_ns, ctime_ns) from the bytes at 257 to 512, by the format of their magic."""
    magic, version, end = tail[:6], tail[6:8], tail[251:]
    is_ustar = magic == b"ustar\0"
    is_gnu = magic == b"ustar " and version == b" \0"
    if not is_ustar and not is_gnu:
        return b"", 0, 0, None, None  # V7: the rest of the block means nothing
    devmajor, devminor = number(tail[72:80]), number(tail[80:88])
    atime_ns = ctime_ns = None
    if is_gnu:
        prefix, atime_ns, ctime_ns = _gnu_tail(tail)
    elif end == b"tar\0":  # STAR
        prefix = text(tail[88:219])
        atime_ns = number(tail[219:231]) * 1_000_000_000
        ctime_ns = number(tail[231:243]) * 1_000_000_000
    else:
        prefix = text(tail[88:243])
    return prefix, devmajor, devminor, atime_ns, ctime_ns


def _gnu_tail(tail: bytes) -> tuple[bytes, int | None, int | None]:
    # GNU keeps two times where ustar has its prefix. A widely used writer once put a prefix there under the GNU
    # magic; such files are known by the times not being numbers.
    try:
        atime_ns = number(tail[88:100]) * 1_000_000_000 if tail[88] else None
        ctime_ns = number(tail[100:112]) * 1_000_000_000 if tail[100] else None
    except BadArchive:
        prefix = text(tail[88:243])
        return (prefix if prefix.isascii() else b""), None, None
    return b"", atime_ns, ctime_ns


# --- PAX -----------------------------------------------------------------------------------------------------

_NO_NUL_IN_VALUE = frozenset((b"path", b"linkpath", b"uname", b"gname"))


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header; of two with one key the later. Repeated map records of sparse format 0.0, where
    order is meaning, are joined into the `GNU.sparse.map` of format 0.1."""
    records: dict[bytes, bytes] = {}
    sparse_map: list[bytes] = []
    start, end = 0, len(data)
    while start < end:
        space = data.find(b" ", start, start + 20)
        digits = data[start : max(space, start)]
        if not digits.isdigit():
            raise invalid("PAX record without a length")
        stop = start + int(digits)
        if stop - start < 5 or stop > end or stop <= space + 1:
            raise invalid(f"PAX record of claimed length {int(digits)} at byte {start} of {end}")
        if data[stop - 1] != 0x0A:
            raise invalid("PAX record without a newline at its end")
        key, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if not equals or not key:
            raise invalid("PAX record without a key")
        # A NUL in a name is where two readers part (one stops, one goes on).
        if b"\0" in (value if key in _NO_NUL_IN_VALUE else key):
            raise invalid(f"NUL in PAX record {key[:40]!r}")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            if (key == b"GNU.sparse.offset") != (len(sparse_map) % 2 == 0) or b"," in value:
                raise invalid("sparse map records out of order")
            sparse_map.append(value)
        else:
            records[key] = value
        start = stop
    if sparse_map:
        records[b"GNU.sparse.map"] = b",".join(sparse_map)
    return records


def apply_pax(entry: Entry, records: dict[bytes, bytes]) -> None:
    """Let the records override the header. An empty value leaves the header's; an empty xattr is an xattr."""
    for key, value in records.items():
        if key.startswith(XATTR_PREFIX):
            if entry.xattrs is None:
                entry.xattrs = {}
            entry.xattrs[key[len(XATTR_PREFIX) :]] = value
        elif not value:
            continue
        elif key == b"path":
            entry.name = value
        elif key == b"linkpath":
            entry.linkname = value
        elif key == b"size":
            entry.size = entry.real_size = decimal(value)
            if entry.size < 0 and has_payload(entry.type):
                raise invalid(f"negative size {entry.size}")
        elif key == b"mtime":
            entry.mtime_ns = nanoseconds(value)
        elif key == b"atime":
            entry.atime_ns = nanoseconds(value)
        elif key == b"ctime":
            entry.ctime_ns = nanoseconds(value)
        elif key == b"uid":
            entry.uid = decimal(value)
        elif key == b"gid":
            entry.gid = decimal(value)
