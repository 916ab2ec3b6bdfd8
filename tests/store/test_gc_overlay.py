"""What dead processes leave in an overlay home besides layers, and what only looks like it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import invariants
import orlop
import peers
from orlop.model.plan import Plan
from orlop.system.ownlock import own
from tarballs import tar


@pytest.fixture
def store(place: Path) -> Iterator[orlop.Store]:
    peers.need_root()
    yield orlop.open_store(place / "graph", place / "run", "overlay", durability="none")
    invariants.hold(place / "graph", place / "run", "overlay")


@pytest.fixture
def home(place: Path) -> Path:
    return place / "graph/overlay"


def test_short_names_of_layers_that_are_gone_go(store: orlop.Store, home: Path) -> None:
    """The peers leave those of an image store for ever, and those of a removal that was killed."""
    store.layers.put(tar("a"), id="base")
    names = set(os.listdir(home / "l"))
    os.symlink("../gone/diff", home / "l/GONE")
    (step,) = store.plan_gc().steps
    assert (step.kind, step.path) == ("link", str(home / "l/GONE"))
    assert step.reason == "the layer gone that it leads to is gone"
    assert len(store.gc().done) == 1
    assert set(os.listdir(home / "l")) == names


def test_a_short_name_that_some_layer_needs_tells_which_one_is_missing_and_stays(
    store: orlop.Store, home: Path, place: Path
) -> None:
    store.layers.put(tar("a"), id="base")
    store.layers.put(tar("b"), id="top", parent="base")
    link = (home / "base/link").read_text()
    subprocess.run(["mv", home / "base", place / "elsewhere"], check=True)
    plan = store.plan_gc()
    assert plan.steps == ()
    assert [kept.path for kept in plan.keeps] == [str(home / "l" / link)]
    assert "layer top needs it: the layer base" in plan.keeps[0].reason
    assert store.gc().done == ()
    subprocess.run(["mv", place / "elsewhere", home / "base"], check=True)
    with store.mounted("top") as root:
        assert (root / "a").exists()


def test_a_lower_file_that_cannot_be_read_keeps_what_it_might_name(store: orlop.Store, home: Path) -> None:
    store.layers.put(tar("a"), id="base")
    store.layers.put(tar("b"), id="top", parent="base")
    lost = store.create_storage_layer()
    os.symlink("../gone/diff", home / "l/GONE")
    text = (home / "top/lower").read_text()
    (home / "top/lower").write_text("l/../../base")
    plan = store.plan_gc()
    assert plan.steps == ()
    assert {kept.kind for kept in plan.keeps} == {"layer", "link"}
    assert all("top needs cannot be told" in kept.reason for kept in plan.keeps)
    assert store.gc().done == ()
    (home / "top/lower").write_text(text)
    assert {step.id for step in store.gc().done if step.kind == "layer"} == {lost}


def test_a_layer_that_only_a_lower_file_knows_stays(store: orlop.Store, home: Path) -> None:
    """A copy with other id maps lies on its template, of which the records say nothing."""
    store.layers.put(tar("a"), id="base")
    store.layers.put(tar("b"), id="template", parent="base")
    store.layers.create(id="copy", template="template", parent="base")
    store.delete("template")
    assert "template" not in store.layers
    assert not (home / "template").exists()
    # As after a crash of a program that drops the record first.
    store.layers.put(tar("c"), id="second", parent="base")
    store.layers.create(id="copy2", template="second", parent="base")
    path = home.parent / "overlay-layers/layers.json"
    text = path.read_text()
    path.write_text(text.replace('{"id":"second","parent"', '{"id":"x","parent"'))
    assert '"id":"x"' in path.read_text()
    with store._engine.layers.locks[0].writing() as lock:
        lock.renew()
    plan = store.plan_gc()
    assert [kept.id for kept in plan.keeps if kept.kind == "layer"] == ["second"]
    assert "layer copy2 lies on it" in plan.keeps[0].reason
    assert plan.steps == ()
    path.write_text(text)
    with store._engine.layers.locks[0].writing() as lock:
        lock.renew()
    store.wipe()


def test_a_layer_of_which_a_mount_is_made_stays(store: orlop.Store, home: Path, place: Path) -> None:
    """Mounted by hand, elsewhere, without any record of it."""
    store.layers.create(id="known")
    lost, second = store.create_storage_layer(), store.create_storage_layer()
    link = (home / lost / "link").read_text()
    (place / "mnt").mkdir()
    lowers = f"{home}/l/{link}:{home}/known/diff"
    subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lowers}", place / "mnt"], check=True
    )
    plan = store.plan_gc()
    assert [step.id for step in plan.steps] == [second]
    assert [(kept.id, kept.reason) for kept in plan.keeps] == [
        (lost, f"the mount at {place}/mnt is made of it")
    ]
    store.apply(plan)
    assert (home / lost).is_dir()
    peers.unmount_below(place / "mnt")
    assert [step.id for step in store.gc().done] == [lost]


def test_partial_pulls_are_in_use_as_long_as_their_lock_is_held(store: orlop.Store, home: Path) -> None:
    store.layers.create()
    for name in ("live", "dead", "without"):
        (home / f"staging/{name}/dir").mkdir(parents=True)
        (home / f"staging/{name}/dir/file").write_bytes(b"x" * 5000)
    (home / "staging/dead/staging.lock").touch()
    held = own(str(home / "staging/live/staging.lock"))
    assert held is not None
    plan = store.plan_gc()
    assert [(step.kind, step.path) for step in plan.steps] == [("directory", str(home / "staging/dead"))]
    assert plan.steps[0].size_bytes > 5000
    assert {Path(kept.path).name: kept.reason for kept in plan.keeps} == {
        "live": "a partial pull is using it",
        "without": "it has no lock that would tell whether its process is alive",
    }
    store.apply(plan)
    assert sorted(os.listdir(home / "staging")) == ["live", "without"]
    # The pull ends between a plan and its lock being asked for again.
    held.close()
    plan = store.plan_gc()
    again = own(str(home / "staging/live/staging.lock"))
    assert again is not None
    with pytest.raises(orlop.errors.PlanOutdated, match="a partial pull is using it"):
        store.apply(plan)
    assert (home / "staging/live/dir/file").exists()
    again.close()
    assert [Path(step.path).name for step in store.gc().done] == ["live"]


def test_a_file_that_was_never_finished_in_the_home_goes(store: orlop.Store, home: Path) -> None:
    (home / ".tmp-.has-mount-program77").write_text("tr")
    (step,) = store.gc().done
    assert (step.kind, step.path) == ("file", str(home / ".tmp-.has-mount-program77"))
    assert not os.path.exists(step.path)


def test_mount_points_in_the_run_root_go_when_nothing_is_mounted_there(place: Path) -> None:
    store = orlop.open_store(
        place / "graph", place / "run", "overlay", image_store=place / "images", durability="none"
    )
    store.layers.put(tar("a"), id="layer")
    (place / "run/overlay/old/merged").mkdir(parents=True)
    (place / "run/overlay/strange").mkdir()
    (place / "run/overlay/strange/file").touch()
    with store.mounted("layer") as root:
        assert str(root) == str(place / "run/overlay/layer/merged")
        assert [step.path for step in store.gc().done] == [str(place / "run/overlay/old")]
        assert (root / "a").exists()
    assert store.plan_gc() == Plan("gc", ())
    assert (place / "run/overlay/strange/file").exists()
    # Short names in the image store are ours, too: its table is locked.
    os.symlink("../gone/diff", place / "images/overlay/l/GONE")
    assert [step.path for step in store.gc().done] == [str(place / "images/overlay/l/GONE")]
    store.wipe()


def test_what_a_killed_removal_set_aside_in_the_home_goes(store: orlop.Store, home: Path) -> None:
    """The home is a mount, so layers are set aside inside of it."""
    store.layers.create()
    (home / "tempdirs/temp-dir-3/1-layer/diff").mkdir(parents=True)
    (home / "tempdirs/lock-3").touch()
    assert [step.path for step in store.gc().done] == [str(home / "tempdirs/temp-dir-3")]
    assert not (home / "tempdirs").exists()
