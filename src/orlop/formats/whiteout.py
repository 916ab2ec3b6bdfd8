"""Names in a layer archive that are messages to the layers below (`spec/archive.md` 5).

    d/.wh.x           x, of a lower layer, is gone from d
    d/.wh..wh..opq    whatever lower layers have in d is gone
    .wh..wh.plnk/     at the root of the archive only: files kept for hard links, a habit of aufs

Names are bytes. Nothing here touches a file.
"""

from __future__ import annotations

from orlop.errors import UnsafePath

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
META = b".wh..wh."
LINKS = b".wh..wh.plnk"


def hidden_by(base: bytes) -> bytes:
    """The name that the whiteout `base` deletes: `.wh.x` deletes `x`.

    Raises:
        UnsafePath: for `.wh.`, `.wh..` and `.wh...`, which would delete the directory itself or its parent. The
            peers' layer rules do just that (an archive's `d/.wh.` emptied a whole layer's `d`).
    """
    name = base[len(PREFIX) :]
    if name in (b"", b".", b".."):
        raise UnsafePath(f"whiteout {base!r} names no file of its directory", path=base)
    return name


def hiding(name: bytes) -> bytes:
    """The name of the whiteout that deletes `name`."""
    return PREFIX + name
