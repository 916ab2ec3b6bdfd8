"""One store, two programs: what either writes the other reads, changes and deletes."""

import hashlib
import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_image import make_image, tar_of

import invariants
import orlop
import peers
from peers import Program

Pair = tuple[Program, Program]


@pytest.fixture(params=["vfs", "overlay"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shared(shared: Pair, driver: str) -> Pair:
    ours, theirs = shared
    return ours.on(driver=driver), theirs.on(driver=driver)


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
