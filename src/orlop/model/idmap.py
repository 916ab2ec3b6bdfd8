"""ID maps: which user and group ids of a container are which ids of the host (`spec/userns.md` 1).

Rule 1: an empty list means "no mapping": every id is itself, in both directions.
Rule 2: the first entry that contains an id wins. The order of entries is the caller's and is kept: it matters
        where entries overlap, and the lists are written back to records as they came.
Rule 3: an id that a non-empty list does not cover is an error, never a guess. Guessing gives files to root.
"""

from __future__ import annotations

from orlop.errors import InvalidMappings
from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OVERFLOW_ID = 65534
"""What the kernel shows for an id that a user namespace does not cover, unless an administrator changed it.

The peers mean to ask the kernel, fail at it, and use this number always; a layer must not differ for us.
"""

_LARGEST = 0xFFFF_FFFF


class IDMap(Value):
    """The `size` ids of a container from `container_id` on are the `size` ids of the host from `host_id` on."""

    __slots__ = ("container_id", "host_id", "size")
    __match_args__ = ("container_id", "host_id", "size")

    container_id: int
    host_id: int
    size: int

    def __init__(self, container_id: int, host_id: int, size: int) -> None:
        self._fill(container_id, host_id, size)

    def __str__(self) -> str:
        return f"{self.container_id}:{self.host_id}:{self.size}"

    def as_json(self) -> dict[str, int]:
        """As records hold it (`spec/records.md` 3)."""
        return {key: getattr(self, key) for key in self.__match_args__}


