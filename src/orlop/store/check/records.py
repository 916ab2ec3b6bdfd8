"""What the records say against each other, and against what the driver has (`spec/check-repair.md` 3.1e to 3.5)."""

from __future__ import annotations

import os
import stat
import time

from orlop.drivers.inspection import changed
from orlop.errors import InvalidDigest, UnsafeID
from orlop.model.digest import Digest
from orlop.model.findings import LEFTOVER, ODDITY, Finding
from orlop.model.ids import is_component
from orlop.model.timestamp import UNSET, Timestamp
from orlop.records import bigdata
from orlop.records.mountpoints import read_mounts
from orlop.store.check.findings import about, about_file
from orlop.store.lost import of_look
from orlop.stream.compression import ZSTD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.model.record import Document
    from orlop.records.asfound import FileAsFound, TableAsFound
    from orlop.store.check.look import Look
    from orlop.store.lost import Lost

_DIGESTS = ("diff-digest", "compressed-diff-digest", "toc-digest")
_RECORDS_MODE = 0o600
_AGAIN = "recorded again"


def findings(look: Look, max_age: float) -> Iterator[Finding]:
    """Everything that can be said without looking into a file. `max_age` in seconds: see `unreferenced`."""
    for table in look.tables():
        yield from of_table(table)
    yield from _of_mounts(look)
    for path, why in look.unlocked:
        yield about_file("lock", "file", path, f"cannot be locked: {why}")
    for table, document in _documents(look.layers):
        yield from _of_layer(look, table, document)
    ends = _Ends(look)
    for table, document in _documents(look.images):
        yield from _of_image(ends, table, document)
    for _, document in _documents([look.containers]):
        yield from _of_container(look, document)
    yield from _cycles(look)
    yield from _shared_layers(look)
    yield from unreferenced(look, max_age)
    yield from unaccounted(look)


# --- files of records -------------------------------------------------------------------------------------


def of_table(table: TableAsFound) -> Iterator[Finding]:
    for file in table.files:
        if file.problem is not None:
            yield about_file(
                "records-unreadable",
                "table",
                file.path,
                f"cannot be read as records: {file.problem}",
                remedy="what can be read of it is kept, what cannot is made again where that is possible",
                read_only=table.read_only,
            )
        for aside in file.asides:
            yield about(table, aside.id or "").finding(
                "record-unreadable",
                f"{file.path}: {aside}",
                path=file.path,
                remedy="kept under the id of what proves to be its, else dropped, and what lies there recorded again"
                if aside.is_nameless
                else "the members that do not fit are taken out of it",
            )
        yield from _exposed(table, file)
    if table.doubt is not None:
        path = next(file.path for file in table.files if file.is_void)
        yield Finding(
            "records-lost",
            "damage",
            "table",
            table.doubt,
            path=path,
            remedy="made again from what is there",
            since=changed(path, table.directory),
        )
    for id, home in table.twins:
        yield about(table, id).finding(
            "duplicate-id",
            f"{table.files[home].path} has a second record of this id",
            path=table.files[home].path,
            remedy="the second one is dropped" if table.noun != "image" else "the first one is dropped",
        )
    yield from _shared_names(table)


def _of_mounts(look: Look) -> Iterator[Finding]:
    counted = look.engine.layers.mounts
    assert counted is not None
    for line in read_mounts(counted.path).damage:
        yield Finding(
            "mounts-unreadable",
            "damage",
            "table",
            line,
            path=counted.path,
            remedy="counted anew by what is mounted",
            since=changed(counted.path),
        )


def _exposed(table: TableAsFound, file: FileAsFound) -> Iterator[Finding]:
    status = file.status
    if status is not None and not table.read_only and stat.S_ISREG(status.st_mode):
        for code, text, remedy in exposed(status, os.stat(table.directory).st_uid):
            yield about_file(code, "table", file.path, text, grade=ODDITY, remedy=remedy)


def exposed(status: os.stat_result, owner: int) -> Iterator[tuple[str, str, str]]:
    """(code, text, remedy) for a file of the store's own that others may read or write, or that is another's."""
    mode = stat.S_IMODE(status.st_mode)
    if mode != _RECORDS_MODE:
        yield "mode", f"has mode {mode:04o}, and should have 0600", "set to 0600"
    if status.st_uid != owner:
        text = f"belongs to user {status.st_uid}, and its directory to user {owner}"
        yield "owner", text, f"given to user {owner}"


