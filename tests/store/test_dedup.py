"""Deduplication on file systems with reflinks: blocks are shared, and nothing else is different."""

import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import invariants
import loopfs
import orlop
import peers
import tarballs
from interface import row
from orlop.errors import PlanOutdated
from orlop.model.events import Advanced
from orlop.model.plan import Assumption, Plan, Step
from orlop.system.sharing import extents

MEGABYTE = 1 << 20
CASES = ["xfs vfs", "xfs overlay", "btrfs vfs", "btrfs overlay"]


@pytest.fixture(scope="module", params=CASES)
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    peers.need_root()
    kind, driver = request.param.split()
    with loopfs.mounted(kind, tmp_path_factory.mktemp("loop")) as point:
        yield point, driver


@dataclass
class Place:
    base: Path
    driver: str

    def open(self, **more: object) -> orlop.Store:
        return orlop.open_store(
            self.base / "graph", self.base / "run", self.driver, durability="none", lock_timeout=10, **more
        )  # type: ignore[arg-type]

    def files(self, layer: str) -> Path:
        graph = self.base / "graph"
        return graph / f"vfs/dir/{layer}" if self.driver == "vfs" else graph / f"overlay/{layer}/diff"

    def free(self) -> int:
        """Free bytes, once nothing is freed in the background any more."""
        last = -1
        while True:
            subprocess.run(["sync", "-f", str(self.base)], check=True)
            status = os.statvfs(self.base)
            if (now := status.f_bfree * status.f_frsize) == last:
                return now
            last = now
            time.sleep(0.2)

    def state(self) -> dict[str, tuple[object, ...]]:
        """Everything about every file below the driver's home but which blocks it takes."""
        found: dict[str, tuple[object, ...]] = {}
        for directory, _, names in os.walk(self.base / "graph" / self.driver):
            for path in [Path(directory, name) for name in names]:
                it = path.lstat()
                if stat.S_ISBLK(it.st_mode):
                    continue  # the node for quotas is made anew whenever the driver is opened
                content = path.read_bytes() if stat.S_ISREG(it.st_mode) else b""
                facts = (it.st_mode, it.st_ino, it.st_nlink, it.st_uid, it.st_gid, it.st_size)
                found[str(path)] = (content, *facts, it.st_mtime_ns, it.st_ctime_ns)
        return found


@pytest.fixture
def place(disk: tuple[Path, str]) -> Iterator[Place]:
    base = disk[0] / "place"
    base.mkdir()
    try:
        yield Place(base, disk[1])
        invariants.hold(base / "graph", base / "run", disk[1])
    finally:
        peers.unmount_below(base)
        shutil.rmtree(base)


def blocks(path: Path) -> list[tuple[int, int]]:
    with path.open("rb") as file:
        return [(each.place, each.length) for each in extents(file.fileno(), sync=True)]


def image(store: orlop.Store, *members: tuple[str, bytes]) -> str:
    """An image of one layer; the layer's id, which is the name of the image, too."""
    layer = store.layers.put(tarballs.tar(*members)).id
    store.images.create(layer=layer, names=[f"of/{layer}"])
    return layer


LARGE, OTHER, SMALL = os.urandom(4 * MEGABYTE), os.urandom(4 * MEGABYTE), os.urandom(10_000)


def two_images(place: Place, store: orlop.Store) -> tuple[Path, Path]:
    """The directories of two layers, which have `large` and `small` in common."""
    one = image(store, ("large", LARGE), ("small", SMALL), ("own", b"1" * 5000))
    two = image(store, ("large too", LARGE), ("small", SMALL), ("other", OTHER), ("empty", b""))
    os.sync()
    return place.files(one), place.files(two)


# --- what it does ---------------------------------------------------------------------------------------------


