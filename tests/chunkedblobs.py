"""zstd:chunked blobs for tests: whole ones, and ones whose table or tar-split somebody changed."""

import io
import json
import os
from collections.abc import Callable
from typing import IO, Any

from backports import zstd  # type: ignore[import-not-found,unused-ignore]

from orlop.chunked import writing
from orlop.chunked.source import BlobFile
from orlop.formats import chunkedblob
from orlop.formats.chunkedblob import Places, Span
from orlop.model.digest import Digest

ON = {"enable_partial_images": "true"}

Change = Callable[[Any], Any]


class Blob:
    """A blob in an anonymous file, with its annotations."""

    def __init__(self, data: bytes, annotations: dict[str, str]) -> None:
        self.data = data
        self.annotations = annotations
        self._fd = os.memfd_create("blob")
        os.write(self._fd, data)

    @property
    def source(self) -> BlobFile:
        return BlobFile(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    @property
    def places(self) -> Places:
        found = chunkedblob.places_of(self.annotations)
        assert found is not None
        return found

    def part(self, span: Span) -> bytes:
        """The data of a skippable frame, unpacked."""
        found = zstd.decompress(self.data[span.offset : span.offset + span.length])
        assert isinstance(found, bytes)
        return found

    @property
    def table(self) -> dict[str, Any]:
        found = json.loads(self.part(self.places.toc))
        assert isinstance(found, dict)
        return found

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.places.tar_split is not None
        return [json.loads(line) for line in self.part(self.places.tar_split).splitlines()]


def made(tar: IO[bytes]) -> Blob:
    out = io.BytesIO()
    annotations = writing.write(tar, out)
    return Blob(out.getvalue(), annotations)


def changed(blob: Blob, table: Change | None = None, lines: Change | None = None, **spans: Any) -> Blob:
    """The blob with another table, or other lines of tar-split, and all digests right; `spans` are annotations."""
    places = blob.places
    content = blob.data[: places.toc.offset - chunkedblob.HEADER_SIZE]
    new_lines = blob.lines if lines is None else lines(blob.lines)
    split = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in new_lines)
    packed_split = zstd.compress(split)
    document = {**blob.table, "tarSplitDigest": str(Digest.of(packed_split))}
    new_table = document if table is None else table(document)
    text = new_table if isinstance(new_table, bytes) else json.dumps(new_table).encode()
    packed = zstd.compress(text)
    header = chunkedblob.HEADER_SIZE
    toc = Span(len(content) + header, len(packed), len(text))
    tail = chunkedblob.skippable(packed)
    tar_split = Span(len(content) + len(tail) + header, len(packed_split), len(split))
    tail += chunkedblob.skippable(packed_split)
    annotations = Places(str(Digest.of(packed)), toc, tar_split).annotations()
    return Blob(content + tail, {**annotations, **spans})
