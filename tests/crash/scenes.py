"""The stores that the crash suites work on: the state before an operation, and what can be said of a store.

    scene = SCENES["split"]
    scene.build(base, "vfs")                       # everything lies below `base`, to be copied for each run
    with scene.opened(base, "vfs") as store: ...
    scene.facts(store, base)                       # equal for stores that hold the same

Small on purpose: a killed process costs as much as the operation takes. Every scene has the plain store in it:
layers base <- middle <- top with image app and container box on them; base <- low <- high with image spare; a lone
layer, and an image without layers. What lacks a name is in `ID`.
"""

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orlop
from orlop import IDMap, IDMappings
from orlop.system import subids

_CALLED = (
    *("base", "middle", "top", "low", "high", "lone", "box-layer", "app", "spare", "other", "box"),
    *("new", "new-layer", "after", "foreign", "foreign-layer", "shared", "accounts", "users"),
    *(
        "mapped",
        "mapped-image",
        "on-mapped",
        "garbage",
        "garbage-too",
        "directories",
        "sealed",
        "sealed-image",
    ),
    *("layer-one", "layer-two", "image-one", "image-two"),
)
ID = {called: f"{number:02x}" * 32 for number, called in enumerate(_CALLED, 0xA0)}
"""Ids as programs make them up: what is left of one without a record is garbage."""

CALLED = {id: called for called, id in ID.items()}

# With a gap: no driver leaves such maps to a mount.
GAPPED = IDMappings(*[(IDMap(0, 200_000, 10), IDMap(20, 300_000, 5))] * 2)

Facts = dict[str, Any]


