"""`Store` itself: any kind of thing, mounting, changes and diffs, deleting, closing; and records found damaged."""

import errno
import gc
import io
import json
import os
import tarfile
import threading
import weakref
from pathlib import Path

import pytest

import orlop
from orlop import IDMap, IDMappings, errors
from tarballs import Open, tar


def journey(store: orlop.Store) -> orlop.Container:
    layer = store.layers.put(tar("etc/", ("etc/motd", b"ahoy\n"), ("etc/gone", b"x")), names=["l"])
    image = store.images.create(layer=layer.id, names=["i"])
    return store.containers.create(image=image.id, names=["box"])


def test_references_of_any_kind(store: orlop.Store, other: orlop.Store) -> None:
    """Layers first, then images, then containers."""
    box = journey(store)
    assert other.lookup("box") == box.id
    assert other.lookup("i") == store.images["i"].id
    assert all(other.exists(ref) for ref in ("l", "i", "box"))
    assert not other.exists("nobody")
    for ref in ("l", "i", "box"):
        assert other.set_names(ref, [ref, ref + "2"]) == (ref, ref + "2")
        assert store.names(ref + "2") == (ref, ref + "2")
        assert other.remove_names(ref, [ref + "2"]) == (ref,)
        assert other.add_names(ref, [ref + "3"]) == (ref + "3", ref)
        other.set_metadata(ref, "meta " + ref)
        assert store.metadata(ref) == "meta " + ref
    with pytest.raises(errors.LayerUnknown):
        store.lookup("nobody")
    with pytest.raises(errors.LayerUnknown):
        store.set_names("nobody", ["x"])
    with pytest.raises(errors.NotAnID):
        store.metadata("nobody")
    with pytest.raises(errors.NotAnID):
        store.set_metadata("nobody", "x")


def test_what_a_container_changes_is_listed_and_exported(store: orlop.Store, other: orlop.Store) -> None:
    box = journey(store)
    with store.mounted("box") as root:
        (root / "etc/motd").write_text("changed\n")
        (root / "etc/gone").unlink()
        (root / "new").mkdir()
        (root / "new/file").write_bytes(b"12345")
    listed = [str(change) for change in other.changes(box.layer)]
    assert listed == ["C /etc", "D /etc/gone", "C /etc/motd", "A /new", "A /new/file"]
    assert other.diff_size(box.layer) == len("changed\n") + 5
    with other.diff(box.layer) as stream:
        blob = stream.read()
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        assert sorted(archive.getnames()) == ["etc", "etc/.wh.gone", "etc/motd", "new", "new/file"]
    copy = store.layers.put(io.BytesIO(blob), parent="l")
    with store.mounted(copy.id) as root:
        assert (root / "etc/motd").read_text() == "changed\n"
        assert not (root / "etc/gone").exists()
    assert [str(c) for c in store.changes("l", box.layer)][:2] == ["C /etc", "A /etc/gone"]
    with pytest.raises(errors.LayerUnknown):
        store.changes("nobody")
    with pytest.raises(errors.LayerUnknown):
        store.diff(box.layer, "nobody")


def test_a_diff_in_bzip2_or_xz_is_refused_at_once(store: orlop.Store) -> None:
    journey(store)
    for kind in (1, 3):
        with pytest.raises(errors.CompressionNotSupported):
            store.diff("l", compression=kind)
    assert store.layers.names("l") == ("l",)  # and the table is free again


def test_a_file_changed_behind_our_back_ends_the_diff(store: orlop.Store) -> None:
    """And what was sent before is known to be of no use."""
    journey(store)
    with store.mounted("l") as root:
        (root / "etc/motd").write_bytes(b"AHOY\n")
    with store.diff("l") as stream, pytest.raises(errors.ContentChanged) as changed:
        stream.read()
    assert changed.value.peer == 'file integrity checksum failed for "etc/motd"'
    with store.mounted("l") as root:
        (root / "etc/motd").write_bytes(b"ahoy\n")


def test_a_layer_without_tar_split_is_exported_by_its_driver(store: orlop.Store) -> None:
    layer = store.layers.create()
    with store.mounted(layer.id) as root:
        (root / "file").write_bytes(b"made here")
    with store.diff(layer.id) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        assert archive.getnames() == ["file"]