@row("Dedup")
@pytest.mark.parametrize("method", ["crc", "size", "sha256"])
def test_files_with_the_same_content_lie_on_the_same_blocks(place: Place, method: str) -> None:
    with place.open() as store:
        one, two = two_images(place, store)
        assert blocks(one / "large") != blocks(two / "large too")
        result = store.dedup(method=method)
    assert blocks(one / "large") == blocks(two / "large too")
    assert blocks(one / "small") == blocks(two / "small")
    assert blocks(two / "other") != blocks(one / "large")
    assert result.deduped_bytes == len(LARGE) + len(SMALL)
    assert result.skipped == ()


def test_nothing_but_the_blocks_is_different(place: Place) -> None:
    with place.open() as store:
        one, two = two_images(place, store)
        os.link(two / "small", two / "link")
        before, accessed = place.state(), (one / "large").stat().st_atime_ns
        os.utime(one / "large", ns=(accessed - 10**15, (one / "large").stat().st_mtime_ns))
        accessed = (one / "large").stat().st_atime_ns
        store.dedup()
        assert (one / "large").stat().st_atime_ns == accessed
    after = place.state()
    del before[str(one / "large")], after[str(one / "large")]  # its own ctime is of the utime above
    assert after == before


def test_the_bytes_that_a_plan_promises_become_free(place: Place) -> None:
    with place.open() as store:
        two_images(place, store)
        before = place.free()
        plan = store.plan_dedup()
        assert place.free() == before
        outcome = store.apply(plan)
    wanted = 4 * MEGABYTE + 12_288  # whole blocks
    assert plan.freed_bytes == outcome.freed_bytes == wanted
    assert abs(place.free() - before - wanted) < MEGABYTE // 2
    (step,) = plan.steps
    assert (step.action, step.kind, step.size_bytes) == ("share", "layer", len(LARGE) + len(SMALL))
    assert step.reason == "2 files with the content of others"
    assert outcome.done == plan.steps
    assert outcome.failed == ()


def test_a_second_run_counts_the_same_and_frees_nothing(place: Place) -> None:
    with place.open() as store:
        two_images(place, store)
        first = store.dedup()
        os.sync()
        second = store.dedup()
        assert store.plan_dedup().steps == ()
    assert (second.deduped_bytes, second.freed_bytes) == (first.deduped_bytes, 0)


def test_a_dry_run_says_what_would_be_and_changes_nothing(place: Place) -> None:
    with place.open() as store:
        one, two = two_images(place, store)
        before = [blocks(path) for path in (one / "large", two / "large too", two / "small")]
        said = [store.dedup(method=method, dry_run=True) for method in ("crc", "size", "sha256")]
        assert [blocks(path) for path in (one / "large", two / "large too", two / "small")] == before
        done = store.dedup()
    assert said == [done, done, done]


def test_containers_and_layers_of_no_image_are_left_alone(place: Place) -> None:
    with place.open() as store:
        base = image(store, ("large", LARGE))
        loose = store.layers.put(tarballs.tar(("large", LARGE))).id
        box = store.containers.create(image=f"of/{base}")
        with store.mounted(box.id) as root:
            (root / "written").write_bytes(LARGE)
        os.sync()
        paths = [place.files(loose) / "large", place.files(box.layer_id) / "written"]
        before = [blocks(path) for path in paths]
        result = store.dedup()
    assert result.deduped_bytes == 0
    assert [blocks(path) for path in paths] == before


def test_a_hard_link_is_one_file(place: Place) -> None:
    with place.open() as store:
        layer = image(store, ("large", LARGE))
        os.link(place.files(layer) / "large", place.files(layer) / "again")
        os.sync()
        assert store.plan_dedup().steps == ()
        assert store.dedup().deduped_bytes == 0


