"""The overlay driver opened for tests: a plugin (`pytest_plugins = ("overlays",)`) with the fixtures for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import peers
from orlop.drivers import registry
from orlop.drivers.overlay.driver import Overlay
from orlop.system import overlayfs


@pytest.fixture
def open_overlay(place: Path) -> Iterator[Callable[..., Overlay]]:
    """Opens the driver: `open_overlay("overlay.mountopt=nodev", base=..., rootless=True)`."""
    peers.need_root()
    opened = []

    def open(*options: str, base: Path = place, **settings: Any) -> Overlay:
        for root in ("graph", "run"):
            (base / root).mkdir(exist_ok=True)
        roots = {"graph_root": str(base / "graph"), "run_root": str(base / "run")}
        driver = registry.open_driver("overlay", **roots, options=options, durable=False, **settings)
        assert isinstance(driver, Overlay)
        opened.append(driver)
        return driver

    yield open
    for driver in opened:
        driver.shutdown()


@pytest.fixture(params=["layer by layer", "in one text"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounting as this kernel does it, and as older ones do."""
    if request.param == "in one text":
        monkeypatch.setattr(overlayfs, "_one_by_one", False)
