"""Tar archives byte by byte, also those that no program would write.

data = member(b"a/") + member(b"a/f", b"content") + END
data = pax({b"path": b"x" * 300}) + member(b"short", b"content") + END
"""

from collections.abc import Iterable, Mapping

BLOCK = 512
END = bytes(2 * BLOCK)

USTAR = b"ustar\x0000"
GNU = b"ustar  \0"
V7 = bytes(8)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """Two's complement with the marker bit set."""
    field = bytearray((value & (1 << 8 * width) - 1).to_bytes(width, "big"))
    field[0] |= 0x80
    return bytes(field)


def header(
    name: bytes = b"f",
    size: int | bytes = 0,
    *,
    type: bytes = b"0",
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    linkname: bytes = b"",
    magic: bytes = USTAR,
    devmajor: int | bytes = 0,
    devminor: int | bytes = 0,
    rest: bytes = b"",
    signed: bool = False,
    checksum: bytes | None = None,
) -> bytes:
    """A header block. Numbers become octal fields; bytes are taken as they are. `rest` is what stands from byte 345
    on: the prefix of ustar, the times and the sparse map of GNU."""

    def field(value: int | bytes, width: int) -> bytes:
        return value.ljust(width, b"\0") if isinstance(value, bytes) else octal(value, width)

    block = bytearray(
        name.ljust(100, b"\0")
        + field(mode, 8)
        + field(uid, 8)
        + field(gid, 8)
        + field(size, 12)
        + field(mtime, 12)
        + b" " * 8
        + type
        + linkname.ljust(100, b"\0")
        + magic
        + bytes(64)
        + (bytes(16) if magic == V7 else field(devmajor, 8) + field(devminor, 8))
        + rest.ljust(167, b"\0")
    )
    assert len(block) == BLOCK, len(block)
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in block)
    block[148:156] = b"%06o\0 " % total if checksum is None else checksum
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    """A header with its payload; the type is a directory's if the name ends in a slash."""
    fields.setdefault("type", b"5" if name.endswith(b"/") else b"0")
    fields.setdefault("size", len(data))
    return header(name, **fields) + padded(data)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record, its length counted."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def pax(
    records: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]],
    *,
    type: bytes = b"x",
    name: bytes = b"PaxHeaders/f",
) -> bytes:
    pairs = records.items() if isinstance(records, Mapping) else records
    return member(name, b"".join(record(key, value) for key, value in pairs), type=type)


def long_name(value: bytes, *, type: bytes = b"L") -> bytes:
    return member(b"././@LongLink", value + b"\0", type=type, magic=GNU)


def sparse_10(name: bytes, runs: list[tuple[int, bytes]], real_size: int) -> bytes:
    """A PAX 1.0 sparse member, its map at the head of the payload."""
    numbers = [len(runs)] + [number for offset, data in runs for number in (offset, len(data))]
    payload = padded(b"".join(b"%d\n" % number for number in numbers)) + b"".join(data for _, data in runs)
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": name,
        b"GNU.sparse.realsize": b"%d" % real_size,
    }
    return pax(records) + member(b"GNUSparseFile.0/" + name, payload)


def sparse_01(name: bytes, runs: list[tuple[int, bytes]], real_size: int) -> bytes:
    """A PAX 0.1 sparse member, its map in one record."""
    numbers = [number for offset, data in runs for number in (offset, len(data))]
    records = {
        b"GNU.sparse.size": b"%d" % real_size,
        b"GNU.sparse.numblocks": b"%d" % len(runs),
        b"GNU.sparse.name": name,
        b"GNU.sparse.map": b",".join(b"%d" % number for number in numbers),
    }
    return pax(records) + member(b"GNUSparseFile.0/" + name, b"".join(data for _, data in runs))


def sparse_00(name: bytes, runs: list[tuple[int, bytes]], real_size: int) -> bytes:
    """A PAX 0.0 sparse member, its map in repeated records."""
    records = [(b"GNU.sparse.size", b"%d" % real_size), (b"GNU.sparse.numblocks", b"%d" % len(runs))]
    for offset, data in runs:
        records += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % len(data))]
    return pax(records) + member(name, b"".join(data for _, data in runs))


def sparse_old(name: bytes, runs: list[tuple[int, bytes]], real_size: int) -> bytes:
    """An old GNU sparse member: four runs in the header, twenty-one in each extension block."""
    pairs = [octal(offset, 12) + octal(len(data), 12) for offset, data in runs]
    first, more = pairs[:4], pairs[4:]
    rest = bytes(41) + b"".join(first).ljust(96, b"\0") + (b"\x01" if more else b"\0") + octal(real_size, 12)
    extensions = b""
    while more:
        block, more = more[:21], more[21:]
        extensions += (b"".join(block).ljust(504, b"\0") + (b"\x01" if more else b"\0")).ljust(512, b"\0")
    payload = b"".join(data for _, data in runs)
    return header(name, len(payload), type=b"S", magic=GNU, rest=rest) + extensions + padded(payload)


def expanded(runs: list[tuple[int, bytes]], real_size: int) -> bytes:
    content = bytearray(real_size)
    for offset, data in runs:
        content[offset : offset + len(data)] = data
    return bytes(content)
