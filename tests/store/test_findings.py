"""What newcomers and attackers found: wrong calls that ended in strange sentences, stores that somebody prepared."""

import errno
import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import orlop
from interface import Disk
from orlop.errors import CompressionNotSupported, ConfigError, LayerUnknown, LimitExceeded, UnsafePath
from orlop.system.descent import Descent
from rawtar import sparse_10
from tarballs import Open, tar

# --- wrong calls --------------------------------------------------------------------------------------------


def test_one_text_is_no_list_of_names(store: orlop.Store) -> None:
    """A layer called `abc` was called `a`, `b` and `c`."""
    for make in (store.layers.create, store.images.create, store.containers.create):
        with pytest.raises(TypeError, match="single text 'abc'"):
            make(names="abc")
    with pytest.raises(TypeError, match="single text 'abc'"):
        store.layers.put(tar("x"), names="abc")
    assert not len(store.layers)


@pytest.mark.parametrize("given", ["rootfs.tar.gz", Path("rootfs.tar.gz"), b"bytes", None])
def test_a_blob_is_an_open_file_and_not_its_name(store: orlop.Store, given: object) -> None:
    with pytest.raises(TypeError, match=f"file opened for reading; found {type(given).__name__}"):
        store.layers.put(given)  # type: ignore[arg-type]
    assert not len(store.layers)


@pytest.mark.parametrize("given", ["text", 3, None])
def test_a_data_item_is_bytes(store: orlop.Store, given: object) -> None:
    layer = store.layers.create()
    image = store.images.create()
    for data in (store.layers.data(layer.id), store.images.data(image.id)):
        with pytest.raises(TypeError, match=f"'key': wanted bytes.*; found {type(given).__name__}"):
            data["key"] = given  # type: ignore[assignment]
        assert list(data) == []
        data.put("key", bytearray(b"abc"))
        assert data["key"] == b"abc"


def test_a_root_that_is_empty_is_not_the_root_of_the_system(place: Path) -> None:
    """`open_store(os.environ.get("ROOT", ""))` and then `wipe` would be the end of podman's store."""
    for name in ("graph_root", "run_root", "image_store"):
        roots = {"graph_root": str(place / "g"), "run_root": str(place / "r"), name: ""}
        with pytest.raises(ConfigError, match=f"{name}: wanted a path"):
            orlop.open_store(**roots, driver="vfs")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="single text"):
        orlop.open_store(place / "g", place / "r", "vfs", driver_options="vfs.x=y")
    assert list(place.iterdir()) == []


def test_an_image_without_layers_says_that_it_has_none(store: orlop.Store) -> None:
    image = store.images.create(names=["empty"])
    with pytest.raises(LayerUnknown, match=f"image {image.id} has no layer"):
        store.mount_image("empty")


@pytest.mark.parametrize("kind", [1, 3, 5, 99, -1, 2**40])
def test_a_compression_that_nobody_knows_is_not_supported(store: orlop.Store, disk: Disk, kind: int) -> None:
    """Whether the caller names it or the record does, which any program may have written."""
    layer = store.layers.put(tar("x"))
    with pytest.raises(CompressionNotSupported):
        store.diff(layer.id, compression=kind)
    path = disk.path("layers", "layers.json")
    before = path.read_bytes()
    records = json.loads(before)
    records[0]["compression"] = kind
    path.write_text(json.dumps(records))
    with pytest.raises(CompressionNotSupported):
        store.diff(layer.id)
    store.diff(layer.id, compression=0).close()
    path.write_bytes(before)


# --- data items, and callers' own files ---------------------------------------------------------------------


@pytest.fixture
def impatience() -> Iterator[None]:
    """A test that waits for ever fails."""

    def fail(*_: object) -> None:
        pytest.fail("it waits")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.fixture
def foreign(place: Path, disk: Disk) -> Path:
    """The data of an image in an additional store; the image is `f` sixty-four times, its item `manifest`."""
    with orlop.open_store(place / "foreign", place / "foreign-run", disk.driver, durability="none") as store:
        store.images.create(id="f" * 64, names=["foreign"], data={"manifest": b"{}"})
        store.shutdown()
    return place / f"foreign/{disk.driver}-images" / ("f" * 64)


def _beside(foreign: Path, place: Path, driver: str) -> orlop.Store:
    options = [f"{driver}.imagestore={place / 'foreign'}"]
    return orlop.open_store(place / "graph", place / "run", driver, driver_options=options, durability="none")


def _link(item: Path, outside: Path) -> None:
    item.unlink()
    item.symlink_to(outside / "manifest")


def _linked_directory(item: Path, outside: Path) -> None:
    item.unlink()
    item.parent.rmdir()
    item.parent.symlink_to(outside)


def _fifo(item: Path, outside: Path) -> None:
    item.unlink()
    os.mkfifo(item)


def _directory(item: Path, outside: Path) -> None:
    item.unlink()
    item.mkdir()


