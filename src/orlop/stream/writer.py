"""Headers into tar bytes, exactly (`spec/archive.md` 3.5).

The same tree must become the same bytes in every program that shares the store: image layers are named by the
digest of this stream. So nothing here is a matter of taste.

Rule 1: a header is USTAR if everything fits, else USTAR preceded by PAX records. GNU forms are never written.
Rule 2: names and attribute values are bytes from the disk and go out as they are, UTF-8 or not.
Rule 3: what tar cannot express is an error. A name cut short would be another file.
"""

from __future__ import annotations

import os
from struct import Struct
from zlib import adler32

from orlop.errors import LimitExceeded, NotSupported
from orlop.formats.limits import META_DATA_MAX
from orlop.formats.tarheader import BLOCK, PAX_HEADER, XATTR_PREFIX, Entry

TRAILER = bytes(2 * BLOCK)
"""The end of an archive: two zero blocks, and no filling up to a record of twenty."""

_SECOND = 1_000_000_000
_NAME_MAX, _PREFIX_MAX = 100, 155
_ID_MAX, _NUMBER_MAX = 0o7777777, 0o77777777777  # what the octal fields of 8 and of 12 bytes hold
_TIME_MAX_NS = _NUMBER_MAX * _SECOND

# name, five numbers, checksum, type, link name, magic (owner names empty), device numbers, prefix
_LAYOUT = Struct("100s 48s 8s B 100s 72s 16s 155s 12x")
_BLANK = b"        "
_MAGIC = b"ustar\x0000"
_NO_DEVICE = b"0000000\x000000000\0"


def encode(entry: Entry) -> bytes:
    """The header of an entry: 512 bytes, or a PAX entry of its own and then 512 bytes.

    `mode` is to be without file type bits, `size` 0 for all but regular files. Fields that only a reader needs
    (atime_ns, sparse, real_size) are not looked at: files go out whole.

    Raises:
        NotSupported: an attribute's name contains `=`, which PAX cannot hold.
        LimitExceeded: name and attributes are more than readers of archives take.
        ValueError: a NUL in a name, a negative size, a device number or mode past its field: no file has these.
    """
    name, linkname = entry.name, entry.linkname
    uid, gid, size, mtime_ns = entry.uid, entry.gid, entry.size, entry.mtime_ns
    if b"\0" in name + linkname or not 0 <= entry.mode <= _ID_MAX or size < 0:
        raise ValueError(f"no file has the name, mode or size of {entry!r}")
    seconds = mtime_ns // _SECOND
    if (
        len(name) <= _NAME_MAX
        and name.isascii()
        and len(linkname) <= _NAME_MAX
        and linkname.isascii()
        and 0 <= uid <= _ID_MAX
        and 0 <= gid <= _ID_MAX
        and size <= _NUMBER_MAX
        and 0 <= seconds <= _NUMBER_MAX
        and mtime_ns == seconds * _SECOND
        and not entry.xattrs
    ):
        # Nearly all entries of nearly all layers, and the reason why the conditions stand here and below.
        return _block(name, entry.mode, uid, gid, size, seconds, entry.type, linkname, _devices(entry), b"")
    records = _records(entry)
    prefix = b""
    if records.keys() == {b"path"} and (parts := _split(name)):
        prefix, name = parts
        extension = b""
    else:
        extension = _extension(name, records)
        name, linkname = _reduced(name), _reduced(linkname)
    return extension + _block(
        name,
        entry.mode,
        uid if b"uid" not in records else 0,
        gid if b"gid" not in records else 0,
        size if b"size" not in records else 0,
        seconds if 0 <= seconds <= _NUMBER_MAX else 0,
        entry.type,
        linkname,
        _devices(entry),
        prefix,
    )


def padding(size: int) -> bytes:
    """The zeros that fill the last block of a payload."""
    return bytes(-size % BLOCK)


