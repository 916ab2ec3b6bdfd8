"""Programs in a user namespace: the command `unshare` and the flag `--unshare` (`spec/userns.md` 5, `cli.md` 10.9).

Debian's containers-storage has no such command; what buildah's makes for an ordinary user is what ours must make.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ordinary_user
import pytest
from ordinary_user import FIRST_ID, IDS, User

import peers

WHERE = "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; id -u; env | grep -E '_CONT|BUILD' | sort"


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with ordinary_user.made() as user:
        yield user


@pytest.fixture
def store(user: User) -> list[str]:
    """Flags for a store in the user's home."""
    return ["-g", f"{user.home}/store/graph", "-R", f"{user.home}/store/run", "-s", "vfs"]


# --- what it is like inside ---------------------------------------------------------------------------------


def test_an_ordinary_user_gets_the_namespace_that_buildah_makes(user: User, store: list[str]) -> None:
    peers.need("buildah")
    ours = user.orlop(*store, "unshare", "sh", "-c", WHERE)
    assert ours.lines == user.run("buildah", "unshare", "sh", "-c", WHERE).lines
    assert [line.split() for line in ours.lines[:2]] == [
        ["0", str(user.uid), "1"],
        ["1", str(FIRST_ID), str(IDS)],
    ]
    assert ours.err == b""


def test_a_user_is_who_the_system_says_whatever_the_environment_says(user: User, store: list[str]) -> None:
    assert len(user.orlop(*store, "unshare", "cat", "/proc/self/uid_map", USER="root").lines) == 2


def test_root_gets_a_namespace_by_the_command_too(ours: peers.Program) -> None:
    """He is root in it; the flag alone, or nothing, would not be enough for the peers to make one."""
    peers.need_root()
    said = ours("unshare", "sh", "-c", f"{WHERE}; readlink /proc/self/ns/user")
    assert said.lines[0].split()[:2] == ["0", "0"]
    assert "_CONTAINERS_USERNS_CONFIGURED=done" in said.lines
    assert said.lines[-1] != os.readlink("/proc/self/ns/user")


@pytest.mark.parametrize("flags", [["--unshare"], ["-U=true"]])
def test_there_is_one_namespace_and_not_a_second_in_it(ours: peers.Program, flags: list[str]) -> None:
    peers.need_root()
    inside = "readlink /proc/self/ns/user /proc/$PPID/ns/user"
    one, other = ours(*flags, "unshare", "sh", "-c", inside).lines
    assert one == other != os.readlink("/proc/self/ns/user")


def test_a_user_may_have_everything_done_here_but_for_the_command(user: User, store: list[str]) -> None:
    """`--unshare=false` is for those who only look at a store: nothing can be given to root from there."""
    assert user.orlop("--unshare=false", *store, "layers").text == ""
    refused = user.orlop("--unshare=false", *store, "create-layer", ok=False)
    assert (refused.status, refused.err.endswith(b"operation not permitted\n")) == (1, True)
    assert user.orlop("--unshare=false", *store, "unshare", "id", "-u").text == "0\n"


def test_orlop_answers_a_user_from_inside(user: User, store: list[str]) -> None:
    """Outside he cannot read what belongs to his subordinate ids: a store that is whole would look damaged."""
    made = user.orlop(*store, "create-layer").lines[0]
    home = user.home / "store/graph/vfs/dir" / made
    user.orlop(
        "unshare", "sh", "-c", f"umask 077; mkdir {home}/d; echo 1 > {home}/d/f; chown -R 5:5 {home}/d"
    )
    orlop = ("-c", "from orlop.cli.main import run; raise SystemExit(run())")
    words = (user.python, *orlop, "--root", store[1], "--runroot", store[3], "-d", "vfs")
    checked = user.run(*words, "check")
    assert (checked.err, checked.text.endswith(": all is well\n")) == (b"", True)
    assert f"{made[:12]}" in user.run(*words, "df", "--layers").text
    assert user.run(*words, "rm", "-y", made).text.startswith("1 done")
    assert not home.exists()
    assert user.run(*words, "nonsense", ok=False).status == 2


def test_mounts_made_inside_are_gone_outside(user: User, store: list[str]) -> None:
    point = user.home / "point"
    point.mkdir(exist_ok=True)
    point.chmod(0o777)
    script = f"mount -t tmpfs none {point} && touch {point}/file && ls {point}"
    assert user.orlop(*store, "unshare", "sh", "-c", script).text == "file\n"
    assert list(point.iterdir()) == []


def test_root_who_may_not_mount_gets_his_own_ids_in_a_namespace_where_he_may(ours: peers.Program) -> None:
    """Root of a container, for example. Nobody needs to ask for it."""
    peers.need_root()
    ours = ours.on(run_as=("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"))
    script = "cat /proc/self/uid_map; mount -t tmpfs none /mnt && echo mounted"
    *rows, last = ours("unshare", "sh", "-c", script).lines
    assert last == "mounted"
    assert all(inside == outside for inside, outside, _ in map(str.split, rows))
    assert ours("--debug", "layers").status == 0


