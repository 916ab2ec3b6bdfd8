"""Re-owning a layer: every owner by the maps, nothing else changed, nothing outside touched."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import peers
import trees
from orlop.errors import InvalidMappings
from orlop.model.idmap import IDENTITY, OVERFLOW_ID, IDMap, IDMappings
from orlop.stream.idshift import shift_tree


def _maps(*triples: tuple[int, int, int]) -> IDMappings:
    maps = [IDMap(*triple) for triple in triples]
    return IDMappings(maps, maps)


FAR = _maps((0, 100_000, 65_536))
NEAR = _maps((0, 200_000, 1_000))


@pytest.fixture(autouse=True)
def _root() -> None:
    peers.need_root()


def _shifted(listing: dict[str, dict[str, Any]], by: int) -> dict[str, dict[str, Any]]:
    for path, facts in listing.items():
        if path != ".":
            facts["owner"] = tuple(id + by for id in facts["owner"])
    return listing


def test_only_owners_change_and_not_that_of_the_root(tmp_path: Path) -> None:
    """chown clears setuid bits and capabilities; without them `su` and `ping` of a remapped image do not work."""
    root = tmp_path / "layer"
    trees.plant(root)
    expected = _shifted(trees.listing(root, atime=False), 100_000)
    shift_tree(str(root), IDENTITY, FAR)
    assert trees.listing(root, atime=False) == expected


def test_there_and_back_is_where_it_was(tmp_path: Path) -> None:
    root = tmp_path / "layer"
    trees.plant(root)
    expected = trees.listing(root, atime=False)
    shift_tree(str(root), IDENTITY, FAR)
    shift_tree(str(root), FAR, IDENTITY)
    assert trees.listing(root, atime=False) == expected


def test_from_one_set_of_maps_to_another(tmp_path: Path) -> None:
    for name, owner in {"root": 100_000, "user": 100_999, "beyond": 101_000}.items():
        (tmp_path / name).touch()
        os.chown(tmp_path / name, owner, owner)
    shift_tree(str(tmp_path), FAR, NEAR)
    found = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert found == {"root": (200_000,) * 2, "user": (200_999,) * 2, "beyond": (OVERFLOW_ID,) * 2}


def test_what_already_belongs_to_the_mapped_root_stays_so(tmp_path: Path) -> None:
    """Each of the two ids by itself, as the original does it."""
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 200_000, 5)
    shift_tree(str(tmp_path), IDENTITY, NEAR)
    status = (tmp_path / "file").stat()
    assert (status.st_uid, status.st_gid) == (200_000, 200_005)


def test_the_hosts_root_in_a_mapped_layer_becomes_the_mapped_root(tmp_path: Path) -> None:
    """Unpacking makes implied parent directories as the host's root, whatever the layer's maps."""
    (tmp_path / "implied").mkdir()
    shift_tree(str(tmp_path), FAR, NEAR)
    assert (tmp_path / "implied").stat().st_uid == 200_000


def test_an_owner_outside_the_maps_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "stray").touch()
    os.chown(tmp_path / "sub" / "stray", 5, 100_001)
    with pytest.raises(InvalidMappings) as failure:
        shift_tree(str(tmp_path), FAR, NEAR)
    assert "'sub/stray'" in str(failure.value)
    assert failure.value.peer == "host ID 5 cannot be mapped to a container ID"


def test_links_are_reowned_themselves_and_lead_nowhere(tmp_path: Path) -> None:
    """If the walk followed, a planted link would give away /etc/shadow of the host."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shadow").write_bytes(b"secret")
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "file").symlink_to(outside / "shadow")
    (layer / "directory").symlink_to(outside)
    shift_tree(str(layer), IDENTITY, FAR)
    assert (outside / "shadow").stat().st_uid == 0
    assert outside.stat().st_uid == 0
    assert {path.lstat().st_uid for path in layer.iterdir()} == {100_000}


@contextmanager
def _overlay(lower: Path, upper: Path, work: Path, merged: Path) -> Iterator[None]:
    options = f"lowerdir={lower},upperdir={upper},workdir={work},index=off"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        peers.missing("overlay mounts")
    try:
        yield
    finally:
        peers.unmount_below(merged)


def test_a_copy_up_of_overlay_does_not_split_hard_links(tmp_path: Path) -> None:
    """Without an index overlay copies up the one name that changed; the other would keep the old owner.

    Nor does it cost the directories of the other names their times.
    """
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower / "deep" / "down", upper, work, merged):
        path.mkdir(parents=True)
    (lower / "a").write_bytes(b"one file")
    os.link(lower / "a", lower / "deep" / "down" / "b")
    os.link(lower / "a", lower / "c")
    os.symlink("anywhere", lower / "s1")
    os.link(lower / "s1", lower / "s2", follow_symlinks=False)
    for path in (lower / "deep" / "down", upper):
        os.utime(path, ns=(1_000_000_007, 2_000_000_009))
    with _overlay(lower, upper, work, merged):
        shift_tree(str(merged), IDENTITY, FAR)
        names = [merged / "a", merged / "deep" / "down" / "b", merged / "c"]
        assert {path.stat().st_uid for path in names} == {100_000}
        assert {path.read_bytes() for path in names} == {b"one file"}
        assert len({path.stat().st_ino for path in names}) == 1
        assert {path.stat().st_nlink for path in names} == {3}
        assert {path.lstat().st_uid for path in (merged / "s1", merged / "s2")} == {100_000}
        assert (upper / "a").samefile(upper / "deep" / "down" / "b")
        # What a name that is made anew does to its directory; an archive of the layer would have another time.
        assert {path.stat().st_mtime_ns for path in (merged, merged / "deep/down")} == {2_000_000_009}
    assert (lower / "a").stat().st_uid == 0


def test_what_need_not_change_is_not_copied_up(tmp_path: Path) -> None:
    """Re-owning an image must not double it."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir()
    (lower / "same").write_bytes(b"x")
    (lower / "other").write_bytes(b"x")
    os.chown(lower / "same", 200_000, 200_000)
    with _overlay(lower, upper, work, merged):
        shift_tree(str(merged), IDENTITY, NEAR)
    assert [path.name for path in upper.iterdir()] == ["other"]


def test_without_maps_nothing_is_looked_at(tmp_path: Path) -> None:
    shift_tree(str(tmp_path / "not there"), IDENTITY, IDENTITY)
    with pytest.raises(FileNotFoundError):
        shift_tree(str(tmp_path / "not there"), IDENTITY, FAR)
