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
    for line in _lines(data):
        name, _, uid, gid = _fields(line, 4)
        yield Account(name, _number(uid), _number(gid))


def groups(data: bytes) -> Iterator[Account]:
    """The entries of a group file, without comments."""
    for line in _lines(data):
        if not line.startswith("#"):
            name, _, gid = _fields(line, 3)
            yield Account(name, None, _number(gid))


def ids_needed(passwd: bytes, group: bytes) -> int:
    """How many ids, from 0 on, the users and groups of an image need.

    An id is compared with the number that is needed so far, not with the highest id so far. So users 1000 and 1001
    need 1001 ids, and a lone root needs none: that is how the peers count.
    """
    size = 0
    for entry in users(passwd) if _has_usable_lines(passwd) else ():
        if entry.name not in _NOT_COUNTED:
            for id in (entry.uid or 0, entry.gid):
                if id > size and id != NOBODY:
                    size = id + 1
    for entry in groups(group):
        if entry.name not in _NOT_COUNTED and entry.gid > size and entry.gid != NOBODY:
            size = entry.gid + 1
    return size


def _has_usable_lines(passwd: bytes) -> bool:
    return all(len(line.removesuffix(b"\n")) < LINE_MAX for line in io.BytesIO(passwd))


def _lines(data: bytes) -> Iterator[str]:
    """One after the other: the lines of a file take several times its size in memory."""
    for line in io.BytesIO(data):
        text = line.decode("utf-8", "surrogateescape").strip(_BLANKS)
        if text:
            yield text


def _fields(line: str, count: int) -> list[str]:
    """The first so many fields; those that are missing are empty."""
    fields = line.split(":", count)[:count]
    return fields + [""] * (count - len(fields))


def _number(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        return 0
    # Cut: int() refuses thousands of digits. Whoever is past 64 bits is past every id.
    value = min(int(digits.lstrip("0")[:20] or "0"), _INT64_MAX)
    return -value if text[0] == "-" else value
