"""Lines of `<id>.tar-split.gz`: what stands between the payloads of a layer's tar (`spec/tar-split.md` 3).

A segment line holds raw bytes of the stream; a file line stands for the payload of one entry, by name, size and
CRC-64. Writing gives the lines of the peers to the byte. Reading takes whatever the peers take: keys in any case,
objects without a newline between them, `null` and empty payloads.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64

from orlop.errors import BadTarSplit, DuplicatePath, LimitExceeded
from orlop.formats import crc64, limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from json import JSONDecoder

FILE = 1
SEGMENT = 2


class SplitFile:
    """What a record says about the payload of one entry: the name, the size, the checksum as it is stored.

    `type` is FILE, or that of some later kind of entry that nobody knows yet.
    """

    __slots__ = ("checksum", "name", "size", "type")

    def __init__(self, name: bytes, size: int = 0, checksum: bytes = b"", type: int = FILE) -> None:
        self.name = name
        self.size = size
        self.checksum = checksum
        self.type = type

    def __repr__(self) -> str:
        return f"<SplitFile {self.name!r} size={self.size} checksum={self.checksum.hex()} type={self.type}>"


if TYPE_CHECKING:
    Item = bytes | SplitFile
    """One object of a record: the bytes of a segment, or a file."""


# --- names ---------------------------------------------------------------------------------------------------


def clean_name(name: bytes) -> bytes:
    """The name without what does not change where it points, lexically: `./a//b/` is `a/b`, nothing is `.`."""
    if name.endswith(b"/"):
        name = name.rstrip(b"/") or b"/"
    # Nearly every name is clean already.
    if b"//" not in name and b"/." not in name and name[:1] not in (b".", b""):
        return name
    rooted = name.startswith(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b".." and parts and parts[-1] != b"..":
            parts.pop()
        elif part == b".." and rooted:
            continue
        elif part not in (b"", b"."):
            parts.append(part)
    joined = b"/".join(parts)
    return b"/" + joined if rooted else joined or b"."


_UNCLEAN = b"./"


def parted(name: bytes) -> tuple[bytes, bytes, bytes]:
    """The cleaned name of an entry beneath the root of a layer, its directory, its last part (b"" for the root).

    Climbing ends at the root, as it does for a process whose root this is.
    """
    if name[:2] == b"./":
        name = name[2:]  # so that what lies in "./a/" finds it where "./a/" itself was put
    directory, _, base = name.rpartition(b"/")
    if not base or name[0] in _UNCLEAN or b"/." in name or b"//" in name:
        name = clean_name(b"/" + name)[1:]
        directory, _, base = name.rpartition(b"/")
    return name, directory, base


class Names:
    """The names of one record, to refuse a second entry for a path: which of the two is the file?

    LIMIT: memory grows with the number of entries (about 120 bytes each); the format cannot be checked with less.
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def add(self, name: bytes) -> None:
        seen = self._seen
        before = len(seen)
        seen.add(clean_name(name))
        if len(seen) == before:
            raise DuplicatePath(
                f"the archive has two entries for {quoted(clean_name(name))}; a layer can hold one", name=name
            )


def quoted(name: bytes) -> str:
    """A name in double quotes as the peers print it: what is not printable text becomes an escape."""
    named = {
        "\a": "a",
        "\b": "b",
        "\f": "f",
        "\n": "n",
        "\r": "r",
        "\t": "t",
        "\v": "v",
        "\\": "\\",
        '"': '"',
    }
    out = []
    for char in name.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if char in named:
            out.append("\\" + named[char])
        elif char.isprintable():
            out.append(char)
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is not text
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


# --- writing -------------------------------------------------------------------------------------------------

# What stands in a JSON string as it is: ASCII without controls, quote, backslash and what HTML would misread. DEL is
# among them, and so is all text beyond ASCII but the two line separators.
_PLAIN = bytes(set(range(0x20, 0x80)) - set(b'"\\<>&'))
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x20), *b"<>&", 0x2028, 0x2029)}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", ord('"'): '\\"', ord("\\"): "\\\\"}


def segment_line(raw: bytes | memoryview, position: int) -> bytes:
    return b'{"type":2,"payload":"%b","position":%d}\n' % (b2a_base64(raw, newline=False), position)


def file_line(name: bytes, size: int, crc: int, position: int) -> bytes:
    """The line of an entry; with size 0 it has no checksum."""
    if not size:
        return b'{"type":1,%b"payload":null,"position":%d}\n' % (_name_member(name), position)
    return b'{"type":1,%b"size":%d,"payload":"%b","position":%d}\n' % (
        _name_member(name),
        size,
        b2a_base64(crc64.stored(crc), newline=False),
        position,
    )


def _name_member(name: bytes) -> bytes:
    if not name.translate(None, _PLAIN):
        return b'"name":"%b",' % name if name else b""
    try:
        return b'"name":"%b",' % name.decode().translate(_ESCAPES).encode()
    except UnicodeDecodeError:
        return b'"name_raw":"%b",' % b2a_base64(name, newline=False)


# --- reading -------------------------------------------------------------------------------------------------


def parse(chunks: Iterable[bytes]) -> Iterator[list[Item]]:
    """A record that comes as decompressed bytes in pieces of any size, a list of items for about each piece.

    Two files of one path are refused here as well: a record is not always written by a program that looked.
    """
    names = Names()
    for items in _parse(chunks):
        for item in items:
            if isinstance(item, SplitFile) and item.type == FILE:
                names.add(item.name)
        yield items


