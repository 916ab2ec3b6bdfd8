"""What a store takes on the disk, and for whom, and what was won by sharing: frozen values.

Bytes are allocated blocks, and every block counts once in every sum, however many files lie on it. Of an object

    occupied    the blocks that it lies on; an image's are those of all its layers
    unique      the part that nothing else lies on
    shared      the rest: on which other objects lie as well

so the `unique` bytes of all objects do not add up to the whole, and their `occupied` bytes are more than the whole.
What does add up is in `UsageReport`.
"""

from __future__ import annotations

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal

    Kind = Literal["layer", "image", "container"]


class ObjectUsage(Value):
    """One layer, image or container.

    An image is its layers and its data; it is unique where no other image and no container needs it. A container is
    its own layer and its data, without its image. `images` and `containers` are the ids of those that need the
    object (an image is not named among those that need it, nor a container). `reclaimable_bytes` become free when
    the object is deleted: none while something needs it, or while it is mounted.
    """

    __slots__ = __match_args__ = (
        "kind",
        "id",
        "names",
        "occupied_bytes",
        "unique_bytes",
        "reclaimable_bytes",
        "images",
        "containers",
    )

    kind: Kind
    id: str
    names: tuple[str, ...]
    occupied_bytes: int
    unique_bytes: int
    reclaimable_bytes: int
    images: tuple[str, ...]
    containers: tuple[str, ...]

    def __init__(
        self,
        kind: Kind,
        id: str,
        names: Iterable[str],
        occupied_bytes: int,
        unique_bytes: int,
        reclaimable_bytes: int,
        images: Iterable[str] = (),
        containers: Iterable[str] = (),
    ) -> None:
        self._fill(
            kind,
            id,
            tuple(names),
            occupied_bytes,
            unique_bytes,
            reclaimable_bytes,
            tuple(images),
            tuple(containers),
        )

    @property
    def shared_bytes(self) -> int:
        """The part of `occupied_bytes` on which other objects lie as well."""
        return self.occupied_bytes - self.unique_bytes

    def json(self) -> dict[str, Any]:
        """The fields, as an object that any JSON encoder takes."""
        fields = dict(zip(self.__match_args__, self._values(), strict=True))
        return fields | {"shared_bytes": self.shared_bytes}


class PathUsage(Value):
    """Something below the roots that is no layer, image or container.

    `reason` is half a sentence. `occupied_bytes` are the blocks that it lies on; those that a record explains, too,
    are not in the sum of the report. `age_seconds` is the time since it was last changed.
    """

    __slots__ = __match_args__ = ("path", "occupied_bytes", "age_seconds", "reason")

    path: str
    occupied_bytes: int
    age_seconds: float
    reason: str

    def __init__(self, path: str, occupied_bytes: int, age_seconds: float, reason: str) -> None:
        self._fill(path, occupied_bytes, age_seconds, reason)

    def json(self) -> dict[str, Any]:
        """The fields, as an object that any JSON encoder takes. A surrogate in a path is a byte that is not UTF-8."""
        return dict(zip(self.__match_args__, self._values(), strict=True))


class UsageReport(Value):
    """Where the disk went. Every block below the roots is in exactly one of these sums, the first that it fits:

    held_bytes          what containers need: theirs, and of images the layers below them
    idle_bytes          images and layers that no container needs: deleting those that are not wanted frees of this
    record_bytes        the store's own: records, locks, directories
    foreign_bytes       what other programs keep below the roots (podman's volumes and database), by path in `foreign`
    unaccounted_bytes   what no record explains, by path in `unaccounted`

    `total_bytes` is all of them. `capacity_bytes` and `available_bytes` are those of the graph root's file system.
    `damage` are sentences about the records themselves: what was lost of them explains nothing, so that what is
    unaccounted for may be anybody's.
    """

    __slots__ = __match_args__ = (
        "layers",
        "images",
        "containers",
        "unaccounted",
        "foreign",
        "damage",
        "held_bytes",
        "idle_bytes",
        "record_bytes",
        "foreign_bytes",
        "unaccounted_bytes",
        "capacity_bytes",
        "available_bytes",
    )

    layers: tuple[ObjectUsage, ...]
    images: tuple[ObjectUsage, ...]
    containers: tuple[ObjectUsage, ...]
    unaccounted: tuple[PathUsage, ...]
    foreign: tuple[PathUsage, ...]
    damage: tuple[str, ...]
    held_bytes: int
    idle_bytes: int
    record_bytes: int
    foreign_bytes: int
    unaccounted_bytes: int
    capacity_bytes: int
    available_bytes: int

    def __init__(
        self,
        *,
        layers: Iterable[ObjectUsage],
        images: Iterable[ObjectUsage],
        containers: Iterable[ObjectUsage],
        unaccounted: Iterable[PathUsage],
        foreign: Iterable[PathUsage],
        damage: Iterable[str],
        held_bytes: int,
        idle_bytes: int,
        record_bytes: int,
        foreign_bytes: int,
        unaccounted_bytes: int,
        capacity_bytes: int,
        available_bytes: int,
    ) -> None:
        self._fill(
            tuple(layers),
            tuple(images),
            tuple(containers),
            tuple(unaccounted),
            tuple(foreign),
            tuple(damage),
            held_bytes,
            idle_bytes,
            record_bytes,
            foreign_bytes,
            unaccounted_bytes,
            capacity_bytes,
            available_bytes,
        )

    @property
    def total_bytes(self) -> int:
        """What the roots take."""
        return (
            self.held_bytes
            + self.idle_bytes
            + self.record_bytes
            + self.foreign_bytes
            + self.unaccounted_bytes
        )

    def json(self) -> dict[str, Any]:
        """The report as an object that any JSON encoder takes."""
        return {
            name: [_jsonable(row) for row in value] if isinstance(value, tuple) else value
            for name, value in zip(self.__match_args__, self._values(), strict=True)
        } | {"total_bytes": self.total_bytes}


def _jsonable(row: ObjectUsage | PathUsage | str) -> object:
    return row if isinstance(row, str) else row.json()


class DedupResult(Value):
    """What sharing blocks came to.

    `deduped_bytes` is the number of the peers: the lengths of all files that lie on the blocks of another one now,
    also of those that did before, so that a second run gives the same. `freed_bytes` are the blocks of the disk that
    became free. `skipped` are sentences about what could not be read or shared.
    """

    __slots__ = __match_args__ = ("deduped_bytes", "freed_bytes", "skipped")

    deduped_bytes: int
    freed_bytes: int
    skipped: tuple[str, ...]

    def __init__(self, deduped_bytes: int, freed_bytes: int = 0, skipped: Iterable[str] = ()) -> None:
        self._fill(deduped_bytes, freed_bytes, tuple(skipped))

    def json(self) -> dict[str, Any]:
        """The fields, as an object that any JSON encoder takes."""
        return dict(zip(self.__match_args__, self._values(), strict=True))
