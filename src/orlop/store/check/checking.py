"""Looking a store over while it is in use (`spec/check-repair.md`, promises P9 to P11).

Rule 1: Nothing is changed. What opening a store would put right is reported instead.
Rule 2: Locks are held while records are read, not while files are: a check of terabytes keeps nobody waiting. So what
        looks wrong may only have been changing. It is looked at again if a record has changed meanwhile, the third
        time with the locks held, and what holds then is told.
Rule 3: One bad record, layer or item is one finding, and the others are looked at.
Rule 4: A layer that is being made has a lock that is held, and is waited for; it is no finding.
"""

from __future__ import annotations

import os

from orlop.errors import BadRecords, LockTimeout, StorageError
from orlop.model.findings import CheckReport, Finding
from orlop.store.check import records
from orlop.store.check.compare import Leniency
from orlop.store.check.findings import about
from orlop.store.check.items import ItemCheck
from orlop.store.check.layers import LayerCheck, in_order
from orlop.store.check.look import Look
from orlop.store.check.remains import remains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.engine import Engine

    Progress = Callable[[object], object]
    Subject = tuple[str, str, bool]

_LOOKS = 3
_KINDS = {"layer": 0, "image": 1, "container": 2}


class Parts:
    """What is to be done; the names of the peers' options (`spec/check-repair.md` 1)."""

    __slots__ = (
        "container_data",
        "image_data",
        "layer_contents",
        "layer_data",
        "layer_digests",
        "layer_mountable",
        "leftovers",
        "max_age",
    )

    def __init__(
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
    ) -> None:
        self.layer_digests = not quick if layer_digests is None else layer_digests
        self.layer_mountable = layer_mountable
        self.layer_contents = not quick if layer_contents is None else layer_contents
        self.layer_data = layer_data
        self.image_data = image_data
        self.container_data = container_data
        self.leftovers = leftovers
        self.max_age = max_age

    def names(self) -> list[str]:
        return [name for name in self.__slots__ if name != "max_age" and getattr(self, name)]


def check(engine: Engine, parts: Parts, progress: Progress | None = None) -> CheckReport:
    """See `Store.check`."""
    return _Check(engine, parts, progress).run()


