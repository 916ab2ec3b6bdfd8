"""What a caller gives by mistake: an error that says what was wanted and what was found, and nothing is changed."""

from collections.abc import Callable
from typing import Any

import pytest

import orlop
from tarballs import tar

MISTAKES: dict[str, tuple[Callable[[orlop.Store], Any], str]] = {
    "maps in a list": (
        lambda store: store.layers.create(mappings=[(0, 1, 1)]),  # type: ignore[arg-type]
        "mappings: wanted orlop.IDMappings; found list",
    ),
    "maps of a container": (
        lambda store: store.containers.create(mappings=[]),  # type: ignore[arg-type]
        "mappings: wanted orlop.IDMappings; found list",
    ),
    "maps of a driver's layer": (
        lambda store: store.create_storage_layer(mappings="0:1:1"),  # type: ignore[arg-type]
        "mappings: wanted orlop.IDMappings; found str",
    ),
    "text as the data of a layer": (
        lambda store: store.layers.create(data={"k": "t"}),  # type: ignore[dict-item]
        "data item 'k': wanted bytes, or a file opened for reading them; found str",
    ),
    "text as the data of a layer from a blob": (
        lambda store: store.layers.put(tar("x"), data={"k": "t"}),  # type: ignore[dict-item]
        "data item 'k': wanted bytes, or a file opened for reading them; found str",
    ),
    "text as the data of an image": (
        lambda store: store.images.create(data={"k": "t"}),  # type: ignore[dict-item]
        "data item 'k': wanted bytes; found str",
    ),
    "text as the data of a container": (
        lambda store: store.containers.create(data={"k": "t"}),  # type: ignore[dict-item]
        "data item 'k': wanted bytes; found str",
    ),
    "a list as data": (
        lambda store: store.images.create(data=[("k", b"")]),  # type: ignore[arg-type]
        "data: wanted a mapping from keys to bytes; found list",
    ),
    "a key that is no text": (
        lambda store: store.images.create(data={b"k": b""}),  # type: ignore[dict-item]
        "a data item's key is a text; found bytes",
    ),
    "references in a list": (
        lambda store: store.plan_delete(["x"]),  # type: ignore[arg-type]
        "wanted ids or names, each an argument of its own; found list",
    ),
    "nothing to repair": (
        lambda store: store.plan_repair(None),  # type: ignore[arg-type]
        "report: wanted what `check` returned; found NoneType",
    ),
    "text as a file's content": (
        lambda store: store.containers.write_file("box", "a", "text"),  # type: ignore[arg-type]
        "data: wanted bytes; found str",
    ),
    "a file's name as a path": (
        lambda store: store.containers.write_file("box", b"a", b""),  # type: ignore[arg-type]
        "name: wanted a text; found bytes",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_the_caller_is_told_in_his_terms(store: orlop.Store, mistake: str) -> None:
    store.containers.create(names=["box"])
    act, told = MISTAKES[mistake]
    before = store.snapshot()
    with pytest.raises(TypeError) as problem:
        act(store)
    assert str(problem.value) == told
    assert store.snapshot() == before


def test_maps_of_a_store_are_maps(place: Any) -> None:
    with pytest.raises(TypeError, match=r"^mappings: wanted orlop.IDMappings; found list$"):
        orlop.open_store(place / "graph", place / "run", "vfs", mappings=[])  # type: ignore[arg-type]
