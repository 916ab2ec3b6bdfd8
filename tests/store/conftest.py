"""Stores as their users have them: every test here runs on every driver of the table."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import invariants
import orlop
import peers
from tarballs import Open

DRIVERS = ["vfs", "overlay"]


@pytest.fixture(params=DRIVERS)
def open_store(request: pytest.FixtureRequest, place: Path) -> Iterator[Open]:
    """Opens the store of this test; each call is one more program on the same roots."""
    peers.need_root()
    driver = request.param

    def open() -> orlop.Store:
        return orlop.open_store(place / "graph", place / "run", driver, durability="none", lock_timeout=10)

    yield open
    invariants.hold(place / "graph", place / "run", driver)
    invariants.counted(place / "graph", place / "run", driver)


@pytest.fixture
def store(open_store: Open) -> orlop.Store:
    return open_store()


@pytest.fixture
def other(open_store: Open, store: orlop.Store) -> orlop.Store:
    """The same store, opened by what might be another program."""
    return open_store()
