"""A plan says what would go, and applying it does just that, or nothing."""

import copy
import json
import pickle
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import orlop
import peers
import trees
from interface import Disk
from orlop.errors import (
    BadRecords,
    Conflict,
    ImageUsedByContainer,
    LayerHasChildren,
    LayerUnknown,
    LayerUsedByContainer,
    LayerUsedByImage,
    LockTimeout,
    PlanOutdated,
)
from orlop.model.events import StepDone
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.plan import Kept, Plan
from tarballs import Open, tar


def fill(store: orlop.Store) -> None:
    """base <- middle <- top of image "app" with container "box"; image "base-image" of base; "lone"."""
    store.layers.put(tar("a/", ("a/file", b"x" * 50_000)), id="base")
    store.layers.put(tar(("b", b"y" * 30_000)), id="middle", parent="base", data={"Cache": b"c" * 9000})
    store.layers.put(tar("c"), id="top", parent="middle")
    store.layers.create(id="lone")
    store.images.create(id="app", names=["app-name"], layer="top", data={"manifest": b"{}"})
    store.images.create(id="base-image", layer="base")
    store.containers.create(id="box", image="app", layer="box-layer", data={"k": b"v"})
    store.containers.run_directory("box")


def goes(plan: Plan) -> list[tuple[str, str]]:
    return [(step.kind, step.id) for step in plan.steps]


def what_is(store: orlop.Store) -> list[set[str]]:
    return [{str(record.id) for record in kind} for kind in (store.layers, store.images, store.containers)]


def test_a_container_goes_with_its_layer_and_an_image_with_what_it_alone_needs(
    store: orlop.Store, disk: Disk
) -> None:
    fill(store)
    plan = store.plan_delete("app-name", "box")
    assert goes(plan) == [
        ("container", "box"),
        ("image", "app"),
        ("layer", "box-layer"),
        ("layer", "top"),
        ("layer", "middle"),
    ]
    reasons = {step.id: step.reason for step in plan.steps}
    assert reasons["box"] == reasons["app"] == "it was asked for"
    assert reasons["box-layer"] == "it is the layer of container box"
    assert reasons["top"] == reasons["middle"] == "only image app needs it"
    assert plan.keeps == (Kept("layer", "base", reason="image base-image needs it"),)
    for step in plan.steps:
        assert step.action == "remove"
        assert Path(step.path).is_absolute()
        assert step.age_seconds is not None
        assert 0 <= step.age_seconds < 100
    sizes = {step.id: step.size_bytes for step in plan.steps}
    assert sizes["middle"] > 39_000
    assert plan.freed_bytes == sum(sizes.values()) > 0
    before = what_is(store)
    assert store.plan_delete("app", "box").json()["steps"] != []
    assert what_is(store) == before
    heard: list[object] = []
    outcome = store.apply(plan, heard.append)
    assert (outcome.verb, outcome.done, outcome.failed) == ("delete", plan.steps, ())
    assert outcome.freed_bytes == plan.freed_bytes
    assert heard == [StepDone(step) for step in plan.steps]
    assert what_is(store) == [{"base", "lone"}, {"base-image"}, set()]
    assert not any(Path(step.path).exists() for step in plan.steps)
    assert not disk.path("containers", "box", run=True).exists()
    assert not disk.path("layers", "middle").exists()
    assert store.plan_gc().steps == ()


def test_images_that_share_layers_go_together_with_those(store: orlop.Store) -> None:
    fill(store)
    store.containers.delete("box")
    for refs in (("app", "base-image"), ("base-image", "app")):
        plan = store.plan_delete(*refs)
        assert {id for kind, id in goes(plan) if kind == "layer"} == {"top", "middle", "base"}
        assert plan.keeps == ()
    store.apply(plan)
    assert what_is(store) == [{"lone"}, set(), set()]


