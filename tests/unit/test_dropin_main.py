"""From words to an answer: the order of events, streams and exit statuses (`spec/cli.md` 1), on a vfs store."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.config import load
from orlop.dropin import commands
from orlop.dropin.main import main
from orlop.dropin.streams import Streams

PROGRAM = Path(sys.executable).parent / "orlop-storage"


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err


class Shell:
    """Calls `main` as the installed program would, and takes what it writes."""

    def __init__(self, base: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.base = base
        self.capfd = capfd
        self.roots = ["--graph", str(base / "graph"), "--run", str(base / "run"), "--storage-driver", "vfs"]

    def bare(self, *words: str) -> Outcome:
        streams = Streams()
        status = main("PROGRAM", list(words), streams)
        streams.flush()
        return Outcome(status, *self.capfd.readouterr())

    def __call__(self, *words: str) -> Outcome:
        return self.bare(*self.roots, *words)

    def process(self, *words: str, **how: object) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run([str(PROGRAM), *self.roots, *words], check=False, timeout=60, **how)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def shell(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """With a machine that has no configuration file, and a home of its own."""
    monkeypatch.setattr(load, "SYSTEM_FILE", str(tmp_path / "system.conf"))
    monkeypatch.setattr(load, "OVERRIDE_FILE", str(tmp_path / "override.conf"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return Shell(tmp_path, capfd)


def configure(shell: Shell, text: str) -> None:
    (shell.base / "override.conf").write_text(text)


# --- the table ----------------------------------------------------------------------------------------------


def test_every_command_has_a_function_that_answers_it() -> None:
    for command in commands.COMMANDS:
        assert callable(command.load()), command.names


def test_names_and_aliases_are_unique() -> None:
    names = [name for command in commands.COMMANDS for name in command.names]
    assert len(names) == len(set(names))


def test_no_flag_is_declared_twice_for_a_command() -> None:
    """Global flags may follow the command, so they share its letters."""
    for command in commands.COMMANDS:
        spellings = [s for flag in (*commands.GLOBAL, *command.flags) for s in flag.spellings]
        assert len(spellings) == len(set(spellings)), command.names


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda command: command.names[0])
def test_every_command_has_a_help_text(command: commands.Command, shell: Shell) -> None:
    for name in command.names:
        answer = shell.bare(name, "--help")
        assert answer.status == 125
        assert answer.out.startswith(f"Usage: PROGRAM {name} [options [...]]")
        assert command.summary in answer.out
        assert answer.out.endswith("\n\nOptions:\n")
        for flag in command.flags:
            assert f"  {', '.join(flag.spellings)}" in answer.err
        assert "--graph, -g" in answer.err


def test_general_help_lists_every_command(shell: Shell) -> None:
    answer = shell.bare("--help")
    assert (answer.status, answer.err) == (0, "")
    for command in commands.COMMANDS:
        assert f"\n  {command.names[0]:30}{command.summary}\n" in answer.out
    assert "\n  --storage-opt=[]" in answer.out


def test_help_shows_the_values_that_hold(shell: Shell) -> None:
    configure(shell, '[storage]\ndriver="vfs"\ngraphroot="$HOME/g"\n')
    answer = shell.bare("layers", "--help")
    assert "  --graph, -g=~/g " in answer.err
    assert "  --storage-driver, -s=vfs " in answer.err


# --- what fails first ---------------------------------------------------------------------------------------


def test_an_unknown_command_is_told_before_its_flags(shell: Shell) -> None:
    answer = shell("bogus", "--bogus")
    assert (answer.status, answer.out, answer.err) == (1, "bogus: unrecognized command.\n", "")


def test_wrong_flags_are_told_before_a_broken_configuration(shell: Shell) -> None:
    configure(shell, "broken")
    assert shell.bare("layers", "--bogus").status == 125
    answer = shell.bare("layers")
    assert answer.status == 1
    assert answer.out.startswith(f"error initializing: {shell.base}/override.conf: wanted TOML")
    assert answer.err == ""


def test_a_store_that_cannot_be_opened_is_told_on_standard_output(shell: Shell) -> None:
    answer = shell.bare("-g", str(shell.base / "g"), "-R", str(shell.base / "r"), "-s", "nope", "version")
    assert answer.status == 1
    assert (
        answer.out
        == f"error initializing: failed to GetDriver graph nope {shell.base}/g: driver not supported\n"
    )


@pytest.mark.parametrize("flags", [["-s", "vfs"], ["--storage-opt", "a=b"]])
def test_a_driver_without_roots_is_not_enough(shell: Shell, flags: list[str]) -> None:
    answer = shell.bare(*flags, "layers")
    assert answer.status == 1
    assert answer.out == (
        "error initializing: no storage runroot or graphroot specified: missing necessary StoreOptions\n"
    )


def test_a_durability_that_is_none_is_refused(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell("--storage-opt", "orlop.durability=none", "layers").status == 0
    assert shell("--storage-opt", "orlop.durability=some", "layers").out.startswith("error initializing: ")
    monkeypatch.setenv("ORLOP_DURABILITY", "some")
    assert shell("layers").out.startswith("error initializing: ")


# --- where settings come from -------------------------------------------------------------------------------


def test_without_flags_before_the_command_the_configuration_holds(shell: Shell) -> None:
    configure(shell, f'[storage]\ndriver="vfs"\ngraphroot="{shell.base}/cg"\nrunroot="{shell.base}/cr"\n')
    pairs = dict(json.loads(shell.bare("status", "--json").out))
    assert (pairs["Root"], pairs["Run Root"]) == (f"{shell.base}/cg", f"{shell.base}/cr")
    # A flag behind the command changes one setting and keeps the others.
    pairs = dict(json.loads(shell.bare("status", "--json", "--graph", f"{shell.base}/x").out))
    assert (pairs["Root"], pairs["Run Root"]) == (f"{shell.base}/x", f"{shell.base}/cr")


def test_one_flag_before_the_command_puts_the_configuration_aside(shell: Shell) -> None:
    configure(
        shell,
        f'[storage]\ndriver="nope"\ngraphroot="{shell.base}/cg"\nrunroot="{shell.base}/cr"\n',
    )
    pairs = dict(json.loads(shell.bare("--graph", f"{shell.base}/x", "status", "--json", "-s", "vfs").out))
    assert (pairs["Root"], pairs["Run Root"]) == (f"{shell.base}/x", f"{shell.base}/cr")


def test_the_value_behind_the_command_wins_and_options_accumulate(shell: Shell) -> None:
    answer = shell(
        "--storage-opt=.imagestore=",
        "status",
        "-g",
        str(shell.base / "other"),
        "--storage-opt",
        "vfs.imagestore=",
        "-j",
    )
    pairs = dict(json.loads(answer.out))
    assert pairs["Root"] == str(shell.base / "other")
    assert pairs["Driver Options"] == "[.imagestore= vfs.imagestore=]"


@pytest.mark.parametrize("before", [True, False])
def test_a_transient_store_is_one_wherever_the_flag_stands(shell: Shell, before: bool) -> None:
    """The peers forget it if it stands before the command and nothing else does."""
    configure(shell, f'[storage]\ndriver="vfs"\ngraphroot="{shell.base}/g"\nrunroot="{shell.base}/r"\n')
    words = ["create-container", "-i", "C1", ""]
    words = ["--transient-store", *words] if before else [words[0], "--transient-store", *words[1:]]
    assert shell.bare(*words).status == 0
    assert (shell.base / "r/vfs-containers/volatile-containers.json").exists()
    assert shell.bare("containers").out == ""


@pytest.mark.parametrize("before", [True, False])
def test_an_image_store_is_used_wherever_the_flag_stands(shell: Shell, before: bool) -> None:
    configure(shell, f'[storage]\ndriver="vfs"\ngraphroot="{shell.base}/g"\nrunroot="{shell.base}/r"\n')
    store = ["--image-store", str(shell.base / "split")]
    words = [*store, "create-image", "-i", "I1"] if before else ["create-image", *store, "-i", "I1"]
    assert shell.bare(*words).status == 0
    assert (shell.base / "split/vfs-images/images.json").exists()


def test_relative_roots_are_taken_from_here(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shell.base)
    pairs = dict(json.loads(shell.bare("-g", "g", "-R", "r", "-s", "vfs", "status", "-j").out))
    assert (pairs["Root"], pairs["Run Root"]) == (f"{shell.base}/g", f"{shell.base}/r")


def test_warnings_about_the_configuration_are_told_once(shell: Shell) -> None:
    configure(shell, f'[storage]\ngraphroot="{shell.base}/g"\nrunroot="{shell.base}/r"\nnope=1\n')
    answer = shell.bare("layers", "-s", "vfs")
    assert [re.search(r"level=(\w+) msg=\"(\w+)", line)[0] for line in answer.err.splitlines()] == [  # type: ignore[index]
        'level=warning msg="Failed',
        'level=warning msg="The',
    ]
    assert shell("layers").err == ""


def test_debug_lines_begin_with_the_settings(shell: Shell) -> None:
    lines = shell("--debug", "layers").err.splitlines()
    messages = [re.fullmatch(r'time="[^"]+" level=debug msg="(.*)"', line)[1] for line in lines]  # type: ignore[index]
    assert messages[:4] == [
        f"Root: {shell.base}/graph",
        f"Run Root: {shell.base}/run",
        "Driver Name: vfs",
        "Driver Options: []",
    ]
    assert shell("--debug", "layers", "--debug=false").err == ""


# --- streams ------------------------------------------------------------------------------------------------


def test_status_and_version_speak_on_standard_error(shell: Shell) -> None:
    from orlop.version import __version__

    assert (shell("version").out, shell("version").err) == ("", f"Version: {__version__}\n")
    assert shell("version", "-j").out == f'[["Version","{__version__}"]]\n'
    assert shell("status").err.splitlines()[:3] == [
        f"Root: {shell.base}/graph",
        f"Run Root: {shell.base}/run",
        "Driver Name: vfs",
    ]


def test_both_streams_together_are_in_the_order_of_the_arguments(shell: Shell) -> None:
    """The acceptance suite of the peers reads them merged."""
    shell("create-layer", "-i", "L1")
    done = shell.process("mount", "no", "L1", "nope", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.stdout.decode().splitlines() == [
        "layer not known while mounting no",
        "",
        f"{shell.base}/graph/vfs/dir/L1",
        "layer not known while mounting nope",
        "",
    ]


@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_words_and_paths_that_are_not_utf_8_stay_as_they_are(shell: Shell, locale: str) -> None:
    environ = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    graph = os.fsencode(shell.base) + b"/caf\xc3\xa9\xff"
    words = [b"exists", b"--graph", graph, b"caf\xc3\xa9", b"\xff\xfe"]
    argv = [os.fsencode(word) for word in (PROGRAM, *shell.roots)] + words
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False, env=environ)
    assert (done.stdout, done.stderr) == (b"caf\xc3\xa9: false\n\xff\xfe: false\n", b"")
    assert os.path.isdir(graph)


def test_a_reader_that_left_ends_the_program_like_any_other(shell: Shell) -> None:
    shell("create-layer", "-i", "L1")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = shell.process("layers", stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("command", ["diff -u L1", "get-layer-data L1 key"])
def test_a_reader_that_has_enough_ends_the_program_in_the_middle(shell: Shell, command: str) -> None:
    (shell.base / "big").write_bytes(bytes(4 << 20))
    archive = subprocess.run(
        ["tar", "-C", shell.base, "-cf-", "big"], stdout=subprocess.PIPE, check=True
    ).stdout
    assert shell.process("import-layer", "-i", "L1", input=archive, stdout=subprocess.DEVNULL).returncode == 0
    assert shell("set-layer-data", "-f", str(shell.base / "big"), "L1", "key").status == 0
    words = [str(PROGRAM), *shell.roots, *command.split()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_is_no_place_for_a_lock_file(shell: Shell, closed: str) -> None:
    """The lowest free number goes to the next file opened, and answers would be written into that."""
    shell("create-layer", "-i", "L1")
    before = files_of(shell.base / "graph")
    for command in ("layers", "get-names zz", "diff -u L1"):
        line = " ".join([str(PROGRAM), *shell.roots, command, closed])
        subprocess.run(
            ["sh", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
        )
    assert files_of(shell.base / "graph") == before


def files_of(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_answer_that_cannot_be_written_is_a_failure(shell: Shell) -> None:
    """The peers ignore it and exit 0."""
    shell("create-layer", "-i", "L1")
    with open("/dev/full", "wb") as full:
        done = shell.process("layers", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"write /dev/stdout: no space left on device\n"


def test_the_program_answers_inside_a_namespace(shell: Shell) -> None:
    """The whole command line is run again there, and its status is passed on."""
    if os.geteuid() != 0:
        pytest.skip("needs root rights, or ids set aside for the user")
    for words in (["layer", "nope"], ["layers", "--bogus"]):
        inside = shell.process(*words[:1], "--unshare", *words[1:], capture_output=True)
        here = shell.process(*words, capture_output=True)
        assert (inside.returncode, inside.stdout, inside.stderr) == (
            here.returncode,
            here.stdout,
            here.stderr,
        )
    assert shell.process("-U", "create-layer", "-i", "L1", stdout=subprocess.PIPE).stdout == b"L1\n"
    assert shell("layers").out == "L1\n"


# --- config -------------------------------------------------------------------------------------------------


def test_config_shows_the_settings_of_the_user_whatever_the_flags_say(shell: Shell) -> None:
    configure(shell, '[storage]\ndriver="overlay"\ngraphroot="$HOME/g"\n')
    shown = json.loads(shell("config").out)
    assert shown["root"] == f"{shell.base}/home/g"
    assert shown["driver"] == "overlay"


def test_config_shows_what_a_file_says_and_nothing_else(shell: Shell) -> None:
    file = shell.base / "some.conf"
    file.write_text('[storage]\ndriver="vfs"\nrunroot="$HOME/r"\n')
    answer = shell("config", str(file))
    assert answer.out == '{"runroot":"$HOME/r","RootlessStoragePath":"","driver":"vfs","PullOptions":null}\n'


def test_config_tells_which_step_failed(shell: Shell) -> None:
    answer = shell("config", "/no/such")
    assert (answer.status, answer.err) == (1, "reload: stat /no/such: no such file or directory\n")
    configure(shell, "broken")
    assert shell("config").err.startswith("default: ")
