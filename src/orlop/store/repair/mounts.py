"""`mountpoints.json` written anew, where it cannot be read: as long as it is so no layer can be changed."""

from __future__ import annotations

import os

from orlop.drivers.api import SupportsTrees
from orlop.model.plan import Step
from orlop.records.mountpoints import Mount, encoded, read_mounts
from orlop.store.check.remains import mounted
from orlop.store.repair.aside import keep_aside
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.store.check.look import Look


class MountsMending:
    """Keeps the entries that can be read, and counts once what is mounted and has none."""

    def __init__(self, look: Look) -> None:
        counted = look.engine.layers.mounts
        assert counted is not None
        self._look = look
        self._counted = counted
        self.steps: list[Step] = []
        if read_mounts(counted.path).damage:
            reason = "the mounts are counted anew, by what is mounted"
            self.steps.append(Step("rewrite", "table", path=counted.path, reason=reason))

    def carry_out(self) -> None:
        """The table of layers is held exclusively."""
        counted, engine = self._counted, self._look.engine
        with counted.lock.writing(timeout=engine.options.lock_timeout):
            mounts = dict(read_mounts(counted.path).mounts)
            if not isinstance(engine.ready_driver, SupportsTrees):  # else nothing is ever mounted
                listed = {os.path.realpath(mount.path) for mount in mounts.values()}
                for id, point in mounted(engine):
                    if point not in listed and id in self._look.layers[0].by_id:
                        mounts[id] = Mount(point, 1)
            keep_aside(counted.path, durable=False)
            counted.lock.renew()
            files.make_dirs(os.path.dirname(counted.path))
            files.write_atomic(counted.path, encoded(mounts), durable=False)
            counted.forget()
