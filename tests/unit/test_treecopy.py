"""Tree copies: nothing lost, nothing followed, and the same whether one process does it or two."""

import errno
import os
import resource
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
import trees
from orlop.stream import filecopy, treecopy
from orlop.system import confine, files


@pytest.fixture(autouse=True)
def _root() -> None:
    peers.need_root()


@pytest.fixture(params=[1, 2], ids=["alone", "two processes"])
def copy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """copy_tree; with two processes the second one takes every batch."""

    def run(source: Path, target: Path, **options: bool) -> None:
        target.mkdir(exist_ok=True)
        started = []
        monkeypatch.setattr(confine, "start", lambda *a, **k: started.append(a) or start(*a, **k))
        monkeypatch.setattr(treecopy, "_ALONE", 0)
        monkeypatch.setattr(treecopy, "_AHEAD", 1 << 30)
        before = os.listdir("/proc/self/fd")
        try:
            treecopy.copy_tree(str(source), str(target), processes=request.param, **options)
        finally:
            assert len(started) == request.param - 1
            assert len(os.listdir("/proc/self/fd")) == len(before)

    start = confine.start
    return run


def test_a_copy_has_everything_its_original_has(copy: Callable[..., None], tmp_path: Path) -> None:
    """Content, owners, modes with all bits, times to the nanosecond, links, kinds, attributes."""
    trees.plant(tmp_path / "a")
    before = trees.listing(tmp_path / "a")
    copy(tmp_path / "a", tmp_path / "b")
    assert trees.listing(tmp_path / "b") == before
    assert trees.listing(tmp_path / "a", atime=False) == trees.listing(tmp_path / "b", atime=False)
    assert os.stat(tmp_path / "b" / "sparse").st_blocks * 512 < 1 << 20


def test_setuid_bits_of_what_is_no_file_survive_the_change_of_owner(
    copy: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    os.mkfifo(tmp_path / "a" / "fifo")
    os.mknod(tmp_path / "a" / "device", stat.S_IFCHR, os.makedev(1, 3))
    for name in ("fifo", "device", "file"):
        os.chown(tmp_path / "a" / name, 33, 34)
        (tmp_path / "a" / name).chmod(0o6711)
    copy(tmp_path / "a", tmp_path / "b")
    assert trees.listing(tmp_path / "b", atime=False) == trees.listing(tmp_path / "a", atime=False)


def test_the_umask_has_no_say(copy: Callable[..., None], tmp_path: Path) -> None:
    trees.plant(tmp_path / "a")
    before = trees.listing(tmp_path / "a")
    mask = os.umask(0o077)
    try:
        copy(tmp_path / "a", tmp_path / "b")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)
    assert trees.listing(tmp_path / "b") == before


def test_only_the_named_attributes_are_copied(copy: Callable[..., None], tmp_path: Path) -> None:
    """An ACL or an overlay note in a copy would give rights, or hide files, that its record knows nothing of."""
    (tmp_path / "a" / "d").mkdir(parents=True)
    (tmp_path / "a" / "f").touch()
    for path in (tmp_path / "a" / "d", tmp_path / "a" / "f"):
        for name in ("trusted.overlay.origin", "trusted.mine", "user.kept"):
            os.setxattr(path, name, b"value")
        os.setxattr(path, "system.posix_acl_access", trees.ACL)
    os.setxattr(tmp_path / "a" / "d", "trusted.overlay.opaque", b"y")
    copy(tmp_path / "a", tmp_path / "b")
    assert sorted(os.listxattr(tmp_path / "b" / "d")) == ["trusted.overlay.opaque", "user.kept"]
    assert os.listxattr(tmp_path / "b" / "f") == ["user.kept"]


def test_what_a_user_may_not_make_is_left_out(copy: Callable[..., None], tmp_path: Path) -> None:
    trees.plant(tmp_path / "a")
    os.setxattr(tmp_path / "a" / "etc", "trusted.overlay.opaque", b"y")
    expected = trees.listing(tmp_path / "a")
    copy(tmp_path / "a", tmp_path / "b", rootless=True)
    del expected["dev/null"], expected["dev/disk"], expected["etc"]["xattrs"]["trusted.overlay.opaque"]
    assert trees.listing(tmp_path / "b") == expected


