"""Stores as their users have them: every test here runs on every driver of the table."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import invariants
import orlop
import peers

DRIVERS = ["vfs"]

Open = Callable[[], orlop.Store]


@pytest.fixture(params=DRIVERS)
def open_store(request: pytest.FixtureRequest, place: Path) -> Iterator[Open]:
    """Opens the store of this test; each call is one more program on the same roots."""
    peers.need_root()
    driver = request.param

    def open() -> orlop.Store:
        return orlop.open_store(place / "graph", place / "run", driver, durability="none", lock_timeout=10)

    yield open
    invariants.hold(place / "graph", place / "run", driver)


@pytest.fixture
def store(open_store: Open) -> orlop.Store:
    return open_store()


@pytest.fixture
def other(open_store: Open, store: orlop.Store) -> orlop.Store:
    """The same store, opened by what might be another program."""
    return open_store()


def tar(*members: str | tuple[str, bytes]) -> io.BytesIO:
    """A layer: a name ending in / is a directory, a pair is a file with content, any other name an empty file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            name, data = member if isinstance(member, tuple) else (member, b"")
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mtime, info.mode, info.size = 1_600_000_000, 0o644, len(data)
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out
