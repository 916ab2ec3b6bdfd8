"""Points in time as records keep them: RFC 3339 text, nanoseconds and offset kept (`spec/records.md` 3).

The text is the value. Turning it into a `datetime` and back would lose nanoseconds and the stored offset.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime

_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


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
        """As a `datetime` with its stored offset, cut to microseconds."""
        from datetime import datetime

        head, fraction, zone = _parts(self)
        micro = (fraction + "000000")[:6]
        return datetime.fromisoformat(f"{head}.{micro}{'+00:00' if zone == 'Z' else zone}")

    @property
    def ns(self) -> int:
        """Nanoseconds since 1970 began, exact; for ordering."""
        from datetime import UTC, datetime, timedelta

        head, fraction, zone = _parts(self)
        moment = datetime.fromisoformat(head + ("+00:00" if zone == "Z" else zone))
        whole = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
        return whole * 1_000_000_000 + int((fraction + "0" * 9)[:9])


UNSET = Timestamp("0001-01-01T00:00:00Z")


def is_timestamp(text: str) -> bool:
    """True if `text` is RFC 3339 as the peers read it."""
    try:
        head, fraction, zone = _parts(text)
        if (head[4], head[7], head[10], head[13], head[16]) != ("-", "-", "T", ":", ":"):
            return False
        numbers = head[:4] + head[5:7] + head[8:10] + head[11:13] + head[14:16] + head[17:19]
        if not (numbers.isascii() and numbers.isdigit()):
            return False
        month, day = int(head[5:7]), int(head[8:10])
        if not (1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month - 1]):
            return False
        if int(head[11:13]) > 23 or int(head[14:16]) > 59 or int(head[17:19]) > 59:
            return False
        if fraction and not (fraction.isascii() and fraction.isdigit()):
            return False
        if zone == "Z":
            return True
        hours, minutes = zone[1:3], zone[4:6]
        return zone[0] in "+-" and zone[3] == ":" and len(zone) == 6 and int(hours) < 24 and int(minutes) < 60
    except (ValueError, IndexError):
        return False


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