def test_hard_links_stay_together_whoever_copied_them(copy: Callable[..., None], tmp_path: Path) -> None:
    for letter in "abc":
        (tmp_path / "a" / letter).mkdir(parents=True)
        for number in range(150):
            (tmp_path / "a" / letter / str(number)).write_text(f"{letter}{number}")
    for number in range(0, 150, 3):
        os.link(tmp_path / "a" / "b" / str(number), tmp_path / "a" / "a" / f"link{number}")
        os.link(tmp_path / "a" / "b" / str(number), tmp_path / "a" / "c" / f"link{number}")
    before = trees.listing(tmp_path / "a")
    copy(tmp_path / "a", tmp_path / "b")
    assert trees.listing(tmp_path / "b") == before


def test_an_error_names_the_path_below_the_root(copy: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "a" / "sub" / "dir").mkdir(parents=True)
    (tmp_path / "a" / "sub" / "dir" / "file").write_bytes(b"new")
    (tmp_path / "b").mkdir()
    # A regular file is made exclusively. Here somebody puts one there as soon as its directory has been made.
    mkdir = os.mkdir

    def spoil(name: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        if name == b"dir":
            (tmp_path / "b" / "sub" / "dir" / "file").write_bytes(b"old")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "mkdir", spoil)
        patch.setattr(Path, "mkdir", lambda self, exist_ok: None)
        with pytest.raises(FileExistsError) as failure:
            copy(tmp_path / "a", tmp_path / "b")
    assert failure.value.filename == "sub/dir/file"
    assert (tmp_path / "b" / "sub" / "dir" / "file").read_bytes() == b"old"


