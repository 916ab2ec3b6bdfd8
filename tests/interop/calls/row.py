"""One call of the table, what it gives, and the ways to say that the two programs differ."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a call gave. `out` and `err` are normalised text."""

    status: int
    out: str = ""
    err: str = ""


@dataclass(frozen=True)
class Row:
    """One call: words as for a shell, `{work}` for the directory with files, `@C1` for the layer of container C1.

    What begins with `!` is for a shell indeed, to change or to look at what `BASE`, the place of the store, holds,
    or to call `PROGRAM` in its own way.
    """

    call: str
    data: bytes = b""
    ours: Answer | None = None
    why: str = ""
    says: str = ""


def failing(call: str, says: str) -> Row:
    """Both programs fail, with nothing on standard output and these words, which clients look for, in the error."""
    return Row(call, says=says)


def differs(call: str, why: str, status: int, out: str = "", err: str = "", data: bytes = b"") -> Row:
    return Row(call, data, Answer(status, out, err), why)


NEWER = "newer: "  # 1.60 does it as we do
MENDED = "mended: "  # a defect of the peers (docs/compatibility.md)

HASH = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
