"""Several tables opened together, in the one order that never deadlocks (`spec/locking.md` 6, 7).

    with engine.open(layers=WRITE, images=READ) as tables:
        row = tables.layers.find(ref)

Layers, additional layers, images, additional images, containers; released in the reverse. Only this file opens more
than one table.
"""

from __future__ import annotations

import os

from orlop.errors import ImageUnknown, LayerUnknown
from orlop.records.blocks import Editor, Looking, Reading, View, Writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

    from orlop.records.rows import Row
    from orlop.records.table import Table
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine

READ, WRITE, LOOK = "read", "write", "look"
"""How a table is opened. LOOK is READ for who must not change a thing: what wants repair is not repaired."""


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
        self._at_once = False
        self._open: list[Reading | Writing | Looking] = []
        self.other_layers: list[View] = []
        self.other_images: list[View] = []

    def __enter__(self) -> Tables:
        engine, (layers, images, containers) = self.engine, self._modes
        others_of_layers = engine.additional_layers() if layers and self._additional else []
        others_of_images = engine.additional_images(foreign=self._additional) if images else []
        try:
            if layers:
                if layers == WRITE and not self._graph_held:
                    engine.driver(at_once=self._at_once)
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

    def at_once(self) -> Tables:
        """Enter the block if nothing has to be waited for; else LockTimeout, and the block may be tried again."""
        self._at_once = True
        try:
            return self.__enter__()
        finally:
            self._at_once = False

    def close(self) -> None:
        """Leave the block; for those who keep it open longer than a `with` (a diff being read)."""
        self._leave(None, None, None)

    def _take(self, table: Table, mode: str) -> Any:
        # A load under the shared lock may find layers to repair; that takes the driver, and so `storage.lock`.
        prepare = (
            None if self._graph_held or table is not self.engine._tables.get("layers") else self.engine.driver
        )
        block: Reading | Writing | Looking
        if mode == LOOK:
            block = table.looking()
        elif mode == WRITE:
            block = table.writing()
        else:
            block = table.reading(prepare)
        if self._at_once:
            block.timeout = 0
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

    def image(self, ref: str) -> tuple[View, Row]:
        """As `find_image`; raises ImageUnknown."""
        found = self.find_image(ref)
        if found is None:
            raise ImageUnknown(
                f"no image has the id, name or unique prefix {ref!r}",
                peer=f'locating image with ID "{ref}": {ImageUnknown.peer}',
                ref=ref,
            )
        return found

    def own_images(self) -> list[Editor]:
        """The image tables that are ours to change; two in a split store. Views if they were opened for reading."""
        views: list[Any] = [self.images, *self.other_images]
        return [view for view in views if not view.table.read_only]

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


_SLACK = 300_000  # xfs wants room for the worst case before it makes a file


class emptied:
    """A block that deletes what was set aside inside it, after everything inside was left (`design` section 6).

        with emptied(engine) as rubbish, engine.open(layers=WRITE) as tables:
            ...

    Entered first, it is left last: no lock is held while files are deleted. A directory for set-aside things inside
    a driver's home is removed under the layer lock, because older peers would take it for a layer.

    Some room is kept behind the end of the layers' lock file, and given up on a full disk for what is `freeing`:
    records are written anew before anything can go (promise P5).
    """

    def __init__(self, engine: Engine, *, freeing: bool = False) -> None:
        self._engine = engine
        self._freeing = freeing
        self._given = 0

    def __enter__(self) -> Trash:
        self._rubbish = self._engine.layers.new_trash()
        if self._freeing:
            from orlop.system import room

            place = self._engine.layers.locks[0].path
            if os.path.exists(place) and room.free(place) < self._room():
                self._given = room.give_back(place)
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
        if error is None or self._given:
            from orlop.system import room

            room.keep(self._engine.layers.locks[0].path, self._room(), again=self._given)

    def _room(self) -> int:
        """What a deletion may take before it frees anything: all records anew, some directories, and slack.

        In powers of two, so that it does not change with every record.
        """
        size = _SLACK
        for kind in ("layers", "images", "containers"):
            try:
                size += os.stat(os.path.join(self._engine.place(kind), f"{kind}.json")).st_size
            except OSError:
                pass  # there is none yet
        return 1 << size.bit_length()
