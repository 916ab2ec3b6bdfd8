"""Overlay file systems: mounting them, and recognising where one is mounted (`spec/drivers.md` 1.2 and 4.6).

Two methods, with the same result:

    new   layer by layer, each by its descriptor (Linux 6.8). Nothing has to be spelled, so any name will do, and no
          number of layers is too long to say.
    old   mount(2), which takes a text of less than a page; `system.longmount` makes it fit.

Rule 1: The mount point is a handle, opened once without following a symlink. If it came as a path, that path is
        looked at again afterwards; if it leads elsewhere by then, the mount is undone (CVE-2021-30465).
Rule 2: What failed leaves no mount, no descriptor and no thread.
"""

from __future__ import annotations

import errno
import os

from orlop.system import libc, mounts, newmount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Layer = str | int
    """An absolute path, or an open directory."""

_OVERLAY = 0x794C_7630
_FUSE = 0x6573_5546

_VALUE = 255
"""The length of an option's value that fsconfig takes."""

_PROPAGATION = mounts.MS_UNBINDABLE | mounts.MS_PRIVATE | mounts.MS_SLAVE | mounts.MS_SHARED

# What mount(2) takes as flags is in part a matter of the mount, in part of the file system, for the newer calls.
_NOATIME, _STRICTATIME, _RELATIME = 0x400, 0x100_0000, 0x20_0000
_OF_MOUNT = {
    mounts.MS_RDONLY: libc.MOUNT_ATTR_RDONLY,
    0x2: libc.MOUNT_ATTR_NOSUID,
    0x4: libc.MOUNT_ATTR_NODEV,
    0x8: libc.MOUNT_ATTR_NOEXEC,
    0x800: libc.MOUNT_ATTR_NODIRATIME,
}
_OF_FILESYSTEM = {mounts.MS_RDONLY: "ro", 0x10: "sync", 0x40: "mand", 0x80: "dirsync"}
_FLAGS = sum(_OF_MOUNT) | sum(_OF_FILESYSTEM) | _NOATIME | _STRICTATIME | _RELATIME | _PROPAGATION


def mount(
    target: str | int,
    *,
    lowers: Sequence[Layer],
    data_only: Sequence[Layer] = (),
    upper: Layer | None = None,
    work: Layer | None = None,
    flags: int = 0,
    data: Sequence[str] = (),
    label: str = "",
    home: str,
    detached: Sequence[tuple[int, str]] = (),
    method: str | None = None,
) -> None:
    """Mount an overlay on `target`: the path of a directory, or better its handle.

    `lowers` begin with the nearest; `data_only` are for `metacopy=on` and are not seen themselves. Without `upper`
    and `work` nothing can be written, and there must be two lowers. `flags` and `data` are what
    `mounts.split_options` makes of the options; `label` is an SELinux label. `home` is the directory that most
    layers are in. `method` is "new" or "old"; left out, it is whichever works here.

    `detached` are the mounts, by handles of their roots, on which layers given as descriptors lie and which hang
    nowhere, each with a directory: where the kernel refuses such layers (before Linux 6.15) the mount is attached
    there for the moment.

    Raises `OSError` with what the kernel says about which option, and `LimitExceeded` if mount(2) cannot take it.
    """
    overlay = _Overlay(lowers, data_only, upper, work, flags & ~mounts.MS_REC, data, label)
    if method is None:
        method = "new" if overlay.fits_new_method() and _takes_layers_one_by_one() else "old"
    try:
        _mount(overlay, target, home, method)
    except OSError as error:
        if error.errno != errno.EINVAL or not detached:
            raise
        with newmount.attached(detached):
            _mount(overlay, target, home, method)


def is_overlay(path: str) -> bool:
    """Whether an overlay is mounted at `path` itself, not somewhere above it. False also if it cannot be asked."""
    return _kind_mounted_at(path) == _OVERLAY


def is_fuse(path: str) -> bool:
    """Like `is_overlay`, for a file system in user space. One whose program died is not mounted."""
    return _kind_mounted_at(path) == _FUSE


def _kind_mounted_at(path: str) -> int | None:
    try:
        fd = os.open(path, newmount.DIRECTORY | os.O_NOFOLLOW)
        try:
            mounted = os.fstat(fd).st_dev != os.stat("..", dir_fd=fd).st_dev
            return libc.filesystem_magic(fd) if mounted else None
        finally:
            os.close(fd)
    except OSError:
        return None  # the peers take it so, too: what cannot be reached is to be mounted again


# --- what is mounted ----------------------------------------------------------------------------------------


class _Overlay:
    """An overlay to be made, as it was asked for; a wrong call is refused here."""

    def __init__(
        self,
        lowers: Sequence[Layer],
        data_only: Sequence[Layer],
        upper: Layer | None,
        work: Layer | None,
        flags: int,
        data: Sequence[str],
        label: str,
    ) -> None:
        if not lowers or (upper is None) != (work is None):
            raise ValueError("an overlay has lower directories, and an upper and a work directory or neither")
        if '"' in label:
            raise ValueError("a label with a quotation mark would end its option early")
        if flags & ~_FLAGS:
            raise OSError(
                errno.EINVAL, f"no flags to make a mount with (remount, bind?): {flags & ~_FLAGS:#x}"
            )
        self.lowers = lowers
        self.data_only = data_only
        self.above = () if upper is None or work is None else (("upperdir", upper), ("workdir", work))
        for layer in (*lowers, *data_only, *[layer for _, layer in self.above]):
            if isinstance(layer, str) and not layer.startswith("/"):
                raise ValueError(f"the path of a layer must be absolute, not {layer!r}")
        self.flags = flags
        self.data = data
        self.label = label
        self.parameters = list(_parameters(data))

    def fits_new_method(self) -> bool:
        values = [value or "" for _, value in self.parameters]
        return all(len(os.fsencode(value)) <= _VALUE for value in (*values, self.label))

    def directories(self, spelled: Callable[[Layer], str]) -> list[str]:
        """The options for mount(2) that name layers, given how to spell one."""
        below = ":".join(map(spelled, self.lowers)) + "".join(
            "::" + spelled(layer) for layer in self.data_only
        )
        return [f"lowerdir={below}", *[f"{key}={spelled(layer)}" for key, layer in self.above]]


