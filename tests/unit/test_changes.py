"""A change is a value that prints, sorts and compares."""

import pickle

import pytest

from orlop.model.changes import ADDED, DELETED, MODIFIED, Change


def test_a_change_prints_its_kind_and_path() -> None:
    assert str(Change(b"/etc/motd", ADDED)) == "A /etc/motd"
    assert str(Change(b"/etc", MODIFIED)) == "C /etc"
    assert str(Change("/ü".encode(), DELETED)) == "D /ü"
    assert str(Change(b"/\xff", "D")) == "D /\udcff"


def test_changes_sort_by_the_bytes_of_their_paths() -> None:
    paths = [b"/a", b"/a-b", b"/a.c", b"/a/b", b"/\xc3\xbc", b"/\xff"]
    kinds = [DELETED, ADDED, MODIFIED, ADDED, DELETED, ADDED]
    changes = [Change(path, kind) for path, kind in zip(paths, kinds, strict=True)]
    assert sorted(changes[3:] + changes[:3]) == changes
    assert changes[0] < changes[1] <= changes[1] >= changes[0]
    assert changes[1] > changes[0]


def test_changes_are_values() -> None:
    change = Change(b"/a", ADDED)
    assert change == Change(b"/a", "A") == pickle.loads(pickle.dumps(change))
    assert change != Change(b"/a", "C")
    assert change != "A /a"
    assert len({change, Change(b"/a", "A"), Change(b"/b", "A")}) == 2
    assert repr(change) == "Change(b'/a', 'A')"
    with pytest.raises(AttributeError, match="frozen"):
        change.kind = "D"  # type: ignore[misc]
