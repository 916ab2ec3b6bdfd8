"""Files are replaced whole or not at all, are synced exactly when asked, and a tree is removed without touching
anything outside of it (`spec/records.md` 13, promises P3 to P7)."""

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from orlop.errors import LimitExceeded, UnsafePath
from orlop.system import files, removal


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order, by names without directories."""
    made: list[str] = []

    def named(fd: int) -> str:
        return re.sub(r"\d+$", "N", os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))

    real = {name: getattr(os, name) for name in ("fsync", "fdatasync", "rename")}
    monkeypatch.setattr(os, "fsync", lambda fd: (made.append(f"fsync {named(fd)}"), real["fsync"](fd))[1])
    monkeypatch.setattr(
        os, "fdatasync", lambda fd: (made.append(f"fdatasync {named(fd)}"), real["fdatasync"](fd))[1]
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (made.append("rename"), real["rename"](a, b))[1])
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    peers.need_root()
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "small", str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def ram() -> Iterator[Path]:
    """A directory in memory, for trees whose making would take a disk seconds."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


def ended(pid: int) -> bool:
    """Whether a process is gone, or dead and only waiting for init to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- replacing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [True, False])
def test_a_written_file_has_its_content_mode_and_time(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "layers.json"
    path.write_text("old, and longer than what follows")
    mtime = files.write_atomic(str(path), b"[]", durable=durable)
    assert path.read_bytes() == b"[]"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert mtime == path.stat().st_mtime_ns
    assert os.listdir(tmp_path) == ["layers.json"]


def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_atomic(str(tmp_path / "f"), b"", mode=0o644, durable=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_pieces_are_joined_in_their_order(tmp_path: Path) -> None:
    pieces = [bytes([65 + i % 26]) * (i * 997) for i in range(80)]
    files.write_atomic(str(tmp_path / "f"), iter(pieces), durable=False)
    assert (tmp_path / "f").read_bytes() == b"".join(pieces)


def test_durable_means_data_then_name_then_directory(tmp_path: Path, calls: list[str]) -> None:
    """After a power loss there is the old content or the new, never a name without its data."""
    files.write_atomic(str(tmp_path / "f.json"), b"new", durable=True)
    assert calls == ["fdatasync .tmp-f.jsonN", "rename", f"fsync {re.sub(r'[0-9]+$', 'N', tmp_path.name)}"]


def test_what_is_not_durable_is_never_synced(tmp_path: Path, calls: list[str]) -> None:
    files.write_atomic(str(tmp_path / "f.json"), b"new", durable=False)
    assert calls == ["rename"]


def test_the_temporary_file_is_named_and_placed_as_the_peers_expect(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "item").mkdir()
    path = tmp_path / "item" / "manifest"
    with files.replacing(str(path), durable=False, temp_dir=str(tmp_path / "table")) as out:
        (name,) = os.listdir(tmp_path / "table")
        assert re.fullmatch(r"\.tmp-manifest\d+", name)
        assert stat.S_IMODE((tmp_path / "table" / name).stat().st_mode) == 0o600
        out.write(b"12")
        os.write(out.fd, b"34")
        with pytest.raises(RuntimeError):
            _ = out.mtime_ns
    assert path.read_bytes() == b"1234"
    assert os.listdir(tmp_path / "table") == []
    with pytest.raises(RuntimeError):
        _ = out.fd


def test_a_name_as_long_as_names_can_be_is_written(tmp_path: Path) -> None:
    for name in ("k" * 255, "é" * 127):
        files.write_atomic(str(tmp_path / name), b"x", durable=False)
        assert (tmp_path / name).read_bytes() == b"x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_content_and_no_litter(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    before = descriptors()
    with pytest.raises(error):
        with files.replacing(str(path), durable=True) as out:
            out.write(b"new")
            raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]
    assert descriptors() == before


@pytest.mark.parametrize("call", ["fdatasync", "fstat", "fchmod", "close", "rename"])
def test_a_failing_step_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    tried = []

    def fail(*arguments: object) -> None:
        tried.append(arguments)
        if call == "close":
            monkeypatch.undo()
            os.close(arguments[0])  # type: ignore[arg-type]  # close frees the descriptor even when it fails
        raise OSError(errno.EIO, "pulled the plug")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="pulled the plug"):
        files.write_atomic(str(path), b"new", durable=True)
    monkeypatch.undo()
    assert len(tried) == 1  # above all a failed sync: the second one would lie
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_failing_clean_up_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(errno.EROFS, "second")

    with pytest.raises(ValueError, match="first") as caught:
        with files.replacing(str(tmp_path / "f"), durable=False):
            monkeypatch.setattr(os, "unlink", fail)
            raise ValueError("first")
    monkeypatch.undo()
    assert any("second" in note and ".tmp-f" in note for note in caught.value.__notes__)


def test_a_full_disk_is_an_error_and_the_old_content_stays(small_disk: Path) -> None:
    path = small_disk / "f"
    path.write_text("old")
    with pytest.raises(OSError) as caught:
        files.write_atomic(str(path), [b"x" * 65536] * 16, durable=True)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["f"]


def test_a_missing_directory_is_an_error_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.write_atomic(str(tmp_path / "no" / "f"), b"", durable=False)
    assert str(tmp_path / "no") in caught.value.filename


def test_unfinished_files_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    for name in (".tmp-layers.json123", ".tmp-", "layers.json", "tmp-x", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / ".tmp-directory").mkdir()
    assert files.clear_temporaries(str(tmp_path)) == 2
    assert sorted(os.listdir(tmp_path)) == [".hidden", ".tmp-directory", "layers.json", "tmp-x"]
    assert files.clear_temporaries(str(tmp_path / "missing")) == 0


# --- reading ------------------------------------------------------------------------------------------------


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    for size in (0, 1, 65535, 65536, 65537, 3_000_000):
        content = os.urandom(size)
        (tmp_path / "f").write_bytes(content)
        assert files.read(str(tmp_path / "f")) == content
        assert files.read(str(tmp_path / "f"), limit=size) == content
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "missing"))


def test_a_file_without_a_size_is_read_too() -> None:
    """Files of /proc say 0 and have content."""
    assert b"Pid:" in files.read("/proc/self/status")


def test_a_limit_is_kept_whatever_the_size_claims(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 101)
    with pytest.raises(LimitExceeded) as caught:
        files.read(str(tmp_path / "f"), limit=100)
    assert caught.value.limit == 100
    with pytest.raises(LimitExceeded):
        files.read("/proc/self/status", limit=100)


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    """A FIFO in the place of a record would stop us until somebody writes to it."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "target").write_text("secret")
    with socket_at(tmp_path / "socket"):
        for name in ("fifo", "link", "socket", "."):
            with pytest.raises(UnsafePath):
                files.read(str(tmp_path / name))
    assert files.read(str(tmp_path / "link"), follow_symlinks=True) == b"secret"


