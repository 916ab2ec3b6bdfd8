"""Making, settling and removing single files of a layer, in open directories (see `trees`)."""

from __future__ import annotations

import os
import stat

from orlop.errors import InvalidMappings
from orlop.formats import whiteout
from orlop.formats.tarheader import BLOCK_DEVICE, CHAR, FIFO, REGULAR, SYMLINK
from orlop.store.check.facts import is_compared
from orlop.store.check.nodes import WHITEOUT, Directory
from orlop.stream.place import OVERRIDE, Placer, override
from orlop.system import extents, files, xattrs
from orlop.system.beneath import remove_at
from orlop.system.descent import Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from orlop.drivers.api import LayerTree
    from orlop.model.idmap import IDMappings
    from orlop.store.check.expected import Tree
    from orlop.store.check.nodes import Node

    Owner = tuple[int, int]

_DEVICES = (CHAR, BLOCK_DEVICE)
_NODES = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_IMPLIED_MODE = 0o755
_BLOCK_SIZE = 512


class Placing:
    """A block in which the files of one layer are put right. `finish` is the end of it: times of directories."""

    def __init__(self, tree: Tree, place: LayerTree, mappings: IDMappings) -> None:
        self._tree = tree
        self._root = place.directories[0]
        self._mark = place.mark
        self._mappings = mappings
        self._force_mask = place.force_mask
        self._placer = Placer(mappings, change_owner=place.force_mask is None)
        self._times: dict[bytes, tuple[int, int]] = {}
        self._memory = extents.Memory()

    def __enter__(self) -> Self:
        self._umask = os.umask(0)
        self._at = Descent(self._root)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at.close()
        os.umask(self._umask)

    # --- steps --------------------------------------------------------------------------------------------

    def remove(self, path: bytes) -> None:
        remove_at(self._go(path), _base(path))

    def make_directory(self, path: bytes, node: Directory) -> None:
        at, name = self._go(path), _base(path)
        owner, mode = self._facts(node)
        attributes = self._attributes(node)
        try:
            fd, _ = self._placer.directory(at, name, owner, mode, attributes)
        except FileExistsError:
            remove_at(at, name)
            fd, _ = self._placer.directory(at, name, owner, mode, attributes)
        try:
            if node.opaque and self._mark:
                os.setxattr(fd, self._mark, b"y")
        finally:
            os.close(fd)
        mtime = node.known_mtime_ns
        if mtime is None:
            mtime = os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime_ns
        self._times[path] = (0, mtime)

    def make_file(self, path: bytes, node: Node, source: int | None) -> None:
        """Whatever is no directory. `source` has the content of a file that has any."""
        at, name = self._go(path), _base(path)
        if node.kind == WHITEOUT and not self._mark:
            remove_at(at, name)
            name = whiteout.hiding(name)
        temporary = _temporary()
        try:
            self._make(at, temporary, node, source)
            self._into_place(at, temporary, name)
        except BaseException:
            remove_at(at, temporary)
            raise

    def link(self, first: bytes, path: bytes) -> None:
        """Let `path` be another name of what is at `first`."""
        at, temporary = self._go(path), _temporary()
        *above, name = first.split(b"/")
        with Descent(self._root) as other:
            other.go(above)
            os.link(name, temporary, src_dir_fd=other.fd, dst_dir_fd=at, follow_symlinks=False)
        self._into_place(at, temporary, _base(path))

    def settle(self, path: bytes, node: Node) -> None:
        """Owner, mode, attributes and time of what is there; no path is the root."""
        if not path:
            os.chmod(self._root, self._facts(node)[1])
            return
        at, name = self._go(path), _base(path)
        owner, mode = self._facts(node)
        status = os.lstat(name, dir_fd=at)
        if node.facts is not None:
            if self._force_mask is None:
                os.chown(name, *owner, dir_fd=at, follow_symlinks=False)
            if node.kind != SYMLINK:
                os.chmod(name, mode, dir_fd=at)
        self._settle_attributes(at, name, node)
        mtime = node.known_mtime_ns if isinstance(node, Directory) else node.mtime_ns
        times = (status.st_atime_ns, status.st_mtime_ns if mtime is None else mtime)
        if isinstance(node, Directory):
            self._times[path] = times
        else:
            os.utime(name, ns=times, dir_fd=at, follow_symlinks=False)

    def finish(self) -> None:
        """Times of directories, which nothing changes any more."""
        for path, times in sorted(self._times.items(), reverse=True):
            names = path.split(b"/") if path else []
            self._at.go(names)
            os.utime(self._at.fd, ns=times)

    # --- details ------------------------------------------------------------------------------------------

    def _go(self, path: bytes) -> int:
        """The open directory of a path, whose times are noted before anything in it changes."""
        names = path.split(b"/")[:-1]
        self._at.go(names)
        status = self._at.status
        self._times.setdefault(b"/".join(names), (status.st_atime_ns, status.st_mtime_ns))
        return self._at.fd

    def _make(self, at: int, name: bytes, node: Node, source: int | None) -> None:
        owner, mode = self._facts(node)
        times = (node.mtime_ns or 0, node.mtime_ns or 0)
        attributes = self._attributes(node)
        if node.kind == REGULAR or (node.kind in _NODES and self._force_mask is not None):
            content = _Content(source, self._memory)
            self._placer.regular(
                at, name, content, node.size if source is not None else 0, owner, mode, times, attributes
            )
        elif node.kind == SYMLINK:
            self._placer.symlink(at, name, node.text, owner, times, attributes)
        elif node.kind == WHITEOUT and self._mark:
            self._placer.whiteout(at, name, owner)
        elif node.kind == WHITEOUT:
            self._placer.regular(at, name, _Content(None, self._memory), 0, owner, 0, times)
        else:
            device = (_NODES[node.kind], os.major(node.size), os.minor(node.size))
            self._placer.node(at, name, device, owner, mode, times, attributes)

    def _into_place(self, at: int, temporary: bytes, name: bytes) -> None:
        try:
            if stat.S_ISDIR(os.lstat(name, dir_fd=at).st_mode):
                remove_at(at, name)
        except FileNotFoundError:
            pass
        if _is_same(at, temporary, name):
            os.unlink(temporary, dir_fd=at)  # rename does nothing with two names of one file
        else:
            os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)

    def _facts(self, node: Node) -> tuple[Owner, int]:
        """Owner and mode on disk."""
        owner, mode = self._real_facts(node)
        if self._force_mask is not None and node.facts is not None:
            mode = self._force_mask
        return owner, mode

    def _real_facts(self, node: Node) -> tuple[Owner, int]:
        if node.facts is None:
            return (0, 0) if self._tree.whole else self._mappings.root(), _IMPLIED_MODE
        mode, uid, gid = node.facts
        try:
            return self._mappings.to_host(uid, gid), mode
        except InvalidMappings:
            return self._mappings.to_host_or_overflow(uid, gid), mode

    def _attributes(self, node: Node) -> dict[bytes, bytes]:
        attributes = self._tree.attributes(node)
        if self._force_mask is None or node.facts is None or node.kind in (SYMLINK, WHITEOUT):
            return attributes
        device = (os.major(node.size), os.minor(node.size)) if node.kind in _DEVICES else (0, 0)
        return {**attributes, OVERRIDE: override(*self._real_facts(node), node.kind, device)}

    def _settle_attributes(self, at: int, name: bytes, node: Node) -> None:
        wanted = self._attributes(node)
        for key in xattrs.read_beneath(at, name, is_compared).keys() - wanted.keys():
            xattrs.remove_beneath(at, name, key)
        xattrs.write_beneath(at, name, wanted)
        if isinstance(node, Directory) and self._mark and not self._tree.whole:
            if node.opaque:
                xattrs.write_beneath(at, name, {os.fsencode(self._mark): b"y"})
            else:
                xattrs.remove_beneath(at, name, os.fsencode(self._mark))


class _Content:
    """The content of a file that is copied: what `stream/place` asks of a payload."""

    def __init__(self, fd: int | None, memory: extents.Memory) -> None:
        self._fd = fd
        self._memory = memory

    def copy(self, fd: int, size: int) -> None:
        if self._fd is not None:
            is_sparse = os.fstat(self._fd).st_blocks * _BLOCK_SIZE < size
            extents.clone_or_copy(self._fd, fd, size, self._memory, sparse=is_sparse)

    def pieces(self, size: int) -> Iterator[memoryview]:
        raise AssertionError("content that is copied has no holes of its own")


def _base(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _temporary() -> bytes:
    return files.TEMPORARY.encode() + b"orlop" + os.urandom(8).hex().encode()


def _is_same(at: int, one: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(one, dir_fd=at), os.lstat(other, dir_fd=at))
    except FileNotFoundError:
        return False
