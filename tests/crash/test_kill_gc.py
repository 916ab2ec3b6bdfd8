"""A collection of garbage, or a plan being applied, is killed at a call that changes something: the next ends it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import operations
import pytest

import invariants
import orlop
import peers

CALLS = ("rename", "unlink", "unlinkat", "rmdir", "mkdir", "pwrite64")
HEX = "e" * 64

PROGRAM = """
import sys, orlop
graph, run, driver, verb = sys.argv[1:]
with orlop.open_store(graph, run, driver, durability="none") as store:
    print("open", flush=True)
    if verb == "gc":
        store.gc()
    else:
        store.apply(store.plan_delete("box", "app"))
    print("done", flush=True)
"""


def _prepare(base: Path, driver: str) -> None:
    graph, run = base / "graph", base / "run"
    operations.prepare(graph, run, driver)
    with operations.opened(graph, run, driver) as store:
        for id in ("1" * 64, "2" * 64):
            store.create_storage_layer(id=id, parent="base")
            (graph / f"{driver}-layers/{id}.tar-split.gz").write_bytes(b"x")
        for kind in ("layers", "images", "containers"):
            (graph / f"{driver}-{kind}" / HEX / "deep").mkdir(parents=True)
        (run / f"{driver}-containers" / HEX / "userdata").mkdir(parents=True)
        store.shutdown()


def _run(base: Path, driver: str, verb: str, *before: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-c", PROGRAM, str(base / "graph"), str(base / "run"), driver, verb]
    return subprocess.run([*before, *words], capture_output=True, text=True, check=False, timeout=120)


def _points(template: Path, base: Path, driver: str, verb: str) -> list[tuple[str, int]]:
    """Every (call, N) after the store was opened."""
    _copied(template, base)
    log = base / "log"
    trace = ",".join((*CALLS, "write"))
    done = _run(base, driver, verb, "strace", "-qq", "-o", str(log), "-e", f"trace={trace}")
    assert done.stdout == "open\ndone\n", done.stderr
    counts = dict.fromkeys(CALLS, 0)
    points = []
    after = False
    for line in log.read_text(errors="replace").splitlines():
        call = re.match(r"\w+", line)
        after = after or line.startswith('write(1, "open')
        if call and call[0] in counts:
            counts[call[0]] += 1
            if after:
                points.append((call[0], counts[call[0]]))
    return points


def _copied(template: Path, base: Path) -> None:
    peers.unmount_below(base)
    if base.exists():
        shutil.rmtree(base)
    subprocess.run(["cp", "-a", template, base], check=True)


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("verb", ["gc", "delete"])
def test_whatever_a_killed_one_left_the_next_takes_away(place: Path, driver: str, verb: str) -> None:
    peers.need_root()
    peers.need("strace")
    template, base = place / "template", place / "case"
    _prepare(template, driver)
    points = _points(template, base, driver, verb)
    assert len(points) > 20
    kept = {"base", "middle", "top", "lone", "box-layer"} if verb == "gc" else {"lone"}
    # All of a small collection would take a minute: each third point, and the first and last.
    for call, number in [points[0], *points[1:-1:3], points[-1]]:
        _copied(template, base)
        inject = f"inject={call}:signal=KILL:when={number}"
        done = _run(
            base, driver, verb, "strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject
        )
        assert "done" not in done.stdout, (call, number)
        with orlop.open_store(
            base / "graph", base / "run", driver, durability="none", lock_timeout=10
        ) as store:
            found = {str(layer.id) for layer in store.layers}
            assert kept <= found
            if verb == "delete":
                if "app" in store.images:
                    store.apply(store.plan_delete(*[ref for ref in ("box", "app") if store.exists(ref)]))
                assert {str(layer.id) for layer in store.layers} == kept
            outcome = store.gc()
            assert outcome.failed == ()
            plan = store.plan_gc()
            assert (plan.steps, plan.keeps) == ((), ())
            store.shutdown()
        invariants.hold(base / "graph", base / "run", driver)
        assert not os.path.exists(base / f"run/{driver}-containers/{HEX}")
