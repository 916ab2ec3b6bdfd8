"""Descriptors that a forked child must not have, because its having them would keep a lock taken.

They are noted when they are opened, and closed in every child that Python forks, except those that the forking thread
named in a `keep_in_child` block. (Whatever is executed loses them anyway: they are closed on exec.)
"""

from __future__ import annotations

import _thread
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Guards what follows; never held while waiting, and always held across a fork, so that no descriptor is missed
# between being opened and being noted. Reentrant: a signal handler may fork while its own thread is in here.
_guard = _thread.RLock()
_noted: set[int] = set()
_kept: dict[int, frozenset[int]] = {}  # by thread: what its `keep_in_child` block names


def open_noted(path: str, flags: int, mode: int) -> int:
    """Open a file whose descriptor no child shall have; `close_noted` closes it."""
    with _guard:
        fd = os.open(path, flags | os.O_CLOEXEC, mode)
        _noted.add(fd)
        return fd


def close_noted(fd: int) -> None:
    with _guard:
        _noted.discard(fd)
        os.close(fd)


def keep_in_child(fds: Iterable[int]) -> _Keeping:
    """A block in which this thread forks a child that keeps these descriptors (`LockFile.fileno()`).

    For a worker that changes what the lock protects: if its parent is killed, the lock stays taken until the worker
    has ended, too. The child does not hold the lock in any other sense.
    """
    return _Keeping(frozenset(fds))


class _Keeping:
    __slots__ = ("_before", "_fds")

    def __init__(self, fds: frozenset[int]) -> None:
        self._fds = fds

    def __enter__(self) -> None:
        with _guard:
            self._before = _kept.get(_thread.get_ident(), frozenset())
            _kept[_thread.get_ident()] = self._before | self._fds

    def __exit__(self, *_: object) -> None:
        with _guard:
            _kept[_thread.get_ident()] = self._before
            if not self._before:
                del _kept[_thread.get_ident()]


def _before_fork() -> None:
    _guard.acquire()


def _after_fork() -> None:
    _guard.release()


def _after_fork_in_child() -> None:
    global _guard
    for fd in _noted - _kept.get(_thread.get_ident(), frozenset()):
        os.close(fd)
    _noted.clear()
    _kept.clear()
    _guard = _thread.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
