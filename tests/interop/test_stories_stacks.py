"""Stories of 301 layers, one upon the other: listed, mounted, changed, exported, taken as an image, and deleted."""

import subprocess

import pytest
import stories
from calls.row import NEWER
from stories import Story

from tarballs import tar

pytestmark = stories.told("vfs", "overlay, in turns", rest=pytest.mark.deep)

DEPTH = 301
STEP = 10
"""Every tenth layer has a file of its own, and one that all have; it takes away the one before."""
PEERS_DEPTH = 128
"""What 1.43 mounts."""


def _archive(number: int) -> bytes:
    gone = [f"own/.wh.{number - STEP}"] if number > STEP else []
    return tar("own/", f"own/{number}", ("shared", b"%d\n" % number), *gone).getvalue()


def _stack(story: Story) -> None:
    """Made by whichever is quick, with one of ten layers by us, in one store; the other is a copy."""
    ours, theirs = story.programs(0)
    below: list[str] = []
    for number in range(1, DEPTH + 1):
        id = f"l{number}"
        if number % STEP == 0:
            (ours if number % 20 else theirs)("import-layer", "-r", "-i", id, *below, data=_archive(number))
        else:
            (ours if number % 25 == 0 else theirs)("create-layer", "-r", "-i", id, *below)
        below = [id]
    theirs("shutdown")
    for program in story.programs(1):
        program("shutdown")
    copy = story.programs(1)[0].graph
    subprocess.run(["rm", "-r", copy], check=True)
    subprocess.run(["cp", "-a", ours.graph, copy], check=True)


def _mounting(story: Story, line: str, out: str) -> None:
    """A step that mounts the whole stack, which 1.43 cannot with overlay."""
    if story.way.driver == "vfs":
        assert story(line).out == out
    else:
        story.ours(line, out=out)


def _comparing(story: Story, line: str, out: str) -> None:
    """A step that compares two layers. With a mount program 1.43 mounts them for that, so we alone say `out`."""
    if story.way.options:
        story.ours(line, out=out)
    else:
        story(line)


def test_a_stack_of_301_layers_is_used_from_end_to_end(story: Story) -> None:
    _stack(story)
    story("""
        store layers | wc -l
        store layers --tree | tail -n 3
        store layer --json l301 l300 l1
        store diff -u l150 | sha256sum
        ! sorted store delete-layer l1 l150 l300
    """)
    _comparing(story, "changes l301; store diff -u l301 | tar -t", "")
    for number in (300, 150):
        changed = f'Add "/own/{number}"\nDelete "/own/{number - STEP}"\nModify "/own"\n'
        _comparing(story, f"changes l{number}", changed)
    story("store diffsize l300")
    if story.way.driver == "overlay":
        story("inside l120")
        story.differs(
            NEWER + f"more than {PEERS_DEPTH} layers",
            "store mount l301 && store unmount l301",
            out="BASE/graph/overlay/l301/merged\nl301 mountpoint unmounted\n",
        )
    story("""
        store create-image -i app -n deep l301
        store create-container -i box deep
    """)
    _comparing(story, "changes $(layer_of box)", "")
    _mounting(
        story,
        "m=$(store mount box); ls $m/own; cat $m/shared; stat -c %y $m/shared",
        "300\n300\n2020-09-13 12:26:40.000000000 +0000\n",
    )
    _mounting(
        story, "m=$(store mount box); echo new >$m/own/mine; rm $m/own/300; echo changed >>$m/shared", ""
    )
    _mounting(story, "store unmount -f box", "box mountpoint unmounted\n")
    _mounting(
        story,
        "changes $(layer_of box)",
        'Add "/own/mine"\nDelete "/own/300"\nModify "/own"\nModify "/shared"\n',
    )
    _mounting(story, "store diff -u $(layer_of box) | tar -t", "own/\nown/.wh.300\nown/mine\nshared\n")
    _mounting(story, "store diffsize $(layer_of box)", "16\n")
    _mounting(story, "store diff -u $(layer_of box) >diff; store import-layer -i l302 -f diff l301", "l302\n")
    _mounting(story, "m=$(store mount l302); ls $m/own; cat $m/shared", "mine\n300\nchanged\n")
    _mounting(
        story,
        "store unmount l302; changes l302",
        'l302 mountpoint unmounted\nAdd "/own/mine"\nDelete "/own/300"\nModify "/own"\nModify "/shared"\n',
    )
    _mounting(story, "store delete-layer l302", "")
    story("""
        ! store delete-image deep
        ! store delete-layer l301
        store delete-container box
        store delete-image --test deep 2>&1 | wc -l
        store delete-image --json deep | tr ',' '\\n' | wc -l
        store layers
        store images
    """)


@pytest.mark.deep
def test_a_stack_is_made_and_unmade_layer_by_layer(story: Story) -> None:
    """About 900 calls of each program."""
    story("store create-layer -r -i l1")
    for number in range(2, DEPTH + 1):
        (story.work / "layer").write_bytes(_archive(number))
        story(f"store import-layer -r -i l{number} -f $work/layer l{number - 1}")
    story("store layers --json | sha256sum; store layers --tree")
    for number in range(DEPTH, 0, -1):
        story(f"""
            store layer l{number}
            store delete-layer l{number}
        """)
    story("store layers")
