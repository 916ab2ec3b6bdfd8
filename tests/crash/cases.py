"""Running the operations of the crash suites under strace, and judging what is left of a store.

    case = cases.case("put", "vfs")            # the fixture; one copy of the scene for each of its runs
    for fault in case.sample(case.kills, 3):
        ended = case.run(fault.kill())
        case.judge(ended.acknowledged)

strace attaches once the store is open, so its counts begin with the operation, in each process. The kills are the
calls that change something: to die before any other call is to die before the next of these.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import operations
from scenes import Facts

import invariants
import loopfs
import peers

CHANGING = (
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
    "sendfile",
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
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "fsync",
    "fdatasync",
    "syncfs",
    "copy_file_range",
    "mount",
    "move_mount",
    "mount_setattr",
    "umount2",
)
BOTH = ("openat", "openat2", "ioctl")  # which of these change something, their arguments say
ASKING = ("fcntl", "getdents64", "clone", "clone3", "vfork", "fsopen", "fsconfig", "fsmount", "open_tree")
CALLS = (*CHANGING, *BOTH, *ASKING)
_CHANGE = re.compile(r"O_CREAT|O_TRUNC|O_TMPFILE|FICLONE|FIDEDUPERANGE|FS_IOC_FSSETXATTR|LOOP_")
_LOCK = re.compile(r'\.lock", O_RDWR\|O_CREAT\|O_NONBLOCK')  # there already, but for the first time
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")


@dataclass(frozen=True, order=True)
class Point:
    """The `number`th call of this name that some process of an operation makes."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} number {self.number}"

    def kill(self) -> list[str]:
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:signal=KILL:when={self.number}"]

    def fail(self, error: str, *, lasting: bool = False) -> list[str]:
        when = f"{self.number}{'+' if lasting else ''}"
        return ["-e", f"trace={self.call}", "-e", f"inject={self.call}:error={error}:when={when}"]


@dataclass(frozen=True)
class Ended:
    """How a run came to its end. `hit`: the fault that was asked for has happened."""

    status: int
    said: str
    hit: bool
    log: list[str]

    @property
    def acknowledged(self) -> bool:
        return self.status == 0


