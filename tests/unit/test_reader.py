"""The one tar parse: what comes out of odd, broken and hostile streams."""

from collections.abc import Iterable, Iterator

import pytest

from orlop.errors import BadArchive, LimitExceeded, UnsafeOwner
from orlop.formats import limits
from orlop.stream.reader import Entry, TarReader
from rawtar import (
    BLOCK,
    END,
    GNU,
    base256,
    expanded,
    header,
    long_name,
    member,
    octal,
    padded,
    pax,
    record,
    sparse_00,
    sparse_01,
    sparse_10,
    sparse_old,
)

Parts = tuple[list[tuple[bytes, Entry, bytes]], bytes, bytes]


def cut(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read(blocks: bytes | Iterable[bytes]) -> Parts:
    """((raw, entry, payload) of each entry, the raw end, what follows)."""
    reader = TarReader([blocks] if isinstance(blocks, bytes) else blocks)
    entries = [(reader.raw, entry, b"".join(reader.payload())) for entry in reader]
    return entries, reader.raw, b"".join(reader.trailing())


def entries(data: bytes) -> list[Entry]:
    return [entry for _, entry, _ in read(data)[0]]


def only(data: bytes) -> Entry:
    (entry,) = entries(data)
    return entry


def joined(parts: Parts) -> bytes:
    return b"".join(raw + payload for raw, _, payload in parts[0]) + parts[1] + parts[2]


F = member(b"f", b"12345")

# Name: (stream, names of the entries, length of the raw end, length of what follows)
ENDS = {
    "nothing": (b"", [], 0, 0),
    "one zero block": (bytes(512), [], 512, 0),
    "two zero blocks": (bytes(1024), [], 1024, 0),
    "no end-of-archive blocks": (F, [b"f"], 507, 0),
    "one zero block after a file": (F + bytes(512), [b"f"], 507 + 512, 0),
    "two zero blocks after a file": (F + END, [b"f"], 507 + 1024, 0),
    "blocked to 10 KiB": (F + END + bytes(8192), [b"f"], 507 + 1024, 8192),
    "three more megabytes of zeros": (F + END + bytes(3 << 20), [b"f"], 507 + 1024, 3 << 20),
    "garbage after the end": (F + END + b"garbage" * 100, [b"f"], 507 + 1024, 700),
    "an archive after the end": (F + END + F + END, [b"f"], 507 + 1024, 2048),
    "no padding": (F[:517], [b"f"], 0, 0),
    "part of the padding": (F[:617], [b"f"], 100, 0),
    "all of the padding but a byte": (F[:-1], [b"f"], 506, 0),
    "padding that is not zero": (header(b"f", 5) + b"12345" + b"x" * 507 + END, [b"f"], 507 + 1024, 0),
    "part of the padding of a PAX header": (F + pax({b"path": b"p"})[:600], [b"f"], 507 + 600, 0),
    "a PAX header and no file": (F + pax({b"path": b"p"}) + END, [b"f"], 507 + 1024 + 1024, 0),
}


@pytest.mark.parametrize("size", [1 << 22, 1000, 512, 7])
@pytest.mark.parametrize("case", ENDS)
def test_every_way_to_end_keeps_every_byte(case: str, size: int) -> None:
    data, names, raw_end, following = ENDS[case]
    if len(data) > 1 << 20 and size < 512:
        data, following = data[: 1 << 16], following and (1 << 16) - 2048
    parts = read(cut(data, size))
    assert [entry.name for _, entry, _ in parts[0]] == names
    assert (len(parts[1]), len(parts[2])) == (raw_end, following)
    assert joined(parts) == data


CUT_OFF = {
    "inside a header": F + header(b"g")[:100],
    "inside the first header": b"hello world",
    "inside the second zero block": F + bytes(700),
    "inside a payload": F[:515],
    "inside PAX data": pax({b"path": b"p" * 100})[:530],
    "inside a long name": long_name(b"n" * 100)[:530],
    "inside a sparse map": sparse_10(b"s", [(0, b"x")], 9)[:1700],
    "inside an old sparse extension": sparse_old(b"s", [(n * 9, b"x") for n in range(30)], 999)[:800],
}


@pytest.mark.parametrize("size", [1 << 20, 512, 7])
@pytest.mark.parametrize("case", CUT_OFF)
def test_a_stream_that_is_cut_off_is_an_error(case: str, size: int) -> None:
    data = CUT_OFF[case]
    with pytest.raises(BadArchive) as caught:
        read(cut(data, size))
    assert caught.value.peer == "unexpected EOF"
    assert caught.value.offset == len(data)
    assert f"byte {len(data)}" in str(caught.value)


INVALID = {
    "a zero block, then something": F + bytes(512) + F,
    "a wrong checksum": F + header(b"g", checksum=b"0000001\0"),
    "no tar at all": b"hello world" * 100,
    "a malformed PAX record": F + member(b"x", b"11 path=abX", type=b"x") + F,
    "a NUL in a PAX path": pax({b"path": b"a\0b"}) + F,
    "a negative size": header(b"f", base256(-5, 12)) + END,
    "a negative size of a PAX header": header(b"x", base256(-5, 12), type=b"x") + END,
    "a size of 64 bits": header(b"f", base256(2**63, 12)) + END,
    "a directory that is sparse": pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})
    + member(b"d/")
    + END,
    "a sparse map longer than the member": pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})
    + member(b"f", b"9999\n".ljust(512, b"\0"))
    + END,
    "a malformed global header": member(b"g", b"x", type=b"g") + END,
}


