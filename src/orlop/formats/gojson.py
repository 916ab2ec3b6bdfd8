"""JSON as the programs that share the store write and read it (`spec/records.md` section 3, `spec/cli.md` 2.2).

Why not the standard `json`: importing it costs more than a whole small command, and we need the place of each
array element in the text, so that a save can reuse the bytes of everything that did not change. The scanner
underneath is the same C code.

Reading is lenient where the peers are (last duplicate wins, what is not UTF-8 and lone surrogates become U+FFFD)
and strict where they are (no NaN, no byte-order mark, nothing after the document). Numbers that Python cannot hold
are kept as they are written.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Self

_SPACE = " \t\n\r"
_INT_DIGITS_MAX = (
    4000  # Python refuses longer ones from 4,301 digits on, as converting them takes quadratic time
)
_DEPTH_CERTAIN = 200  # what any caller has room for
_quote = _json.encode_basestring


class SyntaxProblem(ValueError):
    """Text that is not JSON; says what is wrong and at which character."""


class Unreadable:
    """Stands for an element that is JSON, as far as can be told, and cannot be held."""

    def __repr__(self) -> str:
        return "a value nested too deeply"


class Written(float):
    """A number that keeps its text, so that `1.10`, `1e400` and a number of 5,000 digits are written as they came."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _no_constant(text: str) -> Any:
    raise SyntaxProblem(f"{text} is not JSON")


class _Context:
    """The knobs of the C scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = Written
    parse_int: Any = int
    parse_constant = staticmethod(_no_constant)
    memo: dict[str, str] = {}


class _LongNumbers(_Context):
    """Asks a Python function for each integer, which is slow and hence the second try."""

    @staticmethod
    def parse_int(text: str) -> int | Written:
        return int(text) if len(text) <= _INT_DIGITS_MAX else Written(text)


# Typeshed wants a scanner here; the C code reads these few attributes of whatever it gets.
_scan = _json.make_scanner(_Context())  # type: ignore[arg-type]
_scan_long_numbers = _json.make_scanner(_LongNumbers())  # type: ignore[arg-type]


# --- reading ------------------------------------------------------------------------------------------------


def decode(data: bytes | str) -> Any:
    """The one JSON document in `data`.

    Raises:
        SyntaxProblem: not JSON, too deep, or followed by something else.
    """
    text = text_of(data)
    value, end = _value(text, _skip(text, 0))
    if isinstance(value, Unreadable):
        raise SyntaxProblem("nested too deeply")
    _finish(text, end)
    return value


def array(text: str) -> list[Any] | None:
    """The elements of the JSON array in `text`, in one go; None if it takes `elements` to tell.

    That is so for anything but an array, for text that is broken, and for values that need mending.
    """
    if not text:
        return []
    if _needs_mending(text):
        return None
    try:
        value, end = _scan(text, _skip(text, 0))
    except (StopIteration, RecursionError, SystemError, ValueError):
        return None
    return value if type(value) is list and _skip(text, end) == len(text) else None


def elements(text: str) -> Iterator[tuple[Any, str]]:
    """Each element of the JSON array in `text`, with the very text it was written in.

    Nothing at all and `null` are an array without elements; blank text is an error, as it is for the peers.

    Raises:
        SyntaxProblem: not an array, or broken.
    """
    if not text:
        return
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        value, end = _value(text, at)
        _finish(text, end)
        if value is not None:
            raise SyntaxProblem(f"wanted an array, found {_kind(value)}")
        return
    at = _skip(text, at + 1)
    follows = text[at : at + 1]
    if follows != "]":
        follows = ","
        at -= 1
    while follows == ",":
        at = _skip(text, at + 1)
        value, end = _value(text, at)
        yield value, text[at:end]
        at = _skip(text, end)
        follows = text[at : at + 1]
    if follows != "]":
        raise SyntaxProblem(
            f"invalid character {follows!r} after array element, at character {at}"
            if follows
            else "unexpected end of JSON input"
        )
    _finish(text, at + 1)


def text_of(data: bytes | str) -> str:
    """`data` as text that `bytes_of` turns back into the same bytes.

    A byte that is not UTF-8 is a lone surrogate in it, and U+FFFD in the values read from it.
    """
    return data if isinstance(data, str) else str(data, "utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes of text that consists of what `encode` and `elements` gave."""
    return text.encode("utf-8", "surrogateescape")


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _SPACE:
        at += 1
    return at


