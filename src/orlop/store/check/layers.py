"""One layer: its place, its tar-split record, its archive and its tree (`spec/check-repair.md` 3.1b to 3.1d).

A container's layer changes while the container lives, so of that only the place is looked at.
"""

from __future__ import annotations

import os

from orlop.errors import BadTarSplit, StorageError, UnsafePath
from orlop.formats.tarsplit import quoted
from orlop.model.digest import Digest
from orlop.model.findings import DAMAGE, ODDITY
from orlop.store.check import wording
from orlop.store.check.archives import CUT_PADDING
from orlop.store.check.contents import DIFFERENCES_MAX, Examiner, mappings_of, valid
from orlop.store.check.findings import about, exposed_file, raise_if_ours
from orlop.system.files import open_regular

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from orlop.model.findings import Finding, Grade
    from orlop.model.record import Document
    from orlop.records.asfound import TableAsFound
    from orlop.store.check.compare import Leniency
    from orlop.store.check.contents import Examination
    from orlop.store.check.findings import Subject
    from orlop.store.check.look import Look

_GZIP = b"\x1f\x8b\x08"


class LayerCheck:
    """Looks at layers, best in the order of `in_order`.

    `places`, `digests`, `contents` are the parts to be done; `count(entries, bytes)` is told what was read.
    """

    def __init__(
        self,
        look: Look,
        leniency: Leniency,
        *,
        places: bool,
        digests: bool,
        contents: bool,
        count: Callable[[int, int], object],
    ) -> None:
        self._look = look
        self._places = places
        self._digests = digests
        self._contents = contents
        self._count = count
        self._examiner = Examiner(look, leniency, digests=digests, contents=contents)
        self._inspector = self._examiner.inspector
        self._changing = {document.get("layer") for document in look.containers.by_id.values()}
        self._owner = os.stat(look.engine.options.graph_root).st_uid

    def of_layer(self, table: TableAsFound, document: Document) -> Iterator[Finding]:
        id, parent = document["id"], document.get("parent") or None
        subject = about(table, id)
        if (document.get("flags") or {}).get("incomplete") is True:
            return  # what it is to become nobody knows
        try:
            is_there = self._look.driver.exists(id)
        except StorageError:
            return  # no id that this driver could have a layer of; the record is told of
        if not is_there:
            yield subject.finding(
                "layer-gone",
                "the driver has nothing of it",
                remedy="made again from an equal layer, if there is one; else removed with what is built on it",
                peers=() if table.read_only else ("the layer's directory: no such file or directory",),
            )
            return
        faults: list[Finding] = []
        if self._inspector is not None and (self._places or self._digests or self._contents):
            faults = self._inspector.faults(id, parent, lambda other: self._may_copy(document, other))
            if self._places:
                yield from faults
        if id not in self._changing:
            yield from self._of_content(subject, table, document, parent, bool(faults))

    def _may_copy(self, document: Document, other: str) -> bool:
        """Whether the layer may have been made from `other`: the two have one parent and one content."""
        found = self._look.layer(other)
        return found is not None and all(
            (found[1].get(key) or "") == (document.get(key) or "") for key in ("parent", "diff-digest")
        )

    # --- content ------------------------------------------------------------------------------------------

    def _of_content(
        self, subject: Subject, table: TableAsFound, document: Document, parent: str | None, faulty: bool
    ) -> Iterator[Finding]:
        path = table.table.tar_split_path(subject.id)  # type: ignore[attr-defined]
        digest = valid(document.get("diff-digest"))
        try:
            record = os.fdopen(open_regular(path), "rb")
        except FileNotFoundError:
            if digest and not document.get("toc-digest"):
                yield from self._without_record(subject, document, path, digest, parent, faulty)
            return
        except (OSError, UnsafePath) as problem:
            raise_if_ours(problem)
            yield self._bad_record(subject, path, f"cannot be read: {problem}", (str(problem),))
            return
        with record:
            yield from exposed_file(subject, path, os.fstat(record.fileno()), self._owner)
            if not self._digests and not self._contents:
                start = record.read(len(_GZIP))
                if start != _GZIP:
                    said = "is no gzip stream" if start else "is empty"
                    peer = "gzip: invalid header" if start else "EOF"
                    yield self._bad_record(subject, path, said, (peer,))
                return
            yield from self._with_record(subject, document, path, record)

    def _with_record(
        self, subject: Subject, document: Document, path: str, record: BinaryIO
    ) -> Iterator[Finding]:
        found = self._examiner.examine(document, record)
        reading = found.reading
        self._count(reading.entries, found.read)
        if reading.error is not None:
            error = reading.error
            peer = error.peer if isinstance(error, StorageError) else wording.system_text(error)
            first = isinstance(error, BadTarSplit) and error.peer in ("EOF", "gzip: invalid header")
            yield self._bad_record(subject, path, str(error), (peer,), at_once=first)
        if found.record_is_wrong:
            names = ", ".join(quoted(problem.name) for problem in reading.problems[:3])
            text = f"{path} has another checksum for {len(reading.problems)} files ({names}), which are as applied"
            peer = f"file integrity checksum failed for {quoted(reading.problems[0].name)}"
            yield self._bad_record(subject, path, text, (peer,), at_once=False)
            return
        directory = found.place.directories[0] if found.place is not None else ""
        for number, problem in enumerate(reading.problems[:DIFFERENCES_MAX]):
            yield wording.of_problem(subject, problem, directory, is_first=number == 0)
        is_archive_right = reading.error is None and not reading.problems
        if is_archive_right and found.has_files:
            for finding in _of_archive(subject, document, found, path):
                is_archive_right = False
                yield finding
        if reading.followed:
            yield from _of_owners(subject, document, found)
        if found.unreadable is not None:
            problem_text = wording.system_text(found.unreadable)
            yield subject.finding(
                "content-unreadable",
                f"its tree cannot be read: {found.unreadable}",
                path=directory,
                peers_own=(f"scanning contents of {subject}: {problem_text}",),
            )
        for difference in found.differences:
            # They go no further where the archive is not as it was.
            yield wording.of_difference(subject, difference, directory, told_by_peers=is_archive_right)
        more = found.more + max(0, len(reading.problems) - DIFFERENCES_MAX)
        if more:
            yield subject.finding("and-more", f"and {more} more differences", remedy="as the others")

    def _bad_record(
        self, subject: Subject, path: str, text: str, peers: tuple[str, ...], *, at_once: bool = True
    ) -> Finding:
        return subject.finding(
            "tar-split",
            text if path in text else f"{path} {text}",
            path=path,
            remedy="made again, or copied from an equal layer; else removed, and the archive cannot be given back",
            peers=peers,
            peers_own=() if at_once else wording.trailer_lines(subject, peers),
        )

    # --- without a tar-split record -----------------------------------------------------------------------

    def _without_record(
        self,
        subject: Subject,
        document: Document,
        path: str,
        digest: str,
        parent: str | None,
        faulty: bool,
    ) -> Iterator[Finding]:
        """Its record tells of an archive, so this file was there; what is lost is what cannot be made again."""
        peers: tuple[str, ...] = ()
        grade: Grade = DAMAGE
        text = f"there is no {path}, without which its archive cannot be given back"
        remedy = (
            "made again, or copied from an equal layer; else the archive is lost, and the files are whole"
        )
        if self._digests and not faulty:
            try:
                found, size = self._generated(document, parent, Digest(digest).algorithm)
            except (OSError, StorageError) as problem:
                raise_if_ours(problem)
                yield subject.finding(
                    "content-unreadable",
                    f"no archive can be made of it: {problem}",
                    path=path,
                    peers=(str(problem),),
                )
                return
            wanted = document.get("diff-size") or 0
            if found == digest:
                text += "; but the one that the driver makes of it is the same"
                remedy, grade = "made again", ODDITY
            else:
                peers = ("layer content incorrect digest",)
                if wanted not in (-1, size):
                    peers += (f"read {size} bytes instead of {wanted} bytes: layer content incorrect size",)
        yield subject.finding("tar-split-missing", text, grade=grade, path=path, remedy=remedy, peers=peers)

    def _generated(self, document: Document, parent: str | None, algorithm: str) -> tuple[str, int]:
        """Digest and size of the archive that the driver makes of the layer's files."""
        from hashlib import new

        above = self._look.layer(parent) if parent else None
        hasher, size = new(algorithm), 0
        with self._look.driver.diff(
            document["id"],
            parent,
            mappings_of(document),
            mappings_of(above[1]) if above else mappings_of(None),
        ) as stream:
            for block in stream:
                hasher.update(block)
                size += len(block)
        self._count(0, size)
        return f"{algorithm}:{hasher.hexdigest()}", size


