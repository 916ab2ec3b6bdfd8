"""A record that cannot be read may need anything it mentions: nothing of that is deleted on its silence."""

import json
from pathlib import Path
from typing import Any

import pytest

import orlop
from orlop.errors import BadRecords


def damage(store: orlop.Store, kind: str, id: str, **members: Any) -> Path:
    """Make one record one that nobody can read, as an editor or a bad disk does; the others stay."""
    path = Path(store.graph_root) / f"{store.driver_name}-{kind}s/{kind}s.json"
    records = json.loads(path.read_bytes())
    path.write_text(json.dumps([r | members if r["id"] == id else r for r in records]))
    with getattr(store._engine, f"{kind}s").locks[0].writing() as lock:
        lock.renew()
    return path


def test_layers_of_an_image_that_cannot_be_read_outlive_the_others_that_use_them(store: orlop.Store) -> None:
    base = store.layers.create(id="base")
    top = store.layers.create(id="top", parent=base.id)
    store.images.create(id="damaged", layer=top.id)
    store.images.create(id="whole", layer=top.id)
    path = damage(store, "image", "damaged", created="yesterday")
    assert [image.id for image in store.images] == ["whole"]
    assert any("damaged" in line for line in store.damage())
    assert store.images.delete("whole") == ()
    with pytest.raises(BadRecords, match="damaged record"):
        store.layers.delete("top")
    assert {layer.id for layer in store.layers} == {"base", "top"}
    with pytest.raises(orlop.StorageError):
        store.images.create(id="damaged")
    path.write_text(path.read_text().replace("yesterday", "2026-11-23T21:16:55Z"))
    with store._engine.images.locks[0].writing() as lock:
        lock.renew()
    assert store.images.delete("damaged") == ("top", "base")
    assert store.damage() == ()


def test_the_parent_of_a_layer_that_cannot_be_read_is_not_deleted(store: orlop.Store) -> None:
    store.layers.create(id="base")
    store.layers.create(id="child", parent="base")
    path = damage(store, "layer", "child", compression="gzip")
    with pytest.raises(BadRecords):
        store.layers.delete("base")
    assert [layer.id for layer in store.layers] == ["base"]
    path.write_text(path.read_text().replace('"gzip"', "2"))
    assert [layer.id for layer in store.layers] == ["base", "child"]


def test_the_layer_of_a_container_that_cannot_be_read_is_not_deleted(store: orlop.Store) -> None:
    box = store.containers.create(id="box")
    damage(store, "container", "box", names=5)
    assert list(store.containers) == []
    with pytest.raises(BadRecords):
        store.layers.delete(box.layer)
    damage(store, "container", "box", names=[])
    store.containers.delete("box")