class socket_at:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        import socket

        self.socket = socket.socket(socket.AF_UNIX)
        directory = os.open(self.path.parent, os.O_PATH)
        self.socket.bind(
            f"/proc/self/fd/{directory}/{self.path.name}"
        )  # a path for sockets has 108 bytes at most
        os.close(directory)

    def __exit__(self, *_: object) -> None:
        self.socket.close()


# --- directories and syncing --------------------------------------------------------------------------------


def test_every_directory_made_gets_the_mode(tmp_path: Path) -> None:
    """Under a umask of 0 `os.makedirs` would let anybody write to the ones in between."""
    before = os.umask(0)
    try:
        files.make_dirs(str(tmp_path / "a" / "b" / "c"))
        files.make_dirs(str(tmp_path / "a" / "b" / "c"))
        files.make_dirs(str(tmp_path / "x" / "y") + "/", 0o755)
    finally:
        os.umask(before)
    for path, mode in (("a", 0o700), ("a/b", 0o700), ("a/b/c", 0o700), ("x", 0o755), ("x/y", 0o755)):
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == mode


def test_a_directory_may_be_reached_by_a_link_but_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    files.make_dirs(str(tmp_path / "link"))
    files.make_dirs(str(tmp_path / "link" / "below"))
    assert (tmp_path / "real" / "below").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        files.make_dirs(str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError):
        files.make_dirs(str(tmp_path / "file" / "below"))


def test_a_very_deep_directory_is_made(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ram)
    files.make_dirs("d/" * 1500)
    files.remove_tree("d")


def test_where_the_system_makes_no_directories_its_answer_is_the_error() -> None:
    """/proc says that the parent is missing, which it is not."""
    with pytest.raises(FileNotFoundError):
        files.make_dirs("/proc/nowhere/below")


