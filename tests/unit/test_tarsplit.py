"""Lines of a record: as the peers write them, and read as the peers read them."""

import json
from base64 import b64encode
from collections.abc import Iterator

import pytest

from orlop.errors import BadTarSplit, DuplicatePath, LimitExceeded
from orlop.formats import limits, tarsplit
from orlop.formats.tarsplit import FILE, SplitFile, clean_name, file_line, quoted, segment_line


def items(text: bytes, size: int = 1 << 20) -> list[bytes | SplitFile]:
    chunks = (text[start : start + size] for start in range(0, len(text), size))
    return [item for batch in tarsplit.parse(chunks) for item in batch]


def shown(found: list[bytes | SplitFile]) -> list[object]:
    return [item if isinstance(item, bytes) else (item.name, item.size, item.checksum) for item in found]


CRC = 0x3776C42000000000

# The lines of spec/tar-split.md 3, taken from real records.
LINES = [
    (b'{"type":1,"name":"etc/","payload":null,"position":1}\n', b"etc/", 0, 0, 1),
    (b'{"type":1,"name":"etc/hello","size":6,"payload":"YUw+7uLYEAA=","position":3}\n', b"etc/hello", 6,
     0x614C3EEEE2D81000, 3),
    (b'{"type":1,"name_raw":"ZXRjL//+LWJhZA==","size":3,"payload":"N3bEIAAAAAA=","position":17}\n',
     b"etc/\xff\xfe-bad", 3, CRC, 17),
    (b'{"type":1,"name":"etc/\\u003ca\\u003e\\u0026\\u2028\\"\\\\\\u0001\xc3\xa9","size":3,"payload":"N3bEIAAAAAA=",'
     b'"position":17}\n', "etc/<a>&\u2028\"\\\x01\u00e9".encode(), 3, CRC, 17),
    (b'{"type":1,"payload":null,"position":0}\n', b"", 0, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("line", "name", "size", "crc", "position"), LINES)
def test_lines_are_those_of_the_peers(line: bytes, name: bytes, size: int, crc: int, position: int) -> None:
    assert file_line(name, size, crc, position) == line
    (item,) = items(line)
    assert isinstance(item, SplitFile)
    assert (item.type, item.name, item.size) == (FILE, name, size)
    assert item.checksum == (crc.to_bytes(8, "big") if size else b"")


NAMES = [
    *(bytes([code]) for code in range(1, 256)),
    b"\x7f",
    "\u2028\u2029\u2027\u202a".encode(),
    "\U0010ffff\ufffd\ufeff".encode(),
    b"\xed\xa0\x80",  # a surrogate
    b"\xc0\xaf",  # overlong
    b"\xf4\x90\x80\x80",  # beyond U+10FFFF
    b"\xe2\x82",  # cut off
    b'","size":5,"payload":"',
    b"\\u0041",
]


def is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_every_name_comes_back(name: bytes) -> None:
    line = file_line(name, 5, CRC, 1)
    assert line.count(b"\n") == 1
    assert ("name" in json.loads(line), "name_raw" in json.loads(line)) == (is_text(name), not is_text(name))
    assert shown(items(line)) == [(name, 5, CRC.to_bytes(8, "big"))]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 511, 512, 1018])
def test_segments_come_back(size: int) -> None:
    raw = bytes(i * 5 & 255 for i in range(size))
    line = segment_line(raw, 7)
    assert line == b'{"type":2,"payload":"%b","position":7}\n' % b64encode(raw)
    assert items(line) == [raw]
    assert segment_line(memoryview(raw), 7) == line


