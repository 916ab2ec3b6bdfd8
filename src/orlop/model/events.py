"""What long work tells its caller through `progress=`: frozen values, passed to a callable as they happen."""

from __future__ import annotations

from orlop.model.value import Value


class BlobRead(Value):
    """So many bytes of a layer's blob, as it came, were read so far."""

    __slots__ = __match_args__ = ("size",)

    size: int

    def __init__(self, size: int) -> None:
        self._fill(size)


class LayerStored(Value):
    """The layer is complete and, in a durable store, will stay: its id, and the bytes of its uncompressed tar."""

    __slots__ = __match_args__ = ("id", "size")

    id: str
    size: int

    def __init__(self, id: str, size: int) -> None:
        self._fill(id, size)
