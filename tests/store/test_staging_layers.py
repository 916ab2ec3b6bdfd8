"""Files made ready for a layer that is not there yet: what becomes of them, whatever goes wrong."""

import gzip
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import invariants
import orlop
import peers
from differs import TarDiffer
from orlop import errors
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.staging import Differ, DifferOptions, StagedOutput
from tarballs import tar

MAPS = IDMappings((IDMap(0, 100_000, 65_536),), (IDMap(0, 200_000, 65_536),))
Opened = Callable[..., orlop.Store]


@pytest.fixture
def opened(place: Path) -> Opened:
    """Opens an overlay store with these options."""
    peers.need_root()

    def open(*options: str, **settings: Any) -> orlop.Store:
        return orlop.open_store(
            place / "graph", place / "run", "overlay", driver_options=options, durability="none", **settings
        )

    return open


@pytest.fixture
def graph(place: Path) -> Path:
    return place / "graph"


def _nothing_is_left(graph: Path) -> None:
    assert os.listdir(graph / "overlay/staging") == []
    assert not (graph / "overlay/tempdirs").exists()
    invariants.hold(graph, graph.parent / "run", "overlay")


class Failing(Differ):
    """Writes a file and fails."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def apply(self, target: str, options: DifferOptions) -> StagedOutput:
        Path(target, "file").touch()
        if self.error is not None:
            raise self.error
        return "done"  # type: ignore[return-value]


@pytest.mark.parametrize("error", [OSError(28, "no space"), KeyboardInterrupt(), None])
def test_a_differ_that_fails_leaves_nothing(opened: Opened, graph: Path, error: BaseException | None) -> None:
    store = opened()
    with pytest.raises(TypeError if error is None else type(error)):
        store.prepare_staged_layer(Failing(error))
    _nothing_is_left(graph)


def test_a_differ_may_use_the_store(opened: Opened, graph: Path) -> None:
    store = opened()

    class Using(TarDiffer):
        def apply(self, target: str, options: DifferOptions) -> StagedOutput:
            store.layers.put(tar("other"), id="made-meanwhile")
            return super().apply(target, options)

    store.apply_staged_layer(store.prepare_staged_layer(Using(tar("a"))), id="one")
    assert {layer.id for layer in store.layers} == {"made-meanwhile", "one"}
    _nothing_is_left(graph)


def test_a_record_of_the_tar_may_come_plain_or_compressed_or_not_at_all(opened: Opened, graph: Path) -> None:
    store = opened()
    blob = tar("etc/", ("etc/a", b"abc"))
    kept = {}
    for name in ("compressed", "plain", "none"):
        blob.seek(0)
        output = store.prepare_staged_layer(TarDiffer(blob))
        assert output.tar_split is not None
        lines = output.tar_split.read()
        given = {"compressed": lines, "plain": gzip.decompress(lines), "none": None}[name]
        blob.seek(0)
        store.cleanup_staged_layer(output)
        source = None if given is None else io.BytesIO(given)
        known = {} if given is not None else {"uncompressed_digest": "", "size": -1}
        output = store.prepare_staged_layer(TarDiffer(blob, tar_split=source, **known))
        store.apply_staged_layer(output, id=name)
        assert source is None or source.closed
        path = graph / f"overlay-layers/{name}.tar-split.gz"
        kept[name] = gzip.decompress(path.read_bytes()) if path.exists() else None
    assert kept["compressed"] == kept["plain"] != b""
    assert kept["none"] is None
    assert store.layers["none"].diff_size == -1
    _nothing_is_left(graph)


def test_what_makes_a_layer_impossible_leaves_none_and_the_output_can_be_cleaned_up(
    opened: Opened, graph: Path
) -> None:
    store = opened()
    store.layers.create(id="there", names=["taken"])
    box = store.containers.create()
    for wrong, error in (
        ({"id": "../up"}, errors.UnsafeID),
        ({"id": "staging"}, errors.UnsafeID),
        ({"id": "new", "names": ["taken"]}, errors.DuplicateName),
        ({"id": "new", "parent": "nobody"}, errors.LayerUnknown),
        ({"id": "new", "parent": box.layer_id}, errors.ParentIsContainer),
        ({"id": "new", "data": {"": b"x"}}, errors.InvalidKey),
        ({"id": "new", "mappings": MAPS, "storage": None}, TypeError),
    ):
        output = store.prepare_staged_layer(TarDiffer(tar("a")))
        with pytest.raises(error):
            store.apply_staged_layer(output, **wrong)  # type: ignore[arg-type]
        assert output.tar_split is not None
        assert output.tar_split.closed or error is TypeError
        store.cleanup_staged_layer(output)
        assert output.tar_split.closed
        assert {layer.id for layer in store.layers} == {"there", box.layer_id}
    _nothing_is_left(graph)


def test_an_output_makes_one_layer(opened: Opened, graph: Path) -> None:
    store = opened()
    output = store.prepare_staged_layer(TarDiffer(tar("a")))
    store.apply_staged_layer(output, id="one")
    with pytest.raises(errors.Conflict):
        store.apply_staged_layer(output, id="two")
    assert "two" not in store.layers
    store.cleanup_staged_layer(output)
    with store.mounted("one") as root:
        assert os.listdir(root) == ["a"]
    _nothing_is_left(graph)


def test_a_layer_of_that_id_gets_another_content(opened: Opened, graph: Path) -> None:
    store = opened()
    first, second = tar("old/", ("old/file", b"old")), tar(("new", b"new"))
    store.layers.put(first, id="one", names=["name"], metadata="mine", flags={"a": 1}, data={"k": b"v"})
    top = store.layers.create(parent="one")
    output = store.prepare_staged_layer(TarDiffer(second, data={"k": b"other", "l": b"more"}))
    layer = store.apply_staged_layer(output, id="name", parent="ignored", flags={"b": 2})
    assert (layer.id, layer.names, layer.metadata) == ("one", ("name",), "mine")
    assert layer.flags == {"a": 1, "b": 2}
    assert layer == opened().layers["one"]
    assert {key: store.layers.data("one")[key] for key in ("k", "l")} == {"k": b"other", "l": b"more"}
    with store.diff("one") as stream:
        assert stream.read() == second.getvalue()
    with store.mounted(top.id) as root:
        assert os.listdir(root) == ["new"]
    _nothing_is_left(graph)


def test_a_layer_that_has_the_content_already_is_left_alone(opened: Opened, graph: Path) -> None:
    """Two pulls of one image, a moment apart: the layer of the first may be mounted by now."""
    store = opened()
    blob = tar(("a", b"abc"))
    with_diff = store.layers.put(blob, id="with-diff")
    toc = "sha256:" + "1" * 64
    output = store.prepare_staged_layer(TarDiffer(tar("b"), uncompressed_digest="", size=-1, toc_digest=toc))
    with_toc = store.apply_staged_layer(output, id="with-toc")
    for layer, facts in ((with_diff, {}), (with_toc, {"uncompressed_digest": "", "toc_digest": toc})):
        blob.seek(0)
        number = os.stat(store.differ_target(layer.id)).st_ino
        with store.mounted(layer.id):
            output = store.prepare_staged_layer(TarDiffer(blob, **facts))
            again = store.apply_staged_layer(output, id=layer.id, flags={"x": 1})
        assert again.flags == layer.flags
        assert os.stat(store.differ_target(layer.id)).st_ino == number
    _nothing_is_left(graph)


def test_a_mounted_layer_keeps_its_content(opened: Opened, graph: Path) -> None:
    store = opened()
    store.layers.put(tar(("a", b"abc")), id="one")
    output = store.prepare_staged_layer(TarDiffer(tar("b")))
    with store.mounted("one") as root:
        with pytest.raises(errors.StillMounted, match="one is mounted"):
            store.apply_staged_layer(output, id="one")
        assert os.listdir(root) == ["a"]
    store.cleanup_staged_layer(output)
    _nothing_is_left(graph)


def test_owners_are_mapped_as_the_layer_s_are_or_there_is_no_layer(
    opened: Opened, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peers stage with the archive's owners, whatever the layer's maps say."""
    monkeypatch.setenv("_CONTAINERS_OVERLAY_DISABLE_IDMAP", "yes")
    store = opened()
    output = store.prepare_staged_layer(TarDiffer(tar(("a", b"abc"))))
    with pytest.raises(errors.InvalidMappings):
        store.apply_staged_layer(output, id="one", mappings=MAPS)
    assert "one" not in store.layers
    store.cleanup_staged_layer(output)

    output = store.prepare_staged_layer(TarDiffer(tar(("a", b"abc"))), mappings=MAPS)
    store.apply_staged_layer(output, id="one", mappings=MAPS)
    top = store.prepare_staged_layer(TarDiffer(tar(("b", b"abc"))), mappings=MAPS)
    store.apply_staged_layer(top, id="two", parent="one")
    for path in ("one/diff", "one/diff/a", "two/diff", "two/diff/b"):
        found = os.stat(graph / "overlay" / path)
        assert (found.st_uid, found.st_gid) == (100_000, 200_000)
    assert store.layers["two"].mappings == MAPS
    _nothing_is_left(graph)


