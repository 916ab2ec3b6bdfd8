"""The overlay driver where it is more than the contract asks: what it mounts, probes, keeps and refuses."""

import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import layers
import loopfs
import peers
from orlop.drivers.overlay.driver import Overlay
from orlop.drivers.overlay.mounting import Counter
from orlop.errors import ConfigError, IncompatibleFilesystem, LimitExceeded, NotSupported, UnsafeID
from orlop.model.idmap import IDMap, IDMappings
from orlop.records.trash import Trash
from orlop.system import files, overlayfs
from orlop.system.ownlock import own

pytest_plugins = ("overlays",)

MAPPED = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 200_000, 65_536)])


@pytest.fixture
def driver(open_overlay: Callable[..., Overlay]) -> Overlay:
    return open_overlay()


@pytest.fixture
def home(driver: Overlay) -> Path:
    return Path(driver.home)


def _base(driver: Overlay) -> None:
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", layers.BASE)


# --- opening ------------------------------------------------------------------------------------------------


def test_the_home_becomes_a_private_mount_once(open_overlay: Callable[..., Overlay]) -> None:
    first, second = open_overlay(), open_overlay()
    assert peers.mounts_below(first.home) == [first.home]
    assert "shared:" not in next(
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.split()[4] == first.home
    )
    second.shutdown()
    assert peers.mounts_below(first.home) == []
    first.shutdown()


def test_the_home_stays_as_it_is_if_so_wished(open_overlay: Callable[..., Overlay]) -> None:
    driver = open_overlay("overlay.skip_mount_home=true")
    driver.create("box", None, writable=True)
    assert peers.mounts_below(driver.home) == []


def test_the_home_stays_mounted_while_a_peer_prepares_something_in_it(driver: Overlay, home: Path) -> None:
    """What a partial pull that ended left there is deleted: its lock is free. Without a lock nobody can tell."""
    for name in ("used", "left", "unknown"):
        (home / "staging" / name / "dir").mkdir(parents=True)
    (home / "staging/left/staging.lock").touch()
    lock = own(str(home / "staging/used/staging.lock"))
    assert lock is not None
    driver.shutdown()
    assert peers.mounts_below(home) == [str(home)]
    assert sorted(os.listdir(home / "staging")) == ["unknown", "used"]
    lock.close()
    driver.shutdown()
    assert peers.mounts_below(home) == [str(home)]
    files.remove_tree(str(home / "staging/unknown"))
    driver.shutdown()
    assert peers.mounts_below(home) == []
    assert os.listdir(home / "staging") == []


def test_answers_of_the_kernel_are_kept_in_files(open_overlay: Callable[..., Overlay], place: Path) -> None:
    run = place / "run" / "overlay"
    driver = open_overlay("overlay.mountopt=nodev")
    assert sorted(os.listdir(run)) == ["metacopy(nodev)-false", "overlay-true"]
    driver.status()
    assert {"native-diff(nodev)-true", "idmapped-lower-dir-true", "volatile-true"} < set(os.listdir(run))
    assert (run / "overlay-true").read_bytes() == b""
    assert (Path(driver.home) / ".has-mount-program").read_bytes() == b"false"
    assert sorted(os.listdir(driver.home)) == [".has-mount-program", "l"]


def test_kept_answers_are_believed(open_overlay: Callable[..., Overlay], place: Path) -> None:
    run = place / "run" / "overlay"
    run.mkdir(parents=True)
    for name in (
        "overlay-true",
        "metacopy()-false",
        "native-diff()-false",
        "idmapped-lower-dir-false",
        "volatile-false",
    ):
        (run / name).touch()
    driver = open_overlay()
    status = dict(driver.status())
    assert [status[key] for key in ("Native Overlay Diff", "Supports shifting", "Supports volatile")] == [
        "false"
    ] * 3
    _base(driver)
    assert str(driver.changes("base", None)[0]) == "A /bin"  # by comparing trees


