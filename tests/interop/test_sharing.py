"""One store, two programs: what either writes the other reads, changes and deletes, also while both run."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import invariants
import orlop
import peers
from peers import Program

SECONDS = int(os.environ.get("N") or 15)
Pair = tuple[Program, Program]


@pytest.fixture(params=["vfs", "overlay"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shared(shared: Pair, driver: str) -> Pair:
    ours, theirs = shared
    return ours.on(driver=driver), theirs.on(driver=driver)


def tar_of(seed: int, files: int = 12) -> bytes:
    """A layer with directories, files, links and odd names; different for each seed."""
    chance = random.Random(seed)
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=chance.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    ) as tar:
        for number in range(files):
            info = tarfile.TarInfo(f"d{number % 3}/{'long' * 40 if number == 5 else 'f'}{number}-é")
            data = chance.randbytes(chance.choice([0, 1, 511, 512, 513, 9000]))
            info.size, info.mtime, info.mode = (
                len(data),
                1_600_000_000 + seed,
                chance.choice([0o644, 0o4755, 0o600]),
            )
            info.uid, info.gid = chance.randrange(3), chance.randrange(3)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname, link.mode = tarfile.SYMTYPE, "d0/f0-é", 0o777
        tar.addfile(link)
    return out.getvalue()


def fill(program: Program) -> dict[str, str]:
    """Layers, image and container made by one program; their ids."""
    base = program.line("import-layer", "-n", "base", data=tar_of(1))
    top = program.line("import-layer", "-n", "top", "-n", "second", base, data=tar_of(2))
    plain = program.line("create-layer", "-i", "0123", "-l", "")
    image = program.line("create-image", "-n", "image<&>", "-m", "some metadata", top)
    program("set-image-data", image, "manifest", data=b'{"schemaVersion": 2}')
    program("set-image-data", image, "sha256:abc", data=b"config")
    program("set-layer-data", top, "Cache", data=b"cached")
    box = program.line("create-container", "-n", "box", "-m", "meta", image)
    program("set-container-data", box, "config", data=b"c" * 100)
    return {"base": base, "top": top, "plain": plain, "image": image, "box": box}


def listing(program: Program) -> dict[str, Any]:
    return {kind: program.json(kind) or [] for kind in ("layers", "images", "containers")}


@pytest.fixture(params=["ours writes", "theirs writes"])
def writer_and_reader(request: pytest.FixtureRequest, shared: Pair) -> Pair:
    ours, theirs = shared
    return (ours, theirs) if request.param == "ours writes" else (theirs, ours)


def test_both_list_the_same_records(writer_and_reader: Pair) -> None:
    """The JSON that each prints is the same value, and so are the files behind it."""
    writer, reader = writer_and_reader
    fill(writer)
    assert listing(writer) == listing(reader)
    for kind in ("layers", "images", "containers"):
        assert writer(kind).text == reader(kind).text
    assert writer("layers", "--tree").text == reader("layers", "--tree").text


def test_the_other_reads_data_and_makes_the_same_diffs(writer_and_reader: Pair) -> None:
    writer, reader = writer_and_reader
    ids = fill(writer)
    assert reader("get-image-data", ids["image"], "manifest").out == b'{"schemaVersion": 2}'
    assert reader("get-image-data", "image<&>", "sha256:abc").out == b"config"
    assert reader("get-layer-data", "top", "Cache").out == b"cached"
    assert reader("get-container-data", "box", "config").out == b"c" * 100
    assert reader("list-image-data", ids["image"]).text == writer("list-image-data", ids["image"]).text
    for name, seed in (("base", 1), ("top", 2)):
        assert reader("diff", "-u", name).out == writer("diff", "-u", name).out == tar_of(seed)
    root = Path(writer("mount", "box").text.strip())
    (root / "new").write_text("written through the writer's mount\n")
    (root / "link").unlink()
    assert sorted(reader("changes", ids["box"] and writer.json("container", "box")[0]["layer"]).lines) == [
        'Add "/new"',
        'Delete "/link"',
    ]
    reader("unmount", "box")
    assert writer("mounted", "box").text == ""
    layer = writer.json("container", "box")[0]["layer"]

    def members(tar: bytes) -> list[tuple[str, int]]:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            return [(m.name, m.size) for m in archive]

    assert members(reader("diff", "-u", layer).out) == members(writer("diff", "-u", layer).out)


def test_the_other_renames_and_deletes(writer_and_reader: Pair) -> None:
    writer, reader = writer_and_reader
    ids = fill(writer)
    reader("set-names", "-n", "renamed", ids["image"])
    reader("add-names", "-n", "more", "base")
    reader("set-metadata", "-m", "changed", ids["box"])
    assert writer.json("image", "renamed")[0]["names"] == ["renamed"]
    # Added names go in front since 1.44; 1.43 puts them at the end.
    assert sorted(writer("get-names", ids["base"]).lines) == ["base", "more"]
    assert writer("metadata", "-q", "box").text == "changed\n"
    refused = reader("delete-image", "renamed", ok=False)
    assert refused.status == 1
    reader("delete-container", "box")
    assert writer("delete-image", "renamed").err.decode().split() == [
        "renamed:", ids["top"], "renamed:", ids["base"],
    ]  # fmt: skip
    reader("delete-layer", ids["plain"])
    assert listing(writer) == listing(reader) == {"layers": [], "images": [], "containers": []}
    invariants.hold(writer.graph, writer.run, writer.driver)


@pytest.fixture
def short() -> Iterator[Path]:
    """podman wants a run root of at most 50 characters."""
    path = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))
    yield path
    peers.unmount_below(path)
    shutil.rmtree(path, ignore_errors=True)


def make_image(base: Path, driver: str, tar: bytes) -> tuple[str, bytes]:
    """An image of one layer, made by us; its id and manifest."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Labels": {"made-by": "orlop"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]},
            "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "test"}],
        }
    ).encode()
    config_digest = "sha256:" + hashlib.sha256(config).hexdigest()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": "sha256:" + hashlib.sha256(tar).hexdigest(),
                    "size": len(tar),
                }
            ],
        }
    ).encode()
    with orlop.open_store(base / "graph", base / "run", driver) as store:
        layer = store.layers.put(io.BytesIO(tar))
        image = store.images.create(
            id=config_digest.partition(":")[2],
            layer=layer.id,
            names=["example.org/made:1"],
            data={"manifest": manifest, config_digest: config},
        )
    return image.id, manifest


