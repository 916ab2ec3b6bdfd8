"""Unpacking: the checked vectors of spec/archive.md, every rule of its section 5, and the pipe and ring beneath."""

from __future__ import annotations

import concurrent.futures
import errno
import gc
import os
import queue
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peers
import trees
from orlop.errors import BadArchive, InvalidMappings, LimitExceeded, UnsafeOwner, UnsafePath
from orlop.formats import limits
from orlop.model.idmap import IDMap, IDMappings
from orlop.stream import extract, linkstash, ring
from orlop.stream.place import Placer, Warnings
from orlop.stream.unpack import Unpacker, UnpackResult
from orlop.system import beneath, confine, xattrs
from unpacking import NS, WAYS, T, file, folder, hard_link, item, node, symlink, unpack

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

Unpack = Callable[..., UnpackResult]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    peers.need_root()
    made = tmp_path / "tree"
    made.mkdir()
    made.chmod(0o555)
    return made


@pytest.fixture(params=["fork", "walking"])
def into(request: pytest.FixtureRequest, tree: Path) -> Unpack:
    """`unpack` into the tree, both in a worker and here; nothing of the process may be left changed."""

    def unpacked(*items: Any, **options: Any) -> UnpackResult:
        before = state()
        try:
            return unpack(tree, items, way=request.param, **options)
        finally:
            assert state() == before

    return unpacked


def state() -> object:
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return (len(os.listdir("/proc/self/fd")), os.getcwd())


def facts(path: Path) -> tuple[int, int, int, int]:
    """(mode with type, uid, gid, mtime) of the thing itself."""
    status = path.lstat()
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns


def names(tree: Path) -> list[str]:
    return sorted(trees.listing(tree, xattrs=False))[1:]


every_way = pytest.mark.parametrize("into", WAYS, indirect=True)


# --- the vectors of appendix A --------------------------------------------------------------------------------

CAPABILITY = trees.CAPABILITY

FIRST = [
    folder("./", mode=0o755, mtime_ns=1_500_000_000_250_000_000),
    folder("dir", mode=0o1777, uid=5, gid=6, mtime_ns=1_600_000_001_500_000_000),
    file("dir/suid", b"suid", mode=0o6755, uid=7, gid=8),
    hard_link("dir/hl", "dir/suid", mode=0o644),
    symlink("dir/sl", "suid", uid=9, gid=9, mtime_ns=T * NS + 750_000_000),
    node("dev/null", "3", 1, 3, mode=0o666),
    node("dev/blk", "4", 300, 70000, mode=0o660, gid=6),
    node("dev/wo", "3", 0, 0, mode=0o600),
    node("dev/fifo", "6", mode=0o622),
    file("implied/parent/file", b"x"),
    file(
        "attributes",
        b"x",
        mode=0o755,
        xattrs={
            b"user.foo": b"bar",
            b"trusted.t": b"1",
            b"security.selinux": b"label",
            b"security.capability": CAPABILITY,
        },
    ),
    file("../escape", b"e"),
    file("/abs", b"a"),
    symlink("abslink", "/dir"),
    file("abslink/through", b"1"),
    symlink("uplink", "../../../../dir"),
    file("uplink/through2", b"2"),
    file("read", b"r", atime_ns=1_700_000_000_500_000_000),
    file("unread", b"u", atime_ns=5 * NS),
    file("old", b"o", mtime_ns=-5 * NS),
    file("future", b"f", mtime_ns=99_999_999_999 * NS),
    file("biguid", b"b", uid=3_000_000, gid=4_000_000),
]


@every_way
@pytest.mark.parametrize("rules", ["layer", "tree"])
def test_the_first_checked_archive(into: Unpack, tree: Path, rules: str) -> None:
    root_before = facts(tree)
    started = time.time_ns() - NS
    result = into(*FIRST, rules=rules)
    assert result == UnpackResult(sum(len(data) for _, data in FIRST))

    if rules == "tree":
        assert facts(tree)[:3] == root_before[:3]
    else:
        # The peers' own temporary directories set the time of their roots to now; ours is the archive's.
        assert facts(tree) == (stat.S_IFDIR | 0o755, 0, 0, 1_500_000_000_250_000_000)
    assert facts(tree / "dir") == (stat.S_IFDIR | 0o1777, 5, 6, 1_600_000_001_500_000_000)
    assert (tree / "dir").stat().st_atime_ns == 0
    assert (tree / "dir/suid").samefile(tree / "dir/hl")
    assert (tree / "dir/hl").stat().st_nlink == 2
    assert facts(tree / "dir/suid") == (stat.S_IFREG | 0o644, 0, 0, T * NS)
    assert facts(tree / "dir/sl")[1:] == (9, 9, T * NS + 750_000_000)
    assert os.readlink(tree / "dir/sl") == "suid"

    assert facts(tree / "dev")[:3] == (stat.S_IFDIR | 0o755, 0, 0)
    assert facts(tree / "dev")[3] > started
    assert facts(tree / "dev/null")[0] == stat.S_IFCHR | 0o666
    assert (tree / "dev/null").stat().st_rdev == os.makedev(1, 3)
    assert facts(tree / "dev/blk") == (stat.S_IFBLK | 0o660, 0, 6, T * NS)
    assert (tree / "dev/blk").stat().st_rdev == os.makedev(300, 70000)
    assert (tree / "dev/wo").stat().st_rdev == 0
    assert facts(tree / "dev/fifo")[0] == stat.S_IFIFO | 0o622
    for implied in ("implied", "implied/parent"):
        assert facts(tree / implied)[:3] == (stat.S_IFDIR | 0o755, 0, 0)
        assert facts(tree / implied)[3] > started

    found = trees.listing(tree)
    assert found["attributes"]["xattrs"] == {
        "user.foo": b"bar",
        "trusted.t": b"1",
        "security.capability": CAPABILITY,
    }
    assert (tree / "escape").read_bytes() == b"e"
    assert (tree / "abs").read_bytes() == b"a"
    assert os.readlink(tree / "uplink") == "../../../../dir"
    assert (tree / "dir/through").read_bytes() == b"1"
    assert (tree / "dir/through2").read_bytes() == b"2"
    assert found["read"]["atime"] == 1_700_000_000_500_000_000
    assert found["unread"]["atime"] == T * NS
    for clamped in ("old", "future"):
        assert (found[clamped]["atime"], found[clamped]["mtime"]) == (0, 0)
    assert found["biguid"]["owner"] == (3_000_000, 4_000_000)


SECOND = [
    folder("dir/", mode=0o755),
    file("dir/.wh..wh..opq"),
    file("dir/new", b"new"),
    file(".wh.abs", uid=33, gid=34),
    file("implied/.wh.parent"),
    file(".wh..wh.aufs"),
    folder(".wh..wh.plnk/"),
    file(".wh..wh.plnk/1.2", b"kept", uid=1, gid=2, mode=0o600),
    hard_link("fromplnk", ".wh..wh.plnk/1.2", uid=77),
    folder("dir2/"),
    file("dir2/.wh..wh..opq"),
]


