"""Mount table and counts, when one of them is lost or changed behind our back (`spec/mounting.md` 11).

Each time the next command is right, whoever gives it, and at the end nothing is mounted that was not before.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import invariants
import orlop
import peers
from orlop import errors
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import mounts
from tarballs import tar

SECONDS = float(os.environ.get("N") or 5)

Unmount = Callable[["Site"], None]


@dataclass
class Site:
    """A store with a container `box`, and a program that keeps it open."""

    base: Path
    store: orlop.Store
    ours: peers.Program
    theirs: peers.Program
    merged: Path

    def open(self) -> orlop.Store:
        return _open(self.base)

    @property
    def counts(self) -> Path:
        return self.base / "run/overlay-layers/mountpoints.json"

    def layers_seen(self) -> int:
        """How many mounts lie on the mount point, one upon the other."""
        return peers.mounts_below(self.merged).count(str(self.merged))

    def has_files(self) -> bool:
        return (self.merged / "motd").exists()

    def counted(self) -> None:
        invariants.counted(self.base / "graph", self.base / "run")


def _open(base: Path) -> orlop.Store:
    return orlop.open_store(base / "graph", base / "run", "overlay", durability="none", lock_timeout=20)


@pytest.fixture
def site(place: Path) -> Iterator[Site]:
    peers.need_root()
    assert peers.mounts_below(place) == []
    store = _open(place)
    layer = store.layers.put(tar(("motd", b"ahoy\n")))
    image = store.images.create(layer=layer.id, names=["i"])
    box = store.containers.create(image=image.id, names=["box"])
    yield Site(
        place,
        store,
        peers.orlop_storage(place, driver="overlay"),
        peers.containers_storage(place, driver="overlay"),
        place / "graph/overlay" / box.layer / "merged",
    )
    with _open(place) as last:
        last.layers.set_metadata(layer.id, "the next write")  # clears away what a killed program left
    invariants.hold(place / "graph", place / "run", "overlay")
    invariants.counted(place / "graph", place / "run")
    with _open(place) as last:
        assert last.shutdown() == []
    assert peers.mounts_below(place) == []


def _by_this_program(site: Site) -> None:
    assert site.store.unmount("box") is False


def _by_another_program(site: Site) -> None:
    assert site.ours("unmount", "box").lines == ["box mountpoint unmounted"]


def _by_the_peer(site: Site) -> None:
    assert site.theirs("unmount", "box").lines == ["box mountpoint unmounted"]


anyone = pytest.mark.parametrize("unmount", [_by_this_program, _by_another_program, _by_the_peer])


# --- mounts that are gone -----------------------------------------------------------------------------------


@anyone
def test_what_was_unmounted_behind_our_back_is_mounted_again(site: Site, unmount: Unmount) -> None:
    """The count does not forget the first mount, as with the peers: whoever made it will undo it."""
    site.store.mount("box")
    mounts.unmount(str(site.merged))
    assert site.store.mount_count("box") == 1
    assert site.store.mount("box") == str(site.merged)
    assert (site.has_files(), site.layers_seen(), site.store.mount_count("box")) == (True, 1, 2)
    assert site.ours("unmount", "box").lines == []
    assert site.has_files()
    unmount(site)
    assert site.layers_seen() == 0


@anyone
def test_what_was_unmounted_behind_our_back_is_unmounted_without_harm(site: Site, unmount: Unmount) -> None:
    site.store.mount("box")
    mounts.unmount(str(site.merged))
    unmount(site)
    assert site.store.mount_count("box") == 0
    assert site.store.mount("box") == str(site.merged)
    assert (site.has_files(), site.layers_seen()) == (True, 1)
    unmount(site)
    assert site.layers_seen() == 0


def test_a_mount_upon_ours_does_not_hide_it_for_ever(site: Site) -> None:
    """Somebody mounted something else there; one unmount leaves the place empty."""
    site.store.mount("box")
    upon = site.base / "upon"
    upon.mkdir()
    subprocess.run(["mount", "--bind", upon, site.merged], check=True)
    assert site.layers_seen() == 2
    assert site.store.unmount("box") is False
    assert site.layers_seen() == 0
    assert site.store.mount("box") == str(site.merged)
    assert site.has_files()
    assert site.store.unmount("box") is False


def test_where_the_peer_leaves_a_mount_we_do_not(site: Site) -> None:
    """What docs/compatibility.md says of it: a mount upon a mount, and a mount point that vanished."""
    site.theirs("mount", "box")
    upon = site.base / "upon"
    upon.mkdir()
    subprocess.run(["mount", "--bind", upon, site.merged], check=True)
    site.theirs("unmount", "box")
    assert (site.layers_seen(), site.store.mount_count("box")) == (1, 0)
    with site.store.mounted("box"):
        assert site.has_files()
    assert site.layers_seen() == 0
    site.theirs("mount", "box")
    mounts.unmount(str(site.merged))
    site.merged.rmdir()
    assert b"no such file or directory" in site.theirs("mount", "box", ok=False).err
    with site.store.mounted("box"):
        assert site.has_files()
    assert site.theirs("unmount", "box").lines == ["box mountpoint unmounted"]


def test_a_mount_point_that_is_gone_is_made_again(site: Site) -> None:
    site.store.mount("box")
    mounts.unmount(str(site.merged))
    site.merged.rmdir()
    assert site.store.mount("box") == str(site.merged)
    assert site.has_files()
    mounts.unmount(str(site.merged))
    site.merged.rmdir()
    assert [site.store.unmount("box"), site.store.unmount("box")] == [True, False]
    assert site.ours("mount", "box").lines == [str(site.merged)]
    assert site.has_files()
    assert site.store.unmount("box") is False


@pytest.mark.parametrize("end", ["delete", "force", "shutdown", "peer"])
def test_a_count_far_too_high_ends_at_once(site: Site, end: str) -> None:
    """The peers run it down one by one when they delete, which would take years here."""
    site.store.mount("box")
    (entry,) = json.loads(site.counts.read_text())
    site.counts.write_text(json.dumps([entry | {"count": 10**12}]))
    with site.open() as store:
        assert store.mount_count("box") == 10**12
        if end == "delete":
            store.containers.delete("box")
        elif end == "force":
            assert store.unmount("box", force=True) is False
        elif end == "peer":
            site.theirs("unmount", "--force", "box")
        else:
            with pytest.raises(errors.StillMounted):
                store.shutdown(force=True)
        assert site.layers_seen() == 0
        site.counted()


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_that_is_none_is_none(site: Site, count: int) -> None:
    """What is mounted is taken over by the next mount."""
    site.store.mount("box")
    (entry,) = json.loads(site.counts.read_text())
    site.counts.write_text(json.dumps([entry | {"count": count}]))
    with site.open() as store:
        assert store.mount("box") == str(site.merged)
        assert site.layers_seen() == 1
        while store.unmount("box"):
            pass
        assert (site.layers_seen(), store.mount_count("box")) == (0, 0)


# --- run root, reboots --------------------------------------------------------------------------------------


@anyone
def test_mounts_outlive_their_counts(site: Site, unmount: Unmount) -> None:
    """The run root was wiped: the next mount takes over what is mounted, and one unmount ends it."""
    site.store.mount("box")
    shutil.rmtree(site.base / "run")
    with site.open() as store:
        assert store.mount_count("box") == 0
        assert store.mount("box") == str(site.merged)
        assert (site.has_files(), site.layers_seen(), store.mount_count("box")) == (True, 1, 1)
        site.counted()
        unmount(site)
        assert site.layers_seen() == 0
        site.counted()


def test_a_program_goes_on_when_its_run_root_is_wiped(site: Site) -> None:
    """What it holds mounted it can mount again and unmount; another program's locks are the same as its own."""
    site.store.mount("box")
    shutil.rmtree(site.base / "run")
    assert site.store.mount("box") == str(site.merged)
    assert (site.layers_seen(), site.store.mount_count("box")) == (1, 1)
    assert site.theirs("mount", "box").lines == [str(site.merged)]
    assert site.store.mount_count("box") == 2
    assert site.store.unmount("box") is True
    assert site.store.unmount("box") is False
    assert site.layers_seen() == 0
    shutil.rmtree(site.base / "run")
    site.store.containers.create(image="i", names=["after"], volatile=True)
    site.store.containers.delete("after")


