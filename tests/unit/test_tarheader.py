"""Headers, PAX records and sparse maps: bytes to values, or a refusal."""

import pytest

from orlop.errors import BadArchive, LimitExceeded
from orlop.formats import limits, tarheader, tarsparse
from orlop.formats.tarheader import Entry, apply_pax, decimal, nanoseconds, number, parse_header, parse_pax
from rawtar import GNU, USTAR, V7, base256, header, octal, record, sparse_old

STAR_REST = b"pre/fix".ljust(131, b"\0") + octal(5, 12) + octal(6, 12) + bytes(8) + b"tar\0"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"0000644\0", 0o644),
        (b"     17 ", 0o17),
        (b" \0 17\0 \0", 0o17),
        (b"17\0junk\0", 0o17),  # the number ends at a NUL inside
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"        ", 0),
        (b"77777777", 0o77777777),
        (base256(3, 12), 3),
        (base256(-3, 12), -3),
        (base256(2**63 - 1, 12), 2**63 - 1),
        (base256(-(2**63), 12), -(2**63)),
        (base256(2**62 - 1, 8), 2**62 - 1),
        (base256(-(2**62), 8), -(2**62)),
    ],
)
def test_a_numeric_field_is_octal_or_base_256(field: bytes, value: int) -> None:
    assert number(field) == value
    assert number(field) == value, "remembered wrongly"


@pytest.mark.parametrize(
    "field",
    [b"8", b"+7", b"-7", b"1_0", b"0x1", b"1 1\0", b"a", base256(2**63, 12), base256(-(2**63) - 1, 12)],
)
def test_anything_else_in_a_numeric_field_is_an_error(field: bytes) -> None:
    with pytest.raises(BadArchive):
        number(field)


@pytest.mark.parametrize(
    ("block", "name"),
    [
        (header(b"n", rest=b"pre/fix"), b"pre/fix/n"),
        (header(b"n" * 100, rest=b"p" * 155), b"p" * 155 + b"/" + b"n" * 100),
        (header(b"n\0after", rest=b"pre\0after"), b"pre/n"),
        (header(b"n", rest=b"pre", magic=V7), b"n"),
        (header(b"n", rest=b"pre", magic=b"ustar\0\0\0"), b"pre/n"),
        (header(b"n", rest=b"pre", magic=b"ustar  1"), b"n"),  # not quite GNU is V7
        (header(b"n", rest=STAR_REST), b"pre/fix/n"),
        (header(b"n", rest=octal(5, 12) + octal(6, 12), magic=GNU), b"n"),
        (header(b"n", rest=b"old/writer", magic=GNU), b"old/writer/n"),
        (header(b"n", rest=b"old\xff/writer", magic=GNU), b"n"),
        (header(b"n", rest=bytes(12) + b"not a time", magic=GNU), b"n"),
    ],
)
def test_the_magic_decides_what_the_end_of_a_header_means(block: bytes, name: bytes) -> None:
    assert parse_header(block).name == name


def test_every_field_of_a_header() -> None:
    block = header(
        b"name",
        0o1234,
        type=b"3",
        mode=0o104755,
        uid=1000,
        gid=base256(2**32 - 2, 8),
        mtime=base256(-5, 12),
        linkname=b"link",
        devmajor=0o10,
        devminor=0o377,
    )
    entry = parse_header(b"x" * 7 + block, 7)
    assert (entry.name, entry.linkname, entry.type) == (b"name", b"link", ord("3"))
    assert (entry.mode, entry.uid, entry.gid) == (0o104755, 1000, 2**32 - 2)
    assert (entry.size, entry.mtime_ns, entry.atime_ns) == (0o1234, -5_000_000_000, None)
    assert (entry.devmajor, entry.devminor) == (8, 255)
    assert entry.xattrs is None
    assert entry.sparse is None
    assert "'3' b'name'" in repr(entry)


@pytest.mark.parametrize(
    ("rest", "magic", "atime_ns"),
    [
        (octal(5, 12) + octal(6, 12), GNU, 5_000_000_000),
        (bytes(12) + octal(6, 12), GNU, None),
        (base256(-1, 12) + bytes(12), GNU, -1_000_000_000),
        (octal(5, 12) + b"bad", GNU, None),  # one bad time drops both
        (STAR_REST, USTAR, 5_000_000_000),
        (b"", USTAR, None),
    ],
)
def test_gnu_and_star_headers_carry_an_access_time(rest: bytes, magic: bytes, atime_ns: int | None) -> None:
    assert parse_header(header(rest=rest, magic=magic)).atime_ns == atime_ns


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": b"rwx"},
        {"uid": b"9"},
        {"gid": b"9"},
        {"size": b"9"},
        {"mtime": b"9"},
        {"devmajor": b"9"},
        {"devminor": b"9"},
        {"size": base256(-1, 12)},
        {"rest": STAR_REST.replace(octal(6, 12), b"9".ljust(12))},
        {"rest": STAR_REST.replace(octal(5, 12), b"9".ljust(12))},
    ],
)
def test_a_field_that_does_not_parse_makes_the_header_invalid(fields: dict[str, bytes]) -> None:
    with pytest.raises(BadArchive) as caught:
        parse_header(header(**fields))  # type: ignore[arg-type]
    assert caught.value.peer == "invalid tar header"


