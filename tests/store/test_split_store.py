"""A split store: images and their layers lie in a second root; those of the graph root are ours as well."""

import contextlib
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


def test_a_rename_copies_an_image_of_the_graph_root_into_the_image_store(place: Path) -> None:
    """As the Go program does; the old record stays, and both go together, each layer once."""
    with orlop.open_store(place / "graph", place / "run", "vfs", durability="none") as plain:
        plain.layers.put(tar("old"), id="old-layer")
        plain.images.create(id="old", layer="old-layer", names=["old-name"], data={"manifest": b"{}"})
    store = split(place)
    assert store.add_names("old-name", ["new-name"]) == ("new-name", "old-name")
    assert '"new-name","old-name"' in (place / "images/vfs-images/images.json").read_text()
    assert '"names":["old-name"]' in (place / "graph/vfs-images/images.json").read_text()
    assert store.images.data("new-name")["manifest"] == b"{}"
    assert [image.id for image in store.images] == ["old", "old"]
    # The layer is needed by either record, but by nobody else.
    assert store.images.delete("old") == ("old-layer",)
    assert (len(store.images), len(store.layers)) == (0, 0)
    assert not (place / "graph/vfs-images/old").exists()
    assert not (place / "images/vfs-images/old").exists()


def test_what_is_made_beside_an_image_of_the_graph_root_lies_where_it_belongs(place: Path) -> None:
    """Records by their kind, big data and tar-split always in the graph root (`spec/records.md` 1, 2)."""
    store = split(place)
    layer = store.layers.put(tar("etc/"), data={"item": b"x"})
    writable = store.layers.create(writable=True)
    box = store.containers.create(image=store.images.create(id="image", layer=layer.id).id)
    stable = (place / "graph/vfs-layers/layers.json").read_text()
    of_images = (place / "images/vfs-layers/layers.json").read_text()
    for id, where, elsewhere in (
        (layer.id, of_images, stable),
        (writable.id, stable, of_images),
        (box.layer, stable, of_images),
    ):
        assert id in where
        assert f'"id":"{id}"' not in elsewhere
    assert (place / f"graph/vfs-layers/{layer.id}.tar-split.gz").exists()
    assert (place / f"graph/vfs-layers/{layer.id}/item").read_bytes() == b"x"
    assert store.images.directory("image") == str(place / "graph/vfs-images/image/userdata")
    store.containers.delete(box.id)
    store.images.delete("image")
    assert not (place / "graph/vfs-images/image").exists()
    assert not list(place.rglob(f"*{layer.id}*"))


# --- a deletion that nobody finished ------------------------------------------------------------------------

ID = "0d" * 32


@pytest.fixture
def begun(place: Path) -> Path:
    """The directory of an image in the graph root. A note says that its record, of either root, was to go."""
    with orlop.open_store(place / "graph", place / "run", "vfs", durability="none") as plain:
        plain.images.create(id=ID, names=["old"], data={"manifest": b"{}"})
        plain.images.write_file("old", "file", b"of a caller")
        plain.images.write_file("old", "file", b"of a caller", run=True)
    with split(place) as store:
        store.images.create(names=["other"])
    (place / "images/vfs-images/.tmp-set-1").write_text(f'{{"ids":["{ID}"]}}')
    return place / "graph/vfs-images" / ID


def write(place: Path) -> tuple[str, ...]:
    """Any change of the images; what is damaged then."""
    with split(place) as store:
        store.images.set_metadata("other", "x")
        return store.damage()


def directories(place: Path) -> list[str]:
    return [str(path.relative_to(place)) for path in place.rglob(ID)]


def test_the_next_write_removes_what_an_image_had_in_the_graph_root(place: Path, begun: Path) -> None:
    (place / "graph/vfs-images/images.json").write_text("[]")
    assert write(place) == ()
    assert directories(place) == []


def test_an_image_that_the_graph_root_still_has_keeps_its_files(place: Path, begun: Path) -> None:
    assert write(place) == ()
    assert (begun / "userdata/file").exists()
    assert (begun / "manifest").exists()
    with split(place) as store:
        assert store.images.read_file("old", "file", run=True) == b"of a caller"


@pytest.mark.parametrize("content", ["", "[", f'[{{"id":"{ID}","created":5}}]'])
def test_beside_a_damaged_table_of_the_graph_root_nothing_is_removed(
    place: Path, begun: Path, content: str
) -> None:
    """Nobody knows whether it has the image. Once it is there again, the deletion is finished."""
    table = place / "graph/vfs-images/images.json"
    table.write_text(content)
    with contextlib.suppress(errors.BadRecords):
        write(place)
    assert (begun / "userdata/file").exists()
    assert (begun / "manifest").exists()


def test_a_deletion_is_finished_when_the_table_of_the_graph_root_is_there_again(
    place: Path, begun: Path
) -> None:
    table = place / "graph/vfs-images/images.json"
    table.unlink()
    with contextlib.suppress(errors.BadRecords):
        write(place)
    assert (begun / "manifest").exists()
    table.write_text("[]")
    assert write(place) == ()
    assert directories(place) == []


def test_one_root_for_both_is_refused(place: Path) -> None:
    """The same lock would be wanted twice."""
    with pytest.raises(errors.ConfigError, match="graph root itself"):
        orlop.open_store(place / "graph", place / "run", "vfs", image_store=place / "run" / ".." / "graph")
