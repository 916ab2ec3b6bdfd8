"""Which file system a store lies on, by the number that the kernel has for it (`spec/drivers.md` 2)."""

from __future__ import annotations

import os

from orlop.system import libc

AUFS, ECRYPTFS, OVERLAYFS, XFS = 0x6175_6673, 0xF15F, 0x794C_7630, 0x5846_5342

_NAMES = {
    0x0: "unsupported",
    AUFS: "aufs",
    0x9123_683E: "btrfs",
    0x28CD_3D45: "cramfs",
    ECRYPTFS: "ecryptfs",
    0xE0F5_E1E2: "erofs",
    0xEF53: "extfs",
    0xF2F5_2010: "f2fs",
    0x4750_4653: "gpfs",
    0x72B6: "jffs2",
    0x3153_464A: "jfs",
    0x6969: "nfs",
    OVERLAYFS: "overlayfs",
    0x8584_58F6: "ramfs",
    0x5265_4973: "reiserfs",
    0x517B: "smb",
    0x7371_7368: "squashfs",
    0x0102_1994: "tmpfs",
    0xA501_FCF5: "vxfs",
    XFS: "xfs",
    0x2FC1_2FC1: "zfs",
}
"""As the peers print them. FUSE has no name there."""

_NETWORK = frozenset(
    (
        0x6969,  # nfs
        0x517B,  # smb
        0x6163_6673,  # acfs
        0x5346_414F,  # afs
        0x00C3_6400,  # ceph
        0xFF53_4D42,  # cifs
        0x4750_4653,  # gpfs
        0x0130_11A8,  # ibrix
        0x6B41_4653,  # kafs
        0x0BD0_0BD0,  # lustre
        0x564C,  # ncp
        0x6E66_7364,  # nfsd
        0x7461_636F,  # ocfs2
        0xAAD7_AAEA,  # panfs
        0x7C7C_6673,  # prlfs
        0xFE53_4D42,  # smb2
        0xBEEF_DEAD,  # snfs
        0x786F_4256,  # vboxsf
        0xA501_FCF5,  # vxfs
    )
)


def magic_of(directory: str) -> int:
    """The number of the file system that a directory lies on."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return libc.filesystem_magic(fd)
    finally:
        os.close(fd)


def name_of(magic: int) -> str:
    return _NAMES.get(magic, "<unknown>")


def is_network(magic: int) -> bool:
    """Whether the files may be on another machine, where ids and locks mean something else."""
    return magic in _NETWORK
