"""Records under any input: bytes are a value or our own error, and a table behaves like a dict, whoever writes it."""

import json
import math
import os
import shutil
import tempfile
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orlop.errors import BadRecords, DuplicateID
from orlop.formats import gojson, recordfiles
from orlop.formats.bigdata import file_name
from orlop.formats.gojson import SyntaxProblem
from orlop.formats.recordfiles import parse
from orlop.formats.records import Misfit, encode, encode_all, fitted, trimmed
from orlop.model.container import Container
from orlop.model.ids import are_harmless
from orlop.model.image import Image
from orlop.model.layer import Layer
from orlop.model.record import Record
from orlop.model.timestamp import are_timestamps, is_timestamp
from orlop.records.containers import ContainerTable
from orlop.records.images import ImageTable
from orlop.records.layers import LayerTable
from orlop.records.table import Table

KINDS = st.sampled_from([Layer, Image, Container])
WHEN = "2026-11-23T21:16:55Z"

TEXT = st.text(max_size=8) | st.sampled_from(
    ["<&>", "\u2028", "\\", '"', "},{", '},{"id":"', "\ud800", "é", "\0"]
)
PLAIN = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=8,
)
IDS = st.sampled_from(["a", "b", "ab", "a b", "é", "c" * 64, "c" * 63 + "d", "x" * 200])
DIGEST = st.just("sha256:" + "0123456789abcdef" * 4)
TIMES = st.sampled_from([WHEN, "2026-11-23T21:16:55.68507543+02:00", "0001-01-01T00:00:00Z"])
ID_MAP = st.fixed_dictionaries({key: st.integers(0, 1 << 32) for key in ("container_id", "host_id", "size")})
UINT32 = st.integers(0, (1 << 32) - 1)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "a list of text": st.lists(PLAIN, max_size=3),
    "text": PLAIN,
    "an RFC 3339 time": TIMES,
    "a 64-bit integer": INT64,
    "a list of unsigned 32-bit integers": st.lists(UINT32, max_size=3),
    "a map of integers": st.dictionaries(PLAIN, INT64, max_size=3),
    "a map of texts": st.dictionaries(PLAIN, PLAIN, max_size=3),
    "a list of id maps": st.lists(ID_MAP, max_size=2),
    "an id that can be one name in a directory": IDS,
}


@st.composite
def documents(draw: st.DrawFn, kind: type[Record]) -> dict[str, Any]:
    """A document in normal form, members of a newer program included."""
    document: dict[str, Any] = {"id": draw(IDS)}
    for key, field in kind.FIELDS.items():
        if key != "id" and (field.always or draw(st.booleans())):
            document[key] = draw(VALUES.get(field.shape.name, st.dictionaries(PLAIN, JSON, max_size=3)))
    for key, value in draw(st.dictionaries(PLAIN, JSON, max_size=2)).items():
        if key.lower() not in kind.FIELDS:
            document[key] = value
    return trimmed(kind, document)


