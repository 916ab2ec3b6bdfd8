"""Each method of the interface that is about layers: what it gives, leaves on disk, shows others, and raises."""

import gzip
import hashlib
import io
from pathlib import Path

import pytest

import orlop
from differs import TarDiffer
from interface import Disk, row
from orlop import errors
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.staging import StagedOutput
from tarballs import tar

MAPS = IDMappings((IDMap(0, 200000, 65536),), (IDMap(0, 200000, 65536),))
UNKNOWN = "layer not known"


@row("CreateLayer")
def test_a_layer_is_made_with_every_option(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    base = store.layers.put(tar("etc/", ("etc/a", b"a")), metadata="of the base")
    layer = store.layers.create(
        id="made",
        parent=base.id[:12],
        names=["one", "two", "one"],
        label="system_u:object_r:container_file_t:s0",
        writable=False,
        metadata="meta",
        data={"item": b"data", "other": io.BytesIO(b"stream")},
        flags={"mine": {"deep": [1, None]}},
    )
    assert (layer.id, layer.parent, layer.names) == ("made", base.id, ("one", "two"))
    record = disk.record("layers", "made")
    assert record is not None
    assert record["mountlabel"] == "system_u:object_r:container_file_t:s0"
    assert record["flags"] == {"mine": {"deep": [1, None]}}
    assert record["big-data-names"] == ["item", "other"]
    assert disk.path("layers", "made", "item").read_bytes() == b"data"
    assert disk.in_driver("made")
    assert other.layers["two"] == layer
    copy = store.layers.create(template="made", parent=base.id)
    assert (copy.names, copy.metadata, copy.flags) == ((), "meta", {})
    quick = store.layers.create(volatile=True)
    assert disk.records("layers", volatile=True)[0]["id"] == quick.id
    mapped = store.layers.create(mappings=MAPS)
    child = store.layers.create(parent=mapped.id)
    assert child.mappings == mapped.mappings  # none where the driver maps while mounting
    plain = store.layers.create(parent=mapped.id, host_uids=True, host_gids=True)
    assert not plain.mappings


@row("CreateLayer", "PutLayer")
@pytest.mark.parametrize("how", ["create", "put"])
def test_a_layer_that_cannot_be_made_leaves_nothing(store: orlop.Store, disk: Disk, how: str) -> None:
    box = store.containers.create()
    store.layers.create(id="taken", names=["name"])
    before = (disk.records("layers"), sorted(p.name for p in disk.path("layers").iterdir()))

    def make(**options: object) -> None:
        if how == "create":
            store.layers.create(**options)  # type: ignore[arg-type]
        else:
            store.layers.put(tar("x"), **options)  # type: ignore[arg-type]

    for options, kind, peer in (
        ({"parent": "nobody"}, errors.LayerUnknown, UNKNOWN),
        ({"parent": box.layer}, errors.ParentIsContainer, "would-be parent layer is a container"),
        ({"id": "taken"}, errors.DuplicateID, "that ID is already in use"),
        ({"names": ["new", "name"]}, errors.DuplicateName, "that name is already in use"),
        ({"id": "../up"}, errors.UnsafeID, "invalid identifier"),
        ({"id": "new", "data": {"": b""}}, errors.InvalidKey, "not a valid name for a big data item"),
    ):
        with pytest.raises(kind) as refused:
            make(**options)  # type: ignore[arg-type]
        assert refused.value.peer == peer
    assert (disk.records("layers"), sorted(p.name for p in disk.path("layers").iterdir())) == before
    assert not disk.in_driver("new")


@row("PutLayer")
def test_a_blob_is_recorded_with_its_facts(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    blob = tar("etc/", ("etc/a", b"a" * 1000)).read()
    packed = gzip.compress(blob, mtime=0)
    layer = store.layers.put(io.BytesIO(packed), names=["put"], metadata="meta")
    record = disk.record("layers", layer.id)
    assert record is not None
    assert record["compressed-diff-digest"] == "sha256:" + hashlib.sha256(packed).hexdigest()
    assert record["diff-digest"] == "sha256:" + hashlib.sha256(blob).hexdigest()
    assert (record["compressed-size"], record["diff-size"]) == (len(packed), len(blob))
    assert (record["compression"], record["uidset"], record["gidset"]) == (2, [0], [0])
    assert "incomplete" not in record.get("flags", {})
    assert gzip.decompress(disk.path("layers", f"{layer.id}.tar-split.gz").read_bytes())
    assert other.layers["put"] == layer
    trusted = store.layers.put(
        io.BytesIO(blob), trusted_digest="sha256:" + "c" * 64, trusted_size=7, trusted_diff_digest=None
    )
    assert (trusted.compressed_digest, trusted.compressed_size) == ("sha256:" + "c" * 64, 7)
    with pytest.raises(errors.BadArchive):
        store.layers.put(io.BytesIO(b"not a tar" * 100))
    assert len(other.layers) == 2


@row("Layer", "Layers")
def test_layers_are_listed_and_found(store: orlop.Store, other: orlop.Store) -> None:
    first = store.layers.create(id="aa1", names=["first"])
    second = store.layers.create(id="aa2")
    assert list(other.layers) == [first, second]
    assert len(other.layers) == 2
    for ref in ("aa1", "first"):
        assert other.layers[ref] == first
    assert "aa" not in other.layers  # two begin so: ambiguous is unknown
    assert other.layers.get("") is None
    with pytest.raises(errors.LayerUnknown) as refused:
        other.layers["nobody"]
    assert (refused.value.peer, refused.value.ref) == (UNKNOWN, "nobody")
    assert isinstance(refused.value, KeyError)


@row("ApplyDiff")
def test_a_diff_is_applied_to_a_layer(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    store.layers.create(id="filled")
    blob = tar("etc/", ("etc/a", b"abc"))
    assert store.apply_diff("filled", blob) == 3
    layer = other.layers["filled"]
    assert layer.diff_size == len(blob.getvalue())
    assert disk.path("layers", "filled.tar-split.gz").exists()
    with other.diff("filled") as stream:
        assert stream.read() == blob.getvalue()
    with pytest.raises(errors.LayerUnknown) as refused:
        store.apply_diff("nobody", tar("x"))
    assert refused.value.peer == UNKNOWN
    with pytest.raises(errors.BadArchive):
        store.apply_diff("filled", io.BytesIO(b"x" * 600))
    assert other.layers["filled"] == layer  # the record is as before


@row("Changes", "DiffSize", "Diff")
def test_what_a_layer_changes_can_be_asked_in_three_ways(store: orlop.Store, other: orlop.Store) -> None:
    base = store.layers.put(tar("etc/", ("etc/gone", b"x"), ("etc/kept", b"1")))
    top = store.layers.create(id="top", parent=base.id)
    with store.mounted("top") as root:
        (root / "etc/gone").unlink()
        (root / "etc/kept").write_bytes(b"changed")
        (root / "etc/new").write_bytes(b"new")
    found = [(change.kind, change.path) for change in other.changes("top")]
    assert found == [("C", b"/etc"), ("D", b"/etc/gone"), ("C", b"/etc/kept"), ("A", b"/etc/new")]
    assert other.changes("top", base.id) == other.changes("top")
    assert other.changes("top", top.id) == []
    assert other.diff_size("top") == len(b"changed") + len(b"new")
    with other.diff("top") as stream:
        data = stream.read()
    assert b"etc/.wh.gone" in data
    assert b"changed" in data
    with other.diff("top", compression=2) as stream:
        again = gzip.decompress(stream.read())
    assert (len(again), b"etc/.wh.gone" in again) == (
        len(data),
        True,
    )  # a whiteout has the time of its writing
    for call in (other.changes, other.diff_size, other.diff):
        with pytest.raises(errors.LayerUnknown) as refused:
            call("nobody")
        assert refused.value.peer == UNKNOWN
    with pytest.raises(errors.LayerUnknown):
        other.changes("top", "nobody")


@row("LayerSize")
def test_the_size_of_a_layer_is_the_recorded_one(store: orlop.Store, other: orlop.Store) -> None:
    blob = tar("etc/")
    layer = store.layers.put(blob)
    assert other.layers.size(layer.id) == len(blob.getvalue())
    assert other.layers.size(store.layers.create().id) == -1
    with pytest.raises(errors.LayerUnknown):
        other.layers.size("nobody")


@row("LayersByCompressedDigest", "LayersByUncompressedDigest", "LayersByTOCDigest")
def test_layers_are_found_by_each_of_their_digests(
    store: orlop.Store, other: orlop.Store, disk: Disk
) -> None:
    blob = gzip.compress(tar("etc/").read(), mtime=0)
    first = store.layers.put(io.BytesIO(blob))
    second = store.layers.put(io.BytesIO(blob))
    assert first.compressed_digest is not None
    assert first.diff_digest is not None
    assert other.layers.by_compressed_digest(first.compressed_digest) == [first, second]
    assert other.layers.by_diff_digest(first.diff_digest) == [first, second]
    toc = "sha256:" + "d" * 64
    for find, what in (
        (other.layers.by_compressed_digest, "compressed layers"),
        (other.layers.by_diff_digest, "layers"),
        (other.layers.by_toc_digest, "TOC"),
    ):
        assert find(toc) == []
        with pytest.raises(errors.InvalidDigest, match="digest"):
            find(f"nonsense {what}")
    # As another program records a partial pull.
    path = disk.path("layers", "layers.json")
    text = path.read_text().replace('"diff-digest"', f'"toc-digest":"{toc}","diff-digest"', 1)
    path.write_text(text)
    assert [layer.id for layer in store.layers.by_toc_digest(toc)] == [first.id]


@row("LayerParentOwners")
def test_owners_above_a_layer_are_those_that_its_maps_lack(store: orlop.Store, other: orlop.Store) -> None:
    layer = store.layers.create()
    assert other.layer_parent_owners(layer.id) == ((), ())
    mapped = store.layers.create(mappings=MAPS)
    if mapped.mappings:
        with pytest.raises(errors.LayerNotMounted) as refused:
            other.layer_parent_owners(mapped.id)
        assert refused.value.peer == "layer is not mounted"
        store.mount(mapped.id)
        assert 0 in other.layer_parent_owners(mapped.id)[0]
        store.unmount(mapped.id)
    else:
        assert other.layer_parent_owners(mapped.id) == ((), ())
    with pytest.raises(errors.LayerUnknown):
        other.layer_parent_owners("nobody")


@row("ListLayerBigData", "LayerBigData", "SetLayerBigData")
def test_data_of_a_layer_is_set_listed_and_read(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    layer = store.layers.create(names=["with-data"])
    data = store.layers.data("with-data")
    data["Config"] = b"first"
    data.put("stream", io.BytesIO(b"from a file"))
    seen = other.layers.data(layer.id)
    assert list(seen) == ["Config", "stream"]
    with seen.open("Config") as reading:
        data["Config"] = b"second"  # whoever reads keeps what was there
        assert reading.read() == b"first"
    assert (seen["Config"], seen["stream"]) == (b"second", b"from a file")
    record = disk.record("layers", layer.id)
    assert record is not None
    assert record["big-data-names"] == ["Config", "stream"]
    assert disk.path("layers", layer.id, "=Q29uZmln").read_bytes() == b"second"
    with pytest.raises(errors.DataUnknown) as missing:
        seen["none"]
    assert missing.value.peer == "file does not exist"
    with pytest.raises(errors.InvalidKey) as empty:
        data[""] = b""
    assert empty.value.peer == "not a valid name for a big data item"
    with pytest.raises(errors.LayerUnknown):
        other.layers.data("nobody")
    store.layers.delete(layer.id)
    for call in (lambda: list(seen), lambda: data.put("x", b"")):
        with pytest.raises(errors.LayerUnknown):
            call()


@row("DeleteLayer")
def test_a_layer_is_deleted_when_nothing_needs_it(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    base = store.layers.put(tar("etc/"), names=["base"], data={"x": b"y"})
    top = store.layers.create(parent=base.id)
    image = store.images.create(layer=top.id)
    box = store.containers.create()
    for ref, kind, peer in (
        ("base", errors.LayerHasChildren, "layer has children"),
        (base.id[:20], errors.LayerHasChildren, "layer has children"),
        (top.id, errors.LayerUsedByImage, "layer is in use by an image"),
        (box.layer, errors.LayerUsedByContainer, "layer is in use by a container"),
        ("nobody", errors.NotALayer, "identifier is not a layer"),
        (image.id, errors.NotALayer, "identifier is not a layer"),
    ):
        with pytest.raises(kind) as refused:
            store.layers.delete(ref)
        assert refused.value.peer == peer
    assert len(disk.records("layers")) == 3
    store.images.delete(image.id)
    assert "base" not in other.layers
    again = store.layers.put(tar("etc/"), names=["base"], data={"x": b"y"})
    store.mount(again.id)
    store.layers.delete("base")
    assert disk.record("layers", again.id) is None
    assert not disk.in_driver(again.id)
    assert not disk.path("layers", again.id).exists()
    assert not disk.path("layers", f"{again.id}.tar-split.gz").exists()
    assert disk.mounts() == {}
    assert other.layers.get(again.id) is None


@row("DeleteLayer")
def test_deleting_a_mapped_copy_takes_it_off_its_image(owning: orlop.Store, place: Path) -> None:
    layer = owning.layers.put(tar("etc/"))
    image = owning.images.create(layer=layer.id)
    box = owning.containers.create(image=image.id, mappings=MAPS)
    (copy,) = owning.images[image.id].mapped_layers
    owning.containers.delete(box.id)
    owning.layers.delete(copy)
    assert owning.images[image.id].mapped_layers == ()


def _refuses_staging(store: orlop.Store, layer: str) -> None:
    """What the other drivers say; nothing of it stays."""
    output = StagedOutput("/nowhere")
    for call in (
        lambda: store.prepare_staged_layer(TarDiffer(tar("a"))),
        lambda: store.apply_diff_with_differ("", TarDiffer(tar("a"))),
        lambda: store.apply_staged_layer(output, id="made"),
        lambda: store.cleanup_staged_layer(output),
        lambda: store.differ_target(layer),
    ):
        with pytest.raises(errors.NotSupported) as refused:
            call()
        assert refused.value.peer == "not supported"
    assert "made" not in store.layers


@row("PrepareStagedLayer", "ApplyStagedLayer", "CleanupStagedLayer", "DifferTarget", "ApplyDiffWithDiffer")
def test_files_made_ready_become_a_layer(store: orlop.Store, other: orlop.Store, disk: Disk) -> None:
    base = store.layers.put(tar("etc/"))
    if disk.driver != "overlay":
        _refuses_staging(store, base.id)
        return
    blob = tar("etc/", ("etc/a", b"abc"))
    toc = "sha256:" + "7" * 64
    differ = TarDiffer(blob, toc_digest=toc, data={"toc": b"{}"}, metadata="of the differ", uids=(0, 5))
    output = store.prepare_staged_layer(differ)
    assert Path(output.target, "etc/a").read_bytes() == b"abc"
    assert output.target == differ.target
    assert len(other.layers) == 1

    layer = store.apply_staged_layer(
        output,
        id="made",
        parent=base.id[:12],
        names=["one"],
        data={"mine": b"1"},
        flags={"expected-layer-diffid": "x"},
    )
    record = disk.record("layers", "made")
    assert record is not None
    record.pop("created")
    assert record == {
        "id": "made",
        "names": ["one"],
        "parent": base.id,
        "metadata": "of the differ",
        "diff-digest": "sha256:" + hashlib.sha256(blob.getvalue()).hexdigest(),
        "diff-size": len(blob.getvalue()),
        "toc-digest": toc,
        "uidset": [0, 5],
        "gidset": [0],
        "big-data-names": ["mine", "toc"],
        "flags": {"expected-layer-diffid": "x"},
    }
    assert other.layers["made"] == layer
    assert other.layers.by_toc_digest(toc) == [layer]
    assert other.layers.data("made")["toc"] == b"{}"
    with other.diff("made") as stream:
        assert stream.read() == blob.getvalue()
    with other.mounted("made") as root:
        assert (root / "etc/a").read_bytes() == b"abc"
    assert other.differ_target("one") == str(disk.place / "graph/overlay/made/diff")
    with pytest.raises(errors.LayerUnknown) as unknown:
        store.differ_target("nobody")
    assert unknown.value.peer == UNKNOWN

    unwanted = store.apply_diff_with_differ("", TarDiffer(tar("b")))
    with pytest.raises(errors.NotSupported) as refused:
        store.apply_diff_with_differ("made", TarDiffer(tar("b")))
    assert refused.value.peer == "ApplyDiffWithDiffer does not support non-empty 'layer' parameter"
    store.cleanup_staged_layer(unwanted)
    store.cleanup_staged_layer(unwanted)  # what is gone is fine
    with pytest.raises(errors.UnsafePath):
        store.cleanup_staged_layer(StagedOutput(""))
    assert list((disk.place / "graph/overlay/staging").iterdir()) == []
