"""`StoreOptions` as a value, and the forms in which others want it (`spec/config.md` 9, 12)."""

import copy
import json

import pytest

from orlop.dropin.streams import _object
from orlop.model.idmap import IDMap, IDMappings
from orlop.model.options import StoreOptions
from orlop.model.value import FrozenMap

WHOLE = StoreOptions(
    "/g",
    "/r",
    image_store="/i",
    rootless_path="/p",
    driver="vfs",
    driver_priority=["a", "b"],
    driver_options=["a=<b>"],
    mappings=IDMappings([IDMap(0, 100000, 65536), IDMap(65536, 7, 1)], [IDMap(0, 5, 1)]),
    auto_userns_user="u",
    auto_userns_min_size=1,
    auto_userns_max_size=2,
    pull_options={"z": "1", "a": "2"},
    disable_volatile=True,
    transient=True,
)


def test_what_is_empty_is_left_out_of_json_but_for_two_members() -> None:
    assert _object(StoreOptions().as_json()) == '{"RootlessStoragePath":"","PullOptions":null}'
    assert StoreOptions(pull_options={}).as_json()["PullOptions"] == {}


def test_json_has_the_members_in_the_order_of_the_peers() -> None:
    text = _object(WHOLE.as_json())
    assert text == (
        '{"runroot":"/r","root":"/g","imagestore":"/i","RootlessStoragePath":"/p","driver":"vfs",'
        '"driver-priority":["a","b"],"driver-options":["a=\\u003cb\\u003e"],'
        '"uidmap":[{"container_id":0,"host_id":100000,"size":65536},{"container_id":65536,"host_id":7,"size":1}],'
        '"gidmap":[{"container_id":0,"host_id":5,"size":1}],"root_auto_ns_user":"u",'
        '"auto_userns_min_size":1,"auto_userns_max_size":2,"PullOptions":{"a":"2","z":"1"},'
        '"disable-volatile":true,"transient_store":true}'
    )
    assert json.loads(text) == json.loads(json.dumps(WHOLE.as_json()))


def test_options_are_frozen_and_compare_by_what_they_say() -> None:
    options = StoreOptions(driver="vfs", pull_options={"a": "1"})
    with pytest.raises(AttributeError):
        options.driver = "overlay"
    with pytest.raises(TypeError):
        options.pull_options["a"] = "2"  # type: ignore[index]
    assert options.replace(driver="overlay") == StoreOptions(driver="overlay", pull_options={"a": "1"})
    assert options.driver == "vfs"
    assert {options, StoreOptions(driver="vfs", pull_options={"a": "1"})} == {options}
    assert options != StoreOptions(driver="vfs")


def test_a_map_that_is_given_may_change_afterwards() -> None:
    given = {"a": "1"}
    options = StoreOptions(pull_options=given)
    given["a"] = "2"
    assert options.pull_options == {"a": "1"}


def test_copies_are_equal() -> None:
    """The constructor wants most of its arguments by keyword, which a plain copy would not give it."""
    for duplicate in (copy.copy(WHOLE), copy.deepcopy(WHOLE), WHOLE.replace()):
        assert duplicate == WHOLE
        assert hash(duplicate) == hash(WHOLE)


def test_options_over_others_win_where_they_say_something() -> None:
    assert StoreOptions().over(WHOLE) == WHOLE
    assert WHOLE.over(StoreOptions("/x", driver="zfs", transient=False)) == WHOLE
    assert StoreOptions(image_store="/x", lock_timeout=5).over(WHOLE) == WHOLE.replace(
        image_store="/x", lock_timeout=5
    )


def test_a_frozen_map_is_a_mapping() -> None:
    frozen = FrozenMap({"b": "1", "a": "2"})
    assert list(frozen) == ["b", "a"]
    assert (len(frozen), frozen["a"], frozen.get("c"), "b" in frozen) == (2, "2", None, True)
    assert frozen == {"a": "2", "b": "1"} == dict(frozen.items())
    assert hash(frozen) == hash(FrozenMap([("a", "2"), ("b", "1")]))
    assert repr(frozen) == "FrozenMap({'b': '1', 'a': '2'})"