def same(one: Any, two: Any) -> bool:
    """Equal, and of the same types: True is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)


# --- JSON ---------------------------------------------------------------------------------------------------

SYNTAX = st.text(st.sampled_from('[]{}",:0123456789.eE+-truefalsn \n\t\\ud8dcf/ab\ufeffé\0'), max_size=40)


@given(st.binary(max_size=60) | SYNTAX.map(str.encode) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_value_or_our_error(data: bytes) -> None:
    try:
        value = gojson.decode(data)
    except SyntaxProblem:
        value = None
    else:
        assert same(gojson.decode(gojson.encode(value)), value)
    try:
        text = gojson.text_of(data)
        found = list(gojson.elements(text))
    except SyntaxProblem:
        found = []
        assert gojson.array(text) is None
    else:
        assert value is None or same(value, [element for element, _ in found])
        at_once = gojson.array(text)
        assert at_once is None or same(at_once, [element for element, _ in found])
        for element, piece in found:
            assert same(gojson.decode(piece), element)
            assert gojson.bytes_of(piece) in data
    assert gojson.bytes_of(gojson.text_of(data)) == data


@given(SYNTAX)
def test_what_the_standard_library_reads_is_read_alike_and_the_rest_is_refused(text: str) -> None:
    def no_constant(name: str) -> Any:
        raise ValueError(name)

    try:
        expected = json.loads(text, parse_constant=no_constant)
    except ValueError:
        with pytest.raises(SyntaxProblem):
            gojson.decode(text)
    else:
        # Lone surrogates are mended, which is the one difference.
        expected = json.loads(
            json.dumps(expected, ensure_ascii=False)
            .encode("utf-16", "surrogatepass")
            .decode("utf-16", "replace")
        )
        assert gojson.decode(text) == expected or "\\u" in text.lower()


@given(JSON)
def test_values_come_back_from_their_text(value: Any) -> None:
    text = gojson.encode(value)
    assert json.loads(text) == value
    assert gojson.decode(text) == value
    assert not {"<", ">", "&", "\u2028", "\u2029"} & set(text)
    assert gojson.encode(gojson.decode(text)) == text or "-0" in text  # which is 0


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_and_look_like_go_s(value: float) -> None:
    text = gojson.encode(value)
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    plain = value == 0 or 1e-6 <= abs(value) < 1e21
    assert ("e" in text) != plain
    assert "e+0" not in text
    assert "e-0" not in text


@given(TEXT)
def test_any_text_can_be_written(text: str) -> None:
    back = json.loads(gojson.encode_text(text))
    assert len(back) == len(text)
    assert back == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


# --- records ------------------------------------------------------------------------------------------------


@given(st.data(), KINDS)
def test_a_document_comes_back_from_its_text(data: st.DataObject, kind: type[Record]) -> None:
    made = data.draw(st.lists(documents(kind), max_size=4))
    text = f"[{encode_all(kind, made)}]"
    contents = parse(kind, text.encode())
    assert contents.asides == []
    assert contents.documents == made
    assert contents.texts() == [encode(kind, document) for document in made]
    assert f"[{','.join(contents.texts())}]" == text
    canonical = contents.canonical()
    assert canonical is None or f"[{canonical}]" == text
    for document in made:
        assert json.loads(encode(kind, document)) == document
        assert kind(document).document() == document
        for field in kind.FIELDS.values():
            getattr(kind(document), field.attribute)


@st.composite
def almost_records(draw: st.DrawFn, kind: type[Record]) -> Any:
    """A document with some of it damaged: other types, other spellings, missing members."""
    document = draw(documents(kind))
    for key in draw(st.lists(st.sampled_from(list(document)), max_size=2)):
        value = document.pop(key, None)
        spelt = draw(st.sampled_from([key, key.upper(), key.title()]))
        document[spelt] = draw(st.just(value) | JSON)
    return draw(st.just(document) | st.just(document) | JSON)


@given(st.data(), KINDS, st.sampled_from([None, 1]), st.booleans())
def test_any_records_are_accepted_or_set_aside_one_by_one(
    data: st.DataObject, kind: type[Record], indent: int | None, escape: bool
) -> None:
    """And how many there are, or how they are laid out, decides nothing about any of them."""
    values = data.draw(st.lists(almost_records(kind), max_size=4))
    text = json.dumps(values, indent=indent, ensure_ascii=escape)
    contents = parse(kind, text.encode())
    assert len(contents.documents) == len(values)
    assert [aside.place for aside in contents.asides] == [
        place for place, document in enumerate(contents.documents) if document is None
    ]
    for value, document, piece in zip(values, contents.documents, contents.texts(), strict=True):
        assert json.loads(piece) == value
        assert piece in text
        try:
            assert fitted(kind, gojson.decode(piece)) == document
        except Misfit:
            assert document is None
            continue
        assert document is not None
        assert are_harmless([document["id"]])
        assert fitted(kind, document) == document
        again = parse(kind, f"[{encode(kind, document)}]".encode()).documents[0]
        assert again is not None
        assert trimmed(kind, again) == trimmed(kind, {**again, **document})
        for field in kind.FIELDS.values():
            getattr(kind(document), field.attribute)
        repr(kind(document))


@given(st.data(), KINDS)
def test_what_a_file_says_does_not_depend_on_what_was_known_of_it(
    data: st.DataObject, kind: type[Record]
) -> None:
    """Reading again only what changed gives what reading all gives, whatever was there, and whatever we put there."""
    good = documents(kind)
    pool = data.draw(st.lists(st.one_of(good, good, good, almost_records(kind)), min_size=1, max_size=6))
    texts = [json.dumps(each, separators=(",", ":"), ensure_ascii=False) for each in pool]
    some = st.lists(st.sampled_from(texts), max_size=6)
    first = data.draw(some)
    between = data.draw(st.sampled_from([",", ",", ",", " ,"]))
    with unittest.mock.patch.object(recordfiles, "_MANY", 0):
        before = parse(kind, bytes_of(first, between))
        for place, text in data.draw(
            st.dictionaries(st.integers(0, 6), st.sampled_from(texts), max_size=2)
        ).items():
            before.put(place if place < len(first) else None, text)
        now = (
            data.draw(st.permutations(first)) + data.draw(some)
            if data.draw(st.booleans())
            else before.texts()
        )
        found = parse(kind, bytes_of(now, between), before)
    wanted = parse(kind, bytes_of(now, between))
    assert found.documents == wanted.documents
    assert list(map(str, found.asides)) == list(map(str, wanted.asides))
    assert found.texts() == wanted.texts()
    assert found.is_void == wanted.is_void
    for key in ("id", "names", "flags"):
        assert sorted(map(repr, found.column(key))) == sorted(map(repr, wanted.column(key)))
    assert found.canonical() in (None, wanted.canonical())


def bytes_of(texts: list[str], between: str) -> bytes:
    return gojson.bytes_of(f"[{between.join(texts)}]")


@given(st.binary(max_size=200), KINDS)
def test_any_file_is_records_or_our_error(data: bytes, kind: type[Record]) -> None:
    try:
        contents = parse(kind, data)
    except SyntaxProblem:
        return
    assert len(contents.texts()) == len(contents.documents)


DAY = st.dates().map(str)
CLOCK = st.times().map(lambda t: t.isoformat("seconds"))
END = st.sampled_from(["Z", ".5Z", ".123456789Z", "+02:00", "-00:30", ".Z", "", "z", ".5", "Z5Z", "+24:00"])
SEEMING = st.builds(lambda d, c, e: f"{d}T{c}{e}", DAY, CLOCK, END)
MANGLED = st.builds(
    lambda t, at, sign: t[:at] + sign + t[at + 1 :],
    SEEMING,
    st.integers(0, 25),
    st.sampled_from("0123456789TZ:-.٣ "),
)


@given(st.lists(SEEMING | MANGLED | st.text(max_size=25), max_size=6))
def test_many_times_are_times_if_each_is(texts: list[str]) -> None:
    assert are_timestamps(texts) == all(map(is_timestamp, texts))


@given(
    st.lists(IDS | st.text(max_size=70) | st.sampled_from(["tmp", "../x", "layers.json", "."]), max_size=6)
)
def test_many_ids_are_harmless_if_each_is(ids: list[str]) -> None:
    assert are_harmless(ids) == all(are_harmless([id]) for id in ids)


@given(st.text(max_size=300) | TEXT)
def test_any_key_is_one_file_name_or_refused(key: str) -> None:
    try:
        name = file_name(key)
    except ValueError:
        return
    raw = os.fsencode(name)
    assert raw not in (b"", b".", b"..")
    assert b"/" not in raw
    assert b"\0" not in raw
    assert len(raw) <= 255
    assert file_name(key) == name


# --- a table against a dict, by two programs ----------------------------------------------------------------

NAMES = st.lists(st.sampled_from(["x", "y", "z", "c", ""]), max_size=3, unique=True)


class Programs(RuleBasedStateMachine):
    """Two tables on one directory, used in turns, and a dict that says what both should show."""

    kind: type[Record] = Layer
    files = 1

    make: Callable[..., Table]  # each kind of table below has its own

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="orlop-test-"))
        self.tables = [self.make(), self.make()]
        self.model: dict[str, dict[str, Any]] = {}
        self.homes: dict[str, int] = {}
        self.made: list[str] = []

    def teardown(self) -> None:
        shutil.rmtree(self.base)

    def order(self) -> list[str]:
        return [id for home in range(self.files) for id in self.made if self.homes[id] == home]

    def owned(self, name: str, by: str) -> None:
        for id, document in self.model.items():
            if id != by and name in document.get("names", []):
                document["names"] = [other for other in document["names"] if other != name]
                self.model[id] = trimmed(self.kind, document)

    @rule(who=st.integers(0, 1), data=st.data())
    def add(self, who: int, data: st.DataObject) -> None:
        document = data.draw(documents(self.kind))
        document.pop("names", None)
        if document.get("flags", {}).get("incomplete") is True:
            del document["flags"]
        document.pop("digest", None)
        document.pop("big-data-digests", None)
        home = data.draw(st.integers(0, self.files - 1))
        id = document["id"]
        if id in self.model:
            with pytest.raises(DuplicateID), self.tables[who].writing() as editor:
                editor.add(document, home)
            return
        with self.tables[who].writing() as editor:
            editor.add(document, home)
        self.model[id], self.homes[id] = document, home
        self.made.append(id)

    @precondition(lambda self: self.model)
    @rule(who=st.integers(0, 1), data=st.data(), names=NAMES)
    def rename(self, who: int, data: st.DataObject, names: list[str]) -> None:
        id = data.draw(st.sampled_from(sorted(self.model)))
        with self.tables[who].writing() as editor:
            row = editor.rows.by_id(id)
            assert row is not None
            editor.set_names(row, names)
        for name in names:
            self.owned(name, id)
        self.model[id] = trimmed(self.kind, {**self.model[id], "names": names})

    @precondition(lambda self: self.model)
    @rule(who=st.integers(0, 1), data=st.data(), metadata=PLAIN, fails=st.booleans())
    def change(self, who: int, data: st.DataObject, metadata: str, fails: bool) -> None:
        id = data.draw(st.sampled_from(sorted(self.model)))
        try:
            with self.tables[who].writing() as editor:
                row = editor.rows.by_id(id)
                assert row is not None
                editor.change(row, {"metadata": metadata})
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            return
        self.model[id] = trimmed(self.kind, {**self.model[id], "metadata": metadata})

    @precondition(lambda self: self.model)
    @rule(who=st.integers(0, 1), data=st.data())
    def remove(self, who: int, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.model)))
        with self.tables[who].writing() as editor:
            row = editor.rows.by_id(id)
            assert row is not None
            editor.remove(row)
        del self.model[id]
        self.made.remove(id)

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.tables[who] = self.make()

    @rule(who=st.integers(0, 1), ref=st.sampled_from(["x", "y", "z", "c", "ccc", "a", "ab", "é", "", "none"]))
    def find(self, who: int, ref: str) -> None:
        expected = ref if ref in self.model else None
        if expected is None:
            expected = next((id for id, d in self.model.items() if ref in d.get("names", [])), None)
        if expected is None and self.kind is Container:
            held = [id for id in self.listed(who) if self.model[id].get("layer") == ref and ref]
            expected = held[-1] if held else None
        if expected is None:
            near = [id for id in self.model if id.startswith(ref) and " " not in id and ref]
            expected = near[0] if len(near) == 1 else None
        with self.tables[who].reading() as view:
            row = view.find(ref)
            assert (row.id if row else None) == expected

    def listed(self, who: int) -> list[str]:
        with self.tables[who].reading() as view:
            return [row.id for row in view.rows]

    @invariant()
    def both_show_what_the_dict_says(self) -> None:
        for who, table in enumerate(self.tables):
            with table.reading() as view:
                shown = {row.id: row.document for row in view.rows}
                assert [value.document() for value in view.values()] == [row.document for row in view.rows]
                assert json.loads(view.json()) == [json.loads(encode(self.kind, d)) for d in shown.values()]
            assert shown == self.model
            assert sorted(self.listed(who)) == sorted(self.order())
            assert table.damage == ()
        assert self.listed_by_a_new_program() == self.order()

    def listed_by_a_new_program(self) -> list[str]:
        with self.make().reading() as view:
            return [row.id for row in view.rows]


class Layers(Programs):
    kind, files = Layer, 2

    def make(self) -> Table:
        return LayerTable(str(self.base / "layers"), run_directory=str(self.base / "run"), durable=False)


class Images(Programs):
    kind, files = Image, 1

    def make(self) -> Table:
        return ImageTable(str(self.base / "images"), durable=False)


class Containers(Programs):
    kind, files = Container, 2

    def make(self) -> Table:
        return ContainerTable(str(self.base / "c"), run_directory=str(self.base / "run"), durable=False)


def _tested(machine: type[Programs]) -> Any:
    case = machine.TestCase
    if settings.get_current_profile_name() != "deep":
        case.settings = settings(max_examples=25, stateful_step_count=12)
    return case


TestLayers = _tested(Layers)
TestImages = _tested(Images)
TestContainers = _tested(Containers)


@given(st.data())
def test_any_file_beside_good_ones_is_repaired_or_refused_and_nothing_else_is_lost(
    data: st.DataObject,
) -> None:
    """What a load repairs stays repaired, what it sets aside is still there, and a second load changes nothing."""
    values = data.draw(st.lists(almost_records(Layer), max_size=4))
    volatile = data.draw(st.lists(documents(Layer), max_size=2))
    base = Path(tempfile.mkdtemp(prefix="orlop-test-"))
    try:
        (base / "layers").mkdir()
        (base / "layers/layers.json").write_text(json.dumps(values))
        (base / "layers/volatile-layers.json").write_text(json.dumps(volatile))

        def table() -> LayerTable:
            return LayerTable(str(base / "layers"), run_directory=str(base / "run"), durable=False)

        first = table()
        try:
            with first.writing() as editor:
                editor.add({"id": "new", "created": WHEN})
        except (BadRecords, DuplicateID):
            assume(False)
        after = json.loads((base / "layers/layers.json").read_bytes())
        for aside in first.asides():
            assert json.loads(aside.text) in after
        second = table()
        with second.reading() as view, first.locks[0].reading():
            again = [row.document for row in view.rows]
            token = first.locks[0].token()
        with first.reading() as view:
            # As text: memory may still hold an empty member that a file leaves out.
            here = {row.id: encode(Layer, row.document) for row in view.rows}
            assert here == {document["id"]: encode(Layer, document) for document in again}
            assert first.locks[0].token() == token
        names = [name for document in again for name in document.get("names", [])]
        assert len(names) == len(set(names))
        assert not any(document.get("flags", {}).get("incomplete") is True for document in again)
    finally:
        shutil.rmtree(base)