@every_way
def test_the_second_checked_archive_by_layer_rules(into: Unpack, tree: Path) -> None:
    into(*FIRST)
    into(*SECOND)
    assert os.listdir(tree / "dir") == ["new"]
    assert not (tree / "abs").exists()
    assert os.listdir(tree / "implied") == []
    assert os.listdir(tree / ".wh..wh.plnk") == []
    assert facts(tree / "fromplnk") == (stat.S_IFREG | 0o600, 1, 2, T * NS)
    assert (tree / "fromplnk").read_bytes() == b"kept"
    assert (tree / "dir2").is_dir()
    assert not [name for name in names(tree) if ".wh." in name and name != ".wh..wh.plnk"]


@every_way
@pytest.mark.parametrize("mark", [xattrs.OPAQUE, xattrs.OPAQUE_ROOTLESS])
def test_the_second_checked_archive_by_tree_rules(into: Unpack, tree: Path, mark: str) -> None:
    into(*SECOND, rules="tree", whiteouts=mark)
    found = trees.listing(tree)
    assert found["dir"]["xattrs"] == found["dir2"]["xattrs"] == {mark: b"y"}
    assert (tree / "dir/new").read_bytes() == b"new"
    for path, owner in (
        (".wh.aufs", (0, 0)),
        ("abs", (33, 34)),
        ("implied/parent", (0, 0)),
        (".wh.plnk", (0, 0)),
    ):
        assert found[path]["mode"] == oct(stat.S_IFCHR), path
        assert (found[path]["device"], found[path]["owner"]) == (0, owner)
    assert facts(tree / "implied")[0] == stat.S_IFDIR | 0o755
    assert found[".wh..wh.plnk/1.2"]["names"] == 2
    assert found["fromplnk"]["owner"] == (77, 0)
    assert not (tree / "dir/.wh..wh..opq").exists()


@every_way
def test_the_second_checked_archive_for_a_mount_program(into: Unpack, tree: Path) -> None:
    into(*SECOND, rules="tree")
    assert facts(tree / ".wh.abs") == (stat.S_IFREG | 0o644, 33, 34, T * NS)
    for name in ("dir/.wh..wh..opq", "implied/.wh.parent", ".wh..wh.aufs", "dir2/.wh..wh..opq"):
        assert stat.S_ISREG((tree / name).lstat().st_mode)
    assert trees.listing(tree)["dir"]["xattrs"] == {}


