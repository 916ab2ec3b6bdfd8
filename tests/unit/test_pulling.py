"""Layers by their table of contents: what is refused, and that nothing comes of it."""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import chunkedblobs
import peers
import trees
from chunkedblobs import ON, Blob, changed, made
from orlop.chunked import pulling
from orlop.chunked.source import BlobFile
from orlop.errors import (
    BadArchive,
    BadTOC,
    ContentChanged,
    Damaged,
    DuplicatePath,
    LimitExceeded,
    PartialPullImpossible,
    StorageError,
)
from orlop.formats import chunkedblob, limits
from orlop.model.digest import Digest
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.staging import DifferOptions, StagedOutput
from orlop.stream.unpack import Unpacker
from tarballs import archive, link

LONG = b"".join(b"%d\n" % n for n in range(400_000))  # more than passes through memory


def _tar() -> io.BytesIO:
    return archive(
        "etc",
        {"name": "etc/hello", "data": b"hello\n", "uid": 5},
        {"name": "etc/long", "data": LONG},
        {"name": "etc/empty"},
        link("etc/link", "hello"),
        {"name": "etc/hard", "type": tarfile.LNKTYPE, "linkname": "etc/hello"},
        {"name": "etc/zeros", "data": b"a" + bytes(5000) + b"b"},
        {"name": "etc/.wh.gone"},
    )


@pytest.fixture
def blob() -> Blob:
    peers.need_root()
    return made(_tar())


@pytest.fixture
def target(place: Path) -> Path:
    (place / "dir").mkdir()
    return place / "dir"


def _open(blob: Blob, **how: Any) -> pulling.ChunkedDiffer:
    source = how.pop("source", blob.source)
    options = {"pull_options": ON, "driver": "overlay", "staging": True, **how}
    return pulling.open_differ(source, blob.annotations, **options)


def _pull(blob: Blob, target: Path, **options: Any) -> StagedOutput:
    return _open(blob).apply(str(target), DifferOptions(**options))


def test_the_files_are_those_of_a_full_pull(blob: Blob, target: Path, place: Path) -> None:
    tar = _tar()
    output = _pull(blob, target)
    assert output.uncompressed_digest == str(Digest.of(tar.getvalue()))
    assert output.size == len(tar.getvalue())
    assert output.toc_digest == blob.places.toc_digest
    assert output.compressed_digest == ""
    assert output.root_mode is None
    assert output.data["zstd-chunked-manifest"] == blob.part(blob.places.toc)
    assert output.data["zstd-chunked-layer-data"] == b'{"format":0}'
    (place / "full").mkdir()
    with Unpacker(str(place / "full"), rules="tree") as unpacker:
        from orlop.stream.ingest import ingest

        record = io.BytesIO()
        facts = ingest(tar, unpacker, record)
        unpacker.finish()
    assert (output.uids, output.gids) == (facts.uids, facts.gids)
    assert output.tar_split is not None
    with output.tar_split as lines:
        assert lines.read() == record.getvalue()
    found, wanted = trees.listing(target), trees.listing(place / "full")
    for facts in (found["."], wanted["."]):  # it was made by the test
        del facts["mtime"], facts["atime"]
    assert found == wanted


def test_owners_whiteouts_and_modes_are_as_the_driver_wants_them(blob: Blob, target: Path) -> None:
    maps = IDMappings((IDMap(0, 1000, 100),), (IDMap(0, 2000, 100),))
    output = _pull(blob, target, mappings=maps, whiteouts="trusted.overlay.opaque")
    output.close()
    assert (target / "etc/empty").stat().st_uid == 1000
    assert (target / "etc/empty").stat().st_gid == 2000
    assert stat.S_ISCHR((target / "etc/gone").lstat().st_mode)


def test_a_root_that_is_named_is_reported(target: Path) -> None:
    peers.need_root()
    output = _pull(made(archive({"name": "/", "type": tarfile.DIRTYPE, "mode": 0o711})), target)
    output.close()
    assert output.root_mode == 0o711
    assert stat.S_IMODE(target.stat().st_mode) == 0o711


# --- not this way -----------------------------------------------------------------------------------------------


def test_a_store_that_does_not_want_it_says_so_in_the_peers_words(blob: Blob) -> None:
    for options in ({}, {"enable_partial_images": "false"}, {"enable_partial_images": "yes"}):
        with pytest.raises(PartialPullImpossible) as refused:
            _open(blob, pull_options=options)
        assert refused.value.peer == "partial images are disabled"
    with pytest.raises(PartialPullImpossible) as refused:
        _open(blob, driver="vfs", staging=False)
    assert refused.value.peer == "graph driver vfs does not support partial pull"
    _open(blob, pull_options={"enable_partial_images": "TRUE"})


