"""The programs we share stores with, as the tests use them.

A test that needs a program which this machine lacks is skipped, and the skip names the program. Where CI=true
the machine was set up by `.ci/run`, and the same is a failure: no suite is ever skipped there unnoticed.

    ours, theirs = shared                              # fixture: both programs on one store
    layer = ours.line("create-layer")
    assert theirs.json("layer", layer)[0]["id"] == layer
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

CI = os.environ.get("CI") == "true"


def missing(what: str) -> NoReturn:
    if CI:
        pytest.fail(f"this machine lacks {what}; .ci/run must install it")
    pytest.skip(f"this machine lacks {what}")


def need(*names: str) -> None:
    """Skip (in CI: fail) unless all these programs are there."""
    for name in names:
        program(name)


def program(name: str) -> str:
    """The path of a program; without it the test is skipped by name."""
    return shutil.which(name) or missing(f"the program {name}")


def need_root() -> None:
    if os.geteuid() != 0:
        missing("root rights")


def filesystem(path: Path) -> str:
    """The type of the file system that holds `path`, as the mount table names it."""
    at, best = os.path.realpath(path), ("", "")
    for point, kind in mounts():
        if (at == point or at.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def mounts() -> list[tuple[str, str]]:
    """(mount point, type) in order of mounting."""
    table = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        left, _, right = line.partition(b" - ")
        point = left.split(b" ")[4].decode("unicode_escape").encode("latin-1")
        table.append((os.fsdecode(point), os.fsdecode(right.split(b" ")[0])))
    return table


def mounts_below(path: Path | str) -> list[str]:
    base = os.path.realpath(path)
    return [point for point, _ in mounts() if point == base or point.startswith(base + "/")]


def mount_options(path: Path | str) -> str:
    """The options of what is mounted at a path, as the kernel shows them: the mount's, and those of its kind."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(path):
            return f"{fields[5]},{fields[-1]}"
    raise AssertionError(f"nothing is mounted at {path}")


def unmount_below(path: Path | str) -> None:
    """Newest first. Overlay stores keep a bind mount on their home, and a failed test may leave more."""
    for point in reversed(mounts_below(path)):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


@dataclass(frozen=True)
class Result:
    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


class Failed(AssertionError):
    """The program said no, and the test had not asked for that."""


@dataclass(frozen=True)
class Program:
    """One storage program pointed at one store. A call runs a command; failure raises unless ok=False."""

    path: str
    base: Path
    driver: str = "vfs"
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    run_as: tuple[str, ...] = ()  # words put before the command, for example a sandbox

    @property
    def graph(self) -> Path:
        return self.base / "graph"

    @property
    def run(self) -> Path:
        return self.base / "run"

    @property
    def directory(self) -> Path:
        """Where it is run: below that 1.43 makes what an option names by a relative path, or by none."""
        return self.base if self.base.is_dir() else self.base.parent

    @property
    def roots(self) -> dict[str, Any]:
        """Keyword arguments that make `orlop.open_store` open the same store."""
        return {
            "graph_root": str(self.graph),
            "run_root": str(self.run),
            "driver": self.driver,
            "driver_options": self.options,
        }

    def on(self, **changes: Any) -> "Program":
        """The same program otherwise set: `.on(driver="overlay")`, `.on(base=...)`, `.on(flags=(...))`."""
        return replace(self, **changes)

    def argv(self, *args: str) -> list[str]:
        options = [word for option in self.options for word in ("--storage-opt", option)]
        roots = ["--graph", str(self.graph), "--run", str(self.run), "--storage-driver", self.driver]
        return [*self.run_as, self.path, *roots, *options, *self.flags, *args]

    def __call__(
        self,
        *args: str,
        data: bytes = b"",
        ok: bool = True,
        timeout: float = 120,
        cwd: Path | None = None,
    ) -> Result:
        done = subprocess.run(
            self.argv(*args),
            input=data,
            capture_output=True,
            env={**os.environ, **self.env},
            timeout=timeout,
            cwd=cwd or self.directory,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        if ok and result.status != 0:
            said = (result.out[-2000:] + result.err[-2000:]).decode(errors="replace")
            raise Failed(f"{os.path.basename(self.path)} {' '.join(args)}: exit {result.status}\n{said}")
        return result

    def start(self, *args: str, **how: Any) -> subprocess.Popen[bytes]:
        """The command as a running process, for races and kills."""
        how.setdefault("stdin", subprocess.DEVNULL)
        how.setdefault("cwd", self.directory)
        return subprocess.Popen(self.argv(*args), env={**os.environ, **self.env}, **how)

    def line(self, *args: str, **how: Any) -> str:
        """The first line that it printed, up to a tab: the id of something just made."""
        return self(*args, **how).text.split("\n")[0].split("\t")[0]

    def json(self, *args: str, **how: Any) -> Any:
        """`args` with --json, decoded. The flag goes behind the command: flags end at the first argument."""
        return json.loads(self(args[0], "--json", *args[1:], **how).out)


def containers_storage(base: Path, **settings: Any) -> Program:
    return Program(program("containers-storage"), base, **settings)


def orlop_storage(base: Path, **settings: Any) -> Program:
    """The installed command of the environment that runs the tests."""
    path = Path(sys.executable).parent / "orlop-storage"
    assert path.exists(), f"{path} is missing: install the package (make test does)"
    return Program(str(path), base, **settings)


def podman(base: Path, *args: str, driver: str = "vfs", ok: bool = True) -> Result:
    """podman on the same store as `Program(base=base)`."""
    roots = ["--root", str(base / "graph"), "--runroot", str(base / "run"), "--storage-driver", driver]
    done = subprocess.run([program("podman"), *roots, *args], capture_output=True, timeout=300, check=False)
    if ok and done.returncode != 0:
        raise Failed(
            f"podman {' '.join(args)}: exit {done.returncode}\n{done.stderr[-2000:].decode(errors='replace')}"
        )
    return Result(done.returncode, done.stdout, done.stderr)
