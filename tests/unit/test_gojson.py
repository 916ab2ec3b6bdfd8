"""JSON as the programs that share the store read and write it."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from orlop.formats import gojson
from orlop.formats.gojson import (
    SyntaxProblem,
    array,
    bytes_of,
    decode,
    elements,
    encode,
    encode_text,
    text_of,
)


def read(data: bytes | str) -> list[Any]:
    return [value for value, _ in elements(text_of(data))]


def pieces(data: bytes) -> list[bytes]:
    return [bytes_of(text) for _, text in elements(text_of(data))]


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        (" true ", True),
        ("\t[1, -2,\r\n3]\n", [1, -2, 3]),
        ('{"a":{"b":[]}}', {"a": {"b": []}}),
        ('"\\u00e9\\ud83d\\ude00\\/"', "é😀/"),
        ('{"k":1,"k":2}', {"k": 2}),
        ("-0", 0),
        ("1.5e3", 1500.0),
    ],
)
def test_documents_are_decoded(text: str, value: object) -> None:
    assert decode(text) == value
    assert decode(text.encode()) == value


BROKEN = [
    "",
    " ",
    "\ufeff[]",
    "[",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[1 2]",
    "[1]]",
    "[1] x",
    "{",
    '{"a"}',
    '{"a":}',
    '{"a":1,}',
    "{a:1}",
    '"open',
    '"new\nline"',
    '"nul\0"',
    '"\\x"',
    '"\\u12"',
    "NaN",
    "-Infinity",
    "Infinity",
    "[NaN]",
    "01",
    "1.",
    ".5",
    "+1",
    "-",
    "1e",
    "tru",
    "nul",
    "'a'",
    "[1]//",
    "[1]\0",
    "\xa0[]",
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_the_peers_refuse_is_refused(text: str) -> None:
    """No byte-order mark, no NaN, nothing behind the document: each of these is a damaged file."""
    with pytest.raises(SyntaxProblem):
        decode(text)


@pytest.mark.parametrize("text", [text for text in BROKEN if text])
def test_a_broken_array_is_told_by_both_ways_of_reading_it(text: str) -> None:
    assert array(text) is None
    with pytest.raises(SyntaxProblem):
        read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1", "unexpected end of JSON input"),
        ("[1,", "unexpected end of JSON input"),
        ("[1}", "invalid character '}' after array element, at character 2"),
        ("[]]", "invalid character ']' after top-level value, at character 2"),
        ("[x]", "invalid character 'x' looking for a value, at character 1"),
        ("[NaN]", "NaN is not JSON"),
        ("{}", "wanted an array, found an object"),
        ('"a"', "wanted an array, found a string"),
        ("1", "wanted an array, found the number 1"),
        ("false", "wanted an array, found the boolean False"),
        ("  ", "unexpected end of JSON input"),
    ],
)
def test_the_error_says_what_and_where(text: str, said: str) -> None:
    with pytest.raises(SyntaxProblem) as failure:
        read(text)
    assert said in str(failure.value)


@pytest.mark.parametrize("text", ["", "null", " null\n", "[]", "[ ]", "\n[\t]\r\n"])
def test_nothing_null_and_brackets_are_no_elements(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize("text", ["[1]", "[ 1 , 2 ]", '[{"a":"},{"},[[]],null]\n', '[{"a":1},{"b":2}]'])
def test_both_ways_of_reading_an_array_agree(text: str) -> None:
    assert array(text) == read(text) == json.loads(text)


def test_each_element_comes_with_its_own_text() -> None:
    """A save puts these bytes back for whatever it did not change."""
    data = b'[ {"a": 1.10} ,{"b":"x\\u0041"},\n[1,  2], "t" ]'
    assert pieces(data) == [b'{"a": 1.10}', b'{"b":"x\\u0041"}', b"[1,  2]", b'"t"']


def test_bytes_that_are_not_utf8_are_one_sign_each_in_values_and_stay_in_the_text() -> None:
    """As with the peers; and a record that nobody changes keeps the very bytes it had."""
    data = b'[{"m":"a\xe2\x82b\xff"},{"\xff":1}]'
    assert read(data) == [{"m": "a\ufffd\ufffdb\ufffd"}, {"\ufffd": 1}]
    assert pieces(data) == [b'{"m":"a\xe2\x82b\xff"}', b'{"\xff":1}']
    assert decode(b'"\xff"') == "\ufffd"
    assert array(text_of(data)) is None


@pytest.mark.parametrize("data", [b'["a"]\xff', b"\xff[]", b"[\xff]"])
def test_such_bytes_outside_of_strings_are_an_error(data: bytes) -> None:
    with pytest.raises(SyntaxProblem):
        read(data)


def test_lone_surrogates_become_the_replacement_character() -> None:
    assert read('["\\ud800x","\\uDC00","\\ud83d\\ude00",{"\\udfff":["\\ud800"]}]') == [
        "\ufffdx",
        "\ufffd",
        "😀",
        {"\ufffd": ["\ufffd"]},
    ]
    assert decode('"\\ud800"') == "\ufffd"


def test_numbers_keep_the_text_they_were_written_in() -> None:
    """Python holds none of these exactly; a newer program's number is not ours to round."""
    long = "9" * 5000
    text = f"[1.10,1E2,1e400,-{long},0.1000000000000000000001]"
    (values,) = read(f"[{text}]")
    assert encode(values) == text
    assert values[0] == 1.1
    assert math.isinf(values[2])
    assert encode(decode(f'{{"n":{long}}}')) == f'{{"n":{long}}}'