def test_a_layer_goes_after_those_that_are_built_on_it(store: orlop.Store) -> None:
    fill(store)
    store.layers.create(id="on-lone", parent="lone")
    store.layers.create(id="on-that", parent="on-lone")
    store.layers.create(id="on-top", parent="top")
    plan = store.plan_delete("lone", "on-that", "on-lone")
    assert goes(plan) == [("layer", "on-that"), ("layer", "on-lone"), ("layer", "lone")]
    # And one that is in the way of an image's own layers.
    plan = store.plan_delete("app", "box", "on-top")
    assert [id for kind, id in goes(plan) if kind == "layer"] == ["box-layer", "on-top", "top", "middle"]
    with_what_stays = store.plan_delete("app", "box")
    assert [id for kind, id in goes(with_what_stays) if kind == "layer"] == ["box-layer"]
    assert with_what_stays.keeps == (Kept("layer", "top", reason="layer on-top is built on it"),)
    store.apply(plan)
    assert what_is(store)[0] == {"base", "lone", "on-lone", "on-that"}


@pytest.mark.parametrize(
    ("refs", "error"),
    [
        (("nobody",), LayerUnknown),
        (("lone", "nobody"), LayerUnknown),
        (("app",), ImageUsedByContainer),
        (("middle",), LayerHasChildren),
        (("lone", "top"), LayerHasChildren),
        (("base", "middle", "top"), LayerUsedByImage),
    ],
)
def test_what_something_else_needs_cannot_be_planned_away(
    store: orlop.Store, refs: tuple[str, ...], error: type[Exception]
) -> None:
    fill(store)
    if error is LayerUsedByImage:
        store.containers.delete("box")
    before = what_is(store)
    with pytest.raises(error):
        store.plan_delete(*refs)
    assert what_is(store) == before


def test_a_layer_that_belongs_to_a_container_means_the_container(store: orlop.Store) -> None:
    fill(store)
    assert goes(store.plan_delete("box-layer")) == [("container", "box"), ("layer", "box-layer")]
    with pytest.raises(LayerUsedByContainer):
        store.layers.delete("box-layer")


def test_a_plan_without_anything_is_a_plan(store: orlop.Store) -> None:
    fill(store)
    plan = store.plan_delete()
    assert plan == Plan("delete", ())
    assert store.apply(plan).done == ()


def test_a_layer_that_a_damaged_record_mentions_cannot_be_planned_away(
    store: orlop.Store, disk: Disk
) -> None:
    fill(store)
    store.images.create(id="damaged", layer="lone")
    path = disk.path("images", "images.json")
    text = path.read_text()
    path.write_text(json.dumps([r | {"created": 5} if r["id"] == "damaged" else r for r in json.loads(text)]))
    with store._engine.images.locks[0].writing() as lock:
        lock.renew()
    with pytest.raises(BadRecords, match="damaged record"):
        store.plan_delete("lone")
    path.write_text(text)
    with store._engine.images.locks[0].writing() as lock:
        lock.renew()


def test_a_mapped_copy_goes_with_its_image_unless_something_is_built_on_it(owning: orlop.Store) -> None:
    maps = IDMappings((IDMap(0, 100_000, 65536),), (IDMap(0, 100_000, 65536),))
    owning.layers.put(tar("a"), id="base")
    owning.images.create(id="app", layer="base")
    box = owning.containers.create(image="app", mappings=maps)
    (copied,) = owning.images["app"].mapped_layers
    plan = owning.plan_delete("app", box.id)
    assert [id for kind, id in goes(plan) if kind == "layer"] == [box.layer, copied, "base"]
    owning.layers.create(id="child", parent=copied)
    owning.containers.delete(box.id)
    plan = owning.plan_delete("app")
    assert plan.keeps[0] == Kept("layer", copied, reason="layer child is built on it")
    assert owning.images.delete("app", dry_run=True) == tuple(
        id for kind, id in goes(plan) if kind == "layer"
    )
    owning.apply(plan)
    assert copied in owning.layers
    owning.layers.delete("child")
    owning.layers.delete(copied)


