"""Entries for the unpacker, and the ways to unpack them.

unpack(place, [folder("d"), file("d/f", b"content")], way="spawn")
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from orlop.formats.tarheader import Entry
from orlop.stream.extract import Extractor
from orlop.stream.unpack import Unpacker, UnpackResult
from orlop.system import beneath

WAYS = ("fork", "spawn", "beneath", "walking")
"""In a worker of either kind; and in this process, without chroot, by openat2 and by walking."""

Item = tuple[Entry, bytes]
T = 1_600_000_000
NS = 10**9


def item(name: str | bytes, type: str, data: bytes = b"", **fields: Any) -> Item:
    fields.setdefault("mtime_ns", T * NS)
    fields.setdefault("mode", 0o755 if type == "5" else 0o644)
    fields.setdefault("size", len(data))
    if isinstance(fields.get("linkname"), str):
        fields["linkname"] = os.fsencode(fields["linkname"])
    return Entry(os.fsencode(name), type=ord(type), **fields), data


def file(name: str | bytes, data: bytes = b"", **fields: Any) -> Item:
    return item(name, "0", data, **fields)


def folder(name: str | bytes, **fields: Any) -> Item:
    return item(name, "5", **fields)


def symlink(name: str | bytes, text: str | bytes, **fields: Any) -> Item:
    return item(name, "2", linkname=text, **fields)


def hard_link(name: str | bytes, target: str | bytes, **fields: Any) -> Item:
    return item(name, "1", linkname=target, **fields)


def node(name: str | bytes, type: str, major: int = 0, minor: int = 0, **fields: Any) -> Item:
    return item(name, type, devmajor=major, devminor=minor, **fields)


def unpack(
    directory: Path | str, items: Iterable[Item], *, way: str = "fork", rules: str = "layer", **options: Any
) -> UnpackResult:
    if way in ("fork", "spawn"):
        with Unpacker(str(directory), rules=rules, method=way, **options) as unpacker:
            for entry, data in items:
                unpacker.entry(entry)
                if data:
                    unpacker.data(data)
            return unpacker.finish()
    return _here(directory, items, way, rules, **options)


def _here(directory: Path | str, items: Iterable[Item], way: str, rules: str, **options: Any) -> UnpackResult:
    """Without a worker."""
    mappings = options.pop("mappings", None)
    for kind in ("uids", "gids"):
        maps = getattr(mappings, kind, ())
        options[kind] = [(m.container_id, m.host_id, m.size) for m in maps]
    fd = os.open(directory, os.O_RDONLY)
    here = os.open(".", os.O_RDONLY)
    umask = os.umask(0)
    size = 0
    try:
        with (
            beneath.Root(fd, beneath.by_kernel if way == "beneath" else beneath.by_walking) as root,
            contextlib.closing(Extractor(root, rules=rules, umask=umask, **options)) as extractor,
        ):
            for e, data in items:
                size += e.real_size
                extra = (e.linkname, e.devmajor, e.devminor, e.xattrs, e.sparse, e.real_size)
                extractor.apply(
                    (e.type, e.name, e.mode, e.uid, e.gid, e.size, e.mtime_ns, e.atime_ns, extra), Bytes(data)
                )
            return UnpackResult(size, extractor.finish())
    finally:
        os.umask(umask)
        os.fchdir(here)
        os.close(here)
        os.close(fd)


class Bytes:
    """Payload that is there already."""

    def __init__(self, data: bytes) -> None:
        self.left = memoryview(data)

    def pieces(self, size: int) -> Iterator[memoryview]:
        piece, self.left = self.left[:size], self.left[size:]
        assert len(piece) == size
        yield piece

    def copy(self, fd: int, size: int) -> None:
        for piece in self.pieces(size):
            while piece:
                piece = piece[os.write(fd, piece) :]
