"""Hostile layers that come as zstd:chunked blobs, whose table of contents, record and digests are all of one mind.

(What is refused because they are not is in `tests/unit/test_pulling.py`.)
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

import chunkedblobs
import rawtar
from attacks import Attack
from orlop.chunked.pulling import open_differ
from orlop.errors import UnsafePath
from orlop.model.staging import DifferOptions
from orlop.stream.unpack import UnpackResult
from orlop.system import xattrs
from rawtar import member, pax

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Staged(Attack):
    """Unpacks by the table of contents."""

    def _unpacked(self, tar: bytes, options: dict[str, Any]) -> UnpackResult:
        blob = chunkedblobs.made(io.BytesIO(tar + rawtar.END))
        differ = open_differ(blob.source, blob.annotations, chunkedblobs.ON, "overlay", staging=True)
        wanted = DifferOptions(in_userns=self.in_userns, whiteouts=xattrs.OPAQUE_ROOTLESS)
        with_root = differ.apply(str(self.tree), wanted)
        with_root.close()
        return UnpackResult(with_root.size)


@pytest.fixture(params=["fork", "user namespace"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def attack(place: Path, root: Path, way: str, canary: Path) -> Staged:
    return Staged(place, root, way)


def _link(name: bytes, text: bytes) -> bytes:
    return pax({b"linkpath": text}) + member(name, type=b"2")


def test_climbing_and_absolute_names_end_in_the_root(attack: Staged, canary: Path) -> None:
    names = [b"../v", b"../../../../w", b"/x", b"a/../../u", b"../outside/secret"]
    names.append(os.fsencode(canary).lstrip(b"/") + b"/secret")
    for outcome in attack.each(*[member(name, name) for name in names]):
        assert outcome.error is None, outcome.text
    assert outcome.path("v").read_bytes() == b"../v"
    assert outcome.path("outside/secret").read_bytes() == b"../outside/secret"


def test_files_through_symlinks_to_the_outside(attack: Staged, canary: Path) -> None:
    for target in (os.fsencode(canary), b"../outside", b"../" * 30 + os.fsencode(canary).lstrip(b"/")):
        for name in (b"l/secret", b"l/new/deep/file"):
            attack(_link(b"l", target) + member(name, b"evil")).refused(FileNotFoundError)


def test_hard_links_to_the_outside(attack: Staged, canary: Path) -> None:
    ways = (
        member(b"h", type=b"1", linkname=b"../outside/secret"),
        pax({b"linkpath": os.fsencode(canary) + b"/secret"}) + member(b"h", type=b"1"),
        _link(b"l", b"../outside") + member(b"h", type=b"1", linkname=b"l/secret"),
    )
    for archive in ways:
        attack(archive).refused(FileNotFoundError)


def test_the_root_stays_a_directory(attack: Staged) -> None:
    attack(member(b"/", type=b"2", linkname=b"outside")).refused(UnsafePath)
    attack(member(b".", b"evil")).refused(UnsafePath)


def test_whiteouts_without_a_name_are_refused(attack: Staged) -> None:
    for name in (b"a/.wh.", b".wh..", b"a/.wh..."):
        attack(member(name)).refused(UnsafePath)


def test_a_large_file_leaves_no_copy(attack: Staged) -> None:
    """It passes through a file without a name, in the directory."""
    outcome = attack(member(b"large", b"x" * 3_000_000))
    assert outcome.error is None, outcome.text
    assert outcome.names == ["large"]
