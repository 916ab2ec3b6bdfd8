"""Making a layer, so that an unfinished one is never used (`spec/records.md` 14).

    with creating(table, editor, document, home, undo) as row:
        ...                     # the driver, the content, tar-split; everything durable at the end

The record is on disk, flagged, before anything of the layer exists; the flag goes last. On an error the layer is
deleted completely and the error goes on. After `kill -9` the next writer finds the flag and deletes the layer.

`passing` is the same for a layer that is wanted inside the block only: its flag never goes, the layer does.
"""

from __future__ import annotations

from orlop.records.layers import flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from orlop.model.record import Document
    from orlop.records.blocks import Editor
    from orlop.records.layers import LayerTable
    from orlop.records.rows import Row
    from orlop.records.trash import Trash


class creating:
    """See the module. `rubbish` takes what has to be deleted again after a failure."""

    def __init__(
        self, table: LayerTable, editor: Editor, document: Document, home: int, rubbish: Trash
    ) -> None:
        self._table = table
        self._editor = editor
        self._document = {**document, "flags": {**(document.get("flags") or {}), "incomplete": True}}
        self._home = home
        self._rubbish = rubbish
        self._row: Row | None = None
        self._undecided = False

    def seal(self, record: Callable[[], object]) -> None:
        """Call `record`, which names the whole layer in another table, while the flag is still there.

        If that cannot be written, nobody knows which of the two states is on disk. Then the layer stays as it is,
        flagged, and who loads the table next drops it with what names it.
        """
        try:
            record()
        except OSError:
            self._undecided = True
            raise

    def __enter__(self) -> Row:
        self._row = self._editor.add(self._document, self._home)
        self._editor.save()
        return self._row

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        row = self._row
        assert row is not None
        if error is None:
            flag(self._editor, row, incomplete=None)
            self._editor.save()
            return
        if self._undecided:
            self._table.forget()
            return
        try:
            self._table.remove(self._editor, [row], self._rubbish)
        except BaseException as second:
            # The first error is the one that matters; the record stays flagged for the next writer.
            error.add_note(f"and the unfinished layer {row.id} could not be deleted: {second}")


class passing(creating):
    """A block with a layer that is deleted when the block is left, and by the next writer if it is not left."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            super().__exit__(kind, error, trace)
            return
        row = self._row
        assert row is not None
        try:
            self._table.remove(self._editor, [row], self._rubbish)
        except BaseException as problem:
            problem.add_note(f'deleting temporary layer "{row.id}"')  # it stays flagged, for the next writer
            raise
