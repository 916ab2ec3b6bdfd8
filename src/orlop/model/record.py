"""How a record is declared: once, as a class; reading, writing and checking follow from the declaration.

    class Layer(Record):
        id: LayerID = stored("id", id_of(LayerID), always=True)
        names: tuple[str, ...] = stored("names", TEXTS)

A value wraps the decoded JSON object (its *document*) and turns a member into Python when it is first asked for,
so listing twenty thousand layers does not build twenty thousand times twenty attributes. The document is never
changed: an editor puts a new one in its place.

Rules. Values are frozen, and what they hand out is the caller's to keep: a list or map in a document never leaves
it. A member that is absent, `null`, or empty is the zero value of its shape. Members that are not declared are kept
and written back: a newer program's data is not ours to drop (`spec/records.md` 3).
"""

from __future__ import annotations

from itertools import chain, repeat

from orlop.model.digest import Digest
from orlop.model.idmap import IDMap
from orlop.model.ids import are_harmless
from orlop.model.timestamp import UNSET, Timestamp, are_timestamps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Self

Document = dict[str, "Any"]

NESTING_MAX = 100
"""How deep lists and maps may lie in each other in a member of free form. Flags are one deep. The peers read 10,000;
Python gives up before that, at a depth that depends on who calls."""


class Shape:
    """What a member may hold: the JSON type, a check of its inside, and its Python form.

    The check looks at the values that many records have for the member, in one go: a table of twenty thousand
    records is checked whenever a small command starts, and a loop in C costs a tenth of one in Python.
    """

    __slots__ = ("_check", "json_type", "mend", "name", "read", "zero")

    def __init__(
        self,
        name: str,
        json_type: type,
        *,
        check: Callable[[list[Any]], bool],
        zero: object,
        read: Callable[[Any], object] | None = None,
        mend: Callable[[Any], object] | None = None,
    ) -> None:
        """`read` makes the Python form; `mend` makes of a value what the peers read it as (TypeError if nothing)."""
        self.name = name
        self.json_type = json_type
        self.zero = zero
        self.read = read
        self.mend = mend
        self._check = check

    def fits(self, values: list[Any]) -> bool:
        """True if all these values, which are not None, have the shape."""
        try:
            return self._check(values)
        except TypeError:
            return False


# Checks: a wrong type is False, or a TypeError of the function that goes through the values.


def _texts(values: list[Any]) -> bool:
    return {*map(type, values)} <= {str}


def _references(values: list[Any]) -> bool:
    # Drivers make paths of a parent's id as of a layer's own.
    return are_harmless(list(filter(None, values)))


def _times(values: list[Any]) -> bool:
    return _texts(values) and are_timestamps(values)


def _integers(values: list[Any]) -> bool:
    return _are_integers(values, -(1 << 63), (1 << 63) - 1)


def _are_integers(values: list[Any], least: int, most: int) -> bool:
    return not values or ({*map(type, values)} == {int} and min(values) >= least and max(values) <= most)


def _text_lists(values: list[Any]) -> bool:
    return _are_lists_of(str, values)


def _uint32_lists(values: list[Any]) -> bool:
    if not _are_lists_of(int, values):
        return False
    # Few differ: the layers of a store belong to the same few owners.
    different = {*chain.from_iterable({*map(tuple, values)})}
    return not different or (min(different) >= 0 and max(different) <= 0xFFFFFFFF)


def _are_lists_of(kind: type, values: list[Any]) -> bool:
    return {*map(type, values)} <= {list} and {*map(type, chain.from_iterable(values))} <= {kind}


def _integer_maps(values: list[Any]) -> bool:
    return _integers(list(chain.from_iterable(map(dict.values, values))))


def _text_maps(values: list[Any]) -> bool:
    return _texts(list(chain.from_iterable(map(dict.values, values))))


def _free_maps(values: list[Any]) -> bool:
    return {*map(type, values)} == {dict} and is_shallow(values)


_MAP_KEYS = ("container_id", "host_id", "size")


def _map_lists(values: list[Any]) -> bool:
    return _are_lists_of(dict, values) and all(
        _integers([each.get(key) for key in _MAP_KEYS]) for each in chain.from_iterable(values)
    )


def is_shallow(values: list[Any]) -> bool:
    """True if no value has lists and maps in each other beyond `NESTING_MAX`."""
    for _ in range(NESTING_MAX + 1):
        nested = [v.values() if type(v) is dict else v for v in values if type(v) in (dict, list)]
        if not nested:
            return True
        values = list(chain.from_iterable(nested))
    return False


def copy(value: Any) -> Any:
    """A decoded JSON value of one's own."""
    if isinstance(value, dict):
        return {key: copy(item) for key, item in value.items()}
    return [copy(item) for item in value] if isinstance(value, list) else value


# Mending: a `null` inside a list or map is a zero, and the members of an id map are named in any case.


