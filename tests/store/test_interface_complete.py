"""The table of methods in the docs, held against the tests that call them."""

import importlib
import re
from pathlib import Path

import interface

TOP = Path(__file__).parents[2]


def test_each_method_of_the_interface_has_a_test_that_calls_it() -> None:
    """On each driver: all tests of this directory that take `store` run on each."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.stem != "test_interface_complete" and "@row(" in path.read_text():
            importlib.import_module(path.stem)
    table = (TOP / "docs/coming-from-containers-storage.md").read_text()
    rows = dict(re.findall(r"^\| ([A-Z]\w+) \| ([^|]+) \|", table, re.MULTILINE))
    assert len(rows) == 90
    done = {method for method, python in rows.items() if python.strip() != "not yet"}
    assert set(interface.ROWS) == done
