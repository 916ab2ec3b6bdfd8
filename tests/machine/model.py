"""What a store should say and do, in dicts and lists: written from the formats, not from the library.

    model = Model()
    model.apply("layers.create", {"id": "a", "names": ["x"]}, found=None)
    model.apply("delete", {"kind": "layers", "ref": "x"}, found=None)       # or raises Refused

The verbs are those of `machine.programs`. `found` is what a store answered: ids that it drew are learnt from
it, everything else is predicted.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from machine.making import Making
from machine.places import UNKNOWN, Refused
from machine.tables import KINDS, Table, digests, is_key, sha256, unique

MAKING = ("layers.create", "layers.put", "images.create", "containers.create")
NOT_ONE = {"layers": "NotALayer", "images": "NotAnImage", "containers": "NotAContainer"}


@dataclass
class Leaving:
    """What goes together."""

    containers: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    layers: list[str] = field(default_factory=list)


class Model(Making):
    """One store."""

    def apply(self, verb: str, given: dict[str, Any], found: Any) -> Any:
        """What the store should answer; the model is as the store should be then.

        Raises:
            Refused.
        """
        method: Callable[..., Any] = getattr(self, "_" + verb.replace(".", "_"))
        return method(**given, found=found) if verb in MAKING else method(**given)

    # --- names, metadata, data ----------------------------------------------------------------------------

    def _name(self, *, kind: str, operation: str, ref: str, names: list[str]) -> list[str]:
        if kind == "any":
            for each in KINDS:
                try:
                    return self._name(kind=each, operation=operation, ref=ref, names=names)
                except Refused as refused:
                    if refused.names != {UNKNOWN[each]}:
                        raise
            raise Refused("LayerUnknown")
        table: Table = getattr(self, kind)
        id = table.find(ref)
        if id is None and kind == "images":
            id = self.pull_up(ref)
        if id is None:
            raise Refused(UNKNOWN[kind])
        had = table[id].get("names", [])
        if operation == "add":
            names = [*names, *had]
        elif operation == "remove":
            names = [name for name in had if name not in names]
        return self.give_names(table, id, unique(names))

    def _set_metadata(self, *, kind: str, ref: str, metadata: str) -> None:
        for each in KINDS if kind == "any" else (kind,):
            table: Table = getattr(self, each)
            id = table.find(ref)
            if id is not None:
                table.change(id, metadata=metadata)
                return
        raise Refused("NotAnID" if kind == "any" else UNKNOWN[kind])

    def _data_put(self, *, kind: str, ref: str, key: str, data: bytes) -> None:
        place = self.find(kind, ref)
        table: Table = getattr(self, kind)
        wrong = set() if is_key(kind, key) else {"InvalidKey"}
        if place is None or place[1] not in table:
            wrong.add(UNKNOWN[kind])
        if wrong:
            raise Refused(*wrong)
        assert place is not None
        table.store(place[1], key, data)

    def _data_get(self, *, kind: str, ref: str, key: str) -> list[Any]:
        """The bytes, their size, their digest; a text in place of what cannot be had."""
        _, id = self.require(kind, ref)
        held = [t for t in self.tables(kind) if (id, key) in t.items]
        if not held:
            wrong = "InvalidKey" if kind == "containers" and not key else ""
            return [wrong or "DataUnknown", wrong or "SizeUnknown", wrong or "DigestUnknown"]
        data = held[0].items[id, key]
        recorded = held[0][id].get("big-data-digests", {}).get(key)
        return [data, len(data), recorded or "DigestUnknown"]

    def _data_keys(self, *, kind: str, ref: str) -> list[str]:
        table, id = self.require(kind, ref)
        return list(table[id].get("big-data-names", ()))

    # --- asking -------------------------------------------------------------------------------------------

    def _look(self, *, kind: str, ref: str) -> dict[str, Any]:
        for each in KINDS if kind == "any" else (kind,):
            place = self.find(each, ref)
            if place is not None:
                document = place[0][place[1]]
                found = {key: document.get(key) for key in ("id", "metadata", "names")}
                return {**found, "metadata": found["metadata"] or "", "names": found["names"] or []}
        raise Refused("LayerUnknown" if kind == "any" else UNKNOWN[kind])

    def _has(self, *, kind: str, ref: str) -> bool:
        return any(self.find(each, ref) for each in (KINDS if kind == "any" else (kind,)))

    def _by(self, *, what: str, value: str) -> list[str]:
        """Which records are found by a digest or by their layer; sorted ids."""
        if what == "images.by_digest":
            return sorted(d["id"] for d in self.listed("images") if value in digests(d))
        if what == "images.by_top_layer":
            _, id = self.require("layers", value)
            return sorted(
                d["id"]
                for d in self.listed("images")
                if d.get("layer") == id or id in d.get("mapped-layers", ())
            )
        if what == "containers.by_layer":
            _, id = self.require("layers", value)
            held = [d["id"] for d in self.listed("containers") if d["layer"] == id]
            if not held:
                raise Refused("ContainerUnknown")
            return held[:1]
        member = {
            "layers.by_diff_digest": "diff-digest",
            "layers.by_compressed_digest": "compressed-diff-digest",
        }
        return sorted(d["id"] for d in self.listed("layers") if d.get(member[what]) == value)

    def _diff(self, *, ref: str) -> str | None:
        """The digest of the exact diff of a layer; None for layers that were not filled from an archive."""
        table, id = self.require("layers", ref)
        tar = table.tars.get(id) if table is self.layers else None
        return sha256(tar) if tar is not None else None

    def _directory(self, *, kind: str, ref: str) -> str:
        return self.require(kind, ref)[1]

    # --- mounting -----------------------------------------------------------------------------------------

    def _mount(self, *, ref: str) -> str:
        table, id = self.require("layers", self._mounted_layer(ref))
        if table is not self.layers:
            raise Refused("ReadOnly")
        self.mounts[id] = self.mounts.get(id, 0) + 1
        return id

    def _unmount(self, *, ref: str, force: bool) -> bool:
        id = self.layers.find(self._mounted_layer(ref))
        if id is None:
            raise Refused("LayerUnknown")
        left = 0 if force else max(self.mounts.get(id, 0) - 1, 0)
        self.mounts[id] = left
        return left > 0

    def _mount_count(self, *, ref: str) -> int:
        id = self.layers.find(self._mounted_layer(ref))
        if id is None:
            raise Refused("LayerUnknown")
        return self.mounts.get(id, 0)

    def _mounted_layer(self, ref: str) -> str:
        box = self.containers.find(ref)
        return ref if box is None else str(self.containers[box]["layer"])

    def _shutdown(self, *, force: bool) -> list[str]:
        mounted = [id for id, count in self.mounts.items() if count]
        if mounted:
            if force:
                self.mounts = {}
            raise Refused("StillMounted")
        return []

    # --- deleting -----------------------------------------------------------------------------------------

    def _delete(self, *, kind: str, ref: str) -> Any:
        if kind == "any":
            return self._delete_anything(ref)
        if kind == "images":
            return self._images_delete(ref, dry_run=False)
        table: Table = getattr(self, kind)
        id = table.find(ref)
        if id is None:
            raise Refused(NOT_ONE[kind])
        if kind == "containers":
            self._drop_container(id)
            return None
        needing = self._needing(id, Leaving())
        if needing:
            raise Refused(*needing)
        self._drop(Leaving(layers=[id]))
        return None

    def _needing(self, layer: str, leaving: "Leaving") -> set[str]:
        wrong = set()
        for id, document in self.layers.documents.items():
            if document.get("parent") == layer and id not in leaving.layers:
                wrong.add("LayerHasChildren")
        for images in self.own_images():
            for id, document in images.documents.items():
                if document.get("layer") == layer and id not in leaving.images:
                    wrong.add("LayerUsedByImage")
        for id, document in self.containers.documents.items():
            if document["layer"] == layer and id not in leaving.containers:
                wrong.add("LayerUsedByContainer")
        return wrong

    def _images_dry_run(self, *, ref: str) -> list[str]:
        return self._images_delete(ref, dry_run=True)

    def _images_delete(self, ref: str, *, dry_run: bool) -> list[str]:
        """An image, wherever its id is ours, and the layers that nothing else needs: copies, top, ancestors."""
        id = self._own_image(ref)
        if id is None:
            raise Refused("NotAnImage")
        if any(box["image"] == id for box in self.containers.documents.values()):
            raise Refused("ImageUsedByContainer")
        going = self._layers_to_go(id, Leaving(images={id}))
        if not dry_run:
            self._drop(Leaving(images={id}, layers=going))
        return going

    def _own_image(self, ref: str) -> str | None:
        """Exactly that, in either root, goes before what begins with it."""
        own = self.own_images()
        finds = (*(table.find_exactly for table in own), *(table.find for table in own))
        return next((found for find in finds if (found := find(ref)) is not None), None)

    def _meant(self, ref: str) -> tuple[str, str]:
        """The kind and the id of what is deleted: exactly that, of whatever kind, before what begins with it."""
        finds = (
            ("containers", self.containers.find_exactly),
            *(("images", table.find_exactly) for table in self.own_images()),
            ("layers", self.layers.find_exactly),
            ("containers", self.containers.find),
            ("images", self._own_image),
            ("layers", self.layers.find),
        )
        found = next(((kind, id) for kind, find in finds if (id := find(ref)) is not None), None)
        if found is None:
            raise Refused("LayerUnknown")
        return found

    def _layers_to_go(self, image: str, leaving: "Leaving") -> list[str]:
        going: list[str] = []
        records = [table[image] for table in self.own_images() if image in table]
        for record in records:
            for copy in record.get("mapped-layers", ()):
                if copy not in going and copy not in leaving.layers and self._may_go(copy, leaving, going):
                    going.append(copy)
        for record in records:
            at = record.get("layer")
            while at in self.layers and at not in going:
                if at not in leaving.layers:
                    if not self._may_go(at, leaving, going):
                        break
                    going.append(at)
                at = self.layers[at].get("parent")
        return going

    def _may_go(self, layer: str, leaving: "Leaving", going: list[str]) -> bool:
        boxes = {id: d for id, d in self.containers.documents.items() if id not in leaving.containers}
        images = [d for t in self.own_images() for id, d in t.documents.items() if id not in leaving.images]
        children = {d["id"] for d in self.layers.documents.values() if d.get("parent") == layer}
        return (
            layer in self.layers
            and not any(layer in (d.get("layer"), *d.get("mapped-layers", ())) for d in images)
            # The peers look for a container of that id or name as well, and so the layer stays.
            and not any(layer in (id, d["layer"], *d.get("names", ())) for id, d in boxes.items())
            and children <= {*going, *leaving.layers}
        )

    def _plan_delete(self, *, refs: list[str]) -> list[tuple[str, str]]:
        """Several at once, none of which needs the others then; everything that goes, sorted."""
        leaving = Leaving()
        wrong = set()
        for ref in refs:
            try:
                kind, id = self._meant(ref)
            except Refused as refused:
                wrong |= refused.names
                continue
            if kind == "containers":
                leaving.containers.add(id)
            elif kind == "images":
                leaving.images.add(id)
            else:
                leaving.layers.append(id)
        asked = list(leaving.layers)
        for box in leaving.containers:
            if self.containers[box]["layer"] in self.layers:
                leaving.layers.append(self.containers[box]["layer"])
        for id, document in self.containers.documents.items():
            if document["image"] in leaving.images and id not in leaving.containers:
                wrong.add("ImageUsedByContainer")
        for layer in asked:
            wrong |= self._needing(layer, leaving)
        if wrong:
            raise Refused(*wrong)
        for image in leaving.images:
            leaving.layers += self._layers_to_go(image, leaving)
        gone = [("container", id) for id in leaving.containers]
        gone += [("image", id) for id in leaving.images] + [("layer", id) for id in {*leaving.layers}]
        self._drop(leaving)
        return sorted(gone)

    def _drop(self, leaving: "Leaving") -> None:
        for box in leaving.containers:
            self.containers.drop(box)
        for images in self.own_images():
            for image in leaving.images & {*images.documents}:
                images.drop(image)
        for layer in {*leaving.layers}:
            self._drop_layer(layer)
        for images in self.own_images():
            for image, document in list(images.documents.items()):
                copies = document.get("mapped-layers", [])
                if {*copies} & {*leaving.layers}:
                    images.change(
                        image, mapped_layers=[each for each in copies if each not in leaving.layers]
                    )

    def _gc(self) -> list[tuple[str, str]]:
        """What was made has a record, and what was deleted is gone: there is no garbage."""
        return []

    def _delete_anything(self, ref: str) -> None:
        kind, id = self._meant(ref)
        if kind == "containers":
            if self.containers[id]["layer"] not in self.layers:
                raise Refused("NotALayer")
            self._drop_container(id)
        elif kind == "images":
            self._drop(Leaving(images={id}))
        else:
            self._drop_layer(id)

    def _drop_layer(self, id: str) -> None:
        self.layers.drop(id)
        self.mounts.pop(id, None)

    def _drop_container(self, id: str) -> None:
        layer = self.containers[id]["layer"]
        self.containers.drop(id)
        if layer in self.layers:
            self._drop_layer(layer)

    def _wipe(self) -> None:
        for table in (self.layers, *self.own_images(), self.containers):
            for id in list(table.documents):
                table.drop(id)
        self.mounts = {}

    # --- what other programs do ---------------------------------------------------------------------------

    def note(self, kind: str, home: int, note: str) -> None:
        """Another program wrote a file anew, and put a member of its own into every record."""
        table: Table = getattr(self, kind)
        for id in table.order():
            if table.homes[id] == home:
                table.put({**table[id], "x-newer": note})
