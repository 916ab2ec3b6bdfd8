"""What a store is opened with: one frozen value, resolved elsewhere (`config/`), read by `store/engine`."""

from __future__ import annotations

from orlop.model.idmap import IDENTITY
from orlop.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop.model.idmap import IDMappings


class StoreOptions(Value):
    """Options of a store (`spec/config.md` 9 and 10).

    Attributes:
        graph_root, run_root: absolute paths; the persistent and the volatile root.
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
    """

    __slots__ = (
        "disable_volatile",
        "driver",
        "driver_options",
        "driver_priority",
        "durable",
        "graph_root",
        "image_store",
        "lock_timeout",
        "mappings",
        "rootless",
        "run_root",
        "shifting",
        "transient",
    )
    __match_args__ = (
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

    def __init__(
        self,
        graph_root: str,
        run_root: str,
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
    ) -> None:
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
        )
