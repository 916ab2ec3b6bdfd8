"""What a mount is made with, and what is refused: labels, options, id maps, images (`spec/mounting.md` 3 to 10)."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import invariants
import orlop
import peers
from orlop import errors
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import files, mounts, overlayfs
from tarballs import Open, tar

overlay_only = pytest.mark.parametrize("open_store", ["overlay"], indirect=True)

MAPPED = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 200_000, 65_536)])
LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def image_of(store: orlop.Store) -> orlop.Image:
    base = store.layers.put(tar("etc/", ("etc/motd", b"ahoy\n")), names=["base"])
    top = store.layers.put(tar("usr/", ("usr/file", b"x")), names=["top"], parent=base.id)
    return store.images.create(layer=top.id, names=["i"])


def shown(path: str) -> list[str]:
    """The options that the mount table shows for the mount at `path`."""
    (mount,) = [mount for mount in mounts.mount_table() if mount.point == os.path.realpath(path)]
    return mount.options.split(",") + mount.super_options.split(",")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the driver asks the kernel for, mount by mount."""
    calls: list[dict[str, Any]] = []
    mount: Callable[..., None] = overlayfs.mount

    def noted(target: str, **how: Any) -> None:
        calls.append(how)
        mount(target, **how)

    monkeypatch.setattr(overlayfs, "mount", noted)
    return calls


# --- labels -------------------------------------------------------------------------------------------------


def _has_selinux() -> bool:
    return "selinuxfs" in Path("/proc/filesystems").read_text()


@overlay_only
def test_the_label_of_a_container_reaches_the_kernel_with_every_mount(
    store: orlop.Store, asked: list[dict[str, Any]]
) -> None:
    """A kernel without SELinux says EINVAL; then nothing is mounted and nothing counted."""
    image_of(store)
    box = store.containers.create(image="i", names=["box"], process_label="p", mount_label=LABEL)
    assert store.layers[box.layer].mount_label == LABEL
    for given, expected in (("", LABEL), ("other_u:r:t:s0", "other_u:r:t:s0")):
        asked.clear()
        if _has_selinux():
            store.unmount(box.id) if store.mount(box.id, label=given) else None
        else:
            with pytest.raises(OSError) as refused:
                store.mount(box.id, label=given)
            assert refused.value.errno == errno.EINVAL
        assert [call["label"] for call in asked] == [expected]
        assert store.mount_count(box.id) == 0


def test_the_label_comes_last_among_the_options(place: Path) -> None:
    """It may hold commas, and whoever reads the options must be able to take all that follows for it."""
    log = place / "strace"
    code = """
import sys
from orlop.system import overlayfs
target, low, up, work = sys.argv[1:]
try:
    overlayfs.mount(target, lowers=[low], upper=up, work=work, flags=4, data=["metacopy=on", "volatile"],
        label="u:r:t:s0:c1,c2", home=target, method="old")
except OSError as error:
    print(error.errno)
"""
    peers.need_root()
    peers.need("strace")
    directories = [place / name for name in ("target", "low", "up", "work")]
    for directory in directories:
        directory.mkdir()
    subprocess.run(
        ["strace", "-f", "-s", "4096", "-e", "trace=mount", "-o", log, sys.executable, "-c", code]
        + [str(d) for d in directories],
        check=True,
        capture_output=True,
    )
    peers.unmount_below(place)
    (call,) = [line for line in log.read_text().splitlines() if '"overlay"' in line]
    assert r'metacopy=on,volatile,context=\"u:r:t:s0:c1,c2\""' in call


def test_labels_come_in_pairs(store: orlop.Store) -> None:
    for wrong in ({"process_label": "p"}, {"mount_label": "m"}):
        with pytest.raises(ValueError, match="both SELinux labels or neither"):
            store.containers.create(**wrong)
    assert list(store.containers) == []


# --- options ------------------------------------------------------------------------------------------------


@overlay_only
def test_options_of_a_container_replace_those_of_the_driver(open_store: Open, place: Path) -> None:
    def opened() -> orlop.Store:
        return orlop.open_store(
            place / "graph",
            place / "run",
            "overlay",
            driver_options=["overlay.mountopt=nodev,noatime"],
            durability="none",
        )

    with opened() as store:
        image_of(store)
        store.containers.create(image="i", names=["plain"])
        store.containers.create(image="i", names=["own"], mount_options=["nosuid", "index=off"])
        store.containers.create(image="i", names=["read-only"], mount_options=["ro"])
    with opened() as store:
        seen = {}
        for name in ("plain", "own", "read-only"):
            with store.mounted(name) as root:
                seen[name] = set(shown(str(root)))
        assert {"nodev", "noatime", "rw"} <= seen["plain"]
        assert "nosuid" in seen["own"]
        assert not {"nodev", "noatime"} & seen["own"]
        assert "ro" in seen["read-only"]
        assert not [option for option in seen["read-only"] if option.startswith("upperdir")]


