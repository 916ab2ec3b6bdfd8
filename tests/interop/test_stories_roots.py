"""Stories of where a store lies: relative and symlinked roots, and roots that share what is in another one."""

import pytest
import stories
from calls.row import MENDED
from stories import Story

from tarballs import tar

pytestmark = stories.told("vfs", "overlay, in turns", rest=pytest.mark.deep)


@pytest.fixture
def store(story: Story) -> Story:
    (story.work / "base").write_bytes(tar("srv/", ("srv/one", b"one\n"), ("srv/gone", b"gone\n")).getvalue())
    (story.work / "top").write_bytes(tar("srv/", ("srv/two", b"two\n"), "srv/.wh.gone").getvalue())
    story("""
        store import-layer -i base -f $work/base
        store import-layer -i top -n upper -f $work/top base
        store create-image -i app -n example.org/app:1 top
        echo {} | store set-image-data app manifest
    """)
    return story


def test_relative_roots_are_below_where_the_program_is_started(store: Story) -> None:
    driver = f"-s {store.way.driver}"
    store(f"""
        store -g ./graph -R ./run {driver} layers
        store -g graph -R run {driver} status --json 2>&1 | grep -o '"Root","[^"]*"'
        mkdir -p a/b; cd a/b; store -g ../../graph -R ../../run {driver} images
        cd graph; store -g . -R ../run {driver} create-layer -i new base
        cd /; store -g ${{PWD%/}}$OLDPWD/./graph//../graph -R $OLDPWD/run {driver} layer new
        m=$(cd graph; store -g ../graph -R ../run {driver} mount new); echo $m; echo more >$m/more
        cd a; store -g ../graph -R ../run {driver} mounted new
        cd a; store -g ../graph -R ../run {driver} unmount new
        store mounted new
        changes new
        cd a; store layers -g ../graph -R ../run
        cd a; store -g elsewhere -R run {driver} layers; ls
        cd a; store -g elsewhere -R run {driver} shutdown
    """)


def test_a_root_that_is_a_symlink_is_the_root_that_it_leads_to(store: Story) -> None:
    driver = f"-s {store.way.driver}"
    store(f"""
        ln -s graph link; ln -s run runlink; mkdir far; ln -s ../graph far/link
        store -g link -R runlink {driver} layers
        store -g far/link -R run {driver} create-container -j -i box app
        m=$(store -g far/link -R runlink {driver} mount box); echo more >$m/more
        store mounted box
        store -g link -R run {driver} mounted box
        m=$(store mount box); cat $m/more
        store -g link -R run {driver} unmount box
        store unmount box
        store -g far/link -R run {driver} delete-container box
        store layers
        store -g link -R run {driver} shutdown
    """)


def test_an_additional_store_is_used_from_two_others(store: Story) -> None:
    driver = store.way.driver
    shared = f"--storage-opt {driver}.imagestore=$PWD/graph"
    near, far = (f"-g {name}/graph -R {name}/run {shared}" for name in ("near", "far"))
    store(f"""
        store shutdown
        store {near} layers
        store {near} images
        store {near} image app
        store {near} layer base upper
        store {near} layer --json base top
        store {near} get-image-data app manifest
        store {near} list-image-data example.org/app:1
        store {near} create-container -j -i box app
        store {far} create-container -j -i box app
        store {far} create-layer -i new upper
        store {near} containers
        store {near} layers | grep -c .
        store layers
        store containers
        m=$(store {near} mount box); cat $m/srv/*; rm $m/srv/one; echo mine >$m/srv/mine; store {near} unmount box
        m=$(store {far} mount box); ls $m/srv; store {far} unmount box
        m=$(store {far} mount new); echo new >$m/srv/new; store {far} unmount new
        l=$(store {near} container -j box | sed 's/.*"layer":"\\([^"]*\\)".*/\\1/'); changes {near} $l
        changes {far} new
        changes {far} top
        store {near} diff -u top | cmp - $work/top
        store {near} diffsize top
        store {far} diff -u new | tar -t
        ! store {near} mounted base
        ! store {near} delete-layer base
        ! store {near} delete-image app
        ! store {near} delete app
        ! store {near} set-names -n other base
        ! store {near} set-metadata -m text app
        ! echo x | store {near} set-image-data app key
        ! echo x | store {near} set-layer-data base key
        ! store {near} applydiff -f $work/top top
        store {near} create-layer -i mine -n upper top
        store {near} layer upper
        store {near} delete-container box
        store {near} layers
        store {far} wipe
        store {far} layers
        inside top
        store {near} shutdown
        store {far} shutdown
    """)


