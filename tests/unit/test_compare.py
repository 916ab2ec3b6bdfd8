"""What counts as a change between two trees, and what trees weigh."""

import os
import shutil
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import deep
import peers
from orlop.errors import LimitExceeded, UnsafePath
from orlop.model.changes import Change
from orlop.model.idmap import IDMap, IDMappings
from orlop.stream import compare
from orlop.stream.compare import changes_size, compare_trees, usage
from orlop.system.descent import Descent

TIME = 1_600_000_000


def write(path: Path, content: bytes = b"", ns: int = TIME * 10**9) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(ns, ns))
    return path


@pytest.fixture(params=["guarded", "by name"])
def trees(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """(new, old): two empty trees, compared by open files from the first directory on, or by name."""
    if request.param == "guarded":
        peers.need_root()
        monkeypatch.setattr(compare, "GUARD_AFTER", 0)
    else:
        monkeypatch.setattr(Descent, "guard", lambda self: False)
    new, old = tmp_path / "new", tmp_path / "old"
    new.mkdir()
    old.mkdir()
    return new, old


def changes(new: Path, old: Path, *maps: IDMappings) -> list[str]:
    found = compare_trees(str(new), str(old), *maps)
    assert found == sorted(found)
    return list(map(str, found))


def twin(new: Path, old: Path, name: str = "d/f", content: bytes = b"content") -> tuple[Path, Path]:
    """The same file in both trees, its directories alike."""
    for root in (new, old):
        write(root / name, content)
        for parent in (root / name).relative_to(root).parents[:-1]:
            os.utime(root / parent, ns=(TIME * 10**9,) * 2)
    return new / name, old / name


def settle(path: Path) -> None:
    """Give the directory of a changed entry its time back, so that only the entry differs."""
    os.utime(path.parent, ns=(TIME * 10**9,) * 2)


def test_equal_trees_have_no_changes(trees: tuple[Path, Path]) -> None:
    new, old = trees
    write(old / "d/e/f", b"x")
    os.symlink("to", old / "d/link")
    os.mkfifo(old / "fifo")
    shutil.copytree(old / "d", new / "d", symlinks=True)
    os.mkfifo(new / "fifo")
    for name in ("d/link", "fifo"):
        for root in trees:
            os.utime(root / name, ns=(0, 0), follow_symlinks=False)
    assert changes(*trees) == []
    os.utime(new, (0, 0))
    assert changes(*trees) == [], "the root itself never appears"


def set_attribute(path: Path, name: str = "user.a", value: bytes = b"1") -> None:
    try:
        os.setxattr(path, name, value)
    except OSError:
        peers.missing("a temporary directory whose file system has extended attributes")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o600),
        lambda path: path.chmod(0o4644),
        lambda path: os.utime(path, ns=(0, TIME * 10**9 + 10**9)),
        lambda path: write(path, b"longer than before"),
        set_attribute,
        lambda path: set_attribute(path, "user.overlay.a"),
        lambda path: set_attribute(path, "user.empty", b""),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_what_makes_a_file_differ(
    change: Callable[[Path], object], side: int, trees: tuple[Path, Path]
) -> None:
    paths = twin(*trees)
    change(paths[side])
    settle(paths[side])
    assert changes(*trees) == ["C /d", "C /d/f"]


@pytest.mark.parametrize(
    ("change", "root_only"),
    [
        (lambda path: path.write_bytes(b"CONTENT"), False),  # same size, and the time is given back
        (lambda path: path.read_bytes(), False),
        (lambda path: os.link(path, path.parent.parent.parent / "another-name"), False),
        (lambda path: os.setxattr(path, "trusted.a", b"1"), True),
        (lambda path: os.setxattr(path, "security.ima", b"1"), True),
    ],
)
def test_what_does_not_make_a_file_differ(
    change: Callable[[Path], object], root_only: bool, trees: tuple[Path, Path]
) -> None:
    if root_only:
        peers.need_root()
    path, _ = twin(*trees)
    change(path)
    os.utime(path, ns=(0, TIME * 10**9))
    assert changes(*trees) == []


@pytest.mark.parametrize(
    ("ns", "old_ns", "differ"),
    [
        (0, 0, False),
        (5, 5, False),
        (5, 0, False),
        (0, 5, False),
        (5, 6, True),
        (10**9, 0, True),
        (-1, 0, True),
    ],
)
def test_nanoseconds_count_only_if_both_sides_have_some(
    ns: int, old_ns: int, differ: bool, trees: tuple[Path, Path]
) -> None:
    """A tree that came out of a tar has whole seconds."""
    path, old_path = twin(*trees)
    os.utime(path, ns=(0, TIME * 10**9 + ns))
    os.utime(old_path, ns=(0, TIME * 10**9 + old_ns))
    assert bool(changes(*trees)) is differ


