"""Where the disk went: sums that agree with `du`, and every byte with somebody who holds it."""

import os
import subprocess
from pathlib import Path

import pytest

import orlop
import tarballs
from orlop.model.events import Advanced
from orlop.model.report import ObjectUsage, UsageReport

MEGABYTE = 1 << 20


def du(*paths: Path) -> int:
    """Blocks below `paths`, without what is mounted there; an inode once."""
    command = ["du", "-scxB1", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def put(store: orlop.Store, name: str, size: int, parent: str | None = None) -> str:
    return store.layers.put(tarballs.tar((name, os.urandom(size))), parent=parent).id


def row(rows: tuple[ObjectUsage, ...], id: str) -> ObjectUsage:
    return next(row for row in rows if row.id == id)


def close(found: int, wanted: int) -> bool:
    """Directories, records and tar-split files take some blocks."""
    return 0 <= found - wanted < MEGABYTE // 2


def usage_of(store: orlop.Store, *, covered: int = 0) -> UsageReport:
    """A report whose sum is that of `du`, which does not see the directories that are `covered` by a mount."""
    os.sync()  # blocks are allocated when they are written
    report = store.usage()
    graph = Path(store.graph_root)
    if store.driver_name == "vfs":
        assert report.total_bytes == du(graph)
    else:
        # The home is a mount of its own, which `du -x` leaves out; its root directory is in both.
        assert report.total_bytes == du(graph, graph / "overlay") + 4096 * covered
    return report


def test_an_empty_store_takes_a_few_blocks_for_its_records(store: orlop.Store) -> None:
    report = usage_of(store)
    assert (report.layers, report.images, report.containers, report.unaccounted) == ((), (), (), ())
    assert report.total_bytes == report.record_bytes
    assert report.capacity_bytes > report.available_bytes > 0


def test_what_two_images_share_is_unique_to_neither(store: orlop.Store) -> None:
    base = put(store, "base", 4 * MEGABYTE)
    tops = [put(store, f"top{number}", (number + 1) * MEGABYTE, base) for number in range(2)]
    images = [store.images.create(layer=top, names=[f"image:{top}"]).id for top in tops]
    report = usage_of(store)
    whole = 4 * MEGABYTE if store.driver_name == "overlay" else 8 * MEGABYTE  # a child of vfs is a copy
    for number, (top, image) in enumerate(zip(tops, images, strict=True)):
        found = row(report.images, image)
        assert found.names == (f"image:{top}",)
        alone = (number + 1) * MEGABYTE + whole - 4 * MEGABYTE
        assert close(found.unique_bytes, alone)
        assert close(found.occupied_bytes, alone + 4 * MEGABYTE)
        assert found.shared_bytes == row(report.layers, base).occupied_bytes
        assert found.reclaimable_bytes == found.unique_bytes
        assert row(report.layers, top).images == (image,)
    assert row(report.layers, base).images == tuple(images)
    assert row(report.layers, base).reclaimable_bytes == 0
    assert report.idle_bytes == report.total_bytes - report.record_bytes


def test_what_a_container_needs_is_held(store: orlop.Store) -> None:
    base = put(store, "base", 4 * MEGABYTE)
    used, unused = (
        store.images.create(layer=base).id,
        store.images.create(layer=put(store, "other", MEGABYTE)).id,
    )
    box = store.containers.create(image=used, names=["box"])
    with store.mounted(box.id) as root:
        (root / "written").write_bytes(os.urandom(2 * MEGABYTE))
        mounted = row(usage_of(store, covered=1).containers, box.id)
    report = usage_of(store)
    found = row(report.containers, box.id)
    copied = 0 if store.driver_name == "overlay" else 4 * MEGABYTE
    assert close(found.unique_bytes, 2 * MEGABYTE + copied)
    assert (mounted.reclaimable_bytes, found.reclaimable_bytes) == (0, found.unique_bytes)
    assert row(report.images, used).containers == (box.id,)
    assert row(report.images, used).reclaimable_bytes == 0
    assert close(row(report.images, used).unique_bytes, 4 * MEGABYTE)
    assert row(report.layers, base).containers == (box.id,)
    assert close(report.held_bytes, 6 * MEGABYTE + copied)
    assert close(report.idle_bytes, MEGABYTE)
    assert row(report.images, unused).reclaimable_bytes == report.idle_bytes


def test_a_layer_on_which_another_stands_is_not_reclaimable(store: orlop.Store) -> None:
    base = put(store, "base", MEGABYTE)
    top = put(store, "top", MEGABYTE, base)
    image = store.images.create(layer=base).id
    report = usage_of(store)
    assert row(report.layers, base).reclaimable_bytes == 0
    assert row(report.layers, top).reclaimable_bytes == row(report.layers, top).unique_bytes > 0
    assert row(report.images, image).unique_bytes < MEGABYTE  # deleting it leaves the layer to its child


def test_deleting_frees_what_was_said(store: orlop.Store) -> None:
    store.layers.delete(put(store, "first", 1))  # makes the directories that deleting takes
    base = put(store, "base", MEGABYTE)
    image = store.images.create(layer=put(store, "top", 3 * MEGABYTE, base)).id
    store.images.data(image)["manifest"] = os.urandom(MEGABYTE)
    other = store.images.create(layer=base).id
    before = usage_of(store)
    store.images.delete(image)
    after = usage_of(store)
    freed = before.total_bytes - after.total_bytes
    assert freed - row(before.images, image).reclaimable_bytes in range(8192)  # records get shorter
    assert [found.id for found in after.images] == [other]


def test_data_of_images_layers_and_containers_is_theirs(store: orlop.Store) -> None:
    layer = put(store, "base", 1)
    store.layers.data(layer)["facts"] = os.urandom(MEGABYTE)
    image = store.images.create(layer=layer).id
    store.images.data(image)["manifest"] = os.urandom(2 * MEGABYTE)
    box = store.containers.create(image=image).id
    store.containers.data(box)["notes"] = os.urandom(3 * MEGABYTE)
    report = usage_of(store)
    assert close(row(report.layers, layer).unique_bytes, MEGABYTE)
    assert close(row(report.images, image).unique_bytes, 3 * MEGABYTE)
    assert close(row(report.containers, box).unique_bytes, 3 * MEGABYTE)
    assert close(report.held_bytes, 6 * MEGABYTE)


def test_what_no_record_explains_is_listed_by_path(store: orlop.Store) -> None:
    put(store, "base", MEGABYTE)
    graph = Path(store.graph_root)
    name = store.driver_name
    orphan = store.create_storage_layer()
    home = graph / name / ("dir" if name == "vfs" else "") / orphan
    content = home if name == "vfs" else home / "diff"
    (content / "large").write_bytes(os.urandom(4 * MEGABYTE))
    litter = {
        home: 4 * MEGABYTE,
        graph / f"{name}-layers/.tmp-1": MEGABYTE,
        graph / f"{name}-layers/{'0' * 64}.tar-split.gz": MEGABYTE,
        graph / f"{name}-images/{'1' * 64}": MEGABYTE,
        graph / f"{name}-containers/{'2' * 64}": MEGABYTE,
        graph / f"{name}-layers/tmp/temp-dir-1": MEGABYTE,
    }
    for path, size in litter.items():
        if path != home:
            if path.suffix or path.name.startswith("."):
                path.write_bytes(os.urandom(size))
            else:
                path.mkdir(parents=True)
                (path / "file").write_bytes(os.urandom(size))
    report = usage_of(store)
    found = {Path(each.path): each for each in report.unaccounted}
    links = {path for path in found if path.parent.name == "l"}
    assert found.keys() - links == litter.keys()
    for path, size in litter.items():
        assert close(found[path].occupied_bytes, size), path
        assert found[path].age_seconds < 600
    assert found[home].reason == "no record names this layer"
    assert "process that ended" in found[graph / f"{name}-layers/tmp/temp-dir-1"].reason
    assert close(report.unaccounted_bytes, 9 * MEGABYTE)
    for path in litter:  # what the checker that runs after every test would not forgive
        subprocess.run(["rm", "-rf", str(path)], check=True)
    for path in links:
        path.unlink(missing_ok=True)


def test_what_other_programs_keep_below_the_root_is_not_litter(store: orlop.Store) -> None:
    """podman keeps volumes there: they belong to somebody, though this store has no record of them."""
    volume = Path(store.graph_root) / "volumes/data/_data"
    volume.mkdir(parents=True)
    (volume / "file").write_bytes(os.urandom(2 * MEGABYTE))
    report = usage_of(store)
    assert [(Path(found.path).name, found.reason) for found in report.foreign] == [
        ("volumes", "not a part of this store")
    ]
    assert close(report.foreign_bytes, 2 * MEGABYTE)
    assert report.unaccounted_bytes == 0


def test_a_layer_that_a_record_which_was_set_aside_mentions_is_listed_with_that_doubt(
    store: orlop.Store,
) -> None:
    layer = put(store, "base", MEGABYTE)
    put(store, "other", 1)
    records = Path(store.graph_root) / f"{store.driver_name}-layers/layers.json"
    good = records.read_bytes()
    assert good.count(layer.encode()) == 1
    records.write_bytes(good.replace(b'"created":', b'"created":5,"once":', 1))
    report = usage_of(store)
    records.write_bytes(good)
    reasons = [found.reason for found in report.unaccounted if layer in found.path]
    assert reasons
    assert all(reason.startswith("a record that was set aside mentions it") for reason in reasons)


def test_a_layer_deleted_while_the_walk_runs_does_not_disturb_it(
    store: orlop.Store, other: orlop.Store
) -> None:
    layers = [put(store, "file", 100) for _ in range(3)]

    def progress(event: object) -> None:
        assert isinstance(event, Advanced)
        if event.done == 0:
            other.layers.delete(layers[0])

    report = store.usage(progress=progress)
    assert {found.id for found in report.layers} == set(layers[1:])
    assert report.unaccounted == ()


def test_progress_is_told_up_to_the_end(store: orlop.Store) -> None:
    put(store, "file", 100)
    events: list[object] = []
    store.usage(progress=events.append)
    assert isinstance(events[-1], Advanced)
    assert events[-1].task == "measure"
    assert events[-1].done == events[-1].total > 0


@pytest.mark.parametrize("what", ["layers", "images", "containers"])
def test_a_report_is_json(store: orlop.Store, what: str) -> None:
    import json

    box = store.containers.create(image=store.images.create(layer=put(store, "base", 1)).id)
    document = json.loads(json.dumps(usage_of(store).json()))
    assert document["total_bytes"] == sum(
        document[f"{of}_bytes"] for of in ("held", "idle", "record", "foreign", "unaccounted")
    )
    assert len(document[what]) == (2 if what == "layers" else 1)
    assert set(document[what][0]) >= {
        "id",
        "occupied_bytes",
        "unique_bytes",
        "shared_bytes",
        "reclaimable_bytes",
    }
    assert document["containers"][0]["id"] == box.id


def test_beside_a_lost_table_everything_is_unaccounted_for(store: orlop.Store) -> None:
    """A report is wanted most of all then."""
    layer = put(store, "base", MEGABYTE)
    records = Path(store.graph_root) / f"{store.driver_name}-layers/layers.json"
    good = records.read_bytes()
    records.write_bytes(b"")
    try:
        report = usage_of(store)
    finally:
        records.write_bytes(good)
    assert report.layers == ()
    assert close(report.unaccounted_bytes, MEGABYTE)
    reasons = {found.reason for found in report.unaccounted if layer in found.path}
    assert reasons == {"the table of layers is lost, which may have named it"}
    (damage,) = report.damage
    assert str(records) in damage
    assert report.json()["damage"] == [damage]
    assert store.usage().damage == ()


def test_the_age_is_that_of_the_directory_and_not_of_an_archive(store: orlop.Store) -> None:
    """The root of a layer has the time that its archive gave it."""
    lost = store.create_storage_layer()
    path = store.driver().places(lost)[-1]
    os.utime(path, (5, 5))
    (found,) = [found for found in store.usage().unaccounted if found.path == path]
    assert found.age_seconds < 100
    (step,) = store.plan_gc().steps
    assert step.age_seconds is not None
    assert step.age_seconds < 100
    store.gc()


def test_both_roots_of_a_split_store_are_counted(open_store: tarballs.Open, place: Path) -> None:
    driver = open_store().driver_name
    with orlop.open_store(
        place / "g", place / "r", driver, image_store=place / "i", durability="none"
    ) as store:
        image = store.images.create(layer=put(store, "base", 2 * MEGABYTE)).id
        box = store.containers.create(image=image).id
        orphan = place / "i" / driver / ("dir" if driver == "vfs" else "") / ("0" * 64)
        orphan.mkdir()
        os.sync()
        report = store.usage()
        homes = [place / root / driver for root in ("g", "i")]
        assert report.total_bytes == du(place / "g", place / "i", *homes)
        assert close(row(report.images, image).occupied_bytes, 2 * MEGABYTE)
        assert row(report.images, image).containers == (box,)
        assert [found.path for found in report.unaccounted] == [str(orphan)]
        store.shutdown()


@pytest.mark.parametrize("run", ["graph", "graph/run", "graph/deeper/run", "graph/images/run"])
@pytest.mark.parametrize("images", ["", "graph/images"])
def test_roots_that_lie_in_each_other_are_counted_once(
    open_store: tarballs.Open, place: Path, run: str, images: str
) -> None:
    """Whatever lies where, all of it is the store's own, and nothing of it is unaccounted for."""
    driver = open_store().driver_name
    roots = {"graph_root": place / "own/graph", "run_root": place / "own" / run}
    if images:
        roots["image_store"] = place / "own" / images
    with orlop.open_store(**roots, driver=driver, durability="none") as store:
        image = store.images.create(layer=put(store, "file", 100_000), data={"manifest": b"{}"})
        box = store.containers.create(image=image.id, data={"k": b"v"})
        store.containers.write_file(box.id, "pid", b"1" * 9000, run=True)
        store.images.run_directory(image.id)
        with store.digest_lock("sha256:" + "a" * 64):
            pass
        store.mount(box.id)
        os.sync()
        report = store.usage()
        home = [place / "own/graph/overlay"] if driver == "overlay" else []
        covered = 4096 * (len(home) + (driver == "overlay" and bool(images)))
        homes = [*home, *([place / "own/graph/images/overlay"] if covered > 4096 else [])]
        assert abs(report.total_bytes - du(place / "own/graph", *homes)) <= 4096 * 4
        assert [found.path for found in (*report.unaccounted, *report.foreign)] == []
        assert store.plan_gc().steps == ()
        assert store.check().is_clean
        store.unmount(box.id)
        store.shutdown()
