"""Visiting every directory of a tree, each reached from the one above by one name in it (`system.descent`)."""

from __future__ import annotations

import os

from orlop.system.descent import GONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.system.descent import Descent

    Listed = list[tuple[str, int]]
    """(name, inode) of directories, as the directory that holds them lists them."""
    Visit = Callable[[list[str], int, os.stat_result | None], Listed]


def walk(at: Descent, visit: Visit) -> None:
    """Visit the current directory and all below it; `at` ends where it was.

    `visit(names, inode, above)` is called with `at` in the directory that `names` lead to, and says which ones to
    enter from there. `inode` is what the directory above, with status `above`, listed; None at the top. What is no
    directory any more when its turn comes is passed over; other errors name the directory as seen from the top.
    """
    names: list[str] = []
    waiting = [visit(names, at.status.st_ino, None)]
    while True:
        if waiting[-1]:
            name, inode = waiting[-1].pop()
            above = at.status
            try:
                at.enter(os.fsencode(name))
            except OSError as error:
                if error.errno not in GONE:
                    error.filename = "/".join((*names, name))
                    raise
                continue
            names.append(name)
            waiting.append(visit(names, inode, above))
            continue
        waiting.pop()
        if not waiting:
            return
        names.pop()
        at.leave()