def test_a_layer_that_is_mounted_is_said_to_be(store: orlop.Store) -> None:
    fill(store)
    store.mount("box")
    plan = store.plan_delete("box")
    assert "mounted" in plan.steps[1].reason
    store.apply(plan)
    assert "box-layer" not in store.layers


def test_a_layer_that_somebody_mounted_who_counts_elsewhere_is_said_to_be(
    store: orlop.Store, disk: Disk, place: Path
) -> None:
    """The counts of mounts lie in the run root; what a container of another one shows goes with the plan."""
    fill(store)
    before = store.plan_delete("box")
    assert not any("mounted" in step.reason for step in before.steps)
    other = orlop.open_store(place / "graph", place / "run2", disk.driver, durability="none")
    path = other.mount("box")
    if disk.driver == "vfs":  # nothing is mounted there
        subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        plan = store.plan_delete("box")
        assert f"something is mounted at {path}" in plan.steps[1].reason
        with pytest.raises(PlanOutdated, match="mounts of layer box-layer"):
            store.apply(before)
        assert "box-layer" in store.layers
    finally:
        peers.unmount_below(place / "graph")
    if disk.driver == "overlay":
        other.unmount("box", force=True)
    store.apply(before)
    assert "box-layer" not in store.layers


# --- out of date ----------------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[orlop.Store], object], str]] = {
    "a child of a layer": (lambda s: s.layers.create(id="new", parent="top"), "children of layer top"),
    "another image of a layer": (
        lambda s: s.images.create(id="new", layer="middle"),
        "images of layer middle",
    ),
    "a container of the image": (lambda s: s.containers.create(image="app"), "containers of image app"),
    "another name": (lambda s: s.images.add_names("app", ["precious"]), "image app has changed"),
    "other data": (lambda s: s.images.data("app").put("manifest", b"[]"), "image app has changed"),
    "a mount": (lambda s: s.mount("box"), "mounts of layer box-layer"),
    "a container that is gone": (lambda s: s.containers.delete("box"), "container box has gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_that_does_not_hold_any_more_is_refused_and_nothing_is_done(
    store: orlop.Store, other: orlop.Store, change: str
) -> None:
    fill(store)
    plan = store.plan_delete("app", "box")
    act, text = CHANGES[change]
    act(other)
    before = what_is(other)
    with pytest.raises(PlanOutdated, match=text) as refused:
        store.apply(plan)
    assert isinstance(refused.value, Conflict)
    assert "nothing was done" in str(refused.value)
    assert what_is(store) == before
    if "box" in other.containers:
        other.unmount("box", force=True)


def test_what_could_go_as_well_by_now_stays(store: orlop.Store, other: orlop.Store) -> None:
    fill(store)
    plan = store.plan_delete("app", "box")
    other.images.create(id="new", layer="base")
    other.images.delete("base-image")
    other.images.delete("new")  # with base, were it not for the layers above
    other.layers.put(tar("z"), id="new-layer")
    store.apply(plan)
    assert what_is(store) == [{"base", "lone", "new-layer"}, set(), set()]


def test_a_plan_is_applied_once(store: orlop.Store) -> None:
    fill(store)
    plan = store.plan_delete("lone")
    store.apply(plan)
    with pytest.raises(PlanOutdated, match="layer lone has gone"):
        store.apply(plan)


def test_a_plan_may_be_kept_and_applied_by_another_program(store: orlop.Store, open_store: Open) -> None:
    fill(store)
    made = store.plan_delete("lone")
    plan = pickle.loads(pickle.dumps(copy.copy(made)))
    assert plan == made
    open_store().apply(plan)
    assert "lone" not in store.layers


