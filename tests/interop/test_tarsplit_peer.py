"""Records of ours and of Debian's containers-storage, line for line, for the tars that people make.

The peer ends each record with one extra empty segment, and cuts what follows the end of an archive where its reads
happened to end: both tails are joined before they are compared.
"""

import gzip
import io
import json
import os
import subprocess
import tarfile
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest

import peers
import rawtar
from orlop.errors import StorageError
from orlop.stream.ingest import LayerFacts, ingest
from orlop.stream.pieces import PieceStream
from orlop.stream.split import assemble
from rawtar import (
    END,
    GNU,
    base256,
    header,
    long_name,
    member,
    octal,
    padded,
    pax,
    sparse_00,
    sparse_01,
    sparse_10,
)

# --- a tree with the names and kinds that archives differ about ---------------------------------------------

LONG = b"long-" + b"x" * 120
LONGER = b"/".join([b"deep" + b"y" * 90] * 4)


def make_tree(root: Path, *, plain: bool = False) -> None:
    """`plain` leaves out what the oldest formats cannot hold."""
    at = os.fsencode(root)
    os.makedirs(at + b"/etc/empty-dir")
    os.chmod(at + b"/etc/empty-dir", 0o1770)
    for size in (0, 1, 511, 512, 513, 5000, 1_500_000):
        Path(os.fsdecode(at + b"/etc/size-%d" % size)).write_bytes(bytes(i * 7 & 255 for i in range(size)))
    os.symlink("size-1", at + b"/etc/link")
    os.link(at + b"/etc/size-513", at + b"/etc/hard")
    os.mkfifo(at + b"/etc/fifo")
    os.chown(at + b"/etc/size-1", 1000, 1001)
    os.utime(at + b"/etc/size-511", ns=(1_600_000_000_123_456_789, 1_500_000_000_987_654_321))
    if plain:
        return
    os.mknod(at + b"/etc/null", 0o20666, os.makedev(1, 3))
    os.chown(at + b"/etc/size-512", 3_000_000, 4_000_000)
    os.utime(at + b"/etc/size-513", ns=(-5_500_000_000, -5_500_000_000))
    os.makedirs(at + b"/" + LONGER)
    names = (
        LONG,
        LONGER + b"/file",
        b"not-utf8-\xff\xfe",
        b"surrogate-\xed\xa0\x80",
        b"over-long-\xc0\xaf",
        "text-\u00e9-\u2028-\u2029-\U0001f6a2".encode(),
        b'json-<a>&"b"\\c',
        b"control-\x01\x1f\x7f\t\r\n-end",
    )
    for name in names:
        Path(os.fsdecode(at + b"/" + name)).write_bytes(name)
    os.symlink(b"target-" + b"z" * 200, at + b"/long-link")


def run(*argv: str, cwd: Path, data: bytes = b"", env: dict[str, str] | None = None) -> bytes:
    peers.need(argv[0])
    return subprocess.run(
        argv, cwd=cwd, input=data, capture_output=True, check=True, env={**os.environ, **(env or {})}
    ).stdout


def gnu(tree: Path, *flags: str) -> bytes:
    return run("tar", "--sort=name", *flags, "-cf", "-", ".", cwd=tree)


def bsd(tree: Path, *flags: str) -> bytes:
    return run("bsdtar", *flags, "-cf", "-", ".", cwd=tree, env={"LC_ALL": "C.UTF-8"})


