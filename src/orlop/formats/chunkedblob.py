"""The end of a zstd:chunked blob, and the annotations that say where to look (`spec/chunked.md` 1-3).

    frames of data | skippable: table of contents | skippable: tar-split | skippable: 64 bytes of footer

Rule: all reading starts from the annotations, which come with the manifest. The footer is written and never read:
nothing that the blob says about itself is verified by anybody.
"""

from __future__ import annotations

import struct

from orlop.errors import BadTOC, InvalidDigest
from orlop.model.digest import Digest
from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX = "io.github.containers.zstd-chunked."
TOC_DIGEST = _PREFIX + "manifest-checksum"
TOC_POSITION = _PREFIX + "manifest-position"
TAR_SPLIT_POSITION = _PREFIX + "tarsplit-position"
ESTARGZ_TOC_DIGEST = "containerd.io/snapshot/stargz/toc.digest"

TYPE = 1
HEADER_SIZE = 8
"""Bytes in front of the data of a skippable frame."""

_FOOTER = struct.Struct("<7Q8s")
_MAGIC = b"GNUlInUx"
_SKIPPABLE = struct.Struct("<4sI")
_NUMBER_MAX = 2**63 - 1


class Span(Value):
    """Data of a skippable frame: where it begins in the blob, its bytes there, and those it claims to unpack to."""

    __slots__ = __match_args__ = ("offset", "length", "size")

    offset: int
    length: int
    size: int

    def __init__(self, offset: int, length: int, size: int) -> None:
        self._fill(offset, length, size)

    def __str__(self) -> str:
        return f"{self.offset}:{self.length}:{self.size}"


class Places(Value):
    """What the annotations say: digest of the compressed table, where it is, and where the tar-split is, if any."""

    __slots__ = __match_args__ = ("toc_digest", "toc", "tar_split")

    toc_digest: str
    toc: Span
    tar_split: Span | None

    def __init__(self, toc_digest: str, toc: Span, tar_split: Span | None) -> None:
        self._fill(toc_digest, toc, tar_split)

    def annotations(self) -> dict[str, str]:
        """As a manifest has them."""
        found = {TOC_DIGEST: self.toc_digest, TOC_POSITION: f"{self.toc}:{TYPE}"}
        if self.tar_split is not None:
            found[TAR_SPLIT_POSITION] = str(self.tar_split)
        return found


def places_of(annotations: Mapping[str, str]) -> Places | None:
    """What annotations say about a zstd:chunked blob; None if they say that it is none.

    Raises:
        BadTOC: they say it badly, or two things at once.
    """
    digest = annotations.get(TOC_DIGEST)
    if digest is None:
        return None
    if ESTARGZ_TOC_DIGEST in annotations:
        raise BadTOC(
            f"the annotations have two digests of a table of contents: {TOC_DIGEST} and {ESTARGZ_TOC_DIGEST}"
        )
    try:
        Digest.parse(digest)
    except InvalidDigest as error:
        raise BadTOC(f"the annotation {TOC_DIGEST} is no digest: {error}") from None
    if not digest.startswith("sha256:"):
        raise BadTOC(f"the annotation {TOC_DIGEST} is {digest}: only sha256 is read")
    *span, type = _numbers(annotations, TOC_POSITION, 4)
    if type != TYPE:
        raise BadTOC(f"the table of contents is of type {type}: wanted {TYPE}")
    tar_split = (
        Span(*_numbers(annotations, TAR_SPLIT_POSITION, 3)) if TAR_SPLIT_POSITION in annotations else None
    )
    return Places(digest, Span(*span), tar_split if tar_split and tar_split.offset else None)


def _numbers(annotations: Mapping[str, str], key: str, count: int) -> list[int]:
    text = annotations.get(key, "")
    parts = text.split(":")
    if len(parts) != count or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise BadTOC(f"the annotation {key} is {text!r:.80}: wanted {count} numbers with colons between them")
    numbers = [int(part) for part in parts]
    if max(numbers) > _NUMBER_MAX:
        raise BadTOC(f"the annotation {key} is {text!r}: no blob is so large")
    return numbers


def skippable(data: bytes) -> bytes:
    """`data` as a frame that every decoder passes over."""
    return _SKIPPABLE.pack(b"\x50\x2a\x4d\x18", len(data)) + data


def footer(places: Places) -> bytes:
    """The last 64 bytes of a blob, to be made skippable as the rest."""
    tar_split = places.tar_split or Span(0, 0, 0)
    toc = places.toc
    return _FOOTER.pack(
        toc.offset, toc.length, toc.size, TYPE, tar_split.offset, tar_split.length, tar_split.size, _MAGIC
    )
