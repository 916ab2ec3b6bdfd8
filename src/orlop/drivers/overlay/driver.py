"""The overlay driver (`spec/drivers.md` 4): its parts put together into what the store asks of a driver.

LIMIT: no additional layer stores. Layers that need them are refused by name; nothing of them is touched.
"""

from __future__ import annotations

import os

from orlop.drivers import backing
from orlop.drivers.api import (
    DependsOnLayers,
    SupportsFiles,
    SupportsInspection,
    SupportsLeftovers,
    SupportsSharing,
    SupportsStaging,
)
from orlop.drivers.naive import NaiveDiff, log_skipped
from orlop.drivers.overlay import content, layout, links, opening, options, probe
from orlop.drivers.overlay.mounting import Mounter
from orlop.errors import NotSupported
from orlop.model.idmap import IDENTITY
from orlop.system import files, mounts, xattrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orlop.drivers.api import DriverOptions, Inspector, LayerFiles, Leftover, SetAside
    from orlop.drivers.overlay.content import Content
    from orlop.model.changes import Change
    from orlop.model.idmap import IDMappings
    from orlop.model.staging import DifferOptions
    from orlop.stream.pieces import PieceStream
    from orlop.stream.unpack import Unpacker


class Overlay(
    NaiveDiff,
    SupportsFiles,
    SupportsInspection,
    SupportsSharing,
    DependsOnLayers,
    SupportsLeftovers,
    SupportsStaging,
):
    name = "overlay"
    reserved_ids = layout.RESERVED

    def __init__(self, settings: DriverOptions) -> None:
        super().__init__(settings)
        self._options = options.parse(settings.options)
        self.ignore_chown_errors = self._options.ignore_chown_errors
        self._magic = backing.magic_of(settings.graph_root)
        self._layout = layout.Layout(
            settings.home, settings.run_home, settings.image_store, self._options.image_stores
        )
        self._features = probe.Features(
            settings.home, settings.run_home, self._options.mountopt, rootless=settings.rootless
        )
        self._mark = xattrs.OPAQUE_ROOTLESS if settings.rootless else xattrs.OPAQUE
        self._quota = opening.open_home(settings, self._layout, self._options, self._features, self._magic)
        self._mounter = Mounter(self._layout, self._options, self._features, rootless=settings.rootless)

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
        self.check_id(id)
        size, inodes = opening.limits(storage_opt or {}, self._options, self._quota, writable)
        if self._options.force_mask is not None and writable and not self._options.mount_program:
            raise NotSupported(
                "writable layers can have a force_mask only with a mount program, which shows the real owners",
                peer="overlay: force_mask option for writeable layers is only supported with a mount_program",
            )
        owner = mappings.root() if mappings else None
        quota = self._quota
        self._layout.make(
            id,
            self._directory(parent) if parent else None,
            writable=writable,
            owner=owner,
            force_mask=self._options.force_mask,
            prepare=lambda directory: quota.limit(directory, size, inodes) if quota and writable else None,
        )

    def remove(self, id: str, set_aside: SetAside) -> None:
        places = self.places(id)
        for place in places:
            set_aside(place, f"{os.path.dirname(places[-1])}/{layout.TEMP_ROOT}")
        if places and self._quota is not None:
            self._quota.forget(places[-1])

    def places(self, id: str) -> list[str]:
        self.check_id(id)  # the short name, if it has one, goes before the directory that tells it
        for home in self._layout.own:
            directory = f"{home}/{id}"
            if os.path.lexists(directory):
                return [*filter(None, (links.path_of(directory),)), directory]
        return []

    def temp_roots(self) -> tuple[str, ...]:
        return tuple([f"{home}/{layout.TEMP_ROOT}" for home in self._layout.own])

    def needs(self, id: str) -> list[str]:
        from orlop.drivers.overlay import leftovers

        self.check_id(id)
        return leftovers.needs(self._layout, id)

    def leftovers(self) -> list[Leftover]:
        from orlop.drivers.overlay import leftovers

        return leftovers.find(self._layout)

    def drop(self, leftover: Leftover, set_aside: SetAside) -> None:
        from orlop.drivers.overlay import leftovers

        leftovers.drop(leftover, set_aside)

    # --- what is there ----------------------------------------------------------------------------------------

    def _directory(self, id: str) -> str:
        self.check_id(id)
        return self._layout.directory(id)

    def _writable(self, id: str) -> str:
        """The directory of a layer whose content may be filled or replaced."""
        directory = self._directory(id)
        if content.content_of(directory).is_blob:
            raise NotSupported(
                f"the layer at {directory} is an image of composefs, to which nothing can be written",
                path=directory,
            )
        return directory

    def exists(self, id: str) -> bool:
        self.check_id(id)
        return self._layout.find(id) is not None

    def ids(self) -> list[str]:
        return self._layout.ids()

    def usage(self, id: str) -> tuple[int, int]:
        directory = self._directory(id)
        counted = self._quota.usage(directory) if self._quota is not None else None
        return self._content_usage(directory) if counted is None else counted

    @staticmethod
    def _content_usage(directory: str) -> tuple[int, int]:
        from orlop.stream import compare

        return compare.usage(f"{directory}/diff")

    def additional_stores(self) -> tuple[str, ...]:
        return tuple(self._options.image_stores)

    def status(self) -> list[tuple[str, str]]:
        features = self._features
        by_program = bool(self._options.mount_program)
        answers = (
            ("Supports d_type", True),
            ("Native Overlay Diff", self._diffs_natively()),
            ("Using metacopy", not by_program and features.metacopy()),
            ("Supports shifting", self._shifts()),
            ("Supports volatile", by_program or features.volatile()),
        )
        return [
            ("Backing Filesystem", backing.name_of(self._magic)),
            *[(key, "true" if answer else "false") for key, answer in answers],
        ]

    def metadata(self, id: str) -> dict[str, str]:
        directory = self._directory(id)
        found = {
            "WorkDir": f"{directory}/work",
            "MergedDir": f"{directory}/merged",
            "UpperDir": f"{directory}/diff",
        }
        lowers = self._layout.lowers(directory)
        if lowers:
            found["LowerDir"] = ":".join(lower.directory for lower in lowers)
        return found

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
        self.check_id(id)
        if not self._options.skip_mount_home and not mounts.is_mount_point(self.home):
            # Somebody unmounted it. The next program that opens the store will put it back: then this mount would
            # be hidden under it, and be nobody's.
            from orlop.system import newmount

            newmount.bind_private(self.home)
        return self._mounter.mount(id, label=label, mappings=mappings, options=options, volatile=volatile)

    def unmount(self, id: str, *, last: bool = False) -> None:
        self.check_id(id)
        self._mounter.unmount(id, last=last)

    def files(self, id: str) -> LayerFiles:
        from orlop.drivers.layerfiles import DirectoryFiles

        directory = self._directory(id)
        return DirectoryFiles(
            [_files_of(each) for each in (content.content_of(directory), *self._layout.below(directory))]
        )

    def own_files(self, id: str) -> str | None:
        """`diff` alone: what was there before the layer was re-owned may be shown by nobody."""
        self.check_id(id)
        places = [f"{home}/{id}/diff" for home in self._layout.own]
        return next(filter(files.is_directory, places), None)

    def inspector(self) -> Inspector:
        from orlop.drivers.overlay.inspection import OverlayInspector

        return OverlayInspector(
            self._layout,
            force_mask=self._options.force_mask,
            mark="" if self._options.mount_program else self._mark,
        )

    # --- archives in and out ----------------------------------------------------------------------------------

    def _is_parent(self, directory: str, parent: str | None) -> bool:
        """Whether the upper directory holds the difference to just this layer."""
        if parent:
            self.check_id(parent)
        return self._layout.first_lower(directory) == (self._layout.find(parent) if parent else None)

    def _diffs_natively(self) -> bool:
        return (
            not (self._options.mount_program or self._options.use_composefs) and self._features.native_diff()
        )

    def _below_upper(self, directory: str, parent: str | None) -> list[str] | None:
        """The directories below an upper directory that tells what the layer changed; None if it does not tell."""
        if not self._is_parent(directory, parent) or not self._diffs_natively():
            return None
        below = self._layout.below(directory)
        # Above an image the kernel notes what changed in ways of its own (metacopy, redirect).
        if any(each.is_blob for each in (content.content_of(directory), *below)):
            return None
        return [each.directory for each in below]

    def unpacking(
        self,
        id: str,
        parent: str | None,
        *,
        mappings: IDMappings = IDENTITY,
        label: str = "",
        keep_fds: Sequence[int] = (),
    ) -> Unpacker:
        directory = self._writable(id)
        if not self._is_parent(directory, parent):
            return super().unpacking(id, parent, mappings=mappings, label=label, keep_fds=keep_fds)
        from orlop.drivers.overlay.diffing import UpperUnpacker

        return UpperUnpacker(
            f"{directory}/diff",
            rules="tree",
            mappings=mappings,
            ignore_chown_errors=self.ignore_chown_errors,
            in_userns=self.options.rootless,
            whiteouts=None if self._options.mount_program else self._mark,
            force_mask=self._options.force_mask,
            keep_fds=keep_fds,
        )

    def diff(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> PieceStream:
        directory = self._directory(id)
        below = self._below_upper(directory, parent)
        if below is None:
            return super().diff(id, parent, mappings, parent_mappings, label=label)
        from orlop.stream import pack
        from orlop.stream.pieces import PieceStream

        return PieceStream(
            pack.pack_tree(
                f"{directory}/diff",
                mappings=mappings,
                whiteouts=self._mark,
                lowers=below,
                on_skip=log_skipped,
            )
        )

    def changes(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> list[Change]:
        directory = self._directory(id)
        below = self._below_upper(directory, parent)
        if below is None:
            return super().changes(id, parent, mappings, parent_mappings, label=label)
        from orlop.drivers.overlay import diffing

        return diffing.upper_changes(f"{directory}/diff", below, self._mark)

    def diff_size(
        self,
        id: str,
        parent: str | None,
        mappings: IDMappings = IDENTITY,
        parent_mappings: IDMappings = IDENTITY,
        *,
        label: str = "",
    ) -> int:
        directory = self._directory(id)
        if not self._is_parent(directory, parent):
            return super().diff_size(id, parent, mappings, parent_mappings, label=label)
        return self._content_usage(directory)[0]

    # --- content made ready beforehand ------------------------------------------------------------------------

    def stage(self, mappings: IDMappings) -> tuple[str, DifferOptions]:
        from orlop.drivers.overlay import staging
        from orlop.model.staging import DifferOptions

        force_mask = self._options.force_mask
        target, lock = staging.prepare(
            self._layout, owner=mappings.root() if mappings else (0, 0), force_mask=force_mask
        )
        return target, DifferOptions(
            mappings,
            ignore_chown_errors=self.ignore_chown_errors,
            in_userns=self.options.rootless,
            whiteouts=None if self._options.mount_program else self._mark,
            force_mask=force_mask,
            keep_fds=(lock.fileno(),),
        )

    def place_staged(self, id: str, target: str, set_aside: SetAside, *, root_is_set: bool) -> None:
        from orlop.drivers.overlay import staging

        directory = self._writable(id)
        staging.place(
            self._layout,
            target,
            directory,
            set_aside,
            settle_root=not root_is_set and self._options.force_mask is None,
        )

    def drop_staged(self, target: str) -> None:
        from orlop.drivers.overlay import staging

        staging.drop(self._layout, target)

    def prune_staged(self) -> None:
        if any(os.path.lexists(f"{home}/{layout.STAGING}") for home in self._layout.own):
            from orlop.drivers.overlay import leftovers

            leftovers.clear_staging(self._layout)

    def differ_target(self, id: str) -> str:
        return f"{self._directory(id)}/diff"

    # --- owners -----------------------------------------------------------------------------------------------

    def shift(self, id: str, old: IDMappings, new: IDMappings, *, label: str = "") -> None:
        from orlop.drivers.overlay import reown
        from orlop.stream import idshift

        directory = self._directory(id)
        owner = new.root()
        root = self.mount(id, label=label)
        try:
            idshift.shift_tree(root, old, new, relink=bool(self._options.mount_program))
        finally:
            self.unmount(id)
        reown.rotate(directory, owner, self._options.force_mask)

    def supports_shifting(self, mappings: IDMappings) -> bool:
        """Maps with gaps are applied on disk, as the peers up to 1.58 do it: they could not mount the layers else.

        Nor is half a mapping applied by a mount: ids that nothing is said about would belong to nobody.
        """
        return bool(mappings.uids and mappings.gids) and mappings.is_contiguous() and self._shifts()

    def _shifts(self) -> bool:
        return self.options.shifting and (
            bool(self._options.mount_program) or self._features.idmapped_lowers()
        )

    # --- durability and the end -------------------------------------------------------------------------------

    def sync(self, id: str) -> None:
        directory = self._directory(id)
        if self.options.durable:
            # One call for a layer's many files, its short name and its own name included.
            files.sync_filesystem(os.path.dirname(directory))

    def shutdown(self) -> None:
        """Take the bind mount off the home; not while a peer has something in preparation there."""
        from orlop.drivers.overlay import leftovers

        if not leftovers.clear_staging(self._layout):
            return
        try:
            mounts.unmount(self.home)
        except FileNotFoundError:
            pass  # the disk that it was on is gone


def _files_of(piece: Content) -> str | Callable[[], LayerFiles]:
    """Where `DirectoryFiles` finds the files of a piece of a layer."""

    def of_image() -> LayerFiles:
        from orlop.drivers.overlay.composefs import BlobFiles

        return BlobFiles(piece)

    if piece.is_blob:
        return of_image
    if piece.is_older:
        from orlop.drivers.layerfiles import older_files

        return older_files(piece.directory)
    return piece.directory
