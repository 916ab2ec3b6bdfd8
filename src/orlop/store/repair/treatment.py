"""What mends what: from findings to steps, and how each step is carried out (`spec/check-repair.md` 5).

Made twice, as a search for garbage is: to show what would be done, with the tables open for looking; and again under
the exclusive locks, while it is done. The order of remedies is the order in which they are carried out.

Rule 1: The least that mends. What can be had elsewhere is copied, what can be made again is made again, what only
        lost its owner, mode, time or attributes gets them back; and only what is left is removed.
Rule 2: What is removed takes with it what is worth nothing without it: layers on top, images of them. Containers go
        only if the caller said so; without that everything stays that they need.
"""

from __future__ import annotations

import os

from orlop.errors import BadRecords, StorageError
from orlop.model.plan import Kept, Step
from orlop.store.check.contents import Examiner, mappings_of
from orlop.store.check.findings import open_regular
from orlop.store.check.layers import in_order
from orlop.store.repair import images as of_images
from orlop.store.repair.evidence import Evidence
from orlop.store.repair.rebuild import LostLayers
from orlop.store.repair.removal import Doom
from orlop.store.repair.sources import Sources
from orlop.store.repair.splits import SplitMending
from orlop.store.repair.trees import TreeMending
from orlop.store.rubbish import Search

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from orlop.drivers.api import Inspector
    from orlop.model.findings import Finding
    from orlop.model.record import Document
    from orlop.records.trash import Trash
    from orlop.store.check.compare import Leniency
    from orlop.store.check.contents import Examination
    from orlop.store.check.look import Look
    from orlop.store.engine import Engine
    from orlop.store.tables import Tables

    Do = Callable[[Trash], object]

_OF_PLACES = frozenset(("short-name", "lower", "place"))
_OF_TREE = frozenset(
    ("content-changed", "content-missing", "tree-missing", "tree-added", "tree-changed", "and-more")
)
_OF_DATA = frozenset(("data-missing", "data-unreadable", "data-size", "data-digest", "data-key"))


class Remedy:
    """One step, and how it is done; `do` gets the place for what is set aside."""

    __slots__ = ("do", "paths", "step")

    def __init__(self, step: Step, do: Do, paths: Iterable[str] = ()) -> None:
        self.step = step
        self.do = do
        self.paths = list(paths)


class Choice:
    """What the caller lets a repair do (`Store.plan_repair`)."""

    __slots__ = ("containers", "unreferenced")

    def __init__(self, *, containers: bool = False, unreferenced: bool = False) -> None:
        self.containers = containers
        self.unreferenced = unreferenced


