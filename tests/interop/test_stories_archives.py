"""Stories of archives: whole ones in every compression; and broken ones, after which a store is what it was."""

import bz2
import gzip
import lzma
import random
import subprocess
from collections.abc import Callable

import pytest
import stories
from stories import Story

import peers
from tarballs import tar

pytestmark = stories.told("vfs", "overlay, in turns", rest=pytest.mark.deep)


def _zstd(data: bytes) -> bytes:
    return subprocess.run([peers.program("zstd"), "-qc"], input=data, capture_output=True, check=True).stdout


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": _zstd,
}
_NOISE = random.Random(5).randbytes(60_000)  # does not compress: a cut or a flip is in the middle of data
_TAR = tar("srv/", ("srv/noise", _NOISE), ("srv/text", b"some text\n" * 99), "last").getvalue()
_BASE = tar("srv/", ("srv/text", b"first\n"), "srv/old").getvalue()
_CHANGE = tar("srv/", ("srv/noise", b"none"), ("srv/text", b"another\n"), "srv/.wh.old", "last").getvalue()
"""Names all that a broken one may have left in a layer."""

_ALL = (
    "find graph -type f ! -name '*.lock' ! -path '*/tmp/*' | sort | xargs sha256sum; "
    "find graph -type d ! -name tmp | sort"
)
"""What there is of a store, locks left out."""


def _flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 0x10]) + blob[at + 1 :]


def broken(kind: str) -> list[bytes]:
    """Nothing of this is an archive to the end."""
    pack = KINDS[kind]
    whole = pack(_TAR)
    plain = kind == "none"  # which has no check but that of headers, and in which anything may follow the end
    return [
        whole[: len(whole) // 2],
        whole[:60_900] if plain else whole[:-3],
        whole[:4],
        _flipped(whole, 600 if plain else len(whole) // 2),
        whole[:512] + _NOISE[:512] if plain else whole + b"something else",
        pack(_TAR[:30_000]),
        pack(_NOISE[:4096]),
    ]


@pytest.fixture
def store(story: Story) -> Story:
    (story.work / "good.tar").write_bytes(_TAR)
    (story.work / "base.tar").write_bytes(_BASE)
    story("""
        store import-layer -i base -f $work/base.tar
        store create-layer -i top base
        store create-image -i app base
        store create-container -i box app
    """)
    return story


@pytest.mark.parametrize("kind", KINDS)
def test_an_import_that_is_broken_leaves_the_store_as_it_was(store: Story, kind: str) -> None:
    store(f"mkdir -p seen; {{ {_ALL}; }} >seen/before")
    for number, blob in enumerate(broken(kind)):
        (store.work / f"broken{number}").write_bytes(blob)
        store(f"! store import-layer -i new -n fresh -f $work/broken{number} base 2>/dev/null")
        store(f"! store applydiff -f $work/broken{number} nothing")
    store(f"""
        {{ {_ALL}; }} >seen/after; cmp seen/before seen/after
        store layers
        inside base
        ! store layer new fresh
        store import-layer -i new -n fresh -f $work/good.tar base
        inside new
    """)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_can_be_filled_after_a_diff_that_was_broken(store: Story, kind: str) -> None:
    (store.work / "change").write_bytes(KINDS[kind](_CHANGE))
    for number, blob in enumerate(broken(kind)):
        (store.work / f"broken{number}").write_bytes(blob)
        store(f"! store applydiff -f $work/broken{number} top 2>/dev/null")
    store("""
        inside base
        store layers
        store layer --json top
        ! store diff -u nothing
        store applydiff -f $work/change top
        inside top
        store layer --json top
        store diff -u top | sha256sum
        changes top
    """)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_the_same_layer_in_any_compression(store: Story, kind: str) -> None:
    pack = KINDS[kind]
    (store.work / "good").write_bytes(pack(_TAR))
    (store.work / "pieces").write_bytes(pack(_TAR[:9_999]) + pack(_TAR[9_999:]))
    (store.work / "change").write_bytes(pack(_CHANGE))
    answer = store("""
        store import-layer -i new -f $work/good
        store import-layer -i newer base <$work/change
        store layer --json new newer
        store diff --uncompressed new | cmp - $work/good.tar
        store import-layer -i mended -f $work/pieces
        store diff --uncompressed mended | cmp - $work/good.tar
        store diff --gzip new | gzip -dc | cmp - $work/good.tar
        inside new
        inside newer
        store diffsize new
        store diffsize newer
        changes newer
    """)
    assert (
        answer.out == 'Add "/last"\nAdd "/srv/noise"\nDelete "/srv/old"\nModify "/srv"\nModify "/srv/text"\n'
    )
    if kind in ("bzip2", "xz"):
        store("! store diff new")
    else:
        program = {"none": "cat", "gzip": "gzip -dc", "zstd": "zstd -dqc"}[kind]
        store(f"store diff new | {program} | cmp - $work/good.tar")


def test_nothing_at_all_is_an_empty_layer(store: Story) -> None:
    store("""
        store import-layer -i new </dev/null
        store import-layer -i newer -f /dev/null base
        store layer --json new newer
        store applydiff -f /dev/null top
        store layer --json top
        inside newer
        changes newer
        store diff -u newer | wc -c
        store diff -u top | wc -c
        store diffsize newer
        ! store import-layer -i none -f $work/nothing
        ! store applydiff -f $work/nothing top
        ! store layer none
    """)