def _mount(overlay: _Overlay, target: str | int, home: str, method: str) -> None:
    handle = os.open(target, newmount.DIRECTORY | os.O_NOFOLLOW) if isinstance(target, str) else target
    root = None
    try:
        if method == "new":
            root = _put_together(overlay)
            newmount.attach(root, handle)
        else:
            from orlop.system import longmount

            options = [*overlay.data, f'context="{overlay.label}"'] if overlay.label else overlay.data
            flags = overlay.flags & ~_PROPAGATION
            root = longmount.mount(handle, "overlay", overlay.directories, options, flags=flags, home=home)
        try:
            if overlay.flags & _PROPAGATION:
                libc.mount(None, f"/proc/self/fd/{root}", None, overlay.flags & _PROPAGATION)
            if isinstance(target, str):
                _must_show(target, root)
        except BaseException:
            newmount.detach(root)
            raise
    except OSError as error:
        if error.filename is None:
            error.filename = target if isinstance(target, str) else os.readlink(f"/proc/self/fd/{target}")
        raise
    finally:
        if root is not None:
            os.close(root)
        if handle is not target:
            os.close(handle)


def _must_show(path: str, root: int) -> None:
    """Rule 1: the mount is where whoever asked for it will look for it."""
    again = os.open(path, newmount.DIRECTORY | os.O_NOFOLLOW)
    try:
        if not os.path.samestat(os.fstat(again), os.fstat(root)):
            raise OSError(errno.ESTALE, "the mount point was replaced while it was mounted on", path)
    finally:
        os.close(again)


# --- the new method -----------------------------------------------------------------------------------------

_one_by_one: bool | None = None


def _takes_layers_one_by_one() -> bool:
    """Whether this kernel has the calls, and its overlay the options. Asked once."""
    global _one_by_one
    if _one_by_one is None:
        _one_by_one = _ask_kernel()
    return _one_by_one


def _ask_kernel() -> bool:
    try:
        with newmount.Context("overlay") as context:
            # Not how the option is used. Before Linux 6.5 any option is noted for later; then it was unknown.
            context.set("lowerdir+")
    except OSError as error:
        # EPERM: a sandbox that does not know the calls may well allow mount(2).
        return error.errno == errno.EINVAL and "Unknown parameter" not in str(error)
    return False


def _put_together(overlay: _Overlay) -> int:
    """The handle of an overlay's root. It hangs nowhere yet."""
    flags = overlay.flags
    with newmount.Context("overlay") as context:
        context.set("source", "overlay")  # as the table of mounts names it when mount(2) made it
        for layer in overlay.lowers:
            _add(context, "lowerdir+", layer)
        for layer in overlay.data_only:
            _add(context, "datadir+", layer)
        for key, layer in overlay.above:
            _add(context, key, layer)
        for flag, word in _OF_FILESYSTEM.items():
            if flags & flag:
                context.set(word)
        for key, value in overlay.parameters:
            context.set(key, value)
        if overlay.label:
            context.set("context", overlay.label)
        attributes = 0
        for flag, attribute in _OF_MOUNT.items():
            if flags & flag:
                attributes |= attribute
        if flags & _STRICTATIME:
            attributes |= libc.MOUNT_ATTR_STRICTATIME
        elif flags & _NOATIME:
            attributes |= libc.MOUNT_ATTR_NOATIME
        return context.mount(attributes)


def _add(context: newmount.Context, key: str, layer: Layer) -> None:
    fd = layer if isinstance(layer, int) else os.open(layer, newmount.DIRECTORY)
    try:
        try:
            context.set(key, fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EBADF):
                raise
            # Linux 6.13 takes no O_PATH descriptors here, and older ones none at all.
            context.set(key, f"/proc/self/fd/{fd}")
    except OSError as error:
        where = layer if isinstance(layer, str) else os.readlink(f"/proc/self/fd/{layer}")
        raise OSError(error.errno, error.strerror, where) from None
    finally:
        if fd is not layer:
            os.close(fd)


def _parameters(data: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(key, value) of the options; what has no `=` has no value. Read as the kernel reads one text of them.

    What has no key is passed over. A label may be in quotation marks, for its commas; they have become the ends of
    words here, and it is put together again.
    """
    open_label = ""
    for word in data:
        option = f"{open_label},{word}" if open_label else word
        open_label = ""
        key, equals, value = option.partition("=")
        if option.startswith(_LABELS):
            if value.count('"') % 2:
                open_label = option
                continue
            value = value.replace('"', "")
        if key:
            yield key, value if equals else None
    if open_label:
        raise OSError(errno.EINVAL, f"mount option {open_label}: a quotation mark is missing")


_LABELS = ("context=", "fscontext=", "defcontext=", "rootcontext=")
