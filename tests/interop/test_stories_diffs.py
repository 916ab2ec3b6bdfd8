"""Stories of diffs: what changed is listed, measured, exported, and applied again, also by the other program; and the
life of an image from its first archive to its end."""

import pytest
import stories
from stories import Story

from tarballs import tar

pytestmark = stories.told("vfs", "overlay, in turns", "overlay by fuse, transient", rest=pytest.mark.deep)

_CHANGE = """
    m=$(store mount box); ln -s $m at
    cd at/; echo more >>srv/text; rm srv/gone; chown 7:8 srv/owned; chmod 4711 srv/mode
    cd at/; mkdir -m 750 new; echo x >new/file; ln new/file new/hard; ln -s file new/soft; mkfifo new/pipe
    cd at/; rm -r old; rm kind; ln -s srv kind
    cd at/; echo é >'new/name with é'; printf 'tab' >"$(printf 'new/tab\\there')"
    cd at/; find . -newermt 2021-01-01 -exec touch -hd @1600000001 {} +
    store unmount -f box
"""


@pytest.fixture
def store(story: Story) -> Story:
    base = tar(
        "srv/", ("srv/text", b"text\n"), "srv/gone", "srv/owned", "srv/mode", "old/", "old/one", "old/two", "again/",
        "again/first", "kind",
    )  # fmt: skip
    (story.work / "base.tar").write_bytes(base.getvalue())
    story("""
        store import-layer -i base -f $work/base.tar
        store create-image -i app -n example.org/app:1 base
        store create-container -i box app
    """)
    return story


def test_what_changed_is_exported_and_makes_the_same_tree(store: Story) -> None:
    store(_CHANGE)
    answer = store("""
        inside box
        store diffsize $(layer_of box)
        store diffsize $(layer_of box) base
        store diff -u $(layer_of box) >diff.tar; tar -tf diff.tar | sort
        store diff -c $(layer_of box) | gzip -dc | tar -t | sort
        tar --numeric-owner -tvf diff.tar | grep -v '[.]wh[.]' | sed 's/  */ /g' | sort -k 6
        store import-layer -i again -f diff.tar base
        inside again
        store diff -u again | cmp - diff.tar
        store diffsize again
        changes again
        changes $(layer_of box)
    """)
    assert answer.out.count("Delete") == 2
    assert 'Add "/new/tab\\there"\n' in answer.out


def test_what_takes_the_place_of_something_else_is_all_that_is_there(store: Story) -> None:
    """With a mount program 1.43 forgets that an emptied directory hides; with overlay it fails where a file was."""
    for change, seen in (
        ("rm -r again; mkdir again; echo other >again/other", "again/other"),
        ("rm kind; mkdir kind; echo in >kind/in", "kind/in"),
        ("rm -r old; echo file >old", "old"),
    ):
        store("store delete-container box; store create-container -i box app; rm -f at")
        lines = (
            (f"ln -s $(store mount box) at; (cd at/; {change})", ""),
            ("store unmount box", "box mountpoint unmounted\n"),
            (f"changes $(layer_of box) | grep -c '{seen}\"$'", "1\n"),
            (
                "store diff -u $(layer_of box) >diff.tar; store import-layer -i again -f diff.tar base",
                "again\n",
            ),
            (f"inside again | grep -c ^{seen.partition('/')[0]}", f"{seen.count('/') + 1}\n"),
            ("store delete-layer again", ""),
        )
        for line, out in lines:
            if store.way.driver == "vfs":
                assert store(line).out == out
            else:
                store.ours(line, out=out)


