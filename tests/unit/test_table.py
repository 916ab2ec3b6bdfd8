"""Layers, images and containers as locked tables: loading, repair, saving, and what two programs see of each other.

Two table objects on one directory are two programs: they share the files and the locks and nothing else.
"""

import fcntl
import io
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orlop.errors import BadRecords, DuplicateID, LockTimeout, ReadOnly, StorageError
from orlop.formats import recordfiles, records
from orlop.records import table as table_module
from orlop.records.bigdata import Items
from orlop.records.blocks import Editor, View
from orlop.records.containers import ContainerTable
from orlop.records.images import ImageTable
from orlop.records.incomplete import creating
from orlop.records.layers import STABLE, LayerTable, flag, is_incomplete
from orlop.records.mountpoints import Mount
from orlop.records.table import Table
from orlop.records.trash import Trash
from orlop.system import files

WHEN = "2026-11-23T21:16:55Z"
SHA = "sha256:" + "0123456789abcdef" * 4
ID = "0123456789abcdef" * 4


def doc(id: str, *names: str, **members: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"id": id}
    if names:
        document["names"] = list(names)
    return {**document, "created": WHEN, **{key.replace("_", "-"): item for key, item in members.items()}}


def bare(documents: list[Any]) -> list[Any]:
    """Without the empty members that a container always has."""
    return [{k: v for k, v in d.items() if v != ""} if isinstance(d, dict) else d for d in documents]


def text(*documents: Any) -> bytes:
    return json.dumps(documents, separators=(",", ":"), ensure_ascii=False).encode()


class Place:
    """The roots of a store, without the store."""

    def __init__(self, base: Path) -> None:
        self.graph, self.run, self.images_root = base / "graph", base / "run", base / "images"
        self.driver: set[str] = set()  # layers that the driver holds
        self.stuck: set[str] = set()  # layers that it cannot let go of
        for directory in ("vfs-layers", "vfs-images", "vfs-containers"):
            (self.graph / directory).mkdir(parents=True)

    def put(self, name: str, content: bytes) -> Path:
        """Write a file as a person with an editor does: no lock, no token."""
        path = self.graph / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def get(self, name: str) -> Any:
        return bare(json.loads((self.graph / name).read_bytes()))

    def discard(self, id: str, rubbish: Trash) -> None:
        if id in self.stuck:
            raise OSError(16, "Device or resource busy", id)
        self.driver.discard(id)

    def layers(self, **how: Any) -> LayerTable:
        how.setdefault("discard", self.discard)
        how.setdefault("stored_ids", lambda: sorted(self.driver))
        how.setdefault("run_directory", str(self.run / "vfs-layers"))
        return LayerTable(str(self.graph / "vfs-layers"), durable=False, **how)

    def split(self, **how: Any) -> LayerTable:
        return self.layers(image_directory=str(self.images_root / "vfs-layers"), **how)

    def images(self, **how: Any) -> ImageTable:
        return ImageTable(str(self.graph / "vfs-images"), durable=False, **how)

    def containers(self, **how: Any) -> ContainerTable:
        return ContainerTable(
            str(self.graph / "vfs-containers"),
            run_directory=str(self.run / "vfs-containers"),
            durable=False,
            **how,
        )


@pytest.fixture
def at(tmp_path: Path) -> Place:
    return Place(tmp_path)


LAYERS, VOLATILE, IMAGES = (
    "vfs-layers/layers.json",
    "vfs-layers/volatile-layers.json",
    "vfs-images/images.json",
)
CONTAINERS, VOLATILE_CONTAINERS = (
    "vfs-containers/containers.json",
    "vfs-containers/volatile-containers.json",
)

Make = Callable[[Place], Table]
TABLES = [
    pytest.param(Place.layers, LAYERS, id="layers"),
    pytest.param(Place.images, IMAGES, id="images"),
    pytest.param(Place.containers, CONTAINERS, id="containers"),
]


def listed(table: Table) -> list[dict[str, Any]]:
    with table.reading() as view:
        return bare([value.document() for value in view.values()])


def ids(table: Table) -> list[str]:
    return [document["id"] for document in listed(table)]


def names(table: Table) -> dict[str, list[str]]:
    return {document["id"]: document.get("names", []) for document in listed(table)}


def row(view: View, ref: str) -> Any:
    found = view.find(ref)
    assert found is not None, ref
    return found