@pytest.mark.parametrize("case", INVALID)
def test_what_is_no_tar_is_refused_with_its_place(case: str) -> None:
    with pytest.raises(BadArchive) as caught:
        read(INVALID[case])
    assert caught.value.peer == "invalid tar header"
    assert isinstance(caught.value.offset, int)
    assert "byte" in str(caught.value)


@pytest.mark.parametrize("size", [1 << 20, 1024, 512, 100])
def test_block_boundaries_change_nothing(size: int) -> None:
    data = (
        member(b"d/")
        + pax({b"path": b"p" * 600, b"mtime": b"1.5", b"SCHILY.xattr.user.x": b"y"})
        + member(b"f", b"payload" * 1000)
        + long_name(b"n" * 700)
        + long_name(b"l" * 700, type=b"K")
        + member(b"s", type=b"2", magic=GNU)
        + sparse_10(b"sparse", [(0, b"x" * 700), (5000, b"y" * 800)], 10_000)
        + END
        + b"junk"
    )
    whole, pieces = read(data), read(cut(data, size))
    assert joined(pieces) == data
    assert [(raw, payload) for raw, _, payload in whole[0]] == [
        (raw, payload) for raw, _, payload in pieces[0]
    ]
    assert [repr(entry) for _, entry, _ in whole[0]] == [repr(entry) for _, entry, _ in pieces[0]]


def test_empty_blocks_are_nothing() -> None:
    assert joined(read([b"", F[:600], b"", b"", F[600:] + END, b""])) == F + END


def test_payload_is_handed_on_without_copying() -> None:
    block = header(b"f", 3000) + b"x" * 1000
    second = b"x" * 2000 + bytes(72)
    reader = TarReader([block, second])
    for _ in reader:
        views = list(reader.payload())
    assert [view.obj for view in views] == [block, second]
    assert [len(view) for view in views] == [1000, 2000]


def test_payload_that_nobody_reads_is_skipped() -> None:
    data = member(b"a", b"1" * 3000) + member(b"b", b"2" * 10) + END
    reader = TarReader(cut(data, 700))
    names = []
    for entry in reader:
        names.append(entry.name)
        if entry.name == b"a":
            assert bytes(next(iter(reader.payload()))) == b"1" * 188
    assert names == [b"a", b"b"]


def test_what_follows_the_archive_is_not_known_before_its_end() -> None:
    reader = TarReader([F + END])
    next(iter(reader))
    with pytest.raises(ValueError, match="read to its end"):
        next(reader.trailing())


# --- types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", b"123456")
def test_links_directories_and_devices_have_no_payload_whatever_they_say(type: int) -> None:
    data = header(b"h", 700, type=bytes([type])) + member(b"f", b"x") + END
    first, second = entries(data)
    assert (first.type, first.size, first.real_size) == (type, 0, 0)
    assert second.name == b"f"


@pytest.mark.parametrize("type", b"07ABDEFGMNRVXZz!")
def test_every_other_type_has_a_payload(type: int) -> None:
    """Also types that nobody knows: whether a layer may hold them is for the unpacker to say."""
    ((_, entry, payload),) = read(member(b"f", b"content", type=bytes([type])) + END)[0]
    assert (entry.type, payload) == (type, b"content")


def test_type_nul_is_a_directory_if_its_final_name_says_so() -> None:
    data = (
        member(b"d/", type=b"\0")
        + member(b"f", b"x", type=b"\0")
        + pax({b"path": b"e/"})
        + header(b"e", type=b"\0")
    )
    assert [(entry.name, entry.type) for entry in entries(data + END)] == [
        (b"d/", ord("5")),
        (b"f", ord("0")),
        (b"e/", ord("5")),
    ]