@pytest.mark.parametrize("disk", ["xfs vfs", "btrfs vfs"], indirect=True)
def test_blocks_that_a_container_holds_do_not_count_as_freed(place: Place) -> None:
    """A container's layer of vfs is a reflinked copy: the blocks that its image gives up are still taken."""
    with place.open() as store:
        image(store, ("large", LARGE), ("small", SMALL))
        held = image(store, ("large", LARGE), ("small", SMALL))
        store.containers.create(image=f"of/{held}")
        os.sync()
        before = place.free()
        plan = store.plan_dedup()
        outcome = store.apply(plan)
    # The layer that lies on most blocks already could be the source; then the other one's become free.
    assert plan.freed_bytes == outcome.freed_bytes
    assert abs(place.free() - before - plan.freed_bytes) < MEGABYTE // 2


def test_families_of_copies_are_joined_and_what_all_of_one_give_up_becomes_free(place: Place) -> None:
    """Two bases with the same content, each with children that vfs copied by reflinks."""
    with place.open() as store:
        for _ in range(2):
            parent = store.layers.put(tarballs.tar(("large", LARGE), ("other", OTHER))).id
            for number in range(2):
                parent = store.layers.put(tarballs.tar((f"new{number}", os.urandom(100))), parent=parent).id
            store.images.create(layer=parent)
        os.sync()
        before = place.free()
        plan = store.plan_dedup()
        outcome = store.apply(plan)
        assert store.plan_dedup().steps == ()
    assert plan.freed_bytes == outcome.freed_bytes == 8 * MEGABYTE
    assert abs(place.free() - before - 8 * MEGABYTE) < MEGABYTE // 2


def test_a_plan_to_delete_knows_what_is_shared(place: Place) -> None:
    with place.open() as store:
        names = [f"of/{image(store, ('large', LARGE), (f'own{number}', OTHER))}" for number in range(2)]
        for _ in range(2):
            image(store, ("another", os.urandom(MEGABYTE)))
        os.sync()
        store.dedup()
        before = place.free()
        one, both = store.plan_delete(names[0]), store.plan_delete(*names)
        # `large` and the two of the same content that are called `own` lie on 8 MiB together.
        assert one.freed_bytes < MEGABYTE
        assert 0 <= both.freed_bytes - 8 * MEGABYTE < MEGABYTE
        store.apply(both)
        assert abs(place.free() - before - both.freed_bytes) < MEGABYTE // 2


def test_many_files_of_one_size_are_told_apart(place: Place) -> None:
    contents = [bytes((number,)) * 8192 for number in range(20)]
    with place.open() as store:
        one = image(store, *[(f"a{number}", content) for number, content in enumerate(contents)])
        two = image(store, *[(f"b{number}", content) for number, content in enumerate(contents)])
        os.sync()
        result = store.dedup(method="size")
    assert result.deduped_bytes == 20 * 8192
    for number, content in enumerate(contents):
        assert (place.files(one) / f"a{number}").read_bytes() == content
        assert blocks(place.files(one) / f"a{number}") == blocks(place.files(two) / f"b{number}")


def test_layers_in_an_image_store_are_shared_too(place: Place) -> None:
    with place.open(image_store=place.base / "images") as store:
        one, two = image(store, ("large", LARGE)), image(store, ("large", LARGE))
        os.sync()
        assert store.dedup().deduped_bytes == len(LARGE)
        home = place.base / "images" / place.driver
        at = {"vfs": "dir/{}/large", "overlay": "{}/diff/large"}[place.driver]
        assert blocks(home / at.format(one)) == blocks(home / at.format(two))
    shutil.rmtree(place.base / "images")
    peers.unmount_below(place.base)
    shutil.rmtree(place.base / "graph")
    place.open().close()  # so that there is a store to be checked


# --- plans ----------------------------------------------------------------------------------------------------


def test_a_plan_of_a_store_that_changed_is_refused_and_nothing_is_done(place: Place) -> None:
    with place.open() as store:
        one, two = two_images(place, store)
        extra = image(store, ("large", LARGE))
        os.sync()
        plan = store.plan_dedup()
        store.images.delete(f"of/{extra}")
        with pytest.raises(PlanOutdated, match=extra):
            store.apply(plan)
    assert blocks(one / "large") != blocks(two / "large too")


