"""Tables of contents of zstd:chunked blobs: JSON to what a tar header says, and back (`spec/chunked.md` 4).

Rule 1. A table is somebody else's: what it says about the blob is checked for sense before a byte of the blob is
asked for. Extents follow each other and end before the table, chunks make up their file, digests are there.
Rule 2. What it says about files is compared with the headers of the tar, field by field (`difference`): two views of
one layer that differ are an attack.
Rule 3. Reading is lenient where the peers are: keys in any case, keys nobody knows, any `version`.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

from orlop.errors import BadTOC, InvalidDigest
from orlop.formats import gojson, tarheader
from orlop.formats.tarheader import Entry
from orlop.formats.tarsplit import quoted
from orlop.model.digest import Digest
from orlop.model.timestamp import Timestamp, is_timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

VERSION = 1
ZEROS = "zeros"
EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""Digest of nothing."""

NAMES = {
    tarheader.REGULAR: "reg",
    tarheader.HARD_LINK: "hardlink",
    tarheader.SYMLINK: "symlink",
    tarheader.CHAR: "char",
    tarheader.BLOCK_DEVICE: "block",
    tarheader.DIRECTORY: "dir",
    tarheader.FIFO: "fifo",
}
"""What each type of entry is called; others have no place in a table."""

_TYPES = {name: type for type, name in NAMES.items()}
_CHUNK = "chunk"
_NUMBER_MAX = 2**63 - 1
_TIMES = (("modtime", "mtime_ns"), ("accesstime", "atime_ns"), ("changetime", "ctime_ns"))
_UNSET_NS = Timestamp("0001-01-01T00:00:00Z").ns
_TOO_LATE_NS = Timestamp("9999-12-31T23:59:59Z").ns + 1_000_000_000


class Chunk:
    """A part of a file: `size` bytes of it from `position` on; `offset` to `end` are its frames in the blob."""

    __slots__ = ("digest", "end", "offset", "position", "size", "zeros")

    def __init__(
        self, offset: int, end: int, size: int, position: int = 0, digest: str = "", zeros: bool = False
    ) -> None:
        self.offset = offset
        self.end = end
        self.size = size
        self.position = position
        self.digest = digest
        self.zeros = zeros


class Listed:
    """An entry of the table: what a header says; of a file that is not empty its digest, and its chunks in order."""

    __slots__ = ("chunks", "digest", "entry")

    def __init__(self, entry: Entry, digest: str = "", chunks: Iterable[Chunk] = ()) -> None:
        self.entry = entry
        self.digest = digest
        self.chunks = list(chunks)


class TOC:
    """A table: its entries by name, in order, and the digest of the compressed tar-split, or ""."""

    __slots__ = ("entries", "tar_split_digest")

    def __init__(self, entries: Iterable[Listed], tar_split_digest: str = "") -> None:
        """Raises `BadTOC` for a name that is there twice."""
        self.entries: dict[bytes, Listed] = {}
        self.tar_split_digest = tar_split_digest
        for listed in entries:
            name = listed.entry.name
            if name in self.entries:
                raise BadTOC(f"the table of contents has two entries for {quoted(name)}", name=name)
            self.entries[name] = listed


def difference(listed: Entry, found: Entry) -> str:
    """The first field in which an entry of the table differs from the header of the tar, or ""."""
    for field in ("type", "name", "linkname", "mode", "size", "uid", "gid", "devmajor", "devminor"):
        if getattr(listed, field) != getattr(found, field):
            return field
    for _, field in _TIMES:
        if (getattr(listed, field) or 0) != (getattr(found, field) or 0):  # the epoch means "not known"
            return field
    return "xattrs" if (listed.xattrs or {}) != (found.xattrs or {}) else ""


def unsayable(entry: Entry) -> str:
    """Why a table cannot have an entry, as half a sentence; or ""."""
    if entry.type not in NAMES:
        return f"is of type {chr(entry.type)!r}"
    if entry.sparse is not None:
        return "is sparse"
    if min(entry.mode, entry.uid, entry.gid, entry.devmajor, entry.devminor) < 0:
        return "has a negative number"
    if not all(_UNSET_NS < (getattr(entry, field) or 0) < _TOO_LATE_NS for _, field in _TIMES):
        return "has a time before the year 1 or after the year 9999"
    try:
        for text in (entry.name, entry.linkname, *(entry.xattrs or ())):
            text.decode()
    except UnicodeDecodeError:
        return "has a name that is not UTF-8"
    return ""


