"""What is said about a store: one frozen value, from files and environment (`config/`) or made by a program.

Rule: empty is what was not said. `store/opening` decides what then holds, and a store that is open has it in
      `Store.options`.
"""

from __future__ import annotations

from orlop.model.idmap import IDENTITY
from orlop.model.value import FrozenMap, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Self

    from orlop.model.idmap import IDMappings

AUTO_USERNS_MIN_SIZE = 1024
AUTO_USERNS_MAX_SIZE = 65536


def _require_seconds(given: object) -> None:
    if given is None:
        return
    if not isinstance(given, (int, float)):
        raise TypeError(f"lock_timeout: wanted seconds, a number; found {type(given).__name__}")
    if not given >= 0:  # nor is "not a number", which would wait for ever
        raise ValueError(f"lock_timeout: wanted seconds, from 0 on; found {given}")


class StoreOptions(Value):
    """Options of a store (`spec/config.md` 9 and 10); `replace` makes a changed copy.

    Attributes:
        graph_root, run_root: the persistent and the volatile root; absolute once a store is open.
        driver: name of the driver, or "" to choose one.
        driver_options: strings `key=value`, read by the driver.
        driver_priority: order in which drivers are tried when none is named.
        image_store: second root for images and their layers, or None.
        transient: containers live in the run root.
        mappings: id maps of layers that have no parent to inherit them from.
        durable: whether an acknowledged change survives power loss.
        rootless: this process lacks the powers of the machine's root.
        shifting: drivers may map ids while mounting, if they can.
        disable_volatile: volatile containers are mounted like others.
        lock_timeout: seconds to wait for a lock before `LockTimeout`; None waits for ever.
        rootless_path: graph root of users other than root, with variables until it is expanded; or "".
        auto_userns_user: whose subordinate ids automatic user namespaces are cut from, or "".
        auto_userns_min_size, auto_userns_max_size: how many ids such a namespace gets; 0 for the built-in limits,
            which an open store has in their place.
        pull_options: texts for those who pull (`spec/config.md` 8.4); None if there was no such table, which is not
            the same as an empty one.
    """

    __slots__ = __match_args__ = (
        "graph_root",
        "run_root",
        "driver",
        "driver_options",
        "driver_priority",
        "image_store",
        "transient",
        "mappings",
        "durable",
        "lock_timeout",
        "rootless",
        "shifting",
        "disable_volatile",
        "rootless_path",
        "auto_userns_user",
        "auto_userns_min_size",
        "auto_userns_max_size",
        "pull_options",
    )

    graph_root: str
    run_root: str
    driver: str
    driver_options: tuple[str, ...]
    driver_priority: tuple[str, ...]
    image_store: str | None
    transient: bool
    mappings: IDMappings
    durable: bool
    lock_timeout: float | None
    rootless: bool
    shifting: bool
    disable_volatile: bool
    rootless_path: str
    auto_userns_user: str
    auto_userns_min_size: int
    auto_userns_max_size: int
    pull_options: FrozenMap | None

    def __init__(
        self,
        graph_root: str = "",
        run_root: str = "",
        *,
        driver: str = "",
        driver_options: Iterable[str] = (),
        driver_priority: Iterable[str] = (),
        image_store: str | None = None,
        transient: bool = False,
        mappings: IDMappings = IDENTITY,
        durable: bool = True,
        lock_timeout: float | None = None,
        rootless: bool = False,
        shifting: bool = True,
        disable_volatile: bool = False,
        rootless_path: str = "",
        auto_userns_user: str = "",
        auto_userns_min_size: int = 0,
        auto_userns_max_size: int = 0,
        pull_options: Mapping[str, str] | None = None,
    ) -> None:
        """Raises TypeError, ValueError: `lock_timeout` is no number of seconds from 0 on."""
        _require_seconds(lock_timeout)
        self._fill(
            graph_root,
            run_root,
            driver,
            tuple(driver_options),
            tuple(driver_priority),
            image_store or None,
            transient,
            mappings,
            durable,
            lock_timeout,
            rootless,
            shifting,
            disable_volatile,
            rootless_path,
            auto_userns_user,
            auto_userns_min_size,
            auto_userns_max_size,
            None if pull_options is None else FrozenMap(pull_options),
        )

    def replace(self, **changes: Any) -> Self:
        """A copy in which some options are others."""
        values: dict[str, Any] = dict(zip(self.__match_args__, self._values(), strict=True))
        return type(self)(**values | changes)

    def over(self, other: StoreOptions) -> StoreOptions:
        """These options, and where they say nothing those of `other`."""
        nothing = StoreOptions()
        said = {name: getattr(self, name) for name in self.__match_args__}
        return other.replace(
            **{name: value for name, value in said.items() if value != getattr(nothing, name)}
        )

    def as_json(self) -> dict[str, object]:
        """The form in which the peers print them (`spec/config.md` 9): their keys, in their order, ready for JSON.

        What is empty is left out, but for the two members that they always print.
        """
        members = {
            "runroot": self.run_root,
            "root": self.graph_root,
            "imagestore": self.image_store,
            "RootlessStoragePath": self.rootless_path,
            "driver": self.driver,
            "driver-priority": list(self.driver_priority),
            "driver-options": list(self.driver_options),
            "uidmap": [entry.as_json() for entry in self.mappings.uids],
            "gidmap": [entry.as_json() for entry in self.mappings.gids],
            "root_auto_ns_user": self.auto_userns_user,
            "auto_userns_min_size": self.auto_userns_min_size,
            "auto_userns_max_size": self.auto_userns_max_size,
            "PullOptions": None if self.pull_options is None else dict(self.pull_options),
            "disable-volatile": self.disable_volatile,
            "transient_store": self.transient,
        }
        always = ("RootlessStoragePath", "PullOptions")
        return {key: value for key, value in members.items() if value or key in always}
