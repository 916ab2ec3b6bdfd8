"""Tar headers to the byte (`spec/archive.md` 3.5)."""

import pytest

from orlop.errors import LimitExceeded, NotSupported
from orlop.formats.tarheader import BLOCK_DEVICE, CHAR, DIRECTORY, REGULAR, SYMLINK, Entry
from orlop.stream.writer import TRAILER, encode, padding

SECOND = 1_000_000_000
OCTAL8, OCTAL12 = 0o7777777, 0o77777777777


def number(block: bytes, start: int, end: int) -> int:
    assert block[end - 1] == 0
    return int(block[start : end - 1], 8)


def text(block: bytes, start: int, end: int) -> bytes:
    return block[start:end].rstrip(b"\0")


def pax(data: bytes) -> dict[bytes, bytes]:
    """The records of the PAX entry with which `data` begins, by their own lengths."""
    assert data[156:157] == b"x"
    body = data[512 : 512 + number(data, 124, 136)]
    records = {}
    while body:
        length = body.partition(b" ")[0]
        record, body = body[: int(length)], body[int(length) :]
        assert record.endswith(b"\n")
        key, _, value = record[len(length) + 1 : -1].partition(b"=")
        records[key] = value
    return records


def test_a_directory_header_is_as_listed() -> None:
    block = encode(Entry(b"a/", type=DIRECTORY, mode=0o755, mtime_ns=0o15302046712 * SECOND))
    expected = b"a/" + bytes(98) + b"0000755\0" + b"0000000\0" * 2 + b"00000000000\0" + b"15302046712\0"
    expected += b"        5" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0" + bytes(167)
    checksum = b"%06o\0 " % sum(expected)
    assert block == expected[:148] + checksum + expected[156:]


def test_fields_stand_where_ustar_has_them() -> None:
    entry = Entry(b"f", b"to", BLOCK_DEVICE, 0o6751, 1, 2, 0, 4 * SECOND, devmajor=300, devminor=70_000)
    block = encode(entry)
    assert len(block) == 512
    assert [number(block, *field) for field in ((100, 108), (108, 116), (116, 124))] == [0o6751, 1, 2]
    assert [number(block, *field) for field in ((124, 136), (136, 148))] == [0, 4]
    assert [number(block, *field) for field in ((329, 337), (337, 345))] == [300, 70_000]
    assert block[156:157] == b"4"
    assert text(block, 157, 257) == b"to"


def test_the_checksum_of_the_fullest_header_is_right() -> None:
    """It is taken from Adler-32, which is modulo 65521: the sum of a header must stay below."""
    name = b"~" * 155 + b"/" + b"~" * 100
    entry = Entry(
        name, b"~" * 100, SYMLINK, OCTAL8, OCTAL8, OCTAL8, OCTAL12, OCTAL12 * SECOND, None, OCTAL8, OCTAL8
    )
    block = encode(entry)
    assert len(block) == 512
    assert int(block[148:154], 8) == sum(block[:148] + b" " * 8 + block[156:])
    assert block[154:156] == b"\0 "


@pytest.mark.parametrize(
    ("name", "prefix", "rest"),
    [
        (b"n" * 100, b"", b"n" * 100),
        (b"d" * 60 + b"/" + b"f" * 40, b"d" * 60, b"f" * 40),
        (b"p" * 155 + b"/" + b"q" * 100, b"p" * 155, b"q" * 100),
        (b"a/" * 60 + b"f", b"a/" * 59 + b"a", b"f"),
        (b"d" * 99 + b"/", b"", b"d" * 99 + b"/"),
        # the slash at the end of a directory's name is no place to cut
        (b"x/" + b"d" * 99 + b"/", b"x", b"d" * 99 + b"/"),
        (b"1" * 80 + b"/" + b"2" * 74 + b"/", b"1" * 80, b"2" * 74 + b"/"),
    ],
)
def test_a_long_name_is_split_at_a_slash(name: bytes, prefix: bytes, rest: bytes) -> None:
    block = encode(Entry(name, type=DIRECTORY if name.endswith(b"/") else REGULAR))
    assert len(block) == 512
    assert (text(block, 345, 500), text(block, 0, 100)) == (prefix, rest)


@pytest.mark.parametrize(
    "name",
    [
        b"n" * 101,
        b"/" + b"n" * 100,  # an empty prefix is none
        b"d" * 60 + b"/" + b"f" * 101,
        b"p" * 156 + b"/q",
        b"d" * 100 + b"/",
        b"x/" + b"d" * 100 + b"/",  # with its slash the rest has 101 bytes
        b"p" * 155 + b"/" + b"d" * 20 + b"/" + b"f" * 80,
        "ü".encode(),
        b"\xff",
        b"d" * 60 + b"/" + b"f" * 40 + b"\xc3",
    ],
)
def test_other_long_or_non_ascii_names_go_to_pax(name: bytes) -> None:
    assert pax(encode(Entry(name))) == {b"path": name}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a/b\xff", b"a/PaxHeaders.0/b"),
        (b"b\xff", b"PaxHeaders.0/b"),
        (b"a/b\xff/", b"a/b/PaxHeaders.0"),
        (b"a\xff/b/", b"a/b/PaxHeaders.0"),
        (b"n" * 101, b"PaxHeaders.0/" + b"n" * 87),
        (b"d" * 86 + b"/" + b"f" * 101, b"d" * 86 + b"/PaxHeaders.0"),  # cut behind a slash, which goes
        (b"d" * 100 + b"/", b"d" * 100),
        (b"/" + b"n" * 101, b"/PaxHeaders.0/" + b"n" * 86),
    ],
)
def test_the_pax_entry_is_named_after_its_entry(name: bytes, shown: bytes) -> None:
    block = encode(Entry(name, mode=0o644, uid=5, gid=6, mtime_ns=7 * SECOND))[:512]
    assert text(block, 0, 100) == shown
    assert [number(block, *field) for field in ((100, 108), (108, 116), (116, 124), (136, 148))] == [
        0,
        0,
        0,
        0,
    ]
    assert block[329:345] == bytes(16)
    assert block[257:265] == b"ustar\x0000"
    assert int(block[148:154], 8) == sum(block[:148] + b" " * 8 + block[156:])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"a" * 99 + b"\xffb", b"a" * 99 + b"b"),
        (b"a" * 150, b"a" * 100),
        (b"d" * 99 + b"/" + b"f" * 150, b"d" * 99),  # a cut name does not end in a slash
        (b"d/" * 50 + b"f" * 101, b"d/" * 49 + b"d"),
        (b"\xff\xfe", b""),
    ],
)
def test_the_main_header_shows_what_fits(name: bytes, shown: bytes) -> None:
    block = encode(Entry(name))[-512:]
    assert text(block, 0, 100) == shown
    assert text(block, 345, 500) == b""


