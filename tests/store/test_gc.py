"""Garbage is what belongs to nothing. Everything else stays, whatever it looks like."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import invariants
import orlop
import peers
import trees
from interface import Disk, row
from orlop.errors import BadRecords, PlanOutdated
from orlop.model.events import StepDone, StepFailed
from orlop.model.plan import Plan
from orlop.system.ownlock import own
from tarballs import tar

IDS = [digit * 64 for digit in "123456789abcdef"]


def scatter(store: orlop.Store, disk: Disk) -> dict[str, str]:
    """Garbage of every kind that all drivers have; where each piece lies, and why it is one."""
    for id in (IDS[3], "image"):
        store.images.create(id=id, data={"manifest": b"{}"})
    store.containers.create(id="box")
    lost = store.create_storage_layer()
    store.create_storage_layer(id="short")
    home = disk.place / "graph" / disk.driver / ("dir" if disk.driver == "vfs" else "")
    where = {
        home / lost: "no layer has this id",
        home / "short": "no layer has this id",
        disk.path("layers", "gone.tar-split.gz"): "no layer has this id",
        disk.path("layers", "short", "Cache"): "no layer has this id",
        disk.path("layers", IDS[0], "Cache"): "no layer has this id",
        disk.path("images", IDS[1], "manifest"): "no image has this id",
        disk.path("images", IDS[1], "userdata", run=True): "no image has this id",
        disk.path("containers", IDS[2], "userdata", "config.json"): "no container has this id",
        disk.path("containers", IDS[2], "userdata", run=True): "no container has this id",
        disk.path("images", ".tmp-images.json123"): "its writer is gone, and never finished it",
        disk.path("layers", "tmp", "temp-dir-7", "0-layer"): "the process that set it aside is gone",
    }
    found = {}
    for path, why in where.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 5000)
        top = path
        while top.parent.name not in (disk.driver, "dir", "tmp") and not top.parent.name.startswith(
            f"{disk.driver}-"
        ):
            top = top.parent
        found[str(top)] = why
    for id in (IDS[3], "image"):
        unfinished = disk.path("images", id, ".tmp-manifest99")  # of a record that is there
        unfinished.write_bytes(b"half")
        found[str(unfinished)] = "its writer is gone, and never finished it"
    return found


def whole(place: Path) -> dict[str, Any]:
    """All files below the roots and what is in them, but for the locks, which every program writes to."""
    return {
        path: facts
        for path, facts in trees.listing(place, atime=False).items()
        if not path.endswith(".lock")
        and "mtime" in facts
        and not path.endswith(("-layers", "-images", "tmp"))
    }


@row("GarbageCollect")
def test_what_belongs_to_nothing_is_taken_away_and_nothing_else(store: orlop.Store, disk: Disk) -> None:
    base = store.layers.put(tar("a/", ("a/file", b"x" * 9000)), data={"Cache": b"kept"})
    top = store.layers.put(tar("b"), parent=base.id)
    image = store.images.create(layer=top.id, data={"manifest": b"{}"})
    box = store.containers.create(image=image.id, data={"k": b"v"})
    store.images.directory(image.id)
    store.containers.run_directory(box.id)
    garbage = scatter(store, disk)
    plan = store.plan_gc()
    assert {step.path: step.reason for step in plan.steps} == garbage
    assert {step.action for step in plan.steps} == {"remove"}
    assert {step.id for step in plan.steps} > {"short", IDS[0], IDS[1], IDS[2]}
    assert all(step.size_bytes >= 4096 for step in plan.steps)
    assert all(step.age_seconds is not None and 0 <= step.age_seconds < 100 for step in plan.steps)
    assert plan.freed_bytes == sum(step.size_bytes for step in plan.steps)
    assert plan.keeps == ()
    done = store.gc()
    assert {step.path for step in done.done} == set(garbage)
    assert (done.failed, done.freed_bytes) == ((), plan.freed_bytes)
    assert not any(os.path.lexists(path) for path in garbage)
    assert store.plan_gc() == Plan("gc", ())
    assert store.layers.data(base.id)["Cache"] == b"kept"
    assert store.images.data(image.id)["manifest"] == b"{}"
    assert store.containers.data(box.id)["k"] == b"v"
    with store.mounted(box.id) as root:
        assert (root / "a/file").stat().st_size == 9000


def test_a_plan_and_a_dry_run_change_nothing(store: orlop.Store, disk: Disk, place: Path) -> None:
    store.layers.create()
    garbage = scatter(store, disk)
    store.plan_gc()
    before = whole(place)
    plan = store.plan_gc()
    outcome = store.gc(dry_run=True)
    assert whole(place) == before
    assert {step.path for step in plan.steps} == {step.path for step in outcome.done} == set(garbage)
    store.gc()


def test_an_applied_plan_tells_of_each_step(store: orlop.Store, disk: Disk) -> None:
    scatter(store, disk)
    plan = store.plan_gc()
    heard: list[object] = []
    outcome = store.apply(plan, heard.append)
    assert heard == [StepDone(step) for step in plan.steps]
    assert outcome.json()["done"] == [step.json() for step in plan.steps]


def test_names_that_no_program_made_up_stay(store: orlop.Store, disk: Disk) -> None:
    store.images.create()
    store.containers.create()
    for kind in ("layers", "images", "containers"):
        for name in ("backup", "A" * 64, "1" * 63, "lost+found"):
            disk.path(kind, name).mkdir()
        disk.path(kind, "note.txt").write_text("of the administrator")
    assert store.gc().done == ()
    assert disk.path("layers", "backup").is_dir()


def test_what_a_damaged_record_mentions_stays(store: orlop.Store, disk: Disk) -> None:
    layer = store.layers.create()
    image = store.images.create(layer=layer.id)
    store.images.create(id="other", data={"manifest": b"{}"})
    box = store.containers.create(data={"k": b"v"})
    store.layers.create(id="lone")
    files = {kind: disk.path(f"{kind}s", f"{kind}s.json") for kind in ("layer", "image", "container")}
    texts = {kind: path.read_bytes() for kind, path in files.items()}
    for kind in files:
        records = json.loads(texts[kind])
        damaged = [
            r | {"created": "yesterday"} if r["id"] in (layer.id, image.id, box.id) else r for r in records
        ]
        _rewrite(store, kind, json.dumps(damaged).encode())
    plan = store.plan_gc()
    assert plan.steps == ()
    # The layer of the damaged container is needed by nothing that can be read, and has a record.
    assert {kept.id for kept in plan.keeps} >= {layer.id, box.id}
    assert all("damaged record" in kept.reason for kept in plan.keeps)
    assert store.gc().done == ()
    for kind, text in texts.items():
        _rewrite(store, kind, text)
    assert store.containers.data(box.id)["k"] == b"v"


def _rewrite(store: orlop.Store, kind: str, text: bytes) -> None:
    """Put another content in a table, as a program does that renews its token."""
    table = getattr(store._engine, f"{kind}s")
    Path(table.files[0].path).write_bytes(text)
    with table.locks[0].writing() as lock:
        lock.renew()


def test_if_a_record_needs_a_layer_that_lost_its_own_no_layer_goes(store: orlop.Store, disk: Disk) -> None:
    """The peers collect the base, and with it all that is built on it."""
    base = store.layers.put(tar("a"))
    top = store.layers.put(tar("b"), parent=base.id)
    lone = store.create_storage_layer()
    text = disk.path("layers", "layers.json").read_bytes()
    records = json.loads(text)
    _rewrite(store, "layer", json.dumps([r for r in records if r["id"] != base.id]).encode())
    plan = store.plan_gc()
    assert plan.steps == ()
    assert {kept.id for kept in plan.keeps} == {base.id, lone}
    assert all("records were lost" in kept.reason for kept in plan.keeps)
    assert store.gc().done == ()
    _rewrite(store, "layer", text)
    with store.mounted(top.id) as root:
        assert (root / "a").exists()
    assert [step.id for step in store.gc().done] == [lone]


@pytest.mark.parametrize("kind", ["image", "mapped", "container"])
def test_a_layer_that_an_image_or_a_container_names_stays_without_a_record(
    store: orlop.Store, disk: Disk, kind: str
) -> None:
    layer = store.layers.put(tar("a"))
    other = store.layers.create()
    if kind == "container":
        needed = store.containers.create().layer
    else:
        store.images.create(id="i", layer=layer.id if kind == "image" else other.id)
        needed = layer.id
        if kind == "mapped":
            images = json.loads(disk.path("images", "images.json").read_bytes())
            _rewrite(store, "image", json.dumps([r | {"mapped-layers": [layer.id]} for r in images]).encode())
    text = disk.path("layers", "layers.json").read_bytes()
    _rewrite(store, "layer", json.dumps([r for r in json.loads(text) if r["id"] != needed]).encode())
    assert store.gc().done == ()
    assert disk.in_driver(needed)
    if kind != "container":
        assert disk.path("layers", f"{needed}.tar-split.gz").exists()
    _rewrite(store, "layer", text)


def test_what_is_mounted_stays_until_it_is_not(store: orlop.Store, disk: Disk, place: Path) -> None:
    lost = store.create_storage_layer()
    store.containers.create()
    box = disk.path("containers", IDS[0], "userdata", "shm")
    box.mkdir(parents=True)
    if disk.driver == "overlay":
        store.driver().mount(lost)
    else:
        subprocess.run(["mount", "-t", "tmpfs", "o", place / f"graph/vfs/dir/{lost}"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "shm", box], check=True)
    plan = store.plan_gc()
    assert plan.steps == ()
    assert {kept.id for kept in plan.keeps} == {lost, IDS[0]}
    assert all("mounted at" in kept.reason for kept in plan.keeps)
    assert store.gc().done == ()
    peers.unmount_below(place / "graph" / disk.driver)
    peers.unmount_below(box)
    assert {step.id for step in store.gc().done} == {lost, IDS[0]}


def test_one_that_cannot_be_taken_away_is_told_and_the_others_go(
    store: orlop.Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, free = sorted([store.create_storage_layer(), store.create_storage_layer()])
    remove = type(store.driver()).remove

    def refusing(self: Any, id: str, set_aside: Any) -> None:
        if id == stuck:
            raise OSError(16, "Device or resource busy", id)
        remove(self, id, set_aside)

    heard: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(type(store.driver()), "remove", refusing)
        outcome = store.gc(progress=heard.append)
    assert [step.id for step in outcome.done] == [free]
    ((step, text),) = outcome.failed
    assert step.id == stuck
    assert "busy" in text
    assert heard == [StepDone(outcome.done[0]), StepFailed(step, text)]
    assert outcome.freed_bytes == outcome.done[0].size_bytes
    assert [step.id for step in store.gc().done] == [stuck]


def test_what_cannot_be_deleted_once_it_is_set_aside_is_told(
    store: orlop.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = store.create_storage_layer()

    def refusing(path: str, **how: object) -> None:
        raise OSError(5, "Input/output error", path)

    with monkeypatch.context() as patch:
        patch.setattr("orlop.system.files.remove_tree", refusing)
        outcome = store.gc()
    assert [step.id for step in outcome.done] == [lost]
    assert "Input/output error" in outcome.failed[0][1]
    (step,) = store.gc().done
    assert "temp-dir-" in step.path


# --- while others work ----------------------------------------------------------------------------------------

PUTTING = """
import sys, orlop
graph, run, driver = sys.argv[1:]
with orlop.open_store(graph, run, driver, durability="none") as store:
    print("open", flush=True)
    store.layers.put(sys.stdin.buffer, id="put", data={"Cache": b"c"})
    print("done", flush=True)
