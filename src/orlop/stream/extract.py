"""The confined side of unpacking: what the names of an archive do to the tree (`spec/archive.md` 5.2, 5.3).

Runs as a worker of `system.confine`; `stream.unpack` feeds it. Two sets of rules, chosen by where the tree is used:

    layer   the tree is the merged one. A whiteout deletes, here and now.
    tree    the tree is a difference, the upper directory of an overlay. A whiteout is kept, as overlay writes it.

Rule 1: Names decide nothing by their text. A parent directory is whatever `system.beneath` finds inside the root.
Rule 2: The root stays a directory (CVE-2021-29136).
Rule 3: Directories get their times last, when nothing changes them any more, and only if they still are the very
        directories that this archive made: fix-ups by name were how links got followed (CVE-2021-31566).
Rule 4: Memory does not grow with the archive, but for the directories to finish and the names that an opaque mark
        may ask for; both are kept as plain bytes.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from marshal import loads
from mmap import PROT_READ, mmap

from orlop.errors import BadArchive, StorageError, UnsafePath
from orlop.formats import whiteout
from orlop.formats.tarsplit import clean_name, parted, quoted
from orlop.model.idmap import IDMap, IDMappings
from orlop.stream.linkstash import LinkStash
from orlop.stream.place import OVERRIDE, Placer, directory_times, file_times, override, symlink_times
from orlop.stream.ring import RING_SIZE, Payload
from orlop.system.beneath import DIRECTORY, Root, remove_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from orlop.stream.place import Source
    from orlop.stream.ring import Record
    from orlop.system.confine import Link

REGULAR, HARD_LINK, SYMLINK, CHAR, BLOCK, DIR, FIFO, GLOBAL = b"0123456g"
_NODES = {CHAR: stat.S_IFCHR, BLOCK: stat.S_IFBLK, FIFO: stat.S_IFIFO}

_NO_EXTRA: tuple[Any, ...] = (b"", 0, 0, None, None, 0)
_DIRECTORY_NOTE = struct.Struct("<QQqqI")  # device, inode, atime, mtime, length of the path that follows


def run(link: Link, options: dict[str, Any]) -> list[str]:
    """The worker: takes entries until the archive ends (`stream.ring`). Returns what was left out, in sentences."""
    payload = Payload(link, memoryview(mmap(link.lent[0], RING_SIZE, prot=PROT_READ)))
    extractor = Extractor(link.root, umask=link.umask, **options)
    while (message := link.receive()) is not None:
        order = loads(message)
        if order is None:
            return extractor.finish()
        payload.available += order[0]
        for record in order[1]:
            payload.due = record[5]
            extractor.apply(record, payload)
            if payload.due:
                payload.discard()
        payload.acknowledge()
    raise BrokenPipeError(errno.EPIPE, "the parent is gone")


class Extractor:
    """Applies entries to the tree below `root`. Used by one thread, in one pass: `apply` ..., `finish`.

    `whiteouts` is the attribute that marks opaque directories, or None to keep whiteouts as plain files (for tree
    rules). `umask` is that of the caller and tells the mode of directories that the archive does not name.
    """

    def __init__(
        self,
        root: Root,
        *,
        rules: str,
        uids: list[tuple[int, int, int]],
        gids: list[tuple[int, int, int]],
        umask: int = 0o022,
        ignore_chown_errors: bool = False,
        in_userns: bool = False,
        whiteouts: str | None = None,
        force_mask: int | None = None,
    ) -> None:
        self._root = root
        mappings = IDMappings([IDMap(*m) for m in uids], [IDMap(*m) for m in gids])
        self._layer_rules = rules == "layer"
        self._opaque_mark = whiteouts
        self._force_mask = force_mask
        self._root_override = b"0:0:0755:dir"
        self._place = Placer(
            mappings,
            ignore_chown_errors=ignore_chown_errors,
            in_userns=in_userns,
            change_owner=force_mask is None,
        )
        # Directories that the archive implies: root's under layer rules, whatever the maps say; else mapped root's.
        self._implied_mode = 0o755 if self._layer_rules else 0o777 & ~umask
        self._implied_owner = None if self._layer_rules else mappings.root()
        self._directories = bytearray()  # _DIRECTORY_NOTE and path, for each
        self._names = Names()
        self._links: LinkStash | None = None

    def apply(self, record: Record, source: Source) -> None:
        """Do what one entry says. `source` holds its payload, which may be left there."""
        name = record[1]
        try:
            self._apply(record, source)
        except StorageError as error:
            error.facts.setdefault("name", name)
            raise
        except OSError as error:
            # What failed was one name in an open directory; which entry it was is what helps.
            target = record[8][0] if record[0] == HARD_LINK and record[8] else None
            raise OSError(error.errno, error.strerror, name, None, target) from error
        except (ValueError, OverflowError) as error:
            raise BadArchive(f"entry {quoted(name)} cannot be made: {error}", name=name) from error

    def _apply(self, record: Record, source: Source) -> None:
        kind, name, mode, uid, gid, size, mtime, atime, extra = record
        if kind == GLOBAL:
            return
        name, directory, base = parted(name)
        if not base:
            self._apply_to_root(record)
            return
        if b".wh." in name and self._is_message(record, name, directory, base, source):
            return
        at = self._parent(directory)
        linkname, major, minor, xattrs, sparse, real_size = extra or _NO_EXTRA
        if self._layer_rules:
            if kind == HARD_LINK and clean_name(linkname).startswith(whiteout.LINKS):
                (kind, _, mode, uid, gid, size, mtime, atime, extra), source = self._stash().find(linkname)
                linkname, major, minor, xattrs, sparse, real_size = extra or _NO_EXTRA
            self._names.add(name)
        owner = self._place.owner(uid, gid)
        mode &= 0o7777
        if xattrs:
            xattrs = self._place.settable(xattrs)
        if self._force_mask is not None:
            if kind not in (SYMLINK, HARD_LINK):
                xattrs = {**(xattrs or {}), OVERRIDE: override(owner, mode, kind, (major, minor))}
            if kind in _NODES:
                kind = REGULAR
            mode = self._force_mask
        device = (_NODES.get(kind, 0), major, minor)
        holes = None if sparse is None else (sparse, real_size)
        facts = (kind, name, size, owner, mode, atime, mtime, linkname, device, xattrs, holes)
        try:
            self._make(at, directory, base, source, *facts)
        except FileExistsError:
            self._remove(at, base)
            self._make(self._parent(directory), directory, base, source, *facts)

    def _make(
        self,
        at: int,
        directory: bytes,
        base: bytes,
        source: Source,
        kind: int,
        name: bytes,
        size: int,
        owner: tuple[int, int],
        mode: int,
        atime: int | None,
        mtime: int,
        linkname: bytes,
        device: tuple[int, int, int],
        xattrs: dict[bytes, bytes] | None,
        holes: tuple[list[tuple[int, int]], int] | None,
    ) -> None:
        """Make one thing. FileExistsError, with nothing done, if its name is taken; a directory is reused."""
        place = self._place
        if kind == REGULAR:
            place.regular(at, base, source, size, owner, mode, file_times(atime, mtime), xattrs, holes)
        elif kind == DIR:
            fd, status = place.directory(at, base, owner, mode, xattrs)
            self._root.adopt(name, fd)
            self._finish_later(name, status, atime, mtime)
        elif kind == SYMLINK:
            place.symlink(at, base, linkname, owner, symlink_times(atime, mtime), xattrs)
        elif kind == HARD_LINK:
            # Its parents may be symlinks, and end inside the root too. Getting them may close `at`.
            above, _, target = clean_name(b"/" + linkname)[1:].rpartition(b"/")
            link = (self._root.directory(above), target or b".")
            at = self._root.directory(directory)
            place.hard_link(at, base, *link, owner, mode, file_times(atime, mtime), xattrs)
        elif kind in _NODES:
            place.node(at, base, device, owner, mode, file_times(atime, mtime), xattrs)
        else:
            text = f"unhandled tar header type {kind}"
            raise BadArchive(f"{text} of entry {quoted(name)}", peer=text, type=kind)

    def close(self) -> None:
        if self._links is not None:
            self._links.close()
            self._links = None

    # --- places -----------------------------------------------------------------------------------------------

    def _parent(self, directory: bytes) -> int:
        try:
            return self._root.directory(directory)
        except FileNotFoundError:
            self._make_parents(directory)
            return self._root.directory(directory)

    def _make_parents(self, directory: bytes) -> None:
        """Make the directories on the way that the archive does not name, from the root on."""
        parts = directory.split(b"/")
        for depth in range(1, len(parts) + 1):
            path = b"/".join(parts[:depth])
            try:
                self._root.directory(path)
                continue
            except FileNotFoundError:
                at = self._root.directory(b"/".join(parts[: depth - 1]))
            try:
                os.mkdir(parts[depth - 1], self._implied_mode, dir_fd=at)
            except FileExistsError:
                # A symlink that leads nowhere inside the root. It is not made to lead somewhere.
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
            fd = os.open(parts[depth - 1], DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            self._root.adopt(path, fd)
            if self._implied_owner is not None:
                self._place.give(fd, self._implied_owner)

    def _remove(self, at: int, base: bytes) -> None:
        """Remove what stands at a name; absence is fine. `at` is not valid afterwards."""
        try:
            kind = stat.S_IFMT(os.stat(base, dir_fd=at, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        remove_at(at, base)
        if kind in (stat.S_IFDIR, stat.S_IFLNK):
            self._root.forget()

    # --- the root and directories -----------------------------------------------------------------------------

    def _apply_to_root(self, record: Record) -> None:
        kind, name, mode, uid, gid, _, mtime, atime, extra = record
        if kind != DIR:
            raise UnsafePath(
                f"entry {quoted(name)} would make the root of the layer something else than a directory",
                name=name,
                type=kind,
            )
        owner = self._place.owner(uid, gid)
        mode &= 0o7777
        self._root_override = override(owner, mode, kind, (0, 0))
        if not self._layer_rules and clean_name(name) == b".":
            return  # the peers ignore it there, when it is spelt so
        xattrs = self._place.settable((extra or _NO_EXTRA)[3] or {})
        if self._force_mask is not None:
            mode = self._force_mask
        status = self._place.redo_directory(self._root.fd, name, owner, mode, xattrs)
        self._finish_later(b"", status, atime, mtime)

    def _finish_later(self, path: bytes, status: os.stat_result, atime: int | None, mtime: int) -> None:
        times = directory_times(atime, mtime)
        self._directories += _DIRECTORY_NOTE.pack(status.st_dev, status.st_ino, *times, len(path))
        self._directories += path

    def finish(self) -> list[str]:
        """Times of directories, which nothing changes any more. Returns what was left out, in sentences."""
        at = 0
        noted = self._directories
        while at < len(noted):
            device, inode, atime, mtime, length = _DIRECTORY_NOTE.unpack_from(noted, at)
            at += _DIRECTORY_NOTE.size
            path = bytes(noted[at : at + length])
            at += length
            if not path:
                os.utime(self._root.fd, ns=(atime, mtime))
                continue
            directory, _, base = path.rpartition(b"/")
            try:
                parent = self._root.directory(directory)
                status = os.stat(base, dir_fd=parent, follow_symlinks=False)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error
            # A file system soon gives the number of what was removed to something else.
            if stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) == (device, inode):
                os.utime(base, ns=(atime, mtime), dir_fd=parent, follow_symlinks=False)
        if self._force_mask is not None:
            os.setxattr(self._root.fd, OVERRIDE, self._root_override)
        return self._place.warnings.sentences()

    # --- whiteouts --------------------------------------------------------------------------------------------

    def _is_message(self, record: Record, name: bytes, directory: bytes, base: bytes, source: Source) -> bool:
        """Obey an entry that is a message and no file. False: it is a file after all."""
        whites_out = base.startswith(whiteout.PREFIX)
        # Refused before anything is touched, under all rules: what is a layer here is one elsewhere.
        hidden = whiteout.hidden_by(base) if whites_out else b""
        if not self._layer_rules:
            if not whites_out or self._opaque_mark is None:
                return False
            self._keep_whiteout(record, directory, base, hidden)
            return True
        if not whites_out and not name.startswith(whiteout.META):
            return False
        at = self._parent(directory)
        if name.startswith(whiteout.META) and name != whiteout.OPAQUE:
            if record[0] == REGULAR and name.startswith(whiteout.LINKS):
                self._stash().keep(base, record, source)
        elif base == whiteout.OPAQUE:
            self._remove_older(directory)
        else:
            self._remove(at, hidden)
        return True

    def _keep_whiteout(self, record: Record, directory: bytes, base: bytes, hidden: bytes) -> None:
        """Write a whiteout as overlay does: a device without a number, or a mark on the directory."""
        assert self._opaque_mark is not None
        try:
            at = self._parent(directory)
        except NotADirectoryError:
            if base == whiteout.OPAQUE:
                raise
            return  # the directory is itself whited out, and with it what was in it
        owner = self._place.owner(record[3], record[4])
        if base == whiteout.OPAQUE:
            os.setxattr(at, self._opaque_mark, b"y")
        else:
            self._place.whiteout(at, hidden, owner)

    def _stash(self) -> LinkStash:
        if self._links is None:
            self._links = LinkStash(self._root.fd)
        return self._links

    def _remove_older(self, directory: bytes) -> None:
        """Remove what is in a directory and was not unpacked from this archive, by name, in any order.

        A symlink in the directory's place is not followed, so nothing is in it.
        """
        keep = self._names.all()
        waiting = [directory]
        while waiting:
            path = waiting.pop()
            try:
                fd = self._root.open(path, DIRECTORY | os.O_NOFOLLOW)
            except NotADirectoryError:
                return
            try:
                with os.scandir(fd) as entries:
                    found = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries]
                for base, is_directory in found:
                    child = path + b"/" + base if path else base
                    if child not in keep:
                        remove_at(fd, base)
                    elif is_directory:
                        waiting.append(child)
            finally:
                os.close(fd)
        self._root.forget()


class Names:
    """The names that were unpacked, for opaque marks.

    Few archives have one, so the names are only strung together, until they are asked for the first time.
    """

    def __init__(self) -> None:
        self._text = bytearray()
        self._set: set[bytes] | None = None

    def add(self, name: bytes) -> None:
        if self._set is None:
            self._text += name
            self._text += b"\0"
        else:
            self._set.add(name)

    def all(self) -> set[bytes]:
        if self._set is None:
            self._set = set(bytes(self._text).split(b"\0"))
            self._text.clear()
        return self._set
