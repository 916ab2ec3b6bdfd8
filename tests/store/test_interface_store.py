"""Each method of the interface that is about the store, or about any kind of thing in it."""

import json
from pathlib import Path

import pytest

import orlop
from interface import Disk, row
from orlop import errors
from orlop.model.idmap import IDMap, IDMappings
from tarballs import Open, tar

NOTHING = "layer not known"
NO_ID = "identifier is not a layer, image, or container"


@row(
    "RunRoot",
    "GraphRoot",
    "ImageStore",
    "TransientStore",
    "GraphDriverName",
    "GraphOptions",
    "PullOptions",
    "UIDMap",
    "GIDMap",
    "Version",
)
def test_a_store_says_how_it_was_opened(store: orlop.Store, disk: Disk, place: Path) -> None:
    assert (store.graph_root, store.run_root) == (str(place / "graph"), str(place / "run"))
    assert (store.image_store, store.transient) == (None, False)
    assert store.driver_name == disk.driver
    assert store.driver_options == ()
    assert not store.mappings
    assert store.pull_options == {}
    maps = IDMappings((IDMap(0, 5, 7),), (IDMap(0, 6, 8),))
    options = [f"{disk.driver}.ignore_chown_errors=true"]
    with orlop.open_store(
        place / "g2",
        place / "r2",
        disk.driver,
        driver_options=options,
        image_store=place / "s2",
        transient=True,
        mappings=maps,
        pull_options={"use_hard_links": "true"},
        durability="none",
    ) as second:
        assert (second.image_store, second.transient) == (str(place / "s2"), True)
        assert (second.driver_options, second.mappings) == (tuple(options), maps)
        assert second.pull_options == {"use_hard_links": "true"}
        with pytest.raises(TypeError):
            second.pull_options["use_hard_links"] = "false"  # type: ignore[index]
        second.shutdown()
    assert store.version() == [("Version", orlop.__version__)]


@row("GraphDriver", "Status")
def test_the_driver_can_be_had_and_describes_itself(store: orlop.Store, disk: Disk) -> None:
    layer = store.layers.create()
    driver = store.driver()
    assert driver.name == disk.driver
    assert driver.ids() == [layer.id]
    status = dict(store.status())
    assert (status["Root"], status["Driver Name"]) == (store.graph_root, disk.driver)
    if disk.driver == "overlay":
        assert status["Backing Filesystem"]


@row("Free")
def test_a_closed_store_is_of_no_more_use(store: orlop.Store, other: orlop.Store) -> None:
    store.layers.create(id="kept")
    store.close()
    store.close()
    for call in (lambda: list(store.layers), lambda: store.mount("kept"), store.status):
        with pytest.raises(errors.ConfigError, match="closed"):
            call()
    assert "kept" in other.layers


