"""Images, for users of the store (`spec/records.md` 5, 17, 18.4, 20.2)."""

from __future__ import annotations

import os

from orlop.errors import ImageUnknown, ImageUsedByContainer, NotAnImage
from orlop.model.digest import Digest
from orlop.model.ids import LayerID
from orlop.model.image import Image, digests_of, tops_of
from orlop.model.timestamp import Timestamp
from orlop.store.directories import Directories
from orlop.store.tables import READ, WRITE, emptied
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from orlop.records.blocks import Editor, View
    from orlop.records.rows import Key, Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


class Images(Directories[Image]):
    """`store.images`."""

    noun = "image"
    _unknown = ImageUnknown

    def _opening(self, mode: str) -> Tables:
        return self._engine.open(images=mode, additional=mode == READ)

    def _views(self, tables: Tables) -> tuple[View, ...]:
        return (tables.images, *tables.other_images)

    def _find(self, tables: Tables, ref: str) -> tuple[View, Row] | None:
        return tables.find_image(ref)

    def _rename(self, ref: str, operation: str, names: Iterable[str]) -> tuple[str, ...]:
        """As for every kind; an image of an additional store is copied into this one first."""
        from orlop.store import arguments, pullup

        wanted = arguments.names(names)
        try:
            return super()._rename(ref, operation, wanted)
        except ImageUnknown:
            if not self._engine.additional_images():
                raise
        with self._engine.open(images=WRITE) as tables:
            found = tables.find_image(ref)
            if found is None:
                raise self._not_known(ref)
            view, row = found

            def give(own: Row) -> tuple[str, ...]:
                return self._give_names(tables.images, own, operation, wanted)

            return (
                give(row) if view is tables.images else pullup.pull_up(self._engine, tables, view, row, give)
            )

    def _history(self, row: Row, names: list[str]) -> dict[str, object]:
        # Each name goes to the front in turn, so the last of the list ends up first (`spec/records.md` 10).
        history = [*reversed(names), *(row.document.get("names-history") or [])]
        return {"names-history": list(dict.fromkeys(history))}

    # --- making -------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        id: str | None = None,
        names: Iterable[str] = (),
        layer: str | None = None,
        metadata: str = "",
        digest: str | None = None,
        created: str | None = None,
        names_history: Iterable[str] = (),
        data: Mapping[str, bytes] | None = None,
        data_digests: Mapping[str, str] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> Image:
        """Make an image: a record that names a top layer, with data of its own. All or nothing.

        Args:
            id: 64 random hex digits if not given.
            names: unused names.
            layer: the top layer by id, name or prefix; None for an image without layers.
            metadata: the caller's own text.
            digest: a digest to find the image by, besides those of its manifests.
            created: RFC 3339; now if not given.
            data: big-data items, e.g. the manifest and the configuration (under its digest as the key).
            data_digests: the digests, by key, of items whose digest is not the sha256 of their bytes (signed schema 1
                manifests).
            flags: kept in the record for other programs.

        An `id` that an image of an additional store has makes ours a copy of that one in another shape: metadata,
        date, digest, history and data are taken over where none are given, and its names are added, also where
        another image of this store has them (`spec/records.md` 17.1).

        Raises:
            LayerUnknown, DuplicateID, DuplicateName, UnsafeID, InvalidDigest, InvalidKey.
        """
        from orlop.store import arguments, layering, pullup

        engine = self._engine
        names = tuple(arguments.names(names))
        arguments.metadata(metadata)
        data = arguments.items(data)
        for given in (digest, *(data_digests or {}).values()):
            if given is not None:
                Digest.parse(given)
        moment = _moment(created) if created is not None else None
        with engine.open(layers=READ if layer else None, images=WRITE) as tables:
            top = tables.layer(layer)[1].id if layer else ""
            editor = tables.images
            layering.check_free(editor, id, names)
            foreign = pullup.foreign_of_id(engine, tables, id)
            document: dict[str, Any] = {
                "created": str(Timestamp.now()),
                **(foreign.facts() if foreign else {}),
            }
            history = document.get("names-history") or ()
            document |= {
                "id": id or layering.new_id(editor),
                "names": list(names),
                "names-history": list(dict.fromkeys([*history, *names_history])),
                "layer": top,
                "flags": dict(flags or {}),
            }
            own = {"digest": digest, "metadata": metadata, "created": moment}
            document |= {member: value for member, value in own.items() if value}
            inherited, digests = foreign.items() if foreign else ({}, {})
            digests = {key: value for key, value in digests.items() if key not in data}
            items = engine.items(editor.table)
            with items.making(document["id"]):
                document |= items.store_all(
                    document["id"], {**inherited, **data}, {**digests, **(data_digests or {})}
                )
                row = editor.add(document)
                if foreign and foreign.names:
                    both = arguments.names([*foreign.names, *names])
                    editor.set_names(row, both, **self._history(row, both))
                editor.save()
            return self._value(editor, row)

    # --- asking -------------------------------------------------------------------------------------------

    def by_digest(self, digest: str) -> list[Image]:
        """The images found by a digest: their own, or that of one of their manifests. May be empty."""
        with self._opening(READ) as tables:
            return self._found(self._views(tables), digests_of, digest)

    def by_top_layer(self, ref: str) -> list[Image]:
        """The images whose top layer, or one of its mapped copies, is this layer. May be empty.

        Raises:
            LayerUnknown.
        """
        with self._engine.open(layers=READ, images=READ) as tables:
            id = tables.layer(ref)[1].id
            return self._found(self._views(tables), tops_of, id)

    def _found(self, views: Iterable[View], key: Key, value: str) -> list[Image]:
        return [self._value(view, row) for view in views for row in view.rows.holding(key, value)]

    def size(self, ref: str) -> int:
        """Bytes of the image: its layers, each once, and its data (`spec/records.md` 22).

        Raises:
            ImageUnknown; LayerUnknown if a layer of the chain is missing.
        """
        from orlop.store import sizes

        return sizes.image_size(self._engine, ref)

    # --- deleting -----------------------------------------------------------------------------------------

    def delete(self, ref: str, *, dry_run: bool = False) -> tuple[LayerID, ...]:
        """Delete an image and the layers that nothing else needs; the ids of those layers, top first.

        `dry_run` says what would go, and changes nothing.

        Raises:
            NotAnImage: unknown in this store.
            ImageUsedByContainer.
        """
        from orlop.store.layers import delete_layers
        from orlop.store.leaving import layers_to_go

        engine = self._engine
        with (
            emptied(engine, freeing=True) as rubbish,
            engine.open(layers=WRITE, images=WRITE, containers=WRITE, additional=False) as tables,
        ):
            found = own_images(tables, ref)
            if not found:
                raise NotAnImage(f"no image of this store has the id, name or unique prefix {ref!r}", ref=ref)
            id = found[0][1].id
            for container in tables.containers.rows.holding("image", id):
                raise ImageUsedByContainer(
                    f'image "{id}" is used by container {container.id}: delete that first',
                    id=id,
                    container=container.id,
                )
            going, _ = layers_to_go(tables, [row for _, row in found])
            if not dry_run:
                rows = [layer for id in going if (layer := tables.layers.rows.by_id(id)) is not None]
                delete_layers(engine, tables, rows, rubbish, lambda: remove_records(engine, found, rubbish))
        return tuple(map(LayerID, going))


