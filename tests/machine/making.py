"""How records come about: from arguments, from other layers, from archives, from images of other places."""

from typing import Any

from machine.places import Places, Refused
from machine.tables import MAPS, TARS, Document, NothingMade, Table, facts, is_key, learnt, unique

# What a layer made from another takes over: the content is the same, and so are its facts.
_FACTS = (
    "metadata", "compressed-diff-digest", "compressed-size", "diff-digest", "diff-size", "compression",
    "uidset", "gidset",
)  # fmt: skip
_HEAD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class Making(Places):
    """Part of the model."""

    def _problems(self, kind: str, id: str | None, names: list[str], data: dict[str, bytes]) -> set[str]:
        """Why a record cannot be made."""
        table: Table = getattr(self, kind)
        wrong = set()
        if id and not (id[0] in _HEAD and _HEAD.union("_.-").issuperset(id) and id != "tmp"):
            wrong.add("UnsafeID")
        if id and id in table:
            wrong.add("DuplicateID")
        if any(table.owner(name) is not None for name in names):
            wrong.add("DuplicateName")
        if any(not is_key(kind, key) for key in data):
            wrong.add("InvalidKey")
        return wrong

    def _new(self, table: Table, document: Document, home: int, data: dict[str, bytes]) -> None:
        table.put(document, home)
        for key, value in data.items():
            table.store(document["id"], key, value)

    def _layers_create(
        self,
        *,
        id: str | None = None,
        parent: str | None = None,
        names: list[str] | None = None,
        metadata: str = "",
        volatile: bool = False,
        writable: bool = True,
        template: str | None = None,
        data: dict[str, bytes] | None = None,
        flags: dict[str, Any] | None = None,
        blob: str | None = None,
        found: Any,
    ) -> Any:
        names, data = names or [], data or {}
        wrong = self._problems("layers", id, names, data)
        above = self.find("layers", parent) if parent else None
        source = self.find("layers", template) if template else None
        if (parent and above is None) or (template and source is None):
            wrong.add("LayerUnknown")
        if above and any(box["layer"] == above[1] for box in self.containers.documents.values()):
            wrong.add("ParentIsContainer")
        if blob == "garbage":
            wrong.add("BadArchive")
        if wrong:
            raise Refused(*wrong)
        id, created = learnt(id, found)
        below = above[0][above[1]] if above else {}
        document: Document = {
            "id": id,
            "names": unique(names),
            "parent": below.get("id"),
            "metadata": metadata,
            "created": created,
            "flags": flags,
            "uidmap": below.get("uidmap"),
            "gidmap": below.get("gidmap"),
        }
        if source:
            document |= {key: source[0][source[1]][key] for key in _FACTS if key in source[0][source[1]]}
            self._copy_tar(source, id)
        home = self.volatile_home if volatile else 0 if writable else self.image_home
        self._new(self.layers, document, home, data)
        if blob:
            self.layers.tars[id] = TARS[blob]
            self.layers.put({**self.layers[id], **facts(blob)})
        return {"id": id, "created": created}

    def _layers_put(self, *, found: Any, **given: Any) -> Any:
        return self._layers_create(**{"writable": False, **given}, found=found)

    def _copy_tar(self, source: tuple[Table, str], id: str) -> None:
        table, layer = source
        if layer in table.tars:
            self.layers.tars[id] = table.tars[layer]

    def _images_create(
        self,
        *,
        id: str | None = None,
        names: list[str] | None = None,
        layer: str | None = None,
        metadata: str = "",
        digest: str | None = None,
        names_history: list[str] | None = None,
        data: dict[str, bytes] | None = None,
        flags: dict[str, Any] | None = None,
        found: Any,
    ) -> Any:
        names, data = names or [], data or {}
        wrong = self._problems("images", id, names, data)
        top = self.find("layers", layer) if layer else None
        if layer and top is None:
            wrong.add("LayerUnknown")
        if digest == "sha256:short":
            wrong.add("InvalidDigest")
        if wrong:
            raise Refused(*wrong)
        other = self.other.images if self.other else Table("images")
        foreign = other.documents.get(id or "", {})
        items = {key: other.items[id, key] for key in foreign.get("big-data-names", ())}
        id, created = learnt(id, found)
        created = foreign.get("created", created)
        self._new(
            self.images,
            {
                "id": id,
                "created": created,
                "digest": digest or foreign.get("digest"),
                "names": unique(names),
                "names-history": unique([*foreign.get("names-history", ()), *(names_history or [])]),
                "layer": top[1] if top else None,
                "metadata": metadata or foreign.get("metadata"),
                "flags": flags,
            },
            0,
            {**items, **data},
        )
        if foreign.get("names"):
            self.give_names(self.images, id, [*foreign["names"], *names])
        return {"id": id, "created": created}

    def _containers_create(
        self,
        *,
        image: str | None = None,
        id: str | None = None,
        names: list[str] | None = None,
        layer: str | None = None,
        metadata: str = "",
        volatile: bool = False,
        maps: bool = False,
        data: dict[str, bytes] | None = None,
        flags: dict[str, Any] | None = None,
        found: Any,
    ) -> Any:
        names, data = names or [], data or {}
        volatile = volatile or self.transient
        wrong = self._problems("containers", id, names, data) | self._problems("layers", layer, [], {})
        wanted = MAPS if maps else []
        place = self.find("images", image) if image else None
        base: Document = {}
        if image and place is None:
            wrong.add("ImageUnknown")
        elif place:
            try:
                base = self._top_layer(*place, wanted, found["mapped"], sure=not wrong)
            except Refused as refused:
                wrong |= refused.names
        if wrong:
            raise Refused(*wrong)
        id, created = learnt(id, found)
        layer, layer_created = learnt(layer, found["layer"])
        layer_maps = wanted or base.get("uidmap")
        self._new(
            self.layers,
            {
                "id": layer,
                "created": layer_created,
                "parent": base.get("id"),
                "uidmap": layer_maps,
                "gidmap": layer_maps,
            },
            self.volatile_home if volatile else 0,
            {},
        )
        self._new(
            self.containers,
            {
                "id": id,
                "names": unique(names),
                "image": place[1] if place else "",
                "layer": layer,
                "created": created,
                "metadata": metadata,
                "uidmap": wanted,
                "gidmap": wanted,
                "flags": {**(flags or {}), "ProcessLabel": "", "MountLabel": ""}
                | ({"Volatile": True} if volatile else {}),
            },
            1 if volatile else 0,
            data,
        )
        return {"id": id, "created": created, "layer": {"id": layer, "created": layer_created}}

    def _top_layer(
        self, images: Table, id: str, wanted: list[Any], mapped: dict[str, list[Any]], *, sure: bool
    ) -> Document:
        """The layer that a container is built on; perhaps a new copy with other id maps, learnt from `mapped`."""
        image = images[id]
        if not image.get("layer"):
            return {}
        candidates = []
        for table in self.tables("layers"):
            for each in (image["layer"], *image.get("mapped-layers", ())):
                if each in table and (not (p := table[each].get("parent")) or self.find("layers", p)):
                    candidates.append((table, table[each]))
        fitting = [layer for _, layer in candidates if layer.get("uidmap", []) == wanted]
        if fitting:
            return fitting[0]
        if not candidates:
            raise Refused("LayerUnknown")
        table, layer = candidates[0]
        if table is not self.layers or images is not self.images:
            return layer
        new = [each for each in mapped.get(id, ()) if each["id"] not in image.get("mapped-layers", ())]
        if not new and not sure:
            return layer  # refused before it was made
        if not new:
            raise NothingMade
        copy, created = learnt(None, new[0])
        document = {key: layer[key] for key in ("parent", "mountlabel", *_FACTS) if key in layer}
        document |= {"id": copy, "created": created, "uidmap": wanted, "gidmap": wanted}
        self.layers.put(document, self.image_home)
        self._copy_tar((table, layer["id"]), copy)
        images.change(id, mapped_layers=[*image.get("mapped-layers", ()), copy])
        return self.layers[copy]

    def pull_up(self, ref: str) -> str | None:
        """An image of another place is copied into ours to be renamed."""
        place = self.find("images", ref)
        if place is None:
            return None
        table, id = place
        document = table[id]
        if any(self.images.owner(name) is not None for name in document.get("names", ())):
            raise Refused("DuplicateName")
        members = ("id", "names", "layer", "digest", "metadata", "names-history", "flags", "created")
        copy = {key: document[key] for key in members if key in document}
        self._new(
            self.images, copy, 0, {key: table.items[id, key] for key in document.get("big-data-names", ())}
        )
        return id
