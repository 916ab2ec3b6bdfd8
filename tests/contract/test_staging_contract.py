"""Content that was made ready beforehand is the content that unpacking would have made (`drivers/api.py`)."""

import layers
from conftest import Case, Rubbish
from orlop.drivers.api import Driver, SupportsStaging
from orlop.formats.tarheader import Entry
from orlop.model.idmap import IDENTITY, IDMappings
from orlop.model.staging import DifferOptions
from orlop.stream.unpack import staged_unpacker

WHITEOUTS: layers.Archive = [
    layers.directory("etc"),
    layers.file("etc/.wh.passwd"),
    layers.directory("bin"),
    layers.file("bin/.wh..wh..opq"),
    layers.file("bin/new", b"new"),
]


def _fill(target: str, options: DifferOptions, archive: layers.Archive) -> None:
    with staged_unpacker(target, options) as unpacker:
        for entry, payload in archive:
            unpacker.entry(entry)
            if payload:
                unpacker.data(payload)
        unpacker.finish()


def _facts(entry: Entry, payload: bytes) -> tuple[object, ...]:
    """All of an entry, but for the time of a whiteout: that is when it was made."""
    time = 0 if b".wh." in entry.name else entry.mtime_ns
    owner = (entry.uid, entry.gid)
    return entry.name, entry.linkname, entry.type, entry.mode, owner, time, entry.xattrs, payload


def _staged(
    driver: Driver,
    id: str,
    parent: str | None,
    archive: layers.Archive,
    rubbish: Rubbish,
    mappings: IDMappings,
) -> None:
    assert isinstance(driver, SupportsStaging)
    target, options = driver.stage(mappings)
    _fill(target, options, archive)
    driver.create(id, parent, writable=False, mappings=mappings)
    driver.place_staged(id, target, rubbish, root_is_set=False)


def test_it_shows_the_same_files_and_hides_the_same(driver: Driver, case: Case, rubbish: Rubbish) -> None:
    if not isinstance(driver, SupportsStaging):
        assert case.name == "vfs"
        return
    for id, parent, archive in (("base", None, case.archive), ("top", "base", WHITEOUTS)):
        driver.create(f"unpacked-{id}", parent and f"unpacked-{parent}", writable=False)
        layers.fill(driver, f"unpacked-{id}", archive, parent=parent and f"unpacked-{parent}")
        _staged(driver, f"staged-{id}", parent and f"staged-{parent}", archive, rubbish, IDENTITY)
    for id, parent in (("base", None), ("top", "base"), ("top", None)):
        found = []
        for how in ("unpacked", "staged"):
            with driver.diff(f"{how}-{id}", parent and f"{how}-{parent}") as stream:
                found.append([_facts(entry, payload) for entry, payload in layers.entries(stream)])
        assert found[0] == found[1]
        assert found[0]