@pytest.mark.parametrize(
    "spans",
    [
        {chunkedblob.TOC_POSITION: f"1000:10:{limits.TOC_MAX + 1}:1"},
        {chunkedblob.TOC_POSITION: f"1000:{limits.TOC_MAX + 1}:10:1"},
        {chunkedblob.TAR_SPLIT_POSITION: "0:0:0"},
    ],
)
def test_blobs_that_are_not_of_the_kind_can_be_pulled_whole(blob: Blob, spans: dict[str, str]) -> None:
    with pytest.raises(PartialPullImpossible):
        _open(changed(blob, **spans))


def test_so_can_blobs_without_a_table_or_without_a_digest_of_the_tar_split(blob: Blob) -> None:
    with pytest.raises(PartialPullImpossible):
        _open(Blob(blob.data, {}))
    with pytest.raises(PartialPullImpossible):
        _open(
            changed(blob, table=lambda t: {key: value for key, value in t.items() if key != "tarSplitDigest"})
        )


# --- lies --------------------------------------------------------------------------------------------------------


def _entry(name: str, /, **facts: Any) -> Callable[[Any], Any]:
    """Change one entry of the table; None takes the member away."""

    def change(table: Any) -> Any:
        for entry in table["entries"]:
            if entry["name"] == name:
                entry.update(facts)
                for key in [key for key, value in entry.items() if value is None]:
                    del entry[key]
        return table

    return change


def _drop(name: str) -> Callable[[Any], Any]:
    return lambda table: {**table, "entries": [e for e in table["entries"] if e["name"] != name]}


def _add(entry: dict[str, Any]) -> Callable[[Any], Any]:
    return lambda table: {**table, "entries": [entry, *table["entries"]]}


OTHER = "sha256:" + "b" * 64

LIES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another digest": (_entry("etc/hello", digest=OTHER), "content of .* is not what"),
    "another owner": (_entry("etc/hello", uid=0), "about the uid"),
    "another mode": (_entry("etc/hello", mode=0o4755), "about the mode"),
    "another size": (_entry("etc/hello", size=5), "5 bytes instead of 6"),
    "another time": (_entry("etc/hello", modtime="2020-01-01T00:00:00Z"), "about the mtime_ns"),
    "an attribute": (_entry("etc/hello", xattrs={"security.capability": "AQ=="}), "about the xattrs"),
    "a link elsewhere": (_entry("etc/link", linkName="/etc/shadow"), "about the linkname"),
    "another type": (_entry("etc/link", type="hardlink"), "about the type"),
    "an entry left out": (_drop("etc/hello"), "missing in TOC"),
    "a directory left out": (_drop("etc/"), "missing in TOC"),
    "an entry more": (_add({"type": "dir", "name": "more"}), "1 entries that the tar has not"),
    "another name": (_entry("etc/empty", name="etc/full"), "missing in TOC"),
    "a place with another content": (
        _entry("etc/hello", offset=1, endOffset=None),
        "damaged|something else|ends before",
    ),
}


def _nothing_but_ours_is_touched(target: Path) -> None:
    assert sorted(os.listdir(target.parent)) == ["dir"]


@pytest.mark.parametrize("lie", LIES)
def test_a_table_that_tells_of_another_layer_is_refused(blob: Blob, target: Path, lie: str) -> None:
    change, says = LIES[lie]
    with pytest.raises(Damaged, match=says):
        _pull(changed(blob, table=change), target)
    _nothing_but_ours_is_touched(target)


