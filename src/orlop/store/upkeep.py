"""The verbs of `Store` that take away, look after and put right: deleting, plans, garbage collection, shutdown."""

from __future__ import annotations

from orlop.errors import StillMounted, StorageError
from orlop.store import arguments
from orlop.store.tables import WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.model.findings import CheckReport
    from orlop.model.plan import Outcome, Plan
    from orlop.model.report import DedupResult, UsageReport
    from orlop.store.engine import Engine


class Upkeep:
    """Part of `Store`."""

    _engine: Engine

    def delete(self, ref: str) -> None:
        """Delete a container with its layer, or an image's record, or a layer, without asking who needs it.

        Prefer `layers.delete`, `images.delete` and `containers.delete`.

        Raises:
            LayerUnknown: nothing is called that. NotALayer: a container whose layer has no record.
        """
        from orlop.store import deleting

        deleting.delete(self._engine, ref)

    def wipe(self) -> None:
        """Delete everything: containers, images, layers, and what else the driver holds."""
        from orlop.store import deleting

        deleting.wipe(self._engine)

    def plan_dedup(self, *, method: str = "crc", progress: Callable[[object], object] | None = None) -> Plan:
        """What sharing the blocks of files with the same content, in the layers of images, would free.

        Files are told apart by a checksum (`method` "crc") or a digest ("sha256") of their content; "size" is the
        same as "crc" here, since only reading tells what could be shared. Nothing is changed. `progress` gets
        `events.Advanced` with the tasks "find" and "hash". Blocks that something outside of the store holds as well
        do not count as freed (`spec/dedup.md`).

        Raises:
            ReflinksNotSupported: the file system, or the driver, cannot do it.
            ValueError: there is no such method.
        """
        from orlop.store import dedup

        return dedup.plan(self._engine, method, progress)

    def dedup(
        self,
        *,
        method: str = "crc",
        dry_run: bool = False,
        progress: Callable[[object], object] | None = None,
    ) -> DedupResult:
        """Share the blocks of files with the same content, in the layers of images.

        The kernel compares the files before it shares anything: no content, time or link count ever changes, and
        neither a killed process nor a running container can do harm. With "size" the kernel is asked for all files of
        a size. Where there are no reflinks nothing is done; `plan_dedup` says so. `dry_run` tells what would be.

        Raises:
            ValueError: `method` is none of "crc", "size" and "sha256".
        """
        from orlop.store import dedup

        return dedup.dedup(self._engine, method, dry_run=dry_run, progress=progress)

    def usage(self, *, progress: Callable[[object], object] | None = None) -> UsageReport:
        """Where the disk went: what each layer, image and container takes, and what no record explains.

        All below the graph root and the image store is walked, without a lock; blocks on which several files lie
        count once. `progress` gets `events.Advanced` with the task "measure".

        Raises:
            PermissionError: a directory cannot be read; an ordinary user's store wants his user namespace.
        """
        from orlop.store import usage

        return usage.measure(self._engine, progress)

    # --- check --------------------------------------------------------------------------------------------

    def check(
        self,
        *,
        quick: bool = False,
        layer_digests: bool | None = None,
        layer_mountable: bool = True,
        layer_contents: bool | None = None,
        layer_data: bool = True,
        image_data: bool = True,
        container_data: bool = True,
        leftovers: bool = True,
        max_age: float = 86400.0,
        progress: Callable[[object], object] | None = None,
    ) -> CheckReport:
        """Look the store over, additional stores included; nothing is changed (`spec/check-repair.md`).

        The store may be in use: locks are held while records are read, and no longer. What seems wrong only because
        somebody is changing it is looked at again, and not reported.

        Args:
            quick: leave out what reads the layers themselves, the next two.
            layer_digests: put every layer's archive together and compare digest and size.
            layer_contents: compare every layer's files with what was put into it: kind, owner, mode, size, time,
                attributes. Layers of containers are theirs to change, and not compared.
            layer_mountable: see that every layer has what a mount needs. Nothing is mounted.
            layer_data, image_data, container_data: read the data items; compare sizes and digests.
            leftovers: look for what no record names: what `gc` would remove.
            max_age: seconds after which a layer that no image and no container needs is told of (an oddity).
            progress: gets `events.Advanced` with the task "check", and its own number of records.

        Raises:
            LockTimeout.
            PermissionError: this user may not look at all of it, so nothing can be said; an ordinary user's store
                wants his user namespace.
        """
        from orlop.store.check.checking import Parts, check

        parts = Parts(
            quick=quick,
            layer_digests=layer_digests,
            layer_mountable=layer_mountable,
            layer_contents=layer_contents,
            layer_data=layer_data,
            image_data=image_data,
            container_data=container_data,
            leftovers=leftovers,
            max_age=max_age,
        )
        return check(self._engine, parts, progress)

    # --- plans --------------------------------------------------------------------------------------------

    def plan_delete(self, *refs: str) -> Plan:
        """What would go if these containers, images and layers were deleted, all at once; nothing is changed.

        As with every reader of the records, what a dead process left half made or half deleted is gone afterwards.

        A container goes with its layer, an image with the layers that nothing else needs; `keeps` says which layers
        stay, and why. Of each reference containers are looked through first, then images, then layers.

        Raises:
            LayerUnknown: nothing of this store is called that.
            ImageUsedByContainer, LayerHasChildren, LayerUsedByImage, LayerUsedByContainer: by one not asked for.
        """
        from orlop.store import deleting

        return deleting.plan_delete(self._engine, arguments.refs(refs))

    def plan_wipe(self) -> Plan:
        """What `wipe` would delete; nothing is changed."""
        from orlop.store import deleting

        return deleting.plan_wipe(self._engine)

    def plan_gc(self) -> Plan:
        """What `gc` would remove: leftovers; and what looks like one and stays. Nothing is changed.

        Raises:
            BadRecords: a table is lost or cannot be read; beside such a one nothing is a leftover.
        """
        from orlop.store import gc

        return gc.plan(self._engine)

    def plan_repair(
        self, report: CheckReport, *, containers: bool = False, unreferenced: bool = False
    ) -> Plan:
        """What would put right what a check has found, with the least loss; nothing is changed.

        What can be had from elsewhere is copied, what can be made again is made again, what only lost owner, mode,
        time or attributes gets them back. What is left is removed, with what is worth nothing without it; `keeps`
        says what stays though it is damaged. Additional stores are never touched.

        Args:
            report: of `check`; what it tells that is no longer so is passed over.
            containers: containers may be changed, and removed where nothing else helps.
            unreferenced: layers that no image and no container needs are removed, if the report tells of them.

        Raises:
            LockTimeout.
        """
        from orlop.store.repair import planning
        from orlop.store.repair.bench import Choice

        choice = Choice(containers=containers, unreferenced=unreferenced)
        return planning.plan(self._engine, arguments.report(report), choice)

    def apply(self, plan: Plan, progress: Callable[[object], object] | None = None) -> Outcome:
        """Do what a plan says, and nothing else. `progress` gets `events.StepDone` and `events.StepFailed`.

        Raises:
            PlanOutdated: the store is not as it was when the plan was made; nothing was done.
            BadRecords, StorageError: as the verb that made the plan.
        """
        from orlop.store import plan as plans

        return plans.apply(self._engine, plan, progress)

    def gc(self, *, dry_run: bool = False, progress: Callable[[object], object] | None = None) -> Outcome:
        """Remove leftovers: layers and data that no record names, and what dead processes were writing.

        All of it is tried; what could not be taken away is in `failed`. `dry_run` says what would be done. What is
        mounted, or in use by a running operation, is never touched (`spec/records.md` 25, docs/decisions/plans.md).

        Raises:
            BadRecords: a table is lost or cannot be read; nothing was collected.
        """
        from orlop.store import gc

        return gc.collect(self._engine, dry_run=dry_run, progress=progress)

    def shutdown(self, *, force: bool = False) -> list[str]:
        """Undo what opening the driver did to the machine; the ids of layers that were mounted.

        Raises:
            StillMounted: layers are mounted. With `force` they are unmounted first, and the error is raised all the
                same, as the peers do; a second call succeeds. The error carries `layers`.
        """
        from orlop.store import mounting

        engine = self._engine
        with engine.graph_lock.writing(timeout=engine.options.lock_timeout):
            driver = engine.driver_held()
            with engine.open(layers=WRITE, additional=False, graph_held=True) as tables:
                mounts = engine.layers.mounts
                assert mounts is not None
                mounted = mounts.mounted()
                first: Exception | None = None
                for id in mounted if force else ():
                    row = tables.layers.rows.by_id(id)
                    try:
                        if row is not None:
                            mounting.unmount_fully(engine, tables, row)
                    except (StorageError, OSError) as error:
                        first = first or error
                if first is not None:
                    raise first
                if mounted:
                    raise StillMounted(
                        f"{len(mounted)} layers are mounted ({mounted[0]}, ...)",
                        peer=f"a layer is mounted: {StillMounted.peer}",
                        layers=tuple(mounted),
                    )
                engine.graph_lock.renew()
                driver.shutdown()
        return mounted
