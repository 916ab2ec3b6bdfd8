"""The text of /etc/passwd and /etc/group: who is in it, and how many ids an image needs (`spec/userns.md` 3.1, 4.4).

Rule 1: a line is never an error. Files of images are whatever their makers left there, and the peers take what they
        can of each line: missing fields are empty or 0, what is no number is 0.
Rule 2: sizes are computed exactly as the peers do it, oddities included: two programs that give out ids of one store
        must not differ about how many an image wants.
"""

from __future__ import annotations

import io

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_MAX = 65_536
"""A line of a passwd file has fewer bytes than this, or the whole file counts as empty: the buffer of the peers'
line reader. Lines of group files have no such limit."""

NOBODY = 65_534
_NOT_COUNTED = ("nobody", "nogroup")

# What Unicode calls white space. Python's own idea has four control characters more (U+001C to U+001F).
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_INT64_MAX = 2**63 - 1


class Account(Value):
    """A user, or a group, whose `uid` is None then. Numbers are as written: they may be negative or huge."""

    __slots__ = ("gid", "name", "uid")
    __match_args__ = ("name", "uid", "gid")

    name: str
    uid: int | None
    gid: int

    def __init__(self, name: str, uid: int | None, gid: int) -> None:
        self._fill(name, uid, gid)


def users(data: bytes) -> Iterator[Account]:
    """The entries of a passwd file. A line that starts with `#` is one, too: the peers know no comments there."""
    for line in io.BytesIO(data):
        text = _trimmed(line)
        if text:
            name, _, uid, gid = _fields(text, 4)
            yield Account(name, _number(uid), _number(gid))


def groups(data: bytes) -> Iterator[Account]:
    """The entries of a group file, without comments."""
    for line in io.BytesIO(data):
        text = _trimmed(line)
        if text and not text.startswith("#"):
            name, _, gid = _fields(text, 3)
            yield Account(name, None, _number(gid))


def ids_needed(passwd: bytes, group: bytes) -> int:
    """How many ids, from 0 on, the users and groups of an image need.

    An id is compared with the number that is needed so far, not with the highest id so far. So users 1000 and 1001
    need 1001 ids, and a lone root needs none: that is how the peers count.
    """
    size = _raised(0, passwd, 4, LINE_MAX)
    return _raised(size, group, 3, len(group) + 1, comments=True)


def _raised(size: int, data: bytes, count: int, line_max: int, *, comments: bool = False) -> int:
    """The size that is needed when the ids in the fields 2 to `count` of all lines are, too.

    One of the hostile files that this is made for has millions of lines, and somebody waits: no entries are made.
    """
    before = size
    for line in io.BytesIO(data):
        if len(line) >= line_max and len(line.removesuffix(b"\n")) >= line_max:
            return before
        if line.count(b":") < 2:
            continue  # no numbers, which are 0 then
        text = _trimmed(line)
        fields = text.split(":", count)
        if fields[0] in _NOT_COUNTED or (comments and text[0] == "#"):
            continue
        for field in fields[2:count]:
            id = _number(field)
            if id > size and id != NOBODY:
                size = id + 1
    return size


def _trimmed(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape").strip(_BLANKS)


def _fields(line: str, count: int) -> list[str]:
    """The first so many fields; those that are missing are empty."""
    fields = line.split(":", count)[:count]
    return fields + [""] * (count - len(fields))


def _number(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        return 0
    # Cut: int() refuses thousands of digits. Whoever is past 64 bits is past every id.
    value = int(digits) if len(digits) < 19 else min(int(digits.lstrip("0")[:20] or "0"), _INT64_MAX)
    return -value if text[0] == "-" else value