@row("Shutdown")
def test_shutdown_says_what_is_mounted(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.create()
    store.mount(layer.id)
    with pytest.raises(errors.StillMounted) as refused:
        other.shutdown()
    assert refused.value.layers == (layer.id,)
    assert refused.value.peer == "a layer is mounted: layer is in use by a container"
    with pytest.raises(errors.StillMounted):
        other.shutdown(force=True)
    assert disk.mounts() == {}
    before = (Path(store.graph_root) / "storage.lock").read_bytes()
    assert other.shutdown() == []
    assert (Path(store.graph_root) / "storage.lock").read_bytes() != before
    assert store.mount(layer.id)  # whoever goes on starts the driver again
    store.unmount(layer.id)


@row("Wipe")
def test_wiping_leaves_nothing(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.put(tar("etc/"), data={"x": b"y"})
    image = store.images.create(layer=layer.id, data={"x": b"y"})
    box = store.containers.create(image=image.id)
    store.create_storage_layer(id="unrecorded")
    store.mount(box.id)
    other.wipe()
    assert (len(store.layers), len(store.images), len(store.containers)) == (0, 0, 0)
    assert store.storage_layers() == []
    for kind in ("layers", "images", "containers"):
        assert disk.records(kind) == []
        assert [p.name for p in disk.path(kind).iterdir() if p.is_dir() and p.name != "tmp"] == []
    assert disk.mounts() == {}
    store.wipe()  # nothing is not too little


@row("MultiList")
def test_a_snapshot_has_what_was_asked_for(store: orlop.Store, other: orlop.Store) -> None:
    box = store.containers.create(image=store.images.create(layer=store.layers.create().id).id)
    seen = other.snapshot()
    assert [layer.id for layer in seen.layers] == [layer.id for layer in store.layers]
    assert seen.images == tuple(store.images)
    assert seen.containers == (box,)
    assert other.snapshot(images=False, containers=False).images == ()
    store.containers.delete(box.id)
    assert seen.containers == (box,)
    assert other.snapshot().containers == ()


@row("GetDigestLock")
def test_locks_by_digest(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    """More of them in test_directories."""
    digest = "sha256:" + "e" * 64
    with store.digest_lock(digest, shared=True), other.digest_lock(digest, shared=True, timeout=1):
        assert disk.path("locks", digest, run=True).is_file()
    with pytest.raises(errors.InvalidDigest):
        store.digest_lock("nonsense")


@row("Lookup", "Exists", "Names", "Metadata", "SetMetadata")
def test_anything_is_found_by_any_reference(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.create(names=["layer"], metadata="of the layer")
    image = store.images.create(names=["image"], layer=layer.id)
    box = store.containers.create(names=["box"])
    for kind, record, name in (
        ("layers", layer, "layer"),
        ("images", image, "image"),
        ("containers", box, "box"),
    ):
        for ref in (record.id, record.id[:16], name):
            assert other.lookup(ref) == record.id
            assert other.exists(ref)
        assert other.names(record.id) == (name,)
        store.set_metadata(name, f"meta of {name}")
        assert other.metadata(record.id) == f"meta of {name}"
        found = disk.record(kind, record.id)
        assert found is not None
        assert found["metadata"] == f"meta of {name}"
    assert other.lookup(box.layer) == box.layer  # a layer first of all
    # One text may name a layer, an image and a container: the layer is found.
    store.images.add_names("image", ["layer"])
    assert other.lookup("layer") == layer.id
    assert not other.exists("nobody")
    for call, kind, peer in (
        (other.lookup, errors.LayerUnknown, NOTHING),
        (other.names, errors.LayerUnknown, NOTHING),
        (other.metadata, errors.NotAnID, NO_ID),
        (lambda ref: other.set_metadata(ref, ""), errors.NotAnID, NO_ID),
    ):
        with pytest.raises(kind) as refused:
            call("nobody")
        assert refused.value.peer == peer


@row("SetNames", "AddNames", "RemoveNames")
@pytest.mark.parametrize("kind", ["layers", "images", "containers"])
def test_names_move_within_their_kind(store: orlop.Store, other: orlop.Store, disk: Disk, kind: str) -> None:
    collection = getattr(store, kind)
    first = collection.create(names=["a", "b"])
    second = collection.create(names=["c"])
    assert store.add_names(first.id, ["new", "c", "new"]) == ("new", "c", "a", "b")
    assert other.names(second.id) == ()
    assert store.remove_names(first.id, ["a", "nothing"]) == ("new", "c", "b")
    assert store.set_names(second.id, ["b", "z", "b"]) == ("b", "z")
    assert other.names(first.id) == ("new", "c")
    assert store.set_names(first.id, []) == ()
    record = disk.record(kind, second.id)
    assert record is not None
    assert record["names"] == ["b", "z"]
    gone = disk.record(kind, first.id)
    assert gone is not None
    assert "names" not in gone
    if kind == "images":
        assert record["names-history"] == ["z", "b"]
        assert gone["names-history"] == ["b", "c", "new", "a"]
    assert [r.names for r in getattr(other, kind)] == [(), ("b", "z")]
    for call in (store.set_names, store.add_names, store.remove_names):
        with pytest.raises(errors.LayerUnknown) as refused:
            call("nobody", ["x"])
        assert refused.value.peer == NOTHING
        with pytest.raises(TypeError, match="a list of texts"):
            call(first.id, "text")


@row("Delete")
def test_deleting_without_asking(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.create()
    child = store.layers.create(parent=layer.id)
    image = store.images.create(layer=child.id)
    box = store.containers.create(image=image.id)
    store.delete(layer.id)
    assert not disk.in_driver(layer.id)
    store.delete(image.id)
    assert disk.records("images") == []
    assert child.id in other.layers
    store.delete(box.id)
    assert disk.records("containers") == []
    assert box.layer not in other.layers
    with pytest.raises(errors.LayerUnknown) as refused:
        store.delete("nobody")
    assert refused.value.peer == NOTHING
    store.delete(child.id)


@row("Delete")
def test_a_container_whose_layer_has_no_record_is_said_to_be_no_layer(open_store: Open, disk: Disk) -> None:
    with open_store() as store:
        box = store.containers.create()
        spare = store.layers.create()
        records = [r for r in disk.records("layers") if r["id"] == spare.id]
        disk.path("layers", "layers.json").write_text(json.dumps(records))
        with pytest.raises(errors.NotALayer) as refused:
            store.delete(box.id)
        assert refused.value.peer == "identifier is not a layer"
        store.containers.delete(box.id)  # which takes what is there
        store.wipe()


@pytest.mark.parametrize("ref", ["abc", "abcd"])
def test_what_has_exactly_that_id_is_deleted_and_not_what_begins_with_it(
    store: orlop.Store, ref: str
) -> None:
    """The peers look for a container, an image, a layer, each by prefixes, too, before they go on to the next."""
    store.layers.create(id="abc")
    store.images.create(id="abcd")
    store.containers.create(id="abcde", image="abcd")
    if ref == "abc":
        (step,) = store.plan_delete(ref).steps
        assert (step.kind, step.id) == ("layer", "abc")
    store.delete(ref)
    kinds = (store.layers, store.images, store.containers)
    left = {record.id for kind in kinds for record in kind if record.id.startswith("abc")}
    assert left == {"abc", "abcd", "abcde"} - {ref}
    store.delete("abcde" if ref == "abcd" else "abcd")
    assert len([record for kind in kinds for record in kind if record.id.startswith("abc")]) == 1
    store.delete("ab")  # the beginning of one
    assert [record for kind in kinds for record in kind if record.id.startswith("abc")] == []
