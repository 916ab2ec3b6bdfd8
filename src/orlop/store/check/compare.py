"""A layer's tree on disk beside the tree that should be there (`expected`): what is missing, added, changed.

Everything is reached as `Descent` reaches it: nothing is followed, and nothing but a regular file is opened.

Rule: what a file system, a mount or another program may rightly make of a header is no difference. Times are cut to
what a file system can hold, the kernel and mount programs keep notes in attributes, labels are the machine's.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidMappings
from orlop.formats import crc64, whiteout
from orlop.formats.tarheader import BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, REGULAR, SYMLINK
from orlop.store.check.expected import WHITEOUT, Directory, Node
from orlop.store.check.findings import raise_if_ours
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

_SECOND = 1_000_000_000
_END_OF_32_BITS = 2**31 - 1
_BLOCK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SOCKET = ord("s")

_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: _SOCKET,
}

_MARK_NAMES = (xattrs.OPAQUE, xattrs.OPAQUE_ROOTLESS)
_MARKS = tuple([os.fsencode(name) for name in _MARK_NAMES])
_KERNELS_OWN = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.", "trusted.SGI_")

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
                self._supported = _supported(at.fd, trusted=not self._lenient.trusted)
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
        levels = [(b"/", self._listed(at, at.entries(), root, b"/"))]
        while levels:
            prefix, waiting = levels[-1]
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
            levels.append((path + b"/", self._listed(at, entries, node, path + b"/")))

    def _directory(
        self, node: Directory, at: Descent, entries: list[tuple[bytes, int, int]]
    ) -> list[Attribute]:
        """What differs of the current directory itself."""
        actual = xattrs.read(at.fd, _is_read)
        marks = [actual.pop(mark, b"") for mark in _MARKS]
        found = self._attributes(node, at.status, actual)
        if not self._tree.whole:
            opaque = b"y" in marks or any(name == whiteout.OPAQUE for name, _, _ in entries)
            if opaque != node.opaque:
                found.append(("opaque", _yes(node.opaque), _yes(opaque)))
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
                actual = xattrs.read_beneath(at.fd, name, _is_read)
                found = self._attributes(node, status, actual)
            if kind_of(status) != node.kind:
                pass
            elif node.kind == SYMLINK:
                text = os.readlink(name, dir_fd=at.fd)
                if text != node.text:
                    found.append(("target", _shown(node.text), _shown(text)))
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
            shown = _overridden(override, status)
            if shown is None:
                return [("xattr:" + os.fsdecode(OVERRIDE), "owner and mode", _shown(override))]
            if node.kind not in (DIRECTORY, REGULAR) and status.st_size:
                return [("size", "0", str(status.st_size))]  # a file stands for it
            status, mode = shown, stat.S_IMODE(shown.st_mode)
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
        if wanted_ns is not None and not lenient.times and not _is_same_time(wanted_ns, status.st_mtime_ns):
            found.append(("mtime", str(wanted_ns), str(status.st_mtime_ns)))
        if kind in (CHAR, BLOCK_DEVICE) and status.st_rdev != node.size:
            found.append(("device", _device(node.size), _device(status.st_rdev)))
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
            if wanted != there and not (name == "security.capability" and _same_capability(wanted, there)):
                found.append((f"xattr:{name}", _shown(wanted), _shown(there)))
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


def is_compared(name: str) -> bool:
    """Whether an attribute may be one that an archive brought. The kernel and mount programs keep others."""
    if name.startswith(_KERNELS_OWN):
        return False
    return name.startswith(("user.", "trusted.")) or name in ("security.capability", "security.ima")


def _is_read(name: str) -> bool:
    return name in _MARK_NAMES or is_compared(name)


def kind_of(status: os.stat_result) -> int:
    return _KINDS.get(stat.S_IFMT(status.st_mode), 0)


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


def _shown(value: bytes | None) -> str:
    if value is None:
        return "none"
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 80 and text.isprintable() else value[:40].hex()


def _device(number: int) -> str:
    return f"{os.major(number)}:{os.minor(number)}"


def _is_same_time(wanted_ns: int, found_ns: int) -> bool:
    """Whether a file system that was given one time may show the other.

    It cuts what it has no digits for, and times beyond its range to its first or last one.
    """
    if wanted_ns == found_ns:
        return True
    wanted, found = wanted_ns // _SECOND, found_ns // _SECOND
    if wanted == found:
        fraction = found_ns % _SECOND
        return any(fraction == wanted_ns % _SECOND // unit * unit for unit in (100, 1000, 1_000_000, _SECOND))
    if wanted > _END_OF_32_BITS:
        return _END_OF_32_BITS <= found < wanted
    return wanted < 0 and wanted < found <= 0


def _same_capability(wanted: bytes | None, found: bytes | None) -> bool:
    """Whether it is one capability, seen from another user namespace: version 3 adds whose root it is for."""
    if not wanted or not found or len(wanted) < 20 or len(found) < 20:
        return False
    return wanted[4:20] == found[4:20] and wanted[0] & 1 == found[0] & 1 and {wanted[3], found[3]} <= {2, 3}


def _supported(fd: int, *, trusted: bool) -> tuple[str, ...]:
    """The beginnings of names of attributes that this file system has."""
    spaces = ("user.", "security.", "trusted.") if trusted else ("user.", "security.")
    return tuple([space for space in spaces if _has_space(fd, space)])


def _has_space(fd: int, space: str) -> bool:
    try:
        os.getxattr(fd, space + "orlop.probe")
    except OSError as error:
        return error.errno != errno.EOPNOTSUPP
    return True


def _overridden(override: bytes | None, status: os.stat_result) -> os.stat_result | None:
    """The status that an override attribute stands for; None if there is none, or it says nothing."""
    if override is None:
        return None
    try:
        uid, gid, mode, *rest = override.decode("ascii").split(":")
        kind, *numbers = rest[0].split("-") if rest else ["file"]
        values = list(status)
        values[0] = _OVERRIDDEN_KINDS[kind] | int(mode, 8)
        values[4], values[5] = int(uid), int(gid)
    except (ValueError, KeyError, UnicodeDecodeError):
        return None
    return os.stat_result(values, {"st_mtime_ns": status.st_mtime_ns, "st_rdev": _number(numbers)})


_OVERRIDDEN_KINDS = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "pipe": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "block": stat.S_IFBLK,
    "char": stat.S_IFCHR,
}


def _number(numbers: list[str]) -> int:
    return os.makedev(int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else 0
