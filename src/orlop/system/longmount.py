"""mount(2) for file systems that are made of many directories, whose names it takes in a text of less than a page.

A name has three spellings, tried in this order until the text is short enough: absolute; relative to the driver's
home; the number of a descriptor, relative to /proc/self/fd. With the latter 500 layers fit (`spec/drivers.md` 4.6).

Rule: A name that means something to the kernel's parser of options is never given to it; a descriptor is.
"""

from __future__ import annotations

import errno
import os

from orlop.errors import LimitExceeded
from orlop.system import libc, mounts, newmount, starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Directory = str | int
    """An absolute path, or an open directory."""

_SPECIAL = frozenset('\\:,"')


def mount(
    handle: int,
    fstype: str,
    directories: Callable[[Callable[[Directory], str]], list[str]],
    options: Sequence[str],
    *,
    flags: int,
    home: str,
) -> int:
    """Mount on the directory of a handle; a handle of the root of what was mounted.

    `directories` makes the options that name some, given how to spell each; `options` are the others. Raises
    `OSError`, and `LimitExceeded` if the text is too long however they are spelled.
    """
    opened: dict[str, int] = {}

    def number(layer: Directory) -> str:
        if isinstance(layer, int):
            return str(layer)
        if layer not in opened:
            opened[layer] = os.open(layer, newmount.DIRECTORY)
        return str(opened[layer])

    def absolute(layer: Directory) -> str:
        # There are ways to escape commas and colons, which not all kernels undo, and none for a quotation mark.
        if isinstance(layer, int) or not _SPECIAL.isdisjoint(layer):
            return f"/proc/self/fd/{number(layer)}"
        return layer

    def relative(layer: Directory) -> str:
        return absolute(layer).removeprefix(home.rstrip("/") + "/")

    page = os.sysconf("SC_PAGESIZE")
    try:
        for spelled, directory in ((absolute, None), (relative, home), (number, "/proc/self/fd")):
            text = ",".join([*directories(spelled), *options])
            size = len(os.fsencode(text))
            if size < page:
                return _mount(handle, fstype, text, flags, directory)
        raise LimitExceeded(
            f"the options of a mount have {size} bytes, of which mount(2) takes {page - 1}",
            peer=f"cannot mount layer, mount data {text!r} too large {size} >= page size {page}",
            size=size,
            limit=page - 1,
        )
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno in (errno.ENOENT, errno.EINVAL):
            directories(number)  # opens them: one that is not there is named
        # LIMIT: which option is wrong the kernel tells its log only.
        what = f"mount options {','.join(options)!r}" if options else f"making a file system of type {fstype}"
        raise OSError(error.errno, f"{what}: {error.strerror} (the kernel's log may tell more)") from None
    finally:
        for fd in opened.values():
            os.close(fd)


def _mount(handle: int, fstype: str, text: str, flags: int, directory: str | None) -> int:
    point = f"/proc/self/fd/{handle}"
    mounted = False

    def mount() -> None:
        nonlocal mounted
        try:
            libc.mount(fstype, point, fstype, flags, text)
        except OSError as error:
            error.filename = None  # the handle's: the caller knows the path
            raise
        mounted = True

    try:
        if directory is None:
            mount()
        else:
            _in_directory(directory, mount)
        return newmount.root_on(handle)
    except BaseException:
        if mounted:
            mounts.unmount(os.readlink(point))  # by its name, for want of its own handle
        raise


def _in_directory(directory: str, work: Callable[[], None]) -> None:
    """Do something with another working directory.

    In a thread, which Linux lets have a working directory of its own. A process to do it would cost more: with
    threads about it could not be forked, and would need an interpreter of its own.
    """
    import _thread

    libc.load()
    running = _thread.allocate_lock()
    running.acquire()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            libc.unshare(libc.CLONE_FS)
            os.chdir(directory)
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            running.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:
        raise starting.refused("a thread with a working directory of its own", error) from error
    while True:
        try:
            running.acquire()
            break
        except BaseException as interruption:
            # From a signal handler. It has to wait: the mount is being made, and would be nobody's.
            failures.append(interruption)
    if failures:
        raise failures[0]
