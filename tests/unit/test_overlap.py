"""Ranges of a disk and their holders: every piece once, with everybody who holds it."""

from hypothesis import given
from hypothesis import strategies as some

from orlop.stream import overlap
from orlop.stream.overlap import Ranges


def swept(*found: tuple[int, int, int]) -> list[tuple[int, int, frozenset[int], int]]:
    ranges = Ranges()
    for each in found:
        ranges.add(*each)
    return list(ranges.sweep())


def test_ranges_are_cut_where_the_holders_change() -> None:
    assert swept((0, 10, 1), (4, 6, 2), (6, 12, 3), (20, 30, 1)) == [
        (0, 4, {1}, 1),
        (4, 6, {1, 2}, 2),
        (6, 10, {1, 3}, 2),
        (10, 12, {3}, 1),
        (20, 30, {1}, 1),
    ]


def test_who_holds_a_piece_twice_holds_it_until_the_last_range_ends() -> None:
    assert swept((0, 10, 1), (0, 4, 1)) == [(0, 4, {1}, 2), (4, 10, {1}, 1)]


RANGE = some.tuples(some.integers(0, 60), some.integers(1, 20), some.integers(0, 3))


@given(some.lists(RANGE, max_size=40), some.integers(1, 10))
def test_every_point_has_the_holders_of_the_ranges_that_cover_it(
    found: list[tuple[int, int, int]], packed_after: int
) -> None:
    ranges = Ranges()
    before = overlap._RUN
    overlap._RUN = packed_after
    try:
        for start, length, holder in found:
            ranges.add(start, start + length, holder)
        pieces = list(ranges.sweep())
    finally:
        overlap._RUN = before
    points = {}
    for start, end, holders, covered in pieces:
        assert start < end
        for point in range(start, end):
            assert point not in points
            points[point] = (holders, covered)
    wanted = {}
    for start, length, holder in found:
        for point in range(start, start + length):
            holders, covered = wanted.get(point, (frozenset(), 0))
            wanted[point] = (holders | {holder}, covered + 1)
    assert points == wanted
