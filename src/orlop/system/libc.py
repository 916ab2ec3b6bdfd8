"""System calls that Python has no wrapper for.

Rule 1: `ctypes` is imported by the first call, not by importing this module: small commands never pay for it.
Rule 2: a failed call is an `OSError` with the number, the system's text, the name of the call in a note, and the
        path where there is one. No call returns -1.
Rule 3: whoever forks and then calls something here calls `load()` before the fork. Importing in the child of a
        process that had threads can hang on a lock which a thread of the parent held.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

    Argument = int | bytes | None | ctypes.Array[ctypes.c_char]

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x10_0000

CLONE_FS = 0x200
CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

# The calls that old C libraries have no function for. From 424 on the kernel gives one number on every machine.
_NUMBERS = {"x86_64": {"pivot_root": 155, "renameat2": 316}, "aarch64": {"pivot_root": 41, "renameat2": 276}}
_EVERYWHERE = {"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432}
_EVERYWHERE |= {"openat2": 437, "mount_setattr": 442}

# A component that somebody moves while the kernel walks over `..` makes openat2 answer EAGAIN. Trying again is
# right, but not for ever: the one who moves it may be doing so on purpose. (libpathrs gives up at 128, too.)
_OPENAT2_TRIES = 128

_libc: ctypes.CDLL | None = None


def load() -> ctypes.CDLL:
    """The C library of this process; loaded once."""
    global _libc
    if _libc is None:
        import ctypes

        _libc = ctypes.CDLL(None, use_errno=True)
    return _libc


def call(
    name: str, *arguments: Argument, path: str | bytes | None = None, known_as: str | None = None
) -> int:
    """Call the function `name` of the C library; its result, or `OSError`. EINTR is tried again.

    Integers are passed as C longs. Text is passed as bytes without NUL; `path` and `known_as` only serve the error.
    """
    import ctypes

    function = getattr(load(), name)
    words: list[object] = []
    for argument in arguments:
        if isinstance(argument, bytes) and 0 in argument:
            raise ValueError("embedded null byte")
        words.append(ctypes.c_long(argument) if isinstance(argument, int) else argument)
    while True:
        result = int(function(*words))
        if result != -1:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR:
            error = OSError(number, os.strerror(number), path)
            error.add_note(f"the call was {known_as or name}()")
            raise error


def syscall(name: str, *arguments: Argument, path: str | bytes | None = None) -> int:
    """Make the system call `name` by its number. On a machine whose numbers we do not know: ENOSYS."""
    number = _EVERYWHERE.get(name) or _NUMBERS.get(os.uname().machine, {}).get(name)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), path)
    return call("syscall", number, *arguments, path=path, known_as=name)


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` beneath `dir_fd` under the `RESOLVE_*` rules; a descriptor that is closed on exec.

    ENOSYS below Linux 5.6, EPERM in some sandboxes: callers have another way or say that they have none.
    """
    import ctypes

    # A buffer, not bytes: those are texts here, and this is full of zeros.
    how = ctypes.create_string_buffer(struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve), 24)
    for attempt in range(_OPENAT2_TRIES):
        try:
            return syscall("openat2", dir_fd, os.fsencode(path), how, len(how), path=path)
        except BlockingIOError:
            if attempt == _OPENAT2_TRIES - 1 or not resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT):
                raise
    raise AssertionError("unreachable")


def syncfs(fd: int) -> None:
    """Write everything of the file system that `fd` lies on. Reports failed writes from Linux 5.8 on."""
    call("syncfs", fd)


def renameat2(src_dir: int, src: str | bytes, dst_dir: int, dst: str | bytes, flags: int) -> None:
    syscall("renameat2", src_dir, os.fsencode(src), dst_dir, os.fsencode(dst), flags, path=src)


def mount(
    source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None
) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, fstype, data)]
    call("mount", *texts[:3], flags, texts[3], path=target)


def umount2(target: str, flags: int = 0) -> None:
    call("umount2", os.fsencode(target), flags, path=target)


def open_tree(dir_fd: int, path: str | bytes, flags: int) -> int:
    """A handle of a mount, or with `OPEN_TREE_CLONE` a copy of it that hangs nowhere. Linux 5.2."""
    return syscall("open_tree", dir_fd, os.fsencode(path), flags | os.O_CLOEXEC, path=path or None)


def move_mount(mount: int, onto: int) -> None:
    """Attach the mount that `mount` is the root of to the directory `onto`, which is no path. Linux 5.2."""
    syscall("move_mount", mount, b"", onto, b"", _F_EMPTY_PATH | _T_EMPTY_PATH)


_F_EMPTY_PATH, _T_EMPTY_PATH = 0x04, 0x40


def fsopen(fstype: str) -> int:
    """The context in which a file system is put together. Linux 5.2; ENODEV: no such file system here."""
    return syscall("fsopen", os.fsencode(fstype), _FSOPEN_CLOEXEC)


def fsconfig(
    context: int, command: int, key: str | None = None, value: str | None = None, number: int = 0
) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (key, value)]
    syscall("fsconfig", context, command, *texts, number)


def fsmount(context: int, attributes: int) -> int:
    """The mount of a file system that was put together; it hangs nowhere, and ends with its last handle."""
    return syscall("fsmount", context, _FSOPEN_CLOEXEC, attributes)


_FSOPEN_CLOEXEC = 1  # of fsmount, too


def mount_setattr(
    mount: int, *, set: int = 0, clear: int = 0, propagation: int = 0, userns_fd: int = 0
) -> None:
    """Change the mount that `mount` is the root of. Linux 5.12."""
    import ctypes

    change = ctypes.create_string_buffer(struct.pack("=QQQQ", set, clear, propagation, userns_fd), 32)
    syscall("mount_setattr", mount, b"", AT_EMPTY_PATH, change, len(change))


def filesystem_magic(fd: int) -> int:
    """The number by which the kernel names the kind of file system that `fd` lies on (`statfs(2)` lists them)."""
    import ctypes

    answer = ctypes.create_string_buffer(256)  # twice of what any machine needs
    call("fstatfs", fd, answer)
    # The first field has 4 or 8 bytes. All the numbers fit in 4, and little-endian machines store those first.
    return int.from_bytes(answer.raw[:4], sys.byteorder)


def pivot_root(new_root: str, put_old: str) -> None:
    syscall("pivot_root", os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` (`CLONE_NEW...`) name. `os.unshare` exists from Python 3.12 on only."""
    call("unshare", flags)


def prctl(option: int, *arguments: int) -> int:
    return call("prctl", option, *(*arguments, 0, 0, 0, 0)[:4])


def die_with_parent(parent: int, signal: int = 9) -> None:
    """Have the kernel send `signal` to this process when the thread that forked it ends.

    `parent` is the forking process's id as it was before the fork: a parent that died before the request was made
    sends nothing any more, so that case is looked for afterwards. To be called again after a change of user: the
    kernel forgets the request then.
    """
    prctl(PR_SET_PDEATHSIG, signal)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal)
