"""A large store, made once through the library and kept in .cache/bench: 20,000 layers, 2,000 images, 500 containers.

Records have the names, digests and sizes that records have; the layers themselves are empty, and take no room. Chains
are up to thirty layers long, with an image every ten layers or so. Images have a manifest and a configuration;
containers a layer of their own. vfs.

    bigstore.copy(Path("/mnt/store"))      # .../graph, for one program to change as it likes
    bigstore.LAYER.id, bigstore.IMAGE.name # what is looked up: in the middle, among many
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orlop
from orlop.model.timestamp import Timestamp
from orlop.store.tables import WRITE

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "bench"
MADE = CACHE / "bigstore-1"  # another number when what is made below changes

IMAGES, CONTAINERS = 2_000, 500
LAYERS = 20_000 - CONTAINERS
CHAIN = 30


@dataclass(frozen=True)
class Known:
    """A record that is there in every copy."""

    id: str
    name: str
    digest: str  # of a layer: of its tar; of an image: of its manifest


def layer(number: int) -> Known:
    id = hashlib.sha256(b"layer %d" % number).hexdigest()
    return Known(id, f"layer-{number}", sha256(b"tar %d" % number))


def top_of(image: int) -> int:
    return (image + 1) * LAYERS // IMAGES - 1


def documents(number: int) -> tuple[bytes, bytes]:
    """The configuration and the manifest of an image."""
    top = top_of(number)
    below = [layer(each).digest for each in range(top - top % CHAIN, top + 1)]
    config: dict[str, Any] = {
        "created": "2025-11-23T21:16:55.685075Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Labels": {"number": str(number)}},
        "rootfs": {"type": "layers", "diff_ids": below},
    }
    text = json.dumps(config).encode()
    kind = "application/vnd.oci.image."
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind + "manifest.v1+json",
        "config": {"mediaType": kind + "config.v1+json", "digest": sha256(text), "size": len(text)},
        "layers": [{"mediaType": kind + "layer.v1.tar", "digest": each, "size": 6_000} for each in below],
    }
    return text, json.dumps(manifest).encode()


def image(number: int) -> Known:
    config, manifest = documents(number)
    name = f"registry.example/team-{number % 40}/service-{number}:1"
    return Known(sha256(config).partition(":")[2], name, sha256(manifest))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


LAYER, OTHER = layer(LAYERS // 2), layer(LAYERS // 2 + 1)
PREFIX = LAYER.id[:12]
IMAGE = image(IMAGES // 2)


def make(store: orlop.Store) -> None:
    engine = store._engine
    # All in one block, that is, in one save: one by one, each of which saves all, they would be 200 GB in the end.
    with engine.open(layers=WRITE, additional=False) as tables:
        for number in range(LAYERS):
            known = layer(number)
            parent = layer(number - 1).id if number % CHAIN else ""
            engine.ready_driver.create(known.id, parent or None, writable=False)
            tables.layers.add(
                {
                    "id": known.id,
                    "names": [known.name],
                    "parent": parent,
                    "created": str(Timestamp.from_ns(1_700_000_000_123_456_789 + number * 61_000_000_007)),
                    "compressed-diff-digest": sha256(b"blob %d" % number),
                    "compressed-size": 1_000 + number,
                    "diff-digest": known.digest,
                    "diff-size": 5_000 + number,
                    "compression": 2,
                    "uidset": [0, 1000],
                    "gidset": [0, 1000],
                }
            )
    for number in range(IMAGES):
        known = image(number)
        config, manifest = documents(number)
        data = {sha256(config): config, f"manifest-{known.digest}": manifest, "manifest": manifest}
        store.images.create(
            id=known.id, names=[known.name], layer=layer(top_of(number)).id, digest=known.digest, data=data
        )
    for number in range(CONTAINERS):
        known = image(number * (IMAGES // CONTAINERS))
        metadata = json.dumps({"image-name": known.name, "image-id": known.id, "name": f"box-{number}"})
        store.containers.create(image=known.id, names=[f"box-{number}"], metadata=metadata)


def made() -> Path:
    """Its graph root. Made if it is not there yet, which takes a minute or two."""
    if not MADE.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print("making a large store (once)", file=sys.stderr, flush=True)
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with (
            tempfile.TemporaryDirectory(prefix="bigstore-", dir=memory) as directory,
            tempfile.TemporaryDirectory(prefix="bigstore-", dir=CACHE) as target,
        ):
            with orlop.open_store(
                f"{directory}/graph", f"{directory}/run", "vfs", durability="none"
            ) as store:
                make(store)
            subprocess.run(["cp", "-a", f"{directory}/graph", target], check=True)
            Path(target, "graph").rename(MADE)
    return MADE


def copy(store: Path) -> None:
    """Put a copy of it below `store`, as its graph root, unless one is there."""
    if not (store / "graph").exists():
        subprocess.run(["cp", "-a", made(), store / "graph"], check=True)


if __name__ == "__main__":
    print(made())