def touch(table: Table) -> None:
    """What another program does when it saves: a new token."""
    with table.locks[0].writing():
        table.locks[0].renew()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the records that were turned into text."""
    seen: list[str] = []
    real = records.encode

    def counting(kind: Any, document: Any) -> str:
        seen.append(document["id"])
        return real(kind, document)

    monkeypatch.setattr(table_module, "encode", counting)
    monkeypatch.setattr(records, "encode", counting)
    monkeypatch.setattr(recordfiles, "encode", counting)
    return seen


# --- loading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_a_table_that_nobody_wrote_is_empty_and_makes_no_file(at: Place, make: Make, file: str) -> None:
    table = make(at)
    assert listed(table) == []
    assert table.damage == ()
    assert not (at.graph / file).exists()
    with table.writing():
        pass
    assert not (at.graph / file).exists()


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_records_are_listed_in_file_order_and_kept_as_they_are(at: Place, make: Make, file: str) -> None:
    content = [doc("b", "n", new={"x": [1]}), doc("a", metadata="<&>"), doc("c")]
    at.put(file, text(*content))
    assert listed(make(at)) == content
    assert at.get(file) == content


def test_the_files_of_a_table_are_read_in_load_order(at: Place) -> None:
    at.put(LAYERS, text(doc("b"), doc("a")))
    at.put(VOLATILE, text(doc("v"), doc("a", metadata="late")))
    (at.images_root / "vfs-layers").mkdir(parents=True)
    (at.images_root / "vfs-layers/layers.json").write_bytes(text(doc("i"), doc("b", metadata="late")))
    table = at.split()
    assert ids(table) == ["b", "a", "i", "v"]
    with table.reading() as view:
        assert [found.home for found in view.rows] == [0, 0, 1, 2]
        assert row(view, "a").document.get("metadata") is None
    assert len(table.damage) == 2
    assert "second record of layer a" in " ".join(table.damage)
    assert [
        table.home_for(volatile=v, writable=w) for v, w in [(True, True), (False, True), (False, False)]
    ] == [
        2,
        0,
        1,
    ]


def test_a_duplicate_goes_with_the_next_save_of_its_file(at: Place) -> None:
    at.put(LAYERS, text(doc("a")))
    at.put(VOLATILE, text(doc("a"), doc("b")))
    table = at.layers()
    with table.writing() as editor:
        editor.change(row(editor, "a"), {"metadata": "m"})
    assert [d["id"] for d in at.get(VOLATILE)] == ["a", "b"]
    with table.writing() as editor:
        editor.change(row(editor, "b"), {"metadata": "m"})
    assert [d["id"] for d in at.get(VOLATILE)] == ["b"]
    assert listed(table)[0]["metadata"] == "m"


def test_both_images_of_one_id_stay_listed_and_the_later_is_found(at: Place) -> None:
    content = [doc("a", "x", metadata="1"), doc("b"), doc("a", "n", "n", metadata="2")]
    at.put(IMAGES, text(*content))
    table = at.images()
    assert listed(table) == content
    with table.writing() as editor:
        assert row(editor, "a").document["metadata"] == "2"
        editor.change(row(editor, "a"), {"metadata": "3"})
    assert [d.get("metadata") for d in at.get(IMAGES)] == ["1", None, "3"]
    with table.writing() as editor:
        editor.remove(row(editor, "a"))
    assert at.get(IMAGES) == [doc("b")]


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"[ ]\n"])
@pytest.mark.parametrize(("make", "file"), TABLES)
def test_empty_and_null_are_no_records(at: Place, make: Make, file: str, content: bytes) -> None:
    at.put(file, content)
    assert listed(make(at)) == []


@pytest.mark.parametrize(
    "content",
    [b"{", b"{}", b"  ", b"[null", b"[]]", b"\xef\xbb\xbf[]", b"\0\0\0\0", b'[{"id":NaN}]', b"[" * 50_000],
)
@pytest.mark.parametrize(("make", "file"), TABLES)
def test_a_broken_file_stops_its_table_with_path_and_reason(
    at: Place, make: Make, file: str, content: bytes
) -> None:
    path = at.put(file, content)
    table = make(at)
    for block in (table.reading, table.writing, table.reading):
        with pytest.raises(BadRecords) as failure, block():
            pass
        assert str(failure.value).startswith(f'loading "{path}": ')
        assert failure.value.path == str(path)
        assert table.damage == (str(failure.value),)
    assert path.read_bytes() == content
    path.write_bytes(text(doc("a")))
    assert ids(table) == ["a"]
    assert table.damage == ()


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_a_file_that_is_something_else_is_damage_and_never_waited_for(
    at: Place, make: Make, file: str
) -> None:
    """H5: a FIFO there would stop us for ever, a link would have us read and judge somebody else's file."""
    path = at.graph / file
    for put in (
        lambda: os.mkfifo(path),
        lambda: os.symlink("/etc/passwd", path),
        path.mkdir,
    ):
        put()
        with pytest.raises((BadRecords, OSError)), make(at).reading():
            pass
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def test_a_file_past_the_limit_is_damage(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """H4: a gigabyte is neither read nor decoded."""
    monkeypatch.setattr(table_module, "RECORDS_FILE_MAX", 1000)
    at.put(LAYERS, text(*[doc(f"{n:064x}") for n in range(20)]))
    with pytest.raises(BadRecords, match="1000"), at.layers().reading():
        pass


def test_a_file_of_rubbish_is_damage(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordfiles, "RECORDS_ASIDE_MAX", 10)
    path = at.put(LAYERS, b"[" + b"5," * 10 + b"5]")
    with pytest.raises(BadRecords, match="do not fit") as failure, at.layers().reading():
        pass
    assert failure.value.path == str(path)


def test_a_broken_table_does_not_stop_another(at: Place) -> None:
    at.put(IMAGES, b"{")
    at.put(LAYERS, text(doc("a")))
    assert ids(at.layers()) == ["a"]
    assert listed(at.containers()) == []


def test_a_table_of_another_store_is_only_read_and_stops_nothing(at: Place) -> None:
    """H9."""
    path = at.put(LAYERS, b"{")
    table = at.layers(read_only=True, run_directory=None)
    assert listed(table) == []
    assert table.damage[0].startswith(f'loading "{path}": ')
    path.write_bytes(text(doc("a", "n"), doc("b", "n", flags={"incomplete": True}), doc("../x")))
    assert names(table) == {"a": [], "b": ["n"]}
    with table.reading() as view:
        value = view.value(row(view, "b"))
        assert value.read_only
        assert [v.read_only for v in view.values()] == [True, True]
        assert is_incomplete(row(view, "b"))  # used as they are
    assert path.read_bytes() == text(doc("a", "n"), doc("b", "n", flags={"incomplete": True}), doc("../x"))
    assert len(table.damage) == 1
    with pytest.raises(ReadOnly):
        table.writing()
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert listed(table) == []
    assert "symbolic link" in table.damage[0]


@pytest.mark.parametrize("bad", [b"null", b'{"id":"x","created":1}', b'{"id":"../x"}', b'{"id":"x"}x'])
def test_records_that_do_not_fit_are_set_aside_and_written_back(at: Place, bad: bytes) -> None:
    """P9: named, kept to the byte, never acted on; the rest goes on."""
    good = [text(doc(f"{n:064x}"))[1:-1] for n in range(4)]
    path = at.put(LAYERS, b"[" + b",".join([good[0], b'{"id": 7, "m":"\xff"}', good[1], bad, good[2]]) + b"]")
    table = at.layers()
    if bad.endswith(b"x"):
        with pytest.raises(BadRecords), table.reading():
            pass
        return
    assert ids(table) == [f"{n:064x}" for n in range(3)]
    assert len(table.damage) == 2
    assert all(str(path) in line and "set aside" in line for line in table.damage)
    with table.writing() as editor:
        editor.add(doc(f"{3:064x}"))
    after = b"[" + b",".join([good[0], b'{"id": 7, "m":"\xff"}', good[1], bad, good[2], good[3]]) + b"]"
    assert path.read_bytes() == after
    with table.writing() as editor:
        editor.remove(row(editor, f"{0:064x}"))
    assert b'{"id": 7, "m":"\xff"}' in path.read_bytes()
    assert bad in path.read_bytes()
    assert ids(at.layers()) == [f"{n:064x}" for n in range(1, 4)]
    assert len(table.damage) == len(at.layers().asides()) + 2 == 2


UNSAFE = [
    "../../evil",
    ".",
    "..",
    "a/b",
    "a\0",
    "layers.json",
    "layers.lock",
    "tmp",
    "base.tar-split.gz",
    "x" * 256,
]


@pytest.mark.parametrize("id", UNSAFE)
def test_a_record_with_an_unsafe_id_is_never_acted_on(at: Place, id: str) -> None:
    """N3: flagged incomplete, it had the peers remove a directory of its choosing; here, also the table itself."""
    outside = at.graph.parent / "evil"
    outside.mkdir()
    (outside / "canary").touch()
    at.put("vfs-layers/base.tar-split.gz", b"t")
    path = at.put(LAYERS, text(doc("base"), doc(id, flags={"incomplete": True})))
    discarded: list[str] = []
    table = at.layers(discard=lambda layer, rubbish: discarded.append(layer))
    with table.writing() as editor:
        editor.add(doc("new"))
    assert ids(table) == ["base", "new"]
    assert discarded == []
    assert (outside / "canary").exists()
    assert (at.graph / "vfs-layers/base.tar-split.gz").exists()
    assert [d["id"] for d in json.loads(path.read_bytes())] == ["base", id, "new"]
    assert len(table.damage) == 1


def test_what_a_record_set_aside_mentions_is_not_free(at: Place) -> None:
    """Nobody knows what it would say; its data is collected by nobody, and its id is taken."""
    at.driver = {"lost", "kept"}
    at.put(
        LAYERS, text({"id": "lost", "created": 1}, doc("base"), {"id": 5, "parent": "base", "names": ["lo"]})
    )
    table = at.layers()
    assert ids(table) == ["base"]
    assert "created" in (table.doubted("lost") or "")
    assert "id" in (table.doubted("base") or "")
    assert table.doubted("other") is None
    assert [aside.id for aside in table.asides()] == ["lost", None]
    with pytest.raises(DuplicateID), table.writing() as editor:
        editor.add(doc("lost"))
    with pytest.raises(DuplicateID), table.writing() as editor:
        editor.add(doc("base"))
    assert len(at.get(LAYERS)) == 3


def test_an_image_with_an_invalid_digest_is_set_aside(at: Place) -> None:
    """The peers refuse the whole table for it. Items that are no manifests may have any text."""
    content = [
        doc("a", digest="sha256:../../x"),
        doc("b", big_data_digests={"manifest-1": "nonsense", "manifest": SHA}),
        doc("c", big_data_digests={"k": "nonsense"}),
        doc("d", big_data_digests={"manifest": ""}),
    ]
    at.put(IMAGES, text(*content))
    table = at.images()
    assert ids(table) == ["c", "d"]
    assert [("digest" in line, "set aside" in line) for line in table.damage] == [(True, True)] * 2
    with table.writing() as editor:
        editor.change(row(editor, "d"), {"metadata": "m"})
    assert at.get(IMAGES)[:3] == content[:3]


def test_an_image_without_a_digest_takes_that_of_its_first_manifest(at: Place) -> None:
    """In memory at once, on disk with the next save (`spec/records.md` 18.4); and it is never replaced."""
    other = SHA.replace("0", "1")
    at.put(
        IMAGES,
        text(
            doc("a", big_data_digests={"k": "x", "manifest-b": other, "manifest-a": SHA}), doc("b"), doc("c")
        ),
    )
    table = at.images()
    with table.reading() as view:
        value = view.value(row(view, "a"))
        assert (value.digest, value.digests) == (other, (other, SHA))
    assert "digest" not in at.get(IMAGES)[0]
    with table.writing() as editor:
        editor.change(row(editor, "b"), {"metadata": "m"})
    assert at.get(IMAGES)[0]["digest"] == other
    with table.writing() as editor:
        editor.change(row(editor, "a"), {"big-data-digests": {"manifest": SHA}})
    assert at.get(IMAGES)[0]["digest"] == other


# --- repair -------------------------------------------------------------------------------------------------


def test_the_observed_example_of_self_repair(at: Place) -> None:
    """`spec/records.md` 11.1: an incomplete layer, names in several records, a duplicate id."""
    at.driver = {"l1", "l2", "l3", "l4"}
    at.put("vfs-layers/l2.tar-split.gz", b"t")
    at.put("vfs-layers/l2/item", b"i")
    at.put(
        LAYERS,
        text(doc("l1", "a", "b"), doc("l2", "b", "c", flags={"incomplete": True}), doc("l3", parent="l2")),
    )
    at.put(VOLATILE, text(doc("l4", "c"), doc("l3", parent="l2")))
    table = at.layers()
    assert names(table) == {"l1": ["a"], "l3": [], "l4": ["c"]}
    assert at.get(LAYERS) == [doc("l1", "a"), doc("l3", parent="l2")]
    assert listed(at.layers())[-1] == doc("l4", "c")
    assert at.driver == {"l1", "l3", "l4"}
    assert sorted(os.listdir(at.graph / "vfs-layers")) == [
        "layers.json",
        "layers.lock",
        "tmp",
        "volatile-layers.json",
    ]
    assert os.listdir(at.graph / "vfs-layers/tmp") == []


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_the_later_record_wins_a_name_and_that_is_saved(at: Place, make: Make, file: str) -> None:
    at.put(file, text(doc("a", "x", "y"), doc("b", "y"), doc("c", "y", "z")))
    table = make(at)
    assert names(table) == {"a": ["x"], "b": [], "c": ["y", "z"]}
    assert at.get(file) == [doc("a", "x"), doc("b"), doc("c", "y", "z")]
    token = table._token
    assert names(make(at)) == {"a": ["x"], "b": [], "c": ["y", "z"]}
    with table.locks[0].reading():
        assert table.locks[0].token() == token  # repaired once, not at every load


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [(Place.layers, LAYERS, VOLATILE), (Place.containers, CONTAINERS, VOLATILE_CONTAINERS)],
)
def test_the_file_of_the_loser_is_saved(at: Place, make: Make, first: str, second: str) -> None:
    """The peers save the winner's, and repair again at every load."""
    at.put(first, text(doc("a", "x", "y")))
    at.put(second, text(doc("b", "y")))
    winner = (at.graph / second).stat().st_ino
    assert names(make(at)) == {"a": ["x"], "b": ["y"]}
    assert at.get(first) == [doc("a", "x")]
    assert (at.graph / second).stat().st_ino == winner


