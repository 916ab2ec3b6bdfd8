"""Copying a file's content: the three ways give the same bytes, and a way that does not work is not tried again."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import loopfs
from orlop.system import extents

CONTENT = os.urandom(3_000_001)


def _copied(
    tmp_path: Path, memory: extents.Memory, content: bytes = CONTENT, size: int | None = None
) -> bytes:
    (tmp_path / "source").write_bytes(content)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        extents.clone_or_copy(source, target, len(content) if size is None else size, memory)
    finally:
        os.close(source)
        os.close(target)
    return (tmp_path / "target").read_bytes()


class Kernel:
    """Counts the calls, and answers those that are to fail with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = {"ioctl": 0, "copy_file_range": 0, "sendfile": 0}
        self.errors: dict[str, int] = {}
        for module, name in ((fcntl, "ioctl"), (os, "copy_file_range"), (os, "sendfile")):
            monkeypatch.setattr(module, name, self._standing_for(name, getattr(module, name)))

    def _standing_for(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        def call(*args: int) -> int:
            self.calls[name] += 1
            if name in self.errors:
                raise OSError(self.errors[name], os.strerror(self.errors[name]))
            return real(*args)

        return call


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.mark.parametrize("refused", [errno.EOPNOTSUPP, errno.EINVAL, errno.ETXTBSY, errno.EIO])
def test_after_one_refusal_cloning_is_not_tried_again(tmp_path: Path, kernel: Kernel, refused: int) -> None:
    kernel.errors["ioctl"] = refused
    memory = extents.Memory()
    assert _copied(tmp_path, memory) == CONTENT
    assert _copied(tmp_path, memory) == CONTENT
    assert kernel.calls["ioctl"] == 1
    assert kernel.calls["copy_file_range"] == 2


def test_between_two_file_systems_copy_file_range_is_not_tried(tmp_path: Path, kernel: Kernel) -> None:
    kernel.errors["ioctl"] = errno.EXDEV
    assert _copied(tmp_path, extents.Memory()) == CONTENT
    assert kernel.calls == {"ioctl": 1, "copy_file_range": 0, "sendfile": 1}


@pytest.mark.parametrize("refused", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_a_refused_copy_file_range_gives_way_to_plain_copying(
    tmp_path: Path, kernel: Kernel, refused: int
) -> None:
    kernel.errors |= {"ioctl": errno.EINVAL, "copy_file_range": refused}
    memory = extents.Memory()
    assert _copied(tmp_path, memory) == CONTENT
    assert _copied(tmp_path, memory) == CONTENT
    assert kernel.calls == {"ioctl": 1, "copy_file_range": 1, "sendfile": 2}


def test_without_any_help_of_the_kernel_bytes_are_read_and_written(tmp_path: Path, kernel: Kernel) -> None:
    kernel.errors |= {"ioctl": errno.ENOTTY, "copy_file_range": errno.ENOSYS, "sendfile": errno.EINVAL}
    assert _copied(tmp_path, extents.Memory()) == CONTENT


@pytest.mark.parametrize("name", ["copy_file_range", "sendfile"])
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk_is_an_error(tmp_path: Path, kernel: Kernel, name: str, fault: int) -> None:
    """Trying the next way would hide it, or write half a file and call it whole."""
    kernel.errors |= {"ioctl": errno.EOPNOTSUPP, name: fault}
    content = CONTENT if name == "copy_file_range" else CONTENT[:5000]
    with pytest.raises(OSError) as failure:
        _copied(tmp_path, extents.Memory(), content)
    assert failure.value.errno == fault


def test_small_files_go_in_one_call_where_nothing_can_be_shared(tmp_path: Path, kernel: Kernel) -> None:
    kernel.errors["ioctl"] = errno.EOPNOTSUPP
    assert _copied(tmp_path, extents.Memory(), b"small") == b"small"
    assert kernel.calls == {"ioctl": 1, "copy_file_range": 0, "sendfile": 1}


@pytest.mark.parametrize("way", ["copy_file_range", "sendfile", "read"])
def test_a_file_that_shrank_ends_the_copy(tmp_path: Path, kernel: Kernel, way: str) -> None:
    """The original loops for ever on a copy_file_range that returns 0."""
    kernel.errors["ioctl"] = errno.EINVAL
    if way != "copy_file_range":
        kernel.errors["copy_file_range"] = errno.ENOSYS
    if way == "read":
        kernel.errors["sendfile"] = errno.EINVAL
    assert _copied(tmp_path, extents.Memory(), CONTENT, len(CONTENT) + 1_000_000) == CONTENT


@pytest.mark.parametrize("copy_range", [True, False])
def test_holes_stay_holes(tmp_path: Path, copy_range: bool) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(20 << 20)
        for at in (0, 7 << 20, (12 << 20) + 17):
            file.seek(at)
            file.write(b"data" * 5000)
    memory = extents.Memory()
    memory.clone = False
    memory.copy_range = copy_range
    old, new = os.open(source, os.O_RDONLY), os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT)
    try:
        extents.clone_or_copy(old, new, 20 << 20, memory, sparse=True)
    finally:
        os.close(old)
        os.close(new)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert (tmp_path / "target").stat().st_blocks * 512 < 1 << 20


def test_a_file_of_one_hole_is_copied_as_such(tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as file:
        file.truncate(5 << 20)
    old, new = (
        os.open(tmp_path / "source", os.O_RDONLY),
        os.open(tmp_path / "target", os.O_WRONLY | os.O_CREAT),
    )
    try:
        extents.clone_or_copy(old, new, 5 << 20, extents.Memory(), sparse=True)
    finally:
        os.close(old)
        os.close(new)
    status = (tmp_path / "target").stat()
    assert (status.st_size, status.st_blocks) == (5 << 20, 0)


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def sharing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with loopfs.mounted(request.param, tmp_path_factory.mktemp("loop")) as point:
        yield point


def test_where_extents_can_be_shared_a_copy_takes_no_space(sharing: Path, kernel: Kernel) -> None:
    """A vfs child layer on xfs or btrfs then costs directories and inodes only."""

    def free() -> int:
        os.sync()
        status = os.statvfs(sharing)
        return status.f_bfree * status.f_bsize

    content = os.urandom(20 << 20)
    (sharing / "source").write_bytes(content)
    before = free()
    memory = extents.Memory()
    assert _copied(sharing, memory, content) == content
    assert memory.clone
    assert kernel.calls == {"ioctl": 1, "copy_file_range": 0, "sendfile": 0}
    assert before - free() < 2 << 20
