"""What the parts of a repair share: the store as it is, what is wrong with it, and the remedies found so far."""

from __future__ import annotations

from orlop.errors import StorageError
from orlop.model.plan import Kept, Step
from orlop.store.check.contents import Examiner
from orlop.store.repair.evidence import Evidence
from orlop.store.repair.removal import Doom
from orlop.store.repair.sources import Sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from orlop.drivers.api import Inspector
    from orlop.model.findings import Finding
    from orlop.model.record import Document
    from orlop.records.trash import Trash
    from orlop.store.check.compare import Leniency
    from orlop.store.check.look import Look
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    Do = Callable[[Trash], object]
    Members = Callable[[Document], dict[str, Any]]

OF_DATA = frozenset(("data-missing", "data-unreadable", "data-size", "data-digest", "data-key"))


class Choice:
    """What the caller lets a repair do (`Store.plan_repair`)."""

    __slots__ = ("containers", "unreferenced")

    def __init__(self, *, containers: bool = False, unreferenced: bool = False) -> None:
        self.containers = containers
        self.unreferenced = unreferenced


class Remedy:
    """One step, and how it is done; `do` gets the place for what is set aside. `paths`: what it takes away."""

    __slots__ = ("do", "paths", "step")

    def __init__(self, step: Step, do: Do, paths: Iterable[str] = ()) -> None:
        self.step = step
        self.do = do
        self.paths = list(paths)


class Bench:
    """See the module. `tables` are open, for looking or for writing.

    `restored` are the (kind, id) of records that are made again before any of this.
    """

    def __init__(
        self,
        engine: Engine,
        look: Look,
        tables: Tables,
        findings: Iterable[Finding],
        choice: Choice,
        leniency: Leniency,
        restored: set[tuple[str, str]],
    ) -> None:
        self.engine = engine
        self.look = look
        self.tables = tables
        self.choice = choice
        self.restored = restored
        self.examiner = Examiner(look, leniency, digests=True, contents=True, most=None)
        self.sources = Sources(look, self.inspector)
        self.evidence = Evidence(look)
        self.doom = Doom(engine, tables, choice.containers)
        self.remedies: list[Remedy] = []
        self.keeps: list[Kept] = []
        self.findings: dict[tuple[str, str], list[Finding]] = {}
        for finding in findings:
            if not finding.read_only:
                self.findings.setdefault(finding.subject, []).append(finding)

    @property
    def inspector(self) -> Inspector | None:
        return self.examiner.inspector

    def about(self, kind: str, id: str, codes: Iterable[str] | None = None) -> list[Finding]:
        """The findings about one thing; of all codes, or of these."""
        found = self.findings.get((kind, id), [])
        return found if codes is None else [finding for finding in found if finding.code in codes]

    # --- remedies -----------------------------------------------------------------------------------------

    def add(
        self, action: str, kind: str, id: str, path: str, reason: str, do: Do, *, paths: Iterable[str] = ()
    ) -> None:
        self.remedies.append(Remedy(Step(action, kind, id, path, reason=reason), do, paths))

    def keep(self, kind: str, id: str, reason: str, path: str = "") -> None:
        self.keeps.append(Kept(kind, id, path, reason))

    def change(self, noun: str, id: str, members: dict[str, Any] | Members, reason: str) -> None:
        """Members of a record, or a function that tells them from the record as it then is."""

        def do(_: Trash) -> None:
            for editor in self.editors(noun):
                row = editor.rows.by_id(id)
                if row is not None:
                    editor.change(row, members(row.document) if callable(members) else members)
                    editor.save()

        self.add("rewrite", noun, id, self.record_path(noun, id), reason, do)

    def drop_item(self, noun: str, id: str, finding: Finding) -> None:
        """Take a data item off a record; what is left of its file is set aside."""
        key = finding.name

        def do(rubbish: Trash) -> None:
            for editor in self.editors(noun):
                row = editor.rows.by_id(id)
                if row is not None:
                    editor.change(row, _without(row.document, key))
                    editor.save()
            if finding.path:
                rubbish.set_aside(finding.path)

        reason = f'data item "{key}" is taken off it'
        lost = [finding.path] if finding.path else []
        self.add("rewrite", noun, id, self.record_path(noun, id), reason, do, paths=lost)

    def editors(self, noun: str) -> list[Any]:
        if noun == "image":
            return list(self.tables.own_images())
        return [self.tables.layers if noun == "layer" else self.tables.containers]

    # --- places -------------------------------------------------------------------------------------------

    def place(self, id: str) -> str:
        """The directory of a layer; "" if there is none."""
        try:
            places = self.look.driver.places(id)
        except StorageError:
            return ""
        return places[-1] if places else ""

    def split_path(self, id: str) -> str:
        return self.engine.layers.tar_split_path(id)

    def record_path(self, noun: str, id: str) -> str:
        """The file that holds a record of ours."""
        for table in self.look.tables():
            if table.noun == noun and not table.read_only and id in table.by_id:
                return table.files[table.home_of[id]].path
        return ""


def _without(document: Document, key: str) -> dict[str, Any]:
    """The members of a record that tell of its items, without one of them."""
    members: dict[str, Any] = {
        "big-data-names": [name for name in document.get("big-data-names") or () if name != key]
    }
    for member in ("big-data-sizes", "big-data-digests"):
        if document.get(member):
            members[member] = {k: v for k, v in document[member].items() if k != key}
    return members


def nothing(_: Trash) -> None:
    """For what is put right by opening the tables."""
