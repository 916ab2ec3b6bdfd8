"""What goes by is counted and hashed: the digests and sizes of a layer record.

Rule 1. A digest or size is what passed here, or what the caller says to know; a claim is never mixed with a
measurement. Both are asked for after the end: earlier is a mistake in the program.
Rule 2. The blob is read in the caller's thread, in large blocks, and never whole.
"""

from __future__ import annotations

import os

from orlop.stream.workers import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    class Readable(Protocol):
        def read(self, size: int, /) -> bytes: ...

    Blob = Readable | int
    """Whatever can be read: an object with `read`, or an open file descriptor."""


BLOCK_SIZE = 1024 * 1024
_WORTH_PASSING_ON = 256 * 1024  # handing a block to a thread costs as much as hashing a few kilobytes


def blocks_of(blob: Blob) -> Iterator[bytes]:
    """The bytes of `blob` from its position to its end, in blocks of 256 KiB to 1 MiB (the last may be smaller)."""
    while True:
        block = read_block(blob, BLOCK_SIZE)
        if 0 < len(block) < _WORTH_PASSING_ON:
            # Pipes and sockets give what they have.
            parts, size = [block], len(block)
            while size < _WORTH_PASSING_ON and (block := read_block(blob, BLOCK_SIZE - size)):
                parts.append(block)
                size += len(block)
            block = b"".join(parts)
        if not block:
            return
        yield block


def read_block(blob: Blob, size: int) -> bytes:
    """At most `size` bytes, and at least one unless the blob is at its end."""
    block = os.read(blob, size) if isinstance(blob, int) else blob.read(size)
    if block is None:
        raise BlockingIOError(f"{blob!r} is not ready: a blob must be a blocking stream")
    if not isinstance(block, bytes):
        raise TypeError(f"{blob!r} gives {type(block).__name__}: a blob must be opened in binary mode")
    return block


class Measured:
    """Hands blocks on; afterwards `digest` ("sha256:...") and `size` say what went by.

    With `known` the digest is taken over and nothing is hashed. A stream of more than one block is hashed in a
    thread: `stop` it when the stream is given up.
    """

    def __init__(self, blocks: Iterable[bytes], *, known: str | None = None) -> None:
        self._blocks = iter(blocks)
        self._digest = known
        self._size = 0
        self._ended = False
        self._worker: Worker | None = None

    def __iter__(self) -> Iterator[bytes]:
        if self._digest is not None:
            for block in self._blocks:
                self._size += len(block)
                yield block
        else:
            yield from self._hashed()
        self._ended = True

    def _hashed(self) -> Iterator[bytes]:
        from hashlib import sha256

        hasher = sha256()
        first = b""
        for block in self._blocks:
            if self._worker is not None:
                self._worker.put(block)
            elif not self._size:
                first = block
            else:
                self._worker = Worker(hasher.update)
                self._worker.put(first)
                self._worker.put(block)
                first = b""
            self._size += len(block)
            yield block
        if self._worker is not None:
            self._worker.finish()
        else:
            hasher.update(first)
        self._digest = f"sha256:{hasher.hexdigest()}"

    @property
    def digest(self) -> str:
        self._after_the_end()
        assert self._digest is not None
        return self._digest

    @property
    def size(self) -> int:
        self._after_the_end()
        return self._size

    def _after_the_end(self) -> None:
        if not self._ended:
            raise ValueError("a measurement was asked for before the stream was read to its end")

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
