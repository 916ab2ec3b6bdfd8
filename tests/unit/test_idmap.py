"""Id maps: arithmetic and text of `spec/userns.md` 1."""

import copy
import os
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.config.idmapping import parse_id_mappings
from orlop.errors import InvalidMappings
from orlop.model.idmap import IDENTITY, OVERFLOW_ID, IDMap, IDMappings, parse
from orlop.system import subids

USERS = (IDMap(0, 100_000, 1000), IDMap(1000, 5, 1))
GROUPS = (IDMap(0, 200_000, 10),)
MAPS = IDMappings(USERS, GROUPS)


def test_no_maps_mean_every_id_is_itself() -> None:
    assert not IDENTITY
    assert IDMappings() == IDENTITY
    assert IDENTITY.to_host(7, 4_294_967_294) == (7, 4_294_967_294)
    assert IDENTITY.to_container(7, 8) == (7, 8)
    assert IDENTITY.root() == (0, 0)
    assert IDENTITY.to_host_or_overflow(7, 8) == (7, 8)
    assert IDENTITY.is_contiguous()


def test_one_empty_list_is_identity_for_its_kind_only() -> None:
    maps = IDMappings(uids=USERS)
    assert maps
    assert maps.to_host(1, 1) == (100_001, 1)
    assert IDMappings(gids=GROUPS).to_container(3, 200_003) == (3, 3)


@pytest.mark.parametrize(
    ("container", "host"),
    [((0, 0), (100_000, 200_000)), ((999, 9), (100_999, 200_009)), ((1000, 1), (5, 200_001))],
)
def test_a_covered_pair_goes_both_ways(container: tuple[int, int], host: tuple[int, int]) -> None:
    assert MAPS.to_host(*container) == host
    assert MAPS.to_container(*host) == container


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MAPS.to_host(1001, 0), "container ID 1001 cannot be mapped to a host ID"),
        (lambda: MAPS.to_host(0, 10), "container ID 10 cannot be mapped to a host ID"),
        (lambda: MAPS.to_host(5000, 5001), "container ID 5000 cannot be mapped to a host ID"),  # users first
        (lambda: MAPS.to_container(99_999, 0), "host ID 99999 cannot be mapped to a container ID"),
        (lambda: MAPS.to_container(100_000, 0), "host ID 0 cannot be mapped to a container ID"),
        (lambda: IDMappings([IDMap(1, 1, 5)]).root(), "container ID 0 cannot be mapped to a host ID"),
    ],
)
def test_an_id_outside_the_maps_is_an_error_that_names_it(call: object, text: str) -> None:
    with pytest.raises(InvalidMappings) as caught:
        call()  # type: ignore[operator]
    assert str(caught.value) == text
    assert caught.value.peer == text


def test_the_first_of_overlapping_entries_wins() -> None:
    maps = IDMappings([IDMap(0, 10, 5), IDMap(0, 20, 50)])
    assert maps.to_host(4, 0) == (14, 0)
    assert maps.to_host(5, 0) == (25, 0)


def test_an_entry_of_size_zero_covers_nothing() -> None:
    with pytest.raises(InvalidMappings):
        IDMappings([IDMap(0, 100, 0)]).to_host(0, 0)


def test_a_single_entry_of_size_one_is_root_whatever_its_container_id() -> None:
    assert IDMappings([IDMap(33, 1000, 1)], [IDMap(44, 1001, 1)]).root() == (1000, 1001)
    assert MAPS.root() == (100_000, 200_000)


def test_re_owning_keeps_what_is_roots_and_gives_strangers_the_overflow_id() -> None:
    assert MAPS.to_host_or_overflow(100_000, 5) == (100_000, 200_005)  # already the mapped root's
    assert MAPS.to_host_or_overflow(7, 200_000) == (100_007, 200_000)
    assert MAPS.to_host_or_overflow(9999, 77) == (OVERFLOW_ID, OVERFLOW_ID)


