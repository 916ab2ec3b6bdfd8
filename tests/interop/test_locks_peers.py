"""The Go program waits while we hold its locks, we wait while it does, and our tokens make it load again
(`spec/locking.md` 4.3, 5, 11)."""

import io
import json
import os
import re
import struct
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

import peers
from orlop.errors import LockTimeout
from orlop.system import files
from orlop.system.locks import LockFile

SOON = 20.0


def lock_of(theirs: peers.Program, name: str) -> LockFile:
    """A lock of their store by the name of its table; `storage` for that of the whole store."""
    table = "" if name == "storage" else f"vfs-{name}"
    file = "mountpoints" if name == "mountpoints" else name
    root = theirs.run / "vfs-layers" if name == "mountpoints" else theirs.graph / table
    return LockFile.at(str(root / f"{file}.lock"))


def waits_for(process: subprocess.Popen[bytes], path: str) -> bool:
    """Whether the kernel says that `process` waits for a lock of the file."""
    inode = os.stat(path).st_ino
    blocked = re.compile(rf"-> \S+ +\S+ +(?:READ|WRITE) +{process.pid} \S+:{inode} ")
    return bool(blocked.search(Path("/proc/locks").read_text()))


def until_it_waits(process: subprocess.Popen[bytes], lock: LockFile) -> None:
    deadline = time.monotonic() + SOON
    while not waits_for(process, lock.path):
        assert process.poll() is None, "it went on as if nothing was locked"
        assert time.monotonic() < deadline, "it neither ends nor waits"
        time.sleep(0.01)


@pytest.fixture
def filled(theirs: peers.Program) -> peers.Program:
    """Their store with a layer, an image and a container."""
    layer = theirs.line("create-layer", "--id", "a" * 64)
    theirs("create-image", "--id", "b" * 64, "--name", "first", layer)
    theirs("create-container", "--id", "c" * 64, "b" * 64)
    return theirs


# Opening loads under the exclusive lock, so even a list waits for readers; mount points alone are only read.
@pytest.mark.parametrize(
    ("table", "mode"),
    [(table, mode) for table in ("storage", "layers", "images", "containers") for mode in ("r", "w")]
    + [("mountpoints", "w")],
)
def test_it_waits_while_we_hold_a_lock_and_goes_on_afterwards(
    filled: peers.Program, table: str, mode: str
) -> None:
    lock = lock_of(filled, table)
    lock.acquire(mode)  # type: ignore[arg-type]
    with filled.start("layers", stdout=subprocess.PIPE) as process:
        try:
            until_it_waits(process, lock)
        finally:
            lock.release()
        out, _ = process.communicate(timeout=SOON)
    assert process.returncode == 0
    assert b"a" * 64 in out


def test_it_does_not_wait_for_a_reader_of_the_mount_points(filled: peers.Program) -> None:
    with lock_of(filled, "mountpoints").reading():
        assert "a" * 64 in filled("layers", timeout=SOON).text


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    return out.getvalue()


def until_it_imports(theirs: peers.Program) -> None:
    """Wait until the layer that is coming in is recorded: from then on it holds the lock until the layer is there."""
    path = theirs.graph / "vfs-layers" / "layers.json"
    deadline = time.monotonic() + SOON
    while not any("incomplete" in layer.get("flags", {}) for layer in json.loads(path.read_bytes())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_we_wait_while_it_holds_a_lock_and_are_told_who_it_is(filled: peers.Program) -> None:
    lock = lock_of(filled, "layers")
    with lock.writing():
        before = lock.token()
    with filled.start("import-layer", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        until_it_imports(filled)
        try:
            for mode in ("r", "w"):
                with pytest.raises(LockTimeout, match=f"process {process.pid} has it"):
                    lock.acquire(mode, timeout=0.1)  # type: ignore[arg-type]
            assert not lock.try_writing()
        finally:
            process.communicate(archive(), timeout=SOON)
    assert process.returncode == 0
    with lock.reading(timeout=SOON):
        after = lock.token()
    assert after != before
    # Its token, read with our eyes: what both of us write has one form.
    moment, count, pid = struct.unpack_from("<QQI", after)
    assert len(after) == 64
    assert abs(moment - time.time_ns()) < 3600 * 10**9
    assert count > 0
    assert pid == process.pid


def test_a_killed_holder_of_theirs_leaves_the_lock_to_us(filled: peers.Program) -> None:
    lock = lock_of(filled, "layers")
    with filled.start("import-layer", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        until_it_imports(filled)
        busy = not lock.try_writing()
        process.kill()
        process.wait()
    assert busy
    with lock.writing(timeout=SOON):
        pass


@pytest.mark.parametrize("renew", [True, False])
def test_our_token_makes_it_load_again_what_it_has_loaded_already(filled: peers.Program, renew: bool) -> None:
    """It looks up a container (layers, images, containers), then names it (layers, images, containers). In between
    an image of the same id appears: that gets the name if the images were loaded again, and the container if not.

    Without a new token they are not; so it is the token that tells it, neither the file nor its time.
    """
    layers, images, containers, mounts = (
        lock_of(filled, name) for name in ("layers", "images", "containers", "mountpoints")
    )
    path = filled.graph / "vfs-images" / "images.json"
    box = "c" * 64
    layers.acquire("w")
    with filled.start("add-names", "--name", "extra", box, stdout=subprocess.DEVNULL) as process:
        try:
            until_it_waits(process, layers)  # it has opened the store by now, which needed the container lock
            containers.acquire("w")
        finally:
            layers.release()
        try:
            until_it_waits(process, containers)  # it has been through the layers and images
            mounts.acquire("w")
        finally:
            containers.release()
        try:
            until_it_waits(process, mounts)  # it is at the layers again; the images come next
            with images.writing(timeout=SOON):
                records = json.loads(path.read_bytes())
                records.append(records[0] | {"id": box, "names": []})
                if renew:
                    images.renew()
                files.write_atomic(str(path), json.dumps(records).encode(), durable=False)
        finally:
            mounts.release()
        assert process.wait(SOON) == 0
    (image,) = (record for record in json.loads(path.read_bytes()) if record["id"] == box)
    (container,) = json.loads((filled.graph / "vfs-containers" / "containers.json").read_bytes())
    named = [kind for kind, record in (("image", image), ("container", container)) if record.get("names")]
    assert named == ["image" if renew else "container"]
