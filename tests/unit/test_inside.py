"""When a program of ours enters a user namespace, and with which ids (`spec/userns.md` 5)."""

import os
from pathlib import Path

import pytest

from orlop.system import inside, userns


@pytest.mark.parametrize(
    ("uid", "environ", "second"),
    [
        (0, {}, False),
        (0, {userns.ROOTLESS_UID: "1000"}, True),
        (0, {userns.ROOTLESS_UID: "0"}, False),
        (0, {userns.ROOTLESS_UID: "0", userns.CONFIGURED: "done"}, True),
        (1000, {userns.ROOTLESS_UID: "1000"}, False),
        (1000, {userns.CONFIGURED: "done"}, False),
    ],
)
def test_the_second_start_is_recognised(
    monkeypatch: pytest.MonkeyPatch, uid: int, environ: dict[str, str], second: bool
) -> None:
    """Else the program would start itself for ever."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert inside.is_inside(environ) is second


def test_the_ids_that_are_here_are_those_of_the_kernel_but_for_root() -> None:
    rows = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    mapped = sum(int(count) for _, _, count in rows)
    assert sum(count for _, count in inside.present("uid")) == mapped - 1
    assert all(start > 0 for start, _ in inside.present("gid"))
