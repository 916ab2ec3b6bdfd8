"""Power loss while and after every kind of change is made (promises P2, P3).

The disk is left as it may be at some write: what was acknowledged by then holds, what was under way has happened or
not, and nothing is damaged.

    make deep-power          each sequence with both drivers, 100 disks each; N= for another number
"""

import os
import pickle
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import disk
import operations
import pytest
import sequence
from cases import chance
from powered import Powered
from scenes import SCENES, Facts

import invariants
import peers

N = int(os.environ.get("N") or 100)
ALL = [(scene, driver) for scene in sequence.SEQUENCES for driver in SCENES[scene].drivers]
LIGHT = [each for each in ALL if not SCENES[each[0]].disk]  # on ext4, which is made and copied quickly

Acknowledged = list[tuple[str, int, Facts]]


def _recorded(powered: Powered, scene: str, driver: str) -> Acknowledged:
    answers = powered.base / "answers"
    words = [scene, str(powered.journal), str(answers)]
    powered.record(lambda mnt: [sys.executable, sequence.__file__, str(mnt / "case"), driver, *words])
    found: Acknowledged = pickle.loads(answers.read_bytes())
    return found


def _judge(powered: Powered, scene: str, driver: str, acknowledged: Acknowledged, amount: int) -> list[str]:
    entries = list(disk.read_journal(powered.journal))
    first = next(n for n, entry in enumerate(entries) if entry[0] >= acknowledged[0][1])
    wrong: list[str] = []
    lost = 0
    chosen = random.Random(scene + driver)
    for number in range(amount):
        cut = chosen.randrange(first + 1, len(entries) + 1)
        reached = entries[cut - 1][0]
        past = [each for each in acknowledged if each[1] <= reached]
        allowed = [past[-1][2], *[each[2] for each in acknowledged[len(past) : len(past) + 1]]]
        begun = acknowledged[len(past)][0] if len(past) < len(acknowledged) else ""
        with powered.crashed(cut, entries, seed=number) as mnt:
            if mnt is None:
                lost += 1
                continue
            try:
                _look(mnt / "case", scene, driver, allowed, begun)
            except Exception as error:
                wrong.append(
                    f"disk {number}, cut at {cut}, after {past[-1][0]}, before {begun or 'the end'}: {error}"
                )
    assert lost <= amount // 5, f"{lost} of {amount} disks cannot be mounted: the suite proves little"
    return wrong


def _look(base: Path, scene: str, driver: str, allowed: list[Facts], begun: str) -> None:
    place = SCENES[scene]
    for run in ("run", "additional-run"):
        shutil.rmtree(base / run, ignore_errors=True)  # it is gone with the boot
    with place.opened(base, driver, durability="none") as store:
        found = place.facts(store, base, driver)
        allowed = [{key: each[key] for key in each if not key.startswith("file run/")} for each in allowed]
        if not (begun and operations.OPERATIONS[begun].steps):
            assert found in allowed, f"neither what was acknowledged nor what was under way: {found}"
        operations.next_write(store)
        damage = [finding.text for finding in store.check().of_grade("damage")]
        assert not damage or place.damaged, damage
        assert not store.damage()
        assert store.gc().failed == ()
    if not place.damaged:
        roots = {"image_store": base / place.image_store} if place.image_store else {}
        if place.additional:
            roots["additional"] = base / place.additional
        invariants.hold(base / "graph", base / "run", driver, **roots)


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "power"
    peers.unmount_below(tmp_path)


def test_changes_of_every_kind_survive_power_loss(where: Path) -> None:
    scene, driver = chance("power").choice(LIGHT)
    powered = Powered(where, "ext4")
    acknowledged = _recorded(powered, scene, driver)
    assert not _judge(powered, scene, driver, acknowledged, 12)


@pytest.mark.deep
@pytest.mark.parametrize(("scene", "driver"), ALL)
def test_deep_power_loss_while_anything_is_changed(where: Path, scene: str, driver: str) -> None:
    powered = Powered(where, SCENES[scene].disk or "ext4")
    acknowledged = _recorded(powered, scene, driver)
    assert not _judge(powered, scene, driver, acknowledged, N)
