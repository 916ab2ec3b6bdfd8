"""What the kernel is asked when overlay is opened, what is kept of the answers, and what follows from them."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import layers
import peers
from orlop.drivers import backing
from orlop.drivers.overlay import probe
from orlop.drivers.overlay.driver import Overlay
from orlop.errors import ConfigError, DriverNotSupported, IncompatibleFilesystem
from orlop.system import files, newmount, overlayfs

pytest_plugins = ("overlays",)


class Kernel:
    """Mounts overlays, but for some that it refuses."""

    def __init__(self) -> None:
        self.mount = overlayfs.mount
        self.asked = 0
        self.refuses: Callable[[dict[str, Any]], int] = lambda how: 0
        """Given the arguments: the number of the error, or 0."""

    def __call__(self, target: str, **how: Any) -> None:
        self.asked += 1
        number = self.refuses(how)
        if number:
            raise OSError(number, os.strerror(number), target)
        self.mount(target, **how)

    def refuse(self, word: str, number: int = errno.EINVAL) -> None:
        self.refuses = lambda how: number if word in how["data"] else 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(overlayfs, "mount", kernel)
    monkeypatch.setenv("PATH", "/nonexistent")  # no mount program to fall back to
    return kernel


def _kept(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (place / "run/overlay").iterdir()}


# --- whether it works at all --------------------------------------------------------------------------------


def _all(how: dict[str, Any]) -> int:
    return errno.EINVAL


def _several_lowers(how: dict[str, Any]) -> int:
    return errno.EINVAL if len(how["lowers"]) > 1 else 0


@pytest.mark.parametrize(
    ("refuses", "kind", "said"),
    [
        (_all, IncompatibleFilesystem, "Invalid argument"),
        (_several_lowers, DriverNotSupported, "kernel too old to provide multiple lowers"),
    ],
)
def test_an_overlay_that_does_not_work_is_refused_and_not_tried_again_until_the_next_boot(
    open_overlay: Callable[..., Overlay],
    place: Path,
    kernel: Kernel,
    refuses: Callable[[dict[str, Any]], int],
    kind: type[Exception],
    said: str,
) -> None:
    kernel.refuses = refuses
    with pytest.raises(kind, match=said):
        open_overlay()
    assert os.listdir(place / "graph") == [], "an empty home would count as data"
    assert list(_kept(place)) == ["overlay-false"]
    text = _kept(place)["overlay-false"]
    assert text.startswith("kernel does not support overlay fs: ")
    asked = kernel.asked
    with pytest.raises(DriverNotSupported) as failure:
        open_overlay()
    assert failure.value.peer == text
    assert kernel.asked == asked
    assert peers.mounts_below(place) == []


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EMFILE, errno.ENOMEM])
def test_trouble_of_the_moment_says_nothing_about_the_kernel(
    open_overlay: Callable[..., Overlay], place: Path, kernel: Kernel, trouble: int
) -> None:
    """A full disk, no descriptor left: kept as an answer, it would be one for all programs until the next boot."""
    kernel.refuses = lambda how: trouble
    with pytest.raises(OSError, match=os.strerror(trouble)):
        open_overlay()
    assert _kept(place) == {}
    kernel.refuses = lambda how: 0
    features = open_overlay()._features
    before = _kept(place)
    kernel.refuses = lambda how: trouble
    for ask in (
        features.native_diff,
        features.idmapped_lowers,
        features.data_only_layers,
        features.volatile,
    ):
        with pytest.raises(OSError, match=os.strerror(trouble)):
            ask()
    assert _kept(place) == before


@pytest.mark.parametrize("what", ["types of entries", "removal of directories", "whiteouts"])
def test_a_file_system_that_overlay_cannot_lie_on_is_refused(
    open_overlay: Callable[..., Overlay],
    place: Path,
    kernel: Kernel,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rmdir, mknod = os.rmdir, os.mknod

    def no_rmdir(path: str, **how: Any) -> None:
        if str(path).endswith("merged/subdir"):
            raise OSError(errno.EIO, "Input/output error", path)
        rmdir(path, **how)

    def no_mknod(path: str, *how: Any, **more: Any) -> None:
        if path.endswith("upper/whiteout"):
            raise OSError(errno.EPERM, "Operation not permitted", path)
        mknod(path, *how, **more)

    with monkeypatch.context() as patch:
        if what == "types of entries":
            patch.setattr(probe, "_names_tell_types", lambda directory: False)
            expected: tuple[type[Exception], str] = (DriverNotSupported, "without d_type support")
        elif what == "whiteouts":
            patch.setattr(os, "mknod", no_mknod)
            kernel.refuses = _several_lowers
            expected = (DriverNotSupported, "too old")
        else:
            patch.setattr(os, "rmdir", no_rmdir)
            expected = (IncompatibleFilesystem, "removing a directory failed: Input/output error")
        with pytest.raises(expected[0], match=expected[1]):
            open_overlay()
    assert os.listdir(place / "graph") == []
    assert peers.mounts_below(place) == []
    assert list(_kept(place)) == ["overlay-false"]


def test_options_that_cannot_be_had_leave_nothing_mounted(
    open_overlay: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlop.drivers.overlay.composefs.require_program", _missing)
    with pytest.raises(ConfigError):
        open_overlay("overlay.use_composefs=true")
    assert peers.mounts_below(place) == []


def _missing() -> None:
    raise ConfigError("mkcomposefs is not there")


def test_a_home_with_layers_stays_when_overlay_does_not_work(
    open_overlay: Callable[..., Overlay], place: Path, kernel: Kernel
) -> None:
    open_overlay().create("box", None, writable=True)
    files.remove_tree(f"{place}/run/overlay")  # a boot
    kernel.refuses = _all
    with pytest.raises(IncompatibleFilesystem):
        open_overlay()
    assert (place / "graph/overlay/box/link").exists()
    assert (place / "graph/overlay/l").exists()


@pytest.mark.parametrize("rootless", [True, False])
def test_a_network_file_system_is_for_root(
    open_overlay: Callable[..., Overlay], kernel: Kernel, rootless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing, "is_network", lambda magic: True)
    if rootless:
        with pytest.raises(IncompatibleFilesystem, match="needs a mount program"):
            open_overlay(rootless=True)
    else:
        open_overlay()


def test_what_lies_on_a_network_has_a_mask_where_users_have_a_mount_program(
    open_overlay: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners cannot be given there: they go to an attribute, and a warning says so."""
    monkeypatch.setattr(backing, "is_network", lambda magic: True)
    driver = open_overlay("overlay.mount_program=/bin/true", rootless=True)
    driver.create("image", None, writable=False)
    layers.fill(driver, "image", [layers.file("file", b"x", uid=5)])
    status = (Path(driver.home) / "image/diff/file").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o700)
    assert not list((place / "run/overlay").iterdir()), "nothing is asked of the kernel"