def test_a_failing_sync_of_a_directory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("")

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "bad sector")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="bad sector"):
        files.sync_dir(str(tmp_path))


def test_a_file_system_that_cannot_sync_directories_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "fsync", refuse)
    files.sync_dir(str(tmp_path))


def test_a_whole_file_system_is_synced(tmp_path: Path) -> None:
    files.sync_filesystem(str(tmp_path))
    with open(tmp_path / "f", "wb") as file:
        files.sync_filesystem(file.fileno())
    with pytest.raises(FileNotFoundError):
        files.sync_filesystem(str(tmp_path / "missing"))


# --- removing trees -----------------------------------------------------------------------------------------


def test_a_tree_of_everything_goes_and_what_its_links_name_stays(tmp_path: Path) -> None:
    canary = tmp_path / "outside"
    canary.mkdir()
    (canary / "precious").write_text("still here")
    tree = tmp_path / "tree"
    (tree / "d" / "empty").mkdir(parents=True)
    (tree / "file").write_text("x")
    (tree / "d" / "link").symlink_to(canary)
    (tree / "dangling").symlink_to("nowhere")
    (tree / os.fsdecode(b"\xff\n name")).write_text("")
    os.mkfifo(tree / "fifo")
    os.link(canary / "precious", tree / "hard")
    files.remove_tree(str(tree))
    assert not os.path.lexists(tree)
    assert (canary / "precious").read_text() == "still here"


def test_what_is_not_a_directory_goes_and_what_is_not_there_is_fine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for name in ("file", "link", "link", "missing", "missing/below"):
        files.remove_tree(str(tmp_path / name))
    assert os.listdir(tmp_path) == ["target"]
    for name in ("/", "", ".", "x/..", "x/."):
        with pytest.raises(ValueError, match="does not name"):
            files.remove_tree(name)


