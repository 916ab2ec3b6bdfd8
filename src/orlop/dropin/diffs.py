"""Contents of layers: what changed, as a list, a size and an archive; filling a layer (`spec/cli.md` 8)."""

from __future__ import annotations

import os

from orlop.dropin.data import created, opened
from orlop.dropin.text import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.dropin.streams import Call

_WORDS = {"A": "Add", "C": "Modify", "D": "Delete"}
_NUMBERS = {"C": 0, "A": 1, "D": 2}
# Flags of `diff`, the one that beats the others first, and the kinds of compression of the layer record.
_KINDS = (("xz", 3), ("bzip2", 1), ("gzip", 2), ("uncompressed", 0))


def changes(call: Call) -> int:
    found = call.store.changes(call.args[0], _reference(call))
    if call.json:
        objects = [
            {"Path": change.path.decode("utf-8", "surrogateescape"), "Kind": _NUMBERS[change.kind]}
            for change in found
        ]
        call.answer_objects(objects, empty="null")
    else:
        for change in found:
            call.say(f"{_WORDS[change.kind]} {quote(change.path)}")
    return 0


def diff(call: Call) -> int:
    kind = next((kind for flag, kind in _KINDS if call.values.on(flag)), None)
    # The file is emptied first, also for a layer that is not there.
    with created(call.values.text("file")) as fd:
        with call.store.diff(call.args[0], _reference(call), compression=kind) as stream:
            stream.write_to(fd)
    return 0


def diff_size(call: Call) -> int:
    call.say(str(call.store.diff_size(call.args[0], _reference(call))))
    return 0


def apply_diff(call: Call) -> int:
    with opened(call.values.text("file")) as blob:
        call.store.apply_diff(call.args[0], blob)
    return 0


def apply_diff_staged(call: Call) -> int:
    """A directory, by way of a zstd:chunked blob, as if that had been pulled."""
    from tempfile import TemporaryFile

    from orlop.chunked import writing
    from orlop.chunked.source import BlobFile
    from orlop.stream.pack import pack_tree
    from orlop.stream.pieces import PieceStream
    from orlop.stream.writer import TRAILER

    layer, directory = call.args
    # What is not there is an empty tree.
    pieces = pack_tree(directory) if os.path.lexists(directory) else iter((TRAILER,))
    with TemporaryFile() as blob:
        with PieceStream(pieces) as tar:
            annotations = writing.write(tar, blob)
        blob.flush()
        differ = call.store.chunked_differ(BlobFile(blob.fileno()), annotations)
        output = call.store.prepare_staged_layer(differ)
    try:
        call.store.apply_staged_layer(output, id=layer)
    except BaseException:
        call.store.cleanup_staged_layer(output)
        raise
    return 0


def _reference(call: Call) -> str | None:
    """The layer to compare with; none, or an empty word, means the parent."""
    return call.args[1] or None if len(call.args) > 1 else None