def test_capabilities_and_owners_count(trees: tuple[Path, Path]) -> None:
    peers.need_root()
    path, _ = twin(*trees)
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    assert changes(*trees) == ["C /d", "C /d/f"]
    os.removexattr(path, "security.capability")
    assert changes(*trees) == []
    os.chown(path, 5, 0)
    assert changes(*trees) == ["C /d", "C /d/f"]
    os.chown(path, 0, 5)
    assert changes(*trees) == ["C /d", "C /d/f"]


def test_a_device_is_its_numbers_and_a_symlink_its_text(trees: tuple[Path, Path]) -> None:
    peers.need_root()
    for root, minor, text in zip(trees, (3, 5), ("here", "gone"), strict=True):
        os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, minor))
        os.symlink(text, root / "link")
        for name in ("device", "link"):
            os.utime(root / name, ns=(0, 0), follow_symlinks=False)
    assert changes(*trees) == ["C /device", "C /link"]


def test_a_directory_differs_by_its_attributes_but_not_its_size_or_time(trees: tuple[Path, Path]) -> None:
    """As the peers have it: what was made or removed in it is a change of its own."""
    new, old = trees
    for root in trees:
        for name in ("mode", "time", "attribute", "size", "same"):
            (root / name).mkdir()
            os.utime(root / name, (TIME, TIME))
    (new / "mode").chmod(0o700)
    os.utime(new / "time", (0, 0))
    set_attribute(new / "attribute")
    for number in range(300):
        write(old / "size" / f"{number:0200}")
    for number in range(300):
        (old / "size" / f"{number:0200}").unlink()
    os.utime(old / "size", (TIME, TIME))
    assert changes(*trees) == ["C /attribute", "C /mode"]


def test_additions_are_listed_with_all_below_and_deletions_without(trees: tuple[Path, Path]) -> None:
    new, old = trees
    write(new / "added/deep/f")
    write(old / "deleted/deep/f")
    twin(new, old, "kept/f")
    write(new / "kept/more")
    settle(new / "kept/more")
    expected = ["A /added", "A /added/deep", "A /added/deep/f", "D /deleted", "C /kept", "A /kept/more"]
    assert changes(*trees) == expected


def test_whatever_changes_changes_its_directories_up_to_the_root(trees: tuple[Path, Path]) -> None:
    new, old = trees
    twin(new, old, "a/b/c/d")
    twin(new, old, "a/other/f")
    (new / "a/b/c/d").unlink()
    settle(new / "a/b/c/d")
    assert changes(*trees) == ["C /a", "C /a/b", "C /a/b/c", "D /a/b/c/d"]


def test_a_directory_that_differs_itself_is_listed_once(trees: tuple[Path, Path]) -> None:
    new, old = trees
    twin(new, old, "a/b/f")
    (new / "a/b").chmod(0o700)
    (new / "a/b/f").chmod(0o600)
    assert changes(*trees) == ["C /a", "C /a/b", "C /a/b/f"]


def test_a_change_of_kind_is_a_modification(trees: tuple[Path, Path]) -> None:
    """What was below a directory is not listed, what is below one now is new."""
    new, old = trees
    write(old / "was-directory/f")
    write(new / "was-directory")
    write(old / "was-file")
    write(new / "was-file/d/f")
    write(old / "was-link")
    (old / "was-link").unlink()
    os.symlink("was-directory", old / "was-link")
    write(new / "was-link/f")
    expected = ["C /was-directory", "C /was-file", "A /was-file/d", "A /was-file/d/f"]
    assert changes(*trees) == [*expected, "C /was-link", "A /was-link/f"]


def test_what_is_one_file_in_both_trees_is_not_looked_at(trees: tuple[Path, Path]) -> None:
    """Same inode, same device: as the peers do, not even if the two containers see other owners."""
    new, old = trees
    path, old_path = twin(new, old)
    path.unlink()
    os.link(old_path, path)
    settle(path)
    assert changes(*trees) == []
    uid, gid = os.getuid(), os.getgid()
    maps = IDMappings([IDMap(7, uid, 1)], [IDMap(7, gid, 1)])
    assert changes(new, old, maps, IDMappings()) == ["C /d"]


def test_without_an_old_tree_everything_is_new(trees: tuple[Path, Path]) -> None:
    write(trees[0] / "a/b/f")
    os.mkfifo(trees[0] / "fifo")
    assert list(map(str, compare_trees(str(trees[0])))) == ["A /a", "A /a/b", "A /a/b/f", "A /fifo"]


def test_owners_are_compared_as_the_container_sees_them(trees: tuple[Path, Path]) -> None:
    """New by the new maps and, only if that works, old by the old; what is not covered is compared as it is."""
    peers.need_root()
    new, old = trees
    for name, owner, old_owner in (
        ("equal-inside", 200_005, 100_005),
        ("differ-inside", 200_005, 100_006),
        ("equal-outside", 7, 7),
        ("uncovered-new", 300_005, 100_005),
        ("uncovered-old", 200_005, 5),  # 5 inside, and 5 on the host
    ):
        for root, id in ((new, owner), (old, old_owner)):
            os.chown(write(root / name), id, id)
    new_maps, old_maps = (
        IDMappings([IDMap(0, start, 100)], [IDMap(0, start, 100)]) for start in (200_000, 100_000)
    )
    assert changes(new, old, new_maps, old_maps) == ["C /differ-inside", "C /uncovered-new"]
    assert len(changes(new, old)) == 4


