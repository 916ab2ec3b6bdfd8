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
from orlop.store.check.findings import about, raise_if_ours
from orlop.store.check.items import ItemCheck
from orlop.store.check.layers import LayerCheck, in_order
from orlop.store.check.look import Look
from orlop.store.check.remains import remains

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.engine import Engine

    Progress = Callable[[object], object]
    Subject = tuple[str, str, bool]

_LOOKS = 3
_KINDS = {"layer": 0, "image": 1, "container": 2}


_NAMESPACE = (
    "an ordinary user's store is looked at from inside his user namespace, "
    "with the subordinate ids that it was made with"
)


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


class Survey:
    """Looks at what has records. `counts` grow with what is looked at; without `progress` nobody is told."""

    def __init__(self, parts: Parts, progress: Progress | None = None) -> None:
        self.parts = parts
        self.counts = dict.fromkeys(("layers", "images", "containers", "items", "entries", "bytes"), 0)
        self._progress = progress

    def of_records(self, look: Look) -> list[Finding]:
        """What the records say against each other."""
        return list(records.findings(look, self.parts.max_age))

    def of_files(self, look: Look, only: Collection[Subject] | None = None) -> dict[Subject, list[Finding]]:
        """What is wrong with the files that belong to all records, or to `only` these; of each that has something."""
        parts = self.parts
        layers = LayerCheck(
            look,
            leniency_of(look),
            places=parts.layer_mountable,
            digests=parts.layer_digests,
            contents=parts.layer_contents,
            count=self._count_content,
        )
        items = {table: ItemCheck(table, self._count_items) for table in look.tables()}
        todo = [work for work in _work(look) if only is None or _subject(*work) in only]
        found: dict[Subject, list[Finding]] = {}
        for done, (table, document) in enumerate(todo, 1):
            of_this = list(self._of_record(table, document, layers, items[table]))
            if of_this:
                found[_subject(table, document)] = of_this
            if self._progress is not None:
                from orlop.model.events import Advanced

                self._progress(Advanced("check", done, len(todo)))
        return found

    def _of_record(
        self, table: TableAsFound, document: Document, layers: LayerCheck, items: ItemCheck
    ) -> Iterator[Finding]:
        noun = table.noun
        self.counts[f"{noun}s"] += 1
        try:
            if getattr(self.parts, f"{noun}_data"):
                yield from items.of_record(document)
            if noun == "layer":
                yield from layers.of_layer(table, document)
        except LockTimeout:
            raise
        except (StorageError, OSError) as problem:
            try:
                raise_if_ours(problem)
            except OSError as ours:
                ours.add_note(f"looking at {noun} {document['id']}")
                if isinstance(ours, PermissionError):
                    ours.add_note(_NAMESPACE)
                raise
            yield about(table, document["id"]).finding(
                "unreadable", f"it cannot be looked at: {problem}", peers=(str(problem),)
            )

    def _count_items(self, items: int, size: int) -> None:
        self.counts["items"] += items
        self.counts["bytes"] += size

    def _count_content(self, entries: int, size: int) -> None:
        self.counts["entries"] += entries
        self.counts["bytes"] += size


def check(engine: Engine, parts: Parts, progress: Progress | None = None) -> CheckReport:
    """See `Store.check`."""
    survey = Survey(parts, progress)
    with Look(engine) as look:
        look.release()
        suspects = survey.of_files(look)
    again = Survey(parts)
    for last in (False, True):
        if not suspects:
            break
        tokens = look.tokens
        with Look(engine) as look:
            if look.tokens == tokens:
                break
            if not last:
                look.release()
            suspects = again.of_files(look, suspects)
    found = [finding for of_one in suspects.values() for finding in of_one]
    found += survey.of_records(look)
    if parts.leftovers:
        told = {finding.path for finding in found if finding.path}
        try:
            found += [finding for finding in remains(engine) if finding.path not in told]
        except BadRecords:
            pass  # a table is lost, which is told: beside it nothing belongs to nobody for certain
    return _report(look, parts, sorted(found, key=_order), survey.counts)


def _report(look: Look, parts: Parts, found: list[Finding], counts: dict[str, int]) -> CheckReport:
    layers = {finding.id for finding in found if finding.kind == "layer" and finding.peers}
    image_layers = []
    for table in look.images if layers else ():
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
        checked=counts,
        parts=parts.names(),
        max_age=parts.max_age,
        graph_root=look.engine.options.graph_root,
        image_layers=image_layers,
        container_images=boxes,
    )


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


def _subject(table: TableAsFound, document: Document) -> Subject:
    return table.noun, document["id"], table.read_only


def _order(finding: Finding) -> tuple[int, str, bool]:
    if finding.kind == "table":
        return -1, "", False
    return _KINDS.get(finding.kind, 3), finding.id, finding.read_only


def leniency_of(look: Look) -> Leniency:
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
