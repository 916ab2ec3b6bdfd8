"""What the tests with other programs share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers


@pytest.fixture
def short() -> Iterator[Path]:
    """podman wants a run root of at most 50 characters."""
    path = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))
    yield path
    peers.unmount_below(path)
    shutil.rmtree(path, ignore_errors=True)