@pytest.mark.parametrize("by", ["this program", "a new one", "another process"])
def test_one_who_takes_over_a_mount_also_ends_it(site: Site, by: str) -> None:
    """A program died before it counted, or its count was lost. Whoever mounts and unmounts next leaves nothing."""
    site.store.mount("box")
    site.counts.unlink()
    site.ours("layers")
    if by == "another process":
        site.ours("mount", "box")
        site.ours("unmount", "box")
    else:
        store = site.store if by == "this program" else site.open()
        store._engine.layers.mounts.forget()  # type: ignore[union-attr]
        with store.mounted("box") as root:
            assert (root / "motd").exists()
        assert store.mount_count("box") == 0
    assert site.layers_seen() == 0


def test_a_container_whose_count_was_lost_is_deleted_with_its_mount(site: Site) -> None:
    site.store.mount("box")
    shutil.rmtree(site.base / "run")
    with site.open() as store:
        store.containers.delete("box")
    assert site.layers_seen() == 0
    assert not site.merged.parent.exists()


def _reboot(site: Site, *, keep_run_root: bool) -> None:
    """Whatever is mounted is gone, without anybody being asked; no program of before is alive."""
    site.store.close()
    peers.unmount_below(site.base)
    if not keep_run_root:
        shutil.rmtree(site.base / "run")


