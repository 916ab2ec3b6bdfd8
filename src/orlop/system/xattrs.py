"""Extended attributes: how they are reached without following anything, and which ones each job looks at.

Rule: an attribute is reached through a handle: an open file or directory, an `O_PATH` descriptor of what must
not be opened (a symlink, a device, somebody's FIFO), or one name in an open directory. A symlink that stands there
is never followed, and a path from an archive or a container never gets here.

Most files have no attributes at all: one listing answers that, and only what a job wants is read after it.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Wanted = Callable[[str], bool]

OPAQUE = "trusted.overlay.opaque"
"""The kernel's mark of a directory that hides what lower layers have under its name; the value is `y`."""

OPAQUE_ROOTLESS = "user.overlay.opaque"
"""The same where overlay is mounted by a user (`userxattr`), who may not write `trusted.*`."""


# --- which attributes a job looks at ------------------------------------------------------------------------


def archived(name: str) -> bool:
    """What a tar stream of a layer carries (`spec/archive.md` 3.3).

    `user.overlay.*` is the notebook of a rootless overlay mount: in another layer it would redirect or hide files.
    """
    return (name.startswith("user.") and not name.startswith("user.overlay.")) or name in _ARCHIVED


_ARCHIVED = frozenset(("security.capability", "security.ima"))


def compared(name: str) -> bool:
    """What makes two files differ (`spec/archive.md` 6.1)."""
    return name.startswith("user.") or name == "security.capability"


def copied(name: str) -> bool:
    """What a copied tree keeps (`spec/drivers.md` 3.5); rootless, where `OPAQUE` cannot be set: `compared`."""
    return compared(name) or name == OPAQUE


# --- reading ------------------------------------------------------------------------------------------------


def read(target: int | bytes, wanted: Wanted, *, follow: bool = True) -> dict[bytes, bytes]:
    """The attributes of an open file or directory whose names `wanted` accepts.

    None where the file system has no attributes. Left out is a value larger than the kernel hands out (E2BIG),
    one that went away meanwhile, and a file capability of another user namespace (EOVERFLOW).
    """
    found: dict[bytes, bytes] = {}
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return found
        raise
    for name in names:
        if wanted(name):
            try:
                found[os.fsencode(name)] = os.getxattr(target, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in _NO_VALUE:
                    raise
    return found


def read_handle(path_fd: int, wanted: Wanted) -> dict[bytes, bytes]:
    """`read`, for what an `O_PATH` descriptor stands for, a symlink or a device included.

    The kernel refuses attribute calls on such a descriptor, but not on its name in /proc: that leads to the very
    file, even to a symlink, and no further.
    """
    return read(b"/proc/self/fd/%d" % path_fd, wanted)


def read_beneath(dir_fd: int, name: bytes, wanted: Wanted) -> dict[bytes, bytes]:
    """`read`, for the entry `name` (one component) of an open directory; a symlink there is not followed."""
    return read(b"/proc/self/fd/%d/%b" % (dir_fd, name), wanted, follow=False)


_NO_VALUE = frozenset((errno.E2BIG, errno.ENODATA, errno.ENOTSUP, errno.EOVERFLOW))


# --- writing ------------------------------------------------------------------------------------------------


def write(fd: int, xattrs: Mapping[bytes, bytes]) -> None:
    """Set attributes of an open file or directory. Nothing happens where the file system has none."""
    _write(fd, True, xattrs)


def write_beneath(dir_fd: int, name: bytes, xattrs: Mapping[bytes, bytes]) -> None:
    """`write`, for the entry `name` (one component) of an open directory; a symlink there is not followed."""
    _write(b"/proc/self/fd/%d/%b" % (dir_fd, name), False, xattrs)


def _write(target: int | bytes, follow: bool, xattrs: Mapping[bytes, bytes]) -> None:
    for name, value in xattrs.items():
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise


def remove_beneath(dir_fd: int, name: bytes, attribute: bytes) -> None:
    """Take an attribute off the entry `name` of an open directory; absence is fine. A symlink is not followed."""
    try:
        os.removexattr(b"/proc/self/fd/%d/%b" % (dir_fd, name), attribute, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
