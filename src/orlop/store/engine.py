"""Tables and driver of one open store, and the order in which their locks are taken (`spec/locking.md` 6, 7).

    with engine.open(layers=WRITE, images=READ) as tables:
        row = tables.layers.find(ref)

Rules
1. `storage.lock`, then layers, additional layers, images, additional images, containers; released in the reverse.
   Only this file opens more than one table.
2. `storage.lock` is never asked for while a table is held: a peer that mounts holds it and waits for the layers.
3. The driver is made when first needed, and made anew when another program shut it down (its token changed).
"""

from __future__ import annotations

import os

from orlop.drivers import registry
from orlop.errors import ConfigError, LayerUnknown
from orlop.records.containers import ContainerTable
from orlop.records.images import ImageTable
from orlop.records.layers import LayerTable
from orlop.records.table import Editor, Reading, Table, View, Writing
from orlop.system import files
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from orlop.drivers.api import Driver
    from orlop.model.options import StoreOptions
    from orlop.records.bigdata import Items
    from orlop.records.rows import Row
    from orlop.records.trash import Trash

READ, WRITE = "read", "write"


class Engine:
    """One open store. Threads may share it."""

    def __init__(self, options: StoreOptions) -> None:
        self.options = options
        if options.image_store and os.path.realpath(options.image_store) == os.path.realpath(
            options.graph_root
        ):
            raise ConfigError(
                f"the image store {options.image_store} is the graph root itself; a split store needs two",
                peer=f"imagestore {options.image_store} must either be not set or be a different than graphroot",
                path=options.image_store,
            )
        for root in (options.run_root, options.graph_root, options.image_store):
            if root:
                files.make_dirs(root)
        # Created here, before the driver is known to work, because the peers expect to find it (`spec/records.md` 1).
        if options.driver:
            files.make_dirs(os.path.join(options.graph_root, options.driver))
            if options.image_store:
                files.make_dirs(os.path.join(options.image_store, options.driver))
        self.graph_lock = LockFile.at(os.path.join(options.graph_root, "storage.lock"))
        self.userns_lock = LockFile.at(os.path.join(options.graph_root, "userns.lock"))
        self._driver: Driver | None = None
        self._driver_token: bytes | None = None
        self.driver_name = self.driver().name
        self._tables: dict[str, Table] = {}
        self._additional: tuple[str, ...] | None = None
        for table in (self.images, self.containers):
            files.make_dirs(table.directory)
        files.make_dirs(self.place("images", run=True))
        files.make_dirs(self.place("containers", run=True))
        files.make_dirs(self.place("locks", run=True))

    # --- the driver -------------------------------------------------------------------------------------

    def driver(self) -> Driver:
        """The driver, as it is now. Takes `storage.lock` for a moment: hold no table when calling."""
        with self.graph_lock.writing(timeout=self.options.lock_timeout):
            return self.driver_held()

    def driver_held(self) -> Driver:
        """The driver; `storage.lock` is held by the caller."""
        token = self.graph_lock.token()
        if self._driver is None or token != self._driver_token:
            options = self.options
            driver = registry.open_driver(
                options.driver,
                graph_root=options.graph_root,
                run_root=options.run_root,
                image_store=options.image_store,
                options=options.driver_options,
                priority=options.driver_priority,
                durable=options.durable,
                rootless=options.rootless,
                shifting=options.shifting,
            )
            if self._driver is not None and driver.name != self._driver.name:
                raise ConfigError(
                    f'graph driver name changed from "{self._driver.name}" to "{driver.name}" during reload',
                    peer=f'graph driver name changed from "{self._driver.name}" to "{driver.name}" during reload',
                )
            self._driver, self._driver_token = driver, token
        return self._driver

    @property
    def ready_driver(self) -> Driver:
        """The driver as it was last seen; for use while a table is held."""
        assert self._driver is not None
        return self._driver

    def _discard(self, id: str, rubbish: Trash) -> None:
        driver = self.ready_driver
        driver.check_id(id)
        driver.remove(id, rubbish.set_aside)

    def _release(self, layer_ids: set[str]) -> None:
        """Finish a deletion that was decided: drop the images and containers built on these layers.

        A layer that is still being made has neither. Called while the layer table is held, which comes first.
        """
        from orlop.store import containers, images

        with self.open(images=WRITE, containers=WRITE, additional=False) as tables:
            rubbish = self.layers.new_trash()
            for editor in tables.own_images():
                for image in [row for row in editor.rows if row.document.get("layer") in layer_ids]:
                    images.remove_record(self, editor, image, rubbish)
            for box in [row for row in tables.containers.rows if row.document.get("layer") in layer_ids]:
                containers.remove_record(self, tables.containers, box, rubbish)
        rubbish.empty()

    def _stored_ids(self) -> list[str]:
        return self.ready_driver.ids()

    def sync(self, id: str, *, volatile: bool = False) -> None:
        """Make the bytes of a layer durable, before a record says that it is complete."""
        if self.options.durable and not volatile:
            self.ready_driver.sync(id)

    # --- places and tables --------------------------------------------------------------------------------

    def place(self, kind: str, *, run: bool = False, root: str | None = None) -> str:
        """`<root>/<driver>-<kind>`."""
        base = root or (self.options.run_root if run else self.options.graph_root)
        return os.path.join(base, f"{self.driver_name}-{kind}")

    @property
    def layers(self) -> LayerTable:
        table = self._tables.get("layers")
        if table is None:
            options = self.options
            table = self._tables["layers"] = LayerTable(
                self.place("layers"),
                run_directory=self.place("layers", run=True),
                image_directory=self.place("layers", root=options.image_store)
                if options.image_store
                else None,
                transient=options.transient,
                durable=options.durable,
                lock_timeout=options.lock_timeout,
                discard=self._discard,
                stored_ids=self._stored_ids,
                release=self._release,
                temp_roots=self.ready_driver.temp_roots(),
            )
        assert isinstance(table, LayerTable)
        return table

    @property
    def images(self) -> ImageTable:
        table = self._tables.get("images")
        if table is None:
            directory = self.place("images", root=self.options.image_store)
            table = self._tables["images"] = ImageTable(
                directory, durable=self.options.durable, lock_timeout=self.options.lock_timeout
            )
        assert isinstance(table, ImageTable)
        return table

    @property
    def containers(self) -> ContainerTable:
        table = self._tables.get("containers")
        if table is None:
            table = self._tables["containers"] = ContainerTable(
                self.place("containers"),
                run_directory=self.place("containers", run=True),
                transient=self.options.transient,
                durable=self.options.durable,
                lock_timeout=self.options.lock_timeout,
            )
        assert isinstance(table, ContainerTable)
        return table

    def items(self, table: Table, *, volatile: bool = False) -> Items:
        """The big-data files of a table."""
        from orlop.records.bigdata import Items

        return Items(table, durable=self.options.durable and not volatile)

    def _additional_roots(self) -> tuple[str, ...]:
        if self._additional is None:
            self._additional = self.ready_driver.additional_stores()
            own = [os.path.realpath(r) for r in (self.options.graph_root, self.options.image_store) if r]
            for root in self._additional:
                if os.path.realpath(root) in own:
                    raise ConfigError(f'additional store "{root}" is a root of this store itself', path=root)
        return self._additional

    def additional_layers(self) -> list[LayerTable]:
        """Read-only layer tables of the additional stores, in order of the options."""
        return [
            self._kept(
                f"layers of {root}",
                lambda root=root: LayerTable(
                    self.place("layers", root=root),
                    run_directory=None,
                    read_only=True,
                    lock_timeout=self.options.lock_timeout,
                ),
            )
            for root in self._additional_roots()
        ]

    def additional_images(self, *, foreign: bool = True) -> list[ImageTable]:
        """Image tables besides the primary one: that of a split store's graph root, ours too, then foreign ones."""
        tables = []
        if self.options.image_store:
            tables.append(
                self._kept(
                    "images of the graph root",
                    lambda: ImageTable(self.place("images"), durable=self.options.durable),
                )
            )
        tables += [
            self._kept(
                f"images of {root}",
                lambda root=root: ImageTable(self.place("images", root=root), read_only=True),
            )
            for root in (self._additional_roots() if foreign else ())
        ]
        return tables

    def _kept(self, key: str, make: Any) -> Any:
        if key not in self._tables:
            self._tables[key] = make()
        return self._tables[key]

    # --- opening several ----------------------------------------------------------------------------------

    def open(
        self,
        *,
        layers: str | None = None,
        images: str | None = None,
        containers: str | None = None,
        additional: bool = True,
        graph_held: bool = False,
    ) -> Tables:
        """A block with the tables asked for, each READ or WRITE; additional stores are always only read.

        `additional=False` leaves them out. `graph_held`: the caller holds `storage.lock` and made sure of the driver.
        """
        return Tables(self, layers, images, containers, additional, graph_held)

    def close(self) -> None:
        """Forget the locks, so that another store of this process may open them in another way."""
        locks = [lock for table in self._tables.values() for lock in table.locks]
        for lock in {self.graph_lock, self.userns_lock, *locks}:
            lock.forget()

    def damage(self) -> tuple[str, ...]:
        """What was found damaged in the tables loaded so far; one sentence each."""
        return tuple(line for table in self._tables.values() for line in table.damage)


