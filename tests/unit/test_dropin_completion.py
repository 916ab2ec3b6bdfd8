"""Completion: what the next word can be."""

import subprocess
import sys
from pathlib import Path

import pytest

import orlop
import peers
from orlop.dropin import commands
from orlop.dropin.completion import DIRECTORIES, FILES, candidates

PROGRAM = Path(sys.executable).parent / "orlop-storage"


@pytest.fixture
def store(tmp_path: Path) -> list[str]:
    """Words that name a store with a few things in it."""
    peers.need_root()
    with orlop.open_store(tmp_path / "graph", tmp_path / "run", "vfs") as store:
        store.layers.create(id="layer1", names=["base", "example.org/base:1"])
        image = store.images.create(id="image1", layer="layer1", names=["img"])
        store.images.data(image.id)["manifest"] = b"{}"
        store.containers.create(id="box1", image="image1", names=["box"])
    return ["-g", str(tmp_path / "graph"), "--run=" + str(tmp_path / "run"), "-s", "vfs"]


def after(*before: str, word: str = "") -> list[str]:
    return [value for value, _ in candidates(list(before), word)]


# --- which words --------------------------------------------------------------------------------------------


def test_commands_are_offered_first_by_their_main_names() -> None:
    assert after() == [command.names[0] for command in commands.COMMANDS]
    assert after(word="umo") == ["umount"]
    assert "unmount" in after(word="u")
    assert "umount" not in after(word="u")
    assert after("nonsense") == []


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda command: command.names[0])
def test_every_flag_of_every_command_is_offered(command: commands.Command) -> None:
    offered = after(command.names[0], word="-")
    for flag in (*commands.GLOBAL, *command.flags):
        assert next(spelling for spelling in flag.spellings if spelling.startswith("--")) in offered
    assert "--help" not in offered


def test_flags_before_the_command_are_the_global_ones() -> None:
    offered = after(word="-")
    assert offered[:1] == ["--graph"]
    assert offered[-1:] == ["--help"]
    assert "--json" not in offered
    assert after("-g", "/x", "--debug", word="-") == offered


def test_a_flag_that_needs_a_value_gets_one() -> None:
    assert after("-g") == [":directories"]
    assert list(candidates(["layers", "--run"], "")) == [DIRECTORIES]
    assert list(candidates(["diff", "--file"], "-x")) == [FILES]
    assert {"overlay", "vfs"} <= set(after("-s"))
    assert after("dedup", "--hash-method") == ["crc", "size", "sha256"]
    assert after("create-layer", "-rn") == []  # the last letter of a group
    assert after("create-layer", "-n", "x", "--json", word="--i") == after("create-layer", word="--")


def test_after_the_first_argument_there_are_no_flags(store: list[str]) -> None:
    assert "-" not in {value[:1] for value in after(*store, "mount", "base", word="-")}
    assert after(*store, "mount", "--", word="-") == after(*store, "mount")


def test_arguments_are_what_the_store_has(store: list[str]) -> None:
    layers = ["base", "example.org/base:1", "layer1"]
    with orlop.open_store(store[1], store[2][6:], "vfs") as opened:
        layers.append(opened.containers["box"].layer)
    assert after(*store, "layer") == layers
    assert after(*store, "layer", "base") == layers
    assert after(*store, "image") == after(*store, "image", "-j") == ["img", "image1"]
    assert after(*store, "create-container") == ["img", "image1"]
    assert after(*store, "create-container", "img") == []
    assert after(*store, "unmount") == [*layers, "box", "box1"]
    assert after(*store, "exists") == [*layers, "img", "image1", "box", "box1"]
    assert after(*store, "get-image-data", "img") == ["manifest"]
    assert after(*store, "get-image-data", "img", "manifest") == []
    assert after(*store, "copy", word="x") == [":files", *(f"{name}:" for name in layers)]
    assert after(*store, "config") == [":files"]
    assert after(*store, "layers") == []
    assert dict(candidates([*store, "image"], ""))["img"] == "image image1"


def test_looking_makes_no_store_and_is_silent_about_errors(tmp_path: Path) -> None:
    assert after("-g", str(tmp_path / "graph"), "-R", str(tmp_path / "run"), "layer") == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "graph").mkdir()
    assert after("-g", str(tmp_path / "graph"), "-R", str(tmp_path / "run"), "-s", "nope", "layer") == []
    assert after("-g", str(tmp_path / "graph"), "-R", "/dev/null", "-s", "vfs", "layer") == []


def test_an_object_that_is_not_there_has_no_keys(store: list[str]) -> None:
    assert after(*store, "get-image-data", "nope") == []


# --- the command --------------------------------------------------------------------------------------------


def called(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False, timeout=30)


def test_another_shell_is_an_error() -> None:
    said = called("completion", "csh")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == "no completion for csh: wanted bash, zsh, fish\n"


def test_the_script_is_made_without_a_store(tmp_path: Path) -> None:
    said = called("-g", str(tmp_path / "g"), "-R", str(tmp_path / "r"), "completion", "bash")
    assert (said.returncode, said.stderr) == (0, "")
    assert "complete -F _orlop_storage orlop-storage\n" in said.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "word", "found"),
    [
        ("orlop-storage layers --tr", "--tr", ["--transient-store", "--tree"]),
        ("orlop-storage STORE layer base ex", "ex", ["example.org/base:1"]),
        ("orlop-storage STORE layer example.org/base:", ":", ["1"]),
        ("orlop-storage STORE layer example.org/base:1", "1", ["1"]),
        ("orlop-storage STORE copy bas", "bas", ["base:"]),
    ],
)
def test_bash_gets_what_follows_its_own_break(
    store: list[str], line: str, word: str, found: list[str]
) -> None:
    """It breaks words at colons, and puts a candidate behind the break."""
    said = called("completion", "bash", line.replace("STORE", " ".join(store)), word)
    values = [entry.split("\t")[0] for entry in said.stdout.splitlines()]
    assert sorted(value for value in values if value[:1] != ":") == found
