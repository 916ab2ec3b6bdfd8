"""Ids: what a new record may be called, and which ids from disk are harmless."""

import pytest

from orlop.errors import UnsafeID
from orlop.model.ids import are_harmless, check_new_id, is_component, looks_generated, names_a_file

GOOD = ["a", "0", "c1", "A-b_c.d", "x" * 200, "0" * 64, "layers.json.old", "tmp2", "volatile", "my.tar-split"]

# N1, N2, N4 of the promises; and the files of the tables, whose removal as "the layer's data" loses every record.
TRAVERSING = ["", ".", "..", "/", "a/b", "../evil", "../../evil", "/etc", "a\0", "\0"]
UNWANTED = ["-a", ".hidden", "_x", "a b", " a", "ä", "a\n", "a:b", "x" * 201, "x" * 300, "😀"]
TAKEN = [
    "layers.json",
    "layers.lock",
    "volatile-layers.json",
    "images.json",
    "images.lock",
    "containers.json",
    "containers.lock",
    "volatile-containers.json",
    "mountpoints.json",
    "mountpoints.lock",
    "tmp",
    "base.tar-split.gz",
]


@pytest.mark.parametrize("id", GOOD)
def test_new_ids_are_words_of_a_few_signs(id: str) -> None:
    check_new_id("layer", id)


@pytest.mark.parametrize("id", [*TRAVERSING, *UNWANTED, *TAKEN, ".tmp-x"])
def test_other_new_ids_are_refused(id: str) -> None:
    """CVE-2014-9358, CVE-2021-20291; and a deletion must not be able to name a table."""
    with pytest.raises(UnsafeID) as failure:
        check_new_id("image", id)
    assert str(failure.value).startswith("image id")
    assert failure.value.id == id
    assert failure.value.kind == "image"
    assert len(str(failure.value)) < 400


@pytest.mark.parametrize("id", [*GOOD, *(i for i in UNWANTED if len(i) < 256), "x" * 255, "ä" * 127])
def test_ids_that_older_programs_made_are_harmless(id: str) -> None:
    """A store that holds a layer `a b` must stay usable."""
    assert is_component(id)
    assert are_harmless([id])


@pytest.mark.parametrize("id", [*TRAVERSING, "x" * 256, "ä" * 128])
def test_ids_that_name_something_else_than_one_entry_are_not(id: str) -> None:
    assert not is_component(id)
    assert not are_harmless([id])


@pytest.mark.parametrize("id", [*TAKEN, ".tmp-", ".tmp-1"])
def test_ids_that_name_a_file_of_the_store_are_not(id: str) -> None:
    assert is_component(id)
    assert names_a_file(id)
    assert not are_harmless([id])


@pytest.mark.parametrize("bad", ["../x", "tmp", "x" * 256, "layers.json", "a/" + "b" * 62, "\0" * 64, "é/"])
def test_one_bad_id_among_many_is_seen(bad: str) -> None:
    many = [f"{number:064x}" for number in range(1000)]
    assert are_harmless(many)
    assert are_harmless([*many, "a b", "é"])
    assert not are_harmless([*many, bad])
    assert not are_harmless([bad, *many])
    assert are_harmless([])


def test_the_shape_of_generated_ids() -> None:
    """Garbage collection touches directories of this shape only."""
    assert looks_generated("0123456789abcdef" * 4)
    for id in ("0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", ""):
        assert not looks_generated(id)