REFUSED = {
    "a whiteout of what the archive holds": ([folder("q/"), file(".wh.q")], FileExistsError),
    "a file in what is whited out": ([file(".wh.q"), file("q/z")], NotADirectoryError),
    "a whiteout without a name": ([folder("d/"), file("d/.wh.")], UnsafePath),
    "a link to nothing": ([hard_link("l", "nothing")], FileNotFoundError),
    "a contiguous file": ([item("c", "7", b"x")], BadArchive),
    "an old sparse file": ([item("s", "S", b"x")], BadArchive),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_overlay_refuses(into: Unpack, name: str) -> None:
    items, error = REFUSED[name]
    with pytest.raises(error):
        into(*items, rules="tree", whiteouts=xattrs.OPAQUE)


def test_what_overlay_accepts(into: Unpack, tree: Path) -> None:
    """A whiteout below what is whited out says nothing new; a name that ends in `.wh.` says nothing at all."""
    into(
        file(".wh.q"),
        file("q/.wh.z"),
        file("q/r/.wh.z"),
        file("x.wh."),
        rules="tree",
        whiteouts=xattrs.OPAQUE,
    )
    assert names(tree) == ["q", "x.wh."]
    with pytest.raises(NotADirectoryError):
        into(file("q/.wh..wh..opq"), rules="tree", whiteouts=xattrs.OPAQUE)


def test_a_whited_out_name_can_be_a_directory_again(into: Unpack, tree: Path) -> None:
    into(file(".wh.q"), folder("q/"), file("q/f"), rules="tree", whiteouts=xattrs.OPAQUE)
    assert names(tree) == ["q", "q/f"]


# --- places ---------------------------------------------------------------------------------------------------


@every_way
def test_names_are_cleaned_and_climbing_ends_at_the_root(into: Unpack, tree: Path) -> None:
    into(
        file("./a//b/./c", b"1"),
        file("x/../y", b"2"),
        file("../../z", b"3"),
        file("//w", b"4"),
        file("a/b/../../v/", b"5"),
        folder("d/e/../f/"),
        file(".hidden", b"6"),
        file("./a/.hidden/..name", b"7"),
    )
    assert names(tree) == [
        ".hidden", "a", "a/.hidden", "a/.hidden/..name", "a/b", "a/b/c", "d", "d/f", "v", "w", "y", "z",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [".", "./", "", "/", "..", "a/..", "../.."])
def test_every_spelling_of_the_root_is_the_root(into: Unpack, tree: Path, name: str) -> None:
    into(folder(name, mode=0o711, uid=3, gid=4))
    assert facts(tree) == (stat.S_IFDIR | 0o711, 3, 4, T * NS)


def test_tree_rules_ignore_the_root_when_it_is_spelt_as_a_dot(into: Unpack, tree: Path) -> None:
    before = facts(tree)
    into(folder("./", mode=0o711, uid=3), folder("a/..", mode=0o711, uid=3), rules="tree")
    assert facts(tree) == before
    into(folder("/", mode=0o711, uid=9, gid=9), rules="tree")
    assert facts(tree)[:3] == (stat.S_IFDIR | 0o711, 9, 9)


@pytest.mark.parametrize("type", ["0", "1", "2", "6"])
def test_the_root_is_nothing_but_a_directory(into: Unpack, tree: Path, type: str) -> None:
    """A6, CVE-2021-29136."""
    for rules in ("layer", "tree"):
        for name in (".", "/", "x/.."):
            with pytest.raises(UnsafePath, match="root of the layer"):
                into(item(name, type, linkname="x"), rules=rules)
    assert names(tree) == []


def test_names_that_are_not_text_are_kept_to_the_byte(into: Unpack, tree: Path) -> None:
    odd = [b"caf\xe9", b"\xff\xfe", b"line\nbreak", b"back\\slash", b" ", b"-rf", b"*", b"a\x7f\x1b[0m"]
    into(*[file(b"d/" + name, name) for name in odd])
    assert sorted(os.listdir(os.fsencode(tree / "d"))) == sorted(odd)


@every_way
def test_symlinked_parents_are_followed_inside(into: Unpack, tree: Path) -> None:
    into(folder("real/sub/"), symlink("l", "real"), symlink("real/deep", "/l/sub"), file("l/deep/f", b"x"))
    assert (tree / "real/sub/f").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        into(symlink("dangling", "nowhere"), file("dangling/f"))
    with pytest.raises(FileNotFoundError):
        into(file("dangling/deeper/f"))
    with pytest.raises(NotADirectoryError):
        into(file("l/sub/f/g"))


def test_implied_directories_have_modes_of_their_own(tree: Path) -> None:
    """With the worker's umask of 0 they would be open to everybody."""
    umask = os.umask(0o027)
    try:
        unpack(tree, [file("layer/sub/f")], rules="layer")
        unpack(tree, [file("tree/sub/f")], rules="tree")
        maps = IDMappings([IDMap(0, 1000, 10)], [IDMap(0, 2000, 10)])
        unpack(tree, [file("mapped/sub/f")], rules="tree", mappings=maps)
        unpack(tree, [file("lmapped/sub/f")], rules="layer", mappings=maps)
    finally:
        os.umask(umask)
    for name, mode, uid, gid in (
        ("layer", 0o755, 0, 0),
        ("tree", 0o750, 0, 0),
        ("mapped", 0o750, 1000, 2000),
        ("lmapped", 0o755, 0, 0),
    ):
        assert facts(tree / name)[:3] == (stat.S_IFDIR | mode, uid, gid)
        assert facts(tree / name / "sub")[:3] == (stat.S_IFDIR | mode, uid, gid)
    assert facts(tree / "lmapped/sub/f")[1:3] == (1000, 2000)


def test_an_implied_directory_inherits_what_any_new_directory_does(into: Unpack, tree: Path) -> None:
    into(folder("g/", mode=0o2775, gid=50), file("g/layer/f"))
    into(file("g/tree/f"), rules="tree")
    assert facts(tree / "g/layer")[:3] == (stat.S_IFDIR | 0o2755, 0, 50)
    assert facts(tree / "g/tree")[:3] == (stat.S_IFDIR | 0o2755, 0, 0)


def test_many_directories_need_few_descriptors(into: Unpack, tree: Path) -> None:
    into(
        *[thing for n in range(400) for thing in (folder(f"d{n}/"), file(f"d{n}/f"))],
        *[file(f"d{n}/g") for n in range(400)],
    )
    assert len(names(tree)) == 1200


# --- one thing in the place of another ------------------------------------------------------------------------

THINGS: dict[str, list[Any]] = {
    "file": [file("x", b"new", mode=0o600)],
    "directory": [folder("x/", mode=0o700), file("x/inside", b"i")],
    "symlink": [symlink("x", "keep")],
    "hard link": [hard_link("x", "keep")],
    "fifo": [node("x", "6")],
    "device": [node("x", "3", 1, 3)],
}


@pytest.mark.parametrize("rules", ["layer", "tree"])
@pytest.mark.parametrize("after", THINGS)
@pytest.mark.parametrize("before", THINGS)
def test_anything_replaces_anything(tree: Path, before: str, after: str, rules: str) -> None:
    """And only a directory that replaces a directory leaves something of it."""
    keep = file("keep", b"kept")
    expected = tree.parent / "expected"
    expected.mkdir()
    for way in ("fork", "walking"):
        unpack(
            tree,
            [keep, *THINGS[before], folder("x/")] if before == "directory" else [keep, *THINGS[before]],
            way=way,
        )
        unpack(tree, THINGS[after], way=way, rules=rules)
        unpack(expected, [keep, *THINGS[after]], way=way, rules=rules)
        found = trees.listing(tree, atime=False)
        wanted = trees.listing(expected, atime=False)
        if before == after == "directory":
            assert "x/inside" in found
        for listing in (found, wanted):
            del listing["."]
        assert found == wanted
        assert (tree / "keep").read_bytes() == b"kept"
        beyond = trees.listing(tree)["keep"]["names"]
        assert beyond == (2 if after == "hard link" else 1)


def test_a_directory_over_a_directory_keeps_its_content_and_changes_its_metadata(
    into: Unpack, tree: Path
) -> None:
    into(folder("d/", mode=0o700), file("d/old"))
    into(folder("d/", mode=0o2775, uid=1, gid=2, mtime_ns=5 * NS, xattrs={b"user.a": b"b"}), file("d/new"))
    assert names(tree) == ["d", "d/new", "d/old"]
    assert facts(tree / "d") == (stat.S_IFDIR | 0o2775, 1, 2, 5 * NS)
    assert os.getxattr(tree / "d", "user.a") == b"b"


def test_a_file_is_never_written_through_the_link_that_was_in_its_place(into: Unpack, tree: Path) -> None:
    into(file("target", b"safe"), symlink("s", "target"), hard_link("h", "target"))
    into(file("s", b"evil"), file("h", b"evil"))
    assert (tree / "target").read_bytes() == b"safe"
    assert (tree / "target").stat().st_nlink == 1


def test_a_handle_does_not_outlive_its_directory(into: Unpack, tree: Path) -> None:
    """What is unpacked after a directory was replaced goes where its name leads now."""
    into(folder("a/b/"), file("a/b/f", b"1"), folder("other/b/"))
    into(file("a/b/g", b"2"), symlink("a", "other"), file("a/b/h", b"3"))
    assert names(tree) == ["a", "other", "other/b", "other/b/h"]
    into(symlink("s", "other"), file("s/b/i"), symlink("s", "."), file("s/b/j"), rules="layer")
    assert names(tree) == ["a", "b", "b/j", "other", "other/b", "other/b/h", "other/b/i", "s"]


# --- owners, modes, times, attributes -------------------------------------------------------------------------


def test_owners_are_mapped(into: Unpack, tree: Path) -> None:
    maps = IDMappings([IDMap(0, 1000, 10)], [IDMap(0, 2000, 10)])
    into(file("f", uid=3, gid=4), folder("d/"), symlink("l", "f", uid=9), mappings=maps)
    assert facts(tree / "f")[1:3] == (1003, 2004)
    assert facts(tree / "d")[1:3] == (1000, 2000)
    assert facts(tree / "l")[1:3] == (1009, 2000)
    with pytest.raises(InvalidMappings, match=r"^container ID 10 cannot be mapped to a host ID$"):
        into(file("g", uid=10), mappings=maps)
    # A whiteout that deletes needs no owner; one that is kept does.
    into(file(".wh.f", uid=10), mappings=maps)
    with pytest.raises(InvalidMappings, match=r"^container ID 10 cannot be mapped to a host ID$"):
        into(file(".wh.h", uid=10), mappings=maps, rules="tree", whiteouts=xattrs.OPAQUE)


def test_many_owners_take_little_memory() -> None:
    """An archive may have a new owner on every file."""
    placer = Placer(IDMappings([IDMap(0, 1000, 1 << 20)], [IDMap(0, 2000, 1 << 20)]))
    for id in range(30_000):
        assert placer.owner(id, id + 1) == (1000 + id, 2001 + id)
    assert len(placer._owners) <= 10_001
    assert placer.owner(5, 5) == (1005, 2005)


@pytest.mark.parametrize(
    ("uid", "gid"), [(2**32 - 1, 0), (0, 2**32 - 1), (2**40, 0), (-1, 0), (2**63, 2**63)]
)
def test_ids_that_are_none_are_refused(into: Unpack, tree: Path, uid: int, gid: int) -> None:
    """C3, CVE-2024-40635: to chown, 2^32-1 means "leave it", so the file would be root's."""
    for thing in (file("f", uid=uid, gid=gid), folder("d/", uid=uid, gid=gid), folder(".", uid=uid, gid=gid)):
        with pytest.raises(UnsafeOwner) as caught:
            into(thing)
        assert caught.value.name == thing[0].name


def test_a_map_that_leads_to_no_id_is_refused(into: Unpack) -> None:
    maps = IDMappings([IDMap(0, 2**32 - 1, 10)], [IDMap(0, 0, 10)])
    with pytest.raises(UnsafeOwner):
        into(file("f"), mappings=maps)


@pytest.mark.parametrize("mode", [0o6755, 0o4711, 0o2750, 0o1777, 0o7777, 0, 0o2000])
def test_special_bits_survive_the_owner(into: Unpack, tree: Path, mode: int) -> None:
    """C2: chown clears setuid and setgid, so it goes first."""
    into(
        file("f", b"x", mode=mode | 0o100000, uid=5, gid=6),
        file("mine", b"x", mode=mode),
        folder("d/", mode=mode, uid=5, gid=6),
        node("p", "6", mode=mode, uid=5, gid=6),
        node("c", "3", 1, 3, mode=mode, uid=5, gid=6),
        file("first", b"x"),
        hard_link("h", "first", mode=mode, uid=5, gid=6),
    )
    for name in ("f", "d", "p", "c", "h"):
        assert stat.S_IMODE(facts(tree / name)[0]) == mode, name
        assert facts(tree / name)[1:3] == (5, 6)
    assert stat.S_IMODE(facts(tree / "mine")[0]) == mode


def test_what_a_directory_hands_down_is_not_what_the_archive_says(into: Unpack, tree: Path) -> None:
    """A setgid directory gives its group, a default ACL its mask; files have what their headers say."""
    folder_acl = trees.ACL
    into(
        folder("g/", mode=0o2775, gid=50),
        file("g/f", b"x", mode=0o666),
        folder("g/d/", mode=0o755),
        symlink("g/s", "f"),
        node("g/p", "6", mode=0o666),
        folder("acl/", xattrs={b"system.posix_acl_default": folder_acl}),
        file("acl/f", b"x", mode=0o666),
        folder("acl/d/", mode=0o777),
        node("acl/p", "6", mode=0o666),
    )
    assert stat.S_IMODE(facts(tree / "g")[0]) == 0o2775
    for name, mode in (
        ("g/f", 0o666),
        ("g/d", 0o755),
        ("g/p", 0o666),
        ("acl/f", 0o666),
        ("acl/d", 0o777),
        ("acl/p", 0o666),
    ):
        assert stat.S_IMODE(facts(tree / name)[0]) == mode, name
        assert facts(tree / name)[1:3] == (0, 0), name
    assert facts(tree / "g/s")[1:3] == (0, 0)


@pytest.mark.parametrize(
    ("atime", "mtime", "expected"),
    [
        (None, 5, (5, 5)),
        (4, 5, (5, 5)),
        (6, 5, (6, 5)),
        (0, 0, (0, 0)),
        (None, -1, (0, 0)),
        (7, -1, (7, 0)),
        (-2, -1, (0, 0)),
        (None, 2**63 - 1, (2**63 - 1, 2**63 - 1)),
        (None, 2**63, (0, 0)),
        (2**63, 5, (0, 5)),
        (2**62 * NS, 2**62 * NS, (0, 0)),
        (None, 2**100, (0, 0)),
    ],
)
def test_times_that_no_peer_can_write_are_1970(
    atime: int | None, mtime: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    """C7. File systems have narrower limits than the format; the rule is that of the format."""
    from orlop.stream.place import directory_times, file_times

    assert file_times(atime, mtime) == expected
    own_atime = atime if atime and 0 <= atime < 2**63 else 0
    assert directory_times(atime, mtime) == (own_atime, expected[1])


def test_an_ordinary_user_can_unpack_what_he_may_not_read(tree: Path) -> None:
    """A directory without permission to read it is opened all the same, before it gets its mode."""
    tree.chmod(0o755)
    os.chown(tree, 65534, 65534)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.chdir(tree)  # pytest's directories above are closed to others
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            nobody = {"uid": 65534, "gid": 65534}
            unpack(
                ".",
                [folder("d/", mode=0o300, mtime_ns=5, **nobody), file("d/f", b"x", **nobody)],
                way="beneath",
            )
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert facts(tree / "d") == (stat.S_IFDIR | 0o300, 65534, 65534, 5)
    assert facts(tree / "d/f")[:3] == (stat.S_IFREG | 0o644, 65534, 65534)


def test_times_to_the_nanosecond(into: Unpack, tree: Path) -> None:
    into(
        file("f", b"x", mtime_ns=T * NS + 1, atime_ns=T * NS + 2),
        folder("d/", mtime_ns=T * NS + 3, atime_ns=T * NS + 4),
        folder("early/", mtime_ns=T * NS + 5, atime_ns=7),
        symlink("s", "f", mtime_ns=-(T * NS) + 1),
        file("d/f"),
        node("p", "6", mtime_ns=T * NS + 9),
    )
    found = trees.listing(tree)
    assert (found["f"]["mtime"], found["f"]["atime"]) == (T * NS + 1, T * NS + 2)
    assert (found["d"]["mtime"], found["d"]["atime"]) == (T * NS + 3, T * NS + 4)
    assert (found["early"]["mtime"], found["early"]["atime"]) == (T * NS + 5, 7)
    assert found["s"]["mtime"] == -(T * NS) + 1
    assert found["p"]["mtime"] == T * NS + 9


def test_a_time_that_no_clock_holds_is_a_bad_archive(into: Unpack) -> None:
    with pytest.raises(BadArchive, match="cannot be made"):
        into(symlink("s", "f", mtime_ns=2**100))


def test_attributes_of_everything_that_may_have_some(into: Unpack, tree: Path) -> None:
    mine = {b"trusted.t": b"v"}
    into(
        symlink("s", "nowhere", xattrs=mine),
        node("d/p", "6", xattrs=mine),
        node("d/c", "3", 1, 3, xattrs=mine),
        folder("d/e/", xattrs={**mine, b"user.empty": b""}),
        file("f", b"x"),
        hard_link("h", "f", xattrs=mine),
        hard_link("hs", "s", xattrs={b"trusted.u": b"w"}),
        folder(".", xattrs=mine),
    )
    found = trees.listing(tree)
    for name in ("d/p", "d/c", "f", "h", "."):
        assert found[name]["xattrs"] == {"trusted.t": b"v"}, name
    assert found["d/e"]["xattrs"] == {"trusted.t": b"v", "user.empty": b""}
    assert found["s"]["xattrs"] == {"trusted.t": b"v", "trusted.u": b"w"}


def test_attributes_that_cannot_be_are_left_out_and_told(into: Unpack, tree: Path) -> None:
    bad = {b"nonamespace": b"x", b"os2.thing": b"y", b"user.good": b"z"}
    result = into(*[file(f"f{n}", xattrs=bad) for n in range(5)])
    (warning,) = result.warnings
    assert "not possible here" in warning
    assert "10 times" in warning
    assert "nonamespace" in warning
    assert os.getxattr(tree / "f0", "user.good") == b"z"


def test_attributes_that_mean_something_to_the_store_are_left_out_and_told(into: Unpack, tree: Path) -> None:
    evil = {
        b"trusted.overlay.redirect": b"/",
        b"user.overlay.opaque": b"y",
        b"user.containers.override_stat": b"0:0:0:x",
    }
    result = into(file("f", xattrs=evil), folder("d/", xattrs=evil))
    assert trees.listing(tree)["f"]["xattrs"] == trees.listing(tree)["d"]["xattrs"] == {}
    assert [warning.partition(":")[0] for warning in result.warnings] == [
        "attributes of overlay itself were left out",
        "owners for a mount program were left out",
    ]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO])