def test_a_read_only_table_resolves_names_for_itself(at: Place) -> None:
    content = text(doc("a", "x"), doc("b", "x"))
    at.put(IMAGES, content)
    assert names(at.images(read_only=True)) == {"a": [], "b": ["x"]}
    assert (at.graph / IMAGES).read_bytes() == content


@pytest.mark.parametrize("value", ["yes", 1, "true", None, False])
def test_only_a_boolean_flag_makes_a_layer_go(at: Place, value: object) -> None:
    at.put(LAYERS, text(doc("a", flags={"incomplete": value})))
    assert ids(at.layers()) == ["a"]


def test_a_layer_that_resists_stays_and_is_named_and_the_others_go(at: Place) -> None:
    """P9, N4: with the peers one such layer stops every command for ever."""
    at.driver = {"a", "b", "c"}
    at.stuck = {"b"}
    at.put(LAYERS, text(*[doc(id, flags={"incomplete": True}) for id in "abc"], doc("d")))
    table = at.layers()
    assert ids(table) == ["b", "d"]
    (line,) = table.damage
    assert "layer b is incomplete" in line
    assert "busy" in line
    with table.writing() as editor:
        editor.add(doc("e"))
    at.stuck = set()
    assert ids(at.layers()) == ["d", "e"]
    assert at.driver == set()


def test_images_that_cannot_be_read_keep_incomplete_layers_and_stop_nothing_else(at: Place) -> None:
    def release(ids: set[str]) -> None:
        raise BadRecords("images are broken", path="x")

    at.put(LAYERS, text(doc("a", flags={"incomplete": True}), doc("b")))
    table = at.layers(release=release)
    assert ids(table) == ["a", "b"]
    assert "images are broken" in table.damage[0]


def test_what_is_built_on_incomplete_layers_is_released_before_they_go(at: Place) -> None:
    order: list[Any] = []
    at.put(LAYERS, text(doc("a", flags={"incomplete": True}), doc("b", flags={"incomplete": True}), doc("c")))
    table = at.layers(release=order.append, discard=lambda layer, rubbish: order.append(layer))
    assert ids(table) == ["c"]
    assert order == [{"a", "b"}, "a", "b"]


