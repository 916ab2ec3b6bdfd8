"""Where what is damaged is had from: equal layers, additional stores, the archive; and what a repair leaves be."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import damaged
import damages
import orlop
import peers
import trees
from damaged import BASE, CHILD, LARGE, SIBLING, Site
from interface import row
from orlop.config.idmapping import parse_id_mappings
from orlop.errors import PlanOutdated
from orlop.model.plan import Outcome
from tarballs import tar

SHIFTED = parse_id_mappings(["0:100000:65536"], ["0:200000:65536"])
DRIVERS = pytest.mark.parametrize("driver", ["vfs", "overlay"])


def tree(site: Site, id: str) -> dict[str, Any]:
    return trees.listing(site.tree(id), atime=False)


def mend(store: orlop.Store, **choice: bool) -> Outcome:
    """Check, repair, and see that all is well."""
    report = store.check()
    assert not report.is_clean
    outcome = store.apply(store.plan_repair(report, **choice))
    assert outcome.failed == ()
    again = store.check()
    assert again.is_clean, [finding.text for finding in again.findings]
    return outcome


@pytest.fixture
def build(place: Path) -> Callable[[str], Site]:
    peers.need_root()
    return lambda driver: damaged.build(place / "store", driver)


def beside(site: Site, place: Path) -> str:
    """The driver option for an additional store in which the same is: a copy of the one to be damaged."""
    peers.unmount_below(site.place)
    other = damaged.copy(site, place / "shared")
    return f"{site.driver}.imagestore={other.graph}"


# --- content --------------------------------------------------------------------------------------------------


@DRIVERS
def test_content_of_an_equal_layer(build: Callable[[str], Site], driver: str) -> None:
    site = build(driver)
    with site.open() as store:
        store.layers.put(io.BytesIO(BASE), id="twin")
        before = tree(site, site.base)
        (site.tree(site.base) / "usr/large").write_bytes(b"short")
        (site.tree(site.base) / "bin/su").unlink()
        if driver == "vfs":  # so that nothing else has it
            for other in (site.child, site.sibling, site.box_layer):
                shutil.rmtree(site.tree(other) / "usr")
        mend(store, containers=True)
        assert tree(site, site.base) == before
        assert site.image in store.images


@DRIVERS
def test_content_of_an_additional_store(build: Callable[[str], Site], place: Path, driver: str) -> None:
    site = build(driver)
    option = beside(site, place)
    shared = trees.listing(place / "shared", atime=False)
    with site.open(driver_options=[option]) as store:
        before = tree(site, site.base)
        shutil.rmtree(site.tree(site.base) / "usr")
        (site.tree(site.base) / "etc/passwd").write_text("another")
        if driver == "vfs":
            for other in (site.child, site.sibling, site.box_layer):
                shutil.rmtree(site.tree(other) / "usr")
        mend(store)
        assert {path: fact for path, fact in tree(site, site.base).items() if path != "."} == {
            path: fact for path, fact in before.items() if path != "."
        }
    assert trees.listing(place / "shared", atime=False) == shared


@DRIVERS
def test_a_layer_that_is_gone_is_made_again(build: Callable[[str], Site], place: Path, driver: str) -> None:
    """Its record, what is built on it, and everybody's ids stay as they are."""
    site = build(driver)
    with orlop.open_store(place / "shared", place / "run2", driver, durability="none") as other:
        other.layers.put(io.BytesIO(BASE), id="twin")
    peers.unmount_below(place)
    option = f"{driver}.imagestore={place}/shared"
    home = site.tree(site.base) if driver == "vfs" else site.tree(site.base).parent
    with site.open(driver_options=[option]) as store:
        documents = {layer.id: layer.document() for layer in store.layers}
        before = tree(site, site.base)
        shutil.rmtree(home)
        outcome = mend(store)
        assert ("restore", "layer", site.base) in {(s.action, s.kind, s.id) for s in outcome.done}
        assert {layer.id: layer.document() for layer in store.layers} == documents
        with store.mounted(site.box) as root:
            assert (root / "changed").read_text() == "by the container"
            assert (root / "bin/ping").exists()
        implied = {".", "dev", "opt", "opt/implied"}  # their times are told by nobody
        assert {path: fact for path, fact in tree(site, site.base).items() if path not in implied} == {
            path: fact for path, fact in before.items() if path not in implied
        }