def test_attributes_that_are_refused_are_errors_but_for_a_user(
    tree: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "setxattr", refused)
    thing = [file("f", xattrs={b"trusted.t": b"1"})]
    with pytest.raises(OSError, match=r"extended attribute trusted\.t"):
        unpack(tree, thing, way="beneath")
    if number == errno.EPERM:
        result = unpack(tree, thing, way="beneath", in_userns=True)
        assert "trusted.t" in result.warnings[0]
    else:
        with pytest.raises(OSError, match=r"extended attribute trusted\.t"):
            unpack(tree, thing, way="beneath", in_userns=True)


def test_in_a_user_namespace_there_are_no_devices(into: Unpack, tree: Path) -> None:
    result = into(
        node("dev/null", "3", 1, 3), node("dev/blk", "4", 8, 0), node("dev/p", "6"), file("f"), in_userns=True
    )
    assert names(tree) == ["dev", "dev/p", "f"]
    assert result.warnings == ()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_owners_that_cannot_be_set(tree: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "chown", refused)
    things = [file("f", b"x", uid=5, gid=6, mode=0o4755), symlink("s", "f", uid=5), folder("d/", uid=5)]
    for thing in things:
        with pytest.raises(OSError, match="podman system migrate" if number == errno.EINVAL else "permitted"):
            unpack(tree, [thing], way="beneath")
    result = unpack(tree, things, way="beneath", ignore_chown_errors=True)
    assert result.warnings == ("owners could not be set, and were left as they are: 3 times (5:6, 5:0)",)
    assert facts(tree / "f")[:3] == (stat.S_IFREG | 0o4755, 0, 0)
    whiteouts = unpack(
        tree,
        [file(".wh.z", uid=7)],
        way="beneath",
        rules="tree",
        whiteouts=xattrs.OPAQUE,
        ignore_chown_errors=True,
    )
    assert "7:0" in whiteouts.warnings[0]


