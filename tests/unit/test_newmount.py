"""Mounts by handles: what the kernel says reaches the caller, what hangs nowhere leaves nothing, and a mount goes to
the directory that was opened, whatever its path leads to by then (J2)."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import peers
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import libc, mounts, newmount, userns


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory below which nothing is mounted in the end; nor is a descriptor left open."""
    peers.need_root()
    descriptors = set(os.listdir("/proc/self/fd"))
    yield tmp_path
    left, still_open = peers.mounts_below(tmp_path), set(os.listdir("/proc/self/fd"))
    peers.unmount_below(tmp_path)
    assert left == []
    assert still_open == descriptors


@pytest.fixture
def handle() -> Iterator[Callable[[int | Path], int]]:
    """Keeps a descriptor, or opens a directory, and closes it after the test."""
    kept = []

    def keep(what: int | Path) -> int:
        kept.append(what if isinstance(what, int) else os.open(what, newmount.DIRECTORY))
        return kept[-1]

    yield keep
    for fd in kept:
        os.close(fd)


def tmpfs(**options: str) -> int:
    with newmount.Context("tmpfs") as context:
        for key, value in options.items():
            context.set(key, value)
        return context.mount()


def directory(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


# --- file systems in the making -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fstype", "key", "value", "expected"),
    [
        ("overlay", "frob", None, "mount option frob: overlay: Unknown parameter 'frob'"),
        ("overlay", "frob", "1", "mount option frob=1: overlay: Unknown parameter 'frob'"),
        ("overlay", "index", "maybe", "mount option index=maybe: overlay: Bad value for 'index'"),
        ("tmpfs", "size", "big", "mount option size=big: tmpfs: Bad value for 'size'"),
    ],
)
def test_an_option_is_refused_in_the_words_of_the_kernel(
    place: Path, fstype: str, key: str, value: str | None, expected: str
) -> None:
    with newmount.Context(fstype) as context:
        for _ in range(3):  # each time it is this error, and all of this error
            with pytest.raises(OSError) as caught:
                context.set(key, value)
            assert (caught.value.errno, caught.value.strerror) == (errno.EINVAL, expected)
        if fstype == "tmpfs":
            os.close(context.mount())  # what was refused does not count


def test_where_the_kernel_has_no_words_the_error_still_says_what_failed(place: Path) -> None:
    with newmount.Context("overlay") as context, pytest.raises(OSError) as caught:
        context.mount()
    assert caught.value.errno == errno.EINVAL
    assert caught.value.strerror.startswith("making a file system of type overlay: Invalid argument")


def test_a_kind_of_file_system_that_is_not_there_is_an_error_without_descriptor(place: Path) -> None:
    with pytest.raises(OSError) as caught:
        newmount.Context("no-such-type")
    assert caught.value.errno == errno.ENODEV


# --- attaching and detaching --------------------------------------------------------------------------------


def test_a_mount_hangs_nowhere_until_it_is_attached_and_ends_with_its_handle(place: Path) -> None:
    root = tmpfs(size="64k")
    try:
        fd = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=root)
        os.close(fd)
        device = os.fstat(root).st_dev
        assert peers.mounts_below(place) == []
        newmount.detach(root)  # fine: it hangs nowhere
    finally:
        os.close(root)
    assert f"{os.major(device)}:{os.minor(device)}" not in [mount.device for mount in mounts.mount_table()]


def test_a_mount_goes_to_the_directory_that_was_opened(
    place: Path, handle: Callable[[int | Path], int]
) -> None:
    """CVE-2021-30465: after the check the mount point is swapped for a symlink to another place."""
    target = directory(place / "target")
    outside = directory(place / "outside")
    opened = handle(target)
    target.rename(place / "moved")
    target.symlink_to(outside)
    root = handle(tmpfs())
    newmount.attach(root, opened)
    assert peers.mounts_below(place) == [str(place / "moved")]
    newmount.detach(root)


def test_a_mount_on_a_directory_that_is_gone_is_an_error(
    place: Path, handle: Callable[[int | Path], int]
) -> None:
    opened = handle(directory(place / "target"))
    (place / "target").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        newmount.attach(handle(tmpfs()), opened)
    assert caught.value.__notes__ == ["the call was move_mount()"]


def test_a_mount_in_use_is_detached_by_its_handle(place: Path, handle: Callable[[int | Path], int]) -> None:
    root = handle(tmpfs())
    newmount.attach(root, handle(directory(place / "target")))
    with open(place / "target" / "file", "w") as file:
        newmount.detach(root)
        assert peers.mounts_below(place) == []
        file.write("still works")
    newmount.detach(root)
    newmount.detach(handle(place / "target"))  # no root of a mount: fine


def test_the_root_of_what_is_mounted_is_found_from_the_directory(
    place: Path, handle: Callable[[int | Path], int]
) -> None:
    opened = handle(directory(place / "odd name\n"))
    with pytest.raises(FileNotFoundError, match="nothing is mounted"):
        newmount.root_on(opened)
    root = handle(tmpfs())
    newmount.attach(root, opened)
    assert os.path.samestat(os.fstat(handle(newmount.root_on(opened))), os.fstat(root))
    newmount.detach(root)
    with pytest.raises(FileNotFoundError, match="nothing is mounted"):
        newmount.root_on(opened)


# --- copies of mounts ---------------------------------------------------------------------------------------


