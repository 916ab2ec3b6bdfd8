"""Records as JSON text: key order, what is left out, what is kept, what is set aside, and the values made of them."""

import copy
import json
import pickle
from typing import Any

import pytest

from orlop.errors import LimitExceeded
from orlop.formats import recordfiles
from orlop.formats.gojson import SyntaxProblem
from orlop.formats.recordfiles import parse
from orlop.formats.records import Misfit, encode, encode_all, fitted, json_of, trimmed
from orlop.model.container import Container
from orlop.model.digest import Digest
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.ids import ContainerID, ImageID, LayerID
from orlop.model.image import Image
from orlop.model.layer import Layer
from orlop.model.record import NESTING_MAX, Record
from orlop.model.timestamp import UNSET, Timestamp

WHEN = "2026-11-23T21:16:55.68507543+02:00"
SHA = "sha256:" + "0123456789abcdef" * 4

LAYER = {
    "id": "a1",
    "names": ["n2", "n1"],
    "parent": "p",
    "metadata": "m",
    "mountlabel": "l",
    "created": WHEN,
    "compressed-diff-digest": SHA,
    "compressed-size": 5,
    "diff-digest": SHA,
    "toc-digest": SHA,
    "diff-size": -1,
    "compression": 2,
    "uidset": [0, 4294967295],
    "gidset": [1],
    "flags": {"a": [1, {"b": None}], "incomplete": True},
    "uidmap": [{"container_id": 0, "host_id": 1000, "size": 1}],
    "gidmap": [{"container_id": 0, "host_id": 2000, "size": 65536}],
    "big-data-names": ["k"],
}
IMAGE = {
    "id": "i1",
    "digest": SHA,
    "names": ["n"],
    "names-history": ["n", "o"],
    "layer": "a1",
    "mapped-layers": ["a2"],
    "metadata": "m",
    "big-data-names": ["manifest", "k"],
    "big-data-sizes": {"k": 1, "manifest": 2},
    "big-data-digests": {"k": "anything", "manifest": SHA},
    "created": WHEN,
    "flags": {"f": 1},
}
CONTAINER = {
    "id": "c1",
    "names": ["n"],
    "image": "i1",
    "layer": "a1",
    "metadata": "m",
    "big-data-names": ["k"],
    "big-data-sizes": {"k": 1},
    "big-data-digests": {"k": SHA},
    "created": WHEN,
    "uidmap": [{"container_id": 0, "host_id": 1, "size": 2}],
    "gidmap": [{"container_id": 0, "host_id": 1, "size": 2}],
    "flags": {"MountLabel": "", "ProcessLabel": ""},
}
KINDS = [(Layer, LAYER), (Image, IMAGE), (Container, CONTAINER)]


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def layer(**members: Any) -> dict[str, Any]:
    return {"id": "a1", "created": WHEN, **{key.replace("_", "-"): item for key, item in members.items()}}


def reread(kind: type[Record], text: str) -> dict[str, Any]:
    """The only record in an array of one; an error if it was set aside."""
    contents = parse(kind, f"[{text}]".encode())
    assert not contents.asides, contents.asides[0].reason
    (document,) = contents.documents
    assert document is not None
    return document


# --- writing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "document"), KINDS)
def test_members_are_written_in_the_order_of_the_format(kind: type[Record], document: dict[str, Any]) -> None:
    shuffled = dict(reversed(document.items()))
    assert encode(kind, document) == encode(kind, shuffled) == compact(document)
    assert list(kind.FIELDS) == list(document)
    assert reread(kind, compact(shuffled)) == document


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (Layer, '{"id":"x","created":"0001-01-01T00:00:00Z"}'),
        (Image, '{"id":"x","created":"0001-01-01T00:00:00Z"}'),
        (Container, '{"id":"x","image":"","layer":"","created":"0001-01-01T00:00:00Z"}'),
    ],
)
def test_empty_members_are_left_out_but_for_those_that_never_are(kind: type[Record], written: str) -> None:
    empty = {key: field.shape.json_type() for key, field in kind.FIELDS.items()}
    del empty["created"]
    assert encode(kind, {**empty, "id": "x"}) == encode(kind, {"id": "x"}) == written
    kept = trimmed(kind, {**empty, "id": "x", "created": WHEN, "new": ""})
    assert kept == reread(kind, encode(kind, kept))