def python(tree: Path, format: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        archive.add(tree, arcname="./")
    return out.getvalue()


def cpio(tree: Path, format: str) -> bytes:
    names = subprocess.run(["find", ".", "-print0"], cwd=tree, capture_output=True, check=True).stdout
    return run("cpio", "--quiet", "-0", "-o", "-H", format, cwd=tree, data=names)


MAKERS: dict[str, Callable[[Path], bytes]] = {
    "gnu": lambda tree: gnu(tree, "--format=gnu"),
    "oldgnu": lambda tree: gnu(tree, "--format=oldgnu"),
    "posix": lambda tree: gnu(tree, "--format=posix", "--xattrs"),
    "posix without names": lambda tree: gnu(
        tree, "--format=posix", "--numeric-owner", "--pax-option=delete=atime"
    ),
    "blocked 1 KiB": lambda tree: gnu(tree, "--format=gnu", "-b", "2"),
    "blocked 1 MiB": lambda tree: gnu(tree, "--format=gnu", "-b", "2048"),
    "incremental": lambda tree: gnu(tree, "--format=gnu", "--atime-preserve", "--mtime=2020-01-01"),
    "bsdtar pax": lambda tree: bsd(tree, "--format=pax"),
    "bsdtar gnutar": lambda tree: bsd(tree, "--format=gnutar"),
    "python gnu": lambda tree: python(tree, tarfile.GNU_FORMAT),
    "python pax": lambda tree: python(tree, tarfile.PAX_FORMAT),
}

PLAIN_MAKERS: dict[str, Callable[[Path], bytes]] = {
    "v7": lambda tree: gnu(tree, "--format=v7", "--exclude=fifo"),
    "ustar": lambda tree: gnu(tree, "--format=ustar"),
    "bsdtar v7": lambda tree: bsd(tree, "--format=v7", "--exclude=fifo"),
    "bsdtar ustar": lambda tree: bsd(tree, "--format=ustar"),
    "python ustar": lambda tree: python(tree, tarfile.USTAR_FORMAT),
    "cpio tar": lambda tree: cpio(tree, "tar"),
    "cpio ustar": lambda tree: cpio(tree, "ustar"),
    "from cpio": lambda tree: run(
        "bsdtar", "--format=ustar", "-cf", "-", "@-", cwd=tree, data=cpio(tree, "newc")
    ),
}


# --- the two records ----------------------------------------------------------------------------------------


class Pair:
    """One tar, imported by the peer and read by us."""

    def __init__(self, theirs: peers.Program, tar: bytes) -> None:
        blob = theirs.base.parent / "layer.tar"
        blob.write_bytes(tar)
        self.theirs = theirs
        self.tar = tar
        self.id = theirs.line("import-layer", "-f", str(blob))
        self.record = next(theirs.graph.glob(f"*-layers/{self.id}.tar-split.gz"))
        self.layer = theirs.graph / "vfs" / "dir" / self.id
        out = io.BytesIO()
        self.facts: LayerFacts = ingest(io.BytesIO(tar), None, out)
        self.our_record = out.getvalue()
        (self.row,) = (row for row in theirs.json("layers") if row["id"] == self.id)

    def lines(self) -> tuple[list[bytes], list[bytes]]:
        """(ours, theirs), each with its tail joined."""
        return joined(gzip.decompress(self.our_record)), joined(gzip.decompress(self.record.read_bytes()))

    def assert_equal(self) -> None:
        ours, theirs = self.lines()
        assert ours == theirs
        assert self.facts.diff_digest == self.row["diff-digest"]
        assert self.facts.diff_size == self.row["diff-size"]
        assert list(self.facts.uids) == self.row["uidset"]
        assert list(self.facts.gids) == self.row["gidset"]

    def assemble(self, record: bytes) -> bytes:
        """The stream put together by us from the peer's files."""
        with PieceStream(assemble(io.BytesIO(record), self.open)) as stream:
            return stream.read()

    def assembled_by_the_peer(self, record: bytes) -> peers.Result:
        """The stream put together by the peer from `record`, which takes the place of its own."""
        self.record.write_bytes(record)
        return self.theirs("diff", self.id, ok=False)

    def open(self, name: bytes) -> int:
        return os.open(os.fsencode(self.layer) + b"/" + name, os.O_RDONLY | os.O_NOFOLLOW)


def joined(record: bytes) -> list[bytes]:
    """Lines up to the last file entry, then the bytes of everything after it."""
    lines = record.splitlines(keepends=True)
    tail = b""
    while lines and lines[-1].startswith(b'{"type":2'):
        tail = b64decode(json.loads(lines.pop())["payload"] or "") + tail
    return [*lines, tail]


@pytest.fixture
def pair(theirs: peers.Program) -> Callable[[bytes], Pair]:
    return lambda tar: Pair(theirs, tar)


@pytest.mark.parametrize("maker", MAKERS)
def test_the_record_is_that_of_the_peer(maker: str, tmp_path: Path, pair: Callable[[bytes], Pair]) -> None:
    make_tree(tmp_path / "tree")
    made = pair(MAKERS[maker](tmp_path / "tree"))
    made.assert_equal()
    assert made.assemble(made.our_record) == made.tar
    assert made.assemble(made.record.read_bytes()) == made.tar
    assert made.assembled_by_the_peer(made.our_record).out == made.tar


@pytest.mark.parametrize("maker", PLAIN_MAKERS)
def test_the_record_is_that_of_the_peer_for_old_formats(
    maker: str, tmp_path: Path, pair: Callable[[bytes], Pair]
) -> None:
    make_tree(tmp_path / "tree", plain=True)
    made = pair(PLAIN_MAKERS[maker](tmp_path / "tree"))
    made.assert_equal()
    assert made.assemble(made.our_record) == made.tar


# --- odd archives, made by hand -----------------------------------------------------------------------------

F = member(b"f", b"12345", uid=5, gid=6)
STAR_REST = b"pre/fix".ljust(131, b"\0") + octal(5, 12) + octal(6, 12) + bytes(8) + b"tar\0"

SAME = {
    "nothing": b"",
    "one zero block": bytes(512),
    "two zero blocks": bytes(1024),
    "no end": F,
    "one zero block at the end": F + bytes(512),
    "three megabytes of zeros": F + END + bytes(3 << 20),
    "garbage behind the end": F + END + b"garbage" * 1000,
    "an archive behind the end": F + END + member(b"g", b"x") + END,
    "no padding": F[:517],
    "padding that is not zero": header(b"f", 5) + b"12345" + b"x" * 507 + END,
    "a global header": pax({b"comment": b"x"}, type=b"g", name=b"pax_global_header") + F + END,
    "a global header that says much": pax(
        {b"path": b"named", b"uid": b"77", b"size": b"9"}, type=b"g", name=b"pax_global_header"
    )
    + F
    + END,
    "a global header with values that are none": pax(
        {b"uid": b"x", b"size": b"-1", b"mtime": b"t"}, type=b"g"
    )
    + F
    + END,
    "two different global headers": pax({b"comment": b"x"}, type=b"g", name=b"g1")
    + pax({b"comment": b"x"}, type=b"g", name=b"g2")
    + END,
    "a PAX header before a global one": pax({b"path": b"lost"})
    + pax({b"comment": b"x"}, type=b"g")
    + F
    + END,
    "a PAX header and no file": F + pax({b"path": b"lost"}) + END,
    "a GNU name and a PAX path": pax({b"path": b"pax-name"}) + long_name(b"gnu-name") + F + END,
    "two PAX headers": pax({b"path": b"one", b"uid": b"5"}) + pax({b"path": b"two"}) + F + END,
    "a size in PAX": pax({b"size": b"3"}) + header(b"f", 0) + padded(b"abc") + END,
    "empty PAX values": pax({b"path": b"", b"size": b"", b"uid": b""}) + F + END,
    "PAX times": pax({b"mtime": b"-1.5", b"atime": b"5.", b"ctime": b"1.123456789012"}) + F + END,
    "signs in PAX numbers": pax({b"uid": b"+7"}) + F + END,
    "a NUL in an attribute": pax({b"SCHILY.xattr.user.x": b"a\0b"}) + F + END,
    "type NUL": header(b"d/", type=b"\0") + member(b"f", b"x", type=b"\0") + END,
    "a ustar prefix": padded(header(b"n", 1, rest=b"pre/fix") + b"x") + END,
    "a STAR prefix": padded(header(b"n", 1, rest=STAR_REST) + b"x") + END,
    "GNU times": padded(header(b"n", 1, magic=GNU, rest=octal(5, 12) + octal(6, 12)) + b"x") + END,
    "a prefix under the GNU magic": padded(header(b"n", 1, magic=GNU, rest=b"pre/fix") + b"x") + END,
    "another such, not ASCII": padded(header(b"n", 1, magic=GNU, rest=b"pre\xff/fix") + b"x") + END,
    "a signed checksum": padded(header(b"n\xff\xfe", 1, signed=True) + b"x") + END,
    "base 256": padded(header(b"n", base256(3, 12), uid=base256(2**32 - 2, 8)) + b"abc") + END,
    "numbers with spaces": padded(header(b"n", b"     3 \0   ") + b"abc") + END,
    "numbers with a NUL inside": padded(header(b"n", b"3\0001\0") + b"abc") + END,
    "empty numbers": header(b"n", b"", mode=b"", uid=b"", gid=b"", mtime=b"") + END,
    "whiteouts": member(b"d/") + member(b"d/.wh.x", uid=44) + member(b".wh..wh..opq", gid=45) + END,
    "an absolute name": member(b"/abs", b"x") + END,
    "a name with dots": member(b"sub/") + member(b"sub/../rel", b"x") + END,
    "an unknown sparse version": pax({b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}) + F + END,
    "a sparse map without holes": sparse_01(b"s", [(0, b"abc"), (3, b"def")], 6) + END,
}


@pytest.mark.parametrize("case", SAME)
def test_odd_archives_are_recorded_as_the_peer_records_them(case: str, pair: Callable[[bytes], Pair]) -> None:
    made = pair(SAME[case])
    ours, theirs = made.lines()
    assert ours == theirs
    assert made.facts.diff_digest == made.row["diff-digest"]
    assert list(made.facts.uids) == made.row.get("uidset", [])
    assert list(made.facts.gids) == made.row.get("gidset", [])
    assert made.assembled_by_the_peer(made.our_record).out == made.tar


REFUSED = {
    "cut off in a header": F + header(b"g")[:100],
    "cut off in the second zero block": F + bytes(700),
    "cut off in a payload": F[:515],
    "cut off in PAX data": pax({b"path": b"p" * 100})[:530],
    "a zero block, then something": F + bytes(512) + F,
    "a wrong checksum": header(b"n", checksum=b"0000001\0") + END,
    "no tar": b"hello world" * 100,
    "not even a block": b"hello world",
    "a negative size": header(b"n", base256(-3, 12)) + END,
    "a size of 70 bits": header(b"n", base256(2**70, 12)) + END,
    "a size that never comes": header(b"n", base256(2**62, 12)) + END,
    "a digit that is not octal": header(b"n", b"0000008") + END,
    "a sign": header(b"n", b"+3") + END,
    "an underscore": header(b"n", b"1_0") + END,
    "a bad device number": header(b"n", devmajor=b"zz") + END,
    "a PAX record without newline": member(b"x", b"11 path=abX", type=b"x") + F + END,
    "a PAX record without key": member(b"x", b"6 =a\n\n", type=b"x") + F + END,
    "a NUL in a PAX path": pax({b"path": b"a\0b"}) + F + END,
    "a NUL in a PAX key": pax({b"pa\0th": b"a"}) + F + END,
    "a bad PAX time": pax({b"ctime": b"never"}) + F + END,
    "a negative PAX size": pax({b"size": b"-1"}) + F + END,
    "a long PAX header": header(b"x", (1 << 20) + 1, type=b"x") + bytes((1 << 20) + 512) + F + END,
    "a long long name": header(b"x", (1 << 20) + 1, type=b"L") + bytes((1 << 20) + 512) + F + END,
    "a second entry of one name": F + member(b"./f", b"x") + END,
    "two equal global headers": pax({b"comment": b"x"}, type=b"g") * 2 + END,
    "a sparse map with too little": sparse_00(b"s", [(0, b"abc"), (1, b"d")], 9) + END,
    "a sparse directory": pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"}) + member(b"d/") + END,
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_peer_refuses_is_refused(case: str, theirs: peers.Program, tmp_path: Path) -> None:
    blob = tmp_path / "layer.tar"
    blob.write_bytes(REFUSED[case])
    assert theirs("import-layer", "-f", str(blob), ok=False).status != 0
    with pytest.raises(StorageError):
        ingest(io.BytesIO(REFUSED[case]), None, io.BytesIO())


RUNS = [(0, b"a" * 512), (4096, b"b" * 1000), (9000, b"c" * 3)]

# Where our record is another: the peer's own gives back another stream, or none.
FIXED = {
    "part of the padding": F[:617],
    "part of the padding of a PAX header": F + pax({b"path": b"p"})[:600],
    "a hard link with a size": member(b"f", b"x") + header(b"h", 5, type=b"1", linkname=b"f") + END,
    "a directory with a size": header(b"d/", 700, type=b"5") + F + END,
    "a symlink with a size": header(b"s", 700, type=b"2", linkname=b"f") + F + END,
    "a whiteout with a payload": F + member(b".wh.x", b"payload", uid=44) + END,
    "sparse 0.0": sparse_00(b"s", RUNS, 10_000) + F + END,
    "sparse 0.1": sparse_01(b"s", RUNS, 10_000) + F + END,
    "sparse 1.0": sparse_10(b"s", RUNS, 10_000) + F + END,
    "a hole": sparse_10(b"s", [], 10_000) + F + END,
}


@pytest.mark.parametrize("case", FIXED)
def test_where_the_peer_cannot_give_the_layer_back_our_record_can(
    case: str, pair: Callable[[bytes], Pair]
) -> None:
    """[fix] of spec/tar-split.md 6.5 and 6.6. The peer reads our record, and then gives the layer back exactly."""
    made = pair(FIXED[case])
    ours, theirs = made.lines()
    assert ours != theirs
    own = made.theirs("diff", made.id, ok=False)
    assert own.status != 0 or own.out != made.tar, "the peer has learnt it: this case belongs to those above"
    assert made.assemble(made.our_record) == made.tar
    result = made.assembled_by_the_peer(made.our_record)
    assert (result.status, result.out) == (0, made.tar)
    assert made.facts.diff_digest == made.row["diff-digest"]


def test_sparse_archives_of_bsdtar_are_exact(tmp_path: Path, pair: Callable[[bytes], Pair]) -> None:
    """bsdtar writes PAX 1.0 maps unasked wherever a file has holes."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("a", "b"):
        with open(tree / name, "wb") as out:
            for offset in range(0, 4_000_000, 1_000_000):
                out.seek(offset)
                out.write(name.encode() * 5000)
            out.truncate(5_000_000)
    tar = bsd(tree, "--format=pax")
    assert b"GNU.sparse.major" in tar, "the file system made no holes"
    made = pair(tar)
    assert made.assemble(made.our_record) == tar
    assert made.assembled_by_the_peer(made.our_record).out == tar


@pytest.mark.parametrize("id", [-1, 2**32 - 1, 2**40])
def test_owners_that_wrap_are_taken_by_the_peer_and_refused_by_us(
    id: int, theirs: peers.Program, tmp_path: Path
) -> None:
    """promises C3: 2^40 becomes root there."""
    data = header(b"f", uid=base256(id, 8)) + rawtar.END
    blob = tmp_path / "layer.tar"
    blob.write_bytes(data)
    theirs("import-layer", "-f", str(blob))
    with pytest.raises(StorageError):
        ingest(io.BytesIO(data), None, io.BytesIO())


def test_a_peer_reads_records_of_ours_with_changed_files_as_broken(
    tmp_path: Path, pair: Callable[[bytes], Pair]
) -> None:
    made = pair(F + END)
    (made.layer / "f").write_bytes(b"12346")
    result = made.assembled_by_the_peer(made.our_record)
    assert result.status != 0
    assert b'file integrity checksum failed for "f"' in result.err
