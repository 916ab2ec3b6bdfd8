"""A full disk and failing calls (promise P5): a clear error, the old state or the new, and deleting still works."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import invariants
import orlop
import peers

sys.path.insert(0, os.path.dirname(__file__))

import operations
import test_kill as kill

scratch, template, tools = kill.scratch, kill.template, kill.tools  # pytest finds fixtures by these names

ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "EMFILE", "ENOMEM", "EINTR")
POINTS = int(os.environ.get("N") or 5)  # for each operation


@contextmanager
def small_disk(where: Path, options: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize(
    "options",
    ["size=700k", "size=1100k", "size=2m", "size=4m", "nr_inodes=60,size=9m", "nr_inodes=110,size=9m"],
)
def test_a_full_disk_is_an_error_and_deleting_frees_it(place: Path, options: str, driver: str) -> None:
    """Fill it with layers until it is full, delete on the full disk, and go on."""
    peers.need_root()
    with small_disk(place / "disk", options) as disk:
        graph, run = disk / "graph", place / "run"
        stored: list[str] = []
        with orlop.open_store(graph, run, driver) as store:
            with pytest.raises(OSError) as full:
                for number in range(200):
                    layer = store.layers.put(operations.blob("a", "b", "c", size=30_000), id=f"layer{number}")
                    stored.append(layer.id)
            assert full.value.errno == 28
            assert stored, "not even one layer found room: the disk of this test is too small"
            assert [layer.id for layer in store.layers] == stored
            invariants.hold(graph, run, driver, litter=False)
            (disk / "filler").write_bytes(b"")
            with pytest.raises(OSError), (disk / "filler").open("wb") as filler:
                while True:
                    filler.write(b"x" * 4096)
                    filler.flush()
            for id in list(stored):
                _delete(store, id, disk / "filler")
                stored.remove(id)
                assert [layer.id for layer in store.layers] == stored
            store.layers.put(operations.blob("a"), id="after")
        invariants.hold(graph, run, driver)
        peers.unmount_below(graph)


def _delete(store: orlop.Store, id: str, filler: Path) -> None:
    """The table that flags the layer has to be written anew: where not even that finds room, a little is made."""
    try:
        store.layers.delete(id)
    except OSError as error:
        if error.errno != 28 or not filler.exists():
            raise
        filler.unlink()
        store.layers.delete(id)


def _fails(
    scratch: Path, template: kill.Template, operation: str, points: list[tuple[str, int]]
) -> list[str]:
    """Let one call fail after the other. What the operation says decides what must have happened."""
    wrong = []
    for number, (call, n) in enumerate(points):
        base = kill._copied(template, scratch / "failed")
        error = ERRORS[number % len(ERRORS)]
        # A call that is interrupted for ever is tried for ever, and a program that cannot write cannot speak.
        lasts = number % 3 == 0 and error != "EINTR" and call not in ("write", "openat", "fcntl", "ioctl")
        lasting = f"{n}+" if lasts else str(n)
        inject = f"inject={call}:error={error}:when={lasting}"
        done = kill._straced(
            ["-o", "/dev/null", "-e", f"trace={call}", "-e", inject], base, template.driver, operation
        )
        where = f"{operation}, {error} from {call} number {lasting}"
        if done.returncode < 0:
            wrong.append(f"{where}: killed by signal {-done.returncode}")
        try:
            kill._judge(base, template.driver, operation, done.stdout == b"done\n", peer=False)
        except Exception as problem:
            wrong.append(f"{where}: {type(problem).__name__}: {problem}\n{done.stderr.decode()[-400:]}")
    return wrong


FAILING = sorted(set(operations.OPERATIONS) - {"wipe", "mount"})


@pytest.mark.parametrize("operation", FAILING)
def test_a_call_that_fails_leaves_the_old_state_or_the_new(
    tools: None, scratch: Path, template: kill.Template, operation: str
) -> None:
    """And the next command needs no help."""
    points = kill._points(template, scratch, operation)
    random.Random(operation).shuffle(points)
    assert not (wrong := _fails(scratch, template, operation, points[:POINTS])), "\n".join(wrong)


@pytest.mark.deep
@pytest.mark.parametrize("operation", FAILING)
def test_deep_every_call_that_can_fail(
    tools: None, scratch: Path, template: kill.Template, operation: str
) -> None:
    points = kill._points(template, scratch, operation)
    if os.environ.get("N"):
        points = points[: int(os.environ["N"])]
    assert not (wrong := _fails(scratch, template, operation, points)), "\n".join(wrong)
