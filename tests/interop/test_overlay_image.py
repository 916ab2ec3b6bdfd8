"""A real image on overlay: three layers of Debian's files, built by buildah, used by us and by podman."""

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layers
import peers
import trees
from orlop.drivers import registry
from orlop.drivers.api import Driver

CONTENT = (
    "/usr/share/zoneinfo",
    "/usr/lib/x86_64-linux-gnu/perl-base",
    "/etc/ssl",
    "/usr/share/perl5/Debconf",
)


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A store with the image `localhost/real` in it, and a build container of it, `work`."""
    peers.need_root()
    peers.need("buildah", "podman", "containers-storage")
    base = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))  # podman wants a short run root
    try:
        _build(base)
        yield base
    finally:
        peers.unmount_below(base)
        shutil.rmtree(base)


def _buildah(base: Path, *words: str) -> str:
    roots = ["--root", str(base / "graph"), "--runroot", str(base / "run"), "--storage-driver", "overlay"]
    done = subprocess.run(["buildah", *roots, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _build(base: Path) -> None:
    source = "scratch"
    for number in range(3):
        box = _buildah(base, "from", source)
        root = Path(_buildah(base, "mount", box))
        if number == 0:
            for path in CONTENT[:2]:
                shutil.copytree(path, root / path[1:], symlinks=True)
        elif number == 1:
            for path in CONTENT[2:]:
                shutil.copytree(path, root / path[1:], symlinks=True)
            shutil.rmtree(root / "usr/share/zoneinfo/Asia")
            shutil.rmtree(root / "usr/share/zoneinfo/Europe")
            (root / "usr/share/zoneinfo/Europe").mkdir()
            (root / "usr/share/zoneinfo/Europe/only").write_text("opaque\n")
        else:
            os.chown(root / "etc/ssl/openssl.cnf", 12, 34)
            (root / "usr/bin").mkdir()
            shutil.copy2("/usr/bin/perl", root / "usr/bin/perl")
            (root / "usr/bin/perl").chmod(0o4755)
            os.setxattr(root / "usr/bin/perl", "user.origin", b"debian")
            (root / "usr/share/zoneinfo/Africa/Cairo").unlink()
        _buildah(base, "umount", box)
        source = f"localhost/real{number}"
        _buildah(base, "commit", "-q", box, source)
        _buildah(base, "rm", box)


@pytest.fixture
def driver(base: Path) -> Iterator[Driver]:
    driver = registry.open_driver(
        "overlay", graph_root=str(base / "graph"), run_root=str(base / "run"), durable=False
    )
    yield driver
    driver.shutdown()


def _chain(base: Path) -> list[str]:
    """The ids of the image's layers, lowest first."""
    records = json.loads((base / "graph" / "overlay-layers" / "layers.json").read_text())
    children = {record.get("parent", ""): record["id"] for record in records}
    chain: list[str] = []
    while (chain[-1] if chain else "") in children:
        chain.append(children[chain[-1] if chain else ""])
    assert len(chain) == 3
    return chain


def _tree(root: str | Path) -> dict[str, dict[str, Any]]:
    found = trees.listing(root, atime=False)
    found.pop(".")
    return found


def test_our_mount_shows_what_podman_shows(base: Path, driver: Driver) -> None:
    top = _chain(base)[-1]
    said = peers.podman(base, "image", "mount", "localhost/real2", driver="overlay")
    theirs = said.text.split()[-1]
    try:
        seen = _tree(theirs)
    finally:
        peers.podman(base, "image", "unmount", "localhost/real2", driver="overlay")
    root = driver.mount(top, options=["ro"])
    assert _tree(root) == seen
    driver.unmount(top)
    assert len(seen) > 1500
    assert seen["usr/bin/perl"]["mode"] == oct(stat.S_IFREG | 0o4755)
    assert [path for path in seen if path.startswith("usr/share/zoneinfo/Europe/")] == [
        "usr/share/zoneinfo/Europe/only"
    ]


