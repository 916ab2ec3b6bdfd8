"""What every driver shares: option strings, ids, defaults."""

import pytest

from orlop.drivers.api import Driver, DriverOptions, Option, parse_boolean, parse_options
from orlop.drivers.vfs import VFS
from orlop.errors import ConfigError, UnsafeID


@pytest.mark.parametrize(
    ("text", "key", "value", "given"),
    [
        ("vfs.imagestore=/a", "vfs.imagestore", "/a", "vfs.imagestore"),
        (" Overlay.MountOpt = nodev ", "overlay.mountopt", "nodev", "Overlay.MountOpt"),
        ("a=b=c", "a", "b=c", "a"),
        ("=", "", "", ""),
        ("size=", "size", "", "size"),
    ],
)
def test_an_option_is_cut_at_its_first_equals_sign(text: str, key: str, value: str, given: str) -> None:
    assert parse_options([text]) == [Option(key, value, given)]


def test_an_option_without_a_value_is_refused_in_the_peers_words() -> None:
    with pytest.raises(ConfigError) as failure:
        parse_options(["a=b", "noequals"])
    assert failure.value.peer == "unable to parse key/value option: noequals"


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true(text: str) -> None:
    assert parse_boolean(Option("k", text, "k")) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false(text: str) -> None:
    assert parse_boolean(Option("k", text, "k")) is False


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", "2", " true"])
def test_no_other_spelling_is_a_boolean(text: str) -> None:
    with pytest.raises(ConfigError) as failure:
        parse_boolean(Option("vfs.x", text, "VFS.x"))
    assert failure.value.peer == f'strconv.ParseBool: parsing "{text}": invalid syntax'
    assert "VFS.x" in str(failure.value)


class Picky(VFS):
    name = "picky"
    reserved_ids = frozenset(("l", ".hidden"))


BAD_IDS = ["", ".", "..", "/", "a/b", "../evil", "/etc", "nul\0", "x" * 300, "ä" * 150]


@pytest.mark.parametrize("id", [*BAD_IDS, "l", ".hidden"])
def test_an_id_that_is_no_harmless_directory_name_is_refused(id: str) -> None:
    """CVE-2014-9358; and `l` would be the directory of overlay's links."""
    driver: Driver = Picky(DriverOptions("/h/picky", "/r/picky", "/h", "/r"))
    with pytest.raises(UnsafeID, match="picky"):
        driver.check_id(id)


@pytest.mark.parametrize("id", ["a", "0" * 64, "x" * 200, "a b", "ä", ".other", "l2"])
def test_ids_that_older_programs_made_stay_usable(id: str) -> None:
    Picky(DriverOptions("/h/picky", "/r/picky", "/h", "/r")).check_id(id)
