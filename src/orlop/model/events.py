"""What long work tells its caller through `progress=`: frozen values, passed to a callable as they happen."""

from __future__ import annotations

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.plan import Step


class BlobRead(Value):
    """So many bytes of a layer's blob, as it came, were read so far."""

    __slots__ = __match_args__ = ("size",)

    size: int

    def __init__(self, size: int) -> None:
        self._fill(size)


class StepDone(Value):
    """A step (`model.plan`) of a plan that was applied is done. Told when the locks are free again."""

    __slots__ = __match_args__ = ("step",)

    step: Step

    def __init__(self, step: Step) -> None:
        self._fill(step)


class StepFailed(Value):
    """A step could not be done; `error` is a sentence. The others go on."""

    __slots__ = __match_args__ = ("step", "error")

    step: Step
    error: str

    def __init__(self, step: Step, error: str) -> None:
        self._fill(step, error)


class LayerStored(Value):
    """The layer is complete and, in a durable store, will stay: its id, and the bytes of its uncompressed tar."""

    __slots__ = __match_args__ = ("id", "size")

    id: str
    size: int

    def __init__(self, id: str, size: int) -> None:
        self._fill(id, size)


class Advanced(Value):
    """Of a task that is `total` steps long, so many are done. `task` is a word: "measure", "hash", "share"."""

    __slots__ = __match_args__ = ("task", "done", "total")

    task: str
    done: int
    total: int

    def __init__(self, task: str, done: int, total: int) -> None:
        self._fill(task, done, total)
