"""Power loss (promise P2): what was acknowledged is there and right; the rest is absent, flagged, or right."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers

pytest.importorskip("mfusepy")
sys.path.insert(0, os.path.dirname(__file__))

import disk

SIZE = 64 << 20
LAYERS = 12
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "ext4-noauto": ["mkfs.ext4", "-q", "-F"],
}
OPTIONS = {"ext4": "", "ext4-noauto": "noauto_da_alloc"}

WORK = """
import io, sys, tarfile, os
import orlop
graph, run, blobs, journal, durability, driver = sys.argv[1:]
with orlop.open_store(graph, run, driver, durability=durability) as store:
    parent = None
    for name in sorted(os.listdir(blobs)):
        with open(os.path.join(blobs, name), "rb") as blob:
            layer = store.layers.put(blob, id=name, names=["name-" + name])
        image = store.images.create(id="image-" + name, layer=layer.id, data={"manifest": name.encode()})
        print(name, os.stat(journal).st_size, flush=True)
        if name.endswith("5"):
            store.images.delete(image.id)
            print("-" + name, os.stat(journal).st_size, flush=True)
"""


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, check=False, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Layer tars with content that no other file of the disk has."""
    where = tmp_path / "blobs"
    where.mkdir()
    chance = random.Random(7)
    for number in range(LAYERS):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for index in range(6):
                info = tarfile.TarInfo(f"d{index % 2}/file{index}")
                data = chance.randbytes(chance.choice([0, 100, 5000, 70_000]))
                info.size, info.mtime = len(data), 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
        (where / f"layer{number:02}").write_bytes(buffer.getvalue())
    return where


