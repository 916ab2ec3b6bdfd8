"""`Store`: three collections and a few verbs over one graph root."""

from __future__ import annotations

from orlop.errors import ConfigError
from orlop.model.value import FrozenMap
from orlop.store.contents import Contents
from orlop.store.engine import Engine
from orlop.store.references import References
from orlop.store.upkeep import Upkeep
from orlop.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from orlop.drivers.api import Driver
    from orlop.model.idmap import IDMappings
    from orlop.model.options import StoreOptions


class Store(References, Contents, Upkeep):
    """Container storage that podman, buildah, skopeo and CRI-O may use at the same moment.

    Made by `orlop.open_store`; a context manager. `layers`, `images` and `containers` are collections. Methods that
    take a `ref` without saying of what look for layers first, then images, then containers. Threads may share a
    store; a child process opens its own.
    """

    def __init__(self, options: StoreOptions) -> None:
        """Opens the roots, makes what is missing, starts the driver. Prefer `orlop.open_store`."""
        self._engine = Engine(options)
        self._collections = {}
        self.options = options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store; what is used of it afterwards raises ConfigError. Nothing is open between calls."""
        self._engine.close()
        self._engine = _Closed()  # type: ignore[assignment]
        for collection in self._collections.values():
            collection._engine = self._engine

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return isinstance(self._engine, _Closed)

    def __repr__(self) -> str:
        return f"<Store {self.graph_root}>"

    # --- what it is ---------------------------------------------------------------------------------------

    @property
    def graph_root(self) -> str:
        """The persistent root, absolute."""
        return self.options.graph_root

    @property
    def run_root(self) -> str:
        """The root that is lost on reboot, absolute."""
        return self.options.run_root

    @property
    def image_store(self) -> str | None:
        """The second root of a split store."""
        return self.options.image_store

    @property
    def transient(self) -> bool:
        """Whether containers are kept in the run root."""
        return self.options.transient

    @property
    def driver_name(self) -> str:
        """The name of the driver in use: "overlay" or "vfs"."""
        return self._engine.driver_name

    @property
    def driver_options(self) -> tuple[str, ...]:
        """What the driver was told, texts `key=value`."""
        return self.options.driver_options

    @property
    def pull_options(self) -> Mapping[str, str]:
        """What those who pull are told, texts all of them (`spec/config.md` 8.4); cannot be changed."""
        return self.options.pull_options or FrozenMap()

    @property
    def mappings(self) -> IDMappings:
        """The id maps of layers that have nothing to inherit them from."""
        return self.options.mappings

    @property
    def durability(self) -> str:
        """ "full" if an acknowledged change survives power loss, else "none"."""
        return "full" if self.options.durable else "none"

    def driver(self) -> Driver:
        """The graph driver as it is now, an `orlop.Driver`; for what the store has no verb for (`drivers/api.py`)."""
        return self._engine.driver()

    def status(self) -> list[tuple[str, str]]:
        """Pairs that describe the store, then those of its driver."""
        return [
            ("Root", self.graph_root),
            ("Run Root", self.run_root),
            ("Driver Name", self.driver_name),
            ("Driver Options", "[" + " ".join(self.driver_options) + "]"),
            *self._engine.driver().status(),
        ]

    def version(self) -> list[tuple[str, str]]:
        """Pairs that tell the version of orlop, in the form of `status`."""
        return [("Version", __version__)]

    def damage(self) -> tuple[str, ...]:
        """What was found damaged, and set aside, in the records read so far; a sentence each."""
        return self._engine.damage()


class _Closed:
    """Stands in for the engine of a closed store."""

    def close(self) -> None:
        """Closing twice is fine."""

    def __getattr__(self, name: str) -> object:
        raise ConfigError("this store was closed; open it again to use it")
