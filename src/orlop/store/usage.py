"""Where the disk went: what layers, images and containers take, and what nobody accounts for.

Everything below the graph root (and the image store) is walked once, without a lock; every block counts once, for all
who hold it (`stream/occupancy`). The records that decide are read after the walk: a directory is made after its
record, so what has none then belongs to nobody, whatever was made or deleted meanwhile.

    explained       the directories of recorded layers, images and containers, with their data
    records         the store's own files and directories
    foreign         what other programs keep below the graph root: podman its volumes, another driver its layers
    unaccounted     the rest: layers without a record, what was set aside to be deleted, temporary files
"""

from __future__ import annotations

import os

from orlop.drivers.api import SupportsLeftovers
from orlop.errors import BadRecords
from orlop.model.report import PathUsage, UsageReport
from orlop.records import trash
from orlop.store.needs import Needs, Shares
from orlop.store.tables import LOOK
from orlop.store.weighing import age_of
from orlop.stream.occupancy import Count
from orlop.system import files
from orlop.system.descent import GONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from orlop.records.table import Table
    from orlop.store.engine import Engine
    from orlop.store.needs import Object

    Progress = Callable[[object], object] | None

_STORE, _ELSEWHERE, _FIRST = 0, 1, 2
"""Holders of blocks: the store's own files, something outside of the roots, and from 2 on the places, in order."""

_FOREIGN, _UNACCOUNTED = "foreign", "unaccounted"
_TAR_SPLIT = ".tar-split.gz"
_STEP = 100
"""Places between two reports of progress."""


def measure(engine: Engine, progress: Progress = None) -> UsageReport:
    """See `Store.usage`."""
    places = list(_Survey(engine).places())
    with Count() as count:
        for root in _roots(engine):
            count.view(root)
        for done, place in enumerate(places):
            _report(progress, done, len(places))
            count.tree(place.path, _FIRST + done)
        counted = {place.inode for place in places}
        for root in _outer(_roots(engine)):
            count.tree(root, _STORE, leave_out=counted)
    count.finish(elsewhere=_ELSEWHERE)
    _report(progress, len(places), len(places), last=True)
    engine.driver()
    with engine.open(layers=LOOK, images=LOOK, containers=LOOK, additional=False) as tables:
        needs = Needs(engine, tables)
        views = (tables.layers, *tables.own_images(), tables.containers)
        damage = [line for view in views for line in view.table.damage]
        lost = {view.table.noun for view in views if _is_lost(view.table)}
        for place in places:
            place.settle(needs, lost)
        doubts = {p.id: tables.doubted(p.id) for p in places if p.kind == _UNACCOUNTED and p.id}
    return _summed(engine, places, count, needs, doubts, damage)


def _report(progress: Progress, done: int, total: int, *, last: bool = False) -> None:
    if progress is not None and (last or done % _STEP == 0):
        from orlop.model.events import Advanced

        progress(Advanced("measure", done, total))


def _roots(engine: Engine) -> list[str]:
    return [root for root in (engine.options.graph_root, engine.options.image_store) if root]


def _outer(roots: list[str]) -> list[str]:
    """Those that do not lie in another one."""
    return [root for root in roots if not any(_holds(other, root) for other in roots if other != root)]


def _holds(path: str, inner: str) -> bool:
    return f"{os.path.realpath(inner)}/".startswith(f"{os.path.realpath(path)}/")


# --- what lies where ----------------------------------------------------------------------------------------


class Place:
    """A file or directory that is counted with all below it. `kind` and `id` are what its name says that it is."""

    __slots__ = ("age", "id", "inode", "kind", "path", "reason")

    def __init__(self, path: str, status: os.stat_result, kind: str, id: str = "", reason: str = "") -> None:
        self.path = path
        self.inode = (status.st_dev, status.st_ino)
        self.age = age_of(status)
        self.kind = kind
        self.id = id
        self.reason = reason

    @property
    def object(self) -> Object:
        return (self.kind, self.id) if self.kind in _KINDS else (self.kind, self.path)

    def settle(self, needs: Needs, lost: Container[str]) -> None:
        """The records are known: what they do not name is unaccounted for."""
        if self.kind in _KINDS and (self.kind, self.id) not in needs.names:
            self.reason = f"no record names this {self.kind}"
            if self.kind in lost:
                self.reason = f"the table of {self.kind}s is lost, which may have named it"
            self.kind = _UNACCOUNTED


