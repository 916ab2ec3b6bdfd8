"""Checking a store in which all is well, whatever is odd in it; and what a report holds."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import composefs
import damaged
import healthy
import layers as archives
import orlop
import peers
import stacks
import trees
from interface import row
from orlop import errors
from orlop.config.idmapping import parse_id_mappings
from orlop.model.events import Advanced
from orlop.model.findings import DAMAGE, GROUPS, LEFTOVER, ODDITY, CheckReport, Finding
from tarballs import Open, tar

Site = damaged.Site

SHIFTED = parse_id_mappings(["0:100000:65536"], ["0:200000:65536"])


def told(report: CheckReport) -> list[str]:
    return [f"{finding.grade} {finding.code}: {finding.text}" for finding in report.findings]


def fill(store: orlop.Store, name: str, stack: list[bytes], **how: Any) -> str:
    """The id of the top layer."""
    below = None
    for number, layer in enumerate(stack):
        id = f"{name}-{number}".replace("/", "|").replace(" ", "_")
        below = store.layers.put(io.BytesIO(layer), id=id.encode().hex()[:200], parent=below, **how).id
    assert below
    return below


# --- no false alarms ------------------------------------------------------------------------------------------


def test_odd_archives_are_no_damage(store: orlop.Store, other: orlop.Store) -> None:
    """More than 200 layers with whatever archives have in them."""
    stacked = dict(healthy.ODD)
    if store.driver_name == "vfs":
        stacked |= healthy.ONLY_VFS
    for name, stack in stacked.items():
        fill(store, name, stack)
    report = store.check()
    names = {f"{name}-".replace("/", "|").replace(" ", "_").encode().hex()[:200]: name for name in stacked}
    assert not [
        (name, finding.text)
        for finding in report.findings
        for start, name in names.items()
        if finding.id.startswith(start)
    ]
    assert told(report) == []
    assert dict(report.checked)["layers"] == len(store.layers) > 190
    assert told(other.check(quick=True)) == []


def test_archives_that_delete_what_they_bring_are_odd_and_no_damage(place: Path) -> None:
    """They cannot be put together again, by any program; their layers are what they make."""
    with orlop.open_store(place / "graph", place / "run", "vfs", durability="none") as store:
        for name, stack in healthy.SELF_DEFEATING.items():
            fill(store, name, stack)
        for parts in ({}, {"quick": True, "layer_digests": True}):
            report = store.check(**parts)
            assert [(f.grade, f.code) for f in report.findings] == [(ODDITY, "inexact")] * 2
            assert report.is_clean
        plan = store.plan_repair(report)
        assert plan.steps == ()


@pytest.mark.parametrize(
    "seed", [*range(3), *[pytest.param(n, marks=pytest.mark.deep) for n in range(3, 40)]]
)
def test_random_stacks_and_what_a_container_made_of_them(store: orlop.Store, seed: int) -> None:
    below = None
    for number, layer in enumerate(stacks.stack(seed)):
        try:
            below = store.layers.put(io.BytesIO(layer.blob), id=f"layer{number}", parent=below).id
        except (orlop.StorageError, OSError):
            break  # an archive that contradicts itself
    image = store.images.create(layer=below, data={"manifest": b"{}", "Config": b"x" * 5000})
    for number in range(2):
        box = store.containers.create(image=image.id, data={"state": b"{}"})
        with store.mounted(box.id) as root:
            stacks.change(root, seed + number)
    assert told(store.check()) == []


def test_layers_of_containers_are_theirs_to_change(store: orlop.Store) -> None:
    image = store.images.create(layer=fill(store, "base", [damaged.BASE]))
    box = store.containers.create(image=image.id)
    with store.mounted(box.id) as root:
        (root / "etc/passwd").write_text("changed")
        (root / "new").mkdir()
        (root / "bin/sh").unlink()
        os.chown(root / "etc", 5, 6)
        os.mkfifo(root / "fifo")
        os.mknod(root / "device", 0o20600, os.makedev(1, 5))
        os.setxattr(root / "new", "user.x", b"y")
        for depth in range(30):
            (root / "new" / "/".join("d" * (depth + 1))).mkdir()
        assert told(store.check()) == []  # while it runs
    store.layers.put(tar("late"), id="filled", parent=image.layer)
    store.containers.write_file(box.id, "config.json", b"{}")
    store.containers.write_file(box.id, "pid", b"1", run=True)
    assert told(store.check()) == []


def test_mapped_and_re_owned_layers(store: orlop.Store, owning: orlop.Store) -> None:
    for each in (store, owning):
        name = "shifted" if each is store else "owning"
        layer = fill(each, name, [damaged.BASE, damaged.CHILD], mappings=SHIFTED)
        image = each.images.create(layer=fill(each, "plain" + name, [damaged.BASE, damaged.CHILD]))
        each.images.create(layer=layer)
        box = each.containers.create(image=image.id, mappings=SHIFTED)
        copied = each.layers.create(template=layer, parent=f"{name}-0".encode().hex(), mappings=SHIFTED)
        assert copied.diff_digest
        with each.mounted(box.id) as root:
            (root / "x").write_text("x")
    for each in (store, owning):
        assert told(each.check()) == []


def test_files_of_which_only_the_owner_was_copied_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `metacopy=on` what they hold is found further below, and is compared there."""
    peers.need_root()
    monkeypatch.setenv("_CONTAINERS_OVERLAY_DISABLE_IDMAP", "yes")
    site = Site(place / "store", "overlay", ("overlay.mountopt=metacopy=on",))
    with site.open() as store:
        layer = store.layers.put(io.BytesIO(damaged.BASE), id="plain")
        image = store.images.create(layer=layer.id)
        box = store.containers.create(image=image.id, mappings=SHIFTED)
        (copy,) = store.images[image.id].mapped_layers
        hollow = site.tree(copy).with_name("diff1") / "usr/large"
        assert os.getxattr(hollow, "trusted.overlay.metacopy") is not None, "the kernel copied all of it"
        with store.mounted(box.id) as root:
            assert (root / "usr/large").read_bytes() == damaged.LARGE
        assert told(store.check()) == []
        (site.tree("plain") / "usr/large").write_bytes(b"x" * len(damaged.LARGE))
        found = {(finding.id, finding.code) for finding in store.check().findings}
        assert ("plain", "content-changed") in found


