"""Which ids an automatic user namespace gets: the examples of `spec/userns.md` 4.5, and what holds for any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.model.idmap import IDMap, IDMappings
from orlop.model.idset import IDSet
from orlop.store.userns import cut


def maps(text: str) -> tuple[IDMap, ...]:
    return tuple(IDMap(*map(int, entry.split(":"))) for entry in text.split(", ") if entry)


def ids(text: str) -> IDSet:
    """`500-600 700+5`: half-open from-to, or first and number."""
    found = []
    for word in text.split():
        sign = "+" if "+" in word else "-"
        a, b = map(int, word.split(sign))
        found.append((a, b if sign == "-" else a + b))
    return IDSet(found)


@pytest.mark.parametrize(
    ("size", "available", "used", "additional", "result"),
    [
        (4096, "200000-265536", "", "", "0:200000:4096"),
        (4096, "200000-265536", "200000+1024 202048+1024", "", "0:201024:1024, 1024:203072:3072"),
        (10, "500-600", "503+2", "3:9000:2", "0:500:3, 5:505:5, 3:9000:2"),
        (10, "500-600", "", "8:505:4", "0:500:5, 5:509:3, 8:505:4"),
        (2, "500-600", "", "0:1:5", "0:1:5"),
        (
            65536,
            "1000-30000 70000-90000 110000-160000",
            "1000+10000 20000+5000 30000+5000",
            "0:1003:1, 1:1001:1, 2:1006:1, 100:1100:10",
            "3:11000:97, 110:11097:8903, 9013:25000:5000, 14013:70000:20000, 34013:110000:31523, "
            "0:1003:1, 1:1001:1, 2:1006:1, 100:1100:10",
        ),
        (100, "500-600", "", "", "0:500:100"),
    ],
)
def test_the_lowest_free_ids_are_given_out(
    size: int, available: str, used: str, additional: str, result: str
) -> None:
    assert cut(size, ids(available), ids(used), maps(additional)) == (maps(result), 0)


def test_it_is_said_how_many_ids_are_missing() -> None:
    assert cut(200, ids("500-600"), IDSet(), ())[1] == 100
    assert cut(100, ids("500-600"), ids("599+1"), ())[1] == 1
    assert cut(1, IDSet(), IDSet(), ())[1] == 1


intervals = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 60)).map(lambda pair: (pair[0], sum(pair))), max_size=6
)
entries = st.lists(st.builds(IDMap, st.integers(0, 80), st.integers(0, 400), st.integers(0, 9)), max_size=3)


@given(st.integers(1, 120), intervals, intervals, entries)
def test_what_is_given_out_is_asked_for_available_and_unused(
    size: int, available: list[tuple[int, int]], used: list[tuple[int, int]], additional: list[IDMap]
) -> None:
    """Every id below the size has exactly one host id: of an additional entry, or the next that is free."""
    result, missing = cut(size, IDSet(available), IDSet(used), additional)
    assert list(result[len(result) - len(additional) :]) == additional
    given = result[: len(result) - len(additional)]
    inside = [entry.container_id + i for entry in given for i in range(entry.size)]
    outside = [entry.host_id + i for entry in given for i in range(entry.size)]
    asked = set(range(size)) - {m.container_id + i for m in additional for i in range(m.size)}
    theirs = {m.host_id + i for m in additional for i in range(m.size)}
    free = sorted(id for id in range(400) if id in IDSet(available) - IDSet(used) and id not in theirs)
    assert outside == free[: len(asked)]
    assert inside == sorted(asked)[: len(inside)]
    assert missing == len(asked) - len(inside) == max(0, len(asked) - len(free))
    mapped = IDMappings(given)
    if given:
        assert [mapped.to_host(id, 0)[0] for id in inside] == outside
        assert [mapped.to_container(id, 0)[0] for id in outside] == inside


@given(intervals, st.lists(st.integers(1, 40), max_size=5))
def test_containers_made_one_after_the_other_share_no_id(
    available: list[tuple[int, int]], sizes: list[int]
) -> None:
    taken = IDSet()
    for size in sizes:
        result, missing = cut(size, IDSet(available), taken, ())
        new = IDSet((m.host_id, m.host_id + m.size) for m in result)
        assert new.count == size - missing
        assert (taken | new).count == taken.count + new.count, "an id was given out twice"
        assert not new - IDSet(available)
        if missing:
            break
        taken |= new