def test_exact_diffs_and_changes_are_theirs(base: Path) -> None:
    ours = peers.orlop_storage(base, driver="overlay")
    theirs = peers.containers_storage(base, driver="overlay")
    for id in _chain(base):
        assert ours("diff", "-u", id).out == theirs("diff", "-u", id).out
        assert sorted(ours("changes", id).lines) == sorted(theirs("changes", id).lines)
        assert ours.line("diffsize", id) == theirs.line("diffsize", id)


def test_layers_imported_from_its_archives_are_the_same_upper_directories(
    base: Path, driver: Driver, place: Path
) -> None:
    theirs = peers.containers_storage(base, driver="overlay")
    for root in ("graph", "run"):
        (place / root).mkdir()
    own = registry.open_driver(
        "overlay", graph_root=str(place / "graph"), run_root=str(place / "run"), durable=False
    )
    parent = None
    for id in _chain(base):
        own.create(id, parent, writable=False)
        layers.fill(own, id, layers.entries([theirs("diff", "-u", id).out]), parent=parent)
        listings = [trees.listing(Path(home) / id / "diff", atime=False) for home in (own.home, driver.home)]
        for listing in listings:
            listing.pop(".")
            for facts in listing.values():
                facts["xattrs"].pop("trusted.overlay.origin", None)
                facts["xattrs"].pop("trusted.overlay.impure", None)
                if facts["mode"] == oct(stat.S_IFCHR):
                    facts.pop("mtime")  # of whiteouts: when they were made
        assert listings[0] == listings[1]
        # And out again, from the files alone.
        with own.diff(id, parent) as stream:
            mine = layers.entries(stream)
        assert [(e.name.rstrip(b"/"), e.type, e.uid, e.size) for e, _ in mine] == [
            (e.name.rstrip(b"/"), e.type, e.uid, e.size)
            for e, _ in _in_our_order(theirs("diff", "-u", id).out)
        ]
        parent = id
    own.shutdown()


def _in_our_order(tar: bytes) -> layers.Archive:
    """buildah's archives put what was deleted elsewhere."""
    return sorted(layers.entries([tar]), key=lambda each: _sorting(each[0].name))


def _sorting(name: bytes) -> list[bytes]:
    parts = name.rstrip(b"/").split(b"/")
    if parts[-1] == b".wh..wh..opq":
        return [*parts[:-1], b""]
    return [*parts[:-1], parts[-1].removeprefix(b".wh.")]


def test_a_container_goes_from_hand_to_hand(base: Path) -> None:
    """Made by podman, filled by us, committed by buildah, and read by all."""
    ours = peers.orlop_storage(base, driver="overlay")
    theirs = peers.containers_storage(base, driver="overlay")
    made = peers.podman(base, "create", "--name", "box", "localhost/real2", "/usr/bin/perl", driver="overlay")
    box = made.text.strip()
    root = Path(ours.line("mount", box))
    (root / "handed").write_text("over\n")
    (root / "usr/bin/perl").unlink()
    assert theirs("mounted", box).lines == [f"{box} mounted"]
    theirs("unmount", box)
    layer = root.parent.name
    expected = ['Add "/handed"', 'Delete "/usr/bin/perl"']
    assert set(expected) <= set(ours("changes", layer).lines)
    assert sorted(ours("changes", layer).lines) == sorted(theirs("changes", layer).lines)
    assert ours("diff", "-u", layer).out
    peers.podman(base, "commit", "-q", "box", "localhost/handed", driver="overlay")
    before = {path.name for path in (base / "graph" / "overlay").iterdir()}
    ours("delete-container", box)
    assert layer in before
    assert layer not in {path.name for path in (base / "graph" / "overlay").iterdir()}
    peers.podman(base, "rmi", "localhost/handed", driver="overlay")
    peers.podman(base, "rm", "-f", "box", driver="overlay")  # from podman's own list
    assert peers.podman(base, "image", "exists", "localhost/real2", driver="overlay").status == 0
