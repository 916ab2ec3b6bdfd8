"""Where the records of a store are: its own tables, and those of a second place."""

from collections.abc import Iterator
from typing import Any

from machine.tables import Document, Table, unique

UNKNOWN = {"layers": "LayerUnknown", "images": "ImageUnknown", "containers": "ContainerUnknown"}


class Refused(Exception):
    """The operation fails with an error of one of these classes. Which of several that apply is nobody's promise."""

    def __init__(self, *names: str) -> None:
        super().__init__(" or ".join(sorted(names)))
        self.names = frozenset(names)


class Other:
    """A second place with images and layers: an additional store, or (`own`) the graph root of a split store."""

    def __init__(self, images: Table, layers: Table, *, own: bool = False) -> None:
        self.images = images
        self.layers = layers
        self.own = own


class Places:
    """The tables of one store. `volatile_home` is the number of the file of volatile layers: 2 in a split store."""

    def __init__(self, *, split: bool = False, transient: bool = False, other: Other | None = None) -> None:
        self.layers = Table("layers")
        self.images = Table("images")
        self.containers = Table("containers")
        self.other = other
        self.mounts: dict[str, int] = {}
        self.image_home, self.volatile_home = (1, 2) if split else (0, 1)
        self.transient = transient

    def tables(self, kind: str) -> Iterator[Table]:
        """The places of a kind, our own first."""
        yield getattr(self, kind)
        if self.other is not None and kind != "containers":
            yield getattr(self.other, kind)

    def find(self, kind: str, ref: str) -> tuple[Table, str] | None:
        for table in self.tables(kind):
            id = table.find(ref)
            if id is not None:
                if kind == "images" and table is not self.images and id in self.images:
                    return None  # the name was taken off our copy
                return table, id
        return None

    def require(self, kind: str, ref: str) -> tuple[Table, str]:
        found = self.find(kind, ref)
        if found is None:
            raise Refused(UNKNOWN[kind])
        return found

    def own_images(self) -> list[Table]:
        return [t for t in self.tables("images") if t is self.images or (self.other and self.other.own)]

    def listed(self, kind: str) -> list[Document]:
        return [table[id] for table in self.tables(kind) for id in table.order()]

    def is_whole(self) -> bool:
        """True if every layer and image that something names is there."""
        images = {document["id"] for document in self.listed("images")} | {""}
        layers = {document["id"] for document in self.listed("layers")} | {"", None}
        return (
            all(d.get("parent") in layers for d in self.listed("layers"))
            and all({d.get("layer"), *d.get("mapped-layers", ())} <= layers for d in self.listed("images"))
            and all(d["layer"] in layers and d["image"] in images for d in self.listed("containers"))
        )

    def give_names(self, table: Table, id: str, names: list[str]) -> list[str]:
        names = unique(names)
        for other, document in list(table.documents.items()):
            if other != id and {*names} & {*document.get("names", ())}:
                table.change(other, names=[name for name in document["names"] if name not in names])
        members: dict[str, Any] = {"names": names}
        if table.kind == "images":
            members["names_history"] = unique([*reversed(names), *table[id].get("names-history", ())])
        table.change(id, **members)
        return names
