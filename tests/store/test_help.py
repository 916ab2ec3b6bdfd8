"""What `help` shows: every public member says what it is for, by itself, because `help` sorts them."""

import inspect
import re
from typing import Any

import pytest

import orlop
from orlop.store.containers import Containers
from orlop.store.data import Data
from orlop.store.images import Images
from orlop.store.layers import Layers

MEMBERS = [
    (kind, name, member)
    for kind in (orlop.Store, Layers, Images, Containers, Data)
    for name, member in inspect.getmembers(kind)
    if not name.startswith("_") and name != "noun"
]

LEANING = re.compile(r"\b(the same (as|for) |as there\b|see above|likewise)|^(it|they|this)\b", re.IGNORECASE)


@pytest.mark.parametrize(
    ("kind", "name", "member"), MEMBERS, ids=[f"{k.__name__}.{n}" for k, n, _ in MEMBERS]
)
def test_a_public_member_explains_itself(kind: type, name: str, member: Any) -> None:
    told = inspect.getdoc(member)
    assert told, f"{kind.__name__}.{name} says nothing"
    first = told.split("\n\n")[0]
    assert not LEANING.search(first), f"{kind.__name__}.{name} leans on another: {first}"


def test_what_methods_return_and_raise_is_within_reach() -> None:
    """A name for annotations, `isinstance` and `except`, without knowing in which room it lives."""
    for name in orlop.__all__:
        assert getattr(orlop, name) is not None
    assert issubclass(orlop.errors.LayerUnknown, orlop.NotFound)
    assert orlop.events.Advanced("check", 1, 2).total == 2
    for name in ("Plan", "Outcome", "Step", "Kept", "UsageReport", "DedupResult", "Snapshot"):
        assert getattr(orlop, name).__name__ == name
