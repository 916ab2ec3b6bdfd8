"""One program writes a layer into a pipe, another one puts it into the very same store (`spec/locking.md` 10.1).

Who writes holds the lock of the layers until all of it is written; who reads wants that lock.
"""

import io
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

import peers

AT_MOST = 60.0  # seconds: what waits for itself waits for ever
LOCKS = {"storage.lock", "userns.lock"}
MORE_THAN_A_PIPE = 5 << 20


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer that fits into no pipe."""
    path = tmp_path_factory.mktemp("blob") / "layer.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(5):
            info = tarfile.TarInfo(f"file{number}")
            info.size = MORE_THAN_A_PIPE // 5
            archive.addfile(info, io.BytesIO(os.urandom(info.size)))
    return path


def piped(
    writer: peers.Program, words: tuple[str, ...], reader: peers.Program, others: tuple[str, ...]
) -> str:
    """What `writer words | reader others` prints."""
    with (
        writer.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as first,
        reader.start(*others, stdin=first.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as second,
    ):
        assert first.stdout is not None
        first.stdout.close()  # the reader's now
        try:
            out, err = second.communicate(timeout=AT_MOST)
            _, trouble = first.communicate(timeout=AT_MOST)
        except subprocess.TimeoutExpired:
            pytest.fail("each waits for the other")
        finally:
            first.kill()
            second.kill()
    assert (first.returncode, second.returncode) == (0, 0), (trouble, err)
    return out.decode()


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("from_us", [True, False], ids=["from-us", "from-them"])
def test_a_layer_of_a_store_is_put_into_it_once_more(
    shared: tuple[peers.Program, peers.Program], blob: Path, driver: str, from_us: bool
) -> None:
    """`diff X | import-layer`: what is written is kept aside until the writer has let go of the store."""
    ours, theirs = (program.on(driver=driver) for program in shared)
    layer = ours.line("import-layer", "--file", str(blob))
    writer = ours if from_us else theirs
    copy = piped(writer, ("diff", layer), ours, ("import-layer", "--name", "copy")).split()[0]
    first, second = (theirs.json("layer", id)[0] for id in (layer, copy))
    assert first["diff-digest"] == second["diff-digest"]
    assert second["diff-size"] == blob.stat().st_size
    assert {path.name for path in ours.graph.iterdir() if path.is_file()} <= LOCKS, (
        "what was kept aside stays"
    )


def test_changes_of_one_layer_are_applied_to_another_one(
    shared: tuple[peers.Program, peers.Program], blob: Path
) -> None:
    """`diff X | applydiff Y`, likewise."""
    ours, _ = shared
    layer = ours.line("import-layer", "--file", str(blob))
    empty = ours.line("create-layer")
    piped(ours, ("diff", layer), ours, ("applydiff", empty))
    assert ours("diffsize", empty).text.split() == ours("diffsize", layer).text.split()


def test_who_reads_may_come_first(shared: tuple[peers.Program, peers.Program], blob: Path) -> None:
    """It has not locked the layers, which the writer needs, when it waits for the first byte."""
    ours, theirs = shared
    layer = ours.line("import-layer", "--file", str(blob))
    reading, writing = os.pipe()
    with ours.start("import-layer", stdin=reading, stdout=subprocess.PIPE) as reader:
        os.close(reading)
        time.sleep(1)
        with theirs.start("diff", layer, stdout=writing) as writer:
            os.close(writing)
            try:
                copy = reader.communicate(timeout=AT_MOST)[0].decode().strip()
                assert (writer.wait(AT_MOST), reader.returncode) == (0, 0)
            finally:
                reader.kill()
                writer.kill()
    first, second = (ours.json("layer", id)[0] for id in (layer, copy))
    assert first["diff-digest"] == second["diff-digest"]
