"""The rows of a table in memory: order, lookups, names, and indexes that follow every change."""

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from orlop.formats.recordfiles import Contents
from orlop.formats.records import encode_all
from orlop.model.layer import Layer
from orlop.records.rows import Row, Rows

WHEN = "2026-11-23T21:16:55Z"


def doc(id: str, *names: str, **members: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"id": id, "created": WHEN, **members}
    if names:
        document["names"] = list(names)
    return document


def rows(*files: list[dict[str, Any]], **how: Any) -> Rows:
    contents = [Contents(Layer, list(file), f"[{encode_all(Layer, file)}]") for file in files]
    return Rows(contents, **how)


def listed(table: Rows) -> list[str]:
    return [row.id for row in table]


def found(table: Rows, ref: str) -> str | None:
    row = table.find(ref)
    return None if row is None else row.id


def test_rows_stand_in_the_order_of_the_files() -> None:
    table = rows([doc("b"), doc("a")], [], [doc("c")])
    assert listed(table) == ["b", "a", "c"]
    assert [row.home for row in table] == [0, 0, 2]
    assert [row.place for row in table] == [0, 1, 0]
    assert len(table) == 3
    assert [document["id"] for document in table.documents()] == ["b", "a", "c"]
    assert table.are_saved
    assert table.in_file_order


def test_places_without_a_usable_record_are_passed_over() -> None:
    contents = Contents(Layer, [None, doc("a"), None, doc("b")], "")
    table = Rows([contents])
    assert len(table) == 2
    assert [(row.id, row.place) for row in table] == [("a", 1), ("b", 3)]


def test_the_order_of_a_lookup_is_id_name_second_key_prefix() -> None:
    """`spec/records.md` 9, first hit wins."""
    table = rows(
        [
            doc("one", "x", layer="L1"),
            doc("two", "one", "thr", layer="x"),
            doc("three", layer="two"),
            doc("four", layer="thre"),
        ],
        second_key="layer",
    )
    assert found(table, "one") == "one"  # an id before the same name
    assert found(table, "x") == "one"  # a name before the same layer
    assert found(table, "two") == "two"  # an id before the same layer
    assert found(table, "thre") == "four"  # a layer before a prefix
    assert found(table, "thr") == "two"  # a name before a prefix
    assert found(table, "three") == "three"
    assert found(table, "L1") == "one"
    assert found(rows([doc("a", layer="L")]), "L") is None
    assert found(rows([doc("a", layer="L"), doc("b", layer="L")], second_key="layer"), "L") == "b"


@pytest.mark.parametrize(
    ("ref", "id"),
    [
        ("a", None),  # ab1 and ab2
        ("ab", None),
        ("ab1", "ab1"),
        ("c", "c0"),
        ("c0", "c0"),
        ("c00", None),
        ("d", "d"),  # exact, though de has it as a prefix
        ("de", "de"),
        ("", None),
        ("has ", None),
        ("has blank", "has blank"),
        ("has", None),
        ("é", "éa"),
        ("z", None),
    ],
)
def test_a_prefix_must_be_unique_and_not_empty(ref: str, id: str | None) -> None:
    """An ambiguous one is simply not known; ids with a blank have no prefixes."""
    table = rows([doc(i) for i in ("ab1", "ab2", "c0", "d", "de", "has blank", "éa")])
    assert found(table, ref) == id


def test_prefixes_follow_rows_that_come_and_go() -> None:
    table = rows([doc("ab1")])
    assert found(table, "ab") == "ab1"
    row = Row(doc("ab2"), 0)
    table.add(row)
    table.add(Row(doc("ab 3"), 0))
    assert found(table, "ab") is None
    assert found(table, "ab2") == "ab2"
    table.remove(row)
    assert found(table, "ab") == "ab1"
    for last in list(table):
        table.remove(last)
    assert found(table, "ab") is None
    assert listed(table) == []


def test_rows_are_found_by_what_they_hold_in_order() -> None:
    table = rows([doc("a", parent="p"), doc("b", parent="q"), doc("c", parent="p"), doc("d", parent="")])
    assert [row.id for row in table.holding("parent", "p")] == ["a", "c"]
    assert table.holding("parent", "") == table.holding("parent", "x") == table.holding("new", "p") == []
    table.add(Row(doc("e", parent="p"), 0))
    a, b = table.by_id("a"), table.by_id("b")
    assert a is not None
    assert b is not None
    table.put(b, {**b.document, "parent": "p"})
    assert [row.id for row in table.holding("parent", "p")] == ["a", "b", "c", "e"]
    table.remove(a)
    assert [row.id for row in table.holding("parent", "p")] == ["b", "c", "e"]
    table.holding("parent", "p").clear()
    assert len(table.holding("parent", "p")) == 3
    table.put(b, {**b.document, "metadata": "m"})
    assert [row.id for row in table.holding("parent", "p")] == ["b", "c", "e"]


