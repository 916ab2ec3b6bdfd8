"""A table as its files are, for who looks at a store and must not change it.

Opening a table puts right what a dead process left, and remembers. Here nothing is put right, nothing is remembered,
and a file that cannot be read is one fact among others.
"""

from __future__ import annotations

import os

from orlop.errors import BadRecords
from orlop.formats.recordfiles import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.formats.recordfiles import Aside, Contents
    from orlop.model.record import Document
    from orlop.records.table import Table, TableFile


class FileAsFound:
    """One JSON file. `problem` says why it cannot be read; then it holds no records.

    `status` is that of the file itself, None if it is missing. `mtime_ns` is 0 then.
    """

    __slots__ = ("contents", "home", "path", "problem", "status")

    def __init__(self, table: Table, home: int, file: TableFile) -> None:
        self.path = file.path
        self.home = home
        self.problem: str | None = None
        self.status: os.stat_result | None
        try:
            self.status = os.stat(file.path, follow_symlinks=False)
        except OSError:
            self.status = None
        self.contents: Contents
        try:
            _, self.contents = file.read(table.record)
            table._admit(self.contents)
        except BadRecords as problem:
            self._is_bad(table, str(problem.reason))
        except OSError as problem:
            self._is_bad(table, problem.strerror or str(problem))

    def _is_bad(self, table: Table, why: str) -> None:
        self.problem = why
        self.contents = parse(table.record, b"")

    @property
    def is_missing(self) -> bool:
        return self.status is None

    @property
    def is_void(self) -> bool:
        """Missing, or without a single byte."""
        return self.problem is None and self.contents.is_void

    @property
    def mtime_ns(self) -> int:
        return self.status.st_mtime_ns if self.status is not None else 0

    @property
    def asides(self) -> list[Aside]:
        """The records that do not fit."""
        return self.contents.asides


class TableAsFound:
    """All files of a table, read while its locks are held shared (`held` says whether they could be).

    Of two records with one id the earlier counts, as it does for who opens the table. `doubt` is why nothing may be
    built on what the files say: they are empty or missing, and what they should name is there.
    """

    def __init__(self, table: Table, *, held: bool) -> None:
        self.table = table
        self.noun = table.noun
        self.directory = table.directory
        self.read_only = table.read_only
        self.held = held
        self.token = table.locks[0].token() if held else b""
        self.files = [FileAsFound(table, home, file) for home, file in enumerate(table.files)]
        self.by_id: dict[str, Document] = {}
        self.home_of: dict[str, int] = {}
        self.twins: list[tuple[str, int]] = []  # (id, home) of records whose id another one has
        for document, home in self.records():
            id = document["id"]
            if id in self.by_id:
                self.twins.append((id, home))
            else:
                self.by_id[id] = document
                self.home_of[id] = home
        self.doubt = _doubt_of(table) if held else None

    @property
    def is_whole(self) -> bool:
        """Whether it can be told which records there are."""
        return self.doubt is None and all(file.problem is None for file in self.files)

    def records(self) -> Iterator[tuple[Document, int]]:
        """Every record that fits, in order, with the number of its file."""
        for file in self.files:
            for document in file.contents.documents:
                if document is not None:
                    yield document, file.home

    def asides(self) -> Iterator[tuple[FileAsFound, Aside]]:
        for file in self.files:
            for aside in file.asides:
                yield file, aside

    def doubted(self, id: str) -> str | None:
        """Why something called `id` must be left alone though no record has it (`Table.doubted`)."""
        for file in self.files:
            if file.problem is not None:
                return f"{file.path} cannot be read"
        return next((aside.reason for _, aside in self.asides() if aside.mentions(id)), None)


def _doubt_of(table: Table) -> str | None:
    try:
        table._refresh(may_write=False, as_is=True)
    except (BadRecords, OSError):
        return None  # a file cannot be read, which is worse
    if table._wants_repair or table._rows.robbed:
        table.forget()  # whoever comes next puts it right
    return table._doubt
