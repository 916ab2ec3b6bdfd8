"""Tables and driver of one open store (`spec/locking.md` 6, 7).

Rules
1. `storage.lock` comes first, then the tables in the order of `store/tables`; released in the reverse.
2. `storage.lock` is never asked for while a table is held: a peer that mounts holds it and waits for the layers.
3. The driver is made when first needed, and made anew when another program shut it down (its token changed).
"""

from __future__ import annotations

import os

from orlop.drivers import registry
from orlop.drivers.api import SupportsStaging
from orlop.errors import ConfigError
from orlop.store.tables import WRITE, Tables
from orlop.system import files
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.drivers.api import Driver
    from orlop.model.idset import IDSet
    from orlop.model.options import StoreOptions
    from orlop.records.bigdata import Items
    from orlop.records.containers import ContainerTable
    from orlop.records.images import ImageTable
    from orlop.records.layers import LayerTable
    from orlop.records.table import Table
    from orlop.records.trash import Trash


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
        if options.driver:
            registry.check_name(options.driver, options.graph_root)
        for root in (options.run_root, options.graph_root, options.image_store):
            if root:
                files.make_dirs(root)
        # Created here, before the driver is known to work, because the peers expect to find it (`spec/records.md` 1).
        roots = [root for root in (options.graph_root, options.image_store) if root and options.driver]
        homes = [os.path.join(root, options.driver) for root in roots]
        new = [home for home in homes if not os.path.lexists(home)]
        for home in homes:
            files.make_dirs(home)
        self.graph_lock = LockFile.at(os.path.join(options.graph_root, "storage.lock"))
        self.userns_lock = LockFile.at(os.path.join(options.graph_root, "userns.lock"))
        self._driver: Driver | None = None
        self._driver_token: bytes | None = None
        self.ids_set_aside: tuple[str, IDSet, IDSet] | None = None
        """Owner, user ids and group ids for automatic user namespaces, once `store/userns` has looked them up."""
        try:
            self.driver_name = self.driver().name
        except BaseException:
            # One of a driver that does not work here would be another driver's data to whoever comes next.
            for home in new:
                try:
                    os.rmdir(home)
                except OSError:
                    pass
            raise
        self._tables: dict[str, Table] = {}
        self._additional: tuple[str, ...] | None = None
        for place in (
            self.place("images", root=options.image_store),
            self.place("images", run=True),
            self.place("containers"),
            self.place("containers", run=True),
            self.place("locks", run=True),
        ):
            files.make_dirs(place)
        # The peers find these two from the start; the tables themselves are made when they are wanted.
        LockFile.at(os.path.join(self.place("images", root=options.image_store), "images.lock"))
        LockFile.at(os.path.join(self.place("containers", run=options.transient), "containers.lock"))

    # --- the driver -------------------------------------------------------------------------------------

    def driver(self, *, at_once: bool = False) -> Driver:
        """The driver, as it is now. Takes `storage.lock` for a moment: hold no table when calling.

        `at_once`: LockTimeout if that is not free.
        """
        with self.graph_lock.writing(timeout=0 if at_once else self.options.lock_timeout):
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

        A layer that is still being made has neither, or is on an image's list of mapped copies. Called while the
        layer table is held, which comes first.
        """
        from orlop.store import containers, images
        from orlop.store.layers import forget_copies

        with self.open(images=WRITE, containers=WRITE, additional=False) as tables:
            rubbish = self.layers.new_trash()
            of_images = [
                (editor, row)
                for editor in tables.own_images()
                for row in editor.rows
                if row.document.get("layer") in layer_ids
            ]
            if of_images:
                images.remove_records(self, of_images, rubbish)
            boxes = [row for row in tables.containers.rows if row.document.get("layer") in layer_ids]
            if boxes:
                containers.remove_records(self, tables.containers, boxes, rubbish)
            forget_copies(tables, layer_ids)
        rubbish.empty()

    def _prune_staged(self) -> None:
        driver = self.ready_driver
        if isinstance(driver, SupportsStaging):
            driver.prune_staged()

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
        table: LayerTable = self._kept("layers", self._make_layers)
        return table

    @property
    def images(self) -> ImageTable:
        table: ImageTable = self._kept("images", self._make_images)
        return table

    @property
    def containers(self) -> ContainerTable:
        table: ContainerTable = self._kept("containers", self._make_containers)
        return table

    def _make_layers(self) -> LayerTable:
        from orlop.records.layers import LayerTable

        options = self.options
        return LayerTable(
            self.place("layers"),
            run_directory=self.place("layers", run=True),
            image_directory=self.place("layers", root=options.image_store) if options.image_store else None,
            transient=options.transient,
            durable=options.durable,
            lock_timeout=options.lock_timeout,
            discard=self._discard,
            stored_ids=self._stored_ids,
            release=self._release,
            temp_roots=self.ready_driver.temp_roots(),
            prune=self._prune_staged,
        )

    def _make_images(self) -> ImageTable:
        from orlop.records.images import ImageTable

        return ImageTable(
            self.place("images", root=self.options.image_store),
            run_directory=self.place("images", run=True),
            older=self._images_of_graph_root() if self.options.image_store else None,
            durable=self.options.durable,
            lock_timeout=self.options.lock_timeout,
        )

    def _make_containers(self) -> ContainerTable:
        from orlop.records.containers import ContainerTable

        return ContainerTable(
            self.place("containers"),
            run_directory=self.place("containers", run=True),
            transient=self.options.transient,
            durable=self.options.durable,
            lock_timeout=self.options.lock_timeout,
        )

    def items(self, table: Table, *, volatile: bool = False) -> Items:
        """The big-data files of a table."""
        from orlop.records.bigdata import Items

        return Items(table, durable=self.options.durable and not volatile)

    def _additional_roots(self) -> tuple[str, ...]:
        if self._additional is None:
            self._additional = self.ready_driver.additional_stores()
            own = [os.path.realpath(r) for r in (self.options.graph_root, self.options.image_store) if r]
            for root in self._additional:
                if not os.path.isabs(root):  # it would be another store in another directory
                    raise ConfigError(f'additional store "{root}" is not an absolute path', path=root)
                if os.path.realpath(root) in own:
                    raise ConfigError(f'additional store "{root}" is a root of this store itself', path=root)
        return self._additional

    def additional_layers(self) -> list[LayerTable]:
        """Read-only layer tables of the additional stores, in order of the options."""
        from orlop.records.layers import LayerTable

        return [
            self._kept(
                f"layers of {place}",
                lambda place=place: LayerTable(
                    place, run_directory=None, read_only=True, lock_timeout=self.options.lock_timeout
                ),
            )
            for place in self._additional_places("layers")
        ]

    def additional_images(self, *, foreign: bool = True) -> list[ImageTable]:
        """Image tables besides the primary one: that of a split store's graph root, ours too, then foreign ones."""
        from orlop.records.images import ImageTable

        tables = [self._images_of_graph_root()] if self.options.image_store else []
        tables += [
            self._kept(
                f"images of {place}",
                lambda place=place: ImageTable(place, read_only=True, lock_timeout=self.options.lock_timeout),
            )
            for place in (self._additional_places("images") if foreign else ())
        ]
        return tables

    def _images_of_graph_root(self) -> ImageTable:
        """Those of a split store from before it was split."""
        from orlop.records.images import ImageTable

        table: ImageTable = self._kept(
            "images of the graph root",
            lambda: ImageTable(
                self.place("images"), durable=self.options.durable, lock_timeout=self.options.lock_timeout
            ),
        )
        return table

    def _additional_places(self, kind: str) -> list[str]:
        """The directories of that kind that the additional stores have now. None is made: a typo is no store."""
        places = [self.place(kind, root=root) for root in self._additional_roots()]
        return [place for place in places if os.path.isdir(place)]

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
        """Forget the locks, so that another store of this process may open them in another way; and the records."""
        locks = [lock for table in self._tables.values() for lock in table.locks]
        for lock in {self.graph_lock, self.userns_lock, *locks}:
            lock.forget()
        # They know us as we know them: nothing else would free many megabytes before the collector comes by.
        self._tables = {}

    def damage(self) -> tuple[str, ...]:
        """What was found damaged in the tables loaded so far; one sentence each."""
        return tuple(line for table in self._tables.values() for line in table.damage)
