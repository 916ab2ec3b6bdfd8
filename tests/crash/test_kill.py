"""kill -9 at every system call that changes something (promises P1, P3, P4).

Afterwards: what was acknowledged is there; what was not is there or not, never half; the next write cleans up; both
checkers are content; the peer lists the same; the operation succeeds when it is repeated. Some are killed once more,
while the next write recovers from the first kill.

    make deep-kill           all points; N= cuts them to that many of each operation
"""

import os
import shutil
from pathlib import Path

import pytest
from cases import ALL, NOW, Case, Cases, Point, chance, copy, points, sweep

QUICK = 2  # of each operation, and for every third of them one more while it recovers
N = int(os.environ.get("N") or 0)


def _kill(case: Case, faults: list[Point], again: int) -> None:
    """Kill it at each; one in `again`, if any, a second time, while the next write recovers."""
    hits = 0

    def run(number: int, point: Point) -> None:
        nonlocal hits
        case.fresh()
        ended = case.run(point.kill())
        hits += ended.hit
        second = again and number % again == 0
        half = case.place.with_name("half")
        if second:
            copy(case.place, half)
        case.judge(ended.acknowledged, peer=number % 10 == 0)
        if second:
            _kill_recovery(case, half, ended.acknowledged, str(point))

    sweep(case, faults, run)
    assert hits > len(faults) // 2, f"only {hits} of {len(faults)} kills hit: the sweep proves nothing"


def _kill_recovery(case: Case, half: Path, acknowledged: bool, salt: str) -> None:
    """What the first kill left is recovered from in the end, however often the recovery is killed."""
    case.fresh(half)
    ended = case.run(recovering=True)
    assert ended.acknowledged, f"recovering after the first kill: {ended.said}"
    kills, _ = points(ended.log, case.place)
    point = chance(str(case), salt).choice(list(kills))
    case.fresh(half)
    assert case.run(point.kill(), recovering=True).hit
    try:
        case.judge(acknowledged)
    except Exception as error:
        error.add_note(f"after a second kill, of the recovery, at {point}")
        raise
    shutil.rmtree(half)


@pytest.mark.parametrize(("operation", "driver"), NOW)
def test_a_killed_operation_leaves_the_old_state_or_the_new(
    cases: Cases, operation: str, driver: str
) -> None:
    """And the next command needs no help: what was left over is gone after the next write."""
    case = cases.case(operation, driver)
    again = QUICK if chance(operation, "again").random() < 1 / 3 else 0
    _kill(case, case.sample(case.kills, QUICK, "kill"), again=again)


# Where each of these once left something behind, or half of a state.
PINNED = [
    ("delete-record", "vfs", r'mkdir\(".*/vfs-layers/tmp"'),
    ("write-file", "vfs", r"rename\("),
    ("write-run", "overlay", r"rename\("),
    ("pull-up", "overlay", r"rename\(|unlink\("),
    ("create", "overlay", r'openat\(.*/link"'),
    ("split-delete-shared", "vfs", r'rename\(.*/images.json"'),
    ("split-delete-shared", "overlay", r'rename\(".*/images/overlay-images/\w+", '),
    ("delete-image", "vfs", r'rename\(".*/vfs-images/\w+", '),
    ("pull-up", "vfs", r'rename\(.*/images.json"'),
    ("volatile", "vfs", r'write\(.*"done"'),
    ("open", "overlay", r'rmdir\(".*/merged/subdir"'),
    ("open", "overlay", r'rename\(".*/.tmp-.has-mount-program'),
    ("mapped-copy", "vfs", r'rename\(.*/images.json"'),
    ("delete-mapped", "vfs", r'rename\(.*/images.json"'),
    ("wipe", "vfs", r'rename\(.*/containers.json"'),
]


@pytest.mark.parametrize(("operation", "driver", "call"), PINNED, ids=[each[0] for each in PINNED])
def test_killed_where_it_once_did_harm(cases: Cases, operation: str, driver: str, call: str) -> None:
    case = cases.case(operation, driver)
    _kill(case, case.matching(call), again=0)


@pytest.mark.deep
@pytest.mark.parametrize(("operation", "driver"), ALL)
def test_deep_every_point_of_an_operation(cases: Cases, operation: str, driver: str) -> None:
    case = cases.case(operation, driver)
    _kill(case, case.sample(case.kills, N, "deep kill") if N else case.kills, again=10)
