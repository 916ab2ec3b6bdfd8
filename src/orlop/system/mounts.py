"""What is mounted in this mount namespace, mounting, and unmounting (`spec/mounting.md` 7 and 8)."""

from __future__ import annotations

import errno
import os
import time

from orlop.errors import BadRecords
from orlop.system import libc

MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

_PROPAGATION = MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE | MS_SHARED

# word -> (flags it sets, flags it clears)
_WORDS = {
    "ro": (MS_RDONLY, 0),
    "rw": (0, MS_RDONLY),
    "nosuid": (0x2, 0),
    "suid": (0, 0x2),
    "nodev": (0x4, 0),
    "dev": (0, 0x4),
    "noexec": (0x8, 0),
    "exec": (0, 0x8),
    "sync": (0x10, 0),
    "async": (0, 0x10),
    "remount": (MS_REMOUNT, 0),
    "mand": (0x40, 0),
    "nomand": (0, 0x40),
    "dirsync": (0x80, 0),
    "noatime": (0x400, 0),
    "atime": (0, 0x400),
    "nodiratime": (0x800, 0),
    "diratime": (0, 0x800),
    "bind": (MS_BIND, 0),
    "rbind": (MS_BIND | MS_REC, 0),
    "unbindable": (MS_UNBINDABLE, 0),
    "runbindable": (MS_UNBINDABLE | MS_REC, 0),
    "private": (MS_PRIVATE, 0),
    "rprivate": (MS_PRIVATE | MS_REC, 0),
    "slave": (MS_SLAVE, 0),
    "rslave": (MS_SLAVE | MS_REC, 0),
    "shared": (MS_SHARED, 0),
    "rshared": (MS_SHARED | MS_REC, 0),
    "relatime": (0x200000, 0),
    "norelatime": (0, 0x200000),
    "strictatime": (0x1000000, 0),
    "nostrictatime": (0, 0x1000000),
}

_BUSY_TRIES = 50
_BUSY_PAUSE = 0.05


class Mount:
    """One line of mountinfo. `point` is where, `root` which part of the file system is seen there."""

    __slots__ = ("device", "fstype", "id", "options", "parent", "point", "root", "source", "super_options")

    def __init__(self, id: int, parent: int, device: str, root: str, point: str, options: str) -> None:
        self.id = id
        self.parent = parent
        self.device = device
        self.root = root
        self.point = point
        self.options = options
        self.fstype = self.source = self.super_options = ""

    def __repr__(self) -> str:
        return f"<Mount {self.fstype} {self.source!r} at {self.point!r}>"


def parse_mountinfo(data: bytes) -> list[Mount]:
    """The mounts that a mountinfo file lists, in its order: what was mounted later comes later.

    Raises `BadRecords` for lines that the kernel does not write.
    """
    found = []
    for line in data.splitlines():
        before, dash, after = line.partition(b" - ")
        fields = before.split(b" ")
        last = after.split(b" ")
        if not dash or len(fields) < 6 or len(last) < 2 or not (fields[0].isdigit() and fields[1].isdigit()):
            raise BadRecords(f"a line of mountinfo cannot be read: {line[:200]!r}")
        device, root, point, options = map(_unescaped, fields[2:6])
        mount = Mount(int(fields[0]), int(fields[1]), device, root, point, options)
        mount.fstype, mount.source = _unescaped(last[0]), _unescaped(last[1])
        mount.super_options = _unescaped(last[2]) if len(last) > 2 else ""
        found.append(mount)
    return found


def _unescaped(field: bytes) -> str:
    r"""The text of a field, in which blanks, tabs, newlines and `\` are written as `\` and three octal digits."""
    first, *rest = field.split(b"\\")
    pieces = [first]
    for piece in rest:
        digits = piece[:3]
        if len(digits) == 3 and digits.isdigit() and max(digits) < ord("8") and digits < b"400":
            pieces += [bytes((int(digits, 8),)), piece[3:]]
        else:
            pieces += [b"\\", piece]
    return os.fsdecode(b"".join(pieces))


def mount_table() -> list[Mount]:
    """Everything that is mounted in this process's mount namespace."""
    with open("/proc/self/mountinfo", "rb", buffering=1 << 16) as mountinfo:
        return parse_mountinfo(mountinfo.read())


