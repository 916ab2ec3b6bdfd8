"""A layer whose files belong to others than those of the layer below (`spec/drivers.md` 4.9).

The files are re-owned through the mounted layer, so the kernel copies each of them up into `diff`. That is moved to
`diff1`, which from then on is the first of the layers below, and a new `diff` takes what changes later: so what was
re-owned does not look like a change.
"""

from __future__ import annotations

import os
import stat

from orlop.drivers.overlay import content


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