class Tables:
    """Tables inside a block: each a View or an Editor; `other_...` are the additional ones, always Views."""

    layers: Editor
    images: Editor
    containers: Editor

    def __init__(
        self,
        engine: Engine,
        layers: str | None,
        images: str | None,
        containers: str | None,
        additional: bool,
        graph_held: bool,
    ) -> None:
        self.engine = engine
        self._modes = (layers, images, containers)
        self._additional = additional
        self._graph_held = graph_held
        self._open: list[Reading | Writing] = []
        self.other_layers: list[View] = []
        self.other_images: list[View] = []

    def __enter__(self) -> Tables:
        engine, (layers, images, containers) = self.engine, self._modes
        others_of_layers = engine.additional_layers() if layers and self._additional else []
        others_of_images = engine.additional_images(foreign=self._additional) if images else []
        try:
            if layers:
                if layers == WRITE and not self._graph_held:
                    engine.driver()
                self.layers = self._take(engine.layers, layers)
                self.other_layers = [self._take(table, READ) for table in others_of_layers]
            if images:
                self.images = self._take(engine.images, images)
                # The images of a split store's graph root are ours to delete, and need their layers as much.
                self.other_images = [
                    self._take(table, READ if table.read_only else images) for table in others_of_images
                ]
            if containers:
                self.containers = self._take(engine.containers, containers)
        except BaseException as error:
            self._leave(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(kind, error, trace)

    def close(self) -> None:
        """Leave the block; for those who keep it open longer than a `with` (a diff being read)."""
        self._leave(None, None, None)

    def _take(self, table: Table, mode: str) -> Any:
        # A load under the shared lock may find layers to repair; that takes the driver, and so `storage.lock`.
        prepare = (
            None if self._graph_held or table is not self.engine._tables.get("layers") else self.engine.driver
        )
        block: Reading | Writing = table.writing() if mode == WRITE else table.reading(prepare)
        opened = block.__enter__()
        self._open.append(block)
        return opened

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        first: BaseException | None = None
        while self._open:
            try:
                self._open.pop().__exit__(kind, error, trace)
            except BaseException as problem:  # every lock is released, whatever a save says
                first = first or problem
        if first is not None:
            raise first

    # --- asking over all tables ---------------------------------------------------------------------------

    def doubted(self, layer_id: str) -> str | None:
        """Why a layer must stay even if no record needs it: one that was set aside, of any table, mentions it."""
        views = (self.layers, self.images, self.containers, *self.other_images)
        return next((why for view in views if (why := view.table.doubted(layer_id)) is not None), None)

    def find_layer(self, ref: str) -> tuple[View, Row] | None:
        """A layer by id, name or unique prefix: primary table, then additional ones."""
        return _find((self.layers, *self.other_layers), ref)

    def find_image(self, ref: str) -> tuple[View, Row] | None:
        """An image likewise. A name that was taken off our copy of a foreign image does not find the foreign one."""
        found = _find((self.images, *self.other_images), ref)
        if found and found[0] is not self.images and self.images.rows.by_id(found[1].id) is not None:
            return None
        return found

    def own_images(self) -> list[Editor]:
        """The image tables that are ours to change; two in a split store. Opened for writing."""
        return [view for view in (self.images, *self.other_images) if isinstance(view, Editor)]

    def layer(self, ref: str) -> tuple[View, Row]:
        """As `find_layer`; raises LayerUnknown."""
        found = self.find_layer(ref)
        if found is None:
            raise unknown_layer(ref)
        return found


def _find(views: tuple[View, ...], ref: str) -> tuple[View, Row] | None:
    for view in views:
        row = view.find(ref)
        if row is not None:
            return view, row
    return None


def unknown_layer(ref: str) -> LayerUnknown:
    return LayerUnknown(f"no layer has the id, name or unique prefix {ref!r}", ref=ref)


class emptied:
    """A block that deletes what was set aside inside it, after everything inside was left (`design` section 6).

        with emptied(engine) as rubbish, engine.open(layers=WRITE) as tables:
            ...

    Entered first, it is left last: no lock is held while files are deleted. A directory for set-aside things inside
    a driver's home is removed under the layer lock, because older peers would take it for a layer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Trash:
        self._rubbish = self._engine.layers.new_trash()
        return self._rubbish

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        roots = self._rubbish.foreign_roots()
        try:
            self._rubbish.empty()
        except OSError as problem:
            if error is None:
                raise
            error.add_note(f"and what was set aside could not be deleted: {problem}")
        if roots:
            with self._engine.open(layers=WRITE, additional=False):
                for root in roots:
                    try:
                        os.rmdir(root)
                    except OSError:
                        pass  # in use by another removal, which will remove it
