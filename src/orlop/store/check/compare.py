"""A layer's tree on disk beside the tree that should be there (`expected`): what is missing, added, changed.

Everything is reached as `Descent` reaches it: nothing is followed, and nothing but a regular file is opened.

Rule: what a file system, a mount or another program may rightly make of a header is no difference. Times are cut to
what a file system can hold, the kernel and mount programs keep notes in attributes, labels are the machine's.
"""

from __future__ import annotations

import os
import stat

from orlop.errors import InvalidMappings
from orlop.formats import crc64, whiteout
from orlop.formats.tarheader import BLOCK_DEVICE, CHAR, DIRECTORY, REGULAR, SYMLINK
from orlop.store.check.facts import (
    MARK_NAMES,
    device_name,
    is_compared,
    is_read,
    is_same_capability,
    is_same_time,
    kind_of,
    overridden,
    shown,
    supported,
    yes,
)
from orlop.store.check.findings import raise_if_ours
from orlop.store.check.nodes import WHITEOUT, Directory, Node
from orlop.stream.lowers import Lowers, is_whiteout
from orlop.stream.place import OVERRIDE
from orlop.system import xattrs
from orlop.system.descent import DIRECTORY as LISTED_DIRECTORY
from orlop.system.descent import GONE, Descent, open_unnoticed
from orlop.system.extents import data_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.drivers.api import LayerTree
    from orlop.model.idmap import IDMappings
    from orlop.store.check.expected import Tree

    Owner = tuple[int, int]
    Attribute = tuple[str, str, str]

_BLOCK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_MARKS = tuple([os.fsencode(name) for name in MARK_NAMES])

MISSING, ADDED, CHANGED = "missing", "added", "changed"


class Difference:
    """One path at which the disk is not as it should be.

    `what` is MISSING, ADDED or CHANGED; `attributes` of the last are (word, expected, found), the words of the peers
    (`spec/check-repair.md` 4.3) first. `node` is what should be there, None for ADDED.
    """

    __slots__ = ("attributes", "is_directory", "node", "path", "what")

    def __init__(
        self,
        path: bytes,
        what: str,
        node: Node | None,
        attributes: list[Attribute],
        *,
        is_directory: bool = False,
    ) -> None:
        self.path = path
        self.what = what
        self.node = node
        self.attributes = attributes
        self.is_directory = is_directory

    def __repr__(self) -> str:
        return f"<Difference {self.what} {self.path!r} {self.attributes}>"


class Leniency:
    """What is not compared, because the store was set up so that it may differ (`spec/check-repair.md` 1).

    owners, times   of everything
    devices         may be missing: they are not made without the powers of the machine's root
    trusted         attributes of that name space cannot be seen
    """

    __slots__ = ("devices", "owners", "times", "trusted")

    def __init__(
        self, *, owners: bool = False, times: bool = False, devices: bool = False, trusted: bool = False
    ) -> None:
        self.owners = owners
        self.times = times
        self.devices = devices
        self.trusted = trusted