def test_of_one_id_the_earlier_record_counts() -> None:
    """In the same file and across files; the later one goes with the next save of its file."""
    table = rows([doc("a", metadata="1"), doc("a", "n", metadata="2")], [doc("b"), doc("a", metadata="3")])
    assert [row.document["metadata"] for row in table if row.id == "a"] == ["1"]
    assert listed(table) == ["a", "b"]
    assert table.passed_over == ["a", "a"]
    assert table.find("n") is None
    assert table.changes(0) == ([], [1])  # goes with the next save of its file
    assert table.changes(1) == ([], [1])
    assert table.robbed == set()


def test_images_of_one_id_both_stay_and_the_later_is_found() -> None:
    table = rows([doc("a", "n1", metadata="1"), doc("b"), doc("a", metadata="2")], unique_ids=False)
    assert listed(table) == ["a", "b", "a"]
    later = table.by_id("a")
    assert later is not None
    assert later.document["metadata"] == "2"
    assert found(table, "n1") == "a"
    assert table.are_saved
    assert found(table, "a") == "a"
    gone = table.remove(later)
    assert [row.document["metadata"] for row in gone] == ["1", "2"]  # they share one directory
    assert listed(table) == ["b"]
    assert (found(table, "a"), found(table, "n1")) == (None, None)


def test_of_one_name_the_later_record_is_the_owner() -> None:
    table = rows([doc("a", "x", "y"), doc("b", "y", "z")], [doc("c", "z")])
    assert {row.id: row.names for row in table} == {"a": ["x"], "b": ["y"], "c": ["z"]}
    assert table.robbed == {0}
    assert [row.id for row in table.changes(0)[0]] == ["a", "b"]
    assert table.changes(1) == ([], [])
    assert rows([doc("a", "x")], [doc("b", "x")]).robbed == {0}
    assert rows([], [doc("a", "x")], [doc("b", "x")]).robbed == {1}


def test_a_name_twice_in_one_record_is_one_name() -> None:
    """The peers lose it."""
    table = rows([doc("a", "n", "m", "n")])
    assert [row.names for row in table] == [["n", "m"]]
    assert table.robbed == set()
    assert found(table, "n") == "a"
    table = rows([doc("b", "n")], [doc("a", "n", "n")])
    assert [row.names for row in table] == [[], ["n"]]
    assert table.robbed == {0}


def test_a_name_twice_in_one_image_stays_as_it_is() -> None:
    table = rows([doc("a", "n", "n")], unique_ids=False)
    assert [row.names for row in table] == [["n", "n"]]
    row = table.by_id("a")
    assert row is not None
    table.put(row, doc("a", "n", "n", "m"))
    table.put(row, doc("a"))
    assert table.find("n") is None


def test_names_are_taken_from_whoever_has_them() -> None:
    table = rows([doc("a", "x", "y"), doc("b", "z")], [doc("c", "w", "v")])
    before = {row.id: row.document for row in table}
    copies = {id: dict(document) for id, document in before.items()}
    b = table.by_id("b")
    assert b is not None
    assert table.take_names(b, ["y", "v", "z", "new"]) == {0, 1}
    assert {row.id: row.names for row in table} == {"a": ["x"], "b": ["z"], "c": ["w"]}
    assert table.owner_of("y") is None
    assert before == copies  # values handed out before keep their documents
    assert table.take_names(b, ["z"]) == set()
    assert table.take_names(b, ["x"]) == {0}
    assert next(row.document for row in table) == doc("a")


def test_changing_a_row_moves_its_names() -> None:
    table = rows([doc("a", "x")])
    row = table.by_id("a")
    assert row is not None
    table.put(row, doc("a", "y"))
    assert (table.owner_of("x"), table.owner_of("y")) == (None, row)


