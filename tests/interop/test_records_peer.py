"""Our tables and Debian's program on the same files: what either writes the other reads, to the byte."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import peers
from oddities import BAD_TIMES, INVALID_DIGESTS, ITEM_NAMES
from orlop.errors import InvalidDigest
from orlop.formats.bigdata import file_name
from orlop.formats.records import encode, json_of
from orlop.model.digest import Digest
from orlop.records.containers import ContainerTable
from orlop.records.images import ImageTable
from orlop.records.layers import LayerTable
from orlop.records.mountpoints import Mount
from orlop.records.table import Table

WHEN = "2026-11-23T21:16:55.68507543Z"
SHA = "sha256:" + "0123456789abcdef" * 4
KINDS = ("layer", "image", "container")


def table(program: peers.Program, kind: str) -> Table:
    directory = str(program.graph / f"vfs-{kind}s")
    run = str(program.run / f"vfs-{kind}s")
    if kind == "layer":
        return LayerTable(directory, run_directory=run)
    return ImageTable(directory) if kind == "image" else ContainerTable(directory, run_directory=run)


def file(program: peers.Program, kind: str) -> Path:
    return program.graph / f"vfs-{kind}s/{kind}s.json"


def put(program: peers.Program, kind: str, content: bytes | list[Any]) -> None:
    path = file(program, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def shown(program: peers.Program, kind: str) -> str:
    """What the peer prints in JSON, with an empty list as one."""
    text = program(f"{kind}s", "--json").text.strip()
    return "[]" if text == "null" else text


def ours(program: peers.Program, kind: str) -> str:
    with table(program, kind).reading() as view:
        assert f"[{','.join(json_of(value) for value in view.values())}]" == view.json()
        return view.json()


@pytest.fixture
def filled(theirs: peers.Program) -> peers.Program:
    """A store that the peer made, with about everything its records can hold."""
    base = theirs.line("create-layer", "-n", "base<&>", "-n", "second", "-l", "label")
    theirs(
        "create-layer", "-n", "mapped", "--uidmap", "0:1000:10", "--gidmap", "0:2000:10", "--gidmap", "10:1:5"
    )
    top = theirs.line("create-layer", "-n", "top", base)
    theirs("set-layer-data", "-f", "/etc/hostname", top, "Some-Key")
    theirs("set-metadata", "-m", '{"a":"<b>\\u2028é\t"}', top)
    image = theirs.line("create-image", "-n", "é&é", "-m", "image's", "-d", SHA, top)
    for key in ("manifest", "manifest-x", "sha256:abc", "Z", "a"):
        theirs("set-image-data", "-f", "/etc/hostname", image, key)
    theirs("add-names", "-n", "n2", "-n", "new", image)
    theirs("set-names", "-n", "new", "-n", "é&é", image)
    theirs("create-image", "-n", "empty", "")
    box = theirs.line("create-container", "-n", "box", "-m", "m", image)
    theirs("set-container-data", "-f", "/etc/hostname", box, "config.json")
    theirs("create-container", "--uidmap", "0:3000:10", "--gidmap", "0:3000:10", image)
    theirs("create-container", "")
    theirs("mount", box)
    return theirs


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_peer_wrote_we_read_and_write_to_the_byte(filled: peers.Program, kind: str) -> None:
    content = file(filled, kind).read_bytes()
    ours_ = table(filled, kind)
    with ours_.reading() as view:
        assert ours_.damage == ()
        texts = [encode(ours_.record, row.document) for row in view.rows]
        assert ("[" + ",".join(texts) + "]").encode() == content
        assert view.json().encode() == content
    with ours_.writing() as editor:
        for row in editor.rows:
            editor.change(row, {})  # written anew from what was read
    assert file(filled, kind).read_bytes() == content
    assert file(filled, kind).stat().st_mode & 0o777 == 0o600
    assert shown(filled, kind).encode() == content
    assert ours(filled, kind).encode() == content


def test_mounts_of_the_peer_are_ours_and_the_other_way_round(filled: peers.Program) -> None:
    path = filled.run / "vfs-layers/mountpoints.json"
    before = path.read_bytes()
    layer = filled.json("container", "box")[0]["layer"]
    layers = table(filled, "layer")
    assert isinstance(layers, LayerTable)
    assert layers.mounts is not None
    with layers.writing() as editor:
        assert layers.mounts.mounted() == [layer]
        mount = layers.mounts.of(layer)
        layers.mounts.set(editor.rows, layer, mount)
        assert path.read_bytes() == before
        layers.mounts.set(editor.rows, layer, Mount(mount.path, 2))
    assert filled("mounted", "box").text.endswith(" mounted\n")
    filled("unmount", "box")
    with layers.reading():
        assert layers.mounts.of(layer).count == 1
    filled("unmount", "box")
    with layers.reading():
        assert layers.mounts.mounted() == []


ODD_TEXTS = [
    "",
    " sp ",
    "<&>'\"\\/",
    "tab\tnl\nbell\a\x7f",
    "é\u2028\u2029\u00a0😀",
    "\0",
    '{"json": [1, 2]}',
]


def test_what_we_write_the_peer_lists_alike(theirs: peers.Program) -> None:
    theirs("layers")
    layers, images, containers = (table(theirs, kind) for kind in KINDS)
    with layers.writing() as editor:
        for number, odd in enumerate(ODD_TEXTS):
            editor.add(
                {
                    "id": f"{number:064x}",
                    "names": [odd, odd + str(number)] if number else [odd],
                    "parent": f"{max(number - 1, 0):064x}" if number else "",
                    "metadata": odd,
                    "mountlabel": odd,
                    "created": f"2026-11-23T21:16:5{number}.{'5' * (number + 1)}+02:00",
                    "compressed-diff-digest": SHA,
                    "compressed-size": number,
                    "diff-digest": SHA,
                    "diff-size": (1 << 63) - 1,
                    "compression": 2,
                    "uidset": [0, 4294967295],
                    "gidset": [number],
                    "flags": {odd: odd, "z": True, "a": None, "n": 12, "l": [1, {"y": "", "x": []}]},
                    "uidmap": [{"container_id": 0, "host_id": number, "size": 1}],
                    "big-data-names": [odd],
                }
            )
    with images.writing() as editor:
        for number, odd in enumerate(ODD_TEXTS):
            editor.add(
                {
                    "id": f"i{number}",
                    "names": [odd],
                    "names-history": [odd, "old"],
                    "layer": f"{number:064x}",
                    "mapped-layers": ["x"],
                    "metadata": odd,
                    "big-data-names": [odd, "b", "a"],
                    "big-data-sizes": {odd: 1, "b": 0, "a": -1},
                    "big-data-digests": {odd: odd, "manifest": SHA},
                    "created": "0001-01-01T00:00:00Z" if number == 1 else WHEN,
                    "flags": {"f": odd},
                }
            )
    with containers.writing() as editor:
        for number, odd in enumerate(ODD_TEXTS):
            editor.add(
                {
                    "id": f"c{number}",
                    "names": [odd],
                    "image": "" if number == 2 else "i0",
                    "layer": f"{number:064x}",
                    "metadata": odd,
                    "created": WHEN,
                    "flags": {"MountLabel": odd, "ProcessLabel": "", "MountOpts": ["ro"], "Volatile": True},
                }
            )
    for kind in KINDS:
        content = file(theirs, kind).read_bytes().decode()
        assert shown(theirs, kind) == content == ours(theirs, kind)
    # and written anew by the peer, it is still the same
    theirs("set-metadata", "-m", "new", "c1")
    theirs("set-metadata", "-m", "new", "i1")
    theirs("set-metadata", "-m", "new", f"{1:064x}")
    for kind in KINDS:
        now = file(theirs, kind).read_text()
        assert now == shown(theirs, kind) == ours(theirs, kind)
        assert json.loads(now)[1]["metadata"] == "new"


# Hand-edited members of a layer record. The peer in Debian passes over what its newer releases refuse, so what is
# right but odd is compared; tests/unit/test_record_codec.py has the rest. (A null time is left out: the peer then
# shows that of another record.)
ODD_LAYERS = [
    '"names":["x",null]',
    '"uidset":[null,3]',
    '"uidmap":[null]',
    '"gidmap":[{"Container_ID":5,"SIZE":null}]',
    '"PARENT":"q","Names":["n"],"METADATA":"m"',
    '"parent":"p","PARENT":"q"',
    '"parent":"p","parent":"q"',
    '"parent":null,"names":null,"flags":null,"diff-size":null',
    '"metadata":"a\\ud800b\\u00e9\\/\\u003c"',
    '"flags":{"b":1,"a":{"d":[],"c":"<"}}',
    '"names":["n"],"names":["m"]',
    '"diff-size":-1,"diff-digest":"anything"',
    '"created":"2026-11-23T21:16:55-02:30"',
    '"created":"0000-12-31T23:59:59Z"',
    '"names":[""]',
    '"names":[]',
    '"flags":{}',
]


@pytest.mark.parametrize("members", ODD_LAYERS)
def test_hand_edited_records_are_read_as_the_peer_reads_them(theirs: peers.Program, members: str) -> None:
    content = (
        f'[ {{"id":"one","created":"{WHEN}",{members}}} ,\n{{"id":"two","created":"{WHEN}"}}]\n'.encode()
    )
    put(theirs, "layer", content)
    assert ours(theirs, "layer") == shown(theirs, "layer")
    with table(theirs, "layer").writing() as editor:
        editor.change(editor.rows.by_id("two"), {"metadata": "m"})  # type: ignore[arg-type]
    assert content[2:].split(b" ,")[0] in file(theirs, "layer").read_bytes()
    assert ours(theirs, "layer") == shown(theirs, "layer")


def test_bytes_that_are_not_utf8_read_like_the_peer_s(theirs: peers.Program) -> None:
    put(theirs, "layer", b'[{"id":"one","metadata":"a\xe2\x82b\xff","created":"' + WHEN.encode() + b'"}]')
    assert json.loads(ours(theirs, "layer")) == json.loads(shown(theirs, "layer"))


def test_what_is_no_time_is_none_for_the_peer(theirs: peers.Program) -> None:
    for text in BAD_TIMES:
        put(theirs, "layer", [{"id": "one", "created": text}])
        assert json.loads(shown(theirs, "layer"))[0]["created"] == "0001-01-01T00:00:00Z", text


# (That release was built with sha256 only, and knows no length of the others.)
@pytest.mark.parametrize(
    ("text", "peer"), [pair for pair in INVALID_DIGESTS if not pair[0].startswith(("sha384:", "sha512:"))]
)
def test_digests_are_judged_as_the_peer_judges_them(theirs: peers.Program, text: str, peer: str) -> None:
    put(theirs, "image", [{"id": "one", "digest": text, "created": WHEN}])
    result = theirs("images", ok=False)
    assert result.status == 1
    assert result.text.strip().endswith(peer)
    with pytest.raises(InvalidDigest) as failure:
        Digest.parse(text)
    assert failure.value.peer == peer


def test_items_have_the_file_names_that_the_peer_gives_them(theirs: peers.Program) -> None:
    image = theirs.line("create-image", "")
    directory = theirs.graph / "vfs-images" / image
    for key, name in ITEM_NAMES:
        theirs("set-image-data", "-f", "/etc/hostname", image, key)
        assert os.listdir(directory) == [name]
        assert file_name(key) == name
        (directory / name).unlink()


REPAIRS: list[tuple[str, list[dict[str, Any]]]] = [
    ("image", [{"id": "a", "names": ["x", "y"]}, {"id": "b", "names": ["y"]}, {"id": "c"}]),
    ("image", [{"id": "a", "names": ["x"]}, {"id": "b"}, {"id": "a", "names": ["x", "z"]}]),
    ("image", [{"id": "a", "names": ["n", "n"], "names-history": ["n", "n"]}, {"id": "b"}]),
    ("image", [{"id": "a", "big-data-digests": {"manifest": SHA}}, {"id": "b", "names": ["y"]}]),
    (
        "layer",
        [{"id": "a", "names": ["x", "y"]}, {"id": "b", "names": ["y", "z"]}, {"id": "c", "names": ["z"]}],
    ),
    ("layer", [{"id": "a", "parent": "missing"}, {"id": "b", "parent": "b"}]),
    ("layer", [{"id": "a", "flags": {"incomplete": True}}, {"id": "b", "parent": "a"}]),
    ("layer", [{"id": "a", "flags": {"incomplete": "yes"}}, {"id": "b", "flags": {"incomplete": 1}}]),
    ("container", [{"id": "a", "names": ["x", "y"]}, {"id": "b", "names": ["y"]}, {"id": "c", "layer": "l"}]),
]


@pytest.mark.parametrize(("kind", "records"), REPAIRS)
def test_both_repair_a_table_alike(
    theirs: peers.Program, place: Path, kind: str, records: list[dict[str, Any]]
) -> None:
    """After a load, and one change so that all is written, the files of both are the same."""
    always = {"image": "", "layer": ""} if kind == "container" else {}
    put(theirs, kind, [{**always, **record, "created": WHEN} for record in records])
    copy = theirs.on(base=place / "copy")
    shutil.copytree(theirs.base, copy.base)
    theirs("set-metadata", "-m", "m", "b")
    mine = table(copy, kind)
    with mine.writing() as editor:
        editor.change(editor.rows.by_id("b"), {"metadata": "m"})  # type: ignore[arg-type]
    assert json.loads(file(copy, kind).read_bytes()) == json.loads(file(theirs, kind).read_bytes())
    assert shown(copy, kind) == shown(theirs, kind) == ours(theirs, kind)


LOOKUPS = ["ab", "ab1", "ab12", "a", "c", "cd ", "cd e", "name", "x", "", "é", "éa", "ef0", "ef"]


def test_references_resolve_as_the_peer_resolves_them(theirs: peers.Program) -> None:
    ids = ["ab12", "ab13", "cd e", "cd", "éa", "ef01", "x1", "x2"]
    names = {"ab12": ["name", "ef01"], "ef01": ["ab12", "x"]}
    put(theirs, "layer", [{"id": id, "names": names.get(id), "created": WHEN} for id in ids])
    with table(theirs, "layer").reading() as view:
        found = {ref: row.id if (row := view.find(ref)) else None for ref in LOOKUPS}
    assert sum(id is not None for id in found.values()) > 5
    for ref, id in found.items():
        result = theirs("layer", "--json", ref, ok=False)
        assert (json.loads(result.out)[0]["id"] if result.status == 0 else None) == id, ref


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_by_the_peer_is_seen_by_a_table_that_is_open(filled: peers.Program, kind: str) -> None:
    """By its token alone, which it writes as we write ours: 64 bytes, another one at each save."""
    ours_ = table(filled, kind)
    with ours_.reading() as view:
        id = next(iter(view.rows)).id
    lock = Path(ours_.locks[0].path)
    tokens = {lock.read_bytes()}
    for number in range(2):
        filled("set-metadata", "-m", f"theirs {number}", id)
        tokens.add(lock.read_bytes())
        with ours_.reading() as view:
            assert view.find(id).document["metadata"] == f"theirs {number}"  # type: ignore[union-attr]
        with ours_.writing() as editor:
            editor.change(editor.find(id), {"metadata": f"ours {number}"})  # type: ignore[arg-type]
        tokens.add(lock.read_bytes())
        assert filled("metadata", id).text.strip().endswith(f"ours {number}")
    assert len(tokens) == 5
    assert {len(token) for token in tokens} == {64}


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_either_steals_is_the_other_s_loss(theirs: peers.Program, kind: str) -> None:
    put(theirs, kind, [{"id": id, "created": WHEN} for id in ("one", "two")])
    theirs("set-names", "-n", "x", "-n", "y", "one")
    with table(theirs, kind).writing() as editor:
        editor.set_names(editor.find("two"), ["y", "z"])  # type: ignore[arg-type]
    assert [record.get("names") for record in json.loads(shown(theirs, kind))] == [["x"], ["y", "z"]]
    theirs("add-names", "-n", "z", "one")
    with table(theirs, kind).reading() as view:
        assert [sorted(row.names) for row in view.rows] == [["x", "z"], ["y"]]


def test_the_peer_waits_for_a_table_that_is_being_written_and_then_sees_it(filled: peers.Program) -> None:
    images = table(filled, "image")
    with images.writing() as editor:
        listing = filled.start("images", "--json", stdout=-1)
        editor.add({"id": "under-way", "created": WHEN})
        editor.save()
        with pytest.raises(Exception, match="timed out"):
            listing.wait(0.5)
    out, _ = listing.communicate(timeout=30)
    assert json.loads(out)[-1]["id"] == "under-way"
