"""A layer is put while somebody holds the lock that it needs: its blob is read on."""

import io
import os
import threading
import time
from pathlib import Path

import pytest

import orlop
from orlop.errors import LockTimeout
from tarballs import tar

MORE_THAN_A_PIPE = 3 << 20


def big() -> io.BytesIO:
    return tar(("file", os.urandom(MORE_THAN_A_PIPE)), "second")


def test_the_diff_of_a_thread_is_put_by_another_one(store: orlop.Store) -> None:
    """Through a pipe that holds less than the layer, while the stream holds the layers of this very store."""
    layer = store.layers.put(big())
    reading, writing = os.pipe()
    started = threading.Event()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe, store.diff(layer.id) as stream:
            started.set()
            stream.write_to(pipe.fileno())

    writer = threading.Thread(target=write)
    writer.start()
    assert started.wait(10)
    with open(reading, "rb", buffering=0) as pipe:
        copy = store.layers.put(pipe)
    writer.join()
    assert copy.diff_digest == layer.diff_digest
    with store.diff(layer.id) as first:
        expected = first.read()
    with store.diff(copy.id) as second:
        assert second.read() == expected


def test_the_first_bytes_of_a_pipe_are_waited_for_without_the_lock(store: orlop.Store) -> None:
    """Its writer may have to take it first, and never come to write anything."""
    layer = store.layers.put(big())
    reading, writing = os.pipe()
    made: list[orlop.Layer] = []

    def put() -> None:
        with open(reading, "rb", buffering=0) as pipe:
            made.append(store.layers.put(pipe))

    reader = threading.Thread(target=put)
    reader.start()
    time.sleep(0.3)  # it has all that it wants but the blob
    with open(writing, "wb", buffering=0) as pipe, store.diff(layer.id) as stream:
        stream.write_to(pipe.fileno())
    reader.join()
    assert made[0].diff_digest == layer.diff_digest


def test_progress_is_told_once_of_each_byte(store: orlop.Store, other: orlop.Store) -> None:
    """Also of those that were read before the lock was free."""
    from orlop.model.events import BlobRead

    data = big().getvalue()
    blob = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    held = other.diff(store.layers.put(tar("file")).id)
    sizes: list[int] = []

    def progress(event: object) -> None:
        if isinstance(event, BlobRead):
            sizes.append(event.size)
            if len(sizes) == 2:
                held.close()

    made = store.layers.put(blob, progress=progress)
    assert sizes == sorted(sizes)
    assert sizes[-1] == made.diff_size == len(data)


def test_a_file_of_a_disk_is_not_copied_while_its_layer_waits(
    store: orlop.Store, other: orlop.Store, place: Path
) -> None:
    """It waits for nobody, so reading it ahead would only take room."""
    layer = store.layers.put(tar("file"))
    path = place / "blob.tar"
    path.write_bytes(big().getvalue())
    made: list[orlop.Layer] = []

    with path.open("rb", buffering=0) as blob:
        waiting = threading.Thread(target=lambda: made.append(store.layers.put(blob)))
        with other.diff(layer.id):
            waiting.start()
            time.sleep(0.2)
            assert blob.tell() == 0
        waiting.join()
    assert made[0].diff_size == path.stat().st_size


def test_after_the_end_of_a_blob_the_time_to_wait_counts(place: Path) -> None:
    """It is not waited for ever because the blob was read ahead."""
    with orlop.open_store(place / "graph", place / "run", "vfs", durability="none") as owner:
        layer = owner.layers.put(tar("file"))
        with (
            orlop.open_store(
                place / "graph", place / "run", "vfs", durability="none", lock_timeout=0.2
            ) as impatient,
            owner.diff(layer.id),
            pytest.raises(LockTimeout),
        ):
            impatient.layers.put(big())
        assert [left.id for left in owner.layers] == [layer.id]
