"""What configuration files and the environment say about a store (`spec/config.md` 9).

More than opening it takes: users, pulls and mounts have settings of their own. `open_store` makes the
`model.options.StoreOptions` of a store from this and from its arguments.
"""

from __future__ import annotations

from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self


class Settings(Value):
    """Frozen; `replace` makes a changed copy. Empty is what was not said."""

    __slots__ = __match_args__ = (
        "graph_root",
        "run_root",
        "image_store",
        "rootless_path",
        "driver",
        "driver_priority",
        "driver_options",
        "auto_user",
        "auto_min_size",
        "auto_max_size",
        "pull_options",
        "disable_volatile",
        "transient",
    )

    graph_root: str
    run_root: str
    image_store: str  # empty: not split
    rootless_path: str  # graph root of users other than root, with variables until it is expanded
    driver: str  # empty: chosen when the store is opened
    driver_priority: tuple[str, ...]
    driver_options: tuple[str, ...]  # each "key=value"
    auto_user: str  # whose subordinate ids automatic namespaces are cut from
    auto_min_size: int  # ids, 0: the built-in default
    auto_max_size: int
    pull_options: Mapping[str, str] | None  # None: not set, unlike an empty table
    disable_volatile: bool  # never mount with the volatile option
    transient: bool

    def __init__(
        self,
        *,
        graph_root: str = "",
        run_root: str = "",
        image_store: str = "",
        rootless_path: str = "",
        driver: str = "",
        driver_priority: tuple[str, ...] = (),
        driver_options: tuple[str, ...] = (),
        auto_user: str = "",
        auto_min_size: int = 0,
        auto_max_size: int = 0,
        pull_options: Mapping[str, str] | None = None,
        disable_volatile: bool = False,
        transient: bool = False,
    ) -> None:
        self._fill(
            graph_root,
            run_root,
            image_store,
            rootless_path,
            driver,
            driver_priority,
            driver_options,
            auto_user,
            auto_min_size,
            auto_max_size,
            pull_options,
            disable_volatile,
            transient,
        )

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed."""
        values: dict[str, Any] = dict(zip(self.__match_args__, self._values(), strict=True))
        return type(self)(**values | changes)

    def json(self) -> str:
        """As the `config` command prints it: members in the order of the format, empty ones left out."""
        from orlop.formats import gojson

        pull = None if self.pull_options is None else dict(self.pull_options)
        members = (
            ("runroot", self.run_root, False),
            ("root", self.graph_root, False),
            ("imagestore", self.image_store, False),
            ("RootlessStoragePath", self.rootless_path, True),
            ("driver", self.driver, False),
            ("driver-priority", self.driver_priority, False),
            ("driver-options", self.driver_options, False),
            ("root_auto_ns_user", self.auto_user, False),
            ("auto_userns_min_size", self.auto_min_size, False),
            ("auto_userns_max_size", self.auto_max_size, False),
            ("PullOptions", pull, True),
            ("disable-volatile", self.disable_volatile, False),
            ("transient_store", self.transient, False),
        )
        return (
            "{" + ",".join(f'"{key}":{gojson.encode(v)}' for key, v, always in members if v or always) + "}"
        )
