"""Making and filling layers (`spec/records.md` 14, 16): what `create`, `put`, containers and copies share.

Everything here runs inside a block that holds the layer table exclusively.
"""

from __future__ import annotations

import os

from orlop.errors import DuplicateID, DuplicateName, InvalidMappings, LayerUnknown, ParentIsContainer
from orlop.model.idmap import IDENTITY, IDMappings
from orlop.model.ids import check_new_id
from orlop.model.timestamp import Timestamp
from orlop.records.incomplete import creating, passing
from orlop.records.layers import layer_of
from orlop.store import arguments
from orlop.store.tables import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, BinaryIO

    from orlop.model.layer import Layer
    from orlop.records.blocks import View
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.blob import Blob
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables
    from orlop.stream.ingest import LayerFacts

# What a layer made from a template takes over from it: the content is the same, and so are its facts.
_FACTS_OF_CONTENT = (
    "metadata",
    "compressed-diff-digest",
    "compressed-size",
    "diff-digest",
    "toc-digest",
    "diff-size",
    "compression",
    "uidset",
    "gidset",
)


class Draft:
    """What is wanted of a new layer. `mappings` are the effective ones (see `effective_mappings`)."""

    __slots__ = (
        "data",
        "flags",
        "id",
        "label",
        "mappings",
        "metadata",
        "names",
        "parent",
        "storage_opt",
        "template",
        "volatile",
        "writable",
    )

    def __init__(
        self,
        *,
        id: str | None = None,
        names: Iterable[str] = (),
        parent: Row | None = None,
        template: Row | None = None,
        label: str = "",
        writable: bool = True,
        mappings: IDMappings = IDENTITY,
        volatile: bool = False,
        metadata: str = "",
        storage_opt: Mapping[str, str] | None = None,
        data: Mapping[str, bytes | BinaryIO] | None = None,
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.names = tuple(arguments.names(names))
        self.parent = parent
        self.template = template
        self.label = label
        self.writable = writable
        self.mappings = mappings
        self.volatile = volatile
        self.metadata = arguments.metadata(metadata)
        self.storage_opt = storage_opt
        self.data = arguments.items(data, of_layer=True)
        self.flags = flags or {}


def new_id(view: View) -> str:
    """A fresh id: 64 hex digits whose first twelve are not all decimal, or they could be read as a number."""
    while True:
        id = os.urandom(32).hex()
        if not id[:12].isdecimal() and view.rows.by_id(id) is None:
            return id


def check_free(view: View, id: str | None, names: tuple[str, ...]) -> None:
    """Refuse an id or name that another record of the table has.

    Raises:
        UnsafeID, DuplicateID, DuplicateName.
    """
    noun = view.table.noun
    if id:
        check_new_id(noun, id)
        if view.rows.by_id(id) is not None:
            raise DuplicateID(f'{noun} id "{id}" is in use already', kind=noun, id=id)
    for name in names:
        owner = view.rows.owner_of(name)
        if owner is not None:
            raise DuplicateName(
                f'{noun} name "{name}" belongs to {noun} {owner.id}', kind=noun, name=name, owner=owner.id
            )


def effective_mappings(
    engine: Engine,
    given: IDMappings,
    inherited: IDMappings,
    *,
    host_uids: bool = False,
    host_gids: bool = False,
) -> IDMappings:
    """The id maps that the content of a new layer gets on disk (`spec/records.md` 14, `spec/mounting.md` 6.1).

    A kind (uids, gids) that is neither given nor to be the host's is inherited. None at all if the driver maps
    while mounting.
    """
    uids = () if host_uids else given.uids or inherited.uids
    gids = () if host_gids else given.gids or inherited.gids
    wanted = IDMappings(uids, gids)
    return IDENTITY if wanted and engine.ready_driver.supports_shifting(wanted) else wanted


def find_parent(engine: Engine, tables: Tables, ref: str | None) -> tuple[View, Row] | None:
    """The parent of a new layer.

    Raises:
        LayerUnknown: nothing has that id, name or prefix.
        ParentIsContainer: it is a container's layer, which changes under its children.
    """
    if not ref:
        return None
    view, row = tables.layer(ref)
    # A container's layer is made under the layer lock, which we hold: this look need not last.
    with engine.open(containers=READ) as others:
        owner = next(iter(others.containers.rows.holding("layer", row.id)), None)
    if owner is not None:
        raise ParentIsContainer(
            f"layer {row.id} is the changing layer of container {owner.id}, and cannot be a parent",
            id=row.id,
            container=owner.id,
        )
    return view, row


def drafted(
    engine: Engine,
    tables: Tables,
    *,
    parent: str | None,
    template: str | None = None,
    mappings: IDMappings,
    host_uids: bool,
    host_gids: bool,
    **wanted: Any,
) -> Draft:
    """The draft of a layer, with what the arguments name found in the tables; `wanted` are those of a draft.

    Raises:
        LayerUnknown, ParentIsContainer.
    """
    found = find_parent(engine, tables, parent)
    base = found[1] if found else None
    return Draft(
        parent=base,
        template=tables.layer(template)[1] if template else None,
        mappings=effective_mappings(
            engine,
            arguments.mappings(mappings),
            mappings_of(base) if base else engine.options.mappings,
            host_uids=host_uids,
            host_gids=host_gids,
        ),
        **wanted,
    )


def make_layer(
    engine: Engine,
    tables: Tables,
    rubbish: Trash,
    draft: Draft,
    blob: Blob | None = None,
    seal: Callable[[str], object] | None = None,
    content: Callable[[Row], object] | None = None,
) -> tuple[Layer, int]:
    """Make a layer, filled from `blob` if one is given; the value and the bytes unpacked (-1 without a blob).

    `content` fills it, durably, in another way: it is called with the row once the driver has made the layer.
    `seal` is called with the id once the layer is whole, before its flag goes: what is recorded there (a container)
    comes and goes with the layer. On any error nothing of it stays (`records/incomplete`).
    """
    editor, table, driver = tables.layers, engine.layers, engine.ready_driver
    check_free(editor, draft.id, draft.names)
    id = draft.id or new_id(editor)
    driver.check_id(id)
    home = table.home_for(volatile=draft.volatile, writable=draft.writable)
    size = -1
    making = creating(table, editor, _document(id, draft), home, rubbish)
    with making as row:
        if draft.data:
            items = engine.items(table, volatile=draft.volatile)
            editor.change(row, items.store_all(id, draft.data))
        _create_in_driver(engine, id, draft)
        if draft.template is not None:
            _copy_tar_split(engine, draft.template.id, id, tables, volatile=draft.volatile)
        if blob is not None:
            size = fill(engine, tables, row, blob, draft.mappings, volatile=draft.volatile)
        elif content is not None:
            content(row)
        else:
            engine.sync(id, volatile=draft.volatile)
        if seal is not None:
            making.seal(lambda: seal(id))
    return layer_of(editor, row), size


def with_passing_layer(
    engine: Engine, tables: Tables, rubbish: Trash, draft: Draft, work: Callable[[str], Any]
) -> Any:
    """What `work` returns for the id of a layer that is there for it alone, and flagged all the time."""
    id = new_id(tables.layers)
    table = engine.layers
    home = table.home_for(volatile=draft.volatile, writable=draft.writable)
    with passing(table, tables.layers, _document(id, draft), home, rubbish):
        _create_in_driver(engine, id, draft)
        return work(id)


def fill(
    engine: Engine, tables: Tables, row: Row, blob: Blob, mappings: IDMappings, *, volatile: bool
) -> int:
    """Unpack a blob into a layer, write its tar-split, put the facts in the record; bytes of the entries.

    All but the record is durable then: the files, and after them the tar-split that says what they have to be. The
    caller saves.
    """
    from orlop.stream.ingest import ingest
    from orlop.system import files

    editor, table = tables.layers, engine.layers
    durable = engine.options.durable and not volatile
    # The layer lock stays with the child that writes: it must not become free while something still writes.
    held = [lock.fileno() for lock in table.locks]
    with files.replacing(table.tar_split_path(row.id), durable=durable) as split_out:
        with engine.ready_driver.unpacking(
            row.id, row.document.get("parent"), mappings=mappings, keep_fds=held
        ) as unpacker:
            facts = ingest(
                blob.source,
                unpacker,
                split_out,
                original_digest=blob.trusted_digest,
                original_size=blob.trusted_size,
                trusted_diff_digest=blob.trusted_diff_digest,
            )
            blob.verify(facts)
            result = unpacker.finish()
        engine.sync(row.id, volatile=volatile)
    editor.change(row, _members(facts))
    return result.size


def _members(facts: LayerFacts) -> dict[str, Any]:
    return {
        "compressed-diff-digest": facts.compressed_digest,
        "compressed-size": facts.compressed_size,
        "diff-digest": facts.diff_digest,
        "diff-size": facts.diff_size,
        "compression": facts.compression,
        "uidset": list(facts.uids),
        "gidset": list(facts.gids),
    }


def _document(id: str, draft: Draft) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": id,
        "names": list(draft.names),
        "parent": draft.parent.id if draft.parent else "",
        "metadata": draft.metadata,
        "mountlabel": draft.label,
        "created": str(Timestamp.now()),
        "flags": dict(draft.flags),
        "uidmap": maps_document(draft.mappings.uids),
        "gidmap": maps_document(draft.mappings.gids),
    }
    if draft.template is not None:
        document |= {
            key: draft.template.document[key] for key in _FACTS_OF_CONTENT if key in draft.template.document
        }
    return document


