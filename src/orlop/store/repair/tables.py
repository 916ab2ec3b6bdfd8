"""Files of records written anew: what can be read of them is kept, what is lost is told from what is there.

Rule 1: The old bytes stay beside the file, as `<name>.damaged`: what we cannot read somebody else perhaps can.
Rule 2: What no record can be made for is set apart under a name that nobody collects (`lost-<id>`), never removed.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidDigest, LimitExceeded, StorageError
from orlop.formats import gojson
from orlop.formats.limits import RECORDS_FILE_MAX
from orlop.formats.records import Misfit, encode, fitted
from orlop.model.digest import Digest
from orlop.model.plan import Kept, Step
from orlop.records import bigdata
from orlop.store.repair.aside import keep_aside
from orlop.store.repair.lostlayers import LostLayers
from orlop.store.repair.nameless import Nameless
from orlop.store.repair.rebuild import container_document, data_members, image_document, layer_named_in
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from orlop.drivers.api import Inspector
    from orlop.formats.recordfiles import Aside
    from orlop.model.findings import Finding
    from orlop.model.record import Document, Record
    from orlop.records.asfound import FileAsFound, TableAsFound
    from orlop.store.check.look import Look

LOST = "lost-"


class TablesMending:
    """What is to become of the files of records, and doing it, while they are held exclusively.

    `wanted` are the (kind, id) of single records that are to be made again; a table that is lost or cannot be read
    is made again whole. `recorded` are the (kind, id) that have no record now that can be used, and will have one.
    """

    def __init__(self, look: Look, inspector: Inspector | None, wanted: Iterable[tuple[str, str]]) -> None:
        self._look = look
        self._wanted = set(wanted)
        self._files: dict[str, _NewFile] = {}
        self._apart: list[tuple[str, str]] = []
        self._restored: set[str] = set()
        self.recorded: set[tuple[str, str]] = set()
        self.steps: list[Step] = []
        self.keeps: list[Kept] = []
        self._layers = LostLayers(look, inspector)
        self._nameless = Nameless(look, self._layers)
        own = [table for table in look.tables() if not table.read_only]
        for table in own:
            for file in table.files:
                self._of_file(table, file)
        self._restore_layers()
        for table in own:
            if table.noun == "image":
                self._restore_images(table)
        self._restore_containers()
        for new in self._files.values():
            if new.reason:
                self.steps.insert(0, Step("rewrite", "table", path=new.file.path, reason=new.reason))

    @property
    def is_grave(self) -> bool:
        """Whether a whole table is lost or unreadable: then nothing else can be told for certain."""
        return any(new.is_whole for new in self._files.values())

    # --- what can be read ---------------------------------------------------------------------------------

    def _of_file(self, table: TableAsFound, file: FileAsFound) -> None:
        lost = table.doubt is not None and file.is_void and file.home == _first_void(table)
        if file.problem is not None or lost:
            new = self._new(table, file, whole=True)
            for value, text in _readable(file.path):
                new.add(table, value, text)
            new.reason = f"{file.problem or 'it is empty or missing'}; {len(new.texts)} records can be read"
            return
        twins = {id for id, home in table.twins if home == file.home}
        if not file.asides and not twins:
            return
        new = self._new(table, file)
        seen: set[str] = set()
        texts = file.contents.texts()
        asides = {aside.place: aside for aside in file.asides}
        documents = list(enumerate(file.contents.documents))
        if table.noun == "image":
            documents.reverse()  # of images the last record of an id is the one that counts
        kept: list[str] = []
        for place, document in documents:
            if document is None:
                mended = self._of_aside(new, asides[place])
                if mended:
                    kept.append(mended)
            elif document["id"] in seen or (table.home_of[document["id"]] != file.home):
                self.steps.append(
                    Step("rewrite", table.noun, document["id"], file.path, reason="it is recorded twice")
                )
            else:
                seen.add(document["id"])
                kept.append(texts[place])
                new.documents.append(document)
        new.texts = kept[::-1] if table.noun == "image" else kept

    def _of_aside(self, new: _NewFile, aside: Aside) -> str:
        """The text of a damaged record without what does not fit; "" if nothing is left that is one."""
        table = new.table
        id, mended = aside.id or "", ""
        try:
            value = gojson.decode(aside.text)
        except gojson.SyntaxProblem:
            value = None
        if aside.is_nameless and type(value) is dict:
            members = mended_members(table.table.record, value)
            id = value["id"] = members.get("id") or self._nameless.id_of(table, members)
        document = mended_record(table, value)
        if document is not None and document["id"] not in table.by_id:
            new.documents.append(document)
            self.recorded.add((table.noun, document["id"]))
            mended = encode(table.table.record, document)
        if not mended:
            reason = "a damaged record is not one at all, and is dropped"
        elif aside.is_nameless:
            reason = "a damaged record without an id is told to be its, and keeps the members that fit"
        else:
            reason = "a damaged record keeps the members that fit"
        self.steps.append(Step("rewrite", table.noun, id, new.file.path, reason=reason))
        return mended

    def _new(self, table: TableAsFound, file: FileAsFound, *, whole: bool = False) -> _NewFile:
        if file.path not in self._files:
            self._files[file.path] = _NewFile(table, file, whole=whole)
            if not whole:
                self._files[file.path].keep_all()
        return self._files[file.path]

    def _documents(self, noun: str) -> list[Document]:
        """The records of a kind, as they will be."""
        tables = {
            "layer": self._look.layers,
            "image": self._look.images,
            "container": [self._look.containers],
        }
        found: list[Document] = []
        for table in tables[noun]:
            for file in table.files:
                new = self._files.get(file.path)
                found += new.documents if new is not None else filter(None, file.contents.documents)
        return found

    # --- what is lost -------------------------------------------------------------------------------------

    def _restore_layers(self) -> None:
        table = self._look.layers[0]
        known = self._documents("layer")
        ids = {document["id"] for document in known} | self._look.elsewhere["layer"]
        lost = {id for kind, id in self._wanted if kind == "layer"}
        home = next((new for new in self._files.values() if new.is_whole and new.table is table), None)
        if home is not None:
            lost |= self._look.driver_ids or set()
        lost -= ids
        for document in self._layers.documents(sorted(lost), known):
            target = home or self._new(table, table.files[0])
            self._restore(target, document)

    def _restore_images(self, table: TableAsFound) -> None:
        home = next((new for new in self._files.values() if new.is_whole and new.table is table), None)
        lost = {id for kind, id in self._wanted if kind == "image"}
        if home is not None:
            lost |= set(bigdata.directories(table.directory))
        known = {document["id"] for document in self._documents("image")}
        layers = self._documents("layer")
        named = {box.get("image") for box in self._documents("container")}
        for id in sorted(lost - known):
            directory = os.path.join(table.directory, id)
            if not os.path.isdir(directory):
                continue  # a split store has it in its other table
            document = image_document(directory, id, layers)
            if document is not None:
                self._restore(home or self._new(table, table.files[0]), document)
            elif home is None and id in named:
                self.keeps.append(Kept("image", id, directory, "which layers it consists of cannot be told"))
            else:
                self._set_apart(directory, id, "which layers it consists of cannot be told")

    def _restore_containers(self) -> None:
        table = self._look.containers
        home = next((new for new in self._files.values() if new.is_whole and new.table is table), None)
        lost = {id for kind, id in self._wanted if kind == "container"}
        if home is not None:
            lost |= set(bigdata.directories(table.directory))
        boxes = self._documents("container")
        layers = {document["id"]: document for document in self._documents("layer")}
        images = self._documents("image")
        parents = {document.get("parent") or "" for document in layers.values()}
        tops = {image.get("layer") for image in images} | {
            id for image in images for id in image.get("mapped-layers") or ()
        }
        free = {
            id
            for id, document in layers.items()
            if not document.get("diff-digest") and id not in parents and id not in tops
        }
        free -= {box.get("layer") for box in boxes}
        known = {box["id"] for box in boxes}
        below = {id: document.get("parent") or "" for id, document in layers.items()}
        lost -= known
        named: dict[str, str] = {}
        for id in sorted(lost):
            layer = layer_named_in(os.path.join(table.directory, id), free - set(named.values()))
            if layer is not None:
                named[id] = layer
        untold = lost - named.keys()
        left = free - set(named.values())
        left = left - self._restored or left
        if len(untold) == len(left) == 1:
            named[untold.pop()] = left.pop()
        for id in sorted(lost):
            directory = os.path.join(table.directory, id)
            if id in named:
                document = container_document(directory, id, named[id], below, images)
                self._restore(home or self._new(table, table.files[0]), document)
            else:
                self._set_apart(directory, id, "which layer was its cannot be told")

    def _restore(self, new: _NewFile, document: Document) -> None:
        noun = new.table.noun
        self._restored.add(document["id"])
        self.recorded.add((noun, document["id"]))
        new.documents.append(document)
        new.texts.append(encode(new.table.table.record, document))
        self.steps.append(Step("restore", noun, document["id"], new.file.path, reason="it is recorded again"))

    def _set_apart(self, directory: str, id: str, why: str) -> None:
        target = os.path.join(os.path.dirname(directory), LOST + id)
        if not os.path.lexists(target):
            self._apart.append((directory, target))
            self.steps.append(Step("set apart", "directory", id, directory, reason=why))

    # --- doing it -----------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Write the files; each is the old one or the new one at any moment."""
        durable = self._look.engine.options.durable
        changed = set()
        for new in self._files.values():
            if not (new.reason or new.is_changed()):
                continue
            keep_aside(new.file.path, durable=durable)
            content = gojson.bytes_of("[" + ",".join(new.texts) + "]")
            new.table.table.renew_tokens()
            files.make_dirs(os.path.dirname(new.file.path))
            files.write_atomic(new.file.path, content, durable=durable)
            changed.add(new.table.table)
        for directory, target in self._apart:
            os.rename(directory, target)
        for table in changed:
            table.forget()


