"""Which drivers there are, and which one a graph root gets (`spec/drivers.md` 2, `spec/config.md` 11).

Rule 1: Existing data decides. A root that holds a driver's data is opened with that driver or not at all: falling
        through to the next one would show an empty store above layers that are still there.
Rule 2: `vfs` works everywhere, so it comes last, and its directory counts as existing data only once there are layers
        in it, or if the priority list was configured. (A root with only an empty `vfs` in it and no driver named may
        be opened with overlay. The peers go further, and pass over vfs with layers, too.)
Rule 3: A name maps to a dotted path, imported on use. A name that is known but not in this version refuses data of
        its kind instead of ignoring it.
"""

from __future__ import annotations

import os

from orlop.drivers.api import Driver, DriverOptions
from orlop.errors import ConfigError, DriverNotSupported, IncompatibleFilesystem, PrerequisitesMissing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_DRIVERS: dict[str, str | None] = {
    "aufs": None,
    "btrfs": None,
    "overlay": "orlop.drivers.overlay.driver.Overlay",
    "overlay2": "orlop.drivers.overlay.driver.Overlay",
    "vfs": "orlop.drivers.vfs.VFS",
    "zfs": None,
}
"""Every name that counts as a driver's. `None`: known, so that its data is recognised, but not in this version."""

_PRIORITY = ("overlay", "aufs", "btrfs", "zfs", "vfs")

_TRY_NEXT = (DriverNotSupported, PrerequisitesMissing, IncompatibleFilesystem)
"""What tells the selection that this driver is not for this place; anything else is an error to be shown."""


def names() -> tuple[str, ...]:
    """Every registered name, whether this version has the driver or not."""
    return tuple(_DRIVERS)


def check_name(name: str, graph_root: str) -> None:
    """Refuse a name that is no driver's here, before it becomes part of a path: configurations may say `../../etc`.

    Raises:
        DriverNotSupported.
    """
    if name not in _DRIVERS:
        raise DriverNotSupported(
            f'driver "{name}" for {graph_root} is not known; there are {", ".join(_DRIVERS)}',
            peer=f"failed to GetDriver graph {name} {graph_root}: driver not supported",
            name=name,
            root=graph_root,
        )
    if _DRIVERS[name] is None:
        # Whoever makes its directory makes data of a second driver, between which nobody can choose afterwards.
        raise _absent(name, graph_root)


def stored_in(root: str) -> list[str]:
    """The drivers of which something lies in a graph root or an image store: tables, or what the driver keeps.

    Raises:
        PermissionError, NotADirectoryError: nobody can say.
    """
    try:
        there = set(os.listdir(root))
    except FileNotFoundError:
        return []
    return [
        name
        for name in _DRIVERS
        if not there.isdisjoint(f"{name}-{kind}" for kind in ("layers", "images", "containers"))
        or (name in there and _has_entries(os.path.join(root, name)))
    ]


def open_driver(
    name: str = "",
    *,
    graph_root: str,
    run_root: str,
    image_store: str | None = None,
    options: Iterable[str] = (),
    priority: Sequence[str] = (),
    durable: bool = True,
    rootless: bool = False,
    shifting: bool = True,
) -> Driver:
    """The driver called `name`, or without a name the one that this graph root wants.

    `priority` is the configured list of drivers to try; empty means that none was configured. The other arguments
    go into `DriverOptions`. The roots exist already; opening may write below them (overlay probes the kernel).

    Raises:
        DriverNotSupported: an unknown name, one that this machine or version cannot serve, or nothing works here.
        PrerequisitesMissing, IncompatibleFilesystem: the named or existing driver does not work here.
        ConfigError: data of several drivers lies in the root, and no name was given; or an option of the driver.
    """
    chosen = tuple(options)

    def opened(name: str) -> Driver:
        settings = DriverOptions(
            home=os.path.join(graph_root, name),
            run_home=os.path.join(run_root, name),
            graph_root=graph_root,
            run_root=run_root,
            image_store=image_store,
            options=chosen,
            durable=durable,
            rootless=rootless,
            shifting=shifting,
        )
        return _class_of(name, graph_root)(settings)

    if name:
        return opened(name)
    order = tuple(priority) or _PRIORITY
    unlisted = tuple(known for known in _DRIVERS if known not in order)
    # lexists: a link to a disk that is not mounted now is data all the same.
    prior = [known for known in _DRIVERS if os.path.lexists(os.path.join(graph_root, known))]
    # `overlay2` is in no default list, and vfs is passed over by the peers, who then take overlay beside them: an
    # empty store, and a root that nobody opens without a name again. Who configured a list left them out on purpose.
    for candidate in order if priority else order + unlisted:
        if candidate not in prior or (
            candidate == "vfs" and not priority and not _has_vfs_layers(graph_root)
        ):
            continue
        driver = opened(candidate)
        if len(prior) > 1:
            raise _several(graph_root, prior)
        return driver
    for candidate in order + unlisted:
        try:
            return opened(candidate)
        except _TRY_NEXT:
            continue
    raise DriverNotSupported(
        f"no storage driver works for {graph_root} (tried {', '.join(order)})",
        peer="no supported storage backend found",
        root=graph_root,
    )


def _has_vfs_layers(graph_root: str) -> bool:
    """True if vfs was really used here: any program that was once told to use it makes the empty home."""
    return _has_entries(os.path.join(graph_root, "vfs", "dir"))


def _has_entries(directory: str) -> bool:
    try:
        return bool(os.listdir(directory))
    except OSError:
        return False


def _class_of(name: str, graph_root: str) -> type[Driver]:
    check_name(name, graph_root)
    path = _DRIVERS[name]
    assert path is not None
    module, _, attribute = path.rpartition(".")
    # Not `importlib.import_module`: `importlib` takes longer to import than most drivers.
    found: type[Driver] = getattr(__import__(module, fromlist=[attribute]), attribute)
    return found


def _absent(name: str, graph_root: str) -> DriverNotSupported:
    if name == "aufs":
        return DriverNotSupported(
            f'driver "aufs" (wanted for {graph_root}) needs a file system that the kernel does not have',
            peer="kernel does not support aufs: driver not supported",
            name=name,
            root=graph_root,
        )
    return DriverNotSupported(
        f'driver "{name}" is not available in this version (wanted for {graph_root})',
        name=name,
        root=graph_root,
    )


def _several(graph_root: str, prior: list[str]) -> ConfigError:
    listed = ", ".join(prior)
    return ConfigError(
        f"{graph_root} holds data of several drivers ({listed}): remove what is not needed, or name the driver",
        peer=f"{graph_root} contains several valid graphdrivers: {listed}; "
        "Please cleanup or explicitly choose storage driver (-s <DRIVER>)",
        root=graph_root,
        drivers=tuple(prior),
    )