@DRIVERS
def test_a_mapped_layer_is_made_again_with_its_owners(place: Path, driver: str) -> None:
    peers.need_root()
    site = Site(place / "store", driver)
    with site.open() as store:
        store.layers.put(io.BytesIO(BASE), id="plain")
        store.layers.put(io.BytesIO(BASE), id="mapped", mappings=SHIFTED)
        before = tree(site, "mapped")
        shutil.rmtree(site.tree("mapped") if driver == "vfs" else site.tree("mapped").parent)
        mend(store)
        after = tree(site, "mapped")
        assert after["etc/passwd"] == before["etc/passwd"]
        assert after["bin/su"]["owner"] == before["bin/su"]["owner"]


@DRIVERS
def test_what_is_removed_is_weighed_as_a_plan_to_delete_weighs_it(place: Path, driver: str) -> None:
    """A layer beyond mending with what is made of it; and what is left of an item that nothing has the like of."""
    peers.need_root()
    site = Site(place / "store", driver)
    with site.open() as store:
        store.layers.put(io.BytesIO(BASE), id="lost")
        (site.tree("lost") / "usr/large").write_bytes(b"x" * len(LARGE))  # before anything has a copy of it
        image = store.images.create(layer="lost", data={"manifest": b"{}"})
        box = store.containers.create(image=image.id)
        expected = store.plan_delete(box.id, image.id, "lost")
        plan = store.plan_repair(store.check(), containers=True)
        removed = {step.id: step for step in plan.steps if step.action == "remove"}
        assert removed.keys() == {box.id, image.id, "lost"}
        assert removed["lost"].size_bytes > len(LARGE)
        assert plan.freed_bytes == expected.freed_bytes > len(LARGE)
        assert store.apply(plan).freed_bytes == expected.freed_bytes

        layer = store.layers.put(io.BytesIO(SIBLING))
        image = store.images.create(layer=layer.id, data={"note": b"x" * 50_000})
        (site.table("image") / image.id / "note").write_bytes(b"y" * 60_000)
        plan = store.plan_repair(store.check())
        assert [(step.action, step.id) for step in plan.steps] == [("rewrite", image.id)]
        assert plan.freed_bytes >= 60_000