def _is_lost(table: Table) -> bool:
    try:
        table.require_trust()
    except BadRecords:
        return True
    return False


class _Survey:
    """Finds the places, by names alone."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._driver = engine.driver()
        self._leftovers: dict[str, str] = {}

    def places(self) -> Iterator[Place]:
        engine, driver = self._engine, self._driver
        with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
            with engine.open(layers=LOOK, graph_held=True, additional=False) as tables:
                ids = [row.id for row in tables.layers.rows]
                layers = [place for id in ids for place in self._layer(id)]
                if isinstance(driver, SupportsLeftovers):
                    self._leftovers = {found.path: found.reason for found in driver.leftovers()}
        yield from layers
        yield from self._beside_layers({place.path for place in layers})
        for path, reason in self._leftovers.items():
            yield from _place(path, _UNACCOUNTED, reason=reason)
        for root in engine.layers.trash_roots():
            abandoned = set(trash.abandoned(root))
            for path in _listed(root):
                reason = (
                    "set aside to be deleted by a process that ended"
                    if path in abandoned
                    else "being deleted"
                )
                yield from _place(path, _UNACCOUNTED, reason=reason)
        for root in _roots(engine):
            yield from self._data(root)
            yield from self._foreign(root)

    def _layer(self, id: str) -> Iterator[Place]:
        try:
            paths = self._driver.places(id)
        except ValueError:  # an id that cannot be a directory of this driver has none
            return
        for path in paths:
            yield from _place(path, "layer", id)

    def _beside_layers(self, known: set[str]) -> Iterator[Place]:
        """What lies where layers lie, and has no record. Where that is, the directories of layers tell."""
        driver = self._driver
        homes = self._homes()
        found = [*known, *[path for id in driver.ids() for path in driver.places(id)[-1:]]]
        parents = {os.path.dirname(path) for path in found}
        inside = {
            os.path.relpath(parent, home)
            for parent in parents
            for home in homes
            if f"{parent}/".startswith(f"{home}/")
        }
        for directory in sorted(
            {os.path.normpath(os.path.join(home, name)) for home in homes for name in inside}
        ):
            is_run_home = self._is_run_home(directory)
            for path in _listed(directory):
                name = os.path.basename(path)
                if is_run_home and not os.path.isdir(path):
                    continue  # what the driver found out about this kernel
                if path not in known and path not in self._leftovers and name not in driver.reserved_ids:
                    yield from _place(path, "layer", name)

    def _is_run_home(self, directory: str) -> bool:
        """Whether the driver's files that are gone with the next boot lie there, too: one root is both."""
        run = os.path.join(self._engine.options.run_root, os.path.basename(self._driver.home))
        return os.path.realpath(run) == os.path.realpath(directory)

    def _homes(self) -> list[str]:
        """The driver's home, and the one that it has in the image store."""
        home = self._driver.home
        return [os.path.join(root, os.path.basename(home)) for root in _roots(self._engine)]

    def _data(self, root: str) -> Iterator[Place]:
        """What lies beside the tables: the data of objects, and what should not be there."""
        engine = self._engine
        tables = (engine.layers, engine.images, engine.containers)
        every = (*tables, *engine.additional_images(foreign=False))
        own = {file.path for table in every for file in table.files}
        own |= {lock.path for table in every for lock in table.locks} | {engine.layers.trash_root}
        if engine.layers.mounts is not None:  # in the run root, which may be this one
            own |= {engine.layers.mounts.path, engine.layers.mounts.lock.path}
        for table in tables:
            for path in _listed(engine.place(f"{table.noun}s", root=root)):
                name = os.path.basename(path)
                if path in own:
                    continue
                if name.startswith(files.TEMPORARY):
                    yield from _place(path, _UNACCOUNTED, reason="a file that was never finished")
                else:
                    yield from _place(path, table.noun, name.removesuffix(_TAR_SPLIT))

    def _foreign(self, root: str) -> Iterator[Place]:
        engine = self._engine
        own = {lock.path for lock in (engine.graph_lock, engine.userns_lock)}
        own |= {engine.place(kind, root=root) for kind in ("layers", "images", "containers", "locks")}
        own |= {*self._homes()}
        others = [engine.options.run_root, *[other for other in _roots(engine) if other != root]]
        for path in _listed(root):
            if path in own or any(_holds(path, other) for other in others):
                continue
            if os.path.basename(path).startswith(files.TEMPORARY):
                yield from _place(path, _UNACCOUNTED, reason="a file that was never finished")
            else:
                yield from _place(path, _FOREIGN, reason="not a part of this store")


