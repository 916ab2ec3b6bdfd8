"""Project quotas. The kernels of test machines rarely have them, so the one call to the kernel that needs them is
played; ids on directories are real, on a real xfs."""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import loopfs
import peers
from orlop.drivers import registry
from orlop.errors import ConfigError
from orlop.system import files, quota


@pytest.fixture
def base(place: Path) -> Iterator[Path]:
    with loopfs.mounted("xfs", place) as base:
        for name in ("graph/overlay", "run"):
            (base / name).mkdir(parents=True)
        yield base


class Kernel:
    """What quotactl was asked for, and what it answers."""

    def __init__(self) -> None:
        self.limits: dict[int, tuple[int, ...]] = {}
        self.nodes: list[tuple[int, int]] = []

    def __call__(self, command: int, node: str, id: int, data: bytes) -> bytes:
        status = os.stat(node)  # raises what the kernel raises
        assert stat.S_IMODE(status.st_mode) == 0o600
        self.nodes.append((stat.S_IFMT(status.st_mode), status.st_rdev))
        assert len(data) == 112
        fields = struct.unpack_from("=bbHIQQQQQQ", data)
        if command == 0x580402:
            assert fields[:2] == (1, 2)
            assert fields[3] == id
            self.limits[id] = fields[2:3] + fields[4:8]
            return data
        assert command == 0x580302
        return struct.pack("=bbHIQQQQQQ56x", 1, 2, 0, id, 0, 0, 0, 0, 6, 4)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(quota, "quotactl", kernel)
    return kernel


def test_where_ids_begin() -> None:
    assert quota.first_id(1_179_776) == 3_207_855_410
    assert quota.first_id(2**62) < 2**32


def test_limits_are_set_on_new_layers_and_counted(base: Path, kernel: Kernel) -> None:
    home = base / "graph" / "overlay"
    first = quota.first_id(home.stat().st_ino)
    driver = registry.open_driver(
        "overlay",
        graph_root=f"{base}/graph",
        run_root=f"{base}/run",
        options=["overlay.size=1m"],
        durable=False,
    )
    assert kernel.limits == {first: (0, 0, 0, 0, 0)}
    assert set(kernel.nodes) == {(stat.S_IFBLK, home.stat().st_dev)}
    driver.create("image", None, writable=False)
    driver.create("box", "image", writable=True)
    driver.create("other", "image", writable=True, storage_opt={"size": "10k", "inodes": "7"})
    assert kernel.limits == {
        first: (0, 0, 0, 0, 0),
        first + 1: (12, 2048, 2048, 0, 0),
        first + 2: (15, 20, 20, 7, 7),
    }
    flags, project = quota._attributes(str(home / "box"))
    assert (flags & 0x200, project) == (0x200, first + 1)
    assert quota._attributes(str(home / "box" / "diff"))[1] == first + 1  # inherited
    assert quota._attributes(str(home / "image"))[1] == 0
    assert driver.usage("box") == (6 * 512, 4)
    assert driver.usage("image") == (0, 1)
    assert driver.diff_size("box", "image") == 0
    driver.remove("other", lambda path, root: files.remove_tree(path))
    driver.create("other", "image", writable=True)  # another layer, of the same id
    assert quota._attributes(str(home / "other"))[1] == first + 3
    assert kernel.limits[first + 3] == (12, 2048, 2048, 0, 0)
    assert driver.ids().count("backingFsBlockDev") == 0
    driver.shutdown()
    again = quota.ProjectQuota(str(home))
    (home / "third").mkdir()
    again.limit(str(home / "third"), 0, 0)
    assert quota._attributes(str(home / "third"))[1] == first + 4
    assert again.usage(str(home / "box")) == (6 * 512, 4)
    assert again.usage(str(home / "image")) is None
    (home / "image" / "file").touch()
    with pytest.raises(OSError, match="empty") as failure:
        again.limit(str(home / "image"), 1, 1)
    assert failure.value.errno == errno.ENOTEMPTY
    (home / "backingFsBlockDev").unlink()
    again.limit(str(home / "third"), 512, 0)
    assert kernel.limits[first + 4] == (12, 1, 1, 0, 0)


def test_without_quotas_in_the_kernel_there_is_no_limit_but_a_refusal(base: Path) -> None:
    roots = {"graph_root": f"{base}/graph", "run_root": f"{base}/run"}
    try:
        quota.ProjectQuota(f"{base}/graph/overlay")
        pytest.skip("this kernel has project quotas, even where they were not asked for")
    except OSError:
        pass
    driver = registry.open_driver("overlay", **roots, durable=False)
    driver.create("box", None, writable=True)
    driver.shutdown()
    with pytest.raises(ConfigError) as failure:
        registry.open_driver("overlay", **roots, options=["overlay.inodes=10"], durable=False)
    assert failure.value.peer.startswith(
        "storage options overlay.size and overlay.inodes not supported. Filesystem does not support Project Quota: "
    )
    peers.unmount_below(base / "graph")