def _shared_names(table: TableAsFound) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for id, document in table.by_id.items():
        for name in document.get("names") or ():
            other = owners.get(name)
            if other is not None and other != id:
                yield about(table, other).finding(
                    "duplicate-name",
                    f"its name {name!r} is that of {table.noun} {id}, too",
                    path=table.files[table.home_of[other]].path,
                    name=name,
                    remedy="the later one keeps it",
                )
            owners[name] = id


def _documents(tables: list[TableAsFound]) -> Iterator[tuple[TableAsFound, Document]]:
    """The records that count: of those with one id in several tables, the first."""
    seen: set[str] = set()
    for table in tables:
        for id, document in table.by_id.items():
            if id not in seen:
                yield table, document
        seen.update(table.by_id)


# --- records ----------------------------------------------------------------------------------------------


def _of_layer(look: Look, table: TableAsFound, document: Document) -> Iterator[Finding]:
    id = document["id"]
    subject = about(table, id)
    path = table.files[table.home_of[id]].path
    if (document.get("flags") or {}).get("incomplete") is True and not table.read_only:
        yield subject.finding(
            "incomplete",
            "its making or its deletion never ended",
            grade=LEFTOVER,
            path=path,
            remedy="deleted, as every program does that changes layers",
        )
    try:
        look.driver.check_id(id)
    except UnsafeID as problem:
        yield subject.finding("unsafe-id", str(problem), path=path, remedy="the record is dropped")
    for key in _DIGESTS:
        digest = document.get(key)
        if digest:
            try:
                Digest.parse(digest)
            except InvalidDigest as problem:
                peers = (problem.peer,) if key == "diff-digest" else ()
                yield subject.finding(
                    "bad-digest",
                    f"{key}: {problem}",
                    path=path,
                    name=key,
                    remedy="computed anew",
                    peers=peers,
                )
    if not 0 <= (document.get("compression") or 0) <= ZSTD:
        yield subject.finding(
            "bad-compression",
            f"there is no compression {document['compression']}",
            path=path,
            remedy="recorded as none",
        )
    parent = document.get("parent")
    if parent and look.is_missing(look.layers, parent):
        line = f"layer {parent}: layer is missing"
        yield subject.finding(
            "parent-missing",
            f"its parent {parent} has no record",
            path=path,
            remedy="the parent is recorded again if it is there; else this layer and what is built on it are removed",
            peers_own=(line,),
        )


def _of_image(ends: _Ends, table: TableAsFound, document: Document) -> Iterator[Finding]:
    id = document["id"]
    for number, top in enumerate((document.get("layer"), *(document.get("mapped-layers") or ()))):
        gone = ends.missing_below(top or "")
        if gone:
            yield about(table, id).finding(
                "image-layer-missing",
                f"layer {gone} has no record",
                path=table.files[0].path,
                name=gone,
                remedy="recorded again if it is there; else "
                + ("the image is removed" if number == 0 else "the copy is taken off the image"),
                peers=(f"layer {gone}: image layer is missing",),
            )


