"""Tables of contents and annotations of zstd:chunked blobs, as others wrote them."""

import json
import struct
from typing import Any

import pytest

from orlop.errors import BadTOC
from orlop.formats import chunkedblob, toc
from orlop.formats.chunkedblob import Places, Span
from orlop.formats.tarheader import REGULAR, Entry

SHA = "sha256:" + "a" * 64
REG: dict[str, Any] = {"type": "reg", "name": "a", "size": 10, "digest": SHA, "offset": 100, "endOffset": 150}


def parsed(*entries: Any, limit: int = 1000, **more: Any) -> toc.TOC:
    return toc.parse(json.dumps({"version": 1, "entries": list(entries), **more}).encode(), limit)


def _chunk(offset: int, position: int, size: int, **more: Any) -> dict[str, Any]:
    return {
        "type": "chunk",
        "name": "a",
        "offset": offset,
        "chunkOffset": position,
        "chunkSize": size,
        "chunkDigest": SHA,
        **more,
    }


CHUNKED = [
    {**REG, "chunkSize": 4, "chunkDigest": SHA},
    _chunk(120, 4, 3),
    _chunk(130, 7, 3, chunkType="zeros"),
]


def test_an_entry_is_what_a_header_says() -> None:
    table = parsed(
        {
            "type": "dir",
            "name": "etc/",
            "mode": 0o1755,
            "uid": 5,
            "gid": 6,
            "modtime": "2009-02-14T00:31:30.987654321+01:00",
            "accesstime": "1970-01-01T00:00:00Z",
            "changetime": "0001-01-01T00:00:00Z",
            "xattrs": {"user.a": "AQI=", "user.empty": ""},
        },
        {"TYPE": "char", "Name": "dev/null", "DEVMAJOR": 1, "devMinor": 3, "unheard": [{}], "linkName": None},
    )
    etc, null = (listed.entry for listed in table.entries.values())
    assert (etc.name, etc.mode, etc.uid, etc.gid) == (b"etc/", 0o1755, 5, 6)
    assert (etc.mtime_ns, etc.atime_ns, etc.ctime_ns) == (1234567890987654321, 0, 0)
    assert etc.xattrs == {b"user.a": b"\1\2", b"user.empty": b""}
    assert (null.name, null.devmajor, null.devminor, null.linkname) == (b"dev/null", 1, 3, b"")


def test_chunks_make_up_a_file() -> None:
    chunks = parsed(*CHUNKED).entries[b"a"].chunks
    assert [(c.offset, c.end, c.position, c.size, c.zeros) for c in chunks] == [
        (100, 120, 0, 4, False),
        (120, 130, 4, 3, False),
        (130, 150, 7, 3, True),
    ]


def test_without_an_end_a_file_ends_where_the_next_begins_or_the_table() -> None:
    first = {key: value for key, value in REG.items() if key != "endOffset"}
    table = parsed(first, {"type": "dir", "name": "d"}, {**first, "name": "b", "offset": 300})
    assert [table.entries[name].chunks[0].end for name in (b"a", b"b")] == [300, 1000]


