"""Which driver a root gets. What must never happen: a root with layers shown as an empty store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import orlop
from orlop.drivers import registry
from orlop.drivers.api import Driver, DriverOptions
from orlop.drivers.vfs import VFS
from orlop.errors import (
    ConfigError,
    DriverNotSupported,
    IncompatibleFilesystem,
    PrerequisitesMissing,
    StorageError,
)


def _open(root: Path, name: str = "", **options: object) -> Driver:
    return registry.open_driver(name, graph_root=str(root), run_root=str(root / "run"), **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def without_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen must not hang on what this machine can mount: a version without the driver."""
    for name in ("overlay", "overlay2"):
        monkeypatch.setitem(registry._DRIVERS, name, None)


def _prior(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir()
    return root


def test_a_named_driver_gets_the_places_of_that_name(tmp_path: Path) -> None:
    driver = _open(
        tmp_path,
        "vfs",
        image_store="/images",
        options=["vfs.imagestore=/a"],
        durable=False,
        rootless=True,
        shifting=False,
    )
    assert isinstance(driver, VFS)
    assert driver.options == DriverOptions(
        home=f"{tmp_path}/vfs",
        run_home=f"{tmp_path}/run/vfs",
        graph_root=str(tmp_path),
        run_root=f"{tmp_path}/run",
        image_store="/images",
        options=("vfs.imagestore=/a",),
        durable=False,
        rootless=True,
        shifting=False,
    )


def test_an_unknown_name_is_refused_in_the_peers_words(tmp_path: Path) -> None:
    with pytest.raises(DriverNotSupported) as failure:
        _open(tmp_path, "nosuch")
    assert failure.value.peer == f"failed to GetDriver graph nosuch {tmp_path}: driver not supported"
    assert str(tmp_path) in str(failure.value)


@pytest.mark.parametrize("name", ["overlay", "overlay2", "btrfs", "zfs"])
def test_a_driver_of_other_versions_is_named_as_such(tmp_path: Path, name: str) -> None:
    with pytest.raises(DriverNotSupported, match=f'driver "{name}" is not available in this version'):
        _open(tmp_path, name)


@pytest.mark.parametrize("name", ["aufs", "btrfs", "zfs", "nosuch"])
def test_a_driver_that_is_not_here_leaves_no_trace(tmp_path: Path, name: str) -> None:
    """An empty directory of that name would be another driver's data to every program that comes after."""
    with pytest.raises(DriverNotSupported):
        orlop.open_store(tmp_path / "graph", tmp_path / "run", name)
    assert os.listdir(tmp_path) == []


def test_a_driver_that_does_not_start_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        orlop.open_store(tmp_path / "graph", tmp_path / "run", "vfs", driver_options=["vfs.nonsense=1"])
    assert "vfs" not in os.listdir(tmp_path / "graph")


def test_aufs_is_refused_as_the_peers_refuse_it(tmp_path: Path) -> None:
    with pytest.raises(DriverNotSupported) as failure:
        _open(tmp_path, "aufs")
    assert failure.value.peer == "kernel does not support aufs: driver not supported"


def test_a_fresh_root_gets_the_first_that_works(tmp_path: Path) -> None:
    assert _open(tmp_path).name == "vfs"
    assert _open(_prior(tmp_path, "vfs")).name == "vfs"


@pytest.mark.parametrize("name", ["overlay", "overlay2", "btrfs", "zfs", "aufs"])
@pytest.mark.parametrize("others", [(), ("vfs",)])
def test_a_root_with_data_of_another_driver_is_never_opened_empty(
    tmp_path: Path, name: str, others: tuple[str, ...]
) -> None:
    """The layers are there; vfs would show none, and a collection of garbage might remove what it does not know."""
    with pytest.raises(DriverNotSupported) as failure:
        _open(_prior(tmp_path, name, *others))
    assert failure.value.name == name


def test_data_behind_a_link_that_leads_nowhere_now_is_data(tmp_path: Path) -> None:
    """`overlay -> /mnt/disk/overlay` while the disk is not mounted."""
    (tmp_path / "overlay").symlink_to("/nonexistent/overlay")
    with pytest.raises(DriverNotSupported):
        _open(tmp_path)


class Fake(VFS):
    """vfs under other names, which may refuse."""

    refusal: StorageError | None = None

    def __init__(self, options: DriverOptions) -> None:
        super().__init__(options)
        self.name = os.path.basename(options.home)
        refused = REFUSALS.get(self.name)
        if refused:
            raise refused


REFUSALS: dict[str, StorageError] = {}


@pytest.fixture
def all_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that has every driver."""
    REFUSALS.clear()
    for name in registry.names():
        monkeypatch.setitem(registry._DRIVERS, name, f"{__name__}.Fake")


@pytest.mark.usefixtures("all_drivers")
def test_order_of_the_choice(tmp_path: Path) -> None:
    assert _open(tmp_path).name == "overlay"
    assert _open(tmp_path, priority=["zfs", "vfs"]).name == "zfs"
    _prior(tmp_path, "vfs")
    assert _open(tmp_path).name == "overlay"  # as the peers do it: an empty home is no existing data
    (tmp_path / "vfs/dir/layer").mkdir(parents=True)
    assert (
        _open(tmp_path).name == "vfs"
    )  # where they open overlay, and make the root one that nobody opens again
    (tmp_path / "vfs/dir/layer").rmdir()
    assert _open(tmp_path, priority=["zfs", "vfs"]).name == "vfs"
    _prior(tmp_path, "btrfs")
    with pytest.raises(ConfigError) as failure:
        _open(tmp_path)
    assert failure.value.peer == (
        f"{tmp_path} contains several valid graphdrivers: btrfs, vfs; "
        "Please cleanup or explicitly choose storage driver (-s <DRIVER>)"
    )
    assert _open(tmp_path, "vfs").name == "vfs"
    assert _open(tmp_path, priority=["zfs"]).name == "zfs"  # neither has its data here


@pytest.mark.usefixtures("all_drivers")
def test_data_of_a_name_that_no_list_has_is_data(tmp_path: Path) -> None:
    """The peers would take overlay beside overlay2: the records of its layers, and none of their files."""
    assert _open(_prior(tmp_path, "overlay2")).name == "overlay2"
    assert _open(tmp_path, priority=["zfs"]).name == "zfs"
    _prior(tmp_path, "overlay")
    with pytest.raises(ConfigError, match="overlay, overlay2"):
        _open(tmp_path)


@pytest.mark.usefixtures("all_drivers")
@pytest.mark.parametrize("condition", [DriverNotSupported, PrerequisitesMissing, IncompatibleFilesystem])
def test_three_conditions_mean_the_next_one(tmp_path: Path, condition: type[StorageError]) -> None:
    REFUSALS["overlay"] = condition("not here")
    assert _open(tmp_path).name == "aufs"
    with pytest.raises(condition):
        _open(_prior(tmp_path, "overlay"))


@pytest.mark.usefixtures("all_drivers")
def test_another_error_is_shown(tmp_path: Path) -> None:
    """A mistyped option must not lead to another driver."""
    REFUSALS["overlay"] = ConfigError("no such option")
    with pytest.raises(ConfigError):
        _open(tmp_path)


@pytest.mark.usefixtures("all_drivers")
def test_drivers_that_are_in_no_list_come_last(tmp_path: Path) -> None:
    for name in registry.names():
        if name != "overlay2":
            REFUSALS[name] = PrerequisitesMissing("not here")
    assert _open(tmp_path).name == "overlay2"
    REFUSALS["overlay2"] = PrerequisitesMissing("not here")
    with pytest.raises(DriverNotSupported) as failure:
        _open(tmp_path)
    assert failure.value.peer == "no supported storage backend found"


def test_options_of_the_chosen_driver_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as failure:
        _open(tmp_path, options=["vfs.nonsense=1"])
    assert failure.value.peer == "vfs driver does not support vfs.nonsense options"


def test_a_driver_is_imported_on_use() -> None:
    code = "from orlop.drivers import registry; import sys; print('orlop.drivers.vfs' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
