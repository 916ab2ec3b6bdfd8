"""vfs beside Debian's containers-storage: the same layer, made by either, is the same tree in the same place."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest

import layers
import peers
import trees
from orlop.drivers import registry
from orlop.drivers.api import Driver
from orlop.errors import ConfigError
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import files


@pytest.fixture
def driver(theirs: peers.Program) -> Driver:
    """Our vfs driver on the roots of their store."""
    theirs("status")
    return registry.open_driver("vfs", graph_root=str(theirs.graph), run_root=str(theirs.run), durable=False)


def _directory(theirs: peers.Program, id: str) -> Path:
    return theirs.graph / "vfs" / "dir" / id


def test_a_child_is_the_same_tree_whoever_made_it(theirs: peers.Program, driver: Driver) -> None:
    """Modes, owners, times, attributes, links, devices: their copy and ours of one parent."""
    theirs("create-layer", "-i", "base")
    trees.plant(_directory(theirs, "base"), sockets=False)  # 1.43 fails on them
    for name in ("trusted.other", "trusted.overlay.opaque", "user.kept"):
        os.setxattr(_directory(theirs, "base") / "etc", name, b"y")
    os.setxattr(_directory(theirs, "base") / "etc" / "passwd", "system.posix_acl_access", trees.ACL)
    driver.create("ours", "base", writable=True)
    theirs("create-layer", "-i", "theirs", "base")
    found = [trees.listing(_directory(theirs, id), atime=False) for id in ("ours", "theirs")]
    assert found[0] == found[1]
    assert "trusted.other" not in found[0]["etc"]["xattrs"]


def test_an_empty_layer_is_the_same_whoever_made_it(theirs: peers.Program, driver: Driver) -> None:
    maps = ["--uidmap", "0:1000:10", "--gidmap", "0:2000:10"]
    theirs("create-layer", "-i", "theirs-plain")
    theirs("create-layer", "-i", "theirs-mapped", *maps)
    driver.create("ours-plain", None, writable=False)
    driver.create(
        "ours-mapped", None, writable=True, mappings=IDMappings([IDMap(0, 1000, 10)], [IDMap(0, 2000, 10)])
    )
    for kind in ("plain", "mapped"):
        ours, other = [_directory(theirs, f"{who}-{kind}").stat() for who in ("ours", "theirs")]
        assert (ours.st_mode, ours.st_uid, ours.st_gid) == (other.st_mode, other.st_uid, other.st_gid)


def test_re_owned_children_are_the_same(theirs: peers.Program, driver: Driver) -> None:
    theirs("create-layer", "-i", "base")
    layers.fill(driver, "base", layers.BASE)
    theirs("create-layer", "-i", "theirs", "--uidmap", "0:1000:65536", "--gidmap", "0:2000:65536", "base")
    maps = IDMappings([IDMap(0, 1000, 65_536)], [IDMap(0, 2000, 65_536)])
    driver.create("ours", "base", writable=False, mappings=maps)
    driver.shift("ours", IDMappings(), maps)
    ours, other = [trees.listing(_directory(theirs, id), atime=False) for id in ("ours", "theirs")]
    # 1.43 leaves the root to the host's root; and it makes every hard link anew, which changes the directory's time.
    assert ours.pop(".")["owner"] == (1000, 2000)
    other.pop(".")
    assert ours["bin"].pop("mtime") < other["bin"].pop("mtime")
    assert ours == other


def test_changes_and_sizes_are_the_same(theirs: peers.Program, driver: Driver) -> None:
    theirs("create-layer", "-i", "base")
    layers.fill(driver, "base", layers.BASE)
    theirs("create-layer", "-i", "child", "base")
    root = _directory(theirs, "child")
    (root / "etc" / "passwd").write_bytes(b"changed")
    (root / "etc" / "group").unlink()
    (root / "var" / "cache" / "new").mkdir()
    (root / "var" / "cache" / "new" / "file").write_bytes(b"x" * 1000)
    kinds = {"C": "Modify", "A": "Add", "D": "Delete"}
    ours = sorted(
        f'{kinds[change.kind]} "{os.fsdecode(change.path)}"' for change in driver.changes("child", "base")
    )
    assert ours == sorted(theirs("changes", "child").lines)
    assert str(driver.diff_size("child", "base")) == theirs.line("diffsize", "child")


def test_a_diff_has_the_same_entries_in_the_same_order(theirs: peers.Program, driver: Driver) -> None:
    """As for a container, without a tar-split file. (1.43 also writes the type of a file into its mode.)"""
    theirs("create-layer", "-i", "base")
    layers.fill(driver, "base", layers.BASE)
    theirs("create-layer", "-i", "child", "base")
    root = _directory(theirs, "child")
    (root / "etc" / "passwd").write_bytes(b"changed")
    (root / "etc" / "a-b").write_bytes(b"before etc/group")
    (root / "added").mkdir()
    (root / "added" / "file").write_bytes(b"x" * 1000)
    os.link(root / "added" / "file", root / "added" / "other")
    os.setxattr(root / "bin" / "su", "user.note", b"value")
    (root / "var" / "cache" / "one").unlink()

    def facts(stream: Iterable[bytes]) -> list[tuple[object, ...]]:
        return [
            (e.name, e.linkname, e.type, stat.S_IMODE(e.mode), e.uid, e.gid, e.xattrs, payload)
            for e, payload in layers.entries(stream)
        ]

    with driver.diff("child", "base") as stream:
        ours = facts(stream)
    assert ours == facts([theirs("diff", "-u", "child").out])


@pytest.mark.parametrize(
    "option", ["vfs.mountopt=x", ".mountopt=x", "vfs.Foo=1", "vfs.ignore_chown_errors=maybe", "noeq"]
)
def test_options_are_refused_in_the_same_words(theirs: peers.Program, option: str) -> None:
    said = theirs.on(options=(option,))("status", ok=False)
    assert said.status != 0
    with pytest.raises(ConfigError) as failure:
        registry.open_driver("vfs", graph_root=str(theirs.graph), run_root=str(theirs.run), options=[option])
    assert failure.value.peer in (said.out + said.err).decode()


def test_what_we_set_aside_they_do_not_take_for_a_layer(theirs: peers.Program, driver: Driver) -> None:
    theirs("create-layer", "-i", "base")

    def set_aside(path: str, root: str) -> None:
        files.make_dirs(root)
        os.rename(path, os.path.join(root, "0-base"))

    driver.create("stray", None, writable=True)
    driver.remove("stray", set_aside)
    assert sorted(os.listdir(theirs.graph / "vfs")) == ["dir", "tempdirs"]
    assert theirs("layers").lines == ["base"]
    theirs("delete-layer", "base")
