"""Blocks behind the end of a file (`orlop.system.room`), on each file system that there is."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import loopfs
import peers
from orlop.system import room

SIZE = 256 << 10


@pytest.fixture(params=["tmpfs", "ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, place: Path) -> Iterator[Path]:
    peers.need_root()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=True)
        yield place
        return
    with loopfs.mounted(request.param, place) as at:
        yield at


@pytest.fixture
def file(disk: Path) -> Path:
    (disk / "lock").write_bytes(b"x" * 64)
    return disk / "lock"


def _kept(file: Path) -> int:
    return file.stat().st_blocks * 512


def test_blocks_are_kept_and_given_back_and_the_file_stays_as_it_is(file: Path) -> None:
    room.keep(str(file), SIZE)
    assert SIZE <= _kept(file) <= SIZE + 8192
    assert file.read_bytes() == b"x" * 64
    assert room.give_back(str(file)) >= SIZE
    assert _kept(file) <= 4096
    assert file.read_bytes() == b"x" * 64
    assert room.give_back(str(file)) == 0


def test_a_small_disk_gives_a_sixteenth_and_a_full_one_what_was_given_up(file: Path, disk: Path) -> None:
    space = os.statvfs(disk)
    room.keep(str(file), 1 << 40)
    kept = _kept(file)
    assert 0 < kept <= space.f_blocks * space.f_frsize // 16 + 8192
    with (disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(b"x" * 65536)
    given = room.give_back(str(file))
    assert given == kept
    room.keep(str(file), 1 << 40, again=given)
    assert kept // 8 < _kept(file) <= kept + 8192


def test_what_is_empty_no_file_or_not_there_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "outside").write_bytes(b"x")
    (tmp_path / "link").symlink_to("outside")
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "link", "pipe", "nothing"):
        room.keep(str(tmp_path / name), SIZE)
        assert room.give_back(str(tmp_path / name)) == 0
    assert _kept(tmp_path / "empty") == 0
    assert _kept(tmp_path / "outside") <= 4096
