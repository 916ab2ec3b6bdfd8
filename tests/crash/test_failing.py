"""Calls that fail (promise P5): an error that callers may expect, the old state or the new, and no help needed.

make deep-failing        every call that an operation makes; N= cuts them to that many of each operation
"""

import os

import pytest
from cases import ALL, NOW, Case, Cases, Point, chance, sweep
from operations import REFUSED

import invariants

QUICK = 2  # of each operation
N = int(os.environ.get("N") or 0)
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "EMFILE", "ENOMEM", "EINTR")
# What fails for ever: a program that cannot write cannot speak; what is interrupted for ever is tried for ever.
_ONCE = ("write", "openat", "openat2", "fcntl", "ioctl", "getdents64")


def _fail(case: Case, faults: list[Point]) -> None:
    """Let one call fail after the other, in turns once and from then on, with one error after the other."""
    hits = 0
    first = chance(str(case), "errors").randrange(len(ERRORS))

    def run(number: int, point: Point) -> str | None:
        nonlocal hits
        error = ERRORS[(first + number) % len(ERRORS)]
        lasting = (first + number) % 3 == 0 and error != "EINTR" and point.call not in _ONCE
        case.fresh()
        ended = case.run(point.fail(error, lasting=lasting))
        hits += ended.hit
        what = f"{error}{', lasting' if lasting else ''}"
        if ended.status not in (0, REFUSED):
            return f"{what}: ended with {ended.status}: {ended.said[-1500:]}"
        try:
            if case.driver == "overlay" and point.call != "umount2":
                invariants.counted(case.place / "graph", case.place / "run")
            case.judge(ended.acknowledged)
        except Exception as problem:
            return f"{what}, {ended.said.strip()[-300:] or 'done'}: {type(problem).__name__}: {problem}"
        return None

    sweep(case, faults, run)
    assert hits > len(faults) // 2, f"only {hits} of {len(faults)} faults hit: the sweep proves nothing"


@pytest.mark.parametrize(("operation", "driver"), NOW)
def test_a_call_that_fails_leaves_the_old_state_or_the_new(cases: Cases, operation: str, driver: str) -> None:
    """And the next command needs no help."""
    case = cases.case(operation, driver)
    _fail(case, case.sample(case.calls, QUICK, "fail"))


def test_a_thread_that_cannot_be_started_is_an_error_like_others(cases: Cases) -> None:
    """It is a RuntimeError of Python's, if nobody sees to that."""
    case = cases.case("put", "vfs")
    threads = [point for point in case.calls if point.call in ("clone", "clone3")]
    assert threads
    _fail(case, threads)


@pytest.mark.deep
@pytest.mark.parametrize(("operation", "driver"), ALL)
def test_deep_every_call_that_can_fail(cases: Cases, operation: str, driver: str) -> None:
    case = cases.case(operation, driver)
    _fail(case, case.sample(case.calls, N, "deep fail") if N else case.calls)