@dataclass
class Case:
    """An operation on a scene by one driver. `place` is where the copies come to lie, each at the same path."""

    name: str
    driver: str
    place: Path
    template: Path

    @cached_property
    def operation(self) -> operations.Operation:
        return operations.OPERATIONS[self.name]

    def __str__(self) -> str:
        return f"{self.driver} {self.name}"

    # --- the store ------------------------------------------------------------------------------------------

    def fresh(self, source: Path | None = None) -> None:
        """The state before, or that of `source`, comes to lie in the place. Nothing is mounted there."""
        copy(source or self.template, self.place)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        with self.operation.place.opened(self.place, self.driver) as store:
            yield store

    def facts(self, store: Any) -> Facts:
        return self.operation.facts(store, self.place, self.driver)

    # --- runs -----------------------------------------------------------------------------------------------

    def run(self, words: Sequence[str] = (), *, recovering: bool = False) -> Ended:
        """Run the operation, or the next write, under strace; return when no process of it is left."""
        name = f"recover/{self.name}" if recovering else self.name
        log = self.place.parent / "log"
        process = subprocess.Popen(
            # The real interpreter: a shim would bring processes of its own.
            [sys.executable, operations.__file__, str(self.place), self.driver, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        ready = process.stdout.readline()
        if ready != b"ready\n":
            _, said = process.communicate(timeout=60)
            raise AssertionError(f"{self}: the store does not open: {said.decode(errors='replace')[-2000:]}")
        words = list(words) or ["-y", "-e", "trace=" + ",".join(CALLS)]
        tracer = subprocess.Popen(
            ["strace", "-f", "-p", str(process.pid), "-o", str(log), *words], stderr=subprocess.PIPE
        )
        assert tracer.stderr is not None
        attached = tracer.stderr.readline()
        assert b"attached" in attached, attached
        out, said = process.communicate(b"\n", timeout=120)
        deadline = time.monotonic() + 20
        while _alive_in_session(process.pid):
            # A killed parent may leave a child that still writes; judging before it ended would judge a moving thing.
            assert time.monotonic() < deadline, f"{self}: a process outlives the operation it belongs to"
            time.sleep(0.01)
        tracer.communicate(timeout=20)
        assert (out == b"done\n") == (process.returncode == 0), (out, process.returncode, said)
        lines = log.read_text(errors="replace").splitlines()
        hit = any("(INJECTED)" in line or "killed by SIGKILL" in line for line in lines)
        return Ended(process.returncode, said.decode(errors="replace"), hit, lines)

    @cached_property
    def _done(self) -> tuple[dict[Point, str], list[Point], Facts, Facts]:
        """One run without a fault: where it changes something, all its calls, and the facts before and after."""
        self.fresh()
        with self.opened() as store:
            before = self.facts(store)
        self.fresh()
        ended = self.run()
        assert ended.acknowledged, f"{self}: {ended.said}"
        with self.opened() as store:
            after = self.facts(store)
        return *points(ended.log, self.place), before, after

    @property
    def kills(self) -> list[Point]:
        """In the order in which they come first."""
        return list(self._done[0])

    def matching(self, pattern: str) -> list[Point]:
        """The kills before calls that strace shows so."""
        found = [point for point, line in self._done[0].items() if re.search(pattern, line)]
        assert found, f"{self}: no call matches {pattern}"
        return found

    @property
    def calls(self) -> list[Point]:
        return self._done[1]

    def sample(self, among: Sequence[Point], amount: int, salt: str = "") -> list[Point]:
        """Chosen by the commit, so that over time all of them are visited."""
        return chance(self.name, self.driver, salt).sample(among, min(amount, len(among)))

    # --- judging --------------------------------------------------------------------------------------------

    def judge(self, acknowledged: bool, *, peer: bool = False) -> None:
        """What must be true of the store in the place (P1, P3, P4), and of the operation when it is repeated."""
        _, _, before, after = self._done
        operation = self.operation
        with self.opened() as store:
            now = self.facts(store)
            if acknowledged:
                assert now == after, f"acknowledged, and not so: {_difference(after, now)}"
            elif not operation.steps:
                assert now in (before, after), (
                    f"neither the old state nor the new: not the old, for {_difference(before, now)}; "
                    f"not the new, for {_difference(after, now)}"
                )
            operations.next_write(store)
            if operation.place.littered:
                assert store.gc().failed == ()
            if not operation.place.damaged:
                self._whole(store)
        if peer:
            self._agreed()
        with self.opened() as store:
            if self.facts(store) != after:
                operation.act(store)
            now = self.facts(store)
            assert now == after, f"repeated, and not so: {_difference(after, now)}"
            if operation.place.littered:
                assert store.gc().failed == ()
            self._whole(store)

    def _whole(self, store: Any) -> None:
        """No damage, and nothing that is left over: by the checker of the tests, and by the one that ships."""
        place = self.operation.place
        roots = {"image_store": self.place / place.image_store} if place.image_store else {}
        if place.additional:
            roots["additional"] = self.place / place.additional
        invariants.by_formats(self.place / "graph", self.place / "run", self.driver, **roots)
        assert store.damage() == ()
        findings = [f for f in store.check().findings if f.grade != "oddity" or f.code == "tar-split-missing"]
        assert not findings, "\n".join(f"{f.grade} {f.code}: {f.text}" for f in findings)
        plan = store.plan_gc()
        assert (plan.steps, plan.keeps) == ((), ())

    def _agreed(self) -> None:
        """The peer lists the same, but for volatile records, which 1.43 does not know.

        It has no image stores, but can be told that one is an additional store.
        """
        place = self.operation.place
        graph = self.place / "graph"
        other = place.image_store or place.additional
        options = (f"{self.driver}.imagestore={self.place / other}",) if other else ()
        theirs = peers.containers_storage(self.place, driver=self.driver, options=options)
        with self.opened() as store:
            for kind in ("layers", "images", "containers"):
                volatile = invariants.records(graph / f"{self.driver}-{kind}/volatile-{kind}.json")
                unknown = {record["id"] for record in volatile}
                wanted = [
                    (record.id, sorted(record.names))
                    for record in getattr(store, kind)
                    if record.id not in unknown
                ]
                found = [(each["id"], sorted(each.get("names") or ())) for each in theirs.json(kind) or ()]
                assert sorted(found) == sorted(wanted), f"the peer lists other {kind}"


def _difference(wanted: Facts, found: Facts) -> str:
    return "; ".join(
        f"{key}: {wanted.get(key)} is now {found.get(key)}"
        for key in sorted({*wanted, *found})
        if wanted.get(key) != found.get(key)
    )


def points(log: Sequence[str], place: Path) -> tuple[dict[Point, str], list[Point]]:
    """The calls of a run that change something, each with its line, and all that may fail; not the interpreter's."""
    counts: Counter[tuple[str, str]] = Counter()
    changing: dict[Point, str] = {}
    calls: dict[Point, None] = {}
    for line in log:
        match = _LINE.match(line)
        if match is None or match[2] not in CALLS:
            continue
        process, call, arguments = match.groups()
        counts[process, call] += 1
        point = Point(call, counts[process, call])
        if " = -1 E" not in arguments and (
            call in CHANGING or (call in BOTH and _CHANGE.search(arguments) and not _LOCK.search(arguments))
        ):
            changing.setdefault(point, line)
        if call not in ("openat", "getdents64") or str(place) in arguments:
            calls[point] = None
    return changing, list(calls)


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


def copy(source: Path, target: Path) -> None:
    peers.unmount_below(target)
    if target.exists():
        shutil.rmtree(target)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


@cache
def _commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def chance(*words: str) -> random.Random:
    return random.Random(" ".join((_commit(), *words)))


# --- all of them --------------------------------------------------------------------------------------------

ALL = [(name, driver) for name, each in operations.OPERATIONS.items() for driver in each.place.drivers]
NOW = [(name, chance(name).choice(each.place.drivers)) for name, each in operations.OPERATIONS.items()]
"""Each operation with one of its drivers, chosen by the commit: what the quick suites run."""


@dataclass
class Cases:
    """Scenes are built when they are first wanted, on the disks that they want, and kept for the session."""

    scratch: Path
    _stack: ExitStack
    _disks: dict[str, Path] = field(default_factory=dict)
    _templates: dict[tuple[str, str], tuple[Path, Path]] = field(default_factory=dict)
    _cases: dict[tuple[str, str], Case] = field(default_factory=dict)

    def case(self, name: str, driver: str) -> Case:
        if (name, driver) not in self._cases:
            place, template = self._scene(operations.OPERATIONS[name].scene, driver)
            self._cases[name, driver] = Case(name, driver, place, template)
        return self._cases[name, driver]

    def _scene(self, scene: str, driver: str) -> tuple[Path, Path]:
        if (scene, driver) not in self._templates:
            kind = operations.SCENES[scene].disk
            place = self._disk(kind) / scene / driver / "case"
            template = place.with_name("template")
            place.parent.mkdir(parents=True)
            operations.SCENES[scene].build(place, driver)
            peers.unmount_below(place)
            place.rename(template)
            self._templates[scene, driver] = place, template
        return self._templates[scene, driver]

    def _disk(self, kind: str) -> Path:
        if not kind:
            return self.scratch
        if kind not in self._disks:
            self._disks[kind] = self._stack.enter_context(loopfs.mounted(kind, self.scratch))
        return self._disks[kind]


def sweep(case: Case, faults: Sequence[Point], run: Callable[[int, Point], str | None]) -> None:
    """Run all of them, and tell of all that went wrong; `run` returns what is wrong, if anything is."""
    wrong = []
    for number, point in enumerate(faults):
        try:
            problem = run(number, point)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            wrong.append(f"{case}, {point}: {problem}")
    assert not wrong, "\n".join(wrong)
