"""Images too deep for one page of mount options, and as deep as overlay goes (`spec/drivers.md` 4.6)."""

import io
import os
from functools import partial
from pathlib import Path

import pytest

import orlop
from orlop import errors
from orlop.system import mounts, overlayfs
from tarballs import Open, tar

DEEPEST = 500
STEP = 10

pytest_plugins = ("overlays",)

pytestmark = pytest.mark.parametrize("open_store", ["overlay"], indirect=True)


def blob(number: int) -> io.BytesIO:
    """A layer with a file of its own and one that all have; it takes away a file of one further below."""
    return tar(f"own/.wh.{number - STEP}", f"own/{number}", ("shared", b"%d" % number))


def chain(store: orlop.Store, depth: int) -> str:
    """Layers one upon the other, the top one's id. Only every tenth has content: the others are below as well."""
    parent = None
    for number in range(depth):
        if number % STEP == 0:
            parent = store.layers.put(blob(number), parent=parent).id
        else:
            parent = store.layers.create(parent=parent, writable=False).id
    assert parent is not None
    return parent


@pytest.mark.usefixtures("way")
def test_five_hundred_layers(store: orlop.Store, other: orlop.Store, place: Path) -> None:
    """Made, mounted, written to, listed, exported and deleted; one more layer is too many to be mounted."""
    top = chain(store, DEEPEST)
    image = store.images.create(layer=top, names=["deep"])
    box = store.containers.create(image="deep", names=["box"])
    with store.mounted("box") as root:
        assert os.listdir(root / "own") == ["490"]
        assert (root / "shared").read_text() == "490"
        (root / "own/490").write_text("changed below nine layers")
        (root / "shared").unlink()
        (root / "new").touch()
    listed = [str(change) for change in other.changes(box.layer)]
    assert listed == ["A /new", "C /own/490", "D /shared"]
    with other.diff(box.layer) as stream:
        exported = stream.read()
    records = [store.layers[top]]
    while records[-1].parent:
        records.append(store.layers[records[-1].parent])
    assert len(records) == DEEPEST
    for number in (0, 10, 250, 490):
        with store.diff(records[DEEPEST - 1 - number].id, compression=0) as stream:
            assert stream.read() == blob(number).getvalue()
    assert store.changes(top) == []
    store.containers.delete("box")
    deeper = store.layers.put(io.BytesIO(exported), parent=top)
    last = store.layers.create(parent=deeper.id)
    with pytest.raises(errors.LimitExceeded) as refused:
        other.mount(last.id)
    assert refused.value.peer == "max depth exceeded"
    assert other.mount_count(last.id) == 0
    with store.mounted(deeper.id) as root:
        assert (root / "own/490").read_text() == "changed below nine layers"
        assert not (root / "shared").exists()
    for layer in (last, deeper):
        store.layers.delete(layer.id)
    gone = store.images.delete(image.id)
    assert len(gone) == DEEPEST
    assert list(store.layers) == []
    assert os.listdir(place / "graph/overlay/l") == []


def test_many_layers_and_long_options(open_store: Open, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More text than one page takes, however it is put; and no handle of a layer stays open."""
    words = ",".join(["nodev", "index=off", *["redirect_dir=on"] * 120, "noatime", "xino=off"])
    store = orlop.open_store(
        place / "graph",
        place / "run",
        "overlay",
        driver_options=[f"overlay.mountopt={words}"],
        durability="none",
    )
    store.images.create(layer=chain(store, 130), names=["deep"])
    mount = overlayfs.mount
    for method in ("new", "old", None):
        with monkeypatch.context() as patch:
            patch.setattr(overlayfs, "mount", partial(mount, method=method))
            for options in ((), words.split(",")):
                box = store.containers.create(image="deep", mount_options=options)
                open_before = len(os.listdir("/proc/self/fd"))
                with store.mounted(box.id) as root:
                    assert len(os.listdir("/proc/self/fd")) == open_before
                    assert os.listdir(root / "own") == ["120"]
                    (root / "new").touch()
                    (shown,) = [m for m in mounts.mount_table() if m.point == str(root)]
                    assert {"nodev", "noatime"} <= set(shown.options.split(","))
                    assert "redirect_dir=on" in shown.super_options.split(",")
    store.shutdown()
