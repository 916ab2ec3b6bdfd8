"""Any bytes become entries or our own errors, and whatever is accepted can be given back byte for byte."""

import gzip
import io
import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rawtar
from orlop.errors import StorageError
from orlop.formats import crc64, tarheader, tarsplit
from orlop.stream import compression
from orlop.stream.ingest import ingest
from orlop.stream.pieces import PieceStream
from orlop.stream.reader import Entry, TarReader
from orlop.stream.split import assemble

# --- archives -----------------------------------------------------------------------------------------------

NAMES = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda name: name.replace(b"\0", b"n")),
    st.sampled_from(
        [b"d/", b"./f", b"/abs", b"a/../b", b".wh.x", b"d/.wh..wh..opq", b"a//b", "\u00e9".encode()]
    ),
    st.text("ab/.", min_size=1, max_size=12).map(str.encode),
)
NUMBERS = st.one_of(
    st.integers(0, 0o777),
    st.integers(-(2**63), 2**63 - 1).map(lambda n: rawtar.base256(n, 12)[-8:]),
    st.binary(max_size=8),
)
PAYLOADS = st.one_of(
    st.binary(max_size=40), st.integers(0, 3000).map(lambda n: bytes(i & 255 for i in range(n)))
)
TYPES = st.one_of(
    st.sampled_from([b"0", b"5", b"1", b"2", b"3", b"6", b"\0", b"7", b"Z"]),
    st.binary(min_size=1, max_size=1),
)
MAGICS = st.sampled_from([rawtar.USTAR, rawtar.GNU, rawtar.V7])
RUNS = st.lists(st.tuples(st.integers(0, 900), st.binary(max_size=30)), max_size=6)
KEYS = st.sampled_from(
    [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime", b"ctime", b"uname", b"comment",
     b"SCHILY.xattr.user.x", b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.map", b"GNU.sparse.name",
     b"GNU.sparse.size", b"GNU.sparse.numblocks", b"GNU.sparse.offset", b"GNU.sparse.numbytes"]
)  # fmt: skip
VALUES = st.one_of(st.binary(max_size=30), st.sampled_from([b"", b"0", b"1", b"-1", b"1.5", b"0,3", b"512"]))


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """A good or nearly good member, with what may stand in front of it."""
    kind = draw(st.sampled_from(["plain", "plain", "pax", "global", "long", "sparse", "odd"]))
    name, payload = draw(NAMES), draw(PAYLOADS)
    if kind == "pax":
        records = draw(st.lists(st.tuples(KEYS, VALUES), max_size=4))
        return rawtar.pax(records) + rawtar.member(name[:100], payload)
    if kind == "global":
        return rawtar.pax(draw(st.lists(st.tuples(KEYS, VALUES), max_size=2)), type=b"g", name=name[:100])
    if kind == "long":
        return rawtar.long_name(name * 20, type=draw(st.sampled_from([b"L", b"K"]))) + rawtar.member(
            b"short", payload
        )
    if kind == "sparse":
        build = draw(
            st.sampled_from([rawtar.sparse_00, rawtar.sparse_01, rawtar.sparse_10, rawtar.sparse_old])
        )
        return build(name[:80], sorted(draw(RUNS)), draw(st.integers(0, 1000)))
    if kind == "odd":
        head = rawtar.header(
            name[:100], draw(NUMBERS), type=draw(TYPES), mode=draw(NUMBERS), uid=draw(NUMBERS), gid=draw(NUMBERS),
            mtime=draw(NUMBERS), linkname=draw(NAMES), magic=draw(MAGICS), rest=draw(st.binary(max_size=167)),
        )  # fmt: skip
        return head + rawtar.padded(payload)
    return rawtar.member(name[:100], payload, type=draw(TYPES), magic=draw(MAGICS), linkname=draw(NAMES))


