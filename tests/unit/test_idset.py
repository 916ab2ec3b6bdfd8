"""Sets of ids: intervals against what Python's own sets say (`spec/userns.md` 4.5)."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.model.idset import IDSet, pairs

SMALL = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def members(ids: IDSet) -> list[int]:
    return [id for start, end in ids.intervals for id in range(start, end)]


def plain(intervals: list[tuple[int, int]]) -> set[int]:
    return {id for start, end in intervals for id in range(start, end)}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], ()),
        ([(5, 5), (9, 3)], ()),
        ([(5, 8), (1, 3)], ((1, 3), (5, 8))),
        ([(1, 3), (3, 5)], ((1, 5),)),  # touching
        ([(1, 10), (2, 4), (9, 12)], ((1, 12),)),
        ([(0, 2**64)], ((0, 2**64),)),  # what another program wrote into a record is no reason to fail
    ],
)
def test_a_set_has_one_form(given: list[tuple[int, int]], kept: tuple[tuple[int, int], ...]) -> None:
    assert IDSet(given).intervals == kept
    assert IDSet(given) == IDSet(kept)
    assert bool(IDSet(given)) is bool(kept)


def test_a_set_is_a_value() -> None:
    ids = IDSet([(500, 600)])
    assert pickle.loads(pickle.dumps(ids)) == ids
    assert {ids: 1}[IDSet([(550, 600), (500, 550)])] == 1
    assert (ids.count, ids.end, IDSet().count, IDSet().end) == (100, 600, 0, 0)
    with pytest.raises(AttributeError, match="frozen"):
        ids.intervals = ()  # type: ignore[misc]


def test_sets_are_paired_from_low_to_high_and_cut_where_either_has_a_gap() -> None:
    assert list(pairs(IDSet([(0, 3), (5, 12)]), IDSet([(100, 110)]))) == [(0, 100, 3), (5, 103, 7)]
    assert list(pairs(IDSet([(0, 4)]), IDSet([(7, 8), (10, 12)]))) == [(0, 7, 1), (1, 10, 2)]
    assert list(pairs(IDSet(), IDSet([(7, 8)]))) == []


@given(SMALL, SMALL)
def test_sets_of_ids_are_sets(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    left, right = IDSet(a), IDSet(b)
    assert members(left) == sorted(plain(a))
    assert members(left | right) == sorted(plain(a) | plain(b))
    assert members(left - right) == sorted(plain(a) - plain(b))
    assert left.count == len(plain(a))
    assert left.end == max(plain(a), default=-1) + 1
    assert [id for id in range(-1, 42) if id in left] == members(left)
    for ids in (left, left | right, left - right):
        flat = [bound for interval in ids.intervals for bound in interval]
        assert flat == sorted(set(flat)), "intervals are empty, touch, or are out of order"


@given(SMALL, st.integers(-1, 60))
def test_the_lowest_ids_are_the_first_of_the_sorted(a: list[tuple[int, int]], count: int) -> None:
    assert members(IDSet(a).lowest(count)) == sorted(plain(a))[: max(count, 0)]


@given(SMALL, SMALL)
def test_pairing_is_what_zip_does(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    runs = list(pairs(IDSet(a), IDSet(b)))
    flat = [(x + i, y + i) for x, y, size in runs for i in range(size)]
    assert flat == list(zip(sorted(plain(a)), sorted(plain(b)), strict=False))
    assert all(size > 0 for _, _, size in runs)