def test_maps_are_written_in_the_order_of_their_keys() -> None:
    text = encode(
        Image, {**IMAGE, "big-data-sizes": {"z": 1, "a": 2, "Z": 3}, "flags": {"b": {"d": 1, "c": 2}}}
    )
    assert '"big-data-sizes":{"Z":3,"a":2,"z":1}' in text
    assert '"flags":{"b":{"c":2,"d":1}}' in text


def test_id_maps_have_all_three_members_always() -> None:
    assert '"uidmap":[{"container_id":0,"host_id":0,"size":0}]' in encode(
        Layer, fitted(Layer, layer(uidmap=[{}]))
    )


def test_members_of_a_newer_program_are_written_back_behind_the_others() -> None:
    """P12. Also numbers that Python does not hold, and names that need escapes."""
    text = (
        '{"id":"a1","created":"' + WHEN + '","zz":{"y":[1.10,1e400],"x":null},'
        '"Kelvin-\u212a":12345678901234567890,"\\u003c":"","":' + "9" * 5000 + "}"
    )
    document = reread(Layer, text)
    back = json.loads(encode(Layer, document), parse_int=str, parse_float=str)
    assert back == json.loads(text, parse_int=str, parse_float=str)
    assert Layer(document).document() == document


def test_the_text_of_a_value_is_that_of_its_record() -> None:
    assert json_of(Layer(LAYER)) == compact(LAYER)
    assert encode_all(Layer, [LAYER, LAYER]) == compact(LAYER) + "," + compact(LAYER)


# --- reading what is odd, and right -------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "document"), KINDS)
def test_names_of_members_are_matched_in_any_case(kind: type[Record], document: dict[str, Any]) -> None:
    assert reread(kind, compact({key.upper(): item for key, item in document.items()})) == document


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ('"parent":"p","parent":"q"', "q"),
        ('"parent":"p","PARENT":"q"', "q"),
        ('"PARENT":"q","parent":"p"', "p"),
        ('"Parent":"p","pARENT":"q"', "q"),
        ('"parent":"p","parent":null', None),
        ('"parent":"p","Parent":null', None),
        ('"parent":null,"Parent":"p"', "p"),
        ('"parent":""', ""),
    ],
)
def test_of_members_given_twice_the_last_counts(text: str, parent: str | None) -> None:
    document = reread(Layer, '{"id":"x","created":"' + WHEN + '",' + text + "}")
    assert document.get("parent") == parent
    assert Layer(document).parent == (parent or None)


@pytest.mark.parametrize(("kind", "document"), KINDS)
def test_null_is_the_zero_value(kind: type[Record], document: dict[str, Any]) -> None:
    text = compact({**dict.fromkeys(document), "id": "x"})
    assert reread(kind, text) == {"id": "x"}
    assert kind({"id": "x"}).document() == {"id": "x"}


@pytest.mark.parametrize(
    ("kind", "member", "text", "read"),
    [
        (Layer, "names", '["x",null]', ["x", ""]),
        (Layer, "uidset", "[null,3]", [0, 3]),
        (Layer, "uidmap", "[null]", [{"container_id": 0, "host_id": 0, "size": 0}]),
        (
            Layer,
            "gidmap",
            '[{"Container_ID":5,"SIZE":null,"new":1}]',
            [{"container_id": 5, "host_id": 0, "size": 0, "new": 1}],
        ),
        (Image, "big-data-sizes", '{"k":null}', {"k": 0}),
        (Image, "big-data-digests", '{"k":null}', {"k": ""}),
        (Image, "mapped-layers", "[null]", [""]),
    ],
)
def test_null_inside_of_lists_and_maps_is_a_zero(
    kind: type[Record], member: str, text: str, read: Any
) -> None:
    """What Debian's program makes of each; a record that it lists must not be missing here."""
    document = reread(kind, '{"id":"x","created":"' + WHEN + f'","{member}":{text}}}')
    assert document[member] == read


def test_letters_that_only_unicode_folds_make_another_name() -> None:
    document = reread(Layer, '{"id":"x","name\u017f":["n"]}')
    assert Layer(document).names == ()
    assert document["nameſ"] == ["n"]


# --- setting aside ------------------------------------------------------------------------------------------

