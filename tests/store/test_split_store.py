"""A split store: images and their layers lie in a second root; those of the graph root are ours as well."""

from pathlib import Path

import pytest

import orlop
from orlop import errors
from tarballs import tar


def split(place: Path, driver: str = "vfs") -> orlop.Store:
    return orlop.open_store(
        place / "graph", place / "run", driver, image_store=place / "images", durability="none"
    )


def test_images_of_both_roots_are_listed_and_deleted(place: Path) -> None:
    with orlop.open_store(place / "graph", place / "run", "vfs", durability="none") as plain:
        plain.layers.put(tar("old"), id="old-layer")
        plain.images.create(id="old", layer="old-layer", names=["old-name"])
    store = split(place)
    store.layers.put(tar("new"), id="new-layer", parent="old-layer")
    store.images.create(id="new", layer="new-layer", names=["new-name"])
    assert [image.id for image in store.images] == ["new", "old"]
    assert "new-layer" in (place / "images/vfs-layers/layers.json").read_text()
    assert "old-layer" in (place / "graph/vfs-layers/layers.json").read_text()
    assert store.images.delete("new") == ("new-layer",)
    assert store.images.delete("old-name") == ("old-layer",)
    assert len(store.layers) + len(store.images) == 0


def test_a_layer_that_only_the_other_root_s_image_needs_stays(place: Path) -> None:
    """The Go program looks at one table, and deletes it."""
    with orlop.open_store(place / "graph", place / "run", "vfs", durability="none") as plain:
        plain.layers.put(tar("shared"), id="shared")
        plain.images.create(id="old", layer="shared")
    store = split(place)
    store.images.create(id="new", layer="shared")
    with pytest.raises(errors.LayerUsedByImage):
        store.layers.delete("shared")
    assert store.images.delete("new") == ()
    with pytest.raises(errors.LayerUsedByImage) as used:
        store.layers.delete("shared")
    assert used.value.image == "old"
    with store.mounted("shared") as root:
        assert (root / "shared").exists()
    assert store.images.delete("old") == ("shared",)


def test_one_root_for_both_is_refused(place: Path) -> None:
    """The same lock would be wanted twice."""
    with pytest.raises(errors.ConfigError, match="graph root itself"):
        orlop.open_store(place / "graph", place / "run", "vfs", image_store=place / "run" / ".." / "graph")