def test_templates(store: orlop.Store) -> None:
    base = fill(store, "base", [damaged.BASE])
    top = store.layers.put(io.BytesIO(damaged.CHILD), parent=base)
    copy = store.layers.create(template=top.id, parent=base)
    store.layers.put(tar("above"), parent=copy.id)
    assert told(store.check()) == []
    with store.mounted(copy.id):
        assert told(store.check()) == []


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
def test_stores_of_other_shapes(place: Path, driver: str) -> None:
    peers.need_root()
    shapes: list[dict[str, Any]] = [{"transient": True}, {}, {"image_store": place / "images"}]
    for number, options in enumerate(shapes):
        roots = (place / f"graph{number // 2}", place / "run", driver)
        with orlop.open_store(*roots, durability="none", **options) as store:
            base = fill(store, f"base{number}", [damaged.BASE, damaged.CHILD])
            image = store.images.create(layer=base, data={"manifest": b"{}"})
            box = store.containers.create(image=image.id, data={"x": b"y"})
            volatile = store.containers.create(image=image.id, volatile=True)
            with store.mounted(box.id), store.mounted(volatile.id):
                assert told(store.check()) == [], options
    for options in shapes[:2]:  # each leaves alone what only the other one shows
        with orlop.open_store(place / "graph0", place / "run", driver, durability="none", **options) as store:
            assert told(store.check()) == [], options


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
def test_parents_and_images_in_an_additional_store(place: Path, driver: str) -> None:
    """For the peers such a parent is missing."""
    peers.need_root()
    shared = damaged.build(place / "shared", driver)
    options = [f"{driver}.imagestore={shared.graph}"]
    peers.unmount_below(place)
    with orlop.open_store(
        place / "graph", place / "run", driver, durability="none", driver_options=options
    ) as store:
        store.layers.put(tar("above"), parent=shared.child)
        box = store.containers.create(image=shared.image)
        with store.mounted(box.id) as root:
            (root / "x").write_text("x")
        report = store.check()
        assert told(report) == []
        assert dict(report.checked)["images"] == 2
    path = shared.tree(shared.child) / "etc/passwd"
    path.write_text("another one")
    with orlop.open_store(
        place / "graph", place / "run", driver, durability="none", driver_options=options
    ) as store:
        report = store.check()
        (finding,) = report.of_grade(DAMAGE)
        assert (finding.code, finding.id, finding.read_only) == ("content-changed", shared.child, True)
        assert not finding.remedy
        assert store.plan_repair(report).steps == ()
        lists = report.peer_lists()
        assert set(lists["read_only_layers"]) == {shared.child}
        assert set(lists["read_only_images"]) == {shared.image}
        assert set(lists["containers"]) == {box.id}