MISFITS = [
    (Layer, "null", "wanted an object, found null"),
    (Layer, "[]", "wanted an object, found []"),
    (Layer, "[1]", "wanted an object, found [1]"),
    (Layer, "[false]", "wanted an object, found [false]"),
    (Layer, '["id"]', 'wanted an object, found ["id"]'),
    (Layer, '"x"', 'wanted an object, found "x"'),
    (Layer, "1", "wanted an object, found 1"),
    (Layer, "{}", "without an id"),
    (Layer, '{"id":null}', "without an id"),
    (Layer, '{"id":""}', 'member "id"'),
    (Layer, '{"id":1}', 'member "id"'),
    (Layer, '{"id":"../x"}', 'found "../x"'),
    (Layer, '{"id":"."}', 'member "id"'),
    (Layer, '{"id":"a/b"}', 'member "id"'),
    (Layer, '{"id":"a\\u0000"}', 'member "id"'),
    (Layer, '{"id":"layers.json"}', 'member "id"'),
    (Layer, '{"id":"' + "x" * 256 + '"}', 'member "id"'),
    (Layer, '{"id":"x","parent":"../../etc"}', 'member "parent"'),
    (Layer, '{"id":"x","names":"n"}', "a list of text"),
    (Layer, '{"id":"x","names":{}}', "a list of text"),
    (Layer, '{"id":"x","names":[1]}', "found [1]"),
    (Layer, '{"id":"x","names":[["n"]]}', "a list of text"),
    (Layer, '{"id":"x","created":"yesterday"}', "an RFC 3339 time"),
    (Layer, '{"id":"x","created":""}', "an RFC 3339 time"),
    (Layer, '{"id":"x","created":0}', "an RFC 3339 time"),
    (Layer, '{"id":"x","created":"2021-02-29T00:00:00Z"}', "an RFC 3339 time"),
    (Layer, '{"id":"x","diff-size":"1"}', "a 64-bit integer"),
    (Layer, '{"id":"x","diff-size":1.5}', "found 1.5"),
    (Layer, '{"id":"x","diff-size":1.0}', "a 64-bit integer"),
    (Layer, '{"id":"x","diff-size":1e3}', "found 1e3"),
    (Layer, '{"id":"x","diff-size":true}', "found true"),
    (Layer, '{"id":"x","diff-size":9223372036854775808}', "a 64-bit integer"),
    (Layer, '{"id":"x","diff-size":-9223372036854775809}', "a 64-bit integer"),
    (Layer, '{"id":"x","diff-size":' + "9" * 5000 + "}", "a 64-bit integer"),
    (Layer, '{"id":"x","compression":[2]}', "a 64-bit integer"),
    (Layer, '{"id":"x","uidset":[-1]}', "unsigned 32-bit"),
    (Layer, '{"id":"x","uidset":[4294967296]}', "unsigned 32-bit"),
    (Layer, '{"id":"x","uidset":[true]}', "unsigned 32-bit"),
    (Layer, '{"id":"x","uidset":[0,1.0]}', "unsigned 32-bit"),
    (Layer, '{"id":"x","uidset":{"0":0}}', "unsigned 32-bit"),
    (Layer, '{"id":"x","uidset":""}', "unsigned 32-bit"),
    (Layer, '{"id":"x","uidset":0}', "unsigned 32-bit"),
    (Layer, '{"id":"x","flags":[]}', "a map"),
    (Layer, '{"id":"x","flags":"f"}', "a map"),
    (Layer, '{"id":"x","flags":' + '{"a":' * 200 + "1" + "}" * 200 + "}", "nested"),
    (Layer, '{"id":"x","new":' + "[" * 200 + "]" * 200 + "}", "nested"),
    (Layer, '{"id":"x","new":' + "[" * 5000 + "]" * 5000 + "}", "nested"),
    (Layer, '{"id":"x","uidmap":{}}', "a list of id maps"),
    (Layer, '{"id":"x","uidmap":[1]}', "a list of id maps"),
    (Layer, '{"id":"x","uidmap":["size"]}', "a list of id maps"),
    (Layer, '{"id":"x","uidmap":[{"size":"1"}]}', "a list of id maps"),
    (Layer, '{"id":"x","uidmap":[{"size":true}]}', "a list of id maps"),
    (Image, '{"id":"x","big-data-sizes":[]}', "a map of integers"),
    (Image, '{"id":"x","big-data-sizes":{"k":"1"}}', "a map of integers"),
    (Image, '{"id":"x","big-data-sizes":{"k":9223372036854775808}}', "a map of integers"),
    (Image, '{"id":"x","big-data-digests":{"k":1}}', "a map of texts"),
    (Image, '{"id":"x","big-data-digests":"d"}', "a map of texts"),
    (Image, '{"id":"x","digest":1}', "text"),
    (Container, '{"id":"x","image":1}', "text"),
    (Container, '{"id":"x","layer":[]}', "text"),
    (Container, '{"id":"x","IMAGE":1}', "text"),
]