def test_a_tree_of_ten_thousand_levels_goes(ram: Path) -> None:
    """With few descriptors, and without recursion: both are limited to about a thousand."""
    here = os.open(ram, os.O_RDONLY)
    top = os.dup(here)
    for depth in range(10_000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
        if depth % 1000 == 0:
            os.mkdir("sibling", dir_fd=here)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    os.close(top)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 80, hard))
    before = descriptors()
    try:
        files.remove_tree(str(ram / "d"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not (ram / "d").exists()
    assert descriptors() == before


@pytest.fixture
def large(ram: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that counts as large."""
    monkeypatch.setattr(removal, "_WORTH_HELP", 200)
    monkeypatch.setattr(removal, "_BATCH", 64)
    for a in range(10):
        (ram / "tree" / str(a)).mkdir(parents=True)
        for b in range(100):
            (ram / "tree" / str(a) / str(b)).touch()
    (ram / "tree" / "flat").mkdir()
    for b in range(1000):
        (ram / "tree" / "flat" / str(b)).touch()
    return ram / "tree"


# From Python 3.12 on a fork beside threads warns. We would not fork then; these tests, beside pytest-xdist's, do.
FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that were forked."""
    made: list[int] = []
    real = os.fork

    def fork() -> int:
        pid = real()
        if pid:
            made.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", fork)
    return made


@FORKS
def test_a_large_tree_is_removed_by_two_processes(
    large: Path, forks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal.probe, "single_threaded", lambda: True)
    before = descriptors()
    files.remove_tree(str(large), workers=2)
    assert not large.exists()
    assert len(forks) == 1
    assert descriptors() == before
    with pytest.raises(ProcessLookupError):
        os.kill(forks[0], 0)  # waited for: not even a zombie is left


@FORKS
def test_the_second_process_removes_its_share(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts at the other end: what the first does not get to, the second has done."""
    monkeypatch.setattr(removal.probe, "single_threaded", lambda: True)
    real = os.unlink
    mine = []
    parent = os.getpid()

    def slow(name: str, *, dir_fd: int) -> None:
        if os.getpid() == parent:
            time.sleep(0.0003)
        real(name, dir_fd=dir_fd)
        mine.append(name)

    monkeypatch.setattr(os, "unlink", slow)
    files.remove_tree(str(large), workers=2)
    assert not large.exists()
    assert 100 < len(mine) < 1500  # of 2000


def test_the_two_walk_in_opposite_order(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(os, "unlink", lambda name, dir_fd: seen.append(name))
    monkeypatch.setattr(os, "rmdir", lambda name, dir_fd: seen.append(f"[{name}]"))
    monkeypatch.setattr(removal, "_BATCH", 10_000)
    with removal.Descent(str(large)) as at:
        removal._sweep(at)
    forwards = seen.copy()
    seen.clear()
    with removal.Descent(str(large)) as at:
        removal._sweep(at, backwards=True)
    assert [name for name in seen if "[" in name] == [name for name in forwards if "[" in name][::-1]
    flat = [forwards[: forwards.index("[flat]")][-1000:], seen[: seen.index("[flat]")][-1000:]]
    assert flat[0] == flat[1][::-1]
    assert len(set(flat[0])) == 1000


def test_a_directory_that_the_other_removes_under_our_feet_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the tree is still to be removed."""
    for name in ("a", "b", "c"):
        (tmp_path / "tree" / name).mkdir(parents=True)
    real, removed = os.scandir, []

    def scandir(fd: int) -> object:
        name = os.readlink(f"/proc/self/fd/{fd}")
        if not removed and name != str(tmp_path / "tree"):
            os.rmdir(name)
            removed.append(name)
        return real(fd)

    monkeypatch.setattr(os, "scandir", scandir)
    sweeps: list[object] = []
    sweep = removal._sweep
    monkeypatch.setattr(removal, "_sweep", lambda *at: (sweeps.append(at), sweep(*at)))
    files.remove_tree(str(tmp_path / "tree"))
    assert removed
    assert len(sweeps) == 1  # it was not even started anew
    assert not (tmp_path / "tree").exists()


def test_a_tree_that_somebody_else_removes_first_is_gone_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    real = os.rmdir

    def rmdir(path: str) -> None:
        real(path)
        real(path)

    monkeypatch.setattr(os, "rmdir", rmdir)
    files.remove_tree(str(tmp_path / "tree"))
    assert not (tmp_path / "tree").exists()


def test_a_tree_that_turns_into_a_link_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    real = removal.Descent

    def swapped(path: str) -> removal.Descent:
        os.rename(path, path + ".kept")
        os.symlink("outside", path)
        return real(path)

    monkeypatch.setattr(removal, "Descent", swapped)
    with pytest.raises(OSError) as caught:
        files.remove_tree(str(tmp_path / "tree"))
    assert caught.value.errno == errno.ESTALE
    assert (tmp_path / "outside" / "precious").exists()


def test_a_small_tree_and_a_process_with_threads_do_without_a_second_process(
    tmp_path: Path, large: Path, forks: list[int]
) -> None:
    """A fork would keep locks for ever that the other threads hold at that moment."""
    (tmp_path / "small").mkdir()
    files.remove_tree(str(tmp_path / "small"), workers=2)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        files.remove_tree(str(large), workers=2)
    finally:
        stop.set()
        thread.join()
    assert not large.exists()
    assert forks == []


def test_the_second_process_dies_with_the_first(large: Path) -> None:
    """Else it would go on removing after the lock of what it removes is free."""
    code = (
        "import os, sys, time\n"
        "from orlop.system import removal\n"
        "real = removal._sweep\n"
        "def sweep(at, helper=None, *, backwards=False):\n"
        "    if backwards:\n"
        "        print(os.getpid(), flush=True)\n"
        "        time.sleep(60)\n"
        "    real(at, helper, backwards=backwards)\n"
        "removal._sweep = sweep\n"
        "removal._WORTH_HELP = 200\n"
        f"removal.remove_tree({str(large)!r}, workers=2)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not ended(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended(child)


@FORKS
def test_an_error_is_raised_and_the_second_process_is_gone(
    large: Path, forks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal.probe, "single_threaded", lambda: True)
    real = os.rmdir

    def refuse(name: str, *, dir_fd: int | None = None) -> None:
        if name == "flat":
            raise OSError(errno.EIO, "bad sector", name)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(OSError, match="bad sector"):
        files.remove_tree(str(large), workers=2)
    assert forks
    for pid in forks:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_directory_that_turns_into_a_link_is_not_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CVE-2018-15664, and `rm -rf` before it: the swap between the listing and the entering."""
    canary = tmp_path / "outside"
    canary.mkdir()
    (canary / "precious").write_text("still here")
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "precious").write_text("")
    real = os.scandir

    def swap(fd: int) -> object:
        entries = list(real(fd))
        if entries and entries[0].name == "d":
            os.rename(tree / "d", tmp_path / "kept")
            os.symlink(canary, tree / "d")

        class Listing:
            def __enter__(self) -> object:
                return iter(entries)

            def __exit__(self, *_: object) -> None:
                pass

        return Listing()

    monkeypatch.setattr(os, "scandir", swap)
    files.remove_tree(str(tree))
    monkeypatch.undo()
    assert not tree.exists()
    assert (canary / "precious").read_text() == "still here"
    assert (tmp_path / "kept" / "precious").exists()


def test_somebody_who_swaps_all_the_time_gets_nothing_removed_outside(tmp_path: Path) -> None:
    canary = tmp_path / "outside"
    canary.mkdir()
    for number in range(50):
        (canary / f"precious{number}").touch()
    stop = threading.Event()
    tree = tmp_path / "tree"

    def swap() -> None:
        while not stop.is_set():
            for step in (
                lambda: os.rename(tree / "a", tree / "b"),
                lambda: os.symlink(canary, tree / "a"),
                lambda: os.unlink(tree / "a"),
                lambda: os.rename(tree / "b", tree / "a"),
            ):
                try:
                    step()
                except OSError:
                    pass

    removed = 0
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline:
            try:
                (tree / "a").mkdir(parents=True, exist_ok=True)
                for number in range(20):
                    (tree / "a" / f"precious{number}").touch()
                files.remove_tree(str(tree))
                removed += 1
            except OSError:
                pass  # the swap was in the way of our making it, or kept on filling it
            assert len(os.listdir(canary)) == 50
    finally:
        stop.set()
        thread.join()
    assert removed


def test_an_ordinary_user_removes_directories_that_forbid_it(tmp_path: Path) -> None:
    """Layers have directories of mode 0555 with files in them, and some of mode 0000."""
    tree = tmp_path / "tree"
    (tree / "locked" / "sub").mkdir(parents=True)
    (tree / "locked" / "sub" / "file").touch()
    (tree / "none" / "x").mkdir(parents=True)
    canary = tmp_path / "outside"
    canary.mkdir()
    canary.chmod(0o500)
    (tree / "locked" / "link").symlink_to(canary)
    (tree / "locked" / "sub").chmod(0o555)
    (tree / "locked").chmod(0o555)
    (tree / "none").chmod(0)
    code = "from orlop.system import files; files.remove_tree('tree')"
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.lchown(path, 12345, 12345)
        # What is imported on use is imported before: that user may not be able to read this checkout.
        warm = "os.makedirs('warm/x'); files.remove_tree('warm')"
        code = f"import os; from orlop.system import files; {warm}; os.setresuid(12345, 12345, 12345); {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not tree.exists()
    assert stat.S_IMODE(canary.stat().st_mode) == 0o500


def test_what_is_mounted_below_is_unmounted_and_keeps_its_content(tmp_path: Path) -> None:
    """A bind mount in the tree of a layer shows the host's files: removing those is the accident to prevent."""
    peers.need_root()
    host = tmp_path / "host"
    (host / "sub").mkdir(parents=True)
    (host / "precious").write_text("still here")
    tree = tmp_path / "tree"
    for name in ("bind", "a b/over", "file"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch() if name == "file" else (tree / name).mkdir()
    subprocess.run(["mount", "--bind", str(host), str(tree / "bind")], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "x", str(tree / "a b" / "over")], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "x", str(tree / "a b" / "over")], check=True)
    subprocess.run(["mount", "--bind", str(host / "precious"), str(tree / "file")], check=True)
    try:
        files.remove_tree(str(tree))
    finally:
        peers.unmount_below(tree)
    assert not tree.exists()
    assert (host / "precious").read_text() == "still here"
    assert (host / "sub").is_dir()


def test_a_mount_made_meanwhile_is_unmounted_and_the_removal_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers.need_root()
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    real = os.rmdir
    mounted = []

    def rmdir(name: str, *, dir_fd: int | None = None) -> None:
        if name == "d" and not mounted:
            mounted.append(subprocess.run(["mount", "-t", "tmpfs", "x", str(tree / "d")], check=True))
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", rmdir)
    try:
        files.remove_tree(str(tree))
    finally:
        monkeypatch.undo()
        peers.unmount_below(tree)
    assert mounted
    assert not tree.exists()
