"""The flag grammar of the drop-in: every rule of `spec/cli.md` 1.2, each with the call that it comes from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.dropin.flags import LIST, SWITCH, Flag, HelpWanted, Values, WrongFlag, parse, table

FLAGS = (
    Flag("--json -j", "Answer in JSON", SWITCH),
    Flag("--tree -t", "Draw a tree", SWITCH),
    Flag("--readonly -r", "Read-only", SWITCH),
    Flag("--name -n", "A name", LIST),
    Flag("--id -i", "An ID"),
    Flag("--metadata -m", "Metadata"),
    Flag("--bzip2 --bz2 -b", "bzip2", SWITCH),
)


@pytest.mark.parametrize(
    ("words", "values", "arguments"),
    [
        ([], {}, []),
        (["--json"], {"json": True}, []),
        (["-j", "a"], {"json": True}, ["a"]),
        (["--id=x"], {"id": "x"}, []),
        (["--id", "x"], {"id": "x"}, []),
        (["-i=x"], {"id": "x"}, []),
        (["-i", "x"], {"id": "x"}, []),
        (["--id=a=b"], {"id": "a=b"}, []),
        (["--id="], {"id": ""}, []),
        # A flag that needs a value takes the next word whatever it looks like.
        (["-m", "--foo"], {"metadata": "--foo"}, []),
        (["-m", "--"], {"metadata": "--"}, []),
        (["-m", ""], {"metadata": ""}, []),
        # What ends the flags, and for good.
        (["a", "--json"], {}, ["a", "--json"]),
        (["", "--json"], {}, ["", "--json"]),
        (["-", "--json"], {}, ["-", "--json"]),
        (["--", "--json"], {}, ["--json"]),
        (["--", "--"], {}, ["--"]),
        # One pair of matching quotes goes, behind `=` only.
        (['--id="a b"'], {"id": "a b"}, []),
        (["--id='a'"], {"id": "a"}, []),
        (["--id='a\""], {"id": "'a\""}, []),
        (["--id=''a''"], {"id": "'a'"}, []),
        (["--id='"], {"id": "'"}, []),
        (["--id", "'a'"], {"id": "'a'"}, []),
        (['--json="true"'], {"json": True}, []),
        # Booleans take a value with `=` only.
        *[([f"--json={word}"], {"json": True}, []) for word in ("1", "t", "T", "TRUE", "true", "True")],
        *[([f"-j={word}"], {"json": False}, []) for word in ("0", "f", "F", "FALSE", "false", "False")],
        (["--json", "false"], {"json": True}, ["false"]),
        # Groups.
        (["-tj"], {"tree": True, "json": True}, []),
        (["-rn", "x"], {"readonly": True, "name": ["x"]}, []),
        (["-nr", "x"], {"readonly": True, "name": ["x"]}, []),
        (["-ni", "a", "b", "c"], {"name": ["a"], "id": "b"}, ["c"]),
        (["-rj=false"], {"readonly": True, "json": True}, []),
        # The last one wins; lists collect.
        (["--id", "a", "-i", "b"], {"id": "b"}, []),
        (["--json", "--json=0"], {"json": False}, []),
        (["-n", "a", "--name=b", "--name", "a"], {"name": ["a", "b", "a"]}, []),
        (["--bz2"], {"bzip2": True}, []),
    ],
)
def test_words_become_values_and_arguments(words: list[str], values: Values, arguments: list[str]) -> None:
    assert parse(words, FLAGS) == (values, arguments)


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--bogus"], ["flag provided but not defined: --bogus"]),
        (["-z"], ["flag provided but not defined: -z"]),
        (["-xyz"], ["flag provided but not defined: -xyz"]),
        (["-jz"], ["flag provided but not defined: -jz"]),
        (["--jso"], ["flag provided but not defined: --jso"]),
        (["--JSON"], ["flag provided but not defined: --JSON"]),
        (["-json"], ["flag provided but not defined: -json"]),
        (["---json"], ["flag provided but not defined: ---json"]),
        (["--=x"], ["flag provided but not defined: --"]),
        (["--bogus=x"], ["flag provided but not defined: --bogus"]),
        (["-=x"], ["bad flag syntax: -=x"]),
        (["--id"], ["flag needs an argument: --id"]),
        (["-n"], ["flag needs an argument: -n"]),
        (["-jn"], ["flag needs an argument: -n", "flag provided but not defined: -jn"]),
        (["-nfoo"], ["flag needs an argument: -n", "flag provided but not defined: -nfoo"]),
        (
            ["--json=perhaps"],
            [
                'invalid boolean value "perhaps" for  --json: strconv.ParseBool: parsing "perhaps": invalid syntax'
            ],
        ),
        (
            ["-j="],
            ['invalid boolean value "" for  -j: strconv.ParseBool: parsing "": invalid syntax'],
        ),
        (
            ['--json=a"\n'],
            [
                r'invalid boolean value "a\"\n" for  --json: strconv.ParseBool: parsing "a\"\n": invalid syntax'
            ],
        ),
    ],
)
def test_a_wrong_word_is_named_to_the_letter(words: list[str], messages: list[str]) -> None:
    with pytest.raises(WrongFlag) as caught:
        parse(words, FLAGS)
    assert list(caught.value.messages) == messages


@pytest.mark.parametrize(
    ("words", "spelling"),
    [
        (["--help"], "--help"),
        (["-help"], "-help"),
        (["-h"], "-h"),
        (["-jh"], "-h"),
        (["--help=false"], "--help"),
    ],
)
def test_help_is_wanted_where_no_such_flag_is_declared(words: list[str], spelling: str) -> None:
    with pytest.raises(HelpWanted) as caught:
        parse(words, FLAGS)
    assert caught.value.spelling == spelling


def test_a_declared_help_flag_is_a_flag_like_others() -> None:
    assert parse(["--help"], (Flag("--help", "Print this", SWITCH),)) == ({"help": True}, [])


def test_what_was_given_before_is_replaced_and_lists_grow() -> None:
    """Global flags may stand before and after the command: the later wins, options accumulate."""
    before = {"id": "a", "name": ["x"], "json": True}
    values, _ = parse(["--id", "b", "-n", "y", "--json=0"], FLAGS, before)
    assert values == {"id": "b", "name": ["x", "y"], "json": False}
    assert before == {"id": "a", "name": ["x"], "json": True}


def test_what_was_not_given_is_empty() -> None:
    values, _ = parse([], FLAGS)
    assert (values.on("json"), values.text("id"), values.list("name")) == (False, "", [])


@given(st.lists(st.text("-=jtnim\"'hx ", max_size=6), max_size=8))
def test_any_words_are_values_and_arguments_or_refused(words: list[str]) -> None:
    """Nothing is lost: the arguments are the tail of the words."""
    try:
        values, arguments = parse(words, FLAGS)
    except (WrongFlag, HelpWanted):
        return
    assert words[len(words) - len(arguments) :] == arguments
    for flag in FLAGS:
        assert {SWITCH: values.on, LIST: values.list}.get(flag.kind, values.text)(flag.key) is not None


def test_the_table_shows_spellings_defaults_and_help_in_order() -> None:
    values = Values({"id": "/root/graph", "name": ["a", "b"], "json": True, "metadata": "0"})
    assert table(FLAGS, values, home="/root").splitlines() == [
        "  --bzip2, --bz2, -b    bzip2",
        "  --id, -i=~/graph      An ID",
        "  --json, -j=true       Answer in JSON",
        "  --metadata, -m        Metadata",
        "  --name, -n=[a b]      A name",
        "  --readonly, -r        Read-only",
        "  --tree, -t            Draw a tree",
    ]


def test_a_default_holds_until_something_is_given_and_is_shown() -> None:
    flags = (Flag("--method", "How", default="crc"),)
    assert parse([], flags)[0] == {"method": "crc"}
    assert parse(["--method", "size"], flags)[0] == {"method": "size"}
    assert parse([], flags, {"method": "size"})[0] == {"method": "size"}
    assert table(flags, Values()) == "  --method=crc    How\n"


def test_only_a_whole_home_directory_is_shortened() -> None:
    assert "=/rooted " in table((Flag("--id", "An ID"),), Values({"id": "/rooted"}), home="/root")
