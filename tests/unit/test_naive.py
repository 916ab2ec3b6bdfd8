"""Naive diffs on a driver that really has to mount: whatever happens, every mount is undone, and no earlier."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import layers
import peers
from orlop.drivers import naive
from orlop.drivers.api import DriverOptions
from orlop.drivers.vfs import VFS
from orlop.model.idmap import IDENTITY, IDMap, IDMappings
from orlop.stream import compare, pack


class Mounting(VFS):
    """vfs, with a book of mounts: id to how many there are, and the options of each."""

    def __init__(self, options: DriverOptions) -> None:
        super().__init__(options)
        self.mounted: Counter[str] = Counter()
        self.asked: list[tuple[str, str, tuple[str, ...]]] = []

    def mount(
        self,
        id: str,
        *,
        label: str = "",
        mappings: IDMappings = IDENTITY,
        options: Sequence[str] = (),
        volatile: bool = False,
    ) -> str:
        path = super().mount(id, options=options)
        self.asked.append((id, label, tuple(options)))
        self.mounted[id] += 1
        return path

    def unmount(self, id: str, *, last: bool = False) -> None:
        super().unmount(id, last=last)
        assert self.mounted[id] > 0
        self.mounted[id] -= 1

    def book(self) -> dict[str, int]:
        return {id: count for id, count in self.mounted.items() if count}


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mounting:
    peers.need_root()
    monkeypatch.setattr(naive, "_wait_past", lambda began: None)
    graph = str(tmp_path / "graph")
    driver = Mounting(DriverOptions(f"{graph}/vfs", f"{graph}/run/vfs", graph, f"{graph}/run", durable=False))
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", layers.BASE)
    driver.create("child", "base", writable=True)
    (Path(driver.mount("child")) / "etc" / "passwd").write_bytes(b"changed")
    driver.mounted.clear()
    driver.asked.clear()
    return driver


def test_comparisons_mount_both_read_only_and_let_go(driver: Mounting) -> None:
    driver.changes("child", "base", label="a label")
    driver.diff_size("child", "base", label="a label")
    assert driver.asked == [("child", "a label", ("ro",)), ("base", "a label", ("ro",))] * 2
    assert driver.book() == {}


def test_a_diff_holds_the_layer_until_it_is_closed_and_the_parent_no_longer_than_needed(
    driver: Mounting,
) -> None:
    with driver.diff("child", "base") as stream:
        assert driver.book() == {"child": 1}
        stream.read()
        assert driver.book() == {"child": 1}
    assert driver.book() == {}
    stream = driver.diff("base", None)
    assert driver.book() == {"base": 1}
    stream.close()
    assert driver.book() == {}


def test_unpacking_mounts_for_the_length_of_the_block(driver: Mounting) -> None:
    unpacking = driver.unpacking("child", "base", label="a label")
    assert driver.book() == {}
    with unpacking as unpacker:
        assert driver.book() == {"child": 1}
        unpacker.entry(layers.file("a", b"")[0])
        unpacker.finish()
    assert driver.book() == {}
    assert driver.asked == [("child", "a label", ())]


def test_a_failure_anywhere_lets_go(driver: Mounting, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(5, os.strerror(5))

    def filling() -> None:
        with driver.unpacking("child", "base") as unpacker:
            unpacker.entry(layers.file("a", b"123")[0])
            raise KeyboardInterrupt

    attempts: list[Callable[[], object]] = [
        lambda: driver.diff("child", "no parent"),
        lambda: driver.changes("child", "no parent"),
        filling,
    ]
    for attempt in attempts:
        with pytest.raises((OSError, KeyboardInterrupt)):
            attempt()
        assert driver.book() == {}
    monkeypatch.setattr(compare, "compare_trees", fail)
    for attempt in (lambda: driver.diff("child", "base"), lambda: driver.changes("child", "base")):
        with pytest.raises(OSError):
            attempt()
        assert driver.book() == {}
    monkeypatch.setattr(pack, "pack_tree", fail)
    with pytest.raises(OSError):
        driver.diff("child", None)
    assert driver.book() == {}


def test_an_unpacker_that_cannot_start_lets_go(driver: Mounting, monkeypatch: pytest.MonkeyPatch) -> None:
    from orlop.system import confine

    def fail(*args: object, **options: object) -> None:
        raise BlockingIOError(11, os.strerror(11))

    monkeypatch.setattr(confine, "start", fail)
    with pytest.raises(BlockingIOError):
        layers.fill(driver, "child", [])
    assert driver.book() == {}


def test_what_has_no_owner_in_the_container_is_left_out_and_told(
    driver: Mounting, caplog: pytest.LogCaptureFixture
) -> None:
    maps = IDMappings([IDMap(0, 0, 3)], [IDMap(0, 0, 100)])
    with caplog.at_level(logging.WARNING), driver.diff("base", None, maps) as stream:
        names = [entry.name for entry, _ in layers.entries(stream)]
    assert b"etc/group" not in names
    assert b"etc/passwd" in names
    assert "etc/group" in caplog.text


def test_waiting_ends_with_the_second_in_which_a_diff_began(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.time", lambda: 1000.75)
    monkeypatch.setattr("time.sleep", slept.append)
    for began in (1000.25, 999.9, 1005.0):  # this second; the one before; a clock that was set back
        naive._wait_past(began)
    assert slept == [0.25]