def test_a_layer_may_have_the_id_of_one_in_an_additional_store(store: Story) -> None:
    """With overlay, 1.43 makes it where the other one is, whose files are gone then."""
    near = f"-g near/graph -R near/run --storage-opt {store.way.driver}.imagestore=$PWD/graph"
    store("store shutdown")
    store.ours(f"store {near} create-layer -i base", out="base\n")
    store.ours(f"m=$(store {near} mount base); echo mine >$m/mine; store {near} unmount base >unmounted")
    store.ours(f"changes {near} base", out='Add "/mine"\n')
    store.ours(f"store {near} diff -u top | cmp - $work/top")
    store.ours(f"store {near} delete-layer base; store {near} shutdown")
    store("""
        inside top
        inside base
    """)


def test_an_image_of_an_additional_store_is_copied_here_when_it_gets_another_name(store: Story) -> None:
    """1.43 loses on the way what the image is called, and what belongs to it."""
    near = f"-g near/graph -R near/run --storage-opt {store.way.driver}.imagestore=$PWD/graph"
    store(f"store shutdown; store {near} images")
    store.differs(
        MENDED + "the copy is whole",
        f"store {near} add-names -n example.org/app:2 app && store {near} image app && "
        f"store {near} get-image-data app manifest",
        out="ID: app\nName: example.org/app:2\nName: example.org/app:1\nTop Layer: top\n"
        "Digest: sha256:ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356\n"
        "Data: manifest\nSize: 20483\n{}\n",
    )
    store("""
        store get-names app
        store images
        store -g near/graph -R near/run shutdown
    """)


def test_images_lie_in_a_store_of_their_own(store: Story) -> None:
    """1.43 cannot split a store; it reads what lies in either half."""
    split = f"-g split -R run-split -s {store.way.driver} --image-store $PWD/halves"
    for line, out in (
        (f"store {split} import-layer -r -i low -f $work/base", "low\n"),
        (f"store {split} import-layer -r -i high -n upper -f $work/top low", "high\n\tupper\n"),
        (f"store {split} create-image -i tool -n example.org/tool:1 upper", "tool\n\texample.org/tool:1\n"),
        (f"echo {{}} | store {split} set-image-data tool manifest", ""),
        (f"store {split} create-container -i box tool", "box\n"),
        (f"store {split} create-layer -i plain", "plain\n"),
        (f"m=$(store {split} mount box); cat $m/srv/two; echo mine >$m/mine; rm $m/srv/one", "two\n"),
        (f"store {split} mounted box", "box mounted\n"),
        (f"store {split} unmount box", "box mountpoint unmounted\n"),
        (f"store {split} layers -q | grep -v .........", "plain\nlow\nhigh\n"),
        (f"store {split} storage-layers | grep -v .........", "plain\n"),
        (f"store {split} images -q", "tool\n"),
        (f"store {split} layer high low", "ID: high\nParent: low\nName: upper\nID: low\n"),
        (f"store {split} diff -u high | cmp - $work/top", ""),
        (
            f"store {split} diff -u $(store {split} layers -q | grep .........) | tar -t",
            "mine\nsrv/\nsrv/.wh.one\n",
        ),
    ):
        store.ours(line, out=out)
    store.ours(
        f"store {split} delete-image tool", 1, err="tool: image used by box: image is in use by a container\n"
    )
    store.ours(f"store {split} delete-layer low", 1, err="low: used by layer high: layer has children\n")
    store.ours(f"store {split} shutdown")
    if store.way.turns:
        alone = f"-g halves -R run-halves -s {store.way.driver}"
        answer = store(f"""
            store -g split -R run-split -s {store.way.driver} containers
            store -g split -R run-split -s {store.way.driver} layers | tail -n 1
            store -g split -R run-split -s {store.way.driver} shutdown
            store {alone} layers
            store {alone} images
            store {alone} get-image-data tool manifest
            store {alone} diff -u high | tar -t
            store {alone} create-container -j -i hut tool
            m=$(store {alone} mount hut); ls $m/srv; store {alone} unmount hut
            store {alone} delete-container hut
            store {alone} shutdown
            store {alone} delete-image tool 2>&1
            store {alone} layers
            store {alone} shutdown
        """)
        assert answer.status == 0
    else:
        store.ours(f"store {split} delete-container box")
        store.ours(f"store {split} delete-image tool", err="tool: high\ntool: low\n")
        store.ours(f"store {split} layers -q", out="plain\n")
        store.ours(f"store {split} shutdown")
