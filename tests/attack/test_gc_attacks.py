"""Names and links that somebody put into a store, to have the collection of garbage delete something else.

Each case runs beside a canary, in a mount namespace of its own where everything but its directory is read-only.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import orlop
import peers
from attacks import known, make_read_only, plant_canary
from orlop.system import libc
from tarballs import tar

HEX = "e" * 64
DRIVERS = ["vfs", "overlay"]


@pytest.fixture(autouse=True)
def _unmounted(place: Path) -> Iterator[None]:
    yield
    peers.unmount_below(place)


def _home(graph: Path, driver: str) -> Path:
    return graph / "vfs/dir" if driver == "vfs" else graph / "overlay"


def _links_as_layers(graph: Path, run: Path, driver: str, outside: Path) -> None:
    (_home(graph, driver) / HEX).symlink_to(outside)
    (_home(graph, driver) / "up").symlink_to("..")


def _links_as_data(graph: Path, run: Path, driver: str, outside: Path) -> None:
    for kind in ("layers", "images", "containers"):
        (graph / f"{driver}-{kind}" / HEX).symlink_to(outside)
    for kind in ("images", "containers"):
        (run / f"{driver}-{kind}" / HEX).symlink_to(outside)
    (graph / f"{driver}-layers/{HEX}.tar-split.gz").symlink_to(outside / "secret")
    (graph / f"{driver}-layers/...tar-split.gz").symlink_to(outside)
    (graph / f"{driver}-layers/.tar-split.gz").symlink_to(outside)


def _links_inside_garbage(graph: Path, run: Path, driver: str, outside: Path) -> None:
    for parent in (_home(graph, driver), graph / f"{driver}-images", graph / f"{driver}-containers"):
        (parent / HEX / "deep").mkdir(parents=True)
        (parent / HEX / "link").symlink_to(outside)
        (parent / HEX / "deep/up").symlink_to("../../../../outside")


def _files_that_are_links(graph: Path, run: Path, driver: str, outside: Path) -> None:
    (graph / f"{driver}-layers/.tmp-layers.json1").symlink_to(outside / "secret")
    (graph / f"{driver}-images/.tmp-x").symlink_to(outside)
    (graph / f"{driver}-images/{'1' * 64}/.tmp-item").symlink_to(outside / "sub/file")
    (graph / f"{driver}-images/not-an-id").symlink_to(outside)


def _trash_that_is_a_link(graph: Path, run: Path, driver: str, outside: Path) -> None:
    tmp = graph / f"{driver}-layers/tmp"
    tmp.mkdir(exist_ok=True)
    (tmp / "temp-dir-1").symlink_to(outside)
    (tmp / "lock-2").symlink_to(outside / "secret")
    (tmp / "temp-dir-2").mkdir()
    os.mkfifo(tmp / "lock-3")


def _a_whole_directory_that_is_a_link(graph: Path, run: Path, driver: str, outside: Path) -> None:
    """The place of set-aside layers, and the data of a table, lead elsewhere."""
    tmp = graph / f"{driver}-layers/tmp"
    if tmp.is_dir():
        tmp.rmdir()
    (outside / "temp-dir-9").mkdir()
    tmp.symlink_to(outside)


def _links_of_overlay(graph: Path, run: Path, driver: str, outside: Path) -> None:
    home = graph / "overlay"
    (home / "l").mkdir(parents=True, exist_ok=True)
    (home / "l/UP").symlink_to("../../../outside")
    (home / "l/ABSOLUTE").symlink_to(outside)
    (home / "l/DOTS").symlink_to("../../diff")
    (home / "l/PLAIN").mkdir()
    (home / "staging").mkdir(exist_ok=True)
    (home / "staging/link").symlink_to(outside)
    (home / "staging/inside").mkdir()
    (home / "staging/inside/staging.lock").symlink_to(outside / "secret")
    (home / "staging/fifo").mkdir()
    os.mkfifo(home / "staging/fifo/staging.lock")
    (run / "overlay").mkdir(exist_ok=True)
    (run / "overlay/link").symlink_to(outside)
    (run / "overlay/inside").mkdir()
    (run / "overlay/inside/merged").symlink_to(outside)


def _staging_that_is_a_link(graph: Path, run: Path, driver: str, outside: Path) -> None:
    (graph / "overlay").mkdir(exist_ok=True)
    (outside / "pull").mkdir()
    (outside / "pull/staging.lock").touch()
    (graph / "overlay/staging").symlink_to(outside)


def _records_of_other_places(graph: Path, run: Path, driver: str, outside: Path) -> None:
    """Ids that are paths, in the places from which the ids of needed layers come."""
    path = graph / f"{driver}-images/images.json"
    images = json.loads(path.read_bytes())
    path.write_text(
        json.dumps([image | {"mapped-layers": ["../../outside", "..", "", "/"]} for image in images])
    )


CASES: dict[str, Callable[[Path, Path, str, Path], None]] = {
    "links as layers": _links_as_layers,
    "links as data": _links_as_data,
    "links inside garbage": _links_inside_garbage,
    "files that are links": _files_that_are_links,
    "trash that is a link": _trash_that_is_a_link,
    "a directory that is a link": _a_whole_directory_that_is_a_link,
    "links of overlay": _links_of_overlay,
    "staging that is a link": _staging_that_is_a_link,
    "records of other places": _records_of_other_places,
}


def _collect(place: str, driver: str) -> None:
    """In the process of the case: everything but `place` is read-only there."""
    libc.unshare(0x00020000)
    make_read_only(Path(place), in_userns=False)
    graph, run = Path(place) / "graph", Path(place) / "run"
    with orlop.open_store(graph, run, driver, durability="none") as store:
        plan = store.plan_gc()
        outcome = store.gc()
        answer: dict[str, Any] = {
            "done": [step.path for step in outcome.done],
            "failed": [[step.path, error] for step, error in outcome.failed],
            "kept": [kept.path for kept in plan.keeps],
            "layers": [layer.id for layer in store.layers],
        }
        store.shutdown()
    print(json.dumps(answer))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_is_touched_by_a_collection(place: Path, case: str, driver: str) -> None:
    graph, run = place / "graph", place / "run"
    with orlop.open_store(graph, run, driver, durability="none") as store:
        store.layers.put(tar("a/", ("a/file", b"x")), id="base")
        store.images.create(id="1" * 64, layer="base", data={"manifest": b"{}"})
        store.containers.create(id="2" * 64, image="1" * 64)
        store.shutdown()
    outside = plant_canary(graph)
    CASES[case](graph, run, driver, outside)
    before = known(outside)
    words = [sys.executable, __file__, str(place), driver]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=_environment())
    assert known(outside) == before
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert not any(path.startswith(str(outside)) for path in answer["done"])
    assert "base" in answer["layers"]
    with orlop.open_store(graph, run, driver, durability="none") as store:
        assert store.images.data("1" * 64)["manifest"] == b"{}"


def test_what_is_no_garbage_of_ours_is_named(place: Path) -> None:
    """Whoever looks for the space finds out what was left, and why."""
    graph, run = place / "graph", place / "run"
    (place / "outside").mkdir()
    with orlop.open_store(graph, run, "overlay", durability="none") as store:
        store.images.create(id="1" * 64)
        store.layers.create()
        (graph / f"overlay-images/{HEX}").symlink_to(place / "outside")
        _links_of_overlay(graph, run, "overlay", place / "outside")
        reasons = {Path(kept.path).name: kept.reason for kept in store.plan_gc().keeps}
        assert reasons[HEX] == "it is a symbolic link"
        assert "is no layer" in reasons["UP"]
        assert reasons["link"] == "it is no directory of a partial pull"
        assert "its lock cannot be asked" in reasons["inside"]


def _environment() -> dict[str, str]:
    tests = str(Path(__file__).parents[1])
    return {**os.environ, "PYTHONPATH": tests}


if __name__ == "__main__":
    _collect(*sys.argv[1:])
