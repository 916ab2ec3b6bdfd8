"""How long it takes to find out where the disk went, and to share what is equal; prints a table.

    make bench-disk            every row; a few minutes, 3 GB below the directory for temporary files

Stores are made on a new xfs on a loop device: 20,000 layers with ten reflinked files and a sparse one each, and 20
layers of 5,000 files each, half of which have the same content. `du` does less: it counts shared blocks again for
each file, and knows no layers. It is here for what a walk over the inodes costs. Nobody else's dedup is there to
compare with (containers-storage 1.43 has none), so it stands beside reading the files (`cat`).
"""

import argparse
import fcntl
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import run

import orlop
from orlop.system.extents import FICLONE

SIZE = 6 << 30
LAYERS, SHARED = 20_000, 10
TREES, FILES = 20, 5_000

USAGE = "import sys, orlop\nwith orlop.open_store(*sys.argv[1:], 'vfs', durability='none') as store: store.usage()"
PLAN = USAGE.replace("usage()", "plan_dedup()")
SHARE = USAGE.replace("usage()", "dedup()")


@contextmanager
def xfs() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="orlop-bench-disk-") as scratch:
        image, point = Path(scratch, "xfs.img"), Path(scratch, "xfs")
        with image.open("wb") as disk:
            disk.truncate(SIZE)
        subprocess.run(["mkfs.xfs", "-q", str(image)], check=True)
        point.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
        try:
            yield point
        finally:
            run.leave(point)


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


def reflinked(base: Path) -> None:
    """20,000 layers, written as records, each a handful of files that lie on the blocks of the first one's."""
    with orlop.open_store(base / "graph", base / "run", "vfs", durability="none") as store:
        store.layers.create(id="first")
    home = base / "graph/vfs/dir"
    for number in range(SHARED):
        (home / f"first/file{number}").write_bytes(os.urandom(8192))
    originals = [os.open(home / f"first/file{number}", os.O_RDONLY) for number in range(SHARED)]
    (base / "graph/vfs-layers/layers.json").write_text(records(LAYERS))
    for layer in range(LAYERS):
        directory = home / identity(layer)
        directory.mkdir()
        for number, original in enumerate(originals):
            with (directory / f"file{number}").open("wb") as copy:
                fcntl.ioctl(copy, FICLONE, original)
        with (directory / "sparse").open("wb") as sparse:
            sparse.truncate(1 << 30)
            sparse.seek(1 << 20)
            sparse.write(b"data")
    for original in originals:
        os.close(original)


def equal(base: Path) -> None:
    """20 images of one layer with 5,000 files of 6,000 bytes; every second one is in all of them."""
    common = [os.urandom(6000) for _ in range(FILES // 2)]
    with orlop.open_store(base / "graph", base / "run", "vfs", durability="none") as store:
        for _ in range(TREES):
            layer = store.layers.create()
            store.images.create(layer=layer.id)
            for number in range(FILES):
                path = base / f"graph/vfs/dir/{layer.id}/{number // 100}/file{number}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(os.urandom(6000) if number % 2 else common[number // 2])


def measured(words: list[str]) -> str:
    """Wall time, processor time, and the peak memory of the largest process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory = run.Memory()
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        memory.watch(process)
    taken = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(f"failed ({process.returncode}): {' '.join(words)}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return f"{run.seconds(taken)} | {run.seconds(processor)} | {memory.largest / 1e6:.0f} MB"


def row(name: str, words: list[str]) -> None:
    print(f"| {name} | {measured(words)} |", flush=True)


def python(program: str, base: Path) -> list[str]:
    return [sys.executable, "-I", "-c", program, str(base / "graph"), str(base / "run")]


def main() -> None:
    argparse.ArgumentParser(description="usage and deduplication").parse_args()
    if os.geteuid() != 0:
        raise SystemExit("the benchmark mounts a file system: it needs root")
    print(f"{run.machine()}. One run each, with warm caches.\n")
    print("| job | time | of it CPU | memory |\n|---|---|---|---|")
    with xfs() as point:
        many, few = point / "many", point / "few"
        for place, make in ((many, reflinked), (few, equal)):
            place.mkdir()
            make(place)
        subprocess.run(["sync", "-f", str(point)], check=True)
        subprocess.run(["du", "-s", str(point)], check=True, stdout=subprocess.DEVNULL)
        row("du, 20,000 reflinked layers", ["du", "-s", str(many / "graph")])
        row("usage, 20,000 reflinked layers", python(USAGE, many))
        row("cat, 100,000 files", ["sh", "-c", f"find {few}/graph -type f -exec cat {{}} +"])
        row("plan_dedup, 100,000 files", python(PLAN, few))
        row("dedup, 100,000 files, half of them equal", python(SHARE, few))
        row("dedup once more", python(SHARE, few))


if __name__ == "__main__":
    main()