def test_what_is_written_is_read_again() -> None:
    entry = Entry(
        b"a<b>", type=REGULAR, mode=0o644, size=10, mtime_ns=1_500_000_000, xattrs={b"user.x": b"\0"}
    )
    entry.ctime_ns = 7
    listed = toc.Listed(entry, SHA, [toc.Chunk(100, 120, 4, 0, SHA), toc.Chunk(120, 150, 6, 4, SHA, True)])
    again = toc.parse(toc.encode(toc.TOC([listed], SHA)), 1000)
    assert again.tar_split_digest == SHA
    found = again.entries[b"a<b>"]
    assert toc.difference(found.entry, entry) == ""
    assert found.digest == SHA
    assert [(c.offset, c.end, c.size, c.position, c.zeros) for c in found.chunks] == [
        (100, 120, 4, 0, False),
        (120, 150, 6, 4, True),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("type", ord("5")),
        ("name", b"b"),
        ("linkname", b"x"),
        ("mode", 1),
        ("size", 9),
        ("uid", 1),
        ("gid", 1),
        ("devmajor", 1),
        ("devminor", 1),
        ("mtime_ns", 1),
        ("atime_ns", 1),
        ("ctime_ns", 1),
        ("xattrs", {b"a": b""}),
    ],
)
def test_every_field_counts_when_table_and_tar_are_compared(field: str, value: Any) -> None:
    one, other = Entry(b"a", size=10), Entry(b"a", size=10)
    assert toc.difference(one, other) == ""
    setattr(other, field, value)
    assert toc.difference(one, other) == field


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ([{**REG, "type": "socket"}], "type"),
        ([{**REG, "type": 5}], "type"),
        ([5], "not an object"),
        ([{**REG, "name": 5}], "name"),
        ([{**REG, "name": "a\0b"}], "NUL"),
        ([{**REG, "size": -1}], "size"),
        ([{**REG, "size": 1.5}], "size"),
        ([{**REG, "size": True}], "size"),
        ([{**REG, "size": 2**63}], "size"),
        ([{**REG, "uid": -5}], "uid"),
        ([{**REG, "digest": ""}], "digest"),
        ([{**REG, "digest": "sha256:xyz"}], "digest"),
        ([{**REG, "digest": "sha512:" + "a" * 128}], "sha256"),
        ([{**REG, "size": 0}], "digest of another"),
        ([{**REG, "offset": -5}], "offset"),
        ([{**REG, "offset": 150}], "does not end after"),
        ([{**REG, "offset": 2**64 - 5}], "offset"),
        ([{**REG, "endOffset": 1001}], "ends at 1001"),
        ([{**REG, "endOffset": 99}], "does not end after"),
        ([{**REG, "modtime": "yesterday"}], "no time"),
        ([{**REG, "xattrs": {"a": "*"}}], "base64"),
        ([{**REG, "xattrs": {"a": 5}}], "base64"),
        ([{**REG, "xattrs": []}], "not an object"),
        ([REG, REG], "two entries|inside"),
        ([{"type": "dir", "name": "d"}, {"type": "dir", "name": "d"}], "two entries"),
        ([REG, {**REG, "name": "b", "offset": 120, "endOffset": 200}], "inside of what follows"),
        ([{**REG, "name": "b", "offset": 300, "endOffset": 400}, REG], "inside of what follows"),
        ([_chunk(100, 0, 10)], "does not follow"),
        ([{"type": "dir", "name": "a"}, _chunk(100, 0, 10)], "does not follow"),
        ([CHUNKED[0], {**CHUNKED[1], "name": "b"}, CHUNKED[2]], "does not follow"),
        ([*CHUNKED[:2]], "make up"),
        ([CHUNKED[0], CHUNKED[2]], "make up"),
        ([CHUNKED[0], CHUNKED[2], CHUNKED[1]], "make up|does not end"),
        ([*CHUNKED, _chunk(140, 10, 5)], "make up"),
        ([CHUNKED[0], {**CHUNKED[1], "chunkSize": 2**62}, CHUNKED[2]], "make up"),
        ([CHUNKED[0], {**CHUNKED[1], "chunkOffset": 0}, CHUNKED[2]], "make up"),
        ([CHUNKED[0], {**CHUNKED[1], "offset": 100}, CHUNKED[2]], "does not end after"),
        ([CHUNKED[0], {**CHUNKED[1], "chunkDigest": "x"}, CHUNKED[2]], "digest"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_blob_is_read(wrong: list[Any], says: str) -> None:
    """The peers ask for ranges of 2^64 - 5 bytes then."""
    with pytest.raises(BadTOC, match=says):
        parsed(*wrong)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"5",
        b'{"entries":5}',
        b'{"entries":[]}x',
        b'{"entries":[]}{}',
        b"\xff",
        b'{"tarSplitDigest":"x"}',
    ],
)
def test_what_is_no_table_is_refused(text: bytes) -> None:
    with pytest.raises(BadTOC):
        toc.parse(text, 1000)


def test_a_version_that_nobody_knows_is_read() -> None:
    assert toc.parse(b'{"version":7}\n', 1000).entries == {}


# --- annotations ----------------------------------------------------------------------------------------------

GOOD = {
    chunkedblob.TOC_DIGEST: SHA,
    chunkedblob.TOC_POSITION: "351076:1387:4120:1",
    chunkedblob.TAR_SPLIT_POSITION: "352471:1093:21213",
}


def test_annotations_say_where_things_are() -> None:
    places = chunkedblob.places_of(GOOD)
    assert places == Places(SHA, Span(351076, 1387, 4120), Span(352471, 1093, 21213))
    assert places is not None
    assert places.annotations() == GOOD
    assert chunkedblob.places_of({}) is None
    without = {key: value for key, value in GOOD.items() if key != chunkedblob.TAR_SPLIT_POSITION}
    assert chunkedblob.places_of(without) == Places(SHA, Span(351076, 1387, 4120), None)


@pytest.mark.parametrize(
    "wrong",
    [
        {chunkedblob.ESTARGZ_TOC_DIGEST: SHA},
        {chunkedblob.TOC_DIGEST: "sha256:x"},
        {chunkedblob.TOC_DIGEST: ""},
        {chunkedblob.TOC_DIGEST: "sha512:" + "a" * 128},
        {chunkedblob.TOC_POSITION: ""},
        {chunkedblob.TOC_POSITION: "1:2:3"},
        {chunkedblob.TOC_POSITION: "1:2:3:2"},
        {chunkedblob.TOC_POSITION: "-1:2:3:1"},
        {chunkedblob.TOC_POSITION: "+1:2:3:1"},
        {chunkedblob.TOC_POSITION: "\u0661:2:3:1"},
        {chunkedblob.TOC_POSITION: f"{2**63}:2:3:1"},
        {chunkedblob.TOC_POSITION: "1" * 5000 + ":2:3:1"},
        {chunkedblob.TAR_SPLIT_POSITION: "1:2"},
    ],
)
def test_annotations_that_say_it_badly_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(BadTOC):
        chunkedblob.places_of({**GOOD, **wrong})


def test_the_footer_is_that_of_the_specification() -> None:
    places = chunkedblob.places_of(GOOD)
    assert places is not None
    footer = chunkedblob.footer(places)
    assert len(footer) == 64
    assert footer[:8] == bytes.fromhex("645b050000000000")
    assert footer[-8:] == b"GNUlInUx"
    assert struct.unpack("<7Q", footer[:56]) == (351076, 1387, 4120, 1, 352471, 1093, 21213)
    assert chunkedblob.skippable(footer)[:8] == bytes.fromhex("502a4d18 40000000")
