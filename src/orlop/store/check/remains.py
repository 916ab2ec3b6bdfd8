"""What belongs to nobody, as a collection of garbage finds it (`store/rubbish`), and mounts that nobody counts."""

from __future__ import annotations

import os

from orlop.drivers.api import SupportsTrees
from orlop.drivers.inspection import changed
from orlop.model.findings import LEFTOVER, ODDITY, Finding
from orlop.store.rubbish import Search
from orlop.store.tables import LOOK
from orlop.system import mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.records.blocks import View
    from orlop.store.engine import Engine


def remains(engine: Engine) -> list[Finding]:
    """Findings; the store is not changed.

    Raises:
        BadRecords: a table is lost or cannot be read.
    """
    with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
        engine.driver_held()
        with engine.open(layers=LOOK, images=LOOK, containers=LOOK, graph_held=True) as tables:
            found = list(_mounts(engine, tables.layers))
            search = Search(engine, tables)
    for find in search.finds:
        step = find.step
        if step.kind == "layer":
            continue  # told with the records
        recorded = step.kind in ("image", "container")
        name = f"{step.kind} {step.id}" if recorded else step.path
        found.append(
            Finding(
                "leftover",
                LEFTOVER,
                step.kind,
                f"{name}: {step.reason}",
                id=step.id if recorded else "",
                path=step.path,
                remedy="removed",
                since=changed(step.path) if step.path else None,
            )
        )
    return found


def _mounts(engine: Engine, layers: View) -> Iterator[Finding]:
    """The counts of mounts against what is mounted. A count may be of before a reboot, which harms nobody."""
    counted = engine.layers.mounts
    assert counted is not None
    if isinstance(engine.ready_driver, SupportsTrees):
        return  # nothing is ever mounted
    table = {mount.point for mount in mounts.mount_table()}
    listed = set()
    for id in counted.mounted():
        path = os.path.realpath(counted.of(id).path)
        listed.add(path)
        if path not in table:
            text = f"layer {id} is counted as mounted at {path}, and nothing is mounted there"
            yield Finding("mount-gone", ODDITY, "mount", text, id=id, path=path)
    for id, point in mounted(engine):
        if point not in listed and layers.rows.by_id(id) is not None:
            text = f"layer {id} is mounted at {point}, and not counted as mounted"
            yield Finding("mount-uncounted", ODDITY, "mount", text, id=id, path=point)


def mounted(engine: Engine) -> list[tuple[str, str]]:
    """(id, mount point) of what lies below the driver's homes as a mounted layer does."""
    options = engine.ready_driver.options
    homes = [os.path.realpath(home) for home in (engine.ready_driver.home, options.run_home)]
    found = []
    for point in sorted({mount.point for mount in mounts.mount_table()}):
        directory, name = os.path.split(point)
        home, id = os.path.split(directory)
        if name == "merged" and home in homes:
            found.append((id, point))
    return found
