"""Sets of user or group ids: intervals, as ids are set aside, given out and used (`spec/userns.md` 4.5).

Half-open intervals `(start, end)`, sorted, none of them empty, none touching the next: every set has one form only.
"""

from __future__ import annotations

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Interval = tuple[int, int]


class IDSet(Value):
    """A set of ids. False when it is empty."""

    __slots__ = ("intervals",)
    __match_args__ = ("intervals",)

    intervals: tuple[Interval, ...]

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        """Of intervals in any order, which may overlap, touch or be empty."""
        self._fill(tuple(_normalised(intervals)))

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def __contains__(self, id: int) -> bool:
        return any(start <= id < end for start, end in self.intervals)

    def __or__(self, other: IDSet) -> IDSet:
        return IDSet((*self.intervals, *other.intervals))

    def __sub__(self, other: IDSet) -> IDSet:
        return IDSet(_without(self.intervals, other.intervals))

    @property
    def count(self) -> int:
        """How many ids there are. (`len` could not say it of more than 2^63.)"""
        return sum(end - start for start, end in self.intervals)

    @property
    def end(self) -> int:
        """One more than the highest id; 0 for the empty set."""
        return self.intervals[-1][1] if self.intervals else 0

    def lowest(self, count: int) -> IDSet:
        """The `count` lowest ids, or all if there are no more."""
        taken = []
        for start, end in self.intervals:
            if count <= 0:
                break
            end = min(end, start + count)
            taken.append((start, end))
            count -= end - start
        return IDSet(taken)


def pairs(inner: IDSet, outer: IDSet) -> Iterator[tuple[int, int, int]]:
    """Pair the ids of two sets from low to high: `(start in inner, start in outer, how many)` for each run.

    A run ends where either set has a gap; what one set has more of than the other stays alone.
    """
    left, right = iter(inner.intervals), iter(outer.intervals)
    a, a_end = next(left, (0, 0))
    b, b_end = next(right, (0, 0))
    while a < a_end and b < b_end:
        size = min(a_end - a, b_end - b)
        yield a, b, size
        a, b = a + size, b + size
        if a == a_end:
            a, a_end = next(left, (0, 0))
        if b == b_end:
            b, b_end = next(right, (0, 0))


def _normalised(intervals: Iterable[Interval]) -> list[Interval]:
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if start >= end:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _without(intervals: tuple[Interval, ...], holes: tuple[Interval, ...]) -> Iterator[Interval]:
    at = 0
    for start, end in intervals:
        while at < len(holes) and holes[at][1] <= start:
            at += 1
        hole = at
        while hole < len(holes) and holes[hole][0] < end:
            yield start, holes[hole][0]
            start = holes[hole][1]
            hole += 1
        yield start, end
