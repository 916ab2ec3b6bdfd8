"""Trees deeper than a path may be long, and than Python's own removal (which is recursive) can take away again.

with deep.chain(tmp_path, 1200) as bottom: ...      # `deep/deep/...`; `bottom` is the deepest directory, open
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def chain(root: Path, levels: int) -> Iterator[int]:
    fd = os.open(root, os.O_RDONLY)
    try:
        for _ in range(levels):
            os.mkdir("deep", dir_fd=fd)
            below = os.open("deep", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)
        subprocess.run(["rm", "-rf", root / "deep"], check=True)
