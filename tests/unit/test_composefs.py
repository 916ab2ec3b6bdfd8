"""Layers as images of names with the data apart: made, mounted, read and compared as any others.

`mkcomposefs` is played by a stand-in; images, mounts and loop devices are real."""

import errno
import fcntl
import io
import os
import stat
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import composefs as images
import layers
import mkcomposefs
import orlop
import peers
import trees
from orlop.drivers.overlay import composefs
from orlop.drivers.overlay.driver import Overlay
from orlop.errors import BadRecords, ConfigError, NotSupported, UnsafePath
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import files, libc, loops, newmount, verity
from tarballs import tar

pytest_plugins = ("overlays",)

MAPPED = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 200_000, 65_536)])


@pytest.fixture
def open_driver(
    open_overlay: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Overlay]:
    images.install(place, monkeypatch)
    return open_overlay


@pytest.fixture
def driver(open_driver: Callable[..., Overlay]) -> Overlay:
    return open_driver("overlay.use_composefs=true")


@pytest.fixture
def home(driver: Overlay) -> Path:
    return Path(driver.home)


ODD = [
    *layers.BASE,
    layers.directory("odd names", mode=0o2750, uid=7, gid=8),
    layers.file("odd names/back\\slash", b"1"),
    layers.file("odd names/new\nline", b"2", mtime_ns=1_500_000_000_000_000_005),
    layers.file("odd names/a=b", b"3" * 5000, xattrs={b"user.k=y": b"v=\0\xff", b"security.x": b"-"}),
    layers.file("odd names/-", b""),
    layers.symlink("odd names/link", "../etc/-x y"),
    layers.fifo("odd names/pipe"),
]


def _loops(home: Path) -> list[str]:
    """The loop devices that show files of a home."""
    found = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += [entry.parts[3]] if entry.read_text().startswith(str(home)) else []
        except OSError:
            continue  # it went meanwhile
    return found


def _read(found: Any, name: bytes) -> bytes:
    fd = found.open(name)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


# --- seeing the files ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_an_image_shows_what_a_tree_would(driver: Overlay, home: Path) -> None:
    images.keep(driver, "image", ODD)
    driver.create("tree", None, writable=False)
    layers.fill(driver, "tree", [layers.directory(""), *ODD])
    seen = []
    for id in ("image", "tree"):
        root = driver.mount(id, options=["ro"])
        assert peers.mounts_below(home / id) == [root], "nothing else is to be seen in the table of mounts"
        found = trees.listing(Path(root), atime=False)
        found.pop(".")
        seen.append(found)
        driver.unmount(id)
    assert seen[0] == seen[1]
    assert peers.mounts_below(home) == [str(home)]


@pytest.mark.usefixtures("way")
def test_images_and_trees_lie_one_over_the_other(driver: Overlay, place: Path) -> None:
    images.keep(driver, "1", [layers.directory("d"), layers.file("d/1", b"one"), layers.file("all", b"1")])
    driver.create("2", "1", writable=False)
    layers.fill(driver, "2", [layers.directory("d"), layers.file("d/2", b"two")], parent="1")
    images.keep(driver, "3", [layers.directory("d"), layers.file("d/3", b"3"), layers.file("all", b"3")], "2")
    driver.create("box", "3", writable=True)
    root = Path(driver.mount("box"))
    assert layers.contents(root) == {"all": b"3", "d": "d", "d/1": b"one", "d/2": b"two", "d/3": b"3"}
    shown = peers.mount_options(root)
    assert "::" in shown or "datadir+" in shown
    assert {"metacopy=on", "redirect_dir=on"} <= set(shown.split(","))
    driver.unmount("box")
    assert (place / "run/overlay/dataonly-layers-true").exists()