def test_a_trailing_slash_changes_no_other_type() -> None:
    assert only(header(b"f/", type=b"0") + END).type == ord("0")


# --- meta headers -------------------------------------------------------------------------------------------


def test_the_pax_size_wins_for_where_the_next_header_is() -> None:
    """CVE-2025-62518: a reader that believes the header would take the payload for headers."""
    inner = member(b"smuggled", b"x")
    data = pax({b"size": b"%d" % len(inner)}) + header(b"f", 0) + inner + END
    ((_, entry, payload),) = read(data)[0]
    assert (entry.name, entry.size, payload) == (b"f", len(inner), inner)


def test_long_names_of_gnu_win_over_pax_and_end_at_a_nul() -> None:
    data = (
        pax({b"path": b"pax-name", b"linkpath": b"pax-link"})
        + long_name(b"gnu-name\0rest")
        + long_name(b"gnu-link", type=b"K")
        + member(b"f", b"x", magic=GNU)
    )
    entry = only(data + END)
    assert (entry.name, entry.linkname) == (b"gnu-name", b"gnu-link")


def test_a_later_pax_header_replaces_an_earlier_one() -> None:
    entry = only(pax({b"path": b"one", b"uid": b"5"}) + pax({b"gid": b"6"}) + header(b"f") + END)
    assert (entry.name, entry.uid, entry.gid) == (b"f", 0, 6)


def test_meta_headers_are_for_one_entry_only() -> None:
    data = pax({b"path": b"p", b"uid": b"5"}) + member(b"a") + member(b"b") + END
    assert [(entry.name, entry.uid) for entry in entries(data)] == [(b"p", 5), (b"b", 0)]


def test_a_global_header_is_an_entry_of_its_own_and_changes_no_other() -> None:
    data = (
        pax({b"path": b"lost"})
        + pax({b"path": b"named", b"uid": b"7", b"size": b"9", b"mtime": b"5"}, type=b"g")
        + member(b"f", b"x")
        + END
    )
    parts = read(data)
    (raw, shown, _), (_, file, _) = parts[0]
    assert (shown.type, shown.name, shown.uid, shown.size, shown.mtime_ns) == (ord("g"), b"named", 0, 0, 0)
    assert len(raw) > 1024, "the lost PAX header and the global header's data stand in its segment"
    assert (file.name, file.uid, file.size) == (b"f", 0, 1)
    assert joined(parts) == data


def test_values_in_a_global_header_need_not_be_any() -> None:
    data = pax({b"uid": b"x", b"size": b"-1", b"mtime": b"t"}, type=b"g") + member(b"f", b"x") + END
    assert [entry.type for entry in entries(data)] == [ord("g"), ord("0")]


def test_a_global_header_without_a_path_has_its_own_name() -> None:
    assert (
        only(pax({b"comment": b"x"}, type=b"g", name=b"pax_global_header") + END).name == b"pax_global_header"
    )


def test_meta_data_of_a_megabyte_is_read_and_no_more() -> None:
    """CVE-2022-2879: hundreds of megabytes of PAX records."""
    fits = record(b"comment", b"x" * (limits.META_DATA_MAX - 17))
    assert len(fits) == limits.META_DATA_MAX
    assert only(member(b"x", fits, type=b"x") + member(b"f") + END).name == b"f"
    for type in (b"x", b"g", b"L", b"K"):
        with pytest.raises(LimitExceeded) as caught:
            read(header(b"x", limits.META_DATA_MAX + 1, type=type))
        assert caught.value.peer == "archive/tar: header field too long"


def test_a_claimed_size_allocates_nothing() -> None:
    reader = TarReader([header(b"f", base256(2**63 - 1, 12)) + b"x" * 1000])
    for entry in reader:
        assert entry.size == 2**63 - 1
        with pytest.raises(BadArchive, match="unexpected end"):
            list(reader.payload())
        break