def test_a_name_that_could_be_split_is_not_when_pax_is_needed_anyway() -> None:
    name = b"d" * 60 + b"/" + b"f" * 60
    data = encode(Entry(name, uid=OCTAL8 + 1))
    assert pax(data) == {b"path": name, b"uid": b"2097152"}
    assert text(data[-512:], 0, 100) == name[:100]
    assert text(data[-512:], 345, 500) == b""


@pytest.mark.parametrize(
    ("field", "fits", "key", "where"),
    [
        ("uid", OCTAL8, b"uid", (108, 116)),
        ("gid", OCTAL8, b"gid", (116, 124)),
        ("size", OCTAL12, b"size", (124, 136)),
    ],
)
def test_a_number_past_its_field_goes_to_pax(
    field: str, fits: int, key: bytes, where: tuple[int, int]
) -> None:
    assert number(encode(Entry(b"f", **{field: fits})), *where) == fits
    data = encode(Entry(b"f", **{field: fits + 1}))
    assert pax(data) == {key: b"%d" % (fits + 1)}
    assert number(data[-512:], *where) == 0


@pytest.mark.parametrize(
    ("mtime_ns", "record", "field"),
    [
        (OCTAL12 * SECOND, None, OCTAL12),
        ((OCTAL12 + 1) * SECOND, b"8589934592", 0),
        (-SECOND, b"-1", 0),
        (-SECOND // 4, b"-0.25", 0),
        (-5 * SECOND // 4, b"-1.25", 0),
        (3 * SECOND // 2, b"1.5", 1),
        (7 * SECOND + 1, b"7.000000001", 7),
    ],
)
def test_times_outside_the_field_or_with_a_fraction_go_to_pax(
    mtime_ns: int, record: bytes | None, field: int
) -> None:
    data = encode(Entry(b"f", mtime_ns=mtime_ns))
    assert (pax(data) if record else {}) == ({b"mtime": record} if record else {})
    assert number(data[-512:], 136, 148) == field


def test_attributes_are_records_in_the_order_of_their_keys() -> None:
    xattrs = {b"user.b": b"2", b"security.ima": b"\0\xff\n=", b"user.a": b"", b"user.B": b"x" * 5000}
    data = encode(Entry(b"f\xff", uid=OCTAL8 + 1, xattrs=xattrs))
    records = pax(data)
    assert list(records) == sorted(records)
    prefix = b"SCHILY.xattr."
    assert records == {b"path": b"f\xff", b"uid": b"2097152"} | {prefix + k: v for k, v in xattrs.items()}
    assert len(data) % 512 == 0


@pytest.mark.parametrize("length", [*range(1, 12), *range(82, 95), *range(980, 990), 9979, 9980])
def test_the_length_of_a_record_counts_itself(length: int) -> None:
    """The number of its digits changes the number: the steps are at 10, 100, 1,000 and 10,000 bytes."""
    assert pax(encode(Entry(b"f", xattrs={b"u": b"x" * length}))) == {b"SCHILY.xattr.u": b"x" * length}


@pytest.mark.parametrize("key", [b"user.a=b", b"=", b"", b"user.\0"])
def test_an_attribute_name_that_pax_cannot_hold_is_an_error(key: bytes) -> None:
    with pytest.raises(NotSupported, match="extended attribute") as caught:
        encode(Entry(b"f", xattrs={key: b""}))
    assert caught.value.facts == {"path": b"f", "xattr": key}


@pytest.mark.parametrize(
    "entry",
    [
        Entry(b"a\0b"),
        Entry(b"a" * 200 + b"\0"),
        Entry(b"a", b"b\0c", SYMLINK),
        Entry(b"a", size=-1),
        Entry(b"a", mode=-1),
        Entry(b"a", mode=OCTAL8 + 1),
        Entry(b"a", type=CHAR, devmajor=OCTAL8 + 1),
        Entry(b"a", type=CHAR, devminor=-1),
    ],
)
def test_what_no_file_has_is_an_error(entry: Entry) -> None:
    with pytest.raises(ValueError, match=r"no file has|no room"):
        encode(entry)


def test_a_header_that_no_reader_takes_is_an_error() -> None:
    """Paths have no end where a process goes down step by step."""
    assert len(encode(Entry(b"d/" * (1 << 18)))) > 1 << 19
    with pytest.raises(LimitExceeded, match=r"'d/d/.*more than 1048576 bytes"):
        encode(Entry(b"d/" * (1 << 19)))


def test_payload_is_filled_up_to_a_block_and_the_end_is_two() -> None:
    assert [len(padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]
    assert bytes(1024) == TRAILER
