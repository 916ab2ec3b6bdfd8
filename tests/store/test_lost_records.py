"""What lost its record is told by the check, recorded again by a repair, and never garbage in between."""

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import damaged
import damages
import peers
from damaged import Site
from damages import Damage
from orlop.errors import BadRecords
from tarballs import tar

DRIVERS = pytest.mark.parametrize("driver", ["vfs", "overlay"])
KINDS = ("layer", "image", "container")
Make = Callable[[str], Site]

STRAY = {"layer": "5" * 64, "image": "6" * 64, "container": "7" * 64}
"""The ids of garbage."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    peers.need_root()
    place = tmp_path_factory.mktemp("whole")
    built: dict[str, Site] = {}

    def of(driver: str) -> Site:
        if driver not in built:
            built[driver] = damaged.build(place / driver, driver)
            peers.unmount_below(place)
        return built[driver]

    yield of
    peers.unmount_below(place)


@pytest.fixture
def site(place: Path, whole: Make) -> Iterator[Make]:
    """A copy of that store, to be damaged."""
    yield lambda driver: damaged.copy(whole(driver), place / "site")
    peers.unmount_below(place)


def nameless(kind: str, id: str) -> Callable[[Site], None]:
    def change(records: list[Any]) -> None:
        next(record for record in records if record["id"] == id)["id"] = 5

    return lambda site: site.edit(kind, change)


def numbers(kind: str, id: str) -> Callable[[Site], None]:
    """Some other JSON where a record was."""

    def change(records: list[Any]) -> None:
        at = next(place for place, record in enumerate(records) if record["id"] == id)
        records[at] = [1, 2]

    return lambda site: site.edit(kind, change)


def emptied(kind: str) -> Callable[[Site], None]:
    return lambda site: site.edit(kind, list.clear)


def ids(site: Site) -> dict[str, str]:
    return {"layer": site.sibling, "image": site.image, "container": site.box}


def scatter(site: Site) -> None:
    """Garbage of each kind, which has no record and never had one."""
    with site.open() as store:
        store.create_storage_layer(id=STRAY["layer"])
    for kind in ("image", "container"):
        path = site.table(kind) / STRAY[kind] / "item"
        path.parent.mkdir()
        path.write_text("x")
    site.split("8" * 64).write_text("x")


# --- damaged records without an id ----------------------------------------------------------------------------


@DRIVERS
@pytest.mark.parametrize("how", [nameless, numbers])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_record_without_an_id_keeps_all_of_its_kind(
    site: Make, driver: str, kind: str, how: Callable[[str, str], Callable[[Site], None]]
) -> None:
    store_site = site(driver)
    scatter(store_site)
    how(kind, ids(store_site)[kind])(store_site)
    with store_site.open() as store:
        plan = store.plan_gc()
        kept = {item.id: item.reason for item in plan.keeps}
        assert {ids(store_site)[kind], STRAY[kind]} <= kept.keys()
        assert "has no id" in kept[STRAY[kind]]
        gone = {step.path for step in store.gc().done}
    assert not [path for path in gone if f"/{driver}-{kind}s/" in path]
    assert not [path for path in gone if path.startswith(f"{store_site.graph}/{driver}/")]
    assert store_site.tree(store_site.sibling).is_dir()
    assert (store_site.table("container") / store_site.box / "state").is_file()
    assert store_site.item("manifest").is_file()


def test_names_and_data_are_safe_beside_a_nameless_record_until_it_is_mended(site: Make) -> None:
    store_site = site("vfs")
    userdata = store_site.table("container") / store_site.box / "userdata"
    userdata.mkdir(exist_ok=True)
    (userdata / "config").write_text("of the engine")
    nameless("container", store_site.box)(store_site)
    with store_site.open() as store:
        assert store.gc().done == ()
    assert (userdata / "config").read_text() == "of the engine"


@DRIVERS
@pytest.mark.parametrize("which", ["base", "child", "box_layer", "image", "box"])
def test_a_damaged_record_gets_its_id_back_from_what_lies_there(site: Make, driver: str, which: str) -> None:
    """Its archive, its items, or who names it prove what it is of; nothing of the record is lost."""
    store_site = site(driver)
    before = store_site.state()
    kind = "image" if which == "image" else "container" if which == "box" else "layer"
    nameless(kind, getattr(store_site, which))(store_site)
    with store_site.open() as store:
        (finding,) = [f for f in store.check().findings if f.code == "record-unreadable"]
        assert finding.remedy.startswith("kept under the id of what proves to be its")
        plan = store.plan_repair(store.check())
        (step,) = plan.steps
        assert "without an id" in step.reason
        assert plan.keeps == ()
        assert (step.kind, step.id) == (kind, getattr(store_site, which))
        assert not store.apply(plan).failed
        assert store.check().is_clean
    assert store_site.state() == before


@DRIVERS
def test_of_two_that_it_may_be_of_a_record_is_given_to_neither(site: Make, driver: str) -> None:
    store_site = site(driver)
    with store_site.open() as store:
        for id in ("one", "two"):
            store.layers.put(io.BytesIO(damaged.SIBLING), id=id, names=[f"name-{id}"])
    nameless("layer", "one")(store_site)
    nameless("layer", "two")(store_site)
    with store_site.open() as store:
        store.apply(store.plan_repair(store.check()))
        assert {"one", "two"} <= {layer.id for layer in store.layers}
        assert [layer.names for layer in store.layers if layer.id in ("one", "two")] == [(), ()]
        assert store.check().is_clean
    (aside,) = store_site.table("layer").glob("layers.json.damaged")
    assert "name-one" in aside.read_text()


@DRIVERS
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_nameless_record_may_have_been_of_is_recorded_again(
    site: Make, driver: str, kind: str
) -> None:
    """Or, where no record can be made of it, kept under a name that nobody collects."""
    store_site = site(driver)
    scatter(store_site)
    numbers(kind, ids(store_site)[kind])(store_site)
    with store_site.open() as store:
        assert not store.apply(store.plan_repair(store.check())).failed
        if kind == "layer":
            assert {store_site.sibling, STRAY["layer"]} <= {layer.id for layer in store.layers}
        else:
            assert (store_site.table(kind) / f"lost-{STRAY[kind]}" / "item").is_file()
        if kind == "image":
            assert store.images.data(store_site.image)["manifest"] == damaged.MANIFEST
        if kind == "container":  # either of the two may have been the container
            assert (store_site.table(kind) / f"lost-{store_site.box}" / "state").is_file()
            assert store_site.box_layer in store.layers
        store.gc()
        assert store.check().is_clean


@DRIVERS
def test_a_container_is_recorded_again_with_the_layer_that_its_engine_noted(site: Make, driver: str) -> None:
    store_site = site(driver)
    scatter(store_site)
    userdata = store_site.table("container") / store_site.box / "userdata"
    userdata.mkdir(exist_ok=True)
    (userdata / "config.json").write_text(
        json.dumps({"root": {"path": str(store_site.tree(store_site.box_layer))}})
    )
    numbers("container", store_site.box)(store_site)
    with store_site.open() as store:
        assert not store.apply(store.plan_repair(store.check())).failed
        assert store.containers[store_site.box].layer == store_site.box_layer
        assert store.containers[store_site.box].image == store_site.image
        assert dict(store.containers.data(store_site.box).items()) == {"state": b"running"}
        assert store.check().of_grade("damage") == ()


# --- records that are gone ------------------------------------------------------------------------------------


@DRIVERS
def test_data_of_an_image_that_a_container_names_is_no_garbage(site: Make, driver: str) -> None:
    store_site = site(driver)
    emptied("image")(store_site)
    with store_site.open() as store:
        kept = {item.id: item.reason for item in store.plan_gc().keeps}
        assert "needs it" in kept[store_site.image]
        assert store.gc().done == ()
        (finding,) = [f for f in store.check().findings if f.code == "record-lost"]
        assert (finding.id, finding.remedy) == (store_site.image, "recorded again")
        store.apply(store.plan_repair(store.check()))
        assert store.images.data(store_site.image)["manifest"]


@DRIVERS
def test_layers_that_were_filled_are_no_garbage_beside_a_table_without_any(site: Make, driver: str) -> None:
    """Nothing needs them if the other tables are as empty."""
    store_site = site(driver)
    for kind in KINDS:
        emptied(kind)(store_site)
    with store_site.open() as store:
        assert [step for step in store.plan_gc().steps if step.kind == "layer"] == []
        found = store.check().findings
        layers = {f.id: f.remedy for f in found if f.code == "record-lost"}
        assert layers.keys() == {store_site.base, store_site.child, store_site.sibling, store_site.box_layer}
        assert set(layers.values()) == {"recorded again"}
        assert not [f for f in found if f.code == "leftover" and "tar-split" in f.path]
        store.apply(store.plan_repair(store.check()))
        assert {layer.id for layer in store.layers} == layers.keys()
        assert store.layers[store_site.child].parent == store_site.base


@DRIVERS
def test_a_layer_that_nothing_needs_beside_records_of_others_is_a_leftover(site: Make, driver: str) -> None:
    """There are stores with thousands of such, and tens of gigabytes, of which no other check knows."""
    damaged_site = site(driver)
    with damaged_site.open() as store:
        stray = store.layers.put(tar(("large", b"x" * 100_000))).id
    damaged_site.edit(
        "layer", lambda records: records.pop(next(i for i, r in enumerate(records) if r["id"] == stray))
    )
    with damaged_site.open() as store:
        told = {
            finding.id: finding.grade for finding in store.check().findings if finding.code == "unaccounted"
        }
        assert told == {stray: "leftover"}
        outcome = store.gc()
        assert stray in [step.id for step in outcome.done]
        assert outcome.freed_bytes >= 100_000
        assert store.check().is_clean
        assert len(store.layers) == 4


@DRIVERS
def test_what_is_needed_by_a_layer_whose_need_cannot_be_told_is_not_removed(site: Make, driver: str) -> None:
    store_site = site(driver)
    scatter(store_site)
    if driver == "overlay":
        lower = store_site.graph / "overlay" / store_site.child / "lower"
        lower.unlink()
        lower.mkdir()
    with store_site.open() as store:
        removed = [step.id for step in store.plan_gc().steps if step.kind == "layer"]
        plan = store.plan_repair(store.check())
        repaired = [step.id for step in plan.steps if step.action == "remove" and step.kind == "layer"]
        assert removed == repaired == ([STRAY["layer"]] if driver == "vfs" else [])


# --- check, repair and gc never contradict each other ---------------------------------------------------------

LOSSES = [
    *[Damage(f"no {kind}s at all", emptied(kind), ()) for kind in KINDS],
    *[
        Damage(f"{how.__name__} for a {kind}", lambda s, k=kind, h=how: h(k, ids(s)[k])(s), ())
        for kind in KINDS
        for how in (nameless, numbers)
    ],
]
STORES = [
    pytest.param(damage, driver, id=f"{damage.name}-{driver}")
    for damage in [*LOSSES, *damages.RECORDS, *damages.PLACES]
    for driver in damage.drivers
]


@pytest.mark.parametrize(("damage", "driver"), STORES)
def test_what_is_collected_is_what_the_check_would_have_removed(
    damage: Damage, driver: str, site: Make
) -> None:
    store_site = site(driver)
    scatter(store_site)
    damage.do(store_site)
    with store_site.open() as store:
        report = store.check()
        try:
            collected = store.plan_gc()
        except BadRecords:
            assert {f.code for f in report.findings} & {"records-lost", "records-unreadable"}
            return  # nothing is collected at all
        removed = {step.path for step in collected.steps}
        held = {kept.path for kept in collected.keeps}
        told = {f.path: f.remedy for f in report.findings if f.path in removed | held}
        for path in removed:
            assert told.get(path, "removed").startswith(("removed", "deleted")), path
        for path in held:
            assert told.get(path, "") != "removed", path
        for finding in report.findings:
            if finding.code in ("leftover", "unaccounted") and finding.remedy == "removed":
                assert finding.path in removed, finding.text
        repair = store.plan_repair(report)
        for step in repair.steps:
            if step.action != "remove" and step.id:
                assert step.id not in {other.id for other in collected.steps}
            assert step.action == "remove" or not [
                path for path in removed if f"{step.path}/".startswith(f"{path}/") and step.path
            ]
        rubbish = {step.path for step in repair.steps if step.action == "remove" and step.path}
        assert not rubbish & held
        assert all(os.path.lexists(path) for path in held)


def test_after_a_collection_a_repair_has_all_that_it_had_before(site: Make) -> None:
    """Whoever collects first loses nothing that a repair would have saved."""
    store_site = site("vfs")
    scatter(store_site)
    store_site.edit("layer", list.clear)
    store_site.edit("image", list.clear)
    with store_site.open() as store:
        before = store.plan_repair(store.check())
        store.gc()
        after = store.plan_repair(store.check())
        assert {step.target for step in before.steps if step.action != "remove"} == {
            step.target for step in after.steps if step.action != "remove"
        }
    assert json.loads(store_site.file("layer").read_text()) == []
