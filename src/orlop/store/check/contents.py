"""A layer's archive and tree, examined: what the record, the files and the names on disk come to, without words.

Who checks makes findings of it (`layers`), who repairs mends it (`store/repair`).
"""

from __future__ import annotations

from orlop.drivers.api import SupportsFiles, SupportsInspection
from orlop.errors import InvalidDigest, StorageError
from orlop.formats.tarsplit import clean_name
from orlop.model.digest import Digest
from orlop.store import layering
from orlop.store.check.archives import Reading
from orlop.store.check.compare import CHANGED, Comparison
from orlop.store.check.findings import raise_if_ours
from orlop.store.check.trees import Trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from orlop.drivers.api import Inspector, LayerFiles, LayerTree
    from orlop.formats.tarheader import Entry
    from orlop.model.idmap import IDMappings
    from orlop.model.record import Document
    from orlop.store.check.archives import Problem
    from orlop.store.check.compare import Difference, Leniency
    from orlop.store.check.expected import Tree
    from orlop.store.check.look import Look

DIFFERENCES_MAX = 1000
"""Of one layer. When its directory is gone there is nothing to learn from the next fifty thousand."""


class Examination:
    """What came of one layer.

    digest        that its record has, "" for none that is valid
    reading       of its archive
    has_files     its files could be looked for
    place, tree   where it lies, and what should lie there; `tree` is None if that cannot be told
    differences   between the two, without those that `reading.problems` tell already; at most as many as asked for
    more          how many further ones there are
    unreadable    why the tree could not be read, or None
    uids, gids    of the entries, without whiteouts
    read          bytes of files
    """

    def __init__(self, digest: str, place: LayerTree | None) -> None:
        self.digest = digest
        self.reading = Reading(Digest(digest).algorithm if digest else "sha256")
        self.has_files = False
        self.place = place
        self.tree: Tree | None = None
        self.differences: list[Difference] = []
        self.more = 0
        self.unreadable: OSError | None = None
        self.uids: set[int] = set()
        self.gids: set[int] = set()
        self.read = 0

    @property
    def record_is_wrong(self) -> bool:
        """Files differ from the tar-split record, and yet the archive is the one that was applied."""
        return bool(self.reading.problems and self.digest) and self.reading.digest == self.digest

    def note_owner(self, entry: Entry) -> None:
        if b".wh." in entry.name and entry.name.rstrip(b"/").rpartition(b"/")[2].startswith(b".wh."):
            return
        self.uids.add(entry.uid)
        self.gids.add(entry.gid)


class Examiner:
    """Examines layers; quickest in the order of `layers.in_order`. `digests`: their files are read."""

    def __init__(
        self,
        look: Look,
        leniency: Leniency,
        *,
        digests: bool,
        contents: bool,
        most: int | None = DIFFERENCES_MAX,
    ) -> None:
        driver = look.driver
        self.inspector: Inspector | None = (
            driver.inspector() if isinstance(driver, SupportsInspection) else None
        )
        self._look = look
        self._leniency = leniency
        self._digests = digests
        self._contents = contents
        self._most = most
        self._trees = Trees(look, self.inspector)

    def examine(self, document: Document, record: BinaryIO) -> Examination:
        """`record` is the layer's tar-split file, open at its start."""
        id = document["id"]
        found = Examination(valid(document.get("diff-digest")), self._place_of(id, document.get("parent")))
        place = found.place
        growing = self._trees.of(document, place) if self._contents and place is not None else None

        def take(entry: Entry, checksum: bytes | None, told: int) -> None:
            found.note_owner(entry)
            if growing is not None:
                growing.add(entry, checksum, told)

        files = self._files_of(id, place) if self._digests else None
        found.has_files = files is not None
        try:
            found.reading.run(record, files, take)
        finally:
            if files is not None:
                files.close()
        found.read = found.reading.read
        if growing is not None and growing.is_known(found.reading):
            found.tree = growing.tree
        if place is not None and any(problem.code == "missing" for problem in found.reading.problems):
            self._excuse(found, found.tree or self._tree_again(document, place, record))
        if found.record_is_wrong:
            self._trees.distrust(id)
        elif found.tree is not None and place is not None:
            self._compare(found, found.tree, place, mappings_of(document))
        return found

    def _tree_again(self, document: Document, place: LayerTree, record: BinaryIO) -> Tree | None:
        growing = self._trees.of(document, place)
        if growing is None:
            return None
        reading = Reading()
        record.seek(0)
        reading.run(record, None, growing.add)
        return growing.tree if growing.is_known(reading) else None

    def _excuse(self, found: Examination, tree: Tree | None) -> None:
        """Files that are not there because the archive itself deletes them are not missing."""
        reading = found.reading
        left = [
            problem
            for problem in reading.problems
            if problem.code != "missing" or tree is None or tree.node(path_of(problem)[1:]) is not None
        ]
        if len(left) < len(reading.problems):
            reading.problems = left
            reading.inexact = "content of a file that the archive itself deletes"

    def _place_of(self, id: str, parent: str | None) -> LayerTree | None:
        try:
            return self.inspector.tree(id, parent or None) if self.inspector is not None else None
        except (OSError, StorageError) as problem:
            raise_if_ours(problem)
            return None

    def _files_of(self, id: str, place: LayerTree | None) -> LayerFiles | None:
        """The layer's files by name; None if its content is not there, which is told of."""
        try:
            if place is not None:
                return place.files()
            driver = self._look.driver
            return driver.files(id) if isinstance(driver, SupportsFiles) else None
        except (OSError, StorageError) as problem:
            raise_if_ours(problem)
            return None

    def _compare(self, found: Examination, tree: Tree, place: LayerTree, mappings: IDMappings) -> None:
        told = {path_of(problem) for problem in found.reading.problems}

        def take(difference: Difference) -> None:
            if difference.path in told and (difference.what != CHANGED or not _is_metadata(difference)):
                return
            if self._most is None or len(found.differences) < self._most:
                found.differences.append(difference)
            else:
                found.more += 1

        comparison = Comparison(tree, place, mappings, self._leniency, take, contents=self._digests)
        try:
            comparison.run()
        except OSError as problem:
            raise_if_ours(problem)
            found.unreadable = problem
        found.read += comparison.read


def path_of(problem: Problem) -> bytes:
    """Where a file of an archive lies, as differences name it."""
    return b"/" + clean_name(b"/" + problem.name)[1:]


def mappings_of(document: Document | None) -> IDMappings:
    from orlop.records.rows import Row

    return layering.mappings_of(Row(document, 0) if document else None)


def valid(digest: str | None) -> str:
    """The digest, or "" if it is none."""
    try:
        return Digest.parse(digest) if digest else ""
    except InvalidDigest:
        return ""


def _is_metadata(difference: Difference) -> bool:
    return not any(word in ("filetype", "size", "mtime", "content") for word, _, _ in difference.attributes)
