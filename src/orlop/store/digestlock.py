"""Locks by digest, for what several programs must not do at once, such as pulling one blob (`spec/locking.md` 8).

The file is `<run root>/<driver>-locks/<digest>`, as the peers have it. Nothing of the store is locked by it.
"""

from __future__ import annotations

import os

from orlop.model.digest import Digest
from orlop.system import files
from orlop.system.locks import LockFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from orlop.store.engine import Engine


class DigestLock:
    """A context manager: exclusive, or shared among readers. Not reentrant; threads exclude each other too."""

    def __init__(
        self, engine: Engine, digest: str, *, shared: bool = False, timeout: float | None = None
    ) -> None:
        # The text becomes a file name: `sha256:../../x` must not get so far (CVE-2024-3727).
        self.digest = Digest.parse(digest)
        self.shared = shared
        self._timeout = timeout if timeout is not None else engine.options.lock_timeout
        place = engine.place("locks", run=True)
        files.make_own_dir(place)  # the file is made, and a link would have us make it elsewhere
        self._lock = LockFile.at(os.path.join(place, self.digest))
        self._seen: bytes | None = None

    def __enter__(self) -> Self:
        self._lock.acquire("r" if self.shared else "w", self._timeout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def touch(self) -> None:
        """Tell other holders, past `changed`, that what the lock protects was changed. Held exclusively only."""
        self._seen = self._lock.renew()

    def changed(self) -> bool:
        """Whether another holder has touched the lock since this object looked last; True at the first look."""
        token = self._lock.token()
        before, self._seen = self._seen, token
        return before != token
