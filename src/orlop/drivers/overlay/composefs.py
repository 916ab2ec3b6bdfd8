"""Layers as composefs keeps them: names in an EROFS image, data apart (`spec/drivers.md` 4.16, `spec/chunked.md` 23).

    <id>/composefs-data/composefs.blob     names, owners, modes, attributes; of a file its place in `diff`
    <id>/diff/<2 digits>/<62 digits>       the data of files, named by digest: overlay's data-only layer

Whoever can mount can read such layers, whatever the option `use_composefs` says; it decides how new ones are kept.

Rule 1: An image is mounted where nobody sees it, read-only, and is gone with its last handle.
Rule 2: A place in `diff` is believed only if it is spelled like a digest: the image may be somebody else's.
Rule 3: What is in an image was decided when it was made; a layer that has one is never written to.

LIMIT: `mkcomposefs` keeps whiteouts and opaque marks for overlays mounted inside: in a layer they delete nothing,
with the peers neither. Layers that have any must not be made into images. It also puts whiteouts `00` to `ff` into
the root, for kernels without data-only layers: what layers below have there under such a name is hidden.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from orlop.drivers.api import LayerFiles
from orlop.drivers.layerfiles import DirectoryFiles
from orlop.drivers.overlay import program
from orlop.drivers.overlay.content import BLOBS
from orlop.errors import BadRecords, ConfigError, NotSupported, UnsafePath
from orlop.system import files
from orlop.system.beneath import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.drivers.overlay.content import Content

BLOB = f"{BLOBS}/composefs.blob"
PROGRAM = "mkcomposefs"

_HEADER = struct.Struct("<III")  # magic number, version, flags
_MAGIC = 0xD078_629A
_HAS_ACL = 1

_REDIRECT = "trusted.overlay.redirect"
_DIGITS = frozenset(b"0123456789abcdef")
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


# --- seeing what is in an image -----------------------------------------------------------------------------


def mount(layer: str) -> int:
    """A handle of the root of the names of the layer in the directory `layer`; the mount hangs nowhere.

    Raises:
        BadRecords: the file is no image of composefs.
        NotSupported: the kernel has no EROFS.
    """
    fd = _open(layer)
    try:
        has_acl = _flags(fd, layer) & _HAS_ACL
        try:
            return _mount_erofs(f"/proc/self/fd/{fd}", has_acl)
        except OSError as error:
            if error.errno != errno.ENOTBLK:  # Linux before 6.12: from devices only
                raise
        from orlop.system.loops import loop_device

        with loop_device(fd) as device:
            return _mount_erofs(device, has_acl)
    finally:
        os.close(fd)


def _open(layer: str) -> int:
    return os.open(f"{layer}/{BLOB}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _flags(fd: int, layer: str) -> int:
    head = os.pread(fd, _HEADER.size, 0)
    magic, _, flags = _HEADER.unpack(head) if len(head) == _HEADER.size else (0, 0, 0)
    if magic != _MAGIC:
        path = f"{layer}/{BLOB}"
        raise BadRecords(f"{path} is no image of composefs: it begins with {head[:4]!r}", path=path)
    return int(flags)


def _mount_erofs(source: str, has_acl: int) -> int:
    from orlop.system import libc, newmount

    try:
        context = newmount.Context("erofs")
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        raise NotSupported("layers kept by composefs need EROFS, which this kernel does not have") from None
    with context:
        context.set("source", source)
        context.set("ro")
        if not has_acl:
            context.set("noacl")  # spares the kernel a look at the attributes of each file
        return context.mount(libc.MOUNT_ATTR_RDONLY)


class BlobFiles(LayerFiles):
    """The files of a layer by name: the names in its image, the data in its `diff`."""

    def __init__(self, content: Content) -> None:
        self._data = DirectoryFiles([content.directory])
        try:
            self._names = mount(content.layer)
        except BaseException:
            self._data.close()
            raise
        self._root = Root(self._names)

    def close(self) -> None:
        self._root.forget()
        os.close(self._names)
        self._data.close()

    def open(self, name: bytes) -> int:
        parent, last = self._root.parent(name)
        handle = os.open(last, _LOOK, dir_fd=parent)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UnsafePath(f"{os.fsdecode(name)!r} of the layer is not a regular file", path=name)
            itself = f"/proc/self/fd/{handle}"
            try:
                place = os.getxattr(itself, _REDIRECT)
            except OSError as error:
                if error.errno != errno.ENODATA:
                    raise
                return os.open(
                    itself, os.O_RDONLY | os.O_CLOEXEC
                )  # empty, or so small that it is in the image
        finally:
            os.close(handle)
        if not (len(place) == 66 and place[0:4:3] == b"//" and _DIGITS.issuperset(place[1:3] + place[4:])):
            raise UnsafePath(f"the data of {os.fsdecode(name)!r} is at {place!r}: wanted a digest", path=name)
        return self._data.open(place)


# --- making an image ----------------------------------------------------------------------------------------


def require_program() -> str:
    """The path of the program that makes images.

    Raises:
        ConfigError: it is not installed.
    """
    path = program.look_for(PROGRAM)
    if not path:
        raise ConfigError(
            f"use_composefs needs the program {PROGRAM}, which is not in PATH",
            peer=f'composefs helper program not found: exec: "{PROGRAM}": executable file not found in $PATH',
        )
    return path


def write_blob(dump: Iterable[bytes], layer: str) -> None:
    """Make the image of a layer from a dump, the text of `spec/chunked.md` 23, in pieces of any length.

    `layer` is the layer's directory; the files that the dump names are, or will be, in its `diff`. Nothing stays of
    an image that could not be finished. Where the file system has fs-verity the image is protected by it. Making it
    durable is `sync`'s.

    Raises:
        ConfigError: there is no program for it.
        OSError: the program failed, with what it said; or FileExistsError, there is an image.
        BadRecords: what it wrote is no image.
    """
    path = require_program()
    os.mkdir(f"{layer}/{BLOBS}", 0o700)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(f"{layer}/{BLOB}", flags, 0o644)
        try:
            os.fchmod(fd, 0o644)
            program.run([path, "--from-file", "-", "-"], directory="/", text=dump, output=fd)
        finally:
            os.close(fd)
        _seal(layer)
    except BaseException as error:
        try:
            files.remove_tree(f"{layer}/{BLOBS}")
        except OSError as left:
            error.add_note(f"what was made of the image could not be removed: {left}")
        raise


def _seal(layer: str) -> None:
    from orlop.system import verity

    fd = _open(layer)
    try:
        _flags(fd, layer)
        verity.enable(fd)
    finally:
        os.close(fd)
