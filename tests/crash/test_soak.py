"""One process that works for long (promise 5.13): what it holds does not grow.

make deep-soak           20 minutes; N= for another number
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cases import Cases
from operations import OPERATIONS
from scenes import GAPPED, ID, SCENES, blob

import peers
from orlop import AutoUserNS

MINUTES = float(os.environ.get("N") or 20)
WARM_UP = 10  # rounds: modules, caches, pools
MEMORY = 4 << 20

Round = Callable[[Any, int, Path], object]


def _undone(*names: str) -> Round:
    """Operations of the table, on what is there, and back: what they made is deleted."""

    def work(store: Any, number: int, base: Path) -> None:
        for name in names:
            OPERATIONS[name].act(store)
        if ID["new"] in store.containers:
            store.containers.delete(ID["new"])
        if ID["new"] in store.images:
            store.delete(ID["new"])  # the record alone: its layer was there before
        if ID["new"] in store.layers:
            store.layers.delete(ID["new"])

    return work


def _plain(store: Any, number: int, base: Path) -> None:
    _undone("put", "image", "container", "image-data", "layer-data", "write-file", "write-run", "lock")(
        store, number, base
    )
    with store.mounted("box") as root:
        (root / "file").write_bytes(b"x" * number)
    with store.diff(ID["box-layer"] if number % 5 == 0 else "top", compression=0) as tar:
        while tar.read(1 << 16):
            pass
    store.mount_image("app")
    store.unmount_image("app")
    store.add_names("lone", [f"name-{number}"])
    store.remove_names("lone", [f"name-{number}"])
    store.containers.create(names=["passing"], image="spare")
    store.apply(store.plan_delete("passing"))
    store.gc()
    if number % 20 == 0:
        assert store.check().is_clean


def _foreign(store: Any, number: int, base: Path) -> None:
    for name in ("pull-up", "foreign-id"):
        OPERATIONS[name].act(store)
        store.delete(ID["foreign"])  # our record alone
    _undone("on-foreign")(store, number, base)


def _split(store: Any, number: int, base: Path) -> None:
    _undone("split-put")(store, number, base)
    store.layers.put(blob("x"), id=ID["mapped"], parent="base")
    store.images.create(id=ID["mapped-image"], layer=ID["mapped"], names=["passing"], data={"k": b"v"})
    store.add_names("passing", ["again"])
    store.images.delete("passing")


def _maps(store: Any, number: int, base: Path) -> None:
    for how in ({"auto_userns": AutoUserNS()}, {"mappings": GAPPED}):
        box = store.containers.create(image="users", **how)
        with store.mounted(box.id):
            pass
        store.containers.delete(box.id)


def _sealed(store: Any, number: int, base: Path) -> None:
    store.mount_image("sealed")
    store.unmount_image("sealed")
    box = store.containers.create(image="sealed")
    with store.mounted(box.id) as root:
        (root / "etc/new").write_bytes(b"x")
    store.containers.delete(box.id)


def _doubles(store: Any, number: int, base: Path) -> None:
    same = {"same": os.urandom(64 << 10)}
    for called in ("mapped", "on-mapped"):
        store.layers.put(blob("x", more=same), id=ID[called])
        store.images.create(id=ID[called], layer=ID[called])
    subprocess.run(["sync", "-f", str(base)], check=True)
    assert store.dedup().deduped_bytes >= 64 << 10
    for called in ("mapped", "on-mapped"):
        store.images.delete(ID[called])


def _damaged(store: Any, number: int, base: Path) -> None:
    home = base / "graph" / ("vfs/dir" if store.driver_name == "vfs" else "overlay")
    tree = home / ID["low"] / ("" if store.driver_name == "vfs" else "diff")
    (tree / "etc/d").chmod(0o600)
    OPERATIONS["repair"].act(store)


ROUNDS: dict[str, Round] = {
    "plain": _plain,
    "additional": _foreign,
    "split": _split,
    "maps": _maps,
    "damaged": _damaged,
    "sealed": _sealed,
    "xfs": _doubles,
}


def held(scratch: Path) -> dict[str, int]:
    """What the process holds of the system's things."""
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(children.split()),
        "mounts": len(peers.mounts_below(scratch)),
        "loop devices": loops.count(str(scratch)),
        "files": sum(len(names) for _, _, names in os.walk(scratch)),
    }


def memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def soak(cases: Cases, minutes: float) -> tuple[int, list[tuple[float, int]]]:
    """Rounds over every scene with each of its drivers, all stores open; how many, and memory over time."""
    memories: list[tuple[float, int]] = []
    with ExitStack() as stack:
        work = []
        for scene, round in ROUNDS.items():
            name = next(name for name, each in OPERATIONS.items() if each.scene == scene)
            for driver in SCENES[scene].drivers:
                case = cases.case(name, driver)
                case.fresh()
                work.append((stack.enter_context(case.opened()), round, case.place))
        start, number = time.monotonic(), 0
        before: dict[str, int] = {}
        while time.monotonic() - start < minutes * 60 or number <= WARM_UP:
            for store, round, base in work:
                round(store, number % 7, base)
            if number == WARM_UP:
                before = held(cases.scratch)
            elif number > WARM_UP:
                memories.append((time.monotonic() - start, memory()))
                if number % 10 == 0:
                    now = held(cases.scratch)
                    assert now == before, f"round {number}: {before} has become {now}"
            number += 1
        assert held(cases.scratch) == before
        for _, _, base in work:
            peers.unmount_below(base)
    for _, _, base in work:
        shutil.rmtree(base)
    return number, memories


@pytest.mark.deep
def test_what_a_process_holds_does_not_grow(cases: Cases) -> None:
    rounds, memories = soak(cases, MINUTES)
    third = len(memories) // 3
    early = sorted(size for _, size in memories[third : 2 * third])[third // 2]
    late = sorted(size for _, size in memories[2 * third :])[third // 2]
    print(f"{rounds} rounds; memory {early >> 10} KB, then {late >> 10} KB")
    assert late - early < MEMORY
