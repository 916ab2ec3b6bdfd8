"""Who we work for, which ids are set aside for him, and running a program in a namespace of its own
(`spec/config.md` 2, `spec/userns.md` 3 and 5)."""

import errno
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peers
from orlop.errors import ConfigError
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import probe, subids, userns
from orlop.system.userns import Identity

ROOT = {"ids": (0, 0), "effective_uid": 0, "sys_admin": True, "initial_namespace": True}
USER = {"ids": (1000, 100), "effective_uid": 1000, "sys_admin": False, "initial_namespace": True}

# --- who we are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "facts", "expected"),
    [
        ({}, ROOT, Identity(0, 0, rootless=False, per_user=False)),
        ({}, USER, Identity(1000, 100, rootless=True, per_user=True)),
        ({}, USER | {"sys_admin": True}, Identity(1000, 100, rootless=True, per_user=True)),
        # Root in a container: no power over the machine, but the system's paths.
        ({}, ROOT | {"sys_admin": False}, Identity(0, 0, rootless=True, per_user=False)),
        ({}, ROOT | {"initial_namespace": False}, Identity(0, 0, rootless=True, per_user=False)),
        ({}, ROOT | {"sys_admin": None}, Identity(0, 0, rootless=False, per_user=False)),
        # In a namespace that podman or we have made.
        (
            {"_CONTAINERS_ROOTLESS_UID": "1000", "_CONTAINERS_ROOTLESS_GID": "100"},
            ROOT | {"initial_namespace": False},
            Identity(1000, 100, rootless=True, per_user=True),
        ),
        ({"_CONTAINERS_ROOTLESS_UID": "1000"}, ROOT, Identity(1000, 0, rootless=True, per_user=True)),
        ({"_CONTAINERS_USERNS_CONFIGURED": "done"}, ROOT, Identity(0, 0, rootless=True, per_user=False)),
        ({"_CONTAINERS_USERNS_CONFIGURED": ""}, ROOT, Identity(0, 0, rootless=False, per_user=False)),
        # Not a number counts as 0, nothing as not given.
        ({"_CONTAINERS_ROOTLESS_UID": "x"}, ROOT, Identity(0, 0, rootless=False, per_user=False)),
        ({"_CONTAINERS_ROOTLESS_UID": ""}, USER, Identity(1000, 100, rootless=True, per_user=True)),
        (
            {"_CONTAINERS_ROOTLESS_UID": "²" + "9" * 5000},
            USER,
            Identity(0, 100, rootless=True, per_user=False),
        ),
        # A program with the set-user-ID bit works for the user, with the powers of root.
        ({}, ROOT | {"ids": (1000, 100)}, Identity(1000, 100, rootless=False, per_user=False)),
    ],
)
def test_rootless_is_decided_by_ids_powers_namespace_and_environment(
    environ: dict[str, str], facts: dict[str, object], expected: Identity
) -> None:
    assert userns.decide(environ, **facts) == expected  # type: ignore[arg-type]


def test_who_we_are_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userns, "_identity", None)
    first = userns.identity({"_CONTAINERS_ROOTLESS_UID": "4711"})
    assert first.uid == 4711
    assert userns.identity({}) is first


