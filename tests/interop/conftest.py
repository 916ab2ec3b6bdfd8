"""What the tests with other programs share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import stories

import peers


@pytest.fixture
def short() -> Iterator[Path]:
    """podman wants a run root of at most 50 characters."""
    path = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))
    yield path
    peers.unmount_below(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def story(request: pytest.FixtureRequest, place: Path) -> Iterator[stories.Story]:
    """Told in the way that the mark `stories.told` says."""
    with stories.telling(place, request.param) as story:
        yield story