def test_a_repair_that_cannot_be_saved_keeps_nobody_from_reading_or_deleting(
    at: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5: on a full disk, whoever wants to make room has to get in."""
    at.put(LAYERS, text(doc("a", "x"), doc("b", "x"), doc("c", flags={"incomplete": True})))
    real = files.write_atomic

    def full(path: str, data: bytes, **how: Any) -> int:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(files, "write_atomic", full)
    table = at.layers()
    assert names(table) == {"a": [], "b": ["x"], "c": []}
    assert any("No space left" in line for line in table.damage)
    assert ids(table) == ["a", "b", "c"]
    monkeypatch.setattr(files, "write_atomic", real)
    with table.writing() as editor:
        editor.remove(row(editor, "a"))
    assert at.get(LAYERS) == [doc("b", "x")]
    assert table.damage == ()


def test_a_table_that_wants_repair_again_and_again_is_used_as_it_is(
    at: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program keeps writing such records; a reader must not wait for it to stop."""
    table = at.images()
    real = Table._settle

    def undone(self: Table) -> None:
        real(self)
        at.put(IMAGES, text(doc("a", "x"), doc("b", "x")))
        self.locks[0].renew()

    at.put(IMAGES, text(doc("a", "x"), doc("b", "x")))
    monkeypatch.setattr(Table, "_settle", undone)
    for _ in range(2):
        with table.reading() as view:
            assert table.locks[0].held == "r"
            assert {found.id: found.names for found in view.rows} == {"a": [], "b": ["x"]}


def test_repair_asks_for_the_driver_without_holding_a_lock(at: Place) -> None:
    """Asking takes `storage.lock`, which comes before the tables."""
    at.put(LAYERS, text(doc("a", flags={"incomplete": True})))
    table = at.layers()
    held: list[object] = []
    with table.reading(lambda: held.append([lock.held for lock in table.locks])) as view:
        assert [found.id for found in view.rows] == []
    assert held == [[None]]
    with table.reading(lambda: held.append("again")):
        pass
    assert held == [[None]]


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_temporary_files_of_dead_processes_go_with_the_next_write(at: Place, make: Make, file: str) -> None:
    """P4; also if this process has loaded the table before, for reading."""
    directory = (at.graph / file).parent
    table = make(at)
    listed(table)
    left = [directory / ".tmp-layers.json123", directory / ".tmp-x"]
    for path in left:
        path.touch()
    kept = directory / ".tmp-dir"
    kept.mkdir()
    listed(table)
    assert all(path.exists() for path in left)
    with table.writing():
        pass
    assert not any(path.exists() for path in left)
    assert kept.exists()


def test_temporary_files_go_in_every_directory_that_the_lock_guards(at: Place) -> None:
    table = at.split()
    left = [at.images_root / "vfs-layers/.tmp-a1", at.run / "vfs-layers/.tmp-mountpoints.json1"]
    for path in left:
        path.touch()
    with table.writing():
        pass
    assert not any(path.exists() for path in left)
    transient = at.containers(transient=True)
    path = at.run / "vfs-containers/.tmp-volatile-containers.json7"
    path.touch()
    with transient.writing():
        pass
    assert not path.exists()


def test_temporary_files_that_cannot_be_removed_are_damage_and_no_obstacle(
    at: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(directory: str) -> int:
        raise PermissionError(1, "Operation not permitted", directory)

    monkeypatch.setattr(files, "clear_temporaries", forbidden)
    at.put("vfs-images/.tmp-images.json1", b"")
    table = at.images()
    with table.writing() as editor:
        editor.add(doc("a"))
    assert "not permitted" in table.damage[0]
    assert ids(table) == ["a"]


def test_what_was_set_aside_by_a_dead_process_goes_before_the_next_change(at: Place) -> None:
    root = at.graph / "vfs-layers/tmp"
    driver_root = at.graph / "vfs/tempdirs"
    for base in (root, driver_root):
        (base / "temp-dir-7/0-a/deep").mkdir(parents=True)
        (base / "lock-7").touch()
    table = at.layers(temp_roots=(str(driver_root),))
    listed(table)
    assert len(os.listdir(root)) == 2  # who only looks deletes nothing
    with table.writing():
        pass
    assert os.listdir(root) == []
    assert not driver_root.exists()  # older peers would take it for a layer
    assert table.damage == ()


def test_what_cannot_be_recovered_is_damage_and_no_obstacle(at: Place) -> None:
    """Recovery errors never block the layers (N4)."""
    (at.graph / "vfs-layers/tmp/lock-7").mkdir(parents=True)
    at.put(LAYERS, text(doc("a")))
    table = at.layers()
    with table.writing():
        pass
    assert ids(table) == ["a"]
    assert "lock-7" in table.damage[0]


# --- doubts (P11) -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, b""])
@pytest.mark.parametrize("first", ["reading", "writing"])
def test_a_lost_table_of_layers_is_damage(at: Place, content: bytes | None, first: str) -> None:
    """H1: the peers take it for "no layers", and delete all data at the next collection."""
    at.driver = {"a", "b"}
    if content is not None:
        at.put(LAYERS, content)
    at.put("vfs-layers/.tmp-layers.json1", b"perhaps the last copy")
    table = at.layers()
    if first == "reading":
        assert listed(table) == []
        assert "there is layer a and 1 more that no record names" in table.damage[0]
    for _ in range(2):
        with pytest.raises(BadRecords, match="missing or empty") as failure, table.writing():
            pass
        assert '"orlop repair"' in str(failure.value)
        assert failure.value.path == str(at.graph / "vfs-layers")
    assert listed(table) == []
    assert (at.graph / "vfs-layers/.tmp-layers.json1").exists()
    assert not (at.graph / LAYERS).exists() or (at.graph / LAYERS).read_bytes() == b""
    at.put(LAYERS, text(doc("a"), doc("b")))
    with table.writing() as editor:
        editor.add(doc("c"))
    assert ids(table) == ["a", "b", "c"]
    assert table.damage == ()


def test_nothing_is_deleted_from_a_table_in_doubt(at: Place) -> None:
    at.driver = {"a", "v"}
    at.put(VOLATILE, text(doc("v", flags={"incomplete": True}), doc("w", "n"), doc("x", "n")))
    table = at.layers()
    assert ids(table) == ["v", "w", "x"]
    assert at.driver == {"a", "v"}
    with pytest.raises(BadRecords), table.writing():
        pass
    assert len(at.get(VOLATILE)) == 3


def test_a_lost_table_of_the_image_store_is_damage_too(at: Place) -> None:
    at.driver = {"a"}
    at.put(LAYERS, text(doc("c")))
    table = at.split()
    with pytest.raises(BadRecords, match=str(at.images_root)), table.writing():
        pass


def test_a_table_that_says_there_are_none_is_believed(at: Place) -> None:
    at.driver = {"garbage"}
    at.put(LAYERS, b"[]")
    table = at.layers()
    with table.writing() as editor:
        editor.add(doc("a"))
    assert table.damage == ()


def test_null_is_no_table_that_any_program_writes_beside_layers(at: Place) -> None:
    at.put(LAYERS, b"null")
    assert ids(at.layers()) == []
    at.driver = {"lost"}
    with pytest.raises(BadRecords, match="there is layer lost that no record names"), at.layers().writing():
        pass


LOST = "ab" * 32


@pytest.mark.parametrize(
    ("stable", "volatile", "transient", "doubted"),
    [
        (None, None, False, True),
        (b"", b"[]", False, True),
        (b"null", None, True, True),
        (None, b"[]", False, False),  # all containers may have been volatile
        (None, None, True, False),  # gone with the reboot, as they should
        (b"[]", None, False, False),
    ],
)
def test_data_of_containers_whose_table_is_gone_is_damage(
    at: Place, stable: bytes | None, volatile: bytes | None, transient: bool, doubted: bool
) -> None:
    for name, content in (("containers.json", stable), ("volatile-containers.json", volatile)):
        if content is not None:
            at.put(f"vfs-containers/{name}", content)
    (at.graph / "vfs-containers" / LOST / "userdata").mkdir(parents=True)
    table = at.containers(transient=transient)
    if not doubted:
        with table.writing():
            pass
        return
    with pytest.raises(BadRecords, match=LOST[:20]), table.writing():
        pass
    assert table.damage


def test_layers_whose_records_were_set_aside_are_no_lost_ones(at: Place) -> None:
    at.driver = {"a"}
    at.put(VOLATILE, text({"id": "a", "created": 5}))
    with at.layers().writing() as editor:
        editor.add(doc("b"))


def test_a_driver_that_cannot_list_gives_no_reason_for_doubt(at: Place) -> None:
    def unable() -> list[str]:
        raise OSError(5, "Input/output error")

    for how in ({"stored_ids": unable}, {"stored_ids": None}):
        with at.layers(**how).writing():
            pass


def test_a_lost_table_of_images_is_damage(at: Place) -> None:
    at.put(f"vfs-images/{ID}/manifest", b"{}")
    table = at.images()
    assert listed(table) == []
    assert table.damage
    with pytest.raises(BadRecords, match=r"images\.json"), table.writing():
        pass
    other = Place(at.graph.parent / "other")
    other.put(f"vfs-images/{ID}/manifest", b"{}")
    table = other.images(read_only=True)
    assert (listed(table), table.damage) == ([], ())


@pytest.mark.parametrize("name", [f"{ID}/userdata/x", "short/manifest", f"{ID}.x/manifest", f"{ID[:63]}G/m"])
def test_directories_that_collection_would_not_touch_are_no_lost_images(at: Place, name: str) -> None:
    """A directory of the caller's own may come before the first image, and other names are left alone."""
    at.put(f"vfs-images/{name}", b"")
    with at.images().writing():
        pass


# --- two programs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_each_program_sees_what_the_other_saved(at: Place, make: Make, file: str) -> None:
    one, two = make(at), make(at)
    assert listed(one) == listed(two) == []
    with one.writing() as editor:
        editor.add(doc("a", "n"))
    assert ids(two) == ["a"]
    with two.writing() as editor:
        editor.set_names(row(editor, "n"), ["m"])
        editor.add(doc("b"))
    with one.writing() as editor:
        editor.remove(row(editor, "m"))
    assert ids(two) == ids(one) == ["b"]
    assert at.get(file) == [doc("b")]


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_a_table_is_read_again_only_if_the_token_changed(
    at: Place, make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at.put(file, text(doc("a")))
    table = make(at)
    loads: list[str] = []
    real = files.read
    monkeypatch.setattr(files, "read", lambda path, **how: (loads.append(path), real(path, **how))[1])
    for _ in range(3):
        assert ids(table) == ["a"]
    mine = [path for path in loads if path.endswith(file)]
    assert len(mine) == 1
    with table.writing() as editor:
        editor.add(doc("b"))
    assert ids(table) == ["a", "b"]
    assert [path for path in loads if path.endswith(file)] == mine
    touch(table)
    assert ids(table) == ["a", "b"]
    assert len([path for path in loads if path.endswith(file)]) == 2


def test_a_hand_edited_file_of_layers_is_noticed_without_a_token(at: Place) -> None:
    at.put(LAYERS, text(doc("a")))
    table = at.layers()
    assert ids(table) == ["a"]
    for file, id in ((LAYERS, "b"), (VOLATILE, "v")):
        path = at.put(file, text(doc(id)))
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        assert id in ids(table)
    with table.writing() as editor:
        editor.add(doc("c"))
    assert ids(at.layers()) == ["b", "c", "v"]
    (at.graph / LAYERS).unlink()
    assert ids(table) == ["b", "v", "c"]  # a file that is gone is no change, as with the peers
    touch(table)
    assert ids(table) == ["v"]


def test_images_and_containers_rely_on_the_token_alone(at: Place) -> None:
    table = at.images()
    assert listed(table) == []
    at.put(IMAGES, text(doc("a")))
    assert listed(table) == []
    touch(table)
    assert ids(table) == ["a"]


@pytest.mark.parametrize("edited", [b"{", text(doc("a", flags={"incomplete": True}), doc("b"))])
def test_a_hand_edit_that_cannot_be_used_is_not_forgotten_at_the_second_look(
    at: Place, edited: bytes
) -> None:
    """The time of a file counts as seen once the file was read well, or else old records are written over it."""
    at.put(LAYERS, text(doc("a")))
    table = at.layers()
    assert ids(table) == ["a"]
    path = at.put(LAYERS, edited)
    os.utime(path, ns=(0, 1))
    if edited == b"{":
        for block in (table.reading, table.writing):
            with pytest.raises(BadRecords), block():
                pass
        assert path.read_bytes() == edited
    else:
        assert ids(table) == ["b"]


def test_a_load_that_failed_is_tried_again(at: Place) -> None:
    at.put(IMAGES, text(doc("a")))
    table = at.images()
    assert ids(table) == ["a"]
    at.put(IMAGES, b"[")
    touch(table)
    for _ in range(2):
        with pytest.raises(BadRecords), table.reading():
            pass
    at.put(IMAGES, text(doc("b")))
    assert ids(table) == ["b"]


def test_tokens_are_written_to_all_locks_and_read_from_the_first(at: Place) -> None:
    table = at.split()
    listed(table)
    before = [Path(lock.path).read_bytes() for lock in table.locks]
    with table.writing() as editor:
        editor.add(doc("a"))
    after = [Path(lock.path).read_bytes() for lock in table.locks]
    assert [len(token) for token in after] == [64, 64]
    assert before != after
    assert after[0] != after[1]
    assert table._token == after[0]
    assert [Path(lock.path).parent.parent for lock in table.locks] == [at.graph, at.images_root]


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_threads_and_programs_lose_nothing_of_each_other(at: Place, make: Make, file: str) -> None:
    """Two threads on each of two tables; every one adds, renames, removes and reads, in turns of its own."""
    tables = [make(at), make(at)]
    failures: list[BaseException] = []

    def work(who: int) -> None:
        table = tables[who % 2]
        try:
            for number in range(20):
                with table.writing() as editor:
                    editor.add(doc(f"{who}-{number}", f"name-{who}", "everybody's"[: number % 2]))
                    editor.set_names(row(editor, f"{who}-{number}"), [f"name-{who}", "everybody's"])
                    if number % 3:
                        editor.remove(row(editor, f"{who}-{number - 1}"))
                with table.reading() as view:
                    mine = [found.id for found in view.rows if found.id.startswith(f"{who}-")]
                    assert mine[-1] == f"{who}-{number}"
                    assert row(view, f"name-{who}").id == f"{who}-{number}"
                    assert (
                        len([v for v in view.values() if "everybody's" in v.document().get("names", [])]) == 1
                    )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sorted(ids(make(at))) == sorted(ids(tables[0])) == sorted(ids(tables[1]))
    assert len(ids(make(at))) == 4 * 7
    assert len(at.get(file)) == 28
    assert all(table.damage == () for table in tables)


def test_a_block_without_a_change_writes_nothing(at: Place) -> None:
    table = at.layers()
    with table.writing() as editor:
        editor.add(doc("a"))

    def state() -> list[Any]:
        return [(p.name, p.read_bytes(), p.stat().st_ino) for p in sorted(at.graph.rglob("*")) if p.is_file()]

    before = state()
    with table.writing():
        pass
    with table.reading():
        pass
    assert state() == before


# --- changing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_an_exception_saves_nothing_and_memory_forgets_what_was_begun(
    at: Place, make: Make, file: str
) -> None:
    table = make(at)
    with table.writing() as editor:
        editor.add(doc("a", "n"))
    content = (at.graph / file).read_bytes()
    with pytest.raises(ZeroDivisionError), table.writing() as editor:
        editor.add(doc("b"))
        editor.set_names(row(editor, "a"), ["m"])
        raise ZeroDivisionError
    assert (at.graph / file).read_bytes() == content
    assert listed(table) == [doc("a", "n")]


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_a_save_that_fails_is_raised_and_memory_forgets(
    at: Place, make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3, P5: the old state, a clear error, and the next command needs no help."""
    table = make(at)
    with table.writing() as editor:
        editor.add(doc("a"))
    content = (at.graph / file).read_bytes()

    def full(path: str, data: bytes, **how: Any) -> int:
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", full)
        with pytest.raises(OSError, match="No space"), table.writing() as editor:
            editor.add(doc("b"))
    assert (at.graph / file).read_bytes() == content
    assert ids(table) == ["a"]
    assert all(lock.held is None for lock in table.locks)
    with table.writing() as editor:
        editor.add(doc("c"))
    assert ids(make(at)) == ["a", "c"]


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_the_token_is_written_before_the_file_is_replaced(
    at: Place, make: Make, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two costs the others one needless reload; the other way round they would see nothing."""
    table = make(at)
    listed(table)
    seen: list[bytes] = []
    real = files.write_atomic

    def watching(path: str, data: bytes, **how: Any) -> int:
        if path.endswith(file):
            seen.append(table.locks[0].token())
            assert not (at.graph / file).exists()
        return real(path, data, **how)

    monkeypatch.setattr(files, "write_atomic", watching)
    with table.locks[0].reading():
        before = table.locks[0].token()
    with table.writing() as editor:
        editor.add(doc("a"))
    assert len(seen) == 1
    assert seen[0] != before
    assert table._token == seen[0]


def test_a_save_replaces_only_the_files_that_changed(at: Place) -> None:
    at.put(LAYERS, text(doc("a")))
    at.put(VOLATILE, text(doc("v")))
    table = at.layers()
    inode = (at.graph / VOLATILE).stat().st_ino
    with table.writing() as editor:
        editor.change(row(editor, "a"), {"metadata": "m"})
    assert (at.graph / VOLATILE).stat().st_ino == inode
    assert at.get(LAYERS)[0]["metadata"] == "m"


def test_files_are_as_private_and_as_durable_as_they_should_be(
    at: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, bool]] = []
    real = files.write_atomic

    def watching(path: str, data: bytes, *, durable: bool, **how: Any) -> int:
        done.append((os.path.basename(path), durable))
        return real(path, data, durable=durable, **how)

    monkeypatch.setattr(files, "write_atomic", watching)
    table = LayerTable(str(at.graph / "vfs-layers"), run_directory=str(at.run / "vfs-layers"))
    with table.writing() as editor:
        editor.add(doc("a"))
        editor.add(doc("v"), table.volatile_home)
    containers = ContainerTable(str(at.graph / "vfs-containers"), run_directory=str(at.run / "x"))
    with containers.writing() as editor:
        editor.add(doc("a"))
        editor.add(doc("v"), 1)
    assert done == [
        ("layers.json", True),
        ("volatile-layers.json", False),
        ("mountpoints.json", False),
        ("containers.json", True),
        ("volatile-containers.json", False),
    ]
    assert {oct(p.stat().st_mode & 0o777) for p in at.graph.rglob("*.json")} == {"0o600"}


@pytest.mark.parametrize("transient", [False, True])
def test_volatile_files_lie_in_the_run_root_of_a_transient_store(at: Place, transient: bool) -> None:
    root = at.run if transient else at.graph
    layers, containers = at.layers(transient=transient), at.containers(transient=transient)
    with layers.writing() as editor:
        editor.add(doc("v"), layers.home_for(volatile=True, writable=True))
    with containers.writing() as editor:
        editor.add(doc("c", layer="v"), 1)
        editor.add(doc("s"), 0)
    assert (root / VOLATILE).exists()
    assert (root / VOLATILE_CONTAINERS).exists()
    assert (at.graph / CONTAINERS).exists()
    assert (root / "vfs-containers/containers.lock").exists()
    assert (at.graph / "vfs-layers/layers.lock").exists()
    with at.containers(transient=transient).reading() as view:
        assert row(view, "v").id == "c"  # by the id of its layer


def test_unknown_members_and_odd_numbers_survive_a_change(at: Place) -> None:
    """P12, byte for byte where the record itself did not change."""
    odd = b'{"id":"a","created":"' + WHEN.encode() + b'","new":[1.10,1e400,' + b"9" * 5000 + b"]}"
    spaced = b'{ "ID" : "b", "CREATED":"2026-11-23T21:16:55.5+02:00" , "future" :{"z":1,"a":2}}'
    path = at.put(LAYERS, b"[ " + odd + b" ,\n" + spaced + b"]")
    table = at.layers()
    with table.writing() as editor:
        editor.add(doc("c"))
    assert path.read_bytes() == b"[" + odd + b"," + spaced + b"," + text(doc("c"))[1:]
    with table.writing() as editor:
        editor.change(row(editor, "a"), {"metadata": "m"})
        editor.change(row(editor, "b"), {"metadata": "m"})
    back = path.read_bytes()
    assert b'"metadata":"m"' in back
    assert b'"new":[1.10,1e400,' + b"9" * 5000 + b"]" in back
    assert b'{"id":"b","metadata":"m","created":"2026-11-23T21:16:55.5+02:00","future":' in back
    assert ids(at.layers()) == ["a", "b", "c"]


@pytest.mark.parametrize("make", [Place.layers, Place.containers])
def test_names_stolen_across_files_are_saved_in_both(at: Place, make: Make) -> None:
    table = make(at)
    with table.writing() as editor:
        editor.add(doc("a", "x", "y"), 0)
        editor.add(doc("b", "z"), 1)
    with table.writing() as editor:
        editor.set_names(row(editor, "b"), ["y", "z"])
    assert names(make(at)) == {"a": ["x"], "b": ["y", "z"]}
    with table.writing() as editor:
        editor.set_names(row(editor, "a"), ["z"], metadata="m")
    assert names(make(at)) == {"a": ["z"], "b": ["y"]}
    assert listed(make(at))[0]["metadata"] == "m"


@pytest.mark.parametrize(("winner", "loser"), [("a", "b"), ("b", "a")])
def test_a_crash_between_the_two_files_leaves_a_stolen_name_with_one_owner(
    at: Place, winner: str, loser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: the old owner or the new one; written in the other order, neither would have it."""
    table = at.layers()
    with table.writing() as editor:
        editor.add(doc("a"), 0)
        editor.add(doc("b"), 1)
        editor.change(row(editor, loser), {"names": ["n"]})
    real = files.write_atomic
    written: list[str] = []

    def dying(path: str, data: bytes, **how: Any) -> int:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, data, **how)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", dying)
        with pytest.raises(KeyboardInterrupt), table.writing() as editor:
            editor.set_names(row(editor, winner), ["n"])
    after = names(at.layers())
    assert sorted([name for owned in after.values() for name in owned]) == ["n"]
    assert names(table) == after


def test_documents_are_written_in_normal_form(at: Place) -> None:
    """What is in memory is what another program reads: no empty members, the image's digest from its manifest."""
    table = at.images()
    with table.writing() as editor:
        editor.add(
            doc("a", digest="", names_history=[], layer="", flags={}, big_data_digests={"manifest": SHA})
        )
        memory = row(editor, "a").document
    assert memory == at.get(IMAGES)[0] == doc("a", big_data_digests={"manifest": SHA}, digest=SHA)
    with table.writing() as editor:
        editor.set_names(row(editor, "a"), ["n"])
        editor.set_names(row(editor, "a"), [])
    assert "names" not in at.get(IMAGES)[0]
    with table.reading() as view:
        assert view.values() == at_once(at.images())


def at_once(table: Table) -> list[Any]:
    with table.reading() as view:
        return [view.value(found) for found in view.rows]


def test_adding_one_record_encodes_that_record_only(at: Place, encoded: list[str]) -> None:
    """Not the other twenty thousand; and the text of a row is made once."""
    at.put(LAYERS, text(*[doc(f"{n:064x}", f"n{n}") for n in range(2000)]))
    table = at.layers()
    with table.writing() as editor:
        editor.add(doc("new"))
    assert encoded == ["new"]
    with table.writing() as editor:
        editor.change(row(editor, "n7"), {"metadata": "m"})
    assert encoded == ["new", f"{7:064x}"]
    with table.writing() as editor:
        editor.remove(row(editor, "n8"))
    assert encoded == ["new", f"{7:064x}"]
    assert len(at.get(LAYERS)) == 2000
    assert at.get(LAYERS)[7]["metadata"] == "m"


def test_listing_as_json_encodes_nothing_where_the_file_says_it_already(
    at: Place, encoded: list[str]
) -> None:
    content = text(*[doc(f"{n:064x}", diff_digest=SHA, uidset=[0, n + 1]) for n in range(300)])
    at.put(LAYERS, content)
    at.put(VOLATILE, text(doc("v")))
    table = at.layers()
    with table.reading() as view:
        assert view.json() == (content[:-1] + b"," + text(doc("v"))[1:]).decode()
    assert encoded == []
    with table.writing() as editor:
        editor.change(row(editor, "v"), {"metadata": "m"})
        changed = json.loads(editor.json())
    assert changed[-1]["metadata"] == "m"
    assert changed == listed(table) == listed(at.layers())
    with table.reading() as view:
        assert json.loads(view.json()) == changed
    at.put(LAYERS, text(doc("a", "x"), doc("b", "x"), 5))
    with table.reading() as view:
        assert json.loads(view.json()) == [doc("a"), doc("b", "x"), doc("v", metadata="m")]


# --- layers: mounts, removal, the incomplete protocol -------------------------------------------------------


def test_every_save_of_layers_writes_the_mounts_anew(at: Place) -> None:
    table = at.layers()
    mounts = at.run / "vfs-layers/mountpoints.json"
    with table.writing() as editor:
        editor.add(doc("a"))
    assert mounts.read_bytes() == b"[]"
    token = (at.run / "vfs-layers/mountpoints.lock").read_bytes()
    with table.writing() as editor:
        editor.change(row(editor, "a"), {"metadata": "m"})
    assert (at.run / "vfs-layers/mountpoints.lock").read_bytes() != token
    assert len(token) == 64


def test_values_of_layers_tell_where_they_are_mounted(at: Place) -> None:
    at.put(LAYERS, text(doc("a"), doc("b")))
    one, two = at.layers(), at.layers()
    with one.writing() as editor:
        assert one.mounts is not None
        one.mounts.set(editor.rows, "b", Mount("/m/b", 2))
    for table in (one, two):
        with table.reading() as view:
            assert [(v.mount_point, v.mount_count) for v in view.values()] == [("", 0), ("/m/b", 2)]
            assert view.value(row(view, "b")).mount_point == "/m/b"
            assert table.mounts is not None
            assert (table.mounts.mounted(), table.mounts.by_path("/m/b")) == (["b"], "b")
    assert "mount" not in json.dumps(at.get(LAYERS))


def test_broken_mounts_hide_what_is_mounted_and_are_not_written_over(at: Place) -> None:
    at.put(LAYERS, text(doc("a")))
    table = at.layers()
    path = at.run / "vfs-layers/mountpoints.json"
    path.write_bytes(b"[")
    assert ids(table) == ["a"]
    assert table.damage[0].startswith(f'loading "{path}": ')
    with pytest.raises(BadRecords) as failure, table.writing() as editor:
        editor.add(doc("b"))
    assert failure.value.path == str(path)
    assert path.read_bytes() == b"["
    assert ids(table) == ["a"]
    path.unlink()
    with table.writing() as editor:
        editor.add(doc("b"))
    assert table.damage == ()


def test_removal_flags_sets_aside_and_drops_in_this_order(at: Place) -> None:
    at.put(LAYERS, text(doc("a"), doc("b"), doc("c")))
    at.put("vfs-layers/a.tar-split.gz", b"")
    at.put("vfs-layers/a/item", b"")
    flagged: list[Any] = []
    table = at.layers(
        discard=lambda layer, rubbish: flagged.append(
            [d["id"] for d in at.get(LAYERS) if d.get("flags") == {"incomplete": True}]
        )
    )
    rubbish = table.new_trash()
    with table.writing() as editor:
        table.remove(
            editor, [row(editor, "a"), row(editor, "b")], rubbish, lambda: flagged.append("released")
        )
        assert at.get(LAYERS) == [doc("c")]
        assert not (at.graph / "vfs-layers/a").exists()
    assert flagged == ["released", ["a", "b"], ["a", "b"]]
    assert len(list((at.graph / "vfs-layers/tmp").rglob("item"))) == 1
    rubbish.empty()
    assert os.listdir(at.graph / "vfs-layers/tmp") == []


def test_flags_are_set_and_taken_away(at: Place) -> None:
    table = at.layers()
    with table.writing() as editor:
        editor.add(doc("a", flags={"x": 1}))
        flag(editor, row(editor, "a"), incomplete="no", y=[2])
        flag(editor, row(editor, "a"), x=None, incomplete=None)
    assert at.get(LAYERS) == [doc("a", flags={"y": [2]})]
    with table.writing() as editor:
        flag(editor, row(editor, "a"), y=None)
    assert at.get(LAYERS) == [doc("a")]


def test_a_layer_is_flagged_on_disk_while_it_is_made(at: Place) -> None:
    table = at.layers()
    rubbish = table.new_trash()
    with table.writing() as editor, creating(table, editor, doc("a", flags={"f": 1}), STABLE, rubbish):
        assert at.get(LAYERS) == [doc("a", flags={"f": 1, "incomplete": True})]
    assert at.get(LAYERS) == [doc("a", flags={"f": 1})]


def test_a_layer_whose_making_fails_is_gone(at: Place) -> None:
    table = at.layers()
    rubbish = table.new_trash()
    with pytest.raises(ZeroDivisionError) as failure, table.writing() as editor:
        with creating(table, editor, doc("a"), STABLE, rubbish):
            at.put("vfs-layers/a/item", b"")
            raise ZeroDivisionError
    assert at.get(LAYERS) == []
    assert not (at.graph / "vfs-layers/a").exists()
    assert not hasattr(failure.value, "__notes__")
    rubbish.empty()


def test_if_cleaning_up_fails_too_the_first_error_comes_out_and_the_next_load_finishes(at: Place) -> None:
    table = at.layers()
    at.stuck = {"a"}
    with pytest.raises(ZeroDivisionError) as failure, table.writing() as editor:
        with creating(table, editor, doc("a"), STABLE, table.new_trash()):
            raise ZeroDivisionError
    assert "could not be deleted" in failure.value.__notes__[0]
    assert at.get(LAYERS) == [doc("a", flags={"incomplete": True})]
    at.stuck = set()
    assert listed(at.layers()) == []


# --- big data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_an_item_is_a_file_beside_the_record(at: Place, make: Make, file: str) -> None:
    table = make(at)
    items = Items(table, durable=False)
    with table.writing() as editor:
        made = editor.add(doc("a"))
        editor.save()
        items.store(editor, made, "manifest", b"{}")
        items.store(editor, made, "Config", b"c")
        items.store(editor, made, "manifest", b"{ }")
    assert items.read("a", "manifest") == b"{ }"
    directory = (at.graph / file).parent
    assert (directory / "a/=Q29uZmln").read_bytes() == b"c"
    (record,) = at.get(file)
    assert record["big-data-names"] == ["manifest", "Config"]
    if file == LAYERS:
        assert "big-data-sizes" not in record
    else:
        assert record["big-data-sizes"] == {"Config": 1, "manifest": 3}
        assert sorted(record["big-data-digests"]) == ["Config", "manifest"]
    assert sorted(os.listdir(directory / "a")) == ["=Q29uZmln", "manifest"]
    assert not [name for name in os.listdir(directory) if name.startswith(".tmp-")]


def test_an_item_that_says_the_same_again_leaves_the_record(at: Place) -> None:
    table = at.images()
    items = Items(table, durable=False)
    with table.writing() as editor:
        made = editor.add(doc("a"))
        items.store(editor, made, "k", b"1")
        inode = (at.graph / IMAGES).stat().st_ino
        items.store(editor, made, "k", b"1")
    assert (at.graph / IMAGES).stat().st_ino == inode


def test_items_are_refused_before_anything_is_written(at: Place) -> None:
    table = at.images()
    items = Items(table, durable=False)
    with table.writing() as editor:
        made = editor.add(doc("a"))
        editor.save()
        token = table._token
        for key in ("", "..", "a/b/c?x", "userdata"):
            with pytest.raises(ValueError):
                items.store(editor, made, key, b"")
        with pytest.raises(TypeError):
            items.store(editor, made, "k", io.BytesIO(b""))
        assert table._token == token
    assert not (at.graph / "vfs-images/a").exists()
    assert Items(at.layers(), durable=False).path("a", "userdata").endswith("/a/userdata")


def test_an_item_that_cannot_be_written_leaves_the_old_one(at: Place) -> None:
    table = at.layers()
    items = Items(table, durable=False)

    class Failing:
        def read(self, size: int) -> bytes:
            raise OSError(5, "Input/output error")

    with table.writing() as editor:
        made = editor.add(doc("a"))
        items.store(editor, made, "k", b"old")
    with pytest.raises(OSError, match="Input/output"), table.writing() as editor:
        items.store(editor, row(editor, "a"), "k", Failing())  # type: ignore[arg-type]
    assert items.read("a", "k") == b"old"
    with table.writing():
        assert not [name for name in os.listdir(at.graph / "vfs-layers") if name.startswith(".tmp-")]


# --- locks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "file"), TABLES)
def test_no_lock_is_held_outside_of_a_block_whatever_happens_inside(at: Place, make: Make, file: str) -> None:
    table = make(at)
    for content in (None, b"{", text(doc("a"))):
        if content is not None:
            at.put(file, content)
            touch(table)
        for block in (table.reading, table.writing):
            with suppress(StorageError, ZeroDivisionError), block():
                assert [lock.held for lock in table.locks] == ["w" if block == table.writing else "r"]
                raise ZeroDivisionError
            assert [lock.held for lock in table.locks] == [None]


def test_a_wait_that_takes_too_long_ends_and_leaves_nothing_locked(at: Place) -> None:
    table = at.split(lock_timeout=0.05)
    with open(at.images_root / "vfs-layers/layers.lock", "rb+") as busy:
        whole = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(busy, fcntl.F_OFD_SETLK, whole)
        for block in (table.reading, table.writing):
            with pytest.raises(LockTimeout), block():
                pass
            assert table.locks[0].held is None
    assert listed(table) == []


def test_an_editor_is_a_view_that_can_change(at: Place) -> None:
    with at.layers().reading() as view:
        assert isinstance(view, View)
        assert not isinstance(view, Editor)
        assert not hasattr(view, "add")


# --- notes of items under way -------------------------------------------------------------------------------


def note(at: Place, content: bytes, number: int = 1) -> Path:
    return at.put(f"vfs-images/.tmp-set-{number}", content)


def test_the_data_of_an_image_that_was_never_recorded_goes(at: Place) -> None:
    """Its note tells it from the data of a lost table, which nobody may touch."""
    note(at, json.dumps({"id": ID}).encode())
    at.put(f"vfs-images/{ID}/manifest", b"{}")
    table = at.images()
    assert listed(table) == []
    assert table.damage == ()
    with table.writing():
        pass
    assert os.listdir(at.graph / "vfs-images") == ["images.lock"]


def test_the_files_of_callers_stay_where_the_copy_of_an_image_did_not_come_about(at: Place) -> None:
    """An image of an additional store has its own in our root before it is copied, and after."""
    note(at, json.dumps({"id": ID}).encode())
    at.put(f"vfs-images/{ID}/manifest", b"{}")
    kept = at.put(f"vfs-images/{ID}/userdata/file", b"")
    with at.images().writing():
        pass
    assert kept.exists()
    assert os.listdir(at.graph / "vfs-images" / ID) == ["userdata"]


def test_the_removal_of_an_image_is_finished_with_the_files_of_its_callers(at: Place) -> None:
    at.put(IMAGES, text(doc("a")))
    note(at, json.dumps({"ids": ["a", ID]}).encode())
    places = [at.put(f"vfs-images/{id}/userdata/file", b"") for id in ("a", ID)]
    with at.images().writing():
        pass
    assert [place.exists() for place in places] == [True, False]


def test_a_record_follows_the_item_that_was_replaced_last(at: Place) -> None:
    at.put(IMAGES, text(doc("a", big_data_names=["k"], big_data_sizes={"k": 3}, big_data_digests={"k": SHA})))
    note(at, json.dumps({"id": "a", "key": "k"}).encode())
    at.put("vfs-images/a/k", b"new item")
    with at.images().writing():
        pass
    (record,) = at.get(IMAGES)
    assert record["big-data-sizes"] == {"k": 8}
    assert record["big-data-digests"] != {"k": SHA}
    assert not list((at.graph / "vfs-images").glob(".tmp-*"))


@pytest.mark.parametrize("id", ["images.json", "images.lock", "../../canary", ".", "", "tmp", 5, None])
def test_a_note_about_an_unsafe_id_is_not_acted_on(at: Place, id: object) -> None:
    canary = at.put("../canary/file", b"")
    at.put(IMAGES, text(doc("a")))
    note(at, json.dumps({"id": id}).encode())
    with at.images().writing() as editor:
        editor.add(doc("b"))
    assert canary.exists()
    assert at.get(IMAGES) == [doc("a"), doc("b")]
    assert not list((at.graph / "vfs-images").glob(".tmp-*"))


def test_notes_that_cannot_be_read_are_cleared_away(at: Place) -> None:
    at.put(IMAGES, text(doc("a")))
    for number, content in enumerate(
        [b"", b"{", b"[]", b"5", b'"x"', b"{}", b'{"id":"a","key":5}', b"[" * 5000]
    ):
        note(at, content, number)
    (at.graph / "vfs-images/.tmp-set-link").symlink_to("/etc/passwd")
    table = at.images()
    with table.writing():
        pass
    assert table.damage == ()
    assert sorted(os.listdir(at.graph / "vfs-images")) == ["images.json", "images.lock"]
    assert Path("/etc/passwd").exists()


def test_what_a_note_names_stays_if_a_record_set_aside_mentions_it(at: Place) -> None:
    at.put(IMAGES, text({"id": "a", "created": 5}))
    note(at, b'{"id":"a","key":"k"}')
    kept = at.put("vfs-images/a/k", b"")
    with at.images().writing():
        pass
    assert kept.exists()


# --- what it costs ------------------------------------------------------------------------------------------


def test_loading_the_tables_imports_nothing_that_costs_time() -> None:
    """A small command is over before dataclasses, json, re or typing are imported."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "import orlop.records.layers, orlop.records.images, orlop.records.containers\n"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('orlop')))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    allowed = {
        "__future__",
        "_bisect",
        "_json",
        "_struct",
        "binascii",
        "bisect",
        "errno",
        "fcntl",
        "gc",
        "itertools",
    }
    assert set(done.stdout.split()) - allowed <= {"struct", "stat", "time", "_weakref"}


def test_listing_looks_at_no_record_by_itself(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked at a load is checked by columns; only where something is wrong, record by record."""
    content = [
        doc(f"{n:064x}", f"n{n}", parent=f"{n:064x}", diff_digest=SHA, uidset=[n]) for n in range(3000)
    ]
    at.put(LAYERS, text(*content))
    asked: list[object] = []
    monkeypatch.setattr(recordfiles, "fitted", lambda kind, value: asked.append(value))
    table = at.layers()
    assert ids(table)[-1] == f"{2999:064x}"
    assert asked == []
    assert table._rows._rows == {}


def test_of_a_long_list_that_somebody_changed_only_what_is_new_is_read_again(
    at: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs in turns would else read twenty thousand records for each other's every change."""
    content = [doc(f"{n:064x}", f"n{n}", diff_digest=SHA) for n in range(1000)]
    at.put(LAYERS, text(*content))
    ours, theirs = at.layers(), at.layers()
    assert len(ids(ours)) == 1000
    with ours.reading() as view:
        kept = view.rows.by_id(f"{7:064x}")
    with theirs.writing() as editor:
        row = editor.rows.by_id(f"{5:064x}")
        assert row is not None
        editor.change(row, {"metadata": "new"})
        editor.add(doc("one more", "n1000"))
    looked_at: list[int] = []
    real = recordfiles.columns_of

    def counting(kind: Any, values: list[Any]) -> Any:
        looked_at.append(len(values))
        return real(kind, values)

    monkeypatch.setattr(recordfiles, "columns_of", counting)
    with ours.reading() as view:
        assert len(view.rows) == 1001
        five, seven = (view.rows.by_id(f"{n:064x}") for n in (5, 7))
        assert five is not None
        assert seven is not None
        assert kept is not None
        assert five.document["metadata"] == "new"
        assert seven.document is kept.document
        assert view.find("n1000") is view.find("one more")
        shown = view.json()
    assert looked_at == [2, 0]  # and the file of volatile layers, which has none
    assert shown == fresh_json(at)
    with ours.writing() as editor:  # and what is written after that is whole
        row = editor.rows.by_id(f"{9:064x}")
        assert row is not None
        editor.remove(row)
    assert ids(at.layers()) == [id for id in ids(ours) if id != f"{9:064x}"]
    assert len(ids(theirs)) == 1000


def fresh_json(at: Place) -> str:
    with at.layers().reading() as view:
        return view.json()
