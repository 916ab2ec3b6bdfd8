"""Stories of names: given, taken away, and passed from one object to another; and of deleting by whatever names."""

import pytest
import stories
from calls.row import MENDED, NEWER
from stories import Story

pytestmark = stories.told("vfs, in turns", "overlay, transient", rest=pytest.mark.deep)

_THREE_OF_EACH = """
    store create-layer -i base -n first -n lowest
    store create-layer -i mid base
    store create-layer -i top mid
    store create-image -i app -n example.org/app:1 top
    store create-image -i bare
    store create-image -i tool -n example.org/tool:1 mid
    store create-container -j -i box -n hut app
    store create-container -j -i den app
    store create-container -j -i pit bare
"""


def test_a_name_moves_from_one_layer_to_another(story: Story) -> None:
    story(_THREE_OF_EACH)
    story("""
        ! store create-layer -n first
        store set-names -n first top
        store get-names base
        store get-names top
        store layer first lowest
        store add-names -n lowest -n lowest -n peak mid
        store get-names --json base
        store layers
        store set-names top
        store get-names top
        store get-names --json top
        ! store layer first
        store set-names -n x base
        store set-names -n y -n x top
        store layers --tree
    """)


def test_a_name_moves_from_one_image_to_another_and_is_remembered(story: Story) -> None:
    story(_THREE_OF_EACH)
    story("""
        ! store create-image -n example.org/app:1
        store add-names -n example.org/app:1 bare
        store image example.org/app:1
        store image --json app bare
        store set-names -n example.org/app:2 -n example.org/app:3 app
        store set-names -n example.org/app:3 bare
        store images
        store image --json app bare tool
        store set-names bare
        ! store image example.org/app:3
        store image --json bare
        store get-names --json bare
    """)


def test_a_name_moves_from_one_container_to_another(story: Story) -> None:
    story(_THREE_OF_EACH)
    story("""
        ! store create-container -n hut bare
        store set-names -n hut den
        store container hut
        store get-names box
        store add-names -n yard pit
        store add-names -n yard box
        store containers
        store delete-container yard
        ! store container yard
        store create-container -j -i box -n yard app
        store get-names yard
    """)


def test_one_name_may_be_that_of_a_layer_an_image_and_a_container(story: Story) -> None:
    """Whoever takes any kind looks at layers first, deletion at containers."""
    story(_THREE_OF_EACH)
    story("""
        store set-names -n same base
        store set-names -n same app
        store set-names -n same box
        store get-names same
        store layer same
        store image same
        store container same
        store exists -l -i -c same
        store set-metadata -m of-whom same
        store metadata base app box same
        store add-names -n same same
        store set-names -n same -n other same
        store get-names base
        store get-names app
        store delete same
        ! store exists -c same
        store delete same
        ! store exists -i same
        store layers
        store get-names same
        store delete den
    """)


def test_names_are_added_in_front_and_removed(story: Story) -> None:
    """1.43 adds behind, and removes none."""
    story(_THREE_OF_EACH)
    for id, name in (("mid", "one"), ("app", "example.org/app:1"), ("box", "hut")):
        story(f"""
            store set-names -n {name} {id}
            store add-names {id}
        """)
        story.differs(
            NEWER + "added names go to the front",
            f"store add-names -n two -n three {id} && store get-names {id}",
            out=f"two\nthree\n{name}\n",
        )
        story.ours(
            f"store remove-names -n two -n no-such-name {id} && store get-names {id}", out=f"three\n{name}\n"
        )
        story.ours(
            f"store remove-names --json -n three {id}",
            out=f'["{name}"]\n',
            instead=f"store set-names -n {name} {id}",
        )
        story(f"""
            store get-names {id}
            ! store layer two three
        """)
    story("""
        ! store add-names -n x nothing
        ! store set-names -n x nothing
        ! store get-names nothing
    """)


