"""Several programs at once on one store, with mounts that are in use: nothing is lost, nobody hangs, counts agree.

Each makes, mounts, changes and deletes things of its own, and our processes also mount containers of the others
while those unmount and delete them. The only failure allowed is the one documented for that: what was deleted is not
there any more.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from small_image import make_image, tar_of

import invariants
import peers
from peers import Program

QUICK = 3
DEEP = int(os.environ.get("N") or 15)

_OURS = """
import io, json, os, random, sys, time
import orlop
from orlop.errors import NotFound

graph, run, driver, seconds, seed, blob = sys.argv[1:]
tar = open(blob, "rb").read()
chance = random.Random(int(seed))
end = time.monotonic() + float(seconds)
rounds = visits = conflicts = 0
worst = 0.0


def visit(store):
    \"\"\"Mount a container of somebody else, who may delete it at any moment. False if he did.\"\"\"
    others = [box for box in store.containers if not box.names or not box.names[0].startswith("ours-")]
    if not others:
        return True
    box = chance.choice(others)
    try:
        with store.mounted(box.id) as root:
            if box.names != ("kept",):
                (root / f"visited-{seed}").write_text("x")
        return True
    except (NotFound, FileNotFoundError):
        if box.id in store.containers:
            raise
        return False


with orlop.open_store(graph, run, driver, durability="none") as store:
    while time.monotonic() < end or rounds < 2:
        before = time.monotonic()
        name = f"ours-{seed}-{rounds}"
        layer = store.layers.put(io.BytesIO(tar), names=[name])
        image = store.images.create(layer=layer.id, names=[name], data={"manifest": name.encode()})
        store.images.add_names(image.id, [name + "-more"])
        box = store.containers.create(image=name, names=[name])
        store.containers.data(box.id)["state"] = b"running"
        with store.mounted(box.id) as root:
            (root / "written").write_text(name)
            visits += 1
            conflicts += not visit(store)
        listed = [layer.id for layer in store.layers]
        assert layer.id in listed and box.layer in listed, "our own layer is missing from the list"
        assert store.images.data(name)["manifest"] == name.encode()
        if chance.random() < 0.9:
            store.containers.delete(name)
            store.images.delete(name)
        rounds += 1
        worst = max(worst, time.monotonic() - before)
print(json.dumps({"rounds": rounds, "visits": visits, "conflicts": conflicts, "worst": worst}))
"""


class Contest:
    """Loops of other programs in threads, processes of ours beside them, for so many seconds."""

    def __init__(self, seconds: float, blob: Path) -> None:
        self.seconds = seconds
        self.blob = blob
        self.end = time.monotonic() + seconds
        self.problems: list[str] = []
        self.rounds: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    def enter(self, name: str, play: Callable[[str], object]) -> None:
        """`play` is one round, and gets the names of what it makes; every tenth is to stay."""

        def rounds() -> None:
            number = 0
            try:
                while time.monotonic() < self.end or number < 2:
                    play(f"{name}-{number}")
                    number += 1
            except Exception as error:
                self.problems.append(f"{name}, round {number}: {error}")
            self.rounds[name] = number

        self._threads.append(threading.Thread(target=rounds))

    def run(self, ours: Program, processes: int) -> None:
        """Raises unless every wish of everybody was granted, in good time."""
        for thread in self._threads:
            thread.start()
        words = [str(ours.graph), str(ours.run), ours.driver, str(self.seconds)]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", _OURS, *words, str(seed), str(self.blob)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for seed in range(processes)
        ]
        said = [process.communicate(timeout=self.seconds + 120) for process in running]
        for thread in self._threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), "another program hangs"
        assert self.problems == []
        assert [process.returncode for process in running] == [0] * processes, said
        counts = [json.loads(out) for out, _ in said]
        print(f"{ours.driver}, {self.seconds} s: others {self.rounds}, ours {counts}")
        worst = max(count["worst"] for count in counts)
        assert worst < 5, f"one round of ours took {worst} s"
        for count in counts:
            few = count["visits"] < 20
            assert few or count["conflicts"] <= count["visits"] // 2, "most visits must succeed"

    def staying(self, name: str) -> set[str]:
        return {f"{name}-{number}" for number in range(0, self.rounds[name], 10)}


@pytest.fixture(params=["vfs", "overlay"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _stays(name: str) -> bool:
    return int(name.rpartition("-")[2]) % 10 == 0


def _containers_storage_and_we(place: Path, driver: str, seconds: float, programs: int) -> None:
    """Suite 5.6, with Debian's program."""
    peers.need_root()
    theirs = peers.containers_storage(place / "store", driver=driver)
    ours = peers.orlop_storage(place / "store", driver=driver)
    blob = place / "blob.tar"
    blob.write_bytes(tar_of(4))
    ours("layers")

    def play(name: str) -> None:
        layer = theirs.line("import-layer", "-n", name, "-f", str(blob))
        image = theirs.line("create-image", "-n", name, layer)
        theirs("set-image-data", image, "manifest", data=name.encode())
        box = theirs.line("create-container", "-n", name, image)
        root = Path(theirs("mount", box).text.strip())
        (root / "theirs").write_text(name)
        assert (root / "theirs").read_text() == name
        theirs("unmount", box)
        assert layer in theirs("layers").lines
        assert theirs("get-image-data", name, "manifest").text == name
        if not _stays(name):
            theirs("delete-container", box)
            theirs("delete-image", image)

    contest = Contest(seconds, blob)
    for number in range(programs):
        contest.enter(f"theirs{number}", play)
    contest.run(ours, programs)
    invariants.hold(ours.graph, ours.run, driver)
    invariants.counted(ours.graph, ours.run, driver)
    for kind in ("layers", "images", "containers"):
        assert ours.json(kind) == theirs.json(kind)
    names = {name for image in ours.json("images") for name in image.get("names", ())}
    for number in range(programs):
        found = {name for name in names if name.startswith(f"theirs{number}-")}
        assert found == contest.staying(f"theirs{number}")