def test_v7_headers_have_no_device_fields_to_be_wrong() -> None:
    block = bytearray(header(magic=V7))
    block[329:345] = b"no device number"
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    assert parse_header(bytes(block)).devmajor == 0


def test_a_negative_size_is_harmless_where_there_is_no_payload() -> None:
    assert parse_header(header(type=b"5", size=base256(-1, 12))).size == -1


@pytest.mark.parametrize("signed", [False, True])
def test_the_checksum_may_count_bytes_as_signed_or_unsigned(signed: bool) -> None:
    assert parse_header(header(b"\xff" * 90, signed=signed)).name == b"\xff" * 90


@pytest.mark.parametrize("form", [b"%06o\0 ", b"%07o\0", b" %5o \0", b"%o"])
def test_the_checksum_field_may_be_padded_anyhow(form: bytes) -> None:
    total = sum(header(b"n", checksum=b" " * 8))
    assert parse_header(header(b"n", checksum=(form % total).ljust(8, b"\0"))).name == b"n"


@pytest.mark.parametrize("delta", [-1, 1, 256, 65521, -256])
def test_a_wrong_checksum_is_refused(delta: int) -> None:
    """65521 is the modulus of the sum that stands in for a loop: a header must not pass by wrapping around."""
    total = sum(header(b"\xff" * 100, linkname=b"\xff" * 100, rest=b"\xff" * 155, checksum=b" " * 8))
    assert total > 65521, "the case needs a heavy header"
    block = header(
        b"\xff" * 100, linkname=b"\xff" * 100, rest=b"\xff" * 155, checksum=b"%06o\0 " % (total + delta)
    )
    for _ in range(2):
        with pytest.raises(BadArchive, match="checksum"):
            parse_header(block)


@pytest.mark.parametrize("at", [0, 99, 120, 150, 156, 200, 300, 511])
def test_every_byte_counts_for_the_checksum(at: int) -> None:
    block = bytearray(header(b"name", 5))
    parse_header(bytes(block))
    block[at] ^= 1
    with pytest.raises(BadArchive):
        parse_header(bytes(block))


def test_what_is_remembered_is_bounded() -> None:
    """An archive chooses the keys of the tables that make parsing quick."""
    for n in range(3 * tarheader._REMEMBERED_MAX):
        number(octal(n, 12))
    tables = (tarheader._numbers, tarheader._owners, tarheader._checksums, tarheader._tails)
    assert all(len(table) <= tarheader._REMEMBERED_MAX for table in tables)


# --- PAX ----------------------------------------------------------------------------------------------------


def test_records_are_read_in_order_and_the_last_of_a_key_counts() -> None:
    data = (
        record(b"path", b"one=two\n3")
        + record(b"comment", b"x")
        + record(b"path", b"")
        + record(b"uid", b"5")
    )
    assert parse_pax(data) == {b"path": b"", b"comment": b"x", b"uid": b"5"}


def test_lengths_may_have_leading_zeros() -> None:
    assert parse_pax(b"012 path=ab\n") == {b"path": b"ab"}


@pytest.mark.parametrize(
    "data",
    [
        b"12path=ab\n",  # no space
        b" path=ab\n",
        b"x path=ab\n",
        b"-12 path=ab\n",
        b"+12 path=ab\n",
        b"\xd9\xa1 path=ab\n",
        b"4 a=\n",
        b"3 \n",
        b"13 path=ab\n",  # beyond the data
        b"99999999999999999999 path=ab\n",
        b"11 path=abX",  # no newline
        b"10 path=a\n\n",  # its newline is not the record's end
        b"8 pathx\n",  # no equals sign
        b"5 =a\n",
        b"5 a=\n6 ",
        record(b"path", b"a\0b"),
        record(b"linkpath", b"a\0b"),
        record(b"uname", b"a\0b"),
        record(b"gname", b"a\0b"),
        record(b"pa\0th", b"b"),
        record(b"GNU.sparse.numbytes", b"5"),
        record(b"GNU.sparse.offset", b"5") * 2,
        record(b"GNU.sparse.offset", b"5,6"),
    ],
)
def test_malformed_records_are_refused_and_never_skipped(data: bytes) -> None:
    with pytest.raises(BadArchive) as caught:
        parse_pax(record(b"comment", b"fine") + data)
    assert caught.value.peer == "invalid tar header"


