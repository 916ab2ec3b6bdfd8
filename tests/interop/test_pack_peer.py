"""The streams and change lists of a tree are those of Debian's containers-storage, byte for byte.

Differences that are understood, and taken out before comparing:

- containers-storage 1.43 writes the file type into the mode field and the names of the owners into theirs; newer
  ones do neither (`spec/archive.md` 3.3). `as_today` takes both out of its headers.
- The time of a deletion is the time of the export.

What the trees here keep away from, because newer peers or we mean to differ:

- Attributes named `user.overlay.*`: 1.43 streams them (3.3).
- Symlinks that differ in their text only, but not in its length: 1.43 does not see that (6.1).
- Whiteouts of an overlay that share an inode: theirs are hard links to another deletion from the second on
  (`spec/archive.md` 3.4; `tests/unit/test_pack.py` has what ours are).
- Whiteouts of a layer with id maps: theirs are missing from the stream (3.3).
"""

import os
import random
import re
import shutil
import stat
from pathlib import Path

import pytest

import peers
from orlop.model.changes import Change
from orlop.model.idmap import IDMap, IDMappings
from orlop.stream.compare import changes_size, compare_trees
from orlop.stream.pack import pack_changes, pack_tree
from orlop.stream.pieces import PieceStream
from orlop.system.xattrs import OPAQUE


def packed(pieces) -> bytes:
    with PieceStream(pieces) as stream:
        return stream.read()