def test_warnings_are_few_and_short() -> None:
    warnings = Warnings()
    for n in range(100_000):
        warnings.add("odd things", f"thing {n}" + "x" * 1000)
    (sentence,) = warnings.sentences()
    assert sentence.startswith("odd things: 100000 times (thing 0")
    assert len(sentence) < 400


# --- hard links -----------------------------------------------------------------------------------------------


@every_way
def test_hard_link_targets_are_names_from_the_root(into: Unpack, tree: Path) -> None:
    into(
        folder("d/sub/"),
        file("d/f", b"x"),
        symlink("l", "d/sub"),
        hard_link("a", "/d/f"),
        hard_link("b", "../../d/f"),
        hard_link("c", "./d//sub/../f"),
        hard_link("l/e", "d/f"),
        file("d/sub/g", b"g"),
        hard_link("h", "l/g"),
    )
    assert all((tree / name).samefile(tree / "d/f") for name in ("a", "b", "c", "d/sub/e"))
    assert (tree / "h").samefile(tree / "d/sub/g")


def test_a_hard_link_to_a_symlink_links_the_symlink(into: Unpack, tree: Path) -> None:
    """Which gets the owner of the further name, but keeps its times, as with the peers."""
    into(
        file("f", b"x", mode=0o600),
        symlink("s", "f", mtime_ns=2 * NS),
        hard_link("h", "s", uid=8, mode=0o777, mtime_ns=3 * NS),
    )
    assert os.readlink(tree / "h") == "f"
    assert (tree / "h").lstat().st_ino == (tree / "s").lstat().st_ino
    assert facts(tree / "s")[1:] == (8, 0, 2 * NS)
    assert facts(tree / "f")[:3] == (stat.S_IFREG | 0o600, 0, 0)


@pytest.mark.parametrize("target", ["missing", "missing/x", "d", ".", "", "/", "self"])
def test_hard_links_to_nothing_and_to_directories_are_errors(into: Unpack, tree: Path, target: str) -> None:
    with pytest.raises(OSError) as caught:
        into(folder("d/"), file("self"), hard_link("self", target))
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)
    assert caught.value.filename == b"self"


# --- whiteouts by layer rules ---------------------------------------------------------------------------------


def test_a_whiteout_deletes_whatever_there_is(into: Unpack, tree: Path) -> None:
    into(folder("d/e/f/"), file("d/e/f/g"), symlink("s", "d"), file("plain"), file("keep"))
    into(file(".wh.plain"), file(".wh.s"), file(".wh.absent"), file("d/.wh.e"), file("new/.wh.x"))
    assert names(tree) == ["d", "keep", "new"]


def test_a_whiteout_reaches_through_a_symlinked_directory_an_opaque_mark_does_not(
    into: Unpack, tree: Path
) -> None:
    into(folder("d/"), file("d/a"), file("d/b"), symlink("l", "d"))
    into(file("l/.wh.a"), file("l/.wh..wh..opq"))
    assert names(tree) == ["d", "d/b", "l"]


def test_order_does_not_matter_to_an_opaque_mark(into: Unpack, tree: Path) -> None:
    into(
        folder("d/old/"),
        file("d/old/f"),
        file("d/f"),
        folder("d/listed/"),
        file("d/listed/gone"),
        file("out"),
    )
    into(
        folder("./d/"),
        file("./d/before", b"1"),
        folder("d/listed/"),
        file("d//listed/new", b"2"),
        file("d/implied/lost", b"3"),
        file("d/.wh..wh..opq"),
        file("d/after", b"4"),
        folder("d/again/"),
    )
    assert names(tree) == ["d", "d/after", "d/again", "d/before", "d/listed", "d/listed/new", "out"]
    into(file("x"), file(".wh..wh..opq"), file("y"), file("d/z"), file("d/.wh..wh..opq"))
    assert names(tree) == ["d", "d/z", "x", "y"]


