"""The files of a layer put right, one after the other, as its archive has them.

    mending = TreeMending(found, mappings, sources)
    if not mending.lacking:             # everything that is wrong can be put right
        mending.carry_out()

Rule 1: A file is made beside its name and renamed there, so at any moment it is the damaged one or the right one.
Rule 2: Names are taken in open directories, and nothing is followed (`system.descent`).
Rule 3: What was right before is right afterwards, the times of directories included.
"""

from __future__ import annotations

import os
import stat

from orlop.formats import crc64
from orlop.formats.tarheader import REGULAR
from orlop.store.check.compare import ADDED, CHANGED
from orlop.store.check.contents import path_of
from orlop.store.check.facts import kind_of
from orlop.store.check.nodes import Directory
from orlop.store.repair.placing import Placing
from orlop.store.repair.sources import has_content
from orlop.system.descent import Descent, open_unnoticed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.idmap import IDMappings
    from orlop.store.check.contents import Examination
    from orlop.store.check.nodes import Node
    from orlop.store.repair.sources import Sources

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_REMADE = frozenset(("filetype", "size", "content", "target", "device"))


class TreeMending:
    """What is to be done to one layer, and doing it. Paths are those below the layer's root.

    remove    what is too much
    make      what is made anew, with what should be there
    settle    what gets another owner, mode, time or attribute
    lacking   files to be made whose content is nowhere: the layer cannot be mended
    """

    def __init__(self, found: Examination, mappings: IDMappings, sources: Sources) -> None:
        assert found.tree is not None
        assert found.place is not None
        self._tree = found.tree
        self._place = found.place
        self._root = found.place.directories[0]
        self._mappings = mappings
        self._sources = sources
        self._update = crc64.best()
        self._names: dict[int, list[bytes]] = {}
        self.remove: list[bytes] = []
        self.make: dict[bytes, Node] = {}
        self.settle: dict[bytes, Node] = {}
        self._sort(found)
        if self.make:
            for path, node in self._tree.walk():
                if not isinstance(node, Directory):
                    self._names.setdefault(id(node), []).append(path)
        self.lacking = [path for path, node in self.make.items() if not self._is_to_be_had(path, node)]

    @property
    def count(self) -> int:
        return len(self.remove) + len(self.make) + len(self.settle)

    # --- what is to be done -------------------------------------------------------------------------------

    def _sort(self, found: Examination) -> None:
        removed: set[bytes] = set()
        for difference in found.differences:
            path, node = difference.path.strip(b"/"), difference.node
            if difference.what == ADDED:
                if not any(above in removed for above in _above(path)):
                    self.remove.append(path)
                    removed.add(path)
            elif node is not None:
                if difference.what == CHANGED and _REMADE.isdisjoint(w for w, _, _ in difference.attributes):
                    self.settle[path] = node
                else:
                    self._add(path, node)
        for problem in found.reading.problems:
            path = path_of(problem).strip(b"/")
            node = self._node(path)
            if node is not None:
                self._add(path, node)
        for path in self.make:
            self.settle.pop(path, None)

    def _add(self, path: bytes, node: Node) -> None:
        """A thing, with all that should be in it."""
        self.make[path] = node
        if isinstance(node, Directory):
            for name, child in node.children.items():
                self._add(path + b"/" + name, child)

    def _node(self, path: bytes) -> Node | None:
        at: Node | None = self._tree.root
        for name in path.split(b"/"):
            at = at.children.get(name) if isinstance(at, Directory) else None
        return at

    # --- content ------------------------------------------------------------------------------------------

    def _is_to_be_had(self, path: bytes, node: Node) -> bool:
        if node.kind != REGULAR or not node.size or self._intact(node) is not None:
            return True
        fd = self._source(path, node)
        if fd is None:
            return False
        os.close(fd)
        return True

    def _source(self, path: bytes, node: Node) -> int | None:
        """The content of a file, from another layer; open at its start."""
        origin = self._tree.layers[abs(node.origin) - 1]
        for name in dict.fromkeys((path, *self._names.get(id(node), ()))):
            fd = self._sources.find(origin, name, node, not_in=self._root)
            if fd is not None:
                return fd
        return None

    def _intact(self, node: Node) -> bytes | None:
        """Another name of a file, at which it is as it should be."""
        for path in self._names.get(id(node), ()):
            if path not in self.make and self._is_intact(path, node):
                return path
        return None

    def _is_intact(self, path: bytes, node: Node) -> bool:
        *above, name = path.split(b"/")
        try:
            with Descent(self._root) as at:
                at.go(above)
                status = os.lstat(name, dir_fd=at.fd)
                if kind_of(status) != node.kind:
                    return False
                if node.kind != REGULAR:
                    return True
                fd = open_unnoticed(name, _READ, at.fd)
                try:
                    return stat.S_ISREG(os.fstat(fd).st_mode) and has_content(fd, node, self._update)
                finally:
                    os.close(fd)
        except OSError:
            return False

    # --- doing it -----------------------------------------------------------------------------------------

    def carry_out(self) -> None:
        """Raises OSError at the first thing that fails. What was done until then stays, and is right."""
        with Placing(self._tree, self._place, self._mappings) as placing:
            for path in self.remove:
                placing.remove(path)
            directories = {path: node for path, node in self.make.items() if isinstance(node, Directory)}
            for path, directory in sorted(directories.items()):
                placing.make_directory(path, directory)
            done: set[int] = set()
            for path, node in sorted(self.make.items()):
                if not isinstance(node, Directory) and id(node) not in done:
                    done.add(id(node))
                    self._make(placing, path, node)
            for path, node in sorted(self.settle.items()):
                placing.settle(path, node)
            placing.finish()

    def _make(self, placing: Placing, path: bytes, node: Node) -> None:
        """A file, at all of its names that it has not."""
        names = self._names.get(id(node), [path])
        intact = self._intact(node)
        if intact is not None:
            first = intact
            names = [name for name in names if name in self.make]
        else:
            first = path
            source = self._source(path, node) if node.kind == REGULAR and node.size else None
            try:
                placing.make_file(path, node, source)
            finally:
                if source is not None:
                    os.close(source)
        for name in names:
            if name != first:
                placing.link(first, name)


def _above(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:depth]) for depth in range(1, len(parts))]