# --- words and statuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "err"),
    [
        (["true"], 0, ""),
        (["--", "true"], 0, ""),
        (["sh", "-c", "exit 3"], 1, "exit status 3\n"),
        (["sh", "-c", "exit 143"], 1, "exit status 143\n"),
        (["sh", "-c", "kill -TERM $$"], 1, "signal: terminated\n"),
        (["sh", "-c", "kill -KILL $$"], 1, "signal: killed\n"),
        (["no-such-program"], 1, 'exec: "no-such-program": executable file not found in $PATH\n'),
        (["/no/such"], 1, "fork/exec /no/such: no such file or directory\n"),
        (["/tmp"], 1, "fork/exec /tmp: permission denied\n"),
        ([""], 1, 'exec: "": executable file not found in $PATH\n'),
    ],
)
@pytest.mark.parametrize("who", ["root", "user"])
def test_whatever_the_words_end_with_is_told_and_is_1(
    request: pytest.FixtureRequest,
    ours: peers.Program,
    who: str,
    words: list[str],
    status: int,
    err: str,
) -> None:
    if who == "root":
        peers.need_root()
        said = ours("unshare", *words, ok=False)
    else:
        user = request.getfixturevalue("user")
        said = user.orlop(*request.getfixturevalue("store"), "unshare", *words, ok=False)
    assert (said.status, said.err.decode(), said.text) == (status, err, "")


def test_flags_of_the_words_are_theirs(user: User, store: list[str]) -> None:
    assert user.orlop(*store, "unshare", "ls", "-d", "--", "/").text == "/\n"
    wrong = user.orlop(*store, "unshare", "--bogus", "ls", ok=False)
    assert (wrong.status, wrong.lines) == (125, [])
    assert wrong.err.startswith(b"flag provided but not defined: --bogus\n")


@pytest.mark.parametrize("shell", ["/bin/dash", ""])
def test_without_words_there_is_a_shell_with_our_streams(user: User, store: list[str], shell: str) -> None:
    said = user.orlop(*store, "unshare", data=b"echo $0; id -u; echo err >&2; exit 4", ok=False, SHELL=shell)
    assert said.lines == [shell or "/bin/sh", "0"]
    assert (said.status, said.err) == (1, b"err\nexit status 4\n")


def test_a_store_that_cannot_be_opened_is_told_first(user: User) -> None:
    said = user.orlop("-g", "/proc/nowhere", "-R", "/proc/nowhere", "unshare", "echo", "ran", ok=False)
    assert said.status == 1
    assert said.text.startswith("error initializing: ")


def test_what_an_ordinary_command_is_killed_by_is_told_by_the_status(user: User, store: list[str]) -> None:
    """128 and the signal, as a shell has it. The command waits for its archive."""
    with user.start(*user.program, *store, "import-layer") as process:
        _wait_until(lambda: _command(process.pid)[0] == user.python)
        inner = _the_child_of(process.pid)
        _wait_until(lambda: b"_CONTAINERS_USERNS_CONFIGURED" in Path(f"/proc/{inner}/environ").read_bytes())
        os.kill(inner, signal.SIGKILL)
        process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGKILL


def test_help_tells_what_happens_to_him_who_says_nothing(user: User, store: list[str]) -> None:
    assert b"  --unshare, -U=true  " in user.orlop(*store, "layers", "--help", ok=False).err
    assert b"  --unshare, -U  " in user.orlop("--unshare=false", *store, "layers", "--help", ok=False).err


# --- fewer ids ----------------------------------------------------------------------------------------------


def test_without_the_helpers_there_is_one_id_and_a_warning_in_the_log(user: User, store: list[str]) -> None:
    words = [
        *store,
        "unshare",
        "/bin/cat",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
    ]
    quiet = user.orlop(*words, PATH="/nowhere")
    assert [line.split() for line in quiet.lines] == [
        ["0", str(user.uid), "1"],
        ["0", str(user.uid), "1"],
        ["deny"],
    ]
    assert quiet.err == b""
    told = user.orlop("--debug", *words, PATH="/nowhere")
    assert told.lines == quiet.lines
    for kind in ("uid", "gid"):
        text = f'level=warning msg="cannot run new{kind}map: No such file or directory; '
        assert f'{text}using a single {kind.upper()}"' in told.err.decode()


def test_a_store_works_with_one_id(user: User, store: list[str]) -> None:
    """Files of other owners are refused, and say what is missing."""
    from test_rootless import _layers

    assert user.orlop(*store, "create-layer", "-i", "one", PATH="/nowhere").text == "one\n"
    refused = user.orlop(*store, "import-layer", data=_layers()[0], ok=False, PATH="/nowhere")
    assert refused.status == 1
    assert b"potentially insufficient UIDs or GIDs available in user namespace" in refused.err
    assert user.orlop(*store, "layers", PATH="/nowhere").text == "one\n"
    user.orlop(*store, "delete-layer", "one", PATH="/nowhere")


# --- signals ------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(user: User, store: list[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program in a namespace that waits for signals; the outermost process, and the program's id."""
    script = "trap 'echo got TERM; exit 7' TERM; echo $PPID; while :; do sleep 0.05; done"
    with user.start(*user.program, *store, "unshare", "sh", "-c", script) as process:
        assert process.stdout is not None
        above = int(process.stdout.readline())
        yield process, _the_child_of(above)
        process.kill()


def test_a_signal_reaches_the_program_through_both_of_us(
    waiting: tuple[subprocess.Popen[bytes], int],
) -> None:
    process, _ = waiting
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (1, b"got TERM\n", b"exit status 7\n")


def test_the_program_dies_with_the_first_of_us(waiting: tuple[subprocess.Popen[bytes], int]) -> None:
    process, program = waiting
    process.kill()
    process.wait()
    _wait_until(lambda: not _lives(program))


def _the_child_of(parent: int) -> int:
    found: list[str] = []

    def look() -> bool:
        found[:] = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return bool(found)

    _wait_until(look)
    return int(found[0])


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
