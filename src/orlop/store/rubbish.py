"""What lies in the directories of a store and belongs to nothing, and what looks so and has to stay.

Rules
1. Beside a table that was lost or cannot be read nothing is rubbish (P11).
2. Locks decide, not ages: `storage.lock` and all tables are held. What has a lock of its own (a partial pull, a
   removal) is in use as long as somebody holds that.
3. What a damaged record mentions stays, for nobody knows what that record would say. One without an id may mean
   anything of its kind.
4. What lost its record stays, and with it all else of its kind (`store/lost`).
5. What is mounted stays (`store/shown`).
6. Beside records only names are touched that a program made up (64 hex digits), and no symlinks.
"""

from __future__ import annotations

import os
import stat

from orlop.drivers.api import SupportsLeftovers
from orlop.errors import NotSupported, PlanOutdated
from orlop.model.ids import looks_generated
from orlop.model.plan import Kept, Step
from orlop.records import trash
from orlop.records.layers import is_incomplete
from orlop.store import containers, disposal, images, lost, othermode
from orlop.store.shown import Shown
from orlop.store.weighing import age_of
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from orlop.records.blocks import View
    from orlop.records.table import Table
    from orlop.store.disposal import Take
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

_TAR_SPLIT = ".tar-split.gz"


class Find:
    """One piece of garbage: the step, all its paths, and how it is taken away under the locks."""

    __slots__ = ("paths", "step", "take")

    def __init__(self, step: Step, paths: list[str], take: Take) -> None:
        self.step = step
        self.paths = paths
        self.take = take