def test_applying_a_diff_replaces_the_facts(store: orlop.Store, other: orlop.Store) -> None:
    layer = store.layers.create(id="one")
    blob = tar(("file", b"12345"))
    assert store.apply_diff("one", blob) == 5
    assert other.layers["one"].diff_size == len(blob.getvalue())
    with other.diff("one") as stream:
        assert stream.read() == blob.getvalue()
    with pytest.raises(errors.BadArchive):
        store.apply_diff(layer.id, io.BytesIO(b"x" * 600))
    assert other.layers["one"].diff_size == len(blob.getvalue())
    with pytest.raises(errors.LayerUnknown):
        store.apply_diff("nobody", blob)


def test_mounts_are_counted_for_everybody(store: orlop.Store, other: orlop.Store) -> None:
    box = journey(store)
    path = store.mount("box")
    assert os.path.isabs(path)
    assert other.mount(box.layer[:20]) == path
    assert store.mount_count("box") == other.mount_count(box.layer) == 2
    assert other.layers[box.layer].mount_point == path
    assert store.unmount("box") is True
    assert other.unmount("box") is False
    assert store.mount_count("box") == 0
    assert store.unmount("box") is False  # unmounting what is not mounted is fine
    store.mount("box")
    store.mount("box")
    assert other.unmount("box", force=True) is False
    for call in (store.mount, store.unmount, store.mount_count):
        with pytest.raises(errors.LayerUnknown):
            call("i")
    with pytest.raises(RuntimeError, match="inside"):
        with store.mounted("box") as root:
            assert root.is_dir()
            raise RuntimeError("inside")
    assert other.mount_count("box") == 0


def test_images_are_mounted_to_be_read(store: orlop.Store, other: orlop.Store) -> None:
    journey(store)
    path = store.mount_image("i")
    assert Path(path, "etc/motd").read_text() == "ahoy\n"
    assert other.mount_image("i") == path
    assert other.mount_count("l") == 2
    assert store.unmount_image("i") is True
    assert store.unmount_image("i", force=True) is False
    with pytest.raises(errors.ConfigError) as refused:
        store.mount_image("i", options=["rw"])
    assert refused.value.peer == ' "rw" option not supported'
    store.images.create(names=["without layers"])
    with pytest.raises(errors.LayerUnknown):
        store.mount_image("without layers")
    for call in (store.mount_image, store.unmount_image):
        with pytest.raises(errors.ImageUnknown):
            call("box")


def test_shutdown_says_what_is_mounted(store: orlop.Store, other: orlop.Store) -> None:
    """With force it unmounts, and says so all the same, as the peers do; then it succeeds."""
    box = journey(store)
    store.mount("box")
    with pytest.raises(errors.StillMounted) as mounted:
        other.shutdown()
    assert mounted.value.layers == (box.layer,)
    with pytest.raises(errors.StillMounted):
        other.shutdown(force=True)
    assert store.mount_count("box") == 0
    assert other.shutdown() == []
    assert store.mount("box")
    store.unmount("box")


def test_deleting_without_asking(store: orlop.Store, other: orlop.Store) -> None:
    box = journey(store)
    store.delete("box")
    assert box.layer not in other.layers
    store.delete("i")
    assert len(other.images) == 0
    assert len(other.layers) == 1
    store.delete("l")
    assert len(other.layers) == 0
    with pytest.raises(errors.LayerUnknown):
        store.delete("l")


def test_wiping_leaves_an_empty_store(store: orlop.Store, other: orlop.Store) -> None:
    journey(store)
    store.mount("box")
    store.create_storage_layer(id="only-in-the-driver")
    other.wipe()
    assert len(store.layers) + len(store.images) + len(store.containers) == 0
    assert store.storage_layers() == []
    journey(store)


def test_what_the_store_says_about_itself(store: orlop.Store, place: Path) -> None:
    assert store.status()[:3] == [
        ("Root", str(place / "graph")),
        ("Run Root", str(place / "run")),
        ("Driver Name", store.driver_name),
    ]
    assert store.version() == [("Version", orlop.__version__)]
    assert (store.graph_root, store.run_root) == (str(place / "graph"), str(place / "run"))
    assert (store.image_store, store.transient, store.durability) == (None, False, "none")
    assert store.driver().name == store.driver_name
    assert not store.mappings
    assert store.damage() == ()


def test_a_closed_store_says_so(open_store: Open) -> None:
    with open_store() as store:
        layers = store.layers
    for use in (store.status, store.wipe, lambda: list(layers), layers.create):
        with pytest.raises(errors.ConfigError, match="closed"):
            use()