def _finish(text: str, at: int) -> None:
    at = _skip(text, at)
    if at != len(text):
        raise SyntaxProblem(f"invalid character {text[at]!r} after top-level value, at character {at}")


def _value(text: str, at: int) -> tuple[Any, int]:
    """The value that begins at a place, and where it ends."""
    problem: SyntaxProblem | None = None
    for scan in (_scan, _scan_long_numbers):
        try:
            value, end = _scanned(scan, text, at)
            return (_mended(value) if _needs_mending(text[at:end]) else value), end
        except SyntaxProblem as found:
            problem = problem or found
        except RecursionError:
            end, depth = _extent(text, at)
            if depth < _DEPTH_CERTAIN:
                raise  # the calls that led here are nested too deeply, not the text
            return Unreadable(), end
    assert problem is not None
    raise problem


def _scanned(scan: Any, text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = scan(text, at)
    except StopIteration:
        raise SyntaxProblem(
            f"invalid character {text[at]!r} looking for a value, at character {at}"
            if at < len(text)
            else "unexpected end of JSON input"
        ) from None
    except SystemError:
        # Before 3.13 the C scanner can only name an error once its Python half is loaded; load it and ask again.
        import json.decoder  # noqa: F401

        return _scanned(scan, text, at)
    except SyntaxProblem:
        raise
    except ValueError as error:
        raise SyntaxProblem(str(error)) from None
    return value, end


def _extent(text: str, at: int) -> tuple[int, int]:
    """Where the list or map that begins at a place ends, and how deep it is nested; found without recursion."""
    import re

    depth = deepest = 0
    for found in re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL).finditer(text, at):
        sign = found[0]
        if sign in ("[", "{"):
            depth += 1
            deepest = max(deepest, depth)
        elif sign in ("]", "}"):
            depth -= 1
            if depth == 0:
                return found.end(), deepest
    raise SyntaxProblem("unexpected end of JSON input")


def _kind(value: Any) -> str:
    if isinstance(value, dict | Unreadable):
        return "an object"
    if isinstance(value, str):
        return "a string"
    return (
        "null" if value is None else f"the {'boolean' if isinstance(value, bool) else 'number'} {value!r:.40}"
    )


def _needs_mending(text: str) -> bool:
    """True if values may hold lone surrogates: from an escape, or from a byte that is not UTF-8."""
    return ("\\" in text and ("\\ud" in text or "\\uD" in text)) or _has_surrogates(text)


def _has_surrogates(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return True
    return False


def _mended(value: Any) -> Any:
    """Lone surrogates become U+FFFD, as they do for the peers."""
    if isinstance(value, str):
        return _without_surrogates(value)
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value


def _without_surrogates(text: str) -> str:
    if not _has_surrogates(text):
        return text
    return "".join(["\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text])


# --- writing ------------------------------------------------------------------------------------------------


def encode(value: Any) -> str:
    """`value` as compact JSON text: keys of maps sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped."""
    return escaped(compact(value))


def encode_text(text: str) -> str:
    """One JSON string."""
    return escaped(_quote(text))


def compact(value: Any) -> str:
    """As `encode`, but for the escapes; for the parts of a text that will go through `escaped` as a whole."""
    if isinstance(value, str):
        return _quote(value)
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quote(key)}:{compact(value[key])}" for key in sorted(value)]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([compact(item) for item in value]) + "]"
    if isinstance(value, float):
        return value.text if isinstance(value, Written) else _encode_float(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def escaped(text: str) -> str:
    """JSON text with what the peers escape in strings. Outside of strings JSON has none of these characters."""
    for sign, escape in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        if sign in text:
            text = text.replace(sign, escape)
    if text.isascii():
        return text
    return _without_surrogates(text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _encode_float(value: float) -> str:
    """A number that no text came with, as the peers write it: plain from a millionth up to 10^21."""
    if value - value != 0:  # infinite, or not a number
        raise ValueError(f"{value} has no JSON form")
    if value == int(value) and abs(value) < 1e21:
        return str(int(value)) if value or str(value)[0] != "-" else "-0"
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    power = int(exponent)
    if -7 < power < 0:
        sign, digits = ("-", mantissa[1:]) if value < 0 else ("", mantissa)
        return f"{sign}0.{'0' * (-power - 1)}{digits.replace('.', '')}"
    return f"{mantissa}e{power:+}"