ARCHIVES = st.tuples(
    st.lists(members(), max_size=5).map(b"".join),
    st.sampled_from([b"", bytes(512), rawtar.END, rawtar.END + b"junk", rawtar.END + bytes(9000)]),
).map(b"".join)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An archive with a few bytes changed, its checksums put right again, cut off or not."""
    data = bytearray(draw(ARCHIVES))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    for start in range(0, len(data) - 511, 512):
        block = data[start : start + 512]
        if any(block) and draw(st.booleans()):
            data[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


ANY = st.one_of(st.binary(max_size=1500), ARCHIVES, damaged())


class Layer:
    """What an unpacker would have on disk: a file for each regular entry, holes as zeros, none for a whiteout."""

    def __init__(self) -> None:
        self.files: dict[bytes, bytes] = {}
        self.current: Entry | None = None

    def entry(self, entry: Entry) -> None:
        self.current = entry
        self.files[entry.name] = b""

    def data(self, view: memoryview) -> None:
        assert self.current is not None
        self.files[self.current.name] += view

    def open(self, name: bytes) -> int:
        fd = os.memfd_create("file")
        os.write(fd, self.files[name])
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


@given(ANY)
@example(b"")
@example(bytes(512))
@example(bytes(1024))
def test_any_bytes_are_a_layer_that_can_be_given_back_or_our_error(data: bytes) -> None:
    layer, out = Layer(), io.BytesIO()
    try:
        facts = ingest(io.BytesIO(data), layer, out)
    except StorageError:
        return
    assert facts.diff_size == len(data) or facts.compression
    with PieceStream(assemble(io.BytesIO(out.getvalue()), layer.open)) as stream:
        assert stream.read() == data or facts.compression


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    start = turn = 0
    while start < len(data):
        size = sizes[turn % len(sizes)]
        yield data[start : start + size]
        start += size
        turn += 1


def told(blocks: Iterator[bytes]) -> tuple[list[object], str]:
    """All that a reader says about a stream, and how it ended."""
    reader, said = TarReader(blocks), []
    try:
        for entry in reader:
            said.append(
                (reader.raw, *(getattr(entry, name) for name in Entry.__slots__), b"".join(reader.payload()))
            )
        said.append((reader.raw, b"".join(reader.trailing())))
    except StorageError as error:
        return said, f"{type(error).__name__}: {error}"
    return said, "complete"


@given(damaged(), st.lists(st.integers(1, 2000), min_size=1, max_size=5))
def test_how_a_stream_is_cut_into_blocks_changes_nothing(data: bytes, sizes: list[int]) -> None:
    assert told(cut(data, sizes)) == told(iter([data]))


@given(damaged())
def test_every_byte_comes_out_once(data: bytes) -> None:
    reader, out = TarReader([data]), []
    try:
        for _ in reader:
            out.append(reader.raw)
            out += map(bytes, reader.payload())
    except StorageError:
        assert data.startswith(b"".join(out))
        return
    assert b"".join([*out, reader.raw, *reader.trailing()]) == data


# --- numbers, checksums -------------------------------------------------------------------------------------


@given(st.binary(min_size=8, max_size=12))
def test_any_field_is_a_number_of_63_bits_or_an_error(field: bytes) -> None:
    try:
        value = tarheader.number(field)
    except StorageError:
        return
    assert -(2**63) <= value < 2**63


@given(st.integers(-(2**63), 2**63 - 1))
def test_base_256_is_read_back(value: int) -> None:
    assert tarheader.number(rawtar.base256(value, 12)) == value


@given(st.binary(max_size=60))
def test_any_pax_data_is_records_or_an_error(data: bytes) -> None:
    try:
        records = tarheader.parse_pax(data)
    except StorageError:
        return
    assert b"" not in records


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=8), st.binary(max_size=200)), max_size=4))
def test_pax_records_are_read_back(pairs: list[tuple[bytes, bytes]]) -> None:
    pairs = [(key.replace(b"=", b"_").replace(b"\0", b"_"), value) for key, value in pairs]
    assert tarheader.parse_pax(b"".join(rawtar.record(key, value) for key, value in pairs)) == dict(pairs)


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 2**64 - 1))
def test_checksums_do_not_depend_on_the_cut(data: bytes, at: int, start: int) -> None:
    best = crc64.best()
    whole = best(data, start)
    assert best(data[at:], best(data[:at], start)) == whole
    assert crc64.update(data[at:], crc64.update(data[:at], start)) == whole
    assert crc64.update_zeros(at, whole) == best(bytes(at), whole)


# --- records ------------------------------------------------------------------------------------------------

ITEMS = st.one_of(
    st.binary(max_size=100),
    st.tuples(st.binary(max_size=20), st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1)),
)


def parsed(chunks: Iterator[bytes]) -> list[object]:
    return [
        item if isinstance(item, bytes) else (item.type, item.name, item.size, item.checksum)
        for batch in tarsplit.parse(chunks)
        for item in batch
    ]


@given(
    st.lists(
        ITEMS,
        max_size=6,
        unique_by=lambda item: item if isinstance(item, bytes) else tarsplit.clean_name(item[0]),
    ),
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.sampled_from([b"\n", b"", b" ", b"\n\n"]),
)
def test_records_are_read_back(
    items: list[bytes | tuple[bytes, int, int]], sizes: list[int], between: bytes
) -> None:
    lines, expected = [], []
    for position, item in enumerate(items):
        if isinstance(item, bytes):
            lines.append(tarsplit.segment_line(item, position).rstrip(b"\n"))
            expected.append(item)
        else:
            name, size, crc = item
            lines.append(tarsplit.file_line(name, size, crc, position).rstrip(b"\n"))
            expected.append((1, name, size, crc64.stored(crc) if size else b""))
    assert parsed(cut(between.join(lines) + between, sizes)) == expected
    for line in lines:
        json.loads(line)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(
                [
                    b'{"type":2,"payload":"',
                    b'{"type":1,"name":"a',
                    b'"',
                    b"YWFh",
                    b',"position":1}',
                    b"\n",
                    b"{",
                    b"}",
                    b"null",
                    b'"size":5,',
                    b"\\u00e9",
                    b"\\ud800",
                    b"\xff",
                    b"[[",
                    b" ",
                    b"1e5",
                    b"-1",
                    b"NaN",
                ]
            ),
            max_size=12,
        ).map(b"".join),
    ),
    st.integers(1, 50),
)
def test_any_text_is_a_record_or_our_error(text: bytes, size: int) -> None:
    try:
        found = parsed(cut(text, [size]))
    except StorageError as error:
        with pytest.raises(type(error)):
            parsed(iter([text]))
        return
    assert found == parsed(iter([text]))


@given(st.binary(max_size=60))
def test_cleaned_names_are_clean(name: bytes) -> None:
    cleaned = tarsplit.clean_name(name)
    assert tarsplit.clean_name(cleaned) == cleaned
    parts = cleaned.split(b"/")
    assert b"." not in parts or cleaned == b"."
    assert cleaned == b"/" or b"" not in parts[1:]


@given(st.sampled_from([1, 2, 3, 4]), st.binary(max_size=100), st.integers(1, 50))
def test_any_compressed_bytes_are_read_or_refused(kind: int, data: bytes, size: int) -> None:
    magic = dict(compression._MAGIC)[kind]
    for stream in (magic + data, gzip.compress(data)[: size * 2]):
        try:
            b"".join(compression.decompress(cut(stream, [size]), kind))
        except StorageError:
            continue
