"""The changes that an upper directory stands for, read off it (spec/archive.md 6.2)."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
from orlop.drivers.overlay import diffing
from orlop.system import xattrs
from orlop.system.descent import Descent

T = 1_600_000_000_000_000_000


class Trees:
    """An upper directory and lower ones, made by lines such as `upper d/ f`, `near -gone`, `upper d/!`.

    A name with a slash at its end is a directory, one with `-` before it a whiteout, one with `!` behind its slash an
    opaque directory. All have one time, one mode and one owner.
    """

    def __init__(self, place: Path, *lines: str) -> None:
        self.place = place
        for tree in ("upper", "near", "far"):
            (place / tree).mkdir()
        for line in lines:
            tree, *names = line.split()
            for name in names:
                self._make(place / tree, name)
        for root, directories, files in os.walk(place, topdown=False):
            for name in (*directories, *files):
                os.utime(f"{root}/{name}", ns=(T, T), follow_symlinks=False)

    def _make(self, tree: Path, name: str) -> None:
        path = tree / name.strip("-!")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("-"):
            os.mknod(path, stat.S_IFCHR, 0)
        elif name.rstrip("!").endswith("/"):
            path.mkdir(exist_ok=True)
            if name.endswith("!"):
                os.setxattr(path, xattrs.OPAQUE, b"y")
        else:
            path.touch()

    def changes(self) -> list[str]:
        found = diffing.upper_changes(
            f"{self.place}/upper", [f"{self.place}/near", f"{self.place}/far"], xattrs.OPAQUE
        )
        return [str(change) for change in found]


@pytest.fixture
def trees(tmp_path: Path) -> Callable[..., Trees]:
    peers.need_root()
    return lambda *lines: Trees(tmp_path, *lines)


CASES = {
    "a new file": (["upper f"], ["A /f"]),
    "a file that is below": (["upper f", "far f"], ["C /f"]),
    "a file that is below, deleted nearer": (["upper f", "near -f", "far f"], ["A /f"]),
    "a file below what was deleted nearer": (["upper d/f", "near -d", "far d/f"], ["A /d", "A /d/f"]),
    "a deleted file": (["upper -f", "far f"], ["D /f"]),
    "a deletion of what never was": (["upper -f"], ["D /f"]),
    "a directory that is as below": (["upper d/", "far d/"], []),
    "a file changed in a directory that is as below": (["upper d/f", "far d/f"], ["C /d/f"]),
    "a file added in a directory that is as below": (
        ["upper d/e/f", "far d/e/"],
        ["C /d", "C /d/e", "A /d/e/f"],
    ),
    "a file deleted in one": (["upper d/ -d/f", "far d/f"], ["C /d", "D /d/f"]),
    "a new directory": (["upper d/f"], ["A /d", "A /d/f"]),
    "a directory for a file": (["upper d/", "far d"], ["C /d"]),
    "a file for a directory": (["upper d", "far d/f"], ["C /d"]),
    "an opaque directory over one": (["upper d/! d/new", "far d/old"], ["D /d", "A /d/new"]),
    "an opaque directory over nothing": (["upper d/! d/new"], ["A /d", "A /d/new"]),
    "an opaque directory over a deleted one": (["upper d/!", "near -d", "far d/f"], ["A /d"]),
}


@pytest.mark.parametrize("case", CASES)
def test_changes(trees: Callable[..., Trees], case: str) -> None:
    lines, expected = CASES[case]
    assert trees(*lines).changes() == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (T, T, True),
        (T + 5, T, True),  # a tar has whole seconds
        (T, T + 999_999_999, True),
        (T + 5, T + 6, False),
        (T, T + 10**9, False),
        (T + 5, T + 10**9, False),
    ],
)
def test_times_of_directories_are_compared_as_exactly_as_both_are_known(
    trees: Callable[..., Trees], ours: int, theirs: int, same: bool
) -> None:
    found = trees("upper d/", "far d/")
    os.utime(found.place / "upper/d", ns=(T, ours))
    os.utime(found.place / "far/d", ns=(T, theirs))
    assert found.changes() == ([] if same else ["C /d"])


def test_a_mode_makes_a_directory_differ(trees: Callable[..., Trees]) -> None:
    found = trees("upper d/", "far d/")
    (found.place / "upper/d").chmod(0o700)
    assert found.changes() == ["C /d"]


@pytest.mark.parametrize("instead", ["nothing", "a file"])
def test_what_a_running_container_takes_away_meanwhile_is_passed_over(
    trees: Callable[..., Trees], instead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or told as what it is by then."""
    found = trees("upper a b/c d")
    real = Descent.entries

    def entries(at: Descent) -> list[tuple[bytes, int, int]]:
        listed = real(at)
        if at.depth == 0:
            (found.place / "upper/a").unlink()
            (found.place / "upper/b/c").unlink()
            (found.place / "upper/b").rmdir()
            if instead == "a file":
                (found.place / "upper/b").touch()
        return listed

    monkeypatch.setattr(Descent, "entries", entries)
    assert found.changes() == [*(["A /b"] if instead == "a file" else []), "A /d"]
