"""Configuration files that programs change (`spec/config.md` 13)."""

import datetime
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configured import Machine, machine
from orlop.config import saving
from orlop.errors import ConfigError
from orlop.model.options import StoreOptions

__all__ = ["machine"]


def test_a_file_is_read_changed_and_written(machine: Machine) -> None:
    """Comments are lost, as with the peers; keys of newer programs are kept, unlike with them."""
    machine.override_file.write_text(
        "# why\n[storage]\nDriver = 'overlay'\nrunroot = ''\n[storage.options.overlay]\nmountopt = 'nodev'\n"
        "[newer.program]\nsince = 1979-05-27\nat = [1.5, {a = true}]\n"
    )
    configuration = machine.configuration()
    path = configuration.default_file()
    tables = saving.read(path)
    tables["storage"]["Driver"] = "vfs"
    tables["storage"]["graphroot"] = '/g "and" \\ so\n on'
    saving.write(path, tables)
    assert machine.override_file.read_text() == (
        '[storage]\nDriver = "vfs"\ngraphroot = "/g \\"and\\" \\\\ so\\n on"\n'
        '[storage.options.overlay]\nmountopt = "nodev"\n'
        "[newer.program]\nsince = 1979-05-27\nat = [1.5, {a = true}]\n"
    )
    assert configuration.load(path) == StoreOptions('/g "and" \\ so\n on', driver="vfs")


def test_a_file_that_is_not_there_has_no_tables_and_can_be_made(tmp_path: Path) -> None:
    path = tmp_path / "new/containers/storage.conf"
    assert saving.read(str(path)) == {}
    saving.write(str(path), {"storage": {"driver": "vfs", "options": {"pull_options": {"a": "true"}}}})
    assert path.stat().st_mode & 0o7777 == 0o644
    assert path.read_text() == '[storage]\ndriver = "vfs"\n[storage.options.pull_options]\na = "true"\n'
    saving.write(str(path), {"storage": {"driver_priority": ("a", "b"), "options": {}}})
    assert path.read_text() == '[storage]\ndriver_priority = ["a", "b"]\n'
    saving.write(str(path), {})
    assert path.read_text() == ""


def test_mode_and_links_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.conf", tmp_path / "link.conf"
    real.touch(mode=0o640)
    link.symlink_to("real.conf")
    saving.write(str(link), {"storage": {"driver": "vfs"}})
    assert link.is_symlink()
    assert real.read_text() == '[storage]\ndriver = "vfs"\n'
    assert real.stat().st_mode & 0o7777 == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.conf", "real.conf"]


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"storage": {"driver": 1}}, "storage.driver: wanted a string"),
        ({"storage": {"driver_priority": "vfs"}}, "storage.driver_priority: wanted a list of strings"),
        ({"storage": {"options": {"pull_options": {"a": True}}}}, "pull_options.a: wanted a string"),
        ({"storage": {"driver": b"vfs"}}, "found a bytes"),
        ({"other": {"number": float("nan")}}, "would not be read as what is to be written"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    tmp_path: Path, tables: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "storage.conf"
    path.write_text("[storage]\n")
    with pytest.raises(ConfigError, match=problem):
        saving.write(str(path), tables)
    assert path.read_text() == "[storage]\n"


def test_a_broken_file_is_not_read_as_an_empty_one(tmp_path: Path) -> None:
    """Its next version would say nothing at all."""
    path = tmp_path / "storage.conf"
    for text in ("broken", "[storage]\ndriver = 1\n"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            saving.read(str(path))


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
    | st.just(True)
    | st.integers(1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.dates(datetime.date(1000, 1, 1))
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(KEYS, inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(KEYS.map("x".__add__), VALUES, max_size=4))
def test_whatever_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.conf"
    saving.write(str(path), tables)
    assert tomllib.loads(path.read_text()) == saving.read(str(path)) == tables
