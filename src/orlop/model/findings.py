"""What a check of a store found: frozen values.

A `Finding` says what is wrong, where, since when as far as that is known, and what a repair would do about it. A
`CheckReport` is all of them, with what was looked at. Grades:

    damage      something of the store is lost, changed or contradicts itself
    leftover    something that belongs to nobody, as a process leaves it that dies
    oddity      unusual, and no harm: what the store holds is whole, as far as can be told

Rule: what is not damaged is not reported as damage. A check that cries wolf is switched off.
"""

from __future__ import annotations

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Literal

    from orlop.model.timestamp import Timestamp

    Grade = Literal["damage", "leftover", "oddity"]

DAMAGE: Grade = "damage"
LEFTOVER: Grade = "leftover"
ODDITY: Grade = "oddity"

_GROUPS = {"layer": "layers", "image": "images", "container": "containers"}

GROUPS = ("layers", "read_only_layers", "images", "read_only_images", "containers")
"""The lists of `CheckReport.peer_lists`, in the order in which the peers print them."""


class Finding(Value):
    """One thing that is not as it should be.

    code        a word for programs, such as "content-changed"; docs/check.md lists them
    grade       "damage", "leftover" or "oddity"
    kind        of what: "layer", "image", "container", "table" (a file of records), "file", "directory", "mount"
    id          of that layer, image or container; "" for anything else
    path        absolute path of what is wrong; "" if it is no file
    name        path within the layer, or key of the data item; "" if that is not the point
    text        a sentence: what was wanted, what was found
    remedy      what a repair would do, half a sentence; "" if there is nothing that it could or should do
    since       when the place was last changed, or None: what a program did wrong it did then or before (a failing
                disk changes no times)
    read_only   it lies in an additional store, which is never repaired
    peers       the lines by which the programs that share the store report it (`spec/check-repair.md`); may be none
    """

    __slots__ = __match_args__ = (
        "code",
        "grade",
        "kind",
        "id",
        "path",
        "name",
        "text",
        "remedy",
        "since",
        "read_only",
        "peers",
    )

    code: str
    grade: Grade
    kind: str
    id: str
    path: str
    name: str
    text: str
    remedy: str
    since: Timestamp | None
    read_only: bool
    peers: tuple[str, ...]

    def __init__(
        self,
        code: str,
        grade: Grade,
        kind: str,
        text: str,
        *,
        id: str = "",
        path: str = "",
        name: str = "",
        remedy: str = "",
        since: Timestamp | None = None,
        read_only: bool = False,
        peers: Iterable[str] = (),
    ) -> None:
        self._fill(code, grade, kind, id, path, name, text, remedy, since, read_only, tuple(peers))

    def __str__(self) -> str:
        return self.text

    @property
    def subject(self) -> tuple[str, str]:
        """(kind, id) of the thing that it is about."""
        return self.kind, self.id

    def json(self) -> dict[str, Any]:
        """The finding as an object that any JSON encoder takes; without what is empty."""
        values = dict(zip(self.__match_args__, self._values(), strict=True))
        return {key: list(v) if type(v) is tuple else v for key, v in values.items() if v or key == "grade"}


class CheckReport(Value):
    """What `store.check()` came to.

    findings    in the order of the things they are about: tables, layers, images, containers, the rest
    checked     how many there were of what was looked at: "layers", "images", "containers", "items" (of data),
                "entries" (of layer archives), "bytes" (read)
    parts       names of the parts that were done (`store.check`)
    max_age     seconds after which a layer that nothing needs was told of
    graph_root  of the store
    image_layers, container_images   which layers each image needs, and the image of each container, for `peer_lists`
    """

    __slots__ = __match_args__ = (
        "findings",
        "checked",
        "parts",
        "max_age",
        "graph_root",
        "image_layers",
        "container_images",
    )

    findings: tuple[Finding, ...]
    checked: tuple[tuple[str, int], ...]
    parts: tuple[str, ...]
    max_age: float
    graph_root: str
    image_layers: tuple[tuple[str, bool, tuple[str, ...]], ...]
    container_images: tuple[tuple[str, str], ...]

    def __init__(
        self,
        findings: Iterable[Finding] = (),
        *,
        checked: Mapping[str, int] | Iterable[tuple[str, int]] = (),
        parts: Iterable[str] = (),
        max_age: float = 86400.0,
        graph_root: str = "",
        image_layers: Iterable[tuple[str, bool, tuple[str, ...]]] = (),
        container_images: Iterable[tuple[str, str]] = (),
    ) -> None:
        counts = tuple(dict(checked).items())
        self._fill(
            tuple(findings),
            counts,
            tuple(parts),
            max_age,
            graph_root,
            tuple(image_layers),
            tuple(container_images),
        )

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.of_grade(grade))} {grade}" for grade in (DAMAGE, LEFTOVER, ODDITY))
        return f"<CheckReport {self.graph_root}: {counts}>"

    @property
    def is_clean(self) -> bool:
        """True if nothing is damaged and nothing was left behind; oddities do no harm."""
        return all(finding.grade == ODDITY for finding in self.findings)

    def of_grade(self, grade: Grade) -> tuple[Finding, ...]:
        return tuple([finding for finding in self.findings if finding.grade == grade])

    def about(self, kind: str, id: str = "") -> tuple[Finding, ...]:
        """The findings about one thing, for example `("layer", id)`."""
        return tuple([finding for finding in self.findings if finding.subject == (kind, id)])

    def peer_lists(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The report as the peers make it (`spec/check-repair.md` 2): for each of `GROUPS`, id to lines.

        The lines of an image's layers are among its own, those of a container's image among the container's.
        """
        lists: dict[str, dict[str, list[str]]] = {group: {} for group in GROUPS}
        last: list[tuple[str, Finding]] = []
        for finding in self.findings:
            if finding.peers and finding.kind in _GROUPS:
                group = ("read_only_" if finding.read_only else "") + _GROUPS[finding.kind]
                if finding.code == "image-layer-missing":  # they meet the layers that are there before
                    last.append((group, finding))
                else:
                    lists[group].setdefault(finding.id, []).extend(finding.peers)
        for id, read_only, layers in self.image_layers:
            group = ("read_only_" if read_only else "") + "images"
            inherited = [
                line
                for layer in layers
                for line in (lists["layers"].get(layer) or lists["read_only_layers"].get(layer) or ())
            ]
            if inherited:
                lists[group].setdefault(id, []).extend(inherited)
        for group, finding in last:
            lists[group].setdefault(finding.id, []).extend(finding.peers)
        for id, image in self.container_images:
            more = lists["images"].get(image) or lists["read_only_images"].get(image)
            if more:
                lists["containers"].setdefault(id, []).extend(more)
        return {group: {id: tuple(lines) for id, lines in lists[group].items()} for group in GROUPS}

    def json(self) -> dict[str, Any]:
        """The report as an object that any JSON encoder takes. A surrogate in a path is a byte that is not UTF-8."""
        return {
            "clean": self.is_clean,
            "graph_root": self.graph_root,
            "parts": list(self.parts),
            "max_age": self.max_age,
            "checked": dict(self.checked),
            "findings": [finding.json() for finding in self.findings],
        }
