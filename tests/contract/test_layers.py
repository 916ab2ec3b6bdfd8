"""Making, seeing and unmaking layers: what every driver must do."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import layers
import trees
from conftest import Case, Rubbish
from orlop.drivers.api import Driver
from orlop.errors import DuplicateID, InvalidMappings, UnsafeID
from orlop.model.idmap import IDENTITY, IDMap, IDMappings
from orlop.system import libc

MAPPED = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 200_000, 65_536)])
NO_ROOT = IDMappings([IDMap(5, 100_000, 10)], [IDMap(5, 100_000, 10)])


def _at(driver: Driver, id: str) -> Path:
    return Path(driver.mount(id))


def test_a_layer_without_a_parent_is_an_empty_directory_of_the_mapped_root(driver: Driver) -> None:
    mask = os.umask(0o077)
    try:
        driver.create("plain", None, writable=False)
    finally:
        os.umask(mask)
    driver.create("mapped", None, writable=True, mappings=MAPPED)
    for id, owner in (("plain", (0, 0)), ("mapped", (100_000, 200_000))):
        root = _at(driver, id)
        status = root.lstat()
        assert stat.S_ISDIR(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o555
        assert (status.st_uid, status.st_gid) == owner
        assert list(root.iterdir()) == []
        driver.unmount(id)


def _without(left_out: set[str], listing: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    return {
        path: {name: fact for name, fact in facts.items() if name not in left_out}
        for path, facts in listing.items()
    }


def test_a_child_starts_as_its_parent_and_goes_its_own_way(driver: Driver, case: Case) -> None:
    driver.create("base", None, writable=False)
    base = _at(driver, "base")
    trees.plant(base, devices=not case.rootless)
    driver.unmount("base")  # a mount program may have written to its memory only so far
    assert base == _at(driver, "base")
    before = trees.listing(base)
    driver.create("child", "base", writable=True)
    child = _at(driver, "child")
    found = trees.listing(child)
    if case.layered:  # the root is the child's own
        found["."]["mtime"] = before["."]["mtime"]
        found["."]["atime"] = before["."]["atime"]
    assert found == before
    (child / "etc" / "passwd").write_bytes(b"changed")
    (child / "new").touch()
    (child / "bin" / "sh").unlink()
    left_out = {"atime"} if case.faithful else {"atime", "names"}  # it counts those that it knows
    assert _without(left_out, trees.listing(base)) == _without(left_out, before)
    driver.create("grandchild", "child", writable=False)
    assert (_at(driver, "grandchild") / "etc" / "passwd").read_bytes() == b"changed"
    for id in ("base", "child", "grandchild"):
        driver.unmount(id)


def test_a_layer_from_a_template_has_what_the_template_has(driver: Driver) -> None:
    driver.create("parent", None, writable=False)
    driver.create("template", "parent", writable=False)
    layers.fill(driver, "template", layers.BASE, parent="parent")
    driver.create_from_template("copy", "template", "parent", writable=True)
    assert layers.contents(_at(driver, "copy")) == layers.contents(_at(driver, "template"))
    driver.unmount("copy")
    driver.unmount("template")


def test_what_is_there_and_where(driver: Driver, rubbish: Rubbish) -> None:
    assert driver.ids() == []
    assert not driver.exists("one")
    driver.create("one", None, writable=False)
    driver.create("two", "one", writable=True)
    assert sorted(driver.ids()) == ["one", "two"]
    assert driver.exists("one")
    driver.remove("one", rubbish)
    assert driver.ids() == ["two"]
    assert not driver.exists("one")


def test_another_opening_sees_the_same_layers(open_driver: Callable[..., Driver]) -> None:
    first = open_driver()
    first.create("one", None, writable=False)
    layers.fill(first, "one", layers.BASE)
    second = open_driver()
    assert second.name == first.name
    assert second.ids() == ["one"]
    assert layers.contents(_at(second, "one")) == layers.contents(_at(first, "one"))
    first.unmount("one")
    second.unmount("one")


def test_a_second_layer_of_one_id_is_refused_and_the_first_is_left_alone(driver: Driver) -> None:
    """Two unpackers of one layer would mix two images."""
    driver.create("one", None, writable=False)
    layers.fill(driver, "one", layers.BASE)
    driver.create("other", None, writable=False)
    before = trees.listing(_at(driver, "one"))
    for parent in (None, "other"):
        with pytest.raises(DuplicateID):
            driver.create("one", parent, writable=False)
    assert trees.listing(_at(driver, "one")) == before


def test_a_creation_that_fails_leaves_nothing(driver: Driver) -> None:
    with pytest.raises(FileNotFoundError):
        driver.create("child", "no-such-parent", writable=True)
    with pytest.raises(InvalidMappings):
        driver.create("rootless", None, writable=True, mappings=NO_ROOT)
    assert not driver.exists("child")
    assert driver.ids() == []


def test_removal_sets_aside_and_may_be_repeated(driver: Driver, rubbish: Rubbish) -> None:
    """Under the lock there is only a rename; a second remove is what recovery does after a crash in between."""
    driver.create("one", None, writable=False)
    layers.fill(driver, "one", layers.BASE)
    driver.remove("one", rubbish)
    assert not driver.exists("one")
    assert {root for _, root in rubbish.taken} <= set(driver.temp_roots())
    taken = len(rubbish.taken)
    driver.remove("one", rubbish)
    driver.remove("never-was", rubbish)
    assert len(rubbish.taken) == taken
    driver.create("one", None, writable=False)
    assert list(_at(driver, "one").iterdir()) == []
    driver.unmount("one")


def test_a_layer_that_is_not_there_cannot_be_used(driver: Driver) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: driver.mount("gone"),
        lambda: driver.usage("gone"),
        lambda: driver.changes("gone", None),
        lambda: driver.diff_size("gone", None),
        lambda: driver.diff("gone", None),
        lambda: driver.shift("gone", IDENTITY, MAPPED),
        lambda: layers.fill(driver, "gone", []),
    ]
    for attempt in attempts:
        with pytest.raises(FileNotFoundError):
            attempt()


BAD_IDS = ["", ".", "..", "../evil", "a/b", "/etc", "x\0y", "x" * 300]


@pytest.mark.parametrize("id", BAD_IDS)
def test_no_id_reaches_outside(driver: Driver, rubbish: Rubbish, place: Path, id: str) -> None:
    """CVE-2014-9358, and records that somebody else wrote: every method refuses, and nothing appears or goes."""
    driver.create("good", None, writable=False)
    (Path(driver.home) / "evil").mkdir()
    before = sorted(path for path in place.rglob("*"))
    attempts: list[Callable[[], object]] = [
        lambda: driver.check_id(id),
        lambda: driver.create(id, None, writable=True),
        lambda: driver.remove(id, rubbish),
        lambda: driver.exists(id),
        lambda: driver.mount(id),
        lambda: driver.unmount(id),
        lambda: driver.usage(id),
        lambda: driver.changes(id, None),
        lambda: driver.changes("good", id) if id else driver.check_id(id),
        lambda: driver.diff("good", id) if id else driver.check_id(id),
        lambda: driver.create("child", id, writable=True) if id else driver.check_id(id),
        lambda: driver.shift(id, IDENTITY, MAPPED),
        lambda: layers.fill(driver, id, []),
        lambda: driver.sync(id),
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(UnsafeID):
            attempt()
            pytest.fail(f"attempt {number} was not refused")
    assert sorted(path for path in place.rglob("*")) == before


def test_names_that_the_driver_keeps_for_itself_are_refused(driver: Driver) -> None:
    for id in driver.reserved_ids:
        with pytest.raises(UnsafeID):
            driver.create(id, None, writable=False)


def test_usage_counts_bytes_of_files_and_inodes(driver: Driver) -> None:
    driver.create("one", None, writable=True)
    before = driver.usage("one")
    layers.fill(
        driver, "one", [layers.directory("d"), layers.file("d/f", b"x" * 1000), layers.link("d/g", "d/f")]
    )
    size, inodes = driver.usage("one")
    assert size - before[0] == 1000
    assert inodes - before[1] == 2


def test_re_owning_a_fresh_layer(driver: Driver, case: Case) -> None:
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", case.archive)
    driver.create("mapped", "base", writable=True, mappings=MAPPED)
    driver.shift("mapped", IDENTITY, MAPPED)
    root = _at(driver, "mapped")
    found = {path: facts["owner"] for path, facts in trees.listing(root).items()}
    driver.unmount("mapped")
    assert found["etc/group"] == (100_003, 200_004)
    assert found["bin/sh"] == (100_001, 200_002)
    assert all(owner >= (100_000, 200_000) for path, owner in found.items() if path != ".")
    assert stat.S_IMODE((_at(driver, "mapped") / "bin" / "su").stat().st_mode) == 0o4755
    driver.unmount("mapped")
    assert (_at(driver, "base") / "etc" / "group").stat().st_uid == 3
    driver.unmount("base")


def test_what_drivers_say_about_themselves(driver: Driver) -> None:
    driver.create("one", None, writable=False)
    for key, value in (*driver.status(), *driver.metadata("one").items()):
        assert isinstance(key, str)
        assert isinstance(value, str)
    assert isinstance(driver.supports_shifting(MAPPED), bool)
    assert driver.additional_stores() == ()


def test_layers_can_be_made_durable(
    open_driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever way a driver goes, the kernel is asked for the file system on which the layer's files are."""
    driver = open_driver(durable=True)
    driver.create("one", None, writable=False)
    layers.fill(driver, "one", layers.BASE)
    synced = []
    real = libc.syncfs

    def syncfs(fd: int) -> None:
        synced.append(os.fstat(fd).st_dev)
        real(fd)

    monkeypatch.setattr(libc, "syncfs", syncfs)
    driver.sync("one")
    assert os.stat(driver.home).st_dev in synced