class _Ends:
    """Where chains of parents end. Remembered: images share most of their layers."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._known: dict[str, str] = {"": ""}

    def missing_below(self, id: str) -> str:
        """The first layer from `id` downwards without a record; "" if all are there, or go in a circle."""
        way: list[str] = []
        while id not in self._known:
            self._known[id] = ""  # what leads back here has an end nowhere
            way.append(id)
            found = self._look.layer(id)
            if found is None:
                self._known[id] = id if self._look.is_missing(self._look.layers, id) else ""
                break
            id = found[1].get("parent") or ""
        for above in way:
            self._known[above] = self._known[id]
        return self._known[way[0]] if way else self._known[id]


def _of_container(look: Look, document: Document) -> Iterator[Finding]:
    id = document["id"]
    table = look.containers
    subject = about(table, id)
    path = table.files[table.home_of[id]].path
    layer = document.get("layer") or ""
    if look.is_missing(look.layers[:1], layer):
        yield subject.finding(
            "container-layer-missing",
            f"its layer {layer} has no record" if layer else "its record names no layer",
            path=path,
            name=layer,
            remedy="recorded again if it is there; else the container can only be removed",
        )
    image = document.get("image") or ""
    if image and look.is_missing(look.images, image):
        yield subject.finding(
            "container-image-missing",
            f"its image {image} has no record",
            path=path,
            name=image,
            remedy="recorded as a container without an image, if containers are to be repaired",
            peers_own=(f"image {image}: image missing",),
        )


def _cycles(look: Look) -> Iterator[Finding]:
    """Layers whose parents lead back to them."""
    state: dict[str, int] = {}  # 1: on the way down from where we began, 2: known to end
    for start in look.layers[0].by_id:
        way: list[str] = []
        at = start
        while at and state.get(at) is None and (found := look.layer(at)) is not None:
            state[at] = 1
            way.append(at)
            at = found[1].get("parent") or ""
        if state.get(at) == 1:
            found = look.layer(at)
            assert found is not None
            yield about(found[0], at).finding(
                "parent-cycle",
                f"its parents lead back to it ({', '.join(way[way.index(at) :][:5])})",
                path=found[0].files[found[0].home_of[at]].path,
                remedy="the parent is told from what the driver has, if it can be",
            )
        for id in way:
            state[id] = 2


def _shared_layers(look: Look) -> Iterator[Finding]:
    owners: dict[str, str] = {}
    for id, document in look.containers.by_id.items():
        layer = document.get("layer") or ""
        if layer in owners:
            yield about(look.containers, id).finding(
                "shared-layer", f"its layer {layer} is that of container {owners[layer]}, too", name=layer
            )
        elif layer:
            owners[layer] = id


# --- what nobody refers to --------------------------------------------------------------------------------


def unreferenced(look: Look, max_age: float) -> Iterator[Finding]:
    """Layers that no image and no container needs, of an unset age or older than `max_age` seconds.

    For the peers that is an error. It may be somebody's whole use of the store, so here it is an oddity.
    """
    needed: set[str] = set()
    for table in look.images:
        for document in table.by_id.values():
            for top in (document.get("layer"), *(document.get("mapped-layers") or ())):
                _mark(look, top or "", needed)
    for document in look.containers.by_id.values():
        _mark(look, document.get("layer") or "", needed)
    now = time.time_ns()
    for id, document in look.layers[0].by_id.items():
        created = Timestamp(document.get("created") or UNSET)
        if id in needed or (created != UNSET and now - created.ns <= max_age * 1e9):
            continue
        yield about(look.layers[0], id).finding(
            "unreferenced",
            "no image and no container needs it",
            grade=ODDITY,
            remedy="removed, if that is asked for",
            since=created if created != UNSET else None,
            peers=("layer not referenced by any images or containers",),
        )


def _mark(look: Look, id: str, needed: set[str]) -> None:
    for layer in look.chain(id):
        if layer in needed:
            return
        needed.add(layer)


def unaccounted(look: Look) -> Iterator[Finding]:
    """What lies there without a record: lost its record, or belongs to nobody (`store/lost` decides)."""
    lost = of_look(look)
    if look.driver_ids is not None and all(table.is_whole for table in look.layers):
        yield from _layers_without_record(look, lost)
    if all(table.is_whole for table in look.images):
        for table in look.images:
            yield from _data_without_record(look, lost, table)
    if look.containers.is_whole:
        yield from _data_without_record(look, lost, look.containers)


def _layers_without_record(look: Look, lost: Lost) -> Iterator[Finding]:
    for id in look.orphans():
        if look.doubted(id):
            continue  # said of the record that cannot be read
        why = lost.why("layer", id)
        doubt = lost.doubt
        yield about(look.layers[0], id).finding(
            "record-lost" if why else "unaccounted",
            f"the driver has it, and there is no record of it; {why or doubt or 'nothing needs it'}",
            grade="damage" if why else LEFTOVER,
            path=_place(look, id),
            remedy=_AGAIN if why else "none before that is mended" if doubt else "removed",
            peers=("layer in lower level storage driver not accounted for",),
        )


def _data_without_record(look: Look, lost: Lost, table: TableAsFound) -> Iterator[Finding]:
    """Data of images and containers whose record was lost; what belongs to nobody is found with the rest of that."""
    if table.read_only:
        return
    named = (
        [box.get("image") or "" for box in look.containers.by_id.values()] if table.noun == "image" else []
    )
    for id in dict.fromkeys([*sorted(bigdata.directories(table.directory)), *named]):
        path = os.path.join(table.directory, id)
        if not is_component(id) or look.is_recorded(table.noun, id) or look.doubted(id):
            continue
        why = lost.why(table.noun, id)
        if why and os.path.isdir(path):
            yield about(table, id).finding(
                "record-lost", f"there is data of it, and no record; {why}", path=path, remedy=_AGAIN
            )


def _place(look: Look, id: str) -> str:
    try:
        places = look.driver.places(id)
    except UnsafeID:
        return ""
    return places[-1] if places else ""