def test_names_are_any_text(story: Story) -> None:
    story("""
        store create-layer -i base -n 'two words'
        store create-image -i app -n 'häfen:ä' -n '<&>' base
        store create-container -j -i box -n '"quoted"' app
        store layer 'two words'
        store image --json 'häfen:ä'
        store container '"quoted"'
        store set-names -n "$(printf 'line\\nbreak')" base
        store get-names base
        store get-names --json base
        store layers --json | grep -c 'line.nbreak'
        store layer "$(printf 'line\\nbreak')"
        store set-names -n -dash base
        store layer -- -dash
        store exists --layer -- -dash
    """)


def test_everything_is_found_by_id_name_and_the_beginning_of_an_id(story: Story) -> None:
    story("""
        store create-layer -i aabb11 -n low
        store create-layer -i aabb22 -n aacc low
        store create-image -i ccdd11 -n app aacc
        store create-image -i ccdd22 -n cc
        store create-container -j -i eeff11 -n hut ccdd1
        store create-container -j -i eeff22 -n ee ''
        store layer aabb1 low
        store layer aacc
        ! store layer aabb
        ! store layer lo
        ! store layer ''
        ! store layer aabb1 nothing
        ! store layer --json nothing
        store image ccdd1 cc
        ! store image ccdd
        store container eeff1 hut ee
        store container $(layer_of hut)
        ! store container e
        sorted store exists aabb1 ccdd1 eeff1 low app hut
        ! store exists --json aabb aacc
        store metadata aabb1 ccdd1 eeff1
    """)


def test_things_are_deleted_by_id_name_and_the_beginning_of_an_id(story: Story) -> None:
    story("""
        store create-layer -i aabb11 -n low
        store create-layer -i aabb22 -n mid low
        store create-layer -i aabb33 -n high mid
        store create-layer -i aabb44 mid
        store create-image -i ccdd11 -n app aabb44
        store create-image -i ccdd22 -n tool
        store create-container -j -i eeff11 -n hut app
        store create-container -j -i eeff22 app
        store create-container -j -i eeff33 app
        ! store delete-layer aabb
        ! sorted store delete-layer nothing aabb11 ccdd11 eeff11
        ! store delete-layer --json aabb22
        ! store delete-layer $(layer_of hut)
        ! sorted store delete-container nothing ccdd11 aabb11
        ! store delete nothing
        ! store delete --json nothing
        store delete-layer high
        store delete-container $(layer_of eeff2)
        store delete eeff3
        ! sorted store delete-image ccdd11 nothing eeff11
        store delete-container hut
        store delete-image tool
        store delete-image --test app 2>&1
        store delete-image --json app
        store layers
        store images
        store containers
    """)


def test_a_layer_in_use_is_not_deleted_by_any_of_its_names(story: Story) -> None:
    """1.43 compares the words, and deletes it."""
    story("""
        store create-layer -i aabb11 -n low
        store create-layer -i ccdd11 -n high low
        store create-image -i app high
    """)
    children = "used by layer ccdd11: layer has children\n"
    why = MENDED + "a name is resolved before anything is compared"
    if story.way.turns:
        story.ours("store delete-layer low", 1, err=f"low: {children}")
        return
    story.differs(why, "store delete-layer aabb1", 1, err=f"aabb1: {children}")
    story.differs(
        why,
        "store delete-layer high",
        1,
        err="high: layer ccdd11 used by image app: layer is in use by an image\n",
    )


def test_deleting_without_questions_leaves_what_was_on_top(story: Story) -> None:
    """`delete` removes a layer that others need. What is left is still listed, and can be deleted."""
    story(_THREE_OF_EACH)
    story("""
        store delete den pit
        store delete box
        store delete app tool bare
        store layers --tree
        store create-layer -i lone
        store create-image -i app lone
        store delete lone
        store images
        store image app 2>&1 | head -n 2
        store delete app
        store images
    """)