@pytest.mark.parametrize(
    ("maps", "contiguous"),
    [
        ([(5, 50, 5)], True),
        ([(0, 10, 5), (5, 15, 5)], True),
        ([(5, 15, 5), (0, 10, 5)], True),
        ([(0, 15, 5), (5, 10, 5)], True),  # without gaps on either side, though not in the same order
        ([(0, 10, 5), (6, 15, 5)], False),
        ([(0, 10, 5), (5, 16, 5)], False),
    ],
)
def test_contiguous_means_no_gap_on_either_side(maps: list[tuple[int, int, int]], contiguous: bool) -> None:
    entries = [IDMap(*m) for m in maps]
    assert IDMappings(entries).is_contiguous() is contiguous
    assert IDMappings(GROUPS, entries).is_contiguous() is contiguous


def test_overlaps_are_named() -> None:
    MAPS.check_overlaps()
    IDMappings([IDMap(0, 10, 5), IDMap(2, 12, 0)]).check_overlaps()  # an empty range meets nothing
    with pytest.raises(InvalidMappings) as caught:
        IDMappings([IDMap(0, 10, 5), IDMap(4, 100, 5)]).check_overlaps()
    assert str(caught.value) == (
        "the specified UID and/or GID mapping 4:100:5 conflicts with other mappings: invalid mappings specified"
    )
    with pytest.raises(InvalidMappings) as caught:
        IDMappings(GROUPS, [IDMap(0, 10, 5), IDMap(9, 14, 1), IDMap(0, 10, 1)]).check_overlaps()
    assert str(caught.value) == (
        "the specified UID and/or GID mappings 9:14:1, 0:10:1 conflict with other mappings: "
        "invalid mappings specified"
    )


def test_many_entries_are_checked_soon() -> None:
    """A map of free ids between single used ones has thousands of entries, and locks are held meanwhile."""
    many = tuple(IDMap(i, 2 * i, 1) for i in range(50_000))
    maps = IDMappings(many, many[::-1])
    began = time.process_time()
    maps.check_overlaps()
    assert (
        time.process_time() - began < 5
    )  # it takes a tenth of a second; each against each would take minutes


@pytest.mark.parametrize(
    ("specs", "maps"),
    [
        ("", ()),
        ([], ()),
        (["", "0:1:2"], (IDMap(0, 1, 2),)),
        ("0:100000:65536:70000:5:1", (IDMap(0, 100_000, 65_536), IDMap(70_000, 5, 1))),
        (["0:1:2", "3:4:5"], (IDMap(0, 1, 2), IDMap(3, 4, 5))),
        ("4294967295:0000000000000000001:0", (IDMap(4_294_967_295, 1, 0),)),
        ("0:0:5:2:2:5", (IDMap(0, 0, 5), IDMap(2, 2, 5))),  # overlapping
    ],
)
def test_a_spec_is_triples(specs: str | list[str], maps: tuple[IDMap, ...]) -> None:
    assert parse(specs) == maps


@pytest.mark.parametrize(
    "spec",
    [
        *("0", "0:0", "0:0:1:", "0:0:1:2", "a:0:1", "-1:0:1", "+1:0:1", " 0:0:1", "0:0:1 ", "0::1", ":::"),
        *("0:0:4294967296", "0:0:1_0", "0:0:٣", "0:0:²", f"0:0:{'9' * 6000}"),
    ],
)
def test_anything_else_is_malformed(spec: str) -> None:
    with pytest.raises(InvalidMappings) as caught:
        parse(["1:2:3", spec], setting="UID")
    assert str(caught.value).startswith(
        'initializing ID mappings: UID setting is malformed expected ["uint32:uint32:uint32"]: ["1:2:3" "'
    )


def test_the_error_quotes_every_spec() -> None:
    with pytest.raises(InvalidMappings) as caught:
        parse(["", 'a"b\\c', "\x01\n\udcff\u2028é"], setting="gid")
    assert str(caught.value) == (
        'initializing ID mappings: gid setting is malformed expected ["uint32:uint32:uint32"]: '
        '["" "a\\"b\\\\c" "\\x01\\n\\xff\\u2028é"]'
    )