class Comparison:
    """Compares one layer. `take` gets the differences, a directory before what is in it.

    `contents`: files that the layer has only copied from those below (vfs) are read, too. `read` counts their bytes.
    """

    def __init__(
        self,
        tree: Tree,
        place: LayerTree,
        mappings: IDMappings,
        leniency: Leniency,
        take: Callable[[Difference], object],
        *,
        contents: bool,
    ) -> None:
        self.read = 0
        self._tree = tree
        self._place = place
        self._mappings = mappings
        self._lenient = leniency
        self._take = take
        self._contents = contents
        self._update = crc64.best()
        self._owners: dict[Owner, Owner | None] = {}
        self._supported: tuple[str, ...] = ()

    def run(self) -> None:
        """Raises OSError if the tree cannot be read."""
        if self._place.alone:
            with Descent(self._place.directories[0]) as at:
                self._supported = supported(at.fd, trusted=not self._lenient.trusted)
                self._walk(at)
        else:
            self._look_up()

    # --- a tree that holds nothing else -------------------------------------------------------------------

    def _walk(self, at: Descent) -> None:
        root = self._tree.root
        if self._tree.whole and root.facts is not None:
            mode = stat.S_IMODE(at.status.st_mode)
            if mode != root.facts[0] and self._place.force_mask is None:
                self._take(_changed(b"/", root, [("mode", f"{root.facts[0]:04o}", f"{mode:04o}")]))
        prefix = b"/"
        levels = [(len(prefix), self._listed(at, at.entries(), root, prefix))]
        while levels:
            length, waiting = levels[-1]
            prefix = prefix[:length]
            if not waiting:
                levels.pop()
                if levels:
                    at.leave()
                continue
            name, node = waiting.pop()
            path = prefix + name
            try:
                at.enter(name)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                continue  # somebody is at work there: the caller will look again
            entries = at.entries()
            if node is not None:
                found = self._directory(node, at, entries)
                if found:
                    self._take(_changed(path, node, found))
            prefix = path + b"/"
            levels.append((len(prefix), self._listed(at, entries, node, prefix)))

    def _directory(
        self, node: Directory, at: Descent, entries: list[tuple[bytes, int, int]]
    ) -> list[Attribute]:
        """What differs of the current directory itself."""
        actual = xattrs.read(at.fd, is_read)
        marks = [actual.pop(mark, b"") for mark in _MARKS]
        found = self._attributes(node, at.status, actual)
        if not self._tree.whole:
            opaque = b"y" in marks or any(name == whiteout.OPAQUE for name, _, _ in entries)
            if opaque != node.opaque:
                found.append(("opaque", yes(node.opaque), yes(opaque)))
        return found

    def _listed(
        self, at: Descent, entries: list[tuple[bytes, int, int]], expected: Directory | None, prefix: bytes
    ) -> list[tuple[bytes, Directory | None]]:
        """Compare what is in the current directory; the directories to enter, last first."""
        children = expected.children if expected is not None else {}
        names = {name for name, _, _ in entries}
        if not children.keys() <= names:
            for name in sorted(children.keys() - names):
                self._miss(prefix + name, name, children[name], names)
        enter: list[tuple[bytes, Directory | None]] = []
        for name, kind, _ in entries:
            node = children.get(name)
            if node is None:
                if not self._is_allowed(name, expected, children):
                    is_directory = kind == LISTED_DIRECTORY
                    self._take(Difference(prefix + name, ADDED, None, [], is_directory=is_directory))
                    if is_directory:
                        enter.append((name, None))
            elif kind == LISTED_DIRECTORY and isinstance(node, Directory):
                enter.append((name, node))
            else:
                self._compare(at, name, node, prefix + name)
        enter.reverse()
        return enter

    def _is_allowed(self, name: bytes, expected: Directory | None, children: dict[bytes, Node]) -> bool:
        """Whether something without an entry may be there: a whiteout in the other notation, or in a tree of which
        not all is known, anything."""
        if not self._tree.complete:
            return True
        if self._tree.whole or not name.startswith(whiteout.PREFIX):
            return False
        if name == whiteout.OPAQUE:
            return expected is not None and expected.opaque
        hidden = children.get(name[len(whiteout.PREFIX) :])
        return hidden is not None and hidden.kind == WHITEOUT

    def _miss(self, path: bytes, name: bytes, node: Node, names: set[bytes]) -> None:
        if node.kind == WHITEOUT and whiteout.hiding(name) in names:
            return
        if self._lenient.devices and node.kind in (CHAR, BLOCK_DEVICE):
            return
        is_directory = isinstance(node, Directory)
        self._take(Difference(path, MISSING, node, [], is_directory=is_directory))
        waiting = [(path, node)]
        while waiting:
            above, inner = waiting.pop()
            if isinstance(inner, Directory):
                for base, child in sorted(inner.children.items()):
                    below = above + b"/" + base
                    is_directory = isinstance(child, Directory)
                    self._take(Difference(below, MISSING, child, [], is_directory=is_directory))
                    waiting.append((below, child))

    def _compare(self, at: Descent, name: bytes, node: Node, path: bytes) -> None:
        try:
            status = os.lstat(name, dir_fd=at.fd)
            if node.kind == WHITEOUT:
                found = [] if is_whiteout(status) else [("filetype", str(CHAR), str(kind_of(status)))]
            else:
                actual = xattrs.read_beneath(at.fd, name, is_read)
                found = self._attributes(node, status, actual)
            if kind_of(status) != node.kind:
                pass
            elif node.kind == SYMLINK:
                text = os.readlink(name, dir_fd=at.fd)
                if text != node.text:
                    found.append(("target", shown(node.text), shown(text)))
            elif self._contents and self._is_copy(node) and status.st_size == node.size:
                found += self._content_of(at.fd, name, node)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        if found:
            self._take(_changed(path, node, found))

    # --- a tree that holds other layers' files, too -------------------------------------------------------

    def _look_up(self) -> None:
        """Only what the layer itself brought can be told from the rest. Attributes are not compared."""
        with Lowers(self._place.directories) as places:
            for path, node in self._tree.walk():
                if node.kind == WHITEOUT:
                    continue
                status = places.find(path)
                is_directory = isinstance(node, Directory)
                if status is None:
                    if not (self._lenient.devices and node.kind in (CHAR, BLOCK_DEVICE)):
                        self._take(Difference(b"/" + path, MISSING, node, [], is_directory=is_directory))
                    continue
                found = self._facts_of(node, status, stat.S_IMODE(status.st_mode))
                if found:
                    self._take(_changed(b"/" + path, node, found))

    # --- one file -----------------------------------------------------------------------------------------

    def _attributes(self, node: Node, status: os.stat_result, actual: dict[bytes, bytes]) -> list[Attribute]:
        """What differs, given the attributes that are there."""
        mode = stat.S_IMODE(status.st_mode)
        override = actual.pop(OVERRIDE, None)
        if self._place.force_mask is not None:
            if override is None and (node.facts is None or node.kind == SYMLINK):
                return []  # nothing says whose they are
            real = overridden(override, status)
            if real is None:
                return [("xattr:" + os.fsdecode(OVERRIDE), "owner and mode", shown(override))]
            if node.kind not in (DIRECTORY, REGULAR) and status.st_size:
                return [("size", "0", str(status.st_size))]  # a file stands for it
            status, mode = real, stat.S_IMODE(real.st_mode)
        found = self._facts_of(node, status, mode)
        if node.facts is not None or node.kind == DIRECTORY:
            found += self._xattrs_of(node, actual)
        return found

    def _facts_of(self, node: Node, status: os.stat_result, mode: int) -> list[Attribute]:
        lenient = self._lenient
        found: list[Attribute] = []
        kind = kind_of(status)
        if kind != node.kind:
            return [("filetype", str(node.kind), str(kind))]
        if node.facts is not None and not lenient.owners:
            wanted = self._owner_of(node.facts[1:])
            if wanted is not None:
                if status.st_uid != wanted[0]:
                    found.append(("uid", str(wanted[0]), str(status.st_uid)))
                if status.st_gid != wanted[1]:
                    found.append(("gid", str(wanted[1]), str(status.st_gid)))
        if kind == REGULAR and status.st_size != node.size:
            found.append(("size", str(node.size), str(status.st_size)))
        if node.facts is not None and kind != SYMLINK and mode != node.facts[0]:
            found.append(("mode", f"{node.facts[0]:04o}", f"{mode:04o}"))
        wanted_ns = node.known_mtime_ns if isinstance(node, Directory) else node.mtime_ns
        if wanted_ns is not None and not lenient.times and not is_same_time(wanted_ns, status.st_mtime_ns):
            found.append(("mtime", str(wanted_ns), str(status.st_mtime_ns)))
        if kind in (CHAR, BLOCK_DEVICE) and status.st_rdev != node.size:
            found.append(("device", device_name(node.size), device_name(status.st_rdev)))
        return found

    def _owner_of(self, owner: Owner) -> Owner | None:
        """The owner on disk; None if anybody will do, as the maps do not have that one."""
        try:
            return self._owners[owner]
        except KeyError:
            pass
        mapped: Owner | None
        try:
            mapped = self._mappings.to_host(*owner)
        except InvalidMappings:
            mapped = None
        self._owners[owner] = mapped
        return mapped

    def _xattrs_of(self, node: Node, actual: dict[bytes, bytes]) -> list[Attribute]:
        expected = self._tree.attributes(node)
        if not expected and not actual:
            return []
        found: list[Attribute] = []
        for key in sorted(expected.keys() | actual.keys()):
            name = os.fsdecode(key)
            wanted, there = expected.get(key), actual.get(key)
            if not (name.startswith(self._supported) and is_compared(name)):
                continue  # cannot be kept here, or is not read
            if there is None and not wanted:
                continue  # some programs leave out what is empty
            if there is None and name.startswith("user.") and node.kind not in (REGULAR, DIRECTORY):
                continue  # the kernel has none of those on anything else
            if wanted is None and name == "security.ima":
                continue  # a policy of this machine put it there
            if wanted != there and not (name == "security.capability" and is_same_capability(wanted, there)):
                found.append((f"xattr:{name}", shown(wanted), shown(there)))
        return found

    # --- contents -----------------------------------------------------------------------------------------

    def _is_copy(self, node: Node) -> bool:
        return (
            node.kind == REGULAR
            and node.checksum is not None
            and node.size > 0
            and node.origin != self._tree.number
        )

    def _content_of(self, dir_fd: int, name: bytes, node: Node) -> list[Attribute]:
        fd = open_unnoticed(name, _READ, dir_fd)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return []  # somebody is at work there: the caller will look again
            crc = at = 0
            # An archive of a kilobyte makes a file of terabytes: holes are known to be zeros without reading them.
            for start, end in data_ranges(fd, status.st_size):
                crc, at = self._hole(crc, start - at), start
                while at < end and (block := os.pread(fd, min(_BLOCK, end - at), at)):
                    crc = self._update(block, crc)
                    at += len(block)
                    self.read += len(block)
            crc = self._hole(crc, status.st_size - at)
        except OSError as error:
            raise_if_ours(error)
            return [("content", "readable", error.strerror or "")]
        finally:
            os.close(fd)
        assert node.checksum is not None
        found = crc64.stored(crc)
        return [] if found == node.checksum else [("content", node.checksum.hex(), found.hex())]

    def _hole(self, crc: int, size: int) -> int:
        return crc64.update_zeros(size, crc) if size > 0 else crc


def _changed(path: bytes, node: Node, attributes: list[Attribute]) -> Difference:
    return Difference(path, CHANGED, node, attributes, is_directory=isinstance(node, Directory))