@pytest.mark.parametrize(("kind", "text", "said"), MISFITS)
def test_a_record_that_does_not_fit_is_set_aside_and_the_others_go_on(
    kind: type[Record], text: str, said: str
) -> None:
    """P9, H2: the peers refuse the whole file, and `[null]` crashes them."""
    good = [encode(kind, {"id": f"{n:064x}", "created": WHEN}) for n in range(3)]
    contents = parse(kind, f"[{good[0]},{good[1]},{text},{good[2]}]".encode())
    assert [d and d["id"] for d in contents.documents] == [f"{0:064x}", f"{1:064x}", None, f"{2:064x}"]
    (aside,) = contents.asides
    assert said in aside.reason
    assert len(aside.reason) < 300
    assert (aside.place, aside.text) == (2, text)
    assert contents.texts() == [good[0], good[1], text, good[2]]
    assert "record 3" in str(aside)
    with pytest.raises((Misfit, ValueError)):
        fitted(kind, json.loads(text) if len(text) < 2000 else None)


@pytest.mark.parametrize("text", ['{"id":"q","diff-size":"1"}', '{"diff-size":"1"}', '{"id":5}', "null"])
def test_a_record_set_aside_tells_its_id_if_it_has_one(text: str) -> None:
    (aside,) = parse(Layer, f"[{text}]".encode()).asides
    assert aside.id == ("q" if '"q"' in text else None)
    assert ("'q'" in str(aside)) == (aside.id is not None)


@pytest.mark.parametrize("depth", [1, NESTING_MAX - 1])
def test_members_of_free_form_may_be_nested_a_bit(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    for key in ("flags", "new"):
        text = compact(layer(**{key: {"k": value}}))
        assert encode(Layer, reread(Layer, text)) == text


@pytest.mark.parametrize("text", ["{", "[{]", "{}", '[{"id":"x"},]', "[]x", '"', "  "])
def test_a_broken_file_is_no_list_of_records(text: str) -> None:
    with pytest.raises(SyntaxProblem):
        parse(Layer, text.encode())


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b" [ ] \n"])
def test_a_file_without_records(data: bytes) -> None:
    contents = parse(Layer, data)
    assert (contents.documents, contents.asides, contents.texts(), contents.canonical()) == ([], [], [], "")
    assert contents.is_void == (data in (b"", b"null"))


def test_a_file_of_rubbish_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """P8: 256 MiB of empty lists would take 8 GiB."""
    monkeypatch.setattr(recordfiles, "RECORD_VALUES_MAX", 1000)
    with pytest.raises(LimitExceeded, match="1000 values"):
        parse(Layer, b"[" + b"[]," * 1500 + b"[]]")
    monkeypatch.setattr(recordfiles, "RECORDS_ASIDE_MAX", 10)
    with pytest.raises(LimitExceeded, match="10 records that do not fit"):
        parse(Layer, b"[" + b"5," * 10 + b"5]")
    assert len(parse(Layer, b"[" + b"5," * 9 + b"5]").asides) == 10


# --- the text of what does not change -----------------------------------------------------------------------


