"""Looking into an overlay home: whether each layer has what a mount of it needs (`spec/drivers.md` 4.1, 8).

Rule 1: But for `mend` nothing is changed, not even what other parts of the driver would put right on their way
        (`links.recover`).
Rule 2: What is unknown is left alone: it may be a newer program's.
"""

from __future__ import annotations

import os

from orlop.drivers.api import Inspector, LayerTree
from orlop.drivers.inspection import LayerFaults
from orlop.drivers.overlay import content, layout, links
from orlop.errors import StorageError
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orlop.drivers.overlay.layout import Layout
    from orlop.model.findings import Finding


_NEW_ROOT = 0o555


class OverlayInspector(Inspector):
    """See the module. `force_mask`: None if none is in use. `mark` is the attribute of opaque directories, "" where
    a mount program wants whiteouts to be plain files."""

    def __init__(self, layout: Layout, *, force_mask: int | None, mark: str) -> None:
        self._layout = layout
        self._force_mask = force_mask
        self._mark = mark
        # Home to short name to id, or None where that leads elsewhere.
        self._links: dict[str, dict[str, str | None]] = {}
        self._lowers: dict[str, str | None] = {}

    # --- one layer ----------------------------------------------------------------------------------------

    def faults(self, id: str, parent: str | None, is_copy_of: Callable[[str], bool]) -> list[Finding]:
        directory = self._layout.find(id)
        assert directory is not None, "the caller looked"
        report = LayerFaults(id, directory, read_only=os.path.dirname(directory) not in self._layout.own)
        try:
            with os.scandir(directory) as entries:
                kinds = {entry.name: _kind(entry) for entry in entries}
        except OSError as error:
            report.damage(
                "place", directory, f"is no directory that can be read: {error.strerror}", "removed"
            )
            return report.found
        if kinds.get("diff") == "link":
            if not os.path.isdir(f"{directory}/diff"):
                report.damage(
                    "content-gone",
                    f"{directory}/diff",
                    "leads to an additional layer store that is not there",
                    "",
                )
        elif kinds.get("diff") != "directory":
            report.damage(
                "content-gone", f"{directory}/diff", _instead(kinds.get("diff")), "made anew, or removed"
            )
        self._look_at_link(report, directory, kinds)
        below = self._look_at_lower(report, directory, parent, is_copy_of)
        needed = ["work"] if below else ["work", "empty"]
        for name in needed:
            if kinds.get(name) != "directory":
                report.damage("place", f"{directory}/{name}", _instead(kinds.get(name)), "made anew")
        return report.found

    def _look_at_link(self, report: LayerFaults, directory: str, kinds: dict[str, str]) -> None:
        home, id = os.path.split(directory)
        path = f"{directory}/link"
        name = links.read(directory)
        known = self._links_of(home)
        if name is None:
            what = "holds no short name" if "link" in kinds else "is missing"
            report.damage("short-name", path, what, "made anew")
        elif name not in known:
            report.damage("short-name", f"{home}/l/{name}", f"is missing, which {path} names", "made anew")
        elif known[name] != id:
            other = known[name] or "no layer"
            report.damage("short-name", f"{home}/l/{name}", f"leads to {other}, and not to {id}", "made anew")

    def _look_at_lower(
        self, report: LayerFaults, directory: str, parent: str | None, is_copy_of: Callable[[str], bool]
    ) -> bool:
        """Whether there is something below the layer.

        It is enough to look at the nearest one: what is below that is its own matter, and is looked at with it.
        """
        path = f"{directory}/lower"
        text = self._lower_of(directory)
        if text is None:
            report.damage("lower", path, "is no list of short names", "made anew")
            return True
        if not text:
            if parent:
                what = f"is missing or empty, and layer {parent} lies below this one"
                report.damage("lower", path, what, "made anew")
            return bool(parent)
        name, _, rest = text.partition(":")
        place = self._resolved(name[2:])
        first = os.path.basename(place or "")
        if place is None or (first != parent and self._names_itself(parent, name[2:])):
            if not self._names_itself(parent, name[2:]):  # which is told of with the parent
                report.damage("lower", path, f"begins with {name}, which leads to no layer", "made anew")
        elif first != parent and not is_copy_of(first):
            wanted = f"layer {parent}" if parent else "nothing"
            report.damage("lower", path, f"begins with layer {first}, and not with {wanted}", "made anew")
        elif self._lower_of(place) != rest:
            what = f"is not the list of layer {first} with that layer before it"
            report.damage("lower", path, what, "made anew")
        elif text.count(":") >= layout.MAX_DEPTH:
            what = f"lists {text.count(':') + 1} layers, and at most {layout.MAX_DEPTH} can be mounted"
            report.damage("lower", path, what, "")
        return True

    def _names_itself(self, id: str | None, name: str) -> bool:
        """Whether a layer says that this is its short name."""
        directory = self._layout.find(id) if id else None
        return directory is not None and links.read(directory) == name

    def tree(self, id: str, parent: str | None) -> LayerTree | None:
        directory = self._layout.find(id)
        if directory is None or os.path.lexists(f"{directory}/{content.BLOBS}"):
            return None
        if _is_no_directory(f"{directory}/diff"):
            return None  # it is missing; or an additional layer store answers for it
        own = [f"{directory}/diff", *[f"{directory}/{name}" for name in content.older(directory)]]
        text = self._lower_of(directory)
        places = [self._resolved(name[2:]) for name in text.split(":")] if text else []
        if len(own) == 1 and (not places or None in places or places[0] == self._layout.find(parent or "")):
            return LayerTree(own, whole=False, force_mask=self._force_mask, mark=self._mark)
        below = [f"{place}/{name}" for place in places if place for name in ("diff", *content.older(place))]
        return LayerTree(
            [*own, *below], whole=False, alone=False, force_mask=self._force_mask, mark=self._mark
        )

    def copies(self, id: str) -> list[LayerTree]:
        homes = [home for home in self._layout.homes if home not in self._layout.own]
        trees = [f"{home}/{id}/diff" for home in homes if not os.path.lexists(f"{home}/{id}/{content.BLOBS}")]
        return [LayerTree([tree], whole=False) for tree in trees if not _is_no_directory(tree)]

    # --- making it good -----------------------------------------------------------------------------------

    def mend(self, id: str, below: str | None, above: Sequence[str]) -> None:
        directory = self._layout.find(id)
        if directory is None or os.path.dirname(directory) not in self._layout.own:
            return
        self._forget()
        beneath = self._layout.find(below) if below else None
        if not os.path.lexists(f"{directory}/diff"):
            like = f"{beneath}/diff" if beneath else ""
            owner, mode = (
                content.owner_and_mode(like, self._force_mask is not None) if like else ((0, 0), _NEW_ROOT)
            )
            content.make(f"{directory}/diff", mode & 0o755, owner, self._force_mask)
        self._mend_link(directory, [place for other in above if (place := self._layout.find(other))])
        if beneath is None and below is None:
            if os.path.lexists(f"{directory}/lower"):
                os.unlink(f"{directory}/lower")
        elif beneath is not None and (name := links.read(beneath)) is not None:
            text = ":".join(filter(None, (f"l/{name}", self._lower_of(beneath))))
            if self._lower_of(directory) != text:
                files.write_atomic(f"{directory}/lower", os.fsencode(text), mode=0o644, durable=True)
        for place in ("work", "merged") if below else ("work", "merged", "empty"):
            _make_place(f"{directory}/{place}")
        self._forget()

    def _mend_link(self, directory: str, above: list[str]) -> None:
        """Let `link` and the short name say the same: what the layers above know it by, or whichever is left."""
        home, id = os.path.split(directory)
        known = self._links_of(home)
        said = [(self._lower_of(other) or "").partition(":")[0][2:] for other in above]
        own = links.read(directory)
        names = [*said, *[name for name, owner in known.items() if owner == id], own]
        free = [
            name for name in names if name and (known.get(name) == id or not self._is_taken(home, name, id))
        ]
        name = free[0] if free else links.make(home, id)
        if known.get(name) != id and free:
            files.make_dirs(f"{home}/l", 0o755)
            new = f"{home}/l/{files.TEMPORARY}{name}"
            os.symlink(f"../{id}/diff", new)
            os.rename(new, f"{home}/l/{name}")
        for other, owner in known.items():
            if owner == id and other != name and other not in said:
                os.unlink(f"{home}/l/{other}")  # nobody knows it by that
        if own != name:
            files.write_atomic(f"{directory}/link", os.fsencode(name), mode=0o644, durable=True)

    def _is_taken(self, home: str, name: str, id: str) -> bool:
        """Whether another layer says that this is its name."""
        other = self._links_of(home).get(name)
        return other is not None and other != id and links.read(f"{home}/{other}") == name

    # --- what is remembered -------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._links.clear()
        self._lowers.clear()

    def _links_of(self, home: str) -> dict[str, str | None]:
        if home not in self._links:
            known: dict[str, str | None] = {}
            try:
                for name in os.listdir(f"{home}/l"):
                    try:
                        known[name] = links.id_of(os.readlink(f"{home}/l/{name}"))
                    except OSError:
                        known[name] = None
            except OSError:
                pass  # then every short name is missing, and said to be
            self._links[home] = known
        return self._links[home]

    def _lower_of(self, directory: str) -> str | None:
        """What a layer's `lower` file says, or None if it says nothing that can be read."""
        if directory not in self._lowers:
            try:
                self._lowers[directory] = ":".join(self._layout.entries(directory))
            except (StorageError, OSError):
                self._lowers[directory] = None
        return self._lowers[directory]

    def _resolved(self, name: str) -> str | None:
        """The directory of the layer with a short name, in the first home that has the name."""
        for home in self._layout.homes:
            id = self._links_of(home).get(name)
            if id is not None:
                return f"{home}/{id}" if os.path.lexists(f"{home}/{id}") else None
        return None


def _make_place(path: str) -> None:
    """An empty directory for the kernel, unless it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        return
    if os.path.lexists(path):
        os.unlink(path)
    above = os.lstat(os.path.dirname(path))
    os.mkdir(path, 0o700)
    content.settle(path, 0o700, (above.st_uid, above.st_gid))


def _is_no_directory(path: str) -> bool:
    return os.path.islink(path) or not os.path.isdir(path)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "directory" if entry.is_dir(follow_symlinks=False) else "file"


def _instead(kind: str | None) -> str:
    return "is missing" if kind is None else f"is a {kind}, and should be a directory"
