"""Section J, for the unpacker: directories are swapped for symlinks to the outside while an archive is unpacked."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from attacks import Attack
from orlop.system import libc
from rawtar import member

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

EXCHANGE = 2
TARS = [
    b"".join(
        member(b"d/new%d" % n, b"evil", mode=0o777, uid=12)
        + member(b"d/secret", b"evil", mode=0o777, uid=12)
        + member(b"d/sub/", mode=0o777, uid=12, mtime=99)
        + member(b"d/sub/file", b"evil")
        + member(b"hard%d" % n, type=b"1", linkname=b"d/secret", mode=0o777, uid=12)
        + member(b"d/.wh.secret")
        + member(b"d/sub/.wh..wh..opq")
        for n in range(part, part + 10)
    )
    for part in range(0, 400, 10)
]


def swapping(attack: Attack, seconds: int) -> set[str | None]:
    """The errors of unpacking the archives again and again beside a thread that swaps `d`."""
    tree, stop, swaps = attack.tree, threading.Event(), [0]
    (tree / "d/sub").mkdir(parents=True)
    os.symlink("../outside", tree / "other")

    def swap() -> None:
        fd = os.open(tree, os.O_RDONLY)
        while not stop.is_set():
            libc.renameat2(fd, "d", fd, "other", EXCHANGE)
            swaps[0] += 1
        os.close(fd)

    thread = threading.Thread(target=swap)
    thread.start()
    errors = set()
    try:
        for _ in range(seconds):
            errors |= {outcome.error for outcome in attack.each(*TARS)}
    finally:
        stop.set()
        thread.join()
    assert swaps[0] > 100
    return errors


def test_a_swapped_directory_leads_nowhere(attack: Attack, canary: Path) -> None:
    """J1, CVE-2018-15664: some of it fails, none of it lands outside."""
    allowed = {
        None,
        "FileNotFoundError",
        "NotADirectoryError",
        "FileExistsError",
        "OSError",
        "IsADirectoryError",
    }
    assert swapping(attack, 1) <= allowed
    assert not (canary / "new1").exists()


@pytest.mark.deep
def test_a_swapped_directory_leads_nowhere_for_long(attack: Attack, canary: Path) -> None:
    assert swapping(attack, int(os.environ.get("N") or 30)) - {None}
    assert not (canary / "new1").exists()
