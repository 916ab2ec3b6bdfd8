"""How the peers word things: one table from our exceptions to their texts (`spec/errors.md`), quoting, log lines.

The library's own sentences say more; here the wording is a contract, because clients match on it. A condition
that the peers do not know keeps our sentence.
"""

from __future__ import annotations

import errno
import os
import time

from orlop import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Facts = Mapping[str, Any]


def describe(error: BaseException) -> str:
    """The text that the peers have for this error, with those of failed cleaning-up on lines of their own."""
    return "\n".join([_worded(error), *getattr(error, "__notes__", ())])


def _worded(error: BaseException) -> str:
    if isinstance(error, OSError) and not isinstance(error, errors.StorageError):
        return system_text(error)
    if not isinstance(error, errors.StorageError):
        return str(error) or type(error).__name__
    given = error.peer != type(error).peer  # whoever raised it gave the peers' whole text
    for kind in type(error).__mro__:
        if kind in _OURS or (kind is errors.InvalidKey and "action" not in error.facts):
            sentence = str(error)
            return sentence if error.peer in sentence else f"{sentence}: {error.peer}"
        if kind in _WORDING and not given:
            try:
                return _WORDING[kind](error.peer, error.facts)
            except KeyError:  # raised without the facts of the long form
                return error.peer
    return error.peer if given else str(error)


def describe_opening(error: BaseException) -> str:
    """`describe`, for what a store could not be opened for: then directories are made, and lock files opened."""
    if isinstance(error, OSError) and not isinstance(error, errors.StorageError):
        return system_text(error, "open" if str(error.filename).endswith(".lock") else "mkdir")
    return describe(error)


def system_text(error: OSError, operation: str = "") -> str:
    """`open <path>: no such file or directory`: operation, path, reason in lower case.

    Errors do not tell what was tried. If the caller does not either, it is what the peers try first on a file that
    is not there: they look at the directory of a layer, and open what is in it, which has a name in there only.
    """
    reason = error.strerror or str(error)
    if error.errno and (kernels := os.strerror(error.errno)).lower() not in reason.lower():
        reason = f"{reason}: {kernels.lower()}"  # clients look for it
    reason = reason[:1].lower() + reason[1:]
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if where and not operation and error.errno == errno.ENOENT:
        operation = "stat" if where.startswith("/") else "open"
    subject = f"{operation} {where}".strip()
    return f"{subject}: {reason}" if subject else reason


def _plain(peer: str, facts: Facts) -> str:
    return peer


def _data_unknown(peer: str, facts: Facts) -> str:
    kind = facts["kind"]
    if kind == "container":  # the peers look no further than the file
        return f"open {facts['path']}: no such file or directory"
    hint = " (consider removing the image to resolve the issue)" if kind == "image" else ""
    return f"locating item named {quote(facts['key'])} for {kind} with ID {quote(facts['id'])}{hint}: {peer}"


def _duplicate_name(peer: str, facts: Facts) -> str:
    kind, name, owner = facts["kind"], facts["name"], facts["owner"]
    if kind == "image":
        return f"image name {quote(name)} is already associated with image {quote(owner)}: {peer}"
    if kind == "container":
        return (
            f"the container name {quote(name)} is already in use by {owner}. "
            f"You have to remove that container to be able to reuse that name: {peer}"
        )
    return peer


def _duplicate_id(peer: str, facts: Facts) -> str:
    return (
        f"an image with ID {quote(facts['id'])} already exists: {peer}" if facts["kind"] == "image" else peer
    )


def _invalid_key(peer: str, facts: Facts) -> str:
    return f"can't {_KEY_ACTIONS[facts['action']].format(kind=facts['kind'])}: {peer}"


_KEY_ACTIONS = {
    "set": "set empty name for {kind} big data item",
    "get": "retrieve {kind} big data value for empty name",
    "size": "retrieve size of {kind} big data with empty name",
    "digest": "retrieve digest of {kind} big data value with empty name",
}

_WORDING: dict[type, Callable[[str, Facts], str]] = {
    errors.LayerUnknown: _plain,
    errors.ImageUnknown: lambda peer, f: f"locating image with ID {quote(f['ref'])}: {peer}",
    errors.ContainerUnknown: _plain,
    errors.NotAnID: _plain,
    errors.NotALayer: _plain,
    errors.NotAnImage: _plain,
    errors.NotAContainer: _plain,
    errors.DataUnknown: _data_unknown,
    errors.SizeUnknown: _plain,
    errors.DigestUnknown: _plain,
    errors.DuplicateID: _duplicate_id,
    errors.DuplicateName: _duplicate_name,
    errors.LayerHasChildren: lambda peer, f: f"used by layer {f['child']}: {peer}",
    errors.LayerUsedByImage: lambda peer, f: f"layer {f['id']} used by image {f['image']}: {peer}",
    errors.LayerUsedByContainer: lambda peer, f: (
        f"layer {f['id']} used by container {f['container']}: {peer}"
    ),
    errors.ImageUsedByContainer: lambda peer, f: f"image used by {f['container']}: {peer}",
    errors.ParentIsContainer: _plain,
    errors.LayerNotMounted: _plain,
    errors.StillMounted: lambda peer, f: f"a layer is mounted: {peer}",
    errors.IncompleteOptions: lambda peer, f: f"no storage runroot or graphroot specified: {peer}",
    errors.InvalidDigest: _plain,
    errors.InvalidKey: _invalid_key,
    errors.ReadOnly: _plain,
    errors.NotSupported: _plain,
}

# Conditions told in our own sentence, to which the text that clients look for is added; and keys other than the empty
# one, which is the only one that the peers refuse.
_OURS = frozenset((errors.Damaged, errors.Unsafe, errors.LockTimeout))


# --- quoting ------------------------------------------------------------------------------------------------

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quote(text: str | bytes) -> str:
    """`text` in double quotes, like a C string (`spec/cli.md` 2.3)."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    known = _ESCAPES.get(char)
    if known is not None:
        return known
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how a byte that is not UTF-8 is carried in a str
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def log_line(level: str, message: str) -> str:
    """A line of the log, which is on standard error (`spec/cli.md` 1.7)."""
    now = time.localtime()
    offset = now.tm_gmtoff // 60
    sign = "-" if offset < 0 else "+"
    zone = f"{sign}{abs(offset) // 60:02}:{abs(offset) % 60:02}" if offset else "Z"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", now)
    return f'time="{stamp}{zone}" level={level} msg={quote(message)}\n'
