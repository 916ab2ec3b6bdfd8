"""The record of an image (`spec/records.md` section 5)."""

from __future__ import annotations

from orlop.model.digest import Digest
from orlop.model.ids import ImageID, LayerID
from orlop.model.record import (
    DIGEST,
    DIGESTS,
    FLAGS,
    SIZES,
    TEXT,
    TEXTS,
    TIME,
    Record,
    id_of,
    stored,
    text_of,
    texts_of,
)
from orlop.model.timestamp import Timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.model.record import Document


class Image(Record):
    """An image as it was when it was looked up. Frozen; sizes are bytes."""

    id: ImageID = stored("id", id_of(ImageID), always=True)
    digest: Digest | None = stored("digest", DIGEST)
    names: tuple[str, ...] = stored("names", TEXTS)
    names_history: tuple[str, ...] = stored("names-history", TEXTS)
    layer: LayerID | None = stored("layer", text_of(LayerID))
    mapped_layers: tuple[LayerID, ...] = stored("mapped-layers", texts_of(LayerID))
    metadata: str = stored("metadata", TEXT)
    data_names: tuple[str, ...] = stored("big-data-names", TEXTS)
    data_sizes: dict[str, int] = stored("big-data-sizes", SIZES)
    data_digests: dict[str, Digest] = stored("big-data-digests", DIGESTS)
    created: Timestamp = stored("created", TIME, always=True)
    flags: dict[str, Any] = stored("flags", FLAGS)

    # Not in the record.
    read_only: bool = False

    @property
    def digests(self) -> tuple[Digest, ...]:
        """The image's own digest, then those of its manifests, each once (`spec/records.md` 18.4)."""
        return tuple(map(Digest, dict.fromkeys(digests_of(self._document))))


# What image records are found by, besides their names; as rows look them up (`records/rows`).


def digests_of(document: Document) -> list[str]:
    """An image's own digest, then those of its manifests."""
    recorded = document.get("big-data-digests") or {}
    found = [document.get("digest"), *[recorded[key] for key in recorded if key.startswith("manifest")]]
    return [digest for digest in found if digest]


def tops_of(document: Document) -> list[str]:
    """The top layer, then its copies with other id maps."""
    tops = (document.get("layer"), *(document.get("mapped-layers") or ()))
    return [id for id in tops if id]