def _podman_and_we(short: Path, driver: str, seconds: float, programs: int) -> None:
    """podman makes, mounts and removes containers while programs of ours do, and one of our mounts stays."""
    peers.need_root()
    peers.need("podman")
    blob = short / "blob.tar"
    blob.write_bytes(tar_of(4))
    image, _ = make_image(short, driver, tar_of(3))
    ours = peers.orlop_storage(short, driver=driver)
    podman = partial(peers.podman, short, driver=driver)
    ours("create-container", "-n", "kept", "example.org/made:1")
    kept = Path(ours.line("mount", "kept"))
    (kept / "kept").write_text("before")

    def play(name: str) -> None:
        podman("create", "--pull=never", "--network=none", "--name", name, "example.org/made:1")
        root = Path(podman("mount", name).text.strip())
        assert (root / "d0" / "f0-é").exists(), "the image's files are not seen"
        (root / "written").write_text(name)
        assert (root / "written").read_text() == name
        podman("umount", name)
        if not _stays(name):
            podman("rm", name)

    contest = Contest(seconds, blob)
    for number in range(programs):
        contest.enter(f"box{number}", play)
    contest.run(ours, programs)
    invariants.counted(ours.graph, ours.run, driver)
    assert ours("mounted", "kept").text == "kept mounted\n"
    assert (kept / "kept").read_text() == "before"
    assert (kept / "d0" / "f0-é").exists()
    staying = set().union(*(contest.staying(f"box{number}") for number in range(programs)))
    boxes = {name for box in ours.json("containers") for name in box["names"] if not name.startswith("ours-")}
    assert boxes == staying | {"kept"}
    for name in staying:
        layer = ours.json("container", name)[0]["layer"]
        assert 'Add "/written"' in ours("changes", layer).lines
        podman("rm", name)
    assert podman("ps", "-aq").text == ""
    ours("unmount", "kept")
    ours("delete-container", "kept")
    assert podman("image", "inspect", "-f", "{{.Id}}", "example.org/made:1").text.strip() == image
    invariants.hold(ours.graph, ours.run, driver)
    invariants.counted(ours.graph, ours.run, driver)


def test_two_programs_at_once_lose_nothing_and_nobody_hangs(place: Path, driver: str) -> None:
    _containers_storage_and_we(place, driver, QUICK, programs=1)


def test_podman_and_we_at_once_with_running_mounts(short: Path, driver: str) -> None:
    _podman_and_we(short, driver, QUICK, programs=1)


@pytest.mark.deep
@pytest.mark.parametrize("programs", [1, 3])
def test_containers_storage_and_we_for_long(place: Path, driver: str, programs: int) -> None:
    """N seconds, with so many of each."""
    _containers_storage_and_we(place, driver, DEEP, programs)


@pytest.mark.deep
@pytest.mark.parametrize("programs", [1, 3])
def test_podman_and_we_for_long(short: Path, driver: str, programs: int) -> None:
    _podman_and_we(short, driver, DEEP, programs)
