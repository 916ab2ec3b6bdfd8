"""Findings in the words of this check, and the lines of the peers beside them (`spec/check-repair.md` 3)."""

from __future__ import annotations

import errno
import os

from orlop.drivers.inspection import changed
from orlop.model.findings import DAMAGE, ODDITY, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.model.findings import Grade
    from orlop.model.timestamp import Timestamp
    from orlop.records.asfound import TableAsFound


_OURS = frozenset((errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def raise_if_ours(problem: Exception) -> None:
    """Raise an error that says something about this process, and nothing about the store.

    It may not look, or has run out of something. Taken for damage, it would have whole layers removed: of a store
    that is looked at from outside of its user namespace, or after other subordinate ids were given to its user.
    """
    if isinstance(problem, OSError) and problem.errno in _OURS:
        raise problem


class Subject:
    """A layer, image or container that findings are about. `read_only`: it is an additional store's.

    Of `peers` each line comes to stand behind what the peers call the thing.
    """

    __slots__ = ("id", "kind", "read_only")

    def __init__(self, kind: str, id: str, *, read_only: bool = False) -> None:
        self.kind = kind
        self.id = id
        self.read_only = read_only

    def __str__(self) -> str:
        return f"{self.kind} {self.id}".rstrip()

    @property
    def peers_name(self) -> str:
        return f"read-only {self}" if self.read_only else str(self)

    def finding(
        self,
        code: str,
        text: str,
        *,
        grade: Grade = DAMAGE,
        path: str = "",
        name: str = "",
        remedy: str = "",
        since: Timestamp | None = None,
        peers: tuple[str, ...] = (),
        peers_own: tuple[str, ...] = (),
    ) -> Finding:
        """`text` and `peers` stand behind the name of the subject; `peers_own` are whole lines, which come first."""
        return Finding(
            code,
            grade,
            self.kind,
            f"{self}: {text}",
            id=self.id,
            path=path,
            name=name,
            remedy="" if self.read_only else remedy,
            since=since if since is not None or not path else changed(path),
            read_only=self.read_only,
            peers=(*peers_own, *[f"{self.peers_name}: {line}" for line in peers]),
        )


def about(table: TableAsFound, id: str) -> Subject:
    return Subject(table.noun, id, read_only=table.read_only)


def exposed_file(subject: Subject, path: str, status: os.stat_result, owner: int) -> Iterator[Finding]:
    """A file that belongs to a record, and that others may read or write, or that is another user's."""
    from orlop.store.check.records import exposed

    if not subject.read_only:
        for code, text, remedy in exposed(status, owner):
            yield subject.finding(code, f"{path} {text}", grade=ODDITY, path=path, remedy=remedy)


def about_file(
    code: str,
    kind: str,
    path: str,
    text: str,
    *,
    grade: Grade = DAMAGE,
    remedy: str = "",
    read_only: bool = False,
) -> Finding:
    """A finding about a file or directory of the store itself; `text` stands behind the path."""
    return Finding(
        code,
        grade,
        kind,
        f"{path} {text}",
        path=path,
        remedy="" if read_only else remedy,
        since=changed(path),
        read_only=read_only,
    )