@pytest.mark.parametrize("way", ["json", "pickle"])
def test_a_plan_that_was_stored_is_applied_like_one_just_made(place: Place, way: str) -> None:
    with place.open() as store:
        one, two = two_images(place, store)
        made = store.plan_dedup()
        if way == "json":
            stored = json.loads(json.dumps(made.json()))
            plan = Plan(
                "dedup",
                [Step(**step) for step in stored["steps"]],
                (),
                stored["freed_bytes"],
                [Assumption(**assumed) for assumed in stored["assumptions"]],
            )
        else:
            plan = pickle.loads(pickle.dumps(made))
            assert type(plan) is Plan
        assert plan == made
        assert made == plan
        assert hash(plan) == hash(made)
        outcome = store.apply(plan)
    assert outcome.freed_bytes == made.freed_bytes
    assert blocks(one / "large") == blocks(two / "large too")


def test_a_plan_that_was_applied_frees_nothing_more(place: Place) -> None:
    with place.open() as store:
        two_images(place, store)
        plan = store.plan_dedup()
        assert store.apply(plan).freed_bytes == plan.freed_bytes > 0
        again = store.apply(plan)
    assert (again.done, again.failed, again.freed_bytes) == ((), (), 0)


def test_a_layer_that_is_deleted_while_files_are_read_does_not_stop_the_others(place: Place) -> None:
    with place.open() as store, place.open() as other:
        one, two = two_images(place, store)
        extra = image(store, ("large", LARGE))
        os.sync()

        def progress(event: object) -> None:
            if isinstance(event, Advanced) and event.task == "share" and event.done == 0:
                other.images.delete(f"of/{extra}")

        result = store.dedup(progress=progress)
    assert blocks(one / "large") == blocks(two / "large too")
    assert result.deduped_bytes == len(LARGE) + len(SMALL)
    assert [line for line in result.skipped if "deleted meanwhile" in line] != []


def test_a_method_that_there_is_not_is_a_mistake_of_the_caller(place: Place) -> None:
    with place.open() as store:
        for call in (store.dedup, store.plan_dedup):
            with pytest.raises(ValueError, match="sha256; found 'sha1'"):
                call(method="sha1")


def test_progress_is_told_of_finding_hashing_and_sharing(place: Place) -> None:
    events: list[object] = []
    with place.open() as store:
        two_images(place, store)
        store.dedup(progress=events.append)
    told = [event for event in events if isinstance(event, Advanced)]
    assert list(dict.fromkeys(event.task for event in told)) == ["find", "hash", "share"]
    assert all(event.done <= event.total for event in told)
    assert told[-1].done == told[-1].total == 1


# --- others at work -------------------------------------------------------------------------------------------


def test_a_file_that_changed_after_the_plan_is_not_shared(place: Place) -> None:
    with place.open() as store:
        one, two = two_images(place, store)
        plan = store.plan_dedup()
        with (two / "large too").open("r+b") as file:
            file.seek(2 * MEGABYTE)
            file.write(b"changed")
        outcome = store.apply(plan)
    assert (two / "large too").read_bytes() == LARGE[: 2 * MEGABYTE] + b"changed" + LARGE[2 * MEGABYTE + 7 :]
    assert (one / "large").read_bytes() == LARGE
    assert blocks(one / "large") != blocks(two / "large too")
    assert outcome.freed_bytes == 12_288  # of the small one
    (two / "large too").write_bytes(LARGE)  # as the checker wants it


def test_a_file_that_is_written_to_all_the_time_loses_no_write(place: Place) -> None:
    """The kernel compares and shares under the locks of both files; what is written later is written to a copy."""
    with place.open() as store:
        one, two = two_images(place, store)
        stop = threading.Event()
        written = 0

        def write() -> None:
            nonlocal written
            with (two / "large too").open("r+b", buffering=0) as file:
                while not stop.is_set():
                    file.seek(MEGABYTE + written % 1000 * 8)
                    file.write((written + 1).to_bytes(8, "big"))
                    written += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                store.dedup()
        finally:
            stop.set()
            writer.join()
    wanted = bytearray(LARGE)
    for number in range(max(0, written - 1000), written):
        start = MEGABYTE + number % 1000 * 8
        wanted[start : start + 8] = (number + 1).to_bytes(8, "big")
    assert (two / "large too").read_bytes() == wanted
    assert (one / "large").read_bytes() == LARGE
    (two / "large too").write_bytes(LARGE)  # as the checker wants it


