"""Mounting by handles: file systems put together option by option, and mounts that hang nowhere until attached.

Rule 1: A mount goes onto a handle, never onto a path that is resolved once more: whoever swaps the mount point for
        a symlink after it was checked would choose where the mount goes (CVE-2021-30465).
Rule 2: Until it is attached a mount belongs to nobody. Closing its descriptor, or dying, ends it: nothing is left
        in the mount table by what failed half-way.
Rule 3: What the kernel has to say about an option is part of the error.

Linux 5.2 and later (id-mapped mounts: 5.12). Before that: `OSError` with ENOSYS.
"""

from __future__ import annotations

import errno
import os

from orlop.system import files, libc, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_MESSAGES = 16  # the kernel keeps 8


class Context:
    """A file system in the making. Every error names the option, and quotes the kernel."""

    def __init__(self, fstype: str) -> None:
        self._fstype = fstype
        self._fd = libc.fsopen(fstype)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def set(self, key: str, value: str | int | None = None) -> None:
        """Set an option: a text, or an open file or directory, or nothing for one that is just there."""
        try:
            if value is None:
                libc.fsconfig(self._fd, libc.FSCONFIG_SET_FLAG, key)
            elif isinstance(value, str):
                libc.fsconfig(self._fd, libc.FSCONFIG_SET_STRING, key, value)
            else:
                libc.fsconfig(self._fd, libc.FSCONFIG_SET_FD, key, None, value)
        except OSError as error:
            option = f"{key}={value}" if isinstance(value, str) else key
            raise self._explained(error, f"mount option {option}") from None

    def mount(self, attributes: int = 0) -> int:
        """Make the file system. A handle of its root, on a mount that hangs nowhere."""
        try:
            libc.fsconfig(self._fd, libc.FSCONFIG_CMD_CREATE)
            return libc.fsmount(self._fd, attributes)
        except OSError as error:
            raise self._explained(error, f"making a file system of type {self._fstype}") from None

    def _explained(self, error: OSError, what: str) -> OSError:
        said = "; ".join(self._messages()) or f"{error.strerror} (the kernel's log may tell more)"
        return OSError(error.errno, f"{what}: {said}")

    def _messages(self) -> list[str]:
        """What the kernel wrote down since the last error: `e overlay: Unknown parameter 'x'` and the like."""
        found: list[str] = []
        try:
            while len(found) < _MESSAGES:
                message = os.read(self._fd, 4096).decode("utf-8", "replace")
                found.append(message[2:].rstrip("\n"))  # without its level
        except OSError:
            pass  # ENODATA: there is no more
        return found


# --- mounts that hang nowhere -------------------------------------------------------------------------------


def clone_tree(path: str | int) -> int:
    """A copy of the mount at `path`, from that directory on, without what is mounted below: a bind to nowhere.

    A handle of its root. Symlinks of a path are followed; a directory that is open already is exact.
    """
    if isinstance(path, int):
        return libc.open_tree(path, "", libc.OPEN_TREE_CLONE | libc.AT_EMPTY_PATH)
    return libc.open_tree(libc.AT_FDCWD, path, libc.OPEN_TREE_CLONE)


def idmapped(path: str | int, userns_fd: int) -> int:
    """Like `clone_tree`; in the copy, owners are seen through the maps of a user namespace.

    What container id 0 of the maps owns on disk belongs to the host's id of that entry. EINVAL if the file system
    cannot do that, or under another mount that does it already.
    """
    fd = clone_tree(path)
    try:
        map_owners(fd, userns_fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_owners(mount: int, userns_fd: int) -> None:
    """Have a mount, which was never attached, show owners through the maps of a user namespace."""
    libc.mount_setattr(mount, set=libc.MOUNT_ATTR_IDMAP, propagation=mounts.MS_PRIVATE, userns_fd=userns_fd)


def attach(mount: int, target: int) -> None:
    """Hang a mount, by the handle of its root, on a directory, by its handle."""
    libc.move_mount(mount, target)


def detach(root: int) -> None:
    """Unmount, lazily, the mount that `root` is the root of. If it is no mount's, or hangs nowhere: fine."""
    try:
        libc.umount2(f"/proc/self/fd/{root}", libc.MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def root_on(directory: int) -> int:
    """The root of what is mounted on a directory of which we have the handle from before.

    The kernel has no call for it, so the name is looked up in the directory above, both as they are now: a mount
    point cannot be renamed by anyone who sees the mount. ENOENT if nothing is mounted there.
    """
    name = os.path.basename(os.readlink(f"/proc/self/fd/{directory}"))
    above = os.open("..", DIRECTORY, dir_fd=directory)
    try:
        root = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    finally:
        os.close(above)
    try:
        if _mount_id(root) == _mount_id(directory):
            raise FileNotFoundError(errno.ENOENT, "nothing is mounted on the directory", name)
    except BaseException:
        os.close(root)
        raise
    return root


def _mount_id(fd: int) -> bytes:
    """Which mount a handle is on. (Where a directory is bound on itself, device and inode do not tell.)"""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        return next(line for line in info if line.startswith(b"mnt_id:"))


class attached:
    """A block in which detached mounts, each by the handle of its root, hang on directories.

    Directories that are missing are made (0700), and stay. A mount that was detached cannot be attached again.
    """

    def __init__(self, pairs: Iterable[tuple[int, str]]) -> None:
        self._pairs = tuple(pairs)

    def __enter__(self) -> None:
        try:
            for mount, directory in self._pairs:
                files.make_dirs(directory)
                target = os.open(directory, DIRECTORY | os.O_NOFOLLOW)
                try:
                    attach(mount, target)
                finally:
                    os.close(target)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for mount, _directory in self._pairs:
            detach(mount)


# --- where layers are mounted -------------------------------------------------------------------------------


def bind_private(path: str) -> bool:
    """Make a directory a private mount point, so that what is mounted below shows up in no other namespace.

    Unless it is one, it is mounted on itself (then the answer is True); it is made private either way.
    """
    directory = os.open(path, DIRECTORY)
    try:
        is_new = not mounts.is_mount_point(path)
        if is_new:
            here = f"/proc/self/fd/{directory}"
            libc.mount(here, here, None, mounts.MS_BIND)
            root = root_on(directory)
            os.close(directory)
            directory = root
        libc.mount(None, f"/proc/self/fd/{directory}", None, mounts.MS_PRIVATE)
        return is_new
    finally:
        os.close(directory)
