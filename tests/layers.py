"""Archives as lists of entries, and layers filled from them."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orlop.drivers.api import Driver
from orlop.formats.tarheader import CHAR, DIRECTORY, FIFO, HARD_LINK, REGULAR, SYMLINK, Entry
from orlop.stream.reader import TarReader
from orlop.stream.unpack import UnpackResult

Archive = list[tuple[Entry, bytes]]
_TIME = 1_600_000_000_000_000_000


def directory(name: str, mode: int = 0o755, **more: Any) -> tuple[Entry, bytes]:
    return Entry(name.encode() + b"/", type=DIRECTORY, mode=mode, **{"mtime_ns": _TIME, **more}), b""


def file(name: str, content: bytes = b"", mode: int = 0o644, **more: Any) -> tuple[Entry, bytes]:
    fields = {"mtime_ns": _TIME, **more}
    return Entry(name.encode(), type=REGULAR, mode=mode, size=len(content), **fields), content


def symlink(name: str, text: str, **more: Any) -> tuple[Entry, bytes]:
    return Entry(name.encode(), text.encode(), type=SYMLINK, mode=0o777, **{"mtime_ns": _TIME, **more}), b""


def link(name: str, other: str, mode: int = 0o644) -> tuple[Entry, bytes]:
    """`mode` is the file's: the last entry of a file wins."""
    return Entry(name.encode(), other.encode(), type=HARD_LINK, mode=mode, mtime_ns=_TIME), b""


def device(name: str, major: int, minor: int) -> tuple[Entry, bytes]:
    return Entry(name.encode(), type=CHAR, mode=0o666, devmajor=major, devminor=minor, mtime_ns=_TIME), b""


def fifo(name: str) -> tuple[Entry, bytes]:
    return Entry(name.encode(), type=FIFO, mode=0o600, mtime_ns=_TIME), b""


BASE: Archive = [
    directory("etc"),
    file("etc/passwd", b"root:x:0:0\n"),
    file("etc/group", b"root:x:0:\n", uid=3, gid=4),
    directory("bin"),
    file("bin/su", b"\x7fELF" * 500, mode=0o4755),
    link("bin/doas", "bin/su", mode=0o4755),
    symlink("bin/sh", "su", uid=1, gid=2),
    directory("dev"),
    device("dev/null", 1, 3),
    fifo("dev/initctl"),
    directory("var", mode=0o1777),
    directory("var/cache"),
    file("var/cache/one", b"1"),
    file("var/cache/two", b"22"),
]
"""A layer with a bit of everything."""


def fill(driver: Driver, id: str, archive: Iterable[tuple[Entry, bytes]], **how: Any) -> UnpackResult:
    """Unpack entries into a layer that exists."""
    with driver.unpacking(id, how.pop("parent", None), **how) as unpacker:
        for entry, payload in archive:
            unpacker.entry(entry)
            if payload:
                unpacker.data(payload)
        return unpacker.finish()


def entries(stream: Iterable[bytes]) -> Archive:
    """The entries of a tar stream."""
    found: Archive = []
    reader = TarReader(iter([b"".join(stream)]))
    for entry in reader:
        found.append((entry, b"".join(bytes(view) for view in reader.payload())))
    return found


def contents(root: str | Path) -> dict[str, object]:
    """Path to content, text or kind; for tests that care about nothing else."""
    found: dict[str, object] = {}
    for path in sorted(Path(root).rglob("*")):
        mode = path.lstat().st_mode
        name = os.path.relpath(path, root)
        if stat.S_ISLNK(mode):
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if stat.S_ISREG(mode) else stat.filemode(mode)[0]
    return found