def blob(*names: str, size: int = 3000, more: dict[str, bytes] | None = None) -> io.BytesIO:
    """A layer tar with a directory, files, a symlink and a hard link, and a whiteout unless it has that file."""
    out = io.BytesIO()
    contents = {name: (name * size).encode()[:size] for name in names} | (more or {})
    with tarfile.open(fileobj=out, mode="w") as tar:
        directory = tarfile.TarInfo("etc")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        for name, data in contents.items():
            info = tarfile.TarInfo(f"etc/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("etc/link")
        link.type, link.linkname, link.mode = tarfile.SYMTYPE, names[0], 0o777
        tar.addfile(link)
        hard = tarfile.TarInfo("etc/hard")
        hard.type, hard.linkname = tarfile.LNKTYPE, f"etc/{names[0]}"
        tar.addfile(hard)
        if "gone" not in names:
            tar.addfile(tarfile.TarInfo("etc/.wh.gone"))
    out.seek(0)
    return out


@dataclass(frozen=True)
class Scene:
    """`fill` makes the store, from the plain one on.

    image_store, additional     directories of such stores, below the scene's own
    littered    what nothing needs lies there from the start: the store is whole once that was collected
    damaged     things were lost and changed from the start: the store is whole once the operation has happened
    disk        the kind of file system that it has to lie on, "" for any
    """

    fill: Callable[["Scene", Path, str], None]
    image_store: str = ""
    additional: str = ""
    drivers: tuple[str, ...] = ("vfs", "overlay")
    littered: bool = False
    damaged: bool = False
    disk: str = ""

    def build(self, base: Path, driver: str) -> None:
        base.mkdir(parents=True, exist_ok=True)
        for kind in ("subuid", "subgid"):
            (base / kind).write_text("containers:200000:65536\n")
        self.fill(self, base, driver)

    @contextmanager
    def opened(self, base: Path, driver: str, **more: Any) -> Iterator[Any]:
        """The open store. Ids for automatic user namespaces are the scene's, not the machine's."""
        how: dict[str, Any] = {"lock_timeout": 30.0, **more}
        if self.image_store:
            how["image_store"] = base / self.image_store
        if self.additional:
            how["driver_options"] = (f"{driver}.imagestore={base / self.additional}",)
        machine = subids.FILES
        subids.FILES = {"uid": str(base / "subuid"), "gid": str(base / "subgid")}
        try:
            with orlop.open_store(base / "graph", base / "run", driver, **how) as store:
                yield store
        finally:
            subids.FILES = machine

    def facts(self, store: Any, base: Path, driver: str) -> Facts:
        """All that callers can tell apart: records without moments and made-up ids, data, callers' own files.

        Metadata is left out, and the layer that comes and goes: they are of the next write after a crash. Of two
        images of one id callers see the first, the copy in the image store.
        """
        held = store.snapshot()
        found: Facts = {}
        for kind in ("layer", "image", "container"):
            collection = getattr(store, f"{kind}s")
            told = [(_called(record.id), record) for record in getattr(held, f"{kind}s")]
            for number, (called, record) in enumerate(sorted(told, key=lambda each: each[0])):
                key = f"{kind} {called}" + (f" {number}" if called == "made up" else "")
                if key not in found and called != "after":
                    found[key] = _told(record, collection)
        for kind, records in (("images", held.images), ("containers", held.containers)):
            for id in {record.id for record in records}:
                for path in base.glob(f"*/{driver}-{kind}/{id}/userdata/**/*"):
                    if path.is_file():
                        found[f"file {path.relative_to(base)}"] = path.read_bytes()
        for path in (base / self.additional).rglob("*") if self.additional else ():
            if path.is_file() and not path.is_symlink():
                found[f"file {path.relative_to(base)}"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def _called(id: str) -> str:
    return CALLED.get(id, "made up")


def _told(record: Any, collection: Any) -> Facts:
    fields = ("names", "names_history", "diff_digest", "uids", "gids", "uid_map", "gid_map", "read_only")
    told: Facts = {field: getattr(record, field) for field in fields if hasattr(record, field)}
    for field in ("parent", "layer", "image"):
        told[field] = _called(getattr(record, field, None) or "")
    told["mapped"] = len(getattr(record, "mapped_layers", ()))
    told["flags"] = {key: value for key, value in record.flags.items() if not key.endswith("Label")}
    told["data"] = {
        key: hashlib.sha256(collection.data(record.id)[key]).hexdigest() for key in record.data_names
    }
    return told


# --- what lies in them --------------------------------------------------------------------------------------


def _plain(scene: Scene, base: Path, driver: str) -> None:
    with scene.opened(base, driver) as store:
        layers = store.layers
        layers.put(blob("a", "gone"), id=ID["base"], names=["base"])
        layers.put(blob("b"), id=ID["middle"], parent="base", names=["middle"])
        layers.put(blob("c"), id=ID["top"], parent="middle", names=["top"])
        layers.put(blob("d"), id=ID["low"], parent="base", names=["low"], data={"Cache": b"low"})
        layers.put(blob("e"), id=ID["high"], parent="low", names=["high"])
        layers.create(id=ID["lone"], names=["lone"])
        store.images.create(id=ID["app"], layer="top", names=["app"], data={"manifest": b"{}"})
        store.images.create(id=ID["spare"], layer="high", names=["spare"], data={"manifest": b"[]"})
        store.images.create(id=ID["other"], names=["other"])
        store.containers.create(
            id=ID["box"], image="app", layer=ID["box-layer"], names=["box"], data={"k": b"v"}
        )
        store.containers.write_file("box", "notes/first", b"old")
        store.images.write_file("spare", "note", b"of the image")
        store.images.write_file("spare", "passing", b"of the image", run=True)
        store.containers.write_file("box", "passing", b"old", run=True)


def _nothing(scene: Scene, base: Path, driver: str) -> None:
    """Not even directories: they are made by who opens the store first."""


def _additional(scene: Scene, base: Path, driver: str) -> None:
    with orlop.open_store(base / scene.additional, base / "additional-run", driver) as store:
        store.layers.put(blob("f"), id=ID["foreign-layer"])
        items = {"manifest": b'{"foreign":1}', "sha256:item": b"x" * 5000}
        store.images.create(
            id=ID["foreign"],
            layer=ID["foreign-layer"],
            names=["foreign", "alias"],
            names_history=["once"],
            data=items,
        )
        store.shutdown()
    _plain(scene, base, driver)
    with scene.opened(base, driver) as store:
        store.images.write_file("foreign", "note", b"about a foreign image")


def _split(scene: Scene, base: Path, driver: str) -> None:
    """Images from before there was an image store. Three were renamed since, and so have two records."""
    _plain(SCENES["plain"], base, driver)
    with SCENES["plain"].opened(base, driver) as store:
        store.images.create(id=ID["shared"], layer="base", names=["shared"], data={"manifest": b"shared"})
    with scene.opened(base, driver) as store:
        for name in ("spare", "shared", "other"):
            store.add_names(name, [f"{name}-again"])
        store.images.write_file("shared", "note", b"of the image")


def _maps(scene: Scene, base: Path, driver: str) -> None:
    """An image with users of its own, and one that has mapped copies of its top layer already."""
    _plain(scene, base, driver)
    accounts = {"passwd": b"root:x:0:0::/:\nmost:x:2000:3::/:\n", "group": b"root:x:0:\n"}
    with scene.opened(base, driver) as store:
        store.layers.put(blob("g", more=accounts), id=ID["accounts"], parent="base")
        store.images.create(id=ID["users"], layer=ID["accounts"], names=["users"])
        store.layers.put(blob("h"), id=ID["mapped"], parent="base")
        store.images.create(id=ID["mapped-image"], layer=ID["mapped"], names=["mapped"])
        for start in (400_000, 500_000):
            maps = (IDMap(0, start, 10), IDMap(20, start + 20, 5))
            box = store.containers.create(image="mapped", mappings=IDMappings(maps, maps))
            store.containers.delete(box.id)
        # So that only the copies can go.
        store.layers.put(blob("i"), id=ID["on-mapped"], parent=ID["mapped"])
        # What the driver can do is asked for once, and what a trial comes to is not what these suites are about.
        store.driver().supports_shifting(IDMappings([IDMap(0, 1, 1)], [IDMap(0, 1, 1)]))


def _rubbish(scene: Scene, base: Path, driver: str) -> None:
    """Garbage of every kind of record, which a collection takes away, beside records that it must not touch."""
    _plain(scene, base, driver)
    graph, run = base / "graph", base / "run"
    with scene.opened(base, driver) as store:
        for called in ("garbage", "garbage-too"):
            store.create_storage_layer(id=ID[called], parent=ID["base"])
        (graph / f"{driver}-layers/{ID['directories']}.tar-split.gz").write_bytes(b"x")
        for kind in ("layers", "images", "containers"):
            (graph / f"{driver}-{kind}" / ID["directories"] / "deep").mkdir(parents=True)
        (run / f"{driver}-containers" / ID["directories"] / "userdata").mkdir(parents=True)
        store.shutdown()


def _damaged(scene: Scene, base: Path, driver: str) -> None:
    """Files that lost their mode, their time, themselves; a layer whose directory is gone.

    Not one that an image needs: whether what only that image needed goes along, a killed repair leaves open.
    """
    _plain(scene, base, driver)
    home = base / "graph" / ("vfs/dir" if driver == "vfs" else "overlay")

    def tree(called: str) -> Path:
        return home / ID[called] / ("" if driver == "vfs" else "diff")

    (tree("low") / "etc/d").chmod(0o600)
    os.utime(tree("middle") / "etc/b", (5, 5))
    (tree("top") / "etc/c").unlink()
    shutil.rmtree(home / ID["lone"])


def _sealed(scene: Scene, base: Path, driver: str) -> None:
    """An image whose layer is kept by composefs."""
    import pytest

    import composefs
    import layers
    from orlop.drivers.overlay.composefs import write_blob

    _plain(scene, base, driver)
    with scene.opened(base, driver) as store, pytest.MonkeyPatch.context() as patch:
        composefs.install(base, patch)
        store.layers.create(id=ID["sealed"], writable=False)
        directory = base / "graph/overlay" / ID["sealed"]
        write_blob(composefs.dump(layers.BASE, directory / "diff"), str(directory))
        store.images.create(id=ID["sealed-image"], layer=ID["sealed"], names=["sealed"])


def _doubles(scene: Scene, base: Path, driver: str) -> None:
    """Two images with the same files, on blocks of their own."""
    _plain(scene, base, driver)
    same = {f"same{number}": os.urandom(64 << 10) for number in range(4)}
    with scene.opened(base, driver) as store:
        for name in ("one", "two"):
            layer = store.layers.put(blob(name, more=same), id=ID[f"layer-{name}"])
            store.images.create(id=ID[f"image-{name}"], layer=layer.id)


SCENES = {
    "plain": Scene(_plain),
    "nothing": Scene(_nothing),
    "additional": Scene(_additional, additional="additional"),
    "split": Scene(_split, image_store="images"),
    "maps": Scene(_maps),
    "rubbish": Scene(_rubbish, littered=True),
    "damaged": Scene(_damaged, damaged=True),
    "sealed": Scene(_sealed, drivers=("overlay",)),
    "staging": Scene(_plain, drivers=("overlay",)),
    "xfs": Scene(_doubles, disk="xfs"),
    "btrfs": Scene(_doubles, disk="btrfs"),
}
