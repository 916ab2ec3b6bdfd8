"""What a worker process says to its parent: values and errors, as bytes.

A worker deals with hostile input, so what it says is not trusted to `pickle`, nor to `marshal`. What is decoded here
can only be a value of a few plain types; an error can only be one of ours or one of the system's.
"""

from __future__ import annotations

import os

from orlop import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_DEPTH = 20


def encode(value: object) -> bytes:
    """None, numbers, texts, bytes, and tuples, lists and dicts of them as bytes; the opposite of `decode`.

    What is none of these becomes the text that shows it: facts of an error are for people.
    """
    if value is None:
        kind, body = b"n", b""
    elif isinstance(value, int):
        kind, body = b"i", b"%d" % value
    elif isinstance(value, bytes):
        kind, body = b"b", value
    elif isinstance(value, str):
        kind, body = b"s", value.encode("utf-8", "surrogatepass")
    elif isinstance(value, list | tuple):
        kind, body = b"t", b"".join([encode(item) for item in value])
    elif isinstance(value, dict):
        kind, body = b"d", b"".join([encode(item) for pair in value.items() for item in pair])
    else:
        kind, body = b"s", repr(value).encode("utf-8", "surrogatepass")
    return kind + len(body).to_bytes(4, "little") + body


def decode(data: bytes) -> Any:
    """The value that `encode` made these bytes of; sequences come back as tuples. ValueError if there is none."""
    value, end = _decode(data, 0, 0)
    if end != len(data):
        raise ValueError("bytes left after a value")
    return value


def _decode(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind = data[at : at + 1]
    end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "little")
    if end > len(data) or at + 5 > len(data) or depth > _DEPTH:
        raise ValueError("value cut short or nested too deeply")
    body = data[at + 5 : end]
    if kind == b"n":
        return None, end
    if kind == b"i":
        return int(body), end
    if kind == b"b":
        return body, end
    if kind == b"s":
        return body.decode("utf-8", "surrogatepass"), end
    if kind not in (b"t", b"d"):
        raise ValueError(f"unknown kind of value {kind!r}")
    items: list[Any] = []
    at += 5
    while at < end:
        item, at = _decode(data, at, depth + 1)
        items.append(item)
    if kind == b"t":
        return tuple(items), end
    try:
        return dict(zip(items[::2], items[1::2], strict=True)), end
    except TypeError as error:  # a dict as a key
        raise ValueError(f"not a value: {error}") from None


def described(error: BaseException) -> bytes:
    """An error, so that `error_from` can make it again in another process."""
    if isinstance(error, errors.StorageError):
        return encode(("ours", type(error).__name__, str(error), error.peer, error.facts))
    if isinstance(error, OSError) and error.errno is not None:
        return encode(("system", error.errno, error.strerror, error.filename, error.filename2))
    place = "?"
    trace = error.__traceback__
    while trace is not None:  # `traceback` would want to import, and read source, inside the root
        place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return encode(("other", type(error).__name__, str(error), place))


def error_from(data: bytes) -> BaseException:
    """The error that `described` made these bytes of: same class, same text, same facts.

    What is neither ours nor the system's is a defect in the worker, and becomes a RuntimeError that tells where.
    """
    origin, *rest = decode(data)
    if origin == "ours":
        name, text, peer, facts = rest
        leaf = getattr(errors, name, None)
        if isinstance(leaf, type) and issubclass(leaf, errors.StorageError):
            return leaf(text, peer=peer, **facts)
    elif origin == "system":
        code, text, filename, filename2 = rest
        return OSError(code, text, filename, None, filename2)
    elif rest[0] == "MemoryError":
        return MemoryError("the worker process ran out of memory")
    return RuntimeError(f"the worker process failed: {', '.join(map(str, rest))}")
