"""A layer whose files belong to others than those of the layer below (`spec/drivers.md` 4.9).

The files are re-owned through the mounted layer, so the kernel copies each of them up into `diff`. That is moved to
`diff1`, which from then on is the first of the layers below, and a new `diff` takes what changes later: so what was
re-owned does not look like a change.
"""

from __future__ import annotations

import errno
import os
import stat

from orlop.drivers.api import LayerFiles
from orlop.drivers.overlay import content

_METACOPY = "trusted.overlay.metacopy"


def rotate(directory: str, owner: tuple[int, int], force_mask: int | None) -> None:
    """Give a layer, which is not mounted, a new and empty content that belongs to `owner`."""
    from orlop.system import files

    mode = stat.S_IMODE(os.lstat(f"{directory}/diff").st_mode)
    older = ["diff", *content.older(directory)]
    for number, name in reversed(list(enumerate(older, 1))):
        os.rename(f"{directory}/{name}", f"{directory}/diff{number}")
    # What the kernel keeps in there belongs to the content that it was mounted with.
    files.remove_tree(f"{directory}/work")
    os.mkdir(f"{directory}/work", 0o700)
    os.chown(f"{directory}/work", *owner, follow_symlinks=False)
    os.chmod(f"{directory}/work", 0o555)
    content.make(f"{directory}/diff", mode, owner, force_mask)


class OlderFiles(LayerFiles):
    """The files of older content by name, but for those that have no data: with `metacopy=on` just their owners were
    copied up, and what is in them is further below."""

    def __init__(self, directory: str) -> None:
        from orlop.drivers.layerfiles import DirectoryFiles

        self._files = DirectoryFiles([directory])

    def close(self) -> None:
        self._files.close()

    def open(self, name: bytes) -> int:
        fd = self._files.open(name)
        try:
            os.getxattr(fd, _METACOPY)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):
                return fd
            os.close(fd)
            raise
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "the file's data are further below", os.fsdecode(name))
