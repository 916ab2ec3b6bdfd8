"""`store.layers`: making, naming, finding and deleting layers."""

import gzip
import hashlib
import io
import os
from pathlib import Path

import pytest

import orlop
from orlop import errors
from orlop.model.events import BlobRead, LayerStored
from tarballs import tar


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_a_blob_becomes_a_layer_with_its_facts(store: orlop.Store, other: orlop.Store) -> None:
    """Digests and sizes of what came and of the tar in it; another program sees the same value."""
    plain = tar("etc/", ("etc/motd", b"ahoy\n")).getvalue()
    blob = gzip.compress(plain)
    layer = store.layers.put(io.BytesIO(blob), names=["base", "base"], metadata="mine")
    assert (layer.compressed_digest, layer.compressed_size) == (digest(blob), len(blob))
    assert (layer.diff_digest, layer.diff_size, layer.compression) == (digest(plain), len(plain), 2)
    assert (layer.names, layer.metadata, layer.parent) == (("base",), "mine", None)
    assert (layer.uids, layer.gids) == ((0,), (0,))
    assert not layer.flags
    assert other.layers["base"] == layer
    assert other.layers.size("base") == len(plain)


def test_what_was_put_comes_back_to_the_bit(store: orlop.Store) -> None:
    plain = tar("etc/", ("etc/motd", b"ahoy\n")).getvalue() + b"and what follows the end"
    layer = store.layers.put(io.BytesIO(gzip.compress(plain)))
    with store.diff(layer.id, compression=0) as stream:
        assert stream.read() == plain
    with store.diff(layer.id) as stream:
        assert gzip.decompress(stream.read()) == plain


def test_a_digest_that_was_asked_for_is_verified(store: orlop.Store) -> None:
    """Nothing of a layer that is something else stays; a trusted digest is recorded as given."""
    plain = tar("file").getvalue()
    blob = gzip.compress(plain)
    assert store.layers.put(io.BytesIO(blob), digest=digest(blob), diff_digest=digest(plain)).id
    for wrong in ({"digest": digest(plain)}, {"diff_digest": digest(blob)}):
        with pytest.raises(errors.BadArchive, match="was to be"):
            store.layers.put(io.BytesIO(blob), id="wrong", **wrong)
    assert "wrong" not in store.layers
    trusted = store.layers.put(io.BytesIO(plain), trusted_digest=digest(b"other"), trusted_size=7)
    assert (trusted.compressed_digest, trusted.compressed_size) == (digest(b"other"), 7)
    assert trusted.diff_digest == digest(plain)
    with pytest.raises(errors.InvalidDigest):
        store.layers.put(io.BytesIO(plain), digest="sha256:short")
    with pytest.raises(ValueError, match="not both"):
        store.layers.put(io.BytesIO(plain), digest=digest(plain), trusted_digest=digest(plain))


def test_progress_tells_what_was_read_and_the_end(store: orlop.Store) -> None:
    blob = tar(("file", b"x" * 100_000)).getvalue()
    seen: list[object] = []
    layer = store.layers.put(io.BytesIO(blob), progress=seen.append)
    assert seen[-1] == LayerStored(layer.id, len(blob))
    assert seen[-2] == BlobRead(len(blob))


@pytest.mark.parametrize(
    ("blob", "error", "peer"),
    [
        (b"x" * 100, errors.BadArchive, "unexpected EOF"),
        (b"x" * 2000, errors.BadArchive, "invalid tar header"),
        (gzip.compress(tar("file").getvalue())[:-9], errors.BadArchive, ""),
        (tar("file", "./file").getvalue(), errors.DuplicatePath, "duplicates of file paths not supported"),
        (tar(".wh.").getvalue(), errors.Unsafe, ""),
    ],
    ids=["short", "no tar", "cut gzip", "twice", "empty whiteout"],
)
def test_a_bad_blob_leaves_nothing(
    store: orlop.Store, other: orlop.Store, blob: bytes, error: type[Exception], peer: str
) -> None:
    with pytest.raises(error) as caught:
        store.layers.put(io.BytesIO(blob), id="bad", names=["bad"])
    assert peer in caught.value.peer  # type: ignore[attr-defined]
    for program in (store, other):
        assert len(program.layers) == 0
        assert program.storage_layers() == []
    assert store.layers.put(tar("file"), id="bad", names=["bad"]).names == ("bad",)


def test_a_source_that_fails_leaves_nothing_and_its_error_goes_on(store: orlop.Store) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            raise ConnectionResetError("the other end hung up")

    with pytest.raises(ConnectionResetError, match="hung up"):
        store.layers.put(Broken())  # type: ignore[arg-type]
    assert len(store.layers) == 0