@pytest.mark.usefixtures("way")
def test_without_data_only_layers_there_may_be_one_image(
    open_driver: Callable[..., Overlay], place: Path
) -> None:
    """The data are a layer like others then, whose names the whiteouts in the image hide. In a second image those
    would hide the data of the first from itself: every look at such a file would be an I/O error."""
    (place / "run/overlay").mkdir(parents=True)
    (place / "run/overlay/dataonly-layers-false").touch()
    driver = open_driver()
    driver.create("below", None, writable=False)
    layers.fill(driver, "below", [layers.file("below", b"b")])
    images.keep(driver, "image", layers.BASE, "below")
    driver.create("box", "image", writable=True)
    root = Path(driver.mount("box"))
    assert sorted(os.listdir(root)) == ["below", "bin", "dev", "etc", "var"]
    assert (root / "etc/group").read_bytes() == b"root:x:0:\n"
    assert "::" not in peers.mount_options(root)
    driver.unmount("box")
    images.keep(driver, "second", [layers.file("all", b"1")], "image")
    with pytest.raises(NotSupported, match="data-only"):
        driver.mount("second", options=["ro"])
    assert peers.mounts_below(driver.home) == [driver.home]


@pytest.mark.usefixtures("way")
def test_a_container_over_an_image_is_changed_as_any_other(driver: Overlay, home: Path) -> None:
    images.keep(driver, "base", layers.BASE)
    driver.create("box", "base", writable=True)
    for _ in range(2):  # what was noted in the upper directory is understood again
        root = Path(driver.mount("box"))
        (root / "bin/su").chmod(0o700)
        (root / "etc/passwd").unlink(missing_ok=True)
        if (root / "var").exists():
            os.rename(root / "var", root / "moved")
        (root / "new").write_bytes(b"new")
        driver.unmount("box")
    assert os.getxattr(home / "box/diff/bin/su", "trusted.overlay.metacopy") is not None
    assert [str(change) for change in driver.changes("box", "base")] == [
        "C /bin",
        "C /bin/su",
        "C /etc",
        "D /etc/passwd",
        "A /moved",
        "A /moved/cache",
        "A /moved/cache/one",
        "A /moved/cache/two",
        "A /new",
        "D /var",
    ]
    with driver.diff("box", "base") as stream:
        archive = {entry.name: payload for entry, payload in layers.entries(stream)}
    assert archive[b"bin/su"] == b"\x7fELF" * 500
    assert archive[b"moved/cache/two"] == b"22"
    assert {b"etc/.wh.passwd", b".wh.var"} <= set(archive)
    assert (home / "base/diff").stat().st_uid == 0


@pytest.mark.usefixtures("way")
def test_owners_in_images_are_mapped(driver: Overlay, home: Path) -> None:
    driver.create("below", None, writable=False)
    layers.fill(driver, "below", [layers.file("below", b"b", uid=5, gid=6)])
    images.keep(driver, "image", layers.BASE, "below")
    driver.create("box", "image", writable=True)
    root = Path(driver.mount("box", mappings=MAPPED))
    owners = {name: (os.lstat(root / name).st_uid, os.lstat(root / name).st_gid) for name in OWNERS}
    assert owners == OWNERS
    assert (root / "etc/group").read_bytes() == b"root:x:0:\n"
    driver.unmount("box")
    assert peers.mounts_below(home) == [str(home)]


def test_a_copy_of_an_image_belongs_to_others_on_disk(driver: Overlay, home: Path) -> None:
    """Where ids are not mapped by the mount: the kernel copies names up, and the data are still the image's."""
    images.keep(driver, "image", layers.BASE)
    driver.create_from_template("copy", "image", None, writable=False, mappings=MAPPED)
    driver.shift("copy", IDMappings(), MAPPED)
    assert (home / "copy/diff1/bin/su").stat().st_uid == 100_000
    assert os.getxattr(home / "copy/diff1/bin/su", "trusted.overlay.metacopy") is not None
    driver.create("box", "copy", writable=True)
    root = Path(driver.mount("box"))
    status = (root / "etc/group").stat()
    assert (status.st_uid, status.st_gid) == (100_003, 200_004)
    assert (root / "bin/su").read_bytes() == b"\x7fELF" * 500
    assert (root / "bin/su").stat().st_mode & 0o7777 == 0o4755
    (root / "etc/passwd").write_bytes(b"changed")
    driver.unmount("box")
    assert [str(change) for change in driver.changes("box", "copy")] == ["C /etc", "C /etc/passwd"]
    with driver.files("copy") as found:
        assert _read(found, b"etc/group") == b"root:x:0:\n"


OWNERS = {".": (100_000, 200_000), "below": (100_005, 200_006), "etc/group": (100_003, 200_004)}