class _Check:
    def __init__(self, engine: Engine, parts: Parts, progress: Progress | None) -> None:
        self._engine = engine
        self._parts = parts
        self._progress = progress
        self._counts = dict.fromkeys(("layers", "images", "containers", "items", "entries", "bytes"), 0)

    def run(self) -> CheckReport:
        only: set[Subject] | None = None
        tokens: tuple[bytes, ...] = ()
        found: list[Finding] = []
        for number in range(_LOOKS):
            with Look(self._engine) as look:
                if only is not None and look.tokens == tokens:
                    break
                tokens = look.tokens
                if number < _LOOKS - 1:
                    look.release()
                of_records = list(records.findings(look, self._parts.max_age))
                of_files = list(self._of_files(look, only))
                found = of_records + of_files
                only = {_subject(finding) for finding in of_files}
                if not only:
                    break
        found += self._remains(found)
        found.sort(key=_order)
        return self._report(look, found)

    # --- things that have records -------------------------------------------------------------------------

    def _of_files(self, look: Look, only: set[Subject] | None) -> Iterator[Finding]:
        """Findings about files, of all records or of `only` these. Numbers are counted the first time."""
        if only is None:
            self._count_records(look)
        layers = LayerCheck(
            look,
            _leniency(look),
            places=self._parts.layer_mountable,
            digests=self._parts.layer_digests,
            contents=self._parts.layer_contents,
            count=self._count_content if only is None else _uncounted,
        )
        count_items = self._count_items if only is None else _uncounted
        items = {table: ItemCheck(table, count_items) for table in _tables(look)}
        todo = [(table, document) for table, document in _work(look) if _wanted(table, document, only)]
        for done, (table, document) in enumerate(todo):
            if self._progress is not None and only is None:
                from orlop.model.events import Advanced

                self._progress(Advanced("check", done, len(todo)))
            yield from self._of_record(look, table, document, layers, items[table])

    def _of_record(
        self, look: Look, table: TableAsFound, document: Document, layers: LayerCheck, items: ItemCheck
    ) -> Iterator[Finding]:
        noun = table.noun
        try:
            if getattr(self._parts, f"{noun}_data"):
                yield from items.of_record(document)
            if noun == "layer":
                yield from layers.of_layer(table, document)
        except LockTimeout:
            raise
        except (StorageError, OSError) as problem:
            yield about(table, document["id"]).finding(
                "unreadable", f"it cannot be looked at: {problem}", peers=(str(problem),)
            )

    # --- what belongs to nobody ---------------------------------------------------------------------------

    def _remains(self, found: list[Finding]) -> list[Finding]:
        if not self._parts.leftovers:
            return []
        told = {finding.path for finding in found if finding.path}
        try:
            return [finding for finding in remains(self._engine) if finding.path not in told]
        except BadRecords:
            return []  # a table is lost, which is told: beside it nothing belongs to nobody for certain

    # --- figures ------------------------------------------------------------------------------------------

    def _count_records(self, look: Look) -> None:
        self._counts["layers"] = sum(len(table.by_id) for table in look.layers)
        self._counts["images"] = sum(len(table.by_id) for table in look.images)
        self._counts["containers"] = len(look.containers.by_id)

    def _count_items(self, items: int, size: int) -> None:
        self._counts["items"] += items
        self._counts["bytes"] += size

    def _count_content(self, entries: int, size: int) -> None:
        self._counts["entries"] += entries
        self._counts["bytes"] += size

    def _report(self, look: Look, found: list[Finding]) -> CheckReport:
        layers = {finding.id for finding in found if finding.kind == "layer" and finding.peers}
        image_layers = []
        for table in look.images:
            for id, document in table.by_id.items():
                tops = (document.get("layer"), *(document.get("mapped-layers") or ()))
                needed = dict.fromkeys(layer for top in tops for layer in look.chain(top or ""))
                if not layers.isdisjoint(needed):
                    image_layers.append((id, table.read_only, tuple(needed)))
        images = {id for id, _, _ in image_layers}
        images |= {finding.id for finding in found if finding.kind == "image" and finding.peers}
        boxes = [
            (id, document.get("image") or "")
            for id, document in look.containers.by_id.items()
            if document.get("image") in images
        ]
        return CheckReport(
            found,
            checked=self._counts,
            parts=self._parts.names(),
            graph_root=self._engine.options.graph_root,
            image_layers=image_layers if layers else (),
            container_images=boxes,
        )


def _tables(look: Look) -> list[TableAsFound]:
    return [*look.layers, *look.images, look.containers]


def _work(look: Look) -> Iterator[tuple[TableAsFound, Document]]:
    """Every record that counts, layers first, in an order that suits their check."""
    for tables in (look.layers, look.images, [look.containers]):
        seen: set[str] = set()
        for table in tables:
            documents = in_order(look, table) if table.noun == "layer" else table.by_id.values()
            for document in documents:
                if document["id"] not in seen:
                    yield table, document
            seen.update(table.by_id)


def _wanted(table: TableAsFound, document: Document, only: set[Subject] | None) -> bool:
    return only is None or (table.noun, document["id"], table.read_only) in only


def _subject(finding: Finding) -> Subject:
    return finding.kind, finding.id, finding.read_only


def _order(finding: Finding) -> tuple[int, str, bool]:
    if finding.kind == "table":
        return -1, "", False
    return _KINDS.get(finding.kind, 3), finding.id, finding.read_only


def _uncounted(number: int, size: int) -> None:
    return


def _leniency(look: Look) -> Leniency:
    """What may differ, by the options of the store (`spec/check-repair.md` 1)."""
    options = look.engine.options
    driver_options = options.driver_options
    pulls: Mapping[str, str] = options.pull_options or {}
    return Leniency(
        owners=any("ignore_chown_errors=" in option and _is_on(option) for option in driver_options),
        times=any("use_hard_links" in key and pulls[key] == "true" for key in pulls),
        devices=options.rootless or os.stat(options.graph_root).st_uid != 0,
        trusted=options.rootless,
    )


def _is_on(option: str) -> bool:
    return option.partition("=")[2].strip().lower() in ("1", "t", "true")