class Powered:
    """A file system on a journalled disk, with a workload that was run on it."""

    def __init__(self, base: Path, kind: str, driver: str) -> None:
        self.base, self.kind, self.driver = base, kind, driver
        self.image, self.journal, self.start = base / "image", base / "journal", base / "start"
        self.fuse, self.mnt = base / "fuse", base / "mnt"
        for path in (self.fuse, self.mnt):
            path.mkdir()

    def record(self, blobs: Path, durability: str) -> list[tuple[str, int]]:
        """Run the workload; (layer, or -layer for its deletion, journal length when that was acknowledged)."""
        self.journal.touch()
        server = subprocess.Popen(
            [sys.executable, disk.__file__, str(self.fuse), str(self.image), str(self.journal), str(SIZE)]
        )
        loop = ""
        try:
            for _ in range(100):
                if (self.fuse / "disk").exists():
                    break
                time.sleep(0.05)
            loop = _run("losetup", "-f", "--show", str(self.fuse / "disk")).strip()
            _run(*MKFS[self.kind], loop)
            _run("sync", "-f", str(self.fuse))
            subprocess.run(["blockdev", "--flushbufs", loop], check=True)
            _run("cp", "--sparse=always", str(self.image), str(self.start))
            self.journal.write_bytes(b"")
            options = ["-o", OPTIONS[self.kind]] if OPTIONS[self.kind] else []
            _run("mount", *options, loop, str(self.mnt))
            try:
                out = _run(
                    sys.executable,
                    "-c",
                    WORK,
                    str(self.mnt / "graph"),
                    str(self.base / "run"),
                    str(blobs),
                    str(self.journal),
                    durability,
                    self.driver,
                )
            finally:
                peers.unmount_below(self.mnt / "graph")
                _run("umount", str(self.mnt))
        finally:
            if loop:
                subprocess.run(["losetup", "-d", loop], check=False)
            subprocess.run(["fusermount3", "-u", "-z", str(self.fuse)], check=False)
            server.wait(timeout=20)
        return [(line.split()[0], int(line.split()[1])) for line in out.splitlines()]

    def look(self, cut: int, entries: list[tuple[int, int, int, bytes]], seed: int) -> "Seen | None":
        """Make the crash image, mount it, and read what the store holds.

        None if the file system itself does not come back: a torn sector of its superblock says nothing about us.
        """
        crashed = self.base / "crashed"
        disk.crash_image(self.start, entries, cut, crashed, seed)
        mount = ["mount", "-o", "loop", str(crashed), str(self.mnt)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return None
        try:
            return Seen(self.mnt / "graph", self.base / "run-after", self.driver)
        finally:
            peers.unmount_below(self.mnt / "graph")
            _run("umount", str(self.mnt))


class Seen:
    """The store after the crash, through the library: which layers are there, and are they right?"""

    def __init__(self, graph: Path, run: Path, driver: str) -> None:
        import orlop

        shutil.rmtree(run, ignore_errors=True)
        self.layers: dict[str, str] = {}
        self.images: dict[str, bytes | None] = {}
        self.problems: list[str] = []
        layers = graph / f"{driver}-layers" / "layers.json"
        if not graph.exists():
            return
        if layers.exists():
            json.loads(layers.read_bytes() or b"null")
        with orlop.open_store(graph, run, driver, durability="none") as store:
            store.layers.create(id="after-the-crash")  # the store takes a write, and cleans up first
            store.layers.delete("after-the-crash")
            for layer in store.layers:
                try:
                    with store.diff(layer.id, compression=0) as tar:
                        digest = hashlib.sha256()
                        while block := tar.read(1 << 20):
                            digest.update(block)
                except orlop.StorageError as error:
                    self.problems.append(f"{layer.id}: {error}")
                    continue
                self.layers[layer.id] = "sha256:" + digest.hexdigest()
                if layer.diff_digest != self.layers[layer.id]:
                    self.problems.append(f"{layer.id}: recorded complete, but the content is another")
            for image in store.images:
                self.images[image.id] = store.images.data(image.id).get("manifest")
            self.problems += store.damage()


def _judge(powered: Powered, blobs: Path, acknowledged: list[tuple[str, int]], amount: int) -> list[str]:
    entries = list(disk.read_journal(powered.journal))
    right = {p.name: "sha256:" + hashlib.sha256(p.read_bytes()).hexdigest() for p in blobs.iterdir()}
    times = dict(acknowledged)
    chance = random.Random(11)
    found: list[str] = []
    lost = 0
    for number in range(amount):
        cut = chance.randrange(1, len(entries) + 1)
        reached = entries[cut - 1][0]
        seen = powered.look(cut, entries, seed=number)
        if seen is None:
            lost += 1
            continue
        where = f"image {number} (cut {cut})"
        for name, length in acknowledged:
            if name.startswith("-") or length > reached:
                continue
            deleted = times.get("-" + name)
            if deleted is None:
                if seen.layers.get(name) != right[name]:
                    found.append(f"{where}: {name} was acknowledged and is not there or not right")
                if seen.images.get("image-" + name) != name.encode():
                    found.append(
                        f"{where}: the image of {name} was acknowledged and is not there or not right"
                    )
            elif deleted <= reached and name in seen.layers:
                found.append(f"{where}: {name} was deleted and is back")
        found += [f"{where}: {problem}" for problem in seen.problems]
        found += [f"{where}: {name} is wrong" for name, d in seen.layers.items() if right.get(name) != d]
    assert lost <= amount // 5, f"{lost} of {amount} images could not be mounted: the suite proves little"
    return found


def _amount(quick: int) -> int:
    return int(os.environ.get("N") or quick)


@pytest.fixture(params=["vfs", "overlay"])
def powered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Powered]:
    peers.need_root()
    peers.need("mkfs.ext4", "losetup", "fusermount3")
    where = tmp_path / "power"
    where.mkdir()
    yield Powered(where, "ext4", request.param)
    peers.unmount_below(tmp_path)


def test_what_was_acknowledged_survives_power_loss(powered: Powered, blobs: Path) -> None:
    """Bytes, syncfs, record, rename, directory: in this order no record speaks of bytes that are not there."""
    acknowledged = powered.record(blobs, "full")
    assert not _judge(powered, blobs, acknowledged, _amount(25))


def test_without_durability_the_same_run_loses_layers(powered: Powered, blobs: Path) -> None:
    """The control: if nothing is lost without syncing, the recorder would prove nothing about syncing."""
    acknowledged = powered.record(blobs, "none")
    assert _judge(powered, blobs, acknowledged, 10)


@pytest.mark.deep
@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("kind", sorted(MKFS))
def test_deep_power_loss(tmp_path: Path, blobs: Path, kind: str, driver: str) -> None:
    """Many more images, also with the mount option that drops ext4's own help for renames."""
    peers.need_root()
    where = tmp_path / "power"
    where.mkdir()
    powered = Powered(where, kind, driver)
    try:
        acknowledged = powered.record(blobs, "full")
        assert not _judge(powered, blobs, acknowledged, _amount(1500))
    finally:
        peers.unmount_below(tmp_path)
