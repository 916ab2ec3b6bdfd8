"""A real image handed between orlop, buildah, podman and crun: each mounts, changes, commits and runs it."""

import gzip
import hashlib
import io
import json
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import invariants
import orlop
import peers
import rootfs


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rootfs.make(tmp_path_factory.mktemp("tools"))


@dataclass(frozen=True)
class Place:
    """A store that all of them use."""

    base: Path
    driver: str

    def open(self) -> orlop.Store:
        return orlop.open_store(self.base / "graph", self.base / "run", self.driver, durability="none")

    def _engine(self, name: str, words: tuple[str, ...], before: tuple[str, ...] = ()) -> str:
        roots = ["--root", f"{self.base}/graph", "--runroot", f"{self.base}/run"]
        done = subprocess.run(
            [*before, name, *roots, "--storage-driver", self.driver, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode != 0:
            raise peers.Failed(f"{name} {' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout.strip()

    def buildah(self, *words: str) -> str:
        return self._engine("buildah", words)

    def podman(self, *words: str) -> str:
        return self._engine("podman", words)


@pytest.fixture(scope="module", params=["overlay, built", "vfs, built", "overlay, loaded"])
def place(request: pytest.FixtureRequest, tools: Path) -> Iterator[Place]:
    """The image `localhost/real` of three layers: tools; files; some changed, some deleted. Built by buildah, or put
    into the store by podman from an archive."""
    peers.need_root()
    peers.need("buildah", "podman", "crun")
    base = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))  # podman wants a run root of at most 50 characters
    driver, way = request.param.split(", ")
    place = Place(base, driver)
    try:
        _build(place, tools)
        if way == "loaded":
            _load_again(place)
        yield place
        invariants.hold(base / "graph", base / "run", place.driver)
        invariants.counted(base / "graph", base / "run", place.driver)
        with place.open() as store:
            assert store.shutdown() == []
        assert peers.mounts_below(base) == []
    finally:
        peers.unmount_below(base)
        shutil.rmtree(base)


def _build(place: Place, tools: Path) -> None:
    box = place.buildah("from", "scratch")
    place.buildah("copy", "-q", box, str(tools), "/")
    source = ""
    for step in ("tools", "files", "real"):
        if source:
            box = place.buildah("from", source)
        root = Path(place.buildah("mount", box))
        if step == "files":
            (root / "etc/deep/er").mkdir(parents=True)
            for number in range(20):
                (root / f"etc/deep/er/{number}").write_text(f"{number}\n")
            (root / "etc/motd").write_text("of the second layer\n")
        elif step == "real":
            shutil.rmtree(root / "etc/deep")
            (root / "etc/deep").mkdir()
            (root / "etc/deep/only").write_text("opaque\n")
            (root / "usr/bin/mkdir").unlink()
            (root / "usr/bin/id").chmod(0o4755)
        place.buildah("umount", box)
        place.buildah("config", "--cmd", "/bin/sh", "--author", "the tests", box)
        place.buildah("commit", "-q", box, f"localhost/{step}")
        place.buildah("rm", box)
        source = f"localhost/{step}"


def _load_again(place: Place) -> None:
    """Out of the store, all of it gone, and in again."""
    archive = place.base / "real.tar"
    place.podman("save", "-q", "--format", "oci-archive", "-o", str(archive), "localhost/real")
    place.podman("rmi", "-f", "-a")
    with place.open() as store:
        assert list(store.layers) == []
    place.podman("load", "-q", "-i", str(archive))
    archive.unlink()


def _alone(script: str) -> list[str]:
    """Words that run a script in a mount namespace of its own, where cgroups are of the one kind that crun knows."""
    return ["unshare", "--mount", "sh", "-ec", f"mount -t cgroup2 cgroup2 /sys/fs/cgroup\n{script}"]


def _run(root: Path, bundle: Path, command: str) -> str:
    """What a command prints that crun runs with `root` as its root directory."""
    bundle.mkdir()
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    config: dict[str, Any] = {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", command],
            "env": ["PATH=/usr/bin"],
            "cwd": "/",
            "capabilities": {key: ["CAP_DAC_OVERRIDE"] for key in ("bounding", "effective", "permitted")},
        },
        "root": {"path": str(root), "readonly": False},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": namespaces},
    }
    (bundle / "config.json").write_text(json.dumps(config))
    crun = f"exec crun --cgroup-manager=disabled --root {bundle}/state run -b {bundle} {bundle.name}"
    done = subprocess.run(
        _alone(crun), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _exact(store: orlop.Store, layer: orlop.Layer) -> None:
    """The exported layer is, to the bit, what was stored."""
    with store.diff(layer.id, compression=0) as stream:
        data = stream.read()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == layer.diff_digest
    assert len(data) == layer.diff_size


def _names(stream: Any) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        return {member.name for member in archive}


# --- buildah made it ----------------------------------------------------------------------------------------


def test_every_layer_of_the_image_comes_out_as_it_was_put(place: Place) -> None:
    with place.open() as store:
        layer = store.layers[store.images["localhost/real:latest"].layer]
        chain = [layer]
        while chain[-1].parent:
            chain.append(store.layers[chain[-1].parent])
        assert len(chain) == 3
        for layer in chain:
            _exact(store, layer)
        changed = {str(change) for change in store.changes(chain[0].id)}
        assert {"D /usr/bin/mkdir", "C /usr/bin/id", "A /etc/deep/only"} <= changed


def test_what_orlop_changes_in_a_build_container_is_in_the_commit(place: Place) -> None:
    """Made, filled and mounted by buildah, mounted a second time and changed by us, committed by buildah."""
    box = place.buildah("from", "--name", "work", "localhost/real")
    place.buildah("copy", "-q", box, __file__, "/copied.py")
    theirs = place.buildah("mount", box)
    with place.open() as store:
        (container,) = [c for c in store.containers if box in c.names]
        assert store.mount(container.id) == theirs
        assert store.mount_count(container.id) == 2
        root = Path(theirs)
        (root / "ours").write_text("written by orlop\n")
        (root / "etc/motd").unlink()
        (root / "usr/bin/id").chmod(0o755)
        listed = {str(change) for change in store.changes(container.layer)}
        assert {"A /ours", "D /etc/motd", "C /usr/bin/id", "A /copied.py"} <= listed
        with store.diff(container.layer) as stream:
            assert {"ours", "etc/.wh.motd", "usr/bin/id", "copied.py"} <= _names(stream)
        place.buildah("umount", box)
        assert store.mount_count(container.id) == 1
        assert (root / "ours").exists(), "one of two mounts was undone, and the files are gone"
        assert store.unmount(container.id) is False
        place.buildah("commit", "-q", box, "localhost/committed")
        place.buildah("rm", box)
        assert container.id not in store.containers
        image = store.images["localhost/committed:latest"]
        _exact(store, store.layers[image.layer])
        seen = Path(store.mount_image(image.id))
        assert (seen / "ours").read_text() == "written by orlop\n"
        assert (seen / "copied.py").read_text() == Path(__file__).read_text()
        assert not (seen / "etc/motd").exists()
        assert (seen / "usr/bin/id").stat().st_mode & 0o7777 == 0o755
        store.unmount_image(image.id)
    place.buildah("rmi", "localhost/committed")


def test_what_orlop_changes_in_a_container_of_podman_is_in_the_commit(place: Place) -> None:
    box = place.podman("create", "--name", "made", "localhost/real")
    with place.open() as store:
        with store.mounted(box) as root:
            (root / "ours").write_text("written by orlop\n")
            (root / "usr/bin/ls").unlink()
        differing = place.podman("diff", "made").splitlines()
        assert {"A /ours", "D /usr/bin/ls"} <= set(differing)
        place.podman("commit", "-q", "made", "localhost/frompodman")
        image = store.images["localhost/frompodman:latest"]
        seen = Path(store.mount_image(image.id))
        assert (seen / "ours").read_text() == "written by orlop\n"
        assert not (seen / "usr/bin/ls").exists()
        store.unmount_image(image.id)
        _exact(store, store.layers[image.layer])
    place.podman("rm", "made")
    place.podman("rmi", "localhost/frompodman")


# --- orlop made it ------------------------------------------------------------------------------------------


def _commit(store: orlop.Store, container: orlop.Container, name: str) -> orlop.Image:
    """A container's changes as one more layer, in an image with manifest and configuration as engines want them."""
    base = store.images[container.image]
    with store.diff(container.layer, compression=0) as stream:
        tar = stream.read()
    blob = gzip.compress(tar, 1)
    # Engines name a layer by what lies in it and below it, and take one of that name for the one they want.
    found = hashlib.sha256(tar).hexdigest()
    id = hashlib.sha256(f"{base.layer}+{found}".encode()).hexdigest()
    layer = store.layers.put(io.BytesIO(blob), id=id, parent=base.layer)
    data = store.images.data(base.id)
    manifest = json.loads(data["manifest"])
    config = json.loads(data[manifest["config"]["digest"]])
    config["rootfs"]["diff_ids"].append(layer.diff_digest)
    config.setdefault("history", []).append({"created": "2026-01-02T03:04:05Z", "created_by": "orlop"})
    config["config"]["Labels"] = {"made-by": "orlop"}
    config_data = json.dumps(config).encode()
    digest = "sha256:" + hashlib.sha256(config_data).hexdigest()
    manifest["config"] |= {"digest": digest, "size": len(config_data)}
    manifest["layers"].append(
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer.compressed_digest,
            "size": layer.compressed_size,
        }
    )
    return store.images.create(
        id=digest.partition(":")[2],
        layer=layer.id,
        names=[name],
        data={"manifest": json.dumps(manifest).encode(), digest: config_data},
    )


