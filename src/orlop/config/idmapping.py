"""Id maps out of what somebody typed: triples of numbers, or the name of a user with ids of his own set aside.

(`spec/userns.md` 1.2.) The drop-in has rules of its own, `dropin/creating`; this is what programs use.
"""

from __future__ import annotations

import os

from orlop.errors import InvalidMappings, StorageError
from orlop.model.idmap import IDMap, IDMappings, parse
from orlop.system import subids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def parse_id_mappings(
    uid_specs: Iterable[str] = (),
    gid_specs: Iterable[str] = (),
    *,
    subuid_user: str = "",
    subgid_group: str = "",
) -> IDMappings:
    """The maps of users and groups that are asked for; a kind for which nothing is asked stays empty: the host's ids.

    Args:
        uid_specs, gid_specs: texts `container:host:size`, or several such triples joined by `:`. If only one kind has
            any, they are for both.
        subuid_user, subgid_group: whose ids in /etc/subuid and /etc/subgid come first; one name is for both.

    Without anything, whoever is not root gets himself, as 0.

    Raises:
        InvalidMappings: a malformed text, or nothing is set aside for the user or the group.
    """
    users, groups = list(uid_specs), list(gid_specs)
    users, groups = users or groups, groups or users
    user, group = subuid_user or subgid_group, subgid_group or subuid_user
    if not (users or user) and os.getuid() != 0:
        return IDMappings([IDMap(0, os.getuid(), 1)], [IDMap(0, os.getgid(), 1)])
    aside = IDMappings()
    if user:
        try:
            aside = subids.mappings_of(user, group)
        except (StorageError, OSError) as error:
            raise _failure(f"NewIDMappings for uidmap={user} gidmap={group}", error) from error
    return IDMappings((*aside.uids, *_parsed("UID", users)), (*aside.gids, *_parsed("GID", groups)))


def _parsed(kind: str, specs: list[str]) -> tuple[IDMap, ...]:
    try:
        return parse(specs, setting=kind)
    except InvalidMappings as error:
        raise _failure(f"Parse{kind}Map {kind}=[{' '.join(specs)}]", error) from error


def _failure(what: str, error: Exception) -> InvalidMappings:
    text = f"failed to create {what}: "
    peer = error.peer if isinstance(error, StorageError) else str(error)
    return InvalidMappings(text + str(error), peer=text + peer)
