"""A directory tree, or a list of its changes, into a tar stream (`spec/archive.md` 3 and 4).

    for piece in pack_tree("/path/of/layer", mappings=layer.mappings): ...

The result is a tar in pieces: `bytes`, or an open file of which so many bytes are to be sent (`FilePiece`). Small
files are read at once, and gathered with their headers.

Rule 1: the tree may be a running container's. Everything is reached by one name in an open directory (`Descent`), so
        nothing leads outside (CVE-2018-15664). No device is opened by surprise: a file is opened after a handle that
        cannot read (`O_PATH`) turned out to be a regular file, or where no device can be opened (`Descent.guard`).
Rule 2: header and content of a file come from the same handle. A file that shrank meanwhile is an error, one that
        grew is cut at the size in its header: the stream stays a tar.
Rule 3: what cannot be prepared (it vanished, its owner has no number in the container) is left out, and `on_skip`
        is told. What cannot be read once it was prepared ends the stream with an error: a layer that lacks content
        must not look complete.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from orlop.errors import InvalidMappings
from orlop.formats import whiteout
from orlop.formats.tarheader import BLOCK, BLOCK_DEVICE, CHAR, HARD_LINK, REGULAR, SYMLINK, TYPES, Entry
from orlop.model.changes import DELETED
from orlop.model.idmap import IDENTITY
from orlop.stream.lowers import Lowers, is_whiteout
from orlop.stream.pieces import FilePiece
from orlop.stream.writer import TRAILER, encode, padding
from orlop.system import descent, xattrs
from orlop.system.descent import GONE, GUARD_AFTER, Descent, names_of, open_unnoticed, place_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from orlop.model.changes import Change
    from orlop.model.idmap import IDMappings
    from orlop.stream.pieces import Piece

    OnSkip = Callable[[bytes, Exception], None]

SMALL = 1 << 16
"""Files up to this size are read into the piece that holds their header; larger ones go out by handle."""

GATHERED = 1 << 20
"""A piece of gathered headers and small files is handed out when it has reached this size."""

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_NOT_PREPARED = GONE | {errno.EACCES, errno.EPERM}
_SECOND = 1_000_000_000


def pack_tree(
    root: str,
    *,
    mappings: IDMappings = IDENTITY,
    include: Sequence[bytes] = (b".",),
    whiteouts: str | None = None,
    lowers: Sequence[str] = (),
    exact_times: bool = False,
    on_skip: OnSkip | None = None,
) -> Iterator[Piece]:
    """The tree below `root` as a tar; the root itself is no entry. A directory comes before its content, names in
    order of their bytes. If `root` is not a directory it is the only entry.

    Args:
        mappings: owners in the stream are the container's; the tree has the host's.
        include: paths below `root` to walk, in this order; what two of them share is packed once.
        whiteouts: the tree is the upper directory of an overlay, and this attribute marks its opaque directories
            (`xattrs.OPAQUE` or `xattrs.OPAQUE_ROOTLESS`). Whiteouts become `.wh.` entries.
        lowers: the lower directories of that overlay, nearest first. They decide whether a mark is needed.
        exact_times: to the nanosecond, for copies. Layers have whole seconds, as the peers write them.
        on_skip: told (path, error) of each entry that had to be left out.
    """
    try:
        at = Descent(root)
    except NotADirectoryError:
        directory, name = os.path.split(root)
        at = Descent(directory or ".")
        include = (os.fsencode(name),)
    with at, Lowers(lowers) as below:
        packer = _Packer(
            mappings,
            on_skip,
            whiteouts=whiteouts,
            lowers=below,
            once=len(include) > 1,
            time_step=1 if exact_times else _SECOND,
        )
        for path in include:
            yield from packer.tree(at, path)
        yield packer.gathered(TRAILER)


def pack_handle(
    handle: int, name: bytes, *, mappings: IDMappings = IDENTITY, on_skip: OnSkip | None = None
) -> Iterator[Piece]:
    """What an open handle (`O_PATH`) is of, as a tar with this one entry `name` and exact times."""
    packer = _Packer(mappings, on_skip, time_step=1)
    status = os.fstat(handle)
    if not stat.S_ISSOCK(status.st_mode):
        yield from packer.pieces(packer.opened(handle, status, name, name))
    yield packer.gathered(TRAILER)


def pack_changes(
    root: str,
    changes: Iterable[Change],
    mappings: IDMappings = IDENTITY,
    *,
    on_skip: OnSkip | None = None,
) -> Iterator[Piece]:
    """The changed paths of the tree below `root` as a tar, in order of their bytes; deletions become whiteouts.

    Hard links are seen among the listed paths only. `on_skip` is told (path, error) of what had to be left out.
    """
    now_ns = (time.time_ns() + _SECOND // 2) // _SECOND * _SECOND
    packer = _Packer(mappings, on_skip)
    with Descent(root) as at:
        for change in sorted(changes, key=lambda change: change.path):
            parents, name = place_of(change.path)
            if change.kind == DELETED:
                deleted = b"/".join([*parents, whiteout.hiding(name)])
                packer.put(encode(Entry(deleted, mtime_ns=now_ns)))
                continue
            path = b"/".join([*parents, name])
            try:
                at.go(parents)
            except OSError as error:
                packer.skip(path, error)
                continue
            piece = packer.entry(at.fd, name, path)
            if piece is not None or packer.size >= GATHERED:
                yield from packer.pieces(piece)
        yield packer.gathered(TRAILER)


class _Packer:
    """What one stream remembers: the inodes it has named, the owners it has translated, the bytes it gathers."""

    def __init__(
        self,
        mappings: IDMappings,
        on_skip: OnSkip | None,
        *,
        whiteouts: str | None = None,
        lowers: Lowers | None = None,
        once: bool = False,
        time_step: int = _SECOND,
    ) -> None:
        self._mappings = mappings
        self._mapped = bool(mappings)
        self._owners: dict[tuple[int, int], tuple[int, int]] = {}
        self._on_skip = on_skip
        self._time_step = time_step  # nanoseconds
        self._mark = os.fsencode(whiteouts or "")
        self._wanted = xattrs.archived if whiteouts is None else _archived_and(whiteouts)
        self._lowers = lowers or Lowers()
        self._first: dict[tuple[int, int], bytes] = {}  # (device, inode) -> the name that was written for it
        self._packed: set[bytes] | None = set() if once else None
        self._parts: list[bytes] = []
        self.size = 0  # of the gathered parts

    # --- bytes ----------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        self._parts.append(data)
        self.size += len(data)

    def gathered(self, end: bytes = b"") -> bytes:
        self._parts.append(end)
        piece = b"".join(self._parts)
        self._parts.clear()
        self.size = 0
        return piece

    def pieces(self, file: FilePiece | None) -> Iterator[Piece]:
        """What was gathered, then the file whose header came last."""
        yield self.gathered()
        if file is not None:
            size = file.size
            yield file  # from here on it is the consumer's
            self.put(padding(size))

    def skip(self, path: bytes, error: Exception) -> None:
        """Leave an entry out, for one of the reasons for which that is right; raise any other error."""
        if isinstance(error, OSError) and error.errno not in _NOT_PREPARED:
            raise error
        if self._on_skip is not None:
            self._on_skip(path, error)

    # --- walking --------------------------------------------------------------------------------------------

    def tree(self, at: Descent, included: bytes) -> Iterator[Piece]:
        """The entry `included` and all below it; for the root, what is below it."""
        *parents, name = names_of(included) or [b"."]
        try:
            at.go(parents)
        except OSError as error:
            self.skip(included, error)
            return
        if name == b".":
            prefix, first = b"", iter(at.entries())
        else:
            prefix = b"".join(parent + b"/" for parent in parents)
            first = iter([(name, descent.DIRECTORY, 0)])
        levels = [
            (len(prefix), first)
        ]  # how long the prefix of each is: of a deep tree they would be gigabytes
        seen = 0
        while levels:
            length, entries = levels[-1]
            prefix = prefix[:length]
            for name, kind, _ in entries:
                path = prefix + name
                if kind == descent.DIRECTORY and self._directory(at, name, path):
                    listed = at.entries()
                    prefix = path + b"/"
                    levels.append((len(prefix), iter(listed)))
                    seen += len(listed)
                    if seen >= GUARD_AFTER:
                        seen = 0
                        at.guard()
                    if self.size >= GATHERED:
                        yield self.gathered()
                    break
                if kind == descent.FILE and at.guarded and self._packed is None:
                    piece = self._guarded_file(at, name, path)
                else:
                    piece = self.entry(at.fd, name, path)
                if piece is not None or self.size >= GATHERED:
                    yield from self.pieces(piece)
            else:
                levels.pop()
                if levels:
                    at.leave()

    def _directory(self, at: Descent, name: bytes, path: bytes) -> bool:
        """Enter a directory and put its header. False if it cannot be entered: then it is an entry like others."""
        try:
            at.enter(name)
        except OSError as error:
            if error.errno not in GONE:  # else something stands there that was put in its place meanwhile
                self.skip(path, error)
            return False
        if not self._is_new(path):
            return True
        try:
            header = self._header(name, path + b"/", at.status)
            header.xattrs = found = xattrs.read(at.fd, self._wanted)
        except (OSError, InvalidMappings) as error:
            self.skip(path, error)
            return True
        opaque = bool(found) and found.pop(self._mark, None) == b"y"
        self.put(encode(header))
        if opaque and self._lowers.find(path) is not None:
            mode, uid, gid = header.mode & 0o777, header.uid, header.gid
            self.put(encode(Entry(path + b"/" + whiteout.OPAQUE, mode=mode, uid=uid, gid=gid)))
        return True

    def entry(self, dir_fd: int, name: bytes, path: bytes) -> FilePiece | None:
        """Put the entry `name` of an open directory. The content of a large file is returned, to be sent next."""
        try:
            handle = os.open(name, _LOOK, dir_fd=dir_fd)
        except OSError as error:
            self.skip(path, error)
            return None
        try:
            status = os.fstat(handle)
            if stat.S_ISSOCK(status.st_mode) or not self._is_new(path):
                return None
            if self._mark and is_whiteout(status):
                self._put_whiteout(path, name, status)
                return None
            return self.opened(handle, status, name, path)
        finally:
            os.close(handle)

    def _put_whiteout(self, path: bytes, name: bytes, status: os.stat_result) -> None:
        """A deleted name of an overlay. Its owner is the host's root whatever the maps, and means nothing.

        Never a hard link, although the kernel gives all its whiteouts one inode: unpacked, a link to a file that
        marks another deletion would be an ordinary file, or none.
        """
        header = Entry(path.removesuffix(name) + whiteout.hiding(name))
        header.uid, header.gid = status.st_uid, status.st_gid
        header.mtime_ns = status.st_mtime_ns // _SECOND * _SECOND
        self.put(encode(header))

    def opened(self, handle: int, status: os.stat_result, name: bytes, path: bytes) -> FilePiece | None:
        """`entry`, for an open handle."""
        is_dir = stat.S_ISDIR(status.st_mode)
        inode = (status.st_dev, status.st_ino) if status.st_nlink > 1 and not is_dir else None
        try:
            header = self._header(name, path + b"/" if is_dir else path, status)
            if header.type == SYMLINK:
                header.linkname = os.readlink(b"", dir_fd=handle)
            if inode in self._first:
                header.type, header.linkname, header.size = HARD_LINK, self._first[inode], 0
            header.xattrs = xattrs.read_handle(handle, self._wanted)
        except (OSError, InvalidMappings) as error:
            self.skip(path, error)
            return None
        piece = None
        if header.size:
            try:
                fd = open_unnoticed(b"/proc/self/fd/%d" % handle, _READ)
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), path) from error
            piece = self._put_file(fd, header)
        else:
            self.put(encode(header))
        if inode is not None:
            self._first.setdefault(inode, path)
        return piece

    def _guarded_file(self, at: Descent, name: bytes, path: bytes) -> FilePiece | None:
        """`entry`, in a guarded descent, for what is a regular file unless somebody replaced it a moment ago."""
        try:
            fd = at.open_guarded(name)
        except OSError:
            return self.entry(at.fd, name, path)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not status.st_size or status.st_nlink > 1:
            os.close(fd)
            return self.entry(at.fd, name, path)
        try:
            header = self._header(name, path, status)
            header.xattrs = xattrs.read(fd, self._wanted)
        except (OSError, InvalidMappings) as error:
            os.close(fd)
            self.skip(path, error)
            return None
        return self._put_file(fd, header)

    def _put_file(self, fd: int, header: Entry) -> FilePiece | None:
        """Put the header of a file that has content, and the content if it is small. `fd` is taken over."""
        try:
            block = encode(header)
            if header.size > SMALL:
                self.put(block)
                piece = FilePiece(fd, header.size, name=header.name)
                fd = -1
                return piece
            data = _read_exactly(fd, header)
        finally:
            if fd >= 0:
                os.close(fd)
        self._parts += (block, data, bytes(-header.size % BLOCK))
        self.size += len(block) + header.size
        return None

    def _header(self, name: bytes, path: bytes, status: os.stat_result) -> Entry:
        """What lstat says, as a header. Raises InvalidMappings for an owner that the maps do not cover."""
        mode, uid, gid = status.st_mode, status.st_uid, status.st_gid
        if self._mapped and not name.startswith(whiteout.PREFIX):
            owner = self._owners.get((uid, gid))
            if owner is None:
                owner = self._owners[uid, gid] = self._mappings.to_container(uid, gid)
            uid, gid = owner
        type = TYPES[mode & 0o170000]
        size = status.st_size if type == REGULAR else 0
        mtime = status.st_mtime_ns // self._time_step * self._time_step
        header = Entry(path, b"", type, mode & 0o7777, uid, gid, size, mtime)
        if type in (CHAR, BLOCK_DEVICE):
            header.devmajor, header.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        return header

    def _is_new(self, path: bytes) -> bool:
        if self._packed is None:
            return True
        if path in self._packed:
            return False
        self._packed.add(path)
        return True


def _archived_and(mark: str) -> Callable[[str], bool]:
    return lambda name: name == mark or xattrs.archived(name)


def _read_exactly(fd: int, header: Entry) -> bytes:
    """The content that the header promises. The file may have grown since, but not shrunk."""
    data = os.read(fd, header.size)
    while len(data) < header.size:
        more = os.read(fd, header.size - len(data))
        if not more:
            raise FilePiece(-1, header.size, name=header.name).shrunk(len(data))
        data += more
    return data
