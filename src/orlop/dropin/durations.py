"""Spans of time as the peers' flags take them: `72h3m0.5s` (`spec/check-repair.md` 6). Pure.

Rule: a number without a unit is refused, but for zero: whoever writes 30 may mean seconds or days.
"""

from __future__ import annotations

_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_MOST = (2**63 - 1) / 1e9  # they count nanoseconds in 64 bits, 292 years


def seconds(text: str) -> float:
    """The seconds that a span comes to.

    Raises:
        ValueError: it is none; with their words.
    """
    from re import match

    from orlop.dropin.text import quote

    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    total = 0.0
    invalid = ValueError(f"time: invalid duration {quote(text)}")
    if not rest:
        raise invalid
    while rest:
        number = match(r"[0-9]+\.?[0-9]*|\.[0-9]+", rest)
        if number is None:
            raise invalid
        rest = rest[number.end() :]
        unit = match(r"[^0-9.]*", rest)
        assert unit is not None, "it may be empty"
        if not unit[0]:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        if unit[0] not in _SECONDS:
            raise ValueError(f"time: unknown unit {quote(unit[0])} in duration {quote(text)}")
        rest = rest[unit.end() :]
        total += float(number[0]) * _SECONDS[unit[0]]
    if total > _MOST:
        raise invalid
    return -total if text[0] == "-" else total
