"""Sections C and D: special files, owners, attributes, times; what claims to be large."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from attacks import LAYER, OVERLAY, UNPACKERS, Attack, under
from orlop.errors import BadArchive, LimitExceeded, UnsafeOwner
from rawtar import base256, header, member, pax, sparse_10

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def schily(**attributes: bytes) -> bytes:
    return pax(
        {b"SCHILY.xattr." + name.replace("_", ".", 1).encode(): value for name, value in attributes.items()}
    )


def test_c1_devices(attack: Attack) -> None:
    """Made where root is root, never opened: opening a tape rewinds it, opening a FIFO waits for ever."""
    outcome = attack(
        member(b"dev/sda", type=b"4", devmajor=8, devminor=0, mode=0o660, gid=6),
        member(b"dev/null", type=b"3", devmajor=1, devminor=3, mode=0o666),
        schily(user_a=b"b") + member(b"dev/fifo", type=b"6", mode=0o4622, uid=5),
    )
    # An attribute of users is not for FIFOs; that is an error like any other.
    if attack.in_userns:
        assert outcome.error is None, outcome.text
        assert outcome.names == ["dev", "dev/fifo"]
    else:
        assert outcome.number == errno.EPERM
        assert outcome.path("dev/sda").lstat().st_rdev == os.makedev(8, 0)
        assert outcome.names == ["dev", "dev/fifo", "dev/null", "dev/sda"]
    assert stat.S_IMODE(outcome.path("dev/fifo").lstat().st_mode) == 0o4622


def test_c1_a_device_in_the_place_of_a_file(attack: Attack) -> None:
    """Nothing is written to the device that a first entry made."""
    outcome = attack(
        member(b"mem", type=b"3", devmajor=1, devminor=1), member(b"mem", b"evil"),
        member(b"pipe", type=b"6"), member(b"pipe", b"evil"),
    )  # fmt: skip
    assert outcome.error is None, outcome.text
    assert outcome.path("mem").read_bytes() == outcome.path("pipe").read_bytes() == b"evil"


def test_c2_setuid_bits_are_kept(attack: Attack) -> None:
    outcome = attack(
        member(b"su", b"x", mode=0o6755, uid=7, gid=8),
        member(b"tmp/", mode=0o1777),
        member(b"s/", mode=0o2775, gid=9),
    )
    modes = {name: stat.S_IMODE(outcome.path(name).stat().st_mode) for name in ("su", "tmp", "s")}
    assert modes == {"su": 0o6755, "tmp": 0o1777, "s": 0o2775}


def test_c3_ids_that_become_root(attack: Attack) -> None:
    """CVE-2024-40635, CVE-2026-46680: 2^32-1 means "leave it", 2^40 was cut to 0."""
    tars = [pax({key: b"%d" % id}) + member(b"f", b"x") for key in (b"uid", b"gid") for id in (*IDS, 2**62)]
    tars += [member(b"f", b"x", mode=0o4755, **{key: base256(id, 8)}) for key in ("uid", "gid") for id in IDS]
    for outcome in attack.each(*tars):
        outcome.refused(UnsafeOwner, BadArchive)
    assert outcome.names == []


IDS = (2**32 - 1, 2**32, 2**40, -1)


def test_c4_a_malformed_capability(attack: Attack) -> None:
    outcome = attack(schily(security_capability=b"short") + member(b"f", b"x"))
    assert outcome.number == errno.EINVAL
    assert "security.capability" in outcome.text
    valid = b"\x01\x00\x00\x02" + b"\x00\x04\x00\x00" + bytes(12)
    outcome = attack(schily(security_capability=valid) + member(b"g", b"x", uid=5))
    assert outcome.error is None, outcome.text
    if not attack.in_userns:  # the kernel notes there to which namespace it belongs
        assert os.getxattr(outcome.path("g"), "security.capability") == valid


def test_c5_labels_and_overrides_are_not_for_an_archive_to_give(attack: Attack) -> None:
    outcome = attack(
        schily(
            security_selinux=b"system_u:object_r:container_file_t:s0",
            **{"user_containers.override_stat": b"0:0:4755:file"},
        )
        + member(b"f", b"x"),
    )
    assert outcome.error is None, outcome.text
    assert not [name for name in os.listxattr(outcome.path("f")) if name != "security.selinux"]
    assert "owners for a mount program" in outcome.warnings[0]


@pytest.mark.parametrize("way", UNPACKERS)
def test_c5_with_a_mask_the_override_is_ours(attack: Attack) -> None:
    outcome = attack(
        schily(**{"user_containers.override_stat": b"0:0:4755:file"}) + member(b"g", b"x", mode=0o640, uid=3),
        rules="tree", force_mask=0o700,
    )  # fmt: skip
    assert os.getxattr(outcome.path("g"), "user.containers.override_stat") == b"3:0:0640:file"


def test_c6_attributes_that_are_many_large_or_nameless(attack: Attack) -> None:
    many = {b"SCHILY.xattr.user.a%d" % n: b"v" * 20 for n in range(10_000)}
    outcome = attack(pax(many) + member(b"f", b"x"))
    assert outcome.error is None or outcome.number in (errno.ENOSPC, errno.E2BIG), outcome.text
    outcome = attack(schily(user_big=b"v" * 65537) + member(b"g", b"x"))
    assert outcome.number in (errno.E2BIG, errno.ENOSPC)
    outcome = attack(schily(nothing=b"v") + member(b"h", b"x"))
    assert outcome.error is None, outcome.text
    assert "nothing" in outcome.warnings[0]
    outcome = attack(schily(**{"user_" + "n" * 300: b"v"}) + member(b"i", b"x"))
    assert outcome.number == errno.ERANGE


@pytest.mark.parametrize("mtime", [b"-5", b"68719476736", b"4611686018427387904", b"-9223372036854775808.5"])
def test_c7_times_out_of_range_are_1970(attack: Attack, mtime: bytes) -> None:
    outcome = attack(
        pax({b"mtime": mtime, b"atime": mtime}) + member(b"f", b"x"), pax({b"mtime": mtime}) + member(b"d/")
    )
    if outcome.error is not None:
        outcome.refused(BadArchive)
    else:
        for name in ("f", "d"):
            status = outcome.path(name).stat()
            assert (status.st_mtime_ns, status.st_atime_ns) == (0, 0)


def test_c8_global_headers_and_vendor_keys_do_nothing(attack: Attack) -> None:
    outcome = attack(
        pax({b"path": b"evil", b"comment": b"x" * 1000, b"uid": b"12"}, type=b"g"),
        pax({b"VENDOR.key": b"1", b"LIBARCHIVE.xattr.user.b": b"eA==", b"mtime": b"7"}) + member(b"f", b"x"),
    )
    assert outcome.error is None, outcome.text
    assert outcome.names == ["f"]
    assert (outcome.path("f").stat().st_uid, outcome.path("f").stat().st_mtime) == (0, 7)
    assert os.listxattr(outcome.path("f")) == []


def test_c8_a_sparse_member_of_a_terabyte(attack: Attack) -> None:
    """CVE-2025-58183: what it claims is not what it costs."""
    outcome = attack(sparse_10(b"s", [(1 << 40, b"end")], (1 << 40) + 3), member(b"after", b"own"))
    assert outcome.error is None, outcome.text
    status = outcome.path("s").stat()
    assert status.st_size == (1 << 40) + 3
    assert status.st_blocks < 1000
    assert outcome.path("after").read_bytes() == b"own"


@under(LAYER, OVERLAY)
def test_c9_types_that_nobody_knows(attack: Attack, options: dict[str, str]) -> None:
    types = b"7ZDMNV8A \xff"
    outcomes = attack.each(*[member(b"f", b"payload", type=bytes((type,))) for type in types], **options)
    for type, outcome in zip(types, outcomes, strict=True):
        outcome.refused(BadArchive)
        assert outcome.peer == f"unhandled tar header type {type}"
    assert outcome.names == []


def test_d3_much_payload_in_little_memory(attack: Attack) -> None:
    """96 MB of zeros through a ring of 16."""
    size = 96 << 20
    outcome = attack(member(b"zeros", bytes(size)))
    assert outcome.error is None, outcome.text
    assert outcome.path("zeros").stat().st_size == size


@pytest.mark.parametrize("size", [base256(2**62, 12), base256(-1, 12), b"\xff" * 12, b"\x80" + b"\xff" * 11])
def test_d4_sizes_that_nothing_has(attack: Attack, size: bytes) -> None:
    """CVE-2025-8194, CVE-2019-20907: an error, at the header or at the end of the input, and no file of that size."""
    outcome = attack(header(b"f", size) + b"x" * 512)
    outcome.refused(BadArchive, LimitExceeded)
    assert not outcome.path("f").exists() or outcome.path("f").stat().st_blocks < 100


def test_d5_many_entries_in_one_directory(attack: Attack) -> None:
    files = [member(b"d/%d" % n) for n in range(1500)]
    whiteouts = [member(b"d/.wh.%d" % n) for n in range(1500)]
    outcome = attack(*files, *whiteouts) if attack.way in UNPACKERS else attack(*whiteouts, *files)
    assert outcome.error is None, outcome.text
    assert len(outcome.names) == (1 if attack.way in UNPACKERS else 1501)


def test_d5_many_opaque_marks_take_linear_time(attack: Attack) -> None:
    parts = [member(b"d%d/f" % n) + member(b"d%d/.wh..wh..opq" % n) for n in range(1000)]
    outcome = attack(*parts)
    assert outcome.error is None, outcome.text
    assert len(outcome.names) == 2000