def headers(stream: bytes):
    """(offset, type) of the headers in a stream, the PAX ones too."""
    at = 0
    while stream[at : at + 512].strip(b"\0"):
        yield at, stream[at + 156 : at + 157]
        at += 512 + -(-int(stream[at + 124 : at + 135], 8) // 512) * 512
    assert stream[at:] == bytes(1024), "the trailer is two blocks"


def rewritten(stream: bytes, change) -> bytes:
    out = bytearray(stream)
    for at, _ in headers(stream):
        block = bytearray(out[at : at + 512])
        change(block)
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        out[at : at + 512] = block
    return bytes(out)


def as_today(stream: bytes) -> bytes:
    def change(block: bytearray) -> None:
        block[100:108] = b"%07o\0" % stat.S_IMODE(int(block[100:107], 8))
        block[265:329] = bytes(64)

    return rewritten(stream, change)


def timeless(stream: bytes) -> bytes:
    """Without the times of deletions."""

    def change(block: bytearray) -> None:
        if b"/.wh." in b"/" + block[:100]:
            block[136:148] = b"%011o\0" % 0

    return rewritten(stream, change)


def summary(stream: bytes) -> list[tuple[bytes, bytes]]:
    return [(stream[at : at + 100].rstrip(b"\0"), kind) for at, kind in headers(stream)]


def same(ours: bytes, theirs: bytes) -> None:
    """Equal, with a message about the first entry that is not."""
    assert summary(ours) == summary(theirs)
    for at, _ in headers(ours):
        assert ours[at : at + 512] == theirs[at : at + 512]
    assert ours == theirs


def write(path: Path, content: bytes = b"", mtime: float = 1_600_000_000, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, (mtime, mtime), follow_symlinks=False)
    return path


def every_kind(root: Path) -> None:
    """What a tree can hold, and names at every limit of the format."""
    write(root / "plain", b"content")
    write(root / "empty")
    write(root / "large", os.urandom(300_001))
    write(root / "block", bytes(512))
    write(root / "suid", b"#!", mode=0o6755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "a/b").mkdir(parents=True)
    write(root / "a/b/f", b"linked")
    write(root / "a-b", b"-")
    write(root / "a.c", b".")
    os.link(root / "a/b/f", root / "a/hl")
    os.link(root / "a/b/f", root / "z-later")
    os.symlink("../outside", root / "link")
    os.symlink("x" * 100, root / "link100")
    os.symlink("x" * 101, root / "link101")
    os.symlink("/ü/" + "y" * 300, root / "link-long")
    os.link(root / "link", root / "link-linked", follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o622)
    os.mknod(root / "char", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "block-device", stat.S_IFBLK | 0o660, os.makedev(300, 70000))
    os.link(root / "block-device", root / "block-linked")
    # names: 100 bytes fit, 101 are cut at a slash or go to PAX, and the last byte of a cut name may be a slash
    for name in ("n" * 100, "n" * 101, "d" * 60 + "/" + "f" * 40, "d" * 60 + "/" + "f" * 100):
        write(root / name, b"x")
    write(root / ("p" * 155) / ("q" * 100), b"x")
    write(root / ("r" * 156) / ("s" * 99), b"x")
    write(root / ("t" * 99) / ("u" * 150), b"x")
    (root / ("v" * 99)).mkdir()
    (root / ("w" * 100)).mkdir()
    (root / ("w" * 50) / ("w" * 50)).mkdir(parents=True)
    (root / ("1" * 80) / ("2" * 74)).mkdir(parents=True)
    (root / ("1" * 80) / ("2" * 75)).mkdir(parents=True)
    deep = root / "deep"
    for _ in range(12):
        deep /= "x" * 250
    write(deep / "bottom", b"down")
    for name in (
        b"not-utf8-\xff\xfe",
        "übermäßig".encode(),
        b"new\nline",
        b"back\\slash",
        b"sp ace",
        b".hidden",
    ):
        write(root / os.fsdecode(name), name)
    write(root / "dir\udcff" / ("ü" * 60), b"x")
    # owners and times past the fields
    os.chown(write(root / "big-owner"), 3_000_000, 4_000_000_000)
    os.chown(write(root / "last-fitting"), 0o7777777, 0o7777777)
    os.chown(root / "link101", 5, 6, follow_symlinks=False)
    write(root / "before-1970", mtime=-1.25)
    write(root / "fraction", mtime=1_500_000_000.75)
    write(root / "late", mtime=0o77777777777)
    write(root / "too-late", mtime=0o77777777777 + 1)
    # attributes that go out, and some that stay
    marked = write(root / "marked", b"x")
    for name, value in {
        "user.b": b"2",
        "user.a": b"1\0\xff\n",
        "user.empty": b"",
        "trusted.zz": b"no",
        "security.ima": b"\x01",
        "security.capability": bytes.fromhex("0100000200200000000000000000000000000000"),
    }.items():
        os.setxattr(marked, name, value)
    os.setxattr(root / "a-b", "user.q", b"q" * 900)
    os.setxattr(root / "sticky", "user.on-a-directory", b"1")
    os.setxattr(root / "link", "security.ima", b"on a link", follow_symlinks=False)
    os.setxattr(root / "char", "security.ima", b"on a device")
    os.setxattr(root / "a/b/f", "user.shared", b"1")


@pytest.fixture
def layer(theirs: peers.Program) -> tuple[str, Path]:
    id = theirs.line("create-layer")
    return id, Path(theirs.line("mount", id))


def test_a_tree_of_every_kind_is_streamed_alike(theirs: peers.Program, layer: tuple[str, Path]) -> None:
    id, root = layer
    every_kind(root)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o755)
    same(packed(pack_tree(str(root))), as_today(theirs("diff", "-u", id).out))


def test_a_real_tree_is_streamed_alike(theirs: peers.Program, layer: tuple[str, Path]) -> None:
    """Past the thousand entries after which files are opened in a guarded descent."""
    id, root = layer
    for source in (
        "/usr/share/perl5",
        "/usr/lib/python3",
        "/usr/share/zoneinfo",
        "/etc",
        "/usr/share/terminfo",
    ):
        if os.path.isdir(source):
            shutil.copytree(source, root / source[1:], symlinks=True, ignore_dangling_symlinks=True)
    entries = sum(len(names) for _, *lists in os.walk(root) for names in lists)
    assert entries > 2000
    same(packed(pack_tree(str(root))), as_today(theirs("diff", "-u", id).out))


MAPS = IDMappings([IDMap(0, 100_000, 1000)], [IDMap(0, 100_000, 500), IDMap(500, 200_000, 500)])


