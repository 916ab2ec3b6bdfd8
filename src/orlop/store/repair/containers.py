"""What mends a container; only for who lets containers be changed."""

from __future__ import annotations

from orlop.store.repair.bench import OF_DATA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.model.record import Document
    from orlop.store.repair.bench import Bench

_MENDABLE = (*OF_DATA, "container-layer-missing", "container-image-missing")


class ContainerRepair:
    """Adds remedies for all containers of the bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        for document in bench.look.containers.by_id.values():
            codes = {finding.code for finding in bench.about("container", document["id"], _MENDABLE)}
            for code, noun in (("container-layer-missing", "layer"), ("container-image-missing", "image")):
                if (noun, document.get(noun) or "") in bench.restored:
                    codes.discard(code)
            if codes and bench.choice.containers:
                self._container(document, codes)
            elif codes:
                first = bench.about("container", document["id"], codes)[0]
                bench.keep("container", document["id"], f"{first.text}; containers are not to be changed")

    def _container(self, document: Document, codes: set[str]) -> None:
        bench, id = self._bench, document["id"]
        if "container-layer-missing" in codes:
            bench.doom.container(id, "its layer is lost")
            return
        if "container-image-missing" in codes:
            bench.change("container", id, {"image": ""}, f"its image {document['image']} is lost")
        for finding in bench.about("container", id, OF_DATA):
            bench.drop_item("container", id, finding)
