"""Each method of the interface that is about images: what it gives, leaves on disk, shows others, and raises."""

import hashlib
from pathlib import Path

import pytest

import orlop
from interface import Disk, row
from orlop import errors
from tarballs import tar

MANIFEST = b'{"schemaVersion":2}'
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
UNKNOWN = "image not known"


@row("CreateImage")
def test_an_image_is_made_with_every_option(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.put(tar("etc/"), names=["top"])
    signed = "sha256:" + "5" * 64
    image = store.images.create(
        id="made",
        names=["one", "two", "one"],
        layer="top",
        metadata="meta",
        digest="sha256:" + "9" * 64,
        created="2001-02-03T04:05:06.7+01:00",
        names_history=["older", "oldest"],
        data={"manifest": MANIFEST, "manifest-signed": b"signed", "Config": b"{}"},
        data_digests={"manifest-signed": signed},
        flags={"mine": [True]},
    )
    record = disk.record("images", "made")
    assert record == {
        "id": "made",
        "digest": "sha256:" + "9" * 64,
        "names": ["one", "two"],
        "names-history": ["older", "oldest"],
        "layer": layer.id,
        "metadata": "meta",
        "big-data-names": ["manifest", "manifest-signed", "Config"],
        "big-data-sizes": {"manifest": 19, "manifest-signed": 6, "Config": 2},
        "big-data-digests": {
            "manifest": DIGEST,
            "manifest-signed": signed,
            "Config": "sha256:" + hashlib.sha256(b"{}").hexdigest(),
        },
        "created": "2001-02-03T04:05:06.7+01:00",
        "flags": {"mine": [True]},
    }
    assert disk.path("images", "made", "=Q29uZmln").read_bytes() == b"{}"
    assert other.images["two"] == image
    assert set(image.digests) == {"sha256:" + "9" * 64, DIGEST, signed}
    bare = store.images.create()
    assert (bare.layer, bare.names, len(bare.id)) == (None, (), 64)
    before = disk.records("images")
    for options, kind, peer in (
        ({"id": "made"}, errors.DuplicateID, "that ID is already in use"),
        ({"names": ["two"]}, errors.DuplicateName, "that name is already in use"),
        ({"layer": "nobody"}, errors.LayerUnknown, "layer not known"),
        ({"digest": "sha256:1"}, errors.InvalidDigest, "invalid checksum digest length"),
        ({"data": {"manifest": b""}, "data_digests": {"manifest": "x"}}, errors.InvalidDigest, None),
        ({"data": {"": b""}}, errors.InvalidKey, "not a valid name for a big data item"),
    ):
        with pytest.raises(kind) as refused:
            store.images.create(**options)  # type: ignore[arg-type]
        if peer is not None:
            assert refused.value.peer == peer
    with pytest.raises(ValueError, match="RFC 3339"):
        store.images.create(created="yesterday")
    assert disk.records("images") == before
    assert sorted(p.name for p in disk.path("images").iterdir() if p.is_dir()) == ["made"]
    store.images.delete(
        "made"
    )  # its signed digest is not that of the bytes, which the end of each test looks at


@row("Image", "Images")
def test_images_are_listed_and_found(store: orlop.Store, other: orlop.Store) -> None:
    first = store.images.create(id="aa1", names=["first"])
    second = store.images.create(id="ab2")
    assert list(other.images) == [first, second]
    for ref in ("aa1", "aa", "first"):
        assert other.images[ref] == first
    for ref in ("a", "", "nobody"):
        with pytest.raises(errors.ImageUnknown) as refused:
            other.images[ref]
        assert refused.value.peer == UNKNOWN
    assert other.images.get("nobody") is None


@row("ImagesByTopLayer")
def test_images_are_found_by_their_top_layer(store: orlop.Store, other: orlop.Store) -> None:
    layer = store.layers.put(tar("x"), names=["top"])
    unused = store.layers.create()
    images = [store.images.create(layer=layer.id), store.images.create(layer=layer.id)]
    assert other.images.by_top_layer("top") == images
    assert other.images.by_top_layer(unused.id) == []
    with pytest.raises(errors.LayerUnknown):
        other.images.by_top_layer("nobody")


@row("ImagesByDigest")
def test_images_are_found_by_any_of_their_digests(store: orlop.Store, other: orlop.Store) -> None:
    image = store.images.create(data={"manifest": MANIFEST})
    assert image.digest == DIGEST
    store.images.data(image.id)["manifest"] = b"{}"
    new = "sha256:" + hashlib.sha256(b"{}").hexdigest()
    for digest in (DIGEST, new):
        assert [found.id for found in other.images.by_digest(digest)] == [image.id]
    for nothing in ("sha256:" + "0" * 64, "nonsense", ""):
        assert other.images.by_digest(nothing) == []


@row("ImageSize")
def test_the_size_of_an_image_counts_each_layer_once(store: orlop.Store, other: orlop.Store) -> None:
    base, top = tar("etc/", ("etc/a", b"a" * 999)), tar(("b", b"b"))
    lower = store.layers.put(base)
    upper = store.layers.put(top, parent=lower.id)
    image = store.images.create(layer=upper.id, data={"manifest": MANIFEST})
    assert other.images.size(image.id) == len(base.getvalue()) + len(top.getvalue()) + len(MANIFEST)
    with pytest.raises(errors.ImageUnknown):
        other.images.size("nobody")
    store.delete(lower.id)  # which asks nobody
    with pytest.raises(errors.LayerUnknown) as refused:
        other.images.size(image.id)
    assert refused.value.peer == f'locating layer with ID "{lower.id}": layer not known'
    store.images.delete(image.id)


@row("ImageDirectory", "ImageRunDirectory")
def test_directories_of_images(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    image = store.images.create(names=["name"])
    assert Path(other.images.directory("name")) == disk.path("images", image.id, "userdata")
    assert Path(other.images.run_directory(image.id)) == disk.path("images", image.id, "userdata", run=True)
    for call in (other.images.directory, other.images.run_directory):
        with pytest.raises(errors.ImageUnknown):
            call("nobody")
    store.images.delete(image.id)
    assert not disk.path("images", image.id).exists()
    assert not disk.path("images", image.id, run=True).exists()


@row("ListImageBigData", "ImageBigData", "ImageBigDataSize", "ImageBigDataDigest", "SetImageBigData")
def test_data_of_an_image_is_set_listed_read_and_measured(
    store: orlop.Store, other: orlop.Store, disk: Disk
) -> None:
    image = store.images.create(names=["with-data"])
    data = store.images.data("with-data")
    data["manifest"] = MANIFEST
    data.put("manifest-old", b"signed", digest="sha256:" + "7" * 64)
    seen = other.images.data(image.id)
    assert list(seen) == ["manifest", "manifest-old"]
    assert (seen["manifest"], seen.size("manifest"), seen.digest("manifest")) == (MANIFEST, 19, DIGEST)
    assert seen.digest("manifest-old") == "sha256:" + "7" * 64
    record = disk.record("images", image.id)
    assert record is not None
    assert record["digest"] == DIGEST
    assert record["big-data-sizes"] == {"manifest": 19, "manifest-old": 6}
    assert disk.path("images", image.id, "manifest").read_bytes() == MANIFEST
    for call, kind, peer in (
        (lambda: seen["none"], errors.DataUnknown, "file does not exist"),
        (lambda: seen[""], errors.DataUnknown, "file does not exist"),
        (lambda: seen.size("none"), errors.SizeUnknown, "size is not known"),
        (lambda: seen.digest("none"), errors.DigestUnknown, "could not compute digest of item"),
        (lambda: data.put("", b""), errors.InvalidKey, "not a valid name for a big data item"),
        (lambda: data.put("userdata", b""), errors.InvalidKey, "not a valid name for a big data item"),
        (lambda: other.images.data("nobody"), errors.ImageUnknown, UNKNOWN),
    ):
        with pytest.raises(kind) as refused:
            call()
        assert refused.value.peer == peer
    before = disk.path("images", "images.lock").read_bytes()
    data["manifest"] = MANIFEST  # nothing new to record, but others see that somebody wrote
    assert list(seen) == ["manifest", "manifest-old"]
    assert disk.path("images", "images.lock").read_bytes() != before
    store.images.delete(
        image.id
    )  # its signed digest is not that of the bytes, which the end of each test looks at


@row("MountImage", "UnmountImage")
def test_an_image_is_mounted_to_be_read(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.put(tar("etc/", ("etc/a", b"abc")))
    image = store.images.create(layer=layer.id, names=["name"])
    path = Path(store.mount_image("name"))
    assert (path / "etc/a").read_bytes() == b"abc"
    if disk.driver == "overlay":  # vfs hands out the directory itself, as the peers do
        with pytest.raises(OSError, match="Read-only"):
            (path / "etc/b").write_bytes(b"")
    assert other.mount_image(image.id) == str(path)
    assert disk.mounts() == {layer.id: 2}
    assert other.unmount_image("name") is True
    assert store.unmount_image(image.id) is False
    assert disk.mounts() == {}
    store.mount_image("name")
    store.mount_image("name")
    assert other.unmount_image("name", force=True) is False
    with pytest.raises(errors.ConfigError) as refused:
        store.mount_image("name", options=["rw"])
    assert refused.value.peer == ' "rw" option not supported'
    for call in (store.mount_image, store.unmount_image):
        with pytest.raises(errors.ImageUnknown):
            call("nobody")


@row("DeleteImage")
def test_an_image_goes_with_the_layers_that_only_it_needs(
    store: orlop.Store, other: orlop.Store, disk: Disk
) -> None:
    base = store.layers.put(tar("base"))
    mine = store.layers.put(tar("mine"), parent=base.id)
    theirs = store.layers.put(tar("theirs"), parent=base.id)
    store.images.create(id="mine", names=["my-name"], layer=mine.id, data={"manifest": MANIFEST})
    store.images.create(id="theirs", layer=theirs.id)
    box = store.containers.create(image="theirs")
    assert other.images.delete("my-name", dry_run=True) == (mine.id,)
    assert "mine" in store.images
    assert other.images.delete("my-name") == (mine.id,)
    assert disk.record("images", "mine") is None
    assert not disk.path("images", "mine").exists()
    assert not disk.in_driver(mine.id)
    assert [layer.id for layer in store.layers] == [base.id, theirs.id, box.layer]
    for ref, kind, peer in (
        ("theirs", errors.ImageUsedByContainer, "image is in use by a container"),
        ("nobody", errors.NotAnImage, "identifier is not an image"),
        (box.id, errors.NotAnImage, "identifier is not an image"),
    ):
        with pytest.raises(kind) as refused:
            store.images.delete(ref)
        assert refused.value.peer == peer
    store.containers.delete(box.id)
    assert store.images.delete("theirs") == (theirs.id, base.id)
    assert disk.records("layers") == disk.records("images") == []