# --- what else it can do ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mountopt", "answer", "said"),
    [
        ("redirect_dir=on", False, "kernel has CONFIG_OVERLAY_FS_REDIRECT_DIR enabled"),
        ("redirect_dir=off", True, ""),  # whoever renames a directory has to copy it
        ("metacopy=on", False, "kernel has CONFIG_OVERLAY_FS_REDIRECT_DIR enabled"),
        ("no-such-option", False, "no-such-option"),
    ],
)
def test_an_upper_directory_tells_what_changed_unless_directories_are_redirected(
    open_overlay: Callable[..., Overlay], place: Path, mountopt: str, answer: bool, said: str
) -> None:
    driver = open_overlay(f"overlay.mountopt={mountopt}")
    assert dict(driver.status())["Native Overlay Diff"] == str(answer).lower()
    text = _kept(place)[f"native-diff({mountopt})-{str(answer).lower()}"]
    start = "Not using native diff for overlay, this may cause degraded performance for building images: "
    assert text.startswith(start) != answer
    assert said in text
    if mountopt == "redirect_dir=on":
        driver.create("base", None, writable=False)
        layers.fill(driver, "base", layers.BASE)
        driver.create("box", "base", writable=True)
        root = Path(driver.mount("box"))
        os.rename(root / "var", root / "moved")
        driver.unmount("box")
        assert os.getxattr(f"{driver.home}/box/diff/moved", "trusted.overlay.redirect")
        assert "A /moved/cache/one" in [str(change) for change in driver.changes("box", "base")]