def test_a_directory_that_cannot_be_listed_is_an_error_that_names_it(tmp_path: Path) -> None:
    """The kernel's own error names a descriptor."""
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    scandir = os.scandir

    def fail(at: int) -> object:
        if os.path.samestat(os.stat(at), os.stat(tmp_path / "a" / "sub")):
            raise OSError(errno.EIO, os.strerror(errno.EIO), at)
        return scandir(at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        with pytest.raises(OSError) as failure:
            treecopy.copy_tree(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (failure.value.errno, failure.value.filename) == (errno.EIO, "sub/")


def test_a_symlink_in_the_way_is_not_written_through(tmp_path: Path) -> None:
    """If names were followed, a link that was copied a moment ago would lead a later file out of the tree."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"evil")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").symlink_to(outside)
    with pytest.raises(FileExistsError):
        treecopy.copy_tree(str(tmp_path / "a"), str(tmp_path / "b"))
    assert outside.read_bytes() == b"untouched"


@pytest.mark.parametrize("other", ["symlink", "fifo", "device", "directory"])
def test_a_file_that_became_something_else_is_an_error(tmp_path: Path, other: str) -> None:
    """Between listing and opening a container may put a link to /etc/shadow there, or a FIFO that blocks for ever."""
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    target.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    make: dict[str, Callable[[Path], object]] = {
        "symlink": lambda path: path.symlink_to(tmp_path / "secret"),
        "fifo": os.mkfifo,
        "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)),
        "directory": Path.mkdir,
    }
    make[other](source / "x")
    copier = filecopy.FileCopier(rootless=False, ignore_chown_errors=False)
    old, new = (os.open(path, os.O_RDONLY) for path in (source, target))
    try:
        with pytest.raises(OSError) as failure:
            copier.file(old, new, b"x")
        assert failure.value.errno in (errno.ELOOP, errno.ESTALE)
        (source / "y").write_bytes(b"")
        with pytest.raises(OSError) as failure:
            copier.special(old, new, b"y")
        assert failure.value.errno == errno.ESTALE
    finally:
        os.close(old)
        os.close(new)
    assert list(target.iterdir()) == []


def test_a_tree_of_any_depth_is_copied_with_few_descriptors(
    copy: Callable[..., None], tmp_path: Path
) -> None:
    depth = 700
    (tmp_path / "a").mkdir()
    with trees.at(tmp_path / "a"):
        for _ in range(depth):
            os.mkdir("deeper", 0o700)
            os.chdir("deeper")
        Path("bottom").write_bytes(b"reached")
        Path("one").write_bytes(b"linked")
        os.link("one", "two")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        copy(tmp_path / "a", tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        with trees.at(tmp_path / "b"):
            for _ in range(depth):
                os.chdir("deeper")
            assert Path("bottom").read_bytes() == b"reached"
            assert Path("one").samefile("two")
    finally:
        for name in "ab":
            files.remove_tree(str(tmp_path / name))


def test_a_process_with_threads_copies_with_a_fresh_helper(copy: Callable[..., None], tmp_path: Path) -> None:
    trees.plant(tmp_path / "a")
    before = trees.listing(tmp_path / "a")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        copy(tmp_path / "a", tmp_path / "b")
    finally:
        stop.set()
        thread.join()
    assert trees.listing(tmp_path / "b") == before


def test_a_helper_that_is_killed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a copy must not look like a whole one."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for number in range(200):
        (tmp_path / "a" / str(number)).write_bytes(b"x")
    monkeypatch.setattr(treecopy, "_ALONE", 0)
    start = confine.start

    def start_and_kill(*args: object, **options: object) -> confine.Worker:
        worker = start(*args, **options)  # type: ignore[arg-type]
        os.kill(worker.pid, 9)
        return worker

    monkeypatch.setattr(confine, "start", start_and_kill)
    with pytest.raises(ChildProcessError):
        treecopy.copy_tree(str(tmp_path / "a"), str(tmp_path / "b"))


def test_where_no_process_can_be_had_one_does_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.plant(tmp_path / "a")
    (tmp_path / "b").mkdir()
    before = trees.listing(tmp_path / "a")
    monkeypatch.setattr(treecopy, "_ALONE", 0)
    tried = []

    def refuse(*args: object, **options: object) -> confine.Worker:
        tried.append(args)
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(confine, "start", refuse)
    treecopy.copy_tree(str(tmp_path / "a"), str(tmp_path / "b"))
    assert len(tried) == 1
    assert trees.listing(tmp_path / "b") == before


def test_somebody_who_swaps_a_directory_for_a_link_gets_nothing_from_outside(tmp_path: Path) -> None:
    """CVE-2018-15664: a path that was checked is another one by the time it is used."""
    outside, layer = tmp_path / "outside", tmp_path / "layer"
    outside.mkdir()
    for number in range(20):
        (outside / f"f{number}").write_bytes(b"secret")
    (layer / "d").mkdir(parents=True)
    for number in range(20):
        (layer / "d" / f"f{number}").write_bytes(b"public")
    (layer / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for a, b in (("d", "aside"), ("link", "d"), ("d", "link"), ("aside", "d")):
                os.rename(layer / a, layer / b)

    thread = threading.Thread(target=swap)
    thread.start()
    whole = disturbed = 0
    try:
        for number in range(150):
            target = tmp_path / f"copy{number}"
            target.mkdir()
            try:
                treecopy.copy_tree(str(layer), str(target))
                whole += 1
            except OSError:
                disturbed += 1
            for path in target.rglob("*"):
                if path.is_file() and not path.is_symlink() and not path.parent.is_symlink():
                    assert path.read_bytes() == b"public"
    finally:
        stop.set()
        thread.join()
    assert whole
    assert whole + disturbed == 150


def _as_nobody(place: Path, work: Callable[[], object]) -> int:
    """Do it as a user who owns nothing, in `place`: 0, or 1 for a refusal."""
    place.chmod(0o755)
    child = os.fork()
    if not child:
        status = 2
        try:
            os.chdir(place)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            work()
            status = 0
        except PermissionError:
            status = 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("ignore", [True, False])
def test_a_user_copies_what_belongs_to_others_only_if_told_so(tmp_path: Path, ignore: bool) -> None:
    """With ignore_chown_errors the copy is the user's own; without, it fails where the first owner cannot be set."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"text")
    (tmp_path / "a" / "link").symlink_to("file")
    (tmp_path / "b").mkdir()
    os.chown(tmp_path / "b", 65534, 65534)
    ended = _as_nobody(
        tmp_path, lambda: treecopy.copy_tree("a", "b", rootless=True, ignore_chown_errors=ignore)
    )
    assert ended == (0 if ignore else 1)
    if ignore:
        assert (tmp_path / "b" / "file").read_bytes() == b"text"
        assert {path.lstat().st_uid for path in (tmp_path / "b").iterdir()} == {65534}


def test_a_user_can_copy_a_directory_that_the_copys_owner_may_not_enter(tmp_path: Path) -> None:
    """Modes go last, and below before above: who is not root is held to the modes that he has set."""
    top = tmp_path / "a" / "closed"
    (top / "read-only").mkdir(parents=True)
    (top / "read-only" / "file").write_bytes(b"text")
    (top / "read-only").chmod(0o555)
    top.chmod(0o055)
    (tmp_path / "b").mkdir()
    os.chown(tmp_path / "b", 65534, 65534)
    assert not _as_nobody(
        tmp_path, lambda: treecopy.copy_tree("a", "b", rootless=True, ignore_chown_errors=True)
    )
    made = tmp_path / "b" / "closed"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (made, made / "read-only")] == [0o055, 0o555]
    assert (made / "read-only" / "file").read_bytes() == b"text"