def test_a_reboot_with_the_run_root_in_memory(site: Site) -> None:
    site.store.mount("box")
    (site.merged / "written").touch()
    _reboot(site, keep_run_root=False)
    with site.open() as store:
        assert store.mount_count("box") == 0
        assert peers.mounts_below(site.base) == [str(site.base / "graph/overlay")], (
            "the home, made private anew"
        )
        assert not site.has_files()
        with store.mounted("box") as root:
            assert (root / "written").exists()
        assert any(path.name.startswith("overlay-true") for path in (site.base / "run/overlay").iterdir())


@anyone
def test_a_reboot_with_the_run_root_on_disk(site: Site, unmount: Unmount) -> None:
    """Counts of before: mounting mounts, unmounting runs them down, a shutdown refuses."""
    site.store.mount("box")
    site.store.mount("box")
    _reboot(site, keep_run_root=True)
    with site.open() as store:
        site.store = store
        assert store.mount_count("box") == 2
        with pytest.raises(errors.StillMounted):
            store.shutdown()
        assert store.mount("box") == str(site.merged)
        assert (site.has_files(), site.layers_seen(), store.mount_count("box")) == (True, 1, 3)
        assert store.unmount("box") is True
        assert store.unmount("box") is True
        unmount(site)
        assert site.layers_seen() == 0
        site.counted()


def test_counts_of_before_a_reboot_run_down_without_a_mount(site: Site) -> None:
    site.store.mount("box")
    site.store.mount("box")
    _reboot(site, keep_run_root=True)
    with site.open() as store:
        assert [store.unmount("box"), store.unmount("box")] == [True, False]
        assert json.loads(site.counts.read_text()) == []
        with pytest.raises(errors.StillMounted):
            store.mount("box")
            store.shutdown(force=True)
        store.containers.delete("box")


def test_after_a_reboot_a_forced_unmount_makes_it_exact(site: Site) -> None:
    """What engines do with every layer when the run root did not go away."""
    for _ in range(3):
        site.store.mount("box")
    _reboot(site, keep_run_root=True)
    with site.open() as store:
        assert store.unmount("box", force=True) is False
        site.counted()


def test_volatile_containers_are_mounted_after_an_unclean_end(site: Site) -> None:
    box = site.store.containers.create(image="i", names=["loose"], volatile=True)
    site.store.mount("loose")
    _reboot(site, keep_run_root=True)
    with site.open() as store:
        assert store.unmount(box.id) is False
        with store.mounted("loose") as root:
            assert (root / "motd").exists()


# --- killed -------------------------------------------------------------------------------------------------


