"""The vfs driver: every layer is a complete directory tree, a child a copy of its parent (`spec/drivers.md` 3).

    <root>/vfs/dir/<id>/         the layer's files, the parent's included
    <root>/vfs/tempdirs/         what was set aside by `remove`
    <image store>/vfs/...        the same, for image layers, if there is an image store

It needs nothing of the kernel, so it works everywhere, at the price of space; where the file system can share
extents a copy costs little. Nothing is ever mounted: a layer's path is its directory.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.drivers.api import (
    Inspector,
    LayerTree,
    SupportsFiles,
    SupportsInspection,
    SupportsSharing,
    SupportsTrees,
    parse_boolean,
    parse_options,
)
from orlop.drivers.naive import NaiveDiff
from orlop.errors import ConfigError, DuplicateID, NotSupported
from orlop.model.idmap import IDENTITY
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orlop.drivers.api import DriverOptions, LayerFiles, SetAside
    from orlop.model.findings import Finding
    from orlop.model.idmap import IDMappings

_NEW_ROOT = 0o555
"""The mode of an empty layer's root: nobody writes there by accident, and whoever may write is not held up by it."""


class VFS(NaiveDiff, SupportsFiles, SupportsTrees, SupportsInspection, SupportsSharing):
    name = "vfs"

    def __init__(self, options: DriverOptions) -> None:
        super().__init__(options)
        self._additional: list[str] = []
        for option in parse_options(options.options):
            key = option.key.removeprefix("vfs")
            if key == ".imagestore":
                self._additional += [store for store in option.value.split(",") if store]
            elif key == ".ignore_chown_errors":
                self.ignore_chown_errors = parse_boolean(option)
            elif option.key == "vfs.mountopt":
                raise ConfigError(
                    "the vfs driver mounts nothing, so it takes no mount options (vfs.mountopt)",
                    peer="vfs driver does not support mount options",
                    option=option.given,
                )
            else:
                raise ConfigError(
                    f'storage option "{option.given}" is none of the vfs driver\'s',
                    peer=f"vfs driver does not support {option.key} options",
                    option=option.given,
                )

    # --- where layers lie -------------------------------------------------------------------------------------

    def _homes(self) -> Iterator[str]:
        """Where layers are ours to make and to remove."""
        yield self.home
        if self.options.image_store:
            yield os.path.join(self.options.image_store, "vfs")

    def _directory(self, id: str) -> str:
        """Where the layer lies: at home, else in the first additional store that has it, else in the image store.

        If it is nowhere, its place at home.
        """
        self.check_id(id)
        home, *images = self._homes()
        stores = [os.path.join(store, "vfs") for store in self._additional]
        place = os.path.join(home, "dir", id)
        if os.path.lexists(place):
            return place
        for elsewhere in (*stores, *images):
            found = os.path.join(elsewhere, "dir", id)
            if os.path.isdir(found):
                return found
        return place

    def _is_foreign(self, place: str) -> bool:
        """Whether a layer's directory lies in an additional store."""
        return not any(place.startswith(f"{home}/") for home in self._homes())

    def exists(self, id: str) -> bool:
        return os.path.lexists(self._directory(id))

    def ids(self) -> list[str]:
        try:
            with os.scandir(os.path.join(self.home, "dir")) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def additional_stores(self) -> tuple[str, ...]:
        return tuple(self._additional)

    def usage(self, id: str) -> tuple[int, int]:
        from orlop.stream import compare

        return compare.usage(self.mount(id))

    # --- making and unmaking ----------------------------------------------------------------------------------

    def create(
        self,
        id: str,
        parent: str | None,
        *,
        writable: bool,
        mappings: IDMappings = IDENTITY,
        label: str = "",
        storage_opt: Mapping[str, str] | None = None,
    ) -> None:
        if storage_opt:
            raise NotSupported(
                f"the vfs driver has no storage options for a single layer (found {', '.join(storage_opt)})",
                peer="--storage-opt is not supported for vfs",
            )
        self.check_id(id)
        owner = mappings.root()
        source = self.mount(parent) if parent else None
        *_, image_home = self._homes()
        place = os.path.join(self.home if writable else image_home, "dir", id)
        files.make_dirs(os.path.dirname(place))
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            raise DuplicateID(f'layer "{id}" lies at {place} already', id=id, path=place) from None
        try:
            _label(place)
            if source is None:
                self._chown(place, owner)
                os.chmod(place, _NEW_ROOT)
            else:
                from orlop.stream import treecopy

                treecopy.copy_tree(
                    source,
                    place,
                    rootless=self.options.rootless,
                    ignore_chown_errors=self.ignore_chown_errors,
                )
        except BaseException as error:
            try:
                files.remove_tree(place)
            except OSError as left:
                error.add_note(f"what was made of it could not be removed: {left}")
            raise

    def _chown(self, place: str, owner: tuple[int, int]) -> None:
        status = os.lstat(place)
        if (status.st_uid, status.st_gid) == owner:
            return
        try:
            os.chown(place, *owner, follow_symlinks=False)
        except OSError:
            if not self.ignore_chown_errors:
                raise

    def remove(self, id: str, set_aside: SetAside) -> None:
        for place in self.places(id):
            set_aside(place, os.path.join(os.path.dirname(os.path.dirname(place)), "tempdirs"))

    def places(self, id: str) -> list[str]:
        self.check_id(id)
        places = [os.path.join(home, "dir", id) for home in self._homes()]
        return [place for place in places if os.path.lexists(place)][:1]

    def temp_roots(self) -> tuple[str, ...]:
        return tuple([os.path.join(home, "tempdirs") for home in self._homes()])

    # --- seeing the files -------------------------------------------------------------------------------------

    def mount(
        self,
        id: str,
        *,
        label: str = "",
        mappings: IDMappings = IDENTITY,
        options: Sequence[str] = (),
        volatile: bool = False,
    ) -> str:
        unknown = [option for option in options if option != "ro"]
        if unknown:
            raise NotSupported(
                f'the vfs driver mounts nothing, so it cannot mount layer "{id}" with {",".join(unknown)}',
                peer="vfs driver does not support mount options",
                id=id,
            )
        place = self._directory(id)
        # lstat: a link where a layer should be would have us work on whatever it names.
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f'layer "{id}" is not a directory', place)
        return place

    def unmount(self, id: str, *, last: bool = False) -> None:
        self.check_id(id)

    def files(self, id: str) -> LayerFiles:
        from orlop.drivers.layerfiles import DirectoryFiles

        return DirectoryFiles([self.tree(id)])

    def tree(self, id: str) -> str:
        return self.mount(id)

    def inspector(self) -> Inspector:
        return _VFSInspector(self)

    def own_files(self, id: str) -> str | None:
        self.check_id(id)
        places = [os.path.join(home, "dir", id) for home in self._homes()]
        return next(filter(files.is_directory, places), None)

    # --- owners and durability --------------------------------------------------------------------------------

    def shift(self, id: str, old: IDMappings, new: IDMappings, *, label: str = "") -> None:
        from orlop.stream import idshift

        owner = new.root()
        place = self.mount(id)
        idshift.shift_tree(place, old, new)
        self._chown(place, owner)

    def sync(self, id: str) -> None:
        place = self._directory(id)
        if self.options.durable:
            # One call for a layer's many files, its own name in the directory included.
            files.sync_filesystem(os.path.dirname(place))