@pytest.fixture
def committed(place: Place) -> Iterator[orlop.Image]:
    """`localhost/ours`: the image, changed in a container that we made of it, as a new image of four layers."""
    with place.open() as store:
        container = store.containers.create(image="localhost/real:latest")
        with store.mounted(container.id) as root:
            (root / "ours").write_text("written by orlop\n")
            (root / "etc/deep/only").unlink()
            (root / "usr/bin/id").unlink()
            shutil.rmtree(root / "etc/deep")
            (root / "etc/deep").mkdir()
            (root / "etc/deep/new").write_text("opaque again\n")
        image = _commit(store, container, "localhost/ours:latest")
        store.containers.delete(container.id)
    yield image
    place.podman("rmi", "-f", image.id)
    with place.open() as store:
        assert image.id not in store.images
        assert image.layer not in store.layers


def test_podman_and_buildah_use_an_image_that_orlop_made(
    place: Place, committed: orlop.Image, tmp_path: Path
) -> None:
    seen = json.loads(place.podman("inspect", "localhost/ours"))[0]
    assert seen["Labels"] == {"made-by": "orlop"}
    assert len(seen["RootFS"]["Layers"]) == 4
    path = Path(place.podman("image", "mount", "localhost/ours").split()[-1])
    with place.open() as store:
        assert Path(store.mount_image("localhost/ours:latest")) == path
        assert [entry.name for entry in (path / "etc/deep").iterdir()] == ["new"]
        assert not (path / "usr/bin/id").exists()
        assert store.unmount_image("localhost/ours:latest") is True
    place.podman("image", "unmount", "localhost/ours")
    # Out of the store, by the code that pushes: it checks every digest.
    place.podman("save", "-q", "--format", "oci-dir", "-o", str(tmp_path / "saved"), "localhost/ours")
    box = place.buildah("from", "localhost/ours")
    root = Path(place.buildah("mount", box))
    assert (root / "ours").read_text() == "written by orlop\n"
    (root / "theirs").write_text("written through buildah\n")
    place.buildah("umount", box)
    place.buildah("commit", "-q", box, "localhost/onours")
    place.buildah("rm", box)
    with place.open() as store:
        image = store.images["localhost/onours:latest"]
        assert store.layers[image.layer].parent == committed.layer
        changed = [str(change) for change in store.changes(image.layer)]
        assert [change for change in changed if not change.startswith("C")] == ["A /theirs"]
    place.buildah("rmi", "localhost/onours")


