"""Stories of transient stores: containers that go with the run root, and what collects what they leave. 1.43 has
none, so ours are told alone, on a store that it looks into."""

import pytest
import stories
from stories import Story

from tarballs import tar

pytestmark = stories.told("vfs, transient", "overlay, transient", among="transient", rest=pytest.mark.deep)

BOX = "b" * 64
PLAIN = "--transient-store=false"


@pytest.fixture
def store(story: Story) -> Story:
    (story.work / "base").write_bytes(tar("srv/", ("srv/one", b"one\n")).getvalue())
    story("""
        store import-layer -i base -n first -f $work/base
        store create-image -i app -n example.org/app:1 base
        echo {} | store set-image-data app manifest
        store mount base
        store unmount base
    """)
    story.ours(f"store create-container -i {BOX} -n box app", out="ID1\n\tbox\n")
    story.ours(
        "m=$(store mount box); echo mine >$m/mine; store unmount box", out="box mountpoint unmounted\n"
    )
    story.ours("echo text | store set-container-data box key")
    return story


def test_only_who_says_so_sees_what_is_transient(store: Story) -> None:
    theirs = store.programs(0)[1]
    theirs("create-container", "-i", "stay", "app")
    store.ours("store containers", out="stay\nID1\n\tname: box\n\tdata: key\n")
    store.ours(f"store {PLAIN} containers", out="stay\n")
    store.ours(f"store containers {PLAIN}", out="stay\n")
    store.ours("""store container --json box | grep -o '"Volatile":true'""", out='"Volatile":true\n')
    store.ours("ls run/*-containers/*.json run/*-layers/v*.json | wc -l", out="2\n")
    store.ours("store layers | wc -l", out="9\n")
    store.ours(f"store {PLAIN} layers | wc -l", out="6\n")
    assert theirs("containers").text == "stay\n"
    assert theirs("images").lines[0] == "app"
    store.ours("store delete-image app", 1, err="app: image used by stay: image is in use by a container\n")
    store.ours("store delete-container stay")
    store.ours("store delete-image app", 1, err="app: image used by ID1: image is in use by a container\n")
    store.ours("store delete-container box")
    assert theirs("layers").lines[0] == "base"


def test_what_is_transient_goes_with_the_run_root_and_is_collected(store: Story) -> None:
    """The record is gone with the run root; files are left, which only a collection takes away."""
    store.ours("store shutdown; rm -r run")
    store.ours("store containers")
    store.ours("store layers | wc -l", out="4\n")
    store.ours("store storage-layers | wc -l", out="2\n")
    store.ours(f"ls graph/*-containers/{BOX}", out="key\n")
    store.ours("store gc")
    store.ours("store storage-layers", out="base\n")
    store.ours(f"ls -d graph/*-containers/{BOX} 2>&1 | wc -l", out="1\n")
    store.ours("ls graph/*-containers | grep -c bbbb", 1, "0\n")
    store.ours("store image app | head -n 3", out="ID: app\nName: example.org/app:1\nTop Layer: base\n")
    store.ours(f"store create-container -i {BOX} -n box app", out="ID1\n\tbox\n")
    store.ours("store list-container-data box")
    store.ours("m=$(store mount box); ls $m; store unmount box", out="srv\nbox mountpoint unmounted\n")


def test_a_collection_leaves_what_is_in_use(store: Story) -> None:
    """Also the one of who does not say that the store is transient."""
    store.ours(f"store {PLAIN} gc")
    store.ours("store gc")
    store.ours("store get-container-data box key", out="text\n")
    store.ours(
        "m=$(store mount box); cat $m/mine $m/srv/one; store unmount box",
        out="mine\none\nbox mountpoint unmounted\n",
    )
    store.ours("store delete-container box")
    store.ours("store storage-layers", out="base\n")


def test_a_volatile_container_is_in_a_file_of_its_own(store: Story) -> None:
    """In an ordinary store, where it outlives the run root."""
    store.ours(f"store {PLAIN} create-container -j --volatile -i swift app | grep -c Volatile", out="1\n")
    store.ours(f"store {PLAIN} containers", out="swift\n")
    store.ours("ls graph/*-containers/volatile-containers.json | wc -l", out="1\n")
    store.ours(
        f"m=$(store {PLAIN} mount swift); echo x >$m/x; store {PLAIN} unmount swift >unmounted",
    )
    store.ours("store shutdown; rm -r run")
    store.ours(
        f"m=$(store {PLAIN} mount swift); cat $m/x; store {PLAIN} unmount swift",
        out="x\nswift mountpoint unmounted\n",
    )
    store.ours(f"store {PLAIN} delete-container swift; store gc")
    store.ours("store storage-layers", out="base\n")
