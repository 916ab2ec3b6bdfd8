"""orlop-storage and containers-storage side by side on the same jobs; prints a table for docs/performance.md.

    make bench                          every row, three repeats
    make bench N=7 ONLY="import tmpfs"  rows whose name has both words, seven repeats

How it is measured. One warm-up of each program, which also checks that the work was done right; then in turns, A B A
B, each import into a new store on a new file system (tmpfs, or ext4 on a loop device). The time is wall time from
start to exit of the command; with durability on the other program's time includes `sync -f` on its store, because
orlop does that work before it reports success. The ratio is the median of the ratios of neighbouring runs. Memory
is taken in a run of its own, not timed: every 4 ms the peak resident set of each process of the command (VmHWM), and
the sum over its processes of what they hold at that moment, shared pages counted once (Pss). `pigz` is kept off PATH
(it would be used); `zstd` stays.
"""

import argparse
import hashlib
import io
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import archives

ROOT = Path(__file__).resolve().parents[1]
ENV = {"LC_ALL": "C", "HOME": "/root"}
EXT4_SIZE = 12 << 30


@dataclass(frozen=True)
class Program:
    name: str
    path: str
    ours: bool

    def argv(self, store: Path, driver: str, *args: str) -> list[str]:
        roots = ["--graph", f"{store}/graph", "--run", f"{store}/run", "--storage-driver", driver]
        return [self.path, *roots, *args]


@dataclass(frozen=True)
class Job:
    """One row. `prepare(program, store)` is not timed; it returns the words that are. `check` sees the result."""

    name: str
    place: str  # "tmpfs" or "ext4"
    driver: str
    prepare: Callable[[Program, Path], list[str]]
    check: Callable[[Program, Path], None] = lambda program, store: None
    durable: bool = False
    fresh: bool = True  # each run in a new store; False: prepare once, run again and again
    piped: bool = False  # standard output goes to `cat`, as to the next program of a pipeline
    loops: int = 1  # commands per run, for very short ones


# --- the jobs -----------------------------------------------------------------------------------------------


def importing(blob: Path, driver: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        return program.argv(store, driver, "import-layer", "--id", "bench", "--file", str(blob))

    return prepare


def imported(name: str, driver: str) -> Callable[[Program, Path], None]:
    """The layer is there, and comes back as the bytes that went in."""

    def check(program: Program, store: Path) -> None:
        argv = program.argv(store, driver, "diff", "--uncompressed", "bench")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment(durable=False)) as process:
            assert process.stdout is not None
            found = hashlib.file_digest(process.stdout, "sha256").hexdigest()
        if process.returncode or found != digest_of(name):
            raise SystemExit(f"{program.name} did not give {name}.tar back (exit {process.returncode})")

    return check


