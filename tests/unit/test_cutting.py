"""Where files are cut into chunks: as every other writer cuts them."""

import random

import pytest

from orlop.chunked.cutting import HOLE_MIN, Cutter, ends_in


def _ends(data: bytes) -> list[int]:
    """The rolling sum as `spec/chunked.md` 5.1 gives it first, byte by byte."""
    window = [0] * 64
    s1, s2 = 64 * 31, 64 * 63 * 31
    found = []
    for at, byte in enumerate(data):
        old = window[at % 64]
        window[at % 64] = byte
        s1 = (s1 + byte - old) % 2**32
        s2 = (s2 + s1 - 64 * (old + 31)) % 2**32
        if s2 & 0xFFFF == 0xFFFF:
            found.append(at)
    return found


def _expected(data: bytes) -> list[tuple[int, bool]]:
    """(size, whether it is a hole) of each chunk."""
    ends, chunks, start, at = set(_ends(data)), [], 0, 0
    while at < len(data):
        zeros = at
        while zeros < len(data) and not data[zeros]:
            zeros += 1
        if zeros - at >= HOLE_MIN:
            if at > start:
                chunks.append((at - start, False))
            chunks.append((zeros - at, True))
            start = at = zeros
            continue
        stop = max(zeros, at + 1)
        for each in range(at, stop):
            if each in ends:
                chunks.append((each + 1 - start, False))
                start = each + 1
        at = stop
    return [*chunks, *([(len(data) - start, False)] if start < len(data) else [])]


def _cut(data: bytes, sizes: list[int], rng: random.Random) -> list[tuple[int, bool]]:
    cutter, chunks, parts, size, hole, at = Cutter(), [], [], 0, False, 0
    pieces = []
    while at < len(data):
        step = rng.choice(sizes)
        pieces += list(cutter.feed(memoryview(data)[at : at + step]))
        at += step
    pieces += list(cutter.finish())
    for piece in pieces:
        if piece is None:
            assert size
            chunks.append((size, hole))
            size = 0
            continue
        assert piece[0]
        assert not size or hole == piece[1]
        hole = piece[1]
        size += len(piece[0])
        parts.append(piece[0])
    assert b"".join(parts) == data
    assert size == 0
    return chunks


@pytest.mark.parametrize("seed", range(40))
def test_chunks_are_those_of_the_rules_however_the_bytes_come(seed: int) -> None:
    rng = random.Random(seed)
    kinds = {
        "noise": lambda: rng.randbytes(rng.choice([1, 50, 3000, 40_000])),
        "zeros": lambda: bytes(rng.choice([1, 63, 64, 1000, 1023, 1024, 1025, 5000, 70_000])),
        "one byte": lambda: bytes([rng.choice([1, 2, 3, 97])]) * rng.randint(1, 500),
        "sparse": lambda: bytes(rng.choice([0, 0, 0, 7, 255]) for _ in range(3000)),
    }
    data = b"".join(kinds[rng.choice(list(kinds))]() for _ in range(rng.randint(0, 6)))
    wanted = _expected(data)
    assert _cut(data, [1, 7, 100, 1023, 1024, 5000, 40_000], rng) == wanted
    assert _cut(data, [1 << 20], rng) == wanted


def test_the_sum_ends_chunks_where_the_rolling_one_does() -> None:
    """Enough of them that it is no accident."""
    data = random.Random(3).randbytes(600_000)
    found = ends_in(bytes(63), data)
    assert found == _ends(data)
    assert len(found) > 5


def test_nothing_has_no_chunks() -> None:
    assert _cut(b"", [1], random.Random(0)) == []
