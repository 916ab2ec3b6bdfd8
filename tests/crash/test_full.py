"""A full disk (promise P5): a clear error, the old state or the new, and deleting works.

A record has to say so before anything can go, which takes room; the room is kept for that (`system/room`).

make deep-full           every operation, with any room from none to as much as it needs
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cases import ALL, Case, Cases, chance
from operations import OPERATIONS
from scenes import blob

import invariants
import loopfs
import orlop
import peers
from orlop.errors import ImageUsedByContainer, StorageError
from orlop.system import room

PAGE = 4096
NO_ROOM = 28
FULL = [(name, driver) for name, driver in ALL if not OPERATIONS[name].place.disk]


@contextmanager
def small_disk(where: Path, options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        peers.unmount_below(where)


# --- an empty disk, filled with layers ----------------------------------------------------------------------


def _stuffed(store: orlop.Store) -> list[str]:
    """Put layers into it until the disk is full; their ids."""
    stored: list[str] = []
    with pytest.raises(OSError) as full:
        for number in range(200):
            layer = store.layers.put(blob("a", "b", "c", size=30_000), id=f"layer{number}")
            stored.append(layer.id)
    assert full.value.errno == NO_ROOM
    assert stored, "not even one layer found room: the disk of this test is too small"
    assert [layer.id for layer in store.layers] == stored
    return stored


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("options", ["size=700k", "size=1100k", "size=2m", "size=4m", "size=12m"])
def test_a_full_disk_is_an_error_and_deleting_frees_it(place: Path, options: str, driver: str) -> None:
    """Fill it with layers until it is full, delete without a single block left, and go on."""
    peers.need_root()
    with small_disk(place / "disk", options) as disk:
        graph, run = disk / "graph", place / "run"
        with orlop.open_store(graph, run, driver) as store:
            stored = _stuffed(store)
            invariants.hold(graph, run, driver, litter=False)
            while stored:
                fill(disk / "filler", 0)
                with orlop.open_store(graph, run, driver) as another:
                    another.layers.delete(stored.pop())
                assert [layer.id for layer in store.layers] == stored
                assert os.statvfs(disk).f_bavail > 0
                store.layers.put(blob("a"), id="between")
                store.layers.delete("between")
            store.layers.put(blob("a"), id="after")
        invariants.hold(graph, run, driver)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_an_image_and_a_container_are_deleted_from_a_full_disk(place: Path, kind: str) -> None:
    peers.need_root()
    with loopfs.mounted(kind, place) as disk, orlop.open_store(disk / "graph", place / "run", "vfs") as store:
        layer = store.layers.put(blob("a", size=30_000))
        image = store.images.create(layer=layer.id, data={"manifest": b"{}"})
        box = store.containers.create(image=image.id)
        fill(disk / "filler", 0)
        for _ in range(2):  # what is refused takes no room with it
            with pytest.raises(ImageUsedByContainer):
                store.images.delete(image.id)
        for delete in (lambda: store.containers.delete(box.id), lambda: store.images.delete(image.id)):
            fill(disk / "filler", 0)  # to the brim again
            delete()
            (disk / "filler").unlink()
        assert len(store.layers) == 0
        invariants.hold(disk / "graph", place / "run", "vfs")


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("options", ["size=700k", "size=4m", "nr_inodes=60,size=9m", "nr_inodes=110,size=9m"])
def test_where_no_room_is_kept_the_error_tells_how_much_is_wanting(
    place: Path, options: str, driver: str
) -> None:
    """So it is when only other programs wrote to the store; and files cannot be kept as blocks can."""
    peers.need_root()
    with small_disk(place / "disk", options) as disk:
        graph, run = disk / "graph", place / "run"
        with orlop.open_store(graph, run, driver) as store:
            for id in _stuffed(store):
                room.give_back(str(graph / f"{driver}-layers" / "layers.lock"))
                fill(disk / "filler", 0)
                _delete(store, id, disk / "filler")
            store.layers.put(blob("a"), id="after")
        invariants.hold(graph, run, driver)


def _delete(store: orlop.Store, id: str, filler: Path) -> None:
    """Refused without a change, and done once there is the room that the error asks for: not a page more."""
    before = [layer.id for layer in store.layers]
    with pytest.raises(OSError) as full:
        store.layers.delete(id)
    assert full.value.errno == NO_ROOM
    assert "layers.json" in str(full.value.filename)
    assert [layer.id for layer in store.layers] == before
    [advice] = full.value.__notes__
    [told] = re.findall(r"which takes ([\d,]+) bytes", advice)
    pages = -(-int(told.replace(",", "")) // PAGE)
    os.truncate(filler, filler.stat().st_size - pages * PAGE)
    if os.statvfs(filler).f_favail == 0:
        filler.unlink()
    store.layers.delete(id)
    assert id not in store.layers


def fill(filler: Path, pages: int) -> None:
    """Leave just so many pages on the disk of a file."""
    with filler.open("wb", buffering=0) as out, pytest.raises(OSError):
        while True:
            out.write(b"x" * PAGE)
    os.truncate(filler, max(0, filler.stat().st_size - pages * PAGE))


# --- every operation, with little room ----------------------------------------------------------------------

ENOUGH_TO_DELETE = 4
"""Pages: the tables are written anew, and the notes about them, before anything is freed."""


def _with_room(case: Case, disk: Path, pages: int) -> bool:
    """Run it with so many pages left, and judge it once there is room again; whether it was done."""
    case.fresh()
    fill(disk / "filler", pages)
    done = False
    error: Exception | None = None
    try:
        with case.opened() as store:
            case.operation.act(store)
        done = True
    except (OSError, StorageError) as problem:
        error = problem
    if case.operation.frees and pages >= ENOUGH_TO_DELETE:
        assert done, f"{case} does not free a disk with {pages} pages left: {error}"
    (disk / "filler").unlink()
    try:
        case.judge(done)
    except Exception as problem:
        problem.add_note(f"{case}, with {pages} pages left: {error or 'done'}")
        raise
    return done


@contextmanager
def _on_small_disk(case: Case, place: Path) -> Iterator[tuple[Case, Path]]:
    case.kills  # noqa: B018  # its facts are found where there is room
    with small_disk(place / "disk", "size=6m") as disk:
        small = Case(case.name, case.driver, disk / "case", case.template)
        small.__dict__["_done"] = case._done
        yield small, disk


def test_an_operation_that_finds_no_room_leaves_the_old_state_or_the_new(cases: Cases, place: Path) -> None:
    for name, driver in chance("full disk").sample(FULL, 12):
        with _on_small_disk(cases.case(name, driver), place) as (case, disk):
            _with_room(case, disk, chance(name, driver, "room").randrange(14))


@pytest.mark.deep
@pytest.mark.parametrize(("operation", "driver"), FULL)
def test_deep_every_operation_with_any_room(cases: Cases, place: Path, operation: str, driver: str) -> None:
    with _on_small_disk(cases.case(operation, driver), place) as (case, disk):
        pages = 0
        while not _with_room(case, disk, pages):
            pages += 1
        assert pages < 200