def test_values_other_than_names_may_hold_a_nul() -> None:
    assert parse_pax(record(b"SCHILY.xattr.user.x", b"a\0b"))[b"SCHILY.xattr.user.x"] == b"a\0b"


def test_sparse_records_of_format_0_0_become_one_map() -> None:
    data = b"".join(
        record(key, value)
        for key, value in [
            (b"GNU.sparse.offset", b"0"),
            (b"GNU.sparse.numbytes", b"5"),
            (b"GNU.sparse.offset", b"9"),
            (b"GNU.sparse.numbytes", b"1"),
        ]
    )
    assert parse_pax(data) == {b"GNU.sparse.map": b"0,5,9,1"}


def test_records_override_the_header_and_empty_ones_do_not() -> None:
    entry = Entry(b"old", b"old-link", size=1, mtime_ns=1, uid=1, gid=1)
    apply_pax(entry, {b"path": b"", b"size": b"", b"mtime": b"", b"uid": b""})
    assert (entry.name, entry.size, entry.mtime_ns, entry.uid, entry.xattrs) == (b"old", 1, 1, 1, None)
    apply_pax(
        entry,
        {
            b"path": b"new",
            b"linkpath": b"new-link",
            b"size": b"12",
            b"mtime": b"1.5",
            b"atime": b"2",
            b"ctime": b"3",
            b"uid": b"7",
            b"gid": b"+8",
            b"uname": b"root",
            b"vendor.thing": b"x",
            b"SCHILY.xattr.user.a": b"value",
            b"SCHILY.xattr.user.empty": b"",
            b"LIBARCHIVE.xattr.user.b": b"dmFsdWU=",
        },
    )
    assert (entry.name, entry.linkname, entry.size, entry.real_size) == (b"new", b"new-link", 12, 12)
    assert (entry.mtime_ns, entry.atime_ns, entry.uid, entry.gid) == (1_500_000_000, 2_000_000_000, 7, 8)
    assert entry.xattrs == {b"user.a": b"value", b"user.empty": b""}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"size", b"-1"),
        (b"size", b"1.0"),
        (b"size", b"9223372036854775808"),
        (b"uid", b"x"),
        (b"gid", b"0x1"),
        (b"mtime", b"1.x"),
        (b"atime", b".5"),
        (b"ctime", b"never"),
    ],
)
def test_a_value_that_does_not_parse_makes_the_archive_invalid(key: bytes, value: bytes) -> None:
    with pytest.raises(BadArchive):
        apply_pax(Entry(b"f"), {key: value})


@pytest.mark.parametrize(
    ("value", "ns"),
    [
        (b"0", 0),
        (b"5.", 5_000_000_000),
        (b"1350244992.023960108", 1_350_244_992_023_960_108),
        (b"1.0000000019", 1_000_000_001),  # cut, not rounded
        (b"1.000000000999", 1_000_000_000),
        (b"-1.5", -1_500_000_000),
        (b"-0.5", -500_000_000),
        (b"-0.0000000001", 0),
        (b"9223372036854775807.999999999", (2**63 - 1) * 10**9 + 999_999_999),
    ],
)
def test_times_are_exact_nanoseconds(value: bytes, ns: int) -> None:
    assert nanoseconds(value) == ns


@pytest.mark.parametrize(
    "value", [b"", b"-", b"+", b"1_0", b" 1", b"1 ", b"1e3", b"9" * 5000, b"-9223372036854775809"]
)
def test_decimals_are_decimals_of_63_bits(value: bytes) -> None:
    """Python's int() takes blanks, underscores and, slowly, thousands of digits."""
    with pytest.raises(BadArchive):
        decimal(value)


# --- sparse maps --------------------------------------------------------------------------------------------


def test_old_gnu_maps_go_on_in_extension_blocks() -> None:
    runs = [(n * 1000, b"x" * (n + 1)) for n in range(30)]
    data = sparse_old(b"s", runs, 40_000)
    fragments, real_size, extended = tarsparse.old_gnu(data[:512])
    assert (len(fragments), real_size, extended) == (4, 40_000, True)
    for start in (512, 1024):
        assert extended
        more, extended = tarsparse.old_gnu_extension(data[start : start + 512])
        fragments += more
    assert not extended
    assert fragments == [(offset, len(run)) for offset, run in runs]


