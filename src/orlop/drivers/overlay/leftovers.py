"""What dead processes leave in an overlay home besides layers (`spec/drivers.md` 4.12, 4.14, 4.15).

    l/<short name>                of a layer that is gone: the peers remove those of home only, never an image store's
    staging/<random>              of a partial pull that ended; its `staging.lock` is free then
    .tmp-...                      a file that was never finished; such files are written under `storage.lock`
    <run home>/<id>               where a layer of another home was mounted

Rule 1: A lock decides, not an age. What has no lock file may be anybody's: older peers take none, and their staging
        directories are the content itself.
Rule 2: A short name that a layer's `lower` file mentions stays: it is all that tells which layer is missing.
Rule 3: A symlink where a directory should be is nothing of ours, and is not looked behind.
"""

from __future__ import annotations

import os
import stat

from orlop.drivers.api import Leftover
from orlop.drivers.overlay import links
from orlop.drivers.overlay.layout import STAGING, STAGING_LOCK, TEMP_ROOT
from orlop.errors import Conflict, StorageError
from orlop.system import files, mounts
from orlop.system.ownlock import is_owned, own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.drivers.api import SetAside
    from orlop.drivers.overlay.layout import Layout


def find(layout: Layout) -> list[Leftover]:
    """Everything of that kind in the homes that are ours."""
    found = []
    for home in layout.own:
        found += [*_dangling(home, layout), *_unfinished(home), *_staging(home)]
    return [*found, *_mount_points(layout.run_home)]


def drop(leftover: Leftover, set_aside: SetAside) -> None:
    """Take one away; see `SupportsLeftovers`."""
    path = leftover.path
    parent = os.path.dirname(path)
    if os.path.basename(parent) == STAGING:
        lock = own(f"{path}/{STAGING_LOCK}")
        if lock is None:
            raise Conflict(f"{path} is in use by a partial pull", path=path)
        try:
            set_aside(path, f"{os.path.dirname(parent)}/{TEMP_ROOT}")
        finally:
            lock.close()
    elif leftover.kind == "directory":
        files.remove_tree(
            path
        )  # empty but for mount points, and on another file system than any place for rubbish
    elif not _is_in_use(path):  # by a layer that was made again since this was found
        os.unlink(path)


def _is_in_use(path: str) -> bool:
    """Whether this is the short name by which a layer is known."""
    home, name = os.path.dirname(os.path.dirname(path)), os.path.basename(path)
    try:
        id = links.id_of(os.readlink(path))
    except OSError:
        return False
    return id is not None and links.read(f"{home}/{id}") == name


def needs(layout: Layout, id: str) -> list[str]:
    """The layers, of our own homes, that a layer's `lower` lists and that are there; see `DependsOnLayers`."""
    directory = layout.find(id)
    found = []
    for entry in layout.entries(directory) if directory is not None else ():
        for home in layout.homes:
            try:
                lower = links.id_of(os.readlink(f"{home}/{entry}"))
            except FileNotFoundError:
                continue
            if lower is not None and home in layout.own:
                found.append(lower)
            break
    return found


def remove_staging(directory: str) -> None:
    """Delete a directory in which content was made ready; its lock is held.

    First of all it gets a name that tells that it is rubbish: if we die when the lock file is gone and the rest is
    not, it would be anybody's under the old one.
    """
    above, name = os.path.split(directory)
    rubbish = directory if name.startswith(files.TEMPORARY) else f"{above}/{files.TEMPORARY}{name}"
    try:
        os.rename(directory, rubbish)
    except FileNotFoundError:
        return  # peers as old as 1.43 ask for no lock
    files.remove_tree(rubbish)


def clear_staging(layout: Layout) -> bool:
    """Delete the directories of partial pulls that ended; False if others, or what is not known, are still there."""
    all_gone = True
    for home in layout.own:
        for found in _staging(home):
            lock = None if found.keep else own(f"{found.path}/{STAGING_LOCK}")
            if lock is None:
                all_gone = False
                continue
            try:
                remove_staging(found.path)
            finally:
                lock.close()
    return all_gone


