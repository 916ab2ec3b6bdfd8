"""What the steps of a plan weigh: figures for people, found without a lock.

A tree that cannot be read weighs nothing: that stops nobody from deleting it.
"""

from __future__ import annotations

import os
import time

from orlop.model.plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop.store.engine import Engine


def places_of(engine: Engine, kind: str, id: str) -> list[str]:
    """All that a layer, image or container has on the disk, but for its record; what it is known by comes first."""
    if kind == "layer":
        return [*reversed(engine.ready_driver.places(id)), *engine.layers.beside(id)]
    from orlop.store import containers, images

    if kind == "image":
        return images.directories_of(engine, id)
    return [*reversed(containers.directories_of(engine, id))]


def age_of(status: os.stat_result) -> float:
    """The seconds since something was changed.

    That is the inode's own time: the other one of a directory may be the root's of an archive, years back.
    """
    return max(time.time() - status.st_ctime, 0.0)


def weighed(step: Step, paths: Sequence[str], *, tells_mounts: bool = True) -> Step:
    """The step with the bytes of the disk that its paths take; and with a word if it is mounted.

    That is what the kernel shows: the counts tell only of mounts of this run root. Who finds his steps again by
    their reasons has no use for that word.
    """
    from orlop.store.shown import Shown
    from orlop.stream.occupancy import occupied

    try:
        size = occupied(paths)
    except OSError:
        size = 0
    held = Shown().of_layer(paths) if tells_mounts and step.kind in ("layer", "container") else ""
    reason = "; ".join(filter(None, (step.reason, held)))
    return Step(step.action, step.kind, step.id, step.path, size, step.age_seconds, reason)


def freed(engine: Engine, paths: Sequence[str]) -> int:
    """The bytes of the disk that become free when all these paths go."""
    from orlop.stream.occupancy import freed_by_removing

    roots = (engine.options.graph_root, engine.options.image_store)
    try:
        return freed_by_removing(paths, beside=[root for root in roots if root])
    except OSError:
        return 0
