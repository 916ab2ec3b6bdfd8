"""Directories of the overlay driver in which content is made ready: their locks, and who may do what with them."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import layers
import peers
from orlop.drivers.overlay import leftovers, staging
from orlop.drivers.overlay.driver import Overlay
from orlop.errors import Conflict, NotSupported, UnsafePath
from orlop.model.idmap import IDENTITY, IDMap, IDMappings
from orlop.stream.unpack import staged_unpacker
from orlop.system import files
from orlop.system.ownlock import OwnedLock, is_owned, own

pytest_plugins = ("overlays",)

MAPPED = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 200_000, 65_536)])


@pytest.fixture
def driver(open_overlay: Callable[..., Overlay]) -> Overlay:
    return open_overlay()


@pytest.fixture
def staged(driver: Overlay) -> Path:
    """What holds the directories."""
    return Path(driver.home, "staging")


def set_aside(path: str, temp_root: str) -> None:
    """Nothing has to wait here."""
    files.remove_tree(path)


def _try(path: Path) -> str:
    """Whether another process gets the lock, as the peers ask for it."""
    code = (
        "import fcntl, sys\n"
        "try: fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('free')\n"
        "except BlockingIOError: print('busy')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_directory_is_empty_locked_and_nobody_else_s(driver: Overlay, staged: Path) -> None:
    target, options = driver.stage(IDENTITY)
    directory = Path(target).parent
    assert directory.parent == staged
    assert Path(target).name == "dir"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (staged, directory, Path(target))] == [
        0o700,
        0o700,
        0o555,
    ]
    assert os.listdir(target) == []
    assert _try(directory / "staging.lock") == "busy"
    assert own(str(directory / "staging.lock")) is None
    assert options.whiteouts == "trusted.overlay.opaque"
    assert options.keep_fds
    driver.drop_staged(target)
    assert os.listdir(staged) == []
    driver.drop_staged(target)  # gone is gone


@pytest.mark.parametrize("how", ["not wanted", "left over"])
def test_a_removal_that_was_killed_is_finished_by_the_next(
    driver: Overlay, staged: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock file may go first; what is left without one would be anybody's under its old name."""

    def killed(path: str) -> None:
        os.unlink(f"{path}/staging.lock")
        raise KeyboardInterrupt

    target, _ = driver.stage(IDENTITY)
    if how == "left over":
        staging._made.pop(os.path.dirname(target)).close()
    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            if how == "not wanted":
                driver.drop_staged(target)
            else:
                leftovers.clear_staging(driver._layout)
    assert [found.keep for found in driver.leftovers()] == [False]
    assert leftovers.clear_staging(driver._layout)
    assert os.listdir(staged) == []


def test_while_the_unpacker_writes_the_lock_is_not_free(driver: Overlay) -> None:
    """Even if the process that made the directory is killed."""
    target, options = driver.stage(IDENTITY)
    lock = Path(target).parent / "staging.lock"
    with staged_unpacker(target, options) as unpacker:
        staging._made.pop(str(lock.parent)).close()
        assert _try(lock) == "busy"
        assert [found.keep for found in driver.leftovers()] == [True]
        unpacker.finish()
    assert [found.keep for found in driver.leftovers()] == [False]
    driver.drop_staged(target)


def test_content_comes_to_its_place_and_nothing_else_stays(driver: Overlay, staged: Path) -> None:
    target, _ = driver.stage(IDENTITY)
    driver.create("one", None, writable=False)
    Path(target, "file").write_bytes(b"abc")
    number = os.stat(target).st_ino
    driver.place_staged("one", target, set_aside, root_is_set=False)
    diff = Path(driver.home, "one/diff")
    assert diff.stat().st_ino == number
    assert (diff / "file").read_bytes() == b"abc"
    assert os.listdir(staged) == []
    assert driver.differ_target("one") == str(diff)
    with pytest.raises(Conflict, match="gone"):
        driver.place_staged("one", target, set_aside, root_is_set=False)


