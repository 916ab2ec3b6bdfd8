"""GNU tar and libarchive read what our writer makes."""

import os
import subprocess
from pathlib import Path

import peers
from orlop.formats.tarheader import Entry
from orlop.stream.writer import TRAILER, encode, padding

TIME = 1_600_000_000
LONG = b"/".join([b"n" * 199] * 20)  # 3,999 bytes

MEMBERS = [
    Entry(b"short", mode=0o644, mtime_ns=TIME * 10**9, size=3),
    Entry(LONG, mode=0o600, mtime_ns=TIME * 10**9, size=1000),
    Entry(b"d" * 150 + b"/" + b"f" * 100, mode=0o644, mtime_ns=TIME * 10**9),
    Entry(b"\xff\xfe-not-utf8", mode=0o644, mtime_ns=TIME * 10**9),
    Entry("ümläut".encode(), uid=3_000_000, gid=4_000_000_000, mtime_ns=TIME * 10**9),
    Entry(b"nine-gigabytes", size=9 << 30, mtime_ns=TIME * 10**9),
    Entry(b"last", mode=0o644, mtime_ns=TIME * 10**9, size=1),
]


def listing(archive: Path, members: list[Entry], program: str, *options: str) -> list[bytes]:
    """The lines in which a program lists the members; a hole in the archive stands for their content."""
    with archive.open("wb") as out:
        for member in members:
            out.write(encode(member))
            out.truncate(out.tell() + member.size + len(padding(member.size)))
            out.seek(0, os.SEEK_END)
        out.write(TRAILER)
    command = [peers.program(program), "-tvf", str(archive), "--numeric-owner", *options]
    done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.stderr == b""
    lines = done.stdout.splitlines()
    assert len(lines) == len(members)
    return lines


def test_gnu_tar_lists_names_owners_and_sizes(tmp_path: Path) -> None:
    lines = listing(tmp_path / "a.tar", MEMBERS, "tar", "--quoting-style=literal")
    for line, member in zip(lines, MEMBERS, strict=True):
        assert line.endswith(b" " + member.name)
        assert line.split()[1:3] == [b"%d/%d" % (member.uid, member.gid), b"%d" % member.size]


def test_libarchive_lists_names_owners_and_sizes(tmp_path: Path) -> None:
    """But for names that are not UTF-8, which it refuses to print."""
    members = [member for member in MEMBERS if member.name[0] != 0xFF]
    lines = listing(tmp_path / "a.tar", members, "bsdtar")
    for line, member in zip(lines, members, strict=True):
        assert line.endswith(b" " + member.name)
        assert line.split()[2:5] == [b"%d" % number for number in (member.uid, member.gid, member.size)]


def test_content_modes_times_and_attributes_come_out(tmp_path: Path) -> None:
    content = os.urandom(700)
    member = Entry("ä\udcff".encode(errors="surrogateescape"), mode=0o640, size=700, mtime_ns=TIME * 10**9)
    member.xattrs = {b"user.one": b"1", b"user.two": b"\0\xff\n", b"user.three": b"3" * 1000}
    archive = encode(member) + content + padding(700) + TRAILER
    command = [peers.program("tar"), "-x", "--xattrs", "--xattrs-include=*", "-C", str(tmp_path)]
    subprocess.run(command, input=archive, check=True)
    (path,) = tmp_path.iterdir()
    assert os.fsencode(path.name) == member.name
    assert path.read_bytes() == content
    status = path.stat()
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o640, TIME)
    found = {os.fsencode(name): os.getxattr(path, name) for name in os.listxattr(path)}
    assert found == member.xattrs