def exporting(name: str, driver: str, target: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        run(importing(archives.archive(name), driver)(program, store), environment(durable=False))
        if target == "pipe":
            return program.argv(store, driver, "diff", "--uncompressed", "bench")
        if target == "gzip":
            return program.argv(store, driver, "diff", "--gzip", "bench")
        words = program.argv(
            store, driver, "diff", "--uncompressed", "--file", f"{store}/exported.tar", "bench"
        )
        # The file of the run before is removed rather than truncated; that counts for both alike.
        return ["sh", "-c", f'rm -f "{store}/exported.tar"; exec "$@"', "sh", *words]

    return prepare


def deleting(name: str, driver: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        run(importing(archives.archive(name), driver)(program, store), environment(durable=False))
        subprocess.run(["sync", "-f", str(store)], check=True)
        return program.argv(store, driver, "delete-layer", "bench")

    return prepare


CYCLE = """
for _ in 1 2 3 4 5; do
    box=$("$@" create-container image) && "$@" mount "$box" && "$@" unmount "$box" && "$@" delete-container "$box"
done >/dev/null
"""

STACK = """
blob=$1; shift
parent= number=0
while [ $number -lt 120 ]; do
    parent=$("$@" import-layer --file "$blob" ${parent:+"$parent"}) || exit 1
    number=$((number + 1))
done
"$@" mount "$("$@" create-layer "$parent")" >/dev/null
"""


def cycling(driver: str) -> Callable[[Program, Path], list[str]]:
    """Five times: a container is made, mounted, unmounted and deleted, each by a command of its own."""

    def prepare(program: Program, store: Path) -> list[str]:
        run(importing(archives.archive("mixed"), driver)(program, store), environment(durable=False))
        run(program.argv(store, driver, "create-image", "--id", "image", "bench"), environment(durable=False))
        return ["sh", "-c", CYCLE, "sh", *program.argv(store, driver)]

    return prepare


def stacking(driver: str) -> Callable[[Program, Path], list[str]]:
    """Small layers, one upon the other, and a mount of the last; 1.43 mounts no more than 128."""

    def prepare(program: Program, store: Path) -> list[str]:
        blob = store / "small-layer.tar"
        with tarfile.open(blob, "w") as tar:
            info = tarfile.TarInfo("etc/file")
            info.size = 1000
            tar.addfile(info, io.BytesIO(b"x" * 1000))
        return ["sh", "-c", STACK, "sh", str(blob), *program.argv(store, driver)]

    return prepare


def listing(count: int, *words: str) -> Callable[[Program, Path], list[str]]:
    """A store of `count` layers, written as records: chains of twenty, with names, digests and sizes."""

    def prepare(program: Program, store: Path) -> list[str]:
        run(program.argv(store, "vfs", "create-layer", "--id", "first"), environment(durable=False))
        (store / "graph/vfs-layers/layers.json").write_text(records(count))
        home = store / "graph/vfs/dir"
        for number in range(count):
            (home / identity(number)).mkdir()
        return program.argv(store, "vfs", *words)

    return prepare


def identity(number: int) -> str:
    return hashlib.sha256(b"layer %d" % number).hexdigest()


def records(count: int) -> str:
    made = []
    for number in range(count):
        digest = hashlib.sha256(b"blob %d" % number).hexdigest()
        parent = f'"parent":"{identity(number - 1)}",' if number % 20 else ""
        made.append(
            f'{{"id":"{identity(number)}","names":["layer-{number}"],{parent}"created":"2025-11-23T21:16:55.685075Z",'
            f'"compressed-diff-digest":"sha256:{digest}","compressed-size":{number + 1000},'
            f'"diff-digest":"sha256:{digest[::-1]}","diff-size":{number + 5000},"compression":2,'
            '"uidset":[0,1000],"gidset":[0,1000]}'
        )
    return "[" + ",".join(made) + "]"


def small(*words: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        run(program.argv(store, "vfs", "create-layer", "--id", "first"), environment(durable=False))
        return program.argv(store, "vfs", *words)

    return prepare


def jobs(drivers: list[str]) -> Iterator[Job]:
    for driver in drivers:
        for name in archives.NAMES:
            for kind in archives.KINDS:
                blob = archives.CACHE / f"{name}.{kind}"
                yield Job(
                    f"import {name}.{kind}, {driver}, tmpfs",
                    "tmpfs",
                    driver,
                    importing(blob, driver),
                    imported(name, driver),
                )
        for name in archives.NAMES:
            blob = archives.CACHE / f"{name}.tar"
            job, check = importing(blob, driver), imported(name, driver)
            yield Job(f"import {name}.tar, {driver}, ext4, not durable", "ext4", driver, job, check)
            yield Job(f"import {name}.tar, {driver}, ext4, durable", "ext4", driver, job, check, durable=True)
        for name in archives.NAMES:
            for target in ("pipe", "file"):
                yield Job(
                    f"export {name} to a {target}, {driver}, tmpfs",
                    "tmpfs",
                    driver,
                    exporting(name, driver, target),
                    imported(name, driver),
                    fresh=False,
                    piped=target == "pipe",
                )
        job = exporting("mixed", driver, "gzip")
        yield Job(f"export mixed as gzip, {driver}, tmpfs", "tmpfs", driver, job, fresh=False, piped=True)
        yield Job(f"delete small, {driver}, ext4, not durable", "ext4", driver, deleting("small", driver))
        if driver == "overlay":  # vfs would copy every layer into the next
            yield Job(
                "container: make, mount, unmount, delete, x5, overlay, tmpfs",
                "tmpfs",
                driver,
                cycling(driver),
            )
            yield Job("stack of 120 layers, overlay, tmpfs", "tmpfs", driver, stacking(driver))
    yield Job("list 20,000 layers", "tmpfs", "vfs", listing(20_000, "layers"), fresh=False)
    yield Job("list 20,000 layers --json", "tmpfs", "vfs", listing(20_000, "layers", "--json"), fresh=False)
    yield Job("small command: version", "tmpfs", "vfs", small("version"), fresh=False, loops=20)
    yield Job("small command: images", "tmpfs", "vfs", small("images"), fresh=False, loops=20)


# --- running ------------------------------------------------------------------------------------------------


def environment(*, durable: bool) -> dict[str, str]:
    return {**ENV, "ORLOP_DURABILITY": "full" if durable else "none"}


def run(argv: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    if done.returncode:
        said = (done.stdout[-500:] + done.stderr[-2000:]).decode(errors="replace")
        raise SystemExit(f"failed ({done.returncode}): {' '.join(argv)}\n{said}")


@contextmanager
def started(job: Job, argv: list[str], talk: IO[bytes] | int) -> Iterator[subprocess.Popen[bytes]]:
    """The command, with `cat` behind it where the row says so; on leaving both are over."""
    env = environment(durable=job.durable)
    if not job.piped:
        with subprocess.Popen(argv, env=env, stdout=talk, stderr=talk, stdin=subprocess.DEVNULL) as process:
            yield process
        return
    receive, send = os.pipe()
    with subprocess.Popen(["cat"], env=env, stdin=receive, stdout=subprocess.DEVNULL):
        os.close(receive)
        try:
            process = subprocess.Popen(argv, env=env, stdout=send, stderr=talk, stdin=subprocess.DEVNULL)
        finally:
            os.close(send)
        with process:
            yield process


def timed(job: Job, program: Program, argv: list[str], store: Path) -> float:
    with tempfile.TemporaryFile() as talk:
        begin = time.perf_counter()
        for _ in range(job.loops):
            with started(job, argv, talk) as process:
                status = process.wait()
            if status:
                talk.seek(0)
                text = talk.read()[-2000:].decode(errors="replace")
                raise SystemExit(f"failed ({status}): {' '.join(argv)}\n{text}")
        if job.durable and not program.ours:
            subprocess.run(["sync", "-f", str(store)], check=True)
        return (time.perf_counter() - begin) / job.loops


@dataclass
class Memory:
    """Peak of the largest process, and of all processes of the command together, in bytes."""

    largest: int = 0
    together: int = 0

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            total = 0
            for pid in family(process.pid):
                with suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_bytes()
                    if peak := re.search(rb"VmHWM:\s+(\d+)", status):
                        self.largest = max(self.largest, int(peak[1]) * 1024)
                    share = re.search(rb"\nPss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_bytes())
                    total += int(share[1]) * 1024 if share else 0
            self.together = max(self.together, total)
            time.sleep(0.004)


def family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_bytes().split():
                yield from family(int(child))


def weighed(job: Job, program: Program, argv: list[str]) -> Memory:
    memory = Memory()
    with started(job, argv, subprocess.DEVNULL) as process:
        watcher = threading.Thread(target=memory.watch, args=(process,))
        watcher.start()
        watcher.join()
    return memory


@contextmanager
def new_file_system(kind: str, label: str) -> Iterator[Path]:
    """A new, empty file system, gone afterwards."""
    point = Path(tempfile.mkdtemp(prefix=f"orlop-bench-{label}-"))
    image = archives.CACHE / f"disk-{point.name}.img"
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=8g,nr_inodes=0,mode=0700", "orlop-bench", str(point)]
    else:
        with image.open("wb") as disk:
            disk.truncate(EXT4_SIZE)
        # Tables are written now: a lazy writer in the background would disturb the measurement.
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", lazy, "-i", "65536", str(image)], check=True)
        mount = ["mount", "-o", "loop", str(image), str(point)]
    try:
        subprocess.run(mount, check=True)
        try:
            yield point
        finally:
            leave(point)
    finally:
        point.rmdir()
        image.unlink(missing_ok=True)


def leave(point: Path) -> None:
    """Unmount it with what a driver left mounted below (overlay stores keep a bind mount on their home)."""
    table = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for below in reversed([each for each in table if each.startswith(f"{point}/")]):
        subprocess.run(["umount", below], check=False)
    subprocess.run(["umount", str(point)], check=True)


@dataclass
class Figures:
    times: list[float] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)


def measure(job: Job, programs: list[Program], repeats: int) -> list[Figures]:
    figures = [Figures() for _ in programs]
    if not job.fresh:
        with new_file_system(job.place, "a") as first, new_file_system(job.place, "b") as second:
            places = (first, second)
            commands = [job.prepare(program, place) for program, place in zip(programs, places, strict=True)]
            for turn in range(repeats + 1):
                for index, program in enumerate(programs):
                    taken = timed(job, program, commands[index], places[index])
                    if turn == 0:
                        job.check(program, places[index])
                    else:
                        figures[index].times.append(taken)
            for index, program in enumerate(programs):
                figures[index].memory = weighed(job, program, commands[index])
        return figures
    for turn in range(repeats + 2):  # the warm-up, the timed ones, one for the memory
        for index, program in enumerate(programs):
            with new_file_system(job.place, "ab"[index]) as place:
                command = job.prepare(program, place)
                if turn == repeats + 1:
                    figures[index].memory = weighed(job, program, command)
                    continue
                taken = timed(job, program, command, place)
                if turn == 0:
                    job.check(program, place)
                else:
                    figures[index].times.append(taken)
    return figures


@contextmanager
def keep_off_path(*unwanted: str) -> Iterator[None]:
    """A PATH of links to everything that the programs may run, without the unwanted."""
    with tempfile.TemporaryDirectory(prefix="orlop-bench-path-") as directory:
        for name in ("sh", "cat", "rm", "sync", "zstd", "xz", "bzip2", "mount", "umount"):
            if name not in unwanted and (found := shutil.which(name)):
                os.symlink(os.path.realpath(found) if name != "sh" else found, f"{directory}/{name}")
        ENV["PATH"] = directory
        yield


def digest_of(name: str) -> str:
    if name not in DIGESTS:
        with archives.archive(name).open("rb") as tar:
            DIGESTS[name] = hashlib.file_digest(tar, "sha256").hexdigest()
    return DIGESTS[name]


DIGESTS: dict[str, str] = {}


# --- the report ---------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.1f} ms"


def megabytes(memory: Memory) -> str:
    return f"{memory.largest / 1e6:.0f} / {memory.together / 1e6:.0f} MB"


def row(job: Job, figures: list[Figures]) -> str:
    ours, theirs = figures
    ratio = statistics.median(a / b for a, b in zip(ours.times, theirs.times, strict=True))
    cells = [
        seconds(statistics.median(theirs.times)),
        seconds(statistics.median(ours.times)),
        f"**{ratio:.2f}**",
    ]
    return f"| {job.name} | " + " | ".join([*cells, megabytes(theirs.memory), megabytes(ours.memory)]) + " |"


def versions(program: Program) -> str:
    """`name version`: from the package manager where the program's own answer is a placeholder."""
    if not program.ours:
        words = ["dpkg-query", "-W", "-f", "${Version}", os.path.basename(program.path)]
        found = subprocess.run(words, capture_output=True, text=True, check=False).stdout
        return f"{program.name} {found.split('+')[0] or '(version unknown)'}"
    from orlop.version import __version__

    return f"{program.name} {__version__}"


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{os.cpu_count()} cores ({cpu[1] if cpu else platform.machine()}), Linux {platform.release()}, "
        f"CPython {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="orlop beside containers-storage")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="words that a row's name must contain")
    parser.add_argument("--driver", action="append", help="vfs (default), overlay; may be given twice")
    parser.add_argument("--ours", default=str(Path(sys.executable).parent / "orlop-storage"))
    parser.add_argument("--theirs", default=shutil.which("containers-storage"))
    parser.add_argument("--list", action="store_true", help="print the rows and leave")
    given = parser.parse_args()

    chosen = [job for job in jobs(given.driver or ["vfs"]) if all(w in job.name for w in given.only.split())]
    if given.list:
        print("\n".join(job.name for job in chosen))
        return
    if not chosen:
        raise SystemExit(f"no row contains {given.only!r}; bench/run.py --list names them")
    if os.geteuid() != 0:
        raise SystemExit("the benchmark mounts a new file system for each run: it needs root")
    if not given.theirs:
        raise SystemExit("containers-storage is not installed: there is nothing to compare with")
    programs = [
        Program("orlop", os.path.abspath(given.ours), ours=os.path.basename(given.ours).startswith("orlop")),
        Program("containers-storage", given.theirs, ours=False),
    ]
    for name in archives.NAMES:
        if any(name in job.name for job in chosen):
            for kind in archives.KINDS:
                archives.archive(name, kind)
    with keep_off_path("pigz", "unpigz"):
        print(f"{machine()}. {given.repeats} repeats in turns, medians; ratio: median of the ratios.")
        print("Memory: largest process / all processes of the command together.\n")
        theirs, ours = versions(programs[1]), versions(programs[0])
        print(f"| job | {theirs} | {ours} | ratio | memory, {programs[1].name} | memory, orlop |")
        print("|---|---|---|---|---|---|", flush=True)
        for job in chosen:
            print(row(job, measure(job, programs, given.repeats)), flush=True)


if __name__ == "__main__":
    main()
