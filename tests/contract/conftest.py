"""The drivers that must keep the contract of `drivers/api.py`: one line each, and every test here runs for it.

What works in a user namespace runs there: `test_namespace.py` runs all of this once more inside one.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import layers
import loopfs
import peers
from orlop.drivers import registry
from orlop.drivers.api import Driver
from orlop.errors import NotSupported
from orlop.formats.tarheader import CHAR, FIFO
from orlop.system import files, overlayfs, probe


@dataclass(frozen=True)
class Case:
    """A driver, and what kind of file system its root has to lie on; None: any.

    `layered`: a layer holds what it changes, and is shown above the others. `differences`: what it holds tells
    exactly what was changed. `rootless`: the case is for a process that is root of a user namespace only. `mounting`
    is how overlays are mounted, if not as this kernel does it by itself.
    """

    name: str
    on: str | None = None
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    layered: bool = False
    differences: bool = False
    rootless: bool = False
    mounting: str = ""

    def __str__(self) -> str:
        more = [self.mounting] if self.mounting else []
        return " ".join([self.name, *(["rootless"] if self.rootless else []), *self.needs, *more])

    @property
    def faithful(self) -> bool:
        """Whether copying a file up keeps what it was: fuse-overlayfs 1.10 loses times, and counts of names."""
        return self.needs != FUSE

    @property
    def archive(self) -> layers.Archive:
        """`layers.BASE`, but of it no more than can be re-owned: fuse-overlayfs 1.10 fails at FIFOs and devices."""
        return [each for each in layers.BASE if self.faithful or each[0].type not in (CHAR, FIFO)]


FUSE = ("fuse-overlayfs",)
PROGRAM = (f"overlay.mount_program={shutil.which(FUSE[0])}",)

BY_MOUNT = "by mount(2)"

ALL_CASES = [
    Case("vfs"),
    Case("vfs", rootless=True),
    Case("overlay", layered=True, differences=True),
    Case("overlay", layered=True, differences=True, rootless=True),
    Case("overlay", layered=True, differences=True, mounting=BY_MOUNT),
    Case("overlay", layered=True, differences=True, rootless=True, mounting=BY_MOUNT),
    Case("overlay", layered=True, options=("overlay.mountopt=metacopy=on",), mounting="with metacopy"),
    Case("overlay", layered=True, options=PROGRAM, needs=FUSE),
]
CASES = [case for case in ALL_CASES if case.rootless != probe.in_initial_user_namespace()]


@dataclass
class Rubbish:
    """`set_aside` as the store does it: a rename now, removal later."""

    taken: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, path: str, temp_root: str) -> None:
        files.make_dirs(temp_root)
        os.rename(path, os.path.join(temp_root, str(len(self.taken))))
        self.taken.append((path, temp_root))


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


@pytest.fixture
def open_driver(case: Case, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Driver]]:
    """Opens the driver; each call on the same roots, as another process or a later one would."""
    peers.need_root()
    peers.need(*case.needs)
    if case.mounting == BY_MOUNT:
        monkeypatch.setattr(overlayfs, "_one_by_one", False)
    with ExitStack() as stack:
        base = stack.enter_context(loopfs.mounted(case.on, place)) if case.on else place
        opened: list[Driver] = []

        def open(**changes: Any) -> Driver:
            for root in ("graph", "run"):
                (base / root).mkdir(exist_ok=True)
            settings: dict[str, Any] = {
                "options": case.options,
                "durable": False,
                "rootless": case.rootless,
            } | changes
            try:
                driver = registry.open_driver(
                    case.name, graph_root=str(base / "graph"), run_root=str(base / "run"), **settings
                )
            except NotSupported as reason:
                peers.missing(f"what the driver {case.name} needs ({reason})")
            opened.append(driver)
            return driver

        yield open
        for driver in opened:
            driver.shutdown()


@pytest.fixture
def driver(open_driver: Callable[..., Driver]) -> Driver:
    return open_driver()


@pytest.fixture
def rubbish() -> Rubbish:
    return Rubbish()
