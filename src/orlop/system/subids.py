"""Which ids of others a user may use in his namespaces: /etc/subuid and /etc/subgid (`spec/userns.md` 3).

LIMIT: a directory service behind libsubid is not asked. Its users are told that nothing is set aside for them.
"""

from __future__ import annotations

import os

from orlop.errors import ConfigError, StorageError
from orlop.model.idmap import IDMap, IDMappings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    Kind = Literal["uid", "gid"]
    Range = tuple[int, int]
    """The first id, and how many."""

FILES = {"uid": "/etc/subuid", "gid": "/etc/subgid"}


def parse_subordinate_ids(data: bytes, owner: str, *, uid: int | None, file: str) -> tuple[Range, ...]:
    """The ranges that a subuid or subgid file gives to `owner`, whose number is `uid` if there is such a user.

    The owner `ALL` gets everybody's. Raises `ConfigError`, naming `file`, if a line is malformed: what the lines
    before it say would be half of what the administrator meant.
    """
    found = []
    for line in os.fsdecode(data).split("\n"):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        fields = line.split(":")
        if len(fields) != 3:
            text = f"cannot parse subuid/gid information: Format not correct for {file} file"
            raise ConfigError(text, peer=text, path=file)
        if owner in (fields[0], "ALL") or (uid is not None and fields[0] == str(uid)):
            found.append((_id(fields[1], file), _id(fields[2], file)))
    return tuple(found)


def _id(text: str, file: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 1 << 32:
        return int(text)
    problem = "value out of range" if text.isascii() and text.isdigit() else "invalid syntax"
    text = f'string to int conversion failed during subuid/gid parsing of {file}: parsing "{text}": {problem}'
    raise ConfigError(text, peer=text, path=file)


def subordinate_ids(owner: str, kind: Kind, *, file: str | None = None) -> tuple[Range, ...]:
    """The ranges set aside for a user, by name or number; none is a possible answer.

    Groups are looked up like users: that is how the peers read subgid. `OSError` if there is no such file.
    """
    from orlop.system import accounts

    path = file or FILES[kind]
    try:
        uid = accounts.user(owner).uid
    except StorageError:  # a name is enough; a line that has a number is not for somebody without one
        uid = None
    with open(path, "rb") as lines:
        return parse_subordinate_ids(lines.read(), owner, uid=uid, file=path)


def maps_of(ranges: Iterable[Range]) -> tuple[IDMap, ...]:
    """Ranges as maps: in the order of their ids, those of the container running on from 0."""
    maps = []
    first = 0
    for start, count in sorted(ranges):
        maps.append(IDMap(first, start, count))
        first += count
    return tuple(maps)


def mappings_of(user: str, group: str) -> IDMappings:
    """The maps made of all that is set aside for a user and a group; `ConfigError` if that is nothing."""
    uids = subordinate_ids(user, "uid")
    gids = subordinate_ids(group, "gid")
    if not uids:
        text = f'no subuid ranges found for user "{user}" in {FILES["uid"]}'
        raise ConfigError(text, peer=text, user=user)
    if not gids:
        text = f'no subgid ranges found for group "{group}" in {FILES["gid"]}'
        raise ConfigError(text, peer=text, group=group)
    return IDMappings(maps_of(uids), maps_of(gids))
