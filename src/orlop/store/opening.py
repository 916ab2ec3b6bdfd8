"""`open_store`: arguments, configuration and environment become one `StoreOptions`, and that a `Store`."""

from __future__ import annotations

import os

from orlop.config import environment
from orlop.errors import ConfigError, IncompleteOptions
from orlop.model.idmap import IDENTITY
from orlop.model.options import StoreOptions
from orlop.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.model.idmap import IDMappings

_DURABILITY_OPTION = "orlop.durability"
DURABILITIES = ("full", "none")


def open_store(
    graph_root: str | os.PathLike[str] | None = None,
    run_root: str | os.PathLike[str] | None = None,
    driver: str | None = None,
    *,
    driver_options: Iterable[str] = (),
    driver_priority: Iterable[str] = (),
    image_store: str | os.PathLike[str] | None = None,
    transient: bool = False,
    disable_volatile: bool = False,
    mappings: IDMappings = IDENTITY,
    durability: str | None = None,
    lock_timeout: float | None = None,
) -> Store:
    """Open a store, making its directories if they are not there.

    With none of `graph_root`, `run_root`, `driver` and `driver_options`, the configuration files decide, as they do
    for podman. With at least one of them, they only supply a missing root.

    Args:
        graph_root, run_root: the persistent root, and the one lost on reboot.
        driver: "vfs", ...; if not given, the one whose data lies in the root, else the first that works here.
        driver_options: strings `key=value`.
        driver_priority: drivers to try, in this order, when none is named.
        image_store: a second root, for images and their layers.
        transient: keep containers in the run root.
        disable_volatile: mount volatile containers like others, with every sync that is asked for inside.
        mappings: id maps of layers that have nothing to inherit them from.
        durability: "full" (an acknowledged change survives power loss) or "none"; if not given, the option
            `orlop.durability`, then the environment variable ORLOP_DURABILITY, then "full".
        lock_timeout: seconds to wait for a lock of another program before `LockTimeout`; for ever if not given.

    Raises:
        ConfigError, NotSupported.
    """
    options = list(driver_options)
    graph, run = (os.fspath(p) if p else "" for p in (graph_root, run_root))
    if not (graph and run):
        from orlop.config import load

        found = load.for_opening(graph, run, driver or "", options)
        graph, run = found.graph_root, found.run_root
        if not (driver or options or graph_root or run_root):
            driver, options = found.driver, list(found.driver_options)
            driver_priority = found.driver_priority
            image_store = image_store or found.image_store
            transient = transient or found.transient
            disable_volatile = disable_volatile or found.disable_volatile
    if not graph or not run:
        raise IncompleteOptions(
            "a store needs a graph root and a run root; found neither arguments nor configuration"
        )
    chosen = [o for o in options if o.partition("=")[0].strip().lower() != _DURABILITY_OPTION]
    given = [o.partition("=")[2].strip() for o in options if o not in chosen]
    return Store(
        StoreOptions(
            os.path.abspath(graph),
            os.path.abspath(run),
            driver=driver or "",
            driver_options=chosen,
            driver_priority=driver_priority,
            image_store=os.path.abspath(os.fspath(image_store)) if image_store else None,
            transient=transient,
            mappings=mappings,
            durable=_is_durable(durability or (given[-1] if given else None)),
            lock_timeout=lock_timeout,
            rootless=environment.is_rootless(),
            shifting=environment.may_shift(),
            disable_volatile=disable_volatile,
        )
    )


def _is_durable(durability: str | None) -> bool:
    if durability is None:
        durability = environment.durability() or "full"
    if durability not in DURABILITIES:
        raise ConfigError(f"durability: wanted one of {', '.join(DURABILITIES)}; found {durability!r}")
    return durability == "full"
