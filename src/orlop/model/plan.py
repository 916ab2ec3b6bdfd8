"""What a destructive verb would do, said before it is done: frozen values.

A `Plan` is made by reading only (`store.plan_delete`, `store.plan_gc`, ...), may be shown, stored as JSON or thrown
away, and is carried out by `store.apply`, which takes the locks, asks again for every `Assumption`, and raises
`Conflict` if one does not hold any more. What was done, and what could not be, is an `Outcome`.

Rule: a plan lists everything that goes. Applying it removes nothing that it does not list.
"""

from __future__ import annotations

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal

    Verb = Literal["delete", "gc", "wipe", "repair", "dedup"]


class _Fact(Value):
    """A value of plain fields."""

    __slots__ = ()

    def json(self) -> dict[str, Any]:
        """The fields, as an object that any JSON encoder takes. A surrogate in a path is a byte that is not UTF-8."""
        return dict(zip(self.__match_args__, self._values(), strict=True))


class Step(_Fact):
    """One thing that is done.

    `action` is a verb ("remove", "rewrite", "mark", "share"), `kind` what it is done to ("layer", "image",
    "container", "record", "file", "directory", ...). `id` and `path` (absolute) are empty where there is none.
    `size_bytes` are the bytes that lie there, whether or not they become free; `age_seconds` is the time since it
    was last changed, None if that says nothing. `reason` is half a sentence: `no record names it`.
    """

    __slots__ = ("action", "age_seconds", "id", "kind", "path", "reason", "size_bytes")
    __match_args__ = ("action", "kind", "id", "path", "size_bytes", "age_seconds", "reason")

    action: str
    kind: str
    id: str
    path: str
    size_bytes: int
    age_seconds: float | None
    reason: str

    def __init__(
        self,
        action: str,
        kind: str,
        id: str = "",
        path: str = "",
        size_bytes: int = 0,
        age_seconds: float | None = None,
        reason: str = "",
    ) -> None:
        self._fill(action, kind, id, path, size_bytes, age_seconds, reason)

    @property
    def target(self) -> tuple[str, str, str, str]:
        """What identifies the step, whatever it weighs and however old it is."""
        return (self.action, self.kind, self.id, self.path)


class Kept(_Fact):
    """What one might expect to go, and that stays: `reason` says why."""

    __slots__ = ("id", "kind", "path", "reason")
    __match_args__ = ("kind", "id", "path", "reason")

    kind: str
    id: str
    path: str
    reason: str

    def __init__(self, kind: str, id: str = "", path: str = "", reason: str = "") -> None:
        self._fill(kind, id, path, reason)


class Assumption(_Fact):
    """A fact that the plan rests on: `fact` of the `kind` called `id` was `value` (text; "" for none).

    For example `Assumption("layer", id, "children", "")`. Which facts there are is the matter of the verb that made
    the plan, and that asks for them again.
    """

    __slots__ = ("fact", "id", "kind", "value")
    __match_args__ = ("kind", "id", "fact", "value")

    kind: str
    id: str
    fact: str
    value: str

    def __init__(self, kind: str, id: str, fact: str, value: str = "") -> None:
        self._fill(kind, id, fact, value)


class Plan(Value):
    """What `verb` would do: `steps` in the order in which they are carried out, and `keeps`, which stays.

    `freed_bytes` are the bytes of allocated blocks that really become free: a block that something else still holds
    (a hard link, a reflink) does not count.
    """

    __slots__ = ("assumptions", "freed_bytes", "keeps", "steps", "verb")
    __match_args__ = ("verb", "steps", "keeps", "freed_bytes", "assumptions")

    verb: Verb
    steps: tuple[Step, ...]
    keeps: tuple[Kept, ...]
    freed_bytes: int
    assumptions: tuple[Assumption, ...]

    def __init__(
        self,
        verb: Verb,
        steps: Iterable[Step],
        keeps: Iterable[Kept] = (),
        freed_bytes: int = 0,
        assumptions: Iterable[Assumption] = (),
    ) -> None:
        self._fill(verb, tuple(steps), tuple(keeps), freed_bytes, tuple(assumptions))

    def json(self) -> dict[str, Any]:
        """The plan as an object that any JSON encoder takes."""
        return {
            "verb": self.verb,
            "steps": [step.json() for step in self.steps],
            "keeps": [kept.json() for kept in self.keeps],
            "freed_bytes": self.freed_bytes,
            "assumptions": [assumption.json() for assumption in self.assumptions],
        }


class Outcome(Value):
    """What applying a plan came to: the steps done, those that failed, each with a sentence, and the bytes freed."""

    __slots__ = ("done", "failed", "freed_bytes", "verb")
    __match_args__ = ("verb", "done", "failed", "freed_bytes")

    verb: Verb
    done: tuple[Step, ...]
    failed: tuple[tuple[Step, str], ...]
    freed_bytes: int

    def __init__(
        self,
        verb: Verb,
        done: Iterable[Step],
        failed: Iterable[tuple[Step, str]] = (),
        freed_bytes: int = 0,
    ) -> None:
        self._fill(verb, tuple(done), tuple(failed), freed_bytes)

    def json(self) -> dict[str, Any]:
        """The outcome as an object that any JSON encoder takes."""
        return {
            "verb": self.verb,
            "done": [step.json() for step in self.done],
            "failed": [{**step.json(), "error": error} for step, error in self.failed],
            "freed_bytes": self.freed_bytes,
        }
