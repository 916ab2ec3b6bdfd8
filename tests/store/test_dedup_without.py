"""Deduplication where the file system, or the driver, has no way to share blocks."""

from pathlib import Path

import pytest

import loopfs
import orlop
import tarballs
from orlop.errors import NotSupported, ReflinksNotSupported


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
def test_without_reflinks_a_plan_is_refused_and_the_peers_call_does_nothing(
    tmp_path: Path, driver: str
) -> None:
    with loopfs.mounted("ext4", tmp_path) as base:
        with orlop.open_store(base / "graph", base / "run", driver, durability="none") as store:
            for _ in range(2):
                store.images.create(layer=store.layers.put(tarballs.tar(("file", b"x" * 9000))).id)
            with pytest.raises(ReflinksNotSupported, match=f"reflinks.*{base}/graph") as refused:
                store.plan_dedup()
            assert isinstance(refused.value, NotSupported)
            for method in ("crc", "size", "sha256"):
                result = store.dedup(method=method)
                assert (result.deduped_bytes, result.freed_bytes) == (0, 0)
