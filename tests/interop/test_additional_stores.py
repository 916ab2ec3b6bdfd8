"""Additional image stores: made by others and read by us, and the reverse; from a read-only mount and from squashfs.

Nothing is ever written there; an image that gets other names is copied up, as the Go program copies it; damage there
stops nothing here.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import invariants
import orlop
import peers
from orlop import errors
from peers import Program
from tarballs import tar

DRIVERS = ["vfs", "overlay"]
MANIFEST = json.dumps({"schemaVersion": 2}).encode()


@pytest.fixture
def place() -> Iterator[Path]:
    peers.need_root()
    base = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))  # podman wants a run root of at most 50 characters
    yield base
    peers.unmount_below(base)
    shutil.rmtree(base)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(base: Path, driver: str, *additional: Path) -> orlop.Store:
    options = [f"{driver}.imagestore={root}" for root in additional]
    return orlop.open_store(
        base / "graph", base / "run", driver, driver_options=options, durability="none", lock_timeout=10
    )


def beside(program: Program, *additional: Path) -> Program:
    return program.on(options=tuple(f"{program.driver}.imagestore={root}" for root in additional))


def listing(root: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below `root` with what a writer would change; lock files count, too."""
    found = {}
    for directory, directories, names in os.walk(root):
        for name in [*directories, *names]:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found[os.path.relpath(path, root)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def settled(base: Path, driver: str) -> Path:
    """The graph root of a store that nobody has open any more."""
    with opened(base, driver) as store:
        store.shutdown()
    peers.unmount_below(base)
    return base / "graph"


def image_of_ours(base: Path, driver: str) -> None:
    with opened(base, driver) as store:
        lower = store.layers.put(tar("etc/", ("etc/name", b"lower")))
        upper = store.layers.put(tar("etc/", ("etc/upper", b"upper")), parent=lower.id)
        store.images.create(
            id="far", layer=upper.id, names=["far:1", "far:2"], metadata="meta", data={"manifest": MANIFEST}
        )


def frozen(root: Path, how: str, at: Path) -> Path:
    """The same store where it cannot be written: bound read-only, or as a squashfs."""
    at.mkdir()
    if how == "bind":
        subprocess.run(["mount", "--bind", root, at], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", at], check=True)
    else:
        peers.need("mksquashfs")
        packed = at.with_suffix(".squashfs")
        subprocess.run(
            ["mksquashfs", root, packed, "-quiet", "-no-progress"], check=True, capture_output=True
        )
        subprocess.run(["mount", "-o", "loop,ro", packed, at], check=True)
    return at


@pytest.mark.parametrize("how", ["bind", "squashfs"])
def test_a_store_of_podman_is_read_where_nothing_can_be_written(place: Path, driver: str, how: str) -> None:
    peers.need("podman")
    (place / "rootfs.tar").write_bytes(tar("etc/", ("etc/motd", b"ahoy"), "bin/").read())
    peers.podman(place / "far", "import", "-q", str(place / "rootfs.tar"), "localhost/far", driver=driver)
    root = frozen(settled(place / "far", driver), how, place / "frozen")
    before = listing(root)
    with opened(place / "near", driver, root) as store:
        image = store.images["localhost/far:latest"]
        assert image.read_only
        assert image.layer is not None
        assert store.layers[image.layer].read_only
        assert store.images.data(image.id)["manifest"]
        with store.diff(image.layer) as stream:
            assert b"ahoy" in stream.read()
        box = store.containers.create(image=image.id, names=["box"])
        with store.mounted(box.id) as top:
            assert (top / "etc/motd").read_bytes() == b"ahoy"
            (top / "etc/motd").write_bytes(b"changed")
        assert [str(change) for change in store.changes(box.layer)] != []
        for refused in (
            lambda: store.layers.delete(image.layer),
            lambda: store.images.delete(image.id),
            lambda: store.images.set_metadata(image.id, "x"),
            lambda: store.layers.set_names(image.layer, ["x"]),
            lambda: store.images.data(image.id).put("x", b"y"),
        ):
            with pytest.raises(errors.NotFound):
                refused()
        assert store.images.size(image.id) > 0
        store.images.add_names("localhost/far:latest", ["localhost/mine:1"])
        assert not store.images["localhost/mine:1"].read_only
        assert [found.id for found in store.images].count(image.id) == 2
        store.containers.delete(box.id)
        store.shutdown()
    assert listing(root) == before
    words = ("--storage-opt", f"{driver}.imagestore={root}", "images", "--format", "{{.Repository}}")
    near = peers.podman(place / "near", *words, driver=driver)
    assert {"localhost/mine", "localhost/far"} == set(near.lines)


@pytest.mark.parametrize("how", ["bind", "squashfs"])
def test_a_store_of_ours_is_read_by_the_go_program(place: Path, driver: str, how: str) -> None:
    image_of_ours(place / "far", driver)
    root = frozen(settled(place / "far", driver), how, place / "frozen")
    theirs = beside(peers.containers_storage(place / "near", driver=driver), root)
    image = theirs.json("image", "far:2")[0]
    assert (image["id"], image["names"], image["metadata"]) == ("far", ["far:1", "far:2"], "meta")
    assert theirs("get-image-data", "far", "manifest").out == MANIFEST
    box = theirs.line("create-container", "--name", "box", "far")
    at = Path(theirs.line("mount", box))
    assert (at / "etc/name").read_bytes() == b"lower"
    assert (at / "etc/upper").read_bytes() == b"upper"
    theirs("unmount", box)
    theirs("add-names", "--name", "mine", "far:1")
    with opened(place / "near", driver, root) as store:
        assert not store.images["mine"].read_only
        assert store.containers["box"].image == "far"
        store.containers.delete("box")
        store.shutdown()


def test_a_rename_copies_the_image_up_with_all_that_it_has(place: Path, driver: str) -> None:
    """`spec/records.md` 17.2. Debian's 1.43 loses the data, the history and one of the names on the way."""
    image_of_ours(place / "far", driver)
    root = settled(place / "far", driver)
    before = listing(root)
    with opened(place / "near", driver, root) as store:
        far = store.images["far"]
        store.images.create(id="own", names=["near"])
        assert store.add_names("far:1", ["near"]) == ("near", "far:1", "far:2")
        near = store.images["near"]
        assert (near.id, near.read_only) == ("far", False)
        assert (near.layer, near.metadata, near.created, near.digest) == (
            far.layer,
            "meta",
            far.created,
            far.digest,
        )
        assert near.names_history == ("far:2", "far:1", "near")
        assert dict(store.images.data("near").items()) == {"manifest": MANIFEST}
        assert store.images.data("near").digest("manifest") == far.digest
        assert store.names("own") == ()  # stolen, as by any rename
        # What was taken off our copy does not find the foreign image again.
        assert store.images.set_names("far", ["only"]) == ("only",)
        assert "far:1" not in store.images
        assert store.images.remove_names("far", ["only"]) == ()
    theirs = beside(peers.containers_storage(place / "near", driver=driver), root)
    assert theirs("get-image-data", "far", "manifest").out == MANIFEST
    assert sorted(image["id"] for image in theirs.json("images")) == ["far", "far", "own"]
    assert listing(root) == before


def test_a_name_that_is_taken_here_stops_the_copy_and_steals_nothing(place: Path) -> None:
    image_of_ours(place / "far", "vfs")
    root = settled(place / "far", "vfs")
    with opened(place / "near", "vfs", root) as store:
        mine = store.images.create(names=["far:2"])
        with pytest.raises(errors.DuplicateName) as refused:
            store.images.add_names("far", ["new"])
        assert (refused.value.name, refused.value.owner) == ("far:2", mine.id)
        assert store.images.names(mine.id) == ("far:2",)
        assert not store.images.get("new")
        assert not (place / "near/graph/vfs-images/far").exists()


def test_an_image_made_under_a_foreign_id_takes_over_its_facts(place: Path) -> None:
    """`spec/records.md` 17.1: metadata, date, data and history where none are given; old and new names."""
    image_of_ours(place / "far", "vfs")
    root = settled(place / "far", "vfs")
    with opened(place / "near", "vfs", root) as store:
        far = store.images["far"]
        other = store.images.create(names=["far:1"])
        made = store.images.create(id="far", layer=far.layer, names=["near"], data={"more": b"x"})
        assert made.names == ("far:1", "far:2", "near")
        assert made.names_history == ("near", "far:2", "far:1")
        assert (made.metadata, made.created, made.digest) == ("meta", far.created, far.digest)
        assert dict(store.images.data("far").items()) == {"manifest": MANIFEST, "more": b"x"}
        assert store.images.names(other.id) == ()
        again = store.images
        with pytest.raises(errors.DuplicateID):
            again.create(id="far")
    with opened(place / "near", "vfs", root) as store:
        assert store.images["near"].id == "far"


def test_a_foreign_image_that_lost_an_item_is_not_copied_by_halves(place: Path) -> None:
    image_of_ours(place / "far", "vfs")
    root = settled(place / "far", "vfs")
    (root / "vfs-images/far/manifest").unlink()
    with opened(place / "near", "vfs", root) as store:
        with pytest.raises(errors.DataUnknown, match="lost its data item 'manifest'"):
            store.images.add_names("far", ["near"])
        assert [image.read_only for image in store.images] == [True]
        assert store.images.names("far") == ("far:1", "far:2")
    invariants.hold(place / "near/graph", place / "near/run", "vfs")


@pytest.mark.parametrize(
    "damage",
    [
        "images.json cut",
        "layers.json cut",
        "images.json nonsense",
        "layers.json gone",
        "all gone",
        "no lock files",
    ],
)
def test_damage_there_stops_nothing_here(place: Path, driver: str, damage: str) -> None:
    image_of_ours(place / "far", driver)
    root = settled(place / "far", driver)
    tables = {
        "images.json": root / f"{driver}-images/images.json",
        "layers.json": root / f"{driver}-layers/layers.json",
    }
    what, _, how = damage.partition(" ")
    if damage == "all gone":
        shutil.rmtree(root)
        root.mkdir()
    elif damage == "no lock files":
        (root / f"{driver}-images/images.lock").unlink()
        (root / f"{driver}-layers/layers.lock").unlink()
        root = frozen(root, "bind", place / "frozen")
    elif how == "cut":
        data = tables[what].read_bytes()
        tables[what].write_bytes(data[: len(data) // 2])
    elif how == "nonsense":
        tables[what].write_bytes(b"\x00\xff{")
    else:
        tables[what].unlink()
    with opened(place / "near", driver, root) as store:
        layer = store.layers.put(tar("etc/", "etc/own"), names=["own"])
        image = store.images.create(layer=layer.id, names=["own"])
        box = store.containers.create(image=image.id)
        with store.mounted(box.id) as top:
            assert (top / "etc/own").exists()
        assert "own" in [name for found in store.images for name in found.names]
        assert store.snapshot().containers[0].id == box.id
        if how in ("cut", "nonsense"):
            assert any(str(tables[what]) in line for line in store.damage()), store.damage()
        store.containers.delete(box.id)
        assert store.images.delete("own") == (layer.id,)
        store.shutdown()


def test_a_snapshot_shows_one_moment_of_all_three_tables(place: Path) -> None:
    image_of_ours(place / "far", "vfs")
    root = settled(place / "far", "vfs")
    with opened(place / "near", "vfs", root) as store:
        box = store.containers.create(image="far:1")
        seen = store.snapshot()
        assert [layer.id for layer in seen.layers] == [box.layer, *[layer.id for layer in store.layers][1:]]
        assert [image.id for image in seen.images] == ["far"]
        assert [container.id for container in seen.containers] == [box.id]
        part = store.snapshot(layers=False, containers=False)
        assert (part.layers, part.images, part.containers) == ((), seen.images, ())
        assert seen == store.snapshot()


def test_a_relative_additional_store_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Go program makes it below wherever it was started."""
    monkeypatch.chdir(place)
    with (
        opened(place / "near", "vfs", Path("far")) as store,
        pytest.raises(errors.ConfigError, match="not an absolute path"),
    ):
        list(store.images)
    assert not (place / "far").exists()


def test_an_additional_store_that_is_not_there_yet_is_empty_and_not_made(place: Path) -> None:
    far = place / "far/graph"
    with opened(place / "near", "vfs", far) as store:
        assert (list(store.layers), list(store.images)) == ([], [])
        assert not far.exists()
        image_of_ours(place / "far", "vfs")
        assert [image.id for image in store.images] == ["far"]
        assert len(store.layers) == 2


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_foreign_image_is_not_mounted_and_its_user_is_told_what_to_do(place: Path, driver: str) -> None:
    """Counting mounts takes a layer of our own; a container of the image has one."""
    image_of_ours(place / "far", driver)
    root = settled(place / "far", driver)
    with opened(place / "near", driver, root) as store:
        advice = "is in an additional store, which is only read: .* make a container of the image"
        for call in (store.mount_image, store.unmount_image):
            with pytest.raises(errors.LayerUnknown, match=advice):
                call("far")
        box = store.containers.create(image="far")
        with store.mounted(box.id) as files:
            assert files.is_dir()
