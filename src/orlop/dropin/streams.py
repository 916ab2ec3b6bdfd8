"""The two output streams, and what every command is handed.

Rule: what a reader of both streams together sees is in the order in which it was said; scripts merge them. Text is
collected and leaves in one write where nothing forces it out earlier.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from orlop.dropin.commands import Command
    from orlop.dropin.flags import Values
    from orlop.model.record import Record
    from orlop.store.collection import Collection
    from orlop.store.store import Store

    Members = Mapping[str, object]

OUT, ERR = 1, 2
_ENOUGH = 1 << 20  # characters; a listing of a very large store is not held in memory as a whole


class Refusal(Exception):
    """What a command has to say by itself, in the peers' words: printed as it is, and the command failed."""


class OutputLost(Exception):
    """Standard output takes no more; nothing that a command could answer to, so it ends the program."""

    def __init__(self, error: OSError) -> None:
        reason = error.strerror or ""
        super().__init__(f"write /dev/stdout: {reason[:1].lower()}{reason[1:]}")
        self.reader_left = isinstance(error, BrokenPipeError)


class Streams:
    """Collects text for standard output and standard error. `flush` must be called at the end."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._stream = OUT
        self._size = 0

    def out(self, data: str | bytes) -> None:
        self._add(OUT, data)

    def err(self, data: str | bytes) -> None:
        self._add(ERR, data)

    def log(self, level: str, message: str) -> None:
        """A line of the log."""
        from orlop.dropin.text import log_line

        self.err(log_line(level, message))

    def flush(self) -> None:
        """Write what was collected.

        Raises:
            OutputLost: standard output cannot be written. Failures of standard error have nowhere to go.
        """
        data = b"".join(self._pieces)
        self._pieces, self._size = [], 0
        try:
            write_all(self._stream, data)
        except OSError as error:
            if self._stream == OUT:
                raise OutputLost(error) from error

    def _add(self, stream: int, data: str | bytes) -> None:
        if stream != self._stream or self._size > _ENOUGH:
            self.flush()
            self._stream = stream
        # Words of the command line that are not UTF-8 leave as the bytes they came in as.
        self._pieces.append(data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data)
        self._size += len(data)


def write_all(fd: int, data: bytes) -> None:
    """Write everything, also to a pipe that somebody made non-blocking."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            from select import select

            select([], [fd], [])


class Call:
    """One command being run: the open store, the words of the user, and where the answer goes."""

    __slots__ = ("args", "command", "store", "streams", "values")

    def __init__(
        self, store: Store, command: Command, values: Values, args: list[str], streams: Streams
    ) -> None:
        self.store = store
        self.command = command
        self.values = values
        self.args = args
        self.streams = streams

    @property
    def json(self) -> bool:
        """Whether the answer is wanted in JSON."""
        return self.values.on("json")

    def say(self, line: str) -> None:
        """A line on standard output."""
        self.streams.out(line + "\n")

    def complain(self, line: str) -> None:
        """A line on standard error."""
        self.streams.err(line + "\n")

    def warn(self, message: str) -> None:
        """Something odd, which only a log at debug level tells: scripts compare what else is printed."""
        if self.values.on("debug"):
            self.streams.log("warning", message)

    def answer(self, value: object) -> None:
        """A JSON document on standard output; the keys of maps sorted."""
        from orlop.formats import gojson

        self.say(gojson.encode(value))

    def answer_objects(self, objects: Sequence[Members], *, empty: str = "[]") -> None:
        """A JSON array of objects whose members have an order of their own."""
        self.say(f"[{','.join(map(_object, objects))}]" if objects else empty)

    def answer_object(self, members: Members) -> None:
        """One such object."""
        self.say(_object(members))

    def answer_collection(self, collection: Collection[Any], *, empty: str = "[]") -> None:
        """All records of one kind as a JSON array; `empty` is what the command prints for none."""
        text = collection.json()
        self.say(empty if text == "[]" else text)

    def answer_records(self, records: Iterable[Record], *, empty: str = "[]") -> None:
        """A JSON array of records on standard output; `empty` is what the command prints for none."""
        from orlop.formats.records import json_of

        joined = ",".join([json_of(record) for record in records])
        self.say(f"[{joined}]" if joined else empty)


def _object(members: Members) -> str:
    from orlop.formats import gojson

    return "{" + ",".join(f'"{key}":{gojson.encode(value)}' for key, value in members.items()) + "}"