LENIENT = {
    "keys in another order": b'{"position":5,"payload":"YQ==","type":2}\n',
    "keys in other cases": b'{"TYPE":2,"PayLoad":"YQ==","Position":5}\n',
    "white space": b' {\t"type" : 2 ,\r\n "payload" : "YQ==" }\n\n',
    "no newline at the end": b'{"type":2,"payload":"YQ==","position":5}',
    "unknown keys": b'{"type":2,"payload":"YQ==","position":5,"more":{"a":[1,{"b":null}]}}\n',
    "an escape in base64": b'{"type":2,"payload":"\\u0059Q==","position":5}\n',
    "a key twice": b'{"type":1,"payload":"WFg=","Payload":"YQ==","type":2}\n',
    "no position": b'{"type":2,"payload":"YQ=="}\n',
    "any position": b'{"type":2,"payload":"YQ==","position":999}\n',
    "null members": b'{"type":2,"payload":"YQ==","name":null,"name_raw":null,"size":null,"position":null}\n',
}


@pytest.mark.parametrize("size", [1 << 20, 3])
@pytest.mark.parametrize("case", LENIENT)
def test_whatever_the_peers_read_is_read(case: str, size: int) -> None:
    assert items(LENIENT[case], size) == [b"a"]
    assert items(segment_line(b"x", 0) + LENIENT[case], size) == [b"x", b"a"]
    assert items(LENIENT[case] + LENIENT[case], size) == [b"a", b"a"]


@pytest.mark.parametrize("between", [b"", b" ", b"\n\n", b"\r\n"])
@pytest.mark.parametrize("size", [1 << 20, 1, 50])
def test_objects_need_no_newline_between_them(between: bytes, size: int) -> None:
    lines = [segment_line(b"a" * n, n).rstrip() for n in range(20)]
    lines += [file_line(b"name-%d" % n, 3, CRC, n).rstrip() for n in range(20)]
    assert len(items(between.join(lines), size)) == 40


def test_empty_segments_are_segments() -> None:
    """Old peers end each record with one."""
    text = b'{"type":2,"payload":"","position":0}\n{"type":2,"payload":null,"position":1}\n{"type":2,"position":2}\n'
    assert items(text) == [b"", b"", b""]


def test_name_raw_counts_when_it_is_there() -> None:
    text = b'{"type":1,"name":"a","name_raw":"Yg=="}\n{"type":1,"name":"c","name_raw":""}\n'
    assert [name for name, _, _ in shown(items(text))] == [b"b", b"c"]  # type: ignore[misc]


def test_text_that_is_none_becomes_replacement_characters() -> None:
    """As the peers' JSON reader has it."""
    text = b'{"type":1,"name":"\xff\\ud800x\\ud83d\\udea2"}\n'
    assert shown(items(text)) == [("\ufffd\ufffdx\U0001f6a2".encode(), 0, b"")]


def test_other_types_are_handed_on_as_what_they_are() -> None:
    (item,) = items(b'{"type":3,"name":"a","size":5}\n')
    assert isinstance(item, SplitFile)
    assert item.type == 3
    assert "type=3" in repr(item)