# --- reading -------------------------------------------------------------------------------------------------


def parse(data: bytes, limit: int) -> TOC:
    """The table in `data`. `limit` is where it begins in the blob: all content lies before that.

    Raises:
        BadTOC: with what is wrong, and with which entry.
    """
    try:
        document = _members(gojson.decode(data), "the table of contents")
    except gojson.SyntaxProblem as error:
        raise BadTOC(f"the table of contents is not JSON: {error}") from None
    entries = document.get("entries")
    if entries is not None and not isinstance(entries, list):
        raise BadTOC("the entries of the table of contents are not a list")
    tar_split = _text(document, "tarsplitdigest")
    if tar_split:
        _digest(tar_split, document)
    return TOC(_listed([_members(entry, "an entry") for entry in entries or ()], limit), tar_split)


def _listed(raw: list[dict[str, Any]], limit: int) -> list[Listed]:
    found: list[Listed] = []
    parts: list[dict[str, Any]] = []  # the file's own members and those of its chunks
    files: list[tuple[Listed, list[dict[str, Any]]]] = []
    for members in raw:
        if members.get("type") == _CHUNK:
            if not parts or members.get("name") != parts[0].get("name"):
                raise BadTOC(f"a chunk of {_shown(members)} does not follow its file")
            parts.append(members)
            continue
        listed = Listed(_entry(members))
        found.append(listed)
        parts = []
        if listed.entry.type == tarheader.REGULAR:
            listed.digest = _text(members, "digest")
            if listed.entry.size:
                _digest(listed.digest, members)
                parts = [members]
                files.append((listed, parts))
            elif listed.digest not in ("", EMPTY):
                raise BadTOC(f"the empty file {_shown(members)} has the digest of another")
    end = limit
    for listed, parts in reversed(files):
        end = _place(listed, parts, end)
    return found


def _place(listed: Listed, parts: list[dict[str, Any]], limit: int) -> int:
    """Set the chunks of a file whose content ends at `limit` or before; where it begins."""
    end = _number(parts[0], "endoffset") or limit
    if end > limit:
        raise BadTOC(f"the content of {_shown(parts[0])} ends at {end}, inside of what follows it")
    chunks = []
    rest = listed.entry.size
    for number, members in reversed(list(enumerate(parts))):
        offset, position = _number(members, "offset"), _number(members, "chunkoffset")
        size = _number(members, "chunksize") or rest - position
        digest = _text(members, "chunkdigest")
        if digest:
            _digest(digest, members)
        if size <= 0 or position + size != rest or (number == 0) != (position == 0):
            raise BadTOC(f"the chunks of {_shown(members)} do not make up its {listed.entry.size} bytes")
        if offset >= end:
            raise BadTOC(
                f"the content of {_shown(members)} at {offset} does not end after that, but at {end}"
            )
        chunks.append(Chunk(offset, end, size, position, digest, _text(members, "chunktype") == ZEROS))
        rest, end = position, offset
    listed.chunks = chunks[::-1]
    return end


def _entry(members: dict[str, Any]) -> Entry:
    type = _TYPES.get(_text(members, "type"))
    if type is None:
        raise BadTOC(f"the entry {_shown(members)} has the type {members.get('type')!r:.40}")
    entry = Entry(
        _name(members, "name"),
        _name(members, "linkname"),
        type,
        _number(members, "mode"),
        _number(members, "uid"),
        _number(members, "gid"),
        _number(members, "size"),
        devmajor=_number(members, "devmajor"),
        devminor=_number(members, "devminor"),
        xattrs=_xattrs(members),
    )
    for key, field in _TIMES:
        setattr(entry, field, _time(members, key))
    return entry


def _members(value: object, what: str) -> dict[str, Any]:
    """An object's members as the peers see them: keys without regard to case, null is unset."""
    if not isinstance(value, dict):
        raise BadTOC(f"{what} is not an object")
    return {key.casefold(): item for key, item in value.items() if item is not None}