def _place(path: str, kind: str, id: str = "", reason: str = "") -> Iterator[Place]:
    """The place at `path`, or nothing if it is gone."""
    try:
        status = os.lstat(path)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return
    yield Place(path, status, kind, id, reason)


def _listed(directory: str) -> list[str]:
    """The paths of what a directory holds, sorted; nothing if there is no such directory."""
    try:
        return [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    except OSError as error:
        if error.errno not in GONE:
            raise
        return []


# --- the sums -----------------------------------------------------------------------------------------------


def _summed(
    engine: Engine,
    places: list[Place],
    count: Count,
    needs: Needs,
    doubts: dict[str, str | None],
    damage: list[str],
) -> UsageReport:
    numbers: dict[Object, int] = {}
    owners = [_STORE, _ELSEWHERE]
    for place in places:
        owners.append(numbers.setdefault(place.object, len(numbers) + _FIRST))
    for (
        object
    ) in needs.names:  # also those that have nothing here: a layer in an additional store, an empty image
        numbers.setdefault(object, len(numbers) + _FIRST)
    kinds = {number: object[0] for object, number in numbers.items()} | {_STORE: _STORED}
    shares = Shares(needs, {object: number for object, number in numbers.items() if object in needs.names})
    sums = dict.fromkeys((_HELD, _IDLE, _STORED, _FOREIGN, _UNACCOUNTED), 0)
    occupied: dict[int, int] = {}
    for found in (count.alone, count.shared()):
        for holders, size in found.items():
            objects = frozenset([owners[holder] for holder in holders])
            shares.add(objects, size)
            of_kinds = {kinds.get(number, "") for number in objects}
            if shares.held(objects):
                sums[_HELD] += size
            elif not of_kinds.isdisjoint(_KINDS):
                sums[_IDLE] += size
            else:
                sums[next(kind for kind in (_STORED, _FOREIGN, _UNACCOUNTED) if kind in of_kinds)] += size
            for number in objects:
                occupied[number] = occupied.get(number, 0) + size
    listed: dict[str, list[PathUsage]] = {_FOREIGN: [], _UNACCOUNTED: []}
    for place in places:
        if place.kind in listed and os.path.lexists(place.path):  # else it was deleted after it was counted
            why = doubts.get(place.id)
            reason = f"a record that was set aside mentions it: {why}" if why else place.reason
            size = occupied.get(numbers[place.object], 0)
            listed[place.kind].append(PathUsage(place.path, size, place.age, reason))
    disk = os.statvfs(engine.options.graph_root)
    return UsageReport(
        layers=shares.rows("layer"),
        images=shares.rows("image"),
        containers=shares.rows("container"),
        unaccounted=listed[_UNACCOUNTED],
        foreign=listed[_FOREIGN],
        damage=damage,
        held_bytes=sums[_HELD],
        idle_bytes=sums[_IDLE],
        record_bytes=sums[_STORED],
        foreign_bytes=sums[_FOREIGN],
        unaccounted_bytes=sums[_UNACCOUNTED],
        capacity_bytes=disk.f_blocks * disk.f_frsize,
        available_bytes=disk.f_bavail * disk.f_frsize,
    )


_HELD, _IDLE, _STORED = "held", "idle", "stored"
_KINDS = frozenset(("layer", "image", "container"))
