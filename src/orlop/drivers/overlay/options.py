"""The options of the overlay driver (`spec/drivers.md` 4.2, `spec/config.md` 12), texts to values.

What this version does not do yet is refused here, at the start: a store that was set up with it holds layers that
would be shown wrong.
"""

from __future__ import annotations

import os
import stat

from orlop.drivers.api import parse_boolean, parse_options
from orlop.errors import ConfigError, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orlop.drivers.api import Option

_UNITS = "kmgtp"
_MASKS = {"shared": 0o755, "private": 0o700}
_FLOAT = frozenset("0123456789.eE+-")


class OverlayOptions:
    """What the driver was asked for. Filled once, by `parse`.

    mount_options   the words of `mountopt`, and `mountopt` itself as it was written: probe files are named by it
    size_bytes, inodes   quota of writable layers; 0: none
    image_stores    additional stores, roots
    mount_program   mounts instead of the kernel; "" if none
    force_mask      the mode of every file, the real one going to an attribute; None: no such thing
    use_composefs   new layers are kept as images, where whoever makes them can
    """

    __slots__ = (
        "force_mask",
        "ignore_chown_errors",
        "image_stores",
        "inodes",
        "mount_program",
        "mountopt",
        "size_bytes",
        "skip_mount_home",
        "use_composefs",
    )

    def __init__(self) -> None:
        self.mountopt = ""
        self.size_bytes = 0
        self.inodes = 0
        self.image_stores: list[str] = []
        self.skip_mount_home = False
        self.ignore_chown_errors = False
        self.mount_program = ""
        self.force_mask: int | None = None
        self.use_composefs = False

    @property
    def mount_options(self) -> list[str]:
        return self.mountopt.split(",") if self.mountopt else []


def parse(strings: Iterable[str]) -> OverlayOptions:
    """The values of the option strings.

    Raises:
        ConfigError: an unknown option, or a value that is none for it.
        NotSupported: what this version does not do.
    """
    found = OverlayOptions()
    for option in parse_options(strings):
        key = option.key
        for prefix in ("overlay.", "overlay2.", "."):
            key = key.removeprefix(prefix)
        reader = _READERS.get(key)
        if reader is None:
            raise ConfigError(
                f'storage option "{option.given}" is none of the overlay driver\'s',
                peer=f"overlay: unknown option {option.given}",
                option=option.given,
            )
        reader(found, option)
    return found


def _mountopt(found: OverlayOptions, option: Option) -> None:
    found.mountopt = option.value


def _size(found: OverlayOptions, option: Option) -> None:
    found.size_bytes = parse_size(option.value)


def _inodes(found: OverlayOptions, option: Option) -> None:
    found.inodes = parse_count(option.value)


def _image_stores(found: OverlayOptions, option: Option) -> None:
    found.image_stores += _directories(option.value.split(","), "image path", "imageStore dir")


def _layer_stores(found: OverlayOptions, option: Option) -> None:
    paths = []
    for text in filter(None, option.value.split(",")):
        path, *flags = text.split(":")
        for number, flag in enumerate(flags):
            if flag != "ref":
                peer = f'overlay: additionallayerstore config "{path}" contains unknown option "{flag}"'
            elif number:
                peer = f'overlay: additionallayerstore config of "{path}" contains "ref" option twice'
            else:
                continue
            raise ConfigError(
                f'additional layer store "{text}": wanted path[:ref]', peer=peer, option=option.given
            )
        paths.append(path)
    if _directories(paths, "additionallayerstore path", "additionallayerstore dir"):
        raise NotSupported(
            f'storage option "{option.given}" asks for additional layer stores, which this version does not have',
            option=option.given,
        )


def _composefs(found: OverlayOptions, option: Option) -> None:
    found.use_composefs = parse_boolean(option)


def _skip_mount_home(found: OverlayOptions, option: Option) -> None:
    found.skip_mount_home = parse_boolean(option)


def _ignore_chown_errors(found: OverlayOptions, option: Option) -> None:
    found.ignore_chown_errors = parse_boolean(option)


