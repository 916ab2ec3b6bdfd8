"""A small file system of some kind in a file, mounted for the length of a block."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peers

_SIZES = {"xfs": 320 << 20, "btrfs": 128 << 20, "ext4": 64 << 20}


@contextmanager
def mounted(kind: str, place: Path) -> Iterator[Path]:
    """The mount point. Skips where the kernel or the tools cannot do it."""
    peers.need_root()
    make = peers.program(f"mkfs.{kind}")
    if kind not in Path("/proc/filesystems").read_text().split():
        peers.missing(f"the file system {kind} in its kernel")
    image, point = place / f"{kind}.img", place / kind
    with image.open("wb") as file:
        file.truncate(_SIZES[kind])
    _run(make, "-q", str(image))
    point.mkdir()
    device = _run("losetup", "-f", "--show", str(image))
    try:
        _run("mount", "-t", kind, device, str(point))
        try:
            yield point
        finally:
            peers.unmount_below(point)
    finally:
        _run("losetup", "-d", device)
        image.unlink()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()