BROKEN = {
    "half an object": b'{"type":2,"payload":"YQ==","pos',
    "no JSON": b"hello\n",
    "a list": b"[]\n",
    "a number": b"5\n",
    "null": b"null\n",
    "base64 of the wrong length": b'{"type":2,"payload":"YQ=","position":0}\n',
    "base64 with foreign characters": b'{"type":2,"payload":"Y Q==","position":0}\n',
    "base64 that goes on after its padding": b'{"type":2,"payload":"YQ==YQ==","position":0}\n',
    "a payload that is a number": b'{"type":2,"payload":5}\n',
    "a type that is text": b'{"type":"2","payload":"YQ=="}\n',
    "a fraction": b'{"type":1,"name":"a","size":1.5}\n',
    "a truth value": b'{"type":true}\n',
    "a negative size": b'{"type":1,"name":"a","size":-1}\n',
    "a size of 64 bits": b'{"type":1,"name":"a","size":9223372036854775808}\n',
    "a number of 5,000 digits": b'{"type":2,"size":' + b"9" * 5000 + b"}\n",
    "not a number": b'{"type":2,"x":NaN}\n',
    "infinity": b'{"type":2,"x":Infinity}\n',
    "a control character": b'{"type":1,"name":"\x01"}\n',
    "a byte order mark": b'\xef\xbb\xbf{"type":2}\n',
    "nested values": b'{"type":2,"x":' + b"[" * 100_000 + b"\n",
    "a name that is a list": b'{"type":1,"name":["a"]}\n',
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused(case: str) -> None:
    for text in (BROKEN[case], segment_line(b"x", 0) + BROKEN[case], b"{}" + BROKEN[case]):
        with pytest.raises(BadTarSplit):
            items(text)


def test_an_entry_without_end_meets_its_limit() -> None:
    def text(start: bytes) -> Iterator[bytes]:
        yield start
        for _ in range(4 * limits.RECORD_ENTRY_MAX >> 20):
            yield b"A" * (1 << 20)

    for start in (b'{"type":2,"payload":"', b'{ "type":2,\n"payload":"'):
        with pytest.raises(LimitExceeded):
            for _ in tarsplit.parse(text(start)):
                pass


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        (b"", b"."),
        (b".", b"."),
        (b"./", b"."),
        (b"/", b"/"),
        (b"//", b"/"),
        (b"/.", b"/"),
        (b"a", b"a"),
        (b"a/", b"a"),
        (b"a//", b"a"),
        (b"./a", b"a"),
        (b"/a", b"/a"),
        (b"//a", b"/a"),
        (b"a//b", b"a/b"),
        (b"a/./b", b"a/b"),
        (b"a/../b", b"b"),
        (b"a/..", b"."),
        (b"..", b".."),
        (b"../a", b"../a"),
        (b"../../a", b"../../a"),
        (b"a/../../b", b"../b"),
        (b"/..", b"/"),
        (b"/../a", b"/a"),
        (b"/a/../..", b"/"),
        (b".hidden", b".hidden"),
        (b"a/.hidden", b"a/.hidden"),
        (b"..a", b"..a"),
        (b"a/..b/", b"a/..b"),
        (b"...", b"..."),
        (b".wh..wh..opq", b".wh..wh..opq"),
        (b"\xff/\x00", b"\xff/\x00"),
    ],
)
def test_names_are_cleaned_lexically(name: bytes, cleaned: bytes) -> None:
    assert clean_name(name) == cleaned
    assert clean_name(cleaned) == cleaned


@pytest.mark.parametrize(
    ("first", "second"), [(b"d", b"d/"), (b"x", b"./x"), (b"a/b", b"a/c/../b"), (b"", b".")]
)
def test_two_entries_of_one_path_are_refused(first: bytes, second: bytes) -> None:
    with pytest.raises(DuplicatePath) as caught:
        items(file_line(first, 0, 0, 0) + segment_line(b"x", 1) + file_line(second, 1, 1, 2))
    assert caught.value.peer == "duplicates of file paths not supported"
    assert caught.value.name == second


def test_a_leading_slash_makes_another_name() -> None:
    assert len(items(file_line(b"/a", 0, 0, 0) + file_line(b"a", 0, 0, 1))) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"etc/passwd", '"etc/passwd"'),
        (b'a"b\\c', '"a\\"b\\\\c"'),
        (b"\a\b\f\n\r\t\v\x00\x1b\x7f", '"\\a\\b\\f\\n\\r\\t\\v\\x00\\x1b\\x7f"'),
        ("\u00e9\u65e5\U0001f6a2".encode(), '"\u00e9\u65e5\U0001f6a2"'),
        ("\u2028\u200b\U000e0001".encode(), '"\\u2028\\u200b\\U000e0001"'),
        (b"\xff\xed\xa0\x80", '"\\xff\\xed\\xa0\\x80"'),
    ],
)
def test_names_in_messages_are_quoted_as_the_peers_quote(name: bytes, text: str) -> None:
    assert quoted(name) == text
