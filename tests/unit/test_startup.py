"""What a small command imports. Importing is nearly all of what it costs, so a new name in these lists is a decision.

`make bench` measures the time; here a module that crept in fails, which no timing on a shared machine could tell.
"""

import subprocess
import sys
from pathlib import Path

import pytest

# Small extensions, and files that import nothing else. What is built into the interpreter costs nothing.
STANDARD = {
    "__future__",
    "_bisect",
    "_json",
    "_struct",
    "bisect",
    "fcntl",
    "struct",
    *sys.builtin_module_names,
}

# Rooms and modules that none of these commands has to do with.
FORBIDDEN = (
    "orlop.stream",
    "orlop.chunked",
    "orlop.images",
    "orlop.cli",
    "orlop.config.rootless",
    "orlop.config.storageconf",
    "orlop.config.toml",
    "orlop.model.plan",
    "orlop.store.leaving",
    "orlop.system.confine",
    "orlop.system.descent",
    "orlop.system.inside",
    "orlop.system.libc",
    "orlop.system.selinux",
    "orlop.system.subids",
    "orlop.system.userns",
    "orlop.dropin.usage",
    "orlop.dropin.namespace",
)

_PROGRAM = """
import sys
before = set(sys.modules)
from orlop.dropin.main import main
from orlop.dropin.streams import Streams
status = main("orlop-storage", sys.argv[2:], Streams())
found = sorted(set(sys.modules) - before)
open(sys.argv[1], "w").write("\\n".join([str(status), *found]))
"""


def imported(base: Path, *words: str, status: int = 0) -> set[str]:
    """The modules that a command imports beyond those of the bare interpreter."""
    report = base / "imported"
    roots = ["-g", str(base / "graph"), "-R", str(base / "run"), "-s", "vfs"]
    subprocess.run([sys.executable, "-c", _PROGRAM, str(report), *roots, *words], timeout=60, check=True)
    ended, *modules = report.read_text().splitlines()
    assert ended == str(status)
    return set(modules)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    imported(tmp_path, "create-layer", "-i", "L1")
    return tmp_path


@pytest.mark.parametrize(
    ("call", "family"),
    [
        ("version", "maintenance"),
        ("version --json", "maintenance"),
        ("layers", "listing"),
        ("layers --json", "listing"),
        ("layers --quick", "listing"),
        ("layers --tree", "listing tree"),
        ("images", "listing"),
        ("containers", "listing"),
        ("get-names L1", "names"),
        ("mounted L1", "mounts"),
        ("mount L1", "mounts"),
        ("unmount L1", "mounts"),
    ],
)
def test_a_small_command_imports_next_to_nothing(store: Path, call: str, family: str) -> None:
    modules = imported(store, *call.split())
    assert {name for name in modules if not name.startswith("orlop")} <= STANDARD
    assert not [name for name in modules if name.startswith(FORBIDDEN)]
    dropin = {name for name in modules if name.startswith("orlop.dropin.")}
    wanted = ["main", "commands", "flags", "streams", *family.split()]
    assert dropin == {f"orlop.dropin.{name}" for name in wanted}


def test_an_error_costs_its_wording_and_no_more(store: Path) -> None:
    told = imported(store, "get-names", "no", status=1) - imported(store, "get-names", "L1")
    # What is nowhere is looked for in all three tables.
    assert told == {"orlop.dropin.text", "orlop.records.images", "orlop.records.containers"}


def test_a_command_has_the_tables_and_collections_that_it_asks_for(store: Path) -> None:
    kinds = {
        f"orlop.{room}.{kind}" for room in ("store", "records") for kind in ("layers", "images", "containers")
    }
    assert not kinds & imported(store, "version")
    assert kinds & imported(store, "images") == {"orlop.store.images", "orlop.records.images"}
    assert kinds & imported(store, "containers") == {"orlop.store.containers", "orlop.records.containers"}


def test_the_face_of_the_package_imports_nothing() -> None:
    program = "import sys; before = set(sys.modules); import orlop; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["orlop"]
