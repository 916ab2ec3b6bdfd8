"""Archives in and out: what every driver must do, however it keeps what is in them."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

import layers
import trees
from conftest import Case
from orlop.drivers.api import Driver
from orlop.errors import StorageError
from orlop.formats.tarheader import REGULAR
from orlop.model.idmap import IDMap, IDMappings

MAPPED = IDMappings([IDMap(0, 100_000, 65_536)], [IDMap(0, 200_000, 65_536)])


def _plain(listing: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without what archives do not carry: access times, the root itself, fractions of seconds."""
    for facts in listing.values():
        facts.pop("atime", None)
        facts["mtime"] //= 1_000_000_000
    listing.pop(".")
    return listing


@pytest.fixture
def base(driver: Driver, case: Case) -> str:
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", case.archive)
    return "base"


def test_an_archive_becomes_files(driver: Driver, case: Case) -> None:
    driver.create("one", None, writable=False)
    result = layers.fill(driver, "one", layers.BASE)
    root = Path(driver.mount("one"))
    assert layers.contents(root) == {
        "etc": "d",
        "etc/passwd": b"root:x:0:0\n",
        "etc/group": b"root:x:0:\n",
        "bin": "d",
        "bin/su": b"\x7fELF" * 500,
        "bin/doas": b"\x7fELF" * 500,
        "bin/sh": "su",
        "dev": "d",
        **({} if case.rootless else {"dev/null": "c"}),  # in a user namespace nobody makes devices
        "dev/initctl": "p",
        "var": "d",
        "var/cache": "d",
        "var/cache/one": b"1",
        "var/cache/two": b"22",
    }
    found = trees.listing(root)
    assert found["etc/group"]["owner"] == (3, 4)
    assert found["var"]["mode"] == oct(0o41777)
    assert found["var/cache/one"]["mtime"] == 1_600_000_000_000_000_000
    assert found["bin/doas"]["same as"] == found["bin/su"]["same as"]
    assert result.size >= 2000
    driver.unmount("one")


def test_whiteouts_remove_what_the_parent_has(driver: Driver, base: str) -> None:
    driver.create("child", base, writable=False)
    changes = [
        layers.file("etc/.wh.passwd"),
        layers.directory("var"),
        layers.directory("var/cache"),
        layers.file("var/cache/.wh..wh..opq"),
        layers.file("var/cache/three", b"333"),
    ]
    layers.fill(driver, "child", changes, parent=base)
    found = layers.contents(driver.mount("child"))
    driver.unmount("child")
    assert "etc/passwd" not in found
    assert {path for path in found if path.startswith("var/")} == {"var/cache", "var/cache/three"}
    assert "etc/passwd" in layers.contents(driver.mount(base))
    driver.unmount(base)


def test_owners_of_an_archive_are_mapped_in_and_out(driver: Driver) -> None:
    driver.create("one", None, writable=False, mappings=MAPPED)
    layers.fill(driver, "one", layers.BASE, mappings=MAPPED)
    root = Path(driver.mount("one"))
    assert (root / "etc" / "group").stat().st_uid == 100_003
    driver.unmount("one")
    with driver.diff("one", None, MAPPED) as stream:
        owners = {entry.name: (entry.uid, entry.gid) for entry, _ in layers.entries(stream)}
    assert owners[b"etc/group"] == (3, 4)
    assert owners[b"bin/su"] == (0, 0)


def test_entries_that_climb_stay_inside(driver: Driver, place: Path) -> None:
    (place / "outside").mkdir()
    before = sorted(place.rglob("*"))
    driver.create("one", None, writable=False)
    evil = [
        layers.file("../../../../../../../../../../" + str(place / "outside" / "up"), b"1"),
        layers.file(str(place / "outside" / "absolute"), b"2"),
        layers.symlink("door", str(place / "outside")),
        layers.file("door/through", b"3"),
    ]
    try:
        layers.fill(driver, "one", evil)
    except (OSError, StorageError):
        pass  # refusing is as good as clamping
    assert list((place / "outside").iterdir()) == []
    inside = set(Path(driver.home).rglob("*"))
    assert set(place.rglob("*")) - set(before) - inside <= {Path(driver.home)}


def test_an_interrupted_unpacking_ends_and_is_no_success(driver: Driver) -> None:
    driver.create("one", None, writable=False)
    with pytest.raises(KeyboardInterrupt):
        with driver.unpacking("one", None) as unpacker:
            unpacker.entry(layers.file("a", b"12345")[0])
            unpacker.data(b"123")
            raise KeyboardInterrupt
    with pytest.raises(ValueError):
        unpacker.finish()
    driver.remove("one", lambda path, root: os.rename(path, path + ".gone"))


