"""A table of records in dicts, and what there is to put into one."""

import gzip
import hashlib
from typing import Any

import tarballs

KINDS = ("layers", "images", "containers")
MAPS = [{"container_id": 0, "host_id": 100_000, "size": 65_536}]

Document = dict[str, Any]

_TAR = tarballs.tar("etc/", ("etc/motd", b"ahoy\n")).read()
BLOBS = {
    "plain": _TAR,
    "gzip": gzip.compress(_TAR, mtime=0),
    "other": tarballs.tar(("README", b"x" * 700)).read(),
    "garbage": b"\x00garbage" * 100,
}
TARS = {"plain": _TAR, "gzip": _TAR, "other": BLOBS["other"]}

_ALWAYS = {"id", "image", "layer"}  # written also when empty; `image` and `layer` only by containers


class Table:
    """The records of one kind in one place, in the order of their making, each with the number of its file."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.documents: dict[str, Document] = {}
        self.homes: dict[str, int] = {}
        self.items: dict[tuple[str, str], bytes] = {}
        self.tars: dict[str, bytes] = {}  # of layers that were filled from one

    def __contains__(self, id: str) -> bool:
        return id in self.documents

    def __getitem__(self, id: str) -> Document:
        return self.documents[id]

    def order(self) -> list[str]:
        """The ids in the order in which a program lists them that has just loaded the files."""
        return sorted(self.documents, key=self.homes.__getitem__)

    def owner(self, name: str) -> str | None:
        return next((id for id, d in self.documents.items() if name in d.get("names", ())), None)

    def find(self, ref: str) -> str | None:
        """By id, name, layer of a container, unique prefix; in this order."""
        exact = self.find_exactly(ref)
        if exact is not None:
            return exact
        near = [id for id in self.documents if ref and id.startswith(ref)]
        return near[0] if len(near) == 1 else None

    def find_exactly(self, ref: str) -> str | None:
        if ref in self.documents:
            return ref
        named = self.owner(ref)
        if named is not None:
            return named
        if self.kind == "containers":
            held = [id for id, d in self.documents.items() if d["layer"] == ref]
            if held:
                return held[-1]
        return None

    def put(self, document: Document, home: int = 0) -> None:
        id = document["id"]
        always = _ALWAYS if self.kind == "containers" else {"id"}
        self.documents[id] = {key: value for key, value in document.items() if value or key in always}
        self.homes.setdefault(id, home)

    def change(self, id: str, **members: Any) -> None:
        self.put({**self.documents[id], **{key.replace("_", "-"): value for key, value in members.items()}})

    def drop(self, id: str) -> None:
        del self.documents[id], self.homes[id]
        self.tars.pop(id, None)
        self.items = {place: data for place, data in self.items.items() if place[0] != id}

    def store(self, id: str, key: str, data: bytes, digest: str | None = None) -> None:
        self.items[id, key] = data
        document = self.documents[id]
        names = document.get("big-data-names", [])
        members: dict[str, Any] = {"big_data_names": names if key in names else [*names, key]}
        if self.kind != "layers":
            digest = digest or sha256(data)
            members["big_data_sizes"] = {**document.get("big-data-sizes", {}), key: len(data)}
            members["big_data_digests"] = {**document.get("big-data-digests", {}), key: digest}
            if self.kind == "images" and key.startswith("manifest") and not document.get("digest"):
                members["digest"] = digest
        self.change(id, **members)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def facts(blob: str) -> Document:
    """What the record of a layer says of the archive it was filled from."""
    return {
        "compressed-diff-digest": sha256(BLOBS[blob]),
        "compressed-size": len(BLOBS[blob]),
        "diff-digest": sha256(TARS[blob]),
        "diff-size": len(TARS[blob]),
        "compression": 2 if blob == "gzip" else 0,
        "uidset": [0],
        "gidset": [0],
    }


def digests(image: Document) -> set[str]:
    """What an image is found by."""
    recorded = image.get("big-data-digests", {}).items()
    return {image.get("digest", ""), *(d for key, d in recorded if key.startswith("manifest"))} - {""}


def is_key(kind: str, key: str) -> bool:
    """Whether an item may have this key, of those that the tests use."""
    return key not in ("", ".", "..", "/") and (key != "userdata" or kind == "layers")


def unique(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


class NothingMade(Exception):
    """The model would make something, and the store made nothing."""


def learnt(id: str | None, found: dict[str, Any]) -> tuple[str, str]:
    """The id of what was made, and when: what nobody can know before. `id` is the one that was asked for."""
    if "created" not in found:
        raise NothingMade
    if id is None:
        id = str(found["id"])
        assert len(id) == 64, id
        assert {*id} <= {*"0123456789abcdef"}, id
    return id, found["created"]
