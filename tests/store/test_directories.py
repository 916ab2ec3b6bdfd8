"""Directories for callers' files, and locks by digest: what users of a store share beside its records."""

import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orlop
from orlop import errors

DIGEST = "sha256:" + "a" * 64


@pytest.fixture(params=["image", "container"])
def thing(request: pytest.FixtureRequest, store: orlop.Store) -> tuple[Any, str]:
    """A collection with directories, and one of its records."""
    if request.param == "image":
        return store.images, store.images.create(names=["thing"]).id
    return store.containers, store.containers.create(names=["thing"]).id


@pytest.mark.parametrize("run", [False, True], ids=["graph", "run"])
def test_a_file_is_written_and_read_by_its_record(
    thing: tuple[Any, str], store: orlop.Store, other: orlop.Store, place: Path, run: bool
) -> None:
    collection, id = thing
    collection.write_file("thing", "a/b/config.json", b"first", run=run)
    collection.write_file(id, "./a//b/config.json", b"second", run=run)
    others = getattr(other, f"{collection.noun}s")
    assert others.read_file("thing", "a/b/config.json", run=run) == b"second"
    base = place / ("run" if run else "graph") / f"{store.driver_name}-{collection.noun}s" / id / "userdata"
    path = base / "a/b/config.json"
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((base / "a").stat().st_mode) == 0o700
    assert str(base) == (others.run_directory if run else others.directory)("thing")
    collection.delete(id)
    assert not base.exists()


@pytest.mark.parametrize("name", ["", ".", "/", "..", "../x", "a/../../x", "/etc/passwd", "a/.."])
def test_a_name_that_leads_out_of_the_directory_is_refused(thing: tuple[Any, str], name: str) -> None:
    collection, id = thing
    for call in (
        lambda: collection.write_file(id, name, b""),
        lambda: collection.read_file(id, name),
    ):
        with pytest.raises(errors.UnsafePath, match="below the directory"):
            call()


def test_links_that_the_caller_finds_there_do_not_lead_out(thing: tuple[Any, str], place: Path) -> None:
    """Whoever is inside a container may be able to put one there."""
    collection, id = thing
    canary = place / "canary"
    canary.mkdir()
    (canary / "secret").write_bytes(b"secret")
    base = Path(collection.directory(id))
    (base / "link").symlink_to(canary)
    (base / "file").symlink_to(canary / "secret")
    os.mkfifo(base / "fifo")
    for name in ("link/secret", "file"):
        with pytest.raises(FileNotFoundError):
            collection.read_file(id, name)
    with pytest.raises(errors.UnsafePath):
        collection.read_file(id, "fifo")
    with pytest.raises(OSError):
        collection.write_file(id, "link/new", b"x")
    collection.write_file(id, "file", b"own")  # the link itself is replaced, as by any atomic write
    assert not (base / "file").is_symlink()
    assert [(p.name, p.read_bytes()) for p in canary.iterdir()] == [("secret", b"secret")]


def test_files_of_unknown_records_are_an_error_and_make_no_directory(store: orlop.Store, place: Path) -> None:
    for collection, error in (
        (store.images, errors.ImageUnknown),
        (store.containers, errors.ContainerUnknown),
    ):
        for call in (
            lambda c=collection: c.directory("nobody"),
            lambda c=collection: c.run_directory("nobody"),
            lambda c=collection: c.write_file("nobody", "x", b""),
            lambda c=collection: c.read_file("nobody", "x"),
        ):
            with pytest.raises(error):
                call()
    assert not list(place.rglob("nobody"))


def _hold(open_store: Callable[[], orlop.Store], ready: Any, go: Any) -> None:
    with open_store() as store, store.digest_lock(DIGEST) as lock:
        ready.set()
        go.wait(20)
        lock.touch()


def test_a_digest_lock_excludes_other_programs(store: orlop.Store, open_store: Any, place: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ready, go = fork.Event(), fork.Event()
    holder = fork.Process(target=_hold, args=(open_store, ready, go))
    with store.digest_lock(DIGEST) as lock:
        assert lock.changed()  # the first look
        assert not lock.changed()
    holder.start()
    assert ready.wait(20)
    with pytest.raises(errors.LockTimeout), store.digest_lock(DIGEST, shared=True, timeout=0.1):
        pass
    with store.digest_lock("sha512:" + "b" * 128, timeout=0):
        pass  # another digest is another lock
    go.set()
    with lock:
        assert lock.changed()
        assert not lock.changed()
    holder.join(20)
    assert holder.exitcode == 0
    locks = place / "run" / f"{store.driver_name}-locks"
    assert sorted(os.listdir(locks)) == [DIGEST, "sha512:" + "b" * 128]


def test_readers_share_a_digest_lock_and_cannot_touch_it(store: orlop.Store, other: orlop.Store) -> None:
    with store.digest_lock(DIGEST, shared=True) as first, other.digest_lock(DIGEST, shared=True, timeout=5):
        with pytest.raises(RuntimeError):
            first.touch()
        # Said at once if this is the only thread; if not, another one could still release it.
        with pytest.raises(errors.LockTimeout), other.digest_lock(DIGEST, timeout=0.1):
            pass


@pytest.mark.parametrize("text", ["", "x", "sha256:../../x", "sha256:" + "A" * 64, "sha256:" + "a" * 63])
def test_a_digest_lock_is_named_by_a_digest_only(store: orlop.Store, text: str, place: Path) -> None:
    with pytest.raises(errors.InvalidDigest):
        store.digest_lock(text)
    assert not (place / "run" / f"{store.driver_name}-locks" / text / "x").exists()