def test_only_plans_that_a_verb_made_are_applied(store: orlop.Store) -> None:
    with pytest.raises(TypeError, match="wanted a plan, found dict"):
        store.apply({"verb": "gc"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'burn'"):
        store.apply(Plan("burn", ()))  # type: ignore[arg-type]


# --- wiping ---------------------------------------------------------------------------------------------------


def test_everything_goes_when_a_store_is_wiped_by_plan(store: orlop.Store, disk: Disk) -> None:
    fill(store)
    lost = store.create_storage_layer()
    plan = store.plan_wipe()
    found = goes(plan)
    assert {id for kind, id in found if kind == "layer"} == {
        "base",
        "middle",
        "top",
        "lone",
        "box-layer",
        lost,
    }
    assert {id for kind, id in found if kind != "layer"} == {"app", "base-image", "box"}
    assert plan.freed_bytes == sum(step.size_bytes for step in plan.steps)
    outcome = store.apply(plan)
    assert outcome.done == plan.steps
    assert what_is(store) == [set(), set(), set()]
    assert not disk.in_driver(lost)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.layers.create(),
        lambda s: s.images.create(),
        lambda s: s.containers.create(),
        lambda s: s.layers.delete("lone"),
        lambda s: s.create_storage_layer(id="lost"),
    ],
)
def test_a_plan_to_wipe_holds_for_just_what_was_there(
    store: orlop.Store, other: orlop.Store, change: Callable[[orlop.Store], object]
) -> None:
    fill(store)
    plan = store.plan_wipe()
    change(other)
    before = what_is(other)
    with pytest.raises(PlanOutdated):
        store.apply(plan)
    assert what_is(store) == before
    store.gc()


# --- what they cost -------------------------------------------------------------------------------------------


def test_a_direct_deletion_walks_no_tree(store: orlop.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import orlop.stream.occupancy

    fill(store)

    def walked(*args: object, **how: object) -> int:
        raise AssertionError("a tree was walked")

    monkeypatch.setattr(orlop.stream.occupancy, "occupied", walked)
    monkeypatch.setattr(orlop.stream.occupancy, "freed_by_removing", walked)
    store.containers.delete("box")
    store.images.delete("app")
    store.delete("lone")
    store.wipe()
    with pytest.raises(AssertionError):
        store.layers.create(id="a")
        store.plan_delete("a")


@pytest.mark.parametrize("verb", ["delete", "wipe"])
def test_planning_changes_nothing_but_finishes_what_every_reader_finishes(
    store: orlop.Store, open_store: Open, disk: Disk, verb: str
) -> None:
    """A layer whose deletion was decided goes, as it would if layers were listed; then nothing at all changes."""
    fill(store)
    table = disk.path("layers", "layers.json")
    records = json.loads(table.read_text())
    (lone,) = [record for record in records if record["id"] == "lone"]
    lone["flags"] = {"incomplete": True}
    table.write_text(json.dumps(records))
    planner = open_store()
    plans = []
    for changed in (True, False):
        before = trees.listing(disk.place / "graph", atime=False)
        plans.append(planner.plan_delete("app", "box") if verb == "delete" else planner.plan_wipe())
        assert (trees.listing(disk.place / "graph", atime=False) != before) is changed
    assert not disk.in_driver("lone")
    assert [step.target for step in plans[0].steps] == [step.target for step in plans[1].steps]
    assert "lone" not in {step.id for step in plans[0].steps}
    planner.apply(plans[0])


def test_planning_waits_for_who_is_writing(store: orlop.Store, disk: Disk) -> None:
    """A plan is of one moment: never half of what another program does."""
    fill(store)
    found: list[BaseException] = []

    def impatient() -> None:
        roots = (disk.place / "graph", disk.place / "run", disk.driver)
        try:
            orlop.open_store(*roots, durability="none", lock_timeout=0.1).plan_delete("lone")
        except orlop.StorageError as error:
            found.append(error)

    with store._engine.layers.locks[0].writing():
        thread = threading.Thread(target=impatient)
        thread.start()
        thread.join()
    assert [type(error) for error in found] == [LockTimeout]
