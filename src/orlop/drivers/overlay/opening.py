"""Whether overlay can be had in a home, by the kernel or by a program, and with which limits (`spec/drivers.md` 4.3).

Rule: A home that turned out to be no place for overlay is left as it was found. An empty one would be taken for data
of this driver by whoever chooses a driver next.
"""

from __future__ import annotations

import os

from orlop.drivers import backing
from orlop.drivers.overlay import options, program
from orlop.errors import ConfigError, IncompatibleFilesystem, NotSupported
from orlop.system import files, mounts, newmount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop.drivers.api import DriverOptions
    from orlop.drivers.overlay.layout import Layout
    from orlop.drivers.overlay.options import OverlayOptions
    from orlop.drivers.overlay.probe import Features
    from orlop.system.quota import ProjectQuota

_NOT_BELOW = frozenset((backing.AUFS, backing.ECRYPTFS, backing.OVERLAYFS))
"""File systems that the kernel's overlay cannot have its upper directory on."""

_MASK_FOR_NETWORK = 0o700


def open_home(
    settings: DriverOptions, layout: Layout, chosen: OverlayOptions, features: Features, magic: int
) -> ProjectQuota | None:
    """Make the directories, see that overlay works, make home a private mount; its quotas, if it has any.

    `chosen` gets the mount program that turns out to be needed.

    Raises:
        DriverNotSupported, IncompatibleFilesystem: it does not work here, and no mount program is installed.
        NotSupported: the layers that are there need one.
        ConfigError: limits are configured where none can be had, or composefs without its program.
    """
    home = settings.home
    for each in layout.own:
        files.make_dirs(each)
        files.make_dirs(f"{each}/l", 0o755)
    files.make_dirs(settings.run_home)
    if os.geteuid() != 0:
        return None  # nothing can be mounted; layers can be looked at, as far as they may be read
    # Before anything is tried: the mount of a trial that is killed would lie hidden under this one, where nobody
    # could unmount it any more.
    is_new = not chosen.skip_mount_home and newmount.bind_private(home)
    refusal = None
    try:
        if not chosen.mount_program:
            refusal = _refusal(settings, features, magic)
            if refusal is not None:
                chosen.mount_program = program.look_for(program.NAME)
                if not chosen.mount_program:
                    raise refusal
        if chosen.use_composefs:
            _require_composefs(settings)
        if chosen.mount_program:
            program.keep_needed(home, True)
            if settings.rootless and chosen.force_mask is None and backing.is_network(magic):
                _warn("%s is on a network, whose owners are not ours: using force_mask 0700", home)
                chosen.force_mask = _MASK_FOR_NETWORK
        else:
            # A mount option that cannot be used shows here, not when the first container starts.
            features.metacopy()
        return _quota(home, chosen, magic)
    except BaseException as error:
        if is_new:
            mounts.unmount(home)
        if error is refusal:
            _forget(home)
        raise


def _refusal(settings: DriverOptions, features: Features, magic: int) -> NotSupported | None:
    """Why the kernel's overlay is not for this home; None if it is."""
    if program.is_needed(settings.home):
        return NotSupported(
            f"layers in {settings.home} were made with a mount program, and there is no {program.NAME}"
        )
    if magic in _NOT_BELOW or (settings.rootless and backing.is_network(magic)):
        name = backing.name_of(magic)
        return IncompatibleFilesystem(
            f"overlay on {name} needs a mount program, and there is no {program.NAME}",
            peer=f"'overlay' is not supported over {name}, a mount_program is required: "
            + IncompatibleFilesystem.peer,
        )
    try:
        features.require_overlay()
    except NotSupported as error:
        return error
    return None


def _require_composefs(settings: DriverOptions) -> None:
    if settings.rootless:
        raise NotSupported(
            f"use_composefs is for the host's root, and {settings.home} is an ordinary user's",
            peer="composefs is not supported in user namespaces",
        )
    from orlop.drivers.overlay import composefs

    composefs.require_program()


def _forget(home: str) -> None:
    try:
        os.rmdir(f"{home}/l")
        if os.listdir(home) == [program.FLAG]:
            os.unlink(f"{home}/{program.FLAG}")
        os.rmdir(home)
    except OSError:
        return  # there are layers


# --- limits -------------------------------------------------------------------------------------------------


def _quota(home: str, chosen: OverlayOptions, magic: int) -> ProjectQuota | None:
    wanted = chosen.size_bytes or chosen.inodes
    if magic == backing.XFS:
        from orlop.system.quota import ProjectQuota

        try:
            return ProjectQuota(home)
        except OSError as error:
            if not wanted:
                return None
            why, said = error.strerror, "storage options overlay.size and overlay.inodes not supported. "
            said += f"Filesystem does not support Project Quota: {why}"
    elif wanted:
        why = f"{home} is on {backing.name_of(magic)}, not on xfs"
        said = "storage option overlay.size and overlay.inodes only supported for backingFS XFS. "
        said += f"Found {backing.name_of(magic)}"
    else:
        return None
    raise ConfigError(f"layers cannot be limited (overlay.size, overlay.inodes): {why}", peer=said)


def limits(
    wanted: Mapping[str, str], chosen: OverlayOptions, quota: ProjectQuota | None, writable: bool
) -> tuple[int, int]:
    """(bytes, inodes) that a new layer may have; 0: as many as there are. `wanted` are its storage options.

    Raises:
        NotSupported: there are no limits here, or it is no layer to be limited.
        ConfigError: a value that is none.
    """
    if wanted and not writable:
        raise NotSupported(
            f"limits ({', '.join(wanted)}) are for writable layers",
            peer=f"--storage-opt {min(wanted)} is only supported for ReadWrite Layers",
        )
    if wanted and quota is None:
        raise NotSupported(
            f"limits of a single layer ({', '.join(wanted)}) need xfs with project quota",
            peer="--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        )
    size, inodes = chosen.size_bytes, chosen.inodes
    for key, value in wanted.items():
        if key.lower() == "size":
            size = options.parse_size(value)
        elif key.lower() == "inodes":
            inodes = options.parse_count(value)
        else:
            raise NotSupported(f'"{key}" is no option of a layer', peer=f"unknown option {key}")
    return size, inodes


def _warn(text: str, *arguments: object) -> None:
    from orlop.system import log

    log.warn(__name__, text, *arguments)
