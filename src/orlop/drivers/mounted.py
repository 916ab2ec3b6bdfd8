"""Unpacking into a layer that has to be mounted for it. (Its own module: a listing of layers needs no unpacker.)"""

from __future__ import annotations

from orlop.stream.unpack import Unpacker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from orlop.drivers.api import Driver
    from orlop.model.idmap import IDMappings


class MountedUnpacker(Unpacker):
    """Layer rules, in a layer that is mounted for the length of the block."""

    def __init__(
        self,
        driver: Driver,
        id: str,
        *,
        label: str,
        mappings: IDMappings,
        ignore_chown_errors: bool,
        in_userns: bool,
        keep_fds: Sequence[int],
    ) -> None:
        super().__init__(
            "",  # known when it is mounted
            rules="layer",
            mappings=mappings,
            ignore_chown_errors=ignore_chown_errors,
            in_userns=in_userns,
            keep_fds=keep_fds,
        )
        self._driver = driver
        self._id = id
        self._label = label

    def __enter__(self) -> Self:
        self._directory = self._driver.mount(self._id, label=self._label)
        try:
            return super().__enter__()
        except BaseException:
            self._driver.unmount(self._id)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._driver.unmount(self._id)