def test_a_mapped_tree_is_streamed_alike(theirs: peers.Program) -> None:
    """Owners are the container's; what has no owner there is left out; names of whiteouts keep the host's."""
    id = theirs.line("create-layer", "--uidmap", "0:100000:1000", "--gidmap", "0:100000:500:500:200000:500")
    root = Path(theirs.line("mount", id))
    for name, uid, gid in (
        ("root", 100_000, 100_000),
        ("user", 100_999, 200_499),
        ("unmapped-user", 101_000, 100_000),
        ("unmapped-group", 100_000, 100_500),
        ("host-root", 0, 0),
        ("d/.wh.gone", 0, 0),
        ("d/.wh.also", 100_001, 100_001),
    ):
        os.chown(write(root / name, b"x"), uid, gid)
    write(root / "nobody/inside", b"x")
    os.chown(root / "nobody/inside", 100_000, 100_000)
    skipped: list[bytes] = []
    ours = packed(pack_tree(str(root), mappings=MAPS, on_skip=lambda path, _: skipped.append(path)))
    same(ours, as_today(theirs("diff", "-u", id).out))
    assert skipped == [b"d", b"host-root", b"nobody", b"unmapped-group", b"unmapped-user"]


def changed(root: Path) -> None:
    """Every way in which a name can differ, on top of `every_kind`."""
    (root / "plain").unlink()
    write(root / "empty", b"no more")
    write(root / "block", bytes(511) + b"1")  # same size, same time: not seen
    write(root / "suid", b"#!", mode=0o755)
    os.utime(root / "fraction", (1_500_000_000, 1_500_000_000))  # one side without nanoseconds: not seen
    write(root / "before-1970", mtime=-2)
    os.chown(root / "last-fitting", 1, 1)
    os.setxattr(root / "marked", "trusted.zz", b"other")  # not seen
    os.setxattr(root / "a.c", "trusted.new", b"not seen")
    os.setxattr(root / "a-b", "user.q", b"other")
    os.removexattr(root / "sticky", "user.on-a-directory")
    (root / "link").unlink()
    os.symlink("elsewhere", root / "link")
    (root / "char").unlink()
    os.mknod(root / "char", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.utime(root / "char", (0, 0))
    (root / "fifo").unlink()
    write(root / "fifo/now/a", b"directory")
    shutil.rmtree(root / "a")
    write(root / "a", b"file where a directory was")
    shutil.rmtree(root / ("p" * 155))
    write(root / "new/tree/one", b"1" * 100_000)
    os.link(root / "new/tree/one", root / "new/tree/two")
    os.link(root / "new/tree/one", root / "another-name")
    os.link(root / "large", root / "large-too")  # the listed name of a file with an unlisted one
    write(root / "new-x", b"sorts before new/")
    (root / "empty-dir").mkdir()
    os.mknod(root / "new/socket", stat.S_IFSOCK | 0o755)
    write(root / "deep" / ("x" * 250) / "inside", b"1")
    (root / "not-utf8-\udcff\udcfe").unlink()
    write(root / "not-utf8-\udcff\udcfd", b"")
    write(root / ".wh.mine", b"looks like a deletion")


@pytest.fixture
def pair(theirs: peers.Program, layer: tuple[str, Path]) -> tuple[str, Path, Path]:
    """(id, root, root of the parent) of a layer that differs from its parent."""
    parent, parent_root = layer
    every_kind(parent_root)
    write(parent_root / "fraction", mtime=1_500_000_000.75)
    id = theirs.line("create-layer", parent)
    root = Path(theirs.line("mount", id))
    changed(root)
    return id, root, parent_root


def test_the_changes_of_a_tree_are_streamed_alike(
    theirs: peers.Program, pair: tuple[str, Path, Path]
) -> None:
    id, root, parent_root = pair
    ours = packed(pack_changes(str(root), compare_trees(str(root), str(parent_root))))
    same(timeless(ours), timeless(as_today(theirs("diff", "-u", id).out)))


def test_the_changes_of_a_tree_are_the_same(theirs: peers.Program, pair: tuple[str, Path, Path]) -> None:
    id, root, parent_root = pair
    changes = compare_trees(str(root), str(parent_root))
    assert set(changes) == listed(theirs("changes", id).out)
    assert changes == sorted(changes), "ours are in order"
    assert changes_size(str(root), changes) == int(theirs("diffsize", id).out)


def test_the_changes_of_a_large_tree_are_the_same(theirs: peers.Program, layer: tuple[str, Path]) -> None:
    """Past the thousand files after which both trees are looked at in guarded descents."""
    parent, parent_root = layer
    for number in range(1500):
        write(parent_root / f"d{number % 30}" / f"f{number}", b"x" * number)
    id = theirs.line("create-layer", parent)
    root = Path(theirs.line("mount", id))
    for number in range(0, 1500, 7):
        path = root / f"d{number % 30}" / f"f{number}"
        match number % 6:
            case 0:
                path.chmod(0o600)
            case 1:
                path.unlink()
            case 2:
                os.setxattr(path, "user.x", b"1")
            case 3:
                path.unlink()
                os.symlink("x", path)
            case 4:
                path.unlink()
                os.mkfifo(path)
    changes = compare_trees(str(root), str(parent_root))
    assert len(changes) > 150
    assert set(changes) == listed(theirs("changes", id).out)


def test_without_a_parent_everything_is_new(theirs: peers.Program, layer: tuple[str, Path]) -> None:
    id, root = layer
    every_kind(root)
    changes = compare_trees(str(root))
    assert set(changes) == listed(theirs("changes", id).out)
    assert changes_size(str(root), changes) == int(theirs("diffsize", id).out)


def test_owners_are_compared_as_the_container_sees_them(theirs: peers.Program) -> None:
    parent = theirs.line("create-layer", "--uidmap", "0:100000:1000", "--gidmap", "0:100000:1000")
    parent_root = Path(theirs.line("mount", parent))
    os.chown(parent_root, 100_000, 100_000)
    for name, id in (("same", 100_005), ("other", 100_005), ("unmapped", 300_000), ("host", 7)):
        os.chown(write(parent_root / name), id, id)
    id = theirs.line("create-layer", "--uidmap", "0:200000:1000", "--gidmap", "0:200000:1000", parent)
    root = Path(theirs.line("mount", id))
    for name, owner in (("same", 200_005), ("other", 200_006), ("unmapped", 300_000), ("host", 7)):
        os.chown(root / name, owner, owner)
    maps = [IDMappings([IDMap(0, start, 1000)], [IDMap(0, start, 1000)]) for start in (200_000, 100_000)]
    changes = compare_trees(str(root), str(parent_root), *maps)
    assert set(changes) == listed(theirs("changes", id).out)
    assert changes == [Change(b"/other", "C")]


def test_an_overlay_layer_is_streamed_alike(theirs: peers.Program) -> None:
    """Whiteouts and opaque directories, decided by what three lower directories have."""
    theirs = theirs.on(driver="overlay")
    lowest = theirs.line("create-layer")
    root = Path(theirs.line("mount", lowest))
    for name in ("gone/deep/x", "kept/x", "twice/x", "reborn/x", "old/x", "under/gone/x", "file"):
        write(root / name, b"lowest")
    os.symlink("kept", root / "symlink")
    theirs("unmount", lowest)
    middle = theirs.line("create-layer", lowest)
    root = Path(theirs.line("mount", middle))
    shutil.rmtree(root / "twice")
    shutil.rmtree(root / "under")
    shutil.rmtree(root / "reborn")
    write(root / "reborn/middle", b"1")
    theirs("unmount", middle)
    id = theirs.line("create-layer", middle)
    root = Path(theirs.line("mount", id))
    for name in ("old", "kept", "reborn"):
        shutil.rmtree(root / name)
        write(root / name / "new", b"replaced")
        (root / name).chmod(0o1750)
    write(root / "twice/new", b"over a deletion of the middle")
    write(root / "under/gone/new", b"below a deletion of the middle")
    (root / "symlink").unlink()
    (root / "symlink").mkdir()
    shutil.rmtree(root / "gone/deep")
    write(root / "brand/new", b"x")
    theirs("unmount", id)
    upper, *lowers = (theirs.graph / "overlay" / name / "diff" for name in (id, middle, lowest))
    opaque = {Path(path).name for path, *_ in os.walk(upper) if OPAQUE in os.listxattr(path)}
    assert opaque == {"old", "kept", "reborn", "symlink"}
    for name in ("twice", "under/gone", "brand", "unlike"):  # the kernel sees no need, another program may
        (upper / name).mkdir(exist_ok=True)
        os.setxattr(upper / name, OPAQUE, b"n" if name == "unlike" else b"y")

    ours = packed(pack_tree(str(upper), whiteouts=OPAQUE, lowers=[str(lower) for lower in lowers]))
    same(ours, as_today(theirs("diff", "-u", id).out))
    marks = [name for name, _ in summary(ours) if name.endswith(b"/.wh..wh..opq")]
    assert marks == [
        b"kept/.wh..wh..opq",
        b"old/.wh..wh..opq",
        b"reborn/.wh..wh..opq",
        b"symlink/.wh..wh..opq",
    ]


def random_tree(root: Path, chance: random.Random, depth: int = 0) -> None:
    """Few names and few values, so that two such trees agree and differ in all ways."""
    root.mkdir(exist_ok=True)
    for name in chance.sample(("a", "b", "b-", "b.c", "ü", "x y"), chance.randint(0, 6)):
        path = root / name
        match chance.choice(("dir", "dir", "file", "file", "file", "symlink", "fifo", "device", "link")):
            case "dir" if depth < 3:
                random_tree(path, chance, depth + 1)
            case "symlink":
                path.symlink_to(chance.choice(("a", "bb")))
            case "fifo":
                os.mkfifo(path)
            case "device":
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, chance.choice((3, 5))))
            case "link" if (root / "a").is_file():
                os.link(root / "a", path)
            case _:
                path.write_bytes(b"x" * chance.choice((0, 1, 2)))
        if not path.is_symlink():
            path.chmod(chance.choice((0o755, 0o755, 0o4711)))
            if path.is_file() or path.is_dir():
                for attribute in chance.sample(
                    ("user.a", "user.b", "trusted.c"), chance.choice((0, 0, 0, 1, 2))
                ):
                    os.setxattr(path, attribute, chance.choice((b"1", b"2")))
        if chance.random() < 0.2:
            os.chown(path, chance.choice((0, 1)), chance.choice((0, 1)), follow_symlinks=False)
        ns = TIME * 10**9 + chance.choice((0, 0, 0, 5, 6, 10**9))
        os.utime(path, ns=(ns, ns), follow_symlinks=False)