def own_images(tables: Tables, ref: str, *, exactly: bool = False) -> list[tuple[Editor, Row]]:
    """The records of ours that a reference means: one, none, or in a split store two of one id (copy and source).

    `exactly`: it is not taken for the beginning of an id.
    """
    own = tables.own_images()
    found = next(filter(None, (editor.find_exactly(ref) for editor in own)), None)
    if found is None and not exactly:
        found = next(filter(None, (editor.find(ref) for editor in own)), None)
    if found is None:
        return []
    return [(editor, row) for editor in own if (row := editor.rows.by_id(found.id)) is not None]


def directories_of(engine: Engine, id: str) -> list[str]:
    """Everything that may belong to an image besides its record: its data, and its callers' own directories."""
    places = (engine.images.directory, engine.place("images"), engine.place("images", run=True))
    return [os.path.join(place, id) for place in dict.fromkeys(places)]


def remove_records(engine: Engine, images: Iterable[tuple[Editor, Row]], rubbish: Trash) -> None:
    """Take records of images away, each table saved once, and set their data aside; their layers stay."""
    images = list(images)
    place = engine.place("images")
    for editor, row in images:
        editor.remove(row)
    with engine.items(engine.images).removing([row.id for _, row in images]):
        # Of two records of one image callers see the primary table's. It goes last: to die before that leaves them
        # the image as it was, and not the one of before it was renamed.
        for editor in sorted({editor for editor, _ in images}, key=lambda e: e.table is engine.images):
            editor.save()
        tables = (engine.images, *engine.additional_images(foreign=False))
        for editor, row in images:
            has_owner = any(table.find_by_id(row.id) is not None for table in tables)
            if not (
                has_owner and editor.table.directory == place
            ):  # there lie the caller's own files as well
                rubbish.set_aside(os.path.join(editor.table.directory, row.id))
            if not has_owner:
                files.remove_tree(os.path.join(engine.place("images", run=True), row.id))
                rubbish.set_aside(os.path.join(place, row.id))  # a split store keeps `userdata` there


def _moment(created: object) -> str:
    from orlop.model.timestamp import is_timestamp

    text = created.isoformat() if hasattr(created, "isoformat") else str(created)
    if not is_timestamp(text):
        raise ValueError(f"created: wanted RFC 3339 text with an offset or Z, found {text!r}")
    return text