def _filling(zero: object) -> Callable[[Any], object]:
    def filled(value: Any) -> object:
        if type(value) is dict:
            return {key: zero if item is None else item for key, item in value.items()}
        if type(value) is list:
            return [zero if item is None else item for item in value]
        raise TypeError

    return filled


def _filled_maps(value: Any) -> object:
    if type(value) is not list:
        raise TypeError
    return [_filled_map(item or {}) for item in value]


def _filled_map(value: dict[str, Any]) -> dict[str, Any]:
    filled = dict.fromkeys(_MAP_KEYS, 0)
    for key, item in value.items():
        known = key.lower() if key.lower() in _MAP_KEYS else key
        filled[known] = 0 if item is None else item
    return filled


def _read_maps(value: list[Any]) -> tuple[IDMap, ...]:
    return tuple(IDMap(*[item[key] for key in _MAP_KEYS]) for item in value)


def text_of(kind: type[str], zero: str | None = None) -> Shape:
    """Text with a type of its own (an id, a digest); `zero` when it is absent or empty."""
    return Shape("text", str, check=_texts, zero=zero, read=lambda value: kind(value) if value else zero)


def id_of(kind: type[str]) -> Shape:
    """The id of the record itself: acting on `../x` or `.` would reach another one's directory, or outside."""
    return Shape("an id that can be one name in a directory", str, check=are_harmless, zero="", read=kind)


def reference_to(kind: type[str]) -> Shape:
    """The id of another record that a directory may be looked up by; None when absent."""
    return Shape(
        "an id that can be one name in a directory",
        str,
        check=_references,
        zero=None,
        read=lambda value: kind(value) if value else None,
    )


def texts_of(kind: type[str]) -> Shape:
    """A list of text with a type of its own."""
    return Shape(
        "a list of text",
        list,
        check=_text_lists,
        zero=(),
        read=lambda value: tuple(map(kind, value)),
        mend=_filling(""),
    )


TEXT = Shape("text", str, check=_texts, zero="")
TEXTS = Shape("a list of text", list, check=_text_lists, zero=(), read=tuple, mend=_filling(""))
DIGEST = text_of(Digest)
TIME = Shape("an RFC 3339 time", str, check=_times, zero=UNSET, read=Timestamp)
INT = Shape("a 64-bit integer", int, check=_integers, zero=0)
UINT32S = Shape(
    "a list of unsigned 32-bit integers", list, check=_uint32_lists, zero=(), read=tuple, mend=_filling(0)
)
SIZES = Shape("a map of integers", dict, check=_integer_maps, zero={}, read=dict, mend=_filling(0))
DIGESTS = Shape(
    "a map of texts",
    dict,
    check=_text_maps,
    zero={},
    read=lambda v: {key: Digest(item) for key, item in v.items()},
    mend=_filling(""),
)
FLAGS = Shape(f"a map, nested at most {NESTING_MAX} deep", dict, check=_free_maps, zero={}, read=copy)
ID_MAPS = Shape("a list of id maps", list, check=_map_lists, zero=(), read=_read_maps, mend=_filled_maps)


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
        shape = self.shape
        value = record._document.get(self.key, shape.zero)
        if shape.read is not None and value is not shape.zero:
            value = shape.read(value)
        if type(value) is dict:
            return value or {}  # a new one for each who asks
        record.__dict__[self.attribute] = value
        return value


def stored(key: str, shape: Shape, *, always: bool = False) -> Any:
    """Declare a member. `always`: its key is written even when the value is empty."""
    return Stored(key, shape, always)


class Record:
    """A frozen value over one JSON object. Subclasses declare members with `stored`."""

    __slots__ = ("__dict__", "_document")

    FIELDS: dict[str, Stored] = {}
    _document: Document

    def __init_subclass__(cls) -> None:
        cls.FIELDS = {field.key: field for field in cls.__dict__.values() if isinstance(field, Stored)}

    def __init__(self, document: Document, **computed: object) -> None:
        """`document` must fit (`fitted`). `computed` are attributes that no file holds (read_only, ...)."""
        object.__setattr__(self, "_document", document)
        if computed:
            self.__dict__.update(computed)

    @classmethod
    def all_of(cls, documents: Iterable[Document]) -> list[Self]:
        """The values of many documents, without anything computed."""
        documents = list(documents)
        values = list(map(cls.__new__, repeat(cls, len(documents))))
        put: Any = Record._document  # the slot itself, as `__setattr__` refuses
        for _ in map(put.__set__, values, documents):
            pass
        return values

    def document(self) -> Document:
        """A copy of the JSON object, members that this version does not know included."""
        document: Document = copy(self._document)
        return document

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} values are frozen; change the record through its store")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} values are frozen; change the record through its store")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._document == other._document

    def __hash__(self) -> int:
        return hash((type(self), self._document["id"]))

    def __repr__(self) -> str:
        names = self._document.get("names") or ()
        shown = f" names={', '.join(map(repr, names))}" if names else ""
        return f"<{type(self).__name__} {self._document['id']}{shown}>"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._document,), self.__dict__.copy()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self