def test_meta_headers_without_end_meet_a_limit() -> None:
    """Each is small enough, but a segment of tar-split holds them all."""
    one = member(b"x", record(b"comment", b"y" * 900_000), type=b"x")
    with pytest.raises(LimitExceeded):
        read(one for _ in range(limits.SEGMENT_MAX // len(one) + 1))


def test_sparse_extensions_without_end_meet_a_limit() -> None:
    first = sparse_old(b"s", [(n, b"x") for n in range(5)], 99)[:512]
    extension = bytes(504) + b"\x01" + bytes(7)

    def stream() -> Iterator[bytes]:
        yield first
        for _ in range(limits.SEGMENT_MAX // BLOCK + 1):
            yield extension

    with pytest.raises(LimitExceeded):
        read(stream())


# --- owners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", [-1, 2**32 - 1, 2**32, 2**40])
def test_ids_that_would_wrap_are_refused(id: int) -> None:
    """CVE-2024-40635: 2^40 and 2^32-1 end as root, or as "leave it"."""
    for data in (
        header(b"f", uid=base256(id, 8)),
        header(b"f", gid=base256(id, 8)),
        pax({b"uid": b"%d" % id}) + header(b"f"),
        pax({b"gid": b"%d" % id}) + header(b".wh.f"),
    ):
        with pytest.raises(UnsafeOwner) as caught:
            read(data + END)
        assert caught.value.name in (b"f", b".wh.f")


def test_the_highest_id_is_kept() -> None:
    entry = only(pax({b"uid": b"4294967294"}) + header(b"f", gid=base256(2**32 - 2, 8)) + END)
    assert (entry.uid, entry.gid) == (2**32 - 2, 2**32 - 2)


# --- sparse members -----------------------------------------------------------------------------------------

RUNS = [(0, b"a" * 512), (4096, b"b" * 1000), (9000, b"c" * 3)]


@pytest.mark.parametrize("build", [sparse_00, sparse_01, sparse_10, sparse_old])
@pytest.mark.parametrize("size", [1 << 20, 512, 100])
def test_a_sparse_member_has_its_content_and_its_map(build: object, size: int) -> None:
    data = build(b"s", RUNS, 10_000) + member(b"next", b"x") + END  # type: ignore[operator]
    parts = read(cut(data, size))
    (raw, entry, payload), (_, following, _) = parts[0]
    assert (entry.name, following.name) == (b"s", b"next")
    assert entry.real_size == 10_000
    assert entry.sparse == tuple((offset, len(run)) for offset, run in RUNS)
    assert payload == b"".join(run for _, run in RUNS)
    assert entry.size == len(payload)
    assert joined(parts) == data
    if build is sparse_10:
        assert b"3\n0\n512\n4096\n1000\n9000\n3\n" in raw, "the map belongs to the segment"


def test_many_runs_go_through_extension_blocks() -> None:
    runs = [(n * 100, b"%02d" % n) for n in range(60)]
    ((_, entry, payload),) = read(sparse_old(b"s", runs, 6000) + END)[0]
    assert entry.sparse == tuple((offset, 2) for offset, _ in runs)
    assert expanded(runs, 6000)[5900:5902] == payload[-2:]


def test_a_member_that_is_one_hole() -> None:
    ((_, entry, payload),) = read(sparse_10(b"hole", [], 5000) + END)[0]
    assert (entry.sparse, entry.size, entry.real_size, payload) == ((), 0, 5000, b"")


def test_a_map_without_holes_makes_an_ordinary_file() -> None:
    ((_, entry, payload),) = read(sparse_01(b"f", [(0, b"abc"), (3, b"def")], 6) + END)[0]
    assert (entry.sparse, entry.size, entry.real_size, payload) == (None, 6, 6, b"abcdef")


def test_an_unknown_sparse_version_is_an_ordinary_file() -> None:
    data = pax({b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}) + member(b"f", b"content") + END
    ((_, entry, payload),) = read(data)[0]
    assert (entry.sparse, payload) == (None, b"content")


@pytest.mark.parametrize("build", [sparse_00, sparse_01, sparse_10, sparse_old])
def test_a_map_that_does_not_fit_is_refused(build: object) -> None:
    for runs, real_size in (([(0, b"xx"), (1, b"y")], 10), ([(9, b"xx")], 10)):
        with pytest.raises(BadArchive):
            read(build(b"s", runs, real_size) + END)  # type: ignore[operator]


def test_old_prefix_bug_of_gnu_files_survives_the_whole_way() -> None:
    data = padded(header(b"n", 1, magic=GNU, rest=b"pre/fix") + b"x")
    assert only(data + END).name == b"pre/fix/n"
    assert only(header(b"n", magic=GNU, rest=octal(7, 12)) + END).atime_ns == 7_000_000_000


def test_what_never_was_an_archive_is_said_not_to_be_one() -> None:
    """Someone who gives the wrong file learns that, and not about octal numbers alone."""
    never = "^no tar archive, plain or compressed, begins so: invalid tar header: .*before byte 512$"
    for text in (b"root:x:0:0::/root:/bin/sh\n" * 40, b"\x89PNG" + bytes(range(256)) * 4):
        with pytest.raises(BadArchive, match=never) as problem:
            entries(text)
        assert problem.value.peer == "invalid tar header"
    with pytest.raises(BadArchive) as problem:
        entries(member(b"a") + b"root:x:0:0::/root:/bin/sh\n" * 40)
    assert "no tar archive" not in str(problem.value)