def test_an_image_is_mounted_from_a_device_where_files_will_not_do(
    driver: Overlay, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.12. The device goes with the mount, and by itself."""
    sources = []
    real = composefs._mount_erofs

    def only_devices(source: str, has_acl: int) -> int:
        sources.append(source)
        if not stat.S_ISBLK(os.stat(source).st_mode):
            raise OSError(errno.ENOTBLK, "Block device required")
        return real(source, has_acl)

    monkeypatch.setattr(composefs, "_mount_erofs", only_devices)
    images.keep(driver, "base", layers.BASE)
    driver.create("box", "base", writable=True)
    root = Path(driver.mount("box"))
    assert [source.rpartition("/")[0] for source in sources] == ["/proc/self/fd", "/dev"]
    assert _loops(home) == [os.path.basename(sources[1])]
    assert Path(f"/sys/block/{_loops(home)[0]}/ro").read_text() == "1\n"
    assert (root / "etc/group").read_bytes() == b"root:x:0:\n"
    driver.unmount("box")
    _wait_until(lambda: not _loops(home))
    with driver.files("base") as found:
        assert _read(found, b"etc/group") == b"root:x:0:\n"
    _wait_until(lambda: not _loops(home))


def _wait_until(reached: Callable[[], bool]) -> None:
    """The kernel takes a mount apart when it has time."""
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_device_that_somebody_else_took_first_is_not_waited_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers.need_root()
    (place / "file").write_bytes(bytes(4096))
    fd = os.open(place / "file", os.O_RDONLY)
    real, taken = fcntl.ioctl, []

    def ioctl(device: int, request: int, *arguments: Any) -> Any:
        if request == 0x4C0A and len(taken) < 3:
            taken.append(device)
            raise OSError(errno.EBUSY, "Device or resource busy")
        return real(device, request, *arguments)

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    before = set(os.listdir("/proc/self/fd"))
    with loops.loop_device(fd) as device:
        assert Path(device).read_bytes() == bytes(4096)
        assert len(taken) == 3
    assert set(os.listdir("/proc/self/fd")) == before
    taken.clear()
    monkeypatch.setattr(loops, "_TRIES", 3)
    with pytest.raises(OSError, match="taken by others"), loops.loop_device(fd):
        pass
    assert set(os.listdir("/proc/self/fd")) == before
    os.close(fd)


@pytest.mark.parametrize("has_acl", [True, False])
def test_lists_of_access_rights_are_looked_for_where_there_are_any(
    driver: Overlay, monkeypatch: pytest.MonkeyPatch, has_acl: bool
) -> None:
    xattrs = {b"system.posix_acl_access": trees.ACL} if has_acl else {}
    images.keep(driver, "base", [layers.file("file", b"x", mode=0o674, xattrs=xattrs)])
    words = []
    real = newmount.Context.set

    def noted(context: newmount.Context, key: str, value: Any = None) -> None:
        if context._fstype == "erofs":
            words.append(key)
        real(context, key, value)

    monkeypatch.setattr(newmount.Context, "set", noted)
    root = driver.mount("base", options=["ro"])
    assert words == ["source", "ro", *([] if has_acl else ["noacl"])]
    assert ("system.posix_acl_access" in os.listxattr(f"{root}/file")) == has_acl
    driver.unmount("base")


def test_where_images_must_be_in_the_table_of_mounts_they_are_for_the_moment(
    driver: Overlay, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.15. What was left there by somebody who died is detached when the layer is unmounted."""
    images.keep(driver, "base", layers.BASE)
    driver.create("box", "base", writable=True)
    point = home / "box/composefs-layers/0"
    real, seen = newmount.Context.mount, []

    def kernel(context: newmount.Context, attributes: int = 0) -> int:
        if context._fstype == "overlay":
            seen.append(peers.mounts_below(point))
            if not seen[-1]:
                raise OSError(errno.EINVAL, "a layer is in no mount namespace")
        return real(context, attributes)

    driver.mount("box")  # what is asked of the kernel once was asked
    driver.unmount("box")
    with monkeypatch.context() as patch:
        patch.setattr(newmount.Context, "mount", kernel)
        root = Path(driver.mount("box"))
    assert seen == [[], [str(point)]]
    assert peers.mounts_below(home / "box") == [str(root)]
    assert (root / "etc/group").exists()
    assert subprocess.run(["mount", "--bind", "/etc", point], check=False).returncode == 0
    driver.unmount("box")
    assert peers.mounts_below(home) == [str(home)]
    assert os.listdir(point) == []


def test_images_of_another_store_are_read_and_nothing_is_made_there(
    open_driver: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "other").mkdir()
    other = open_driver(base=place / "other")
    images.keep(other, "base", layers.BASE)
    images.keep(other, "child", [layers.file("more", b"more")], "base")
    other.shutdown()
    foreign = place / "other/graph/overlay"
    before = {str(path): path.lstat().st_ctime_ns for path in foreign.rglob("*")}
    driver = open_driver(f"overlay.imagestore={place}/other/graph")
    for refuses in (False, True):
        with monkeypatch.context() as patch:
            if refuses:
                patch.setattr(newmount.Context, "mount", _only_attached(driver, "child"))
            root = Path(driver.mount("child", options=["ro"]))
        assert root == place / "run/overlay/child/merged"
        assert (root / "more").read_bytes() == b"more"
        assert (root / "etc/group").read_bytes() == b"root:x:0:\n"
        driver.unmount("child")
        assert not (place / "run/overlay/child").exists()
    driver.create("box", "child", writable=True)
    assert (Path(driver.mount("box")) / "more").exists()
    driver.unmount("box")
    assert {str(path): path.lstat().st_ctime_ns for path in foreign.rglob("*")} == before


def _only_attached(driver: Overlay, id: str) -> Callable[..., int]:
    """A kernel that wants the layers of an overlay to be mounted somewhere."""
    real = newmount.Context.mount

    def mount(context: newmount.Context, attributes: int = 0) -> int:
        beside = f"{driver.options.run_home}/{id}/composefs-layers"
        if context._fstype == "overlay" and not peers.mounts_below(beside):
            raise OSError(errno.EINVAL, "a layer is in no mount namespace")
        return real(context, attributes)

    return mount


# --- what cannot be -----------------------------------------------------------------------------------------


def test_an_image_is_never_written_to(driver: Overlay, home: Path) -> None:
    images.keep(driver, "base", layers.BASE)
    before = trees.listing(home / "base")
    with pytest.raises(NotSupported) as failure:
        driver.mount("base")
    assert failure.value.peer == "cannot mount a composefs layer as writeable"
    with pytest.raises(NotSupported):
        driver.unpacking("base", None)
    with pytest.raises(NotSupported):
        driver.shift("base", IDMappings(), MAPPED)
    assert trees.listing(home / "base") == before
    assert peers.mounts_below(home) == [str(home)]


def test_images_are_for_those_who_can_mount_them(
    open_driver: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told when the store is opened, where new layers should become images; else at the mount."""
    images.keep(open_driver(), "base", layers.BASE)
    open_driver().create("box", "base", writable=True)
    with pytest.raises(NotSupported) as refused:
        open_driver("use_composefs=true", rootless=True)
    assert refused.value.peer == "composefs is not supported in user namespaces"
    for options, settings in (((), {"rootless": True}), (("mount_program=/bin/true",), {})):
        with pytest.raises(NotSupported, match="images of composefs"):
            open_driver(*options, **settings).mount("box")
    (place / "graph/overlay/.has-mount-program").write_text("false")
    real = libc.fsopen

    def without(fstype: str) -> int:
        if fstype == "erofs":
            raise OSError(errno.ENODEV, "No such device")
        return real(fstype)

    monkeypatch.setattr(libc, "fsopen", without)
    with pytest.raises(NotSupported, match="EROFS"):
        open_driver().mount("box")


def test_without_its_program_composefs_cannot_be_wished_for(
    open_driver: Callable[..., Overlay], monkeypatch: pytest.MonkeyPatch
) -> None:
    images.keep(open_driver(), "base", layers.BASE)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="mkcomposefs") as failure:
        open_driver("use_composefs=true")
    assert failure.value.peer.startswith("composefs helper program not found: ")
    driver = open_driver("use_composefs=false")  # images that are there are read all the same
    driver.mount("base", options=["ro"])
    driver.unmount("base")


@pytest.mark.parametrize("damage", ["missing", "empty", "no header", "no file system", "cut", "a symlink"])
def test_a_damaged_image_is_an_error_that_leaves_nothing(driver: Overlay, home: Path, damage: str) -> None:
    layer = images.keep(driver, "base", layers.BASE)
    driver.create("box", "base", writable=True)
    blob = layer / "composefs-data/composefs.blob"
    data = blob.read_bytes()
    blob.unlink()
    if damage == "a symlink":
        (layer / "elsewhere").write_bytes(data)
        blob.symlink_to("../elsewhere")
    elif damage != "missing":
        wrong = {
            "empty": b"",
            "no header": b"PK" + data[2:],
            "no file system": data[:1024] + bytes(len(data) - 1024),
            "cut": data[:2000],
        }
        blob.write_bytes(wrong[damage])
    before = set(os.listdir("/proc/self/fd"))
    for attempt in (lambda: driver.mount("box"), lambda: driver.files("base")):
        with pytest.raises((BadRecords, OSError)) as failure:
            attempt()
        assert damage not in ("empty", "no header") or str(blob) in str(failure.value)
    assert set(os.listdir("/proc/self/fd")) == before
    assert peers.mounts_below(home) == [str(home)]
    driver.remove("box", lambda path, root: files.remove_tree(path))
    driver.remove("base", lambda path, root: files.remove_tree(path))
    assert driver.ids() == []


# --- what the driver says about them ------------------------------------------------------------------------


def test_the_wish_shows_in_the_status_and_asks_the_kernel_nothing(
    open_driver: Callable[..., Overlay], place: Path
) -> None:
    assert dict(open_driver().status())["Native Overlay Diff"] == "true"
    driver = open_driver("use_composefs=true")
    assert dict(driver.status())["Native Overlay Diff"] == "false"
    assert not list((place / "run/overlay").glob("dataonly*"))
    driver.create("plain", None, writable=False)
    layers.fill(driver, "plain", layers.BASE)  # an archive becomes a tree all the same
    assert (Path(driver.home) / "plain/diff/etc/group").exists()
    assert str(driver.changes("plain", None)[0]) == "A /bin", "by comparing trees"


def test_without_the_wish_trees_are_compared_only_where_an_image_is(
    open_driver: Callable[..., Overlay],
) -> None:
    driver = open_driver()
    layer = images.keep(driver, "image", layers.BASE)
    driver.create("above", "image", writable=False)
    driver.create("plain", None, writable=False)
    compared = []
    mount = driver.mount

    def noted(id: str, **how: Any) -> str:
        compared.append(id)
        return mount(id, **how)

    driver.mount = noted  # type: ignore[method-assign]
    for id, parent in (("image", None), ("above", "image"), ("plain", None)):
        driver.changes(id, parent)
        driver.diff(id, parent).close()
    assert compared == ["image", "image", "above", "image", "above", "image"]
    data = sum(path.stat().st_size for path in (layer / "diff").rglob("*") if path.is_file())
    assert driver.usage("image")[0] == driver.diff_size("image", None) == data
    assert driver.metadata("above")["LowerDir"] == f"{layer}/diff"


# --- files by name ------------------------------------------------------------------------------------------


def test_files_of_an_image_are_found_by_name(driver: Overlay) -> None:
    archive = [*layers.BASE, layers.symlink("usr", "/../bin"), layers.file("empty", b"")]
    images.keep(driver, "base", archive)
    driver.create("above", "base", writable=False)
    layers.fill(driver, "above", [layers.file("above", b"a")], parent="base")
    before = len(os.listdir("/proc/self/fd"))
    with driver.files("above") as found:
        for name in (b"etc/group", b"/etc/../etc/group", b"./etc/group"):
            assert _read(found, name) == b"root:x:0:\n"
        assert _read(found, b"usr/doas") == b"\x7fELF" * 500
        assert _read(found, b"above") == b"a"
        assert _read(found, b"empty") == b""
        for name in (b"nothing", b"etc/group/x"):
            with pytest.raises(OSError, match=r"nothing|group"):
                found.open(name)
        for name in (b"dev/null", b"dev/initctl", b"bin/sh", b"etc", b"..", b""):
            with pytest.raises(UnsafePath):
                found.open(name)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "place_in_data",
    [
        b"../../../secret",
        b"58/../../../secret",
        b"58/" + b"A" * 62,
        b"5/" + b"8" * 63,
        b"58" + b"0" * 63,
        b"x" * 65,
    ],
)
def test_data_is_looked_for_where_a_digest_leads_only(
    driver: Overlay, home: Path, place_in_data: bytes
) -> None:
    """G8: the image may be another store's, and come from anybody."""
    (home / "secret").write_bytes(b"secret")
    driver.create("base", None, writable=False)
    line = b"/f 6 100644 1 0 0 0 0.0 " + place_in_data + b" - -\n"
    composefs.write_blob([b"/ 0 40755 1 0 0 0 0.0 - - -\n", line], f"{home}/base")
    with driver.files("base") as found, pytest.raises(UnsafePath, match="digest"):
        found.open(b"f")


def test_data_that_is_a_symlink_is_not_followed(driver: Overlay, home: Path) -> None:
    layer = images.keep(driver, "base", [layers.file("f", b"data")])
    (object,) = [path for path in (layer / "diff").rglob("*") if path.is_file()]
    object.unlink()
    object.symlink_to("/etc/passwd")
    with driver.files("base") as found, pytest.raises(UnsafePath):
        found.open(b"f")


def test_the_archive_of_an_image_is_put_together_to_the_byte(
    open_driver: Callable[..., Overlay], place: Path
) -> None:
    """A layer that was put, and whose tree then became an image, as partial pulls will make them."""
    archive = tar("etc/", ("etc/motd", b"ahoy\n"), ("etc/empty", b"")).getvalue()
    open_driver()  # for the program in PATH
    with orlop.open_store(place / "graph", place / "run", "overlay", durability="none") as store:
        layer = store.layers.put(io.BytesIO(archive))
        image = store.images.create(layer=layer.id)
        directory = place / "graph/overlay" / layer.id
        entries = layers.entries([archive])
        files.remove_tree(f"{directory}/diff/etc")
        composefs.write_blob(images.dump(entries, directory / "diff"), str(directory))
        with store.diff(layer.id, compression=0) as stream:
            assert stream.read() == archive
        path = store.mount_image(image.id)
        assert (Path(path) / "etc/motd").read_bytes() == b"ahoy\n"
        assert not store.unmount_image(image.id)
        box = store.containers.create(image=image.id)
        with store.mounted(box.id) as root:
            (root / "etc/motd").write_bytes(b"changed\n")
        assert [str(change) for change in store.changes(box.layer)] == ["C /etc", "C /etc/motd"]
        store.containers.delete(box.id)
        store.images.delete(image.id)
        assert list(store.layers) == []
        assert not directory.exists()
        store.shutdown()


# --- making them --------------------------------------------------------------------------------------------


def test_an_image_lies_where_peers_look_for_it(driver: Overlay, home: Path) -> None:
    mask = os.umask(0o077)
    try:
        layer = images.keep(driver, "base", layers.BASE)
    finally:
        os.umask(mask)
    blob = layer / "composefs-data/composefs.blob"
    assert stat.S_IMODE(blob.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(blob.stat().st_mode) == 0o644
    assert mkcomposefs.HEADER.unpack(blob.read_bytes()[:12]) == (mkcomposefs.MAGIC, 1, 0)
    with pytest.raises(FileExistsError):
        composefs.write_blob([], str(layer))
    assert blob.exists()


PROGRAMS = {
    "fails": ("echo why it failed >&2; exit 3", "why it failed"),
    "fails silently": ("exit 3", "exit status 3"),
    "reads little": ("head -c 10 >/dev/null; echo enough >&2; exit 1", "enough"),
    "does not want to know": ("exit 0", "exit status 0"),
    "is killed": ("kill -9 $$", "exit status -9"),
    "writes nothing": ("cat >/dev/null", "no image of composefs"),
    "writes something else": ("cat", "no image of composefs"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_fails_is_quoted_and_leaves_nothing(
    driver: Overlay, home: Path, place: Path, program: str
) -> None:
    does, said = PROGRAMS[program]
    (place / "bin/mkcomposefs").write_text(f"#!/bin/sh\n{does}\n")
    driver.create("base", None, writable=False)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises((OSError, BadRecords), match=said):
        composefs.write_blob(iter([b"x" * 1000] * 1000), f"{home}/base")
    assert not (home / "base/composefs-data").exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_dump_that_breaks_off_ends_the_program(driver: Overlay, home: Path, place: Path) -> None:
    """And its error is the one that is told."""
    (place / "bin/mkcomposefs").write_text(f"#!/bin/sh\necho $$ > {place}/pid\nexec cat\n")
    driver.create("base", None, writable=False)

    def dump() -> Iterator[bytes]:
        yield b"/ 0 40755 1 0 0 0 0.0 - - -\n"
        _wait_until((place / "pid").exists)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        composefs.write_blob(dump(), f"{home}/base")
    assert not (home / "base/composefs-data").exists()
    assert not Path("/proc", (place / "pid").read_text().strip()).exists()


def test_the_program_is_told_nothing_but_where_to_read_and_write(
    driver: Overlay, home: Path, place: Path
) -> None:
    (place / "bin/mkcomposefs").write_text(
        f'#!/bin/sh\necho "$@" > {place}/seen; pwd >> {place}/seen; ls /proc/self/fd >> {place}/seen; exit 1\n'
    )
    driver.create("base", None, writable=False)
    with pytest.raises(OSError, match="failed"):
        composefs.write_blob([], f"{home}/base")
    assert (place / "seen").read_text().split("\n")[:2] == ["--from-file - -", "/"]
    assert (place / "seen").read_text().split()[4:] == ["0", "1", "2", "3"]  # 3: of ls


# --- fs-verity ----------------------------------------------------------------------------------------------


class Kernel:
    """The ioctls of fs-verity, played: few kernels of test machines have it."""

    def __init__(self, answer: int | bytes = 0) -> None:
        self.answer = answer
        self.asked: list[tuple[int, bytes]] = []

    def __call__(self, fd: int, request: int, argument: bytes) -> bytes:
        self.asked.append((request, argument))
        if isinstance(self.answer, bytes):
            return self.answer
        if self.answer:
            raise OSError(self.answer, os.strerror(self.answer))
        return argument


@pytest.mark.parametrize(
    ("answer", "enabled"), [(0, True), (errno.EEXIST, True), (errno.EOPNOTSUPP, False), (errno.ENOTTY, False)]
)
def test_a_file_is_made_unchangeable_where_that_can_be_had(
    monkeypatch: pytest.MonkeyPatch, answer: int, enabled: bool
) -> None:
    kernel = Kernel(answer)
    monkeypatch.setattr(fcntl, "ioctl", kernel)
    assert verity.enable(0) is enabled
    ((request, argument),) = kernel.asked
    assert request == 0x40806685
    assert argument == struct.pack("=III", 1, 1, 4096) + bytes(116)
    monkeypatch.setattr(fcntl, "ioctl", Kernel(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        verity.enable(0)


def test_the_digest_of_the_kernel_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(struct.pack("=HH", 1, 32) + bytes(range(32)) + bytes(32))
    monkeypatch.setattr(fcntl, "ioctl", kernel)
    assert verity.measure(0) == bytes(range(32)).hex()
    assert kernel.asked == [(0xC0046686, struct.pack("=HH", 0, 64) + bytes(64))]
    monkeypatch.setattr(fcntl, "ioctl", Kernel(struct.pack("=HH", 2, 64) + bytes(64)))
    with pytest.raises(OSError, match="algorithm 2"):
        verity.measure(0)


def test_an_image_is_protected_when_nobody_writes_to_it_any_more(
    driver: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def enable(fd: int) -> bool:
        seen.append(os.readlink(f"/proc/self/fd/{fd}"))
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        writers = [
            other
            for other in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{other}")
            and other != str(fd)
            and os.readlink(f"/proc/self/fd/{other}") == seen[-1]
        ]
        assert writers == []
        return False

    monkeypatch.setattr(verity, "enable", enable)
    layer = images.keep(driver, "base", layers.BASE)
    assert seen == [f"{layer}/composefs-data/composefs.blob"]


def test_a_kernel_without_fs_verity_says_so(place: Path) -> None:
    (place / "file").write_bytes(b"x")
    fd = os.open(place / "file", os.O_RDONLY)
    try:
        if verity.enable(fd):
            assert len(verity.measure(fd)) == 64
        else:
            with pytest.raises(OSError, match=r"[sS]upport|ioctl|data"):
                verity.measure(fd)
    finally:
        os.close(fd)