def _killed(site: Site, path: Path, *words: str) -> None:
    """Run our command, and kill it before it renames something to `path`."""
    peers.need("strace")
    log = site.base / "strace"
    for number in range(1, 10):
        kill = f"inject=rename:signal=KILL:when={number}"
        argv = [
            "strace",
            "-f",
            "-qq",
            "-o",
            str(log),
            "-e",
            "trace=rename",
            "-e",
            kill,
            *site.ours.argv(*words),
        ]
        done = subprocess.run(argv, capture_output=True, check=False)
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), f"it was not killed: {done}"
        last = [line for line in log.read_text().splitlines() if "rename(" in line][-1]
        if f'"{path}")' in last:
            return
    raise AssertionError(f"it never renames anything to {path}")


@anyone
def test_killed_between_the_mount_and_its_count(site: Site, unmount: Unmount) -> None:
    """The token is written, the counts are old: others read them anew, and the next mount takes over."""
    before = site.counts.read_bytes() if site.counts.exists() else b""
    _killed(site, site.counts, "mount", "box")
    assert (site.layers_seen(), site.has_files()) == (1, True)
    assert (site.counts.read_bytes() if site.counts.exists() else b"") == before
    assert site.store.mount_count("box") == 0
    assert site.store.mount("box") == str(site.merged)
    assert (site.layers_seen(), site.store.mount_count("box")) == (1, 1)
    unmount(site)
    assert site.layers_seen() == 0


def test_killed_before_the_count_of_an_unmount(site: Site) -> None:
    site.ours("mount", "box")
    _killed(site, site.counts, "unmount", "box")
    assert (site.layers_seen(), site.store.mount_count("box")) == (0, 1)
    assert site.store.unmount("box") is False
    with site.store.mounted("box"):
        assert site.has_files()


def test_killed_before_the_mount_point_is_renewed(site: Site) -> None:
    """The directory that was to take the place of the mount point is there already."""
    site.ours("mount", "box")
    _killed(site, site.merged, "unmount", "box")
    assert site.store.mount_count("box") == 1
    assert site.theirs("unmount", "box").lines == ["box mountpoint unmounted"]
    site.ours("mount", "box")
    assert site.has_files()
    assert site.store.unmount("box") is False
    assert sorted(os.listdir(site.merged.parent)) == ["diff", "link", "lower", "merged", "work"]


def test_views_that_a_killed_program_left_are_detached(site: Site) -> None:
    """Id-mapped views of the layers below hang in `mapped` while old kernels mount; who unmounts detaches them."""
    mappings = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 100_000, 65_536)])
    box = site.store.containers.create(image="i", names=["mapped"], mappings=mappings)
    site.store.mount("mapped")
    views = site.base / "graph/overlay" / box.layer / "mapped"
    for number in range(2):
        (views / str(number)).mkdir(parents=True)
        subprocess.run(["mount", "--bind", site.base / "graph", views / str(number)], check=True)
    site.store.unmount("mapped")
    assert peers.mounts_below(views) == []
    site.store.containers.delete("mapped")


def test_the_parent_of_a_dead_program_finds_its_mount_program_gone(site: Site) -> None:
    """A FUSE mount whose program died answers nobody; it is forgotten like one that is not there."""
    peers.need("fuse-overlayfs")
    base = site.base / "fuse"

    def opened() -> orlop.Store:
        option = f"overlay.mount_program={peers.program('fuse-overlayfs')}"
        return orlop.open_store(base / "graph", base / "run", "overlay", driver_options=[option])

    with opened() as store:
        layer = store.layers.put(tar(("motd", b"ahoy\n")))
        store.images.create(layer=layer.id, names=["i"])
        store.containers.create(image="i", names=["box"])
        path = Path(store.mount("box"))
        assert (path / "motd").exists()
        _kill_the_program_of(path)
        with pytest.raises(OSError, match="not connected"):
            os.listdir(path)
        assert store.unmount("box", force=True) is False
        assert peers.mounts_below(path) == []
        with store.mounted("box") as root:
            assert (root / "motd").exists()
        _ = store.mount("box")
        _kill_the_program_of(path)
    with opened() as store:
        store.containers.delete("box")
        assert peers.mounts_below(path) == []
        assert store.shutdown() == []


