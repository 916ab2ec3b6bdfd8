"""Section A: paths and links. Nothing outside the root is read, made, changed or removed by any archive."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from attacks import LAYER, OVERLAY, TREE, Attack, under
from orlop.errors import BadArchive, UnsafePath
from rawtar import long_name, member, pax

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def test_a1_climbing_and_absolute_names_end_in_the_root(attack: Attack) -> None:
    """CVE-2007-4559, CVE-2014-9356, Zip Slip: the same place as with the peers, whose root is a chroot."""
    ends = {
        b"../v": "v",
        b"../../../../../../../../w": "w",
        b"/x": "x",
        b"//y": "y",
        b"/../z": "z",
        b"a/../../u": "u",
        b"./../a/./../../a/x": "a/x",
        b"a/../../../outside/secret": "outside/secret",
    }
    for outcome in attack.each(*[member(name, name) for name in ends]):
        assert outcome.error is None, outcome.text
    for name, at in ends.items():
        assert outcome.path(at).read_bytes() == name


def test_a1_an_absolute_name_of_the_outside(attack: Attack, canary: Path) -> None:
    outcome = attack(long_name(os.fsencode(canary) + b"/secret"), member(b"x", b"evil"))
    assert outcome.path(str(canary).lstrip("/") + "/secret").read_bytes() == b"evil"


@under(LAYER, TREE)
def test_a2_a_file_through_a_symlink_to_the_outside(
    attack: Attack, canary: Path, options: dict[str, str]
) -> None:
    """CVE-2014-6407, CVE-2018-15664: the target is looked for inside, where it is not."""
    outside = os.fsencode(canary)
    ways = (
        [(b"l", outside)],
        [(b"l", b"../outside")],
        [(b"k", b".."), (b"l", b"k/outside")],
        [(b"l", b"../" * 30 + outside.lstrip(b"/"))],
    )
    evil = (member(b"l/secret", b"evil"), member(b"l/new/deep/file", b"evil"), member(b"l/secret/"))
    for links in ways:
        parts = [pax({b"linkpath": text}) + member(name, type=b"2") for name, text in links]
        for outcome in attack.each(*[b"".join((*parts, end)) for end in evil], **options):
            outcome.refused(FileNotFoundError)


def test_a3_the_same_where_the_target_exists_inside(attack: Attack, canary: Path) -> None:
    inside = os.fsencode(canary).lstrip(b"/")
    outcome = attack(
        pax({b"path": inside + b"/secret"}) + member(b"x", b"inside"),
        pax({b"linkpath": b"/" + inside}) + member(b"l", type=b"2"),
        member(b"l/secret", b"new"),
        member(b"l/more", b"new"),
    )
    assert outcome.error is None, outcome.text
    assert outcome.path(inside + b"/secret").read_bytes() == b"new"
    assert outcome.path(inside + b"/more").read_bytes() == b"new"


@under(LAYER, TREE)
def test_a4_a_hard_link_to_the_outside(attack: Attack, canary: Path, options: dict[str, str]) -> None:
    """CVE-2021-32760: neither the inode of the outside, nor its mode and owner."""
    outside = os.fsencode(canary)
    through = pax({b"linkpath": outside}) + member(b"l", type=b"2")
    targets = (
        b"../outside/secret", outside + b"/secret", b"l/secret", b"../../../../etc/shadow", b"/etc/shadow", b"l/../x",
    )  # fmt: skip
    links = [
        pax({b"linkpath": text}) + member(b"h", type=b"1", mode=0o777, uid=12, gid=13) for text in targets
    ]
    for outcome in attack.each(*[through + link for link in links], **options):
        outcome.refused(FileNotFoundError)
    assert outcome.names == ["l"]
    outcome = attack(member(b"h", type=b"1", linkname=b"l"), **options)  # the symlink itself
    assert outcome.path("h").lstat().st_ino == outcome.path("l").lstat().st_ino


def test_a4_chmod_does_not_follow_a_hard_link_to_a_symlink(attack: Attack, canary: Path) -> None:
    outcome = attack(
        pax({b"linkpath": os.fsencode(canary) + b"/secret"}) + member(b"l", type=b"2"),
        member(b"h", type=b"1", linkname=b"l", mode=0o777, uid=12, gid=13, mtime=99),
    )
    assert outcome.error is None, outcome.text
    assert outcome.path("h").lstat().st_uid == 12


@pytest.mark.parametrize("kind", ["0", "1", "2", "5"])
def test_a5_a_name_that_is_a_hard_link_to_a_symlink_is_made_anew(
    attack: Attack, canary: Path, kind: str
) -> None:
    """CVE-2025-4330 and its family: the second entry must not go where the first one points."""
    outcome = attack(
        pax({b"linkpath": os.fsencode(canary) + b"/secret"}) + member(b"s", type=b"2"),
        member(b"h", type=b"1", linkname=b"s"),
        member(b"other", b"other"),
        member(
            b"h",
            b"evil" if kind == "0" else b"",
            type=kind.encode(),
            linkname=b"other" if kind in "12" else b"",
        ),
    )
    assert outcome.error is None, outcome.text
    assert os.readlink(outcome.path("s")) == str(canary / "secret")
    assert {"0": stat.S_ISREG, "1": stat.S_ISREG, "2": stat.S_ISLNK, "5": stat.S_ISDIR}[kind](
        outcome.path("h").lstat().st_mode
    )


@under(LAYER, TREE)
def test_a6_the_root_stays_a_directory(attack: Attack, options: dict[str, str]) -> None:
    """CVE-2021-29136: a root that is a symlink leads everything after it elsewhere."""
    after = member(b"after", b"x")
    names = (b".", b"./", b"", b"/", b"..", b"a/..", b"./.")
    kinds = (
        {"type": b"0"},
        {"type": b"1", "linkname": b"etc/passwd"},
        {"type": b"2", "linkname": b"/tmp"},
        {"type": b"3", "devmajor": 1, "devminor": 3},
        {"type": b"6"},
        {"type": b"Z"},
    )
    for outcome in attack.each(
        *[member(name, **kind) + after for name in names for kind in kinds], **options
    ):
        outcome.refused(UnsafePath)
    assert stat.S_ISDIR(outcome.tree.lstat().st_mode)
    assert outcome.names == []


@under(LAYER, TREE)
def test_a7_times_and_modes_of_a_directory_that_became_a_symlink(
    attack: Attack, canary: Path, options: dict[str, str]
) -> None:
    """CVE-2021-31566, CVE-2021-23177: what is set at the end is set on what was made, not on what the name means."""
    outcome = attack(
        member(b"inside/", mode=0o711, mtime=5),
        member(b"d/", mode=0o777, uid=12, mtime=99),
        member(b"d/sub/", mode=0o777, mtime=99),
        member(b"e/", mode=0o777, mtime=99),
        pax({b"linkpath": os.fsencode(canary)}) + member(b"d", type=b"2", mtime=7),
        member(b"e", type=b"2", linkname=b"inside", mtime=7),
        **options,
    )
    outcome.refused(FileNotFoundError)  # d/sub is gone
    outcome = attack(
        member(b"inside/", mode=0o711, mtime=5),
        member(b"e/", mode=0o777, mtime=99),
        pax({b"linkpath": os.fsencode(canary)}) + member(b"e", type=b"2", mtime=7),
        member(b"f/", mode=0o777, mtime=99),
        member(b"f", type=b"2", linkname=b"inside", mtime=7),
        **options,
    )
    assert outcome.error is None, outcome.text
    assert outcome.path("e").lstat().st_mtime == 7
    assert (outcome.path("inside").stat().st_mtime, stat.S_IMODE(outcome.path("inside").stat().st_mode)) == (
        5,
        0o711,
    )


@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"a/" * 3000 + b"f", errno.ENAMETOOLONG),
        (b"x" * 300, errno.ENAMETOOLONG),
        (b"d/" + b"x" * 256 + b"/f", errno.ENAMETOOLONG),
        (b"/" * 5000 + b"f", None),
        (b"./" * 3000 + b"f", None),
        (b"y/../" * 2000 + b"f", None),
        (b"/".join([b"d" * 200] * 15), None),
    ],
)
def test_a8_names_that_are_long(attack: Attack, name: bytes, number: int | None) -> None:
    """CVE-2025-4517 played with PATH_MAX: too long is an error, and only what is long when cleaned is too long."""
    outcome = attack(member(b"before", b"x"), long_name(name), member(b"short", b"x"))
    assert outcome.number == number, outcome.text
    assert "before" in outcome.names


@pytest.mark.parametrize("key", [b"path", b"linkpath"])
def test_a9_a_nul_in_a_name(attack: Attack, key: bytes) -> None:
    outcome = attack(pax({key: b"a\0b"}), member(b"x", type=b"2", linkname=b"y"))
    outcome.refused(BadArchive)
    assert outcome.names == []


@pytest.mark.parametrize(
    "name", [b"caf\xe9 \xff", b"new\nline", b"back\\slash", b"\x1b[2J", b"%s%n", b"$(touch x)"]
)
def test_a9_odd_bytes_in_a_name_are_kept(attack: Attack, name: bytes) -> None:
    outcome = attack(member(b"d/" + name, name), member(b"d/l", type=b"2", linkname=name))
    assert outcome.error is None
    assert sorted(os.listdir(os.fsencode(outcome.path("d")))) == sorted([name, b"l"])
    assert os.fsencode(os.readlink(outcome.path("d/l"))) == name


@pytest.mark.parametrize("names", [(b"x", b"x/", b"x"), (b"x", b"./x", b"x"), (b"x/", b"./x", b"x/../x/")])
def test_a10_one_name_several_times_is_the_last_one(attack: Attack, names: tuple[bytes, ...]) -> None:
    """The record of a layer refuses such archives (`DuplicatePath`); unpacked without one, order decides."""
    outcome = attack(
        *[member(name, b"" if name.endswith(b"/") else b"%d" % n) for n, name in enumerate(names)]
    )
    assert outcome.error is None, outcome.text
    assert outcome.names == ["x"]
    assert outcome.path("x").is_dir() == names[-1].endswith(b"/")


def test_a11_sizes_and_slashes_that_do_not_fit_the_type(attack: Attack) -> None:
    """CVE-2025-13462: whether payload follows is decided once, by the type."""
    outcome = attack(
        member(b"file/", b"content", type=b"0"),
        member(b"dir", type=b"5", size=1 << 20),
        member(b"link", type=b"2", linkname=b"file", size=1 << 20),
        member(b"hard", type=b"1", linkname=b"file", size=1 << 20),
        member(b"fifo", type=b"6", size=1 << 20),
        member(b"old/", type=b"\0"),
        member(b"last", b"own"),
    )
    assert outcome.error is None, outcome.text
    assert outcome.names == ["dir", "fifo", "file", "hard", "last", "link", "old"]
    assert outcome.path("file").read_bytes() == b"content"
    assert outcome.path("last").read_bytes() == b"own"
    assert outcome.path("old").is_dir()


def test_a12_chains_and_loops_of_symlinks(attack: Attack) -> None:
    chain = [member(b"l%d" % n, type=b"2", linkname=b"l%d" % (n + 1)) for n in range(60)]
    outcome = attack(*chain, member(b"l60/"), member(b"l0/f", b"x"))
    assert outcome.number == errno.ELOOP
    outcome = attack(
        member(b"a", type=b"2", linkname=b"b"), member(b"b", type=b"2", linkname=b"a"), member(b"a/f")
    )
    assert outcome.number == errno.ELOOP
    outcome = attack(member(b"s", type=b"2", linkname=b"s/s/s/s/s/s/s/s"), member(b"s/.wh.x"))
    assert outcome.number == errno.ELOOP
    short = [member(b"k%d" % n, type=b"2", linkname=b"k%d" % (n + 1)) for n in range(30)]
    outcome = attack(*short, member(b"k30/"), member(b"k0/f", b"x"))
    assert outcome.error is None, outcome.text
    assert outcome.path("k30/f").read_bytes() == b"x"


@pytest.mark.parametrize(
    "name", [b"proc/self/root/x", b"proc/self/cwd/x", b"proc/1/root/x", b"dev/fd/0", b"proc/self/fd/3"]
)
@under(OVERLAY)
def test_names_of_the_proc_file_system_are_plain_names(
    attack: Attack, name: bytes, options: dict[str, str]
) -> None:
    """Links of /proc lead out of every chroot; inside the root there is no /proc but what the archive makes."""
    outcome = attack(
        member(name, b"x"),
        member(b"p", type=b"2", linkname=b"/proc/self/root"),
        **options,
    )
    assert outcome.error is None, outcome.text
    assert outcome.path(name).read_bytes() == b"x"
