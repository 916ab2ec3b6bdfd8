"""Layers whose files were made ready before there was a layer (`spec/chunked.md` 19-21, `spec/records.md` 16.3).

    prepare ──▶ apply          a differ fills a directory of the driver; then it becomes a layer, under the layer lock
           └──▶ clean_up

Rule 1. While the differ works, no table is locked. The directory has a lock of its own.
Rule 2. What is long is done before the tables are locked: the bytes are on disk when `prepare` returns.
Rule 3. A layer gets files with the owners that its id maps say, or none.
"""

from __future__ import annotations

import os

from orlop.drivers.api import SupportsStaging
from orlop.errors import InvalidMappings, NotSupported, StillMounted
from orlop.model.idmap import IDENTITY
from orlop.model.staging import StagedOutput
from orlop.records.layers import flag, layer_of
from orlop.store import layering
from orlop.store.tables import WRITE, emptied
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, BinaryIO

    from orlop.chunked.source import ByteSource
    from orlop.drivers.api import Driver
    from orlop.model.idmap import IDMappings
    from orlop.model.layer import Layer
    from orlop.model.staging import Differ
    from orlop.records.rows import Row
    from orlop.records.trash import Trash
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables


def prepare(
    engine: Engine, differ: Differ, mappings: IDMappings | None, *, host_uids: bool, host_gids: bool
) -> StagedOutput:
    """Let a differ fill a directory; what it made, with the directory that holds it."""
    driver = _supporting(engine.driver())
    wanted = layering.effective_mappings(
        engine, mappings or IDENTITY, engine.options.mappings, host_uids=host_uids, host_gids=host_gids
    )
    target, options = driver.stage(wanted)
    try:
        output = differ.apply(target, options)
        if not isinstance(output, StagedOutput):
            raise TypeError(f"a differ returns a StagedOutput; found {type(output).__name__}")
        if engine.options.durable:
            files.sync_filesystem(target)
    except BaseException as error:
        try:
            driver.drop_staged(target)
        except Exception as second:
            error.add_note(f"and {target} could not be removed: {second}")
        raise
    return output.placed(target, wanted)


def refuse_target(to: str) -> None:
    """What `ApplyDiffWithDiffer` says to a layer that is there already."""
    if to:
        raise NotSupported(
            f"a differ makes a directory ready for a layer to come; layer {to!r} was named",
            peer="ApplyDiffWithDiffer does not support non-empty 'layer' parameter",
            ref=to,
        )


def apply(engine: Engine, output: StagedOutput, id: str, flags: Mapping[str, Any], **wanted: Any) -> Layer:
    """Make a layer of an output, or replace the content of one; `wanted` are the arguments of `layering.drafted`."""
    try:
        driver = _supporting(engine.driver())
        with emptied(engine) as rubbish, engine.open(layers=WRITE) as tables:
            rows = tables.layers.rows
            row = rows.by_id(id) or rows.owner_of(id)
            if row is None:
                return _create(engine, tables, rubbish, output, id, flags, **wanted)
            if not _holds(row, output):
                return _replace(engine, tables, rubbish, row, output, flags)
            layer = layer_of(tables.layers, row)
        # Another process made the same layer meanwhile; what it has may be in use already.
        driver.drop_staged(output.target)
        return layer
    finally:
        output.close()


def clean_up(engine: Engine, output: StagedOutput) -> None:
    """Remove what was made ready."""
    output.close()
    _supporting(engine.driver()).drop_staged(output.target)


def differ_target(engine: Engine, ref: str) -> str:
    """The directory with the content of a layer."""
    driver = _supporting(engine.driver())
    with engine.open(layers=WRITE, additional=False) as tables:
        return driver.differ_target(layering.require_layer(tables, ref).id)


def chunked_differ(engine: Engine, source: ByteSource, annotations: Mapping[str, str]) -> Differ:
    """What makes a layer of a zstd:chunked blob, if this store does that."""
    from orlop.chunked.pulling import open_differ

    driver = engine.driver()
    return open_differ(
        source,
        annotations,
        engine.options.pull_options or {},
        driver.name,
        staging=isinstance(driver, SupportsStaging),
    )


