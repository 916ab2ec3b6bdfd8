"""Power loss (promise P2): what was acknowledged is there and right; the rest is absent, flagged, or right."""

import hashlib
import io
import json
import os
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers

pytest.importorskip("mfusepy")
sys.path.insert(0, os.path.dirname(__file__))

import disk
from powered import Powered

LAYERS = 12
KINDS = ("ext4", "ext4-noauto")

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


def _record(powered: Powered, driver: str, blobs: Path, durability: str) -> list[tuple[str, int]]:
    """Run the workload; (layer, or -layer for its deletion, journal length when that was acknowledged)."""
    places = [str(powered.base / "run"), str(blobs), str(powered.journal)]
    out = powered.record(
        lambda mnt: [sys.executable, "-c", WORK, str(mnt / "graph"), *places, durability, driver]
    )
    return [(line.split()[0], int(line.split()[1])) for line in out.splitlines()]


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


def _judge(
    powered: Powered, driver: str, blobs: Path, acknowledged: list[tuple[str, int]], seeds: range
) -> list[str]:
    """What is wrong on the disks that the seeds make."""
    entries = list(disk.read_journal(powered.journal))
    right = {p.name: "sha256:" + hashlib.sha256(p.read_bytes()).hexdigest() for p in blobs.iterdir()}
    times = dict(acknowledged)
    chance = random.Random(11 + seeds.start)
    found: list[str] = []
    lost = 0
    for number in seeds:
        cut = chance.randrange(1, len(entries) + 1)
        reached = entries[cut - 1][0]
        with powered.crashed(cut, entries, seed=number) as mnt:
            seen = Seen(mnt / "graph", powered.base / "run-after", driver) if mnt else None
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
    assert lost <= len(seeds) // 5, (
        f"{lost} of {len(seeds)} images cannot be mounted: the suite proves little"
    )
    return found


def _amount(quick: int) -> int:
    return int(os.environ.get("N") or quick)


DRIVERS = ("vfs", "overlay")


@pytest.fixture
def powered(tmp_path: Path) -> Iterator[Powered]:
    yield Powered(tmp_path / "power", "ext4")
    peers.unmount_below(tmp_path)


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_was_acknowledged_survives_power_loss(powered: Powered, blobs: Path, driver: str) -> None:
    """Bytes, syncfs, record, rename, directory: in this order no record speaks of bytes that are not there."""
    acknowledged = _record(powered, driver, blobs, "full")
    assert not _judge(powered, driver, blobs, acknowledged, range(_amount(25)))


@pytest.mark.parametrize("driver", DRIVERS)
def test_without_durability_the_same_run_loses_layers(powered: Powered, blobs: Path, driver: str) -> None:
    """The control: if nothing is lost without syncing, the recorder would prove nothing about syncing."""
    acknowledged = _record(powered, driver, blobs, "none")
    tries = (range(first, first + 10) for first in range(0, 60, 10))
    assert any(_judge(powered, driver, blobs, acknowledged, seeds) for seeds in tries)


@pytest.mark.deep
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_deep_power_loss(tmp_path: Path, blobs: Path, kind: str, driver: str) -> None:
    """Many more images, also with the mount option that drops ext4's own help for renames."""
    powered = Powered(tmp_path / "power", kind)
    try:
        acknowledged = _record(powered, driver, blobs, "full")
        assert not _judge(powered, driver, blobs, acknowledged, range(_amount(1500)))
    finally:
        peers.unmount_below(tmp_path)
