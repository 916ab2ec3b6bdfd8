"""Stories of data items: odd keys, and what they are called on disk (`records.md` 18.1)."""

import pytest
import stories
from stories import Story

pytestmark = stories.told("vfs, in turns", rest=pytest.mark.deep)

_KEYS = [
    "manifest", "abc.1", "sha256:abc", "Config", "'A B/c'", "a-b", "chunked-layer-data", "x-", "confiG", "A", "é",
    "aé", "a", "'???'", "-n", "=YS1i", "a=b", "ümlaut", "...", "'<&>'", "\"$(printf 'line\\nbreak')\"",
]  # fmt: skip
"""As words of a shell: all of the table that can be the name of a file, and some more."""

_NO_FILES = ["/", ".", "..", "???a"]
_OBJECTS = """
    store create-layer -i base
    store create-image -i app base
    store create-container -i box app
"""


@pytest.mark.parametrize("kind", ["layer", "image", "container"])
def test_items_with_odd_keys_come_back(story: Story, kind: str) -> None:
    object = {"layer": "base", "image": "app", "container": "box"}[kind]
    story(_OBJECTS)
    for key in _KEYS:
        story(f"""
            echo of {key} | store set-{kind}-data -- {object} {key}
            store get-{kind}-data -- {object} {key}
        """)
    story(f"""
        store list-{kind}-data {object}
        store list-{kind}-data --json {object}
        ls -A graph/*-{kind}s/{object}
        store {kind} {object}
        store {kind} --json {object}
        echo other | store set-{kind}-data {object} sha256:abc
        store get-{kind}-data {object} sha256:abc
        store get-{kind}-data -f item {object} Config && cat item
        ! store get-{kind}-data -f item {object} nothing
        wc -c <item
        ! store get-{kind}-data {object} ''
        ! store set-{kind}-data {object} '' </dev/null
        store set-{kind}-data {object} empty </dev/null
        store get-{kind}-data {object} empty | wc -c
        ! store list-{kind}-data nothing
        ! store get-{kind}-data nothing a
        ! echo x | store set-{kind}-data nothing a
    """)
    if kind != "layer":
        story(f"""
            store get-{kind}-data-size {object} sha256:abc
            store get-{kind}-data-digest {object} sha256:abc
            store get-{kind}-data-size {object} empty
            store get-{kind}-data-digest {object} 'A B/c'
            ! store get-{kind}-data-size {object} nothing
            ! store get-{kind}-data-digest {object} nothing
        """)


@pytest.mark.parametrize("kind", ["layer", "image", "container"])
def test_keys_that_are_no_file_are_refused_and_change_nothing(story: Story, kind: str) -> None:
    object = {"layer": "base", "image": "app", "container": "box"}[kind]
    there = {
        "layer": "for layer with ID",
        "image": "(consider removing the image to resolve the issue): file does not exist",
        "container": "no such file or directory",
    }[kind]
    story(_OBJECTS)
    story(f"echo kept | store set-{kind}-data {object} key")
    for key in _NO_FILES:
        story.refused(
            f"echo lost | store set-{kind}-data {object} '{key}'", "not a valid name for a big data item"
        )
        story.refused(f"store get-{kind}-data {object} '{key}'", there)
    story(f"""
        store list-{kind}-data {object}
        store get-{kind}-data {object} key
        ls -A graph/*-{kind}s/{object}
        store {kind} --json {object}
    """)


@pytest.mark.parametrize("kind", ["layer", "image", "container"])
def test_a_key_with_a_slash_at_its_end_shares_the_file_of_the_key_without(story: Story, kind: str) -> None:
    object = {"layer": "base", "image": "app", "container": "box"}[kind]
    story(_OBJECTS)
    story(f"""
        echo one | store set-{kind}-data {object} a
        echo other | store set-{kind}-data {object} a/
        store list-{kind}-data {object}
        store get-{kind}-data {object} a
        store get-{kind}-data {object} a/
        ls -A graph/*-{kind}s/{object}
        store delete box app base
    """)


def test_manifests_are_digests_of_their_image(story: Story) -> None:
    story(_OBJECTS)
    story("""
        echo one | store set-image-data app manifest
        d=$(store get-image-data-digest app manifest); echo $d; store images-by-digest $d
        store get-image-data-digest app manifest >first; echo other | store set-image-data app manifest
        store images-by-digest $(cat first)
        d=$(store get-image-data-digest app manifest); echo $d; store images-by-digest --quiet $d
        echo more | store set-image-data app manifest-sha256:abc
        d=$(store get-image-data-digest app manifest-sha256:abc); echo $d; store images-by-digest --json $d
        echo config | store set-image-data app config
        d=$(store get-image-data-digest app config); echo $d; store images-by-digest $d
        store images-by-digest sha256:0000000000000000000000000000000000000000000000000000000000000000
        sorted store image app    # the digests come in no particular order there
    """)
