"""`store.images` and `store.containers`, their data and their directories."""

import hashlib
import os
from pathlib import Path

import pytest

import orlop
from orlop import IDMap, IDMappings, errors
from tarballs import tar


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain(store: orlop.Store) -> None:
    """base <- middle <- top, and image "app" on top."""
    store.layers.put(tar("a"), id="base")
    store.layers.put(tar("b"), id="middle", parent="base")
    store.layers.put(tar("c"), id="top", parent="middle")
    store.images.create(id="app", layer="top", names=["app-name"])


def test_an_image_is_found_by_name_and_by_the_digest_of_its_manifest(
    store: orlop.Store, other: orlop.Store
) -> None:
    layer = store.layers.put(tar("a"))
    manifest = b'{"schemaVersion": 2}'
    image = store.images.create(
        layer=layer.id[:10],
        names=["example.org/a:1"],
        metadata="m",
        data={"manifest": manifest, "sha256:c": b"cfg"},
    )
    assert (image.layer, image.metadata, image.digest) == (layer.id, "m", digest(manifest))
    assert image.digests == (digest(manifest),)
    for program in (store, other):
        assert [i.id for i in program.images.by_digest(digest(manifest))] == [image.id]
        assert [i.id for i in program.images.by_top_layer(layer.id)] == [image.id]
        assert program.images["example.org/a:1"] == image
        assert dict(program.images.data(image.id).items()) == {"manifest": manifest, "sha256:c": b"cfg"}
    assert other.images.by_digest(digest(b"")) == []
    with pytest.raises(errors.LayerUnknown):
        store.images.by_top_layer("nobody")


def test_a_changed_manifest_leaves_the_image_findable_by_both(store: orlop.Store, other: orlop.Store) -> None:
    image = store.images.create(data={"manifest": b"1"})
    other.images.data(image.id)["manifest"] = b"2"
    assert store.images[image.id].digests == (digest(b"1"), digest(b"2"))
    other.images.data(image.id).put("manifest-list", b"3", digest=digest(b"signed"))
    assert store.images.by_digest(digest(b"signed"))[0].id == image.id
    store.images.delete(image.id)


def test_an_image_keeps_the_history_of_its_names(store: orlop.Store) -> None:
    image = store.images.create(names=["first"])
    assert image.names_history == ()
    store.images.set_names(image.id, ["zz", "zz", "yy"])
    assert store.images[image.id].names_history == ("yy", "zz")
    store.images.set_names(image.id, [])
    assert store.images[image.id].names_history == ("yy", "zz")


@pytest.mark.parametrize("kind", ["layers", "images", "containers"])
def test_data_is_a_mapping(store: orlop.Store, other: orlop.Store, kind: str) -> None:
    """Keys of any kind, in the order of first setting; a file that is open keeps the old content."""
    collection, seen = getattr(store, kind), getattr(other, kind)
    record = collection.create()
    data = collection.data(record.id)
    keys = ["plain", "Config", "sha256:abc", "a b/c", "x-", "\u00e9", "???"]
    for key in keys:
        data[key] = key.encode() * 3
    data["plain"] = b""
    assert list(seen.data(record.id)) == keys == list(seen[record.id].data_names)
    assert "Config" in data
    assert data.get("absent") is None
    assert len(data) == len(keys)
    with data.open("Config") as file:
        seen.data(record.id)["Config"] = b"new"
        assert file.read() == b"ConfigConfigConfig"
    assert data["Config"] == b"new"
    assert data["plain"] == b""
    if kind != "layers":
        assert data.size("Config") == 3
        assert data.digest("Config") == digest(b"new")
        assert seen[record.id].data_sizes["Config"] == 3
        with pytest.raises(errors.SizeUnknown):
            data.size("absent")
        with pytest.raises(errors.DigestUnknown):
            data.digest("absent")
    with pytest.raises(errors.DataUnknown) as missing:
        data["absent"]
    assert (missing.value.key, missing.value.id, missing.value.kind) == ("absent", record.id, kind[:-1])
    for bad in ("", ".", "..", "/", "???a"):
        with pytest.raises(errors.InvalidKey):
            data[bad] = b"x"
    assert list(data) == keys
    with pytest.raises(errors.NotFound):
        collection.data("nobody")


