"""Damage of every kind, in every kind of file of a store: found, named, mended with the least loss."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import damaged
import damages
import invariants
import orlop
import peers
import trees
from damaged import OTHER, Site
from damages import Damage
from orlop.model.findings import DAMAGE, LEFTOVER, ODDITY, Finding

Make = Callable[[str], Site]
State = dict[Any, Any]

NOW = 1_700_000_000 * 10**9  # no archive here has a later time

NO_REMEDY = ("data-unknown", "tar-split-missing")
"""What is told, and nothing needs to be done about."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Site, State]]]:
    """A store of each driver, as it is before somebody damages a copy of it, and what it holds."""
    peers.need_root()
    place = tmp_path_factory.mktemp("whole")
    built: dict[str, tuple[Site, State]] = {}

    def of(driver: str) -> tuple[Site, State]:
        if driver not in built:
            site = damaged.build(place / driver, driver)
            built[driver] = site, site.state()
            peers.unmount_below(place)
        return built[driver]

    yield of
    peers.unmount_below(place)


@pytest.fixture
def site(place: Path, whole: Callable[[str], tuple[Site, State]]) -> Iterator[Make]:
    """A copy of that store, to be damaged."""
    yield lambda driver: damaged.copy(whole(driver)[0], place / "site")
    peers.unmount_below(place)
    subprocess.run(["rm", "-rf", place / "site"], check=True)  # 300 of them are a lot of files


def _told(findings: list[Finding]) -> str:
    return "\n".join(f"{f.grade} {f.code}: {f.text}" for f in findings)


@pytest.mark.parametrize(("damage", "driver"), damages.cases(0))
def test_found_and_named(damage: Damage, driver: str, site: Make) -> None:
    store_site = site(driver)
    damage.do(store_site)
    with store_site.open() as store:
        before = trees.listing(store_site.graph, atime=False)
        report = store.check()
        assert trees.listing(store_site.graph, atime=False) == before
    found = [f for f in report.findings if f.code in damage.codes and f.grade == damage.grade]
    assert found, _told(report.findings)
    assert report.is_clean is (damage.grade == ODDITY)
    for finding in report.findings:
        assert finding.grade in (DAMAGE, LEFTOVER, ODDITY)
        assert finding.text
        assert finding.id or finding.path
        assert finding.id in finding.text or finding.path in finding.text
        assert finding.remedy or finding.code in NO_REMEDY or finding.grade == ODDITY, finding


@pytest.mark.parametrize(("damage", "driver"), damages.cases(1))
def test_mended_with_the_least_loss(
    damage: Damage, driver: str, site: Make, whole: Callable[[str], tuple[Site, State]]
) -> None:
    store_site = site(driver)
    damage.do(store_site)
    with store_site.open() as store:
        report = store.check()
        plan = store.plan_repair(report, containers=damage.containers)
        outcome = store.apply(plan)
        assert not outcome.failed
        assert list(outcome.done) == list(plan.steps)
        again = store.check()
        if any(kept.kind == "store" for kept in plan.keeps):  # a table was lost: what else is wrong shows now
            store.apply(store.plan_repair(again, containers=damage.containers))
            again = store.check()
    if "exact" in damage.lost:  # which is told as long as it is so
        assert {f.code for f in again.of_grade("damage")} == {"tar-split-missing"}, _told(again.findings)
        with store_site.open() as store:
            assert [kept.id for kept in store.plan_repair(again).keeps] == [store_site.base]
    else:
        assert again.is_clean, _told(again.findings)
    assert [f for f in again.findings if f.code in damage.codes and f.code not in NO_REMEDY] == []
    after = store_site.state()
    peers.unmount_below(store_site.place)
    if "exact" not in damage.lost:
        invariants.hold(store_site.graph, store_site.place / "run", driver)
    _compare(damage, store_site, report.findings, whole(driver)[1], after)