def test_an_opaque_mark_where_nothing_is(into: Unpack, tree: Path) -> None:
    into(file("new/deep/.wh..wh..opq"))
    assert names(tree) == ["new", "new/deep"]


def test_special_names_are_special_at_the_root_only(into: Unpack, tree: Path) -> None:
    into(
        file("d/.wh.x", b""), file(".wh..wh.orph", b"data"), folder(".wh..wh.orph2/"), file(".wh..wh.", b"x")
    )
    assert names(tree) == ["d"]
    into(file("d/f"), file("d/.wh..wh.f"), file("x.wh.y/.wh..wh.z.wh.", b"x"), file("x.wh.y/a.wh.b", b"x"))
    assert names(tree) == ["d", "d/f", "x.wh.y", "x.wh.y/a.wh.b"]


def test_payload_of_what_is_no_file_is_skipped(into: Unpack, tree: Path) -> None:
    """A whiteout with content, a global header, a directory that claims a size: the next file gets its own bytes."""
    pieces = [b"a" * 3000, b"b" * 3000, b"c" * 2_000_000]
    result = into(
        file(".wh.x", pieces[0]),
        item("pax_global_header", "g", pieces[1]),
        file(".wh..wh.aufs", pieces[2]),
        file("f", b"own"),
    )
    assert names(tree) == ["f"]
    assert (tree / "f").read_bytes() == b"own"
    assert result.size == sum(map(len, pieces)) + 3


def test_a_global_header_touches_nothing(into: Unpack, tree: Path) -> None:
    into(file("etc/passwd", b"x"))
    into(item("etc", "g"), item("new/name", "g"))
    assert names(tree) == ["etc", "etc/passwd"]


def test_a_directory_that_was_removed_again_is_an_error_at_the_end(into: Unpack, tree: Path) -> None:
    """As with the peers: the archive contradicts itself."""
    with pytest.raises(FileNotFoundError) as caught:
        into(folder("d/"), file(".wh.d"))
    assert caught.value.filename == b"d"
    into(folder("d/", mtime_ns=7 * NS), file(".wh.d"), folder("d/", mtime_ns=8 * NS))
    assert facts(tree / "d")[3] == 8 * NS


@every_way
def test_a_directory_that_was_replaced_passes_nothing_on(into: Unpack, tree: Path) -> None:
    """A7, CVE-2021-31566: neither the replacement nor what it points to gets the times of the directory."""
    into(folder("target/", mtime_ns=1 * NS))
    into(
        folder("d/", mode=0o700, mtime_ns=2 * NS),
        symlink("d", "target", mtime_ns=3 * NS),
        folder("e/"),
        file("e"),
    )
    assert facts(tree / "target")[3] == 1 * NS
    assert facts(tree / "d")[3] == 3 * NS


# --- links of aufs --------------------------------------------------------------------------------------------


def test_links_of_aufs_become_files(into: Unpack, tree: Path) -> None:
    big = os.urandom(3_000_000)
    before = tree.stat().st_mtime_ns
    into(
        folder("d/", mtime_ns=5 * NS),
        file(".wh..wh.plnk/1.1", b"one", mode=0o750, uid=1, xattrs={b"user.a": b"b"}),
        file(".wh..wh.plnk/2.2", big),
        file(".wh..wh.plnk/sparse", b"xy", sparse=((5, 1), (10, 1)), real_size=20),
        hard_link("d/a", ".wh..wh.plnk/1.1"),
        hard_link("d/b", "./.wh..wh.plnk//1.1"),
        hard_link("d/big", ".wh..wh.plnk/2.2"),
        hard_link("d/sparse", ".wh..wh.plnk/sparse"),
        folder(".", mtime_ns=before),
    )
    assert sorted(os.listdir(tree)) == [".wh..wh.plnk", "d"]
    for name in ("d/a", "d/b"):
        assert facts(tree / name) == (stat.S_IFREG | 0o750, 1, 0, T * NS)
        assert (tree / name).read_bytes() == b"one"
        assert (tree / name).stat().st_nlink == 1
    assert os.getxattr(tree / "d/a", "user.a") == b"b"
    assert (tree / "d/big").read_bytes() == big
    assert (tree / "d/sparse").read_bytes() == b"\0" * 5 + b"x" + b"\0" * 4 + b"y" + b"\0" * 9
    assert tree.stat().st_mtime_ns == before


@pytest.mark.parametrize("first", [[], [file(".wh..wh.plnk/1.1")]])
def test_a_link_of_aufs_to_nothing(into: Unpack, first: list[Any]) -> None:
    with pytest.raises(BadArchive, match="does not carry") as caught:
        into(*first, hard_link("x", ".wh..wh.plnk/9.9"))
    assert caught.value.peer == "invalid aufs hardlink"