def test_children_have_what_their_parents_have(store: orlop.Store) -> None:
    base = store.layers.put(tar("d/", ("d/kept", b"1"), ("d/gone", b"2")), names=["base"])
    child = store.layers.put(tar("d/", "d/.wh.gone", ("d/new", b"3")), parent="base")
    grandchild = store.layers.create(parent=child.id[:12])
    assert (child.parent, grandchild.parent) == (base.id, child.id)
    with store.mounted(grandchild.id) as root:
        assert sorted(os.listdir(root / "d")) == ["kept", "new"]
    with pytest.raises(errors.LayerUnknown) as caught:
        store.layers.create(parent="nobody")
    assert caught.value.ref == "nobody"


def test_a_template_is_copied_with_its_facts(store: orlop.Store) -> None:
    """The copy has content, digests and tar-split of the template, its own id, and no names."""
    pattern = store.layers.put(tar(("file", b"same")), names=["pattern"], metadata="text")
    copy = store.layers.create(template="pattern")
    assert (copy.diff_digest, copy.metadata, copy.names) == (pattern.diff_digest, "text", ())
    with store.diff(copy.id) as stream:
        again = stream.read()
    with store.diff(pattern.id) as stream:
        assert stream.read() == again


def test_ids_and_names_are_taken_once(store: orlop.Store) -> None:
    first = store.layers.create(id="one", names=["name"])
    with pytest.raises(errors.DuplicateID) as id_taken:
        store.layers.create(id="one")
    with pytest.raises(errors.DuplicateName) as name_taken:
        store.layers.create(names=["free", "name"])
    assert (id_taken.value.kind, id_taken.value.id) == ("layer", "one")
    assert (name_taken.value.name, name_taken.value.owner) == ("name", first.id)
    assert [layer.id for layer in store.layers] == ["one"]


def test_references_are_ids_then_names_then_prefixes(store: orlop.Store, other: orlop.Store) -> None:
    """An ambiguous prefix is not known; a name may look like an id."""
    store.layers.create(id="abcd1", names=["abcd2x"])
    store.layers.create(id="abcd2", names=["abcd1"])
    for program in (store, other):
        assert program.layers["abcd1"].id == "abcd1"
        assert program.layers["abcd2x"].id == "abcd1"
        assert "abcd" not in program.layers
        assert "" not in program.layers
        assert program.layers.get("abcd") is None
        with pytest.raises(KeyError):
            program.layers["abcd"]
    store.layers.delete("abcd2")
    assert other.layers["abcd"].id == "abcd1"


def test_names_are_taken_away_from_others(store: orlop.Store, other: orlop.Store) -> None:
    """Unlike at creation; new names come first, and every program sees it at once."""
    store.layers.create(id="one", names=["a", "b"])
    store.layers.create(id="two", names=["c"])
    assert store.layers.add_names("two", ["x", "a", "x"]) == ("x", "a", "c")
    assert other.layers.names("one") == ("b",)
    assert other.layers.remove_names("two", ["a", "absent"]) == ("x", "c")
    assert store.layers.set_names("x", ["only"]) == ("only",)
    assert store.layers.names("two") == other.layers.names("only") == ("only",)
    assert other.layers.set_names("two", []) == ()
    with pytest.raises(errors.LayerUnknown):
        store.layers.add_names("three", ["y"])
    with pytest.raises(TypeError, match="list of texts"):
        store.layers.add_names("one", "text")


def test_metadata_is_the_callers_own(store: orlop.Store, other: orlop.Store) -> None:
    store.layers.create(id="one", metadata="first")
    other.layers.set_metadata("one", 'a "text"\n<&>\u2028')
    assert store.layers.metadata("one") == 'a "text"\n<&>\u2028'


def test_layers_are_found_by_their_digests(store: orlop.Store) -> None:
    plain = tar("file").getvalue()
    one, two = (store.layers.put(io.BytesIO(data)) for data in (plain, gzip.compress(plain)))
    assert [layer.id for layer in store.layers.by_diff_digest(digest(plain))] == [one.id, two.id]
    assert [layer.id for layer in store.layers.by_compressed_digest(digest(plain))] == [one.id]
    assert store.layers.by_toc_digest(digest(plain)) == []
    with pytest.raises(errors.InvalidDigest):
        store.layers.by_diff_digest("md5:x")


