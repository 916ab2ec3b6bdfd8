"""Directories in which the content of a layer is made ready (`spec/chunked.md` 19, `spec/drivers.md` 4.14).

    <home>/staging/<number>/dir             the content; renamed to `<layer>/diff` when there is a layer
    <home>/staging/<number>/staging.lock    held by the process that makes it
    <home>/staging/.tmp-<number>            the same before it is locked

Rule 1: The lock is taken before the directory has its name, and given up when it has lost it: whoever finds it free
        finds rubbish (`leftovers`).
Rule 2: A process knows the directories that it made. What it did not make it neither places nor removes, whoever says
        so: paths come back through callers.
Rule 3: Content comes to its place by one rename. What was there, if it was not empty, is exchanged for it, so that a
        layer has a content at every moment.
"""

from __future__ import annotations

import errno
import os

from orlop.drivers.overlay import content, leftovers
from orlop.drivers.overlay.layout import STAGING, STAGING_LOCK, TEMP_ROOT
from orlop.errors import Conflict, NotSupported, UnsafePath
from orlop.system import files, libc
from orlop.system.ownlock import OwnedLock, own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.drivers.api import SetAside
    from orlop.drivers.overlay.layout import Layout

_ATTEMPTS = 100
_NEW_ROOT = 0o555
_CONTENT = "dir"

_made: dict[str, OwnedLock] = {}
"""The directories `<home>/staging/<number>` of this process, each with its lock; drivers there may be several."""


def prepare(layout: Layout, *, owner: tuple[int, int], force_mask: int | None) -> tuple[str, OwnedLock]:
    """Make a directory for content, empty, on the file system where image layers go; its path and its lock."""
    base = f"{layout.image_home or layout.home}/{STAGING}"
    for _ in range(_ATTEMPTS):
        files.make_dirs(base)
        if not files.is_directory(base):  # a symlink would have us write wherever it leads
            raise UnsafePath(f"{base} is not a directory of ours", path=base)
        number = int.from_bytes(os.urandom(4), "little")
        new, directory = f"{base}/{files.TEMPORARY}{number}", f"{base}/{number}"
        try:
            os.mkdir(new, 0o700)
        except (FileExistsError, FileNotFoundError):  # or a peer removed `staging` at this moment
            continue
        lock = _locked(new)
        if lock is None:
            continue
        try:
            os.mkdir(f"{new}/{_CONTENT}", 0o700)
            content.settle(f"{new}/{_CONTENT}", _NEW_ROOT if force_mask is None else force_mask, owner)
            os.rename(new, directory)
        except BaseException:
            files.remove_tree(new)
            lock.close()
            raise
        _made[directory] = lock
        return f"{directory}/{_CONTENT}", lock
    raise OSError(errno.EAGAIN, f"no directory could be made and locked in {_ATTEMPTS} attempts", base)


def _locked(directory: str) -> OwnedLock | None:
    """The lock of a directory just made; None if somebody took that for rubbish, as without a lock it looks."""
    try:
        lock = own(f"{directory}/{STAGING_LOCK}", exclusive_create=True)
    except FileNotFoundError:
        return None
    if lock is not None and not os.path.lexists(lock.path):
        lock.close()
        return None
    return lock


def place(layout: Layout, target: str, layer: str, set_aside: SetAside, *, settle_root: bool) -> None:
    """Make the directory the `diff` of the layer in the directory `layer`; see `SupportsStaging`."""
    directory = _checked(layout, target)
    lock = _made.get(directory)
    if lock is None or not lock.is_held:
        raise Conflict(f"{target} was not made ready by this process, or is gone", path=target)
    if not files.is_directory(target):  # peers as old as 1.43 remove all of them when they shut down
        raise Conflict(f"{target} was removed by another program", path=target)
    diff = f"{layer}/diff"
    if settle_root:
        owner, mode = content.owner_and_mode(diff, overridden=False)
        content.settle(target, mode, owner)
    try:
        os.rename(target, diff)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise NotSupported(
                f"the layer at {layer} lies on another mount than {target}: of a split store only layers of images, "
                "which are not writable, take over what was made ready",
                path=layer,
            ) from error
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        libc.renameat2(libc.AT_FDCWD, target, libc.AT_FDCWD, diff, libc.RENAME_EXCHANGE)
    # The lock goes with the directory, and is free when nobody finds it there any more.
    set_aside(directory, f"{os.path.dirname(os.path.dirname(directory))}/{TEMP_ROOT}")
    _made.pop(directory).close()


def drop(layout: Layout, target: str) -> None:
    """Remove a directory that was made ready and is not wanted; see `SupportsStaging`."""
    directory = _checked(layout, target)
    lock = _made.pop(directory, None)
    if lock is None or not lock.is_held:
        # Of a process that died, perhaps; or it was placed.
        if not files.is_directory(directory):
            return
        lock = own(f"{directory}/{STAGING_LOCK}")
        if lock is None:
            raise Conflict(f"{directory} is in use by another process", path=directory)
    try:
        leftovers.remove_staging(directory)
    finally:
        lock.close()


def _checked(layout: Layout, target: str) -> str:
    """The directory `<home>/staging/<number>` of a path that `prepare` gives; what is none came from elsewhere."""
    directory, _, base = target.rpartition("/")
    above, _, number = directory.rpartition("/")
    bases = [f"{home}/{STAGING}" for home in layout.own]
    if base != _CONTENT or not (number.isascii() and number.isdigit()) or above not in bases:
        raise UnsafePath(f"{target!r} is no directory for the content of a layer of this store", path=target)
    return directory
