"""Re-owning every file of a fresh layer from one set of ID maps to another (`spec/drivers.md` 1.4).

The work is done by a worker whose root directory is the layer. It goes by single names in open directories, and
changes no owner but where the maps give another one: on overlay every change copies the file up.

Rule 1: The root directory itself is left to the caller, who knows whether it belongs to the layer.
Rule 2: A changed owner costs setuid and setgid bits and the capability; both are put back.
Rule 3: Files with several names stay one file. Overlay without an index splits them: the changed name becomes a copy
        in the upper layer, the other names go on showing the old file. They are linked to the copy, and the directory
        gets the time back that this costs it: the layer would not be what its archive says.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import InvalidMappings
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import confine
from orlop.system.descent import DIRECTORY, Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Plain = tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]

_CAPABILITY = "security.capability"
_NO_CAPABILITY = frozenset((errno.ENODATA, errno.ENOTSUP, errno.EOVERFLOW))
_SETID = stat.S_ISUID | stat.S_ISGID


def shift_tree(
    root: str, old: IDMappings, new: IDMappings, *, relink: bool = False, keep_fds: Sequence[int] = ()
) -> None:
    """Re-own what lies below the directory `root`: owners on disk are `old`'s, and become `new`'s.

    An owner that `new` does not cover becomes `idmap.OVERFLOW_ID`. `relink` is for fuse-overlayfs: it shows a split
    file as one until it is mounted again, and a new link has the old owner, so every name is linked and re-owned.
    `keep_fds` stay open in the worker.

    Raises:
        InvalidMappings: a file's owner is not covered by `old`, and is not the host's root.
        OSError: with the path below the root.
    """
    if not old and not new:
        return
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        arguments = (_plain(old), _plain(new), relink)
        with confine.start("orlop.stream.idshift:serve", arguments, root=fd, keep=keep_fds) as worker:
            worker.result()
    finally:
        os.close(fd)


def serve(link: confine.Link, old: Plain, new: Plain, relink: bool) -> None:
    """The worker's part. It stands in the layer's root, and /proc is not there."""
    with Descent(".") as walk, Descent(".") as first:
        _Shift(walk, first, _Owners(_mappings(old), _mappings(new)), relink).run()


class _Owners:
    """Whom a file belongs to afterwards. A layer has few owners, so each pair is worked out once."""

    def __init__(self, old: IDMappings, new: IDMappings) -> None:
        self._old = old
        self._new = new
        self._known: dict[tuple[int, int], tuple[int, int]] = {}

    def after(self, uid: int, gid: int) -> tuple[int, int]:
        known = self._known.get((uid, gid))
        if known is None:
            known = self._known[uid, gid] = self._mapped(uid, gid)
        return known

    def _mapped(self, uid: int, gid: int) -> tuple[int, int]:
        inside = (uid, gid)
        if self._old:
            try:
                inside = self._old.to_container(uid, gid)
            except InvalidMappings:
                # What the host's root made in a mapped layer (an implied parent directory) is the container root's.
                if inside != (0, 0):
                    raise
        return self._new.to_host_or_overflow(*inside) if self._new else inside


class _Shift:
    """One walk. `first` is a second descent, to where the first name of a file lies."""

    def __init__(self, walk: Descent, first: Descent, owners: _Owners, relink: bool) -> None:
        self.walk = walk
        self.first = first
        self.owners = owners
        self.relink = relink
        self.path: list[bytes] = []
        # inode -> directory and name by which it was re-owned, and its owner since
        self.done: dict[tuple[int, int], tuple[list[bytes], bytes, tuple[int, int]]] = {}

    def run(self) -> None:
        left = [self._directory()]
        while left:
            if not left[-1]:
                left.pop()
                if left:
                    self.walk.leave()
                    self.path.pop()
                continue
            name = left[-1].pop()
            try:
                self.walk.enter(name)
            except FileNotFoundError:
                continue
            self.path.append(name)
            left.append(self._directory())

    def _directory(self) -> list[bytes]:
        """Re-own the entries of the current directory; the names of its directories, the first one last."""
        os.fchdir(self.walk.fd)
        before = os.fstat(self.walk.fd)
        linked = False
        directories = []
        for name, kind, _ in self.walk.entries():
            try:
                linked |= self._entry(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                error.filename = b"/".join([*self.path, name])
                raise
            if kind == DIRECTORY:
                directories.append(name)
        if linked:
            os.utime(self.walk.fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        directories.reverse()
        return directories

    def _entry(self, name: bytes) -> bool:
        """Re-own one entry; True if it was put into its directory anew."""
        status = os.lstat(name)
        mode = status.st_mode
        owner = (status.st_uid, status.st_gid)
        several = status.st_nlink > 1 and not stat.S_ISDIR(mode)
        if several:
            known = self.done.get((status.st_dev, status.st_ino))
            if known:
                again = self.relink or known[2] != owner
                if again:
                    self._link_again(name, known[0], known[1])
                if self.relink:
                    _give(name, mode, known[2])
                return again
        try:
            after = self.owners.after(*owner)
        except InvalidMappings as error:
            path = os.fsdecode(b"/".join([*self.path, name]))
            text = f"{path!r} belongs to {owner[0]}:{owner[1]}, which the layer's own maps do not cover"
            raise InvalidMappings(text, peer=error.peer, path=path) from None
        if several:
            self.done[status.st_dev, status.st_ino] = (self.path.copy(), name, after)
        if after != owner:
            _give(name, mode, after)
        return False

    def _link_again(self, name: bytes, directory: list[bytes], other: bytes) -> None:
        self.first.go(directory)
        os.unlink(name)
        os.link(other, name, src_dir_fd=self.first.fd, dst_dir_fd=self.walk.fd, follow_symlinks=False)


def _give(name: bytes, mode: int, owner: tuple[int, int]) -> None:
    """Rule 2."""
    capability = b"" if stat.S_ISLNK(mode) else _capability(name)
    os.chown(name, *owner, follow_symlinks=False)
    if mode & _SETID and not stat.S_ISLNK(mode):
        os.chmod(name, stat.S_IMODE(mode))
    if capability:
        os.setxattr(name, _CAPABILITY, capability, follow_symlinks=False)


def _capability(name: bytes) -> bytes:
    try:
        return os.getxattr(name, _CAPABILITY, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_CAPABILITY:
            raise
        return b""


def _plain(mappings: IDMappings) -> Plain:
    uids, gids = (
        tuple([(m.container_id, m.host_id, m.size) for m in maps]) for maps in (mappings.uids, mappings.gids)
    )
    return uids, gids


def _mappings(plain: Plain) -> IDMappings:
    return IDMappings(*[[IDMap(*triple) for triple in triples] for triples in plain])
