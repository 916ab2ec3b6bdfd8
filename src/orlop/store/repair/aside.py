"""The old bytes of a file that is written anew."""

from __future__ import annotations

import os

from orlop.errors import StorageError
from orlop.system import files


def keep_aside(path: str, *, durable: bool) -> None:
    """Leave a copy of what a file held beside it, as `<name>.damaged`; of what cannot be read there is none."""
    try:
        data = files.read(path)
    except (OSError, StorageError):
        return
    if data:
        number = 0
        while os.path.lexists(target := f"{path}.damaged{number or ''}"):
            number += 1
        files.write_atomic(target, data, durable=durable)