def test_a_diff_of_either_is_applied_by_both(store: Story) -> None:
    """The streams may differ in times of whiteouts; the layers made of them do not."""
    store(_CHANGE)
    ours, theirs = store.programs(0)[0], store.programs(1)[1]
    for program, name in ((ours, "ours.tar"), (theirs, "theirs.tar")):
        layer = program.json("container", "box")[0]["layer"]
        (store.work / name).write_bytes(program("diff", "-u", layer).out)
    for name in ("ours", "theirs"):
        store(f"""
            store import-layer -i from-{name} -f $work/{name}.tar base
            store layer --json from-{name}
            inside from-{name}
            store diff -u from-{name} | cmp - $work/{name}.tar
            store create-layer -i to-{name} base
            store applydiff -f $work/{name}.tar to-{name}
            changes to-{name}
            store diff -u to-{name} | cmp - $work/{name}.tar
        """)
    answer = store("changes from-ours from-theirs; changes to-theirs from-ours")
    assert answer.out == ""
    if store.way.options:  # 1.43 with a mount program tells how large the layer is
        store.ours("store diffsize from-ours from-theirs", out="0\n")
    else:
        store("store diffsize from-ours from-theirs")


def test_any_two_layers_are_compared(store: Story) -> None:
    store(_CHANGE)
    store("""
        store create-layer -i beside
        m=$(store mount beside); echo y >$m/alone; mkdir $m/srv; echo text >$m/srv/text; store unmount beside
        changes beside base
        changes base beside
        changes $(layer_of box) beside
        store diffsize beside base
        changes base ''
        store changes --json base | tr '{' '\\n' | tr -d '[],' | sort
        changes base base
        store diff -u base base | tar -t
        store diff -u beside base | tar -t | sort
        ! store changes nothing
        ! store changes nothing base
        ! store diff nothing
        ! store diff -f out.tar nothing
        wc -c <out.tar
        ! store diffsize nothing
        ! store diff --xz base
        ! store diff --bzip2 base
        ! store applydiff -f $work/base.tar nothing
    """)


def test_what_is_exported_goes_through_files_and_pipes(store: Story) -> None:
    """Not from one command to the other: a diff holds the lock until it is read, and so does who reads it."""
    store("""
        store diff -u base >base.tar; store import-layer -i copy <base.tar
        store diff -c base >base.tgz; cat base.tgz | store import-layer -i packed
        store layer --json copy
        store diff -u packed | cmp - $work/base.tar
        store create-layer -i filled
        store diff -f base.tar base; store applydiff --file base.tar filled
        store diff -u filled | cmp - $work/base.tar
        inside filled
        store diff -u base | head -c 100 | wc -c
        store diff --file out.tar base; cmp out.tar $work/base.tar
    """)


def test_an_image_is_built_layer_by_layer_used_and_taken_apart(store: Story) -> None:
    """Each step on what the last left: from an archive to a container, its diff to a layer, that to an image."""
    store("store delete-container box")
    below = "base"
    for number in range(1, 4):
        store(f"""
            store create-image -i stage{number} -n example.org/stage:{number} {below}
            store create-container -i build{number} stage{number}
            ln -sfn $(store mount build{number}) at; echo {number} >at/srv/step{number}; echo {number} >>at/srv/text
            rm -f at/srv/step{number - 1}; store unmount build{number}
            changes $(layer_of build{number})
            store diff -u $(layer_of build{number}) >diff.tar; store import-layer -i layer{number} -f diff.tar {below}
            store delete-container build{number}
            echo '{{"step":{number}}}' | store set-image-data stage{number} config
            store set-names -n example.org/stage:latest -n example.org/stage:{number} stage{number}
        """)
        below = f"layer{number}"
    store("""
        store create-image -i done -n example.org/done layer3
        echo '{"schemaVersion":2}' | store set-image-data done manifest
        store image example.org/done
        store images-by-digest $(store get-image-data-digest done manifest)
        store create-container -j -i one -n first done
        store create-container -j -i two -n second done
        m=$(store mount first); cat $m/srv/text; ls $m/srv; store unmount first
        store layers --tree
        ! store delete-layer layer2
        store delete-container one
        ! store delete-image done
        store delete-container two
        store delete-image done 2>&1
        store delete-image stage3 2>&1
        store layers
        sorted store delete-image stage2 stage1
        store delete-image app
        store layers
        store images
    """)
