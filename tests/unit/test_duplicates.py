"""Files with the same content are found, whatever their names; what cannot be read is left out and named."""

import errno
import os
import random
import tracemalloc
from pathlib import Path

import pytest

from orlop.stream import fingerprints
from orlop.stream.duplicates import Duplicates
from orlop.stream.filetable import Files, Opener


def table(*trees: Path) -> Files:
    files = Files([str(tree) for tree in trees])
    for number in range(len(trees)):
        files.add_tree(number)
    return files


def pairs(found: Duplicates) -> set[tuple[str, str]]:
    """(source, target) by name."""
    names = [os.path.basename(found.files.path(number)) for number in range(len(found.files))]
    return {(names[s], names[t]) for s, t in zip(found.sources, found.targets, strict=True)}


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "deep/er").mkdir(parents=True)
    two.mkdir()
    large = random.Random(1).randbytes(3_000_000)
    (one / "deep/er/a").write_bytes(large)
    (two / "b").write_bytes(large)
    (two / "c").write_bytes(large[:-1] + b"?")
    (one / "d").write_bytes(b"small")
    (two / "e").write_bytes(b"small")
    (two / "f").write_bytes(b"SMALL")
    (two / "alone").write_bytes(b"of a size that no other has")
    (two / "empty").write_bytes(b"")
    (one / "empty too").write_bytes(b"")
    os.mkfifo(two / "fifo")
    (two / "link").symlink_to("b")
    return one, two


@pytest.mark.parametrize("method", ["crc", "sha256"])
def test_a_hole_is_zeros_and_is_not_read(tmp_path: Path, method: str) -> None:
    """A file of terabytes costs an archive a kilobyte, and would keep us busy for hours."""
    number = fingerprints.key_function(method)
    ends = random.Random(2).randbytes(5000)
    keys = {}
    for name, size, write in (
        ("hole", 20_000_000, False),
        ("zeros", 20_000_000, True),
        ("vast", 1 << 42, False),
    ):
        with open(tmp_path / name, "w+b") as file:
            file.write(ends + bytes(size - 10_000) if write else ends)
            file.truncate(size)
            file.seek(size - 5000)
            file.write(ends)
            file.flush()
            keys[name] = number(file.fileno(), size)
            file.seek(9_000_000)
            file.write(b"x")
            file.flush()
            assert number(file.fileno(), size) != keys[name]
    assert keys["hole"] == keys["zeros"] != keys["vast"]


@pytest.mark.parametrize("method", ["crc", "sha256"])
def test_equal_files_are_paired_and_others_are_not(trees: tuple[Path, Path], method: str) -> None:
    found = Duplicates(table(*trees), method)
    assert {frozenset(pair) for pair in pairs(found)} == {frozenset("ab"), frozenset("de")}
    assert found.unreadable == []
    assert list(found.targets) == sorted(found.targets)


def test_by_size_alone_whatever_has_a_size_is_paired(trees: tuple[Path, Path]) -> None:
    found = Duplicates(table(*trees), "size")
    groups: dict[str, set[str]] = {}
    for source, target in pairs(found):
        groups.setdefault(source, {source}).add(target)
    assert sorted(map(sorted, groups.values())) == [["a", "b", "c"], ["d", "e", "f"]]


def test_without_the_quick_checksum_the_same_is_found(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fastcrc.crc64", None)
    found = Duplicates(table(*trees), "crc")
    assert {frozenset(pair) for pair in pairs(found)} == {frozenset("ab"), frozenset("de")}


def test_the_checksum_is_that_of_the_peers(tmp_path: Path) -> None:
    """CRC-64 of xz; its check value, computed in two steps."""
    from fastcrc.crc64 import xz

    assert xz(b"6789", xz(b"12345", 0)) == 0x995D_C9BB_DF19_39FA
    (tmp_path / "file").write_bytes(b"123456789")
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert fingerprints.key_function("crc")(fd, 9) == 0x995D_C9BB_DF19_39FA
    finally:
        os.close(fd)


def test_a_hard_link_is_taken_in_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"content")
    os.link(tmp_path / "one", tmp_path / "two")
    assert len(table(tmp_path)) == 1


def test_a_file_that_cannot_be_read_is_named_and_left_out(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad sector is no reason to do nothing at all."""
    bad = os.stat(trees[1] / "b").st_ino
    real = fingerprints._blocks

    def blocks(fd: int, size: int):  # type: ignore[no-untyped-def]
        if os.fstat(fd).st_ino == bad:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, size)

    monkeypatch.setattr(fingerprints, "_blocks", blocks)
    found = Duplicates(table(*trees), "crc")
    assert {frozenset(pair) for pair in pairs(found)} == {frozenset("de")}
    assert [(found.files.path(number), why) for number, why in found.unreadable] == [
        (str(trees[1] / "b"), "it cannot be read: Input/output error")
    ]


def test_a_file_that_changes_or_goes_meanwhile_is_left_out(trees: tuple[Path, Path]) -> None:
    files = table(*trees)
    (trees[1] / "b").write_bytes(b"shorter")
    (trees[1] / "e").unlink()
    found = Duplicates(files, "crc")
    assert pairs(found) == set()
    assert found.unreadable == []


@pytest.mark.parametrize("instead", ["symlink", "fifo", "other file", "directory"])
def test_what_was_put_in_the_place_of_a_file_is_not_opened(trees: tuple[Path, Path], instead: str) -> None:
    files = table(trees[0])
    number = next(n for n in range(len(files)) if files.path(n).endswith("/a"))
    path = trees[0] / "deep/er/a"
    content = path.read_bytes()
    path.rename(trees[0] / "moved")
    if instead == "symlink":
        path.symlink_to("../../moved")
    elif instead == "fifo":
        os.mkfifo(path)
    elif instead == "other file":
        path.write_bytes(content)
    else:
        path.mkdir()
    with Opener(files) as opener, pytest.raises(OSError) as refused:
        opener.open(number)
    assert refused.value.errno == errno.ESTALE


def test_a_directory_that_was_replaced_by_a_symlink_is_not_followed(trees: tuple[Path, Path]) -> None:
    files = table(trees[0])
    number = next(n for n in range(len(files)) if files.path(n).endswith("/a"))
    (trees[0] / "deep").rename(trees[0] / "moved")
    (trees[0] / "deep").symlink_to("moved")
    with Opener(files) as opener:
        with pytest.raises(OSError) as refused:
            opener.open(number)
        assert refused.value.errno in (errno.ENOTDIR, errno.ELOOP)
        other = next(n for n in range(len(files)) if files.path(n).endswith("/d"))
        os.close(opener.open(other))  # and it goes on


def test_a_table_of_many_files_is_small(tmp_path: Path) -> None:
    """A store may have millions: 10 million files in 1 GB at the very most."""
    (tmp_path / "file").write_bytes(b"x")
    status = os.stat(tmp_path / "file")
    files = Files([str(tmp_path)])
    files._paths.append(b"")
    files._tree.append(0)
    tracemalloc.start()
    try:
        for number in range(100_000):
            files._add(0, f"a name of usual length {number}", status)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(files) == 100_000
    assert size / len(files) < 80
