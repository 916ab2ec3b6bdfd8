"""J1: a container swaps what it likes while we walk its tree (CVE-2018-15664).

A process exchanges a directory, a file and a FIFO with symlinks to a canary outside, as fast as it can. Whatever a
walk finds, it is never the canary's: not a byte, not a name, not its size.
"""

import multiprocessing
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from orlop.errors import ContentChanged
from orlop.model.changes import Change
from orlop.stream import compare, pack
from orlop.stream.compare import changes_size, compare_trees, usage
from orlop.stream.filetable import Files, Opener
from orlop.stream.occupancy import Count
from orlop.stream.pack import pack_changes, pack_tree
from orlop.stream.pieces import PieceStream
from orlop.system import libc, sharing
from orlop.system.descent import Descent

CANARY = b"canary" * 20_000
SECONDS = 0.7


def swap_for_ever(root: str) -> None:
    libc.die_with_parent(os.getppid())
    fd = os.open(root, os.O_RDONLY)
    pairs = [(b"d", b"d2"), (b"d/f", b"d/f2"), (b"d2/f", b"d2/f2"), (b"file", b"file2"), (b"fifo", b"fifo2")]
    while True:
        for one, other in pairs:
            try:
                libc.renameat2(fd, one, fd, other, libc.RENAME_EXCHANGE)
            except OSError:
                pass  # its directory is the symlink just now


@pytest.fixture(params=["guarded", "unguarded"])
def moving(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tree in which somebody is at work."""
    if request.param == "guarded":
        peers.need_root()
        monkeypatch.setattr(pack, "GUARD_AFTER", 0)
        monkeypatch.setattr(compare, "GUARD_AFTER", 0)
    else:
        monkeypatch.setattr(Descent, "guard", lambda self: False)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(CANARY)
    (outside / "canary").write_bytes(CANARY)
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    for name in ("d/f", "file"):
        (root / name).write_bytes(b"ours")
        os.symlink(outside / "f", root / f"{name}2")
    os.symlink(outside, root / "d2")
    os.mkfifo(root / "fifo")
    (root / "fifo2").write_bytes(b"ours")
    swapper = multiprocessing.get_context("fork").Process(target=swap_for_ever, args=(str(root),))
    swapper.start()
    yield root
    assert swapper.is_alive()
    swapper.kill()
    swapper.join()
    assert (outside / "f").read_bytes() == CANARY


def rounds() -> Iterator[int]:
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1
    assert number > 20, "the walk was too slow for the test to mean anything"


def read(pieces: Iterator[object]) -> bytes:
    with PieceStream(pieces) as stream:  # type: ignore[arg-type]
        return stream.read()


def test_no_stream_of_a_tree_has_anything_from_outside(moving: Path) -> None:
    seen = set()
    for _ in rounds():
        try:
            stream = read(pack_tree(str(moving)))
        except ContentChanged:
            continue
        assert b"canary" not in stream
        seen.add(hash(stream))
    assert len(seen) > 1, "nothing ever moved"


def test_no_stream_of_changes_has_anything_from_outside(moving: Path) -> None:
    paths = (b"/d", b"/d/f", b"/d/canary", b"/d2", b"/d2/f", b"/d2/canary", b"/file", b"/fifo", b"/file2")
    changes = [Change(path, "A") for path in paths]
    for _ in rounds():
        assert b"canarycanary" not in read(pack_changes(str(moving), changes))
        assert changes_size(str(moving), changes) < len(CANARY)


def test_nothing_outside_is_listed_or_counted(moving: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "d").mkdir(parents=True)
    for _ in rounds():
        found = compare_trees(str(moving), str(old)) + compare_trees(str(moving))
        assert not [change for change in found if b"canary" in change.path]
        size, inodes = usage(str(moving))
        assert size < len(CANARY)
        assert inodes <= 10


def test_nothing_outside_is_weighed_or_taken_for_an_equal_file(
    moving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_NEVER", frozenset())  # open each file and ask, whatever the file system
    for number in rounds():
        with Count() as count:
            if number % 2:
                count.view(str(moving))
            count.tree(str(moving), 0)
            count.finish()
            assert sum(count.alone.values()) < len(CANARY)
        files = Files([str(moving)])
        files.add_tree(0)
        with Opener(files) as opener:
            for each in range(len(files)):
                try:
                    fd = opener.open(each)
                except OSError:
                    continue
                assert os.read(fd, 6) == b"ours"
                os.close(fd)


def test_the_swapping_would_catch_a_careless_walk(moving: Path) -> None:
    """The test has teeth: look first and open by path later, and the canary sings."""
    for _ in rounds():
        for name in ("d/f", "d2/f", "file"):
            try:
                if stat.S_ISREG(os.lstat(moving / name).st_mode) and (moving / name).read_bytes() == CANARY:
                    return
            except OSError:
                pass
    pytest.fail("no careless look was ever caught")