def test_what_is_not_on_disk_yet_is_told_once_for_each_file() -> None:
    table = rows([doc("a"), doc("b"), doc("c")], [doc("d")])
    a, b, d = (table.by_id(id) for id in "abd")
    assert a is not None
    assert b is not None
    assert d is not None
    new, passing = Row(doc("e"), 0), Row(doc("f"), 0)
    table.add(new)
    table.add(passing)
    table.put(b, doc("b", metadata="m"))
    table.put(b, doc("b", metadata="n"))
    table.put(a, doc("a", metadata="m"))
    table.remove(a)
    table.remove(passing)
    table.remove(d)
    assert not table.are_saved
    assert table.changes(0) == ([new, b], [0])
    assert (new.place, b.place) == (None, 1)
    assert not table.are_saved
    assert table.changes(1) == ([], [0])
    assert table.changes(0) == table.changes(1) == ([], [])
    assert table.are_saved


def test_rows_are_in_file_order_until_one_comes_that_a_new_program_would_list_earlier() -> None:
    table = rows([doc("a")], [])
    table.add(Row(doc("b"), 0))
    assert table.in_file_order
    table.add(Row(doc("c"), 1))
    assert table.in_file_order
    table.add(Row(doc("d"), 0))
    assert not table.in_file_order
    table = rows([], [doc("a")], [])
    table.add(Row(doc("b"), 0))
    assert not table.in_file_order


def test_rows_are_found_by_what_lists_hold_and_by_what_a_function_says() -> None:
    def last_letters(document: dict[str, Any]) -> list[str]:
        return [name[-1] for name in document.get("names", [])]

    table = rows(
        [doc("a", "x1", "y1", mapped=["l", "m", "l"]), doc("b", "z2", mapped=["m"]), doc("c", mapped=[])]
    )
    assert [row.id for row in table.holding("mapped", "m")] == ["a", "b"]
    assert [row.id for row in table.holding("mapped", "l")] == ["a"]
    assert [row.id for row in table.holding(last_letters, "1")] == ["a"]
    a, c = table.by_id("a"), table.by_id("c")
    assert a is not None
    assert c is not None
    table.put(a, doc("a", "x2", mapped=["k"]))
    table.put(c, doc("c", "v1", mapped=["m", "k"]))
    assert [row.id for row in table.holding("mapped", "m")] == ["b", "c"]
    assert [row.id for row in table.holding("mapped", "k")] == ["a", "c"]
    assert table.holding("mapped", "l") == []
    assert [row.id for row in table.holding(last_letters, "2")] == ["a", "b"]
    assert [row.id for row in table.holding(last_letters, "1")] == ["c"]
    table.remove(a)
    assert [row.id for row in table.holding("mapped", "k")] == ["c"]


def test_ids_are_put_in_the_order_of_their_rows() -> None:
    table = rows([doc("b"), doc("a")], [doc("c")])
    assert table.in_order({"c": 1, "a": 2, "none": 3, "b": 4}) == ["b", "a", "c"]


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_threads_that_read_share_the_rows_they_find() -> None:
    """Or else a row found by one index would not be the one that another holds."""
    for _ in range(20):
        table = rows([doc(f"{n:064x}", f"n{n}") for n in range(200)])
        seen: list[list[Row | None]] = []
        start = threading.Barrier(4)

        def ask(table: Rows = table, seen: list[Any] = seen, start: threading.Barrier = start) -> None:
            start.wait()
            seen.append([table.find("n7"), table.by_id(f"{7:064x}"), list(table)[7], table.find(f"{7:063x}")])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        firsts = {id(row) for answer in seen for row in answer[:3]}
        assert len(seen) == 4
        assert len(firsts) == 1


def test_listing_needs_no_index() -> None:
    table = rows([doc(f"{n:064x}", f"n{n}") for n in range(100)])
    assert len(table) == 100
    assert sum(1 for _ in table.documents()) == 100
    assert table._ids is None
    assert "row" in repr(table.by_id(f"{1:064x}"))
    assert len(table._rows) == 1  # a row for what was asked, and no more
    assert table._names is None
    assert sum(1 for _ in table.documents()) == 100


class Counted(str):
    """Text that counts how often any is compared."""

    compared = 0

    def __lt__(self, other: str) -> bool:
        type(self).compared += 1
        return str.__lt__(self, other)


def test_a_lookup_by_prefix_looks_at_few_ids() -> None:
    table = rows([doc(Counted(f"{n * 7919:064x}")) for n in range(20_000)])
    assert found(table, f"{7919:064x}"[:60]) is None
    for asked in range(3):
        Counted.compared = 0
        assert found(table, f"{7919 * (asked + 1):064x}") is not None
        assert found(table, "f" * 10) is None
        table.add(Row(doc(Counted(f"e{asked}")), 0))
        assert found(table, f"e{asked}") == f"e{asked}"
        assert Counted.compared < 200
