"""What trees take on the disk: as `du` says, with everything shared counted once; and what a removal really frees."""

import errno
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import loopfs
import peers
from orlop.stream import occupancy
from orlop.stream.occupancy import freed_by_removing, occupied
from orlop.system.extents import FICLONE

MEGABYTE = 1 << 20


def du(*paths: Path) -> int:
    done = subprocess.run(["du", "-scB1", *map(str, paths)], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def write(path: Path, size: int = MEGABYTE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    return path


def clone(old: Path, new: Path) -> Path:
    new.parent.mkdir(parents=True, exist_ok=True)
    with old.open("rb") as source, new.open("wb") as target:
        fcntl.ioctl(target, FICLONE, source.fileno())
    return new


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loopfs.mounted(request.param, tmp_path_factory.mktemp("loop")) as point:
        yield point


@pytest.fixture
def place(disk: Path) -> Iterator[Path]:
    directory = disk / "place"
    directory.mkdir()
    yield directory
    peers.unmount_below(directory)
    shutil.rmtree(directory)


able_to_share = pytest.mark.parametrize("disk", ["xfs", "btrfs"], indirect=True)


def test_a_tree_takes_what_du_says(place: Path) -> None:
    write(place / "a/b/large", 3 * MEGABYTE)
    for number in range(100):
        write(place / f"a/small{number}", number * 50)
    with (place / "a/hole").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(5 << 20)
        file.write(b"data" * 5000)
    (place / "a/link").symlink_to("x" * 300)
    os.mkfifo(place / "a/fifo")
    os.link(place / "a/b/large", place / "a/again")
    os.sync()
    assert occupied([str(place)]) == du(place)
    assert occupied([str(place / "a/b"), str(place / "a")]) == du(place / "a")


def test_a_single_file_counts_and_a_missing_one_does_not(place: Path) -> None:
    file = write(place / "file")
    os.sync()
    assert occupied([str(file), str(place / "missing"), str(file / "below")]) == du(file)


def test_a_removal_frees_what_has_no_name_elsewhere(place: Path) -> None:
    write(place / "goes/own")
    write(place / "goes/both")
    os.link(place / "goes/both", place / "stays")
    write(place / "goes/twice")
    os.link(place / "goes/twice", place / "goes/second name")
    os.sync()
    assert freed_by_removing([str(place / "goes")]) == du(place / "goes") - MEGABYTE
    assert freed_by_removing([str(place / "goes"), str(place / "stays")]) == du(place / "goes")


def test_a_mounted_file_system_is_not_part_of_the_tree(place: Path) -> None:
    """A running container's tree is mounted below its layer; counting it would count all its layers again."""
    write(place / "elsewhere/large", 5 * MEGABYTE)
    (place / "tree/mounted").mkdir(parents=True)
    (place / "tree/bound").mkdir()
    write(place / "tree/small", 4096)
    os.sync()
    alone = du(place / "tree")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place / "tree/mounted")], check=True)
    write(place / "tree/mounted/large", 5 * MEGABYTE)
    subprocess.run(["mount", "--bind", str(place / "elsewhere"), str(place / "tree/bound")], check=True)
    assert 0 <= alone - occupied([str(place / "tree")]) <= 8192  # the two directories that are mounted upon


def test_a_tree_that_is_mounted_upon_itself_is_counted(place: Path) -> None:
    """The home of overlay is such a mount."""
    write(place / "store/home/large")
    os.sync()
    alone = du(place / "store")
    subprocess.run(["mount", "--bind", str(place / "store/home"), str(place / "store/home")], check=True)
    assert occupied([str(place / "store")]) == alone


@able_to_share
def test_shared_blocks_are_counted_once(place: Path) -> None:
    old = write(place / "old", 4 * MEGABYTE)
    os.sync()
    alone = occupied([str(place)])
    clone(old, place / "new")
    clone(old, place / "newer")
    os.sync()
    assert 0 <= occupied([str(place)]) - alone <= 8192
    assert du(place) - alone >= 8 * MEGABYTE


