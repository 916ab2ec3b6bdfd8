"""The tree that archives make: what should lie where, worked out from headers alone.

The other side of `stream/extract`, which makes the real one: the same names lead to the same places, the last entry
wins where it wins there, and what is left to chance there is unknown here. `tests/store/test_check.py`
holds the two against each other.

Rule 1: What cannot be known is not compared: modes and times of directories that an archive only implies, times of
        directories in which something changed after they were listed.
Rule 2: An archive that these rules could not unpack (another program's may be laxer) has no expected tree:
        `Unfollowable`.

LIMIT: some 350 bytes of memory for each file that a layer shows (vfs) or changes (overlay).
"""

from __future__ import annotations

import os

from orlop.errors import StorageError
from orlop.formats import whiteout
from orlop.formats.limits import OWNER_MAX
from orlop.formats.tarheader import (
    BLOCK_DEVICE,
    CHAR,
    DIRECTORY,
    FIFO,
    GLOBAL_HEADER,
    HARD_LINK,
    REGULAR,
    SYMLINK,
)
from orlop.formats.tarsplit import clean_name, parted
from orlop.store.check.nodes import WHITEOUT, Directory, Node
from orlop.stream.extract import Names
from orlop.stream.place import directory_times, file_times, settable, symlink_times
from orlop.system import xattrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from orlop.formats.tarheader import Entry

    Facts = tuple[int, int, int]

_DEVICES = (CHAR, BLOCK_DEVICE)
_SYMLINKS_MAX = 40


class Unfollowable(Exception):
    """No tree can be told for this archive."""


