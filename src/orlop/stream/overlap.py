"""Ranges of disks, each held by somebody: how much is held, by whom, and by how many.

Ranges come in any order and in any number. They are kept as sorted runs of plain numbers, 24 bytes a range, and
looked at in one sweep from the lowest to the highest.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

_RUN = 1 << 15
"""Ranges that are collected before they are sorted and packed: some megabytes as Python objects."""


class Ranges:
    """Ranges of one disk. `Holder` numbers are the caller's, 0 or more."""

    __slots__ = ("_new", "_runs")

    def __init__(self) -> None:
        self._new: list[tuple[int, int, int]] = []
        self._runs: list[array[int]] = []

    def add(self, start: int, end: int, holder: int) -> None:
        self._new.append((start, end, holder))
        if len(self._new) >= _RUN:
            self._pack()

    def _pack(self) -> None:
        from array import array

        self._new.sort()
        self._runs.append(array("Q", [number for found in self._new for number in found]))
        self._new = []

    def __bool__(self) -> bool:
        return bool(self._new or self._runs)

    def sweep(self) -> Iterator[tuple[int, int, frozenset[int], int]]:
        """(start, end, holders, number of ranges) of the pieces that the same ranges cover, in order; no gaps."""
        from heapq import heappop, heappush, merge

        self._new.sort()
        ends: list[tuple[int, int]] = []  # of the ranges that cover the place where the sweep is
        count: dict[int, int] = {}
        at = 0
        for start, end, holder in merge(self._new, *map(_triples, self._runs)):
            while ends and ends[0][0] <= start:
                stop = ends[0][0]
                if stop > at:
                    yield at, stop, frozenset(count), len(ends)
                    at = stop
                _drop(count, heappop(ends)[1])
            if start > at:
                if ends:
                    yield at, start, frozenset(count), len(ends)
                at = start
            heappush(ends, (end, holder))
            count[holder] = count.get(holder, 0) + 1
        while ends:
            stop = ends[0][0]
            if stop > at:
                yield at, stop, frozenset(count), len(ends)
                at = stop
            _drop(count, heappop(ends)[1])


def _drop(count: dict[int, int], holder: int) -> None:
    count[holder] -= 1
    if not count[holder]:
        del count[holder]


def _triples(run: array[int]) -> Iterator[tuple[int, int, int]]:
    numbers = iter(run)
    return zip(numbers, numbers, numbers, strict=True)