def test_the_diff_without_a_parent_is_the_whole_tree(driver: Driver, base: str) -> None:
    """Unpacked again it is the same tree."""
    with driver.diff(base, None) as stream:
        archive = layers.entries(stream)
    driver.create("again", None, writable=False)
    layers.fill(driver, "again", archive)
    listings = [_plain(trees.listing(driver.mount(id))) for id in (base, "again")]
    assert listings[0] == listings[1]
    assert len(driver.changes(base, None)) == len(archive)
    for id in (base, "again"):
        driver.unmount(id)


def _change(root: Path) -> None:
    (root / "etc" / "passwd").write_bytes(b"changed and longer\n")
    (root / "etc" / "group").unlink()
    (root / "new").mkdir()
    (root / "new" / "file").write_bytes(b"12345")
    (root / "new" / "link").symlink_to("file")
    (root / "bin" / "sh").unlink()
    (root / "bin" / "sh").mkdir()  # a symlink becomes a directory
    os.chmod(root / "var" / "cache" / "one", 0o600)
    os.setxattr(root / "var" / "cache" / "two", "user.note", b"new")


def test_changes_and_diff_say_what_a_child_did(driver: Driver, base: str, case: Case) -> None:
    driver.create("child", base, writable=True)
    root = Path(driver.mount("child"))
    before = _plain(trees.listing(root))
    _change(root)
    after = _plain(trees.listing(root))
    expected = {
        "C /etc",
        "C /etc/passwd",
        "D /etc/group",
        "A /new",
        "A /new/file",
        "A /new/link",
        "C /bin",
        "C /var/cache/one",
        "C /var/cache/two",
    }
    # Whole trees show that a directory has another link in it; a difference, that what was there is gone.
    expected |= {"D /bin/sh"} if case.differences else {"C /bin/sh", "C /var", "C /var/cache"}
    assert {str(change) for change in driver.changes("child", base)} == expected
    assert driver.diff_size("child", base) == len(b"changed and longer\n" + b"12345" + b"file" + b"1" + b"22")
    with driver.diff("child", base) as stream:
        archive = layers.entries(stream)
    names = {entry.name.rstrip(b"/") for entry, _ in archive}
    assert b"etc/.wh.group" in names
    assert b"bin/su" not in names
    driver.create("replay", base, writable=False)
    assert _plain(trees.listing(driver.mount("replay"))) == before
    driver.unmount("replay")
    layers.fill(driver, "replay", archive, parent=base)
    assert _plain(trees.listing(driver.mount("replay"))) == after
    for id in ("child", "replay"):
        driver.unmount(id)


def test_a_layer_without_changes_has_an_empty_diff(driver: Driver, base: str) -> None:
    driver.create("child", base, writable=True)
    assert driver.changes("child", base) == []
    assert driver.diff_size("child", base) == 0
    with driver.diff("child", base) as stream:
        assert stream.read() == bytes(1024)


def test_a_diff_can_be_given_up(driver: Driver, base: str) -> None:
    """Closing early lets go of the layer; it can be removed then."""
    stream = driver.diff(base, None)
    assert stream.read(10)
    stream.close()
    driver.remove(base, lambda path, root: os.rename(path, path + ".gone"))
    assert not driver.exists(base)


def test_a_diff_with_a_parent_is_closed_in_a_later_second(driver: Driver, base: str) -> None:
    """A tree restored from it has whole seconds, so a change within this second would look like none."""
    driver.create("child", base, writable=True)
    driver.create("grandchild", "child", writable=True)  # no driver keeps the difference of these two
    while time.time() % 1 > 0.3:
        time.sleep(0.05)
    began = int(time.time())
    with driver.diff("grandchild", base) as stream:
        stream.read()
        assert int(time.time()) == began
    assert int(time.time()) == began + 1


def test_a_diff_against_other_maps_compares_what_the_container_sees(
    driver: Driver, base: str, case: Case
) -> None:
    driver.create("mapped", base, writable=True, mappings=MAPPED)
    driver.shift("mapped", IDMappings(), MAPPED)
    if case.faithful:
        assert driver.changes("mapped", base, MAPPED) == []
    driver.create("child", "mapped", writable=True, mappings=MAPPED)
    assert all(str(change) != "C /etc/passwd" for change in driver.changes("child", base, MAPPED))
    assert any(str(change) == "C /etc/passwd" for change in driver.changes("child", base))


def test_only_regular_files_have_a_payload(driver: Driver, base: str) -> None:
    with driver.diff(base, None) as stream:
        for entry, payload in layers.entries(stream):
            assert len(payload) == (entry.size if entry.type == REGULAR else 0)


def test_deleting_what_never_was_is_no_change_to_other_layers(driver: Driver) -> None:
    """A mounted overlay lists such a name where there is nothing below to merge; there is no file to it."""
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", [layers.directory("d"), layers.file("d/kept"), layers.file("d/.wh.never")])
    driver.create("middle", "base", writable=False)
    driver.create("top", "middle", writable=False)
    layers.fill(driver, "top", [layers.file("new")], parent="middle")
    assert [(c.kind, c.path) for c in driver.changes("top", "base")] == [("A", b"/new")]
