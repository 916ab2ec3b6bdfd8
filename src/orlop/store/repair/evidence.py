"""What images say about layers, where a record and a tar-split file contradict each other."""

from __future__ import annotations

import os

from orlop.store.repair.rebuild import configuration_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.store.check.look import Look


class Evidence:
    def __init__(self, look: Look) -> None:
        self._look = look
        self._digests: dict[str, set[str]] | None = None

    def says(self, layer: str, digest: str | None, *, not_: str) -> bool:
        """Whether an image's configuration has `digest` for a layer, and none has `not_`."""
        if self._digests is None:
            self._digests = {}
            for table in self._look.images:
                for id, document in table.by_id.items():
                    chain = list(self._look.chain(document.get("layer") or ""))[::-1]
                    told = configuration_in(os.path.join(table.directory, id)) if chain else None
                    if told is not None and len(told.diff_ids) == len(chain):
                        for below, diff_id in zip(chain, told.diff_ids, strict=True):
                            self._digests.setdefault(below, set()).add(diff_id)
        found = self._digests.get(layer, set())
        return digest in found and not_ not in found

    def needs(self, top: str, lost: set[str]) -> bool:
        """Whether one of these layers is `top`, or below it."""
        last = top
        for last in self._look.chain(top):
            if last in lost:
                return True
        found = self._look.layer(last)
        below = found[1].get("parent") if found is not None else last
        return below in lost