class Tree:
    """The tree of one layer, or with `whole` of a layer and all below it, applied from the lowest upwards.

    With `whole` the rules are those of a merged tree, in which a whiteout deletes; else those of a difference, in
    which it is kept. With `masked` the first name of a file says whose it is, else the last one.
    """

    def __init__(self, *, whole: bool, masked: bool = False) -> None:
        self.whole = whole
        self._masked = masked
        self.root = Directory(0)
        self.layers: list[str] = []  # ids, lowest first
        self.complete = True  # all that lies there is known
        self._cache: dict[bytes, Directory] = {}
        self._facts: dict[Facts, Facts] = {}
        self._names = Names()
        self._stash: dict[bytes, tuple[Entry, bytes | None]] = {}

    @property
    def number(self) -> int:
        """Of the layer on top; the lowest is 1."""
        return len(self.layers)

    def begin(self, id: str) -> None:
        """What follows is the archive of this layer."""
        self.layers.append(id)
        self._cache.clear()
        self._names = Names()
        self._stash.clear()

    def apply(
        self, entry: Entry, checksum: bytes | None = None, *, facts_known: bool = True, read: bool = True
    ) -> None:
        """Take the next entry; `checksum` is that of its content, holes of a sparse file included.

        `read`: whoever read the archive has seen that the file holds that content.

        Raises:
            Unfollowable: the tree is of no use afterwards.
        """
        try:
            self._apply(entry, checksum, facts_known, read)
        except (_Missing, _NotDirectory, StorageError) as problem:
            raise Unfollowable(f"{entry.name!r}: {problem}") from problem

    def _apply(self, entry: Entry, checksum: bytes | None, facts_known: bool, read: bool) -> None:
        if entry.type == GLOBAL_HEADER:
            return
        name, directory, base = parted(entry.name)
        if not base:
            self._apply_to_root(entry)
            return
        if b".wh." in name and self._is_message(entry, name, directory, base, checksum):
            return
        at = self._parent(directory)
        if self.whole:
            if entry.type == HARD_LINK and clean_name(entry.linkname).startswith(whiteout.LINKS):
                kept = self._stash.get(clean_name(entry.linkname).rpartition(b"/")[2])
                if kept is None:
                    raise _Missing(entry.linkname)
                entry, checksum = kept
            self._names.add(name)
        self._make(at, base, entry, checksum, facts_known, read)

    def _make(
        self, at: Directory, base: bytes, entry: Entry, checksum: bytes | None, known: bool, read: bool
    ) -> None:
        number, kind, there = self.number, entry.type, at.children.get(base)
        facts = self._facts_of(entry) if known else None
        attributes = settable(entry.xattrs) if entry.xattrs else None
        node: Node
        if kind == DIRECTORY:
            if isinstance(there, Directory):
                self._renew(there, attributes)
                directory = there
                directory.facts = facts
            else:
                directory = Directory(number, facts)
                directory.xattrs = attributes
                self._put(at, base, directory)
            directory.listed = number
            directory.mtime_ns = directory_times(entry.atime_ns, entry.mtime_ns)[1]
            return
        if kind == HARD_LINK:
            above, _, target = clean_name(b"/" + entry.linkname)[1:].rpartition(b"/")
            found = self._directory(above).children.get(target)
            if found is None or isinstance(found, Directory):
                raise _Missing(entry.linkname)
            node = found
            if self._masked:
                facts = node.facts
            if node.facts is not None and facts is not None and node.facts[1:] != facts[1:]:
                node.xattrs = _without_capability(node.xattrs)
            self._renew(node, attributes)
            if node.kind == SYMLINK:
                # What it shows of its header is the owner: a symlink has no mode, and keeps its time.
                node.facts = facts
            else:
                node.facts = facts
                node.mtime_ns = file_times(entry.atime_ns, entry.mtime_ns)[1]
        elif kind == REGULAR:
            mtime = file_times(entry.atime_ns, entry.mtime_ns)[1] if known else None
            node = Node(kind, number, facts, size=entry.real_size, mtime_ns=mtime, checksum=checksum)
            node.xattrs = attributes
            node.origin = number if read else -number
        elif kind == SYMLINK:
            mtime = symlink_times(entry.atime_ns, entry.mtime_ns)[1]
            node = Node(kind, number, facts, mtime_ns=mtime, text=entry.linkname, xattrs=attributes)
        elif kind in _DEVICES or kind == FIFO:
            device = 0 if kind == FIFO else os.makedev(entry.devmajor & 0xFFF, entry.devminor & 0xF_FFFF)
            mtime = file_times(entry.atime_ns, entry.mtime_ns)[1]
            node = Node(kind, number, facts, size=device, mtime_ns=mtime, xattrs=attributes)
        else:
            raise Unfollowable(f"{entry.name!r}: unhandled type {kind}")
        self._put(at, base, node)

    def _renew(self, node: Node, attributes: dict[bytes, bytes] | None) -> None:
        """This layer says something of what is there already; attributes are added to those that it has."""
        node.xattrs = {**self.attributes(node), **(attributes or {})} or None
        node.layer = self.number

    def attributes(self, node: Node) -> dict[bytes, bytes]:
        """Those that the node has in the layer on top: a copy of a tree does not keep all of them."""
        if node.xattrs is None:
            return {}
        if node.layer == self.number:
            return node.xattrs
        return {key: value for key, value in node.xattrs.items() if xattrs.copied(os.fsdecode(key))}

    def _facts_of(self, entry: Entry) -> Facts | None:
        # Owners that do not exist are root's with laxer programs, or whoever's.
        if not (0 <= entry.uid <= OWNER_MAX and 0 <= entry.gid <= OWNER_MAX):
            return None
        return self._shared((entry.mode & 0o7777, entry.uid, entry.gid))

    def _shared(self, facts: Facts) -> Facts:
        return self._facts.setdefault(facts, facts)

    # --- places -------------------------------------------------------------------------------------------

    def _put(self, at: Directory, base: bytes, node: Node) -> None:
        there = at.children.get(base)
        if there is not None and there.kind in (DIRECTORY, SYMLINK):
            self._cache.clear()
        at.children[base] = node
        at.touched = self.number

    def _drop(self, at: Directory, base: bytes) -> None:
        if base in at.children:
            self._cache.clear()
            del at.children[base]
            at.touched = self.number

    def _directory(self, path: bytes) -> Directory:
        """The directory at a path, symlinks followed as in a process whose root this tree is."""
        if not path:
            return self.root
        found = self._cache.get(path)
        if found is not None:
            return found
        above = [self.root]
        waiting = path.split(b"/")[::-1]
        followed = 0
        while waiting:
            part = waiting.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(above) > 1:
                    above.pop()
                continue
            node = above[-1].children.get(part)
            if node is None:
                raise _Missing(path)
            if isinstance(node, Directory):
                above.append(node)
            elif node.kind == SYMLINK:
                followed += 1
                if followed > _SYMLINKS_MAX:
                    raise _NotDirectory(path)
                if node.text.startswith(b"/"):
                    del above[1:]
                waiting += node.text.split(b"/")[::-1]
            else:
                raise _NotDirectory(path)
        self._cache[path] = above[-1]
        return above[-1]

    def _parent(self, directory: bytes) -> Directory:
        """A directory that is made, with those above it, where the archive does not name it."""
        try:
            return self._directory(directory)
        except _Missing:
            pass
        parts = directory.split(b"/")
        for depth in range(1, len(parts) + 1):
            try:
                self._directory(b"/".join(parts[:depth]))
            except _Missing:
                at = self._directory(b"/".join(parts[: depth - 1]))
                if parts[depth - 1] in at.children:
                    raise _Missing(directory) from None  # a symlink that leads nowhere
                self._put(at, parts[depth - 1], Directory(self.number))
        return self._directory(directory)

    def _apply_to_root(self, entry: Entry) -> None:
        if entry.type != DIRECTORY:
            raise Unfollowable("the root is no directory")
        if self.whole:
            self.root.facts = self._facts_of(entry)
            self._renew(self.root, settable(entry.xattrs) if entry.xattrs else None)

    # --- whiteouts ----------------------------------------------------------------------------------------

    def _is_message(
        self, entry: Entry, name: bytes, directory: bytes, base: bytes, checksum: bytes | None
    ) -> bool:
        whites_out = base.startswith(whiteout.PREFIX)
        hidden = whiteout.hidden_by(base) if whites_out else b""
        if not self.whole:
            if whites_out:
                self._keep_whiteout(entry, directory, base, hidden)
            return whites_out
        if not whites_out and not name.startswith(whiteout.META):
            return False
        at = self._parent(directory)
        if name.startswith(whiteout.META) and name != whiteout.OPAQUE:
            if entry.type == REGULAR and name.startswith(whiteout.LINKS):
                self._stash[base] = entry, checksum
        elif base == whiteout.OPAQUE:
            self._drop_older(directory)
        else:
            self._drop(at, hidden)
        return True

    def _keep_whiteout(self, entry: Entry, directory: bytes, base: bytes, hidden: bytes) -> None:
        try:
            at = self._parent(directory)
        except _NotDirectory:
            if base == whiteout.OPAQUE:
                raise
            return  # what it was in is gone itself
        if base == whiteout.OPAQUE:
            at.opaque = True
            return
        there = at.children.get(hidden)
        if there is not None and there.kind != WHITEOUT:
            raise Unfollowable(f"{entry.name!r} is both there and deleted")
        self._put(at, hidden, Node(WHITEOUT, self.number, self._shared((0, entry.uid, entry.gid))))

    def _drop_older(self, directory: bytes) -> None:
        """What is in a directory and has no entry of its own in this archive."""
        above, _, last = directory.rpartition(b"/")
        top = self._directory(above).children.get(last) if last else self.root
        keep = self._names.all()
        waiting = [(directory, top)]
        while waiting:
            path, at = waiting.pop()
            if not isinstance(at, Directory):
                continue
            for base, node in list(at.children.items()):
                child = path + b"/" + base if path else base
                if child not in keep:
                    self._drop(at, base)
                elif isinstance(node, Directory):
                    waiting.append((child, node))

    # --- asking -------------------------------------------------------------------------------------------

    def node(self, path: bytes) -> Node | None:
        """What should be there; symlinks in the path are followed, its last one not."""
        directory, _, base = path.rpartition(b"/")
        try:
            return self._directory(directory).children.get(base)
        except (_Missing, _NotDirectory):
            return None

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Every path below the root with what should be there, a directory before what is in it."""
        waiting: list[tuple[bytes, Node]] = [
            (name, node) for name, node in sorted(self.root.children.items(), reverse=True)
        ]
        while waiting:
            path, node = waiting.pop()
            yield path, node
            if isinstance(node, Directory):
                waiting += [
                    (path + b"/" + name, child) for name, child in sorted(node.children.items(), reverse=True)
                ]


def _without_capability(attributes: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """What a file keeps that gets another owner."""
    return {key: value for key, value in (attributes or {}).items() if key != b"security.capability"} or None


class _Missing(Exception):
    pass


class _NotDirectory(Exception):
    pass
