"""The text of a `storage.conf` and what its keys become (`spec/config.md` 8). Pure: no file, no environment.

Rule 1: key names match whatever their case; an unknown key is named in a warning and otherwise ignored.
Rule 2: a value of the wrong type is an error. A guess would open another store than the one that was meant.
"""

from __future__ import annotations

from orlop.config import toml
from orlop.config.settings import Settings
from orlop.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Warn = Callable[[str], None]
    Table = dict[str, Any]

_UINT32 = 0xFFFF_FFFF

STRING, STRINGS, BOOL, INTEGER, UINT32, STRING_MAP, TABLE = (
    "a string",
    "a list of strings",
    "a boolean",
    "an integer",
    "an unsigned 32-bit integer",
    "a table of strings",
    "a table",
)

_STORAGE = {
    "driver": STRING,
    "driver_priority": STRINGS,
    "runroot": STRING,
    "graphroot": STRING,
    "imagestore": STRING,
    "rootless_storage_path": STRING,
    "transient_store": BOOL,
    "options": TABLE,
}
_OPTIONS = {
    "additionalimagestores": STRINGS,
    "additionallayerstores": STRINGS,
    "size": STRING,
    "mount_program": STRING,
    "skip_mount_home": STRING,
    "ignore_chown_errors": STRING,
    "force_mask": INTEGER,
    "mountopt": STRING,
    "use_composefs": STRING,
    "imagestore": STRING,
    "root-auto-userns-user": STRING,
    "auto-userns-min-size": UINT32,
    "auto-userns-max-size": UINT32,
    "disable-volatile": BOOL,
    "pull_options": STRING_MAP,
    "overlay": TABLE,
    "vfs": TABLE,
    "aufs": TABLE,
    "btrfs": TABLE,
    "zfs": TABLE,
    "thinpool": TABLE,
}
# What a driver's own table may hold, in the order in which it becomes options. "*": without it, the key of
# [storage.options] takes its place.
_DRIVER_KEYS = {
    "overlay": (
        "ignore_chown_errors*",
        "mount_program*",
        "mountopt*",
        "size*",
        "inodes",
        "skip_mount_home*",
        "force_mask*",
        "use_composefs",
    ),
    "vfs": ("ignore_chown_errors*",),
    "aufs": ("mountopt*",),
    "btrfs": ("min_space", "size*"),
    "zfs": ("fsname", "mountopt*", "size*"),
}
_GENERAL_KEYS = ("size", "mount_program", "skip_mount_home", "ignore_chown_errors", "force_mask", "mountopt")


def settings_of(
    text: str, *, path: str, driver: str = "", driver_options: tuple[str, ...] | None = None, warn: Warn
) -> Settings:
    """The settings of one configuration file; what it does not say is empty.

    `driver`, if not empty, replaces the driver of the file, and `driver_options`, if not None, all options that
    it gives to its driver: that is what the environment can do. `path` is for messages.

    Raises:
        ConfigError: not TOML, or a value of the wrong type.
    """
    reader = _Reader(path, warn)
    storage = reader.table(
        reader.table(toml.decode(text, path), {"storage": TABLE}).get("storage", {}), _STORAGE, "storage"
    )
    general = reader.table(storage.get("options", {}), _OPTIONS, "storage.options")
    own = {
        name: reader.table(
            general.get(name, {}), {key.rstrip("*"): STRING for key in keys}, f"storage.options.{name}"
        )
        for name, keys in _DRIVER_KEYS.items()
    }
    reader.finish()
    driver = driver or storage.get("driver", "")
    priority = tuple(storage.get("driver_priority", ()))
    if not driver and not priority:
        warn(f"The storage 'driver' option should be set in {path}. A driver was picked automatically.")
    if driver_options is None:
        driver_options = (*_general_options(driver, general), *_own_options(_alias(driver), general, own))
    return Settings(
        graph_root=storage.get("graphroot", ""),
        run_root=storage.get("runroot", ""),
        image_store=storage.get("imagestore", ""),
        rootless_path=storage.get("rootless_storage_path", ""),
        driver=_alias(driver),
        driver_priority=priority,
        driver_options=driver_options,
        auto_user=general.get("root-auto-userns-user", ""),
        auto_min_size=general.get("auto-userns-min-size", 0),
        auto_max_size=general.get("auto-userns-max-size", 0),
        pull_options=general.get("pull_options"),
        disable_volatile=general.get("disable-volatile", False),
        transient=storage.get("transient_store", False),
    )


def _alias(driver: str) -> str:
    return "overlay" if driver == "overlay2" else driver


def _general_options(driver: str, general: Table) -> list[str]:
    """Options from [storage.options], under the driver's name as it was written."""
    found = [("imagestore", path) for path in general.get("additionalimagestores", ())]
    found += [("additionallayerstore", path) for path in general.get("additionallayerstores", ())]
    found += [(key, _general(general, key)) for key in _GENERAL_KEYS]
    return [f"{driver}.{key}={value}" for key, value in found if value]


def _own_options(driver: str, general: Table, own: Mapping[str, Table]) -> list[str]:
    """Options from the driver's own table, each with the general key as a fall-back where it has one."""
    keys = _DRIVER_KEYS.get(driver, ())
    table = own.get(driver, {})
    if table.get("min_space"):  # btrfs takes one or the other
        keys = ("min_space",)
    options = []
    for key in keys:
        name = key.rstrip("*")
        value = table.get(name) or (_general(general, name) if key.endswith("*") else "")
        if value:
            options.append(f"{driver}.{name}={value}")
    return options


def _general(general: Table, key: str) -> str:
    value = general.get(key, "")
    # The mask is an integer here and text everywhere else. The peers once print it as `-rwx------`, which
    # their own driver refuses; octal digits always.
    return f"{value:o}" if isinstance(value, int) and value else str(value or "")


class _Reader:
    """Checks tables against what may be in them, and gathers the keys that nobody knows."""

    def __init__(self, path: str, warn: Warn) -> None:
        self.path = path
        self.warn = warn
        self.unknown: list[str] = []

    def table(self, table: Table, known: Mapping[str, str], prefix: str = "") -> Table:
        """The known members under their lower-case names."""
        found = {}
        for key, value in table.items():
            name = key.lower()
            where = f"{prefix}.{key}" if prefix else key
            if name not in known:
                self.unknown.append(where)
            elif not _fits(value, known[name]):
                raise ConfigError(
                    f"{self.path}: {where}: wanted {known[name]}, found {_shown(value)}",
                    path=self.path,
                    key=where,
                )
            else:
                found[name] = value
        return found

    def finish(self) -> None:
        if self.unknown:
            keys = " ".join(f'"{key}"' for key in self.unknown)
            self.warn(f'Failed to decode the keys [{keys}] from "{self.path}"')


def _fits(value: object, wanted: str) -> bool:
    if wanted == STRING:
        return isinstance(value, str)
    if wanted == BOOL:
        return isinstance(value, bool)
    if wanted in (INTEGER, UINT32):
        # bool is an int to Python.
        return type(value) is int and (wanted == INTEGER or 0 <= value <= _UINT32)
    if wanted == STRINGS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if wanted == STRING_MAP:
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    return isinstance(value, dict)


def _shown(value: object) -> str:
    text = repr(value)
    return f"the {type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
