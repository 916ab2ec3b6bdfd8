"""What differs in a layer as findings: our sentence, and the peers' lines (`spec/check-repair.md` 3, 4.3)."""

from __future__ import annotations

import os
import stat

from orlop.formats.tarheader import REGULAR
from orlop.formats.tarsplit import clean_name, quoted
from orlop.model.timestamp import Timestamp
from orlop.store.check.compare import ADDED, MISSING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.findings import Finding
    from orlop.store.check.archives import Problem
    from orlop.store.check.compare import Difference
    from orlop.store.check.findings import Subject

_ARROW = "\uffeb"
_MODIFIED = "layer content modified"
_COPIED = "copied from where the same file is; else the layer is removed with what is built on it"

_OF_CONTENT = ("size", "content", "filetype")

_KINDS = {
    "0": "a file",
    "1": "a hard link",
    "2": "a symlink",
    "3": "a character device",
    "4": "a block device",
    "5": "a directory",
    "6": "a FIFO",
    "s": "a socket",
}


def system_text(error: OSError) -> str:
    """`open <path>: no such file or directory`, as the peers' system says it."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    reason = reason[:1].lower() + reason[1:]
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return f"open {where}: {reason}" if where else reason


def trailer_lines(subject: Subject, errors: tuple[str, ...]) -> tuple[str, ...]:
    """What they report first of an error met while reading: it shows twice."""
    return tuple([f"{subject}: consume any trailer after the EOF marker: {error}" for error in errors])


def of_problem(subject: Subject, problem: Problem, directory: str, *, is_first: bool) -> Finding:
    """A file of an archive. Their stream ends at the first one, so it is the only one that they report."""
    name = os.fsdecode(clean_name(b"/" + problem.name))
    path = directory + name if directory else ""
    error = f"file integrity checksum failed for {quoted(problem.name)}"
    if problem.code == "missing":
        error = f"open {directory}{name}: no such file or directory"
    elif problem.code == "unreadable" and isinstance(problem.error, OSError):
        error = system_text(problem.error)
    peers = (error,) if is_first else ()
    return subject.finding(
        "content-missing" if problem.code == "missing" else "content-changed",
        f"{name} {problem.text}",
        path=path,
        name=name,
        remedy=_COPIED,
        peers=peers,
        peers_own=trailer_lines(subject, peers),
    )


def of_difference(
    subject: Subject, difference: Difference, directory: str, *, told_by_peers: bool
) -> Finding:
    name = os.fsdecode(difference.path)
    slash = "/" if difference.is_directory else ""
    node = difference.node
    remedy = _COPIED
    if difference.what == MISSING:
        code, text, lines = "tree-missing", f"{name}{slash} is missing", [f"-{name}{slash}"]
        if node is None or node.kind != REGULAR or node.size == 0:
            remedy = "made again"
    elif difference.what == ADDED:
        code, text, lines = "tree-added", f"{name}{slash} was not put into it", [f"+{name}{slash}"]
        remedy = "removed"
    else:
        code = "tree-changed"
        text = f"{name}{slash}: " + "; ".join(_sentence(*attribute) for attribute in difference.attributes)
        attributes = ",".join(
            f"{word}:{_of_peers(word, wanted)}{_ARROW}{_of_peers(word, found)}"
            for word, wanted, found in difference.attributes
        )
        line = f"{name}({attributes})"
        lines = [line] if difference.is_directory else [line, f"+{line}"]  # of a file they report it twice
        words = {word for word, _, _ in difference.attributes}
        if node is None or node.kind != REGULAR or words.isdisjoint(_OF_CONTENT):
            remedy = "put right as the layer's archive has it"
    peers = tuple([f"{line}, {_MODIFIED}" for line in lines]) if told_by_peers else ()
    own: tuple[str, ...] = ()
    if peers and _is_socket(directory + name):
        peers, own = (), (f"scanning contents of {subject}: archive/tar: sockets not supported",)
    return subject.finding(
        code, text, path=directory + name, name=name, remedy=remedy, peers=peers, peers_own=own
    )


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _of_peers(word: str, value: str) -> str:
    return f"0x{int(value) // 1_000_000_000:x}" if word == "mtime" else value


def _sentence(word: str, wanted: str, found: str) -> str:
    if word == "filetype":
        return f"is {_kind(found)}, and should be {_kind(wanted)}"
    if word == "content":
        return "has another content" if wanted != "readable" else f"cannot be read: {found}"
    if word == "mtime":
        return f"time is {_time(found)}, and should be {_time(wanted)}"
    word = {"uid": "user", "gid": "group"}.get(word, word)
    return f"{word} is {found}, and should be {wanted}"


def _time(ns: str) -> str:
    try:
        return Timestamp.from_ns(int(ns))
    except (OverflowError, ValueError, OSError):
        return f"{int(ns) // 1_000_000_000} seconds after 1970"


def _kind(code: str) -> str:
    return _KINDS.get(chr(int(code)), "something else")
