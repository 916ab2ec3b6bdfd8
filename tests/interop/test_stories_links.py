"""Stories of overlay's short names (`overlay/l`): lost one by one, all at once, or with a layer's note of its own."""

import pytest
import stories
from stories import Story

from tarballs import tar

pytestmark = stories.told(
    "overlay", "overlay, in turns", "overlay by fuse, transient", among="overlay", rest=pytest.mark.deep
)

_LOSSES = {
    "all": "rm -f graph/overlay/l/*",
    "the directory": "rm -r graph/overlay/l",
    "one in the middle": "rm graph/overlay/l/$(cat graph/overlay/mid/link)",
    "that of the top": "rm graph/overlay/l/$(cat graph/overlay/$(layer_of box)/link)",
}


@pytest.fixture
def store(story: Story) -> Story:
    for name, blob in (
        ("base", tar("srv/", ("srv/one", b"one\n"), ("srv/gone", b"gone\n"))),
        ("mid", tar("srv/", ("srv/two", b"two\n"), "srv/.wh.gone")),
        ("top", tar("srv/", ("srv/one", b"other\n"))),
    ):
        (story.work / name).write_bytes(blob.getvalue())
    story("""
        store import-layer -i base -f $work/base
        store import-layer -i mid -f $work/mid base
        store import-layer -i top -f $work/top mid
        store create-image -i app top
        store create-container -i box app
        m=$(store mount box); echo mine >$m/srv/mine; rm $m/srv/two; store unmount box
    """)
    return story


@pytest.mark.parametrize("loss", _LOSSES)
def test_lost_links_are_made_again(store: Story, loss: str) -> None:
    answer = store(f"""
        {_LOSSES[loss]}
        inside box
        changes $(layer_of box)
        store diff -u $(layer_of box) | tar -t
        store diff -u mid | cmp - $work/mid
        store create-layer -i new top
        inside new
        ls graph/overlay/l | wc -l
        for id in base mid top new; do readlink graph/overlay/l/$(cat graph/overlay/$id/link); done
        inside box
    """)
    assert "srv/mine" in answer.out
    # Only who stands on a layer makes its name again, so what was on top has none until then.
    store("store delete-container box")


def test_that_links_were_lost_is_told_to_who_debugs(store: Story) -> None:
    """And to nobody else: the commands say no more than they would have."""
    store("""
        rm graph/overlay/l/$(cat graph/overlay/mid/link)
        store --debug=false mount box
    """)
    store.ours("store unmount box", out="box mountpoint unmounted\n", instead="store unmount box")
    store.ours(
        "rm graph/overlay/l/$(cat graph/overlay/mid/link); store --debug mount box 2>&1 | grep -c 'warning.*missing'",
        out="1\n",
    )
    store.ours("store unmount box", out="box mountpoint unmounted\n")


@pytest.mark.parametrize("loss", _LOSSES)
def test_what_lost_its_links_is_deleted(store: Story, loss: str) -> None:
    store(f"""
        {_LOSSES[loss]}
        store delete-container box
        {_LOSSES["all"] if loss == "all" else "true"}
        ! store delete-layer mid
        store delete-image app 2>&1
        store layers
        ls graph/overlay
        ! ls graph/overlay/l/*
    """)


def test_links_are_lost_while_a_layer_is_mounted(store: Story) -> None:
    store("""
        m=$(store mount box); rm graph/overlay/l/*; cat $m/srv/one $m/srv/mine
        store mounted box
        m=$(store mount box); echo more >>$m/srv/mine
        store unmount box
        store unmount box
        inside box
        changes $(layer_of box)
    """)
