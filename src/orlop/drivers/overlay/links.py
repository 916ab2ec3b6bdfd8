"""Short names of layers, by which `lower` files name them: `<home>/l/<name>`, `<id>/link` (`spec/drivers.md` 4.12).

They are short because a mount names hundreds of layers in one page of text. Either half tells the other, so what
was lost can be made again; and a name is believed only where both halves, or what they lead to, agree.
"""

from __future__ import annotations

import os

from orlop.errors import StorageError
from orlop.model.ids import is_component
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH = 26
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def make(home: str, id: str) -> str:
    """Give a layer a short name that nobody has; the `link` file is the caller's to write."""
    while True:
        number = int.from_bytes(os.urandom(17), "big")
        link = "".join([_BASE32[number >> 5 * place & 31] for place in range(_LENGTH)])
        path = f"{home}/l/{link}"
        try:
            os.symlink(f"../{id}/diff", path)
            return link
        except FileExistsError:
            continue  # a name that is in use is never taken over
        except FileNotFoundError:
            os.mkdir(f"{home}/l", 0o755)


def read(directory: str) -> str | None:
    """The content of a `link` file; None if there is none, or nothing that could be a name."""
    try:
        link = files.read(f"{directory}/link", limit=256).decode("utf-8", "surrogateescape")
    except (OSError, StorageError):
        return None
    return link if is_component(link) else None


def id_of(target: str) -> str | None:
    """The id in `../<id>/diff`; None for anything else that a short name may lead to."""
    up, _, rest = target.partition("/")
    id, _, diff = rest.partition("/")
    return id if up == ".." and diff == "diff" and is_component(id) else None


def path_of(directory: str) -> str | None:
    """The short name of a layer that is to go, as a path, if it is this layer's indeed."""
    link = read(directory)
    home, id = os.path.split(directory)
    if link is not None:
        path = f"{home}/l/{link}"
        return path if _leads_to(path, id) else None
    # Whoever made the layer died before its `link` file was written; nobody would know whose the name was.
    try:
        names = os.listdir(f"{home}/l")
    except OSError:
        return None
    return next((path for name in names if _leads_to(path := f"{home}/l/{name}", id)), None)


def _leads_to(path: str, id: str) -> bool:
    try:
        return os.readlink(path) == f"../{id}/diff"
    except OSError:
        return False


def recover(home: str, ids: Iterable[str]) -> None:
    """Make lost short names and `link` files of these layers again.

    What cannot be put right is logged, and matters only to the layers that need it: the peers have one stray
    directory fail whatever needed a short name.
    """
    told: list[str] = []
    files.make_dirs(f"{home}/l", 0o755)
    for id in ids:
        link = read(f"{home}/{id}")
        if link is None:
            continue  # perhaps the other way round, below
        try:
            os.symlink(f"../{id}/diff", f"{home}/l/{link}")
            told.append(f"{home}/l/{link} was missing, and was made again")
        except FileExistsError:
            pass
    for name in os.listdir(f"{home}/l"):
        path = f"{home}/l/{name}"
        try:
            target = os.readlink(path)
            owner = id_of(target)
            if owner is None:
                os.unlink(path)
                told.append(f"{path} led to {target!r}, and was removed")
            elif read(f"{home}/{owner}") is None and os.path.isdir(f"{home}/{owner}"):
                files.write_atomic(f"{home}/{owner}/link", os.fsencode(name), mode=0o644, durable=False)
                told.append(f"{home}/{owner}/link was missing, and was made again")
        except OSError as error:
            told.append(f"{path}: {error.strerror}")
    from orlop.system import log

    for each in told:
        log.warn(__name__, "%s", each)
