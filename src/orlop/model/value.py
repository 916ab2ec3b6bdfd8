"""The base of small frozen values.

A dataclass would do the same; importing `dataclasses` costs a small command more than all its other work.
"""

from __future__ import annotations

from _collections_abc import Mapping  # what the interpreter loaded to start, unlike `collections.abc`

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Value:
    """A frozen value: equal, hashed, shown and copied by its fields.

    A subclass lists its fields in `__slots__`, and in `__match_args__` in the order in which its constructor
    takes them; the constructor passes them to `_fill`.
    """

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()

    def _fill(self, *values: object) -> None:
        for name, value in zip(self.__match_args__, values, strict=True):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self.__match_args__])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is a frozen value: cannot set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is a frozen value: cannot delete {name}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[Callable[..., Value], tuple[object, ...]]:
        return (_remade, (type(self), *self._values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._values()))})"


def _remade(kind: type[Value], *values: object) -> Value:
    """A copy; the constructor may want some of its arguments by keyword."""
    made = object.__new__(kind)
    made._fill(*values)
    return made


class FrozenMap(Mapping[str, str]):
    """Texts by their names, which cannot be changed; equal to any map that holds the same."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FrozenMap({self._items})"
