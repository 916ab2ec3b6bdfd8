"""A layer that was put comes back bit for bit, whoever wrote its tar; and the peer makes the same of it."""

import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import writers

import invariants
from peers import Program

Pair = tuple[Program, Program]


def entries(program: Program, layer: str) -> list[tuple[Any, ...]]:
    """The tar-split of a layer: (name, size, checksum) and raw segments, adjacent segments joined.

    What follows the end of an archive is cut into segments by read sizes, which mean nothing; 1.43 adds an empty one.
    """
    path = program.graph / "vfs-layers" / f"{layer}.tar-split.gz"
    found: list[tuple[Any, ...]] = []
    for line in gzip.decompress(path.read_bytes()).splitlines():
        entry = json.loads(line)
        if entry["type"] == 2:
            data = base64.b64decode(entry["payload"] or "")
            if found and found[-1][0] == "raw":
                found[-1] = ("raw", found[-1][1] + data)
            elif data:
                found.append(("raw", data))
        else:
            found.append(
                ("file", entry.get("name"), entry.get("name_raw"), entry.get("size", 0), entry["payload"])
            )
    return found


@pytest.mark.parametrize("row", sorted(writers.EXACT))
def test_comes_back_bit_for_bit(row: str, ours: Program, theirs: Program, tmp_path: Path) -> None:
    """Also: the same digests, sizes, owners and tar-split entries as the peer records."""
    (tmp_path / "scratch").mkdir()
    tar = writers.EXACT[row](tmp_path, tmp_path / "scratch")
    mine = ours.line("import-layer", "-i", "layer", data=tar)
    peer = theirs.line("import-layer", "-i", "layer", data=tar)
    assert hashlib.sha256(ours("diff", "-u", mine).out).digest() == hashlib.sha256(tar).digest()
    left, right = ours.json("layer", mine)[0], theirs.json("layer", peer)[0]
    for facts in (left, right):
        del facts["created"]
    assert left == right
    assert entries(ours, mine) == entries(theirs, peer)
    invariants.hold(ours.graph, ours.run)


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_compressed_input_comes_back_uncompressed(
    kind: str, ours: Program, theirs: Program, tmp_path: Path
) -> None:
    """The tar inside counts; bzip2 and xz can be read and not written, as with the peer."""
    (tmp_path / "scratch").mkdir()
    tar = writers.PLAIN(tmp_path, tmp_path / "scratch")
    blob = writers.run(kind, "-c", data=tar)
    mine, peer = (p.line("import-layer", data=blob) for p in (ours, theirs))
    assert ours("diff", "-u", mine).out == tar
    left, right = ours.json("layer", mine)[0], theirs.json("layer", peer)[0]
    for key in ("compressed-diff-digest", "compressed-size", "diff-digest", "diff-size", "compression"):
        assert left[key] == right[key]
    again = ours("diff", mine, ok=False)
    if kind in ("gzip", "zstd"):
        assert writers.run(kind, "-d", "-c", data=again.out) == tar
    else:
        assert again.status == theirs("diff", peer, ok=False).status == 1
        assert b"unsupported compression format tar." in again.err


@pytest.mark.parametrize("row", sorted(writers.REFUSED))
def test_refused_as_the_peer_refuses_it(row: str, ours: Program, theirs: Program, tmp_path: Path) -> None:
    """The text is there that clients look for, and nothing of the layer stays."""
    (tmp_path / "scratch").mkdir()
    writer, text = writers.REFUSED[row]
    tar = writer(tmp_path, tmp_path / "scratch")
    for program in (ours, theirs):
        refused = program("import-layer", data=tar, ok=False)
        assert refused.status == 1
        assert text in (refused.out + refused.err).decode()
    assert ours.json("layers") is None
    invariants.hold(ours.graph, ours.run)


@pytest.mark.parametrize("row", sorted(writers.SPARSE))
def test_sparse_members_come_back_too(row: str, ours: Program, theirs: Program, tmp_path: Path) -> None:
    """The peer gives back a longer stream with another digest; ours keeps the bytes as they came."""
    (tmp_path / "scratch").mkdir()
    tar = writers.SPARSE[row](tmp_path, tmp_path / "scratch")
    mine = ours.line("import-layer", data=tar)
    assert ours("diff", "-u", mine).out == tar
    root = Path(ours("mount", mine).text.strip())
    data = (root / "holes").read_bytes()
    assert len(data) == 4 << 20
    assert data[1 << 20 : (1 << 20) + 6] == b"island"
    assert data.count(0) == len(data) - 6
    # And the peer, asked for our layer, gives back the same bytes.
    assert theirs.on(base=ours.base)("diff", "-u", mine).out == tar