class _VFSInspector(Inspector):
    """Looks into a vfs home, where a layer is a directory, and nothing else is."""

    def __init__(self, driver: VFS) -> None:
        self._driver = driver

    def faults(self, id: str, parent: str | None, is_copy_of: Callable[[str], bool]) -> list[Finding]:
        from orlop.drivers.inspection import LayerFaults

        place = self._driver._directory(id)
        report = LayerFaults(id, place, read_only=self._driver._is_foreign(place))
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            report.damage("place", place, "is no directory", "removed")
        return report.found

    def tree(self, id: str, parent: str | None) -> LayerTree:
        return LayerTree([self._driver.mount(id)], whole=True)

    def copies(self, id: str) -> list[LayerTree]:
        places = [os.path.join(store, "vfs", "dir", id) for store in self._driver.additional_stores()]
        return [LayerTree([place], whole=True) for place in places if os.path.isdir(place)]

    def mend(self, id: str, below: str | None, above: Sequence[str]) -> None:
        return  # there is nothing but the layer itself


def _label(place: str) -> None:
    """Give a layer's root the label that every container may read. Without it the layer still works unconfined."""
    from orlop.system import selinux

    if not selinux.is_enabled():
        return
    try:
        label = selinux.container_file_label()
        if label:
            selinux.set_label(place, label)
    except OSError as error:
        from orlop.system import log

        log.warn(__name__, "could not label %s: %s", place, error)
