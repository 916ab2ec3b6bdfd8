"""Findings about the places of layers, in the words that all drivers share."""

from __future__ import annotations

import os

from orlop.model.findings import DAMAGE, Finding
from orlop.model.timestamp import Timestamp


class LayerFaults:
    """Gathers what is wrong with one layer. `directory` is its place; `read_only`: in an additional store."""

    def __init__(self, id: str, directory: str, *, read_only: bool) -> None:
        self.found: list[Finding] = []
        self._id = id
        self._directory = directory
        self._read_only = read_only

    def damage(self, code: str, path: str, what: str, remedy: str) -> None:
        """`what` follows the path in the sentence; `remedy` is what a repair would do, "" for nothing."""
        text = f"layer {self._id}: {path} {what}"
        self.found.append(
            Finding(
                code,
                DAMAGE,
                "layer",
                text,
                id=self._id,
                path=path,
                remedy="" if self._read_only else remedy,
                since=changed(path, self._directory),
                read_only=self._read_only,
                peers=() if self._read_only else (text,),
            )
        )


def changed(*paths: str) -> Timestamp | None:
    """When the first of these that is there was last changed, its metadata included."""
    for path in paths:
        try:
            return Timestamp.from_ns(os.lstat(path).st_ctime_ns)
        except (OSError, ValueError):
            continue
    return None