def test_maps_of_the_store_are_the_maps_of_what_is_made_ready(
    opened: Opened, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_CONTAINERS_OVERLAY_DISABLE_IDMAP", "yes")
    store = opened(mappings=MAPS)
    store.apply_staged_layer(store.prepare_staged_layer(TarDiffer(tar("a"))), id="one")
    assert os.stat(graph / "overlay/one/diff/a").st_uid == 100_000
    plain = store.prepare_staged_layer(TarDiffer(tar("a")), host_uids=True, host_gids=True)
    store.apply_staged_layer(plain, id="two", host_uids=True, host_gids=True)
    assert os.stat(graph / "overlay/two/diff/a").st_uid == 0
    _nothing_is_left(graph)


def test_a_layer_of_an_image_goes_to_the_image_store_of_a_split_store(
    opened: Opened, graph: Path, place: Path
) -> None:
    store = opened(image_store=place / "images")
    output = store.prepare_staged_layer(TarDiffer(tar(("a", b"abc"))))
    assert output.target.startswith(f"{place}/images/overlay/staging/")
    store.apply_staged_layer(output, id="one")
    assert (place / "images/overlay/one/diff/a").exists()
    assert (place / "images/overlay-layers/layers.json").exists()
    assert (graph / "overlay-layers/one.tar-split.gz").exists()
    writable = store.prepare_staged_layer(TarDiffer(tar(("b", b"abc"))))
    with pytest.raises(errors.NotSupported, match="another mount"):
        store.apply_staged_layer(writable, id="two", writable=True)
    store.cleanup_staged_layer(writable)
    assert os.listdir(place / "images/overlay/staging") == []
    invariants.hold(graph, place / "run", "overlay", image_store=place / "images")


def test_with_a_force_mask_owners_and_modes_are_attributes(opened: Opened, graph: Path) -> None:
    store = opened("overlay.force_mask=0711")
    output = store.prepare_staged_layer(TarDiffer(tar("etc/", ("etc/a", b"abc"))))
    store.apply_staged_layer(output, id="one")
    for path, text in ((".", b"0:0:0755:dir"), ("etc", b"0:0:0755:dir"), ("etc/a", b"0:0:0644:file")):
        found = graph / "overlay/one/diff" / path
        assert os.getxattr(found, "user.containers.override_stat") == text
        assert os.stat(found).st_mode & 0o7777 == 0o711


def test_a_volatile_layer_is_recorded_as_one(opened: Opened, graph: Path) -> None:
    store = opened()
    store.apply_staged_layer(store.prepare_staged_layer(TarDiffer(tar("a"))), id="one", volatile=True)
    assert "one" in (graph / "overlay-layers/volatile-layers.json").read_text()


def test_what_is_being_made_ready_is_no_garbage(opened: Opened, graph: Path) -> None:
    store, other = opened(), opened()
    output = store.prepare_staged_layer(TarDiffer(tar("a")))
    assert other.plan_gc().steps == ()
    assert [finding.kind for finding in other.check().findings] == []
    other.gc()
    store.apply_staged_layer(output, id="one")
    _nothing_is_left(graph)


def test_what_a_dead_process_made_ready_goes_with_the_next_write(opened: Opened, graph: Path) -> None:
    """And not with reading, nor while it is in use."""
    store = opened()
    used = store.prepare_staged_layer(TarDiffer(tar("a")))
    dead = graph / "overlay/staging/1"
    (dead / "dir").mkdir(parents=True)
    (dead / "staging.lock").touch()
    assert len(opened().layers) == 0
    assert dead.exists()
    opened().layers.create(id="new")
    assert os.listdir(graph / "overlay/staging") == [os.path.basename(os.path.dirname(used.target))]
    store.apply_staged_layer(used, id="one")
    _nothing_is_left(graph)


def test_threads_make_layers_ready_at_the_same_time(opened: Opened, graph: Path) -> None:
    """Each in its own directory; the unpackers are spawned then, as forking a process with threads is no good."""
    store = opened()
    together = threading.Barrier(3, timeout=60)
    problems: list[BaseException] = []

    class Waiting(TarDiffer):
        def apply(self, target: str, options: DifferOptions) -> StagedOutput:
            together.wait()
            return super().apply(target, options)

    def make(id: str) -> None:
        try:
            output = store.prepare_staged_layer(Waiting(tar((id, id.encode()))))
            store.apply_staged_layer(output, id=id)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=make, args=(id,)) for id in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    for id in ("one", "two", "three"):
        with store.mounted(id) as root:
            assert (root / id).read_text() == id
    _nothing_is_left(graph)
