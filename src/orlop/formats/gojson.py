"""JSON as the programs that share the store write and read it (`spec/records.md` section 3, `spec/cli.md` 2.2).

Why not the standard `json`: importing it costs more than a whole small command, and we need the place of each
array element in the text, so that a save can reuse the bytes of everything that did not change. The scanner
underneath is the same C code.

Reading is lenient where the peers are (last duplicate wins, lone surrogates become U+FFFD) and strict where they
are (no NaN, no byte-order mark, nothing after the document).
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_SPACE = " \t\n\r"
_quote = _json.encode_basestring


class SyntaxProblem(ValueError):
    """Text that is not JSON; says what is wrong and at which character."""


def _no_constant(text: str) -> Any:
    raise SyntaxProblem(f"{text} is not JSON")


class _Context:
    """The knobs of the C scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)
    memo: dict[str, str] = {}


_scan = _json.make_scanner(_Context())


def decode(data: bytes | str) -> Any:
    """The one JSON document in `data`.

    Raises:
        SyntaxProblem: not JSON, too deep, or followed by something else.
    """
    text = _text(data)
    start = _skip(text, 0)
    value, end = _value(text, start)
    end = _skip(text, end)
    if end != len(text):
        raise SyntaxProblem(f"invalid character {text[end]!r} after top-level value, at character {end}")
    return _mended(text, value)


def elements(data: bytes | str) -> Iterator[tuple[Any, str]]:
    """Each element of the JSON array in `data`, with the very text it was written in.

    Nothing, white space only and `null` are an array without elements only when `data` is empty or `null`; blank
    text is an error, as it is for the peers.

    Raises:
        SyntaxProblem: not an array, or broken.
    """
    text = _text(data)
    if not text:
        return
    at = _skip(text, 0)
    if text[at : at + 1] != "[":
        value, end = _value(text, at)
        if value is None and _skip(text, end) == len(text):
            return
        raise SyntaxProblem(f"wanted an array, found {_kind(value)}")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "]":
        at += 1
    else:
        fix = "\\u" in text
        while True:
            value, end = _value(text, at)
            yield (_mended(text[at:end], value) if fix else value), text[at:end]
            follows = text[end : end + 1]
            if follows not in (",", "]"):
                end = _skip(text, end)
                follows = text[end : end + 1]
            if follows == ",":
                at = end + 1
                if text[at : at + 1] != "{":
                    at = _skip(text, at)
                continue
            if follows == "]":
                at = end + 1
                break
            if not follows:
                raise SyntaxProblem("unexpected end of JSON input")
            raise SyntaxProblem(f"invalid character {follows!r} after array element, at character {end}")
    at = _skip(text, at)
    if at != len(text):
        raise SyntaxProblem(f"invalid character {text[at]!r} after top-level value, at character {at}")


def encode(value: Any) -> str:
    """`value` as compact JSON text: keys of maps sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _encode_float(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode_text(key)}:{encode(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(encode, value)) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def encode_text(text: str) -> str:
    """One JSON string."""
    quoted = _quote(text)
    if "<" in quoted:
        quoted = quoted.replace("<", "\\u003c")
    if ">" in quoted:
        quoted = quoted.replace(">", "\\u003e")
    if "&" in quoted:
        quoted = quoted.replace("&", "\\u0026")
    if not quoted.isascii():
        quoted = quoted.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        try:
            quoted.encode()
        except UnicodeEncodeError:
            quoted = _without_surrogates(quoted)
    return quoted


def _encode_float(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{value} has no JSON form")
    if value == int(value) and abs(value) < 1e21:
        return str(int(value)) if value or str(value)[0] != "-" else "-0"
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        sign = "-" if exponent[0] == "-" else "+"
        return f"{mantissa.removesuffix('.0')}e{sign}{exponent.lstrip('+-').lstrip('0')}"
    return text


def _text(data: bytes | str) -> str:
    return data if isinstance(data, str) else str(data, "utf-8", "replace")


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _SPACE:
        at += 1
    return at


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = _scan(text, at)
    except StopIteration:
        if at >= len(text):
            raise SyntaxProblem("unexpected end of JSON input") from None
        raise SyntaxProblem(
            f"invalid character {text[at]!r} looking for a value, at character {at}"
        ) from None
    except RecursionError:
        raise SyntaxProblem(f"nested too deeply, from character {at}") from None
    except SystemError:
        # Before 3.13 the C scanner can only name an error once its Python half is loaded; load it and ask again.
        import json.decoder  # noqa: F401

        return _value(text, at)
    except SyntaxProblem:
        raise
    except ValueError as error:
        raise SyntaxProblem(str(error)) from None
    return value, end


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        return "a string"
    return (
        "null" if value is None else f"the {'boolean' if isinstance(value, bool) else 'number'} {value!r:.40}"
    )


def _mended(text: str, value: Any) -> Any:
    """Lone surrogates, which only an escape can bring in, become U+FFFD as they do for the peers."""
    return _replaced(value) if "\\ud" in text or "\\uD" in text else value


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return _without_surrogates(value)
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return value


def _without_surrogates(text: str) -> str:
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