def _inline(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Content in the record itself: no file of the blob, and no digest, is asked for it."""
    found = []
    for line in lines:
        if line.get("name") == "etc/hello" and line["type"] == 1:
            found.append({"type": 1, "name": "etc/hello", "payload": None, "position": line["position"]})
            line = {"type": 2, "payload": "ZXZpbCEK", "position": line["position"]}
        found.append(line)
    return found


def test_content_that_the_record_brings_along_is_compared_as_well(blob: Blob, target: Path) -> None:
    with pytest.raises(BadTOC, match=r"content of .*hello"):
        _pull(changed(blob, lines=_inline), target)


def _checksum(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**line, "payload": "AAAAAAAAAAA="} if line.get("name") == "etc/hello" else line for line in lines
    ]


def _renamed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**line, "name": "etc/nothing"} if line.get("name") == "etc/hello" else line for line in lines]


def _swapped(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The record says that one file has the content of another of the blob."""
    return [{**line, "name": "etc/long"} if line.get("name") == "etc/hello" else line for line in lines]


def _cut(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return lines[:7]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_checksum, ContentChanged),
        (_renamed, BadTOC),
        (_swapped, StorageError),
        (_cut, BadTOC),
        (lambda lines: [*lines[:2], *lines], StorageError),
        (lambda lines: [{"type": 2, "payload": "*"}], StorageError),
        (lambda lines: [], BadTOC),
    ],
)
def test_a_record_that_tells_of_another_layer_is_refused(
    blob: Blob, target: Path, change: Callable[[Any], Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        _pull(changed(blob, lines=change), target)


def test_what_does_not_have_its_digest_is_not_unpacked(blob: Blob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not so much as decompressed: decoders are large."""
    places = blob.places
    assert places.tar_split is not None
    for span, what in ((places.toc, "table of contents"), (places.tar_split, "tar-split")):
        data = bytearray(blob.data)
        data[span.offset + 20] ^= 1
        with monkeypatch.context() as patch:
            if span is places.toc:
                patch.setattr(pulling.compression, "decompress", None)
            with pytest.raises(BadTOC, match=f"the {what} of the blob was to be"):
                _open(Blob(bytes(data), blob.annotations))


def test_damaged_content_is_noticed(blob: Blob, target: Path) -> None:
    first = next(entry for entry in blob.table["entries"] if entry["name"] == "etc/long")
    data = bytearray(blob.data)
    data[first["offset"] + 1000] ^= 1
    with pytest.raises(Damaged):
        _pull(Blob(bytes(data), blob.annotations), target)


@pytest.mark.parametrize(
    "spans",
    [
        {chunkedblob.TOC_POSITION: "5:10:10:1"},
        {chunkedblob.TOC_POSITION: "100000000:10:10:1"},
        {chunkedblob.TAR_SPLIT_POSITION: "100000000:10:10"},
        {chunkedblob.TAR_SPLIT_POSITION: "10:9000000:10"},
    ],
)
def test_places_outside_of_the_blob_or_upon_each_other_are_refused(blob: Blob, spans: dict[str, str]) -> None:
    with pytest.raises(BadTOC):
        _open(changed(blob, **spans))


def test_a_tar_split_may_lie_before_the_table_and_claims_of_sizes_are_only_claims(
    blob: Blob, target: Path
) -> None:
    """The peers believe what the sizes say; nobody else does."""
    places = blob.places
    assert places.tar_split is not None
    packed = blob.data[places.toc.offset :][: places.toc.length]
    split = blob.data[places.tar_split.offset :][: places.tar_split.length]
    content = blob.data[: places.toc.offset - 8]
    data = content + chunkedblob.skippable(split) + chunkedblob.skippable(packed)
    annotations = {
        **blob.annotations,
        chunkedblob.TAR_SPLIT_POSITION: f"{len(content) + 8}:{len(split)}:1",
        chunkedblob.TOC_POSITION: f"{len(content) + len(split) + 16}:{len(packed)}:7:1",
    }
    _pull(Blob(data, annotations), target).close()
    assert (target / "etc/hello").read_bytes() == b"hello\n"


def test_what_unpacks_without_end_is_stopped(
    blob: Blob, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TAR_SPLIT_LINES_MAX", 1000)
    with pytest.raises(LimitExceeded, match="tar-split"):
        _pull(blob, target)
    monkeypatch.setattr(limits, "TOC_MAX", 2000)
    packed = chunkedblobs.changed(blob, table=lambda t: {**t, "padding": " " * 100_000})
    small = {**packed.annotations}
    offset, length, _, kind = small[chunkedblob.TOC_POSITION].split(":")
    small[chunkedblob.TOC_POSITION] = f"{offset}:{length}:10:{kind}"
    with pytest.raises(LimitExceeded, match="table of contents"):
        _open(Blob(packed.data, small))


class Short(BlobFile):
    """A server that gives less than was asked for."""

    def __init__(self, fd: int, streams: int, share: float) -> None:
        super().__init__(fd)
        self._streams = streams
        self._share = share

    def ranges(self, wanted: Any) -> Iterator[Any]:
        cut = [(offset, int(length * self._share)) for offset, length in wanted]
        yield from list(super().ranges(cut))[: self._streams]


@pytest.mark.parametrize(("streams", "share"), [(1, 1), (0, 1), (2, 0.5)])
def test_a_source_that_gives_less_than_was_asked_for_is_an_error(
    blob: Blob, streams: int, share: float
) -> None:
    with pytest.raises(BadArchive) as short:
        _open(blob, source=Short(blob.source._fd, streams, share))
    assert short.value.peer == "not enough data returned from the server"


# --- names (those that lead out: `tests/attack/test_toc_attacks.py`) ---------------------------------------------


@pytest.mark.parametrize(
    ("names", "error"),
    [(("a", "./a"), DuplicatePath), (("a", "b/../a"), DuplicatePath), (("a", "a"), BadTOC)],
)
def test_two_entries_for_one_path_are_refused(
    target: Path, names: tuple[str, str], error: type[Exception]
) -> None:
    """Our own writer makes no such blob, so two of them are put together."""
    peers.need_root()
    one, other = (made(archive({"name": name})) for name in names)
    lines = one.lines[:2] + other.lines
    entries = [*one.table["entries"], *other.table["entries"]]
    with pytest.raises(error):
        _pull(changed(one, table=lambda t: {**t, "entries": entries}, lines=lambda _: lines), target)