def test_a_copy_of_a_tree_is_the_tree_without_what_is_mounted_in_it(
    place: Path, handle: Callable[[int | Path], int]
) -> None:
    tree = directory(place / "tree")
    (directory(tree / "inner") / "below").touch()
    root = handle(tmpfs())
    newmount.attach(root, handle(tree / "inner"))
    for source in (str(tree), handle(tree)):
        copy = handle(newmount.clone_tree(source))
        assert os.path.samestat(os.fstat(copy), tree.stat())
        os.stat("inner/below", dir_fd=copy)
    assert peers.mounts_below(place) == [str(tree / "inner")]
    newmount.detach(root)
    with pytest.raises(FileNotFoundError) as caught:
        newmount.clone_tree(str(place / "missing"))
    assert caught.value.filename == str(place / "missing")


MAPPINGS = IDMappings([IDMap(0, 100000, 10), IDMap(10, 5, 1)], [IDMap(0, 200000, 10)])


def mapped(path: Path, mappings: IDMappings = MAPPINGS) -> int:
    with userns.namespace_for(mappings) as namespace:
        try:
            return newmount.idmapped(str(path), namespace.fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            peers.missing(f"id-mapped mounts on {peers.filesystem(path)}")


def test_a_mapped_copy_shows_the_owners_of_the_host(place: Path, handle: Callable[[int | Path], int]) -> None:
    tree = directory(place / "tree")
    for name, uid, gid in (("root", 0, 0), ("other", 10, 9), ("beyond", 11, 10)):
        (tree / name).touch()
        os.chown(tree / name, uid, gid)
    copy = handle(mapped(tree))
    seen = {name: os.stat(name, dir_fd=copy) for name in os.listdir(tree)}
    assert {name: (status.st_uid, status.st_gid) for name, status in seen.items()} == {
        "root": (100000, 200000),
        "other": (5, 200009),
        "beyond": (65534, 65534),
    }
    assert (tree / "root").stat().st_uid == 0
    assert peers.mounts_below(place) == []


def test_a_mapped_copy_is_private(place: Path, handle: Callable[[int | Path], int]) -> None:
    """Attached in a shared tree it would be passed on; the copy itself comes as a slave of nobody."""
    shared = directory(place / "shared")
    subprocess.run(["mount", "--bind", str(shared), str(shared)], check=True)
    subprocess.run(["mount", "--make-shared", str(shared)], check=True)
    try:
        (target := place / "target").mkdir()
        subprocess.run(["mount", "--bind", str(target), str(target)], check=True)
        subprocess.run(["mount", "--make-private", str(target)], check=True)
        copy = handle(mapped(shared))
        (target / "m").mkdir()
        newmount.attach(copy, handle(target / "m"))
        assert propagation(target / "m") == b""
        newmount.detach(copy)
    finally:
        peers.unmount_below(place)


def propagation(point: Path) -> bytes:
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        if fields[4] == os.fsencode(point):
            found = b" ".join(fields[6 : fields.index(b"-")])
    return found


def test_what_cannot_be_mapped_is_an_error_that_leaves_nothing(place: Path) -> None:
    with userns.namespace_for(MAPPINGS) as namespace, pytest.raises(OSError) as caught:
        newmount.idmapped("/proc", namespace.fd)
    assert caught.value.errno == errno.EINVAL


# --- a place for the moment ---------------------------------------------------------------------------------


def test_mounts_hang_on_directories_for_the_length_of_a_block(
    place: Path, handle: Callable[[int | Path], int]
) -> None:
    points = [place / "mapped" / "0", place / "mapped" / "1"]
    roots = [handle(tmpfs()), handle(tmpfs())]
    with newmount.attached([(root, str(point)) for root, point in zip(roots, points, strict=True)]):
        assert peers.mounts_below(place) == [str(point) for point in points]
    assert peers.mounts_below(place) == []
    assert [point.stat().st_mode & 0o777 for point in (*points, place / "mapped")] == [0o700] * 3


def test_an_error_inside_or_half_way_takes_them_down_as_well(
    place: Path, handle: Callable[[int | Path], int]
) -> None:
    with pytest.raises(ZeroDivisionError), newmount.attached([(handle(tmpfs()), str(place / "0"))]):
        raise ZeroDivisionError
    pairs = [(handle(tmpfs()), str(place / "0"))]
    (place / "link").symlink_to(directory(place / "outside"))
    with (
        pytest.raises(NotADirectoryError),
        newmount.attached([*pairs, (handle(tmpfs()), str(place / "link"))]),
    ):
        pytest.fail("the block was entered")


# --- where layers are mounted -------------------------------------------------------------------------------


def test_a_directory_becomes_a_private_mount_point_once(place: Path) -> None:
    """Of a shared parent it would inherit that what is mounted below shows up everywhere."""
    above = directory(place / "above")
    subprocess.run(["mount", "--bind", str(above), str(above)], check=True)
    subprocess.run(["mount", "--make-shared", str(above)], check=True)
    try:
        home = directory(above / "home")
        (home / "file").touch()
        for _ in range(2):
            newmount.bind_private(str(home))
            assert peers.mounts_below(home) == [str(home)]
            assert propagation(home) == b""
            assert (home / "file").exists()
        assert propagation(above).startswith(b"shared:")
    finally:
        peers.unmount_below(place)


def test_what_is_mounted_there_already_becomes_private(place: Path) -> None:
    home = directory(place / "home")
    subprocess.run(["mount", "-t", "tmpfs", "test", str(home)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(home)], check=True)
        newmount.bind_private(str(home))
        assert peers.mounts_below(home) == [str(home)]
        assert propagation(home) == b""
    finally:
        peers.unmount_below(place)


def test_the_kind_of_a_file_system_is_a_number(place: Path, handle: Callable[[int | Path], int]) -> None:
    assert libc.filesystem_magic(handle(tmpfs())) == 0x0102_1994
    assert libc.filesystem_magic(handle(Path("/proc"))) == 0x9FA0
