"""Paths beneath a root: the same answers by the kernel, by walking, and from inside a chroot; never outside."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from orlop.errors import UnsafePath
from orlop.system import beneath, libc

RESOLVERS = [beneath.by_kernel, beneath.by_walking]


def in_chroot(root_fd: int, path: bytes, flags: int, mode: int) -> int:
    """`inside_chroot` as seen from a process that entered the root; what it opened is what we open again by inode."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.fchdir(root_fd)
            os.chroot(".")
            fd = beneath.inside_chroot(root_fd, path, flags, mode)
            status = os.fstat(fd)
            os.write(writer, b"ok %d" % status.st_ino)
        except OSError as error:
            os.write(writer, b"no %d" % (error.errno or 0))
        finally:
            os._exit(0)
    os.close(writer)
    answer = os.read(reader, 100).split()
    os.close(reader)
    os.waitpid(pid, 0)
    if answer[0] == b"no":
        raise OSError(int(answer[1]), os.strerror(int(answer[1])))
    return -int(answer[1])


def answer(resolve: beneath.Resolver, root_fd: int, path: bytes) -> int:
    """The inode that a path leads to, or the number of the error, which no inode here is as small as."""
    try:
        found = resolve(root_fd, path.lstrip(b"/") or b".", os.O_RDONLY | os.O_CLOEXEC, 0)
    except OSError as error:
        return error.errno or 0
    if found < 0:
        return -found
    try:
        return os.fstat(found).st_ino
    finally:
        os.close(found)


def inode(path: Path) -> int:
    number = path.stat().st_ino
    assert number > 200
    return number


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root beside a canary that no path may reach."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("canary")
    root = tmp_path / "root"
    for name in ("a/b/c", "outside", "real"):
        (root / name).mkdir(parents=True)
    (root / "a/file").write_text("file")
    (root / "a/b/c/deep").write_text("deep")
    (root / "outside/secret").write_text("inside")
    for name, text in {
        "up": "../../../../../../a",
        "abs": "/a",
        "a/rel": "b",
        "a/climb": "../../../outside",
        "hop": "abs/rel/c",
        "dangling": "/nowhere",
        "self": "self",
        "tofile": "a/file",
        "a/b/slash": "/a/b/c/",
        "dot": ".",
    }.items():
        os.symlink(text, root / name)
    return root


@pytest.fixture(params=RESOLVERS)
def root(request: pytest.FixtureRequest, tree: Path) -> Iterator[beneath.Root]:
    fd = os.open(tree, os.O_RDONLY)
    with beneath.Root(fd, request.param) as made:
        yield made
    os.close(fd)


# (path, where it leads, or the error), as a process sees it whose root directory this is.
PATHS = [
    (b"a/file", "a/file"),
    (b"/a/file", "a/file"),
    (b"///a//./file", "a/file"),
    (b"../../../a/file", "a/file"),
    (b"a/../../../a/b", "a/b"),
    (b"..", "."),
    (b"", "."),
    (b".", "."),
    (b"/", "."),
    (b"up/file", "a/file"),
    (b"abs/file", "a/file"),
    (b"abs/rel/c/deep", "a/b/c/deep"),
    (b"a/climb/secret", "outside/secret"),
    (b"hop/deep", "a/b/c/deep"),
    (b"hop/../../file", "a/file"),
    (b"tofile", "a/file"),
    (b"a/b/slash", "a/b/c"),
    (b"a/b/slash/deep", "a/b/c/deep"),
    (b"dot/dot/dot/a", "a"),
    (b"a/", "a"),
    (b"abs/", "a"),
    (b"a/b/..", "a"),
    (b"nowhere", errno.ENOENT),
    (b"nowhere/../a", errno.ENOENT),
    (b"dangling", errno.ENOENT),
    (b"dangling/x", errno.ENOENT),
    (b"a/file/x", errno.ENOTDIR),
    (b"a/file/..", errno.ENOTDIR),
    (b"a/file/", errno.ENOTDIR),
    (b"self", errno.ELOOP),
    (b"self/x", errno.ELOOP),
    (b"x" * 300, errno.ENAMETOOLONG),
    (b"a/../" * 1000, errno.ENAMETOOLONG),
]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("resolve", [*RESOLVERS, in_chroot])
@pytest.mark.parametrize(("path", "leads_to"), PATHS)
def test_a_path_leads_where_it_would_if_the_root_were_the_whole_world(
    tree: Path, resolve: beneath.Resolver, path: bytes, leads_to: str | int
) -> None:
    if resolve is in_chroot:
        peers.need_root()
    fd = os.open(tree, os.O_RDONLY)
    try:
        assert answer(resolve, fd, path) == (
            leads_to if isinstance(leads_to, int) else inode(tree / leads_to)
        )
    finally:
        os.close(fd)


