"""Stories of mounts: how they are counted, what force does, and what becomes of them when other things go."""

import pytest
import stories
from stories import Story

pytestmark = stories.told("vfs", "overlay, in turns", "overlay by fuse, transient", rest=pytest.mark.deep)


def test_mounts_are_counted_and_the_last_unmount_is_told(story: Story) -> None:
    story("""
        store create-layer -i base -n first
        store create-image -i app -n example.org/app:1 base
        store create-container -j -i box -n hut app
        store mounted base box
        store mount base
        store mount box
        store mount hut base
        store mounted base box hut
        m=$(store mount box); echo ahoy >$m/motd; store unmount box
        store unmount box
        store unmount box
        store mounted box
        store mounted base
        store unmount base
        store unmount base
        store unmount base
        changes $(layer_of box)
        store layers --tree
    """)


def test_force_drops_the_whole_count(story: Story) -> None:
    """A forced shutdown of what is mounted twice never ends with 1.43, so ours is told alone."""
    story("""
        store create-layer -i base
        store create-layer -i top base
        store mount base top base top
        ! store shutdown
        ! store shutdown --json
        store unmount --force base
        store mounted base top
        store unmount top
        store unmount -f top
        store shutdown
        store mount top
    """)
    refused = "shutdown: a layer is mounted: layer is in use by a container\n"
    story.ours("store shutdown --force", 1, err=refused, instead="store unmount top")
    story("""
        store mounted base top
        store shutdown --json
        store mount base
    """)
    story.ours("store shutdown --force --json", 1, "{}\n", instead="store unmount base")


def test_what_somebody_unmounted_by_hand_is_mounted_again(story: Story) -> None:
    """The count is only believed where the mount table has the mount. It is not set back, though."""
    story("""
        store create-layer -i base
        store create-layer -i top base
        m=$(store mount top); echo one >$m/one; ! mountpoint -q $m || umount $m
        store mounted top
        m=$(store mount top); cat $m/one
        store mounted top
        store unmount top
        store unmount top
        store mounted top
        inside top
    """)


def test_containers_of_one_image_do_not_see_each_other(story: Story) -> None:
    story("""
        store create-layer -i base
        m=$(store mount base); mkdir $m/srv; echo all >$m/srv/all; store unmount base
        store create-image -i app base
        store create-container -i red app
        store create-container -i blue app
        r=$(store mount red); b=$(store mount blue); echo red >$r/srv/mine; echo blue >$b/srv/mine
        r=$(store mount red); b=$(store mount blue); rm $r/srv/all; cat $b/srv/all $b/srv/mine $r/srv/mine
        store unmount red
        store unmount -f red blue
        changes $(layer_of red)
        changes $(layer_of blue)
        changes $(layer_of red) $(layer_of blue)
        changes base $(layer_of blue)
        store delete-container red
        inside blue
        inside base
    """)


def test_what_cannot_be_mounted_is_refused_and_the_others_are_mounted(story: Story) -> None:
    story("""
        store create-layer -i base
        store create-image -i app -n example.org/app:1 base
        store create-image -i bare
        store create-container -i box app
        ! store mount nothing
        ! store mount app
        ! store mount example.org/app:1 base nothing box
        ! store mount --json nothing base
        ! store mount --option ro base
        ! store mounted nothing
        ! store mounted app
        store mounted base box
        ! store unmount nothing base box
        ! store unmount --json nothing base
        store unmount base
        ! store mount ''
        ! store unmount $(store mount base)
        store unmount base
    """)


def test_what_is_mounted_is_deleted_and_unmounted(story: Story) -> None:
    story("""
        store create-layer -i base
        store create-layer -i top base
        store create-image -i app base
        store create-container -j -i box -n hut app
        store mount top box top
        ! store delete-layer base
        ! store delete-image app
        store delete-layer top
        ! store mounted top
        store delete-container hut
        ! store mounted hut
        store layers
        store delete-image app 2>&1
        store layers
        cat run/*-layers/mountpoints.json
    """)


def test_a_wipe_leaves_nothing(story: Story) -> None:
    story("""
        store create-layer -i base -n first
        store create-layer -i top base
        store create-image -i app -n example.org/app:1 top
        store create-container -j -i box -n hut app
        echo text | store set-image-data app manifest
        echo text | store set-container-data box key
        echo text | store set-layer-data base key
        m=$(store mount box); echo ahoy >$m/motd
        store mount base
        store wipe
        store layers
        store images
        store containers
        store wipe --json
        ! ls graph/*/* | grep -v '[.]lock$\\|json$\\|tmp$\\|^l$\\|^$\\|:$'
        store create-layer -i base -n first
        store create-image -i app -n example.org/app:1 base
        store create-container -j -i box -n hut app
        inside box
    """)


def test_the_status_is_told_on_standard_error(story: Story) -> None:
    """Newer releases tell more of overlay than 1.43 does."""
    story("""
        store status 2>told; grep -v 'Supports [sv]' told
        store status --json | sed 's/,."Supports [sv][^]]*.//g'
        store --debug=false status 2>&1 >/dev/null | head -n 3
    """)