def test_records_as_all_programs_write_them_are_told_apart_without_reading_them_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A save in a store of twenty thousand layers must not cost a second load."""
    texts = [encode(Layer, {**LAYER, "id": f"{n:064x}", "metadata": "},{"}) for n in range(600)]
    contents = parse(Layer, f"[{','.join(texts)}]".encode())
    monkeypatch.setattr(recordfiles.gojson, "elements", None)
    assert contents.texts() == texts


TRICKY = [
    # an object with an id in a list, taken for the next record
    '{"id":"a","flags":{"x":[{},{"id":"b"}]}} , {"id":"c"}',
    '{"id":"a","new":[{"id":"q"},{"id":"c"}]} ,{"id":"c"}',
    # the same, hidden behind a member that is given twice
    '{"id":"a","flags":{"x":[{},{"id":"c"}]},"flags":{}} ,{"id":"c"}',
    '{"id":"a","uidmap":[{"id":"x"},{"id":"c","size":1,"host_id":1,"container_id":0}]} ,{"id":"c"}',
    # in a string
    '{"id":"a","metadata":"},{\\"id\\":\\"b"} ,{"id":"c"}',
    '{"id":"a","metadata":"},{\\\\"},{"id":"c"}',
    # other order, other spelling, blanks
    '{"created":"2020-01-01T00:00:00Z","id":"a"},{"id":"c"}',
    '{"ID":"a"},{"id":"c"},{"id":"d"}',
    ' {"id":"a"}\n,\t{ "id" : "c" } ',
    '{"id":"a"},{"id":"c"} ',
]


@pytest.mark.parametrize("inner", TRICKY)
def test_the_text_of_each_record_is_its_own(inner: str) -> None:
    contents = parse(Layer, f"[{inner}]".encode())
    parts = contents.texts()
    assert [json.loads(part).get("id", json.loads(part).get("ID")) for part in parts] == [
        document["id"] for document in contents.documents if document
    ]
    rest = inner
    for part in parts:
        rest = rest.lstrip(", \n\t")
        assert rest.startswith(part)
        rest = rest[len(part) :]
    assert rest.strip() == ""


def test_canonical_text_is_what_would_be_written() -> None:
    simple = {k: v for k, v in LAYER.items() if k not in ("flags", "uidmap", "gidmap")}
    text = ",".join(encode(Layer, {**simple, "id": f"{n:064x}"}) for n in range(3))
    assert parse(Layer, f"[{text}]".encode()).canonical() == text


NOT_CANONICAL = [
    '{"id":"a" ,"created":"W"}',
    '{"created":"W","id":"a"}',
    '{"id":"a","names":[],"created":"W"}',
    '{"id":"a","metadata":"","created":"W"}',
    '{"id":"a","metadata":null,"created":"W"}',
    '{"id":"a","metadata":"a b","created":"W"}',
    '{"id":"a","metadata":"<","created":"W"}',
    '{"id":"a","metadata":"\\u0041","created":"W"}',
    '{"id":"a","metadata":"é","created":"W"}',
    '{"id":"a","created":"W","diff-size":0}',
    '{"id":"a","created":"W","flags":{"b":1,"a":2}}',
    '{"id":"a","created":"W","uidmap":[{"size":1,"host_id":2,"container_id":3}]}',
    '{"id":"a","created":"W","new":1}',
    '{"id":"a"}',
    '{"id":"a","id":"a","created":"W"}',
    '{"ID":"a","created":"W"}',
    '{"id":"a","created":"W"},null',
]


@pytest.mark.parametrize("text", NOT_CANONICAL)
def test_text_that_might_be_written_otherwise_is_not_canonical(text: str) -> None:
    contents = parse(Layer, f"[{text.replace('W', WHEN)}]".encode())
    written = encode_all(Layer, [d for d in contents.documents if d])
    assert contents.canonical() in (None, written)
    assert contents.canonical() is None


def test_a_document_put_in_another_ones_place_is_written_instead() -> None:
    contents = parse(Image, b'[{"id":"a","new":[{},{"id":"b"}]},{"id":"c"},{"id":"d","layer":1}]')
    contents.replace(1, {"id": "c", "digest": SHA})
    contents.set_aside(0, "for a reason")
    assert contents.texts()[1] == encode(Image, {"id": "c", "digest": SHA})
    assert [(aside.place, aside.id) for aside in contents.asides] == [(0, "a"), (2, "d")]
    assert [d and d["id"] for d in contents.documents] == [None, "c", None]
    assert contents.column("id") == ["c"]
    assert contents.canonical() is None


# --- values -------------------------------------------------------------------------------------------------


def test_a_layer_has_its_members_as_python_values() -> None:
    value = Layer(LAYER, mount_point="/m", mount_count=2)
    assert isinstance(value.id, LayerID)
    assert (value.id, value.names, value.parent) == ("a1", ("n2", "n1"), "p")
    assert isinstance(value.parent, LayerID)
    assert isinstance(value.created, Timestamp)
    assert isinstance(value.diff_digest, Digest)
    assert (value.compressed_size, value.diff_size, value.compression) == (5, -1, 2)
    assert (value.uids, value.gids) == ((0, 4294967295), (1,))
    assert value.mappings == IDMappings((IDMap(0, 1000, 1),), (IDMap(0, 2000, 65536),))
    assert value.incomplete
    assert value.size == -1
    assert (value.mount_point, value.mount_count, value.read_only) == ("/m", 2, False)


def test_an_empty_layer_has_zero_values() -> None:
    value = Layer({"id": "x"})
    assert (value.names, value.parent, value.metadata, value.created) == ((), None, "", UNSET)
    assert (value.diff_digest, value.diff_size, value.size, value.uids) == (None, 0, -1, ())
    assert (value.flags, value.incomplete, bool(value.mappings)) == ({}, False, False)
    assert (value.mount_point, value.mount_count, value.read_only) == ("", 0, False)


@pytest.mark.parametrize("flag", ["yes", 1, None, False, [True]])
def test_only_the_boolean_makes_a_layer_incomplete(flag: object) -> None:
    assert not Layer({"id": "x", "flags": {"incomplete": flag}}).incomplete


def test_a_size_counts_only_beside_a_digest() -> None:
    assert Layer({"id": "x", "diff-size": 5}).size == -1
    assert Layer({"id": "x", "diff-size": 5, "diff-digest": SHA}).size == 5
    assert Layer({"id": "x", "diff-digest": SHA}).size == 0
    assert Layer({"id": "x", "diff-size": -1, "toc-digest": SHA}).size == -1


def test_an_image_has_its_digest_and_those_of_its_manifests_once() -> None:
    other = SHA.replace("0", "1")
    value = Image(
        {**IMAGE, "big-data-digests": {"k": "x", "manifest": SHA, "manifest-2": other, "manifests": ""}}
    )
    assert value.digests == (SHA, other)
    assert Image({"id": "x"}).digests == ()
    assert isinstance(value.id, ImageID)
    assert isinstance(value.mapped_layers[0], LayerID)
    assert value.data_sizes == {"k": 1, "manifest": 2}


def test_a_container_tells_its_options() -> None:
    value = Container({**CONTAINER, "flags": {"MountOpts": ["ro", 1, "nodev"], "Volatile": True}})
    assert isinstance(value.id, ContainerID)
    assert (value.image, value.layer, value.layer_id) == ("i1", "a1", "a1")
    assert (value.mount_options, value.volatile) == (("ro", "nodev"), True)
    bare = Container({"id": "x", "flags": {"MountOpts": "ro", "Volatile": "yes"}})
    assert (bare.image, bare.layer, bare.mount_options, bare.volatile) == ("", "", (), False)


@pytest.mark.parametrize(("kind", "document"), KINDS)
def test_values_are_frozen_and_what_they_hand_out_changes_nothing(
    kind: type[Record], document: dict[str, Any]
) -> None:
    """Nothing that a caller does to a value reaches the store, nor another value."""
    before = copy.deepcopy(document)
    value, other, empty = kind(document), kind(document), kind({"id": "x"})
    for name in [field.attribute for field in kind.FIELDS.values()]:
        for one in (value, empty):
            held = getattr(one, name)
            if isinstance(held, dict):
                held["added"] = 1
                for inner in held.values():
                    if isinstance(inner, list):
                        inner.append("added")
        with pytest.raises(AttributeError, match="frozen"):
            setattr(value, name, None)
        with pytest.raises(AttributeError, match="frozen"):
            delattr(value, name)
    taken = value.document()
    taken["id"] = "changed"
    for held in taken.values():
        if isinstance(held, list | dict):
            held.clear()
    assert document == before
    assert value == other == kind(before)
    for name in [field.attribute for field in kind.FIELDS.values()]:
        assert getattr(value, name) == getattr(other, name)
        assert getattr(kind({"id": "y"}), name) in ((), {}, "", None, 0, "y", UNSET)


def test_values_are_equal_by_content_and_hashed_by_id() -> None:
    assert Layer(LAYER) == Layer(copy.deepcopy(LAYER))
    assert Layer(LAYER) != Layer({**LAYER, "metadata": "other"})
    assert Layer({"id": "x"}) != Image({"id": "x"})
    assert hash(Layer(LAYER)) == hash(Layer({**LAYER, "metadata": "other"}))
    assert {Layer(LAYER), Layer(LAYER)} == {Layer(LAYER)}


def test_values_can_be_copied_pickled_and_shown() -> None:
    value = Layer(LAYER, mount_point="/m", mount_count=1)
    assert copy.copy(value) is copy.deepcopy(value) is value
    back = pickle.loads(pickle.dumps(value))
    assert (back, back.mount_point, back.names) == (value, "/m", value.names)
    assert repr(value) == "<Layer a1 names='n2', 'n1'>"
    assert repr(Image({"id": "i"})) == "<Image i>"
    assert [Layer(LAYER)] == Layer.all_of([LAYER])
