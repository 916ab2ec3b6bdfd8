"""Stores as their users have them: every test here runs on every driver of the table."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import invariants
import orlop
import peers
from interface import Disk
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


@pytest.fixture
def disk(request: pytest.FixtureRequest, open_store: Open, place: Path) -> Disk:
    """The files of the store."""
    return Disk(place, request.node.callspec.params["open_store"])


@pytest.fixture
def without_shifting(place: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens the store of the test as a program that must not map ids while mounting."""

    def open() -> orlop.Store:
        with monkeypatch.context() as patch:
            patch.setenv("_CONTAINERS_OVERLAY_DISABLE_IDMAP", "yes")
            return orlop.open_store(place / "graph", place / "run", "overlay", durability="none")

    return open


@pytest.fixture
def owning(request: pytest.FixtureRequest, open_store: Open, without_shifting: Open) -> orlop.Store:
    """A store, of each driver, whose mapped layers have their owners on disk."""
    overlay = request.node.callspec.params["open_store"] == "overlay"
    return without_shifting() if overlay else open_store()