def test_links_of_aufs_are_counted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AUFS_LINKS_MAX", 3)
    with pytest.raises(LimitExceeded):
        unpack(tree, [file(f".wh..wh.plnk/{n}", b"x") for n in range(5)], way="beneath")


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EACCES])
def test_where_no_file_can_be_without_a_name(
    tree: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.open

    def limited(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(linkstash.os, "open", limited)
    things = [file(".wh..wh.plnk/1", b"data"), hard_link("x", ".wh..wh.plnk/1")]
    if number == errno.EACCES:
        with pytest.raises(PermissionError):
            unpack(tree, things, way="beneath")
    else:
        unpack(tree, things, way="beneath")
        assert names(tree) == [".wh..wh.plnk", "x"]
        assert (tree / "x").read_bytes() == b"data"


# --- sparse members -------------------------------------------------------------------------------------------


@every_way
def test_sparse_members_have_their_full_size_and_their_holes(into: Unpack, tree: Path) -> None:
    data = os.urandom(3_000_000)
    size = 1 << 30
    result = into(
        file("s", data, sparse=((0, 1_000_000), (500_000_000, 2_000_000)), real_size=size),
        file("hole", b"", sparse=(), real_size=1_000_000),
        file("after", b"own"),
    )
    assert result.size == size + 1_000_000 + 3
    status = (tree / "s").stat()
    assert status.st_size == size
    assert status.st_blocks * 512 < 10_000_000
    with (tree / "s").open("rb") as opened:
        assert opened.read(1_000_001) == data[:1_000_000] + b"\0"
        opened.seek(500_000_000)
        assert opened.read(2_000_001) == data[1_000_000:] + b"\0"
    assert (tree / "hole").stat().st_size == 1_000_000
    assert (tree / "after").read_bytes() == b"own"


@pytest.mark.parametrize("fragments", [((-1, 1),), ((5, -1),), ((10, 1),), ((0, 11),)])
def test_a_sparse_map_that_leaves_its_file_is_refused(into: Unpack, fragments: Any) -> None:
    with pytest.raises(BadArchive, match="sparse"):
        into(file("s", b"x", sparse=fragments, real_size=10))


def test_a_sparse_member_larger_than_any_file(into: Unpack) -> None:
    with pytest.raises(OSError) as caught:
        into(file("s", b"x", sparse=((0, 1),), real_size=2**62))
    assert caught.value.errno in (errno.EFBIG, errno.EINVAL)


# --- force mask -----------------------------------------------------------------------------------------------


def test_a_force_mask_keeps_owners_and_modes_in_an_attribute(into: Unpack, tree: Path) -> None:
    forged = {b"user.containers.override_stat": b"0:0:0:x", b"user.a": b"b"}
    into(
        folder("d/", mode=0o1777, uid=1, gid=2),
        file(
            "d/f",
            b"x",
            mode=0o4755,
            uid=3,
            gid=4,
            xattrs=forged,
        ),
        node("c", "3", 1, 3, mode=0o666, uid=5),
        node("b", "4", 8, 1, mode=0o660),
        node("p", "6", mode=0o622),
        symlink("s", "d/f", uid=6),
        hard_link("h", "d/f", uid=7),
        file("implied/f"),
        rules="tree",
        force_mask=0o700,
    )
    found = trees.listing(tree)
    override = "user.containers.override_stat"
    for name, value in {
        ".": b"0:0:0755:dir",
        "d": b"1:2:1777:dir",
        "d/f": b"3:4:4755:file",
        "c": b"5:0:0666:char-1-3",
        "b": b"0:0:0660:block-8-1",
        "p": b"0:0:0622:pipe",
        "implied/f": b"0:0:0644:file",
    }.items():
        assert found[name]["xattrs"][override] == value, name
    for name in ("d/f", "c", "b", "p", "implied/f"):
        assert facts(tree / name)[:3] == (stat.S_IFREG | 0o700, 0, 0), name
    assert facts(tree / "d")[:3] == (stat.S_IFDIR | 0o700, 0, 0)
    for name in ("s", "implied"):
        assert override not in found[name]["xattrs"]
        assert found[name]["owner"] == (0, 0)
    assert found["d/f"]["xattrs"]["user.a"] == b"b"


def test_a_force_mask_remembers_the_root(into: Unpack, tree: Path) -> None:
    into(folder("./", mode=0o711, uid=8, gid=9), rules="tree", force_mask=0o700)
    assert os.getxattr(tree, "user.containers.override_stat") == b"8:9:0711:dir"
    into(folder("/", mode=0o712, uid=8, gid=9), rules="tree", force_mask=0o750)
    assert os.getxattr(tree, "user.containers.override_stat") == b"8:9:0712:dir"
    assert facts(tree)[:3] == (stat.S_IFDIR | 0o750, 0, 0)


# --- the pipe and the ring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_payload_of_every_size_arrives(tree: Path, method: str) -> None:
    """Around the steps, larger than the ring, and in pieces that fall anywhere."""
    step = 1 << 20
    sizes = [
        0,
        1,
        4095,
        step - 1,
        step,
        step + 1,
        3 * step,
        ring.RING_SIZE - 7,
        ring.RING_SIZE,
        2 * ring.RING_SIZE + 9,
    ]
    source = os.urandom(sizes[-1] + 1000)
    with Unpacker(str(tree), rules="layer", method=method) as unpacker:
        for n, size in enumerate(sizes * 2):
            entry, _ = file(f"d{n % 3}/f{n}", size=size)
            unpacker.entry(entry)
            data = memoryview(source)[n : n + size]
            piece = [size or 1, 100_000, 3 * step + 1][n % 3]
            for at in range(0, size, piece):
                unpacker.data(data[at : at + piece])
        result = unpacker.finish()
    assert result.size == 2 * sum(sizes)
    for n, size in enumerate(sizes * 2):
        assert (tree / f"d{n % 3}/f{n}").read_bytes() == source[n : n + size], (n, size)


def test_many_small_files_go_round_the_ring(tree: Path) -> None:
    """Files that straddle the end of the ring, at many offsets."""
    source = os.urandom(200_000)
    wanted = {f"f{n}": source[n : n + 99_991] for n in range(400)}
    unpack(tree, [file(name, data) for name, data in wanted.items()])
    for name, data in wanted.items():
        assert (tree / name).read_bytes() == data


class Wire:
    """Both ends of the pipes between a feed and what it feeds, in two threads of one process."""

    def __init__(self, root: beneath.Root, memory: ring.Ring) -> None:
        self.root, self.umask, self.lent = root, 0o022, (memory.fd,)
        self.orders: queue.Queue[bytes | None] = queue.Queue()
        self.answers: queue.Queue[bytes] = queue.Queue()

    def send(self, message: bytes) -> None:
        self.orders.put(message)

    def receive(self) -> bytes | None:
        return self.orders.get(timeout=20)

    def note(self, body: bytes) -> None:
        self.answers.put(body)

    def notes(self, *, wait: bool = False) -> list[bytes]:
        found = [self.answers.get(timeout=20)] if wait else []
        while not self.answers.empty():
            found.append(self.answers.get())
        return found


def test_a_file_system_may_take_less_than_it_was_given(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:1000]))
    memory = ring.Ring()
    memory.put(b"x" * 3000 + b"y" * 10)
    payload = ring.Payload(None, memory._view)  # type: ignore[arg-type]
    payload.available = payload.due = 3010
    with (tree / "f").open("wb") as opened:
        payload.copy(opened.fileno(), 3000)
    assert (tree / "f").read_bytes() == b"x" * 3000
    assert (payload.available, payload.due) == (10, 10)
    memory.close()


@pytest.mark.parametrize("end", ["finished", "between entries", "in a payload"])
def test_a_feed_and_what_it_feeds(tree: Path, end: str) -> None:
    """The worker's loop, seen from this process: all sizes, payload that nobody wants, and a parent that dies."""
    fd = os.open(tree, os.O_RDONLY)
    memory = ring.Ring()
    sizes = [0, 5, 1 << 20, (1 << 20) + 1, 40 << 20, 3_000_000, 15 << 20, 7]
    source = os.urandom(max(sizes))
    options = {"rules": "layer", "uids": [], "gids": []}
    with beneath.Root(fd) as root, concurrent.futures.ThreadPoolExecutor() as pool:
        wire: Any = Wire(root, memory)
        feed = ring.Feed(wire, memory)
        running = pool.submit(extract.run, wire, options)
        for n, size in enumerate(sizes):
            for name in (f"f{n}", f".wh.none{n}"):
                feed.entry(file(name, size=size)[0])
                for at in range(0, size, 3_333_333):
                    feed.data(source[at : min(at + 3_333_333, size)])
        if end == "in a payload":
            feed.entry(file("cut", size=10 << 20)[0])
            feed.data(bytes(1 << 20))
        if end == "finished":
            feed.end()
            assert running.result(timeout=30) == []
        else:
            wire.orders.put(None)
            with pytest.raises(BrokenPipeError):
                running.result(timeout=30)
    del running, wire, feed
    gc.collect()  # the loop's view of the ring, which its error still holds, is a descriptor
    os.close(fd)
    memory.close()
    for n, size in enumerate(sizes):
        if end != "between entries":  # the last batch was never announced there
            assert (tree / f"f{n}").read_bytes() == source[:size]


