"""What one thing on disk shows, and what of it may rightly differ from the header that it was made of."""

from __future__ import annotations

import errno
import os
import stat

from orlop.formats.tarheader import TYPES
from orlop.system import xattrs

_SECOND = 1_000_000_000
_END_OF_32_BITS = 2**31 - 1
_SOCKET = ord("s")

_KINDS = {**TYPES, stat.S_IFSOCK: _SOCKET}

MARK_NAMES = (xattrs.OPAQUE, xattrs.OPAQUE_ROOTLESS)
_KERNELS_OWN = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.", "trusted.SGI_")


def is_compared(name: str) -> bool:
    """Whether an attribute may be one that an archive brought. The kernel and mount programs keep others."""
    if name.startswith(_KERNELS_OWN):
        return False
    return name.startswith(("user.", "trusted.")) or name in ("security.capability", "security.ima")


def is_read(name: str) -> bool:
    return name in MARK_NAMES or is_compared(name)


def kind_of(status: os.stat_result) -> int:
    return _KINDS.get(stat.S_IFMT(status.st_mode), 0)


def yes(answer: bool) -> str:
    return "yes" if answer else "no"


def shown(value: bytes | None) -> str:
    if value is None:
        return "none"
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 80 and text.isprintable() else value[:40].hex()


def device_name(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def is_same_time(wanted_ns: int, found_ns: int) -> bool:
    """Whether a file system that was given one time may show the other.

    It cuts what it has no digits for, and times beyond its range to its first or last one.
    """
    if wanted_ns == found_ns:
        return True
    wanted, found = wanted_ns // _SECOND, found_ns // _SECOND
    if wanted == found:
        fraction = found_ns % _SECOND
        return any(fraction == wanted_ns % _SECOND // unit * unit for unit in (100, 1000, 1_000_000, _SECOND))
    if wanted > _END_OF_32_BITS:
        return _END_OF_32_BITS <= found < wanted
    return wanted < 0 and wanted < found <= 0


def is_same_capability(wanted: bytes | None, found: bytes | None) -> bool:
    """Whether it is one capability, seen from another user namespace: version 3 adds whose root it is for."""
    if not wanted or not found or len(wanted) < 20 or len(found) < 20:
        return False
    return wanted[4:20] == found[4:20] and wanted[0] & 1 == found[0] & 1 and {wanted[3], found[3]} <= {2, 3}


def supported(fd: int, *, trusted: bool) -> tuple[str, ...]:
    """The beginnings of names of attributes that this file system has."""
    spaces = ("user.", "security.", "trusted.") if trusted else ("user.", "security.")
    return tuple([space for space in spaces if _has_space(fd, space)])


def _has_space(fd: int, space: str) -> bool:
    try:
        os.getxattr(fd, space + "orlop.probe")
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    return True


def overridden(override: bytes | None, status: os.stat_result) -> os.stat_result | None:
    """The status that an override attribute stands for; None if there is none, or it says nothing."""
    if override is None:
        return None
    try:
        uid, gid, mode, *rest = override.decode("ascii").split(":")
        kind, *numbers = rest[0].split("-") if rest else ["file"]
        values = list(status)
        values[0] = _OVERRIDDEN_KINDS[kind] | int(mode, 8)
        values[4], values[5] = int(uid), int(gid)
    except (ValueError, KeyError, UnicodeDecodeError):
        return None
    return os.stat_result(values, {"st_mtime_ns": status.st_mtime_ns, "st_rdev": _number(numbers)})


_OVERRIDDEN_KINDS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "pipe": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "block": stat.S_IFBLK,
    "char": stat.S_IFCHR,
}


def _number(numbers: list[str]) -> int:
    return os.makedev(int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else 0