def maps_document(maps: tuple[Any, ...]) -> list[dict[str, int]]:
    """Id maps as a record has them."""
    return [entry.as_json() for entry in maps]


def mappings_of(row: Row | None) -> IDMappings:
    """The id maps of a layer or container row."""
    if row is None or not (row.document.get("uidmap") or row.document.get("gidmap")):
        return IDENTITY
    from orlop.model.layer import Layer

    return Layer(row.document).mappings


def _create_in_driver(engine: Engine, id: str, draft: Draft) -> None:
    driver = engine.ready_driver
    parent = draft.parent.id if draft.parent else None
    what = f"{'read-write' if draft.writable else 'read-only'} layer"
    try:
        if draft.template is not None:
            what = f'copy of template layer "{draft.template.id}"'
            driver.create_from_template(
                id,
                draft.template.id,
                parent,
                writable=draft.writable,
                mappings=draft.mappings,
                label=draft.label,
                storage_opt=draft.storage_opt,
            )
        else:
            driver.create(
                id,
                parent,
                writable=draft.writable,
                mappings=draft.mappings,
                label=draft.label,
                storage_opt=draft.storage_opt,
            )
    except InvalidMappings as error:  # maps without a root, who would own the layer
        error.peer = f'creating {what} with ID "{id}": {error.peer}'
        raise
    source = draft.template or draft.parent
    if source is not None:
        before = mappings_of(source)
        if before != draft.mappings:
            driver.shift(id, before, draft.mappings)


def _copy_tar_split(engine: Engine, template: str, id: str, tables: Tables, *, volatile: bool) -> None:
    from orlop.system import files

    for view in (tables.layers, *tables.other_layers):
        table: Any = view.table
        try:
            data = files.read(table.tar_split_path(template))
        except FileNotFoundError:
            continue
        if data:
            durable = engine.options.durable and not volatile
            files.write_atomic(engine.layers.tar_split_path(id), data, durable=durable)
        return


def require_layer(tables: Tables, ref: str) -> Row:
    """A layer of the primary table, for changing it.

    Raises:
        LayerUnknown: also if only an additional store has it.
    """
    row = tables.layers.find(ref)
    if row is None:
        raise LayerUnknown(f"no layer of this store has the id, name or unique prefix {ref!r}", ref=ref)
    return row