def _supporting(driver: Driver) -> SupportsStaging:
    if not isinstance(driver, SupportsStaging):
        raise NotSupported(
            f'the driver "{driver.name}" makes layers from archives only; overlay can take a directory of files'
        )
    return driver


def _refuse_other_maps(output: StagedOutput, mappings: IDMappings) -> None:
    if output.mappings != mappings:
        raise InvalidMappings(
            f"the files were made ready with the id maps {output.mappings}, and the layer has {mappings}: "
            "give the layer's to prepare_staged_layer"
        )


def _create(
    engine: Engine,
    tables: Tables,
    rubbish: Trash,
    output: StagedOutput,
    id: str,
    flags: Mapping[str, Any],
    *,
    data: Mapping[str, bytes | BinaryIO] | None,
    **wanted: Any,
) -> Layer:
    items = {**(data or {}), **output.data}
    draft = layering.drafted(engine, tables, id=id, data=items, flags=flags, **wanted)
    _refuse_other_maps(output, draft.mappings)

    def fill(row: Row) -> None:
        _fill(engine, tables, rubbish, row, output, volatile=draft.volatile)

    return layering.make_layer(engine, tables, rubbish, draft, content=fill)[0]


def _holds(row: Row, output: StagedOutput) -> bool:
    """Whether a layer has the content already."""
    digests = (("diff-digest", output.uncompressed_digest), ("toc-digest", output.toc_digest))
    return any(digest and row.document.get(key) == digest for key, digest in digests)


def _replace(
    engine: Engine,
    tables: Tables,
    rubbish: Trash,
    row: Row,
    output: StagedOutput,
    flags: Mapping[str, Any],
) -> Layer:
    """Give a layer that is there another content.

    LIMIT: the layer is not flagged meanwhile, as it would be deleted after a crash, with all that was in it. One in
    between leaves the new files beside the old record; a check tells.
    """
    editor = tables.layers
    mounted = layer_of(editor, row).mount_count
    if mounted:
        raise StillMounted(
            f"layer {row.id} is mounted ({mounted} times): its content cannot be replaced", layers=(row.id,)
        )
    _refuse_other_maps(output, layering.mappings_of(row))
    volatile = row.home == engine.layers.volatile_home
    _fill(engine, tables, rubbish, row, output, volatile=volatile)
    if flags:
        flag(editor, row, **flags)
    items = engine.items(engine.layers, volatile=volatile)
    for key, value in output.data.items():
        items.store(editor, row, key, value)
    editor.save()
    return layer_of(editor, row)


def _fill(
    engine: Engine, tables: Tables, rubbish: Trash, row: Row, output: StagedOutput, *, volatile: bool
) -> None:
    """Put the directory in its place and the tar-split beside it, durably; then the facts in the record."""
    driver = _supporting(engine.ready_driver)
    driver.place_staged(row.id, output.target, rubbish.set_aside, root_is_set=output.root_mode is not None)
    engine.sync(row.id, volatile=volatile)
    path = engine.layers.tar_split_path(row.id)
    if output.tar_split is not None:
        _write_tar_split(path, output.tar_split, durable=engine.options.durable and not volatile)
    elif os.path.lexists(path):
        os.unlink(path)  # it was about other files
    facts: dict[str, Any] = {
        "diff-digest": output.uncompressed_digest,
        "compressed-diff-digest": output.compressed_digest,
        "toc-digest": output.toc_digest,
        "diff-size": output.size,
        "uidset": list(output.uids),
        "gidset": list(output.gids),
    }
    if output.metadata:
        facts["metadata"] = output.metadata
    tables.layers.change(row, facts)


def _write_tar_split(path: str, lines: BinaryIO, *, durable: bool) -> None:
    from orlop.stream import compression
    from orlop.stream.measure import blocks_of

    kind, blocks = compression.peek(blocks_of(lines))
    with files.replacing(path, durable=durable) as out:
        if kind == compression.GZIP:
            for block in blocks:
                out.write(block)
            return
        encoder = compression.encoder(compression.GZIP, fast=True)
        for block in blocks:
            out.write(encoder.compress(block))
        out.write(encoder.flush())
