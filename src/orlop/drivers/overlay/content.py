"""What a layer consists of: its `diff`, older ones, or an image of names with the data apart (`spec/drivers.md` 4.1).

<id>/diff              what the layer changes; with composefs: data, in files named by digest
<id>/diff1, diff2 ...  what it consisted of before it was re-owned, newest first
<id>/composefs-data    with composefs: the names (`composefs`)
<id>/empty             what a layer with nothing below it has there
"""

from __future__ import annotations

import os
import stat

from orlop.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOBS = "composefs-data"
"""In a layer's directory: holds the image of its names, if it has one."""

_OVERRIDE = "user.containers.override_stat"
_LAST_ID = 2**32 - 2


class Content:
    """A directory of files. `link` is the layer's short name, if it was found by that.

    `is_blob`: the files are data only, and an image has their names.
    """

    __slots__ = ("home", "id", "is_blob", "link", "name")

    def __init__(self, home: str, id: str, name: str, *, link: str = "", is_blob: bool = False) -> None:
        self.home = home
        self.id = id
        self.name = name
        self.link = link
        self.is_blob = is_blob

    @property
    def layer(self) -> str:
        """The directory of the layer."""
        return f"{self.home}/{self.id}"

    @property
    def directory(self) -> str:
        return f"{self.home}/{self.id}/{self.name}"

    @property
    def place(self) -> str:
        """The directory relative to the home, as short as can be: there may be many in one mount."""
        return f"l/{self.link}" if self.link else f"{self.id}/{self.name}"

    @property
    def is_older(self) -> bool:
        """Whether it is what a layer consisted of before it was re-owned."""
        return self.name not in ("diff", "empty")

    def older(self) -> list[Content]:
        """What the layer consisted of before, newest first."""
        return [Content(self.home, self.id, name) for name in older(self.layer)]


def content_of(directory: str, link: str = "") -> Content:
    """The content of the layer in `directory`.

    Raises:
        FileNotFoundError: there is none.
        NotSupported: it lies elsewhere, in an additional layer store.
    """
    try:
        status = os.lstat(f"{directory}/diff")
    except FileNotFoundError as error:
        error.strerror = "the layer has no content"
        raise
    if not stat.S_ISDIR(status.st_mode):
        raise NotSupported(
            f"the content of the layer at {directory} is kept in an additional layer store, which this version "
            "cannot read",
            path=directory,
        )
    home, id = os.path.split(directory)
    return Content(home, id, "diff", link=link, is_blob=os.path.lexists(f"{directory}/{BLOBS}"))


def older(directory: str) -> list[str]:
    """`diff1`, `diff2`, ... as far as there are any."""
    return list(_older(directory))


def _older(directory: str) -> Iterator[str]:
    number = 1
    while os.path.lexists(f"{directory}/diff{number}"):
        yield f"diff{number}"
        number += 1


# --- making it ----------------------------------------------------------------------------------------------


def make(path: str, mode: int, owner: tuple[int, int], force_mask: int | None) -> None:
    """Make an empty `diff`. With a force mask the real owner and mode go to an attribute."""
    os.mkdir(path, 0o700)
    settle(path, mode if force_mask is None else force_mask, owner)
    if force_mask is not None:
        override = f"{owner[0]}:{owner[1]}:{mode:04o}:dir"
        os.setxattr(path, _OVERRIDE, override.encode(), follow_symlinks=False)


def owner_and_mode(path: str, overridden: bool) -> tuple[tuple[int, int], int]:
    """Of a layer's root. The attribute counts only in a store with a force mask: else a container may have set it."""
    status = os.lstat(path)
    if overridden:
        try:
            uid, gid, mode = os.getxattr(path, _OVERRIDE, follow_symlinks=False).split(b":")[:3]
            owner = int(uid), int(gid)
            if 0 <= min(owner) <= max(owner) <= _LAST_ID:  # -1 and what lies beyond are nobody's
                return owner, int(mode, 8)
        except (OSError, ValueError):
            pass  # made before there was a force mask
    return (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)


def settle(path: str, mode: int, owner: tuple[int, int]) -> None:
    """Owner and mode of a directory just made: not what umask, or a setgid directory above, made of them."""
    os.chown(path, *owner, follow_symlinks=False)
    os.chmod(path, mode)