@pytest.mark.parametrize("kind", ["layers", "images"])
def test_the_data_of_a_record_that_is_gone_is_nobody_elses(store: orlop.Store, kind: str) -> None:
    """Not of one that has its id for a name, nor of one whose id begins like it."""
    records = getattr(store, kind)
    records.create(id="base", data={"a": b"1"})
    data = records.data("base")
    records.delete("base")
    records.create(id="base-2", data={"a": b"2"})
    records.create(id="another", names=["base"], data={"a": b"3"})
    for call in (data.keys, lambda: data.put("a", b"4"), lambda: data["a"]):
        with pytest.raises(orlop.NotFound):
            call()
    assert [records.data(id)["a"] for id in ("base-2", "another")] == [b"2", b"3"]


def test_a_record_with_bad_data_is_not_made(store: orlop.Store, other: orlop.Store, place: Path) -> None:
    """All or nothing: no record, no directory, nothing for the next write to clean up."""
    for create in (store.images.create, store.containers.create):
        with pytest.raises(errors.InvalidKey):
            create(id="half", data={"good": b"1", "..": b"2"})
    assert len(other.images) + len(other.containers) + len(other.layers) == 0
    assert not list(place.rglob("half"))
    assert not list(place.rglob(".tmp-*"))


@pytest.mark.parametrize("kind", ["layers", "images", "containers"])
def test_odd_names_are_taken_and_endless_ones_refused(
    store: orlop.Store, other: orlop.Store, kind: str
) -> None:
    """N5, N8, D10: any text is a name; limits stand where a caller gives something, not where records are loaded."""
    collection, seen = getattr(store, kind), getattr(other, kind)
    odd = ["", " sp ", "new\nline", "\u2028", "nul\0", "a" * 60_000, "0" * 64]
    record = collection.create(names=odd, metadata="nul\0 and \x7f")
    assert seen.names(record.id) == tuple(odd)
    assert all(seen[name].id == record.id for name in odd)
    assert seen.metadata(record.id) == "nul\0 and \x7f"
    for names in (["x" * 70_000], [f"n{number}" for number in range(10_001)]):
        with pytest.raises(errors.LimitExceeded):
            collection.create(names=names)
        with pytest.raises(errors.LimitExceeded):
            collection.add_names(record.id, names)
    with pytest.raises(errors.LimitExceeded):
        collection.set_metadata(record.id, "x" * (17 << 20))
    with pytest.raises(errors.LimitExceeded):
        collection.create(metadata="x" * (17 << 20))
    assert len(seen) == 1


def test_deleting_an_image_takes_the_layers_that_only_it_needs(
    store: orlop.Store, other: orlop.Store
) -> None:
    chain(store)
    store.images.create(id="sibling", layer="middle")
    assert store.images.delete("app-name", dry_run=True) == ("top",)
    assert "app" in other.images
    assert store.images.delete("app") == ("top",)
    assert [layer.id for layer in other.layers] == ["base", "middle"]
    assert other.images.delete("sibling") == ("middle", "base")
    assert len(store.layers) == 0
    with pytest.raises(errors.NotAnImage):
        store.images.delete("sibling")


def test_an_image_that_a_container_uses_stays(store: orlop.Store) -> None:
    chain(store)
    box = store.containers.create(image="app-name")
    with pytest.raises(errors.ImageUsedByContainer) as used:
        store.images.delete("app")
    assert used.value.container == box.id
    store.containers.delete(box.id)
    assert store.images.delete("app") == ("top", "middle", "base")


def test_a_container_is_a_record_and_a_layer(store: orlop.Store, other: orlop.Store) -> None:
    """Found by id, name, prefix and the id of its layer."""
    chain(store)
    box = store.containers.create(image="app", id="box", layer="box-layer", names=["n"], metadata="m")
    assert (box.image, box.layer, box.names, box.metadata) == ("app", "box-layer", ("n",), "m")
    assert box.flags == {"MountLabel": "", "ProcessLabel": ""}
    for ref in ("box", "n", "bo", "box-layer"):
        assert other.containers[ref] == box
    assert other.containers.by_layer("box-layer") == box
    assert other.layers["box-layer"].parent == "top"
    with pytest.raises(errors.ContainerUnknown):
        other.containers.by_layer("top")
    with pytest.raises(errors.LayerUnknown):
        other.containers.by_layer("nobody")
    other.containers.delete("box-layer")
    assert len(store.containers) == 0
    assert "box-layer" not in store.layers
    with pytest.raises(errors.NotAContainer):
        store.containers.delete("box")


