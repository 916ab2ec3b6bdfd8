"""The record of a layer (`spec/records.md` section 4)."""

from __future__ import annotations

from orlop.model.digest import Digest
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.ids import LayerID
from orlop.model.record import (
    DIGEST,
    FLAGS,
    ID_MAPS,
    INT,
    TEXT,
    TEXTS,
    TIME,
    UINT32S,
    Record,
    id_of,
    reference_to,
    stored,
)
from orlop.model.timestamp import Timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Layer(Record):
    """A layer as it was when it was looked up. Frozen; sizes are bytes."""

    id: LayerID = stored("id", id_of(LayerID), always=True)
    names: tuple[str, ...] = stored("names", TEXTS)
    parent: LayerID | None = stored("parent", reference_to(LayerID))
    metadata: str = stored("metadata", TEXT)
    mount_label: str = stored("mountlabel", TEXT)
    created: Timestamp = stored("created", TIME, always=True)
    compressed_digest: Digest | None = stored("compressed-diff-digest", DIGEST)
    compressed_size: int = stored("compressed-size", INT)
    diff_digest: Digest | None = stored("diff-digest", DIGEST)
    toc_digest: Digest | None = stored("toc-digest", DIGEST)
    diff_size: int = stored("diff-size", INT)
    compression: int = stored("compression", INT)
    uids: tuple[int, ...] = stored("uidset", UINT32S)
    gids: tuple[int, ...] = stored("gidset", UINT32S)
    flags: dict[str, Any] = stored("flags", FLAGS)
    uid_map: tuple[IDMap, ...] = stored("uidmap", ID_MAPS)
    gid_map: tuple[IDMap, ...] = stored("gidmap", ID_MAPS)
    data_names: tuple[str, ...] = stored("big-data-names", TEXTS)

    # Not in the record: where it was found, and the mount state of the run root.
    read_only: bool = False
    mount_point: str = ""
    mount_count: int = 0

    @property
    def mappings(self) -> IDMappings:
        """The id maps that the content on disk is shifted to; empty for none."""
        return IDMappings(self.uid_map, self.gid_map)

    @property
    def incomplete(self) -> bool:
        """True while the layer is being made or deleted."""
        return self.flags.get("incomplete") is True

    @property
    def size(self) -> int:
        """Bytes of the uncompressed diff, -1 if not known."""
        return self.diff_size if self.diff_digest or self.toc_digest else -1