class _NewFile:
    """What a file is to hold. `reason` is why it is written anew as a whole."""

    def __init__(self, table: TableAsFound, file: FileAsFound, *, whole: bool) -> None:
        self.table = table
        self.file = file
        self.is_whole = whole
        self.reason = ""
        self.texts: list[str] = []
        self.documents: list[Document] = []
        self._before: list[str] | None = None

    def keep_all(self) -> None:
        """Begin with what the file holds."""
        contents = self.file.contents
        self.texts = list(contents.texts())
        self._before = list(self.texts)
        self.documents = [document for document in contents.documents if document is not None]

    def is_changed(self) -> bool:
        return self.texts != self._before

    def add(self, table: TableAsFound, value: Any, text: str) -> None:
        """A record of a file that cannot be read as a whole."""
        kind = table.table.record
        try:
            document = fitted(kind, value)
        except Misfit:
            mended = mended_record(table, value)
            if mended is None:
                return
            document, text = mended, encode(kind, mended)
        if all(document["id"] != other["id"] for other in self.documents):
            self.documents.append(document)
            self.texts.append(text)


def mended_record(table: TableAsFound, value: Any) -> Document | None:
    """What fits of a record; None if it has no id, so that nobody knows what it was."""
    if type(value) is not dict:
        return None
    document = mended_members(table.table.record, value)
    if not document.get("id"):
        return None
    if table.noun == "image":
        _mend_digests(table, document)
    return document


