"""Where the content of a file is cut into chunks (`spec/chunked.md` 5.1).

Every writer has to cut at the same places, or blobs have nothing in common. Two rules: a run of 1024 zeros or more,
as long as it goes, is a chunk by itself; and a chunk ends after a byte at which a sum over the last 64 bytes has a
certain value. Bytes of such a run count in the sum and end nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = 64
HOLE_MIN = 1024

_HOLE = bytes(HOLE_MIN)
_BEFORE = bytes(WINDOW - 1)
_ENDS_LOW, _ENDS_HIGH = 6079 & 0xFF, 6079 >> 8
_LANE = 3  # bytes: the sum needs 20 bits
_STEP = 32 * 1024  # what the numbers for it do not drive out of the cache


class Cutter:
    """Cuts one file. `feed` and `finish` give its bytes again: (bytes, whether they are a hole's), and None where a
    chunk ends. No chunk is empty."""

    def __init__(self) -> None:
        self._before = _BEFORE
        self._held = b""  # zeros at the end of what came, of which it is not known yet what they are
        self._open = False
        self._in_hole = False

    def feed(self, block: bytes | memoryview) -> Iterator[tuple[bytes, bool] | None]:
        for start in range(0, len(block), _STEP):
            yield from self._feed(bytes(block[start : start + _STEP]))

    def _feed(self, block: bytes) -> Iterator[tuple[bytes, bool] | None]:
        data = self._held + block
        self._held = b""
        start = 0
        if self._in_hole:
            start = _end_of_zeros(data, 0)
            if start:
                yield data[:start], True
            if start == len(data):
                return
            self._open = False
            yield None
            self._in_hole = False
        ends = ends_in(self._before, data)
        while True:
            hole = data.find(_HOLE, start)
            if hole < 0:
                break
            yield from self._data(data, start, hole, ends)
            if self._open:
                self._open = False
                yield None
            start = _end_of_zeros(data, hole + HOLE_MIN)
            self._open = True
            yield data[hole:start], True
            if start == len(data):
                self._in_hole = True
                self._before = _BEFORE
                return
            self._open = False
            yield None
        stop = len(data.rstrip(b"\0")) if data.endswith(b"\0") else len(data)
        stop = max(stop, start)
        yield from self._data(data, start, stop, ends)
        self._held = data[stop:]
        # What is held comes again with the next block, and is looked at then.
        self._before = (self._before + data[:stop])[-len(_BEFORE) :]

    def finish(self) -> Iterator[tuple[bytes, bool] | None]:
        held, self._held = self._held, b""
        if held:
            yield from self._data(held, 0, len(held), ends_in(self._before, held))
        if self._open:
            self._open = False
            yield None

    def _data(
        self, data: bytes, start: int, stop: int, ends: list[int]
    ) -> Iterator[tuple[bytes, bool] | None]:
        for end in ends:
            if start <= end < stop:
                yield data[start : end + 1], False
                self._open = False
                yield None
                start = end + 1
        if start < stop:
            self._open = True
            yield data[start:stop], False


def ends_in(before: bytes, data: bytes) -> list[int]:
    """The bytes of `data` at which the sum has its value; `before` are the 63 bytes in front of it.

    The sum weighs the last byte once, the one before it twice, and so on. All sums are made at once: a long number
    has a lane for each byte, and adding it to itself, shifted, doubles the window. A loop over bytes takes eight
    times as long.
    """
    joined = before + data
    lanes = bytearray(_LANE * len(joined))
    lanes[::_LANE] = joined
    plain = int.from_bytes(lanes, "little")  # sums of the last `width` bytes
    weighted = plain
    width = 1
    while width < WINDOW:
        shift = 8 * _LANE * width
        weighted += (weighted << shift) + width * (plain << shift)
        plain += plain << shift
        width *= 2
    # What was shifted out at the end belongs to bytes that are not here.
    sums = weighted.to_bytes(_LANE * (len(joined) + WINDOW), "little")[: _LANE * len(joined)]
    low, high = sums[::_LANE], sums[1::_LANE]
    found = []
    at = low.find(_ENDS_LOW, len(before))
    while at >= 0:
        if high[at] == _ENDS_HIGH:
            found.append(at - len(before))
        at = low.find(_ENDS_LOW, at + 1)
    return found


def _end_of_zeros(data: bytes, start: int) -> int:
    """Where the zeros end that go on at `start`."""
    step = HOLE_MIN
    while data.startswith(_HOLE, start):
        start += step
    rest = data[start : start + step]
    return start + len(rest) - len(rest.lstrip(b"\0"))