def test_metacopy_makes_diffs_naive(open_overlay: Callable[..., Overlay], place: Path) -> None:
    """A file whose attributes changed has no data in the upper directory then."""
    driver = open_overlay("overlay.mountopt=metacopy=on")
    assert dict(driver.status())["Using metacopy"] == "true"
    text = (place / "run" / "overlay" / "native-diff(metacopy=on)-false").read_text()
    assert text.startswith(
        "Not using native diff for overlay, this may cause degraded performance for building images: "
    )
    _base(driver)
    driver.create("box", "base", writable=True)
    root = Path(driver.mount("box"))
    (root / "bin" / "su").chmod(0o700)
    os.rename(root / "var", root / "moved")
    driver.unmount("box")
    with driver.diff("box", "base") as stream:
        archive = {entry.name: payload for entry, payload in layers.entries(stream)}
    assert archive[b"bin/su"] == b"\x7fELF" * 500
    assert archive[b"moved/cache/two"] == b"22"
    assert b".wh.var" in archive


def test_a_mount_option_that_the_kernel_does_not_know_is_told_at_once_or_at_the_mount(
    open_overlay: Callable[..., Overlay],
) -> None:
    driver = open_overlay("overlay.mountopt=no-such-option")
    driver.create("box", None, writable=True)
    with pytest.raises(OSError):
        driver.mount("box")
    assert driver.mount("box", options=["nodev"])
    driver.unmount("box")