def test_what_is_needed_is_not_deleted(store: orlop.Store) -> None:
    """Also when it is called by a name, which the Go program overlooks."""
    store.layers.put(tar("a"), id="base", names=["base-name"])
    store.layers.create(id="top", parent="base", names=["top-name"])
    store.images.create(id="image", layer="top")
    store.containers.create(id="box", image="image", layer="box-layer")
    for ref in ("base", "base-name", "bas"):
        with pytest.raises(errors.LayerHasChildren) as parent:
            store.layers.delete(ref)
        assert parent.value.child == "top"
    store.images.create(id="lone", layer=store.layers.create(id="lone-layer").id)
    with pytest.raises(errors.LayerUsedByImage) as used:
        store.layers.delete("lone-layer")
    assert (used.value.id, used.value.image) == ("lone-layer", "lone")
    with pytest.raises(errors.LayerUsedByContainer) as boxed:
        store.layers.delete("box-layer")
    assert boxed.value.container == "box"
    with pytest.raises(errors.NotALayer):
        store.layers.delete("image")
    with pytest.raises(errors.ParentIsContainer):
        store.layers.create(parent="box-layer")
    assert len(store.layers) == 4


def test_deleting_takes_everything_away(store: orlop.Store, other: orlop.Store, place: Path) -> None:
    layer = store.layers.put(tar("a"), names=["x"], data={"Key": b"v", "stream": io.BytesIO(b"w")})
    assert store.layers.data(layer.id)["stream"] == b"w"
    other.mount(layer.id)
    store.layers.delete("x")
    for program in (store, other):
        assert list(program.layers) == []
        assert program.storage_layers() == []
    directory = place / "graph" / f"{store.driver_name}-layers"
    assert sorted(p.name for p in directory.iterdir() if not p.name.startswith(("tmp", "layers"))) == []
    with pytest.raises(errors.NotALayer):
        store.layers.delete(layer.id)


def test_values_are_frozen(store: orlop.Store) -> None:
    layer = store.layers.create(id="one", flags={"mine": [1]})
    with pytest.raises(AttributeError, match="frozen"):
        layer.metadata = "x"
    layer.document()["flags"]["mine"].append(2)
    assert store.layers["one"].flags == {"mine": [1]}


def test_unsafe_ids_are_refused_before_anything_is_written(store: orlop.Store, place: Path) -> None:
    """N1, N2, N4: such an id is a path, or wedges other programs for good."""
    for id in ("../../evil", ".", "..", "a/b", "x" * 300, "-x", ".x", "a b", "n\0l", "\u00e9", "x\n"):
        with pytest.raises(errors.UnsafeID):
            store.layers.create(id=id)
        with pytest.raises(errors.UnsafeID):
            store.images.create(id=id)
        with pytest.raises(errors.UnsafeID):
            store.containers.create(id=id)
        with pytest.raises(errors.UnsafeID):
            store.containers.create(layer=id)
    assert len(store.layers) + len(store.images) + len(store.containers) == 0
    assert not list(place.rglob("*evil*"))


def test_ids_of_records_that_could_reach_elsewhere_are_set_aside(
    store: orlop.Store, other: orlop.Store, place: Path
) -> None:
    """N3: flagged incomplete, such a record made the Go program delete a directory of somebody's choice."""
    store.layers.put(tar("keep"), id="victim")
    table = place / "graph" / f"{store.driver_name}-layers" / "layers.json"
    evil = '{"id":"../dir/victim","created":"2026-01-01T00:00:00Z","flags":{"incomplete":true}}'
    table.write_text(table.read_text()[:-1] + "," + evil + "]")
    assert [layer.id for layer in other.layers] == ["victim"]
    other.layers.create(id="new")
    with other.mounted("victim") as root:
        assert (root / "keep").exists()
    assert any("../dir/victim" in line for line in other.damage())
    assert evil in table.read_text()
    table.write_text(table.read_text().replace("," + evil, ""))


def test_an_empty_table_beside_data_is_damage(store: orlop.Store, other: orlop.Store, place: Path) -> None:
    """P11: the Go program collects all data in this state."""
    store.layers.put(tar("precious"), id="one")
    table = place / "graph" / f"{store.driver_name}-layers" / "layers.json"
    content = table.read_bytes()
    for broken in (b"", None):
        table.write_bytes(broken) if broken is not None else table.unlink()
        for change in (
            lambda: other.layers.create(id="two"),
            lambda: other.layers.put(tar("x")),
            other.wipe,
            lambda: other.delete("one"),
        ):
            with pytest.raises(errors.BadRecords, match="damage"):
                change()
        assert other.storage_layers() == ["one"]
    table.write_bytes(content)
    assert [layer.id for layer in other.layers] == ["one"]
