"""Lists: layers (plain, as a tree), images, containers, what the driver holds (`spec/cli.md` 6.1 and 6.2)."""

from __future__ import annotations

from orlop.dropin.streams import Refusal
from orlop.errors import InvalidDigest, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orlop.dropin.streams import Call
    from orlop.model.container import Container
    from orlop.model.image import Image
    from orlop.model.layer import Layer

    Users = tuple[dict[str, list[Image]], dict[str, Container]]

BASE = "(base)"


def layers(call: Call) -> int:
    if call.json:
        call.answer_collection(call.store.layers, empty="null")
        return 0
    found = list(call.store.layers)
    if call.values.on("tree"):
        from orlop.dropin.tree import drawn

        call.streams.out(drawn([(layer.id, layer.parent or BASE) for layer in found], _notes(call, found)))
    elif call.values.on("quick"):
        _ids(call, found)
    else:
        images, containers = _users(call)
        for layer in found:
            call.say(layer.id)
            _tabbed(call, "name", layer.names)
            for image in images.get(layer.id, ()):
                call.say(f"\timage: {image.id}")
                _tabbed(call, "\tname", image.names)
            container = containers.get(layer.id)
            if container is not None:
                call.say(f"\tcontainer: {container.id}")
                _tabbed(call, "\tname", container.names)
    return 0


def _users(call: Call) -> Users:
    """Which images and which container use a layer. A table that cannot be read has no users to tell of."""
    images: dict[str, list[Image]] = {}
    containers: dict[str, Container] = {}
    try:
        for image in call.store.images:
            for id in dict.fromkeys((image.layer, *image.mapped_layers)):
                if id:
                    images.setdefault(id, []).append(image)
    except (StorageError, OSError):
        images = {}
    try:
        for container in call.store.containers:
            containers.setdefault(container.layer, container)
    except (StorageError, OSError):
        containers = {}
    return images, containers


def _notes(call: Call, found: Sequence[Layer]) -> dict[str, list[str]]:
    """What the tree says below each layer."""
    images, containers = _users(call)
    notes: dict[str, list[str]] = {}
    for layer in found:
        lines = [f"name: {name}" for name in layer.names]
        if layer.mount_point:
            lines.append(f"mount: {layer.mount_point}")
        for image in images.get(layer.id, ()):
            lines += [f"image: {image.id}", *(f"image name: {name}" for name in image.names)]
        container = containers.get(layer.id)
        if container is not None:
            lines += [f"container: {container.id}", *(f"container name: {name}" for name in container.names)]
        notes[layer.id] = lines
    return notes


def images(call: Call) -> int:
    if call.json:
        call.answer_collection(call.store.images, empty="null")
    else:
        _images(call, call.store.images)
    return 0


def images_by_digest(call: Call) -> int:
    from orlop.model.digest import Digest

    try:
        digest = Digest.parse(call.args[0])
    except InvalidDigest as error:
        raise Refusal(f"{call.args[0]}: {error.peer}") from error
    found = call.store.images.by_digest(digest)
    if call.json:
        call.answer_records(found)
    else:
        _images(call, found)
    return 0


def _images(call: Call, found: Iterable[Image]) -> None:
    if call.values.on("quiet"):
        _ids(call, found)
        return
    for image in found:
        call.say(image.id)
        _tabbed(call, "name", image.names)
        _tabbed(call, "digest", image.digests)
        _tabbed(call, "data", image.data_names)


def containers(call: Call) -> int:
    if call.json:
        call.answer_collection(call.store.containers)
        return 0
    for container in call.store.containers:
        call.say(container.id)
        _tabbed(call, "name", container.names)
        _tabbed(call, "data", container.data_names)
    return 0


def storage_layers(call: Call) -> int:
    found = call.store.storage_layers()
    if call.json:
        call.answer(found)
    else:
        for id in found:
            call.say(id)
    return 0


def _ids(call: Call, found: Iterable[Layer] | Iterable[Image]) -> None:
    for record in found:
        call.say(record.id)


def _tabbed(call: Call, label: str, values: Iterable[str]) -> None:
    for value in values:
        call.say(f"\t{label}: {value}")
