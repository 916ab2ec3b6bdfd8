"""The record of a container (`spec/records.md` section 6)."""

from __future__ import annotations

from orlop.model.digest import Digest
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.ids import ContainerID, ImageID, LayerID
from orlop.model.record import (
    DIGESTS,
    FLAGS,
    ID_MAPS,
    SIZES,
    TEXT,
    TEXTS,
    TIME,
    Record,
    id_of,
    stored,
    text_of,
)
from orlop.model.timestamp import Timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Container(Record):
    """A container as it was when it was looked up. Frozen; sizes are bytes."""

    id: ContainerID = stored("id", id_of(ContainerID), always=True)
    names: tuple[str, ...] = stored("names", TEXTS)
    image: ImageID = stored("image", text_of(ImageID, ImageID("")), always=True)
    layer: LayerID = stored("layer", text_of(LayerID, LayerID("")), always=True)
    metadata: str = stored("metadata", TEXT)
    data_names: tuple[str, ...] = stored("big-data-names", TEXTS)
    data_sizes: dict[str, int] = stored("big-data-sizes", SIZES)
    data_digests: dict[str, Digest] = stored("big-data-digests", DIGESTS)
    created: Timestamp = stored("created", TIME, always=True)
    uid_map: tuple[IDMap, ...] = stored("uidmap", ID_MAPS)
    gid_map: tuple[IDMap, ...] = stored("gidmap", ID_MAPS)
    flags: dict[str, Any] = stored("flags", FLAGS)

    @property
    def mappings(self) -> IDMappings:
        """The id maps that were asked for or allocated; empty for none."""
        return IDMappings(self.uid_map, self.gid_map)

    @property
    def layer_id(self) -> LayerID:
        """The container's read-write layer."""
        return self.layer

    @property
    def mount_options(self) -> tuple[str, ...]:
        """The mount options recorded at creation; members that are not text are passed over."""
        options = self.flags.get("MountOpts")
        return tuple(o for o in options if isinstance(o, str)) if isinstance(options, list) else ()

    @property
    def volatile(self) -> bool:
        return self.flags.get("Volatile") is True
