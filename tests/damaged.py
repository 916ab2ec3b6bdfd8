"""A small store with a bit of everything, on which `damages` work.

site = damaged.build(place, "overlay")        # closed again
again = damaged.copy(site, place / "again")   # quicker than another one built
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orlop
import rawtar
import trees
from orlop.formats.bigdata import file_name

T = 1_600_000_000
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
LARGE = bytes(range(256)) * 5000  # more than is read in one go


def _xattr(name: bytes, value: bytes) -> dict[bytes, bytes]:
    return {b"SCHILY.xattr." + name: value}


BASE = b"".join(
    [
        rawtar.member(b"etc/", mode=0o755, mtime=T),
        rawtar.pax(_xattr(b"user.note", b"kept")),
        rawtar.member(b"etc/passwd", b"root:x:0:0\n", mode=0o640, uid=3, gid=4, mtime=T + 1),
        rawtar.member(b"etc/empty", b"", mtime=T),
        rawtar.member(b"bin/", mode=0o1755, mtime=T),
        rawtar.pax(_xattr(b"security.capability", CAPABILITY)),
        rawtar.member(b"bin/ping", b"\x7fELF" * 500, mode=0o755, mtime=T),
        rawtar.member(b"bin/su", b"su" * 700, mode=0o4755, mtime=T),
        rawtar.member(b"bin/doas", type=b"1", linkname=b"bin/su", mode=0o4755, mtime=T),
        rawtar.member(b"bin/sh", type=b"2", linkname=b"su", mode=0o777, uid=1, gid=2, mtime=T),
        rawtar.member(b"dev/null", type=b"3", mode=0o666, devmajor=1, devminor=3, mtime=T),
        rawtar.member(b"dev/pipe", type=b"6", mode=0o600, mtime=T),
        rawtar.member(b"opt/implied/file", b"implied", mtime=T),
        rawtar.member(b"srv/", mode=0o755, mtime=T),
        rawtar.member(b"srv/old", b"old", mtime=T),
        rawtar.member(b"usr/", mode=0o755, mtime=T),
        rawtar.member(b"usr/large", LARGE, mtime=T),
        rawtar.sparse_10(b"usr/sparse", [(4096, b"x" * 100), (20000, b"y" * 50)], 30000),
        rawtar.END,
    ]
)
CHILD = b"".join(
    [
        rawtar.member(b"etc/", mode=0o755, mtime=T + 5),
        rawtar.member(b"etc/passwd", b"root:x:0:0\nme:x:1:1\n", mode=0o644, mtime=T + 5),
        rawtar.member(b"etc/new", b"new", uid=7, mtime=T + 5),
        rawtar.member(b"dev/.wh.pipe", mtime=T + 5),
        rawtar.member(b"srv/", mode=0o755, mtime=T + 5),
        rawtar.member(b"srv/.wh..wh..opq", mtime=T + 5),
        rawtar.member(b"srv/fresh", b"fresh", mtime=T + 5),
        rawtar.END,
    ]
)
SIBLING = rawtar.member(b"sibling", b"of child", mtime=T) + rawtar.END


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


CONFIG = json.dumps(
    {
        "created": "2026-01-02T03:04:05Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/su"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(BASE), digest(CHILD)]},
    }
).encode()
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest(layer),
                "size": len(layer),
            }
            for layer in (BASE, CHILD)
        ],
    }
).encode()
IMAGE = digest(CONFIG).removeprefix("sha256:")
OTHER = "f" * 64
BOX = hashlib.sha256(b"box").hexdigest()
LAYERS = {
    name: hashlib.sha256(name.encode()).hexdigest() for name in ("base", "child", "sibling", "boxlayer")
}
DATA = {
    "manifest": MANIFEST,
    "manifest-" + digest(MANIFEST): MANIFEST,
    digest(CONFIG): CONFIG,
    "signature": b"signed",
}


@dataclass
class Site:
    """Where the store lies, and its ids."""

    place: Path
    driver: str
    options: tuple[str, ...] = ()
    base: str = LAYERS["base"]
    child: str = LAYERS["child"]
    sibling: str = LAYERS["sibling"]
    box_layer: str = LAYERS["boxlayer"]
    image: str = IMAGE
    box: str = BOX

    @property
    def graph(self) -> Path:
        return self.place / "graph"

    def open(self, **how: Any) -> orlop.Store:
        how.setdefault("driver_options", self.options)
        how.setdefault("lock_timeout", 10)
        return orlop.open_store(self.graph, self.place / "run", self.driver, durability="none", **how)

    def table(self, kind: str) -> Path:
        return self.graph / f"{self.driver}-{kind}s"

    def file(self, kind: str) -> Path:
        return self.table(kind) / f"{kind}s.json"

    def tree(self, id: str) -> Path:
        """Where the content of a layer lies."""
        return self.graph / "vfs/dir" / id if self.driver == "vfs" else self.graph / "overlay" / id / "diff"

    def split(self, id: str) -> Path:
        return self.table("layer") / f"{id}.tar-split.gz"

    def item(self, key: str) -> Path:
        return self.table("image") / self.image / file_name(key)

    def edit(self, kind: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
        """Change records as an editor or a bad disk does, with nobody told."""
        path = self.file(kind)
        records = json.loads(path.read_bytes())
        change(records)
        path.write_text(json.dumps(records, separators=(",", ":")))
        os.chmod(path, 0o600)

    def record(self, kind: str, id: str, **members: Any) -> None:
        """Change members of one record; None takes one away."""

        def change(records: list[dict[str, Any]]) -> None:
            for record in records:
                if record["id"] == id:
                    record |= members
                    for key in [key for key, value in members.items() if value is None]:
                        del record[key]

        self.edit(kind, change)

    def drop(self, kind: str, id: str) -> None:
        self.edit(kind, lambda records: records.remove(next(r for r in records if r["id"] == id)))

    def state(self) -> dict[str, Any]:
        """All that a user of the store can see: records, data, archives, trees. For comparing with a later one."""
        found: dict[str, Any] = {}
        with self.open() as store:
            for layer in store.layers:
                found["layer", layer.id] = layer.document()
                with store.diff(layer.id, compression=0) as stream:
                    found["archive", layer.id] = digest(b"".join(stream))
                found["tree", layer.id] = trees.listing(self.tree(layer.id), atime=False)
            for kind, collection in (("image", store.images), ("container", store.containers)):
                for record in collection:
                    found[kind, record.id] = record.document()
                    data = collection.data(record.id)
                    found[f"{kind} data", record.id] = {key: data[key] for key in data}
        return found


def build(place: Path, driver: str) -> Site:
    site = Site(place, driver)
    with site.open() as store:
        base = store.layers.put(io.BytesIO(BASE), id=site.base, names=["base"])
        child = store.layers.put(io.BytesIO(gzip.compress(CHILD, mtime=0)), id=site.child, parent=base.id)
        store.layers.put(io.BytesIO(SIBLING), id=site.sibling, parent=base.id, data={"Note": b"of layer"})
        store.images.create(id=site.image, layer=child.id, names=["img:1"], data=DATA)
        store.images.create(id=OTHER, layer=site.sibling, names=["other:1"])
        store.containers.create(
            id=site.box, image=site.image, layer=site.box_layer, names=["box"], data={"state": b"running"}
        )
        (site.tree(site.box_layer) / "changed").write_text("by the container")
    return site


def copy(site: Site, place: Path) -> Site:
    """A copy to be damaged: quicker than another one built."""
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["cp", "-a", site.place, place], check=True)
    return Site(place, site.driver, site.options)
