"""Making layers visible, and undoing it (`spec/drivers.md` 1.2, 4.6 to 4.8, 4.16).

Rule 1: A layer of home is mounted on `<id>/merged`. One that lies elsewhere is mounted read-only, in the run home:
        nothing is ever made in another store.
Rule 2: A mount that fails leaves no mount and no count.
Rule 3: Unmounting puts a new, empty `merged` in the place of the old one. Another mount namespace may still have
        the layer mounted on the old one, and would keep it from being removed.
"""

from __future__ import annotations

import _thread
import errno
import os

from orlop.drivers.overlay import below, content, program
from orlop.errors import NotSupported
from orlop.model.idmap import IDENTITY
from orlop.system import files, mounts, overlayfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.drivers.overlay.content import Content
    from orlop.drivers.overlay.layout import Layout
    from orlop.drivers.overlay.options import OverlayOptions
    from orlop.drivers.overlay.probe import Features
    from orlop.model.idmap import IDMappings

_METACOPY = "metacopy=on"
_FOR_BLOBS = [_METACOPY, "redirect_dir=on"]
"""By which overlay finds the data of what is in an image."""


class Counter:
    """How often this process mounted what, as far as it is still so."""

    def __init__(self, is_mounted: Callable[[str], bool]) -> None:
        self._is_mounted = is_mounted
        self._counts: dict[str, int] = {}
        self._lock = _thread.allocate_lock()

    def add(self, point: str, change: int) -> int:
        """The new count. What somebody else mounted counts once; what he unmounted counts no more."""
        with self._lock:
            mounted = self._is_mounted(point)
            count = self._counts.get(point)
            if count is None:
                count = 1 if mounted else 0
            elif not mounted:
                count = 0
            count += change
            if count > 0:
                self._counts[point] = count
            else:
                self._counts.pop(point, None)
            return count

    def forget(self, point: str) -> None:
        with self._lock:
            self._counts.pop(point, None)


