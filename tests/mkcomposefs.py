"""A stand-in for `mkcomposefs --from-file - -`, which Debian 12 does not have: a dump in, an image out.

It makes a tree of sparse files and packs that with `mkfs.erofs`. What the real one is known to do it does: it escapes
whiteouts and attributes of overlay, marks the root opaque, puts whiteouts `00` to `ff` into it, and writes a header
of its own before the file system. It needs nothing but Python.
"""

import os
import stat
import struct
import subprocess
import sys
import tempfile

HEADER = struct.Struct("<III")
MAGIC, HAS_ACL = 0xD078629A, 1

_OVERLAY = b"trusted.overlay."
_ESCAPES = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def main(arguments: list[str]) -> int:
    if arguments != ["--from-file", "-", "-"]:
        return fail(f"unexpected arguments {arguments}")
    with tempfile.TemporaryDirectory() as place:
        tree, image = os.fsencode(f"{place}/tree"), f"{place}/image"
        try:
            has_acl = build(tree, sys.stdin.buffer.read())
        except (ValueError, KeyError, OSError) as error:
            return fail(f"{type(error).__name__}: {error}")
        subprocess.run(["mkfs.erofs", "--quiet", "--preserve-mtime", image, tree], check=True, stdout=2)
        with open(image, "r+b") as file:
            file.write(HEADER.pack(MAGIC, 1, HAS_ACL if has_acl else 0))
            file.seek(0)
            sys.stdout.buffer.write(file.read())
    return 0


def fail(why: str) -> int:
    print(f"mkcomposefs: {why}", file=sys.stderr)
    return 1


def build(tree: bytes, dump: bytes) -> bool:
    """Make the files; whether any has an access control list."""
    times: list[tuple[bytes, int]] = []
    has_acl = False
    for line in dump.splitlines():
        path, size, mode, _, uid, gid, rdev, mtime, payload, content, _digest, *xattrs = line.split(b" ")
        place = tree + os.path.normpath(unescaped(path)).rstrip(b"/")
        if mode[:1] == b"@":
            os.link(tree + unescaped(payload), place, follow_symlinks=False)
            continue
        kind = int(mode, 8)
        attributes = dict(map(attribute, xattrs))
        has_acl |= any(name.startswith(b"system.posix_acl") for name in attributes)
        if stat.S_ISREG(kind):
            with open(place, "xb") as file:
                if content != b"-":
                    file.write(unescaped(content))
                file.truncate(int(size))
            if int(size) and content == b"-":
                attributes[_OVERLAY + b"metacopy"] = b""
                attributes[_OVERLAY + b"redirect"] = b"/" + unescaped(payload)
        elif stat.S_ISDIR(kind):
            os.mkdir(place)
        elif stat.S_ISLNK(kind):
            os.symlink(unescaped(payload), place)
        elif stat.S_ISCHR(kind) and int(rdev) == 0:
            whiteout(place, attributes)
            kind = stat.S_IMODE(kind) | stat.S_IFREG
        else:
            os.mknod(place, kind, int(rdev))
        os.chown(place, int(uid), int(gid), follow_symlinks=False)
        if not stat.S_ISLNK(kind):
            os.chmod(place, stat.S_IMODE(kind))
        for name, value in attributes.items():
            os.setxattr(place, name, value, follow_symlinks=False)
        seconds, _, rest = mtime.partition(b".")
        times.append((place, int(seconds) * 10**9 + int(rest)))
    os.setxattr(tree, _OVERLAY + b"opaque", b"y")
    for number in range(256):
        if not os.path.lexists(tree + b"/%02x" % number):
            os.mknod(tree + b"/%02x" % number, stat.S_IFCHR | 0o644, 0)
    for place, when in reversed(times):
        os.utime(place, ns=(when, when), follow_symlinks=False)
    return has_acl


def whiteout(place: bytes, attributes: dict[bytes, bytes]) -> None:
    with open(place, "xb"):
        attributes[_OVERLAY + b"overlay.whiteout"] = attributes[b"user.overlay.whiteout"] = b""
    for name in (_OVERLAY + b"overlay.whiteouts", b"user.overlay.whiteouts"):
        os.setxattr(os.path.dirname(place), name, b"")


def attribute(field: bytes) -> tuple[bytes, bytes]:
    name, _, value = field.partition(b"=")
    name = unescaped(name)
    if name.startswith(_OVERLAY):
        name = _OVERLAY + b"overlay." + name.removeprefix(_OVERLAY)
    return name, unescaped(value)


def unescaped(field: bytes) -> bytes:
    """A field's bytes; `-` is for none."""
    if field == b"-":
        return b""
    found = b""
    before, *pieces = field.split(b"\\")
    found += before
    skip = False
    for piece in pieces:
        if skip:  # the second of two backslashes
            found += piece
            skip = False
        elif not piece:
            found += b"\\"
            skip = True
        elif piece[:1] == b"x":
            found += bytes([int(piece[1:3], 16)]) + piece[3:]
        else:
            found += _ESCAPES[piece[:1]] + piece[1:]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
