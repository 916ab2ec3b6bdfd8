"""The checksum of tar-split, by fastcrc and without it."""

import sys

import pytest
from fastcrc.crc64 import go_iso

from orlop.formats import crc64


def by_bytes(data: bytes, crc: int = 0) -> int:
    """The definition (`spec/tar-split.md` 4), a bit at a time."""
    crc ^= 2**64 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xD800000000000000 if crc & 1 else crc >> 1
    return crc ^ 2**64 - 1


KNOWN = [
    (b"", "0000000000000000"),
    (b"123456789", "b90956c775a41001"),
    (b"hello\n", "614c3eeee2d81000"),
    (b"abc", "3776c42000000000"),
    (b"12345", "45a41001b3200000"),
    (b"b" * 512, "c58f4bbbbbbbbbbb"),
]


@pytest.mark.parametrize(("data", "stored"), KNOWN)
def test_known_checksums(data: bytes, stored: str) -> None:
    for update in (crc64.best(), crc64.update, by_bytes):
        assert crc64.stored(update(data, 0)).hex() == stored


@pytest.mark.parametrize("size", [*range(40), 127, 128, 129, 1000, 16_383, 16_384, 16_385, 50_001])
def test_folding_gives_what_the_library_gives(size: int) -> None:
    data = bytes((i * i >> 3) & 255 for i in range(size))
    for start in (0, 1, 2**64 - 1, 0x123456789ABCDEF0):
        assert crc64.update(data, start) == go_iso(data, start)
    assert crc64.update(memoryview(data)[size // 3 :], crc64.update(data[: size // 3])) == go_iso(data)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 512, 100_000])
def test_zeros_need_not_be_walked_through(count: int) -> None:
    assert crc64.update_zeros(count, 0x1234) == go_iso(bytes(count), 0x1234)


def test_a_hole_of_exabytes_is_done_at_once() -> None:
    whole = crc64.update_zeros(2**62, 5)
    assert crc64.update_zeros(2**61, crc64.update_zeros(2**61, 5)) == whole


def test_without_the_library_the_folding_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert crc64.best() is go_iso
    monkeypatch.setitem(sys.modules, "fastcrc.crc64", None)
    assert crc64.best() is crc64.update
