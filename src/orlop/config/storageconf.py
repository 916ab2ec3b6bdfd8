"""The text of a `storage.conf` and what its keys become (`spec/config.md` 8). Pure: no file, no environment.

Rule 1: key names match whatever their case; an unknown key is named in a warning and otherwise ignored. No key
        leads to another file: there is nothing like an `include`.
Rule 2: a value of the wrong type is an error. A guess would open another store than the one that was meant. So is
        a key that is there twice in different cases: of two, the peers take one at random.
"""

from __future__ import annotations

from orlop.config import toml
from orlop.errors import ConfigError
from orlop.model.options import StoreOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    Warn = Callable[[str], None]
    Table = dict[str, Any]

_UINT32 = 0xFFFF_FFFF

STRING, STRINGS, BOOL, UINT32, STRING_MAP = (
    "a string",
    "a list of strings",
    "a boolean",
    "an unsigned 32-bit integer",
    "a table of strings",
)

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

_OPTIONS = {
    "additionalimagestores": STRINGS,
    "additionallayerstores": STRINGS,
    "size": STRING,
    "mount_program": STRING,
    "skip_mount_home": STRING,
    "ignore_chown_errors": STRING,
    "force_mask": UINT32,
    "mountopt": STRING,
    "use_composefs": STRING,  # of no effect: only the one of overlay's own table counts
    "imagestore": STRING,  # of no effect either; [storage] has the one that counts
    "root-auto-userns-user": STRING,
    "auto-userns-min-size": UINT32,
    "auto-userns-max-size": UINT32,
    "disable-volatile": BOOL,
    "pull_options": STRING_MAP,
    "thinpool": None,  # of a driver that is no more: whatever it holds is left alone
    **{driver: {key.rstrip("*"): STRING for key in keys} for driver, keys in _DRIVER_KEYS.items()},
}
KEYS: Mapping[str, Any] = {
    "storage": {
        "driver": STRING,
        "driver_priority": STRINGS,
        "runroot": STRING,
        "graphroot": STRING,
        "imagestore": STRING,
        "rootless_storage_path": STRING,
        "transient_store": BOOL,
        "options": _OPTIONS,
    }
}
"""Every key there is: what its value is, or the keys of the table that it names."""


def options_of(
    text: str, *, path: str, driver: str = "", driver_options: tuple[str, ...] | None = None, warn: Warn
) -> StoreOptions:
    """The options that one configuration file gives; what it does not say is empty.

    `driver`, if not empty, replaces the driver of the file, and `driver_options`, if not None, all options that
    it gives to its driver: that is what the environment can do. `path` is for messages.

    Raises:
        ConfigError: not TOML, a value of the wrong type, a key in two spellings. It says which file, line and key,
            and has them as `path`, `line` and `key`.
        LimitExceeded: nested more deeply than anything that has a meaning.
    """
    storage = checked(text, path, warn).get("storage", {})
    general = storage.get("options", {})
    driver = driver or storage.get("driver", "")
    priority = storage.get("driver_priority", ())
    if not driver and not priority:
        warn(f"The storage 'driver' option should be set in {path}. A driver was picked automatically.")
    name = alias(driver, warn)
    if driver_options is None:
        driver_options = (*_general_options(driver, general), *_own_options(name, general))
    return StoreOptions(
        graph_root=storage.get("graphroot", ""),
        run_root=storage.get("runroot", ""),
        image_store=storage.get("imagestore"),
        rootless_path=storage.get("rootless_storage_path", ""),
        driver=name,
        driver_priority=priority,
        driver_options=driver_options,
        auto_userns_user=general.get("root-auto-userns-user", ""),
        auto_userns_min_size=general.get("auto-userns-min-size", 0),
        auto_userns_max_size=general.get("auto-userns-max-size", 0),
        pull_options=general.get("pull_options"),
        disable_volatile=general.get("disable-volatile", False),
        transient=storage.get("transient_store", False),
    )


