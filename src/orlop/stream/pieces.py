"""A stream that is made while it is read: a diff.

Whoever produces one yields pieces: `bytes`, or a `FilePiece` whose content the kernel can pass on by itself. Whoever
consumes one holds a `PieceStream`: it reads like a file, writes itself to a descriptor in large steps, and has to be
closed, as a lock or a mount may last as long as it does.

Rule 1. A stream ends only by being complete. An error on the way is raised, and raised again at every later read: a
consumer cannot take a broken stream for a short one.
Rule 2. Whatever happens, closing runs everything that was to run.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from orlop.errors import ContentChanged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Buffer, Callable, Iterable, Iterator  # type: ignore[attr-defined,unused-ignore]
    from types import TracebackType
    from typing import Self

_STEP = 1024 * 1024
_SMALL_FILE = 64 * 1024
_PIPE_SIZE = 1024 * 1024  # the most that anyone may have; the default of 64 KiB means 16 times the switches


class FilePiece:
    """`size` bytes of an open file, from its start. The piece owns the descriptor; `on_sent` is called when all of
    it was handed over, before the next piece is asked for."""

    __slots__ = ("fd", "name", "on_sent", "size")

    def __init__(
        self, fd: int, size: int, *, name: bytes = b"", on_sent: Callable[[], object] | None = None
    ) -> None:
        self.fd = fd
        self.size = size
        self.name = name
        self.on_sent = on_sent

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        # A producer that is closed while it waits to hand the piece over cannot do it.
        self.close()

    def shrunk(self, found: int) -> ContentChanged:
        shown = self.name.decode("utf-8", "backslashreplace")
        return ContentChanged(
            f'file "{shown}" ended after {found} of its {self.size} bytes',
            peer="unexpected EOF",
            name=self.name,
        )


if TYPE_CHECKING:
    Piece = bytes | FilePiece


class PieceStream:
    """Reads the pieces one after the other; `on_close` is called in order when it is closed, also after errors."""

    def __init__(self, pieces: Iterable[Piece], on_close: Iterable[Callable[[], object]] = ()) -> None:
        self._pieces = iter(pieces)
        self._on_close = list(on_close)
        self._bytes = memoryview(b"")  # not read yet
        self._file: FilePiece | None = None  # being read
        self._sent = 0  # of that file
        self._error: BaseException | None = None
        self._ended = self._closed = False

    # --- reading -----------------------------------------------------------------------------------------------

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end; everything if it is negative."""
        if size < 0:
            return b"".join(self)
        data = self._some(size)
        if len(data) == size or not data:
            return bytes(data)
        parts = [data]
        missing = size - len(data)
        while missing and (data := self._some(missing)):
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def readinto(self, buffer: Buffer) -> int:
        """As many bytes as fit, fewer only at the end; says how many."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and (data := self._some(len(view) - filled)):
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def __iter__(self) -> Iterator[bytes]:
        while data := self._some(_STEP):
            yield bytes(data)

    def _some(self, size: int) -> bytes | memoryview:
        """At least one byte and at most `size`; empty at the end (or if `size` is 0)."""
        with _Remembering(self):
            while size:
                if self._bytes:
                    data = self._bytes[:size]
                    self._bytes = self._bytes[size:]
                    return data
                if self._file is not None:
                    if found := self._read_file(self._file, min(size, _STEP)):
                        return found
                elif not self._advance():
                    break
        return b""

    def _read_file(self, file: FilePiece, size: int) -> bytes:
        """The next bytes of the current file; empty if it is done."""
        data = (
            os.pread(file.fd, min(size, file.size - self._sent), self._sent)
            if self._sent < file.size
            else b""
        )
        self._sent += len(data)
        if self._sent == file.size:
            self._done_with(file)
        elif not data:
            raise file.shrunk(self._sent)
        return data

    def _done_with(self, file: FilePiece) -> None:
        self._file = None
        file.close()
        if file.on_sent is not None:
            file.on_sent()

    def _advance(self) -> bool:
        """Take the next piece; False at the end."""
        for piece in self._pieces:
            if isinstance(piece, FilePiece):
                self._file, self._sent = piece, 0
                return True
            if piece:
                self._bytes = memoryview(piece)
                return True
        self._ended = True
        return False

    # --- writing -----------------------------------------------------------------------------------------------

    def write_to(self, fd: int) -> int:
        """Write what is left to `fd`, and say how many bytes that was."""
        total = 0
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            except OSError:
                pass  # a user's share of pipe memory is used up: slower, not wrong
        with _Remembering(self):
            small: list[bytes | memoryview] = []  # pieces collected to be written in one call
            collected = 0
            while True:
                if self._bytes:
                    small.append(self._bytes)
                    collected += len(self._bytes)
                    self._bytes = memoryview(b"")
                elif self._file is None:
                    if not self._advance():
                        break
                elif self._file.size - self._sent <= _SMALL_FILE:
                    # Two calls to the kernel for each small file are more work than copying it.
                    self._bytes = memoryview(self._read_file(self._file, _SMALL_FILE))
                else:
                    total += _write(fd, small)
                    collected = 0
                    total += self._send_file(self._file, fd)
                if collected >= _STEP:
                    total += _write(fd, small)
                    collected = 0
            return total + _write(fd, small)

    def _send_file(self, file: FilePiece, fd: int) -> int:
        start = self._sent
        while self._sent < file.size:
            try:
                count = os.sendfile(fd, file.fd, self._sent, min(file.size - self._sent, 1 << 30))
            except BlockingIOError:
                _wait_writable(fd)
                continue
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
                # Some targets (a file opened for appending) and some file systems cannot.
                count = _write(fd, [os.pread(file.fd, min(file.size - self._sent, _STEP), self._sent)])
            if not count:
                raise file.shrunk(self._sent)
            self._sent += count
        self._done_with(file)
        return self._sent - start

    # --- the end -----------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._closed

    def on_close(self, closer: Callable[[], object]) -> None:
        """Call `closer` after those that are to be called already."""
        self._on_close.append(closer)

    def close(self) -> None:
        """Give up what was not read, and run what was to run at the end."""
        if self._closed:
            return
        self._closed = True
        self._bytes = memoryview(b"")
        closers = list(self._on_close)
        if hasattr(self._pieces, "close"):
            closers.insert(0, self._pieces.close)
        if self._file is not None:
            closers.insert(0, self._file.close)
        first: BaseException | None = None
        for closer in closers:
            try:
                closer()
            except BaseException as error:
                if first is None:
                    first = error
                else:
                    first.add_note(f"and while closing: {error!r}")
        if first is not None:
            raise first

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BaseException as closing:
            if error is None:
                raise
            error.add_note(f"and while closing: {closing!r}")

    def __del__(self) -> None:
        if not self._closed:
            try:  # the warning may be an error, and nothing can be imported while the interpreter ends
                from warnings import warn

                warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            finally:
                self.close()


class _Remembering:
    """The first error of a stream is its error from then on."""

    def __init__(self, stream: PieceStream) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        if self._stream._closed:
            raise ValueError("the stream is closed")
        if self._stream._error is not None:
            raise self._stream._error

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            self._stream._error = error


def _write(fd: int, small: list[bytes | memoryview]) -> int:
    """Write all of the pieces in as few calls as possible, and forget them."""
    data = memoryview(small[0] if len(small) == 1 else b"".join(small))
    small.clear()
    total = len(data)
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            _wait_writable(fd)
    return total


def _wait_writable(fd: int) -> None:
    """A caller may hand over a descriptor that does not block."""
    from select import POLLOUT, poll

    waiting = poll()
    waiting.register(fd, POLLOUT)
    waiting.poll()
