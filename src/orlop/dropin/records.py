"""Single layers, images and containers: showing them, and whether they are there (`spec/cli.md` 6.3 to 6.5)."""

from __future__ import annotations

from orlop.dropin.streams import Refusal
from orlop.errors import NotFound, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from orlop.dropin.streams import Call
    from orlop.model.container import Container
    from orlop.model.idmap import IDMap
    from orlop.model.image import Image
    from orlop.model.layer import Layer


def show(call: Call) -> int:
    """`layer`, `image` and `container`. What is not found is passed over, and told by the exit status alone."""
    collection = getattr(call.store, call.command.kind + "s")
    blocks: dict[str, Callable[[Call, Any], Iterator[str]]] = {
        "layer": _layer,
        "image": _image,
        "container": _container,
    }
    found = [record for word in call.args if (record := collection.get(word)) is not None]
    if call.json:
        call.answer_records(found)
    else:
        for record in found:
            for line in blocks[call.command.kind](call, record):
                call.say(line)
    return 0 if len(found) == len(call.args) else 1


def _layer(call: Call, layer: Layer) -> Iterator[str]:
    yield f"ID: {layer.id}"
    yield from _maps("UID", layer.uid_map)
    yield from _maps("GID", layer.gid_map)
    if layer.parent:
        yield f"Parent: {layer.parent}"
    yield from _each("Name", layer.names)
    if layer.read_only:
        yield "Read Only: true"


def _image(call: Call, image: Image) -> Iterator[str]:
    yield f"ID: {image.id}"
    yield from _each("Name", image.names)
    yield f"Top Layer: {image.layer or ''}"
    yield from _each("Top Layer", image.mapped_layers)
    yield from _each("Digest", image.digests)
    yield from _each("Data", image.data_names)
    yield _size(lambda: call.store.images.size(image.id))
    if image.read_only:
        yield "Read Only: true"


def _container(call: Call, container: Container) -> Iterator[str]:
    yield f"ID: {container.id}"
    yield from _each("Name", container.names)
    yield f"Image: {container.image}"
    image = call.store.images.get(container.image) if container.image else None
    if image is not None:
        yield from _each("Image name", image.names)
    yield _size(lambda: call.store.containers.size(container.id))
    yield f"Layer: {container.layer}"
    yield from _each("Data", container.data_names)


def _maps(label: str, maps: Iterable[IDMap]) -> Iterator[str]:
    for m in maps:
        yield f"{label} mapping: (container={m.container_id}, host={m.host_id}, size={m.size})"


def _each(label: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        yield f"{label}: {value}"


def _size(measured: Callable[[], int]) -> str:
    try:
        return f"Size: {measured()}"
    except (StorageError, OSError) as error:
        from orlop.dropin.text import describe

        return f"Size unknown: {describe(error)}"


def parent_owners(call: Call) -> int:
    """`layer-parent-owners` and `container-parent-owners`: one block, or one JSON document, an argument."""
    collection = getattr(call.store, call.command.kind + "s")
    store = call.store
    owners = store.layer_parent_owners if call.command.kind == "layer" else store.container_parent_owners
    missing = 0
    for word in call.args:
        record = collection.get(word)
        if record is None:
            missing += 1
            continue
        try:
            uids, gids = owners(record.id)
        except (StorageError, OSError) as error:
            from orlop.dropin.text import describe

            raise Refusal(f"{call.command.kind.title()}ParentOwner: {describe(error)}") from error
        if call.json:
            call.answer_object({"ID": record.id, "UIDs": uids or None, "GIDs": gids or None})
            continue
        call.say(f"ID: {record.id}")
        for label, ids in (("UIDs", uids), ("GIDs", gids)):
            # For containers the line is there even if there is nothing to tell.
            if ids or call.command.kind == "container":
                call.say(f"{label}: [{' '.join(map(str, ids))}]")
    return 1 if missing else 0


def exists(call: Call) -> int:
    """The printed value is about objects of any kind; the flags for kinds change the exit status only."""
    store, values = call.store, call.values
    demanded = [
        collection
        for key, collection in (
            ("layer", store.layers),
            ("image", store.images),
            ("container", store.containers),
        )
        if values.on(key)
    ]
    answers = {}
    status = 0
    for word in call.args:
        answers[word] = _is_there(lambda word=word: store.exists(word))  # type: ignore[misc]
        if not answers[word] or not all(_is_there(lambda c=c, w=word: w in c) for c in demanded):  # type: ignore[misc]
            status = 1
    if call.json:
        call.answer(answers)
    elif not values.on("quiet"):
        for word, there in answers.items():
            call.say(f"{word}: {'true' if there else 'false'}")
    return status


def _is_there(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except NotFound:
        return False