def test_a_damaged_record_stops_nobody_else(store: orlop.Store, other: orlop.Store, place: Path) -> None:
    """P9, P12: it is named, kept as it was found, and unknown members of others survive a rewrite."""
    journey(store)
    path = place / "graph" / f"{store.driver_name}-images" / "images.json"
    image = json.loads(path.read_text())[0]
    image["from-the-future"] = {"b": 1, "a": [2]}
    damaged = [
        '{"id":7,"names":["seven"]}',
        "null",
        '{"id":"bad-digest","created":"2026-01-01T00:00:00Z","digest":"sha256:short"}',
    ]
    path.write_text("[" + ",".join([json.dumps(image), *damaged]) + "]")
    third = orlop.open_store(place / "graph", place / "run", store.driver_name, durability="none")
    assert [i.names for i in third.images] == [("i",)]
    third.images.set_names("i", ["renamed"])
    again = path.read_text()
    assert all(text in again for text in damaged)
    assert json.loads(again)[0]["from-the-future"] == {"a": [2], "b": 1}
    assert len([line for line in third.damage() if "images.json" in line]) == 3
    path.write_text(again.replace("," + ",".join(damaged), ""))


def test_a_broken_table_stops_only_itself(store: orlop.Store, place: Path) -> None:
    journey(store)
    path = place / "graph" / f"{store.driver_name}-images" / "images.json"
    content = path.read_text()
    path.write_text(content[: len(content) // 2])
    third = orlop.open_store(place / "graph", place / "run", store.driver_name, durability="none")
    with pytest.raises(errors.BadRecords) as broken:
        list(third.images)
    assert broken.value.path == str(path)
    assert len(third.layers) == 2
    assert len(third.containers) == 1
    path.write_text(content)
    assert len(third.images) == 1


def test_threads_share_a_store(store: orlop.Store) -> None:
    """Every wish is granted, and nothing is lost."""
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(4):
                name = f"{number}-{step}"
                layer = store.layers.put(tar(("file", name.encode())), names=[name])
                image = store.images.create(layer=layer.id, names=[name], data={"manifest": name.encode()})
                assert store.images.data(name)["manifest"] == name.encode()
                assert layer.id in [each.id for each in store.layers]
                if step % 2:
                    store.images.delete(image.id)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert sorted(i.names[0] for i in store.images) == sorted(f"{n}-{s}" for n in range(4) for s in (0, 2))
    assert len(store.layers) == 8


def test_a_lock_that_is_not_free_in_time_is_an_error(store: orlop.Store, place: Path) -> None:
    """`lock_timeout` is for those who cannot wait for ever."""
    journey(store)
    hasty = orlop.open_store(
        place / "graph", place / "run", store.driver_name, durability="none", lock_timeout=0.2
    )
    with store.diff("l"):
        with pytest.raises(errors.LockTimeout):
            hasty.layers.create()
    assert hasty.layers.create()


@pytest.mark.parametrize("noun", ["containers", "images"])
def test_a_record_that_may_be_on_disk_and_its_layer_come_or_go_together(
    store: orlop.Store, place: Path, monkeypatch: pytest.MonkeyPatch, noun: str
) -> None:
    """The file was replaced, and then its directory could not be synced: nobody knows what is on disk.

    The layer of a container went while its record stayed; a mapped copy stayed, and no image listed it.
    """
    journey(store)
    ids = IDMappings(*[(IDMap(0, 200_000, 10), IDMap(20, 300_000, 5))] * 2)  # no driver mounts these
    rename, table = os.rename, place / f"graph/{store.driver_name}-{noun}/{noun}.json"

    def replaced(old: str, new: str) -> None:
        rename(old, new)
        if new == str(table):
            raise OSError(errno.EIO, os.strerror(errno.EIO), new)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(os, "rename", replaced)
        store.containers.create(image="i", names=["new"], mappings=ids)
    layers = {layer.id for layer in store.layers}
    image = store.images["i"]
    assert {box.layer for box in store.containers} <= layers
    assert not any(layer.mappings and layer.id not in image.mapped_layers for layer in store.layers)
    assert set(image.mapped_layers) <= layers
    assert store.check().is_clean
    store.containers.create(image="i", names=["new"], mappings=ids)
    assert len(store.containers) == 2


def test_closing_a_store_frees_its_records_at_once(open_store: Open) -> None:
    """Not when the collector next comes by: whoever opens large stores in turns would hold several of them."""
    gc.disable()
    try:
        store = open_store()
        layer = store.layers.create()
        assert len(store.images) == len(store.containers) == 0
        with store.diff(layer.id) as stream:
            tables = [weakref.ref(table) for table in store._engine._tables.values()]
            store.close()
            stream.read()
        del stream
        assert tables
        assert [table() for table in tables] == [None] * len(tables)
    finally:
        gc.enable()
