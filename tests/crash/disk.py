"""A disk that can lose power: one file in a FUSE file system that journals every write and flush.

    python disk.py MOUNTPOINT IMAGE JOURNAL SIZE

A loop device on MOUNTPOINT/disk, a file system on that, a store on that. The kernel turns the flushes of the file
system into fsync calls on the file. `images` replays a prefix of the journal: every write before the last flush that
precedes the cut, and each later one with probability one half, whole or torn to 512-byte sectors.
"""

import os
import random
import stat
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

WRITE, FLUSH = 1, 2
HEAD = struct.Struct("<BQI")
SECTOR = 512


def read_journal(path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """(end of the entry in the journal, kind, offset, data)."""
    with path.open("rb") as journal:
        at = 0
        while head := journal.read(HEAD.size):
            kind, offset, length = HEAD.unpack(head)
            data = journal.read(length)
            at += HEAD.size + length
            yield at, kind, offset, data


def crash_image(
    base: Path, entries: list[tuple[int, int, int, bytes]], cut: int, target: Path, seed: int
) -> None:
    """Write to `target` what a disk may hold if the power fails after `cut` entries."""
    chance = random.Random(seed)
    kept = entries[:cut]
    flushed = max((i for i, entry in enumerate(kept) if entry[1] == FLUSH), default=-1)
    # A new file: while somebody else's mount namespace has a copy of the mount, what is unmounted here stays mounted
    # there, and the disk before this one is still written to.
    target.unlink(missing_ok=True)
    os.system(f"cp --sparse=always '{base}' '{target}'")  # a copy that keeps holes; both paths are ours
    with target.open("r+b") as disk:
        for index, (_, kind, offset, data) in enumerate(kept):
            if kind != WRITE:
                continue
            if index > flushed:
                fate = chance.random()
                if fate < 0.5:
                    continue
                if fate < 0.6 and len(data) > SECTOR:
                    data = data[: chance.randrange(1, len(data) // SECTOR) * SECTOR]
            disk.seek(offset)
            disk.write(data)


def main(mountpoint: str, image: str, journal: str, size: int) -> None:
    import mfusepy

    disk = os.open(image, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(disk, size)
    log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    guard = threading.Lock()

    class Disk(mfusepy.Operations):
        def getattr(self, path: str, fh: int | None = None) -> dict[str, object]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path == "/disk":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}
            raise OSError(2, "no such file")

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", "disk"]

        def open(self, path: str, flags: int) -> int:
            return 0

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            return 0

        def read(self, path: str, length: int, offset: int, fh: int) -> bytes:
            return os.pread(disk, length, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            with guard:
                os.pwrite(disk, data, offset)
                os.write(log, HEAD.pack(WRITE, offset, len(data)) + data)
            return len(data)

        def fsync(self, path: str, datasync: int, fh: int) -> int:
            with guard:
                os.write(log, HEAD.pack(FLUSH, 0, 0))
            return 0

        def flush(self, path: str, fh: int) -> int:
            return 0

    mfusepy.FUSE(Disk(), mountpoint, foreground=True, nothreads=True, allow_other=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