def test_podman_lists_and_inspects_an_image_that_we_made(short: Path, driver: str) -> None:
    """With manifest and configuration as big data it is an image like any other."""
    peers.need_root()
    peers.need("podman")
    base, tar = short, tar_of(3)
    image, manifest = make_image(base, driver, tar)
    podman = partial(peers.podman, base, driver=driver)
    listed = json.loads(podman("images", "--format", "json").out)
    assert [(i["Id"], i["Names"]) for i in listed] == [(image, ["example.org/made:1"])]
    seen = json.loads(podman("inspect", "example.org/made:1").out)[0]
    assert seen["Digest"] == "sha256:" + hashlib.sha256(manifest).hexdigest()
    assert seen["Labels"] == {"made-by": "orlop"}
    assert seen["RootFS"]["Layers"] == ["sha256:" + hashlib.sha256(tar).hexdigest()]
    podman("tag", "example.org/made:1", "example.org/tagged:2")
    with orlop.open_store(base / "graph", base / "run", driver) as store:
        assert "example.org/tagged:2" in store.images.names(image)
        assert store.images.by_digest("sha256:" + hashlib.sha256(manifest).hexdigest())[0].id == image
    podman("rmi", "-f", image)
    with orlop.open_store(base / "graph", base / "run", driver) as store:
        assert list(store.images) == []
        assert list(store.layers) == []


# --- both at once -------------------------------------------------------------------------------------------

_OURS = """
import io, random, sys, time
import orlop
graph, run, driver, seconds, seed, blob = sys.argv[1:]
tar = open(blob, "rb").read()
chance = random.Random(int(seed))
end = time.monotonic() + float(seconds)
done = 0
worst = 0.0
with orlop.open_store(graph, run, driver, durability="none") as store:
    while time.monotonic() < end:
        before = time.monotonic()
        name = f"ours-{seed}-{done}"
        layer = store.layers.put(io.BytesIO(tar), names=[name])
        image = store.images.create(layer=layer.id, names=[name], data={"manifest": name.encode()})
        store.images.add_names(image.id, [name + "-more"])
        box = store.containers.create(image=name, names=[name])
        store.containers.data(box.id)["state"] = b"running"
        with store.mounted(box.id) as root:
            (root / "written").write_text(name)
        listed = [layer.id for layer in store.layers]
        assert layer.id in listed and box.layer in listed, "our own layer is missing from the list"
        assert store.images.data(name)["manifest"] == name.encode()
        if chance.random() < 0.9:
            store.containers.delete(name)
            store.images.delete(name)
        done += 1
        worst = max(worst, time.monotonic() - before)
print(done, worst)
"""


