"""kill -9 at every system call that changes something (promises P1, P3, P4).

strace counts the calls of each process of an operation once, then kills it on entry to the Nth call of a name, one
run for each (name, N). Afterwards: what was acknowledged is there; what was not is there or not, never half; the
next write cleans up; the peer lists the same; the operation succeeds when it is repeated.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import invariants
import peers

sys.path.insert(0, os.path.dirname(__file__))

import operations

CALLS = (
    "openat",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "mknod",
    "mknodat",
    "write",
    "writev",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "fchmod",
    "chmod",
    "fchmodat",
    "fchown",
    "chown",
    "lchown",
    "fchownat",
    "utimensat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync_file_range",
    "copy_file_range",
    "ioctl",
    "fcntl",
    "mount",
    "umount2",
    "chroot",
)
POINTS = int(os.environ.get("N") or 9)  # for each operation


def _fast_directory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture
def scratch() -> Iterator[Path]:
    """In memory where possible: the promise is about processes, not about power."""
    path = Path(tempfile.mkdtemp(prefix="orlop-kill-", dir=_fast_directory()))
    yield path
    peers.unmount_below(path)
    shutil.rmtree(path, ignore_errors=True)


class Template:
    """A store in the state before, to be copied for each run."""

    def __init__(self, path: Path, driver: str) -> None:
        self.path = path
        self.driver = driver
        operations.prepare(path / "graph", path / "run", driver)
        invariants.hold(path / "graph", path / "run", driver)


@pytest.fixture(params=["vfs", "overlay"])
def template(request: pytest.FixtureRequest, scratch: Path) -> Template:
    return Template(scratch / "template", request.param)


def _copied(template: Template, target: Path) -> Path:
    """A fresh copy, without the mounts of the last one."""
    peers.unmount_below(target)
    if target.exists():
        shutil.rmtree(target)
    subprocess.run(["cp", "-a", str(template.path), str(target)], check=True)
    mounts = target / "run" / "vfs-layers" / "mountpoints.json"
    if mounts.exists():  # recorded paths are absolute
        mounts.write_text(mounts.read_text().replace(str(template.path), str(target)))
    return target


def _command(base: Path, driver: str, operation: str) -> list[str]:
    # The real interpreter: a shim would bring processes of its own.
    return [sys.executable, operations.__file__, str(base / "graph"), str(base / "run"), driver, operation]


def _straced(
    words: list[str], base: Path, driver: str, operation: str
) -> "subprocess.CompletedProcess[bytes]":
    process = subprocess.Popen(
        ["strace", "-f", "-qq", *words, *_command(base, driver, operation)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    out, err = process.communicate(timeout=120)
    deadline = time.monotonic() + 20
    while _alive_in_session(process.pid):
        # A killed parent may leave a child that still writes; judging before it ended would judge a moving thing.
        assert time.monotonic() < deadline, "a process outlives the operation it belongs to"
        time.sleep(0.01)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _alive_in_session(session: int) -> bool:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[3] == str(session) and fields[0] not in "ZX":
                return True
    return False


def _points(template: Template, scratch: Path, operation: str) -> list[tuple[str, int]]:
    """Every (call, N) that some process of the operation reaches after the store was opened."""
    base = _copied(template, scratch / "count")
    log = scratch / "calls"
    done = _straced(["-o", str(log), "-e", "trace=" + ",".join(CALLS)], base, template.driver, operation)
    assert done.stdout == b"done\n", done.stderr.decode()
    counts: Counter[tuple[str, str]] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match and match[2] in CALLS:
            counts[match[1], match[2]] += 1
    most: dict[str, int] = {}
    for (_, call), count in counts.items():
        most[call] = max(most.get(call, 0), count)
    return [(call, n) for call, count in sorted(most.items()) for n in range(1, count + 1)]


def _sample(points: list[tuple[str, int]], amount: int, operation: str) -> list[tuple[str, int]]:
    """Chosen by the commit, so that over time all are visited; reading opens come last, they change little."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, check=False).stdout
    chance = random.Random(commit + operation.encode())
    changing = [p for p in points if p[0] not in ("openat", "fcntl", "ioctl")]
    others = [p for p in points if p not in changing]
    chance.shuffle(changing)
    chance.shuffle(others)
    few = max(1, amount // 6)
    return changing[: amount - few] + others[:few]


def _judge(base: Path, driver: str, operation: str, acknowledged: bool, peer: bool) -> None:
    graph, run = base / "graph", base / "run"
    act, happened = operations.OPERATIONS[operation]
    with operations.opened(graph, run, driver) as store:
        if acknowledged:
            assert happened(store), "acknowledged, and has not happened"
        # The next write cleans up what the dead process left.
        store.layers.create(id="after")
        store.layers.delete("after")
        store.images.set_metadata("other", "x") if "other" in store.images else None
        store.containers.set_metadata("box", "x") if "box" in store.containers else None
    invariants.hold(graph, run, driver)
    if peer:
        theirs = peers.containers_storage(base, driver=driver)
        with operations.opened(graph, run, driver) as store:
            assert [layer["id"] for layer in theirs.json("layers") or []] == [
                layer.id for layer in store.layers
            ]
    with operations.opened(graph, run, driver) as store:
        if not happened(store):
            for kind in (store.containers, store.images):  # half of a compound operation may have happened
                if "new" in kind:
                    kind.delete("new")
            if operation != "delete-image":
                act(store)
            else:
                if "box" in store.containers:
                    store.containers.delete("box")
                if "app" in store.images:
                    store.images.delete("app")
                for id in ("top", "middle", "base"):
                    if id in store.layers:
                        store.layers.delete(id)
            assert happened(store)
    invariants.hold(graph, run, driver)


def _sweep(scratch: Path, template: Template, operation: str, points: list[tuple[str, int]]) -> None:
    failures = []
    killed = 0
    for number, (call, n) in enumerate(points):
        base = _copied(template, scratch / "killed")
        inject = f"inject={call}:signal=KILL:when={n}"
        done = _straced(
            ["-o", "/dev/null", "-e", f"trace={call}", "-e", inject], base, template.driver, operation
        )
        killed += done.returncode != 0 or done.stdout != b"done\n"
        try:
            _judge(base, template.driver, operation, done.stdout == b"done\n", peer=number % 10 == 0)
        except Exception as error:
            failures.append(f"{operation}, killed at {call} number {n}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
    assert killed > len(points) // 2, f"only {killed} of {len(points)} kills hit: the sweep proves nothing"


@pytest.fixture
def tools() -> None:
    peers.need_root()
    peers.need("strace", "containers-storage")


@pytest.mark.parametrize("operation", sorted(operations.OPERATIONS))
def test_a_killed_operation_leaves_the_old_state_or_the_new(
    tools: None, scratch: Path, template: Template, operation: str
) -> None:
    """And the next command needs no help: what was left over is gone after the next write."""
    points = _points(template, scratch, operation)
    _sweep(scratch, template, operation, _sample(points, POINTS, operation))


@pytest.mark.deep
@pytest.mark.parametrize("operation", sorted(operations.OPERATIONS))
def test_deep_every_point_of_an_operation(
    tools: None, scratch: Path, template: Template, operation: str
) -> None:
    """All points, not a sample; N= cuts them to that many for each operation."""
    points = _points(template, scratch, operation)
    if os.environ.get("N"):
        points = _sample(points, POINTS, operation)
    _sweep(scratch, template, operation, points)
