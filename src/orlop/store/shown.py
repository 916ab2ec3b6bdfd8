"""What is mounted as the kernel shows it, whoever mounted it and wherever it is counted.

The counts of mounts lie in the run root, and another program may use another one. LIMIT: mounts of other mount
namespaces are not seen, as with the peers.
"""

from __future__ import annotations

import os

from orlop.system import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Shown:
    """The mount table of the moment at which this is made."""

    def __init__(self) -> None:
        self._points: list[str] = []
        self._parts: dict[str, str] = {}  # the names of which paths in options of overlays consist, and where
        for mount in mounts.mount_table():
            self._points.append(mount.point)
            if mount.fstype == "overlay":
                self._parts |= dict.fromkeys(_components(mount.super_options), mount.point)

    def at(self, path: str) -> str:
        """Where something is mounted on a path or below it; "" if nothing is. The last component is not followed."""
        directory, name = os.path.split(path)
        at = os.path.join(os.path.realpath(directory), name)
        below = f"{at}/"
        return next((point for point in self._points if point == at or point.startswith(below)), "")

    def made_of(self, paths: Iterable[str]) -> str:
        """Where an overlay is mounted that consists of a layer with these places; "" if none is."""
        names = map(os.path.basename, paths)
        return next((self._parts[name] for name in names if name in self._parts), "")

    def of_layer(self, places: Iterable[str]) -> str:
        """A mount that shows a layer, or is made of it, as half a sentence; "" if there is none."""
        places = list(places)
        for point in filter(None, map(self.at, places)):
            return f"something is mounted at {point}"
        point = self.made_of(places)
        return f"the mount at {point} is made of it" if point else ""


def _components(options: str) -> set[str]:
    """The names of which the paths in mount options consist."""
    for sign in ",=:":
        options = options.replace(sign, "/")
    return set(options.split("/"))
