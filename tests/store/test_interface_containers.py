"""Each method of the interface that is about containers: what it gives, leaves on disk, shows others, and raises."""

import hashlib
import os
from pathlib import Path

import pytest

import orlop
from interface import Disk, row
from orlop import errors
from orlop.model.idmap import IDMap, IDMappings
from tarballs import tar

MAPS = IDMappings((IDMap(0, 200000, 65536),), (IDMap(0, 300000, 65536),))
UNKNOWN = "container not known"


@row("CreateContainer")
def test_a_container_is_made_with_every_option(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.put(tar("etc/", ("etc/a", b"abc")))
    image = store.images.create(layer=layer.id, names=["image"])
    box = store.containers.create(
        id="made",
        image="image",
        names=["one", "two", "one"],
        layer="box-layer",
        metadata="meta",
        mappings=MAPS,
        process_label="system_u:system_r:container_t:s0:c1,c2",
        mount_label="system_u:object_r:container_file_t:s0:c1,c2",
        mount_options=["nodev"],
        data={"Spec": b"{}"},
        flags={"mine": 1},
    )
    record = disk.record("containers", "made")
    assert record is not None
    created = record.pop("created")
    assert created.endswith("Z")
    assert record == {
        "id": "made",
        "names": ["one", "two"],
        "image": image.id,
        "layer": "box-layer",
        "metadata": "meta",
        "big-data-names": ["Spec"],
        "big-data-sizes": {"Spec": 2},
        "big-data-digests": {"Spec": "sha256:" + hashlib.sha256(b"{}").hexdigest()},
        "uidmap": [{"container_id": 0, "host_id": 200000, "size": 65536}],
        "gidmap": [{"container_id": 0, "host_id": 300000, "size": 65536}],
        "flags": {
            "MountLabel": "system_u:object_r:container_file_t:s0:c1,c2",
            "MountOpts": ["nodev"],
            "ProcessLabel": "system_u:system_r:container_t:s0:c1,c2",
            "mine": 1,
        },
    }
    assert disk.in_driver("box-layer")
    assert other.containers["two"] == box
    assert store.layers["box-layer"].parent in (layer.id, *store.images["image"].mapped_layers)
    quick = store.containers.create(volatile=True)
    assert [r["id"] for r in disk.records("containers", volatile=True)] == [quick.id]
    assert [r["id"] for r in disk.records("layers", volatile=True)] == [quick.layer]
    assert quick.flags == {"MountLabel": "", "ProcessLabel": "", "Volatile": True}
    assert (quick.image, store.layers[quick.layer].parent) == ("", None)
    before = (disk.records("containers"), disk.records("layers"))
    for options, kind, peer in (
        ({"image": "nobody"}, errors.ImageUnknown, 'locating image with ID "nobody": image not known'),
        ({"id": "made"}, errors.DuplicateID, "that ID is already in use"),
        ({"names": ["two"]}, errors.DuplicateName, "that name is already in use"),
        ({"layer": "box-layer"}, errors.DuplicateID, "that ID is already in use"),
        ({"data": {"": b""}}, errors.InvalidKey, "not a valid name for a big data item"),
        (
            {"mappings": IDMappings((IDMap(0, 1, 2), IDMap(1, 5, 2)), ())},
            errors.InvalidMappings,
            "invalid mappings specified",
        ),
    ):
        with pytest.raises(kind) as refused:
            store.containers.create(**options)  # type: ignore[arg-type]
        assert peer in refused.value.peer
    with pytest.raises(ValueError, match="both SELinux labels or neither"):
        store.containers.create(process_label="x")
    assert (disk.records("containers"), disk.records("layers")) == before


@row("Container", "Containers", "ContainerByLayer")
def test_containers_are_listed_and_found(store: orlop.Store, other: orlop.Store) -> None:
    first = store.containers.create(id="aa1", names=["first"])
    second = store.containers.create(id="ab2")
    assert list(other.containers) == [first, second]
    for ref in ("aa1", "aa", "first", first.layer):
        assert other.containers[ref] == first
    assert other.containers.by_layer(first.layer[:20]) == first
    bare = store.layers.create()
    for call, ref, kind in (
        (other.containers.__getitem__, "a", errors.ContainerUnknown),
        (other.containers.__getitem__, "", errors.ContainerUnknown),
        (other.containers.by_layer, "nobody", errors.LayerUnknown),
        (other.containers.by_layer, bare.id, errors.ContainerUnknown),
    ):
        with pytest.raises(kind) as refused:
            call(ref)
        assert refused.value.peer == (UNKNOWN if kind is errors.ContainerUnknown else "layer not known")


@row("DeleteContainer")
def test_a_container_goes_with_all_that_it_has(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    box = store.containers.create(names=["box"], data={"x": b"y"})
    store.containers.directory("box")
    store.containers.run_directory("box")
    store.mount("box")
    other.containers.delete(box.layer)  # a container is known by its layer, too
    assert disk.records("containers") == disk.records("layers") == []
    for run in (False, True):
        assert not disk.path("containers", box.id, run=run).exists()
    assert not disk.in_driver(box.layer)
    assert disk.mounts() == {}
    image = store.images.create()
    for ref in (box.id, "nobody", image.id):
        with pytest.raises(errors.NotAContainer) as refused:
            store.containers.delete(ref)
        assert refused.value.peer == "identifier is not a container"


@row("ContainerSize")
def test_the_size_of_a_container_is_what_it_adds(store: orlop.Store, other: orlop.Store) -> None:
    layer = store.layers.put(tar(("big", b"x" * 10_000)))
    image = store.images.create(layer=layer.id)
    box = store.containers.create(image=image.id, data={"spec": b"12345"})
    with store.mounted(box.id) as root:
        (root / "new").write_bytes(b"n" * 700)
    store.containers.write_file(box.id, "config", b"c" * 40)
    directory = store.containers.directory(box.id)
    os.link(f"{directory}/config", f"{directory}/same")
    store.containers.write_file(box.id, "pid", b"p" * 3, run=True)
    assert other.containers.size(box.id) == 700 + 5 + 40 + 3
    with pytest.raises(errors.ContainerUnknown):
        other.containers.size("nobody")


@row(
    "ListContainerBigData",
    "ContainerBigData",
    "ContainerBigDataSize",
    "ContainerBigDataDigest",
    "SetContainerBigData",
)
def test_data_of_a_container_is_set_listed_read_and_measured(
    store: orlop.Store, other: orlop.Store, disk: Disk
) -> None:
    box = store.containers.create(names=["box"])
    data = store.containers.data("box")
    data["Spec"] = b"first"
    data["Spec"] = b"second"
    seen = other.containers.data(box.layer)
    assert list(seen) == ["Spec"]
    digest = "sha256:" + hashlib.sha256(b"second").hexdigest()
    assert (seen["Spec"], seen.size("Spec"), seen.digest("Spec")) == (b"second", 6, digest)
    record = disk.record("containers", box.id)
    assert record is not None
    assert record["big-data-digests"] == {"Spec": digest}
    assert disk.path("containers", box.id, "=U3BlYw==").read_bytes() == b"second"
    for call, kind, peer in (
        (lambda: seen["none"], errors.DataUnknown, "file does not exist"),
        (lambda: seen.size("none"), errors.SizeUnknown, "size is not known"),
        (lambda: seen.digest("none"), errors.DigestUnknown, "could not compute digest of item"),
        (lambda: seen[""], errors.InvalidKey, "not a valid name for a big data item"),
        (lambda: seen.size(""), errors.InvalidKey, "not a valid name for a big data item"),
        (lambda: seen.digest(""), errors.InvalidKey, "not a valid name for a big data item"),
        (lambda: data.put("", b""), errors.InvalidKey, "not a valid name for a big data item"),
        (lambda: other.containers.data("nobody"), errors.ContainerUnknown, UNKNOWN),
    ):
        with pytest.raises(kind) as refused:
            call()
        assert refused.value.peer == peer


@row(
    "ContainerDirectory",
    "ContainerRunDirectory",
    "SetContainerDirectoryFile",
    "FromContainerDirectory",
    "SetContainerRunDirectoryFile",
    "FromContainerRunDirectory",
)
def test_files_beside_a_container(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    """More of them in test_directories."""
    box = store.containers.create(names=["box"])
    assert Path(store.containers.directory("box")) == disk.path("containers", box.id, "userdata")
    assert Path(store.containers.run_directory("box")) == disk.path(
        "containers", box.id, "userdata", run=True
    )
    store.containers.write_file("box", "dir/one", b"graph")
    store.containers.write_file("box", "dir/one", b"run", run=True)
    assert other.containers.read_file(box.id, "dir/one") == b"graph"
    assert other.containers.read_file(box.layer, "dir/one", run=True) == b"run"
    assert disk.path("containers", box.id, "userdata", "dir", "one", run=True).read_bytes() == b"run"
    with pytest.raises(FileNotFoundError):
        other.containers.read_file("box", "none")
    for call in (
        lambda: other.containers.directory("nobody"),
        lambda: other.containers.run_directory("nobody"),
        lambda: other.containers.write_file("nobody", "x", b""),
        lambda: other.containers.read_file("nobody", "x"),
    ):
        with pytest.raises(errors.ContainerUnknown):
            call()


@row("ContainerParentOwners")
def test_owners_above_a_container(store: orlop.Store, other: orlop.Store) -> None:
    box = store.containers.create(names=["box"])
    assert other.container_parent_owners("box") == ((), ())
    mapped = store.containers.create(mappings=MAPS)
    if store.layers[mapped.layer].mappings:
        with pytest.raises(errors.LayerNotMounted):
            other.container_parent_owners(mapped.id)
        with store.mounted(mapped.id):
            assert 0 in other.container_parent_owners(mapped.id)[0]
    with pytest.raises(errors.ContainerUnknown):
        other.container_parent_owners("nobody")
    store.delete(box.layer)  # found as a container first
    assert "box" not in other.containers


@row("Mount", "Unmount", "Mounted")
def test_mounts_are_counted(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.put(tar("etc/", ("etc/a", b"abc")))
    image = store.images.create(layer=layer.id, names=["image"])
    box = store.containers.create(image=image.id, names=["box"])
    path = store.mount("box")
    assert (Path(path) / "etc/a").read_bytes() == b"abc"
    assert other.mount(box.layer) == path
    assert other.mount_count("box") == store.mount_count(box.layer) == 2
    assert disk.mounts() == {box.layer: 2}
    assert store.layers[box.layer].mount_point == path
    assert other.unmount("box") is True
    assert store.unmount(box.id) is False
    assert store.unmount(box.id) is False  # not mounted is no error
    assert (disk.mounts(), other.mount_count("box")) == ({}, 0)
    store.mount("box")
    store.mount("box")
    assert other.unmount("box", force=True) is False
    assert other.mount_count("box") == 0
    for call in (store.mount, store.unmount, store.mount_count):
        for ref in ("nobody", image.id):  # images have a verb of their own
            with pytest.raises(errors.LayerUnknown) as refused:
                call(ref)
            assert refused.value.peer == "layer not known"
