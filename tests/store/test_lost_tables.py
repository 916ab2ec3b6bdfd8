"""A table that is empty, missing, `null` or cut in half, while there is what it should name: nothing is deleted.

Not by a collection of garbage, and not by any other command, of the library or of the drop-in (P11).
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import orlop
import trees
from interface import Disk
from orlop.errors import BadRecords
from tarballs import tar

LOSSES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "null": lambda path: path.write_bytes(b"null"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}

VERBS: dict[str, Callable[[orlop.Store], object]] = {
    "gc": lambda store: store.gc(),
    "plan_gc": lambda store: store.plan_gc(),
    "wipe": lambda store: store.wipe(),
    "delete": lambda store: store.delete("top"),
    "delete of a container": lambda store: store.delete("box"),
    "layers.delete": lambda store: store.layers.delete("lone"),
    "images.delete": lambda store: store.images.delete("image"),
    "containers.delete": lambda store: store.containers.delete("box"),
    "layers.put": lambda store: store.layers.put(tar("x"), id="new"),
    "layers.create of one that is there": lambda store: store.layers.create(id="base"),
    "images.create": lambda store: store.images.create(id="new", data={"manifest": b"{}"}),
    "containers.create": lambda store: store.containers.create(id="new"),
    "set_names": lambda store: store.set_names("lone", ["new"]),
    "shutdown": lambda store: store.shutdown(force=True),
}

COMMANDS = (
    ("gc",),
    ("wipe",),
    ("delete", "top", "image", "box"),
    ("delete-layer", "lone", "top"),
    ("delete-image", "image"),
    ("delete-container", "box"),
    ("create-layer",),
    ("layers",),
    ("images",),
    ("containers",),
    ("shutdown", "--force"),
)


def fill(store: orlop.Store, disk: Disk) -> None:
    """Something of each kind, and garbage of each kind, which is to stay as well."""
    store.layers.put(tar("a/", ("a/file", b"x")), id="base", data={"Cache": b"c"})
    store.layers.put(tar("b"), id="top", parent="base")
    store.layers.create(id="lone")
    store.images.create(id="1" * 64, names=["image"], layer="top", data={"manifest": b"{}"})
    store.containers.create(id="2" * 64, names=["box"], image="image", data={"k": b"v"})
    store.create_storage_layer(id="lost")
    for path in (
        disk.path("layers", "lost.tar-split.gz"),
        disk.path("layers", "tmp", "temp-dir-1", "0-layer"),
        disk.path("layers", ".tmp-layers.json1"),
        disk.path("images", "3" * 64, "manifest"),
        disk.path("containers", "4" * 64, "userdata"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"garbage")


def files(place: Path) -> dict[str, str]:
    """Every file below the roots, with its kind; locks and what is mounted are not the point."""
    found = trees.listing(place, atime=False, xattrs=False)
    return {
        path: facts["mode"]
        for path, facts in found.items()
        if not path.endswith((".lock", "mountpoints.json"))
    }


def _stays(place: Path, before: dict[str, str]) -> None:
    gone = before.keys() - files(place).keys()
    assert not gone


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["layers", "images", "containers"])
def test_nothing_is_deleted_beside_a_lost_table(
    store: orlop.Store, disk: Disk, place: Path, kind: str, loss: str
) -> None:
    fill(store, disk)
    store.shutdown()
    table = disk.path(kind, f"{kind}.json")
    text = table.read_bytes()
    LOSSES[loss](table)
    before = files(place)

    def program() -> orlop.Store:
        return orlop.open_store(
            place / "graph", place / "run", disk.driver, durability="none", lock_timeout=10
        )

    refused: dict[str, orlop.StorageError] = {}
    for name, verb in VERBS.items():
        with program() as other:
            try:
                verb(other)
            except orlop.StorageError as error:
                refused[name] = error
        if kind == "layers":
            _stays(place, before)
    for name in ("gc", "plan_gc"):
        assert type(refused[name]) is BadRecords
        assert str(table) in str(refused[name])
    assert "wipe" in refused
    if kind == "layers":
        assert len(refused) >= len(VERBS) - 3
        for words in COMMANDS:
            _command(place, disk.driver, *words)
            _stays(place, before)
    else:
        # What the other tables say goes on being true; what is left of this one stays.
        assert all(path in files(place) for path in before if path.startswith(f"graph/{disk.driver}-{kind}/"))
    # Then it is as it was: the table comes back, and all is there.
    table.write_bytes(text)
    with program() as other:
        if kind == "layers":
            assert {layer.id for layer in other.layers} >= {"base", "top", "lone"}
            with other.mounted("top") as root:
                assert (root / "a/file").read_bytes() == b"x"
        elif kind == "images":
            assert other.images.data("image")["manifest"] == b"{}"
        else:
            assert other.containers.data("box")["k"] == b"v"
        other.wipe()
        other.gc()


def _command(place: Path, driver: str, *words: str) -> None:
    program = os.path.join(os.path.dirname(sys.executable), "orlop-storage")
    roots = ["--graph", str(place / "graph"), "--run", str(place / "run"), "--storage-driver", driver]
    done = subprocess.run([program, *roots, *words], capture_output=True, text=True, check=False, timeout=60)
    if words == ("gc",):
        assert done.returncode == 1
        assert done.stderr.startswith("gc: "), done.stderr
        assert "layers.json" in done.stderr