@able_to_share
def test_shared_blocks_are_freed_when_all_who_hold_them_are_known_to_go(place: Path) -> None:
    old = write(place / "one/old", 4 * MEGABYTE)
    clone(old, place / "one/new")
    clone(old, place / "two/new")
    write(place / "one/own")
    os.sync()
    one, two = str(place / "one"), str(place / "two")
    rest = du(place / "one") - 8 * MEGABYTE
    assert freed_by_removing([one]) == rest
    assert freed_by_removing([one], beside=[str(place)]) == rest
    assert freed_by_removing([one, two]) == rest + du(place / "two") - 4 * MEGABYTE
    both = du(place / "one", place / "two") - 8 * MEGABYTE
    assert freed_by_removing([one, two], beside=[str(place)]) == both


@able_to_share
def test_blocks_that_something_outside_holds_are_not_freed(place: Path) -> None:
    """A snapshot of the whole disk, for example: each block was met once, and the kernel says that it is shared."""
    old = write(place / "store/layer/old", 4 * MEGABYTE)
    clone(old, place / "snapshot/old")
    os.sync()
    rest = du(place / "store/layer") - 4 * MEGABYTE
    assert freed_by_removing([str(place / "store/layer")], beside=[str(place / "store")]) == rest


@able_to_share
@pytest.mark.parametrize("seen", ["in a view", "with care"])
def test_a_walk_with_and_without_privileges_counts_the_same(
    place: Path, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(place / "store/layer/old", 4 * MEGABYTE)
    clone(old, place / "store/other/new")
    clone(write(place / "store/layer/both"), place / "store/layer/new")
    os.link(old, place / "store/layer/link")
    (place / "store/mounted").mkdir()
    os.mkfifo(place / "store/layer/fifo")
    os.sync()
    subprocess.run(["mount", "--bind", str(place / "store/other"), str(place / "store/mounted")], check=True)
    if seen == "with care":

        def refuse(fd: int, *, with_mounts: bool) -> int:
            raise PermissionError(errno.EPERM, "no views for ordinary users")

        monkeypatch.setattr(occupancy, "private_view", refuse)
    with occupancy.Count() as count:
        count.view(str(place / "store"))
        assert bool(count._views) == (seen == "in a view")
        count.tree(str(place / "store/layer"), 5)
        count.tree(str(place / "store/other"), 6)
        count.tree(str(place / "store/missing"), 7)
        count.finish()
    assert count.shared() == {frozenset((5, 6)): 4 * MEGABYTE, frozenset((5,)): MEGABYTE}
    assert set(count.alone) <= {frozenset((5,)), frozenset((6,))}
    beside = [str(place / "store")]
    assert freed_by_removing([str(place / "store/layer")], beside=beside) - MEGABYTE in range(16384)


@able_to_share
def test_a_hard_link_elsewhere_keeps_its_shared_blocks(place: Path) -> None:
    old = write(place / "goes/old", 4 * MEGABYTE)
    clone(old, place / "goes/new")
    os.link(old, place / "goes-not")
    os.sync()
    freed = freed_by_removing([str(place / "goes")], beside=[str(place)])
    assert freed == du(place / "goes") - 8 * MEGABYTE


def test_a_removal_frees_what_was_said(place: Path) -> None:
    """The judge is the file system. Metadata is rounded and lazily freed by all of them, hence the tolerance."""

    def free() -> int:
        os.sync()
        status = os.statvfs(place)
        return status.f_bfree * status.f_frsize

    write(place / "goes/own", 20 * MEGABYTE)
    write(place / "goes/linked", 5 * MEGABYTE)
    os.link(place / "goes/linked", place / "kept")
    os.sync()
    said = freed_by_removing([str(place / "goes")], beside=[str(place)])
    before = free()
    shutil.rmtree(place / "goes")
    deadline = time.monotonic() + 20
    while abs(free() - before - said) >= MEGABYTE and time.monotonic() < deadline:
        time.sleep(0.05)  # xfs frees inodes in the background
    assert abs(free() - before - said) < MEGABYTE


def test_a_tree_that_cannot_be_listed_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own error names a descriptor."""

    def fail(at: int) -> object:
        raise OSError(errno.EIO, os.strerror(errno.EIO), at)

    with monkeypatch.context() as patch, pytest.raises(OSError) as failure:
        patch.setattr(os, "scandir", fail)
        occupied([str(tmp_path)])
    assert (failure.value.errno, failure.value.filename) == (errno.EIO, f"{tmp_path}/")
