"""The main job: a blob in; entries, record and facts out."""

import bz2
import errno
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256

import pytest

from orlop.errors import BadArchive, DuplicatePath, LimitExceeded, StorageError, UnsafeOwner
from orlop.formats import crc64, limits, tarsplit
from orlop.stream.ingest import LayerFacts, ingest
from orlop.stream.pieces import PieceStream
from orlop.stream.reader import Entry
from orlop.stream.split import assemble
from rawtar import END, base256, expanded, header, member, pax, sparse_00, sparse_01, sparse_10, sparse_old

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: lambda data: bz2.compress(data, 1),
    2: lambda data: gzip.compress(data, 1),
    3: lambda data: lzma.compress(data, preset=0),
    4: zstd.compress,
}
TAR = (
    member(b"etc/", uid=5, gid=6)
    + member(b"etc/motd", b"ahoy\n", uid=1000, gid=1001)
    + header(b"etc/link", type=b"2", linkname=b"motd", uid=0, gid=0)
    + member(b"etc/.wh.gone", uid=77, gid=78)
    + member(b"big", os.urandom(1_500_000), uid=1000)
    + member(b".wh..wh..opq", uid=79)
    + END
    + b"more"
)


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert threading.active_count() == 1


def digest(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


class Files:
    """A sink that keeps everything, as an unpacker would on disk: sparse files with their holes, no file for a
    whiteout."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.payload: dict[bytes, bytearray] = {}
        self.threads: set[threading.Thread] = set()

    def entry(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.payload[entry.name] = bytearray()
        self.threads.add(threading.current_thread())

    def data(self, view: memoryview) -> None:
        self.payload[self.entries[-1].name] += view

    def content(self, name: bytes) -> bytes:
        (entry,) = (entry for entry in self.entries if entry.name == name)
        data = self.payload[name]
        if entry.sparse is None:
            return bytes(data)
        runs = []
        for offset, length in entry.sparse:
            runs.append((offset, bytes(data[:length])))
            del data[:length]
        assert not data
        return expanded(runs, entry.real_size)

    def open(self, name: bytes) -> int:
        base = name.rpartition(b"/")[2]
        if base.startswith(b".wh."):
            raise FileNotFoundError(errno.ENOENT, "a whiteout has no file", name)
        fd = os.memfd_create("file")
        os.write(fd, self.content(name))
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


def run(data: bytes, **known: object) -> tuple[LayerFacts, Files, bytes]:
    sink, out = Files(), io.BytesIO()
    facts = ingest(io.BytesIO(data), sink, out, **known)  # type: ignore[arg-type]
    return facts, sink, out.getvalue()


def again(sink: Files, record: bytes) -> bytes:
    with PieceStream(assemble(io.BytesIO(record), sink.open)) as stream:
        return stream.read()


def lines(record: bytes) -> list[bytes]:
    return gzip.decompress(record).splitlines(keepends=True)


@pytest.mark.parametrize("kind", PACK)
def test_the_facts_of_a_layer(kind: int) -> None:
    blob = PACK[kind](TAR)
    facts, sink, record = run(blob)
    assert (facts.compressed_digest, facts.compressed_size) == (digest(blob), len(blob))
    assert (facts.diff_digest, facts.diff_size) == (digest(TAR), len(TAR))
    assert facts.compression == kind
    assert (facts.uids, facts.gids) == ((0, 5, 1000), (0, 6, 1001)), "sorted, whiteouts left out"
    assert facts.payload_total == 1_500_005
    assert [entry.name for entry in sink.entries][:3] == [b"etc/", b"etc/motd", b"etc/link"]
    assert sink.content(b"etc/motd") == b"ahoy\n"
    assert again(sink, record) == TAR
    assert facts == run(blob)[0]


def test_an_empty_blob_is_an_empty_layer() -> None:
    facts, sink, record = run(b"")
    assert (facts.diff_digest, facts.diff_size, facts.compression) == (digest(b""), 0, 0)
    assert (facts.uids, facts.gids, facts.payload_total) == ((), (), 0)
    assert sink.entries == []
    assert lines(record) == []


def test_a_sink_is_not_needed() -> None:
    out = io.BytesIO()
    assert ingest(io.BytesIO(TAR), None, out).diff_digest == digest(TAR)
    assert out.getvalue() == run(TAR)[2]


A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.mark.parametrize("kind", [0, 2])
@pytest.mark.parametrize(
    ("known", "compressed", "diff", "size"),
    [
        ({}, None, None, None),
        ({"original_digest": A}, A, None, None),
        ({"original_digest": A, "original_size": 5}, A, None, 5),
        ({"original_size": 5}, None, None, None),
        ({"trusted_diff_digest": B}, None, B, None),
        ({"original_digest": A, "original_size": 5, "trusted_diff_digest": B}, A, B, 5),
        ({"original_digest": "sha512:" + "a" * 128, "original_size": 5}, None, None, None),
        ({"trusted_diff_digest": "sha512:" + "a" * 128}, None, None, None),
        ({"original_digest": "", "trusted_diff_digest": ""}, None, None, None),
    ],
)
def test_what_the_caller_knows_is_taken_over(
    kind: int, known: dict[str, object], compressed: str | None, diff: str | None, size: int | None
) -> None:
    """A published digest is not taken for the diff digest, even of a blob that comes uncompressed: the caller may
    have decompressed it on the way."""
    blob = PACK[kind](TAR)
    facts, _, _ = run(blob, **known)
    assert facts.compressed_digest == (compressed or digest(blob))
    assert facts.diff_digest == (diff or digest(TAR))
    assert facts.compressed_size == (len(blob) if size is None else size)
    assert facts.diff_size == len(TAR)


# --- records that the peers write otherwise -----------------------------------------------------------------

RUNS = [(0, b"a" * 512), (4096, b"b" * 1000), (9000, b"c" * 3)]
NEXT = member(b"next", b"x") + END

UNUSUAL = {
    "sparse 0.0": sparse_00(b"s", RUNS, 10_000),
    "sparse 0.1": sparse_01(b"s", RUNS, 10_000),
    "sparse 1.0": sparse_10(b"s", RUNS, 10_000),
    "old sparse": sparse_old(b"s", RUNS, 10_000),
    "a large sparse file": sparse_10(b"s", [(5, b"x" * 2_500_000)], 2**40),
    "a hole": sparse_10(b"s", [], 10_000),
    "a whiteout with a payload": member(b"d/.wh.s", b"payload" * 200),
    "an opaque mark with a payload": member(b"d/.wh..wh..opq", b"payload"),
    "the link store of AUFS": member(b".wh..wh.plnk/5.6", b"payload"),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_payload_that_no_file_gives_back_stands_in_the_record(case: str) -> None:
    """The peers' record of these yields another stream than the one that was applied, or none."""
    data = UNUSUAL[case] + NEXT
    facts, sink, record = run(data)
    assert again(sink, record) == data
    assert facts.diff_size == len(data)
    assert b'"payload":null' in lines(record)[1], "a reader must not look for the file"
    assert facts.payload_total == sink.entries[0].real_size + 1
    segments = [item for item in items(record) if isinstance(item, bytes)]
    assert max(map(len, segments)) <= limits.TRAILING_SEGMENT_MAX


def items(record: bytes) -> list[bytes | tarsplit.SplitFile]:
    return [item for batch in tarsplit.parse([gzip.decompress(record)]) for item in batch]


def test_a_name_that_only_contains_the_mark_is_a_file() -> None:
    data = member(b"x.wh.", b"payload") + NEXT
    _, sink, record = run(data)
    assert b'"size":7' in lines(record)[1]
    assert again(sink, record) == data


@pytest.mark.parametrize("case", UNUSUAL)
def test_past_the_limit_the_record_is_that_of_the_peers(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksum is over the file with its holes, however large they are."""
    monkeypatch.setattr(limits, "RECORDED_PAYLOAD_MAX", -1)
    _, sink, record = run(UNUSUAL[case] + NEXT)
    name, real_size = sink.entries[0].name, sink.entries[0].real_size
    if real_size > 1 << 30:
        crc = crc64.update_zeros(5, 0)
        crc = crc64.update_zeros(real_size - 5 - 2_500_000, crc64.best()(b"x" * 2_500_000, crc))
    else:
        crc = crc64.best()(sink.content(name), 0)
    assert lines(record)[1] == tarsplit.file_line(name, real_size, crc, 1)


def test_the_limit_is_for_all_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RECORDED_PAYLOAD_MAX", 3000)
    data = (
        sparse_01(b"a", RUNS, 10_000) + sparse_01(b"b", RUNS, 10_000) + sparse_01(b"c", [(7, b"x")], 9) + END
    )
    _, _, record = run(data)
    sizes = {item.name: item.size for item in items(record) if isinstance(item, tarsplit.SplitFile)}
    assert sizes == {b"a": 0, b"b": 10_000, b"c": 0}


HEADER_ONLY = {
    "a hard link with a size": header(b"s", 700, type=b"1", linkname=b"next"),
    "a directory with a size": header(b"s/", 700, type=b"5"),
    "a directory with a negative size": header(b"s/", base256(-1, 12), type=b"5"),
}


@pytest.mark.parametrize("case", HEADER_ONLY)
def test_what_has_no_payload_has_size_0_in_the_record(case: str) -> None:
    """The peers write the header's size and the checksum of nothing, and cannot give the layer back."""
    data = HEADER_ONLY[case] + NEXT
    facts, sink, record = run(data)
    assert again(sink, record) == data
    assert b'"size"' not in lines(record)[1]
    assert facts.payload_total == 1


@pytest.mark.parametrize("stop", [517, 518, 617, 1023])
def test_padding_that_is_cut_off_is_recorded(stop: int) -> None:
    data = member(b"f", b"12345")[:stop]
    _, sink, record = run(data)
    assert again(sink, record) == data


# --- errors -------------------------------------------------------------------------------------------------

BAD: dict[str, tuple[bytes, type[StorageError]]] = {
    "cut off": (TAR[:5000], BadArchive),
    "no tar": (b"hello" * 500, BadArchive),
    "a second entry of one name": (member(b"a") + member(b"./a", b"x") + END, DuplicatePath),
    "two global headers": (pax({b"comment": b"x"}, type=b"g") * 2 + END, DuplicatePath),
    "an owner that would wrap": (header(b"f", uid=base256(2**40, 8)) + END, UnsafeOwner),
    "too long a name": (header(b"L", limits.META_DATA_MAX + 1, type=b"L") + END, LimitExceeded),
}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("case", BAD)
def test_a_bad_layer_is_refused_in_any_compression(case: str, kind: int) -> None:
    data, error = BAD[case]
    with pytest.raises(error):
        run(PACK[kind](data))


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_good_tar_in_a_bad_wrapping_is_refused(kind: int) -> None:
    """The archive ends before the stream does: what is wrong behind it must still be found."""
    for blob in (PACK[kind](TAR)[:-3], PACK[kind](TAR) + b"junk, junk"):
        with pytest.raises(BadArchive):
            run(blob)


@pytest.mark.parametrize("case", ["a second entry of one name", "an owner that would wrap"])
def test_a_refused_entry_does_not_reach_the_sink(case: str) -> None:
    sink = Files()
    with pytest.raises(StorageError):
        ingest(io.BytesIO(BAD[case][0]), sink, io.BytesIO())
    assert len(sink.entries) == (1 if case == "a second entry of one name" else 0)


class Failing:
    """Fails at the n-th call."""

    def __init__(self, calls: int, error: BaseException) -> None:
        self.calls = calls
        self.error = error

    def __call__(self, *_: object) -> None:
        self.calls -= 1
        if self.calls < 0:
            raise self.error


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("calls", [0, 1, 5])
def test_an_error_of_the_sink_stops_everything(kind: int, error: BaseException, calls: int) -> None:
    class Sink(Files):
        fail = Failing(calls, error)

        def entry(self, entry: Entry) -> None:
            self.fail()

        def data(self, view: memoryview) -> None:
            self.fail()

    blob = PACK[kind](TAR[:-4] + bytes(8 << 20))
    with pytest.raises(type(error)):
        ingest(io.BytesIO(blob), Sink(), io.BytesIO())


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("good", [0, 1, 700_000, 1_200_000])
def test_an_error_of_the_blob_passes_through(kind: int, good: int) -> None:
    class Blob(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= good:
                raise ConnectionResetError("gone")
            return super().read(min(size or 0, 300_000))

    with pytest.raises(ConnectionResetError):
        ingest(Blob(PACK[kind](TAR)), None, io.BytesIO())


def test_an_error_of_the_record_is_raised() -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    many = b"".join(member(b"%d" % n, os.urandom(100)) for n in range(3000))
    for data in (TAR, many + END):
        with pytest.raises(OSError, match="No space"):
            ingest(io.BytesIO(data), None, Full())


@pytest.mark.parametrize("kind", PACK)
def test_blob_and_sink_are_touched_in_the_callers_thread_only(kind: int) -> None:
    threads = set()

    class Blob(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            threads.add(threading.current_thread())
            return super().read(size)

    sink = Files()
    ingest(Blob(PACK[kind](TAR)), sink, io.BytesIO())
    assert threads == sink.threads == {threading.current_thread()}


MEASURE = """
import sys
from orlop.stream.ingest import ingest
class Out:
    def write(self, data): pass
facts = ingest(open(sys.argv[1], "rb"), None, Out())
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize(
    "build",
    [
        lambda: gzip.compress(header(b"bomb", 200 << 20) + bytes(200 << 20) + END, 1),
        lambda: zstd.compress(header(b"bomb", 200 << 20) + bytes(200 << 20) + END),
        lambda: zstd.compress(member(b"f", b"x") + END + bytes(200 << 20)),
        lambda: b"".join(member(b"dir-%d/file-%d" % (n % 500, n), os.urandom(500)) for n in range(60_000)),
    ],
    ids=["gzip bomb", "zstd bomb", "zeros behind the end", "small files"],
)
def test_memory_stays_small(build: Callable[[], bytes], tmp_path: object) -> None:
    """CVE-2017-14992 kept padding in memory; whatever a layer holds, 64 MiB are enough."""
    path = f"{tmp_path}/blob"
    with open(path, "wb") as out:
        out.write(build())
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, path],
        capture_output=True,
        check=True,
        text=True,
        env={"PATH": "/usr/bin"},
    )
    assert int(result.stdout) < 64 * 1024
