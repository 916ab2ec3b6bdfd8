"""Copying a file, or what is in a directory, from one tree into another, each with its id maps (`spec/cli.md` 8.6).

    with Tree(mount_point, layer.mappings) as layer, Tree("/") as host:
        copy(host, b"/home/me/site", layer, b"/srv/www")

Rule 1: a path is resolved beneath the root of its tree, and symlinks end inside it: a layer's `etc -> /etc` is the
        layer's own.
Rule 2: nothing is left out without an error, but for what vanishes meanwhile and for sockets.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import ConfigError
from orlop.model.idmap import IDENTITY
from orlop.stream import pack
from orlop.stream.pieces import PieceStream
from orlop.stream.reader import TarReader
from orlop.stream.unpack import Unpacker
from orlop.system import beneath
from orlop.system.descent import GONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from orlop.model.idmap import IDMappings
    from orlop.stream.pieces import Piece

    Owner = tuple[int, int]

_HANDLE = os.O_PATH | os.O_CLOEXEC


class Tree:
    """A directory and what is below it: where copies come from, or go to. A context manager.

    `mappings`: what the tree's owners mean to those who live in it; files on disk have the host's ids.
    """

    def __init__(self, directory: str, mappings: IDMappings = IDENTITY) -> None:
        self.mappings = mappings
        self._directory = directory

    def __enter__(self) -> Self:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Our own root needs no confinement, and has places such as /dev/fd that are reached by magic only.
        self.root = beneath.Root(fd, beneath.inside_chroot if self._directory == "/" else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.root.forget()
        os.close(self.root.fd)


def copy(
    source: Tree,
    path: bytes,
    target: Tree,
    to: bytes,
    *,
    keep_name: bool = False,
    owner: Owner | None = None,
    in_userns: bool = False,
) -> None:
    """Copy a file to the name `to`, or what is in a directory into the directory `to`. Owners, modes, times to the
    nanosecond, extended attributes of layers and hard links are kept.

    Directories that are missing are made: those above a file for the host's root alone, others like one that root of
    the target made.

    Args:
        path, to: absolute, from the roots of the trees. A symlink at `path` is followed, one at `to` is replaced.
        keep_name: `to` is the directory that a file is put into, instead of its new name.
        owner: who owns the copies, as the target tree knows him; left out, who owns the originals in theirs.
        in_userns: this process is root of a user namespace only, where no devices can be made.

    Raises:
        InvalidMappings: an owner that the maps of one of the trees do not cover.
        ConfigError: a directory would be copied into itself.
        OSError: whatever the system says; its file name is `path` itself if that cannot be found.
    """
    mappings = IDENTITY if owner else source.mappings
    handle = _opened(source, path)
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            made_for = target.mappings.to_host(*owner) if owner else target.mappings.root()
            place = _make_directories(target, to, 0o755, made_for)
            pieces = pack.pack_tree(_name(handle), mappings=mappings, exact_times=True, on_skip=_raise)
        else:
            above, name = (to, os.path.basename(path)) if keep_name else os.path.split(to)
            place = _make_directories(target, above, 0o700, None)
            pieces = pack.pack_handle(handle, name, mappings=mappings, on_skip=_raise)
        try:
            if stat.S_ISDIR(os.fstat(handle).st_mode):
                _refuse_inside(handle, place, path)
            else:
                _refuse_directory(place, name)
            _transfer(pieces, place, target.mappings, owner, in_userns)
        finally:
            os.close(place)
    finally:
        os.close(handle)


def _opened(tree: Tree, path: bytes) -> int:
    try:
        return tree.root.open(path, _HANDLE)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _transfer(
    pieces: Iterator[Piece], place: int, mappings: IDMappings, owner: Owner | None, in_userns: bool
) -> None:
    with (
        PieceStream(pieces) as stream,
        Unpacker(_name(place), rules="tree", mappings=mappings, in_userns=in_userns) as unpacker,
    ):
        reader = TarReader(stream)
        for entry in reader:
            if owner:
                entry.uid, entry.gid = owner
            unpacker.entry(entry)
            for view in reader.payload():
                unpacker.data(view)
        unpacker.finish()


def _make_directories(tree: Tree, path: bytes, mode: int, owner: Owner | None) -> int:
    """An open handle of the directory at `path`; it and those above it are made if they are missing."""
    names = [name for name in path.split(b"/") if name]
    for depth in range(1, len(names) + 1):
        above, name = b"/".join(names[: depth - 1]), names[depth - 1]
        try:
            tree.root.directory(b"/".join(names[:depth]))
        except FileNotFoundError:
            at = tree.root.directory(above)
            os.mkdir(name, mode, dir_fd=at)
            fd = os.open(name, beneath.DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            try:
                os.fchmod(fd, mode)
                if owner:
                    os.fchown(fd, *owner)
            finally:
                os.close(fd)
    return os.dup(tree.root.directory(b"/".join(names)))


def _refuse_inside(source: int, place: int, path: bytes) -> None:
    """A directory that is copied into itself would grow while it is read."""
    sought = os.fstat(source)
    at = os.dup(place)
    try:
        while True:
            status = os.fstat(at)
            if os.path.samestat(status, sought):
                raise ConfigError(f"directory {os.fsdecode(path)!r} cannot be copied into itself")
            above = os.open(b"..", beneath.DIRECTORY, dir_fd=at)
            os.close(at)
            at = above
            if os.path.samestat(os.fstat(at), status):
                return
    finally:
        os.close(at)


def _refuse_directory(place: int, name: bytes) -> None:
    try:
        status = os.stat(name or b".", dir_fd=place, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "cannot overwrite a directory with a file", name or b"/")


def _raise(path: bytes, error: Exception) -> None:
    if not (isinstance(error, OSError) and error.errno in GONE):
        raise error


def _name(handle: int) -> str:
    """A path of an open directory that is no symlink itself."""
    return f"/proc/self/fd/{handle}/."
