"""What mends a layer: its places, its files, its tar-split record, its record."""

from __future__ import annotations

import os

from orlop.errors import StorageError
from orlop.store.check.contents import mappings_of
from orlop.store.check.findings import raise_if_ours
from orlop.store.check.layers import in_order
from orlop.store.lost import of_look
from orlop.store.repair import remaking
from orlop.store.repair.bench import OF_DATA, nothing
from orlop.store.repair.lostlayers import LostLayers
from orlop.store.repair.splits import SplitMending
from orlop.store.repair.trees import TreeMending
from orlop.system.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.model.record import Document
    from orlop.records.trash import Trash
    from orlop.store.check.contents import Examination
    from orlop.store.repair.bench import Bench

_OF_PLACES = frozenset(("short-name", "lower", "place"))
_OF_CONTENT = frozenset(
    (
        *("content-changed", "content-missing", "tree-missing", "tree-added", "tree-changed", "and-more"),
        *("tar-split", "tar-split-missing", "digest", "size", "owners", "bad-digest"),
    )
)


class LayerRepair:
    """Adds remedies for all layers of the bench, parents first."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._lost = of_look(bench.look)
        for document in in_order(bench.look, bench.look.layers[0]):
            codes = {finding.code for finding in bench.about("layer", document["id"])}
            if codes:
                self._layer(document, codes)
        for kind, id in bench.findings:
            if kind == "layer" and bench.about(kind, id, ("unaccounted",)):
                self._unaccounted(id)

    def _layer(self, document: Document, codes: set[str]) -> None:
        bench, id = self._bench, document["id"]
        parent = document.get("parent") or ""
        if "incomplete" in codes:
            reason, paths = "its making or its deletion never ended", bench.doom.places("layer", id)
            bench.add("remove", "layer", id, bench.place(id), reason, nothing, paths=paths)
        elif "unsafe-id" in codes:
            self._drop_record(id)
        elif "parent-cycle" in codes:
            self._cycle(document)
        elif "parent-missing" in codes and ("layer", parent) not in bench.restored:
            bench.doom.layer(id, f"its parent {parent} is lost")
        elif codes & {"layer-gone", "content-gone"}:
            self._gone(document)
        else:
            self._put_right(document, codes)

    def _put_right(self, document: Document, codes: set[str]) -> None:
        bench, id = self._bench, document["id"]
        if codes & _OF_PLACES:
            self._places(document)
        if codes & _OF_CONTENT:
            self._content(document, codes)
        if "bad-compression" in codes:
            bench.change("layer", id, {"compression": 0}, "there is no such compression")
        for finding in bench.about("layer", id, OF_DATA):
            bench.drop_item("layer", id, finding)
        if "unreferenced" in codes and bench.choice.unreferenced:
            bench.doom.layer(id, "no image and no container needs it")

    def _drop_record(self, id: str) -> None:
        bench = self._bench

        def do(_: Trash) -> None:
            row = bench.tables.layers.rows.by_id(id)
            if row is not None:
                bench.tables.layers.remove(row)
                bench.tables.layers.save()

        bench.add("remove", "record", id, bench.record_path("layer", id), "no layer can have this id", do)

    def _unaccounted(self, id: str) -> None:
        driver = self._bench.look.driver
        places = driver.places(id)
        doubt = self._lost.why("layer", id) or self._lost.doubt
        if places and doubt:
            self._bench.keep("layer", id, doubt, places[-1])
        elif places:
            self._bench.add(
                "remove",
                "layer",
                id,
                places[-1],
                "no record names it, and nothing needs it",
                lambda rubbish: driver.remove(id, rubbish.set_aside),
                paths=places,
            )

    # --- places -------------------------------------------------------------------------------------------

    def _places(self, document: Document) -> None:
        bench, id = self._bench, document["id"]
        directory = bench.place(id)
        inspector = bench.inspector
        if inspector is None or not os.path.isdir(directory) or os.path.islink(directory):
            self._gone(document)
            return
        below = self._below(document)
        above = [other["id"] for other in bench.look.layers[0].by_id.values() if self._below(other) == id]
        names = {os.path.basename(finding.path) for finding in bench.about("layer", id, _OF_PLACES)}
        bench.add(
            "rewrite",
            "layer",
            id,
            directory,
            f"made anew: {', '.join(sorted(names))}",
            lambda _: inspector.mend(id, below, above),
        )

    def _below(self, document: Document) -> str | None:
        """What a layer's directory is built on: its parent; of a mapped copy, the image's top layer."""
        for table in self._bench.look.images:
            for image in table.by_id.values():
                if document["id"] in (image.get("mapped-layers") or ()) and image.get("layer"):
                    top: str = image["layer"]
                    return top
        return document.get("parent") or None

    def _gone(self, document: Document, why: str = "its content is gone") -> None:
        """A layer of whose content nothing can be used: made again from an equal one, else removed."""
        bench, id = self._bench, document["id"]
        inspector = bench.inspector
        source = remaking.source_of(bench.look, inspector, bench.sources, document)
        if source is None or inspector is None:
            bench.doom.layer(id, why)
            return
        bench.add(
            "restore",
            "layer",
            id,
            bench.place(id),
            f"made again from {source.name}",
            lambda rubbish: remaking.remake(bench.engine, bench.tables, inspector, document, source, rubbish),
        )

    def _cycle(self, document: Document) -> None:
        """Every layer of the circle whose parent is another one by what the driver and the images know."""
        bench = self._bench
        by_id = bench.look.layers[0].by_id
        circle: dict[str, Document] = {}
        at = document
        while at["id"] not in circle:
            circle[at["id"]] = at
            at = by_id[at["parent"]]
        others = [other for id, other in by_id.items() if id not in circle]
        lost = LostLayers(bench.look, bench.inspector)
        for told in lost.documents(sorted(circle), others):
            parent = told.get("parent") or ""
            if parent != circle[told["id"]]["parent"]:
                bench.change("layer", told["id"], {"parent": parent}, "its parents led in a circle")

    # --- content ------------------------------------------------------------------------------------------

    def _content(self, document: Document, codes: set[str]) -> None:
        path = self._bench.split_path(document["id"])
        found = self._examined(document)
        if found is None or found.reading.error is not None or found.record_is_wrong:
            self._split(document, path)
            return
        is_damaged = found.reading.problems or found.differences or found.unreadable
        if is_damaged and not self._tree(document, found):
            return
        if codes & {"digest", "size", "bad-digest", "owners"} and not found.reading.problems:
            self._facts(document, found, path, codes)

    def _examined(self, document: Document) -> Examination | None:
        try:
            with os.fdopen(open_regular(self._bench.split_path(document["id"])), "rb") as record:
                return self._bench.examiner.examine(document, record)
        except (OSError, StorageError) as problem:
            raise_if_ours(problem)
            return None

    def _tree(self, document: Document, found: Examination) -> bool:
        """Whether the layer's files can be put right."""
        bench, id, place = self._bench, document["id"], found.place
        if found.tree is None or place is None or not place.alone or found.unreadable is not None:
            self._gone(document, "its content is damaged, and what it should be cannot be told")
            return False
        mending = TreeMending(found, mappings_of(document), bench.sources)
        if mending.lacking:
            first, count = os.fsdecode(mending.lacking[0]), len(mending.lacking)
            bench.doom.layer(id, f"/{first} is damaged, and nowhere else ({count} such files)")
            return False

        def do(_: Trash) -> None:
            # What was mended below it may be a source by now, and on vfs the tree grows from there.
            again = self._examined(document)
            if again is not None and again.tree is not None:
                TreeMending(again, mappings_of(document), bench.sources).carry_out()
                bench.engine.sync(id)

        reason = f"{mending.count} of its files are put right"
        bench.add("rewrite", "layer", id, place.directories[0], reason, do)
        return True

    def _split(self, document: Document, path: str) -> None:
        """The tar-split file, from wherever it can be had."""
        bench, id = self._bench, document["id"]
        mending = SplitMending(bench.look, bench.inspector, bench.sources, document, path)
        if mending.source:
            how = (
                "made again" if mending.source == SplitMending.GENERATED else f"copied from {mending.source}"
            )
            durable = bench.engine.options.durable
            bench.add("rewrite", "file", id, path, how, lambda _: mending.carry_out(durable=durable))
        elif os.path.lexists(path):
            reason = "it is damaged, and nothing has its like: the archive cannot be given back any more"
            bench.add(
                "remove", "file", id, path, reason, lambda rubbish: rubbish.set_aside(path), paths=[path]
            )
            bench.keep("layer", id, "its files are whole; the archive cannot be given back", path)
        else:
            bench.keep("layer", id, f"its files are whole; nothing has the like of {path}", path)

    def _facts(self, document: Document, found: Examination, path: str, codes: set[str]) -> None:
        """The record put right; unless an image proves that it is the tar-split file that is wrong."""
        bench, id, reading = self._bench, document["id"], found.reading
        if "digest" in codes and bench.evidence.says(id, document.get("diff-digest"), not_=reading.digest):
            self._split(document, path)
            return
        members: dict[str, Any] = {}
        if codes & {"digest", "size", "bad-digest"} and reading.digest:
            members |= {"diff-digest": reading.digest, "diff-size": reading.size}
        if "owners" in codes:
            members |= {"uidset": sorted(found.uids), "gidset": sorted(found.gids)}
        for finding in bench.about("layer", id, ("bad-digest",)):
            if finding.name != "diff-digest":
                members[finding.name] = ""
        if members:
            bench.change("layer", id, members, f"recorded as they are: {', '.join(members)}")