def test_the_payload_must_be_that_of_the_entry(tree: Path) -> None:
    def opened() -> Unpacker:
        return Unpacker(str(tree), rules="layer")

    entry, _ = file("f", size=10)
    with opened() as unpacker:
        with pytest.raises(ValueError, match="for an entry that takes 0 more"):
            unpacker.data(b"x")
        unpacker.entry(entry)
        with pytest.raises(ValueError, match="for an entry that takes 10 more"):
            unpacker.data(b"x" * 11)
        unpacker.data(b"x" * 4)
        with pytest.raises(ValueError, match="lacks 6 bytes"):
            unpacker.entry(entry)
        with pytest.raises(ValueError, match="lacks 6 bytes"):
            unpacker.finish()
    for call in (lambda: unpacker.entry(entry), lambda: unpacker.data(b""), unpacker.finish):
        with pytest.raises(ValueError, match="not open"):
            call()
    with opened() as unpacker:
        unpacker.finish()
        with pytest.raises(ValueError, match="not open"):
            unpacker.finish()


def test_arguments_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="rules are"):
        Unpacker("/", rules="other")
    with pytest.raises(ValueError, match="tree rules only"):
        Unpacker("/", rules="layer", whiteouts=xattrs.OPAQUE)
    with pytest.raises(ValueError, match="tree rules only"):
        Unpacker("/", rules="layer", force_mask=0o700)


def test_the_directory_is_no_symlink(tree: Path) -> None:
    before = state()
    os.symlink(tree, tree.parent / "link")
    for wrong, error in ((tree.parent / "link", OSError), (tree.parent / "none", FileNotFoundError)):
        with pytest.raises(error), Unpacker(str(wrong), rules="layer"):
            pass
    assert state() == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("where", ["entries", "payload", "payload for a full ring", "end"])
def test_an_error_of_the_worker_stops_the_parent_wherever_it_is(tree: Path, method: str, where: str) -> None:
    before = state()
    (tree / "file").touch()
    started = time.monotonic()
    with (
        pytest.raises(NotADirectoryError) as caught,
        Unpacker(str(tree), rules="layer", method=method) as unpacker,
    ):
        unpacker.entry(file("file/x", size=1 << 40 if "payload" in where else 0)[0])
        while where == "entries":
            unpacker.entry(file("f")[0])
        while where == "payload":
            unpacker.data(b"x" * 100_000)
        while where == "payload for a full ring":
            unpacker.data(bytes(ring.RING_SIZE * 2))
        unpacker.finish()
    assert caught.value.filename == b"file/x"
    assert time.monotonic() - started < 20
    assert state() == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_error_comes_before_another_batch_has_gathered(tree: Path, method: str) -> None:
    (tree / "file").touch()
    given = 0
    with pytest.raises(NotADirectoryError), Unpacker(str(tree), rules="layer", method=method) as unpacker:
        unpacker.entry(file("file/x")[0])
        for n in range(100_000):
            unpacker.entry(file(f"f{n}")[0])
            given += 1
            if n % 256 == 255:
                time.sleep(0.5)
    assert given <= 1024


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_killed_worker_is_an_error(tree: Path, method: str) -> None:
    before = state()
    with (
        pytest.raises(ChildProcessError, match="killed by signal 9"),
        Unpacker(str(tree), rules="layer", method=method) as unpacker,
    ):
        assert unpacker._worker is not None
        os.kill(unpacker._worker.pid, 9)
        while True:
            unpacker.entry(file("f", size=100_000)[0])
            unpacker.data(bytes(100_000))
    assert state() == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_leaving_early_ends_the_worker_and_nothing_more_is_written(tree: Path, method: str) -> None:
    before = state()
    with pytest.raises(KeyboardInterrupt), Unpacker(str(tree), rules="layer", method=method) as unpacker:
        for n in range(1000):
            unpacker.entry(file(f"d/f{n}", size=10)[0])
            unpacker.data(bytes(10))
        raise KeyboardInterrupt
    assert state() == before
    with Unpacker(str(tree), rules="layer", method=method) as unpacker:
        unpacker.entry(folder("late/", mtime_ns=5)[0])
    assert state() == before


def test_a_worker_does_not_finish_an_archive_that_has_no_end(tree: Path) -> None:
    """A pipe that closes is a parent that died, not the end of the archive: the last pass is not made."""
    with Unpacker(str(tree), rules="layer", method="fork") as unpacker:
        feed, worker = unpacker._feed, unpacker._worker
        assert feed is not None
        assert worker is not None
        unpacker.entry(folder("d/", mtime_ns=5 * NS)[0])
        feed._announce()
        with pytest.raises(ChildProcessError):
            worker.result()
    assert facts(tree / "d")[3] != 5 * NS


def test_it_works_while_other_threads_run(tree: Path) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with Unpacker(str(tree), rules="layer") as unpacker:
            unpacker.entry(file("f", size=3)[0])
            unpacker.data(memoryview(b"abc"))
            unpacker.finish()
    finally:
        stop.set()
        thread.join()
    assert (tree / "f").read_bytes() == b"abc"


def test_a_start_that_fails_leaves_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state()

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(confine, "start", refused)
    with pytest.raises(OSError, match="no more processes"), Unpacker(str(tree), rules="layer"):
        pass
    assert state() == before
    monkeypatch.setattr(ring, "mmap", refused)
    with pytest.raises(OSError, match="no more processes"), Unpacker(str(tree), rules="layer"):
        pass
    assert state() == before


def test_memory_stays_flat(tree: Path) -> None:
    """D5: per entry no more than its name, and 36 bytes and the name for a directory."""
    with Unpacker(str(tree), rules="layer", method="spawn") as unpacker:
        assert unpacker._worker is not None
        pid = unpacker._worker.pid
        sizes = []
        for n in range(9_000):
            unpacker.entry(
                hard_link(f"directory-{n // 500}/a-name-of-middling-length-{n}", "file")[0]
                if n
                else file("file")[0]
            )
            if n % 3_000 == 2_999:
                time.sleep(0.5)
                status = Path(f"/proc/{pid}/status").read_text()
                sizes.append(int(status.partition("RssAnon:")[2].split()[0]))
        unpacker.finish()
    assert sizes[-1] - sizes[0] < 6_000 * 100 // 1024, sizes


def test_names_for_opaque_marks_are_found_in_either_form() -> None:
    kept = extract.Names()
    kept.add(b"a")
    kept.add(b"b/c")
    assert kept.all() >= {b"a", b"b/c"}
    kept.add(b"d")
    assert b"d" in kept.all()
    assert b"e" not in kept.all()
