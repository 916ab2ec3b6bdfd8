"""The image table: a declaration, and the list of digests (`spec/records.md` 5, 11.2, 18.4)."""

from __future__ import annotations

import os

from orlop.errors import InvalidDigest
from orlop.formats.records import Misfit
from orlop.model.digest import Digest
from orlop.model.image import Image
from orlop.records.table import Table, TableFile
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.record import Document
    from orlop.records.rows import Row


class ImageTable(Table):
    """Images of one root."""

    def __init__(
        self,
        directory: str,
        *,
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
            unique_ids=False,  # the peers list both records of one id; the later one is found by it
            lock_timeout=lock_timeout,
        )

    def _accept(self, document: Document) -> Document:
        try:
            return with_digest(document)
        except InvalidDigest as error:
            # The peers refuse the whole table for one such record.
            raise Misfit(str(error)) from None

    def value(self, row: Row) -> Image:
        return Image(row.document, read_only=self.read_only)


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