def _endless(item: Path, outside: Path) -> None:
    os.truncate(item, 1 << 40)


@pytest.mark.parametrize("attack", [_link, _linked_directory, _fifo, _directory, _endless])
@pytest.mark.usefixtures("impatience")
def test_data_of_a_foreign_image_is_a_file_beside_its_record(
    open_store: Open, foreign: Path, place: Path, disk: Disk, attack: object
) -> None:
    """Else its maker has root read, or copy, files of the host, and wait before a FIFO."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "manifest").write_text("secret")
    attack(foreign / "manifest", outside)  # type: ignore[operator]
    refused = (UnsafePath, LimitExceeded, KeyError)
    with _beside(foreign, place, disk.driver) as store:
        data = store.images.data("foreign")
        with pytest.raises(refused):
            data["manifest"]
        assert data.size("manifest") == 2
        with pytest.raises(refused):
            store.images.add_names("foreign", ["mine"])
        with pytest.raises(refused):
            store.images.create(id="f" * 64, names=["mine"])
        assert "mine" not in store.images
        assert not disk.path("images", "f" * 64).exists()
        assert [item for item in store.check().findings if item.id == "f" * 64]


def test_a_file_that_a_container_lets_grow_is_not_read_without_end(store: orlop.Store) -> None:
    """`hosts` and its like lie in this directory, and are bound into the container."""
    box = store.containers.create(names=["box"])
    store.containers.write_file("box", "hosts", b"127.0.0.1")
    os.truncate(Path(store.containers.directory(box.id), "hosts"), 1 << 40)
    with pytest.raises(LimitExceeded, match="hosts"):
        store.containers.read_file("box", "hosts")


def test_a_directory_of_callers_that_is_a_link_is_not_used(store: orlop.Store, place: Path) -> None:
    store.images.create(names=["image"])
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret").write_text("canary")
    for run in (False, True):
        own = Path(store.images.run_directory("image") if run else store.images.directory("image"))
        own.rmdir()
        own.symlink_to(outside)
        with pytest.raises(UnsafePath, match="is a link"):
            store.images.write_file("image", "new", b"x", run=run)
        with pytest.raises(UnsafePath, match="is a link"):
            store.images.read_file("image", "secret", run=run)
        own.unlink()
    assert os.listdir(outside) == ["secret"]


@pytest.mark.usefixtures("impatience")
def test_a_hole_of_terabytes_is_checked_without_reading_it(store: orlop.Store, disk: Disk) -> None:
    """Two kilobytes of archive kept a check busy for hours."""
    size = 1 << 42
    archive = sparse_10(b"vast", [(5000, b"begin"), (size - 3, b"end")], size) + bytes(1024)
    layer = store.layers.put(io.BytesIO(archive))
    store.images.create(layer=layer.id)
    assert store.check().is_clean
    home = disk.place / "graph" / disk.driver
    path = home / "dir" / layer.id / "vast" if disk.driver == "vfs" else home / layer.id / "diff/vast"
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [finding.name for finding in store.check().findings if finding.grade == "damage"] == ["/vast"]
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert store.check().is_clean


def test_usage_names_what_it_may_not_read(
    store: orlop.Store, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said `etc`, of whatever store and layer."""
    layer = store.layers.put(tar("d/", "d/closed/", ("d/closed/file", b"x")))
    real = Descent.enter

    def enter(self: Descent, name: bytes) -> None:
        if name == b"closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        real(self, name)

    monkeypatch.setattr(Descent, "enter", enter)
    with pytest.raises(PermissionError) as refused:
        store.usage()
    assert refused.value.filename.startswith(str(disk.place / "graph" / disk.driver))
    assert refused.value.filename.endswith("/d/closed")
    assert layer.id in refused.value.filename


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("call", ["open", "scandir"])
def test_what_we_may_not_read_is_not_taken_for_damage(
    store: orlop.Store, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Outside of its user namespace a whole store looked damaged, and its repair would have removed all of it."""
    layer = store.layers.put(tar("d/", ("d/file", b"x")))
    store.images.create(layer=layer.id, data={"manifest": b"{}"})
    real = getattr(os, call)
    refused = []

    def fail(path: Any, *arguments: Any, **named: Any) -> Any:
        if call == "scandir" or os.fsencode(path).endswith(b"file"):
            refused.append(path)
            raise OSError(number, os.strerror(number), path)
        return real(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=os.strerror(number)):
            store.check()
    assert refused
    assert store.check().is_clean


# --- records that somebody prepared -------------------------------------------------------------------------


def test_a_store_with_twins_can_be_wiped(open_store: Open, disk: Disk) -> None:
    """Two images of one id: the first one takes the second along."""
    open_store().images.create(id="1" * 64, names=["one"])
    path = disk.path("images", "images.json")
    path.write_text(json.dumps(json.loads(path.read_bytes()) * 2))
    store = open_store()
    assert len(store.images) == 2
    store.wipe()
    assert json.loads(path.read_bytes()) == []
