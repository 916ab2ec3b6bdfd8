"""What lies below the upper directory of a mount, opened as far as it must be (`spec/drivers.md` 4.8, 4.16).

Overlay keeps references of its own to what it was given, so views and images end with the block in which it was
mounted, and are never seen in the table of mounts. On kernels that want them to be in the table meanwhile they hang
on `mapped/<n>` and `composefs-layers/<n>`; if we die then, they are detached at the next unmount.
"""

from __future__ import annotations

import os

from orlop.system import mounts, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.drivers.overlay.content import Content
    from orlop.model.idmap import IDMappings

_MAPPED, _BLOBS = "mapped", "composefs-layers"


class Below:
    """A block with the layers of a mount, nearest first, as paths or handles.

    `own` is the layer's own content, if it is only to be read: it comes first. `mappings` apply to `contents` alone,
    for what the layer holds has the host's ids already. `place` is the directory that the mount point is in.
    """

    def __init__(
        self, own: Content | None, contents: Sequence[Content], mappings: IDMappings, place: str
    ) -> None:
        self._own = own
        self._contents = contents
        self._mappings = mappings
        self._place = place
        self._views: dict[str, int] = {}
        self._open: list[int] = []
        self.layers: list[str | int] = []
        self.data: list[str | int] = []
        """The data of images among the layers; not seen but through them."""
        self.detached: list[tuple[int, str]] = []

    def __enter__(self) -> Below:
        names = None
        try:
            if self._own is not None:
                self._add(self._own, None)
            if self._mappings:
                names = userns.namespace_for(self._mappings)
            for content in self._contents:
                self._add(content, names.fd if names is not None else None)
        except BaseException:
            self.__exit__()
            raise
        finally:
            if names is not None:
                names.close()
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._open:
            os.close(fd)
        self._open.clear()

    def _add(self, content: Content, names: int | None) -> None:
        path = f"{content.home}/{content.place}"
        if content.is_blob:
            self.layers.append(self._image(content, names))
            self.data.append(path)
        elif names is None:
            self.layers.append(path)
        else:
            self.layers.append(self._mapped(content, names))

    def _image(self, content: Content, names: int | None) -> int:
        from orlop.drivers.overlay import composefs
        from orlop.system import newmount

        image = composefs.mount(content.layer)
        self._open.append(image)
        if names is not None:
            newmount.map_owners(image, names)
        self._hang(image, _BLOBS)
        return image

    def _mapped(self, content: Content, names: int) -> int:
        from orlop.system import newmount

        home = content.home
        if home not in self._views:
            self._views[home] = newmount.idmapped(home, names)
            self._open.append(self._views[home])
            self._hang(self._views[home], _MAPPED)
        layer = os.open(content.place, newmount.DIRECTORY, dir_fd=self._views[home])
        self._open.append(layer)
        return layer

    def _hang(self, root: int, kind: str) -> None:
        self.detached.append((root, f"{self._place}/{kind}/{len(self.detached)}"))


def clear(place: str, *, remove: bool) -> None:
    """Detach what a dead process left hanging beside a mount point; with `remove` the directories go, too."""
    for kind in (_MAPPED, _BLOBS):
        try:
            names = os.listdir(f"{place}/{kind}")
        except FileNotFoundError:
            continue
        for name in names:
            mounts.unmount(f"{place}/{kind}/{name}")
            if remove:
                os.rmdir(f"{place}/{kind}/{name}")
        if remove:
            os.rmdir(f"{place}/{kind}")
