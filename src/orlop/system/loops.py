"""Loop devices: a file as a read-only block device, for kernels that mount some file systems from devices only.

Rule: A device is set up and asked to go by itself in one call. It goes with the last that uses it: a mount, or a
      process that died in between.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE = 0x4C82, 0x4C0A
_CONFIGURATION = struct.Struct("=II52xI176x64x")  # file, block size; flags, among much else
_READ_ONLY, _AUTOCLEAR = 1, 4

_TRIES = 128
"""Somebody else may take the free device first; more often than that means that something else is wrong."""


class loop_device:
    """A block with the path of a device that shows the open file `fd`. What is mounted from it meanwhile stays.

    Linux 5.8. `OSError` if there is no loop device to be had.
    """

    def __init__(self, fd: int) -> None:
        self._file = fd
        self._fd = -1

    def __enter__(self) -> str:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_TRIES):
                path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
                if self._take(path):
                    return path
        finally:
            os.close(control)
        raise OSError(errno.EBUSY, f"every free loop device was taken by others, {_TRIES} times", _CONTROL)

    def _take(self, path: str) -> bool:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _CONFIGURE, _CONFIGURATION.pack(self._file, 0, _READ_ONLY | _AUTOCLEAR))
        except OSError as error:
            os.close(fd)
            if error.errno != errno.EBUSY:
                error.filename = path
                raise
            return False
        self._fd = fd
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
