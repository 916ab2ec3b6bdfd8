"""Odd archives that are all well: what a check must not take for damage.

for name, layers in healthy.ODD.items():      # each a stack, the lowest layer first
"""

import gzip
import lzma
import struct
from collections.abc import Iterator

from rawtar import END, base256, long_name, member, pax, sparse_00, sparse_01, sparse_10

T = 1_600_000_000
_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def _file(name: bytes, data: bytes = b"x", **fields: object) -> bytes:
    return member(name, data, **{"mtime": T, **fields})


def _directory(name: bytes, **fields: object) -> bytes:
    return member(name, **{"mode": 0o755, "mtime": T, **fields})


def _link(name: bytes, to: bytes, **fields: object) -> bytes:
    return member(name, type=b"1", linkname=to, **{"mtime": T, **fields})


def _symlink(name: bytes, to: bytes, **fields: object) -> bytes:
    return member(name, type=b"2", linkname=to, **{"mode": 0o777, "mtime": T, **fields})


def _timed(time: bytes, name: bytes = b"file") -> bytes:
    return pax({b"mtime": time}) + _file(name)


def _marked(name: bytes, value: bytes, to: bytes) -> bytes:
    return pax({b"SCHILY.xattr." + name: value}) + to


def _archive(*members: bytes) -> bytes:
    return b"".join(members) + END


_TREE = _archive(
    _directory(b"etc/"),
    _file(b"etc/passwd"),
    _file(b"etc/group"),
    _directory(b"usr/"),
    _directory(b"usr/lib/"),
    _file(b"usr/lib/one"),
    _file(b"usr/lib/two"),
    _symlink(b"lib", b"usr/lib"),
)

_RUNS = [(4096, b"a" * 100), (65536, b"b" * 4096)]
_MANY_RUNS = [(4096 * (2 * number + 1), b"%04d" % number * 1024) for number in range(40)]


