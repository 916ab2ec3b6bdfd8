"""The reader of plain TOML: it answers what `tomllib` answers, or nothing."""

import tomllib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.config import storageconf, toml
from orlop.config.load import Configuration
from orlop.errors import ConfigError, LimitExceeded


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        '[storage]\ndriver = "overlay"  # why\n\n\trunroot\t=\t"/r#1"\n',
        'a = []\nb = [ ]\nc = ["x"]\nd = ["x", "y",]\n',
        'a = [\n]\nb = [\n  "x",\n  "y"\n]\n',
        "a = true\nb = false\nc = 0\nd = 42 # the answer\n",
        "a = {}\nb = { x = \"1\", y-z_9 = '' }\n".replace("''", '""'),
        '[a]\nx = "1"\n[a.b]\nx = "2"\n[c]\n',
    ],
)
def test_plain_text_needs_no_tomllib(text: str) -> None:
    """tomllib costs more than a whole small command, and what distributions ship is plain."""
    assert toml.plain(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        'a = "x\\ty"',
        "a = 'x'",
        'a = """x"""',
        'a = "x" "y"',
        'a = ["x" "y"]',
        'a = ["x\n"]',
        'a = ["x", # why\n "y"]',
        'a = [["x"]]',
        'a = ["x]", "y"]',
        'a = ["x, y"]',
        "a = 01",
        "a = 1_000",
        "a = 0x1",
        "a = 1.5",
        "a = -1",
        "a = 1979-05-27",
        "a.b = true",
        '"a" = true',
        "a = true\na = true",
        "[a]\n[a]",
        "[a]\nb = true\n[a.b]",
        "[a.b]\n[a]",
        "[[a]]",
        "[a.]",
        "[.a]",
        "[ a ]",
        "[]",
        "[a",
        "[a] x",
        'a = {x = "1",}',
        'a = {x = "1", x = "2"}',
        'a = {x = {y = "1"}}',
        "a = {x = true}",
        "a",
        "= true",
        "a =",
        "a = nope",
        'a = "x',
        "a = [",
        "a = true\r\n",
        "a = true\0",
        "# \x7f",
    ],
)
def test_what_is_not_plain_is_left_to_tomllib(text: str) -> None:
    assert toml.plain(text) is None


_PIECES = st.sampled_from(
    [
        *"ab=[]{}\"',#. \t\n\\_-0123_",
        "[a]",
        "[a.b]",
        "true",
        "false",
        '"x"',
        "[ ]",
        "\n",
        "a = ",
        "b = ",
        '["x", "y"]',
        '{c = "x"}',
        '"""',
        "é",
        "\r",
        "\x7f",
    ]
)


@given(st.lists(_PIECES, max_size=30).map("".join))
def test_the_plain_reader_never_differs_from_tomllib(text: str) -> None:
    found = toml.plain(text)
    if found is not None:
        assert found == tomllib.loads(text)


@given(
    st.lists(
        _PIECES | st.characters() | st.sampled_from(["[storage]\n", "driver = ", "options"]), max_size=30
    )
)
def test_any_text_is_a_configuration_or_refused(pieces: list[str]) -> None:
    with suppress(ConfigError, LimitExceeded):
        storageconf.options_of("".join(pieces), path="FILE", warn=lambda message: None)


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    """Python itself refuses to read it, with an error of its own."""
    with pytest.raises(ConfigError):
        toml.decode("a = " + "9" * 5000, "FILE")


_FILLERS = st.lists(
    st.sampled_from(
        [
            "",
            "# driver = 2",
            "{key} = 'driver = 2'",
            "{key} = '''\ndriver = 2\n[storage]\n'''",
            '{key} = """\\"""\ndriver = 2""""',
            '{key} = ["""\n"""""\n, \'#\', [ # driver = 2\n "[" ]\n]',
            "{key} = {{ driver = 2, b = [\n{{ driver = 2 }}\n] }}",
            "{key}.driver = 2\r",
            "{key} = 1979-05-27 07:32:00 # [",
        ]
    ),
    max_size=6,
)


@given(_FILLERS, _FILLERS, _FILLERS, st.sampled_from(["driver", "'driver'", '"dri\\u0076er"']))
def test_the_line_of_a_wrong_value_is_found_whatever_stands_before_it(
    first: list[str], second: list[str], third: list[str], key: str
) -> None:
    lines = [*first, "[storage]", *second, f"{key} = 1", *third]
    text = [line.format(key=f"k{number}") for number, line in enumerate(lines)]
    before = "\n".join(text[: len(first) + 1 + len(second)])
    with pytest.raises(ConfigError) as caught:
        storageconf.options_of("\n".join([*text, ""]), path="FILE", warn=lambda message: None)
    assert (caught.value.key, caught.value.line) == ("storage.driver", before.count("\n") + 2)


@given(st.binary(max_size=100) | st.text().map(lambda text: f"[storage]\n{text}".encode()))
def test_any_bytes_are_a_configuration_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_bytes(data)
    with suppress(ConfigError, LimitExceeded):
        Configuration({}).load(str(path))
