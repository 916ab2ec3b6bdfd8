"""Readers and writers among the threads of one process, made of nothing but `_thread` locks.

Threads queue in order of arrival: neither readers nor writers starve. Not reentrant: a reader that asks again waits
behind a writer that came in between, which waits for the reader. What waits in a process whose other threads, if any,
only work for it waits for itself; that is an error instead of a hang.
"""

from __future__ import annotations

import _thread
import time

from orlop.system import starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    Mode = Literal["r", "w"]
    Turn = tuple[Mode, _thread.LockType]


class WaitsForItself(Exception):
    """The only thread of this process is inside, and wants to wait until it is not."""


class Turns:
    """Either any number of "r" or one "w" inside."""

    __slots__ = ("_inside", "_mode", "_mutex", "_queue")

    def __init__(self) -> None:
        self._mutex = _thread.allocate_lock()  # never held while waiting
        self._inside = 0
        self._mode: Mode | None = None
        self._queue: list[Turn] = []

    @property
    def mode(self) -> Mode | None:
        return self._mode

    def take(self, mode: Mode, deadline: float | None, on_wait: Callable[[], object]) -> bool:
        """Get inside; False if the deadline passed first. `on_wait` is called before waiting.

        Raises:
            WaitsForItself: at once, whatever the deadline.
        """
        with self._mutex:
            if not self._queue and self._admits(mode):
                self._admit(mode)
                return True
            if left(deadline) == 0:
                return False
            if starting.only_ours():
                raise WaitsForItself
            turn = (mode, _thread.allocate_lock())
            turn[1].acquire()
            self._queue.append(turn)
        try:
            on_wait()
            turn[1].acquire(timeout=left(deadline))
        except BaseException:  # a signal handler raised; the turn may have come all the same
            if not self._withdraw(turn):
                self.leave()
            raise
        return not self._withdraw(turn)

    def leave(self, when_last: Callable[[], object] | None = None) -> None:
        """Go out. The last one of all calls `when_last` before anybody else is let in."""
        with self._mutex:
            if not self._inside:
                raise RuntimeError("nobody is inside")
            try:
                if self._inside == 1 and when_last is not None:
                    when_last()
            finally:
                self._inside -= 1
                if self._inside == 0:
                    self._mode = None
                self._admit_waiting()

    def _admits(self, mode: Mode) -> bool:
        return self._inside == 0 or mode == self._mode == "r"

    def _admit(self, mode: Mode) -> None:
        self._inside += 1
        self._mode = mode

    def _admit_waiting(self) -> None:
        while self._queue and self._admits(self._queue[0][0]):
            mode, gate = self._queue.pop(0)
            self._admit(mode)
            gate.release()

    def _withdraw(self, turn: Turn) -> bool:
        """Leave the queue; False if the turn had come."""
        with self._mutex:
            if turn not in self._queue:
                return False
            self._queue.remove(turn)
            self._admit_waiting()  # a writer that gave up may be all that readers were waiting for
            return True


def left(deadline: float | None) -> float:
    """Seconds until a deadline of `time.monotonic()`; -1, which is for ever to a thread lock, without one."""
    if deadline is None:
        return -1
    return min(max(0.0, deadline - time.monotonic()), _thread.TIMEOUT_MAX)
