"""All records of a store as they were at one moment."""

from __future__ import annotations

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.model.container import Container
    from orlop.model.image import Image
    from orlop.model.layer import Layer


class Snapshot(Value):
    """Frozen; in each tuple the primary table comes first, then additional stores in their order."""

    __slots__ = ("containers", "images", "layers")
    __match_args__ = ("layers", "images", "containers")

    layers: tuple[Layer, ...]
    images: tuple[Image, ...]
    containers: tuple[Container, ...]

    def __init__(
        self,
        layers: Iterable[Layer] = (),
        images: Iterable[Image] = (),
        containers: Iterable[Container] = (),
    ) -> None:
        self._fill(tuple(layers), tuple(images), tuple(containers))