def test_maps_are_values() -> None:
    assert IDMappings(list(USERS), list(GROUPS)) == MAPS
    assert IDMappings(GROUPS, USERS) != MAPS
    assert {MAPS: 1}[IDMappings(USERS, GROUPS)] == 1
    assert copy.deepcopy(MAPS) == pickle.loads(pickle.dumps(MAPS)) == MAPS
    assert str(USERS[0]) == "0:100000:1000"
    assert repr(USERS[1]) == "IDMap(1000, 5, 1)"
    for value, name in ((USERS[0], "size"), (MAPS, "uids"), (MAPS, "new")):
        with pytest.raises(AttributeError, match="frozen"):
            setattr(value, name, ())
        with pytest.raises(AttributeError, match="frozen"):
            delattr(value, name)


# --- what programs ask for ----------------------------------------------------------------------------------


@pytest.fixture
def aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """subuid and subgid files in which "me" has ids, and "us" has ids of groups only."""
    (tmp_path / "subuid").write_text("me:300000:10\nme:100000:5\nbad:x:y\n")
    (tmp_path / "subgid").write_text("me:7000:3\nus:8000:1\nbad:1:1\n")
    monkeypatch.setattr(subids, "FILES", {f"{k}id": str(tmp_path / f"sub{k}id") for k in "ug"})
    return tmp_path


ME = ("0:100000:5", "5:300000:10"), ("0:7000:3",)


@pytest.mark.parametrize(
    ("uids", "gids", "user", "group", "wanted"),
    [
        ((), (), "", "", ((), ())),
        (["0:1:2"], (), "", "", (("0:1:2",), ("0:1:2",))),
        ((), ["0:1:2:2:9:1"], "", "", (("0:1:2", "2:9:1"), ("0:1:2", "2:9:1"))),
        (["0:1:2"], ["0:3:4"], "", "", (("0:1:2",), ("0:3:4",))),
        (["0:1:2"], [""], "", "", (("0:1:2",), ())),  # given, if only as nothing
        ((), (), "me", "", ME),
        ((), (), "", "me", ME),
        ((), (), "me", "us", (ME[0], ("0:8000:1",))),
        (["9:9:9"], (), "me", "", ((*ME[0], "9:9:9"), (*ME[1], "9:9:9"))),
        (iter(["0:1:2", "5:6:7"]), iter(["0:3:4"]), "", "", (("0:1:2", "5:6:7"), ("0:3:4",))),
    ],
)
def test_maps_are_made_of_names_and_triples(
    aside: Path, uids: object, gids: object, user: str, group: str, wanted: tuple[tuple[str, ...], ...]
) -> None:
    """One name, or one list of triples, is for both kinds; ids that are set aside come first."""
    made = parse_id_mappings(uids, gids, subuid_user=user, subgid_group=group)  # type: ignore[arg-type]
    assert (tuple(map(str, made.uids)), tuple(map(str, made.gids))) == wanted