def _run_by_podman(place: Place, *words: str) -> str:
    """What `podman run` prints. Its own defaults for limits are more than this machine may give."""
    roots = f"--root {place.base}/graph --runroot {place.base}/run --storage-driver {place.driver}"
    how = "--cgroup-manager cgroupfs --runtime crun run --cgroups disabled --network none"
    how += " --ulimit nofile=512:512 --ulimit nproc=512:512"
    done = subprocess.run(
        _alone(f"exec podman {roots} {how} {shlex.join(words)}"),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_podman_runs_an_image_that_orlop_made(place: Place, committed: orlop.Image) -> None:
    said = _run_by_podman(place, "--rm", "localhost/ours", "/bin/sh", "-c", "cat /ours; ls /etc/deep")
    assert said == "written by orlop\nnew\n"


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_orlop_commits_what_another_changed_in_a_container_of_its_image(
    place: Place, committed: orlop.Image, engine: str
) -> None:
    """The other way round: the image is ours, container and changes are theirs, the new image is ours again."""
    if engine == "podman":  # from the inside
        change = "echo theirs > /theirs; rm /usr/bin/cp; echo more >> /etc/motd; chmod 4755 /usr/bin/ls"
        _run_by_podman(place, "--name", "theirs", "localhost/ours", "/bin/sh", "-c", change)
        box = "theirs"
    else:
        box = place.buildah("from", "localhost/ours")
        root = Path(place.buildah("mount", box))
        (root / "theirs").write_text("theirs\n")
        (root / "usr/bin/cp").unlink()
        with (root / "etc/motd").open("a") as motd:
            motd.write("more\n")
        (root / "usr/bin/ls").chmod(0o4755)
        place.buildah("umount", box)
    with place.open() as store:
        (container,) = [c for c in store.containers if box in c.names]
        changed = {str(change) for change in store.changes(container.layer)}
        assert {"A /theirs", "D /usr/bin/cp", "C /etc/motd", "C /usr/bin/ls"} <= changed
        image = _commit(store, container, "localhost/back:latest")
        _exact(store, store.layers[image.layer])
    place.podman("rm", box) if engine == "podman" else place.buildah("rm", box)
    assert len(json.loads(place.podman("inspect", "localhost/back"))[0]["RootFS"]["Layers"]) == 5
    seen = Path(place.podman("image", "mount", "localhost/back").split()[-1])
    assert (seen / "theirs").read_text() == "theirs\n"
    assert (seen / "ours").read_text() == "written by orlop\n"
    assert not (seen / "usr/bin/cp").exists()
    assert (seen / "etc/motd").read_text() == "of the second layer\nmore\n"
    assert (seen / "usr/bin/ls").stat().st_mode & 0o7777 == 0o4755
    place.podman("image", "unmount", "localhost/back")
    place.podman("rmi", "localhost/back")


# --- running ------------------------------------------------------------------------------------------------


@pytest.fixture
def new_container(place: Place) -> Iterator[Callable[..., tuple[orlop.Store, orlop.Container]]]:
    with place.open() as store:
        made: list[orlop.Container] = []

        def new(**how: Any) -> tuple[orlop.Store, orlop.Container]:
            made.append(store.containers.create(image="localhost/real:latest", **how))
            return store, made[-1]

        yield new
        for container in made:
            store.unmount(container.id, force=True)
            store.containers.delete(container.id)


@pytest.mark.parametrize("volatile", [False, True])
def test_crun_runs_a_shell_on_a_root_that_orlop_mounted(
    new_container: Callable[..., tuple[orlop.Store, orlop.Container]], tmp_path: Path, volatile: bool
) -> None:
    """What the process inside writes and deletes is what we list afterwards."""
    store, container = new_container(volatile=volatile)
    with store.mounted(container.id) as root:
        command = (
            "echo hello from inside; cat /etc/motd; id -u; "
            "echo more >> /etc/motd; rm /usr/bin/cp; echo made > /made"
        )
        said = _run(root, tmp_path / f"{tmp_path.parent.name}-box", command)
        assert said == "hello from inside\nof the second layer\n0\n"
    changed = {str(change) for change in store.changes(container.layer)}
    assert {"C /etc/motd", "D /usr/bin/cp", "A /made"} <= changed
    with store.mounted(container.id) as root:
        assert (root / "etc/motd").read_text() == "of the second layer\nmore\n"
