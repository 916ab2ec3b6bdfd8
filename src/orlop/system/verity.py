"""fs-verity: a file made unchangeable by the kernel, which answers for its digest (`spec/chunked.md` 23).

Few file systems have it, and kernels may be built without: then files are as safe as others.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_ENABLE, _MEASURE = 0x4080_6685, 0xC004_6686
_WISH = struct.Struct("=III116x")  # version, algorithm, size of blocks; no salt, no signature
_HEAD = struct.Struct("=HH")  # algorithm, length of the digest
_SHA256 = 1
_BLOCK = 4096
_LONGEST = 64

_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY)


def enable(fd: int) -> bool:
    """Make a file, open for reading and by nobody for writing, unchangeable. False where that cannot be had."""
    try:
        fcntl.ioctl(fd, _ENABLE, _WISH.pack(1, _SHA256, _BLOCK))
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        if error.errno != errno.EEXIST:  # it is already
            raise
    return True


def measure(fd: int) -> str:
    """The digest that the kernel answers for, in hexadecimal digits. ENODATA: the file is not protected."""
    answer = fcntl.ioctl(fd, _MEASURE, _HEAD.pack(0, _LONGEST) + bytes(_LONGEST))
    algorithm, length = _HEAD.unpack_from(answer)
    if algorithm != _SHA256:
        raise OSError(
            errno.EOPNOTSUPP,
            f"the digest is of algorithm {algorithm}, not SHA-256",
            os.readlink(f"/proc/self/fd/{fd}"),
        )
    return answer[_HEAD.size : _HEAD.size + length].hex()
