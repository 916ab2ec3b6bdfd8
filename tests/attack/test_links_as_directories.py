"""Directories of our own tree that are links to somewhere else, put there by an attacker or an odd administrator.

Nothing is written, made or deleted behind one. Each case runs beside a canary, in a mount namespace of its own where
everything but its directory is read-only.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import orlop
import peers
from attacks import known, make_read_only, plant_canary
from orlop.errors import UnsafePath
from orlop.system import libc
from tarballs import tar

DRIVERS = ["vfs", "overlay"]
IMAGE, BOX, NOBODY = "1" * 64, "2" * 64, "3" * 64
DIGEST = "sha256:" + "a" * 64


@pytest.fixture(autouse=True)
def _unmounted(place: Path) -> Iterator[None]:
    yield
    peers.unmount_below(place)


def _deep(store: orlop.Store) -> None:
    store.containers.write_file(BOX, "new/file", b"evil")


# What is a link, below the place of the case ("graph/vfs-images/<id>"), and what is tried.
CASES: dict[str, tuple[str, Callable[[orlop.Store], object]]] = {
    "locks": ("run/{d}-locks", lambda s: s.digest_lock(DIGEST).__enter__()),
    "an item of an image": (f"graph/{{d}}-images/{IMAGE}", lambda s: s.images.data(IMAGE).put("k", b"evil")),
    "an item of a container": (
        f"graph/{{d}}-containers/{BOX}",
        lambda s: s.containers.data(BOX).put("k", b"evil"),
    ),
    "an item of a layer": (
        "graph/{d}-layers/base",
        lambda s: s.layers.data("base").put("k", io.BytesIO(b"evil")),
    ),
    "a file of a container": (f"graph/{{d}}-containers/{BOX}", _deep),
    "a file of a container at run time": (
        f"run/{{d}}-containers/{BOX}",
        lambda s: s.containers.write_file(BOX, "file", b"evil", run=True),
    ),
    "a file of an image": (
        f"graph/{{d}}-images/{IMAGE}",
        lambda s: s.images.write_file(IMAGE, "file", b"evil"),
    ),
    "the files of a container": (f"graph/{{d}}-containers/{BOX}/userdata", _deep),
    "the directory of a container": (f"graph/{{d}}-containers/{BOX}", lambda s: s.containers.directory(BOX)),
    "the other directory of a container": (
        f"graph/{{d}}-containers/{BOX}/userdata",
        lambda s: s.containers.directory(BOX),
    ),
    "the content of a layer": (
        "graph/{d}/{home}base",
        lambda s: s.apply_diff("base", tar(("sub/file", b"evil"), ("secret", b"evil"))),
    ),
    "the run directory of an image": (f"run/{{d}}-images/{IMAGE}", lambda s: s.images.run_directory(IMAGE)),
}


def _try(place: str, driver: str, case: str) -> None:
    """In the process of the case: everything but `place` is read-only there."""
    libc.unshare(0x00020000)
    make_read_only(Path(place), in_userns=False)
    answer = {"error": "", "text": ""}
    with orlop.open_store(Path(place) / "graph", Path(place) / "run", driver, durability="none") as store:
        try:
            CASES[case][1](store)
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        store.shutdown()
    print(json.dumps(answer))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_written_behind_a_link(place: Path, case: str, driver: str) -> None:
    graph, run = place / "graph", place / "run"
    _build(graph, run, driver)
    outside = plant_canary(graph)
    link = place / CASES[case][0].format(d=driver, home="dir/" if driver == "vfs" else "")
    if link.is_dir():
        shutil.rmtree(link)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    (outside / "diff").mkdir()  # so that it might be a layer of overlay
    before = known(outside)
    words = [sys.executable, __file__, str(place), driver, case]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=_environment())
    assert known(outside) == before
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    wanted = NotADirectoryError if case == "the content of a layer" else UnsafePath
    assert answer["error"] == wanted.__name__, answer["text"]
    assert str(link) in answer["text"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_a_note_names_is_not_deleted_behind_a_link(place: Path, driver: str) -> None:
    """A dead process left word that a record was to come. Who mends that deletes its items, and nobody else's."""
    graph, run = place / "graph", place / "run"
    _build(graph, run, driver)
    outside = plant_canary(graph)
    before = known(outside)
    for kind in ("images", "containers"):
        (graph / f"{driver}-{kind}" / NOBODY).symlink_to(outside)
        (graph / f"{driver}-{kind}" / ".tmp-set-7").write_text(json.dumps({"id": NOBODY}))
        (graph / f"{driver}-{kind}" / ".tmp-set-8").write_text(json.dumps({"ids": [NOBODY]}))
        id = IMAGE if kind == "images" else BOX
        (graph / f"{driver}-{kind}" / ".tmp-set-9").write_text(json.dumps({"id": id, "key": "secret"}))
        shutil.rmtree(graph / f"{driver}-{kind}" / id)
        (graph / f"{driver}-{kind}" / id).symlink_to(outside)
    with orlop.open_store(graph, run, driver, durability="none") as store:
        store.images.set_metadata(IMAGE, "x")
        store.containers.set_metadata(BOX, "x")
        assert known(outside) == before
        assert (store.images.metadata(IMAGE), store.containers.metadata(BOX)) == ("x", "x")


def _build(graph: Path, run: Path, driver: str) -> None:
    with orlop.open_store(graph, run, driver, durability="none") as store:
        store.layers.put(tar("a/", ("a/file", b"x")), id="base", data={"note": b"n"})
        store.images.create(id=IMAGE, layer="base", data={"manifest": b"{}"})
        store.containers.create(id=BOX, image=IMAGE, data={"k": b"v"})
        store.shutdown()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}


if __name__ == "__main__":
    _try(*sys.argv[1:])
