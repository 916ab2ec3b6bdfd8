"""Points in time as records keep them: RFC 3339 text, nanoseconds and offset kept (`spec/records.md` 3).

The text is the value. Turning it into a `datetime` and back would lose nanoseconds and the stored offset.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

_DAYS_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365)
_DAYS_BEFORE_1970 = 719_162  # counted from the first of January of the year 1

_days_seen: set[str] = set()  # that are days: those of a store are few, and are met again
_DAYS_SEEN_MAX = 5_000


class Timestamp(str):
    """RFC 3339 text, e.g. `2026-11-23T21:16:55.68507543Z`."""

    __slots__ = ()

    @classmethod
    def now(cls) -> Timestamp:
        """This moment, in UTC, with nanoseconds."""
        return cls.from_ns(time.time_ns())

    @classmethod
    def from_ns(cls, ns: int) -> Timestamp:
        """The moment `ns` nanoseconds after 1970 began, in UTC."""
        seconds, fraction = divmod(ns, 1_000_000_000)
        t = time.gmtime(seconds)
        text = f"{t[0]:04}-{t[1]:02}-{t[2]:02}T{t[3]:02}:{t[4]:02}:{t[5]:02}"
        if fraction:
            text += f".{fraction:09}".rstrip("0")
        return cls(text + "Z")

    @property
    def datetime(self) -> datetime:
        """As a `datetime` with its stored offset, cut to microseconds.

        Raises:
            ValueError: the year 0, which records may hold and a `datetime` may not.
        """
        from datetime import datetime

        head, fraction, zone = _parts(self)
        micro = (fraction + "000000")[:6]
        return datetime.fromisoformat(f"{head}.{micro}{'+00:00' if zone == 'Z' else zone}")

    @property
    def ns(self) -> int:
        """Nanoseconds since 1970 began, exact; for ordering."""
        head, fraction, zone = _parts(self)
        minutes = 0 if zone == "Z" else int(zone[:3]) * 60 + int(zone[0] + zone[4:])
        seconds = _days(int(head[:4]), int(head[5:7]), int(head[8:10])) * 86_400
        seconds += int(head[11:13]) * 3600 + (int(head[14:16]) - minutes) * 60 + int(head[17:19])
        return seconds * 1_000_000_000 + int((fraction + "0" * 9)[:9])


UNSET = Timestamp("0001-01-01T00:00:00Z")


def is_timestamp(text: str) -> bool:
    """True if `text` is RFC 3339 as the peers read it."""
    try:
        head, fraction, zone = _parts(text)
        if len(head) != 19 or (head[10], head[13], head[16]) != ("T", ":", ":"):
            return False
        if not (_are_digits(head[11:13] + head[14:16] + head[17:19]) and _is_day(head[:10])):
            return False
        if int(head[11:13]) > 23 or int(head[14:16]) > 59 or int(head[17:19]) > 59:
            return False
        if fraction and not _are_digits(fraction):
            return False
        if zone == "Z":
            return True
        hours, minutes = zone[1:3], zone[4:6]
        return (
            (zone[0], zone[3], len(zone)) in (("+", ":", 6), ("-", ":", 6))
            and _are_digits(hours + minutes)
            and int(hours) < 24
            and int(minutes) < 60
        )
    except (ValueError, IndexError):
        return False


def are_timestamps(texts: list[str]) -> bool:
    """The same for many: a store of many records is loaded with every small command."""
    by_length: dict[int, list[str]] = {}
    for text in texts:
        by_length.setdefault(len(text), []).append(text)
    return all(
        _are_plain(alike, length) or all(map(is_timestamp, alike)) for length, alike in by_length.items()
    )


def _are_plain(texts: list[str], length: int) -> bool:
    """True if texts of one length surely are times in UTC; looked at column by column."""
    if length < 20 or length == 21:
        return False
    together = "".join(texts)
    columns = [together[at::length] for at in range(length)]
    signs = {4: "-", 7: "-", 10: "T", 13: ":", 16: ":", 19: ".", length - 1: "Z"}
    if any(columns[at] != sign * len(texts) for at, sign in signs.items()):
        return False
    if not _are_digits("".join([column for at, column in enumerate(columns) if at not in signs])):
        return False
    if max(zip(columns[11], columns[12], strict=True)) > ("2", "3") or max(columns[14] + columns[17]) > "5":
        return False
    new = {text[:10] for text in texts} - _days_seen
    if not all(map(_is_day, new)):
        return False
    if len(_days_seen) < _DAYS_SEEN_MAX:
        _days_seen.update(new)
    return True


def _is_day(text: str) -> bool:
    if text[4] != "-" or text[7] != "-" or not _are_digits(text[:4] + text[5:7] + text[8:]):
        return False
    month = int(text[5:7])
    return 1 <= month <= 12 and 1 <= int(text[8:]) <= _days_in(int(text[:4]), month)


def _are_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _parts(text: str) -> tuple[str, str, str]:
    """`2026-11-23T21:16:55`, the digits of the fraction, `Z` or `+hh:mm`."""
    head, rest = text[:19], text[19:]
    fraction = ""
    if rest[:1] == ".":
        end = 1
        while rest[end : end + 1].isdigit():
            end += 1
        fraction, rest = rest[1:end], rest[end:]
        if not fraction:
            raise ValueError(f"a time with an empty fraction: {text!r}")
    return head, fraction, rest


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _days_in(year: int, month: int) -> int:
    return _DAYS_BEFORE_MONTH[month] - _DAYS_BEFORE_MONTH[month - 1] + (month == 2 and _is_leap(year))


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970 began to that day; the calendar is the Gregorian one throughout, the year 0 included."""
    before = year - 1
    days = before * 365 + before // 4 - before // 100 + before // 400
    days += _DAYS_BEFORE_MONTH[month - 1] + (month > 2 and _is_leap(year))
    return days + day - 1 - _DAYS_BEFORE_1970
