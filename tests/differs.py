"""Differs for tests that are not about where the files come from."""

import io
from typing import IO

from orlop.model.staging import Differ, DifferOptions, StagedOutput
from orlop.stream.ingest import ingest
from orlop.stream.unpack import staged_unpacker


class TarDiffer(Differ):
    """Fills the directory from a tar."""

    def __init__(self, tar: IO[bytes], **facts: object) -> None:
        self.tar = tar
        self.facts = facts
        self.target = ""
        self.options: DifferOptions | None = None

    def apply(self, target: str, options: DifferOptions) -> StagedOutput:
        self.target, self.options = target, options
        record = io.BytesIO()
        with staged_unpacker(target, options) as unpacker:
            found = ingest(self.tar, unpacker, record)
            unpacker.finish()
        record.seek(0)
        facts = {
            "uncompressed_digest": found.diff_digest,
            "size": found.diff_size,
            "uids": found.uids,
            "gids": found.gids,
            "tar_split": record,
        }
        return StagedOutput(**{**facts, **self.facts})  # type: ignore[arg-type]