def test_a_long_number_stops_nothing_but_the_quick_way() -> None:
    """H4: Python refuses to convert more than 4,300 digits; the elements beside it are read."""
    text = f'[{{"a":1}},{{"b":{"1" * 4301}}},{{"c":3}}]'
    assert array(text) is None
    first, second, third = read(text)
    assert (first, third) == ({"a": 1}, {"c": 3})
    assert isinstance(second["b"], gojson.Written)


@pytest.mark.parametrize("depth", [2_000, 20_000, 200_000])
@pytest.mark.parametrize("pair", ["[]", '{"a":}'])
def test_an_element_nested_too_deeply_is_passed_over_with_its_text(depth: int, pair: str) -> None:
    """H4: no RecursionError gets out, and what follows is read."""
    opening, closing = pair[:-1], pair[-1]
    deep = opening * depth + ('"[{\\"]"' if opening == "[" else "1") + closing * depth
    found = list(elements(f'[1,{deep},{{"id":"x"}}]'))
    assert [found[0][0], found[2][0]] == [1, {"id": "x"}]
    assert isinstance(found[1][0], gojson.Unreadable)
    assert found[1][1] == deep
    with pytest.raises(SyntaxProblem, match="nested too deeply"):
        decode(deep)


def test_deep_nesting_that_never_ends_is_a_broken_file() -> None:
    with pytest.raises(SyntaxProblem, match="unexpected end"):
        read("[" * 100_000)


def test_deep_nesting_with_something_to_mend_is_no_recursion_error() -> None:
    for depth in (400, 700, 900, 5000):
        deep = "[" * depth + '"\\ud800"' + "]" * depth
        assert len(read(f"[{deep}]")) == 1


def test_a_caller_near_the_recursion_limit_gets_the_recursion_error() -> None:
    """Or else healthy records would count as damaged, depending on who asks."""
    value: Any = 1
    for _ in range(60):
        value = [value]
    text = json.dumps([value])
    list(elements("[" + "[" * 5000 + "]" * 5000 + "]"))  # has everything imported that it takes

    def down(left: int) -> object:
        return down(left - 1) if left else read(text)

    outcomes = set()
    for left in range(sys.getrecursionlimit() - 250, sys.getrecursionlimit() + 10):
        try:
            assert down(left) == [value]
            outcomes.add("read")
        except RecursionError:
            outcomes.add("recursion")
    assert outcomes == {"read", "recursion"}


# --- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-(1 << 70), str(-(1 << 70))),
        ([], "[]"),
        ({}, "{}"),
        ([1, "a", [None]], '[1,"a",[null]]'),
        ((1, 2), "[1,2]"),
        ({"b": 1, "a": {"d": 1, "c": 2}, "B": 3}, '{"B":3,"a":{"c":2,"d":1},"b":1}'),
        ("<a&b>", '"\\u003ca\\u0026b\\u003e"'),
        ({"<": "&"}, '{"\\u003c":"\\u0026"}'),
        ("\u2028\u2029é😀", '"\\u2028\\u2029é😀"'),
        ('"\\/\b\f\n\r\t\x00\x1f\x7f', '"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f"'),
        ("a\udcffb\ud800", '"a\ufffdb\ufffd"'),
    ],
)
def test_values_are_written_as_the_peers_write_them(value: object, text: str) -> None:
    assert encode(value) == text


def test_keys_are_sorted_by_their_bytes() -> None:
    keys = ["a", "Z", "é", "\uffff", "😀", "", "a\0"]
    assert list(json.loads(encode(dict.fromkeys(keys, 0)))) == sorted(keys, key=str.encode)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "-0"),
        (0.5, "0.5"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (1e-4, "0.0001"),
        (1e-5, "0.00001"),
        (-1.25e-6, "-0.00000125"),
        (1e-7, "1e-7"),
        (5e-324, "5e-324"),
        (123456789.125, "123456789.125"),
    ],
)
def test_floats_are_written_as_the_peers_write_them(value: float, text: str) -> None:
    assert encode(value) == text
    assert float(text) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_json_form_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no JSON form"):
        encode([value])


@pytest.mark.parametrize("value", [b"x", {1}, object(), 1j])
def test_other_types_are_a_mistake_of_the_caller(value: object) -> None:
    with pytest.raises(TypeError, match="no JSON form"):
        encode(value)


def test_text_alone_is_written_like_text_inside() -> None:
    assert encode_text("<é\n") == encode("<é\n") == '"\\u003cé\\n"'


def test_the_json_module_is_loaded_for_errors_only() -> None:
    """Importing it costs more than the whole of a small command."""
    program = (
        "import sys; from orlop.formats import gojson as g\n"
        "g.decode('{\"a\":[1.5,\"\\\\ud800\"]}'); g.encode({'a': [1]}); list(g.elements('[1]'))\n"
        "assert 'json' not in sys.modules and 're' not in sys.modules\n"
        "try: g.decode('[1')\n"
        "except g.SyntaxProblem as problem: print(problem)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Expecting" in done.stdout or "unexpected end" in done.stdout