@pytest.mark.parametrize(("root_is_set", "wanted"), [(False, (0o711, 100_000)), (True, (0o700, 7))])
def test_the_root_is_as_the_parent_has_it_unless_the_differ_set_it(
    driver: Overlay, root_is_set: bool, wanted: tuple[int, int]
) -> None:
    driver.create("base", None, writable=False)
    os.chmod(f"{driver.home}/base/diff", 0o711)
    driver.create("top", "base", writable=False, mappings=MAPPED)
    target, _ = driver.stage(MAPPED)
    assert os.stat(target).st_uid == 100_000
    if root_is_set:
        os.chmod(target, 0o700)
        os.chown(target, 7, 7)
    driver.place_staged("top", target, set_aside, root_is_set=root_is_set)
    found = os.stat(f"{driver.home}/top/diff")
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == wanted


def test_content_that_is_there_is_exchanged(driver: Overlay, staged: Path) -> None:
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", layers.BASE)
    target, _ = driver.stage(IDENTITY)
    Path(target, "new").touch()
    taken: list[str] = []

    def keep(path: str, temp_root: str) -> None:
        assert temp_root == f"{driver.home}/tempdirs"
        taken.extend(sorted(os.listdir(f"{path}/dir")))
        files.remove_tree(path)

    driver.place_staged("base", target, keep, root_is_set=False)
    assert os.listdir(f"{driver.home}/base/diff") == ["new"]
    assert taken == ["bin", "dev", "etc", "var"]
    assert os.listdir(staged) == []