def _records(entry: Entry) -> dict[bytes, bytes]:
    """The PAX records for what the fields of a USTAR header do not hold."""
    records: dict[bytes, bytes] = {}
    if len(entry.name) > _NAME_MAX or not entry.name.isascii():
        records[b"path"] = entry.name
    if len(entry.linkname) > _NAME_MAX or not entry.linkname.isascii():
        records[b"linkpath"] = entry.linkname
    if not 0 <= entry.uid <= _ID_MAX:
        records[b"uid"] = b"%d" % entry.uid
    if not 0 <= entry.gid <= _ID_MAX:
        records[b"gid"] = b"%d" % entry.gid
    if entry.size > _NUMBER_MAX:
        records[b"size"] = b"%d" % entry.size
    if not 0 <= entry.mtime_ns <= _TIME_MAX_NS or entry.mtime_ns % _SECOND:
        records[b"mtime"] = _seconds(entry.mtime_ns)
    if entry.xattrs:
        for key, value in entry.xattrs.items():
            if not key or b"=" in key or b"\0" in key:
                raise NotSupported(
                    f"{os.fsdecode(entry.name)!r} has an extended attribute named {os.fsdecode(key)!r}, "
                    "which a tar stream cannot hold",
                    path=entry.name,
                    xattr=key,
                )
            records[XATTR_PREFIX + key] = value
    return records


def _seconds(ns: int) -> bytes:
    """A time as PAX writes it: decimal seconds, with a fraction only if there is one."""
    whole, fraction = divmod(abs(ns), _SECOND)
    text = b"%b%d" % (b"-" if ns < 0 else b"", whole)
    return text + (b".%09d" % fraction).rstrip(b"0") if fraction else text


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """A long name as (prefix, name) of a USTAR header, or None if it cannot be cut that way.

    The cut is at the last slash that leaves a prefix of at most 155 bytes. The slash at the end of a directory's
    name is no place to cut.
    """
    if not name.isascii():
        return None
    end = _PREFIX_MAX + 1 if len(name) > _PREFIX_MAX + 1 else len(name.removesuffix(b"/"))
    cut = name.rfind(b"/", 0, end)
    if cut <= 0 or not 0 < len(name) - cut - 1 <= _NAME_MAX:
        return None
    return name[:cut], name[cut + 1 :]


def _ascii(name: bytes) -> bytes:
    return name if name.isascii() else name.decode("ascii", "ignore").encode()


def _reduced(name: bytes) -> bytes:
    """What a reader without PAX gets to see of a name: its ASCII bytes, at most 100.

    Where the cut would leave a slash at the end, it goes too: old readers take such an entry for a directory.
    """
    name = _ascii(name)
    return name if len(name) <= _NAME_MAX else name[:_NAME_MAX].rstrip(b"/")


def _extension(name: bytes, records: dict[bytes, bytes]) -> bytes:
    """The PAX entry (header and body) that goes before an entry of that name."""
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    if len(body) > META_DATA_MAX:
        raise LimitExceeded(
            f"{os.fsdecode(name[:80])!r}...: name and attributes have more than {META_DATA_MAX} bytes, and no reader "
            "takes that",
            name=name,
        )
    cut = name.rfind(b"/") + 1
    shown = _ascii(os.path.normpath(name[:cut] + b"PaxHeaders.0/" + name[cut:]))
    shown = shown[:_NAME_MAX].rstrip(b"/")
    return _block(shown, 0, 0, 0, len(body), 0, PAX_HEADER, b"", bytes(16), b"") + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`; the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _devices(entry: Entry) -> bytes:
    major, minor = entry.devmajor, entry.devminor
    if not major and not minor:
        return _NO_DEVICE
    if not (0 <= major <= _ID_MAX and 0 <= minor <= _ID_MAX):
        raise ValueError(f"a tar header has no room for device {major}:{minor} ({entry.name!r})")
    return b"%07o\0%07o\0" % (major, minor)


def _block(
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    type: int,
    linkname: bytes,
    devices: bytes,
    prefix: bytes,
) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, seconds)
    block = _LAYOUT.pack(name, numbers, _BLANK, type, linkname, _MAGIC, devices, prefix)
    # The sum of all bytes is the low half of Adler-32 started at 0. That is modulo 65521, which the header of ASCII
    # names cannot reach: 100 + 100 + 155 bytes below 128, and about 90 of digits and magic.
    return b"%b%06o\0 %b" % (block[:148], adler32(block, 0) & 0xFFFF, block[156:])
