"""Times of records: RFC 3339 text that keeps nanoseconds and offset."""

import datetime
import pickle

import pytest

from oddities import BAD_TIMES, SLOPPY_TIMES
from orlop.model.timestamp import UNSET, Timestamp, are_timestamps, is_timestamp

# (text, nanoseconds since 1970)
TIMES = [
    ("1970-01-01T00:00:00Z", 0),
    ("1970-01-01T00:00:00.000000001Z", 1),
    ("1969-12-31T23:59:59.5Z", -500_000_000),
    ("2026-11-23T21:16:55.68507543Z", 1_795_468_615_685_075_430),
    ("2026-11-23T21:16:55+02:00", 1_795_461_415_000_000_000),
    ("2026-11-23T21:16:55-02:30", 1_795_477_615_000_000_000),
    ("2000-02-29T00:00:00Z", 951_782_400_000_000_000),
    ("2000-03-01T00:00:00Z", 951_868_800_000_000_000),
    ("1900-03-01T00:00:00Z", -2_203_891_200_000_000_000),
    ("0001-01-01T00:00:00Z", -62_135_596_800_000_000_000),
    ("0000-01-01T00:00:00Z", -62_167_219_200_000_000_000),
    ("0000-12-31T23:59:59Z", -62_135_596_801_000_000_000),
    ("9999-12-31T23:59:59.999999999Z", 253_402_300_799_999_999_999),
    ("2020-01-01T00:00:00.1234567891234Z", 1_577_836_800_123_456_789),
]


@pytest.mark.parametrize(("text", "ns"), TIMES)
def test_a_time_is_its_text_and_orders_exactly(text: str, ns: int) -> None:
    """Wiping a store deletes the newest layers first, so even the year 0 must have a place in order."""
    assert is_timestamp(text)
    time = Timestamp(text)
    assert time == text
    assert time.ns == ns


@pytest.mark.parametrize(("text", "ns"), [time for time in TIMES if time[0] > "0001"])
def test_the_datetime_is_the_same_moment_with_the_stored_offset(text: str, ns: int) -> None:
    moment = Timestamp(text).datetime
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert (moment - epoch) // datetime.timedelta(microseconds=1) == ns // 1000
    assert str(moment.utcoffset()) == {"+02:00": "2:00:00", "-02:30": "-1 day, 21:30:00"}.get(
        text[-6:], "0:00:00"
    )


def test_the_year_0_has_no_datetime() -> None:
    with pytest.raises(ValueError, match="year"):
        _ = Timestamp("0000-01-01T00:00:00Z").datetime


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_795_468_615_685_075_430, "2026-11-23T21:16:55.68507543Z"),
        (1_000_000_000, "1970-01-01T00:00:01Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
    ],
)
def test_new_times_drop_trailing_zeros_of_the_fraction(ns: int, text: str) -> None:
    assert Timestamp.from_ns(ns) == text
    assert Timestamp(text).ns == ns


def test_now_is_now() -> None:
    before = datetime.datetime.now(datetime.UTC)
    now = Timestamp.now()
    assert is_timestamp(now)
    assert now.endswith("Z")
    assert abs(now.datetime - before) < datetime.timedelta(seconds=60)
    assert pickle.loads(pickle.dumps(now)) == now


@pytest.mark.parametrize("text", [*BAD_TIMES, *SLOPPY_TIMES])
def test_what_is_no_time_is_seen_alone_and_among_many(text: str) -> None:
    many = [f"2026-11-{day:02}T{hour:02}:59:59.{day}Z" for day in range(1, 31) for hour in range(24)]
    assert not is_timestamp(text)
    assert are_timestamps(many)
    assert not are_timestamps([text])
    for at in (0, 100, len(many)):
        assert not are_timestamps([*many[:at], text, *many[at:]])


def test_many_times_of_all_forms_are_times() -> None:
    assert are_timestamps([text for text, _ in TIMES])
    assert are_timestamps([UNSET] * 3)
    assert are_timestamps([])


def test_texts_whose_lengths_make_up_for_each_other_are_not_taken_for_times() -> None:
    """Many are looked at by columns, which a missing and an extra sign must not bring back into line."""
    good = "2020-01-01T00:00:00Z"
    assert not are_timestamps([good[:-1], good + "Z"])
    assert not are_timestamps([good[1:], "2" + good])
    assert not are_timestamps([good + good, ""])
    assert not are_timestamps(["2020-01-01T00:00:00.5", "2020-01-01T00:00:00Z.5Z"])