class Mounter:
    """Mounts the layers of one home."""

    def __init__(
        self, layout: Layout, options: OverlayOptions, features: Features, *, rootless: bool
    ) -> None:
        self._layout = layout
        self._options = options
        self._features = features
        self._rootless = rootless
        self._counter = Counter(overlayfs.is_fuse if options.mount_program else overlayfs.is_overlay)

    def mount(
        self,
        id: str,
        *,
        label: str = "",
        mappings: IDMappings = IDENTITY,
        options: Sequence[str] = (),
        volatile: bool = False,
    ) -> str:
        """Mount a layer, or count one more mount of it; the mount point.

        `mappings` are applied to the lower layers; what the layer itself holds has the host's ids already.
        """
        directory = self._layout.directory(id)
        point = self._point(directory, id)
        _make_point(point, mappings.root())
        if self._counter.add(point, 1) > 1:
            return point
        try:
            self._mount(directory, point, label, mappings, self._words(options), volatile)
        except BaseException:
            self._counter.add(point, -1)
            raise
        return point

    def unmount(self, id: str, *, last: bool = False) -> None:
        """Undo one `mount`, or with `last` all. Unmounting what is not mounted is fine."""
        directory = self._layout.find(id)
        if directory is None:
            raise FileNotFoundError(2, "the layer has no directory", f"{self._layout.home}/{id}")
        point = self._point(directory, id)
        if last:
            self._counter.forget(point)
        elif self._counter.add(point, -1) > 0:
            return
        below.clear(os.path.dirname(point), remove=not point.startswith(directory))
        try:
            if self._options.mount_program:
                program.unmount(point)
            else:
                mounts.unmount(point)
        except FileNotFoundError:
            pass
        if point.startswith(directory):
            _renew(point)
        else:
            _remove_point(point)

    def _point(self, directory: str, id: str) -> str:
        at_home = os.path.dirname(directory) == self._layout.home
        return f"{directory}/merged" if at_home else f"{self._layout.run_home}/{id}/merged"

    # --- options ----------------------------------------------------------------------------------------------

    def _words(self, given: Sequence[str]) -> list[str]:
        """The mount options: those given, or else those configured.

        Without `metacopy=on` the kernel does not follow what it wrote with it, so that one is kept; and where it
        does not work it is left out.
        """
        configured = self._options.mount_options
        words = list(given) or configured
        if _METACOPY in configured or _METACOPY in words:
            works = not self._options.mount_program and self._features.metacopy()
            if not works:
                words = [word for word in words if word != _METACOPY]
            elif _METACOPY in configured and _METACOPY not in words:
                words = [*words, _METACOPY]
        return words

    def _mount(
        self, directory: str, point: str, label: str, mappings: IDMappings, words: list[str], volatile: bool
    ) -> None:
        own = content.content_of(directory)
        under = self._layout.below(directory)
        writable = "ro" not in words and point.startswith(directory)
        by_program = self._options.mount_program
        if own.is_blob or any(lower.is_blob for lower in under):
            self._check_blobs(own, writable)
            words = [*words, *_FOR_BLOBS]
        if not by_program and self._rootless:
            words = [*words, "userxattr"]
        if volatile and "volatile" not in words and (by_program or self._features.volatile()):
            words = [*words, "volatile"]
        flags, text = mounts.split_options(",".join(words))
        data = text.split(",") if text else []
        upper, work = (own.directory, f"{directory}/work") if writable else (None, None)
        if upper and mappings:
            _own(upper, mappings.root())
        if work and os.path.lexists(f"{work}/work/incompat/volatile"):
            # The kernel refuses to go on where it was not told to write everything; we were.
            files.remove_tree(f"{work}/work/incompat/volatile")
        if not under:
            under = [content.Content(own.home, own.id, "empty")]
        with below.Below(
            None if writable else own, under, IDENTITY if by_program else mappings, os.path.dirname(point)
        ) as layers:
            if by_program:
                program.mount(
                    by_program,
                    point,
                    home=self._layout.home,
                    lowers=[str(layer) for layer in layers.layers],
                    upper=upper,
                    work=work,
                    data=data,
                    mappings=mappings,
                    force_mask=self._options.force_mask is not None,
                    label=label,
                )
                return
            apart = not layers.data or self._features.data_only_layers()
            if not apart and len(layers.data) > 1:
                # In each image are whiteouts for where the data of others would be looked for.
                raise NotSupported(
                    f"{len(layers.data)} images of composefs are below {point}, which takes a kernel with data-only "
                    "layers (Linux 6.5)",
                    path=directory,
                )
            overlayfs.mount(
                point,
                lowers=layers.layers if apart else layers.layers + layers.data,
                data_only=layers.data if apart else (),
                upper=upper,
                work=work,
                flags=flags,
                data=data,
                label=label,
                home=self._layout.home,
                detached=layers.detached,
            )

    def _check_blobs(self, own: Content, writable: bool) -> None:
        """Raise `NotSupported` where images of composefs cannot be among the layers."""
        if own.is_blob and writable:
            raise NotSupported(
                f"the layer at {own.layer} is an image of composefs, to which nothing can be written",
                peer="cannot mount a composefs layer as writeable",
                path=own.layer,
            )
        if self._options.mount_program or self._rootless:
            who = self._options.mount_program or "an ordinary user"
            raise NotSupported(
                f"the layer at {own.layer} is made of images of composefs, which {who} cannot mount",
                path=own.layer,
            )


# --- mount points -------------------------------------------------------------------------------------------


def _make_point(point: str, owner: tuple[int, int]) -> None:
    if os.path.lexists(point):
        return
    files.make_dirs(os.path.dirname(point))
    os.mkdir(point, 0o700)
    os.chown(point, *owner, follow_symlinks=False)


def _renew(point: str) -> None:
    """Rule 3."""
    try:
        if not _replace(point):
            mounts.unmount_below(point)  # somebody mounted something upon ours
            _replace(point)
            # If it is still in use, then by a mount hidden below a later one, and what we see is empty as it should.
    except FileNotFoundError:
        return


def _replace(point: str) -> bool:
    """Whether there is a new directory in the place of the mount point; False if something is mounted there."""
    status = os.lstat(point)
    new = f"{os.path.dirname(point)}/merged.1"
    try:
        os.mkdir(new, 0o700)
    except FileExistsError:
        pass  # of somebody who was interrupted
    os.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)
    try:
        os.rename(new, point)
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
    os.rmdir(new)
    return False


def _remove_point(point: str) -> None:
    """A mount point in the run home, and the directory made for it."""
    for path in (point, os.path.dirname(point)):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            mounts.unmount_below(path)  # somebody mounted something upon ours
            os.rmdir(path)


def _own(path: str, owner: tuple[int, int]) -> None:
    """The root of what a container sees is its root's: lower layers are mapped, the upper one is not."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if (status.st_uid, status.st_gid) != owner:
            os.fchown(fd, *owner)
    finally:
        os.close(fd)