def test_what_a_killed_process_made_ready_is_pruned(
    driver: Overlay, open_overlay: Callable[..., Overlay], staged: Path
) -> None:
    code = (
        "import sys, time\n"
        "from orlop.drivers import registry\n"
        "from orlop.model.idmap import IDENTITY\n"
        "driver = registry.open_driver('overlay', graph_root=sys.argv[1], run_root=sys.argv[2])\n"
        "print(driver.stage(IDENTITY)[0], flush=True)\n"
        "time.sleep(60)\n"
    )
    roots = [driver.options.graph_root, driver.options.run_root]
    with subprocess.Popen([sys.executable, "-c", code, *roots], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        target = process.stdout.readline().strip()
        Path(target, "file").touch()
        assert [found.keep for found in driver.leftovers()] == [True]
        with pytest.raises(Conflict, match="another process"):
            driver.drop_staged(target)
        driver.create("one", None, writable=False)
        with pytest.raises(Conflict, match="not made ready by this process"):
            driver.place_staged("one", target, set_aside, root_is_set=False)
        driver.shutdown()
        assert Path(target, "file").exists()
        assert peers.mounts_below(driver.home) == [driver.home]
        process.send_signal(signal.SIGKILL)
    assert [found.keep for found in driver.leftovers()] == [False]
    driver.shutdown()
    assert os.listdir(staged) == []
    assert peers.mounts_below(driver.home) == []


def test_shutting_down_leaves_what_this_process_may_still_place(driver: Overlay, staged: Path) -> None:
    target, _ = driver.stage(IDENTITY)
    driver.shutdown()
    assert os.path.isdir(target)
    assert peers.mounts_below(driver.home) == [driver.home]
    driver.drop_staged(target)
    driver.shutdown()
    assert os.listdir(staged) == []


def test_a_forked_child_has_no_say(driver: Overlay) -> None:
    driver.create("one", None, writable=False)
    target, _ = driver.stage(IDENTITY)
    child = os.fork()
    if not child:
        try:
            driver.place_staged("one", target, set_aside, root_is_set=False)
        except Conflict:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_owned(os.path.dirname(target) + "/staging.lock")
    driver.drop_staged(target)


@pytest.mark.parametrize("moment", ["before the lock is there", "while it is taken", "after it was taken"])
def test_a_peer_that_prunes_what_is_not_locked_yet_costs_another_attempt(
    driver: Overlay, staged: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Older programs take a directory without a lock file for rubbish."""
    pruned: list[str] = []

    def prune_first(path: str, *, exclusive_create: bool = False) -> OwnedLock | None:
        directory = os.path.dirname(path)
        if pruned:
            return own(path, exclusive_create=exclusive_create)
        pruned.append(directory)
        if moment == "before the lock is there":
            files.remove_tree(directory)
            return own(path, exclusive_create=exclusive_create)
        if moment == "while it is taken":
            with open(path, "wb") as lock:
                fcntl.lockf(lock, fcntl.LOCK_EX)
                return own(path, exclusive_create=exclusive_create)
        lock = own(path, exclusive_create=exclusive_create)
        files.remove_tree(directory)
        return lock

    monkeypatch.setattr(staging, "own", prune_first)
    target, _ = driver.stage(IDENTITY)
    assert pruned
    assert os.path.dirname(target) not in pruned
    assert os.listdir(target) == []
    driver.drop_staged(target)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/",
        "/etc",
        "dir",
        "1/dir",
        "{home}",
        "{home}/staging",
        "{home}/staging/dir",
        "{home}/staging/12",
        "{home}/staging/12/dir/",
        "{home}/staging/12/diff",
        "{home}/staging/../dir",
        "{home}/staging/\u0661/dir",
        "{home}/staging/1/../../base/dir",
        "{home}/staging//dir",
        "{home}/base/dir",
    ],
)
def test_a_path_that_was_never_given_is_refused(driver: Overlay, target: str) -> None:
    """It comes back through callers, and is removed with all that is in it."""
    driver.create("base", None, writable=False)
    path = target.format(home=driver.home)
    with pytest.raises(UnsafePath):
        driver.drop_staged(path)
    with pytest.raises(UnsafePath):
        driver.place_staged("base", path, set_aside, root_is_set=False)
    assert os.path.isdir(f"{driver.home}/base/diff")


def test_a_symlink_in_the_place_of_the_directory_is_not_followed(driver: Overlay, place: Path) -> None:
    (place / "outside").mkdir()
    Path(driver.home, "staging").symlink_to(place / "outside")
    with pytest.raises(UnsafePath):
        driver.stage(IDENTITY)
    assert os.listdir(place / "outside") == []
    Path(driver.home, "staging").unlink()


def test_content_of_an_image_of_composefs_is_not_replaced(driver: Overlay) -> None:
    driver.create("one", None, writable=False)
    os.mkdir(f"{driver.home}/one/composefs-data")
    target, _ = driver.stage(IDENTITY)
    with pytest.raises(NotSupported, match="composefs"):
        driver.place_staged("one", target, set_aside, root_is_set=False)
    driver.drop_staged(target)


def test_a_layer_on_another_file_system_says_so(
    driver: Overlay, open_overlay: Callable[..., Overlay], place: Path
) -> None:
    """Of a split store, whose containers lie on another disk than its images."""
    images = place / "images"
    images.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", images], check=True)
    try:
        split = open_overlay(image_store=str(images))
        target, _ = split.stage(IDENTITY)
        assert target.startswith(f"{images}/overlay/staging/")
        split.create("box", None, writable=True)
        with pytest.raises(NotSupported, match="another mount"):
            split.place_staged("box", target, set_aside, root_is_set=False)
        split.create("layer", None, writable=False)
        split.place_staged("layer", target, set_aside, root_is_set=False)
        assert os.listdir(images / "overlay/staging") == []
        split.shutdown()
    finally:
        subprocess.run(["umount", images], check=True)


def test_a_directory_that_was_never_locked_is_rubbish_by_its_name(driver: Overlay, staged: Path) -> None:
    """Its maker died at once; another name may be that of an older peer, which takes no locks."""
    (staged / ".tmp-1").mkdir(parents=True)
    (staged / "1").mkdir()
    assert {os.path.basename(found.path): found.keep for found in driver.leftovers()} == {
        "1": True,
        ".tmp-1": False,
    }
    driver.prune_staged()
    assert os.listdir(staged) == ["1"]
    os.rmdir(staged / "1")
