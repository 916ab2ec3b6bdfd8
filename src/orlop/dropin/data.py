"""Data items and directories of layers, images and containers (`spec/cli.md` 6.8 and 6.9)."""

from __future__ import annotations

import io
import os

from orlop.dropin.streams import OUT, OutputLost, Refusal, write_all
from orlop.dropin.text import quote, system_text
from orlop.errors import LayerUnknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from orlop.dropin.streams import Call
    from orlop.store.data import Data

_STEP = 1 << 20


def opened(path: str) -> BinaryIO:
    """The file that `--file` names, or standard input, which stays open.

    Raises:
        Refusal: it cannot be opened.
    """
    if not path:
        return io.FileIO(0, "rb", closefd=False)
    try:
        return open(path, "rb", buffering=0)
    except IsADirectoryError as error:  # which can be opened, but for Python
        raise Refusal(system_text(error, "read")) from error
    except OSError as error:
        raise Refusal(system_text(error, "open")) from error


def created(path: str) -> Target:
    """The file that `--file` names, made or emptied now, or standard output.

    Raises:
        Refusal: it cannot be made.
    """
    if not path:
        return Target(OUT)
    try:
        return Target(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
    except OSError as error:
        raise Refusal(system_text(error, "open")) from error


class Target:
    """Where raw bytes go; a block at whose end a file is closed."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.fd != OUT:
            os.close(self.fd)  # says now if a remote file system could not keep what was written
        elif isinstance(error, BrokenPipeError):
            raise OutputLost(error) from error


def list_items(call: Call) -> int:
    keys = list(_items(call))
    if call.json:
        call.answer(keys or None)
    else:
        for key in keys:
            call.say(key)
    return 0


def get_item(call: Call) -> int:
    items = _items(call)
    # The file is emptied even if there is no such item; whoever waits for it finds that out by its size.
    with created(call.values.text("file")) as fd, items.open(call.args[1]) as item:
        while data := item.read(_STEP):
            write_all(fd, data)
    return 0


def set_item(call: Call) -> int:
    items = _items(call)
    with opened(call.values.text("file")) as file:
        # All of it before the table is locked: whoever writes into the pipe may be using this store, too.
        data = file.read()
    try:
        items[call.args[1]] = data
    except LayerUnknown as error:  # it was there a moment ago, or lives in an additional store
        text = f"locating layer with ID {quote(items.id)} to write bigdata: {error.peer}"
        raise Refusal(text) from error
    return 0


def get_size(call: Call) -> int:
    call.say(str(_items(call).size(call.args[1])))
    return 0


def get_digest(call: Call) -> int:
    call.say(_items(call).digest(call.args[1]))
    return 0


def get_directory(call: Call) -> int:
    call.say(_collection(call).directory(call.args[0]))
    return 0


def get_run_directory(call: Call) -> int:
    call.say(_collection(call).run_directory(call.args[0]))
    return 0


def _collection(call: Call) -> Any:
    return getattr(call.store, call.command.kind + "s")


def _items(call: Call) -> Data:
    items: Data = _collection(call).data(call.args[0])
    return items
