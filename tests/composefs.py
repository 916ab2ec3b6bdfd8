"""Layers kept by composefs, for tests.

composefs.install(place, monkeypatch)         the stand-in for `mkcomposefs` in PATH
composefs.keep(driver, "base", layers.BASE)   a layer, made as an image and data
"""

import os
import stat
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest

import layers
import mkcomposefs
import peers
from orlop.drivers.api import Driver
from orlop.drivers.overlay import composefs
from orlop.formats.tarheader import BLOCK, CHAR, DIRECTORY, FIFO, HARD_LINK, REGULAR, SYMLINK

_KINDS = {
    REGULAR: stat.S_IFREG,
    HARD_LINK: stat.S_IFREG,
    DIRECTORY: stat.S_IFDIR,
    SYMLINK: stat.S_IFLNK,
    CHAR: stat.S_IFCHR,
    BLOCK: stat.S_IFBLK,
    FIFO: stat.S_IFIFO,
}


def install(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in into PATH; the path of the program."""
    peers.need_root()
    peers.need("mkfs.erofs")
    if "erofs" not in Path("/proc/filesystems").read_text().split():
        peers.missing("the file system erofs in its kernel")
    (place / "bin").mkdir()
    program = place / "bin" / "mkcomposefs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {mkcomposefs.__file__} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    return program


def keep(driver: Driver, id: str, archive: layers.Archive, parent: str | None = None) -> Path:
    """Make a layer whose content is an image and data; its directory."""
    driver.create(id, parent, writable=False)
    layer = Path(driver.home, id)
    composefs.write_blob(dump(archive, layer / "diff"), str(layer))
    return layer


def dump(archive: layers.Archive, data: Path) -> Iterable[bytes]:
    """The dump of an archive, line by line, as `spec/chunked.md` 23 has it; the data go to a directory."""
    yield b"/ 0 40755 1 0 0 0 0.0 - - -\n"
    for e, payload in archive:
        path = b"/" + e.name.strip(b"/")
        mode = b"%s%o" % (b"@" if e.type == HARD_LINK else b"", _KINDS[e.type] | e.mode)
        place = escaped(e.linkname) if e.type == SYMLINK else b"/" + e.linkname if e.linkname else b"-"
        if payload:
            place = b"/".join(_digest(payload))
            object = data / os.fsdecode(place)
            object.parent.mkdir(exist_ok=True)
            object.write_bytes(payload)
        rdev = os.makedev(e.devmajor, e.devminor)
        time = b"%d.%d" % divmod(e.mtime_ns, 10**9)
        fields = [escaped(path), b"%d" % e.size, mode, b"1", b"%d" % e.uid, b"%d" % e.gid, b"%d" % rdev]
        fields += [time, place, b"-", b"-"]
        fields += [escaped(name) + b"=" + escaped(value) for name, value in (e.xattrs or {}).items()]
        yield b" ".join(fields) + b"\n"


def _digest(payload: bytes) -> tuple[bytes, bytes]:
    digest = sha256(payload).hexdigest().encode()
    return digest[:2], digest[2:]


def escaped(text: bytes) -> bytes:
    if text == b"-":
        return b"\\x2d"
    return b"".join(
        bytes([byte]) if 33 <= byte <= 126 and byte not in b"\\=" else b"\\x%02x" % byte for byte in text
    )
