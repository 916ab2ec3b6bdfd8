"""What all suites share: a clean environment, deep suites on request only, stores that leave no mounts."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # `import peers`, whatever import mode pytest runs in

import peers

# What a developer's shell says about storage must not decide a test; a test that wants one of these sets it.
for _name in list(os.environ):
    if _name.startswith(("ORLOP_", "STORAGE_", "CONTAINERS_STORAGE_", "_CONTAINERS_")):
        del os.environ[_name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long suites run when `-m` asks for them (`make deep-NAME`), and count as deselected otherwise."""
    if "deep" in (config.getoption("markexpr") or ""):
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


def pytest_configure(config: pytest.Config) -> None:
    try:
        from hypothesis import HealthCheck, settings
    except ImportError:  # the suites that need it say so
        return
    # Two test processes share two cores with whatever else runs: a slow example is no finding.
    common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
    settings.register_profile("quick", max_examples=200, **common)
    settings.register_profile("deep", max_examples=int(os.environ.get("N") or 20_000), **common)
    settings.load_profile("deep" if "deep" in (config.getoption("markexpr") or "") else "quick")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory for stores. What is mounted below it afterwards is unmounted, so that it can be removed."""
    yield tmp_path
    peers.unmount_below(tmp_path)


@pytest.fixture
def theirs(place: Path) -> peers.Program:
    """Debian's containers-storage on a store of its own (vfs; `.on(driver=...)` for another)."""
    peers.need_root()
    return peers.containers_storage(place / "theirs")


@pytest.fixture
def ours(place: Path) -> peers.Program:
    """orlop-storage, as installed, on a store of its own."""
    return peers.orlop_storage(place / "ours")


@pytest.fixture
def shared(place: Path) -> tuple[peers.Program, peers.Program]:
    """(ours, theirs) on one and the same store."""
    peers.need_root()
    return peers.orlop_storage(place / "store"), peers.containers_storage(place / "store")
