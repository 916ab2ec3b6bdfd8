"""Spans of time on the command line (`spec/check-repair.md` 6)."""

import pytest

from orlop.dropin.durations import seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0", 0),
        ("-0", 0),
        ("+0", 0),
        ("0s", 0),
        ("24h", 86400),
        ("72h3m0.5s", 259380.5),
        ("1h1h", 7200),
        ("1.5h", 5400),
        (".5m", 30),
        ("5.s", 5),
        ("-2m", -120),
        ("+3s", 3),
        ("250ms", 0.25),
        ("7us", 7e-6),
        ("7\u00b5s", 7e-6),
        ("7\u03bcs", 7e-6),
        ("9ns", 9e-9),
        ("2562047h", 2562047 * 3600),
    ],
)
def test_a_span_of_time_is_numbers_with_units(text: str, wanted: float) -> None:
    assert seconds(text) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        ("soon", 'time: invalid duration "soon"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("--1s", 'time: invalid duration "--1s"'),
        ("1s ", 'time: unknown unit "s " in duration "1s "'),
        ("\u0663s", 'time: invalid duration "\u0663s"'),
        ("3", 'time: missing unit in duration "3"'),
        ("00", 'time: missing unit in duration "00"'),
        ("1h3", 'time: missing unit in duration "1h3"'),
        ("1..5h", 'time: missing unit in duration "1..5h"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1H", 'time: unknown unit "H" in duration "1H"'),
        ("2562048h", 'time: invalid duration "2562048h"'),
        ("9" * 400 + "h", f'time: invalid duration "{"9" * 400}h"'),
        ('"1"', 'time: invalid duration "\\"1\\""'),
    ],
)
def test_anything_else_is_refused_in_the_words_of_the_peers(text: str, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        seconds(text)
    assert str(refused.value) == says
