"""The tree of layers: the example of `spec/cli.md` 6.1, and shapes that must not break it."""

from orlop.dropin.tree import drawn

BASE = "(base)"


def test_the_example_of_the_format() -> None:
    edges = [("L1", BASE), ("L2", "L1"), ("L3", "L2"), ("L4", BASE), ("21c4", "L2")]
    notes = {
        "L1": ["name: n1"],
        "L2": ["name: n3", "image: I1", "image name: in1"],
        "21c4": ["container: C1"],
        "L4": ["name: n4"],
    }
    assert drawn(edges, notes).splitlines() == [
        "(base)",
        "├─L1",
        "│ name: n1",
        "│ └─L2",
        "│   name: n3",
        "│   image: I1",
        "│   image name: in1",
        "│   ├─L3",
        "│   └─21c4",
        "│     container: C1",
        "└─L4",
        "  name: n4",
    ]


def test_nothing_draws_nothing() -> None:
    assert drawn([], {}) == ""


def test_a_parent_without_a_record_heads_a_group_of_its_own() -> None:
    """The group with the fewest children comes first."""
    edges = [("a", BASE), ("b", BASE), ("c", "lost")]
    assert drawn(edges, {}).splitlines() == ["lost", "└─c", "(base)", "├─a", "└─b"]


def test_a_circle_is_left_out() -> None:
    """Records may claim anything; the listing must end."""
    edges = [("a", BASE), ("x", "y"), ("y", "x"), ("z", "z")]
    assert drawn(edges, {}).splitlines() == ["(base)", "└─a"]


def test_a_deep_stack_is_no_matter() -> None:
    """Deeper than Python's own stack."""
    edges = [("0", BASE), *((str(n), str(n - 1)) for n in range(1, 3000))]
    lines = drawn(edges, {}).splitlines()
    assert len(lines) == 3001
    assert lines[-1] == "  " * 2999 + "└─2999"