@overlay_only
def test_options_that_the_kernel_does_not_know_leave_nothing_mounted(store: orlop.Store) -> None:
    image_of(store)
    store.containers.create(image="i", names=["box"], mount_options=["defaults"])
    with pytest.raises(OSError) as refused:
        store.mount("box")
    assert refused.value.errno == errno.EINVAL
    assert store.mount_count("box") == 0


def test_a_container_may_be_mounted_to_be_read(store: orlop.Store) -> None:
    """The one option that every driver takes."""
    image_of(store)
    store.containers.create(image="i", names=["box"], mount_options=["ro"])
    with store.mounted("box") as root:
        assert (root / "etc/motd").read_text() == "ahoy\n"
    assert store.mount_count("box") == 0


# --- volatile -----------------------------------------------------------------------------------------------


def _is_volatile(path: str) -> bool:
    return bool({"volatile", "fsync=volatile"} & set(shown(path)))


@overlay_only
def test_volatile_containers_are_mounted_without_syncs(open_store: Open, place: Path) -> None:
    """Unless the configuration says otherwise. An unclean end does not keep them from being mounted again."""
    store = open_store()
    image_of(store)
    box = store.containers.create(image="i", names=["box"], volatile=True)
    store.containers.create(image="i", names=["lasting"])
    for _ in range(2):
        path = store.mount("box")
        assert _is_volatile(path)
        (Path(path) / "new").write_text("x")
        store.unmount("box")
        assert (place / "graph/overlay" / box.layer / "work/work/incompat/volatile").exists()
    with store.mounted("lasting") as root:
        assert not _is_volatile(str(root))
    with store.mounted(box.layer) as root:
        assert _is_volatile(str(root)), "the layer of a container is found as its container"
    careful = orlop.open_store(
        place / "graph", place / "run", "overlay", durability="none", disable_volatile=True
    )
    with careful.mounted("box") as root:
        assert not _is_volatile(str(root))