def _compare(damage: Damage, site: Site, found: list[Finding], before: State, after: State) -> None:
    """What is not named as lost is as it was."""
    ids = {"other": OTHER}
    gone = {ids.get(name) or getattr(site, name) for name in damage.lost if name in damages.EVERYTHING}
    meant = {(finding.kind, finding.id) for finding in found}
    tables = {kind for kind in ("layer", "image", "container") if any(kind in f.path for f in found)}
    for (what, id), value in before.items():
        kind = what.split(" ")[0]
        if id in gone:
            assert (what, id) not in after
            continue
        assert (what, id) in after, f"{what} of {id} is gone"
        if kind in ("archive", "tree"):
            if "exact" not in damage.lost or kind == "tree":
                assert _timeless(after[what, id]) == _timeless(value), (what, id)
        elif damage.lost and ((kind, id) in meant or kind in tables):
            assert what.endswith("data") or _core(after[what, id]) == _core(value)
        elif kind == "container" and "image" in damage.lost:
            assert {**after[what, id], "image": ""} == {**value, "image": ""}
        else:
            assert after[what, id] == value
    assert {key for key in after if key not in before} == set()


def _timeless(tree: Any) -> Any:
    """Without the times that no archive has told: those of implied directories, of whiteouts, of the root."""
    if isinstance(tree, str):
        return tree
    return {path: facts | {"mtime": min(facts["mtime"], NOW)} for path, facts in tree.items()}


def _core(document: dict[str, Any]) -> dict[str, Any]:
    return {key: document.get(key) for key in ("id", "layer", "parent")}


# --- not mended -----------------------------------------------------------------------------------------------


def test_without_leave_containers_keep_what_they_need(site: Make) -> None:
    store_site = site("overlay")
    path = store_site.tree(store_site.base) / "etc/passwd"
    path.write_text("another")
    with store_site.open() as store:
        report = store.check()
        plan = store.plan_repair(report)
        assert [kept.id for kept in plan.keeps if kept.kind == "container"] == [store_site.box]
        store.apply(plan)
        # Only what the container does not need is gone; what it runs on is still damaged.
        needed = {store_site.base, store_site.child, store_site.box_layer}
        assert {layer.id for layer in store.layers} == needed
        assert [image.id for image in store.images] == [store_site.image]
        assert [container.id for container in store.containers] == [store_site.box]
        assert {f.id for f in store.check().findings} == {store_site.base}


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("key", ["manifest", "configuration"])
def test_without_leave_an_image_that_a_container_is_made_of_stays_without_its_item(
    key: str, driver: str, site: Make
) -> None:
    """It would be removed otherwise, and the container be one without an image."""
    store_site = site(driver)
    for item in ("manifest", f"manifest-{damaged.digest(damaged.MANIFEST)}"):
        store_site.item(item if key == "manifest" else damaged.digest(damaged.CONFIG)).unlink(missing_ok=True)
    with store_site.open() as store:
        plan = store.plan_repair(store.check())
        assert [(step.action, step.kind) for step in plan.steps] == []
        (kept,) = plan.keeps
        assert (kept.kind, kept.id) == ("image", store_site.image)
        assert "is damaged, and nowhere else" in kept.reason
        assert f"container {store_site.box} needs it" in kept.reason
        store.apply(plan)
        assert store.containers[store_site.box].image == store_site.image
        allowed = store.plan_repair(store.check(), containers=True)
        assert ("remove", "image", store_site.image) in {(s.action, s.kind, s.id) for s in allowed.steps}
        assert ("rewrite", "container", store_site.box) in {(s.action, s.kind, s.id) for s in allowed.steps}
        store.apply(allowed)
        assert store.check().is_clean
        assert store_site.box in store.containers


def test_another_state_than_planned(site: Make) -> None:
    store_site = site("vfs")
    path = store_site.tree(store_site.child) / "bin/ping"
    os.chmod(path, 0o700)
    with store_site.open() as store:
        plan = store.plan_repair(store.check())
        assert len(plan.steps) == 1
        os.chmod(path, 0o711)
        with pytest.raises(orlop.Conflict):
            store.apply(plan)
        assert path.stat().st_mode & 0o777 == 0o711
        store.apply(store.plan_repair(store.check()))
        assert path.stat().st_mode & 0o777 == 0o755
        with pytest.raises(orlop.Conflict):
            store.apply(plan)
