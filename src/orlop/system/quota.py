"""Project quotas of xfs: a limit on what a directory and all below it may take (`spec/dedup.md` 4).

A directory gets a project id, which everything made in it inherits; limits and counters belong to the id. Nothing is
written down but a device node, by which the kernel is asked: ids are read off the directories again at each start.

LIMIT: two processes may hand out one id at the same time, and their directories then share a limit. Peers do so, too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from orlop.system import libc

NODE = "backingFsBlockDev"

_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x801C_581F, 0x401C_5820
_ATTRIBUTES = struct.Struct("=IIIII8x")  # flags, extent size, extents, project, CoW extent size
_INHERIT = 0x200

_SET_LIMITS, _GET_QUOTA = 0x58_0402, 0x58_0302
_QUOTA = struct.Struct(
    "=bbHIQQQQQQ56x"
)  # version, flags, fields, id, four limits, blocks, inodes; timers are left out
_PROJECT = 2
_INODES, _BLOCKS = 2 | 1, 8 | 4  # which limits are meant: hard and soft
_BLOCK = 512

_FIRST_ID = 10_000
_LAST_ID = 2**32 - 1


class ProjectQuota:
    """The quotas of the directories in one directory, `home`. `OSError` if there are none on its file system."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._node = f"{home}/{NODE}"
        self._ids: dict[str, int] = {}
        flags, base = _attributes(home)
        if not base:
            base = first_id(os.stat(home).st_ino)
        self._make_node()
        self._set_limits(base, 0, 0)
        if flags & _INHERIT:
            _change(home, clear=_INHERIT)
        self._next = base + 1
        with os.scandir(home) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    known = _attributes(entry.path)[1]
                    if known:
                        self._ids[entry.path] = known
                        self._next = max(self._next, known + 1)

    def limit(self, directory: str, size: int, inodes: int) -> None:
        """Limit a directory in home to so many bytes and inodes; 0: no limit, but it is counted.

        It must be empty the first time: what is in it already would not be counted.
        """
        if directory not in self._ids:
            if os.listdir(directory):
                raise OSError(errno.ENOTEMPTY, "can only set project ID on empty directories", directory)
            _change(directory, project=self._next)
            self._ids[directory] = self._next
            self._next += 1
        self._set_limits(self._ids[directory], size, inodes)

    def usage(self, directory: str) -> tuple[int, int] | None:
        """Bytes and inodes that a directory takes; None if it has no quota."""
        id = self._ids.get(directory)
        if id is None:
            return None
        answer = self._call(_GET_QUOTA, id, bytes(_QUOTA.size))
        blocks, inodes = _QUOTA.unpack(answer)[8:10]
        return blocks * _BLOCK, inodes

    def forget(self, directory: str) -> None:
        """A directory is gone. Its limits stay with an id that nobody uses."""
        self._ids.pop(directory, None)

    def _set_limits(self, id: int, size: int, inodes: int) -> None:
        fields = (_BLOCKS if size else 0) | (_INODES if inodes else 0)
        blocks = size // _BLOCK
        self._call(
            _SET_LIMITS, id, _QUOTA.pack(1, _PROJECT, fields, id, blocks, blocks, inodes, inodes, 0, 0)
        )

    def _call(self, command: int, id: int, data: bytes) -> bytes:
        try:
            return quotactl(command, self._node, id, data)
        except FileNotFoundError:
            self._make_node()
            return quotactl(command, self._node, id, data)

    def _make_node(self) -> None:
        """The block device that home is on, under a name of our own: it may have none, or another one tomorrow."""
        new = f"{self._node}.tmp"
        try:
            os.unlink(new)
        except FileNotFoundError:
            pass
        os.mknod(new, stat.S_IFBLK | 0o600, os.stat(self._home).st_dev)
        os.rename(new, self._node)


def first_id(inode: int) -> int:
    """Where the ids of a home begin: apart from those of other homes on the file system, most likely."""
    return _FIRST_ID + (inode * 10_000) % 2**64 % (_LAST_ID - _FIRST_ID)


def quotactl(command: int, node: str, id: int, data: bytes) -> bytes:
    """quotactl(2); what the kernel made of `data`."""
    import ctypes

    buffer = ctypes.create_string_buffer(data, len(data))
    libc.call("quotactl", command, os.fsencode(node), id, buffer, path=node)
    return buffer.raw


def _attributes(directory: str) -> tuple[int, int]:
    """(flags, project id) of a directory."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = _ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size)))
        return found[0], found[3]
    finally:
        os.close(fd)


def _change(directory: str, *, project: int | None = None, clear: int = 0) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = list(_ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size))))
        found[0] &= ~clear
        if project is not None:
            found[0] |= _INHERIT
            found[3] = project
        fcntl.ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(*found))
    finally:
        os.close(fd)