class Search:
    """Looks through the store when it is made; `storage.lock` and the tables are held, in either mode."""

    def __init__(self, engine: Engine, tables: Tables) -> None:
        self.finds: list[Find] = []
        self.keeps: list[Kept] = []
        self._engine = engine
        self._tables = tables
        self._driver = engine.ready_driver
        self._images: list[View] = [tables.images, *tables.other_images]
        self._own: list[Table] = [engine.layers, engine.containers]
        self._own += [view.table for view in self._images if not view.table.read_only]
        for table in self._own:
            table.require_trust()
        self._views: dict[str, list[View]] = {
            "layer": [tables.layers],
            "image": self._images,
            "container": [tables.containers],
        }
        self._elsewhere = othermode.ids(engine)
        self._shown = Shown()
        self._stuck: set[str] = set()  # layers without a record that stay
        self._lost = lost.of_tables(engine, tables, recorded=self._has_record, orphans=self._orphans)
        self._rubbish_of_processes()
        self._unfinished()
        self._directories("container", [engine.containers.directory])
        places = [view.table.directory for view in self._images if not view.table.read_only]
        self._directories("image", list(dict.fromkeys([*places, engine.place("images")])))
        self._layers()
        self._beside_layers()
        self._leftovers()

    # --- results ------------------------------------------------------------------------------------------

    def matching(self, steps: Iterable[Step]) -> Iterator[tuple[Step, Find | None]]:
        """The steps that still make sense; None for what went away when the tables were loaded."""
        finds = {find.step.target: find for find in self.finds}
        for step in steps:
            find = finds.get(step.target)
            if find is not None or not os.path.lexists(step.path):  # an empty path is none
                yield step, find

    def require(self, steps: Iterable[Step]) -> None:
        """Refuse a plan of which something is no garbage any more."""
        finds = {find.step.target for find in self.finds}
        for step in steps:
            if step.target not in finds and os.path.lexists(step.path):
                kept = next((kept.reason for kept in self.keeps if kept.path == step.path), "it is in use")
                raise PlanOutdated(
                    f"the plan was to remove {step.path}, but now {kept}; nothing was done, make a new plan",
                    path=step.path,
                    reason=kept,
                )

    def _add(
        self,
        kind: str,
        path: str,
        reason: str,
        *,
        id: str = "",
        paths: list[str] | None = None,
        take: Take | None = None,
    ) -> None:
        """A candidate; kept if it is not what it should be, or something is mounted there."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        point = self._shown.at(path)
        held = _wrong_kind(kind, status) or (f"something is mounted at {point}" if point else "")
        if held:
            self.keeps.append(Kept(kind, id, path, held))
            return
        step = Step("remove", kind, id, path, age_seconds=age_of(status), reason=reason)
        self.finds.append(Find(step, paths or [path], take or disposal.setting_aside(path)))

    # --- what dead processes left -------------------------------------------------------------------------

    def _rubbish_of_processes(self) -> None:
        for root in self._engine.layers.trash_roots():
            for path in _abandoned(root):
                self._add(
                    "directory" if os.path.isdir(path) else "file",
                    path,
                    "the process that set it aside is gone",
                    take=disposal.recovering(self._engine.layers, path),
                )
        for table in self._own:
            beside = [
                os.path.join(table.directory, name, item)
                for name in _names(table.directory)
                if not name.startswith(files.TEMPORARY)
                for item in _names(os.path.join(table.directory, name))
                if item.startswith(files.TEMPORARY)
            ]
            for path in (*table.temporaries(), *beside):
                self._add(
                    "file", path, "its writer is gone, and never finished it", take=disposal.removing(path)
                )

    def _unfinished(self) -> None:
        """Layers that are flagged, and what is built on them; whoever loads the tables to write deletes them."""
        engine, tables = self._engine, self._tables
        flagged = {row.id: row for row in tables.layers.rows if is_incomplete(row)}
        if not flagged:
            return
        reason = "it was never finished, or its deletion was not"
        for box in tables.containers.rows:
            if box.document.get("layer") in flagged:
                run, own = containers.directories_of(engine, box.id)
                self._decided(
                    "container", box.id, [own, run], reason, disposal.dropping_container(engine, tables, box)
                )
        for image in {row.id: row for view in tables.own_images() for row in view.rows}.values():
            if image.document.get("layer") in flagged:
                paths = images.directories_of(engine, image.id)
                self._decided(
                    "image", image.id, paths, reason, disposal.dropping_image(engine, tables, image.id)
                )
        for id, row in flagged.items():
            paths = [
                *(self._driver.places(id)[::-1] if self._lost.is_there(id) else ()),
                *engine.layers.beside(id),
            ]
            self._decided("layer", id, paths, reason, disposal.dropping_layer(engine, tables, row))

    def _decided(self, kind: str, id: str, paths: list[str], reason: str, take: Take) -> None:
        """Something with a record, which may be all that there is of it."""
        there = [path for path in paths if os.path.lexists(path)]
        age = age_of(os.lstat(there[0])) if there else None
        step = Step("remove", kind, id, there[0] if there else "", age_seconds=age, reason=reason)
        self.finds.append(Find(step, there, take))

    # --- directories of records ---------------------------------------------------------------------------

    def _directories(self, noun: str, directories: list[str]) -> None:
        run = self._engine.place(f"{noun}s", run=True)
        for directory in (*directories, run):
            for id in filter(looks_generated, _names(directory)):
                if self._has_record(noun, id):
                    continue
                path = os.path.join(directory, id)
                held = self._doubted(noun, id) or self._lost.why(noun, id)
                if held:
                    self.keeps.append(Kept("directory", id, path, held))
                    continue
                # The run root is another file system than the trash, as a rule; there is little in it.
                take = disposal.removing(path) if directory == run else None
                self._add("directory", path, f"no {noun} has this id", id=id, take=take)

    def _has_record(self, noun: str, id: str) -> bool:
        return id in self._elsewhere[noun] or any(
            view.rows.by_id(id) is not None for view in self._views[noun]
        )

    def _doubted(self, noun: str, id: str) -> str:
        why = self._tables.doubted(id)
        if why is not None:
            return f"a damaged record mentions it: {why}"
        if noun == "image":
            damaged = [view.table for view in self._images if view.table.read_only and view.table.damage]
            if damaged:
                return f"an image of {damaged[0].directory} may have it, which cannot be read"
        return ""

    # --- layers -------------------------------------------------------------------------------------------

    def _layers(self) -> None:
        """Layers of the driver's home without a record. An image store's are not listed, and may be another's."""
        try:
            orphans = self._orphans()
        except NotSupported as error:
            self.keeps.append(
                Kept("layer", path=self._driver.home, reason=f"the driver cannot list: {error}")
            )
            return
        for id in orphans:
            places = self._driver.places(id)
            if not places:
                continue
            held = self._doubted("layer", id) or self._kept_by_loss(id) or self._shown.of_layer(places)
            if held:
                self._stuck.add(id)
                self.keeps.append(Kept("layer", id, places[-1], held))
            else:
                self._add(
                    "layer",
                    places[-1],
                    "no layer has this id",
                    id=id,
                    paths=places,
                    take=disposal.discarding(self._driver, id),
                )

    def _orphans(self) -> list[str]:
        return [id for id in sorted(self._driver.ids()) if not self._has_record("layer", id)]

    def _kept_by_loss(self, id: str) -> str:
        return self._lost.why("layer", id) or self._lost.doubt

    def _beside_layers(self) -> None:
        """tar-split files and data of layers without a record, the layer itself being there or not."""
        table = self._engine.layers
        orphans = {find.step.id for find in self.finds if find.step.kind == "layer"}
        for name in _names(table.directory):
            id = name.removesuffix(_TAR_SPLIT)
            if id == name and not (looks_generated(name) or name in orphans):
                continue
            if (
                not id
                or name.startswith(files.TEMPORARY)
                or id in self._stuck
                or self._has_record("layer", id)
            ):
                continue
            path = os.path.join(table.directory, name)
            held = self._doubted("layer", id) or self._kept_by_loss(id)
            if not held and id not in orphans and self._lost.is_there(id):
                held = f"layer {id} is there, in the image store, and its record is missing"
            if held:
                self.keeps.append(Kept("directory" if id == name else "file", id, path, held))
            else:
                self._add("directory" if id == name else "file", path, "no layer has this id", id=id)

    # --- the driver's own ---------------------------------------------------------------------------------

    def _leftovers(self) -> None:
        driver = self._driver
        if not isinstance(driver, SupportsLeftovers):
            return
        for leftover in driver.leftovers():
            if leftover.keep:
                self.keeps.append(Kept(leftover.kind, "", leftover.path, leftover.reason))
            else:
                take = disposal.dropping(driver, leftover)
                self._add(leftover.kind, leftover.path, leftover.reason, take=take)


def _wrong_kind(kind: str, status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode) != (kind == "link"):
        return "it is a symbolic link" if kind != "link" else "it is no symbolic link"
    if kind in ("directory", "layer") and not stat.S_ISDIR(status.st_mode):
        return "it is no directory"
    return "it is no file" if kind == "file" and not stat.S_ISREG(status.st_mode) else ""


def _names(directory: str) -> list[str]:
    """The names in a directory, in order; none if it is not there or is none."""
    try:
        if stat.S_ISDIR(os.lstat(directory).st_mode):
            return sorted(os.listdir(directory))
    except FileNotFoundError:
        pass
    return []


def _abandoned(root: str) -> list[str]:
    try:
        return trash.abandoned(root)
    except OSError:
        return []  # the next load says so, too
