"""A small image made by us, as other programs want it: with a manifest and a configuration."""

import hashlib
import io
import json
import random
import tarfile
from pathlib import Path

import orlop


def tar_of(seed: int, files: int = 12) -> bytes:
    """A layer with directories, files, links and odd names; different for each seed."""
    chance = random.Random(seed)
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=chance.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    ) as tar:
        for number in range(files):
            info = tarfile.TarInfo(f"d{number % 3}/{'long' * 40 if number == 5 else 'f'}{number}-é")
            data = chance.randbytes(chance.choice([0, 1, 511, 512, 513, 9000]))
            info.size, info.mtime, info.mode = (
                len(data),
                1_600_000_000 + seed,
                chance.choice([0o644, 0o4755, 0o600]),
            )
            info.uid, info.gid = chance.randrange(3), chance.randrange(3)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname, link.mode = tarfile.SYMTYPE, "d0/f0-é", 0o777
        tar.addfile(link)
    return out.getvalue()


def make_image(base: Path, driver: str, tar: bytes) -> tuple[str, bytes]:
    """An image of one layer, made by us; its id and manifest."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Labels": {"made-by": "orlop"}},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]},
            "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "test"}],
        }
    ).encode()
    config_digest = "sha256:" + hashlib.sha256(config).hexdigest()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config_digest,
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": "sha256:" + hashlib.sha256(tar).hexdigest(),
                    "size": len(tar),
                }
            ],
        }
    ).encode()
    with orlop.open_store(base / "graph", base / "run", driver) as store:
        layer = store.layers.put(io.BytesIO(tar))
        image = store.images.create(
            id=config_digest.partition(":")[2],
            layer=layer.id,
            names=["example.org/made:1"],
            data={"manifest": manifest, config_digest: config},
        )
    return image.id, manifest
