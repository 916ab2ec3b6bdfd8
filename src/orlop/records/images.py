"""The image table: a declaration, and the list of digests (`spec/records.md` 5, 11.2, 18.4)."""

from __future__ import annotations

import os

from orlop.errors import InvalidDigest
from orlop.model.digest import Digest
from orlop.model.image import Image
from orlop.records import bigdata
from orlop.records.table import Table, TableFile
from orlop.system import files
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.formats.recordfiles import Contents
    from orlop.model.record import Document
    from orlop.records.rows import Row, Rows


class ImageTable(Table):
    """Images of one root. `run_directory` is where callers' files that go with the next boot lie.

    `older` is the table of a split store's graph root, where callers' files lie, too. Its lock comes after ours.
    """

    def __init__(
        self,
        directory: str,
        *,
        run_directory: str | None = None,
        older: ImageTable | None = None,
        read_only: bool = False,
        durable: bool = True,
        lock_timeout: float | None = None,
    ) -> None:
        super().__init__(
            noun="image",
            record=Image,
            directory=directory,
            table_files=(TableFile(os.path.join(directory, "images.json"), durable=durable),),
            locks=(LockFile.at(os.path.join(directory, "images.lock"), read_only=read_only),),
            read_only=read_only,
            watch_files=read_only,  # where there is no lock file, there is no token either
            unique_ids=False,  # the peers list both records of one id; the later one is found by it
            lock_timeout=lock_timeout,
        )
        self._run_directory = run_directory
        self._older = older

    def _swept(self) -> set[str]:
        return super()._swept() | ({self._run_directory} if self._run_directory else set())

    def finish_removal(self, id: str) -> None:
        """Also in the run root, and in the graph root of a split store if no image there has the id."""
        super().finish_removal(id)
        if self._older is not None:
            with self._older.looking() as older:
                self._older.require_trust()
                if older.rows.by_id(id) is not None or self._older.doubted(id) is not None:
                    return
                self._older.finish_removal(id)
        if self._run_directory is not None:
            files.remove_tree(os.path.join(self._run_directory, id))

    def _accept(self, document: Document) -> Document:
        return with_digest(document)

    def _admit(self, contents: Contents) -> None:
        for place, document in enumerate(contents.documents):
            if document is not None:
                try:
                    accepted = with_digest(document)
                except InvalidDigest as problem:
                    contents.set_aside(place, str(problem))  # the peers refuse the whole table for it
                else:
                    if accepted is not document:
                        contents.replace(place, accepted)

    def _doubts(self, rows: Rows) -> str | None:
        """An empty or missing table beside the data of images is damage, as it is for layers (P11)."""
        if self.files[0].found:
            return None
        orphans = [id for id in bigdata.directories(self.directory) if _has_data(self.directory, id)]
        return self._lost(orphans, "the data of an image,") if orphans else None

    def value(self, row: Row) -> Image:
        return self.value_of(row.document)

    def value_of(self, document: Document) -> Image:
        return Image(document, read_only=True) if self.read_only else Image(document)


def _has_data(directory: str, id: str) -> bool:
    """True if there is more than the caller's own directory, which may come before the first image is saved."""
    try:
        return any(name != "userdata" for name in os.listdir(os.path.join(directory, id)))
    except OSError:
        return False


def with_digest(document: Document) -> Document:
    """Check the digests that an image is found by; without one of its own it takes the first of its manifests.

    Once set the image's digest is never replaced, so that a changed manifest leaves it findable by both.

    Raises:
        InvalidDigest: the image's own, or that of a `manifest...` item.
    """
    own = document.get("digest")
    if own:
        Digest.parse(own)
    for key, digest in (document.get("big-data-digests") or {}).items():
        if key.startswith("manifest") and digest:
            Digest.parse(digest)
            if not own:
                own = digest
                document = {**document, "digest": digest}
    return document
