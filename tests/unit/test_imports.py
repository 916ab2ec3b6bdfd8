"""Rooms import downwards only: the test that keeps the floor plan (docs/architecture.md) true."""

import ast
from pathlib import Path

SRC = Path(__file__).parents[2] / "src" / "orlop"

# Lowest first. A room imports from earlier rows only.
ROOMS = [
    "errors",
    "version",
    "model",
    "formats",
    "system",
    "stream",
    "drivers",
    "records",
    "chunked",
    "config",
    "store",
    "images",
    "dropin",
    "cli",
]


def module_name(path: Path) -> str:
    parts = list(path.relative_to(SRC.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, *, module_level: bool = False) -> list[str]:
    """Dotted names below `orlop` that the file imports; imports for type checkers only are left out."""
    found: list[str] = []
    stack: list[ast.AST] = [ast.parse(path.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            stack.extend(node.orelse)
            continue
        if module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "orlop"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; rooms are named in full"
            if node.module and node.module.split(".")[0] == "orlop":
                found += [f"{node.module}.{alias.name}" for alias in node.names]
        stack.extend(ast.iter_child_nodes(node))
    return found


def room_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


def test_no_import_points_upwards() -> None:
    wrong = []
    for path in sorted(SRC.rglob("*.py")):
        own = room_of(module_name(path))
        if own is None:
            continue  # the face of the package names things of every room, on first use
        for target in imports_of(path):
            other = room_of(target)
            if other is not None and ROOMS.index(other) > ROOMS.index(own):
                wrong.append(f"{module_name(path)} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_room() -> None:
    rooms = {room_of(module_name(path)) for path in SRC.rglob("*.py") if path.name != "__init__.py"}
    assert None not in rooms


def test_no_cycle_at_module_level() -> None:
    modules = {module_name(path): path for path in SRC.rglob("*.py")}

    def owner(dotted: str) -> str | None:
        while dotted and dotted not in modules:
            dotted = dotted.rpartition(".")[0]
        return dotted or None

    graph = {
        name: {o for t in imports_of(path, module_level=True) if (o := owner(t)) and o not in (name, "orlop")}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
