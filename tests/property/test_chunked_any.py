"""zstd:chunked with anything: tables of any bytes, annotations of any text, layers of any entries."""

import io
import os
import tarfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chunkedblobs
import peers
from orlop.chunked.pulling import open_differ
from orlop.errors import BadTOC, DuplicatePath, NotSupported
from orlop.formats import chunkedblob, toc
from orlop.formats.gojson import encode
from orlop.model.digest import Digest
from orlop.model.staging import DifferOptions
from tarballs import archive

KEYS = [
    "type",
    "name",
    "linkName",
    "mode",
    "size",
    "uid",
    "gid",
    "modtime",
    "accesstime",
    "xattrs",
    "digest",
    "offset",
    "endOffset",
    "chunkSize",
    "chunkOffset",
    "chunkDigest",
    "chunkType",
    "devMajor",
    "devMinor",
]
SHA = "sha256:" + "a" * 64
VALUES = st.one_of(
    st.sampled_from(
        ["reg", "dir", "chunk", "symlink", "a", "", SHA, "zeros", "2020-01-01T00:00:00Z", 0, 1, 10, 100]
    ),
    st.integers(),
    st.text(max_size=8),
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    st.lists(st.integers(), max_size=2),
)
ENTRIES = st.lists(st.one_of(st.dictionaries(st.sampled_from(KEYS), VALUES), VALUES), max_size=6)
DOCUMENTS = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda entries: encode({"entries": entries, "version": 1}).encode(), ENTRIES),
)


@given(DOCUMENTS, st.integers(0, 1000))
def test_any_bytes_are_a_table_or_an_error_of_ours(data: bytes, limit: int) -> None:
    try:
        table = toc.parse(data, limit)
    except BadTOC:
        return
    reached = 0
    for listed in table.entries.values():
        for chunk in listed.chunks:
            assert reached <= chunk.offset < chunk.end <= limit
            reached = chunk.end
        assert sum(chunk.size for chunk in listed.chunks) == (
            listed.entry.size if listed.entry.type == ord("0") else 0
        )


@given(
    st.dictionaries(st.sampled_from([chunkedblob.TOC_DIGEST, chunkedblob.TOC_POSITION]), st.text()), st.text()
)
def test_any_annotations_are_places_or_an_error_of_ours(texts: dict[str, str], tar_split: str) -> None:
    for annotations in (
        texts,
        {**texts, chunkedblob.TOC_DIGEST: SHA, chunkedblob.TAR_SPLIT_POSITION: tar_split},
    ):
        try:
            places = chunkedblob.places_of(annotations)
        except BadTOC:
            continue
        assert places is None or chunkedblob.places_of(places.annotations()) == places


NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12).filter(
    lambda name: name.strip("/.") != ""
)
CONTENT = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda a, zeros, b: a + bytes(zeros) + b,
        st.binary(max_size=9),
        st.integers(0, 3000),
        st.binary(max_size=9),
    ),
)
MEMBERS = st.builds(
    lambda name, data, mode, uid, mtime: {
        "name": name,
        "data": data,
        "mode": mode,
        "uid": uid,
        "mtime": mtime,
    },
    NAMES,
    CONTENT,
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(-(2**33), 2**34),
)


@pytest.mark.usefixtures("place")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MEMBERS, max_size=4))
def test_what_is_written_is_pulled_again_to_the_byte(place: Any, members: list[dict[str, Any]]) -> None:
    peers.need_root()
    tar: io.BytesIO = archive(*members)
    try:
        blob = chunkedblobs.made(tar)
    except (NotSupported, DuplicatePath):
        return
    target = place / os.urandom(8).hex()
    target.mkdir()
    try:
        differ = open_differ(blob.source, blob.annotations, chunkedblobs.ON, "overlay", staging=True)
        try:
            output = differ.apply(str(target), DifferOptions())
        except OSError:
            # Names that no file system takes, or a file below a file: so it is with a full pull.
            return
        output.close()
        assert output.uncompressed_digest == str(Digest.of(tar.getvalue()))
        assert output.size == len(tar.getvalue())
    finally:
        blob.close()


def test_an_archive_of_the_machine_is_written_and_pulled(place: Any) -> None:
    """Real files: of every size, with links, and some thousand of them."""
    peers.need_root()
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as out:
        out.add("/etc", arcname="etc")
        out.add(os.path.dirname(tarfile.__file__) + "/json", arcname="./json")
    tar.seek(0)
    blob = chunkedblobs.made(tar)
    (place / "dir").mkdir()
    differ = open_differ(blob.source, blob.annotations, chunkedblobs.ON, "overlay", staging=True)
    output = differ.apply(str(place / "dir"), DifferOptions())
    output.close()
    assert output.uncompressed_digest == str(Digest.of(tar.getvalue()))
