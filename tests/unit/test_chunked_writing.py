"""Writing zstd:chunked blobs: the tar comes back, and each file can be had by itself."""

import hashlib
import io
import random
import subprocess
import tarfile
from typing import Any

import pytest
from backports import zstd  # type: ignore[import-not-found,unused-ignore]

import chunkedblobs
import peers
from orlop.chunked import writing
from orlop.errors import BadArchive, DuplicatePath, NotSupported
from orlop.formats import chunkedblob
from rawtar import sparse_01
from tarballs import archive

_NOISE = random.Random(1).randbytes(300_000)
HOLES = _NOISE[:50_000] + bytes(5000) + _NOISE[:100] + bytes(500) + b"end"


def _mixed() -> io.BytesIO:
    return archive(
        "etc",
        {
            "name": "etc/hello",
            "data": b"hello\n",
            "pax_headers": {"SCHILY.xattr.user.a": "1", "ctime": "5.25"},
        },
        {"name": "etc/empty"},
        {"name": "etc/link", "type": tarfile.SYMTYPE, "linkname": "hello"},
        {"name": "etc/hard", "type": tarfile.LNKTYPE, "linkname": "etc/hello"},
        {"name": "etc/\u00e4", "data": b"x" * 700},
        {"name": "etc/rnd", "data": _NOISE},
        {"name": "etc/holes", "data": HOLES},
        {"name": "null", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"name": "f", "type": tarfile.FIFOTYPE},
        {"name": "zeros", "data": bytes(4000)},
    )


def test_any_decoder_gives_the_tar_back() -> None:
    tar = _mixed()
    blob = chunkedblobs.made(tar)
    peers.need("zstd")
    done = subprocess.run(["zstd", "-dc"], input=blob.data, capture_output=True, check=True)
    assert done.stdout == tar.getvalue()


def test_the_table_tells_each_file_and_where_it_is() -> None:
    blob = chunkedblobs.made(_mixed())
    files: dict[str, list[dict[str, Any]]] = {}
    for entry in blob.table["entries"]:
        files.setdefault(entry["name"], []).append(entry)
    assert {name: entries[0]["type"] for name, entries in files.items()} == {
        "etc/": "dir",
        "etc/hello": "reg",
        "etc/empty": "reg",
        "etc/link": "symlink",
        "etc/hard": "hardlink",
        "etc/\u00e4": "reg",
        "etc/rnd": "reg",
        "etc/holes": "reg",
        "null": "char",
        "f": "fifo",
        "zeros": "reg",
    }
    hello = files["etc/hello"][0]
    assert hello["xattrs"] == {"user.a": "MQ=="}
    assert hello["changetime"] == "1970-01-01T00:00:05.25Z"
    assert "chunkSize" not in hello
    assert files["etc/link"][0] == {"type": "symlink", "name": "etc/link", "linkName": "hello", "mode": 0o644}
    assert files["null"][0]["devMajor"] == 1
    assert [e.get("chunkType") for e in files["etc/holes"]] == [None, "zeros", None]
    assert [e["type"] for e in files["etc/rnd"]] == ["reg", *["chunk"] * (len(files["etc/rnd"]) - 1)]
    assert "chunkType" not in files["zeros"][0]  # one chunk needs no words
    for name, content in (
        ("etc/hello", b"hello\n"),
        ("etc/rnd", _NOISE),
        ("etc/holes", HOLES),
        ("zeros", bytes(4000)),
    ):
        first, *_ = chunks = files[name]
        assert first["digest"] == "sha256:" + hashlib.sha256(content).hexdigest()
        ends = [*[chunk["offset"] for chunk in chunks[1:]], first["endOffset"]]
        for chunk, end in zip(chunks, ends, strict=True):
            part = zstd.decompress(blob.data[chunk["offset"] : end])
            at = chunk.get("chunkOffset", 0)
            assert part == content[at : at + chunk.get("chunkSize", len(content))]
            if len(chunks) > 1:
                assert chunk["chunkDigest"] == "sha256:" + hashlib.sha256(part).hexdigest()
            assert zstd.get_frame_info(blob.data[chunk["offset"] : end]) is not None


def test_the_end_is_where_the_annotations_and_the_footer_say() -> None:
    blob = chunkedblobs.made(_mixed())
    places = blob.places
    assert places.tar_split is not None
    packed = blob.data[places.tar_split.offset :][: places.tar_split.length]
    assert blob.table["tarSplitDigest"] == "sha256:" + hashlib.sha256(packed).hexdigest()
    assert len(blob.part(places.toc)) == places.toc.size
    assert len(blob.part(places.tar_split)) == places.tar_split.size
    assert blob.data[-64:] == chunkedblob.footer(places)
    table = blob.data[places.toc.offset :][: places.toc.length]
    assert places.toc_digest == "sha256:" + hashlib.sha256(table).hexdigest()
    assert blob.table["version"] == 1


def test_a_tar_without_entries_makes_a_blob() -> None:
    blob = chunkedblobs.made(archive())
    assert blob.table["entries"] == []
    assert zstd.decompress(blob.data) == archive().getvalue()


def test_the_level_is_heeded() -> None:
    text = archive({"name": "a", "data": b"".join(b"line %d\n" % n for n in range(20_000))})
    sizes = []
    for level in (1, 19):
        text.seek(0)
        out = io.BytesIO()
        writing.write(text, out, level=level)
        sizes.append(len(out.getvalue()))
    assert sizes[1] < sizes[0]


def _global_header() -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    out.seek(0)
    return out


@pytest.mark.parametrize(
    ("tar", "says"),
    [
        (_global_header(), "type 'g'"),
        (archive({"name": "a", "type": tarfile.CONTTYPE, "data": b"x"}), "type '7'"),
        (io.BytesIO(sparse_01(b"s", [(0, b"x")], 9) + bytes(1024)), "sparse"),
        (archive({"name": "a\udcff"}), "UTF-8"),
        (archive({"name": "a", "type": tarfile.SYMTYPE, "linkname": "\udcff"}), "UTF-8"),
        (archive({"name": "etc/.wh.a", "data": b"x"}), "whiteout"),
        (archive({"name": "a", "mtime": 253402300800}), "9999"),
        (archive({"name": "a", "pax_headers": {"mtime": "-62135596800"}}), "the year 1"),
        (archive({"name": "a", "pax_headers": {"atime": f"{2**60}"}}), "9999"),
    ],
)
def test_what_a_table_cannot_say_is_refused(tar: io.BytesIO, says: str) -> None:
    """The peers write some of these, and nobody can pull them."""
    with pytest.raises(NotSupported, match=says):
        writing.write(tar, io.BytesIO())


def test_what_is_no_layer_is_refused_as_elsewhere() -> None:
    with pytest.raises(DuplicatePath):
        writing.write(archive({"name": "a"}, {"name": "./a"}), io.BytesIO())
    with pytest.raises(BadArchive):
        writing.write(io.BytesIO(b"x" * 600), io.BytesIO())
