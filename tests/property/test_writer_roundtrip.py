"""What the writer makes is read back, by Python's own reader and by ours."""

import io
import os
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from orlop.formats.tarheader import CHAR, DIRECTORY, FIFO, HARD_LINK, REGULAR, SYMLINK, Entry
from orlop.stream.reader import TarReader
from orlop.stream.writer import TRAILER, encode, padding

SECOND = 1_000_000_000

byte = st.one_of(st.sampled_from(list(b"ab.\xc3\xbc")), st.integers(1, 255)).filter(lambda b: b != 0x2F)
component = st.one_of(
    st.lists(byte, min_size=1, max_size=30).map(bytes),
    st.integers(1, 255).map(lambda n: b"n" * n),
    st.integers(1, 120).map(lambda n: "ü".encode() * n),
).filter(lambda name: name not in (b".", b".."))
names = st.lists(component, min_size=1, max_size=16).map(b"/".join)
ids = st.one_of(st.integers(0, 70_000), st.integers(0, 2**32 - 2), st.sampled_from([0o7777777, 0o10000000]))
times = st.one_of(st.integers(-(2**33), 2**35).map(lambda s: s * SECOND), st.integers(-(2**62), 2**62))
attributes = st.dictionaries(
    st.lists(byte, min_size=1, max_size=20).map(bytes).filter(lambda key: b"=" not in key),
    st.binary(max_size=200).filter(lambda value: b"hdrcharset" not in value),
    max_size=4,
)


@st.composite
def entries(draw: st.DrawFn) -> tuple[Entry, bytes]:
    kind = draw(st.sampled_from([REGULAR, HARD_LINK, SYMLINK, CHAR, DIRECTORY, FIFO]))
    content = draw(st.binary(max_size=1500)) if kind == REGULAR else b""
    entry = Entry(
        draw(names) + (b"/" if kind == DIRECTORY else b""),
        draw(names) if kind in (HARD_LINK, SYMLINK) else b"",
        kind,
        draw(st.integers(0, 0o7777)),
        draw(ids),
        draw(ids),
        len(content),
        draw(times),
        xattrs=draw(attributes) or None,
    )
    if kind == CHAR:
        entry.devmajor, entry.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))
    return entry, content


archives = st.lists(entries(), max_size=4)


def stream(archive: list[tuple[Entry, bytes]]) -> bytes:
    return b"".join(encode(e) + content + padding(len(content)) for e, content in archive) + TRAILER


@given(archives)
def test_our_reader_gives_back_every_field(archive: list[tuple[Entry, bytes]]) -> None:
    reader = TarReader([stream(archive)])
    found = [
        ({name: getattr(e, name) for name in Entry.__slots__}, b"".join(reader.payload())) for e in reader
    ]
    assert found == [
        ({name: getattr(e, name) for name in Entry.__slots__}, content) for e, content in archive
    ]


@given(archives)
def test_pythons_reader_gives_back_every_field(archive: list[tuple[Entry, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(stream(archive)), encoding="utf-8") as tar:
        members = list(tar)
        assert len(members) == len(archive)
        for member, (entry, content) in zip(members, archive, strict=True):
            assert os.fsencode(member.name) == entry.name.removesuffix(b"/")
            assert os.fsencode(member.linkname) == entry.linkname
            assert member.type == bytes([entry.type])
            assert (member.mode, member.uid, member.gid) == (entry.mode, entry.uid, entry.gid)
            assert (member.devmajor, member.devminor) == (entry.devmajor, entry.devminor)
            assert member.size == entry.size
            assert abs(member.mtime - entry.mtime_ns / SECOND) < 1e-5  # it has a float only
            prefix = "SCHILY.xattr."
            found = {
                os.fsencode(k): os.fsencode(v) for k, v in member.pax_headers.items() if k.startswith(prefix)
            }
            assert found == {prefix.encode() + k: v for k, v in (entry.xattrs or {}).items()}
            if entry.type == REGULAR:
                file = tar.extractfile(member)
                assert file is not None
                assert file.read() == content
