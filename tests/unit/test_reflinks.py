"""Asking the kernel where files lie, and having it make them lie on the same blocks."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import loopfs
from orlop.system import sharing


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loopfs.mounted(request.param, tmp_path_factory.mktemp("loop")) as point:
        yield point


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def file(stack: ExitStack, path: Path, content: bytes, flags: int = os.O_RDONLY) -> int:
    path.write_bytes(content)
    fd = os.open(path, flags)
    stack.callback(os.close, fd)
    return fd


def test_files_that_were_made_to_share_say_so(disk: Path, opened: ExitStack) -> None:
    content = os.urandom(300_001)
    one, two = (file(opened, disk / name, content) for name in ("one", "two"))
    assert not any(each.shared for fd in (one, two) for each in sharing.extents(fd, sync=True))
    assert sharing.shared_extents(one) == []
    assert sharing.share(one, two, 0, len(content)) == len(content)
    found = sharing.extents(two)
    assert sum(each.length for each in found) == 303_104
    assert all(each.shared and not each.encoded for each in found)
    assert found[0].offset == 0
    assert sharing.shared_extents(one) == sharing.shared_extents(two) != []


def test_files_that_differ_are_not_shared(disk: Path, opened: ExitStack) -> None:
    content = os.urandom(100_000)
    one = file(opened, disk / "one", content)
    two = file(opened, disk / "two", content[:-1] + bytes((content[-1] ^ 1,)))
    assert sharing.share(one, two, 0, len(content)) == 0
    assert sharing.shared_extents(two) == []


def test_a_part_can_be_shared(disk: Path, opened: ExitStack) -> None:
    content = os.urandom(1 << 20)
    one = file(opened, disk / "one", content)
    two = file(opened, disk / "two", content[: 1 << 19] + os.urandom(1 << 19))
    assert sharing.share(one, two, 0, 1 << 19) == 1 << 19
    assert sum(end - start for start, end, _ in sharing.shared_extents(two)) == 1 << 19


def test_a_fragmented_file_is_told_of_as_a_whole(disk: Path, opened: ExitStack) -> None:
    """An answer of the kernel holds 17 extents here; the next question goes on where it ended."""
    one = file(opened, disk / "one", b"", os.O_RDWR)
    for number in range(100):
        os.pwrite(one, os.urandom(4096), number * 12288)
    found = sharing.extents(one, sync=True)
    assert len(found) > 50
    for number in range(100):  # xfs allots some of what lies between, too
        assert any(each.offset <= number * 12288 < each.offset + each.length for each in found)
    assert [each.offset for each in found] == sorted({each.offset for each in found})


def test_between_two_file_systems_nothing_can_be_shared(
    disk: Path, opened: ExitStack, tmp_path: Path
) -> None:
    one = file(opened, disk / "one", b"x" * 8192)
    two = file(opened, tmp_path / "two", b"x" * 8192)
    with pytest.raises(OSError) as refused:
        sharing.share(one, two, 0, 8192)
    assert refused.value.errno in (errno.EXDEV, errno.EOPNOTSUPP)


def test_only_file_systems_with_reflinks_are_said_to_have_them(disk: Path, tmp_path: Path) -> None:
    assert sharing.reflinks(str(disk))
    assert not sharing.reflinks("/dev/shm")
    with loopfs.mounted("ext4", tmp_path) as plain:
        assert not sharing.reflinks(str(plain))


@pytest.mark.parametrize("what", ["fifo", "symlink", "directory", "nothing"])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, what: str) -> None:
    """Opening a FIFO would block for ever; what a symlink names may be anything."""
    path = tmp_path / "entry"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "symlink":
        (tmp_path / "other").write_bytes(b"")
        path.symlink_to("other")
    elif what == "directory":
        path.mkdir()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError) as refused:
            sharing.open_to_ask("entry", directory)
    finally:
        os.close(directory)
    assert refused.value.errno == (errno.ENOENT if what == "nothing" else errno.ESTALE)


def test_subvolumes_of_btrfs_are_one_space(tmp_path: Path) -> None:
    import subprocess

    with loopfs.mounted("btrfs", tmp_path) as point:
        subprocess.run(["btrfs", "-q", "subvolume", "create", str(point / "sub")], check=True)
        spaces = sharing.Spaces()
        found = []
        for path in (point, point / "sub"):
            fd = os.open(path, os.O_RDONLY)
            found.append((os.fstat(fd).st_dev, spaces.of(fd, os.fstat(fd).st_dev)))
            os.close(fd)
    assert found[0][0] != found[1][0]
    assert found[0][1] is found[1][1]
