"""Garbage of the programs we share stores with: what they leave when they are killed, and stores that podman made."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ordinary_user
import pytest
from ordinary_user import User

import invariants
import orlop
import peers
from tarballs import tar

DRIVERS = ["vfs", "overlay"]
CALLS = ("renameat", "mkdirat", "unlinkat", "symlinkat")
LAYER = tar("a/", ("a/file", b"x" * 20_000), "b").getvalue()

OPERATIONS: dict[str, tuple[str, ...]] = {
    "import": ("import-layer", "-i", "1" * 64, "base"),
    "create": ("create-layer", "-i", "1" * 64, "top"),
    "image data": ("set-image-data", "app", "key"),
    "container": ("create-container", "-i", "2" * 64, "app"),
    "container data": ("set-container-data", "box", "key"),
    "delete a layer": ("delete-layer", "lone"),
    "delete a container": ("delete-container", "box"),
    "delete an image": ("delete-image", "unused"),
}


def _prepare(theirs: peers.Program) -> None:
    theirs("import-layer", "-i", "base", data=LAYER)
    theirs("import-layer", "-i", "top", "base", data=LAYER)
    theirs("create-layer", "-i", "lone")
    theirs("create-image", "-i", "a" * 64, "-n", "app", "top")
    theirs("set-image-data", "app", "manifest", data=b"{}")
    theirs("create-image", "-i", "b" * 64, "-n", "unused", "base")
    theirs("create-container", "-i", "c" * 64, "-n", "box", "app")
    theirs("shutdown")


def _killed(theirs: peers.Program, words: tuple[str, ...], call: str, number: int) -> bool:
    """Run a command that is killed when it makes its `number`th call of that kind; False if it never does."""
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    inject = ["-e", f"inject={call}:signal=KILL:when={number}"]
    done = subprocess.run(
        [*trace, *inject, *theirs.argv(*words)], input=LAYER, capture_output=True, check=False
    )
    return done.returncode < 0 or done.returncode == 137


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_containers_storage_leaves_when_it_is_killed_is_collected(
    place: Path, driver: str, operation: str
) -> None:
    peers.need_root()
    peers.need("strace")
    template = peers.containers_storage(place / "template", driver=driver)
    _prepare(template)
    kills = 0
    for call in CALLS:
        for number in range(1, 5):
            base = place / f"{call}{number}"
            subprocess.run(["cp", "-a", template.base, base], check=True)
            theirs = template.on(base=base)
            killed = _killed(theirs, OPERATIONS[operation], call, number)
            kills += killed
            if killed:
                _judge(theirs, driver)
            peers.unmount_below(base)
            shutil.rmtree(base)
            if not killed:
                break
    assert kills > 0


def _judge(theirs: peers.Program, driver: str) -> None:
    graph, run = theirs.graph, theirs.run
    with orlop.open_store(graph, run, driver, durability="none") as store:
        plan = store.plan_gc()
        outcome = store.gc()
        assert outcome.failed == ()
        assert {step.target for step in outcome.done} == {step.target for step in plan.steps}
        assert plan.keeps == ()
        again = store.plan_gc()
        assert (again.steps, again.keeps) == ((), ())
        store.shutdown()
    try:
        invariants.hold(graph, run, driver)
    except invariants.Broken as broken:
        # A container whose layer they deleted first is damage, and no garbage.
        left = [line for line in str(broken).splitlines() if "layer without a record" not in line]
        assert left == []
    for noun in ("layers", "images", "containers"):
        theirs(noun)
    assert "top" in [layer["id"] for layer in theirs.json("layers")]
    theirs("mount", "top")
    theirs("unmount", "top")
    theirs("shutdown")


@pytest.fixture(params=DRIVERS)
def podman(request: pytest.FixtureRequest) -> Iterator[tuple[Path, str, Callable[..., str]]]:
    """A base directory, the driver, and podman on it, with an image and a container."""
    peers.need_root()
    peers.need("podman")
    driver = request.param
    base = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))  # podman wants a run root of at most 50 characters

    def run(*words: str) -> str:
        return peers.podman(base, *words, driver=driver).text.strip()

    try:
        (base / "rootfs.tar").write_bytes(LAYER)
        run("import", "-q", str(base / "rootfs.tar"), "localhost/made")
        run("create", "--network=none", "--name", "box", "localhost/made", "/a/file")
        yield base, driver, run
    finally:
        peers.unmount_below(base)
        shutil.rmtree(base)


def test_a_store_that_podman_made_loses_its_orphans_and_nothing_else(
    podman: tuple[Path, str, Callable[..., str]],
) -> None:
    base, driver, run = podman
    graph = base / "graph"
    box = json.loads(run("inspect", "box"))[0]
    image = run("image", "inspect", "-f", "{{.Id}}", "localhost/made")
    with orlop.open_store(graph, base / "run", driver, durability="none") as store:
        assert store.plan_gc().steps == ()
        top = store.images[image].layer
        home = graph / "vfs/dir" if driver == "vfs" else graph / "overlay"
        lost = "e" * 64
        orphans = [
            (home / str(top), home / lost),
            (
                graph / f"{driver}-layers/{top}.tar-split.gz",
                graph / f"{driver}-layers/{'d' * 64}.tar-split.gz",
            ),
            (graph / f"{driver}-images/{image}", graph / f"{driver}-images/{lost}"),
            (graph / f"{driver}-containers/{box['Id']}", graph / f"{driver}-containers/{lost}"),
            (base / f"run/{driver}-containers/{box['Id']}", base / f"run/{driver}-containers/{lost}"),
        ]
        for source, target in orphans:
            subprocess.run(["cp", "-a", source, target], check=True)
        with store.mounted(store.containers["box"].id) as root:
            outcome = store.gc()
            assert (root / "a/file").stat().st_size == 20_000
        assert outcome.failed == ()
        assert {step.path for step in outcome.done} == {str(target) for _, target in orphans}
        assert not any(os.path.lexists(target) for _, target in orphans)
        store.shutdown()
    assert json.loads(run("inspect", "box"))[0]["Id"] == box["Id"]
    mounted = Path(run("mount", "box"))
    assert (mounted / "a/file").stat().st_size == 20_000
    run("umount", "box")
    run("rm", "box")
    run("rmi", "localhost/made")
    with orlop.open_store(graph, base / "run", driver, durability="none") as store:
        assert len(store.layers) == len(store.images) == len(store.containers) == 0
        assert store.plan_gc().steps == ()
        store.shutdown()


def test_a_running_container_of_podman_is_not_touched(podman: tuple[Path, str, Callable[..., str]]) -> None:
    """Its directories are mounted, and in use by programs that hold no lock of the store."""
    base, driver, run = podman
    mounted = Path(run("mount", "box"))
    (mounted / "written").write_text("by the container")
    with orlop.open_store(base / "graph", base / "run", driver, durability="none") as store:
        assert store.gc().done == ()
    assert (mounted / "written").read_text() == "by the container"
    run("umount", "box")
    run("rm", "box")


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with ordinary_user.made() as user:
        yield user


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_ordinary_user_collects_what_others_of_his_namespace_own(user: User, driver: str) -> None:
    """Garbage of his containers belongs to subordinate ids, and he can remove it in his namespace only."""
    base = user.home / f"gc-{driver}"
    flags = ("--graph", str(base / "graph"), "--run", str(base / "run"), "--storage-driver", driver)
    owned = io.BytesIO()
    with tarfile.open(fileobj=owned, mode="w") as archive:
        for name, kind in (("private", tarfile.DIRTYPE), ("private/file", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = kind, 0o700, 1000, 1000
            archive.addfile(info)
    try:
        for id in ("kept", "lost"):
            user.orlop(*flags, "import-layer", "-i", id, data=owned.getvalue())
        table = base / f"graph/{driver}-layers/layers.json"
        records = json.loads(table.read_bytes())
        table.write_text(json.dumps([record for record in records if record["id"] == "kept"]))
        # With its tar-split file it would be a layer that was filled once, and has lost its record.
        (base / f"graph/{driver}-layers/lost.tar-split.gz").unlink()
        user.orlop(*flags, "gc")
        home = base / "graph/vfs/dir" if driver == "vfs" else base / "graph/overlay"
        assert (home / "kept").is_dir()
        assert not (home / "lost").exists()
        assert [layer["id"] for layer in json.loads(user.orlop(*flags, "layers", "--json").out)] == ["kept"]
    finally:
        peers.unmount_below(base)
        shutil.rmtree(base)
