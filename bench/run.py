"""orlop-storage and containers-storage side by side on the same jobs; prints a table for docs/performance.md.

    make bench                          every row, three repeats
    make bench N=7 ONLY="import tmpfs"  rows whose name has both words, seven repeats

How it is measured. One warm-up of each program, which also checks that the work was done right; then in turns, A B A
B, each import into a new store on a new file system (tmpfs, or ext4 on a loop device). The time is wall time from
start to exit of the command; with durability on the other program's time includes `sync -f` on its store, because
orlop does that work before it reports success. The ratio is the median of the ratios of neighbouring runs; that of
the processor time, user and system, of all processes of the command stands beside it, as it says the same on a busy
machine. Rows that say "library" time a call in a process that runs, against the other program's whole command. Memory
is taken in a run of its own, not timed: every 4 ms the peak resident set of each process of the command (VmHWM), and
the sum over its processes of what they hold at that moment, shared pages counted once (Pss). `pigz` is kept off PATH
(it would be used); `zstd` stays.
"""

import argparse
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import archives
import jobs
import large
from jobs import ENV, Job, Program, environment

ROOT = Path(__file__).resolve().parents[1]
EXT4_SIZE = 12 << 30


# --- running ------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Taken:
    """Seconds: by the clock, and of the processor."""

    wall: float
    processor: float


def timed(job: Job, program: Program, argv: list[str], store: Path) -> Taken:
    with tempfile.TemporaryFile() as talk:
        before, begin = children(), time.perf_counter()
        for _ in range(job.loops):
            with started(job, argv, talk) as process:
                status = process.wait()
            if status:
                talk.seek(0)
                text = talk.read()[-2000:].decode(errors="replace")
                raise SystemExit(f"failed ({status}): {' '.join(argv)}\n{text}")
        if job.durable and not program.ours:
            subprocess.run(["sync", "-f", str(store)], check=True)
        wall, processor = time.perf_counter() - begin, children() - before
        if job.inside and program.ours:
            talk.seek(0)
            wall, processor = map(float, talk.read().split()[-2:])
        return Taken(wall / job.loops, processor / job.loops)


def children() -> float:
    """Processor time, user and system, of all children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    times: list[Taken] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)


class Kept:
    """File systems that stay until the last row, for rows that share a store: one for each store and program."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._places: dict[tuple[str, str], Path] = {}

    def place(self, job: Job, program: Program) -> Path:
        key = (job.store, program.name)
        if key not in self._places:
            self._places[key] = self._stack.enter_context(new_file_system(job.place, program.name[0]))
        return self._places[key]


def measure(job: Job, programs: list[Program], repeats: int, kept: Kept) -> list[Figures]:
    if job.fresh:
        return measured_anew(job, programs, repeats)
    figures = [Figures() for _ in programs]
    with ExitStack() as stack:
        keeper = kept if job.store else Kept(stack)
        places = [keeper.place(job, program) for program in programs]
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


def measured_anew(job: Job, programs: list[Program], repeats: int) -> list[Figures]:
    figures = [Figures() for _ in programs]
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


# --- the report ---------------------------------------------------------------------------------------------


def seconds(value: float) -> str:
    if value >= 0.1:
        return f"{value:.2f} s"
    return f"{value * 1000:.1f} ms" if value >= 0.0001 else f"{value * 1_000_000:.0f} µs"


def megabytes(memory: Memory) -> str:
    return f"{memory.largest / 1e6:.0f} / {memory.together / 1e6:.0f} MB"


def row(job: Job, figures: list[Figures]) -> str:
    ours, theirs = figures
    pairs = list(zip(ours.times, theirs.times, strict=True))
    cells = [
        seconds(statistics.median(taken.wall for taken in theirs.times)),
        seconds(statistics.median(taken.wall for taken in ours.times)),
        f"**{statistics.median(a.wall / b.wall for a, b in pairs):.2f}**",
        f"{statistics.median(a.processor / max(b.processor, 0.001) for a, b in pairs):.2f}",
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
    parser.add_argument("--theirs", help="another containers-storage than the one on PATH")
    parser.add_argument("--list", action="store_true", help="print the rows and leave")
    given = parser.parse_args()

    rows = [*jobs.jobs(given.driver or ["vfs"]), *large.jobs()]
    chosen = [job for job in rows if all(word in job.name for word in given.only.split())]
    if given.list:
        print("\n".join(job.name for job in chosen))
        return
    if not chosen:
        raise SystemExit(f"no row contains {given.only!r}; bench/run.py --list names them")
    if os.geteuid() != 0:
        raise SystemExit("the benchmark mounts a new file system for each run: it needs root")
    ours = Program("orlop", os.path.abspath(given.ours))
    peers = {name: Program(name, shutil.which(name) or "") for name in ("containers-storage", "podman")}
    if given.theirs:
        peers["containers-storage"] = Program("containers-storage", given.theirs)
    for missing in {job.peer for job in chosen if not peers[job.peer].path}:
        print(f"{missing} is not installed: its rows are left out", file=sys.stderr)
        chosen = [job for job in chosen if job.peer != missing]
    if not chosen:
        raise SystemExit("there is nothing to compare with")
    for name in archives.NAMES:
        if any(name in job.name for job in chosen):
            for kind in archives.KINDS:
                archives.archive(name, kind)
    with keep_off_path("pigz", "unpigz"), ExitStack() as stack:
        kept = Kept(stack)
        said = ", ".join(versions(peers[name]) for name in dict.fromkeys(job.peer for job in chosen))
        print(f"{machine()}. {given.repeats} repeats in turns, medians; ratio: median of the ratios.")
        print("Memory: largest process / all processes of the command together.\n")
        print(
            f"| job | {said} | {versions(ours)} | ratio | of processor time | memory, they | memory, orlop |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)
        for job in chosen:
            print(row(job, measure(job, [ours, peers[job.peer]], given.repeats, kept)), flush=True)


if __name__ == "__main__":
    main()
