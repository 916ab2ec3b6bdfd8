"""From the key of a big-data item to its file: existing stores are full of such files, so every byte counts."""

from base64 import standard_b64encode

import pytest

from oddities import ITEM_NAMES
from orlop.errors import InvalidKey
from orlop.formats.bigdata import file_name


@pytest.mark.parametrize(("key", "name"), ITEM_NAMES)
def test_names_are_those_of_the_peers(key: str, name: str) -> None:
    assert file_name(key) == name


@pytest.mark.parametrize("key", ["", "/", ".", "..", "./", "../", "???a", "a??b"])
def test_keys_without_a_file_of_their_own_are_refused(key: str) -> None:
    """N6: the peers fail half-way for these, in a directory that is not the record's, or in another item's file."""
    with pytest.raises(InvalidKey) as failure:
        file_name(key)
    assert failure.value.key == key
    assert isinstance(failure.value, ValueError)


@pytest.mark.parametrize("key", ["\0", "a\0", "\0a"])
def test_a_nul_never_reaches_a_path(key: str) -> None:
    if key == "\0a":
        assert file_name(key) == "=AGE="
    else:
        with pytest.raises(InvalidKey):
            file_name(key)


@pytest.mark.parametrize(
    "key", ["...", "....", "a.", ".a", "..a", "=", "a=", "0", "~", "\n", "a\n", "a b", "日本", "日本a", "😀"]
)
def test_other_odd_keys_are_one_entry_of_a_directory(key: str) -> None:
    name = file_name(key)
    assert "/" not in name
    assert name not in ("", ".", "..")
    plain = set(".0123456789abcdefghijklmnopqrstuvwxyz").issuperset(key[:-1])
    assert name == (key if plain else "=" + standard_b64encode(key.encode()).decode())


def test_the_length_is_that_of_a_file_name() -> None:
    assert file_name("a" * 255) == "a" * 255
    assert len(file_name("A" * 189)) == 253
    for key in ("a" * 256, "a" * 254 + "é", "A" * 190, "x" * 1_000_000):
        with pytest.raises(InvalidKey) as failure:
            file_name(key)
        assert len(str(failure.value)) < 400


def test_bytes_of_the_command_line_that_are_not_utf8_name_the_file_that_the_peers_name() -> None:
    assert file_name("a\udcffb") == "=" + standard_b64encode(b"a\xffb").decode()
    assert file_name("a\udcff").encode("utf-8", "surrogateescape") == b"a\xff"
    with pytest.raises(InvalidKey):
        file_name("\ud800x")