def test_powers_and_namespaces_are_read_from_the_kernel() -> None:
    """Seen from a namespace of its own, where a process has all powers and few ids."""
    code = (
        "from orlop.system import probe; print(probe.has_capability(21), probe.in_initial_user_namespace())"
    )
    inside = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert inside.stdout == "True False\n"
    if os.geteuid() == 0:
        dropped = subprocess.run(
            ["setpriv", "--bounding-set", "-sys_admin", sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        assert dropped.stdout.split()[0] == "False"
        assert probe.has_capability(probe.CAP_SYS_ADMIN) is True


# --- subordinate ids ----------------------------------------------------------------------------------------

SUBUID = b"""# comment
alice:100000:65536

  bob:1:2
1000:300000:10
alice:500000:0
bob:not:checked
"""


@pytest.mark.parametrize(
    ("owner", "uid", "expected"),
    [
        ("alice", None, ((100000, 65536), (500000, 0))),
        ("alice", 1000, ((100000, 65536), (300000, 10), (500000, 0))),
        ("1000", None, ((300000, 10),)),
        ("carol", None, ()),
        ("carol", 5, ()),
    ],
)
def test_ranges_are_found_by_name_and_by_number(
    owner: str, uid: int | None, expected: tuple[tuple[int, int], ...]
) -> None:
    assert subids.parse_subordinate_ids(SUBUID, owner, uid=uid, file="f") == expected


def test_all_means_everybody() -> None:
    data = b"a:1:2\n7:3:4\n"
    assert subids.parse_subordinate_ids(data, "ALL", uid=None, file="f") == ((1, 2), (3, 4))


@pytest.mark.parametrize("line", [b"alice:1", b"alice:1:2:3", b"nonsense", b"::::"])
def test_a_malformed_line_fails_the_lookup_whoever_it_is_about(line: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        subids.parse_subordinate_ids(SUBUID + line, "alice", uid=None, file="/etc/subuid")
    assert caught.value.peer == (
        "cannot parse subuid/gid information: Format not correct for /etc/subuid file"
    )
    assert caught.value.path == "/etc/subuid"


@pytest.mark.parametrize(
    "field",
    ["", "x", "-1", "+1", " 1", "1 ", "0x10", "4294967296", "9" * 5000, "١"],
)
def test_a_number_that_is_none_fails_the_lookup(field: str) -> None:
    for line in (f"alice:{field}:1", f"alice:1:{field}x"):
        with pytest.raises(
            ConfigError, match="string to int conversion failed during subuid/gid parsing of f"
        ):
            subids.parse_subordinate_ids(line.encode(), "alice", uid=None, file="f")


@given(st.binary() | st.text("0123456789:a#\n -").map(str.encode))
def test_any_bytes_are_ranges_or_our_error(data: bytes) -> None:
    try:
        found = subids.parse_subordinate_ids(data, "ALL", uid=None, file="f")
    except ConfigError:
        return
    assert all(0 <= number < 1 << 32 for pair in found for number in pair)


def test_files_are_read_with_the_number_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("0:100000:7\nroot:5:1\n")
    assert subids.subordinate_ids("root", "uid", file=str(file)) == ((100000, 7), (5, 1))
    assert subids.subordinate_ids("0", "gid", file=str(file)) == ((100000, 7),)
    assert subids.subordinate_ids("no such user", "uid", file=str(file)) == ()
    assert subids.subordinate_ids("9" * 30, "uid", file=str(file)) == ()
    with pytest.raises(FileNotFoundError):
        subids.subordinate_ids("root", "uid", file=str(tmp_path / "missing"))


def test_ranges_become_maps_that_run_on() -> None:
    assert subids.maps_of([(300000, 10), (100000, 65536)]) == (
        IDMap(0, 100000, 65536),
        IDMap(65536, 300000, 10),
    )
    assert subids.maps_of([]) == ()


def test_maps_of_a_user_need_ranges_of_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "u").write_text("alice:100000:10\nbob:1:1\n")
    (tmp_path / "g").write_text("alice:200000:20\n")
    monkeypatch.setattr(subids, "FILES", {"uid": str(tmp_path / "u"), "gid": str(tmp_path / "g")})
    assert subids.mappings_of("alice", "alice") == IDMappings(
        (IDMap(0, 100000, 10),), (IDMap(0, 200000, 20),)
    )
    with pytest.raises(ConfigError) as caught:
        subids.mappings_of("carol", "alice")
    assert caught.value.peer == f'no subuid ranges found for user "carol" in {tmp_path / "u"}'
    with pytest.raises(ConfigError) as caught:
        subids.mappings_of("alice", "bob")
    assert caught.value.peer == f'no subgid ranges found for group "bob" in {tmp_path / "g"}'


# --- entering a namespace -----------------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def shell(command: str, output: Path) -> list[str]:
    return ["sh", "-c", f"exec > {output}; {command}"]


def test_root_gets_the_ranges_it_asks_for(output: Path) -> None:
    peers.need_root()
    command = "cat /proc/self/uid_map; echo; cat /proc/self/gid_map /proc/self/setgroups; id -u"
    status = userns.enter_namespace(
        shell(command, output),
        environ=os.environ,
        uids=[(100000, 65536), (400000, 0), (300000, 5)],
        gids=[(200000, 10)],
    )
    assert status == 0
    users, groups = output.read_text().split("\n\n")
    assert [line.split() for line in users.splitlines()] == [
        ["0", "0", "1"],
        ["1", "100000", "65536"],
        ["65537", "300000", "5"],
    ]
    assert groups.split() == ["0", "0", "1", "1", "200000", "10", "allow", "0"]


def test_mounts_made_inside_are_not_seen_outside(output: Path, tmp_path: Path) -> None:
    peers.need_root()
    (tmp_path / "m").mkdir()
    status = userns.enter_namespace(
        shell(f"mount -t tmpfs x {tmp_path}/m && touch {tmp_path}/m/file", output),
        environ=os.environ,
        uids=(),
        gids=(),
    )
    assert status == 0
    assert os.listdir(tmp_path / "m") == []


@pytest.mark.parametrize(
    ("command", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", -15), ("kill -9 $$", -9)]
)
def test_the_exit_status_or_the_signal_is_told(command: str, status: int, output: Path) -> None:
    assert userns.enter_namespace(shell(command, output), environ=os.environ, uids=(), gids=()) == status
    assert userns.run_program(shell(command, output), environ=os.environ) == status


def test_the_environment_says_where_the_program_is(output: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "KEPT": "yes"}
    assert userns.enter_namespace(shell("env", output), environ=environ, uids=(), gids=()) == 0
    found = dict(line.split("=", 1) for line in output.read_text().splitlines())
    assert found["KEPT"] == "yes"
    assert found["_CONTAINERS_USERNS_CONFIGURED"] == "done"
    if os.geteuid() == 0:
        assert "_CONTAINERS_ROOTLESS_UID" not in found
        assert "BUILDAH_ISOLATION" not in found


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path, number in ((tmp_path / "missing", errno.ENOENT), (tmp_path, errno.EACCES)):
        with pytest.raises(OSError) as caught:
            userns.enter_namespace([str(path)], environ=os.environ, uids=(), gids=())
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_namespace_that_cannot_be_made_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> None:
        raise OSError(errno.ENOSPC, "too many")

    monkeypatch.setattr(userns.libc, "unshare", refuse)
    with pytest.raises(OSError, match="making a user namespace failed") as caught:
        userns.enter_namespace(["true"], environ=os.environ, uids=(), gids=())
    assert caught.value.errno == errno.ENOSPC


def test_ranges_that_are_not_ours_are_an_error_and_nothing_runs(output: Path) -> None:
    """Ids that overlap: the kernel refuses the map."""
    peers.need_root()
    with pytest.raises(OSError) as caught:
        userns.enter_namespace(
            shell("echo ran", output), environ=os.environ, uids=[(1, 10), (5, 10)], gids=()
        )
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename.endswith("/uid_map")
    assert not output.exists()


def test_missing_ranges_are_a_warning(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g").write_text("")
    monkeypatch.setattr(subids, "FILES", {"uid": str(tmp_path / "missing"), "gid": str(tmp_path / "g")})
    warnings: list[str] = []
    environ = os.environ | {"USER": "somebody-else"}
    status = userns.enter_namespace(
        shell("cat /proc/self/uid_map", output), environ=environ, warn=warnings.append
    )
    assert status == 0
    me = pwd.getpwuid(os.getuid()).pw_name
    assert warnings == [
        f'Found no UID ranges set aside for user "{me}" in {tmp_path}/missing.',
        f'Found no GID ranges set aside for user "{me}" in {tmp_path}/g.',
    ]
    assert output.read_text().split() == ["0", str(os.geteuid()), "1"]


OUTER = """
import os, sys
from orlop.system import userns
print("started", flush=True)
if sys.argv[1] == "inside":
    sys.exit(userns.enter_namespace(sys.argv[2:], environ=os.environ, uids=(), gids=()))
sys.exit(userns.run_program(sys.argv[2:], environ=os.environ))
"""


@pytest.fixture(params=["inside", "here"])
def outer(request: pytest.FixtureRequest, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs another one, in a namespace or not; both wait to be told to end."""
    command = f"trap 'echo TERM >> {output}; exit 7' TERM; trap 'echo HUP >> {output}; exit 8' HUP;"
    command += (
        f"trap 'echo INT >> {output}; exit 9' INT; echo $$ > {output}.pid; while :; do sleep 0.02; done"
    )
    with subprocess.Popen(
        [sys.executable, "-c", OUTER, request.param, "sh", "-c", command],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        pid = Path(f"{output}.pid")
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        yield process
        process.kill()
        process.wait()


def wait_until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("name", "status"), [("TERM", 7), ("HUP", 8), ("INT", 9)])
def test_signals_are_passed_on(outer: subprocess.Popen[bytes], output: Path, name: str, status: int) -> None:
    outer.send_signal(signal.Signals[f"SIG{name}"])
    assert outer.wait(10) == status
    assert output.read_text() == f"{name}\n"


INTERRUPTED = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("ready", flush=True)
with open(sys.argv[1], "w") as output:
    while got := signal.sigtimedwait([signal.SIGINT], 0.5 if output.tell() else 20):
        output.write("interrupted ")
"""


def test_an_interrupt_from_the_terminal_arrives_once(output: Path) -> None:
    """The terminal sends it to both; passed on as well, it would interrupt the clean-up of the program."""
    pid, terminal = os.forkpty()
    if not pid:
        inner = [sys.executable, "-c", INTERRUPTED, str(output)]
        os.execv(sys.executable, [sys.executable, "-c", OUTER, "inside", *inner])
    try:
        said = b""
        while b"ready" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)
    assert output.read_text() == "interrupted "


def test_the_program_dies_with_us(outer: subprocess.Popen[bytes], output: Path) -> None:
    child = int(Path(f"{output}.pid").read_text())
    outer.kill()
    outer.wait()

    def ended() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(ended)


def test_the_program_has_the_signals_of_a_fresh_process(output: Path) -> None:
    """Python ignores SIGPIPE, and we block what we wait for; neither is the program's business."""
    command = "grep -E 'SigBlk|SigIgn' /proc/self/status"
    assert userns.enter_namespace(shell(command, output), environ=os.environ, uids=(), gids=()) == 0
    masks = dict(line.split(":\t") for line in output.read_text().splitlines())
    assert int(masks["SigBlk"], 16) == 0
    assert not int(masks["SigIgn"], 16) >> (signal.SIGPIPE - 1) & 1
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


AS_USER = """
import ctypes, os, pwd, signal, sys  # while they can be read: the interpreter may be in root's home
from orlop.system import userns
os.setgroups([])
os.setresgid(12345, 12345, 12345)
os.setresuid(12345, 12345, 12345)
userns.libc.prctl(userns.libc.PR_SET_DUMPABLE, 1)  # as it is in a process that never was root
command = "cat /proc/self/uid_map; echo; cat /proc/self/gid_map; echo; id -u; env | grep -E '^_CONT|^BUILD' | sort"
sys.exit(userns.enter_namespace(["sh", "-c", command], environ=os.environ, warn=lambda text: print(text, flush=True)))
"""


def as_user(tmp_path: Path, subuid: str, prepare: str = "true") -> list[str]:
    """What a program says that an ordinary user runs, on a machine with these subordinate ids."""
    peers.need_root()
    peers.need("newuidmap", "newgidmap")
    (tmp_path / "sub").write_text(subuid)
    (tmp_path / "passwd").write_text(
        Path("/etc/passwd").read_text() + "sailor:x:12345:12345::/nonexistent:/bin/sh\n"
    )
    mounts = f"mount --bind {tmp_path}/passwd /etc/passwd"
    for file in ("subuid", "subgid"):
        if not os.path.exists(f"/etc/{file}"):
            peers.missing(f"the file /etc/{file}")
        mounts += f" && mount --bind {tmp_path}/sub /etc/{file}"
    environ = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'{mounts} && {prepare} && exec "$@"',
            "-",
            sys.executable,
            "-c",
            AS_USER,
        ],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n\n")


def test_an_ordinary_user_gets_what_is_set_aside_for_him(tmp_path: Path) -> None:
    users, groups, rest = as_user(tmp_path, "sailor:100000:65536\n12345:300000:5\n")
    for maps in (users, groups):
        assert [line.split() for line in maps.splitlines()] == [
            ["0", "12345", "1"],
            ["1", "100000", "65536"],
            ["65537", "300000", "5"],
        ]
    assert rest.split() == [
        "0",
        "BUILDAH_ISOLATION=rootless",
        "_CONTAINERS_ROOTLESS_GID=12345",
        "_CONTAINERS_ROOTLESS_UID=12345",
        "_CONTAINERS_USERNS_CONFIGURED=done",
    ]


def test_an_ordinary_user_without_ranges_is_alone_in_his_namespace(tmp_path: Path) -> None:
    users, groups, _ = as_user(tmp_path, "somebody:100000:65536\n")
    warned, maps = users.rsplit("\n", 1)
    assert maps.split() == groups.split() == ["0", "12345", "1"]
    assert warned.splitlines() == [
        'Found no UID ranges set aside for user "sailor" in /etc/subuid.',
        'Found no GID ranges set aside for user "sailor" in /etc/subgid.',
    ]


def test_without_newuidmap_there_is_a_warning_and_one_id(tmp_path: Path) -> None:
    hide = "mount --bind /bin/false $(command -v newuidmap) && mount --bind /dev/null $(command -v newgidmap)"
    users, groups, _ = as_user(tmp_path, "sailor:100000:65536\n", hide)
    assert users.splitlines()[0] == "newuidmap failed (1): ; using a single UID"
    assert users.splitlines()[1].startswith("cannot run newgidmap: ")
    assert users.splitlines()[2].split() == groups.split() == ["0", "12345", "1"]


# --- a namespace for its maps -------------------------------------------------------------------------------

MAPS = IDMappings([IDMap(0, 100000, 10), IDMap(10, 5, 1)], [IDMap(7, 200000, 10)])


@pytest.fixture(params=["one thread", "more threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process with one thread forks for it, one with more must not."""
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    if request.param == "more threads":
        other.start()
    yield
    stop.set()
    if other.ident is not None:
        other.join()


def test_a_namespace_has_the_maps_and_nobody_in_it(threads: None) -> None:
    peers.need_root()
    before = set(os.listdir("/proc/self/fd"))
    show = ["cat", "/proc/self/uid_map", "/proc/self/gid_map"]
    with userns.namespace_for(MAPS) as namespace:
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        shown = subprocess.run(
            ["nsenter", f"--user=/proc/self/fd/{namespace.fd}", "--setgid=7", *show],
            pass_fds=[namespace.fd],
            capture_output=True,
            text=True,
            check=False,
        )
    assert shown.stderr == ""
    assert " ".join(shown.stdout.split()) == "0 100000 10 10 5 1 7 200000 10"
    assert set(os.listdir("/proc/self/fd")) == before


def test_maps_that_the_kernel_refuses_are_an_error_that_leaves_nothing() -> None:
    peers.need_root()
    before = set(os.listdir("/proc/self/fd"))
    overlapping = IDMappings([IDMap(0, 100000, 10), IDMap(5, 200000, 10)], [IDMap(0, 1, 1)])
    with pytest.raises(OSError) as caught:
        userns.namespace_for(overlapping)
    assert caught.value.errno == errno.EINVAL
    assert str(caught.value.filename).endswith("/uid_map")
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("mappings", [IDMappings(), IDMappings(uids=MAPS.uids), IDMappings(gids=MAPS.gids)])
def test_maps_for_users_or_groups_alone_make_no_namespace(mappings: IDMappings) -> None:
    with pytest.raises(ValueError, match="users and for groups"):
        userns.namespace_for(mappings)