TIME = 1_600_000_000
RUNS = 25


def test_random_trees_have_the_same_changes_and_streams(
    theirs: peers.Program, layer: tuple[str, Path]
) -> None:
    """The peer waits for the next second after every stream of changes, so that is asked only sometimes."""
    parent, parent_root = layer
    id = theirs.line("create-layer", parent)
    root = Path(theirs.line("mount", id))
    kinds: set[str] = set()
    for seed in range(RUNS):
        chance = random.Random(seed)
        for tree in (parent_root, root):
            for path in list(tree.iterdir()):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            random_tree(tree, chance)
        changes = compare_trees(str(root), str(parent_root))
        kinds |= {change.kind for change in changes}
        assert set(changes) == listed(theirs("changes", id).out), f"seed {seed}"
        assert changes_size(str(root), changes) == int(theirs("diffsize", id).out), f"seed {seed}"
        same(packed(pack_tree(str(parent_root))), as_today(theirs("diff", "-u", parent).out))
        if seed % 12 == 0:
            ours = timeless(packed(pack_changes(str(root), changes)))
            same(ours, timeless(as_today(theirs("diff", "-u", id).out)))
    assert kinds == {"A", "C", "D"}


def listed(output: bytes) -> set[Change]:
    """The lines of `changes`: a word and a path as Go quotes it."""
    kinds = {b"Add": "A", b"Modify": "C", b"Delete": "D"}
    changes = set()
    for line in output.splitlines():
        word, _, quoted = line.partition(b" ")
        changes.add(Change(unquoted(quoted), kinds[word]))
    return changes


def unquoted(text: bytes) -> bytes:
    named = {b"n": b"\n", b"t": b"\t", b'"': b'"', b"\\": b"\\"}

    def meant(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code[1:], 16)]) if code[:1] == b"x" else named[code]

    return re.sub(rb'\\(x[0-9a-f]{2}|["\\nt])', meant, text[1:-1])