def _of_owners(subject: Subject, document: Document, found: Examination) -> Iterator[Finding]:
    """The owners as the record has them. Partial pulls record them otherwise, and older programs not at all."""
    if document.get("toc-digest"):
        return
    for key, owners in (("uidset", found.uids), ("gidset", found.gids)):
        recorded = document.get(key)
        if recorded and set(recorded) != owners:
            yield subject.finding(
                "owners",
                f"{key} is {_few(recorded)}, and its archive has {_few(sorted(owners))}",
                name=key,
                remedy="recorded as the archive has them",
            )


def _of_archive(subject: Subject, document: Document, found: Examination, path: str) -> Iterator[Finding]:
    """Whether the archive is the one that was applied."""
    reading, digest = found.reading, found.digest
    wanted = document.get("diff-size") or 0
    if not digest:
        return
    short = wanted - reading.size
    excused = reading.inexact and (reading.inexact != CUT_PADDING or 0 < short < 512)
    wrong_size = wanted not in (-1, reading.size)
    if reading.digest == digest and not wrong_size:
        return
    peers: tuple[str, ...] = ()
    if reading.digest != digest:
        peers = ("layer content incorrect digest",)
    if wrong_size:
        peers += (f"read {reading.size} bytes instead of {wanted} bytes: layer content incorrect size",)
    if excused and reading.digest != digest:
        yield subject.finding(
            "inexact",
            f"{path} cannot give back the archive that was applied, and never could: {reading.inexact}. The files "
            "are whole",
            grade=ODDITY,
            path=path,
            peers=peers,
        )
    elif reading.digest != digest:
        yield subject.finding(
            "digest",
            f"its archive is {reading.digest} of {reading.size} bytes, and should be {digest} of {wanted}",
            path=path,
            remedy="the record or the tar-split file is put right, as an image or an equal layer proves one of them "
            "wrong; else the file is removed",
            peers=peers,
        )
    else:
        yield subject.finding(
            "size",
            f"its archive has {reading.size} bytes, and the record says {wanted}",
            name="diff-size",
            remedy="recorded as it is",
            peers=peers,
        )


def in_order(look: Look, table: TableAsFound) -> Iterator[Document]:
    """The layers of a table, parents first and each followed by its own children: so a tree can grow from one to the
    next."""
    children: dict[str, list[Document]] = {}
    roots: list[Document] = []
    for document in table.by_id.values():
        parent = document.get("parent") or ""
        if parent in table.by_id and parent != document["id"]:
            children.setdefault(parent, []).append(document)
        else:
            roots.append(document)
    seen: set[str] = set()
    for start in (roots, table.by_id.values()):  # the second time those that go in a circle
        waiting = list(start)[::-1]
        while waiting:
            document = waiting.pop()
            if document["id"] not in seen:
                seen.add(document["id"])
                yield document
                waiting += children.get(document["id"], ())[::-1]


def _few(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"[{shown}{', ...' if len(numbers) > 8 else ''}]"
