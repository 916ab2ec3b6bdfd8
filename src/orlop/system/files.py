"""Our own files: replaced whole, made durable, removed. The only atomic replace and the only fsync of the project.

A caller names the promise it needs. *Atomic*: readers see the old content or the new, never half. *Durable*: still
there after a power loss, once the call has returned.

Rule 1: A file is written beside its name, synced if it is to be durable, and renamed; then the directory is synced.
Rule 2: A failed fsync is final. The kernel has forgotten what it could not write and a second try would report
        success, so the temporary file is dropped and the error raised.
Rule 3: What is not durable is never synced: neither volatile records nor anything below the run root.
Rule 4: What is opened must be what was meant: a regular file or a directory, never what a symlink names, and opening
        never waits. A FIFO in the place of a record would otherwise stop us for ever.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.errors import LimitExceeded, UnsafePath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from _typeshed import ReadableBuffer


TEMPORARY = ".tmp-"
"""How the names of unfinished files begin, with us and with the peers. Readers ignore such files."""

_BATCH = 1 << 20


class AtomicFile:
    """A file under way to its name. Made by `replacing`; leaving the block puts it there, an error drops it."""

    def __init__(self, path: str, mode: int, durable: bool, directory: str) -> None:
        self.path = path
        self._mode = mode
        self._durable = durable
        self._directory = directory
        self._fd = -1
        self._temporary = ""
        self._mtime_ns: int | None = None

    @property
    def fd(self) -> int:
        """The open file; for what writes to a descriptor by itself."""
        if self._fd < 0:
            raise RuntimeError(f'"{self.path}" is not being written')
        return self._fd

    @property
    def mtime_ns(self) -> int:
        """When the new content was written: what `stat` of the path says until somebody replaces it again."""
        if self._mtime_ns is None:
            raise RuntimeError(f'"{self.path}" is not written yet')
        return self._mtime_ns

    def write(self, data: ReadableBuffer) -> None:
        """Append all of `data`."""
        try:
            write_all(self.fd, data)
        except OSError as error:
            self._name(error)
            raise

    def __enter__(self) -> Self:
        # The name of a big-data item may be as long as a file name can be: cut what is only there for people.
        name = os.fsdecode(os.fsencode(os.path.basename(self.path))[:230])
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        while self._fd < 0:
            self._temporary = f"{self._directory}/{TEMPORARY}{name}{int.from_bytes(os.urandom(4), 'little')}"
            try:
                self._fd = os.open(self._temporary, flags, 0o600)
            except FileExistsError:
                pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        except BaseException as failure:
            self._drop(failure)
            raise
        if error is not None:
            self._drop(error)

    def _name(self, error: OSError) -> None:
        """Tell an error the path, which a descriptor does not know: "no space left" is little help without it."""
        if error.filename is None:
            error.filename = self.path

    def _finish(self) -> None:
        if self._durable:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._name(error)
                raise
        self._mtime_ns = os.fstat(self._fd).st_mtime_ns
        os.fchmod(self._fd, self._mode)
        fd, self._fd = self._fd, -1
        os.close(fd)
        os.rename(self._temporary, self.path)
        self._temporary = ""
        if self._durable:
            sync_dir(os.path.dirname(self.path) or ".")

    def _drop(self, reason: BaseException) -> None:
        """Remove the temporary file; failing at that is told, but the first error is the one that counts."""
        try:
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)
        except OSError as error:
            reason.add_note(f'closing the unfinished "{self._temporary}" failed, too: {error}')
        try:
            if self._temporary:
                os.unlink(self._temporary)
        except FileNotFoundError:
            pass
        except OSError as error:
            reason.add_note(f'the unfinished "{self._temporary}" stays: {error}')


def write_all(fd: int, data: ReadableBuffer) -> None:
    """Write all of `data`, in as many pieces as it takes."""
    left = memoryview(data).cast("B")
    while left:
        left = left[os.write(fd, left) :]


def replacing(path: str, *, mode: int = 0o600, durable: bool, temp_dir: str | None = None) -> AtomicFile:
    """A block that writes a new content for `path`, which appears there when the block ends without an error.

    `temp_dir` is where the file grows, if not beside its name: a directory that is swept of unfinished files
    (`clear_temporaries`), on the same file system.
    """
    return AtomicFile(path, mode, durable, temp_dir or os.path.dirname(path) or ".")


def write_atomic(path: str, data: bytes | Iterable[bytes], *, mode: int = 0o600, durable: bool) -> int:
    """Replace the content of `path`; its new modification time in nanoseconds, taken before anybody can see it."""
    with replacing(path, mode=mode, durable=durable) as out:
        if isinstance(data, bytes):
            out.write(data)
        else:
            for batch in _batches(data):
                out.write(batch)
    return out.mtime_ns


def _batches(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """The pieces joined to blocks worth a system call, without ever holding all of them."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _BATCH:
            yield b"".join(held)
            held.clear()
            size = 0
    yield b"".join(held)


