"""How a record is declared: once, as a class; reading, writing and checking follow from the declaration.

    class Layer(Record):
        id: LayerID = stored("id", LAYER_ID, always=True)
        names: tuple[str, ...] = stored("names", TEXTS)

A value wraps the decoded JSON object (its *document*) and turns a member into Python when it is first asked for,
so listing twenty thousand layers does not build twenty thousand times twenty attributes. The document is never
changed: an editor puts a new one in its place.

Rules. Values are frozen. A member that is absent, `null`, or empty is the zero value of its shape. Members that
are not declared are kept and written back: a newer program's data is not ours to drop (`spec/records.md` 3).
"""

from __future__ import annotations

from orlop.model.digest import Digest
from orlop.model.idmap import IDMap
from orlop.model.timestamp import UNSET, Timestamp, is_timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Self

Document = dict[str, "Any"]


class Shape:
    """What a member may hold: the JSON type, a check of its inside, and its Python form."""

    __slots__ = ("check", "json_type", "name", "read", "zero")

    def __init__(
        self,
        name: str,
        json_type: type,
        *,
        zero: object,
        read: Callable[[Any], object] | None = None,
        check: Callable[[Any], bool] | None = None,
    ) -> None:
        self.name = name
        self.json_type = json_type
        self.zero = zero
        self.read = read
        self.check = check

    def fits(self, value: object) -> bool:
        return type(value) is self.json_type and (self.check is None or self.check(value))


def _all_text(value: list[Any]) -> bool:
    try:
        "".join(value)
    except TypeError:
        return False
    return True


def _all_uint32(value: list[Any]) -> bool:
    return not value or (set(map(type, value)) == {int} and min(value) >= 0 and max(value) <= 0xFFFFFFFF)


def _int64(value: int) -> bool:
    return -(1 << 63) <= value < 1 << 63


def _all_maps(value: list[Any]) -> bool:
    return all(
        type(item) is dict and all(type(item.get(k, 0)) is int for k in ("container_id", "host_id", "size"))
        for item in value
    )


def _read_maps(value: list[Any]) -> tuple[IDMap, ...]:
    return tuple(
        IDMap(item.get("container_id", 0), item.get("host_id", 0), item.get("size", 0)) for item in value
    )


def text_of(kind: type[str], zero: str | None = None) -> Shape:
    """Text with a type of its own (an id, a digest); `zero` when it is absent or empty."""
    return Shape("text", str, zero=zero, read=lambda value: kind(value) if value else zero)


TEXT = Shape("text", str, zero="")
TEXTS = Shape("list of text", list, zero=(), read=tuple, check=_all_text)
DIGEST = text_of(Digest)
TIME = Shape("time", str, zero=UNSET, read=Timestamp, check=is_timestamp)
INT = Shape("integer", int, zero=0, check=_int64)
UINT32S = Shape("list of unsigned 32-bit integers", list, zero=(), read=tuple, check=_all_uint32)
SIZES = Shape(
    "map of integers", dict, zero={}, read=dict, check=lambda v: set(map(type, v.values())) <= {int}
)
DIGESTS = Shape(
    "map of digests",
    dict,
    zero={},
    read=lambda v: {key: Digest(item) for key, item in v.items()},
    check=lambda v: _all_text(list(v.values())),
)
FLAGS = Shape("object", dict, zero={}, read=dict)
ID_MAPS = Shape("list of id maps", list, zero=(), read=_read_maps, check=_all_maps)


class Stored:
    """One member of a record: the JSON key, its shape, and whether it is written even when empty."""

    __slots__ = ("always", "attribute", "key", "shape")

    def __init__(self, key: str, shape: Shape, always: bool) -> None:
        self.key = key
        self.shape = shape
        self.always = always
        self.attribute = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    def __get__(self, record: Record | None, owner: type) -> object:
        if record is None:
            return self
        raw, shape = record._document.get(self.key), self.shape
        value = shape.zero if raw is None else raw if shape.read is None else shape.read(raw)
        record.__dict__[self.attribute] = value
        return value


def stored(key: str, shape: Shape, *, always: bool = False) -> Any:
    """Declare a member. `always`: its key is written even when the value is empty."""
    return Stored(key, shape, always)


class Record:
    """A frozen value over one JSON object. Subclasses declare members with `stored`."""

    FIELDS: dict[str, Stored] = {}
    _document: Document

    def __init_subclass__(cls) -> None:
        cls.FIELDS = {field.key: field for field in cls.__dict__.values() if isinstance(field, Stored)}

    def __init__(self, document: Document, **computed: object) -> None:
        """`document` must fit (`fitted`). `computed` are attributes that no file holds (read_only, ...)."""
        self.__dict__["_document"] = document
        self.__dict__.update(computed)

    def document(self) -> Document:
        """A copy of the JSON object, members that this version does not know included."""
        copy: Document = _copy(self._document)
        return copy

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} values are frozen; change the record through its store")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} values are frozen; change the record through its store")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._document == other._document  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self._document["id"]))

    def __repr__(self) -> str:
        names = self._document.get("names") or ()
        shown = f" names={', '.join(map(repr, names))}" if names else ""
        return f"<{type(self).__name__} {self._document['id']}{shown}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
