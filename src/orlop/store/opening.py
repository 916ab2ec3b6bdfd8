"""`open_store`: arguments, configuration and environment become one `StoreOptions`, and that a `Store`."""

from __future__ import annotations

import os
from _weakref import ref

from orlop.config import environment, paths
from orlop.errors import ConfigError
from orlop.model.idmap import IDENTITY
from orlop.model.options import AUTO_USERNS_MAX_SIZE, AUTO_USERNS_MIN_SIZE, StoreOptions
from orlop.store import arguments
from orlop.store.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orlop.config.load import Configuration
    from orlop.model.idmap import IDMappings

_DURABILITY_OPTION = "orlop.durability"
DURABILITIES = ("full", "none")

_opened: list[ref[Store]] = []  # by this process, some of them closed by now


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
    auto_userns_user: str = "",
    auto_userns_min_size: int = 0,
    auto_userns_max_size: int = 0,
    pull_options: Mapping[str, str] | None = None,
    durability: str | None = None,
    lock_timeout: float | None = None,
    configuration: Configuration | None = None,
) -> Store:
    """Open a store, making its directories if they are not there.

    With none of `graph_root`, `run_root`, `driver` and `driver_options`, the configuration files decide, as they do
    for podman (docs/configuration.md); what else is given here is stronger. With at least one of the four, files
    count no more: they only supply the second root if one of the two is given, and one of the two has to be
    (`spec/config.md` 10).

    Args:
        graph_root, run_root: the persistent root, and the one lost on reboot.
        driver: "vfs", ...; if not given, the one whose data lies in the root, else the first that works here.
        driver_options: strings `key=value`.
        driver_priority: drivers to try, in this order, when none is named.
        image_store: a second root, for images and their layers.
        transient: keep containers in the run root.
        disable_volatile: mount volatile containers like others, with every sync that is asked for inside.
        mappings: id maps of layers that have nothing to inherit them from.
        auto_userns_user: whose subordinate ids automatic user namespaces are cut from.
        auto_userns_min_size, auto_userns_max_size: how many ids one gets; 0 for 1,024 and 65,536.
        pull_options: what those who pull are to be told (`spec/config.md` 8.4), texts all of them.
        durability: "full" (an acknowledged change survives power loss) or "none"; if not given, the option
            `orlop.durability`, then the environment variable ORLOP_DURABILITY, then "full".
        lock_timeout: seconds to wait for a lock of another program before `LockTimeout`; for ever if not given.
        configuration: whose files and environment are meant, and who is told what is odd in them; if not given, those
            of the process, and nobody.

    Raises:
        ConfigError, LimitExceeded: a configuration file or an option that cannot be used.
        IncompleteOptions: a driver or driver options, but neither root.
        TypeError, ValueError: an argument that is none of these things.
        NotSupported: the driver is not known, or does not work here.
    """
    if isinstance(driver_options, str):
        raise TypeError(f"driver options are a list of texts; found the single text {driver_options!r}")
    for name, root in (("graph_root", graph_root), ("run_root", run_root), ("image_store", image_store)):
        if root is not None and not os.fspath(
            root
        ):  # a variable that is not set must not mean the system's store
            raise ConfigError(f"{name}: wanted a path, or nothing at all; found an empty one")
    arguments.mappings(mappings)
    given = StoreOptions(
        os.fspath(graph_root) if graph_root else "",
        os.fspath(run_root) if run_root else "",
        driver=driver or "",
        driver_options=driver_options,
        driver_priority=driver_priority,
        image_store=os.fspath(image_store) if image_store else None,
        transient=transient,
        mappings=mappings,
        lock_timeout=lock_timeout,
        disable_volatile=disable_volatile,
        auto_userns_user=auto_userns_user,
        auto_userns_min_size=auto_userns_min_size,
        auto_userns_max_size=auto_userns_max_size,
        pull_options=pull_options,
    )
    if configuration is None and not (
        given.graph_root or given.run_root or given.driver or given.driver_options
    ):
        from orlop.config.load import Configuration

        configuration = Configuration()
    return opened(given, completed(given, durability=durability, configuration=configuration), configuration)


def opened(given: StoreOptions, options: StoreOptions, configuration: Configuration | None = None) -> Store:
    """The store with `options`, which is what `completed` made of `given`; raises as `open_store`."""
    if not options.driver:
        options = options.replace(driver=_driver_in_use(options))
    try:
        store = Store(options)
    except ConfigError as error:
        if configuration is not None and options.driver_options and not given.driver_options:
            error.add_note(
                f"what the driver refuses was said by {configuration.default_file()}, or by STORAGE_OPTS"
            )
        raise
    _opened.append(ref(store, _opened.remove))
    return store


def _driver_in_use(options: StoreOptions) -> str:
    """The driver with which this process has the same roots open already, or nothing.

    The peers return the store that is open. Without this, one that was opened as vfs might be opened a second time
    with what the selection prefers, and look empty.
    """
    for other in _opened:
        store = other()
        if store is None or store.closed:
            continue
        if (store.graph_root, store.run_root) == (options.graph_root, options.run_root):
            return store.driver_name
    return ""


def completed(
    given: StoreOptions,
    *,
    durability: str | None = None,
    configuration: Configuration | None = None,
    warn: Callable[[str], None] | None = None,
) -> StoreOptions:
    """The options of an open store, when this much is said: nothing is left open but the name of the driver.

    Arguments and errors as `open_store`; `warn` is for who has no `configuration`, and may not need one.
    """
    if configuration is not None:
        given = configuration.complete(given)
    elif not (given.graph_root and given.run_root) or environment.names_a_file():
        from orlop.config.load import Configuration

        given = Configuration(warn=warn).complete(given)
    options, wanted = _without_durability(given.driver_options)
    return given.replace(
        graph_root=paths.absolute(given.graph_root),
        run_root=paths.absolute(given.run_root),
        image_store=paths.absolute(given.image_store) if given.image_store else None,
        driver_options=options,
        durable=_is_durable(durability or wanted),
        rootless=environment.is_rootless(),
        shifting=environment.may_shift(),
        auto_userns_min_size=given.auto_userns_min_size or AUTO_USERNS_MIN_SIZE,
        auto_userns_max_size=given.auto_userns_max_size or AUTO_USERNS_MAX_SIZE,
    )


def _without_durability(options: Iterable[str]) -> tuple[list[str], str | None]:
    """The options of the driver, and what the one that is ours says last."""
    others, wanted = [], None
    for option in options:
        key, _, value = option.partition("=")
        if key.strip().lower() == _DURABILITY_OPTION:
            wanted = value.strip()
        else:
            others.append(option)
    return others, wanted


def _is_durable(durability: str | None) -> bool:
    if durability is None:
        durability = environment.durability() or "full"
    if durability not in DURABILITIES:
        raise ConfigError(f"durability: wanted one of {', '.join(DURABILITIES)}; found {durability!r}")
    return durability == "full"