def checked(text: str, path: str, warn: Warn) -> Table:
    """The tables of a file with the keys that are known, in lower case, their values of the right types.

    Raises as `options_of`.
    """
    reader = _Reader(text, path)
    known = reader.table(toml.decode(text, path), KEYS, ())
    if reader.unknown:
        keys = " ".join(f'"{".".join(key)}"' for key in reader.unknown)
        warn(f'Failed to decode the keys [{keys}] from "{path}"')
    return known


def alias(driver: str, warn: Warn) -> str:
    """The name by which the driver goes today."""
    if driver != "overlay2":
        return driver
    warn("Switching default driver from overlay2 to the equivalent overlay driver")
    return "overlay"


def _general_options(driver: str, general: Table) -> list[str]:
    """Options from [storage.options], under the driver's name as it was written."""
    found = [("imagestore", path) for path in general.get("additionalimagestores", ())]
    found += [("additionallayerstore", path) for path in general.get("additionallayerstores", ())]
    found += [(key, _general(general, key)) for key in _GENERAL_KEYS]
    return [f"{driver}.{key}={value}" for key, value in found if value]


def _own_options(driver: str, general: Table) -> list[str]:
    """Options from the driver's own table, each with the general key as a fall-back where it has one."""
    keys = _DRIVER_KEYS.get(driver, ())
    table = general.get(driver, {})
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
    """Checks tables against what may be in them, and gathers the keys that nobody knows, in the order of the file."""

    def __init__(self, text: str, path: str) -> None:
        self._text = text
        self._path = path
        self.unknown: list[tuple[str, ...]] = []

    def table(self, table: object, known: Mapping[str, Any], at: tuple[str, ...]) -> Table:
        """The known members under their lower-case names; `at` are the keys that lead to the table."""
        if not isinstance(table, dict):
            self._refuse(at, f"wanted a table, found {_shown(table)}")
        found: Table = {}
        spelt: dict[str, str] = {}
        for key, value in table.items():
            name = key.lower()
            if name not in known:
                self._note_unknown((*at, key), value)
                continue
            if name in spelt:
                self._refuse((*at, key), f'wanted one spelling, found "{spelt[name]}" as well')
            spelt[name] = key
            found[name] = self._value(value, known[name], (*at, key))
        return found

    def _value(self, value: object, wanted: Any, at: tuple[str, ...]) -> object:
        if isinstance(wanted, dict):
            return self.table(value, wanted, at)
        if wanted == STRING_MAP and isinstance(value, dict):
            for key, item in value.items():
                self._value(item, STRING, (*at, key))
        elif wanted == STRINGS and isinstance(value, list):
            for item in value:
                if not _fits(item, STRING):
                    self._refuse(at, f"wanted {wanted}, found in it {_shown(item)}")
        elif wanted is not None and not _fits(value, wanted):
            self._refuse(at, f"wanted {wanted}, found {_shown(value)}")
        return value

    def _note_unknown(self, at: tuple[str, ...], value: object) -> None:
        self.unknown.append(at)
        for key, inside in value.items() if isinstance(value, dict) else ():
            self._note_unknown((*at, key), inside)

    def _refuse(self, at: tuple[str, ...], problem: str) -> NoReturn:
        from orlop.config import statements

        line = statements.line_of(self._text, at)
        key = ".".join(at)
        raise ConfigError(f"{self._path}, line {line}: {key}: {problem}", path=self._path, line=line, key=key)


def _fits(value: object, wanted: str) -> bool:
    if wanted == STRING:
        return isinstance(value, str) and "\0" not in value
    if wanted == BOOL:
        return isinstance(value, bool)
    if wanted == UINT32:
        # bool is an int to Python.
        return type(value) is int and 0 <= value <= _UINT32
    return False


def _shown(value: object) -> str:
    """A value of a file, in the words of TOML, and not all of it if it is long."""
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int):
        # As it may have been written: Python refuses to tell thousands of digits in decimal.
        shown = f"the integer {value}" if value.bit_length() <= 64 else f"the integer {value:#x}"
    elif isinstance(value, str):
        shown = "a string with a NUL in it" if "\0" in value else f'the string "{value}"'
    else:
        shown = f"the value {value}"
    return shown if len(shown) <= 70 else f"{shown[:67]}..."
