"""Walking a tree by handles: nothing leads outside, no depth is too deep, guarded or not it is the same tree."""

import errno
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import deep
import peers
from orlop.errors import UnsafePath
from orlop.system import descent
from orlop.system.descent import GONE, KEPT_OPEN, Descent, names_of, open_unnoticed, place_of


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_entries_are_sorted_by_bytes_and_have_kinds(tmp_path: Path) -> None:
    for name in (b"b", b"a-b", b"a.c", b"\xc3\xbc", b"\xff"):
        (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "fifo")
    os.symlink("a", tmp_path / "link")
    with Descent(str(tmp_path)) as at:
        entries = at.entries()
    names = [b"a", b"a-b", b"a.c", b"b", b"fifo", b"link", b"\xc3\xbc", b"\xff"]
    assert [name for name, _, _ in entries] == names
    kinds = {b"a": descent.DIRECTORY, b"fifo": descent.OTHER, b"link": descent.OTHER}
    assert [kind for _, kind, _ in entries] == [kinds.get(name, descent.FILE) for name in names]
    assert entries[0][2] == (tmp_path / "a").stat().st_ino


@pytest.mark.parametrize("what", ["symlink", "file", "nothing"])
def test_only_directories_are_entered(what: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    name = tmp_path / "root" / "name"
    {"symlink": lambda: os.symlink("../outside", name), "file": name.touch, "nothing": lambda: None}[what]()
    with Descent(str(tmp_path / "root")) as at:
        with pytest.raises(OSError) as caught:
            at.enter(b"name")
        assert caught.value.errno in GONE
        assert (at.depth, at.status.st_ino) == (0, (tmp_path / "root").stat().st_ino)


def test_a_fifo_in_the_place_of_a_directory_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "name")
    with Descent(str(tmp_path)) as at, pytest.raises(NotADirectoryError):
        at.enter(b"name")


def test_a_tree_of_any_depth_is_walked_with_few_descriptors(tmp_path: Path) -> None:
    levels = 3000
    with deep.chain(tmp_path, levels):
        before = open_descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + KEPT_OPEN + 16, hard))
        try:
            with Descent(str(tmp_path)) as at:
                inodes = [at.status.st_ino]
                for _ in range(levels):
                    at.enter(b"deep")
                    inodes.append(at.status.st_ino)
                while at.depth:
                    assert at.status.st_ino == os.fstat(at.fd).st_ino == inodes.pop()
                    at.leave()
                at.go([b"deep"] * 200)
                at.go([b"deep"] * 10)
                assert at.depth == 10
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert open_descriptors() == before


def test_a_directory_that_was_moved_away_is_not_left_for_its_new_parent(tmp_path: Path) -> None:
    """The parent had to be closed, and `..` now leads to where the walk has no business."""
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    with deep.chain(tmp_path / "root", KEPT_OPEN + 10), Descent(str(tmp_path / "root")) as at:
        for _ in range(KEPT_OPEN + 10):
            at.enter(b"deep")
        os.rename(tmp_path / "root" / "/".join(["deep"] * 5), tmp_path / "outside" / "moved")
        with pytest.raises(OSError, match="moved while it was read") as caught:
            while True:
                at.leave()
        assert caught.value.errno == errno.ESTALE
        assert at.depth == 5
        assert at.status.st_ino == (tmp_path / "outside" / "moved").stat().st_ino, "it stays where it is"


def test_going_shares_the_way_and_stops_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/x").mkdir()
    with Descent(str(tmp_path)) as at:
        at.go([b"a", b"b", b"c"])
        assert at.status.st_ino == (tmp_path / "a/b/c").stat().st_ino
        at.go([b"a", b"x"])
        assert at.status.st_ino == (tmp_path / "a/x").stat().st_ino
        with pytest.raises(FileNotFoundError):
            at.go([b"a", b"b", b"gone", b"deeper"])
        assert at.depth == 2
        at.go([])
        assert at.status.st_ino == tmp_path.stat().st_ino


def test_closing_twice_is_fine_and_leaves_nothing_open(tmp_path: Path) -> None:
    with deep.chain(tmp_path, 100):
        before = open_descriptors()
        at = Descent(str(tmp_path))
        at.go([b"deep"] * 100)
        at.close()
        at.close()
        assert open_descriptors() == before


@pytest.mark.parametrize(
    ("path", "names"), [(b"", []), (b".", []), (b"/", []), (b"a", [b"a"]), (b"/a/b/", [b"a", b"b"])]
)
def test_a_path_is_names(path: bytes, names: list[bytes]) -> None:
    assert names_of(path) == names