"""
COLLECTING = """
import sys, orlop
graph, run, driver = sys.argv[1:]
with orlop.open_store(graph, run, driver, durability="none") as store:
    print([step.path for step in store.gc().done], flush=True)
"""


def _program(text: str, disk: Disk) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", text, str(disk.place / "graph"), str(disk.place / "run"), disk.driver]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, encoding="latin-1")


def test_nothing_of_a_layer_that_is_being_put_is_touched(store: orlop.Store, disk: Disk) -> None:
    store.layers.create(id="before")
    content = tar(*[(f"file{n}", bytes([n]) * 40_000) for n in range(30)]).getvalue().decode("latin-1")
    with _program(PUTTING, disk) as putting:
        assert putting.stdin
        assert putting.stdout
        putting.stdin.write(content[:700_000])
        putting.stdin.flush()
        _until(lambda: disk.in_driver("put"))
        with _program(COLLECTING, disk) as collecting:
            assert collecting.stdout
            time.sleep(0.5)
            assert collecting.poll() is None  # it waits
            assert disk.in_driver("put")
            putting.stdin.write(content[700_000:])
            putting.stdin.close()
            putting.stdin = None
            assert collecting.stdout.read() == "[]\n"
        assert putting.stdout.read() == "open\ndone\n"
    assert "put" in store.layers
    with store.mounted("put") as root:
        assert len(list(root.iterdir())) == 30


def test_what_is_left_of_a_killed_put_goes(store: orlop.Store, disk: Disk) -> None:
    store.layers.create(id="before")
    with _program(PUTTING, disk) as putting:
        assert putting.stdin
        putting.stdin.write(tar(("a", b"x" * 900_000)).getvalue().decode("latin-1")[:700_000])
        putting.stdin.flush()
        _until(lambda: disk.in_driver("put"))
        putting.send_signal(signal.SIGKILL)
    plan = store.plan_gc()
    assert ("layer", "put", UNFINISHED) in [(step.kind, step.id, step.reason) for step in plan.steps]
    assert disk.in_driver("put")  # who only looks leaves it
    outcome = store.apply(plan)
    assert (outcome.done, outcome.failed) == (plan.steps, ())
    assert [layer.id for layer in store.layers] == ["before"]
    assert not disk.in_driver("put")
    assert [name for name in os.listdir(disk.path("layers")) if name.startswith((".tmp", "put"))] == []


UNFINISHED = "it was never finished, or its deletion was not"


def _flag(store: orlop.Store, disk: Disk, id: str) -> None:
    """As it is when a program dies that has decided to delete a layer."""
    records = json.loads(disk.path("layers", "layers.json").read_bytes())
    flagged = [r | {"flags": {"incomplete": True}} if r["id"] == id else r for r in records]
    _rewrite(store, "layer", json.dumps(flagged).encode())


def test_a_deletion_that_was_decided_is_planned_with_all_that_goes(store: orlop.Store, disk: Disk) -> None:
    store.layers.put(tar("a"), id="base", data={"Cache": b"c" * 9000})
    store.images.create(id="image", layer="base", data={"manifest": b"{}"})
    store.containers.create(id="box", layer="box-layer")
    store.layers.create(id="bare")
    _flag(store, disk, "base")
    _flag(store, disk, "box-layer")
    _flag(store, disk, "bare")
    plan = store.plan_gc()
    assert [(step.kind, step.id) for step in plan.steps] == [
        ("container", "box"),
        ("image", "image"),
        ("layer", "base"),
        ("layer", "box-layer"),
        ("layer", "bare"),
    ]
    assert {step.reason for step in plan.steps} == {UNFINISHED}
    assert plan.steps[2].size_bytes > 9000
    assert disk.record("images", "image") is not None
    outcome = store.gc()
    assert {step.target for step in outcome.done} == {step.target for step in plan.steps}
    assert outcome.failed == ()
    assert len(store.layers) == len(store.images) == len(store.containers) == 0


def test_an_unfinished_layer_that_resists_is_told(
    store: orlop.Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.layers.create(id="stuck")
    store.layers.create(id="free")
    _flag(store, disk, "stuck")
    _flag(store, disk, "free")
    remove = type(store.driver()).remove

    def refusing(self: Any, id: str, set_aside: Any) -> None:
        if id == "stuck":
            raise OSError(16, "Device or resource busy", id)
        remove(self, id, set_aside)

    with monkeypatch.context() as patch:
        patch.setattr(type(store.driver()), "remove", refusing)
        outcome = store.gc()
        assert [step.id for step in outcome.done] == ["free"]
        assert [(step.id, "busy" in text) for step, text in outcome.failed] == [("stuck", True)]
    assert [step.id for step in store.gc().done] == ["stuck"]
    assert len(store.layers) == 0


def _until(true: Any) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_another_is_deleting_is_left_to_him(store: orlop.Store, disk: Disk) -> None:
    root = disk.path("layers", "tmp")
    (root / "temp-dir-5/0-layer").mkdir(parents=True)
    (root / "temp-dir-6/0-layer").mkdir(parents=True)
    held = own(str(root / "lock-5"))
    assert held is not None
    assert [step.path for step in store.gc().done] == [str(root / "temp-dir-6")]
    assert (root / "temp-dir-5/0-layer").is_dir()
    held.close()
    assert [step.path for step in store.gc().done] == [str(root / "temp-dir-5")]


# --- a plan that is out of date -------------------------------------------------------------------------------


def test_a_plan_of_which_something_came_into_use_is_refused_whole(
    store: orlop.Store, other: orlop.Store, disk: Disk
) -> None:
    lost, second = store.create_storage_layer(), store.create_storage_layer()
    known = store.layers.create()
    plan = store.plan_gc()
    text = disk.path("layers", "layers.json").read_bytes()
    records = json.loads(text)
    _rewrite(other, "layer", json.dumps([*records, records[0] | {"id": lost, "names": []}]).encode())
    with pytest.raises(PlanOutdated, match=lost) as refused:
        store.apply(plan)
    assert refused.value.path.endswith(lost)
    assert disk.in_driver(lost)
    assert disk.in_driver(second)
    outcome = store.gc()
    assert [step.id for step in outcome.done] == [second]
    assert {layer.id for layer in store.layers} == {known.id, lost}


def test_what_came_into_use_since_it_was_seen_is_left_alone_by_a_collection(
    store: orlop.Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orlop.store import gc

    lost, second = store.create_storage_layer(), store.create_storage_layer()
    store.layers.create()
    plan = gc.plan

    def late(engine: Any) -> Plan:
        found = plan(engine)
        records = json.loads(disk.path("layers", "layers.json").read_bytes())
        _rewrite(store, "layer", json.dumps([*records, records[0] | {"id": lost}]).encode())
        return found

    monkeypatch.setattr(gc, "plan", late)
    assert [step.id for step in store.gc().done] == [second]
    assert disk.in_driver(lost)


def test_what_somebody_else_took_away_meanwhile_is_no_obstacle(
    store: orlop.Store, other: orlop.Store
) -> None:
    store.create_storage_layer()
    plan = store.plan_gc()
    other.gc()
    last = store.create_storage_layer()
    outcome = store.apply(plan)
    assert (outcome.done, outcome.failed, outcome.freed_bytes) == ((), (), 0)
    assert [step.id for step in store.gc().done] == [last]  # a plan takes nothing that it does not list


def test_a_plan_is_refused_beside_a_table_that_was_lost_since(store: orlop.Store, disk: Disk) -> None:
    store.layers.create(id="kept")
    lost = store.create_storage_layer()
    plan = store.plan_gc()
    text = disk.path("layers", "layers.json").read_bytes()
    _rewrite(store, "layer", b"")
    with pytest.raises(BadRecords, match="missing or empty"):
        store.apply(plan)
    assert disk.in_driver(lost)
    _rewrite(store, "layer", text)
    store.apply(plan)


# --- ways of opening a store ----------------------------------------------------------------------------------


@pytest.fixture(params=["vfs", "overlay"])
def driver(request: pytest.FixtureRequest) -> str:
    peers.need_root()
    driver: str = request.param
    return driver


def test_a_split_store_keeps_what_either_table_needs(place: Path, driver: str) -> None:
    options: dict[str, Any] = {"driver": driver, "durability": "none"}
    with orlop.open_store(place / "graph", place / "run", **options) as plain:
        plain.images.create(id=IDS[0], data={"manifest": b"old"})
        plain.layers.create(id="old")
    store = orlop.open_store(place / "graph", place / "run", image_store=place / "images", **options)
    layer = store.layers.put(tar("a"), data={"Cache": b"c"})
    image = store.images.create(layer=layer.id, data={"manifest": b"new"})
    own_files = Path(store.images.directory(image.id))
    garbage = [
        place / f"graph/{driver}-images/{IDS[1]}",
        place / f"images/{driver}-images/{IDS[2]}",
        place / f"graph/{driver}-layers/{IDS[3]}",
    ]
    for path in garbage:
        path.mkdir(parents=True)
    lost = store.create_storage_layer()
    stranger = place / "images" / driver / ("dir" if driver == "vfs" else "") / IDS[4]
    stranger.mkdir()
    plan = store.plan_gc()
    assert {Path(step.path) for step in plan.steps if step.kind == "directory"} == set(garbage)
    assert [step.id for step in plan.steps if step.kind == "layer"] == [lost]
    store.apply(plan)
    assert (
        stranger.is_dir()
    )  # of the image store only what is recorded there is known; it may be another's home
    assert own_files.is_dir()
    assert store.images.data(image.id)["manifest"] == b"new"
    assert store.images.data(IDS[0])["manifest"] == b"old"
    assert store.layers.data(layer.id)["Cache"] == b"c"
    assert (place / f"graph/{driver}-layers/{layer.id}.tar-split.gz").exists()


def test_what_lies_beside_a_layer_of_the_image_store_stays_if_its_table_was_lost(
    place: Path, driver: str
) -> None:
    store = orlop.open_store(
        place / "graph", place / "run", driver, image_store=place / "images", durability="none"
    )
    layer = store.layers.put(tar("a"))
    store.layers.create(id="box")
    path = place / f"images/{driver}-layers/layers.json"
    text = path.read_bytes()
    path.write_bytes(b"[]")
    again = orlop.open_store(
        place / "graph", place / "run", driver, image_store=place / "images", durability="none"
    )
    assert [kept.id for kept in again.plan_gc().keeps] == [layer.id]
    assert again.gc().done == ()
    path.write_bytes(text)
    assert again.layers[layer.id].diff_digest == layer.diff_digest
    with again.diff(layer.id) as stream:
        assert len(stream.read(1)) == 1


def test_a_reboot_leaves_data_of_a_transient_store_that_is_collected(place: Path, driver: str) -> None:
    options: dict[str, Any] = {"driver": driver, "transient": True, "durability": "none"}
    with orlop.open_store(place / "graph", place / "run", **options) as store:
        store.layers.put(tar("a"), id="base")
        store.images.create(id="image", layer="base")
        box = store.containers.create(image="image", data={"k": b"v"})
        store.containers.directory(box.id)
        assert store.gc().done == ()
    with orlop.open_store(place / "graph", place / "rebooted", **options) as store:
        assert {step.id for step in store.gc().done} == {box.id, box.layer}
        assert [layer.id for layer in store.layers] == ["base"]
        invariants.hold(place / "graph", place / "rebooted", driver)


def test_containers_of_the_other_mode_are_not_collected(place: Path, driver: str) -> None:
    """Who opens a transient store without saying so does not see its containers, and neither the other way round."""
    options: dict[str, Any] = {"driver": driver, "durability": "none"}
    with orlop.open_store(place / "graph", place / "run", transient=True, **options) as store:
        store.layers.create(id="stable")
        moving = store.containers.create(data={"k": b"v"})
    with orlop.open_store(place / "graph", place / "run", **options) as store:
        assert moving.id not in store.containers
        assert store.plan_gc() == Plan("gc", ())
        volatile = store.containers.create(volatile=True, data={"k": b"v"})
        assert store.gc().done == ()
    with orlop.open_store(place / "graph", place / "run", transient=True, **options) as store:
        assert volatile.id not in store.containers
        assert store.gc().done == ()
        assert store.containers.data(moving.id)["k"] == b"v"
        (place / f"graph/{driver}-containers/volatile-containers.json").write_bytes(b"[{]")
        with pytest.raises(BadRecords, match="volatile-containers"):
            store.gc()


def test_an_additional_store_is_left_as_it_is(place: Path, driver: str) -> None:
    with orlop.open_store(place / "other", place / "run2", driver, durability="none") as other:
        base = other.layers.put(tar("a"))
        other.images.create(id=IDS[0], layer=base.id, data={"manifest": b"{}"})
        other.create_storage_layer()
        for path in (
            f"{driver}-images/{IDS[1]}",
            f"{driver}-layers/{IDS[2]}",
            f"{driver}-layers/tmp/temp-dir-1",
        ):
            (place / "other" / path).mkdir(parents=True)
        (place / f"other/{driver}-images/.tmp-x").touch()
        other.shutdown()
    subprocess.run(["mount", "--bind", place / "other", place / "other"], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place / "other"], check=True)
    before = trees.listing(place / "other")
    store = orlop.open_store(
        place / "graph",
        place / "run",
        driver,
        driver_options=[f"{driver}.imagestore={place / 'other'}"],
        durability="none",
    )
    store.layers.create(id="mine", parent=base.id)
    own_files = Path(store.images.directory(IDS[0]))
    lost = store.create_storage_layer()
    assert [step.id for step in store.gc().done] == [lost]
    assert own_files.is_dir()
    assert trees.listing(place / "other") == before


def test_an_image_of_an_additional_store_that_cannot_be_read_keeps_its_directories_here(
    place: Path, driver: str
) -> None:
    with orlop.open_store(place / "other", place / "run2", driver, durability="none") as other:
        other.images.create(id=IDS[0])
        other.shutdown()
    how: dict[str, Any] = {"driver_options": [f"{driver}.imagestore={place / 'other'}"], "durability": "none"}
    with orlop.open_store(place / "graph", place / "run", driver, **how) as store:
        own_files = Path(store.images.directory(IDS[0]))
    (place / f"other/{driver}-images/images.json").write_bytes(b"[{")
    with orlop.open_store(place / "graph", place / "run", driver, **how) as store:
        plan = store.plan_gc()
        assert plan.steps == ()
        assert [kept.path for kept in plan.keeps] == [str(own_files.parent)]
        assert store.gc().done == ()