def _single() -> Iterator[tuple[str, bytes]]:
    """Layers on nothing."""
    yield "nothing", END
    yield "no end", _file(b"a")
    yield "half an end", _file(b"a") + bytes(512)
    yield "a long end", _archive(_file(b"a")) + bytes(20480)
    yield "rubbish after the end", _archive(_file(b"a")) + b"rubbish" * 100
    yield (
        "implied directories",
        _archive(_file(b"a/b/c/d"), _symlink(b"e/f", b"g"), _link(b"h/i", b"a/b/c/d")),
    )
    yield "implied, told later", _archive(_file(b"a/b/c"), _directory(b"a/", mode=0o700, uid=5))
    yield "a root", _archive(_directory(b"./", mode=0o711, uid=4, gid=5), _file(b"./a"))
    yield "a root, later", _archive(_file(b"a"), _directory(b"./", mode=0o1777), _file(b"b"))
    yield "absolute names", _archive(_directory(b"/a/"), _file(b"/a/b"), _link(b"/c", b"/a/b"))
    yield (
        "odd slashes",
        _archive(_directory(b".//a//"), _file(b"./a/./b"), _file(b"a//c"), _file(b"a/d/../e")),
    )
    for mode in (0, 0o644, 0o4755, 0o1777):
        yield f"a symlink of mode {mode:o}", _archive(_symlink(b"a", b"b", mode=mode, uid=9))
    yield (
        "symlinks to anywhere",
        _archive(
            _symlink(b"a", b"/etc/passwd"),
            _symlink(b"b", b"../../.."),
            _symlink(b"c", b"c"),
            _symlink(b"d", b"\xff\n"),
        ),
    )
    yield "a long symlink", _archive(long_name(b"/x" * 2000, type=b"K"), _symlink(b"a", b"short"))
    for mode in (0, 0o111, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777):
        yield f"a file of mode {mode:o}", _archive(_file(b"a", mode=mode))
        yield f"a directory of mode {mode:o}", _archive(_directory(b"a/", mode=mode), _file(b"a/b"))
    for owner in (1, 65_534, 65_536, 2**31 - 1, 2**31, 2**32 - 2):
        yield (
            f"owner {owner}",
            _archive(
                *[pax({b"uid": b"%d" % owner, b"gid": b"%d" % owner}) + entry for entry in _all_kinds()]
            ),
        )
    for time in (-1, -(2**31), -(2**33), 1, 2**31, 2**32, 2**33, 9_223_372_037, 2**34, 2**40, 2**62):
        yield f"time {time}", _archive(*[pax({b"mtime": b"%d" % time}) + entry for entry in _all_kinds()])
    for time in (b"1.5", b"-1.5", b"1600000000.123456789", b"1600000000.1234567891", b"0", b"-0.000000001"):
        yield f"time {time.decode()}", _archive(_timed(time))
    yield (
        "time in base 256",
        _archive(_file(b"a", mtime=base256(-(2**34), 12)), _file(b"b", mtime=base256(2**34, 12))),
    )
    yield "other times as well", _archive(pax({b"atime": b"1", b"ctime": b"2"}) + _file(b"a"))
    yield (
        "links with headers of their own",
        _archive(
            _file(b"a", mode=0o600, uid=1),
            _link(b"b", b"a", mode=0o4755, uid=2, gid=3, mtime=T + 9),
            _link(b"c", b"b", mode=0o644),
        ),
    )
    yield "a link with a payload", _archive(_file(b"a", b"abc"), _link(b"b", b"a", size=0))
    yield "a link to a symlink", _archive(_symlink(b"a", b"b"), _link(b"c", b"a"))
    yield "a link to a device", _archive(_node(b"a", b"3"), _link(b"b", b"a", mode=0o600))
    yield "a link to a FIFO", _archive(_node(b"a", b"6"), _link(b"b", b"a"))
    yield "a link with attributes", _archive(_file(b"a"), _marked(b"user.x", b"y", _link(b"b", b"a")))
    for name, sparse in (("0.0", sparse_00), ("0.1", sparse_01), ("1.0", sparse_10)):
        yield f"sparse {name}", _archive(sparse(b"a", _RUNS, 1_000_000))
        yield f"sparse {name}, many", _archive(sparse(b"a", _MANY_RUNS, 2_000_000))
        yield f"sparse {name}, empty", _archive(sparse(b"a", [], 1 << 20))
        yield f"sparse {name}, linked", _archive(sparse(b"a", _RUNS, 100_000), _link(b"b", b"a"))
    yield "through a symlink", _archive(_directory(b"b/"), _symlink(b"a", b"b"), _file(b"a/c"))
    yield "children before parents", _archive(_file(b"a/b"), _directory(b"a/", mode=0o500))
    yield (
        "whiteouts of nothing",
        _archive(_file(b".wh.a"), _file(b"b/.wh.c"), _directory(b"d/"), _file(b"d/.wh.e")),
    )
    yield "opaque in a new directory", _archive(_directory(b"a/"), _file(b"a/.wh..wh..opq"), _file(b"a/b"))
    yield "opaque in an implied directory", _archive(_file(b"a/b/.wh..wh..opq"), _file(b"a/b/c"))
    yield "opaque, last", _archive(_directory(b"a/"), _file(b"a/b"), _file(b"a/.wh..wh..opq"))
    yield "an opaque root", _archive(_file(b".wh..wh..opq"), _file(b"a"))
    yield (
        "of aufs",
        _archive(_directory(b".wh..wh.plnk/"), _file(b".wh..wh.aufs"), _file(b".wh..wh.orph"), _file(b"a")),
    )
    yield (
        "a whiteout and a file",
        _archive(_file(b".wh.a"), _file(b"a"), _file(b"b"), _file(b"c/.wh.d"), _file(b"c/d")),
    )
    for name in _NAMES:
        yield f"named {name[:20]!r}", _archive(pax({b"path": name}) + _file(b"short"))
    yield "long names of GNU", _archive(long_name(b"l/" * 60 + b"n" * 150), _file(b"short"))
    yield "a trailing slash of a file", _archive(pax({b"path": b"a/"}) + _file(b"a"))
    yield "very deep", _archive(pax({b"path": b"d/" * 400 + b"f"}) + _file(b"short"))
    for name, value in _ATTRIBUTES:
        yield (
            f"attribute {name.decode()}",
            _archive(_marked(name, value, _file(b"a")), _marked(name, value, _directory(b"d/"))),
        )
    yield (
        "many attributes",
        _archive(pax({b"SCHILY.xattr.user.n%d" % number: b"v" * 100 for number in range(20)}) + _file(b"a")),
    )
    yield "attributes on a symlink", _archive(_marked(b"trusted.x", b"y", _symlink(b"a", b"b")))
    yield "attributes on a device", _archive(_marked(b"trusted.x", b"y", _node(b"a", b"3")))
    yield (
        "devices",
        _archive(
            _node(b"a", b"3"), _node(b"b", b"4", devmajor=259, devminor=70_000), _node(b"c", b"6", mode=0)
        ),
    )
    yield "a file of old", _archive(_file(b"a", type=b"\0"))
    yield "a global header", pax({b"comment": b"x"}, type=b"g") + _archive(_file(b"a"))
    yield "a header of an unknown key", _archive(pax({b"VENDOR.x": b"y"}) + _file(b"a"))
    yield "names of owners", _archive(pax({b"uname": b"somebody", b"gname": b"x"}) + _file(b"a", uid=0))
    yield "large", _archive(_file(b"a", bytes(range(256)) * 20_000), _file(b"b", b"\0" * 3_000_000))
    yield "many entries", _archive(*[_file(b"d%d/f%d" % (n % 7, n), b"%d" % n) for n in range(3000)])


def _node(name: bytes, type: bytes, **fields: object) -> bytes:
    return member(name, type=type, **{"mode": 0o660, "devmajor": 1, "devminor": 5, "mtime": T, **fields})


def _all_kinds() -> list[bytes]:
    return [
        _directory(b"d/"),
        _file(b"d/f"),
        _symlink(b"d/s", b"f"),
        _link(b"d/l", b"d/f"),
        _node(b"d/c", b"3"),
        _node(b"d/p", b"6"),
    ]