def open_regular(path: str, *, follow_symlinks: bool = False, dir_fd: int | None = None) -> int:
    """A regular file, open for reading. `dir_fd` is its directory, for those who made sure of that.

    Raises `FileNotFoundError`, `UnsafePath` for anything but a regular file (a symlink too, unless
    `follow_symlinks`).
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_symlinks else os.O_NOFOLLOW)
    try:
        fd = os.open(path if dir_fd is None else os.path.basename(path), flags, dir_fd=dir_fd)
    except OSError as error:
        error.filename = path
        if error.errno == errno.ELOOP and not follow_symlinks:
            raise UnsafePath(f'"{path}" is a symbolic link, not a file', path=path) from error
        if error.errno == errno.ENXIO:
            raise UnsafePath(f'"{path}" is a socket or a device, not a file', path=path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UnsafePath(f'"{path}" is not a regular file', path=path)
    return fd


def nameless(directory: int | str) -> int:
    """A new file without a name on the file system of a directory: a descriptor for reading and writing."""
    at = (
        os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if isinstance(directory, str)
        else directory
    )
    try:
        return _nameless(at)
    finally:
        if at != directory:
            os.close(at)


def _nameless(directory: int) -> int:
    try:
        return os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    # Some network and FUSE file systems: a name for a moment. Here the times of the directory do move.
    name = b".orlop-" + os.urandom(8).hex().encode()
    fd = os.open(
        name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
    )
    os.unlink(name, dir_fd=directory)
    return fd


def read(path: str, *, limit: int | None = None, follow_symlinks: bool = False) -> bytes:
    """The content of a regular file.

    Raises what `open_regular` does, and `LimitExceeded` if there are more than `limit` bytes.
    """
    return read_open(open_regular(path, follow_symlinks=follow_symlinks), path, limit=limit)


def read_open(fd: int, path: str, *, limit: int | None = None) -> bytes:
    """The same of a file that is open, and closed then; `path` is for the error."""
    try:
        status = os.fstat(fd)
        most = status.st_size if limit is None else min(status.st_size, limit)
        blocks: list[bytes] = []
        size = 0
        # One byte more than there should be: the end is seen without another call, and so is a file that grows.
        while block := os.read(fd, max(most + 1 - size, 1 << 16)):
            blocks.append(block)
            size += len(block)
            if limit is not None and size > limit:
                raise LimitExceeded(
                    f'"{path}" has more than the {limit} bytes allowed', path=path, limit=limit
                )
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)
    finally:
        os.close(fd)


def make_dirs(path: str, mode: int = 0o700) -> None:
    """Make a directory and those above it that are missing, all of them with `mode`. It may be there already.

    (`os.makedirs` gives its mode to the last one only; under a umask of 0 anybody could write to the others.)
    """
    missing = [path]
    there = ""
    while missing:
        try:
            os.mkdir(missing[-1], mode)
        except FileNotFoundError:
            parent = os.path.dirname(missing[-1].rstrip("/"))
            if not parent or parent in (missing[-1], there):  # /proc says so, too: nothing can be made there
                raise
            missing.append(parent)
        except FileExistsError:
            if not os.path.isdir(missing[-1]):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), missing[-1]) from None
            there = missing.pop()
        else:
            there = missing.pop()


def make_own_dir(path: str, mode: int = 0o700) -> bool:
    """Make a directory of the store's own unless it is there, with those above it; whether it was made.

    Raises:
        UnsafePath: something else is there. Through a link we would write, or delete, wherever it leads.
    """
    try:
        os.mkdir(path, mode)
    except FileNotFoundError:
        make_dirs(path, mode)
    except FileExistsError:
        if not is_directory(path):
            what = "a link" if os.path.islink(path) else "no directory"
            text = f'"{path}" is {what}, and should be a directory of the store\'s own'
            raise UnsafePath(text, path=path) from None
        return False
    return True


def is_directory(path: str) -> bool:
    """Whether there is a directory at `path`: no symlink to one, which would have us work on whatever it names."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        from orlop.system.descent import GONE

        if error.errno not in GONE:
            raise
        return False


def sync_dir(path: str) -> None:
    """Make durable which names a directory holds."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync_dir(fd)
    finally:
        os.close(fd)


def _sync_dir(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if (
            error.errno != errno.EINVAL
        ):  # a file system that cannot sync a directory says so; there is nothing to do
            raise


def sync_filesystem(path_or_fd: str | int) -> None:
    """Make durable all that was written to the file system of a path: one call for any number of files."""
    from orlop.system import libc

    if isinstance(path_or_fd, int):
        libc.syncfs(path_or_fd)
        return
    fd = os.open(path_or_fd, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.syncfs(fd)
    finally:
        os.close(fd)


def clear_temporaries(directory: str) -> int:
    """Remove the unfinished files that dead processes left in a directory; how many there were.

    The caller holds the lock under which such files are made there, so whoever made these is gone.
    """
    try:
        names = [name for name in os.listdir(directory) if name.startswith(TEMPORARY)]
    except FileNotFoundError:
        return 0
    removed = 0
    for name in names:
        try:
            os.unlink(os.path.join(directory, name))
            removed += 1
        except (FileNotFoundError, IsADirectoryError):
            pass  # a directory is none of ours
    return removed


def remove_tree(path: str, *, workers: int = 1) -> None:
    """Remove a directory with all below it, or a single file; `system/removal.py` says how."""
    from orlop.system import removal

    removal.remove_tree(path, workers=workers)