def test_an_opaque_mark_that_is_copied_up_makes_upper_directories_unreadable(
    open_overlay: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_attribute_of", lambda path, name: b"y")
    open_overlay().status()
    assert _kept(place)["native-diff()-false"].endswith("opaque flag erroneously copied up")


def test_metacopy_that_is_refused_is_known_not_to_work_and_any_other_error_is_told(
    open_overlay: Callable[..., Overlay], place: Path, kernel: Kernel
) -> None:
    kernel.refuse("metacopy=on", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        open_overlay("overlay.mountopt=metacopy=on")
    kernel.refuse("metacopy=on")
    driver = open_overlay("overlay.mountopt=metacopy=on")
    assert _kept(place)["metacopy(metacopy=on)-false"] == ""
    driver.create("box", None, writable=True)
    driver.mount("box")  # without it
    driver.unmount("box")


def test_only_a_yes_to_volatile_is_kept(
    open_overlay: Callable[..., Overlay], place: Path, kernel: Kernel
) -> None:
    """The kernel may learn it by a module of the same boot."""
    kernel.refuse("volatile")
    driver = open_overlay()
    assert dict(driver.status())["Supports volatile"] == "false"
    assert not [name for name in _kept(place) if name.startswith("volatile")]
    driver.create("box", None, writable=True)
    shown = peers.mount_options(driver.mount("box", volatile=True)).split(",")
    assert not {"volatile", "fsync=volatile"} & set(shown)
    driver.unmount("box")
    kernel.refuses = lambda how: 0
    assert dict(open_overlay().status())["Supports volatile"] == "true"
    assert _kept(place)["volatile-true"] == ""


@pytest.mark.parametrize("data_only", [True, False])
def test_layers_that_hold_data_only_are_tried(
    open_overlay: Callable[..., Overlay], place: Path, kernel: Kernel, data_only: bool
) -> None:
    if not data_only:
        kernel.refuses = lambda how: errno.EINVAL if how.get("data_only") else 0
    driver = open_overlay()
    assert driver._features.data_only_layers() is data_only
    assert f"dataonly-layers-{str(data_only).lower()}" in _kept(place)
    asked = kernel.asked
    assert open_overlay()._features.data_only_layers() is data_only
    assert kernel.asked == asked


def test_where_ids_cannot_be_mapped_owners_are_changed(
    open_overlay: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str, names: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument", path)

    monkeypatch.setattr(newmount, "idmapped", refused)
    assert dict(open_overlay().status())["Supports shifting"] == "false"
    assert "idmapped-lower-dir-false" in _kept(place)


@pytest.mark.parametrize("mountopt", ["xino=/x", "x" * 250])
def test_what_cannot_be_the_name_of_a_file_is_asked_again_each_time(
    open_overlay: Callable[..., Overlay], place: Path, mountopt: str
) -> None:
    for _ in range(2):
        assert dict(open_overlay(f"overlay.mountopt={mountopt}").status())["Using metacopy"] == "false"
    assert [name for name in _kept(place) if "metacopy" in name] == []


def test_a_trial_leaves_nothing_whatever_comes_of_it(
    open_overlay: Callable[..., Overlay], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = open_overlay()
    home = Path(driver.home)
    before = set(os.listdir("/proc/self/fd"))

    def interrupted(self: object, *directories: Sequence[str], **how: Any) -> None:
        assert sorted(name.split("-")[0] for name in os.listdir(home / "tempdirs")) == ["lock", "temp"]
        assert driver.ids() == [], "a trial is no layer"
        raise KeyboardInterrupt

    monkeypatch.setattr(probe._Trial, "mount", interrupted)
    with pytest.raises(KeyboardInterrupt):
        driver.status()
    assert set(os.listdir("/proc/self/fd")) == before
    assert sorted(os.listdir(home)) == [".has-mount-program", "l"]
    assert peers.mounts_below(home) == [str(home)]
