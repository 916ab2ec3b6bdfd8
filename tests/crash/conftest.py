"""What the crash suites share: the scenes, built once, in memory where they need no disk of some kind."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import peers

sys.path.insert(0, os.path.dirname(__file__))

import cases as casework


@pytest.fixture(scope="session")
def cases() -> Iterator[casework.Cases]:
    peers.need_root()
    peers.need("strace", "containers-storage")
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    scratch = Path(tempfile.mkdtemp(prefix="o-", dir=fast))
    try:
        with ExitStack() as stack:
            yield casework.Cases(scratch, stack)
    finally:
        peers.unmount_below(scratch)
        shutil.rmtree(scratch)