def _shown(members: Mapping[str, Any]) -> str:
    """What members belong to; for errors only, as it takes its time."""
    name = members.get("name")
    if name is None:
        return "an entry without a name" if "type" in members else "the table of contents"
    return quoted(name.encode()) if isinstance(name, str) else repr(name)[:80]


def _text(members: Mapping[str, Any], key: str) -> str:
    value = members.get(key, "")
    if not isinstance(value, str):
        raise BadTOC(f"{key} of {_shown(members)} is {value!r:.40}, not a text")
    return value


def _name(members: Mapping[str, Any], key: str) -> bytes:
    text = _text(members, key)
    if "\0" in text:
        raise BadTOC(f"{key} of {_shown(members)} has a NUL")
    return text.encode()


def _number(members: Mapping[str, Any], key: str) -> int:
    value = members.get(key, 0)
    if type(value) is not int or not 0 <= value <= _NUMBER_MAX:
        raise BadTOC(f"{key} of {_shown(members)} is {value!r:.40}")
    return value


def _digest(text: str, members: Mapping[str, Any]) -> None:
    try:
        Digest.parse(text)
    except InvalidDigest as error:
        raise BadTOC(f"a digest of {_shown(members)} is missing or none: {error}") from None
    if not text.startswith("sha256:"):
        raise BadTOC(f"{_shown(members)} has the digest {text}: only sha256 is read")


def _time(members: Mapping[str, Any], key: str) -> int:
    text = _text(members, key)
    if not text:
        return 0
    if not is_timestamp(text):
        raise BadTOC(f"{key} of {_shown(members)} is {text!r:.60}, no time")
    ns = Timestamp(text).ns
    return 0 if ns == _UNSET_NS else ns


def _xattrs(members: Mapping[str, Any]) -> dict[bytes, bytes] | None:
    value = members.get("xattrs")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadTOC(f"xattrs of {_shown(members)} are not an object")
    try:
        return {key.encode(): a2b_base64(text.encode(), strict_mode=True) for key, text in value.items()}
    except (ValueError, AttributeError) as error:
        raise BadTOC(f"xattrs of {_shown(members)} are not base64: {error}") from None


# --- writing -------------------------------------------------------------------------------------------------


def encode(toc: TOC) -> bytes:
    """The table as JSON; of entries that are not `unsayable`."""
    entries: list[dict[str, Any]] = []
    for listed in toc.entries.values():
        entries += _documents(listed)
    document: dict[str, Any] = {"version": VERSION, "entries": entries}
    if toc.tar_split_digest:
        document["tarSplitDigest"] = toc.tar_split_digest
    return gojson.encode(document).encode()


def _documents(listed: Listed) -> list[dict[str, Any]]:
    entry = listed.entry
    name = entry.name.decode()
    document: dict[str, Any] = {
        "linkName": entry.linkname.decode(),
        "mode": entry.mode,
        "size": entry.size,
        "uid": entry.uid,
        "gid": entry.gid,
        "devMajor": entry.devmajor,
        "devMinor": entry.devminor,
        "digest": listed.digest,
        "xattrs": {
            key.decode(): b2a_base64(value, newline=False).decode()
            for key, value in (entry.xattrs or {}).items()
        },
    }
    for key, field in _TIMES:
        ns = getattr(entry, field)
        document[key] = str(Timestamp.from_ns(ns)) if ns else ""
    documents = [{"type": NAMES[entry.type], **document}]
    documents += [{"type": _CHUNK} for _ in listed.chunks[1:]]
    for members, chunk in zip(documents, listed.chunks, strict=False):
        members["offset"] = chunk.offset
        if len(listed.chunks) > 1:
            members["chunkSize"] = chunk.size
            members["chunkOffset"] = chunk.position
            members["chunkDigest"] = chunk.digest
            members["chunkType"] = ZEROS if chunk.zeros else ""
    if listed.chunks:
        documents[0]["endOffset"] = listed.chunks[-1].end
    return [{"name": name} | {key: value for key, value in each.items() if value} for each in documents]
