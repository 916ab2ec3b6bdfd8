"""Container storage: layers, images and containers, shared with podman, buildah, skopeo and CRI-O.

    import orlop

    with orlop.open_store(graph_root="/tmp/demo/graph", run_root="/tmp/demo/run", driver="vfs") as store:
        layer = store.layers.put(open("rootfs.tar.gz", "rb"), names=["base"])

Names are looked up on first use (PEP 562): `import orlop` itself loads nothing, which is what lets a small
command start about as quickly as the interpreter.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop import errors as errors
    from orlop.config.idmapping import parse_id_mappings
    from orlop.config.load import Configuration
    from orlop.drivers.api import Driver
    from orlop.errors import (
        ConfigError,
        Conflict,
        Damaged,
        LimitExceeded,
        NotFound,
        NotSupported,
        ReadOnly,
        StorageError,
        Unsafe,
    )
    from orlop.model import events as events
    from orlop.model.autouserns import AutoUserNS
    from orlop.model.changes import Change
    from orlop.model.container import Container
    from orlop.model.digest import Digest
    from orlop.model.findings import CheckReport, Finding
    from orlop.model.idmap import IDMap, IDMappings
    from orlop.model.image import Image
    from orlop.model.layer import Layer
    from orlop.model.options import StoreOptions
    from orlop.model.plan import Kept, Outcome, Plan, Step
    from orlop.model.report import DedupResult, UsageReport
    from orlop.model.snapshot import Snapshot
    from orlop.model.staging import Differ, DifferOptions, StagedOutput
    from orlop.store.opening import open_store
    from orlop.store.store import Store
    from orlop.version import __version__

_HOMES = {
    "AutoUserNS": "orlop.model.autouserns",
    "Change": "orlop.model.changes",
    "CheckReport": "orlop.model.findings",
    "ConfigError": "orlop.errors",
    "Configuration": "orlop.config.load",
    "Conflict": "orlop.errors",
    "Container": "orlop.model.container",
    "Damaged": "orlop.errors",
    "DedupResult": "orlop.model.report",
    "Differ": "orlop.model.staging",
    "DifferOptions": "orlop.model.staging",
    "Digest": "orlop.model.digest",
    "Driver": "orlop.drivers.api",
    "Finding": "orlop.model.findings",
    "IDMap": "orlop.model.idmap",
    "IDMappings": "orlop.model.idmap",
    "Image": "orlop.model.image",
    "Kept": "orlop.model.plan",
    "Layer": "orlop.model.layer",
    "LimitExceeded": "orlop.errors",
    "NotFound": "orlop.errors",
    "NotSupported": "orlop.errors",
    "Outcome": "orlop.model.plan",
    "Plan": "orlop.model.plan",
    "ReadOnly": "orlop.errors",
    "Snapshot": "orlop.model.snapshot",
    "StagedOutput": "orlop.model.staging",
    "Step": "orlop.model.plan",
    "StorageError": "orlop.errors",
    "Store": "orlop.store.store",
    "StoreOptions": "orlop.model.options",
    "Unsafe": "orlop.errors",
    "UsageReport": "orlop.model.report",
    "__version__": "orlop.version",
    "open_store": "orlop.store.opening",
    "parse_id_mappings": "orlop.config.idmapping",
}

_MODULES = {"errors": "orlop.errors", "events": "orlop.model.events"}
"""Every leaf of the tree of errors, and what `progress=` gets."""

__all__ = [
    "AutoUserNS",
    "Change",
    "CheckReport",
    "ConfigError",
    "Configuration",
    "Conflict",
    "Container",
    "Damaged",
    "DedupResult",
    "Differ",
    "DifferOptions",
    "Digest",
    "Driver",
    "Finding",
    "IDMap",
    "IDMappings",
    "Image",
    "Kept",
    "Layer",
    "LimitExceeded",
    "NotFound",
    "NotSupported",
    "Outcome",
    "Plan",
    "ReadOnly",
    "Snapshot",
    "StagedOutput",
    "Step",
    "StorageError",
    "Store",
    "StoreOptions",
    "Unsafe",
    "UsageReport",
    "__version__",
    "errors",
    "events",
    "open_store",
    "parse_id_mappings",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name) or _MODULES.get(name)
    if home is None:
        raise AttributeError(f"module 'orlop' has no attribute {name!r}")
    from importlib import import_module

    found = import_module(home)
    value = found if name in _MODULES else getattr(found, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
