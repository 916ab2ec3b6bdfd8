"""The blob that a layer is filled from, and what its caller knows about it (`spec/records.md` 16.1)."""

from __future__ import annotations

import os
import stat
from io import BytesIO

from orlop.errors import BadArchive
from orlop.model.digest import Digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from orlop.stream.ingest import LayerFacts


class Blob:
    """A layer's tar, in any compression, with what the caller knows about it.

    `digest` and `diff_digest` are verified: the layer is refused if blob or tar turn out to be something else.
    What is trusted is recorded as it is given.
    """

    __slots__ = (
        "_given",
        "diff_digest",
        "digest",
        "progress",
        "source",
        "trusted_diff_digest",
        "trusted_digest",
        "trusted_size",
    )

    def __init__(
        self,
        source: Any,
        *,
        digest: str | None = None,
        diff_digest: str | None = None,
        trusted_digest: str | None = None,
        trusted_size: int | None = None,
        trusted_diff_digest: str | None = None,
        progress: Callable[[object], None] | None = None,
    ) -> None:
        for given in (digest, diff_digest, trusted_digest, trusted_diff_digest):
            if given:
                Digest.parse(given)
        for wanted, trusted in ((digest, trusted_digest), (diff_digest, trusted_diff_digest)):
            if wanted and trusted:
                raise ValueError("a digest is verified or trusted, not both")
            if wanted and not wanted.startswith("sha256:"):
                raise ValueError(f"only sha256 digests are verified; found {wanted!r}")
        if not callable(getattr(source, "read", None)):
            raise TypeError(f"a blob is a file opened for reading; found {type(source).__name__}")
        self._given = source
        self.source = source if progress is None else _Watched(source, progress)
        self.digest = digest
        self.diff_digest = diff_digest
        self.trusted_digest = trusted_digest
        self.trusted_size = trusted_size
        self.trusted_diff_digest = trusted_diff_digest
        self.progress = progress

    def may_wait_for_us(self) -> bool:
        """Whether more of it may come only when a lock is free: a pipe, but neither a file of a disk nor bytes."""
        if isinstance(self._given, BytesIO):
            return False
        try:
            return not stat.S_ISREG(os.fstat(self._given.fileno()).st_mode)
        except (AttributeError, OSError, ValueError):
            return True

    def verify(self, facts: LayerFacts) -> None:
        """Refuse content that is not what the caller asked for (CVE-2014-8179: parsed is not verified)."""
        for what, wanted, found in (
            ("blob", self.digest, facts.compressed_digest),
            ("uncompressed tar", self.diff_digest, facts.diff_digest),
        ):
            if wanted and wanted != found:
                raise BadArchive(
                    f"the {what} of the layer was to be {wanted}, and is {found}",
                    peer="digest mismatch",
                    wanted=wanted,
                    found=found,
                )


class _Watched:
    """A blob that tells how far it was read."""

    def __init__(self, source: Any, progress: Callable[[object], None]) -> None:
        self._source = source
        self._progress = progress
        self._size = 0

    def read(self, size: int = -1) -> bytes:
        from orlop.model.events import BlobRead

        data: bytes = self._source.read(size)
        self._size += len(data)
        self._progress(BlobRead(self._size))
        return data
