"""A file system on a disk that can lose power, with a workload that was run on it.

powered = Powered(base, "ext4")
out = powered.record(lambda mnt: [sys.executable, ...])    # what the program printed
for cut, entries ...:
    with powered.crashed(cut, entries, seed) as mnt: ...   # None: the file system itself does not come back
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import disk

import peers

SIZES = {"ext4": 64 << 20, "ext4-noauto": 64 << 20, "xfs": 320 << 20, "btrfs": 160 << 20}
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "ext4-noauto": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}
OPTIONS = {"ext4-noauto": ["-o", "noauto_da_alloc"]}


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, check=False, text=True)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


class Powered:
    def __init__(self, base: Path, kind: str) -> None:
        peers.need_root()
        peers.need(MKFS[kind][0], "losetup", "fusermount3")
        self.base, self.kind = base, kind
        self.image, self.journal, self.start = base / "image", base / "journal", base / "start"
        self.fuse, self.mnt = base / "fuse", base / "mnt"
        for path in (base, self.fuse, self.mnt):
            path.mkdir()

    def record(self, command: Callable[[Path], list[str]]) -> str:
        """Run a command on the file system; how long the journal was at a moment, its own file tells."""
        self.journal.touch()
        words = [str(self.fuse), str(self.image), str(self.journal), str(SIZES[self.kind])]
        server = subprocess.Popen([sys.executable, disk.__file__, *words])
        loop = ""
        try:
            for _ in range(100):
                if (self.fuse / "disk").exists():
                    break
                time.sleep(0.05)
            loop = run("losetup", "-f", "--show", str(self.fuse / "disk")).strip()
            run(*MKFS[self.kind], loop)
            run("sync", "-f", str(self.fuse))
            subprocess.run(["blockdev", "--flushbufs", loop], check=True)
            run("cp", "--sparse=always", str(self.image), str(self.start))
            self.journal.write_bytes(b"")
            run("mount", *OPTIONS.get(self.kind, []), loop, str(self.mnt))
            try:
                return run(*command(self.mnt))
            finally:
                peers.unmount_below(self.mnt)
        finally:
            if loop:
                subprocess.run(["losetup", "-d", loop], check=False)
            subprocess.run(["fusermount3", "-u", "-z", str(self.fuse)], check=False)
            server.wait(timeout=20)

    @contextmanager
    def crashed(
        self, cut: int, entries: list[tuple[int, int, int, bytes]], seed: int
    ) -> Iterator[Path | None]:
        """Where a disk is mounted as it may be after `cut` entries of the journal.

        None if it cannot be mounted: a torn sector of its superblock says nothing about us.
        """
        image = self.base / "crashed"
        disk.crash_image(self.start, entries, cut, image, seed)
        mount = ["mount", "-o", "loop", str(image), str(self.mnt)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            yield None
            return
        try:
            yield self.mnt
        finally:
            peers.unmount_below(self.mnt)