@pytest.mark.parametrize("path", [b"..", b"a/../b", b"/../etc", b"a//b", b"a/./b", b"../../x"])
def test_a_path_that_could_lead_out_is_refused(path: bytes) -> None:
    with pytest.raises(UnsafePath, match="plain path"):
        names_of(path)


def test_a_place_is_below_the_root() -> None:
    assert place_of(b"/a/b/c") == ([b"a", b"b"], b"c")
    assert place_of(b"c") == ([], b"c")
    for path in (b"/", b"", b"."):
        with pytest.raises(UnsafePath, match="below it"):
            place_of(path)


def test_looking_at_a_file_leaves_its_access_time(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    os.utime(tmp_path / "f", (1_000_000_000, 1_500_000_000))
    os.utime(tmp_path / "f", (1_000_000_000, 1_500_000_000))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        opened = open_unnoticed(b"f", os.O_RDONLY, fd)
        os.read(opened, 1)
        os.close(opened)
        assert (tmp_path / "f").stat().st_atime == 1_000_000_000
        (tmp_path / "f").read_bytes()
        if (tmp_path / "f").stat().st_atime == 1_000_000_000:
            peers.missing("a temporary directory whose file system records access times")
    finally:
        os.close(fd)


def test_somebody_elses_file_is_opened_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lets only the owner and root ask that the access is not recorded."""
    (tmp_path / "f").write_bytes(b"x")
    asked: list[int] = []

    def refusing(real: Callable[..., int]) -> Callable[..., int]:
        def opening(name: bytes, flags: int, **more: int) -> int:
            asked.append(flags & os.O_NOATIME)
            if flags & os.O_NOATIME:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            return real(name, flags, **more)

        return opening

    monkeypatch.setattr(os, "open", refusing(os.open))
    os.close(open_unnoticed(os.fsencode(tmp_path / "f"), os.O_RDONLY))
    assert asked == [os.O_NOATIME, 0]


@pytest.fixture
def guarded(tmp_path: Path) -> Descent:
    peers.need_root()
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/f").write_bytes(b"content")
    os.mknod(tmp_path / "a/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(tmp_path / "a/fifo")
    os.symlink("f", tmp_path / "a/link")
    at = Descent(str(tmp_path))
    at.go([b"a"])
    if not at.guard():
        peers.missing("a kernel that clones mounts (5.12)")
    return at


def test_a_guarded_descent_goes_on_where_it_was(guarded: Descent, tmp_path: Path) -> None:
    with guarded:
        assert guarded.guarded
        assert guarded.depth == 1
        assert os.path.samestat(guarded.status, (tmp_path / "a").stat())
        guarded.enter(b"b")
        guarded.leave()
        guarded.leave()
        assert os.path.samestat(os.fstat(guarded.fd), tmp_path.stat())
        assert guarded.guard(), "once is enough"


def test_a_guarded_descent_opens_no_device_and_writes_nothing(guarded: Descent) -> None:
    with guarded:
        fd = guarded.open_guarded(b"f")
        assert os.read(fd, 10) == b"content"
        os.close(fd)
        with pytest.raises(PermissionError):
            guarded.open_guarded(b"null")
        with pytest.raises(OSError) as caught:
            guarded.open_guarded(b"link")
        assert caught.value.errno == errno.ELOOP
        os.close(guarded.open_guarded(b"fifo"))  # does not wait for a writer
        with pytest.raises(OSError) as caught:
            os.open("f", os.O_WRONLY, dir_fd=guarded.fd)
        assert caught.value.errno == errno.EROFS


def test_a_descent_that_cannot_be_guarded_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()

    def refuse(root: int, *, with_mounts: bool) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(descent, "private_view", refuse)
    with Descent(str(tmp_path)) as at:
        at.enter(b"a")
        assert not at.guard()
        assert not at.guarded
        assert os.path.samestat(os.fstat(at.fd), (tmp_path / "a").stat())
        at.leave()


def test_a_directory_that_was_replaced_cannot_be_guarded(tmp_path: Path) -> None:
    """The way from the root does not lead to the open directory any more."""
    peers.need_root()
    (tmp_path / "root/a").mkdir(parents=True)
    before = open_descriptors()
    with Descent(str(tmp_path / "root")) as at:
        at.enter(b"a")
        os.rename(tmp_path / "root/a", tmp_path / "root/b")
        assert not at.guard()
        (tmp_path / "root/a").mkdir()
        assert not at.guard()
        assert os.path.samestat(os.fstat(at.fd), (tmp_path / "root/b").stat())
    assert open_descriptors() == before