def test_a_program_that_runs_is_shared_and_goes_on(place: Place) -> None:
    """Opened for writing it would be busy, and while it was open nobody could start it."""
    program = Path(peers.program("sleep")).read_bytes()
    with place.open() as store:
        one, two = (place.files(image(store, ("sleep", program))) for _ in range(2))
        os.sync()
        for path in (one, two):
            (path / "sleep").chmod(0o755)
        running = [subprocess.Popen([str(path / "sleep"), "60"]) for path in (one, two)]
        try:
            assert store.dedup().deduped_bytes == len(program)
            assert [process.poll() for process in running] == [None, None]
        finally:
            for process in running:
                process.kill()
                process.wait()
    assert blocks(one / "sleep") == blocks(two / "sleep")


def test_others_may_use_the_store_while_files_are_read(place: Place) -> None:
    with place.open() as store, place.open() as other:
        two_images(place, store)
        seen: list[str] = []

        def progress(event: object) -> None:
            assert isinstance(event, Advanced)
            seen.append(other.layers.create().id)

        store.dedup(progress=progress)
        assert len(seen) > 3
        assert {layer.id for layer in store.layers} >= set(seen)


WORK = """
import os, sys, orlop
from orlop.system import sharing
graph, run, driver, calls = sys.argv[1:]
left, share = int(calls), sharing.share

def share_and_die(*arguments):
    global left
    done = share(*arguments)
    left -= 1
    if not left:
        os.kill(os.getpid(), 9)
    return done

sharing.share = share_and_die
with orlop.open_store(graph, run, driver, durability="none") as store:
    store.dedup()
"""


def test_killed_at_any_call_it_leaves_every_file_as_it_was(place: Place) -> None:
    contents = [os.urandom(64 * 1024) for _ in range(50)]
    with place.open() as store:
        for _ in range(3):
            image(store, *[(f"file{number}", content) for number, content in enumerate(contents)])
    os.sync()
    before = place.state()
    graph, run = str(place.base / "graph"), str(place.base / "run")
    for calls in (1, 2, 30, 40):
        words = [sys.executable, "-c", WORK, graph, run, place.driver, str(calls)]
        assert subprocess.run(words, check=False).returncode == -9
        assert place.state() == before
    with place.open() as store:
        left = store.plan_dedup()
        assert sum(step.size_bytes for step in left.steps) == (100 - 73) * 64 * 1024
        assert store.dedup().deduped_bytes == 100 * 64 * 1024
    assert place.state() == before


# --- orlop-storage --------------------------------------------------------------------------------------------


def test_the_command_prints_what_is_shared_also_when_it_was_before(place: Place) -> None:
    with place.open() as store:
        two_images(place, store)
    shared = len(LARGE) + len(SMALL)
    ours = peers.orlop_storage(place.base, driver=place.driver)
    for words in ((), ("--hash-method", "size"), ("--hash-method=sha256",)):
        assert ours("dedup", *words).text == f"Deduplicated {shared} bytes\n"
    assert ours("dedup", "--json").text == f'{{"Deduped":{shared}}}\n'


def test_the_command_knows_three_methods(place: Place) -> None:
    """The manual of the peers speaks of a fourth, `sha256sum`, which their program refuses, too."""
    ours = peers.orlop_storage(place.base, driver=place.driver)
    result = ours("dedup", "--hash-method", "sha256sum", ok=False)
    assert (result.status, result.out) == (1, b"")
    assert result.err.endswith(b"invalid hash method: sha256sum\n")