@overlay_only
def test_the_configuration_forbids_volatile_mounts(
    open_store: Open, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`disable-volatile` counts where the configuration says which store it is."""
    store = open_store()
    image_of(store)
    store.containers.create(image="i", names=["box"], volatile=True)
    conf = place / "storage.conf"
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(conf))
    command = Path(sys.executable).parent / "orlop-storage"
    for disabled in (False, True):
        conf.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n'
            f"[storage.options]\ndisable-volatile = {str(disabled).lower()}\n"
        )
        with orlop.open_store() as configured, configured.mounted("box") as root:
            assert _is_volatile(str(root)) is not disabled
        said = subprocess.run([command, "mount", "box"], capture_output=True, text=True, check=True)
        assert _is_volatile(said.stdout.strip()) is not disabled
        assert store.unmount("box") is False


# --- id maps ------------------------------------------------------------------------------------------------


@overlay_only
def test_a_container_made_with_shifting_is_not_mounted_without(
    store: orlop.Store, without_shifting: Open
) -> None:
    """Its files would be seen with the host's ids. The other way round they are shown as they lie on disk."""
    image_of(store)
    shifted = store.containers.create(image="i", names=["shifted"], mappings=MAPPED)
    assert not store.layers[shifted.layer].mappings
    old = without_shifting()
    with pytest.raises(errors.NotSupported) as refused:
        old.mount("shifted")
    assert refused.value.peer == f"cannot mount layer {shifted.layer}: shifting not enabled"
    assert old.mount_count("shifted") == 0
    owned = old.containers.create(image="i", names=["owned"], mappings=MAPPED)
    assert old.layers[owned.layer].mappings == MAPPED
    for program, name in ((store, "shifted"), (old, "owned")):
        status = (Path(program.mount(name)) / "etc/motd").stat()
        assert (status.st_uid, status.st_gid) == (100_000, 200_000)
        store.unmount(name)


@overlay_only
def test_owners_above_a_mount_are_told_where_ids_are_not_shifted(
    store: orlop.Store, without_shifting: Open, place: Path
) -> None:
    image_of(store)
    shifted = store.containers.create(image="i", names=["shifted"], mappings=MAPPED)
    store.mount("shifted")
    assert store.container_parent_owners("shifted") == store.layer_parent_owners(shifted.layer) == ((), ())
    store.unmount("shifted")
    old = without_shifting()
    owned = old.containers.create(image="i", names=["owned"], mappings=MAPPED)
    with pytest.raises(errors.LayerNotMounted):
        old.layer_parent_owners(owned.layer)
    old.mount("owned")
    os.chown(place / "graph", 1234, 200_000)
    assert old.container_parent_owners("owned") == ((0, 1234), (0,))
    assert store.layer_parent_owners(owned.layer) == ((0, 1234), (0,))
    os.chown(place / "graph", 0, 0)
    old.unmount("owned")
    for call, unknown in (
        (old.layer_parent_owners, errors.LayerUnknown),
        (old.container_parent_owners, errors.ContainerUnknown),
    ):
        with pytest.raises(unknown):
            call("nobody")


def test_an_image_with_mapped_copies_is_mounted_with_the_ids_of_the_host(
    owning: orlop.Store,
) -> None:
    """Its copies are for containers; what is mounted, and unmounted, is the layer without maps."""
    store = owning
    image = image_of(store)
    store.containers.create(image="i", mappings=MAPPED)
    (copy,) = store.images[image.id].mapped_layers
    assert store.layers[copy].mappings == MAPPED
    path = store.mount_image("i")
    assert (Path(path) / "usr/file").stat().st_uid == 0
    assert (store.mount_count("top"), store.mount_count(copy)) == (1, 0)
    assert store.unmount_image("i") is False
    assert store.mount_count("top") == 0


def test_an_image_of_nothing_but_mapped_layers_gets_a_copy_for_the_host(owning: orlop.Store) -> None:
    store = owning
    layer = store.layers.put(tar(("file", b"x")), mappings=MAPPED)
    assert layer.mappings == MAPPED
    store.images.create(layer=layer.id, names=["i"])
    path = store.mount_image("i")
    assert (Path(path) / "file").stat().st_uid == 0
    (copy,) = store.images["i"].mapped_layers
    assert store.mount_count(copy) == 1
    assert store.unmount_image("i") is False
    assert store.mount_count(copy) == 0


# --- counting -----------------------------------------------------------------------------------------------


def test_a_path_is_no_reference(store: orlop.Store) -> None:
    """The peers' layer tables know mount points, their stores do not; a path might mean another layer by now."""
    image_of(store)
    store.containers.create(image="i", names=["box"])
    path = store.mount("box")
    for call in (store.unmount, store.mount, store.mount_count):
        with pytest.raises(errors.LayerUnknown):
            call(path)
    assert store.mount_count("box") == 1
    assert store.unmount("box") is False


def test_a_layer_is_mounted_by_name_and_prefix_too(store: orlop.Store, place: Path) -> None:
    image_of(store)
    layer = store.layers.create(parent="top", names=["work"])
    assert store.mount("work") == store.mount(layer.id[:16]) == store.mount(layer.id)
    assert [store.unmount("work") for _ in range(3)] == [True, True, False]
    assert json.loads(next((place / "run").glob("*-layers/mountpoints.json")).read_text()) == []


def test_deleting_undoes_all_mounts(store: orlop.Store, other: orlop.Store, place: Path) -> None:
    image_of(store)
    store.containers.create(image="i", names=["box"])
    before = peers.mounts_below(place)
    for _ in range(3):
        store.mount("box")
    other.containers.delete("box")
    assert peers.mounts_below(place) == before
    invariants.counted(place / "graph", place / "run", store.driver_name)


@overlay_only
def test_a_forced_shutdown_takes_everything_out_of_the_mount_table(
    store: orlop.Store, other: orlop.Store, place: Path
) -> None:
    """It says that layers were mounted, as the peers do; the next one also gives the home back."""
    image_of(store)
    for name in ("one", "two"):
        store.containers.create(image="i", names=[name])
        store.mount(name)
    store.mount("one")
    with pytest.raises(errors.StillMounted) as mounted:
        other.shutdown(force=True)
    assert len(mounted.value.layers) == 2  # type: ignore[arg-type]
    assert peers.mounts_below(place) == [str(place / "graph/overlay")]
    assert other.shutdown() == []
    assert peers.mounts_below(place) == []
    with store.mounted("one") as root:  # whoever comes next sets it up again
        assert (root / "usr/file").read_text() == "x"
    assert peers.mounts_below(place) == [str(place / "graph/overlay")]


@overlay_only
def test_the_state_of_a_failed_unmount_is_kept(store: orlop.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    image_of(store)
    store.containers.create(image="i", names=["box"])
    store.mount("box")

    def busy(path: str, *, lazy: bool = True) -> None:
        raise OSError(errno.EBUSY, "busy", path)

    with monkeypatch.context() as patch:
        patch.setattr(mounts, "unmount", busy)
        with pytest.raises(OSError, match="busy"):
            store.unmount("box")
    assert store.mount_count("box") == 1
    assert store.unmount("box") is False


def test_what_cannot_be_counted_is_not_mounted(store: orlop.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would ever unmount it."""
    box = store.containers.create(image=image_of(store).id)
    write = files.write_atomic

    def full(path: str, *arguments: Any, **how: Any) -> int:
        if path.endswith("mountpoints.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return write(path, *arguments, **how)

    for once in (True, False):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(files, "write_atomic", full)
            store.mount(box.id) if once else store.mount_image(box.image)
        assert [store.mount_count(ref) for ref in (box.id, store.images[box.image].layer)] == [0, 0]
        invariants.counted(store.graph_root, store.run_root, store.driver_name)


def test_an_image_is_mounted_for_a_block_too(store: orlop.Store) -> None:
    layer = store.layers.put(tar(("file", b"content")))
    image = store.images.create(layer=layer.id, names=["img"])
    with store.mounted("img") as path:
        assert (path / "file").read_bytes() == b"content"
    assert not store.unmount_image(image.id, force=True)
    with (
        pytest.raises(orlop.NotFound, match="no layer, image or container has the id"),
        store.mounted("nothing"),
    ):
        pass