_NAMES = [
    b"caf\xc3\xa9", b"caf\xe9", b"\xff\xfe", b"line\nbreak", b"tab\t\"quoted\"\\", b" blank ", b"x.wh.", b"...",
    b"-rf", b"n" * 255, b"\xc3\xa9" * 120, b"..data", b"wh.", b"#h", b"colon:comma,", b"\x01\x7f", b"a=b", b"x\\",
]  # fmt: skip
_ATTRIBUTES = [
    (b"user.x", b""),
    (b"user.binary", b"\0\xff\n=" * 50),
    (b"user.caf\xc3\xa9", b"y"),
    (b"user.a=b", b"y"),
    (b"trusted.x", b"y"),
    (b"security.capability", _CAPABILITY),
    (b"security.x", b"y"),
    (b"user.overlay.opaque", b"y"),
    (b"user.containers.x", b"y"),
]


def _stacks() -> Iterator[tuple[str, list[bytes]]]:
    """Layers on a small tree."""
    above = {
        "a whiteout": [_file(b"etc/.wh.passwd")],
        "a whiteout of a directory": [_file(b".wh.usr")],
        "a whiteout, and implied": [_file(b"usr/lib/.wh.one"), _file(b"usr/share/x")],
        "opaque": [_directory(b"usr/", mode=0o700), _file(b"usr/.wh..wh..opq"), _file(b"usr/new")],
        "opaque, unannounced": [_file(b"usr/.wh..wh..opq"), _file(b"usr/new")],
        "opaque, after": [_file(b"usr/new"), _file(b"usr/.wh..wh..opq")],
        "opaque and whiteout": [_file(b"usr/.wh..wh..opq"), _file(b"usr/.wh.lib"), _file(b"etc/.wh.group")],
        "an opaque root": [_file(b".wh..wh..opq"), _file(b"new")],
        "a file for a directory": [_file(b"usr")],
        "a directory for a file": [_directory(b"etc/passwd/"), _file(b"etc/passwd/x")],
        "a directory for a symlink": [_directory(b"lib/"), _file(b"lib/three")],
        "through a symlink": [_file(b"lib/three")],
        "a symlink for a directory": [_symlink(b"usr", b"etc")],
        "a whiteout, then the same": [_file(b"etc/.wh.passwd"), _file(b"etc/passwd", b"new")],
        "a deleted directory, made again": [_file(b".wh.usr"), _directory(b"usr/"), _file(b"usr/new")],
        "only a mode": [_directory(b"usr/lib/", mode=0o711)],
        "the same name, linked": [_file(b"new"), _link(b"etc/passwd", b"new")],
        "implied over told": [_file(b"usr/lib/three")],
        "a root": [_directory(b"./", mode=0o700, uid=3)],
        "nothing": [],
        "a device": [_node(b"etc/passwd", b"3")],
        "the same again": [_file(b"etc/passwd")],
        "sparse": [sparse_10(b"usr/lib/one", _RUNS, 100_000)],
        "whiteouts only": [_file(b"etc/.wh.passwd"), _file(b"etc/.wh.group"), _file(b".wh.nothing")],
        "whiteouts with modes": [_file(b"etc/.wh.passwd", b"payload", mode=0o4777, uid=9)],
        "a whiteout that is a directory": [_directory(b"etc/.wh.passwd/")],
    }
    for name, members in above.items():
        top = _archive(_file(b"lib64/top"), _file(b"etc/.wh.group"), _directory(b"new/"))
        yield f"on a tree: {name}", [_TREE, _archive(*members), top]


def _compressed() -> Iterator[tuple[str, bytes]]:
    yield "gzip", gzip.compress(_TREE, mtime=0)
    yield "gzip in two", gzip.compress(_TREE[:5000], mtime=0) + gzip.compress(_TREE[5000:], mtime=0)
    yield "gzip of level 0", gzip.compress(_TREE, 0, mtime=0)
    yield "xz", lzma.compress(_TREE)


ODD: dict[str, list[bytes]] = {
    **{name: [layer] for name, layer in _single()},
    **dict(_stacks()),
    **{f"in {name}": [layer] for name, layer in _compressed()},
}

ONLY_VFS = {
    "a link to below": [_TREE, _archive(_link(b"etc/shadow", b"etc/passwd", mode=0o600))],
    "a link to below, with headers of its own": [
        _TREE,
        _archive(_link(b"x", b"usr/lib/one", mode=0o4711, uid=7, mtime=T + 5)),
    ],
}
"""What overlay refuses: what is linked lies in another layer."""

SELF_DEFEATING = {
    "deleted by itself": [_TREE, _archive(_file(b"etc/passwd", b"new"), _file(b"etc/.wh.passwd"))],
    "opaque, after what is in it": [_TREE, _archive(_file(b"usr/lib/old"), _file(b"usr/.wh..wh..opq"))],
}
"""With vfs: archives that delete what they bring, so that nothing can give them back."""