def test_a_copy_with_other_owners_is_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On overlay it lies on what it was copied from, so that it cannot be told which of its files are right."""
    peers.need_root()
    monkeypatch.setenv("_CONTAINERS_OVERLAY_DISABLE_IDMAP", "yes")
    site = Site(place / "store", "overlay")
    with site.open() as store:
        layer = store.layers.put(io.BytesIO(BASE), id="plain")
        image = store.images.create(layer=layer.id)
        box = store.containers.create(image=image.id, mappings=SHIFTED)
        (copy,) = store.images[image.id].mapped_layers
        assert store.check().is_clean
        with store.mounted(box.id) as root:
            assert (root / "etc/passwd").stat().st_uid == 100_003
            (root / "new").write_text("x")
        (site.tree(copy).with_name("diff1") / "etc/passwd").write_text("another")
        mend(store)
        with store.mounted(box.id) as root:
            assert (root / "etc/passwd").read_text() == "root:x:0:0\n"
            assert (root / "etc/passwd").stat().st_uid == 100_003
            assert (root / "new").read_text() == "x"


@pytest.mark.parametrize("mask", ["0700", "shared"])
def test_owners_and_modes_in_attributes(place: Path, mask: str) -> None:
    """A store with a force mask: everything has one mode on disk, whatever it is."""
    peers.need_root()
    attribute = "user.containers.override_stat"
    kinds: dict[str, Callable[[Path], object]] = {
        "etc/passwd": lambda path: os.setxattr(path, attribute, b"0:0:0600:file"),
        "bin/ping": lambda path: os.removexattr(path, attribute),
        "etc": lambda path: os.setxattr(path, attribute, b"9:9:0755:dir"),
        "dev/null": lambda path: path.unlink(),
        "dev/pipe": lambda path: path.write_text("x"),
        "bin/sh": lambda path: path.unlink(),
        "usr/large": lambda path: path.write_text("x"),
        "srv": shutil.rmtree,
        "bin/doas": lambda path: path.unlink(),
    }
    site = Site(place / "store", "overlay", (f"overlay.force_mask={mask}",))
    with site.open() as store:
        store.layers.put(io.BytesIO(BASE), id="layer")
        store.layers.put(io.BytesIO(CHILD), id="above", parent="layer")
        store.layers.put(io.BytesIO(BASE), id="twin")
        assert store.check().findings == ()
        before = tree(site, "layer")
        for path, change in kinds.items():
            change(site.tree("layer") / path)
            assert not store.check().is_clean, path
            mend(store)
            after = tree(site, "layer")
            untold = {".", "dev", "opt", "opt/implied"}
            changed = {key for key in before if key not in untold and after.get(key) != before[key]}
            assert not changed, path
            assert after.keys() == before.keys()


# --- records of archives, and of images -----------------------------------------------------------------------


@DRIVERS
def test_a_tar_split_file_of_an_equal_layer(build: Callable[[str], Site], driver: str) -> None:
    site = build(driver)
    with site.open() as store:
        store.layers.put(io.BytesIO(BASE), id="twin")
        before = site.split(site.base).read_bytes()
        for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(before[:99])):
            damage(site.split(site.base))
            report = store.check()
            store.apply(store.plan_repair(report))
            assert store.check().findings == ()
            assert site.split(site.base).read_bytes() == before
        with store.diff(site.base, compression=0) as stream:
            assert b"".join(stream) == BASE


@row("Repair")
def test_a_tar_split_file_that_can_be_made_again(store: orlop.Store, place: Path) -> None:
    """An archive as the driver makes it needs no record to be told what it was."""
    store.layers.put(tar("etc/", ("etc/x", b"x")), id="made")
    split = place / f"graph/{store.driver_name}-layers/made.tar-split.gz"
    split.unlink()
    with store.diff("made", compression=0) as stream:
        generated = b"".join(stream)
    store.delete("made")
    store.layers.put(io.BytesIO(generated), id="made")
    split.unlink()
    report = store.check()
    assert [finding.code for finding in report.findings] == ["tar-split-missing"]
    outcome = store.apply(store.plan_repair(report))
    assert len(outcome.done) == 1
    assert store.check().findings == ()


@DRIVERS
def test_items_of_the_same_image_elsewhere(build: Callable[[str], Site], place: Path, driver: str) -> None:
    site = build(driver)
    option = beside(site, place)
    for key in damaged.DATA:
        site.item(key).write_bytes(b"damaged")
    with site.open(driver_options=[option]) as store:
        mend(store)
        assert dict(store.images.data(site.image).items()) == damaged.DATA


# --- tables ---------------------------------------------------------------------------------------------------


@DRIVERS
def test_the_old_bytes_of_a_table_are_kept(build: Callable[[str], Site], driver: str) -> None:
    site = build(driver)
    broken = site.file("image").read_bytes()[:-40]
    site.file("image").write_bytes(broken)
    with site.open() as store:
        mend(store, containers=True)
    assert site.file("image").with_name("images.json.damaged").read_bytes() == broken
    site.file("image").write_bytes(b"[")
    with site.open() as store:
        store.apply(store.plan_repair(store.check()))
    assert site.file("image").with_name("images.json.damaged1").read_bytes() == b"["
    with site.open() as store:
        store.gc()
        assert store.check().is_clean
    assert site.file("image").with_name("images.json.damaged").read_bytes() == broken


def test_data_that_no_record_can_be_made_for_are_set_apart(build: Callable[[str], Site]) -> None:
    site = build("vfs")
    directory = site.table("image") / ("e" * 64)
    directory.mkdir()
    (directory / "manifest").write_text("garbage")
    site.file("image").unlink()
    with site.open() as store:
        plan = store.plan_repair(store.check())
        assert [(s.action, s.id) for s in plan.steps if s.action == "set apart"] == [("set apart", "e" * 64)]
        store.apply(plan)
        store.gc()
    assert (site.table("image") / ("lost-" + "e" * 64) / "manifest").read_text() == "garbage"


@DRIVERS
def test_everything_lost_but_the_trees(build: Callable[[str], Site], driver: str) -> None:
    """All three tables: what the trees, the tar-split files and the data tell is recorded again."""
    site = build(driver)
    before = site.state()
    peers.unmount_below(site.place)
    for kind in ("layer", "image", "container"):
        site.file(kind).unlink()
    with site.open() as store:
        for _ in range(3):
            report = store.check()
            if report.is_clean:
                break
            assert not store.apply(store.plan_repair(report, containers=True)).failed
        assert store.check().is_clean
        assert store.images[site.image].layer == site.child
        assert store.containers[site.box].layer == site.box_layer
    after = site.state()
    for key, value in before.items():
        if (
            key[0] in ("archive", "tree") and key[1] != site.box_layer
        ):  # of which nobody tells what it is built on
            assert after[key] == value
    assert {key[1] for key in after if key[0] == "layer"} == set(damaged.LAYERS.values())


@DRIVERS
@pytest.mark.parametrize("damage", ["[{", "null, and more", '[{"id":5}]', None], ids=str)
def test_counts_of_mounts(build: Callable[[str], Site], driver: str, damage: str | None) -> None:
    """As long as they cannot be read no layer can be changed."""
    site = build(driver)
    counts = site.place / f"run/{driver}-layers/mountpoints.json"
    with site.open() as store:
        path = store.mount(site.box)
        before = json.loads(counts.read_bytes())
        counts.unlink()
        if damage is None:
            os.mkfifo(counts)
        else:
            counts.write_text(damage)
        report = store.check()
        assert [finding.code for finding in report.findings] == ["mounts-unreadable"]
        mend(store)
        assert json.loads(counts.read_bytes()) == (before if driver == "overlay" else [])
        store.layers.put(tar("x"))
        if driver == "overlay":
            assert store.mount_count(site.box) == 1 if hasattr(store, "mount_count") else True
            store.unmount(site.box)
            assert not os.path.ismount(path)


# --- what is left be ------------------------------------------------------------------------------------------


def test_a_plan_is_of_its_moment(build: Callable[[str], Site]) -> None:
    """Somebody else repaired it meanwhile, or made it worse."""
    site = build("vfs")
    path = site.tree(site.base) / "etc/passwd"
    for then in (damages.flipped(), damages.gone, lambda path: None):
        before = path.read_bytes()
        os.chmod(path, 0o666)
        with site.open() as store, site.open() as other:
            plan = store.plan_repair(store.check())
            then(path)
            if then.__name__ == "<lambda>":
                other.apply(other.plan_repair(other.check()))
            with pytest.raises(PlanOutdated):
                store.apply(plan)
            if not store.check().is_clean:
                mend(store)
        assert path.read_bytes() == before


def test_other_changes_of_the_store_do_no_harm_to_a_plan(build: Callable[[str], Site]) -> None:
    site = build("overlay")
    os.chmod(site.tree(site.base) / "etc/passwd", 0o666)
    with site.open() as store:
        plan = store.plan_repair(store.check())
        store.layers.put(tar("another"), parent=site.child)
        store.containers.create(image=site.image)
        assert not store.apply(plan).failed
        assert store.check().is_clean


def test_a_container_that_is_mounted(build: Callable[[str], Site]) -> None:
    """It stays mounted; unless containers may go, which it then does, as with `orlop-storage check -r -f`."""
    site = build("overlay")
    (site.tree(site.base) / "etc/passwd").write_text("another")
    with site.open() as store:
        path = store.mount(site.box)
        assert not store.apply(store.plan_repair(store.check())).failed
        assert site.box in store.containers
        assert os.path.ismount(path)
        mend(store, containers=True)
        assert site.box not in store.containers
        assert peers.mounts_below(path) == []


def test_a_clean_store_has_nothing_to_repair(build: Callable[[str], Site]) -> None:
    site = build("vfs")
    with site.open() as store:
        plan = store.plan_repair(store.check())
        assert (plan.verb, plan.steps, plan.keeps, plan.freed_bytes) == ("repair", (), (), 0)
        assert store.apply(plan).done == ()


def test_one_failure_stops_no_other_step(
    build: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    from orlop.store.repair.placing import Placing

    site = build("vfs")
    os.chmod(site.tree(site.base) / "etc/passwd", 0o666)
    os.chmod(site.tree(site.sibling) / "sibling", 0o666)
    settle = Placing.settle

    def failing(self: Placing, path: bytes, node: Any) -> None:
        if path == b"etc/passwd":
            raise OSError(5, "Input/output error")
        settle(self, path, node)

    with site.open() as store:
        with monkeypatch.context() as patch:
            patch.setattr(Placing, "settle", failing)
            outcome = store.apply(store.plan_repair(store.check()))
        assert [step.id for step, _ in outcome.failed] == [site.base]
        assert "Input/output error" in outcome.failed[0][1]
        assert [step.id for step in outcome.done] == [site.sibling]
        mend(store)


def test_what_was_read_is_counted(build: Callable[[str], Site]) -> None:
    """What goes is told in bytes, as for a collection of garbage."""
    site = build("overlay")
    (site.tree(site.base) / "usr/large").write_bytes(b"?")
    with site.open() as store:
        plan = store.plan_repair(store.check(), containers=True)
        outcome = store.apply(plan)
        assert len(store.layers) == len(store.images) == len(store.containers) == 0
        assert outcome.freed_bytes == plan.freed_bytes