def mended_members(kind: type[Record], value: dict[str, Any]) -> Document:
    """The members that fit."""
    document: Document = {}
    for key, item in value.items():
        known = key if key in kind.FIELDS else key.lower()
        try:
            document |= _member(kind, known, item)
        except Misfit:
            continue
    return document


def _member(kind: type[Record], key: str, item: Any) -> Document:
    if key == "id":
        return fitted(kind, {"id": item})
    found = fitted(kind, {"id": "x", key: item})
    del found["id"]
    return found


def _mend_digests(table: TableAsFound, document: Document) -> None:
    """An image is found by these; a bad one is dropped, or computed anew from the item that it is of."""
    if document.get("digest") and not _is_valid(document["digest"]):
        del document["digest"]
    digests = document.get("big-data-digests") or {}
    bad = [key for key, digest in digests.items() if key.startswith("manifest") and not _is_valid(digest)]
    if bad:
        there = data_members(os.path.join(table.directory, document["id"]))["big-data-digests"]
        kept = {key: digest for key, digest in digests.items() if key not in bad}
        document["big-data-digests"] = {**kept, **{key: there[key] for key in bad if key in there}}


def _is_valid(digest: str) -> bool:
    try:
        return bool(Digest.parse(digest))
    except InvalidDigest:
        return False


def _first_void(table: TableAsFound) -> int:
    return next(file.home for file in table.files if file.is_void)


def _readable(path: str) -> list[tuple[Any, str]]:
    """The records of a file, up to where it cannot be read any more."""
    found: list[tuple[Any, str]] = []
    try:
        text = gojson.text_of(files.read(path, limit=RECORDS_FILE_MAX))
        for value, piece in gojson.elements(text):
            found.append((value, piece))
    except (OSError, gojson.SyntaxProblem, LimitExceeded, StorageError):
        pass
    return found


def wanted_records(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    """The records that findings want made again."""
    return {(finding.kind, finding.id) for finding in findings if finding.code == "record-lost"}
