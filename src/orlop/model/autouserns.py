"""What is asked of an automatic user namespace (`spec/userns.md` 4)."""

from __future__ import annotations

from orlop.model.idmap import IDENTITY, IDMappings
from orlop.model.value import Value

_LARGEST = 0xFFFF_FFFF


class AutoUserNS(Value):
    """Id maps for a container, cut from what is set aside for containers so that no other one has the same ids.

    Attributes:
        size: how many ids of users, and of groups, from 0 on; 0 for as many as the image needs.
        initial_size: at least so many, if `size` is 0.
        passwd_file, group_file: paths on the host, read in the place of the image's files; "" for the image's own.
        additional: entries that the maps have besides, exactly as they are given here.
    """

    __slots__ = __match_args__ = ("size", "initial_size", "passwd_file", "group_file", "additional")

    size: int
    initial_size: int
    passwd_file: str
    group_file: str
    additional: IDMappings

    def __init__(
        self,
        *,
        size: int = 0,
        initial_size: int = 0,
        passwd_file: str = "",
        group_file: str = "",
        additional: IDMappings = IDENTITY,
    ) -> None:
        """Raises `ValueError` for a number of ids that no map can have."""
        for name, value in (("size", size), ("initial_size", initial_size)):
            if not 0 <= value <= _LARGEST:
                raise ValueError(f"{name}: wanted a number of ids from 0 to {_LARGEST}; found {value}")
        self._fill(size, initial_size, passwd_file, group_file, additional)