def _kill_the_program_of(point: Path) -> None:
    (pid,) = [
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and _words(entry)[-1:] == [str(point)] and b"fuse" in _words_raw(entry)
    ]
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _words_raw(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


def _words(pid: str) -> list[str]:
    return os.fsdecode(_words_raw(pid)).rstrip("\0").split("\0")


# --- others -------------------------------------------------------------------------------------------------


def test_a_foreign_program_undoes_our_mounts_and_we_undo_its(site: Site) -> None:
    site.store.mount("box")
    assert site.theirs("mount", "box").lines == [str(site.merged)]
    assert site.store.mount_count("box") == 2
    assert site.store.unmount("box") is True
    assert site.has_files()
    assert site.theirs("unmount", "box").lines == ["box mountpoint unmounted"]
    assert site.layers_seen() == 0
    for _ in range(3):
        assert site.theirs("mount", "box").lines == [str(site.merged)]
        assert site.has_files()
        assert site.store.unmount("box") is False
        assert site.layers_seen() == 0
        assert site.store.mount("box") == str(site.merged)
        assert site.theirs("unmount", "-f", "box").lines == ["box mountpoint unmounted"]
        assert site.layers_seen() == 0


@pytest.mark.parametrize("by", ["ours", "theirs"])
def test_a_shutdown_by_another_program_is_noticed(site: Site, by: str) -> None:
    """It takes the bind mount off the home; who opens the store next, or has it open, puts it back, once."""
    home = str(site.base / "graph/overlay")
    for _ in range(2):
        getattr(site, by)("shutdown")
        assert peers.mounts_below(site.base) == []
        with site.store.mounted("box") as root:
            assert (root / "motd").exists()
            assert peers.mounts_below(site.base) == [home, str(root)]
        assert peers.mounts_below(site.base) == [home]
    refused = site.ours("mount", "box") and getattr(site, by)("shutdown", ok=False)
    assert refused.status == 1
    assert site.has_files()
    assert site.store.unmount("box") is False


def test_mounts_are_made_on_a_home_that_somebody_unmounted(site: Site) -> None:
    """No token tells of that. What is mounted then is found, and undone, all the same."""
    mounts.unmount(str(site.base / "graph/overlay"))
    with site.store.mounted("box"):
        assert (site.has_files(), site.layers_seen()) == (True, 1)
        assert site.ours("mount", "box").lines == [str(site.merged)]
        assert site.ours("unmount", "box").lines == []
    assert site.layers_seen() == 0


_LOOP = """
import os, sys, time
import orlop
graph, run, seconds = sys.argv[1:]
end = time.monotonic() + float(seconds)
rounds = 0
with orlop.open_store(graph, run, "overlay", durability="none", lock_timeout=20) as store:
    while time.monotonic() < end:
        path = store.mount("box")
        assert os.listdir(path) == ["motd"], os.listdir(path)
        store.unmount("box")
        rounds += 1
print(rounds)
"""


def test_programs_that_mount_and_unmount_at_once(site: Site) -> None:
    """Each sees the files for as long as it holds a mount, and the last one out leaves nothing behind."""
    words = [sys.executable, "-c", _LOOP, str(site.base / "graph"), str(site.base / "run"), str(SECONDS)]
    loops = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    problems: list[str] = []
    rounds = [0, 0]
    end = time.monotonic() + SECONDS

    def threaded() -> None:
        try:
            while time.monotonic() < end:
                with site.store.mounted("box") as root:
                    assert os.listdir(root) == ["motd"]
                rounds[0] += 1
        except Exception as error:
            problems.append(f"a thread of ours: {error!r}")

    threads = [threading.Thread(target=threaded) for _ in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        path = site.theirs("mount", "box").lines[0]
        assert os.listdir(path) == ["motd"]
        site.theirs("unmount", "box")
        rounds[1] += 1
    for thread in threads:
        thread.join(60)
    for loop in loops:
        out, err = loop.communicate(timeout=60)
        assert loop.returncode == 0, err
        rounds.append(int(out))
    assert problems == []
    assert min(rounds) > 2, rounds
    assert site.store.mount_count("box") == 0
    assert site.layers_seen() == 0