def test_options_that_leave_things_open(place: Path) -> None:
    """Owners that could not be set, times of files shared as hard links."""
    peers.need_root()
    site = damaged.build(place / "store", "vfs")
    os.chown(site.tree(site.child) / "etc", 77, 77)
    os.utime(site.tree(site.sibling) / "sibling", (5, 5))
    for options, wanted in (
        ({"driver_options": ["vfs.ignore_chown_errors=true"]}, {site.sibling}),
        ({"pull_options": {"use_hard_links": "true"}}, {site.child}),
        ({}, {site.child, site.sibling}),
    ):
        with site.open(**options) as store:
            assert {finding.id for finding in store.check().findings} == wanted


def test_layers_kept_by_composefs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files are read; their names are in an image that cannot change."""
    composefs.install(place, monkeypatch)
    with orlop.open_store(place / "graph", place / "run", "overlay", durability="none") as store:
        store.layers.create(id="base")
        store.driver().remove("base", lambda path, *_: subprocess.run(["rm", "-rf", path], check=True))
        composefs.keep(store.driver(), "base", archives.BASE)
        store.layers.put(tar("above"), parent="base")
        assert told(store.check()) == []


# --- in use ---------------------------------------------------------------------------------------------------

_WRITER = """
import io, os, sys, time
import orlop
graph, run, driver, tars = sys.argv[1:]
sys.path.insert(0, tars)
from tarballs import tar
with orlop.open_store(graph, run, driver, durability="none", lock_timeout=60) as store:
    print("ready", flush=True)
    end, number = time.monotonic() + 4, 0
    while time.monotonic() < end:
        number += 1
        me = f"{os.getpid()}-{number}"
        base = store.layers.put(tar("etc/", ("etc/x", os.urandom(200_000))), id=f"base{me}")
        image = store.images.create(layer=base.id, names=[me], data={"manifest": b"{}", "big": os.urandom(50_000)})
        box = store.containers.create(image=image.id, data={"state": b"x"})
        with store.mounted(box.id) as root:
            (root / "y").write_text("y")
        store.containers.data(box.id).put("state", b"longer")
        store.images.data(image.id).put("manifest", b'{"x": %d}' % number)
        store.add_names(image.id, [me + "x"])
        store.containers.delete(box.id)
        if number % 2:
            store.images.delete(image.id)
