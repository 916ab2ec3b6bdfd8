"""File trees for tests: one with every kind of thing in it, and what there is to know about a tree.

trees.plant(path)                       # needs root
assert trees.listing(a) == trees.listing(b)
"""

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
# Owner and group, mask and others as in 0644, and user 99 who may write.
_ENTRIES = ((1, 6, -1), (2, 7, 99), (4, 4, -1), (16, 7, -1), (32, 4, -1))
ACL = struct.pack("<I", 2) + b"".join([struct.pack("<HHi", *entry) for entry in _ENTRIES])


def plant(root: Path, *, sockets: bool = True, devices: bool = True) -> None:
    """Every kind of file, odd owners, modes, names and times, links of all sorts, attributes, a hole."""
    root.mkdir(exist_ok=True)
    etc = root / "etc"
    etc.mkdir()
    (etc / "passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
    (etc / "empty").touch()
    (etc / "shadow").write_bytes(b"secret")
    (etc / "shadow").chmod(0)
    os.chown(etc / "shadow", 0, 42)
    (root / "no-read-dir").mkdir()
    (root / "no-read-dir" / "inside").write_bytes(b"x" * 70_000)
    (root / "no-read-dir").chmod(0o111)
    (root / "tmp").mkdir()
    os.chown(root / "tmp", 7, 8)
    (root / "tmp").chmod(0o1777)
    (root / "shared").mkdir()
    os.chown(root / "shared", 0, 8)
    (root / "shared").chmod(0o2775)
    bin = root / "bin"
    bin.mkdir()
    (bin / "su").write_bytes(b"\x7fELF" + os.urandom(3000))
    os.chown(bin / "su", 0, 9)
    (bin / "su").chmod(0o6755)
    (bin / "bind").write_bytes(b"\x7fELF")
    os.chown(bin / "bind", 1000, 1000)
    os.setxattr(bin / "bind", "security.capability", CAPABILITY)
    os.setxattr(bin / "bind", "user.origin", b"here\0there")
    os.setxattr(bin, "user.on-a-directory", b"yes")
    os.link(bin / "su", etc / "su-elsewhere")
    os.link(bin / "su", root / "a-first-name")
    (bin / "sh").symlink_to("/bin/su")
    (bin / "climbing").symlink_to("../../../../../../etc/passwd")
    os.chown(bin / "sh", 5, 6, follow_symlinks=False)
    os.utime(bin / "sh", ns=(1, 2), follow_symlinks=False)
    dev = root / "dev"
    dev.mkdir()
    os.mkfifo(dev / "initctl", 0o600)
    if devices:
        os.mknod(dev / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(dev / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
        (dev / "null").chmod(0o666)
        os.chown(dev / "disk", 0, 6)
    if sockets:
        listener = socket.socket(socket.AF_UNIX)
        with at(dev):
            listener.bind("log")
        listener.close()
    (root / os.fsdecode(b"caf\xe9 \xff")).write_bytes(b"a name that is not UTF-8")
    (root / "line\nbreak").write_bytes(b"")
    with open(root / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"middle")
    for path, atime_ns, mtime_ns in (
        (etc / "passwd", 1_500_000_000_123_456_789, 1_400_000_000_987_654_321),
        (dev / "initctl", 3_000_000_001, 4_000_000_002),
        (etc, 1_100_000_000_000_000_001, 1_200_000_000_000_000_002),
        (root, 1_000_000_000_000_000_003, 1_000_000_001_000_000_004),
    ):
        os.utime(path, ns=(atime_ns, mtime_ns))


class at:
    """A directory to be in for a while: names of sockets are short."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.before = os.open(".", os.O_RDONLY)
        os.chdir(self.path)

    def __exit__(self, *_: object) -> None:
        os.fchdir(self.before)
        os.close(self.before)


def listing(root: Path | str, *, atime: bool = True, xattrs: bool = True) -> dict[str, dict[str, Any]]:
    """What there is to know about every path, the root included, in a form that two trees can be compared by.

    Reading it leaves the tree as it is. Hard links show as the first path of the same file.
    """
    found: dict[str, dict[str, Any]] = {}
    first: dict[int, str] = {}
    waiting = ["."]
    while waiting:
        path = waiting.pop(0)
        full = os.path.join(root, path)
        try:
            status = os.lstat(full)
        except FileNotFoundError:  # the kernel lists a whiteout in a directory that merges nothing
            assert path != "."
            found[path] = {"mode": "gone", "xattrs": {}}
            continue
        facts: dict[str, Any] = {
            "mode": oct(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
        }
        if atime and not stat.S_ISLNK(status.st_mode):  # looking at a symlink's text changes its own
            facts["atime"] = status.st_atime_ns
        if xattrs:
            names = sorted(os.listxattr(full, follow_symlinks=False))
            facts["xattrs"] = {name: os.getxattr(full, name, follow_symlinks=False) for name in names}
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(full, os.O_RDONLY | os.O_NOATIME)
            waiting += sorted(os.path.normpath(os.path.join(path, name)) for name in os.listdir(fd))
            os.close(fd)
        else:
            facts["same as"] = first.setdefault(status.st_ino, path)
            facts["names"] = status.st_nlink
        if stat.S_ISREG(status.st_mode):
            fd = os.open(full, os.O_RDONLY | os.O_NOATIME)
            facts["content"] = hash(os.pread(fd, status.st_size + 1, 0))
            os.close(fd)
        elif stat.S_ISLNK(status.st_mode):
            facts["text"] = os.readlink(full)
        elif not stat.S_ISDIR(status.st_mode):
            facts["device"] = status.st_rdev
        found[path] = facts
    return found
