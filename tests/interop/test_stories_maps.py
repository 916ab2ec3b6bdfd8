"""Stories of id maps: containers with maps of their own on one image, the copies that they share, owners as they are
seen and exported."""

import pytest
import stories
from stories import Story

from tarballs import archive

# 1.43 believes that fuse-overlayfs maps ids, which it does not.
pytestmark = stories.told("vfs, in turns", "overlay", without="fuse", rest=pytest.mark.deep)

LOW = "--uidmap 0:100000:2000 --gidmap 0:200000:2000"
HIGH = "--uidmap 0:300000:2000 --gidmap 0:300000:2000"
TORN = "--uidmap 0:500000:1000:1000:600000:1000 --gidmap 0:700000:2000"
"""In two pieces, which 1.43 does not mount with overlay."""


def _file(name: str, uid: int, gid: int, data: bytes = b"x\n") -> dict[str, object]:
    return {"name": name, "uid": uid, "gid": gid, "data": data}


@pytest.fixture
def store(story: Story) -> Story:
    _archives(story)
    story("""
        store import-layer -i base -f $work/base
        store import-layer -i top -f $work/top base
        store create-image -i app -n example.org/app:1 top
    """)
    return story


def _archives(story: Story) -> None:
    base = archive("srv", _file("srv/root", 0, 0), _file("srv/user", 1000, 1001), _file("srv/gone", 33, 33))
    top = archive("srv", _file("srv/other", 1999, 7, b"yy\n"), {"name": "srv/.wh.gone"})
    (story.work / "base").write_bytes(base.getvalue())
    (story.work / "top").write_bytes(top.getvalue())


def test_containers_with_maps_see_their_own_owners(store: Story) -> None:
    answer = store(f"""
        store create-container -j -i plain app
        store create-container -j -i low {LOW} app
        store create-container -j -i again {LOW} app
        store create-container -j -i high {HIGH} app
        store image --json app | sed 's/"created.*//' | grep -o mapped-layers | wc -l
        store layers --tree
        inside plain
        inside low
        inside again
        inside high
        store container --json low high
        store image app
    """)
    assert "\n" in answer.out


def test_what_a_mapped_container_writes_is_exported_as_it_sees_it(store: Story) -> None:
    store(f"""
        store create-container -j -i low {LOW} app
        m=$(store mount low); echo more >$m/srv/more; chown 100005:200006 $m/srv/more; rm $m/srv/user
        m=$(store mount low); chown 101000:200000 $m/srv/other; touch -d @1600000000 $m/srv/more $m/srv/other $m/srv
        store container-parent-owners low
        store container-parent-owners --json low
        store unmount -f low
        changes $(layer_of low)
        store diffsize $(layer_of low)
        store diff -u $(layer_of low) >out.tar; tar --numeric-owner -tvf out.tar | sed 's/  */ /g' | cut -d' ' -f1-3,6
        store import-layer -i taken -f out.tar top
        store create-image -i newer taken
        store create-container -j -i high {HIGH} newer
        inside high
        store container-parent-owners low 2>&1; true
    """)


def test_layers_with_maps_hand_them_down(store: Story) -> None:
    store(f"""
        store create-layer -j -i mapped {LOW}
        store create-layer -j -i child mapped
        store import-layer -j -i filled -f $work/base mapped
        store layer-parent-owners base
        store layer-parent-owners filled || true
        store mount filled
        store layer-parent-owners filled
        store layer-parent-owners --json filled base
        store unmount filled
        store import-layer -j -i other {TORN} -f $work/base
        store create-layer -j -i host --hostuidmap --hostgidmap filled
        inside filled
        inside child
        inside other
        inside host
        store diff -u filled | cmp - $work/base
        store diff -u other | cmp - $work/base
        changes filled
        changes other
        changes host
        store layer mapped filled other host
    """)


def test_mapped_copies_go_with_their_image(store: Story) -> None:
    store(f"""
        store create-container -j -i low {LOW} app
        store create-container -j -i high {HIGH} app
        ! store delete-image nothing
        store delete-container low
        store layers | grep -c '^[^ \\t]'
        store create-container -j -i low {LOW} app
        store layers | grep -c '^[^ \\t]'
        store delete-container low high
        store delete-image --test app 2>&1 | wc -l
        store delete-image app 2>&1 | wc -l
        store layers
    """)


def test_maps_that_contradict_are_refused(store: Story) -> None:
    store("""
        ! store create-container --uidmap 0:1000:10 --hostuidmap app
        ! store create-container --gidmap 0:1000:10 --hostgidmap app
        ! store create-layer --uidmap 0:1000
        ! store create-layer --uidmap a:b:c
        ! store create-container --subuidmap nobody-of-that-name app
        store containers
        store layers
    """)
    # 1.43 leaves a mapped copy behind, and takes maps without a root.
    store.ours(
        "store create-container --uidmap 0:1000:10:5:2000:10 app",
        1,
        err="the specified UID and/or GID mapping 5:2000:10 conflicts with other mappings: "
        "invalid mappings specified\n",
    )
    store.ours(
        "store create-layer -i none --uidmap 5:1000:10",
        1,
        err='creating read-write layer with ID "none": container ID 0 cannot be mapped to a host ID\n',
    )
    store("""
        store containers
        store layers
    """)


def test_without_shifting_overlay_makes_copies_too(store: Story) -> None:
    """`_CONTAINERS_OVERLAY_DISABLE_IDMAP` is what suites set so that all drivers are alike. 1.43 does not know it."""
    switch = "export _CONTAINERS_OVERLAY_DISABLE_IDMAP=yes; "
    for maps, name in ((LOW, "low"), (LOW, "again"), (TORN, "torn")):
        store.ours(f"{switch} store create-container -i {name} {maps} app", out=f"{name}\n")
    store.ours(f"{switch} store image app | grep -c 'Top Layer: '", out="3\n")
    for name, owners in (
        ("low", ("100000:200000", "101999:200007", "100000:200000", "101000:201001")),
        ("again", ("100000:200000", "101999:200007", "100000:200000", "101000:201001")),
        ("torn", ("500000:700000", "600999:700007", "500000:700000", "600000:701001")),
    ):
        seen = "srv d 755 {} \nsrv/other f 644 {} \nsrv/root f 644 {} \nsrv/user f 644 {} \n".format(*owners)
        store.ours(f"{switch} inside {name} | grep srv.*:", out=seen)
        store.ours(f"{switch} changes $(layer_of {name})")
    store.ours(f"{switch} store delete-container low again torn")
    store.ours(f"{switch} store delete-image app 2>&1 | wc -l", out="4\n")
    store.ours("store layers")