def _peer_loop(
    theirs: Program, blob: Path, seed: int, end: float, problems: list[str], done: list[int]
) -> None:
    number = 0
    try:
        while time.monotonic() < end:
            name = f"theirs-{seed}-{number}"
            layer = theirs.line("import-layer", "-n", name, "-f", str(blob))
            image = theirs.line("create-image", "-n", name, layer)
            theirs("set-image-data", image, "manifest", data=name.encode())
            box = theirs.line("create-container", "-n", name, image)
            root = Path(theirs("mount", box).text.strip())
            (root / "theirs").write_text(name)
            theirs("unmount", box)
            assert layer in theirs("layers").lines
            assert theirs("get-image-data", name, "manifest").text == name
            if number % 10:
                theirs("delete-container", box)
                theirs("delete-image", image)
            number += 1
    except Exception as error:
        problems.append(f"theirs, {number}: {error}")
    done.append(number)


def _run_ours(ours: Program, blob: Path) -> subprocess.CompletedProcess[str]:
    words = [str(ours.graph), str(ours.run), ours.driver, str(SECONDS), "1", str(blob)]
    return subprocess.run(
        [sys.executable, "-c", _OURS, *words],
        capture_output=True,
        timeout=SECONDS + 120,
        text=True,
        check=False,
    )


def _judge(mine: subprocess.CompletedProcess[str], theirs: list[int]) -> None:
    assert mine.returncode == 0, mine.stderr
    count, worst = mine.stdout.split()
    assert int(count) > 3
    assert theirs[0] > 3
    assert float(worst) < 5, f"one round of ours took {worst} s"


def test_two_programs_at_once_lose_nothing_and_nobody_hangs(shared: Pair, tmp_path: Path) -> None:
    """Suite 5.6: each makes, mounts, changes and deletes its own things; every wish is granted; the end is whole."""
    ours, theirs = shared
    blob = tmp_path / "blob.tar"
    blob.write_bytes(tar_of(4))
    ours("layers")
    end = time.monotonic() + SECONDS
    problems: list[str] = []
    done: list[int] = []
    peer = threading.Thread(target=_peer_loop, args=(theirs, blob, 1, end, problems, done))
    peer.start()
    mine = _run_ours(ours, blob)
    peer.join(timeout=120)
    assert not peer.is_alive(), "the peer hangs"
    assert not problems, problems
    _judge(mine, done)
    invariants.hold(ours.graph, ours.run, ours.driver)
    assert listing(ours) == listing(theirs)
    names = {name for image in ours.json("images") for name in image.get("names", ())}
    assert {n for n in names if n.startswith("theirs-1-")} == {f"theirs-1-{i}" for i in range(0, done[0], 10)}


def _podman_loop(base: Path, driver: str, end: float, problems: list[str], done: list[int]) -> None:
    """Containers of an image that orlop made, one after the other; every tenth stays."""
    number = 0
    podman = partial(peers.podman, base, driver=driver)
    try:
        while time.monotonic() < end:
            name = f"box{number}"
            podman("create", "--pull=never", "--network=none", "--name", name, "example.org/made:1")
            root = Path(podman("mount", name).text.strip())
            assert (root / "d0" / "f0-é").exists(), "the image's files are not seen"
            (root / "written").write_text(name)
            assert (root / "written").read_text() == name
            podman("umount", name)
            if number % 10:
                podman("rm", name)
            number += 1
    except Exception as error:
        problems.append(f"podman, {number}: {error}")
    done.append(number)


def test_podman_and_we_at_once_with_running_mounts(short: Path, driver: str) -> None:
    """podman makes, mounts and removes containers while a program of ours does, and one of our mounts stays."""
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
    problems: list[str] = []
    done: list[int] = []
    end = time.monotonic() + SECONDS
    peer = threading.Thread(target=_podman_loop, args=(short, driver, end, problems, done))
    peer.start()
    mine = _run_ours(ours, blob)
    peer.join(timeout=120)
    assert not peer.is_alive(), "podman hangs"
    assert not problems, problems
    _judge(mine, done)
    assert (kept / "kept").read_text() == "before"
    assert (kept / "d0" / "f0-é").exists()
    if driver == "overlay":
        assert str(kept) in peers.mounts_below(kept)
    staying = {f"box{number}" for number in range(0, done[0], 10)}
    assert {name for box in ours.json("containers") for name in box["names"]} >= staying | {"kept"}
    for name in staying:
        assert 'Add "/written"' in ours("changes", _layer_of(ours, name)).lines
        podman("rm", name)
    assert podman("ps", "-aq").text == ""
    ours("unmount", "kept")
    ours("delete-container", "kept")
    assert podman("image", "inspect", "-f", "{{.Id}}", "example.org/made:1").text.strip() == image
    invariants.hold(ours.graph, ours.run, driver)


def _layer_of(program: Program, box: str) -> str:
    return str(program.json("container", box)[0]["layer"])
