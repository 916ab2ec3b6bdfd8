"""Records made again from what is there: the driver's layers, tar-split files, data of images and containers.

Names are lost with a record, and so is what callers had noted in it. Everything else can be told as a rule.
"""

from __future__ import annotations

import os
from binascii import Error as Base64Error
from binascii import a2b_base64

from orlop.errors import InvalidDigest, InvalidKey, StorageError
from orlop.formats import gojson
from orlop.formats.bigdata import file_name
from orlop.model.digest import Digest
from orlop.model.timestamp import Timestamp, is_timestamp
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from orlop.model.record import Document

_CONFIGURATION_MAX = 64 << 20
_CALLERS_OWN = "userdata"
_GZIP_MEDIA, _ZSTD_MEDIA = ("gzip", 2), ("zstd", 4)


# --- data items -------------------------------------------------------------------------------------------


def key_of(name: str) -> str | None:
    """The key of the data item in a file of this name; None if no key has that file."""
    candidates = [name]
    if name.startswith("="):
        try:
            candidates.insert(0, a2b_base64(name[1:].encode(), strict_mode=True).decode())
        except (Base64Error, UnicodeDecodeError, ValueError):
            pass
    for key in candidates:
        try:
            if file_name(key) == name:
                return key
        except InvalidKey:
            continue
    return None


def items_in(directory: str) -> dict[str, str]:
    """Key to path of the data items that lie in a record's directory."""
    found = {}
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return {}
    for name in names:
        key = None if name == _CALLERS_OWN or name.startswith(files.TEMPORARY) else key_of(name)
        path = os.path.join(directory, name)
        if key is not None and os.path.isfile(path) and not os.path.islink(path):
            found[key] = path
    return found


def data_members(directory: str) -> dict[str, Any]:
    """The members of an image's or container's record that tell of its items."""
    names, sizes, digests = [], {}, {}
    for key, path in items_in(directory).items():
        data = files.read(path)
        names.append(key)
        sizes[key] = len(data)
        digests[key] = str(Digest.of(data))
    return {"big-data-names": names, "big-data-sizes": sizes, "big-data-digests": digests}


# --- images -----------------------------------------------------------------------------------------------


class Configuration:
    """What an image's configuration and manifest say about its layers, lowest first.

    `diff_ids` are the digests of their archives, `blobs` (digest, size, compression) of each as it was published,
    or empty if the manifest does not tell.
    """

    def __init__(self, diff_ids: list[str], blobs: list[tuple[str, int, int]], created: str) -> None:
        self.diff_ids = diff_ids
        self.blobs = blobs if len(blobs) == len(diff_ids) else []
        self.created = created


def configuration_in(directory: str) -> Configuration | None:
    """That of the image whose data lies in a directory; None if there is none that is whole."""
    items = items_in(directory)
    manifest = _json(items.get("manifest"))
    named = _member(manifest, "config", "digest")
    for key in dict.fromkeys((named, *items)):
        if type(key) is not str or not key.startswith("sha256:") or key not in items:
            continue
        value = _json(items[key], digest=key)
        diff_ids = _member(value, "rootfs", "diff_ids")
        if type(diff_ids) is list and all(map(_is_digest, diff_ids)):
            created = _member(value, "created")
            return Configuration(diff_ids, _blobs(manifest), created if type(created) is str else "")
    return None


def _blobs(manifest: object) -> list[tuple[str, int, int]]:
    layers = _member(manifest, "layers")
    found = []
    for layer in layers if type(layers) is list else ():
        digest, size, media = (_member(layer, key) for key in ("digest", "size", "mediaType"))
        if not _is_digest(digest) or type(size) is not int:
            return []
        known = [code for word, code in (_GZIP_MEDIA, _ZSTD_MEDIA) if type(media) is str and word in media]
        found.append((str(digest), size, known[0] if known else -1))
    return found


def _json(path: str | None, *, digest: str = "") -> object:
    if path is None:
        return None
    try:
        data = files.read(path, limit=_CONFIGURATION_MAX)
        if digest and Digest.of(data) != digest:
            return None
        return gojson.decode(data)
    except (OSError, StorageError, ValueError):
        return None


def _member(value: object, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if type(value) is dict else None
    return value


def _is_digest(text: object) -> bool:
    try:
        return type(text) is str and bool(Digest.parse(text))
    except InvalidDigest:
        return False


def image_document(directory: str, id: str, layers: Iterable[Document]) -> Document | None:
    """The record of the image whose data lies in `directory`; None if nothing tells what it consists of."""
    configuration = configuration_in(directory)
    if configuration is None:
        return None
    top = chain_of(configuration.diff_ids, list(layers))
    if top is None:
        return None
    created = configuration.created if is_timestamp(configuration.created) else str(made_at(directory))
    return {"id": id, "layer": top, "created": created, **data_members(directory)}


def chain_of(diff_ids: list[str], layers: list[Document]) -> str | None:
    """The layer on top of a chain of these archives; "" for no layers, None if there is no such chain."""
    below = [""]
    for digest in diff_ids:
        below = [
            document["id"]
            for document in layers
            if document.get("diff-digest") == digest and (document.get("parent") or "") in below
        ]
        if not below:
            return None
    return below[0]


def made_at(path: str) -> Timestamp:
    """When something was made, or later: the root of a layer has the other time from an archive, as a rule."""
    return Timestamp.from_ns(os.lstat(path).st_ctime_ns)


# --- containers -------------------------------------------------------------------------------------------


def layer_named_in(directory: str, free: set[str]) -> str | None:
    """The layer of the container whose data lies in `directory`, one of those that are `free`.

    Engines write the path of its files into a configuration of their own.
    """
    path = _member(_json(os.path.join(directory, _CALLERS_OWN, "config.json")), "root", "path")
    named = [part for part in path.split("/") if part in free] if type(path) is str else []
    return named[-1] if named else None


def container_document(
    directory: str, id: str, layer: str, parents: dict[str, str], images: Iterable[Document]
) -> Document:
    """The record of the container with this layer whose data lies in `directory`. `parents`: of each layer."""
    below = parents.get(layer)
    made_of = [
        image["id"]
        for image in images
        if below and below in (image.get("layer"), *(image.get("mapped-layers") or ()))
    ]
    return {
        "id": id,
        "image": made_of[0] if made_of else "",
        "layer": layer,
        "created": str(made_at(directory)),
        **data_members(directory),
    }
