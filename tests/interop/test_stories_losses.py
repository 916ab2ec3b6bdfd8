"""Stories of what is lost: the run root at a boot, with the containers of a transient store; and of what is collected
afterwards."""

import pytest
import stories
from stories import Story

from tarballs import tar

pytestmark = stories.told("vfs, transient", "overlay, in turns", "overlay, transient", rest=pytest.mark.deep)


@pytest.fixture
def store(story: Story) -> Story:
    (story.work / "base").write_bytes(tar("srv/", ("srv/one", b"one\n")).getvalue())
    story("""
        store import-layer -i base -n first -f $work/base
        store create-image -i app -n example.org/app:1 base
        echo {} | store set-image-data app manifest
    """)
    return story


def test_a_boot_takes_the_run_root_and_the_mounts(store: Story) -> None:
    """What is mounted is unmounted by the kernel, and nobody is told."""
    store("""
        m=$(store mount base); echo more >$m/more
        m=$(store mount base); mountpoint -q $m && umount $m; rm -r run
        store mounted base
        store layers
        store unmount base
        inside base
        store mount base
        store unmount base
        store mounted base
    """)


def test_a_run_root_is_lost_while_a_layer_is_mounted(store: Story) -> None:
    """The mount is there, and not counted: who mounts it again has it as it is."""
    store("""
        m=$(store mount base); echo more >$m/more; rm -r run
        store mounted base
        m=$(store mount base); cat $m/more
        store mounted base
        store unmount base
        store mounted base
        ! is_mounted graph/overlay/base/merged
        inside base
        m=$(store mount base); rm -r run
        store create-layer -i new base
        inside new
        store unmount base
        ! is_mounted graph/overlay/base/merged
    """)


def test_a_mounted_layer_is_deleted_after_its_run_root_was_lost(store: Story) -> None:
    store("""
        store create-layer -i new base
        m=$(store mount new); echo more >$m/more; rm -r run
        store delete-layer new
        ! is_mounted graph/overlay/new/merged
        ! ls graph/overlay/new
        store layers
        inside base
    """)


def test_the_run_root_may_be_another_one(store: Story) -> None:
    """As after a boot, when it has another name: the store is the same."""
    store("""
        store create-layer -i new base
        store --run elsewhere mounted new
        m=$(store --run elsewhere mount new); echo more >$m/more
        store --run elsewhere mounted new
        store --run elsewhere unmount new
        inside new
        store --run elsewhere shutdown
        changes new
    """)
