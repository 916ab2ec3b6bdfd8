"""Layers that were made ready beforehand, beside programs that cannot make them: they are layers like any other."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import chunkedblobs
import invariants
import layers
import orlop
import peers
import trees
from differs import TarDiffer
from orlop.errors import Conflict
from orlop.stream.writer import TRAILER, encode, padding
from tarballs import tar


@pytest.fixture
def theirs(short: Path) -> peers.Program:
    peers.need_root()
    peers.need("containers-storage", "podman")
    return peers.containers_storage(short, driver="overlay")


@pytest.fixture
def ours(theirs: peers.Program) -> peers.Program:
    """The drop-in with a configuration that allows partial pulls; flags of the store would put it aside."""
    conf = theirs.base / "storage.conf"
    conf.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{theirs.graph}"\nrunroot = "{theirs.run}"\n'
        '[storage.options]\npull_options = {enable_partial_images = "true"}\n'
    )
    return Plain(
        peers.orlop_storage(theirs.base).path, theirs.base, env={"CONTAINERS_STORAGE_CONF": str(conf)}
    )


class Plain(peers.Program):
    def argv(self, *args: str) -> list[str]:
        return [self.path, *args]


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_a_directory_becomes_a_layer_that_the_peer_lists_mounts_exports_and_deletes(
    ours: peers.Program, theirs: peers.Program
) -> None:
    tree = theirs.base / "tree"
    tree.mkdir()
    trees.plant(tree)
    for path in os.listdir(os.fsencode(tree)):
        if not path.isascii():  # no table of contents can have them
            os.unlink(os.fsencode(tree) + b"/" + path)
    assert ours("applydiff-using-staging-dir", "made", str(tree)).out == b""
    record = theirs.json("layer", "made")[0]
    assert set(record["big-data-names"]) == {"zstd-chunked-manifest", "zstd-chunked-layer-data"}
    exported = theirs("diff", "-u", "made").out
    assert _digest(exported) == record["diff-digest"]
    assert len(exported) == record["diff-size"]
    plain = theirs.base / "plain.tar"
    # The same directory by way of a tar is the same layer.
    theirs("import-layer", "-i", "theirs", "-f", "/dev/stdin", data=exported)
    found = []
    for id in ("made", "theirs"):
        root = Path(theirs.line("mount", id))
        listing = trees.listing(root, atime=False)
        del listing["."]
        found.append(listing)
        theirs("unmount", id)
    assert found[0] == found[1]
    assert ours("diff", "-u", "-f", str(plain), "made").out == b""
    assert plain.read_bytes() == exported
    theirs("create-layer", "-i", "child", "made")
    theirs("delete-layer", "child")
    theirs("delete-layer", "made")
    theirs("delete-layer", "theirs")
    assert not (theirs.graph / "overlay/made").exists()
    assert os.listdir(theirs.graph / "overlay/staging") == []
    invariants.hold(theirs.graph, theirs.run, "overlay")


def test_a_directory_replaces_what_a_layer_has_and_one_that_is_not_there_is_empty(
    ours: peers.Program, theirs: peers.Program
) -> None:
    theirs("import-layer", "-i", "one", "-n", "name", "-f", "/dev/stdin", data=tar(("old", b"x")).getvalue())
    tree = theirs.base / "tree"
    tree.mkdir()
    (tree / "new").write_bytes(b"abc")
    for words in (("one", str(tree)), ("empty", str(theirs.base / "nowhere")), ("one", str(tree))):
        done = ours("applydiff-using-staging-dir", *words)
        assert done.out + done.err == b""
    assert theirs.json("layer", "one")[0]["names"] == ["name"]
    assert theirs("changes", "one").lines == ['Add "/new"']
    assert theirs("diff", "-u", "empty").out == TRAILER
    assert os.listdir(theirs.graph / "overlay/staging") == []


def test_other_drivers_say_that_they_cannot(ours: peers.Program, theirs: peers.Program) -> None:
    conf = Path(ours.env["CONTAINERS_STORAGE_CONF"])
    conf.write_text(conf.read_text().replace('"overlay"', '"vfs"'))
    done = ours("applydiff-using-staging-dir", "one", str(theirs.base), ok=False)
    assert (done.status, done.out) == (1, b"")
    assert done.err == b"graph driver vfs does not support partial pull\n"


def test_what_a_table_cannot_say_makes_no_layer(ours: peers.Program, theirs: peers.Program) -> None:
    tree = theirs.base / "tree"
    tree.mkdir()
    (tree / os.fsdecode(b"a\xff")).touch()
    done = ours("applydiff-using-staging-dir", "one", str(tree), ok=False)
    assert done.status == 1
    assert b"not UTF-8" in done.err
    assert theirs("layers").out == b""


def test_a_zstd_chunked_blob_is_an_ordinary_one_to_who_does_not_know(theirs: peers.Program) -> None:
    """Whoever pulls it whole gets the same layer."""
    stream = b"".join(encode(entry) + data + padding(len(data)) for entry, data in layers.BASE) + TRAILER
    blob = chunkedblobs.made(io.BytesIO(stream))
    theirs("import-layer", "-i", "theirs", "-f", "/dev/stdin", data=blob.data)
    with orlop.open_store(**theirs.roots, pull_options=chunkedblobs.ON) as store:
        whole = store.layers.put(io.BytesIO(blob.data))
        differ = store.chunked_differ(blob.source, blob.annotations)
        parts = store.apply_staged_layer(store.prepare_staged_layer(differ), id="parts")
        assert {layer.diff_digest for layer in (store.layers["theirs"], whole, parts)} == {_digest(stream)}
        assert (parts.uids, parts.gids) == (whole.uids, whole.gids)
        assert store.changes("parts") == store.changes(whole.id) == store.changes("theirs")


def test_skopeo_copies_an_image_with_such_a_blob(theirs: peers.Program) -> None:
    peers.need("skopeo")
    stream = tar("etc/", ("etc/new", b"new\n")).getvalue()
    blob = chunkedblobs.made(io.BytesIO(stream))
    rootfs = {"type": "layers", "diff_ids": [_digest(stream)]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    kind = "application/vnd.oci.image"
    layer = {
        "mediaType": f"{kind}.layer.v1.tar+zstd",
        "digest": _digest(blob.data),
        "size": len(blob.data),
        "annotations": blob.annotations,
    }
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [layer],
        }
    ).encode()
    image = theirs.base / "image"
    image.mkdir()
    (image / "version").write_text("Directory Transport Version: 1.1\n")
    (image / "manifest.json").write_bytes(manifest)
    for data in (config, blob.data):
        (image / _digest(data).removeprefix("sha256:")).write_bytes(data)
    where = f"containers-storage:[overlay@{theirs.graph}+{theirs.run}]localhost/copied:latest"
    words = [peers.program("skopeo"), "--insecure-policy", "copy", f"dir:{image}", where]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with orlop.open_store(**theirs.roots) as store:
        assert [layer.diff_digest for layer in store.layers] == [_digest(stream)]


def _image(store: orlop.Store, name: str, top: str, diff_ids: list[str]) -> None:
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    kind = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": f"{kind}.config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [
                {"mediaType": f"{kind}.layer.v1.tar", "digest": digest, "size": 1} for digest in diff_ids
            ],
        }
    ).encode()
    items = {"manifest": manifest, f"manifest-{_digest(manifest)}": manifest, _digest(config): config}
    id = _digest(config).removeprefix("sha256:")
    store.images.create(id=id, layer=top, names=[name], digest=_digest(manifest), data=items)


def test_podman_shows_an_image_of_such_layers_and_removes_it(theirs: peers.Program) -> None:
    base = b"".join(encode(entry) + data + padding(len(data)) for entry, data in layers.BASE) + TRAILER
    change = tar("etc/", "etc/.wh.group", ("etc/new", b"new\n")).getvalue()
    with orlop.open_store(**theirs.roots, pull_options=chunkedblobs.ON) as store:
        parent = None
        for number, stream in enumerate((base, change)):
            blob = chunkedblobs.made(io.BytesIO(stream))
            output = store.prepare_staged_layer(store.chunked_differ(blob.source, blob.annotations))
            assert output.uncompressed_digest == _digest(stream)
            parent = store.apply_staged_layer(output, id=str(number) * 64, parent=parent).id
        assert parent is not None
        _image(store, "localhost/made:latest", parent, [_digest(base), _digest(change)])
    root = Path(peers.podman(theirs.base, "image", "mount", "localhost/made", driver="overlay").lines[0])
    assert sorted(os.listdir(root / "etc")) == ["new", "passwd"]
    assert (root / "etc/new").read_bytes() == b"new\n"
    peers.podman(theirs.base, "image", "unmount", "localhost/made", driver="overlay")
    saved = theirs.base / "saved"
    peers.podman(
        theirs.base, "save", "--format", "oci-dir", "-o", str(saved), "localhost/made", driver="overlay"
    )
    peers.podman(theirs.base, "rmi", "localhost/made", driver="overlay")
    assert theirs("layers").out == b""


def test_an_old_peer_that_shuts_down_removes_what_is_being_made_ready(theirs: peers.Program) -> None:
    """1.43 asks no lock. Then there is no layer, and nothing half made."""
    with orlop.open_store(**theirs.roots) as store:
        output = store.prepare_staged_layer(TarDiffer(tar(("a", b"abc"))))
        theirs("shutdown")
        assert not Path(output.target).exists()
        with pytest.raises(Conflict, match="removed by another program"):
            store.apply_staged_layer(output, id="one")
        store.cleanup_staged_layer(output)
        assert "one" not in store.layers
        store.apply_staged_layer(store.prepare_staged_layer(TarDiffer(tar("a"))), id="two")
    assert theirs("changes", "two").lines == ['Add "/a"']


def test_what_a_killed_process_left_is_garbage(theirs: peers.Program) -> None:
    code = (
        "import os, signal, sys, orlop; sys.path.insert(0, sys.argv[3])\n"
        "from differs import TarDiffer; from tarballs import tar\n"
        "store = orlop.open_store(sys.argv[1], sys.argv[2], 'overlay')\n"
        "store.prepare_staged_layer(TarDiffer(tar('a')))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [str(theirs.graph), str(theirs.run), str(Path(peers.__file__).parent)]
    done = subprocess.run([sys.executable, "-c", code, *words], check=False)
    assert done.returncode == -9
    staging = theirs.graph / "overlay/staging"
    assert len(os.listdir(staging)) == 1
    assert theirs("layers").out == b""
    assert peers.orlop_storage(theirs.base, driver="overlay")("gc").status == 0
    assert os.listdir(staging) == []
