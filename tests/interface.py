"""Which methods of the interface a test is for, and how stores look from outside while it runs.

    @row("DeleteLayer")
    def test_...(store, other, disk): ...

docs/coming-from-containers-storage.md has a row for each method; `tests/store/test_interface_complete.py` holds the
rows against these marks.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., object])

ROWS: dict[str, list[str]] = {}


def row(*methods: str) -> Callable[[F], F]:
    """Mark a test as the one that calls these methods of the interface."""

    def mark(test: F) -> F:
        for method in methods:
            ROWS.setdefault(method, []).append(test.__name__)
        return test

    return mark


class Disk:
    """The files of a store, read by nobody's library."""

    def __init__(self, place: Path, driver: str) -> None:
        self.place = place
        self.driver = driver

    def path(self, kind: str, *parts: str, run: bool = False) -> Path:
        """`<root>/<driver>-<kind>/<parts>`."""
        return self.place.joinpath("run" if run else "graph", f"{self.driver}-{kind}", *parts)

    def records(self, kind: str, *, volatile: bool = False) -> list[dict[str, Any]]:
        path = self.path(kind, f"{'volatile-' if volatile else ''}{kind}.json")
        found = json.loads(path.read_bytes() or b"[]") if path.exists() else []
        assert isinstance(found, list)
        return found

    def record(self, kind: str, id: str) -> dict[str, Any] | None:
        found = [r for r in self.records(kind) + self.records(kind, volatile=True) if r["id"] == id]
        return found[0] if found else None

    def mounts(self) -> dict[str, int]:
        """Counts by layer."""
        path = self.path("layers", "mountpoints.json", run=True)
        return {r["id"]: r["count"] for r in json.loads(path.read_bytes() or b"[]")} if path.exists() else {}

    def in_driver(self, id: str) -> bool:
        home = self.place / "graph" / self.driver
        return (home / "dir" / id).is_dir() if self.driver == "vfs" else (home / id).is_dir()