class IDMappings(Value):
    """The maps of users and of groups. False when both are empty, which means identity."""

    __slots__ = ("gids", "uids")
    __match_args__ = ("uids", "gids")

    uids: tuple[IDMap, ...]
    gids: tuple[IDMap, ...]

    def __init__(self, uids: Iterable[IDMap] = (), gids: Iterable[IDMap] = ()) -> None:
        self._fill(tuple(uids), tuple(gids))

    def __bool__(self) -> bool:
        return bool(self.uids or self.gids)

    def to_host(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids of a container's pair. Raises `InvalidMappings` naming the first not covered."""
        return _to_host(self.uids, uid), _to_host(self.gids, gid)

    def to_container(self, uid: int, gid: int) -> tuple[int, int]:
        """The container's ids of a host's pair. Raises `InvalidMappings` naming the first not covered."""
        return _to_container(self.uids, uid), _to_container(self.gids, gid)

    def to_host_or_overflow(self, uid: int, gid: int) -> tuple[int, int]:
        """Like `to_host`, for re-owning a tree: nothing fails, and what is owned by the mapped root stays so.

        Each id by itself: the host id of the container's root is left as it is, an id that is not covered
        becomes `OVERFLOW_ID` (`spec/drivers.md` 1.4). Raises `InvalidMappings` only if the maps have no root.
        """
        root_uid, root_gid = self.root()
        return _or_overflow(self.uids, uid, root_uid), _or_overflow(self.gids, gid, root_gid)

    def root(self) -> tuple[int, int]:
        """The host's ids of the container's root.

        A single entry of size 1 is root whatever its container id; else container id 0 must be covered.
        """
        return _root_of(self.uids), _root_of(self.gids)

    def is_contiguous(self) -> bool:
        """Whether neither list has a gap, on the host's side and on the container's.

        fuse-overlayfs can shift such maps only (`spec/drivers.md` 4.8).
        """
        return all(
            _gapless((m.host_id, m.size) for m in maps) and _gapless((m.container_id, m.size) for m in maps)
            for maps in (self.uids, self.gids)
        )

    def check_overlaps(self) -> None:
        """Raise `InvalidMappings` if a list maps an id twice. Asked of containers only, never of layers."""
        for maps in (self.uids, self.gids):
            if _disjoint((m.container_id, m.size) for m in maps) and _disjoint(
                (m.host_id, m.size) for m in maps
            ):
                continue  # many entries are sorted sooner than each is compared with each
            found = [
                str(m) for i, m in enumerate(maps) if any(_intersect(m, earlier) for earlier in maps[:i])
            ]
            if found:
                noun, verb = ("mapping", "conflicts") if len(found) == 1 else ("mappings", "conflict")
                text = f"the specified UID and/or GID {noun} {', '.join(found)} {verb} with other mappings"
                text += ": invalid mappings specified"
                raise InvalidMappings(text, peer=text, conflicts=tuple(found))


IDENTITY = IDMappings()
"""No maps at all; the default wherever maps are optional."""


def parse(specs: str | Sequence[str], *, setting: str = "uid") -> tuple[IDMap, ...]:
    """The maps of one spec string, or of several in their order: `container:host:size`, repeated with `:`.

    `setting` names the switch or option in the error: the peers' command line says `uid` and `gid`, their
    library `UID` and `GID` (`spec/userns.md` 1.1). Sizes of 0 and overlaps are accepted here.
    """
    if isinstance(specs, str):
        specs = [specs]
    maps: list[IDMap] = []
    for spec in specs:
        if not spec:
            continue
        numbers = [_number(field) for field in spec.split(":")]
        if len(numbers) % 3 or None in numbers:
            quoted = " ".join(map(_quoted, specs))
            text = f"initializing ID mappings: {setting} setting is malformed expected "
            text += f'["uint32:uint32:uint32"]: [{quoted}]'
            raise InvalidMappings(text, peer=text, setting=setting, spec=spec)
        known = [number for number in numbers if number is not None]
        maps += map(IDMap, known[0::3], known[1::3], known[2::3])
    return tuple(maps)


def _number(field: str) -> int | None:
    """An unsigned 32-bit decimal in ASCII digits (`str.isdigit` alone takes Arabic ones and superscripts)."""
    if not (field.isascii() and field.isdigit()):
        return None
    digits = field.lstrip("0")[:11] or "0"  # cut: int() refuses, and would crawl through, thousands of digits
    value = int(digits)
    return value if value <= _LARGEST else None


def _quoted(text: str) -> str:
    """As Go prints a string with `%q`, for what may be typed on a command line."""
    special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    special |= {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v"}
    return '"' + "".join(special.get(c) or (c if c.isprintable() else _escaped(c)) for c in text) + '"'


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of the command line that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _to_host(maps: tuple[IDMap, ...], id: int) -> int:
    if not maps:
        return id
    for m in maps:
        if 0 <= id - m.container_id < m.size:
            return m.host_id + id - m.container_id
    text = f"container ID {id} cannot be mapped to a host ID"
    raise InvalidMappings(text, peer=text, id=id)


def _to_container(maps: tuple[IDMap, ...], id: int) -> int:
    if not maps:
        return id
    for m in maps:
        if 0 <= id - m.host_id < m.size:
            return m.container_id + id - m.host_id
    text = f"host ID {id} cannot be mapped to a container ID"
    raise InvalidMappings(text, peer=text, id=id)


def _or_overflow(maps: tuple[IDMap, ...], id: int, root: int) -> int:
    if id == root:
        return id
    try:
        return _to_host(maps, id)
    except InvalidMappings:
        return OVERFLOW_ID


def _root_of(maps: tuple[IDMap, ...]) -> int:
    return maps[0].host_id if len(maps) == 1 and maps[0].size == 1 else _to_host(maps, 0)


def _gapless(ranges: Iterable[tuple[int, int]]) -> bool:
    ordered = sorted(ranges)
    return all(start + size == ordered[i][0] for i, (start, size) in enumerate(ordered[:-1], 1))


def _disjoint(ranges: Iterable[tuple[int, int]]) -> bool:
    end = 0
    for start, size in sorted(ranges):
        if size:
            if start < end:
                return False
            end = start + size
    return True


def _intersect(a: IDMap, b: IDMap) -> bool:
    """Whether two entries share an id of the container or of the host. An empty range shares nothing."""
    if not (a.size and b.size):
        return False
    return any(
        start < other + b.size and other < start + a.size
        for start, other in ((a.container_id, b.container_id), (a.host_id, b.host_id))
    )