def _dangling(home: str, layout: Layout) -> Iterator[Leftover]:
    broken = []
    for name in _listed(f"{home}/l"):
        path = f"{home}/l/{name}"
        try:
            target = os.readlink(path)
        except OSError:
            continue  # no symlink, and so no short name
        id = links.id_of(target)
        if id is None:
            reason = f"it leads to {target!r}, which is no layer; whoever made it knows why"
            yield Leftover("link", path, reason, keep=True)
        elif not os.path.lexists(f"{home}/{id}"):
            broken.append((name, path, id))
    if not broken:
        return
    mentioned, doubt = _mentioned(layout)
    for name, path, id in broken:
        if doubt:
            yield Leftover("link", path, doubt, keep=True)
        elif name in mentioned:
            reason = f"layer {mentioned[name]} needs it: the layer {id} that it led to is missing"
            yield Leftover("link", path, reason, keep=True)
        else:
            yield Leftover("link", path, f"the layer {id} that it leads to is gone")


def _mentioned(layout: Layout) -> tuple[dict[str, str], str]:
    """The short names in the `lower` files of all layers, each with one of these layers; or why one is unknown."""
    mentioned: dict[str, str] = {}
    for home in layout.own:
        for id in _listed(home):
            directory = f"{home}/{id}"
            try:
                if stat.S_ISDIR(os.lstat(directory).st_mode):
                    mentioned |= {entry[2:]: id for entry in layout.entries(directory)}
            except (OSError, StorageError) as error:
                return {}, f"what layer {id} needs cannot be told: {error}"
    return mentioned, ""


def _unfinished(home: str) -> Iterator[Leftover]:
    for name in _listed(home):
        path = f"{home}/{name}"
        if name.startswith(files.TEMPORARY) and stat.S_ISREG(os.lstat(path).st_mode):
            yield Leftover("file", path, "its writer is gone, and never finished it")


def _staging(home: str) -> Iterator[Leftover]:
    for name in _listed(f"{home}/{STAGING}"):
        path = f"{home}/{STAGING}/{name}"
        lock = f"{path}/{STAGING_LOCK}"
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            yield Leftover("file", path, "it is no directory of a partial pull", keep=True)
        elif not os.path.lexists(lock) and name.startswith(files.TEMPORARY):
            # One of ours, between two calls or dead. If it is alive it finds out, and makes another.
            yield Leftover("directory", path, "the partial pull that was to use it never began")
        elif not os.path.lexists(lock):
            reason = "it has no lock that would tell whether its process is alive"
            yield Leftover("directory", path, reason, keep=True)
        else:
            yield _asked(path, lock)


def _asked(path: str, lock: str) -> Leftover:
    """What the lock of a partial pull says about its directory."""
    try:
        owned = is_owned(lock)
    except OSError as error:
        return Leftover("directory", path, f"its lock cannot be asked: {error}", keep=True)
    reason = "a partial pull is using it" if owned else "the partial pull that used it is gone"
    return Leftover("directory", path, reason, keep=owned)


def _mount_points(run_home: str) -> Iterator[Leftover]:
    """Directories that are made by mounting, under the lock of the layers, and are of use only while that lasts."""
    mounted = {mount.point for mount in mounts.mount_table()}
    for id in _listed(run_home):
        path = f"{run_home}/{id}"
        if not stat.S_ISDIR(os.lstat(path).st_mode) or set(_listed(path)) - {"merged", "composefs-layers"}:
            continue
        below = os.path.realpath(path) + "/"
        if not any(point.startswith(below) for point in mounted):
            yield Leftover("directory", path, "nothing is mounted there any more")


def _listed(directory: str) -> list[str]:
    """The names in one of our directories, in order; none if it is not there, or a symlink is in its place."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)