def test_an_overlay_upon_an_overlay_needs_a_mount_program(
    open_overlay: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    below = open_overlay()
    below.create("box", None, writable=True)
    root = Path(below.mount("box"))
    with pytest.raises(IncompatibleFilesystem) as failure:
        open_overlay(base=root)
    assert "overlayfs, a mount_program is required" in failure.value.peer
    assert os.listdir(root / "graph") == []  # a home would count as data
    below.unmount("box")


def test_layers_of_a_mount_program_are_recognised(
    open_overlay: Callable[..., Overlay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the kernel their whiteouts are files."""
    first = open_overlay()
    first.create("box", None, writable=True)
    (Path(first.home) / ".has-mount-program").unlink()
    (Path(first.home) / "box" / "diff" / ".wh.deleted").touch()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NotSupported, match="fuse-overlayfs"):
        open_overlay()
    assert (Path(first.home) / ".has-mount-program").read_bytes() == b"true"
    assert first.exists("box")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_quotas_are_refused_where_there_are_none(
    open_overlay: Callable[..., Overlay], place: Path, kind: str
) -> None:
    with loopfs.mounted(kind, place) as base:
        with pytest.raises((ConfigError, NotSupported)) as failure:
            open_overlay("overlay.size=10g", base=base)
        assert "overlay.size and overlay.inodes" in failure.value.peer
        driver = open_overlay(base=base)
        with pytest.raises(NotSupported, match="quota"):
            driver.create("box", None, writable=True, storage_opt={"size": "1g"})
        with pytest.raises(NotSupported) as failure:
            driver.create("image", None, writable=False, storage_opt={"size": "1g"})
        assert failure.value.peer == "--storage-opt size is only supported for ReadWrite Layers"
        assert driver.ids() == []
        driver.shutdown()


def test_writable_layers_have_no_force_mask_without_a_program(open_overlay: Callable[..., Overlay]) -> None:
    driver = open_overlay("overlay.force_mask=shared")
    with pytest.raises(NotSupported, match="mount program"):
        driver.create("box", None, writable=True)
    driver.create("image", None, writable=False)
    layers.fill(driver, "image", layers.BASE)
    diff = Path(driver.home) / "image" / "diff"
    assert stat.S_IMODE((diff / "etc" / "group").stat().st_mode) == 0o755
    assert os.getxattr(diff / "etc" / "group", "user.containers.override_stat") == b"3:4:0644:file"
    assert os.getxattr(diff, "user.containers.override_stat") == b"0:0:0755:dir"


# --- mounting -----------------------------------------------------------------------------------------------


def test_mount_options_of_a_call_replace_the_configured_ones(open_overlay: Callable[..., Overlay]) -> None:
    driver = open_overlay("overlay.mountopt=nodev,noexec")
    _base(driver)
    driver.create("box", "base", writable=True)
    assert peers.mount_options(driver.mount("box")).startswith("rw,nodev,noexec")
    driver.unmount("box")
    assert peers.mount_options(driver.mount("box", options=["nosuid"])).startswith("rw,nosuid,relatime")
    driver.unmount("box")
    shown = peers.mount_options(driver.mount("box", options=["ro", "nodev"]))
    assert shown.startswith("ro,nodev")
    assert "upperdir" not in shown
    with pytest.raises(OSError):
        Path(driver.mount("box"), "new").touch()
    driver.unmount("box")
    driver.unmount("box")


def test_a_short_name_that_is_in_use_again_is_no_leftover_any_more(
    open_overlay: Callable[..., Overlay], place: Path
) -> None:
    """A repair makes a layer again under its old name, and was to remove that name when it was planned."""
    driver = open_overlay()
    driver.create("lost", None, writable=False)
    home = place / "graph" / "overlay"
    os.rename(home / "lost", home / ".aside")
    (leftover,) = driver.leftovers()
    os.rename(home / ".aside", home / "lost")
    driver.drop(leftover, lambda path, root: None)
    assert os.path.islink(leftover.path)
    os.rename(home / "lost", home / ".aside")
    driver.drop(leftover, lambda path, root: None)
    assert not os.path.lexists(leftover.path)


def test_metacopy_stays_where_it_is_configured(open_overlay: Callable[..., Overlay]) -> None:
    driver = open_overlay("overlay.mountopt=metacopy=on")
    driver.create("box", None, writable=True)
    assert "metacopy=on" in peers.mount_options(driver.mount("box", options=["nodev"]))
    driver.unmount("box")


def test_metacopy_goes_where_it_does_not_work(open_overlay: Callable[..., Overlay], place: Path) -> None:
    (place / "run" / "overlay").mkdir(parents=True)
    (place / "run" / "overlay" / "metacopy(metacopy=on)-false").touch()
    driver = open_overlay("overlay.mountopt=metacopy=on")
    driver.create("box", None, writable=True)
    assert "metacopy=on" not in peers.mount_options(driver.mount("box"))
    driver.unmount("box")


def test_volatile_layers_can_be_mounted_again_after_a_crash(driver: Overlay, home: Path) -> None:
    driver.create("box", None, writable=True)
    assert "volatile" in peers.mount_options(driver.mount("box", volatile=True))
    driver.unmount("box")
    assert (home / "box" / "work" / "work" / "incompat" / "volatile").exists()
    assert driver.mount("box", volatile=True)
    driver.unmount("box")


def _deep(driver: Overlay, depth: int) -> None:
    driver.create("0", None, writable=False)
    for number in range(1, depth + 1):
        driver.create(str(number), str(number - 1), writable=False)
        (Path(driver.home) / str(number) / "diff" / f"file{number}").touch()


@pytest.mark.usefixtures("way")
def test_five_hundred_layers_below_one_are_mounted_and_one_more_is_not(driver: Overlay) -> None:
    _deep(driver, 501)
    root = driver.mount("500")
    assert len(os.listdir(root)) == 500
    driver.unmount("500")
    assert len(driver.metadata("500")["LowerDir"].split(":")) == 500
    with pytest.raises(LimitExceeded) as failure:
        driver.mount("501")
    assert failure.value.peer == "max depth exceeded"
    driver.create("child", "501", writable=True)  # creating is no matter of depth


@pytest.mark.usefixtures("way")
def test_layers_below_are_mapped_and_the_layer_itself_is_not(driver: Overlay, home: Path) -> None:
    _base(driver)
    driver.create("middle", "base", writable=False)
    layers.fill(driver, "middle", [layers.file("middle", b"m", uid=5, gid=6)], parent="base")
    driver.create("box", "middle", writable=True)
    root = Path(driver.mount("box", mappings=MAPPED))
    assert (root.stat().st_uid, root.stat().st_gid) == (100_000, 200_000)
    assert ((root / "middle").stat().st_uid, (root / "middle").stat().st_gid) == (100_005, 200_006)
    assert (root / "etc" / "group").stat().st_uid == 100_003
    (root / "mine").touch()
    os.chown(root / "mine", 100_007, 200_007)
    driver.unmount("box")
    assert (home / "box" / "diff" / "mine").stat().st_uid == 100_007
    assert (home / "base" / "diff" / "etc" / "group").stat().st_uid == 3
    assert peers.mounts_below(home) == [str(home)]
    with driver.diff("box", "middle", MAPPED) as stream:
        ((entry, _),) = layers.entries(stream)
    assert (entry.name, entry.uid) == (b"mine", 7)


@pytest.mark.parametrize(
    ("uids", "gids", "answer"),
    [
        ([IDMap(0, 1000, 10)], [IDMap(0, 1000, 10)], True),
        ([IDMap(0, 1000, 10), IDMap(10, 1010, 5)], [IDMap(0, 1000, 10)], True),
        ([IDMap(0, 1000, 10), IDMap(20, 1010, 5)], [IDMap(0, 1000, 10)], False),
        ([IDMap(0, 1000, 10)], [], False),
        ([], [IDMap(0, 1000, 10)], False),
    ],
)
def test_which_maps_a_mount_can_apply(
    open_overlay: Callable[..., Overlay], uids: list[IDMap], gids: list[IDMap], answer: bool
) -> None:
    maps = IDMappings(uids, gids)
    assert open_overlay().supports_shifting(maps) is answer
    assert not open_overlay(shifting=False).supports_shifting(maps)


def test_a_mount_without_maps_leaves_the_owner_of_the_root_alone(driver: Overlay, home: Path) -> None:
    """The peers give it to the host's root, whom the container of a re-owned layer does not know."""
    driver.create("box", None, writable=True, mappings=MAPPED)
    driver.mount("box", options=["ro"])
    driver.unmount("box")
    assert (home / "box" / "diff").stat().st_uid == 100_000


def test_a_failed_mount_leaves_nothing(driver: Overlay, home: Path) -> None:
    driver.create("box", None, writable=True)
    for _ in range(2):
        with pytest.raises(OSError):
            driver.mount("box", options=["no-such-option"])
    assert peers.mounts_below(home / "box") == []
    driver.mount("box")
    driver.unmount("box")
    assert peers.mounts_below(home / "box") == []


def test_mounts_are_counted_and_what_others_did_is_seen(driver: Overlay, home: Path) -> None:
    driver.create("box", None, writable=True)
    root = driver.mount("box")
    assert driver.mount("box") == root
    assert peers.mounts_below(root) == [root]
    driver.unmount("box")
    assert overlayfs.is_overlay(root)
    peers.unmount_below(root)  # somebody else
    driver.mount("box")
    driver.unmount("box")
    assert not overlayfs.is_overlay(root)
    driver.unmount("box")  # of what is not mounted


def test_the_count() -> None:
    mounted = False
    counter = Counter(lambda path: mounted)
    assert counter.add("x", 1) == 1
    mounted = True
    assert counter.add("x", 1) == 2
    assert counter.add("x", -1) == 1
    mounted = False
    assert counter.add("x", 1) == 1  # begun anew: it was unmounted
    mounted = True
    assert counter.add("x", -1) == 0
    assert counter.add("x", 1) == 2  # forgotten, and found mounted by somebody
    assert counter.add("y", -1) == 0


def test_threads_may_mount_one_layer(driver: Overlay) -> None:
    driver.create("box", None, writable=True)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                driver.mount("box", options=["ro"])
                driver.unmount("box")
        except BaseException as error:
            failures.append(error)

    driver.mount("box")
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    driver.unmount("box")
    assert peers.mounts_below(Path(driver.home) / "box") == []


def test_unmounting_leaves_a_new_mount_point(driver: Overlay, home: Path) -> None:
    """In another mount namespace the layer may still be mounted on the old one."""
    driver.create("box", None, writable=True, mappings=MAPPED)
    driver.mount("box")
    before = (home / "box" / "merged.1").exists()
    driver.unmount("box")
    merged = (home / "box" / "merged").stat()
    assert not before
    assert (stat.S_IMODE(merged.st_mode), merged.st_uid, merged.st_gid) == (0o700, 100_000, 200_000)
    assert sorted(os.listdir(home / "box")) == ["diff", "empty", "link", "merged", "work"]


def _bind(point: str | Path) -> None:
    subprocess.run(["mount", "--bind", "/etc", point], check=True)


@pytest.mark.parametrize("where", ["at home", "in the run root"])
def test_what_somebody_mounted_upon_ours_goes_with_it(
    open_overlay: Callable[..., Overlay], place: Path, where: str
) -> None:
    options = ()
    if where != "at home":
        (place / "other").mkdir()
        other = open_overlay(base=place / "other")
        other.create("box", None, writable=False)
        other.shutdown()
        options = (f"overlay.imagestore={place}/other/graph",)
    driver = open_overlay(*options)
    if where == "at home":
        driver.create("box", None, writable=True)
        (Path(driver.home) / "box/merged.1").mkdir()  # of somebody who was interrupted
    root = driver.mount("box")
    _bind(root)
    driver.unmount("box")
    assert peers.mounts_below(place) == [driver.home]
    if where == "at home":
        assert sorted(os.listdir(Path(driver.home) / "box")) == ["diff", "empty", "link", "merged", "work"]
        assert os.listdir(root) == []
    else:
        assert not os.path.exists(os.path.dirname(root))


def test_a_layer_whose_mount_point_is_gone_is_unmounted(driver: Overlay, home: Path) -> None:
    driver.create("box", None, writable=True)
    (home / "box/merged").rmdir()
    driver.unmount("box")
    driver.mount("box")
    driver.unmount("box")
    with pytest.raises(FileNotFoundError):
        driver.unmount("another")


def test_a_layer_without_its_short_name_anywhere_is_named(driver: Overlay, home: Path) -> None:
    _base(driver)
    driver.create("box", "base", writable=True)
    link = (home / "base/link").read_text()
    (home / "l" / link).unlink()
    (home / "base/link").unlink()
    with pytest.raises(FileNotFoundError, match=link):
        driver.mount("box")
    assert peers.mounts_below(home) == [str(home)]


def test_a_mount_point_that_is_a_symlink_is_not_mounted_on(driver: Overlay, home: Path, place: Path) -> None:
    """CVE-2021-30465: the mount would go wherever it leads."""
    driver.create("box", None, writable=True)
    (place / "outside").mkdir()
    (home / "box" / "merged").rmdir()
    (home / "box" / "merged").symlink_to(place / "outside")
    with pytest.raises(OSError):
        driver.mount("box")
    assert peers.mounts_below(place / "outside") == []


@pytest.mark.usefixtures("way")
def test_names_that_mean_something_in_mount_options(
    place: Path, open_overlay: Callable[..., Overlay]
) -> None:
    base = place / 'a,b:c\\d"e'
    base.mkdir()
    driver = open_overlay(base=base)
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", layers.BASE)
    driver.create("box", "base", writable=True)
    root = Path(driver.mount("box"))
    (root / "new").touch()
    driver.unmount("box")
    assert [str(change) for change in driver.changes("box", "base")] == ["A /new"]
    driver.shutdown()


# --- other stores -------------------------------------------------------------------------------------------


def test_layers_of_an_additional_store_are_read_and_never_written_to(
    open_overlay: Callable[..., Overlay], place: Path
) -> None:
    (place / "other").mkdir()
    other = open_overlay(base=place / "other")
    _base(other)
    other.create("child", "base", writable=False)
    other.shutdown()
    driver = open_overlay(f"overlay.imagestore={place}/other/graph")
    foreign = place / "other" / "graph" / "overlay"

    def seen() -> list[tuple[str, int, int]]:
        return [(str(p), p.lstat().st_mtime_ns, p.lstat().st_uid) for p in sorted(foreign.rglob("*"))]

    before = seen()
    assert driver.exists("base")
    assert driver.ids() == []
    assert driver.additional_stores() == (f"{place}/other/graph",)
    root = Path(driver.mount("child"))
    assert root == place / "run" / "overlay" / "child" / "merged"
    assert (root / "etc" / "passwd").read_bytes()
    with pytest.raises(OSError):
        (root / "new").touch()
    driver.unmount("child")
    assert not (place / "run" / "overlay" / "child").exists()
    driver.create("box", "child", writable=True)
    box = Path(driver.mount("box"))
    (box / "etc" / "passwd").write_bytes(b"mine")
    driver.unmount("box")
    assert {str(change) for change in driver.changes("box", "child")} == {"C /etc/passwd"}
    assert driver.files("box").open(b"etc/group") > 0
    driver.remove("child", _refuse)  # not ours
    assert seen() == before


def _refuse(path: str, root: str) -> None:
    raise AssertionError(f"{path} was to be removed")


def test_an_image_store_takes_the_image_layers(open_overlay: Callable[..., Overlay], place: Path) -> None:
    (place / "images").mkdir()
    driver = open_overlay(image_store=str(place / "images"))
    _base(driver)
    driver.create("box", "base", writable=True)
    images = place / "images" / "overlay"
    assert (images / "base" / "diff" / "etc" / "passwd").exists()
    assert driver.ids() == ["box"]
    assert driver.temp_roots() == (f"{driver.home}/tempdirs", f"{images}/tempdirs")
    root = Path(driver.mount("base"))
    assert root == place / "run" / "overlay" / "base" / "merged"
    driver.unmount("base")
    assert (Path(driver.mount("box")) / "etc" / "passwd").exists()
    driver.unmount("box")
    driver.remove("box", lambda path, root: files.remove_tree(path))
    driver.remove("base", lambda path, root: files.remove_tree(path))
    assert os.listdir(images / "l") == []
    assert os.listdir(Path(driver.home) / "l") == []


# --- removal ------------------------------------------------------------------------------------------------


def test_what_is_set_aside_goes_to_the_homes_own_trash_and_away(
    driver: Overlay, home: Path, place: Path
) -> None:
    """The home is a mount, even if of itself: nothing can be renamed out of it. Nor may anything stay in it:
    older peers take it for a layer, newer ones than that cannot find their short names."""
    _base(driver)
    driver.create("box", "base", writable=True)
    driver.mount("box")
    with pytest.raises(OSError, match="cross-device"):
        os.rename(home / "box", place / "graph" / "elsewhere")
    driver.unmount("box")
    usual = place / "graph" / "overlay-layers" / "tmp"
    trash = Trash(str(usual))
    driver.remove("box", trash.set_aside)
    driver.remove("base", trash.set_aside)
    assert driver.ids() == []
    assert trash.foreign_roots() == [f"{home}/tempdirs"]
    trash.empty()
    assert os.listdir(home / "tempdirs") == []
    assert not usual.exists(), "nothing was tried where nothing can go"
    assert os.listdir(home / "l") == []


def test_a_removal_that_was_cut_short_can_be_repeated(driver: Overlay, home: Path) -> None:
    driver.create("box", None, writable=True)
    os.unlink(home / "l" / (home / "box" / "link").read_text())
    driver.remove("box", lambda path, root: files.remove_tree(path))
    driver.create("box", None, writable=True)
    (home / "box" / "link").unlink()
    driver.remove("box", lambda path, root: files.remove_tree(path))
    assert driver.ids() == []


@pytest.mark.parametrize(
    "id", ["l", "staging", "tempdirs", "backingFsBlockDev", ".has-mount-program", "lost+found"]
)
def test_reserved_names_are_no_layers(driver: Overlay, home: Path, id: str) -> None:
    if not (home / id).exists():
        (home / id).mkdir()
    assert driver.ids() == []
    for attempt in (driver.mount, driver.exists, driver.unmount, driver.usage):
        with pytest.raises(UnsafeID):
            attempt(id)
    with pytest.raises(UnsafeID):
        driver.remove(id, _refuse)


# --- archives -----------------------------------------------------------------------------------------------


def test_attributes_of_overlay_never_reach_an_upper_directory(driver: Overlay, home: Path) -> None:
    """`redirect` shows any directory of a lower layer under another name, `opaque` and `metacopy` hide and mix."""
    _base(driver)
    driver.create("child", "base", writable=False)
    evil = {
        b"trusted.overlay.opaque": b"y",
        b"trusted.overlay.redirect": b"/bin",
        b"trusted.overlay.metacopy": b"",
        b"user.overlay.opaque": b"y",
        b"user.overlay.redirect": b"/bin",
    }
    archive = [layers.directory("etc", xattrs=evil), layers.file("etc/passwd", b"", xattrs=evil)]
    result = layers.fill(driver, "child", archive, parent="base")
    assert os.listxattr(home / "child" / "diff" / "etc") == []
    assert os.listxattr(home / "child" / "diff" / "etc" / "passwd") == []
    assert result.warnings
    root = Path(driver.mount("child"))
    assert sorted(os.listdir(root / "etc")) == ["group", "passwd"]
    driver.unmount("child")


def test_whiteouts_survive_a_diff_with_maps(driver: Overlay) -> None:
    """They belong to the host's root, whom no container knows: mapped like files they would be left out."""
    driver.create("base", None, writable=False, mappings=MAPPED)
    layers.fill(driver, "base", layers.BASE, mappings=MAPPED)
    driver.create("box", "base", writable=True, mappings=MAPPED)
    root = Path(driver.mount("box"))
    (root / "etc" / "passwd").unlink()
    (root / "etc" / "group").unlink()
    (root / "etc" / "new").touch()
    os.chown(root / "etc" / "new", 100_001, 200_001)
    driver.unmount("box")
    with driver.diff("box", "base", MAPPED, MAPPED) as stream:
        archive = layers.entries(stream)
    names = [entry.name for entry, _ in archive]
    assert names == [b"etc/", b"etc/.wh.group", b"etc/new", b"etc/.wh.passwd"]
    assert all(entry.type == ord("0") and not entry.linkname for entry, _ in archive[1:])


def test_the_size_of_an_import_is_what_it_takes_on_disk(driver: Overlay) -> None:
    driver.create("one", None, writable=False)
    result = layers.fill(driver, "one", layers.BASE)
    assert result.size == driver.usage("one")[0] == driver.diff_size("one", None)


def test_files_of_a_re_owned_layer_come_from_below_it(driver: Overlay) -> None:
    """Its own content is a copy with other owners; by the template's archive it is the same."""
    _base(driver)
    driver.create_from_template("copy", "base", None, writable=False, mappings=MAPPED)
    driver.shift("copy", IDMappings(), MAPPED)
    before = len(os.listdir("/proc/self/fd"))
    with driver.files("copy") as found:
        fd = found.open(b"etc/passwd")
        assert os.fstat(fd).st_uid == 100_000
        os.close(fd)
        with pytest.raises(FileNotFoundError):
            found.open(b"etc/nothing")
    assert len(os.listdir("/proc/self/fd")) == before


def test_files_of_which_just_the_owner_was_copied_have_their_data_below(
    open_overlay: Callable[..., Overlay],
) -> None:
    driver = open_overlay("overlay.mountopt=metacopy=on")
    _base(driver)
    driver.create_from_template("copy", "base", None, writable=False, mappings=MAPPED)
    driver.shift("copy", IDMappings(), MAPPED)
    assert os.getxattr(f"{driver.home}/copy/diff1/bin/su", "trusted.overlay.metacopy") is not None
    before = len(os.listdir("/proc/self/fd"))
    with driver.files("copy") as found:
        for name in (b"bin/su", b"bin/doas"):
            fd = found.open(name)
            assert os.read(fd, 1 << 20) == b"\x7fELF" * 500
            os.close(fd)
        with pytest.raises(FileNotFoundError):
            found.open(b"nothing")
    assert len(os.listdir("/proc/self/fd")) == before


def test_re_owning_twice_keeps_the_newest_content_first(driver: Overlay, home: Path) -> None:
    _base(driver)
    other = IDMappings([IDMap(0, 300_000, 65_536)], [IDMap(0, 300_000, 65_536)])
    driver.create("copy", "base", writable=True, mappings=MAPPED)
    driver.shift("copy", IDMappings(), MAPPED)
    driver.shift("copy", MAPPED, other)
    assert sorted(name for name in os.listdir(home / "copy") if name.startswith("diff")) == [
        "diff",
        "diff1",
        "diff2",
    ]
    assert (home / "copy" / "diff1" / "etc" / "group").stat().st_uid == 300_003
    assert (home / "copy" / "diff2" / "etc" / "group").stat().st_uid == 100_003
    driver.create("child", "copy", writable=True)
    root = Path(driver.mount("child"))
    assert (root / "etc" / "group").stat().st_uid == 300_003
    assert driver.changes("child", "copy") == []
    driver.unmount("child")
    assert stat.S_IMODE((home / "copy" / "work").stat().st_mode) == 0o555


def test_a_child_of_a_template_is_compared_with_the_parent_it_is_said_to_have(driver: Overlay) -> None:
    _base(driver)
    driver.create("template", "base", writable=False)
    layers.fill(driver, "template", [layers.file("added", b"1")], parent="base")
    driver.create_from_template("copy", "template", "base", writable=False)
    assert [str(change) for change in driver.changes("copy", "base")] == ["A /added"]
    assert driver.changes("copy", "template") == []