def test_forty_symlinks_are_followed_and_no_more(root: beneath.Root, tree: Path) -> None:
    """A12: the answer is an error, and comes at once."""
    os.symlink("a", tree / "l0")
    for n in range(1, 42):
        os.symlink(f"l{n - 1}", tree / f"l{n}")
    os.close(root.open(b"l39", os.O_RDONLY))
    with pytest.raises(OSError) as caught:
        root.open(b"l40", os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_the_last_symlink_is_not_followed_when_that_is_said(root: beneath.Root) -> None:
    with pytest.raises(OSError) as caught:
        root.open(b"tofile", os.O_RDONLY | os.O_NOFOLLOW)
    assert caught.value.errno == errno.ELOOP
    fd = root.open(b"tofile", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink(b"", dir_fd=fd) == b"a/file"
    os.close(fd)


def test_files_are_created_beneath_the_root_only(root: beneath.Root, tree: Path) -> None:
    fd = root.open(b"a/climb/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(fd)
    assert (tree / "outside/new").exists()
    assert not (tree.parent / "outside/new").exists()
    with pytest.raises(FileExistsError):
        root.open(b"dangling", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(root.open(b"dangling", os.O_WRONLY | os.O_CREAT, 0o600))
    assert (tree / "nowhere").exists()


def test_descriptors_are_closed_on_exec(root: beneath.Root) -> None:
    fd = root.open(b"a/file", os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_parent_and_a_name(root: beneath.Root, tree: Path) -> None:
    fd, name = root.parent(b"abs/rel/x")
    assert (os.fstat(fd).st_ino, name) == ((tree / "a/b").stat().st_ino, b"x")
    assert root.parent(b"x/") == (root.fd, b"x")
    for bad in (b"", b"/", b"a/..", b"a/."):
        with pytest.raises(UnsafePath, match="ends in no name"):
            root.parent(bad)


def test_handles_are_kept_and_bounded(root: beneath.Root, tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for n in range(300):
        (tree / f"many{n}").mkdir()
        root.directory(b"many%d" % n)
    assert len(os.listdir("/proc/self/fd")) == before + 128
    newest = root.directory(b"many299")
    assert root.directory(b"many299") == newest
    root.forget()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_handle_that_was_used_last_is_kept_longest(root: beneath.Root, tree: Path) -> None:
    (tree / "often").mkdir()
    often = root.directory(b"often")
    for n in range(200):
        (tree / f"many{n}").mkdir()
        root.directory(b"many%d" % n)
        assert root.directory(b"often") == often


def test_an_adopted_handle_replaces_the_one_before(root: beneath.Root, tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    old = root.directory(b"a")
    fd = os.open(tree / "a", os.O_RDONLY)
    root.adopt(b"a", fd)
    assert root.directory(b"a") == fd
    with pytest.raises(OSError):
        os.fstat(old)
    for n in range(140):
        (tree / f"many{n}").mkdir()
        root.adopt(b"many%d" % n, os.open(tree / f"many{n}", os.O_RDONLY))
    assert len(os.listdir("/proc/self/fd")) == before + 128


def test_only_regular_files_are_opened_for_reading(root: beneath.Root, tree: Path) -> None:
    """A FIFO in the place of a file would block for ever (CVE-2024-9676)."""
    os.mkfifo(tree / "pipe")
    fd = root.open_regular(b"tofile")
    assert os.read(fd, 10) == b"file"
    os.close(fd)
    for name in (b"pipe", b"a", b"abs"):
        with pytest.raises(UnsafePath, match="no regular file"):
            root.open_regular(name)


@pytest.mark.parametrize("refusal", [errno.ENOSYS, errno.EPERM])
def test_without_openat2_paths_are_walked(monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    def refused(*_: object) -> int:
        raise OSError(refusal, "no")

    monkeypatch.setattr(beneath, "_best", None)
    monkeypatch.setattr(libc, "openat2", refused)
    assert beneath.best_resolver() is beneath.by_walking
    assert beneath.best_resolver() is beneath.by_walking


def test_other_errors_do_not_choose_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EMFILE, "full")

    monkeypatch.setattr(beneath, "_best", None)
    monkeypatch.setattr(libc, "openat2", failing)
    with pytest.raises(OSError, match="full"):
        beneath.best_resolver()
    monkeypatch.undo()
    monkeypatch.setattr(beneath, "_best", None)
    assert beneath.best_resolver() is beneath.by_kernel


@pytest.mark.parametrize("resolve", RESOLVERS)
def test_a_swapping_thread_never_leads_outside(tree: Path, resolve: beneath.Resolver) -> None:
    """J1: a directory is swapped for a symlink to the outside, and back, while a path through it is resolved."""
    outside = inode(tree.parent / "outside/secret")
    (tree / "swap").mkdir()
    (tree / "swap/secret").write_text("x")
    os.symlink("../../outside", tree / "other")
    inside = {inode(tree / "outside/secret"), inode(tree / "swap/secret")}
    stop = threading.Event()

    def swap() -> None:
        fd = os.open(tree, os.O_RDONLY)
        try:
            while not stop.is_set():
                libc.renameat2(fd, "swap", fd, "other", 2)
        finally:
            os.close(fd)

    thread = threading.Thread(target=swap)
    thread.start()
    fd = os.open(tree, os.O_RDONLY)
    try:
        answers = {answer(resolve, fd, b"swap/secret") for _ in range(3000)}
    finally:
        stop.set()
        thread.join()
        os.close(fd)
    assert outside not in answers
    assert answers <= inside | {errno.EAGAIN, errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
    assert answers & inside


def test_a_tree_is_removed_however_deep_it_is_and_symlinks_are_not_followed(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    at = os.dup(fd)
    for _ in range(1200):  # deeper than descriptors or a path could reach
        os.mkdir("d", dir_fd=at)
        os.symlink(tree.parent / "outside", "link", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    before = len(os.listdir("/proc/self/fd"))
    try:
        beneath.remove_at(fd, b"d")
        gone = not (tree / "d").exists()
    finally:
        subprocess.run(["rm", "-rf", tree / "d"], check=False)  # pytest could not
    assert gone
    assert (tree.parent / "outside/secret").read_text() == "canary"
    assert len(os.listdir("/proc/self/fd")) == before
    for name in (b"a", b"abs", b"tofile", b"nowhere"):
        beneath.remove_at(fd, name)
        assert not os.path.lexists(os.path.join(os.fsencode(tree), name))
    os.close(fd)


def test_a_directory_that_is_moved_while_it_is_removed_is_left(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `..` would lead the removal to another place."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    before = len(os.listdir("/proc/self/fd"))
    fd = os.open(tree, os.O_RDONLY)
    with pytest.raises(OSError, match="moved while"):
        beneath.remove_at(fd, b"a")
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tree / "a").is_dir()


def test_what_cannot_be_removed_is_said_as_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EPERM of an immutable file must not come out as "not a directory"."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "immutable")

    fd = os.open(tree / "a", os.O_RDONLY)
    monkeypatch.setattr(os, "unlink", refused)
    with pytest.raises(PermissionError, match="immutable"):
        beneath.remove_at(fd, b"file")
    os.close(fd)
