"""How long it takes to look a store over, to find out where the disk went, and to share what is equal.

    make bench-disk            every row; a few minutes, 3 GB below the directory for temporary files

`make bench` ends with it.

Stores are made on a new xfs on a loop device: 20,000 layers with ten reflinked files and a sparse one each, and 20
layers of 5,000 files each, half of which have the same content. `du` does less: it counts shared blocks again for
each file, and knows no layers. It is here for what a walk over the inodes costs. Nobody else's dedup is there to
compare with (containers-storage 1.43 has none), so it stands beside reading the files (`cat`).
"""

import argparse
import fcntl
import hashlib
import json
import os
import resource
import shutil
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
CHECK = USAGE.replace("store.usage()", "assert not store.check(quick=True).findings")
GARBAGE = USAGE.replace("store.usage()", "assert not store.plan_gc().steps")
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


def reflinked(base: Path) -> None:
    """One layer that was imported, and 20,000 whose files lie on the blocks of the first one's."""
    source, graph = base / "source", base / "graph"
    source.mkdir()
    for number in range(SHARED):
        (source / f"file{number}").write_bytes(os.urandom(8192))
    with (source / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
        sparse.seek(1 << 20)
        sparse.write(b"data")
    blob = base / "blob.tar"
    subprocess.run(["tar", "--format=posix", "-S", "-C", str(source), "-cf", str(blob), "."], check=True)
    with orlop.open_store(graph, base / "run", "vfs", durability="none") as store, blob.open("rb") as tar:
        first = store.layers.put(tar)
    tables = graph / "vfs-layers"
    (record,) = json.loads((tables / "layers.json").read_text())
    split = tables / f"{first.id}.tar-split.gz"
    records = [record]
    for number in range(LAYERS):
        id = hashlib.sha256(b"layer %d" % number).hexdigest()
        parent = {"parent": records[-1]["id"]} if number % 20 else {}
        records.append({**record, "id": id, "names": [f"layer-{number}"], **parent})
        shutil.copy2(split, tables / f"{id}.tar-split.gz")
        _clone(graph / "vfs/dir" / first.id, graph / "vfs/dir" / id)
    (tables / "layers.json").write_text(json.dumps(records))
    shutil.rmtree(source)
    blob.unlink()


def _clone(tree: Path, copy: Path) -> None:
    copy.mkdir()
    shutil.copystat(tree, copy)
    for file in tree.iterdir():
        with file.open("rb") as original, (copy / file.name).open("wb") as out:
            fcntl.ioctl(out, FICLONE, original.fileno())
        shutil.copystat(file, copy / file.name)


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
        row("quick check, 20,000 reflinked layers", python(CHECK, many))
        row("plan_gc, 20,000 reflinked layers", python(GARBAGE, many))
        row("cat, 100,000 files", ["sh", "-c", f"find {few}/graph -type f -exec cat {{}} +"])
        row("plan_dedup, 100,000 files", python(PLAN, few))
        row("dedup, 100,000 files, half of them equal", python(SHARE, few))
        row("dedup once more", python(SHARE, few))


if __name__ == "__main__":
    main()