"""


def test_a_store_that_others_change_meanwhile(open_store: Open, place: Path) -> None:
    """Layers come and go, half made ones under their locks: none of that is a finding."""
    with open_store() as store:
        driver = store.driver_name
        arguments = [str(place / "graph"), str(place / "run"), driver, os.path.dirname(damaged.__file__)]
        writers = [
            subprocess.Popen([sys.executable, "-c", _WRITER, *arguments], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        try:
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == "ready\n"
            seen, checks = 0, 0
            while any(writer.poll() is None for writer in writers):
                report = store.check(quick=checks % 3 == 1)
                assert told(report) == []
                seen += dict(report.checked)["layers"]
                checks += 1
            assert seen > 0
        finally:
            for writer in writers:
                writer.kill()
                writer.communicate()
        assert [writer.returncode for writer in writers] == [0, 0]


def test_a_running_mount_is_not_disturbed(place: Path) -> None:
    peers.need_root()
    site = damaged.build(place / "store", "overlay")
    with site.open() as store, store.mounted(site.box) as root:
        before = peers.mounts_below(site.place)
        stop = threading.Event()
        written: list[int] = []

        def write() -> None:
            while not stop.is_set():
                (root / "busy").write_text(str(len(written)))
                written.append(1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(3):
                assert told(store.check()) == []
        finally:
            stop.set()
            writer.join()
        assert written
        assert peers.mounts_below(site.place) == before


def test_nothing_is_changed(place: Path) -> None:
    peers.need_root()
    for driver in ("vfs", "overlay"):
        site = damaged.build(place / driver, driver)
        with site.open() as store:
            before = trees.listing(site.place, atime=False)
            store.check()
            store.check(quick=True)
            assert trees.listing(site.place, atime=False) == before


def test_a_lock_that_somebody_holds(place: Path) -> None:
    site = damaged.build(place / "store", "vfs")
    with site.open(lock_timeout=0.2) as store, site.open() as other:
        with other._engine.layers.locks[0].writing(timeout=1), pytest.raises(errors.LockTimeout):
            store.check()
        assert told(store.check()) == []


# --- what is looked at ----------------------------------------------------------------------------------------


@pytest.fixture
def bad(place: Path) -> Site:
    """A store with something wrong for each part of a check."""
    peers.need_root()
    site = damaged.build(place / "store", "vfs")
    os.chmod(site.tree(site.sibling) / "sibling", 0o600)  # contents
    (site.tree(site.base) / "etc/passwd").write_text("root:y:0:0\n")  # digests, contents
    (site.table("layer") / site.sibling / "=Tm90ZQ==").unlink()
    (site.item("signature")).unlink()
    (site.table("container") / site.box / "state").unlink()
    (site.table("layer") / ".tmp-x").write_text("")
    return site


@pytest.mark.parametrize(
    ("parts", "codes"),
    [
        ({}, {"tree-changed", "content-changed", "data-missing", "leftover"}),
        ({"quick": True}, {"data-missing", "leftover"}),
        (
            {"quick": True, "layer_digests": True, "leftovers": False},
            {"content-changed", "data-missing"},
        ),
        ({"layer_contents": False, "leftovers": False}, {"content-changed", "data-missing"}),
        ({"quick": True, "layer_data": False, "image_data": False, "container_data": False}, {"leftover"}),
        ({"leftovers": False, "quick": True, "image_data": False, "container_data": False}, {"data-missing"}),
    ],
)
def test_parts(bad: Site, parts: dict[str, Any], codes: set[str]) -> None:
    with bad.open() as store:
        report = store.check(**parts)
    assert {finding.code for finding in report.findings} == codes
    kinds = {finding.kind for finding in report.findings if finding.code == "data-missing"}
    wanted = {
        kind
        for kind in ("layer", "image", "container")
        if parts.get(f"{kind}_data", True) and "data-missing" in codes
    }
    assert kinds == wanted


def test_the_age_of_layers_that_nobody_needs(store: orlop.Store) -> None:
    base = fill(store, "base", [damaged.BASE, damaged.CHILD])
    assert told(store.check()) == []
    below, finding = store.check(max_age=0).findings
    assert (finding.code, finding.grade, finding.id) == ("unreferenced", ODDITY, base)
    assert finding.peers == (f"layer {base}: layer not referenced by any images or containers",)
    store.images.create(layer=below.id)
    assert [f.id for f in store.check(max_age=0).findings] == [base]
    with store.mounted(store.containers.create(layer="box").id):
        assert [f.id for f in store.check(max_age=0).findings] == [base]
    plan = store.plan_repair(store.check(max_age=0))
    assert plan.steps == ()
    plan = store.plan_repair(store.check(max_age=0), unreferenced=True)
    assert [(step.action, step.id) for step in plan.steps] == [("remove", base)]
    store.apply(plan)
    assert base not in store.layers


def test_progress(bad: Site) -> None:
    events: list[Any] = []
    with bad.open() as store:
        store.check(progress=events.append)
    assert events == [Advanced("check", number, 7) for number in range(1, 8)]


# --- the report -----------------------------------------------------------------------------------------------


def test_a_report_is_a_value(bad: Site) -> None:
    with bad.open() as store:
        report, again = store.check(), store.check()
    assert report == again
    assert hash(report) == hash(again)
    assert not report.is_clean
    assert len(report.of_grade(LEFTOVER)) == 1
    assert [f.code for f in report.about("layer", bad.base)] == ["content-changed"]
    assert "damage" in repr(report)
    assert str(report.findings[0]) == report.findings[0].text
    text = json.dumps(report.json())
    assert json.loads(text)["findings"][0]["id"]
    assert "checked" in json.loads(text)


def test_each_finding_says_what_where_and_since_when(bad: Site) -> None:
    with bad.open() as store:
        report = store.check()
    by_code: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_code.setdefault(finding.code, []).append(finding)
    (content,) = by_code["content-changed"]
    assert content.path == str(bad.tree(bad.base) / "etc/passwd")
    assert content.name == "/etc/passwd"
    assert content.since is not None
    assert abs(content.since.ns - (bad.tree(bad.base) / "etc/passwd").stat().st_ctime_ns) < 10**9
    (item,) = [finding for finding in by_code["data-missing"] if finding.kind == "image"]
    assert (item.id, item.name) == (bad.image, "signature")
    assert item.path == str(bad.item("signature"))


def test_the_lists_of_the_peers(bad: Site) -> None:
    """In their words, each under the things that they list it under (`spec/check-repair.md` 2, 3)."""
    with bad.open() as store:
        lists = store.check().peer_lists()
    assert tuple(lists) == GROUPS
    failed = 'file integrity checksum failed for "etc/passwd"'
    in_base = [
        f"layer {bad.base}: consume any trailer after the EOF marker: {failed}",
        f"layer {bad.base}: {failed}",
    ]
    arrow = "\uffeb"
    mode = f"/sibling(mode:0644{arrow}0600), layer content modified"
    in_sibling = [
        f'layer {bad.sibling}: data item "Note": layer data item is missing',
        f"layer {bad.sibling}: {mode}",
        f"layer {bad.sibling}: +{mode}",
    ]
    assert {id: sorted(lines) for id, lines in lists["layers"].items()} == {
        bad.base: sorted(in_base),
        bad.sibling: sorted(in_sibling),
    }
    signature = f'image {bad.image}: data item "signature": image data item is missing'
    assert {id: sorted(lines) for id, lines in lists["images"].items()} == {
        bad.image: sorted([*in_base, signature]),
        damaged.OTHER: sorted([*in_base, *in_sibling]),
    }
    state = f'container {bad.box}: data item "state": container data item is missing'
    assert {id: sorted(lines) for id, lines in lists["containers"].items()} == {
        bad.box: sorted([*in_base, signature, state])
    }
    assert lists["read_only_layers"] == lists["read_only_images"] == {}


@row("Check")
def test_a_clean_report(store: orlop.Store) -> None:
    report = store.check()
    assert report.is_clean
    assert report.findings == ()
    assert report.peer_lists() == {group: {} for group in GROUPS}


def test_one_bad_thing_stops_no_other(place: Path) -> None:
    """Everything at once: each is told, whatever else is in the way."""
    peers.need_root()
    site = damaged.build(place / "store", "vfs")
    site.edit("image", lambda records: records.append({"id": 5}))
    site.edit("container", lambda records: records.append(None))  # type: ignore[arg-type]
    site.split(site.base).write_bytes(b"\x1f\x8bno")
    (site.tree(site.child) / "etc/new").unlink()
    site.item("manifest").unlink()
    os.mkfifo(site.item("manifest"))
    (site.table("container") / site.box / "state").write_text("?")
    with site.open() as store:
        report = store.check()
    codes = {finding.code for finding in report.findings}
    assert {"record-unreadable", "tar-split", "content-missing", "data-unreadable", "data-size"} <= codes


def test_random_bytes_everywhere(place: Path) -> None:
    """A disk that goes bad: nothing hangs, nothing is raised."""
    peers.need_root()
    chance = random.Random(5)
    site = damaged.build(place / "store", "vfs")
    files = [path for path in sorted(site.graph.rglob("*")) if path.is_file() and not path.is_symlink()]
    for path in files:
        data = bytearray(path.read_bytes())
        for _ in range(len(data) // 50):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if path.suffix != ".json":
            path.write_bytes(data)
    with site.open() as store:
        report = store.check()
        assert not report.is_clean
        outcome = store.apply(store.plan_repair(report, containers=True))
        assert not outcome.failed
        # Archives are lost with the records of them, and the files of their layers are whole.
        assert {f.code for f in store.check().findings if f.grade != "oddity"} <= {"tar-split-missing"}


# --- what is seldom -------------------------------------------------------------------------------------------


def test_ids_that_no_layer_can_have(place: Path) -> None:
    """What is no name in a directory does not fit into a record; `l` is where overlay keeps short names."""
    peers.need_root()
    site = damaged.build(place / "store", "overlay")
    for id, code in (("../../../etc", "record-unreadable"), ("l", "unsafe-id")):
        record = {"id": id}
        site.edit("layer", lambda records, record=record: records.append(record))  # type: ignore[misc]
        with site.open() as store:
            report = store.check()
            assert {(f.code, f.id) for f in report.findings if f.grade == DAMAGE} == {(code, id)}
            assert not store.apply(store.plan_repair(report)).failed
            assert store.check().findings == ()
            assert len(store.layers) == 4


def test_items_whose_names_are_none(place: Path) -> None:
    peers.need_root()
    site = damaged.build(place / "store", "vfs")
    site.record("image", site.image, **{"big-data-names": [*damaged.DATA, ""]})
    with site.open() as store:
        report = store.check()
        assert {f.code for f in report.findings} == {"data-key"}
        assert not store.apply(store.plan_repair(report)).failed
        assert store.check().findings == ()
        assert set(store.images.data(site.image)) == set(damaged.DATA)


def test_two_containers_of_one_layer(place: Path) -> None:
    """Whose it is nobody knows, so nothing is done."""
    peers.need_root()
    site = damaged.build(place / "store", "vfs")
    site.edit("container", lambda records: records.append({**records[0], "id": "twin", "names": []}))
    (site.table("container") / "twin").mkdir()
    shutil.copy2(site.table("container") / site.box / "state", site.table("container") / "twin/state")
    with site.open() as store:
        (finding,) = store.check().findings
        assert (finding.code, finding.name, finding.remedy) == ("shared-layer", site.box_layer, "")
        assert store.plan_repair(store.check(), containers=True).steps == ()


def test_thousands_of_differences_are_summed_up(store: orlop.Store, place: Path) -> None:
    """A program gone wild changed every owner."""
    store.layers.put(tar(*[f"d{number % 7}/f{number}" for number in range(1500)]), id="layer")
    home = place / "graph" / store.driver_name
    tree = home / "dir/layer" if store.driver_name == "vfs" else home / "layer/diff"
    for path in tree.rglob("f*"):
        os.chown(path, 5, 5)
    report = store.check()
    assert len(report.findings) == 1001
    (more,) = [finding for finding in report.findings if finding.code == "and-more"]
    assert "500" in more.text
    assert not store.apply(store.plan_repair(report)).failed
    assert store.check().findings == ()


def test_counts_that_no_mount_stands_for(place: Path) -> None:
    """As a reboot leaves them that spares the run root; and what somebody mounted without a word."""
    peers.need_root()
    site = damaged.build(place / "store", "overlay")
    with site.open() as store:
        path = store.mount(site.box)
        subprocess.run(["umount", path], check=True)
        (finding,) = store.check().findings
        assert (finding.code, finding.grade, finding.id) == ("mount-gone", ODDITY, site.box_layer)
        other = site.graph / "overlay" / site.child / "merged"
        subprocess.run(["mount", "--bind", site.tree(site.child), other], check=True)
        codes = {finding.code: finding.id for finding in store.check().findings}
        assert codes == {"mount-gone": site.box_layer, "mount-uncounted": site.child}
        assert store.check().is_clean