def test_type_s_means_sparse_in_the_gnu_format_only() -> None:
    """STAR has the same letter and another layout."""
    with pytest.raises(BadArchive):
        tarsparse.old_gnu(header(type=b"S", magic=USTAR))


@pytest.mark.parametrize(
    ("records", "form"),
    [
        ({}, None),
        ({b"GNU.sparse.map": b"0,1"}, "records"),
        ({b"GNU.sparse.map": b""}, None),
        ({b"GNU.sparse.major": b"0", b"GNU.sparse.minor": b"0"}, "records"),
        ({b"GNU.sparse.major": b"0", b"GNU.sparse.minor": b"1"}, "records"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}, "payload"),
        ({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"1"}, None),
        ({b"GNU.sparse.major": b"2", b"GNU.sparse.map": b"0,1"}, None),
    ],
)
def test_the_version_says_where_a_pax_map_is(records: dict[bytes, bytes], form: str | None) -> None:
    assert tarsparse.pax_form(records) == form


@pytest.mark.parametrize(
    "records",
    [
        {b"GNU.sparse.numblocks": b"2", b"GNU.sparse.map": b"0,1"},
        {b"GNU.sparse.numblocks": b"1", b"GNU.sparse.map": b"0,1,2"},
        {b"GNU.sparse.numblocks": b"1", b"GNU.sparse.map": b"0,"},
        {b"GNU.sparse.numblocks": b"-1", b"GNU.sparse.map": b"0,1"},
        {b"GNU.sparse.map": b"0,1"},
    ],
)
def test_a_map_must_have_as_many_numbers_as_it_says(records: dict[bytes, bytes]) -> None:
    with pytest.raises(BadArchive):
        tarsparse.map_in_records(records)


@pytest.mark.parametrize(
    ("fragments", "real_size", "physical"),
    [
        ([(0, 5), (3, 5)], 20, 10),  # overlapping
        ([(5, 5), (0, 5)], 20, 10),  # out of order
        ([(-1, 5)], 20, 5),
        ([(0, -5)], 20, -5),
        ([(16, 5)], 20, 5),  # beyond the file
        ([(2**63 - 1, 2**63 - 1)], 20, 2**63 - 1),
        ([(0, 5)], 20, 6),  # payload that the map does not mention
        ([(0, 5)], 20, 4),  # payload that is not there
        ([], -1, 0),
        ([], 2**63, 0),
    ],
)
def test_a_map_that_does_not_fit_its_file_is_refused(
    fragments: list[tuple[int, int]], real_size: int, physical: int
) -> None:
    with pytest.raises(BadArchive):
        tarsparse.checked(fragments, real_size, physical)


def test_empty_runs_and_maps_without_holes_are_nothing() -> None:
    assert tarsparse.checked([(0, 0), (5, 5), (20, 0)], 20, 5) == ((5, 5),)
    assert tarsparse.checked([(0, 5), (5, 15)], 20, 20) is None
    assert tarsparse.checked([], 20, 0) == ()


def test_a_map_at_the_head_of_the_payload_is_read_block_by_block() -> None:
    lines = b"200\n" + b"".join(b"%d\n1\n" % (n * 10) for n in range(200))
    text = lines.ljust(-(-len(lines) // 512) * 512, b"\0")
    reading = tarsparse.PayloadMap()
    for start in range(0, len(text), 512):
        assert not reading.complete
        reading.feed(text[start : start + 512])
    assert reading.complete
    assert reading.fragments() == [(n * 10, 1) for n in range(200)]


@pytest.mark.parametrize("text", [b"-1\n", b"x\n", b"\n", b"1\n5\nx\n"])
def test_a_map_with_something_else_than_numbers_is_refused(text: bytes) -> None:
    reading = tarsparse.PayloadMap()
    with pytest.raises(BadArchive):
        reading.feed(text.ljust(512, b"\0"))
        reading.fragments()


def test_a_map_without_end_meets_its_limit() -> None:
    """CVE-2025-58183: a map as long as the member may be."""
    reading = tarsparse.PayloadMap()
    reading.feed(b"9223372036854775807\n".ljust(512, b"1"))
    with pytest.raises(LimitExceeded):
        for _ in range(limits.SPARSE_MAP_MAX // 512 + 1):
            reading.feed(b"1\n" * 256)


@pytest.mark.parametrize("size", [1, 90, 91, 92, 93, 94, 990, 9_990])
def test_a_length_counts_its_own_digits(size: int) -> None:
    data = record(b"a", b"x" * size)
    assert int(data.split(b" ")[0]) == len(data)
    assert parse_pax(data) == {b"a": b"x" * size}