def test_depth_costs_no_memory(trees: tuple[Path, Path]) -> None:
    """With the path of each level kept, a container's ten thousand directories in each other would be gigabytes."""
    new, old = trees
    with deep.chain(new, 4000), deep.chain(old, 4000):
        tracemalloc.start()
        try:
            assert compare_trees(str(new), str(old)) == []
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def test_the_paths_of_changes_fill_no_memory(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everything is new, or changed, there is one path for each level."""
    new, old = trees
    monkeypatch.setattr(compare, "CHANGED_PATHS_MAX", 1 << 20)
    with deep.chain(new, 1000) as bottom:
        with pytest.raises(LimitExceeded, match="1048576 bytes"):
            compare_trees(str(new))
        with deep.chain(old, 1000):
            os.close(os.open("f", os.O_CREAT, dir_fd=bottom))
            with pytest.raises(LimitExceeded):
                compare_trees(str(new), str(old))


def test_trees_deeper_than_any_path_or_stack_are_compared(trees: tuple[Path, Path]) -> None:
    new, old = trees
    with deep.chain(new, 1200) as bottom, deep.chain(old, 1200) as old_bottom:
        for directory, mode in ((bottom, 0o600), (old_bottom, 0o644)):
            os.close(os.open("f", os.O_CREAT, mode, dir_fd=directory))
            os.chmod("f", mode, dir_fd=directory)
        found = compare_trees(str(new), str(old))
        assert len(found) == 1201
        assert found[-1] == Change(b"/deep" * 1200 + b"/f", "C")
        assert len(compare_trees(str(new))) == 1201
        assert usage(str(new)) == (0, 1202)


@pytest.mark.parametrize("moment", ["listed", "looked"])
def test_a_tree_that_moves_is_compared_as_it_is_found(
    moment: str, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory becomes a symlink, a file a FIFO, one vanishes: nothing hangs, nothing leads out."""
    new, old = trees
    for name in ("d/swapped/f", "d/gone", "d/fifo"):
        twin(new, old, name)
    outside = write(new.parent / "outside/f", b"the host's").parent
    (outside / "extra").touch()
    done = []

    def act() -> None:
        if not done:
            done.append(1)
            (new / "d/swapped").rename(new.parent / "moved")
            os.symlink(outside, new / "d/swapped")
            (new / "d/gone").unlink()
            (new / "d/fifo").unlink()
            os.mkfifo(new / "d/fifo")

    if moment == "listed":
        real = Descent.entries

        def entries(self: Descent) -> list[tuple[bytes, int, int]]:
            found = real(self)
            if self.status.st_ino == (new / "d").stat().st_ino:
                act()
            return found

        monkeypatch.setattr(Descent, "entries", entries)
    else:
        act()
    assert [line for line in changes(*trees) if line != "C /d"] == ["C /d/fifo", "D /d/gone", "C /d/swapped"]


# --- sizes --------------------------------------------------------------------------------------------------


def test_the_size_of_changes_is_that_of_their_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root / "d/a", b"12345")
    write(root / "d/b", b"123")
    os.link(root / "d/a", root / "linked")
    os.symlink("four", root / "link")
    write(root / "unlisted", b"x" * 1000)
    write(tmp_path / "outside/f", b"x" * 7777)
    os.symlink("../outside", root / "out")
    listed = [
        "C /d",
        "A /d/a",
        "C /d/b",
        "A /linked",
        "A /link",
        "D /unlisted",
        "A /gone",
        "A /out/f",
        "A /d/a/x",
    ]
    found = [Change(line[2:].encode(), line[0]) for line in listed]  # type: ignore[arg-type]
    assert changes_size(str(root), found) == 5 + 3 + 4
    assert changes_size(str(root), []) == 0


def test_the_size_of_a_path_that_climbs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        changes_size(str(tmp_path), [Change(b"/../etc/passwd", "A")])


def test_usage_is_lengths_and_distinct_inodes(tmp_path: Path) -> None:
    write(tmp_path / "a/f", b"12345")
    os.link(tmp_path / "a/f", tmp_path / "b")
    os.symlink("four", tmp_path / "link")
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert usage(str(tmp_path)) == (5 + 4 + (1 << 30), 6)


def test_usage_of_what_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        usage(str(tmp_path / "gone"))


def test_usage_goes_on_where_something_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/f", "b", "c"):
        write(tmp_path / name, b"123")
    real = Descent.entries

    def entries(self: Descent) -> list[tuple[bytes, int, int]]:
        found = real(self)
        if any(name == b"b" for name, _, _ in found):
            (tmp_path / "b").unlink()
            (tmp_path / "a").rename(tmp_path.parent / f"{tmp_path.name}-moved")
        return found

    monkeypatch.setattr(Descent, "entries", entries)
    assert usage(str(tmp_path)) == (3, 2)