class Treatment:
    """Remedies for findings. `tables` are open, for looking or for writing; a context manager."""

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
        """`restored` are the (kind, id) of records that are made again before any of this."""
        self.remedies: list[Remedy] = []
        self.keeps: list[Kept] = []
        self._engine = engine
        self._look = look
        self._tables = tables
        self._choice = choice
        self._restored = restored
        self._examiner = Examiner(look, leniency, digests=True, contents=True, most=None)
        self._sources = Sources(look, self._examiner.inspector)
        self._evidence = Evidence(look)
        self._doom = Doom(engine, tables, choice.containers)
        self._of: dict[tuple[str, str], list[Finding]] = {}
        for finding in findings:
            if not finding.read_only:
                self._of.setdefault((finding.kind, finding.id), []).append(finding)

    def __enter__(self) -> Treatment:
        self._layers()
        self._images()
        self._containers()
        removal, keeps = self._doom.remedies()
        self.remedies += removal
        self.keeps += keeps
        self._files()
        self._leftovers()
        return self

    def __exit__(self, *error: object) -> None:
        self._sources.__exit__(None, None, None)

    @property
    def _inspector(self) -> Inspector | None:
        return self._examiner.inspector

    def _add(
        self,
        action: str,
        kind: str,
        id: str,
        path: str,
        reason: str,
        do: Do,
        *,
        size: int = 0,
        paths: Iterable[str] = (),
    ) -> None:
        self.remedies.append(Remedy(Step(action, kind, id, path, size, reason=reason), do, paths))

    def _codes(self, kind: str, id: str) -> set[str]:
        return {finding.code for finding in self._of.get((kind, id), ())}

    # --- layers -------------------------------------------------------------------------------------------

    def _layers(self) -> None:
        table = self._look.layers[0]
        for document in in_order(self._look, table):
            codes = self._codes("layer", document["id"])
            if codes:
                self._layer(document, codes)
        for (kind, id), found in self._of.items():
            if kind == "layer" and any(finding.code == "unaccounted" for finding in found):
                self._unaccounted(id, found)

    def _layer(self, document: Document, codes: set[str]) -> None:
        id = document["id"]
        path = self._record_path(document)
        if "incomplete" in codes:
            # Opening the tables for writing deletes it.
            self._add(
                "remove", "layer", id, self._place(id), "its making or its deletion never ended", _nothing
            )
            return
        if "unsafe-id" in codes:
            self._add("remove", "record", id, path, "no layer can have this id", self._dropping_record(id))
            return
        if "parent-cycle" in codes:
            self._cycle(document)
            return
        parent = document.get("parent") or ""
        if "parent-missing" in codes and ("layer", parent) not in self._restored:
            self._doom.layer(id, f"its parent {parent} is lost")
            return
        if codes & {"layer-gone", "content-gone"}:
            self._gone(document)
            return
        if codes & _OF_PLACES:
            self._places(document)
        if codes & (_OF_TREE | {"tar-split", "tar-split-missing", "digest", "size", "owners", "bad-digest"}):
            self._content(document, codes)
        if "bad-compression" in codes:
            self._change(document, {"compression": 0}, "there is no such compression")
        self._drop_items(document, _OF_DATA)
        if "unreferenced" in codes and self._choice.unreferenced:
            self._doom.layer(id, "no image and no container needs it")

    def _places(self, document: Document) -> None:
        id = document["id"]
        directory = self._place(id)
        if not os.path.isdir(directory) or os.path.islink(directory):
            self._gone(document)
            return
        inspector = self._inspector
        assert inspector is not None
        below = self._below(document)
        above = [other["id"] for other in self._look.layers[0].by_id.values() if self._below(other) == id]

        def do(_: Trash) -> None:
            inspector.mend(id, below, above)

        names = {
            os.path.basename(finding.path) for finding in self._of["layer", id] if finding.code in _OF_PLACES
        }
        self._add("rewrite", "layer", id, directory, f"made anew: {', '.join(sorted(names))}", do)

    def _below(self, document: Document) -> str | None:
        """The layer on which a layer's directory is built: its parent; of a mapped copy, the image's top layer."""
        for table in self._look.images:
            for image in table.by_id.values():
                if document["id"] in (image.get("mapped-layers") or ()) and image.get("layer"):
                    top: str = image["layer"]
                    return top
        return document.get("parent") or None

    def _cycle(self, document: Document) -> None:
        """Every layer of the circle whose parent is another one by what the driver and the images know."""
        at = document
        seen: set[str] = set()
        known = list(self._look.layers[0].by_id.values())
        lost = LostLayers(self._look, self._inspector)
        circle = []
        while at["id"] not in seen:
            seen.add(at["id"])
            circle.append(at)
            at = self._look.layers[0].by_id[at["parent"]]
        ids = {layer["id"] for layer in circle}
        told = {
            d["id"]: d.get("parent") or ""
            for d in lost.documents(sorted(ids), [d for d in known if d["id"] not in ids])
        }
        for layer in circle:
            if told[layer["id"]] != layer["parent"]:
                self._change(layer, {"parent": told[layer["id"]]}, "its parents led in a circle")

    def _gone(self, document: Document) -> None:
        """A layer without content: made again from an equal one, else removed."""
        from orlop.store.repair import remaking

        id = document["id"]
        inspector = self._inspector
        source = remaking.source_of(self._look, inspector, self._sources, document)
        if source is None or inspector is None:
            self._doom.layer(id, "its content is gone")
            return
        self._add(
            "restore",
            "layer",
            id,
            self._place(id),
            f"made again from {source.name}",
            lambda rubbish: remaking.remake(self._engine, self._tables, inspector, document, source, rubbish),
        )

    def _unaccounted(self, id: str, found: list[Finding]) -> None:
        driver = self._look.driver
        places = driver.places(id)
        if places:
            self._add(
                "remove",
                "layer",
                id,
                places[-1],
                "no record names it, and nothing needs it",
                lambda rubbish: driver.remove(id, rubbish.set_aside),
                paths=places,
            )

    # --- what a layer holds -------------------------------------------------------------------------------

    def _content(self, document: Document, codes: set[str]) -> None:
        id = document["id"]
        path = self._split_path(id)
        found = self._examined(document, path)
        if found is None or found.reading.error is not None or found.record_is_wrong:
            self._split(document, path, there=os.path.lexists(path))
            return
        is_damaged = found.reading.problems or found.differences or found.unreadable
        if is_damaged and not self._tree(document, found):
            return
        if codes & {"digest", "size", "bad-digest", "owners"} and not found.reading.problems:
            self._facts(document, found, path, codes)

    def _examined(self, document: Document, path: str) -> Examination | None:
        try:
            with os.fdopen(open_regular(path), "rb") as record:
                return self._examiner.examine(document, record)
        except (OSError, StorageError):
            return None

    def _tree(self, document: Document, found: Examination) -> bool:
        """Whether the layer can be put right."""
        id = document["id"]
        place = found.place
        if (
            found.tree is None
            or place is None
            or found.unreadable is not None
            or place.overridden
            or not place.alone
        ):
            if place is not None and place.overridden:
                self.keeps.append(
                    Kept("layer", id, place.directories[0], "its owners and modes stand in attributes")
                )
                return False
            self._doom.layer(id, "its content is damaged, and what it should be cannot be told")
            return False
        mending = TreeMending(found, mappings_of(document), self._sources)
        if mending.lacking:
            first = os.fsdecode(b"/" + mending.lacking[0])
            self._doom.layer(id, f"{first} is damaged, and nowhere else ({len(mending.lacking)} such files)")
            return False

        def do(_: Trash) -> None:
            # The tree of a layer above grows from this one's, so it is told again when it is its turn.
            again = self._examined(document, self._split_path(id))
            if again is not None and again.tree is not None:
                TreeMending(again, mappings_of(document), self._sources).carry_out()
                self._engine.sync(id)

        self._add(
            "rewrite", "layer", id, place.directories[0], f"{mending.count} of its files are put right", do
        )
        return True

    def _split(self, document: Document, path: str, *, there: bool) -> None:
        id = document["id"]
        mending = SplitMending(self._look, self._inspector, self._sources, document, path)
        if mending.source:
            how = (
                "made again" if mending.source == SplitMending.GENERATED else f"copied from {mending.source}"
            )
            durable = self._engine.options.durable
            self._add("rewrite", "file", id, path, how, lambda _: mending.carry_out(durable=durable))
        elif there:
            reason = "it is damaged, and nothing has its like: the archive cannot be given back any more"
            self._add("remove", "file", id, path, reason, lambda rubbish: rubbish.set_aside(path))

    def _facts(self, document: Document, found: Examination, path: str, codes: set[str]) -> None:
        """The record put right, if it is not the tar-split file that is wrong."""
        id = document["id"]
        reading = found.reading
        if "digest" in codes and self._evidence.says(id, document.get("diff-digest"), not_=reading.digest):
            mending = SplitMending(self._look, self._inspector, self._sources, document, path)
            if mending.source:
                self._split(document, path, there=True)
            else:
                self._doom.layer(id, "its content is another than its image says")
            return
        members: dict[str, Any] = {}
        if codes & {"digest", "size", "bad-digest"} and reading.digest:
            members |= {"diff-digest": reading.digest, "diff-size": reading.size}
        if "owners" in codes:
            members |= {"uidset": sorted(found.uids), "gidset": sorted(found.gids)}
        if "bad-digest" in codes:
            for finding in self._of["layer", id]:
                if finding.code == "bad-digest" and finding.name != "diff-digest":
                    members[finding.name] = ""
        if members:
            self._change(document, members, f"recorded as they are: {', '.join(members)}")

    # --- images and containers ----------------------------------------------------------------------------

    def _images(self) -> None:
        for table in self._look.images:
            for document in table.by_id.values() if not table.read_only else ():
                codes = self._codes("image", document["id"])
                if codes:
                    self._image(document, codes)

    def _image(self, document: Document, codes: set[str]) -> None:
        id = document["id"]
        if "image-layer-missing" in codes:
            gone = {f.name for f in self._of["image", id] if f.code == "image-layer-missing"}
            lost = {name for name in gone if ("layer", name) not in self._restored}
            if lost and self._evidence.needs(document.get("layer") or "", lost):
                self._doom.image(id, f"its layer {min(lost)} is lost")
                return
            if lost:
                kept = [m for m in document.get("mapped-layers") or () if not self._evidence.needs(m, lost)]
                self._change(
                    document, {"mapped-layers": kept}, "a copy of its top layer is lost", noun="image"
                )
        mending = of_images.ItemMending(self._look, document)
        for finding in self._of["image", id]:
            if finding.code in _OF_DATA:
                self._image_item(document, finding, mending)

    def _image_item(self, document: Document, finding: Finding, mending: of_images.ItemMending) -> None:
        id, key = document["id"], finding.name
        members = mending.record_of(key)
        if members is not None:
            self._change(document, members, f'data item "{key}" is recorded as it is', noun="image")
            return
        source = mending.source_of(key)
        if source is not None:
            durable = self._engine.options.durable
            self._add(
                "rewrite",
                "file",
                id,
                finding.path,
                f"copied from {source}",
                lambda _: of_images.copy_item(source, finding.path, durable=durable),
            )
        elif of_images.is_vital(document, key):
            self._doom.image(id, f'its data item "{key}" is damaged, and nowhere else')
        else:
            self._drop_item(document, key, finding.path, noun="image")

    def _containers(self) -> None:
        for document in self._look.containers.by_id.values():
            id = document["id"]
            found = self._of.get(("container", id), [])
            repairable = [f for f in found if f.code != "shared-layer"]
            if not repairable:
                continue
            codes = {finding.code for finding in repairable}
            image = document.get("image") or ""
            if codes == {"container-image-missing"} and ("image", image) in self._restored:
                continue
            layer = document.get("layer") or ""
            if codes == {"container-layer-missing"} and ("layer", layer) in self._restored:
                continue
            if not self._choice.containers:
                self.keeps.append(
                    Kept("container", id, reason=f"{repairable[0].text}; containers are not to be repaired")
                )
                continue
            if "container-layer-missing" in codes and ("layer", layer) not in self._restored:
                self._doom.container(id, "its layer is lost")
                continue
            if "container-image-missing" in codes and ("image", image) not in self._restored:
                self._change(document, {"image": ""}, f"its image {image} is lost", noun="container")
            self._drop_items(document, _OF_DATA, noun="container")

    # --- records ------------------------------------------------------------------------------------------

    def _change(
        self, document: Document, members: dict[str, Any], reason: str, *, noun: str = "layer"
    ) -> None:
        def do(_: Trash) -> None:
            for editor in self._editors(noun):
                row = editor.rows.by_id(document["id"])
                if row is not None:
                    editor.change(row, members)
                    editor.save()

        self._add("rewrite", noun, document["id"], self._record_path(document, noun), reason, do)

    def _drop_items(self, document: Document, codes: frozenset[str], *, noun: str = "layer") -> None:
        for finding in self._of.get((noun, document["id"]), ()):
            if finding.code in codes:
                self._drop_item(document, finding.name, finding.path, noun=noun)

    def _drop_item(self, document: Document, key: str, path: str, *, noun: str) -> None:
        """Take a data item off a record; what is left of its file is set aside."""

        def do(rubbish: Trash) -> None:
            for editor in self._editors(noun):
                row = editor.rows.by_id(document["id"])
                if row is None:
                    continue
                members: dict[str, Any] = {
                    "big-data-names": [n for n in row.document.get("big-data-names") or () if n != key]
                }
                for member in ("big-data-sizes", "big-data-digests"):
                    if row.document.get(member):
                        members[member] = {k: v for k, v in row.document[member].items() if k != key}
                editor.change(row, members)
                editor.save()
            if path:
                rubbish.set_aside(path)

        self._add(
            "rewrite",
            noun,
            document["id"],
            self._record_path(document, noun),
            f'data item "{key}" is taken off it',
            do,
        )

    def _dropping_record(self, id: str) -> Do:
        def do(_: Trash) -> None:
            row = self._tables.layers.rows.by_id(id)
            if row is not None:
                self._tables.layers.remove(row)
                self._tables.layers.save()

        return do

    def _editors(self, noun: str) -> list[Any]:
        if noun == "image":
            return list(self._tables.own_images())
        return [self._tables.layers if noun == "layer" else self._tables.containers]

    # --- files and rubbish --------------------------------------------------------------------------------

    def _files(self) -> None:
        for found in self._of.values():
            for finding in found:
                if finding.code in ("mode", "owner"):
                    self._add("rewrite", "file", "", finding.path, finding.remedy, _settling(finding.path))

    def _leftovers(self) -> None:
        if not any(finding.code == "leftover" for found in self._of.values() for finding in found):
            return
        told = {
            finding.path for found in self._of.values() for finding in found if finding.code == "leftover"
        }
        try:
            search = Search(self._engine, self._tables)
        except BadRecords:
            return
        for find in search.finds:
            if find.step.path in told:
                self.remedies.append(Remedy(find.step, find.take, find.paths))

    # --- places -------------------------------------------------------------------------------------------

    def _place(self, id: str) -> str:
        try:
            places = self._look.driver.places(id)
        except StorageError:
            return ""
        return places[-1] if places else ""

    def _split_path(self, id: str) -> str:
        path: str = self._engine.layers.tar_split_path(id)
        return path

    def _record_path(self, document: Document, noun: str = "layer") -> str:
        tables = {
            "layer": self._look.layers,
            "image": self._look.images,
            "container": [self._look.containers],
        }
        for table in tables[noun]:
            if not table.read_only and document["id"] in table.by_id:
                return table.files[table.home_of[document["id"]]].path
        return ""


def _settling(path: str) -> Do:
    """Mode and owner of a file of the store's own, as whoever owns its directory makes it."""

    def do(_: Trash) -> None:
        fd = open_regular(path)
        try:
            owner = os.stat(os.path.dirname(path))
            os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fchmod(fd, 0o600)
        finally:
            os.close(fd)

    return do


def _nothing(_: Trash) -> None:
    return
