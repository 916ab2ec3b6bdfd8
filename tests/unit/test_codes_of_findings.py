"""Every code that a finding may have is explained in docs/check.md, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[2]
MAKERS = ("finding", "Finding", "damage", "about_file")


def codes_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            choices = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
            if name in MAKERS:
                yield from [
                    c.value for c in choices if isinstance(c, ast.Constant) and isinstance(c.value, str)
                ]
        elif isinstance(node, ast.Yield) and isinstance(
            node.value, ast.Tuple
        ):  # exposed files: code, text, remedy
            first = node.value.elts[0]
            if len(node.value.elts) == 3 and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def test_the_table_of_codes_is_that_of_the_code() -> None:
    source = TOP / "src/orlop"
    paths = [*source.glob("store/check/*.py"), *source.glob("drivers/**/*.py")]
    text = (TOP / "docs/check.md").read_text()
    table = text[text.index("| code | what |") : text.index("`report.peer_lists()`")]
    rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    listed = {code for row in rows for code in re.findall(r"`([\w-]+)`", row)}
    assert {code for path in paths for code in codes_of(path)} <= listed
    words = {
        node.value
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
    }
    assert listed <= words
