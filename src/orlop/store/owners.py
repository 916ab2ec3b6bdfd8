"""Who owns the directories above a mount point (`spec/mounting.md` 6.3)."""

from __future__ import annotations

import os

from orlop.errors import InvalidMappings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.idmap import IDMappings


def owners_above(mount_point: str, mappings: IDMappings) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """User and group ids, ascending, of the ancestors of `mount_point` (but `/`) that `mappings` do not contain."""
    root_uid, root_gid = mappings.root()
    uids: set[int] = set()
    gids: set[int] = set()
    at = os.path.dirname(mount_point)
    while at != "/":
        for found in (os.stat(at), os.lstat(at)):
            if not _mapped(mappings, found.st_uid, root_gid):
                uids.add(found.st_uid)
            if not _mapped(mappings, root_uid, found.st_gid):
                gids.add(found.st_gid)
        at = os.path.dirname(at)
    return tuple(sorted(uids)), tuple(sorted(gids))


def _mapped(mappings: IDMappings, uid: int, gid: int) -> bool:
    try:
        mappings.to_container(uid, gid)
    except InvalidMappings:
        return False
    return True
