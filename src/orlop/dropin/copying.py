"""Copying files into and out of layers (`spec/cli.md` 8.6)."""

from __future__ import annotations

import os

from orlop.dropin.streams import Refusal
from orlop.dropin.text import describe, quote, system_text
from orlop.errors import StorageError
from orlop.formats.limits import OWNER_MAX
from orlop.stream.pathcopy import Tree
from orlop.stream.pathcopy import copy as copy_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from orlop.dropin.streams import Call


def copy(call: Call) -> int:
    """Each source is looked up when it is its turn; the first failure ends the command."""
    owner = _owner(call.values.text("chown"))
    *sources, last = call.args
    with _Place(call, last) as target:
        for word in sources:
            with _Place(call, word) as source:
                try:
                    copy_path(
                        source.tree,
                        source.path,
                        target.tree,
                        target.path,
                        keep_name=target.is_open_ended,
                        owner=owner,
                        in_userns=call.store.options.rootless,
                    )
                except (StorageError, OSError) as error:
                    reason = describe(error)
                    if isinstance(error, OSError) and error.filename == source.path:
                        error.filename = source.shown
                        reason = system_text(error, "stat")
                    raise Refusal(
                        f"error copying {quote(source.shown)} to {quote(target.shown)}: {reason}"
                    ) from error
        target.sync()
    return 0


class _Place:
    """`LAYER:PATH` or a path of the host. A block in which the layer is mounted."""

    def __init__(self, call: Call, word: str) -> None:
        self._call = call
        self._layer, self._colon, path = word.partition(":")
        self._word = path if self._colon else word

    @property
    def is_open_ended(self) -> bool:
        """A path of the host that ends in a slash leaves the name to the file."""
        return not self._colon and self._word.endswith("/")

    def __enter__(self) -> Self:
        if not self._colon:
            self.tree = Tree("/").__enter__()
            self.shown = self._word
            self.path = os.fsencode(os.path.join(os.getcwd(), self._word))
            return self
        store = self._call.store
        layer = store.layers.get(self._layer)
        if layer is None:
            raise Refusal(f"error finding layer {quote(self._layer)}: layer not known")
        self._id = layer.id
        try:
            point = store.mount(layer.id, label=layer.mount_label)
        except (StorageError, OSError) as error:
            raise Refusal(f"error mounting layer {quote(layer.id)}: {describe(error)}") from error
        try:
            self.tree = Tree(point, layer.mappings).__enter__()
        except BaseException:
            self._unmount()
            raise
        # Cleaned, so that it names one thing whether or not it ends in a slash, and never climbs.
        cleaned = os.path.normpath("/" + self._word.lstrip("/"))
        self.shown = os.path.normpath(point + cleaned)
        self.path = os.fsencode(cleaned)
        return self

    def sync(self) -> None:
        """What success was told of survives power loss."""
        if self._colon and self._call.store.durability == "full":
            self._call.store.driver().sync(self._id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tree.__exit__(kind, error, trace)
        if self._colon:
            self._unmount()

    def _unmount(self) -> None:
        """A failure is told, and is none of the command's."""
        try:
            self._call.store.unmount(self._id)
        except (StorageError, OSError) as error:
            self._call.complain(f"error unmounting layer {quote(self._id)}: {describe(error)}")


def _owner(text: str) -> tuple[int, int] | None:
    """`UID` or `UID:GID`."""
    if not text:
        return None
    uid, colon, gid = text.partition(":")
    return _number(uid, "UID"), _number(gid if colon else uid, "GID")


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit()):
        problem = "invalid syntax"
    elif len(text) > 20 or int(text) > OWNER_MAX:
        problem = "value out of range"
    else:
        return int(text)
    raise Refusal(f"bad {what}: strconv.ParseUint: parsing {quote(text)}: {problem}")