@pytest.mark.parametrize(("uid", "gid"), [(1000, 1001), (5, 0)])
def test_who_is_not_root_and_asks_for_nothing_gets_himself(
    aside: Path, monkeypatch: pytest.MonkeyPatch, uid: int, gid: int
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "getgid", lambda: gid)
    assert parse_id_mappings() == IDMappings([IDMap(0, uid, 1)], [IDMap(0, gid, 1)])
    assert parse_id_mappings(["0:1:2"]) == IDMappings([IDMap(0, 1, 2)], [IDMap(0, 1, 2)])
    assert parse_id_mappings(subuid_user="me").uids == (IDMap(0, 100_000, 5), IDMap(5, 300_000, 10))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (
            {"uid_specs": ["0:1:2", "x"]},
            "failed to create ParseUIDMap UID=[0:1:2 x]: initializing ID mappings: UID setting is malformed expected "
            '["uint32:uint32:uint32"]: ["0:1:2" "x"]',
        ),
        (
            {"uid_specs": ["0:1:2"], "gid_specs": ["1:2"]},
            "failed to create ParseGIDMap GID=[1:2]: initializing ID mappings: GID setting is malformed expected "
            '["uint32:uint32:uint32"]: ["1:2"]',
        ),
        (
            {"subuid_user": "us"},
            'failed to create NewIDMappings for uidmap=us gidmap=us: no subuid ranges found for user "us" in ',
        ),
        (
            {"subuid_user": "me", "subgid_group": "nobody"},
            'failed to create NewIDMappings for uidmap=me gidmap=nobody: no subgid ranges found for group "nobody" ',
        ),
        (
            {"subuid_user": "bad"},
            "failed to create NewIDMappings for uidmap=bad gidmap=bad: string to int conversion failed during "
            "subuid/gid parsing of ",
        ),
    ],
)
def test_what_cannot_be_made_into_maps_is_quoted(aside: Path, asked: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidMappings) as caught:
        parse_id_mappings(**asked)  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)
    assert caught.value.peer.startswith(text)


def test_a_file_of_subordinate_ids_that_is_missing_is_named(aside: Path) -> None:
    (aside / "subgid").unlink()
    with pytest.raises(InvalidMappings, match=r"uidmap=me gidmap=me: .*No such file.*subgid"):
        parse_id_mappings(subuid_user="me")


# --- properties ---------------------------------------------------------------------------------------------

ids = st.integers(0, 2**32 - 1)


@st.composite
def disjoint_maps(draw: st.DrawFn) -> tuple[IDMap, ...]:
    """Entries that overlap neither in the container nor on the host."""
    sizes = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=5))
    starts = [draw(st.integers(0, 10**6)) for _ in range(2)]
    columns = []
    for start in starts:
        column = []
        for size in sizes:
            start += draw(st.integers(0, 100))
            column.append(start)
            start += size
        columns.append(column)
    return tuple(map(IDMap, *columns, sizes))


@given(disjoint_maps(), disjoint_maps(), ids, ids)
def test_to_container_undoes_to_host(
    users: tuple[IDMap, ...], groups: tuple[IDMap, ...], uid: int, gid: int
) -> None:
    maps = IDMappings(users, groups)
    maps.check_overlaps()
    first = users[uid % len(users)]
    uid = first.container_id + uid % first.size
    last = groups[-1]
    gid = last.container_id + gid % last.size
    assert maps.to_container(*maps.to_host(uid, gid)) == (uid, gid)


@given(st.lists(st.builds(IDMap, *[st.integers(0, 30)] * 2, st.integers(0, 5)), max_size=6))
def test_entries_conflict_with_earlier_ones_that_have_an_id_of_theirs(entries: list[IDMap]) -> None:
    """What is named is told by sets of ids."""
    sides = [
        (lambda m: range(m.container_id, m.container_id + m.size)),
        (lambda m: range(m.host_id, m.host_id + m.size)),
    ]
    named = [
        str(m)
        for i, m in enumerate(entries)
        if any(set(side(m)) & set(side(earlier)) for earlier in entries[:i] for side in sides)
    ]
    try:
        IDMappings(entries).check_overlaps()
        found = ()
    except InvalidMappings as error:
        found = error.conflicts
    assert list(found) == named


@given(st.lists(disjoint_maps().map(lambda maps: ":".join(map(str, maps)))))
def test_the_text_of_maps_is_parsed_back(specs: list[str]) -> None:
    assert ":".join(map(str, parse(specs))) == ":".join(specs)


@given(st.text())
def test_any_text_is_maps_or_our_error(text: str) -> None:
    try:
        assert all(isinstance(m, IDMap) for m in parse(text))
    except InvalidMappings:
        pass
