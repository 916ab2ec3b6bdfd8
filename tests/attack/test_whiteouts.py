"""Section B: messages to lower layers, used against the tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from attacks import LAYER, OVERLAY, TREE, Attack, under, writes_whiteouts
from orlop.errors import BadArchive, UnsafePath
from orlop.system import xattrs
from rawtar import member, pax

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

BELOW = member(b"d/") + member(b"d/f", b"lower") + member(b"keep", b"lower")


def opaque(attack: Attack) -> str:
    """The attribute of opaque directories."""
    return xattrs.OPAQUE if attack.way == "overlay" else xattrs.OPAQUE_ROOTLESS


@under(LAYER, OVERLAY, TREE)
def test_b1_b2_a_whiteout_of_the_directory_itself(attack: Attack, options: dict[str, str]) -> None:
    """`d/.wh.` emptied d, `.wh...` its parent: refused, with nothing done, not even the directory made for it."""
    names = [where + base for where in (b"", b"d/", b"new/") for base in (b".wh.", b".wh..", b".wh...")]
    names += [b".wh./", b"d/../.wh.", b"/.wh..", b"./.wh..."]
    below, *outcomes = attack.each(BELOW, *[member(name, type=b"0") for name in names], **options)
    assert below.error is None
    for outcome in outcomes:
        outcome.refused(UnsafePath)
    assert below.names == ["d", "d/f", "keep"]


@under(LAYER, OVERLAY)
@pytest.mark.parametrize("base", [b".wh.secret", b".wh..wh..opq", b".wh.sub"])
@pytest.mark.parametrize("inside", [False, True])
def test_b3_a_whiteout_through_a_symlink_to_the_outside(
    attack: Attack, canary: Path, base: bytes, inside: bool, options: dict[str, str]
) -> None:
    """CVE-2018-15664: it is looked for inside; there, a whiteout may follow the symlink, as with the peers."""
    target = os.fsencode(canary)
    below = pax({b"path": target + b"/secret"}) + member(b"x", b"inside") if inside else b""
    below += pax({b"linkpath": target}) + member(b"ln", type=b"2")
    outcome = attack(member(b"ln/" + base), onto=below, **options)
    secret = outcome.path(target.lstrip(b"/") + b"/secret")
    if not inside:
        outcome.refused(FileNotFoundError)
    elif writes_whiteouts(options):
        # What stands there in the same tree cannot be whited out.
        if base == b".wh.secret":
            outcome.refused(FileExistsError)
        else:
            assert outcome.error is None, outcome.text
        assert secret.read_bytes() == b"inside"
    else:
        assert outcome.error is None, outcome.text
        assert secret.exists() == (base != b".wh.secret")


@under(LAYER, OVERLAY)
def test_b4_an_opaque_mark_in_a_directory_that_does_not_exist(
    attack: Attack, options: dict[str, str]
) -> None:
    outcome = attack(member(b"new/deep/.wh..wh..opq"), **options)
    assert outcome.error is None, outcome.text
    assert outcome.names == ["new", "new/deep"]
    if writes_whiteouts(options):
        assert os.getxattr(outcome.path("new/deep"), opaque(attack)) == b"y"


@under(LAYER, OVERLAY)
def test_b5_a_whiteout_before_and_after_a_new_entry(attack: Attack, options: dict[str, str]) -> None:
    """By layer rules a whiteout deletes what is there by then. Overlay has one name for both: the whiteout second
    is a contradiction, the file second replaces it."""
    after, before = member(b"x", b"new") + member(b".wh.x"), member(b".wh.x") + member(b"x", b"new")
    if not writes_whiteouts(options):
        assert attack(after, onto=member(b"x", b"old"), **options).names == []
        outcome = attack(before, onto=member(b"x", b"old"), **options)
        assert outcome.path("x").read_bytes() == b"new"
        return
    outcome = attack(after, onto=member(b".wh.x"), **options)
    outcome.refused(FileExistsError)
    outcome = attack(before, **options)
    outcome.refused(FileExistsError)  # "x" is there since the last one
    outcome = attack(member(b".wh.y") + member(b"y", b"new"), **options)
    assert outcome.error is None, outcome.text
    assert outcome.path("y").read_bytes() == b"new"


@under(LAYER, OVERLAY)
def test_b6_a_device_that_is_a_whiteout(attack: Attack, options: dict[str, str]) -> None:
    """Accepted as with the peers, but for user namespaces, where no device is made."""
    outcome = attack(member(b"gone", type=b"3", mode=0o600), **options)
    assert outcome.error is None, outcome.text
    if attack.in_userns:
        assert outcome.names == []
    else:
        status = outcome.path("gone").lstat()
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, 0)


@under(LAYER, OVERLAY, TREE)
@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "hard link", "root"])
def test_b7_attributes_of_overlay_itself(attack: Attack, kind: str, options: dict[str, str]) -> None:
    """Raw on an upper directory they show what a layer had deleted, or other files under a name (CVE-2021-3493,
    CVE-2023-0386 and their class). They are left out and told; the record gives them back in an export."""
    evil = {
        b"SCHILY.xattr.trusted.overlay.opaque": b"x",
        b"SCHILY.xattr.trusted.overlay.redirect": b"/etc",
        b"SCHILY.xattr.trusted.overlay.metacopy": b"",
        b"SCHILY.xattr.user.overlay.opaque": b"y",
        b"SCHILY.xattr.user.overlay.redirect": b"/etc",
        b"SCHILY.xattr.user.harmless": b"1",
    }
    del evil[b"SCHILY.xattr.user.harmless" if kind == "symlink" else b"SCHILY.xattr.user.overlay.redirect"]
    entry = {
        "file": member(b"x", b"x"),
        "directory": member(b"x/"),
        "symlink": member(b"x", type=b"2", linkname=b"y"),
        "hard link": member(b"x", type=b"1", linkname=b"f"),
        "root": member(b"/", type=b"5", mode=0o755),
    }[kind]
    outcome = attack(member(b"f", b"x"), pax(evil) + entry, **options)
    assert outcome.error is None, outcome.text
    assert "attributes of overlay itself were left out" in outcome.warnings[0]
    path = outcome.tree if kind == "root" else outcome.path("x")
    found = os.listxattr(path, follow_symlinks=False)
    assert found == ([] if kind == "symlink" else ["user.harmless"])


@under(LAYER, OVERLAY)
def test_b8_links_of_aufs(attack: Attack, options: dict[str, str]) -> None:
    """Layer rules know them; else they are whiteouts of files that no layer has, and files like any others."""
    if writes_whiteouts(options):
        outcome = attack(
            member(b".wh..wh.plnk/../../../outside/secret", b"stash"),
            member(b".wh..wh.plnk/1.2", b"kept", mode=0o600),
            member(b".wh..wh.aufs", b"ignored"),
            **options,
        )
        assert outcome.error is None, outcome.text
        assert outcome.path("outside/secret").read_bytes() == b"stash"
        assert outcome.names == [".wh..wh.plnk", ".wh..wh.plnk/1.2", ".wh.aufs", "outside", "outside/secret"]
        outcome = attack(member(b"z", type=b"1", linkname=b".wh..wh.plnk/../../../outside/more"), **options)
        outcome.refused(FileNotFoundError)
        return
    outcome = attack(
        member(b".wh..wh.plnk/../../../outside/secret", b"stash"),
        member(b".wh..wh.plnk/1.2", b"kept", mode=0o600),
        member(b"x", type=b"1", linkname=b".wh..wh.plnk/1.2"),
        member(b"y", type=b"1", linkname=b".wh..wh.plnk/../.wh..wh.plnk/1.2"),
        member(b".wh..wh.aufs", b"ignored"),
    )
    assert outcome.error is None, outcome.text
    assert outcome.path("x").read_bytes() == outcome.path("y").read_bytes() == b"kept"
    outcome = attack(member(b"z", type=b"1", linkname=b".wh..wh.plnk/../../../outside/secret"))
    assert outcome.path("z").samefile(outcome.path("outside/secret"))
    assert outcome.path("z").read_bytes() == b"stash"
    outcome = attack(member(b"z", type=b"1", linkname=b".wh..wh.plnk/9.9"))
    outcome.refused(BadArchive)
    assert outcome.peer == "invalid aufs hardlink"


@under(LAYER, OVERLAY)
def test_whiteouts_do_not_follow_what_they_delete(
    attack: Attack, canary: Path, options: dict[str, str]
) -> None:
    below = pax({b"linkpath": os.fsencode(canary)}) + member(b"d/link", type=b"2")
    below += pax({b"linkpath": os.fsencode(canary)}) + member(b"top", type=b"2")
    if writes_whiteouts(options):
        outcome = attack(member(b".wh.top"), onto=below, **options)
        outcome.refused(FileExistsError)
        outcome = attack(member(b"d/.wh..wh..opq"), member(b".wh..wh..opq"), **options)
        assert outcome.error is None, outcome.text
        assert [os.getxattr(path, opaque(attack)) for path in (outcome.tree, outcome.path("d"))] == [b"y"] * 2
        assert outcome.names == ["d", "d/link", "top"]
        return
    outcome = attack(member(b".wh.d") + member(b".wh.top"), onto=below, **options)
    assert outcome.error is None, outcome.text
    assert outcome.names == []
    outcome = attack(member(b"d/.wh..wh..opq"), member(b".wh..wh..opq"), onto=below, **options)
    assert outcome.names == []