def is_mount_point(path: str) -> bool:
    """Whether something is mounted at `path`, in this mount namespace. Symlinks are followed.

    Raises `FileNotFoundError` if there is no such path.
    """
    path = os.path.realpath(path, strict=True)
    if path == "/":
        return True
    parent, name = os.path.split(path)
    parent_fd = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(libc.openat2(parent_fd, name, os.O_PATH | os.O_NOFOLLOW, resolve=libc.RESOLVE_NO_XDEV))
        return False
    except OSError as error:
        if error.errno == errno.EXDEV:
            return True
        if error.errno not in (
            errno.ENOSYS,
            errno.EPERM,
            errno.EOPNOTSUPP,
        ):  # EPERM: a sandbox that does not know it
            raise
        inside = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if inside.st_dev != os.fstat(parent_fd).st_dev:
            return True
    finally:
        os.close(parent_fd)
    return any(mount.point == path for mount in mount_table())


def split_options(text: str) -> tuple[int, str]:
    """The kernel's flags, and the data, of a comma list of mount options.

    What is not a word for a flag is data and keeps its place, empty words included; so a label with commas survives.
    Among contradicting words the last one wins.
    """
    flags = 0
    data = []
    for word in text.split(",") if text else ():
        if word in _WORDS:
            sets, clears = _WORDS[word]
            flags = (flags | sets) & ~clears
        else:
            data.append(word)
    return flags, ",".join(data)


def mount(source: str, target: str, fstype: str, options: str = "") -> None:
    """Mount unless something is mounted at `target` already (`remount` goes through)."""
    flags, data = split_options(options)
    if not flags & MS_REMOUNT and is_mount_point(target):
        return
    propagation = flags & _PROPAGATION
    flags &= ~_PROPAGATION
    # A change of propagation alone mounts nothing.
    if flags & ~MS_REC or data or not propagation:
        libc.mount(source, target, fstype, flags, data)
    if propagation:
        libc.mount(None, target, None, propagation | flags & MS_REC)
    # The kernel ignores all other flags when it makes a bind mount; they need a second call.
    if flags & MS_BIND and flags & MS_RDONLY and not flags & MS_REMOUNT:
        libc.mount(None, target, None, flags | MS_REMOUNT)


def unmount(path: str, *, lazy: bool = True) -> None:
    """Unmount what is mounted at `path`, which is not followed if it is a symlink. Nothing mounted: fine.

    `lazy` takes it out of sight at once, whoever still uses it. A busy mount is tried again for 2.5 seconds.
    """
    for attempt in range(1, _BUSY_TRIES + 1):
        try:
            libc.umount2(path, libc.UMOUNT_NOFOLLOW | (libc.MNT_DETACH if lazy else 0))
            return
        except OSError as error:
            if error.errno == errno.EINVAL:
                return
            if error.errno != errno.EBUSY or attempt == _BUSY_TRIES:
                raise
        time.sleep(_BUSY_PAUSE)


def unmount_below(path: str) -> int:
    """Unmount, lazily, whatever is mounted at `path` or below it; how many mounts that were.

    `path` itself is not followed if it is a symlink.
    """
    parent, name = os.path.split(os.path.abspath(path))
    path = os.path.join(os.path.realpath(parent), name)
    below = path.rstrip("/") + "/"
    count = 0
    while True:
        found = {
            mount.id: mount for mount in mount_table() if mount.point == path or mount.point.startswith(below)
        }
        if not found:
            return count
        gone = [mount for mount in reversed(found.values()) if _undo(mount, found)]
        if not gone:
            raise OSError(
                errno.EBUSY, "what is mounted there cannot be unmounted", next(iter(found.values())).point
            )
        count += len(gone)


def _undo(mount: Mount, found: dict[int, Mount]) -> bool:
    """Unmount one of the mounts `found`; False if it is hidden under another one."""
    # A copy of a shared tree, such as a recursive bind of / in a container's directory, passes the unmounting of what
    # is in it on to the original, and the host loses its /dev. So the copy is cut off first.
    copy = found.get(mount.parent, mount)
    try:
        libc.mount(None, copy.point, None, MS_PRIVATE | MS_REC)
        libc.umount2(mount.point, libc.UMOUNT_NOFOLLOW | libc.MNT_DETACH)
        return True
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):
            raise
        return False
