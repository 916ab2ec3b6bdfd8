"""Layers drawn as a tree (`spec/cli.md` 6.1). Pure: edges in, text out.

Nothing here calls itself: a stack of three hundred layers is usual, and records may even claim a circle.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def drawn(edges: Sequence[tuple[str, str]], notes: Mapping[str, Sequence[str]]) -> str:
    """The text for all (child, parent) edges; children stay in the order of the edges.

    Each group is headed by a parent that is not a child itself, the one with the fewest children first. A circle
    hangs from no such parent and is left out.
    """
    children: dict[str, list[str]] = {}
    for child, parent in edges:
        children.setdefault(parent, []).append(child)
    listed = {child for child, _ in edges}
    heads = sorted((parent for parent in children if parent not in listed), key=lambda p: len(children[p]))
    lines = []
    for head in heads:
        lines.append(head)
        # The next branch is at the end: (layer, what stands before it, whether siblings follow).
        waiting = _branches(children.pop(head), "")
        while waiting:
            id, indent, more = waiting.pop()
            lines.append(f"{indent}{'├' if more else '└'}─{id}")
            below = indent + ("│ " if more else "  ")
            lines += [below + note for note in notes.get(id, ())]
            waiting += _branches(children.pop(id, []), below)
    return "".join(f"{line}\n" for line in lines)


def _branches(ids: Sequence[str], indent: str) -> list[tuple[str, str, bool]]:
    """Last first, so that the first is taken next."""
    return [(id, indent, i > 0) for i, id in enumerate(reversed(ids))]
