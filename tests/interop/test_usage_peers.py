"""What stores made by podman and buildah take, against what the file system says: `df`, `du`, `btrfs fi du`."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import loopfs
import orlop
import peers

MEGABYTE = 1 << 20
CASES = ["ext4 overlay", "ext4 vfs", "xfs overlay", "xfs vfs", "btrfs overlay", "btrfs vfs"]

REFLINKED = ["xfs vfs", "btrfs vfs"]
"""Where a child of vfs is a copy that takes no space."""


@dataclass(frozen=True)
class Made:
    """A store that podman and buildah made: two images with a base in common, and a container of one of them."""

    base: Path
    driver: str
    used: int
    """Bytes by which the file system filled up."""

    @property
    def graph(self) -> Path:
        return self.base / "graph"

    def call(self, program: str, *words: str) -> str:
        roots = ["--root", f"{self.base}/graph", "--runroot", f"{self.base}/run"]
        done = subprocess.run(
            [program, *roots, "--storage-driver", self.driver, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise peers.Failed(f"{program} {' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout.strip()

    def open(self) -> orlop.Store:
        return orlop.open_store(self.graph, self.base / "run", self.driver, durability="none")


def free(place: Path) -> int:
    subprocess.run(["sync", "-f", str(place)], check=True)
    status = os.statvfs(place)
    return status.f_bfree * status.f_frsize


def settled(place: Path) -> int:
    """Free bytes once the file system has done in the background what it does there."""
    last = -1
    while (now := free(place)) != last:
        last = now
        time.sleep(0.5)
    return now


@pytest.fixture(scope="module", params=CASES)
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    peers.need_root()
    peers.need("podman", "buildah")
    kind, driver = request.param.split()
    scratch = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))
    try:
        with loopfs.mounted(kind, scratch) as base:
            before = settled(base)
            made = Made(base, driver, 0)
            _build(made)
            yield Made(base, driver, before - settled(base))
    finally:
        shutil.rmtree(scratch)


def _build(made: Made) -> None:
    source = "scratch"
    for name, size in (("base", 4 * MEGABYTE), ("one", MEGABYTE), ("two", 2 * MEGABYTE)):
        box = made.call("buildah", "from", source)
        root = Path(made.call("buildah", "mount", box))
        (root / name).mkdir()
        (root / name / "large").write_bytes(os.urandom(size))
        os.link(root / name / "large", root / name / "again")
        for number in range(30):
            (root / name / f"small{number}").write_bytes(os.urandom(100 * number))
        made.call("buildah", "umount", box)
        made.call("buildah", "commit", "-q", box, f"localhost/{name}")
        made.call("buildah", "rm", box)
        source = "localhost/base"
    box = made.call("podman", "create", "--name", "box", "localhost/one", "/bin/true")
    root = Path(made.call("podman", "mount", box))
    (root / "written").write_bytes(os.urandom(3 * MEGABYTE))
    with (root / "hole").open("wb") as file:
        file.truncate(1 << 30)
    made.call(
        "podman", "umount", "box"
    )  # `du` does not see the block of a directory that something is mounted on


def test_the_sum_is_what_the_file_system_filled_up_by(made: Made) -> None:
    """Within what the file system needs for itself: its trees, on btrfs twice, and inodes that come in chunks."""
    with made.open() as store:
        report = store.usage()
    assert abs(report.total_bytes - made.used) < 3 * MEGABYTE // 2
    assert report.unaccounted == ()


@pytest.mark.parametrize("made", [case for case in CASES if case not in REFLINKED], indirect=True)
def test_the_sum_is_that_of_du_where_nothing_is_shared(made: Made) -> None:
    with made.open() as store:
        assert store.usage().total_bytes == _du(made)


@pytest.mark.parametrize("made", REFLINKED, indirect=True)
def test_the_sum_is_less_than_that_of_du_where_layers_are_reflinked_copies(made: Made) -> None:
    """du counts the base of 4 MiB and the layer of 1 MiB again in each copy: in two images and a container."""
    with made.open() as store:
        total = store.usage().total_bytes
    assert 0 <= _du(made) - total - 13 * MEGABYTE < MEGABYTE


def _du(made: Made) -> int:
    paths = [made.graph, *([made.graph / "overlay"] if made.driver == "overlay" else [])]
    words = ["du", "-scxB1", *map(str, paths)]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-2])


@pytest.mark.parametrize("made", [case for case in CASES if case.startswith("btrfs")], indirect=True)
def test_on_btrfs_the_sum_is_that_of_its_own_du(made: Made) -> None:
    words = ["btrfs", "filesystem", "du", "-s", "--raw", str(made.graph)]
    *_, line = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    _, exclusive, shared, _ = line.split(maxsplit=3)
    with made.open() as store:
        total = store.usage().total_bytes
    # Theirs leaves out what is kept inside the trees: small files, of which each counts 4 KiB in `du` and here.
    assert 0 <= total - int(exclusive) - int(shared) < MEGABYTE


def test_each_object_has_its_part(made: Made) -> None:
    with made.open() as store:
        report = store.usage()
        images = {
            names[0].split("/")[1].split(":")[0]: found for found in report.images if (names := found.names)
        }
    (box,) = report.containers
    assert images["one"].containers == (box.id,)
    assert images["two"].containers == ()
    copies = made.driver == "vfs"
    shares = copies and peers.filesystem(made.graph) != "ext4"  # copies that take no space
    # Where a container's layer is a copy that shares its image's blocks, those are not unique to the image.
    unique = {"one": 0 if shares else MEGABYTE, "two": 2 * MEGABYTE}
    for name, size in unique.items():
        copied = 4 * MEGABYTE if copies and not shares else 0
        assert 0 <= images[name].unique_bytes - size - copied < MEGABYTE
        assert images[name].reclaimable_bytes == (0 if name == "one" else images[name].unique_bytes)
    copied = 5 * MEGABYTE if copies and not shares else 0
    assert 0 <= box.unique_bytes - 3 * MEGABYTE - copied < MEGABYTE


def test_deleting_with_podman_frees_what_was_said(made: Made) -> None:
    """Comes last: the store has one image less after it."""
    with made.open() as store:
        said = next(found for found in store.usage().images if "localhost/two:latest" in found.names)
    before = settled(made.base)
    made.call("podman", "rmi", "localhost/two")
    assert abs(settled(made.base) - before - said.reclaimable_bytes) < MEGABYTE