def _parse(chunks: Iterable[bytes]) -> Iterator[list[Item]]:
    chunks = iter(chunks)
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        items: list[Item] = []
        for at, line in enumerate(lines):
            item = _quick(line)
            if item is None:
                item = _one_object(line)
            if item is None:
                # Not one object a line: from here on, object by object.
                yield items
                yield from _objects(b"\n".join([*lines[at:], rest]), chunks)
                return
            items.append(item)
        yield items
        if len(rest) > limits.RECORD_ENTRY_MAX:
            raise _too_long()
    yield from _objects(rest, chunks)


_WHITE_SPACE = (" ", "\n", "\r", "\t")
_SEGMENT_START = b'{"type":2,"payload":"'
_FILE_START = b'{"type":1,"name":"'


def _quick(line: bytes) -> Item | None:
    """The item of a line in the writers' usual form; None if the line needs a JSON parser."""
    head, _, position = line.rpartition(b',"position":')
    if not position[:-1].isdigit() or not position.endswith(b"}"):
        return None
    try:
        if head.startswith(_SEGMENT_START) and head.endswith(b'"'):
            return a2b_base64(head[len(_SEGMENT_START) : -1], strict_mode=True)
        if head.startswith(_FILE_START):
            name, _, facts = head[len(_FILE_START) :].partition(b'",')
            if name.translate(None, _PLAIN):
                return None
            if facts == b'"payload":null':
                return SplitFile(name)
            size, _, checksum = facts.partition(b',"payload":"')
            if (
                size.startswith(b'"size":')
                and size[7:].isdigit()
                and len(size) < 26
                and checksum.endswith(b'"')
            ):
                return SplitFile(name, int(size[7:]), a2b_base64(checksum[:-1], strict_mode=True))
    except Base64Error:
        pass  # the JSON parser knows escapes, and says what is wrong
    return None


def _one_object(line: bytes) -> Item | None:
    """The item of a line that is one JSON object of any form; None if it is not."""
    try:
        members = _decoder().decode(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return _item_of(members)


def _objects(first: bytes, chunks: Iterator[bytes]) -> Iterator[list[Item]]:
    """The items of JSON text with or without white space between its objects."""
    from codecs import getincrementaldecoder

    # As the peers: bytes that are no text become U+FFFD. (Names that are no text stand in `name_raw`.)
    decode = getincrementaldecoder("utf-8")("replace").decode
    raw_decode = _decoder().raw_decode
    text, at = decode(first), 0
    while True:
        while text[at : at + 1] in _WHITE_SPACE:
            at += 1
        try:
            if at < len(text):
                members, at = raw_decode(text, at)
                yield [_item_of(members)]
                continue
            problem = None
        except RecursionError:
            raise BadTarSplit("tar-split record with deeply nested values") from None
        except ValueError as error:
            problem = error
        # The object may go on in the next piece. Twice as much each time, so that nothing is parsed often.
        text, at = text[at:], 0
        if len(text) > limits.RECORD_ENTRY_MAX:
            raise _too_long()
        more = _at_least(len(text) + 1, chunks)
        if more:
            text += decode(more)
        elif problem:
            raise BadTarSplit(f"tar-split record is not JSON: {problem}", peer="unexpected EOF") from None
        else:
            return


def _at_least(count: int, chunks: Iterator[bytes]) -> bytes:
    """So many bytes of the pieces, or what is left."""
    parts = []
    while count > 0 and (chunk := next(chunks, None)) is not None:
        parts.append(chunk)
        count -= len(chunk)
    return b"".join(parts)


_known_decoder: JSONDecoder | None = None


def _decoder() -> JSONDecoder:
    """JSON objects as `_Members`; imported on use, as most records hold nothing that needs it."""
    global _known_decoder
    if _known_decoder is None:
        from json import JSONDecoder

        _known_decoder = JSONDecoder(object_pairs_hook=_Members, parse_constant=_refuse_constant)
    return _known_decoder


class _Members(dict[str, object]):
    """An object's members as the peers see them: keys without regard to case, the last of several, null is unset."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__((key.casefold(), value) for key, value in pairs if value is not None)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _item_of(members: object) -> Item:
    if not isinstance(members, _Members):
        raise BadTarSplit("tar-split record with a value that is not an object")
    kind, size, payload = _integer(members, "type"), _integer(members, "size"), _base64(members, "payload")
    if kind == SEGMENT:
        return payload
    name = _base64(members, "name_raw")
    if not name:
        # Half a surrogate pair is no text either.
        name = _string(members, "name").encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    return SplitFile(name, size, payload, kind)


def _integer(members: _Members, key: str) -> int:
    value = members.get(key, 0)
    if type(value) is not int or not 0 <= value < 2**63:
        raise BadTarSplit(f"tar-split record with {key} {str(value)[:40]!r}")
    return value


def _string(members: _Members, key: str) -> str:
    value = members.get(key, "")
    if not isinstance(value, str):
        raise BadTarSplit(f"tar-split record with {key} {str(value)[:40]!r}")
    return value


def _base64(members: _Members, key: str) -> bytes:
    try:
        return a2b_base64(_string(members, key).encode(), strict_mode=True)
    except ValueError as error:
        raise BadTarSplit(f"tar-split record with {key} that is not base64: {error}") from None


def _too_long() -> LimitExceeded:
    return LimitExceeded(
        f"tar-split record with an entry of more than {limits.RECORD_ENTRY_MAX} bytes",
        limit=limits.RECORD_ENTRY_MAX,
    )
