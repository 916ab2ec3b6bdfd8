"""Files by name without mounting: what a layer's exact archive is put together from."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import layers
from orlop.drivers.api import Driver, LayerFiles, SupportsFiles
from orlop.errors import UnsafePath
from orlop.system import probe
from orlop.system.descent import Descent


@pytest.fixture
def root(driver: Driver) -> Iterator[Path]:
    """The files of a layer, to plant things in."""
    if not isinstance(driver, SupportsFiles):
        pytest.skip(f"{driver.name} reads files through a mount")
    driver.create("one", None, writable=False)
    layers.fill(driver, "one", layers.BASE)
    yield Path(driver.mount("one"))
    driver.unmount("one")


@pytest.fixture(params=["guarded", "looking first"])
def found(
    driver: Driver, root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LayerFiles]:
    """The files, opened in a view without devices, and as on kernels that do not give one."""
    assert isinstance(driver, SupportsFiles)
    if request.param == "looking first":
        monkeypatch.setattr(Descent, "guard", lambda self: False)
    before = len(os.listdir("/proc/self/fd"))
    with driver.files("one") as files:
        yield files
    assert len(os.listdir("/proc/self/fd")) == before


def _read(files: LayerFiles, name: bytes) -> bytes:
    fd = files.open(name)
    try:
        assert not os.get_inheritable(fd)
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def test_names_as_archives_spell_them(found: LayerFiles) -> None:
    for name in (b"etc/passwd", b"/etc/passwd", b"./etc/passwd", b"etc//passwd", b"bin/../etc/passwd"):
        assert _read(found, name) == b"root:x:0:0\n"
    assert _read(found, b"bin/doas") == b"\x7fELF" * 500


def test_a_name_that_is_not_there(found: LayerFiles) -> None:
    for name in (b"nothing", b"no/such/file", b"etc/passwd/below"):
        with pytest.raises(OSError):
            found.open(name)


def test_no_name_and_no_link_leads_outside(found: LayerFiles, root: Path, place: Path) -> None:
    """A container that puts `usr -> /` into its layer would have the host's files in an image (CVE-2018-15664)."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "absolute").symlink_to(outside)
    (root / "climbing").symlink_to("../" * 30 + str(outside).lstrip("/"))
    (root / "file").symlink_to(outside / "secret")
    (root / "magic").symlink_to("/proc/self/root")
    inner = root / str(outside).lstrip("/")
    names = [b"absolute/secret", b"climbing/secret", b"../" * 30 + os.fsencode(outside / "secret")[1:]]
    names += [os.fsencode(outside / "secret"), b"file", b"magic" + os.fsencode(outside / "secret")]
    for name in names:
        with pytest.raises((OSError, UnsafePath)):
            found.open(name)
    inner.mkdir(parents=True)
    (inner / "secret").write_bytes(b"the layer's own")
    for name in names[:4]:
        assert _read(found, name) == b"the layer's own"


@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "symlink", "socket"])
def test_only_regular_files_are_opened(found: LayerFiles, root: Path, kind: str) -> None:
    """A FIFO would block for ever, a device acts when it is opened (CVE-2024-9676)."""
    path = root / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        if not probe.in_initial_user_namespace():
            pytest.skip("in a user namespace nobody makes devices")
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(5, 0))
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o666)
    elif kind == "symlink":
        path.symlink_to("etc/passwd")
    else:
        path.mkdir()
    with pytest.raises(UnsafePath):
        found.open(b"thing")


@pytest.mark.parametrize("name", [b"", b"/", b".", b"..", b"etc/..", b"etc/\0passwd"])
def test_names_that_are_none(found: LayerFiles, name: bytes) -> None:
    with pytest.raises(UnsafePath):
        found.open(name)
