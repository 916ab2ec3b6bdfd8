"""What the tests with other programs share."""

import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import stories

import peers


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick suite tells each story in one of the ways that its file names, another one from story to story."""
    told: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        call = getattr(item, "callspec", None)
        if call is not None and "story" in call.params and item.get_closest_marker("deep") is None:
            others = sorted(f"{key}={value}" for key, value in call.params.items() if key != "story")
            told.setdefault((item.nodeid.partition("[")[0], " ".join(others)), []).append(item)
    for title, ways in told.items():
        chosen = zlib.crc32(" ".join(title).encode()) % len(ways)
        for number, item in enumerate(ways):
            if number != chosen:
                item.add_marker("deep")


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