def test_a_container_that_cannot_be_made_leaves_nothing(store: orlop.Store) -> None:
    chain(store)
    store.containers.create(id="box", names=["taken"])
    before = [layer.id for layer in store.layers]
    with pytest.raises(errors.ImageUnknown) as unknown:
        store.containers.create(image="nobody")
    assert unknown.value.peer == 'locating image with ID "nobody": image not known'
    with pytest.raises(errors.DuplicateName) as taken:
        store.containers.create(image="app", names=["taken"])
    assert (taken.value.kind, taken.value.owner) == ("container", "box")
    with pytest.raises(errors.DuplicateID):
        store.containers.create(image="app", id="box")
    with pytest.raises(ValueError, match="both SELinux labels"):
        store.containers.create(process_label="a:b:c")
    with pytest.raises(errors.InvalidMappings):
        store.containers.create(mappings=IDMappings([IDMap(0, 1, 10), IDMap(5, 100, 10)]))
    assert [layer.id for layer in store.layers] == before


def test_volatile_containers_lie_in_files_of_their_own(
    store: orlop.Store, other: orlop.Store, place: Path
) -> None:
    store.containers.create(id="stable", data={"k": b"1"})
    box = store.containers.create(id="box", layer="box-layer", volatile=True, data={"k": b"2"})
    assert box.flags["Volatile"] is True
    assert [c.id for c in other.containers] == ["stable", "box"]
    assert other.containers.data("box")["k"] == b"2"
    graph = place / "graph"
    assert "box" in (graph / f"{store.driver_name}-containers" / "volatile-containers.json").read_text()
    assert "box-layer" in (graph / f"{store.driver_name}-layers" / "volatile-layers.json").read_text()
    other.containers.set_names("box", ["name"])
    assert store.containers.names("box") == ("name",)
    store.containers.delete("name")
    assert [c.id for c in other.containers] == ["stable"]


def test_directories_belong_to_the_caller_and_go_with_their_owner(store: orlop.Store, place: Path) -> None:
    image, box = store.images.create(names=["i"]), store.containers.create(names=["c"])
    for collection, name, id in ((store.images, "i", image.id), (store.containers, "c", box.id)):
        paths = [collection.directory(name), collection.run_directory(name)]
        assert [os.path.relpath(p, place).split("/")[0] for p in paths] == ["graph", "run"]
        for path in paths:
            assert path.endswith(f"{id}/userdata")
            assert os.stat(path).st_mode & 0o7777 == 0o700
            Path(path, "file").write_text("mine")
        with pytest.raises(errors.NotFound):
            collection.directory("nobody")
        collection.delete(name)
        assert not any(os.path.exists(os.path.dirname(path)) for path in paths)


def test_sizes_count_everything_once(store: orlop.Store) -> None:
    chain(store)
    sizes = [store.layers.size(id) for id in ("base", "middle", "top")]
    store.images.data("app")["manifest"] = b"12345"
    assert store.images.size("app") == sum(sizes) + 5
    box = store.containers.create(image="app", data={"k": b"123"})
    with store.mounted(box.id) as root:
        (root / "new").write_bytes(b"x" * 1000)
    Path(store.containers.directory(box.id), "file").write_bytes(b"y" * 10)
    assert store.containers.size(box.id) == 1000 + 3 + 10
    assert store.images.size("app") == sum(sizes) + 5
    with pytest.raises(errors.ImageUnknown):
        store.images.size("nobody")


def test_mapped_containers_share_a_copy_of_the_top_layer(store: orlop.Store, other: orlop.Store) -> None:
    """A map of its own costs one copy for each image, not one for each container."""
    chain(store)
    maps = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 200_000, 65_536)])
    one, two = (store.containers.create(image="app", mappings=maps) for _ in range(2))
    assert one.mappings == maps == other.containers[two.id].mappings
    mapped = other.images["app"].mapped_layers
    if mapped:  # a driver that maps while mounting needs none
        assert len(mapped) == 1
        assert other.layers[one.layer].parent == other.layers[two.layer].parent == mapped[0]
        with other.mounted(one.id) as root:
            assert (os.stat(root / "c").st_uid, os.stat(root / "c").st_gid) == (100_000, 200_000)
    for box in (one, two):
        store.containers.delete(box.id)
    assert store.images.delete("app") == (*mapped, "top", "middle", "base")
    assert len(store.layers) == 0