def _mount_program(found: OverlayOptions, option: Option) -> None:
    if option.value:
        try:
            os.stat(option.value)
        except OSError as error:
            raise ConfigError(
                f'the mount program "{option.value}" is not there: {error.strerror}',
                peer=f'overlay: can\'t stat program "{option.value}": {_stat_failed(option.value, error)}',
                path=option.value,
            ) from error
    found.mount_program = option.value


def _force_mask(found: OverlayOptions, option: Option) -> None:
    mask = _MASKS.get(option.value)
    if mask is None:
        if not option.value or option.value.strip("01234567") or len(option.value) > 5:
            raise _no_number(option.value, "an octal mode, `shared` or `private`", "ParseInt")
        mask = int(option.value, 8) & 0o777
    found.force_mask = mask


def _ignored(found: OverlayOptions, option: Option) -> None:
    """`override_kernel_check`: there was a time of kernels that claimed too little."""


_READERS: Mapping[str, Callable[[OverlayOptions, Option], None]] = {
    "override_kernel_check": _ignored,
    "mountopt": _mountopt,
    "size": _size,
    "inodes": _inodes,
    "imagestore": _image_stores,
    "additionalimagestore": _image_stores,
    "additionallayerstore": _layer_stores,
    "use_composefs": _composefs,
    "skip_mount_home": _skip_mount_home,
    "ignore_chown_errors": _ignore_chown_errors,
    "mount_program": _mount_program,
    "force_mask": _force_mask,
}


# --- values -------------------------------------------------------------------------------------------------


def parse_size(text: str) -> int:
    """Bytes: a decimal number, possibly with a fraction, and one of k, m, g, t, p, possibly with `b` or `ib`."""
    end = max((text.rfind(sign) for sign in "0123456789. "), default=-1)
    if end < 0:
        raise _bad_size(f"invalid size: '{text}'", text)
    number, suffix = (text[:end] if text[end] == " " else text[: end + 1]), text[end + 1 :].lower()
    try:
        value = float(number) if _FLOAT.issuperset(number) else None
    except ValueError:
        value = None
    if value is None:
        raise _bad_size(f'strconv.ParseFloat: parsing "{number}": invalid syntax', text)
    if not 0 <= value < 2**63:
        raise _bad_size(f"invalid size: '{text}'", text)
    if suffix in ("", "b"):
        return int(value)
    if suffix[0] not in _UNITS or suffix[1:] not in ("", "b", "ib"):
        raise _bad_size(f"invalid suffix: '{suffix}'", text)
    return int(value * 1024 ** (_UNITS.index(suffix[0]) + 1))


def _bad_size(peer: str, text: str) -> ConfigError:
    return ConfigError(f'"{text}" is no size: wanted bytes, or a number and one of k, m, g, t, p', peer=peer)


def parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise _no_number(text, "a number of inodes", "ParseUint")
    if len(text.lstrip("0")) > 20 or int(text) >= 2**64:
        raise _no_number(text, "a number of inodes below 2^64", "ParseUint", "value out of range")
    return int(text)


def _no_number(text: str, wanted: str, call: str, what: str = "invalid syntax") -> ConfigError:
    return ConfigError(f'wanted {wanted}, found "{text}"', peer=f'strconv.{call}: parsing "{text}": {what}')


def _directories(paths: Iterable[str], noun: str, short: str) -> list[str]:
    """The paths, each an existing absolute directory; empty ones are left out."""
    found = []
    for text in filter(None, paths):
        path = os.path.normpath(text)
        if not path.startswith("/"):
            peer = f'overlay: {noun} "{path}" is not absolute.  Can not be relative'
            raise ConfigError(f'the {noun} "{path}" is not absolute', peer=peer, path=path)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            peer = f"overlay: can't stat {short} {path}: {_stat_failed(path, error)}"
            raise ConfigError(
                f'the {noun} "{path}" is not there: {error.strerror}', peer=peer, path=path
            ) from error
        if not stat.S_ISDIR(mode):
            peer = f'overlay: {noun} "{path}" must be a directory'
            raise ConfigError(f'the {noun} "{path}" is not a directory', peer=peer, path=path)
        found.append(path)
    return found


def _stat_failed(path: str, error: OSError) -> str:
    """A failed stat in the peers' words."""
    said = error.strerror or ""
    return f"stat {path}: {said[:1].lower()}{said[1:]}"
