"""Automatic user namespaces: which ids a container gets, and that nobody else gets them (`spec/userns.md` 4)."""

import errno
import fcntl
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import orlop
import peers
from orlop import AutoUserNS, IDMap, IDMappings, errors
from orlop.formats.limits import ACCOUNTS_FILE_MAX
from orlop.model.idset import IDSet
from orlop.system import subids
from tarballs import Open, archive, link, tar

WHOLE = "containers:200000:65536"


def maps(text: str) -> tuple[IDMap, ...]:
    return tuple(IDMap(*map(int, entry.split(":"))) for entry in text.split(", ") if entry)


@pytest.fixture(autouse=True)
def aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What the machine's subuid and subgid say; "containers" has 65536 ids at first."""
    files = {"uid": str(tmp_path / "subuid"), "gid": str(tmp_path / "subgid")}
    monkeypatch.setattr(subids, "FILES", files)

    def say(uids: str, gids: str | None = None) -> None:
        for kind, text in (("uid", uids), ("gid", uids if gids is None else gids)):
            Path(files[kind]).write_text(text + "\n")

    say(WHOLE)
    return say


# --- containers ---------------------------------------------------------------------------------------------


def test_each_container_gets_the_next_free_ids(store: orlop.Store, other: orlop.Store) -> None:
    """Both maps are in the record, and so count as used for whoever makes the next container."""
    first = store.containers.create(auto_userns=AutoUserNS())
    assert first.mappings == IDMappings(maps("0:200000:1024"), maps("0:200000:1024"))
    second = other.containers.create(auto_userns=AutoUserNS(size=10))
    assert second.mappings.uids == maps("0:201024:10")
    explicit = store.containers.create(mappings=IDMappings(maps("0:201034:6"), maps("0:5:6")))
    assert other.containers[explicit.id].mappings == explicit.mappings
    third = other.containers.create(auto_userns=AutoUserNS(size=2000))
    assert third.mappings == IDMappings(maps("0:201040:2000"), maps("0:201034:2000"))
    store.containers.delete(second.id)
    assert other.containers.create(auto_userns=AutoUserNS(size=11)).mappings.uids == maps(
        "0:201024:10, 10:203040:1"
    )


def test_users_and_groups_are_counted_apart(store: orlop.Store, aside: Callable[..., None]) -> None:
    aside("containers:1000:50\ncontainers:5000:50", "other:1:99\ncontainers:3000:200")
    made = store.containers.create(auto_userns=AutoUserNS(size=60))
    assert made.mappings.uids == maps("0:1000:50, 50:5000:10")
    assert made.mappings.gids == maps("0:3000:60")
    with pytest.raises(errors.NotEnoughIDs, match="needs 10 more user ids"):
        store.containers.create(auto_userns=AutoUserNS(size=50))


def test_additional_entries_are_part_of_the_maps(store: orlop.Store) -> None:
    extra = IDMappings(maps("0:1:1, 70000:2:5"), maps("5:200000:2"))
    made = store.containers.create(auto_userns=AutoUserNS(size=10, additional=extra))
    assert made.mappings.uids == maps("1:200000:9, 0:1:1, 70000:2:5")
    assert made.mappings.gids == maps("0:200002:5, 7:200007:3, 5:200000:2")
    clash = IDMappings(maps("0:1:5, 4:9:1"))
    with pytest.raises(errors.InvalidMappings, match="mapping 4:9:1 conflicts with other mappings"):
        store.containers.create(auto_userns=AutoUserNS(size=10, additional=clash))
    assert len(store.containers) == 1


def test_when_the_ids_are_used_up_no_container_is_made(store: orlop.Store, other: orlop.Store) -> None:
    store.containers.create(auto_userns=AutoUserNS(size=65000))
    layers = store.storage_layers()
    with pytest.raises(errors.NotEnoughIDs) as caught:
        other.containers.create(auto_userns=AutoUserNS(size=600))
    assert caught.value.peer == "not enough unused IDs in user namespace"
    assert str(caught.value) == (
        "an automatic user namespace of 600 ids needs 64 more user ids than there are: "
        '65536 are set aside for "containers", and 536 of them are free'
    )
    assert (caught.value.size, caught.value.missing) == (600, 64)
    assert len(other.containers) == 1
    assert other.storage_layers() == layers
    other.containers.create(auto_userns=AutoUserNS(size=536))


def test_without_ids_set_aside_it_says_why_and_asks_again_next_time(
    store: orlop.Store, aside: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """What was found is kept for as long as the store is open; what was not found is not."""
    os.unlink(subids.FILES["uid"])
    with pytest.raises(errors.NotEnoughIDs, match="No such file or directory"):
        store.containers.create(auto_userns=AutoUserNS())
    aside("somebody:1:5")
    with pytest.raises(errors.NotEnoughIDs, match='no subuid ranges found for user "containers"'):
        store.containers.create(auto_userns=AutoUserNS())
    assert len(caplog.records) == 2
    assert 'no subuid ranges found for user "containers"' in caplog.text
    aside("containers:9:five")
    with pytest.raises(errors.NotEnoughIDs, match="string to int conversion failed"):
        store.containers.create(auto_userns=AutoUserNS())
    aside(WHOLE)
    store.containers.create(auto_userns=AutoUserNS())
    aside("somebody:1:5")
    assert store.containers.create(auto_userns=AutoUserNS()).mappings.uids == maps("0:201024:1024")


def test_ids_that_no_kernel_has_are_not_given_out(store: orlop.Store, aside: Callable[..., None]) -> None:
    aside("containers:4294967290:100")
    with pytest.raises(errors.NotEnoughIDs, match='5 are set aside for "containers"'):
        store.containers.create(auto_userns=AutoUserNS(size=6))
    made = store.containers.create(auto_userns=AutoUserNS(size=5))
    assert made.mappings.uids == maps("0:4294967290:5")


def test_maps_and_automatic_ones_exclude_each_other(store: orlop.Store) -> None:
    for more in ({"mappings": IDMappings(maps("0:1:2"))}, {"host_uids": True}, {"host_gids": True}):
        with pytest.raises(ValueError, match="found both"):
            store.containers.create(auto_userns=AutoUserNS(), **more)
    for size in (-1, 2**32):
        with pytest.raises(ValueError, match="wanted a number of ids"):
            AutoUserNS(size=size)
        with pytest.raises(ValueError, match="wanted a number of ids"):
            AutoUserNS(initial_size=size)


def test_a_damaged_container_record_keeps_its_ids(
    store: orlop.Store, other: orlop.Store, place: Path
) -> None:
    """It is set aside and its container may be running: its ids are used as far as they can be read."""
    made = store.containers.create(id="box", auto_userns=AutoUserNS())
    (path,) = place.glob("graph/*-containers/containers.json")
    whole = json.loads(path.read_text())
    try:
        path.write_text(json.dumps([{**whole[0], "metadata": 7}]))
        _touched(store)
        assert "box" not in other.containers
        box = other.containers.create(auto_userns=AutoUserNS())
        assert box.mappings.uids == maps("0:201024:1024")
        other.containers.delete(box.id)
        for bad in ("x", [5], [{"container_id": 0, "host_id": "7", "size": 1}]):
            path.write_text(json.dumps([{**whole[0], "uidmap": bad}]))
            _touched(store)
            with pytest.raises(errors.BadRecords, match=r"'box'.*uidmap") as caught:
                other.containers.create(auto_userns=AutoUserNS())
            assert caught.value.peer.startswith("cannot read mappings: ")
            other.containers.delete(other.containers.create().id)
    finally:
        path.write_text(json.dumps(whole))
        _touched(store)
    assert other.containers["box"].mappings == made.mappings


def _touched(store: orlop.Store) -> None:
    """What a program does that has written the table of containers."""
    lock = store._engine.containers.locks[0]
    with lock.writing():
        lock.renew()


# --- sizes from images --------------------------------------------------------------------------------------


def image(store: orlop.Store, *layers: io.BytesIO, **more: Any) -> str:
    """An image of these layers, the lowest first."""
    top = None
    for layer in layers:
        top = store.layers.put(layer, parent=top).id
    return store.images.create(layer=top, **more).id


def given_out(store: orlop.Store, image: str | None, **options: Any) -> int:
    """How many ids a container of the image gets."""
    made = store.containers.create(image=image, auto_userns=AutoUserNS(**options))
    (count,) = {sum(m.size for m in side) for side in (made.mappings.uids, made.mappings.gids)}
    store.containers.delete(made.id)
    return count


USER_5000 = ("etc/passwd", b"root:x:0:0\nuser:x:5000:100\nnobody:x:65534:65534\n")
GROUP_6000 = ("etc/group", b"root:x:0:\nstaff:x:6000:user\n")


def test_an_image_gets_ids_for_its_users_groups_and_owners(store: orlop.Store) -> None:
    small = image(store, tar("etc/", ("etc/passwd", b"root:x:0:0\nuser:x:1000:1000\n")))
    assert given_out(store, small) == 1024
    assert given_out(store, small, initial_size=3000) == 3000
    assert given_out(store, small, initial_size=5) == 1024
    assert given_out(store, None) == 1024
    assert given_out(store, image(store, tar("etc/", USER_5000))) == 5001
    assert given_out(store, image(store, tar("etc/", USER_5000, GROUP_6000))) == 6001
    assert given_out(store, image(store, archive("a", owner=7000), tar("etc/", USER_5000))) == 7001
    assert given_out(store, image(store, tar("b"), archive({"name": "a", "gid": 8000}))) == 8001
    assert given_out(store, image(store, tar("a"))) == 1024


def test_a_size_that_is_given_is_taken_as_it_is(store: orlop.Store) -> None:
    """No limits, and no look at the image."""
    big = image(store, tar("etc/", USER_5000))
    assert given_out(store, big, size=7, initial_size=9000) == 7
    assert given_out(store, None, size=65536) == 65536
    assert given_out(store, store.images.create().id, size=7) == 7  # an image without layers


def test_files_of_the_host_take_the_place_of_those_of_the_image(store: orlop.Store, place: Path) -> None:
    of_image = image(store, tar("etc/", USER_5000, GROUP_6000))
    (place / "passwd").write_text("a:x:2000:0\n")
    (place / "group").write_text("a:x:3000:\n")
    (place / "link").symlink_to("group")
    passwd, group = str(place / "passwd"), str(place / "group")
    assert given_out(store, of_image, passwd_file=passwd) == 6001
    assert given_out(store, of_image, group_file=group) == 5001
    assert given_out(store, of_image, passwd_file=passwd, group_file=group) == 3001
    assert given_out(store, of_image, passwd_file=passwd, group_file=str(place / "link")) == 3001
    absent = str(place / "absent")
    assert given_out(store, of_image, passwd_file=absent, group_file=absent) == 1024
    os.mkfifo(place / "fifo")
    for odd in (str(place / "fifo"), "/dev/zero", str(place)):
        assert given_out(store, of_image, passwd_file=odd, group_file=odd) == 1024


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        pytest.param([["etc/", USER_5000], ["etc/", ("etc/passwd", b"a:x:2000:0\n")]], 2001, id="replaced"),
        pytest.param([["etc/", USER_5000], ["x"]], 5001, id="of the lower layer"),
        pytest.param([["etc/", USER_5000], ["etc/", "etc/.wh.passwd"]], 1024, id="deleted"),
        pytest.param([["etc/", USER_5000], [".wh.etc"]], 1024, id="its directory deleted"),
        pytest.param([["etc/", USER_5000], ["etc/", "etc/.wh..wh..opq", "etc/x"]], 1024, id="opaque"),
        pytest.param(
            [["etc/", USER_5000], ["etc/", "etc/.wh.passwd"], ["etc/", ("etc/passwd", b"a:x:2000:0\n")]],
            2001,
            id="deleted and made again",
        ),
        pytest.param([["etc/", USER_5000], ["etc/", "etc/passwd/"]], 1024, id="replaced by a directory"),
    ],
)
def test_the_files_are_those_that_the_container_will_see(
    store: orlop.Store, layers: list[list[Any]], size: int
) -> None:
    assert given_out(store, image(store, *[tar(*members) for members in layers])) == size


@pytest.mark.parametrize(
    "lower",
    [
        pytest.param(["etc", "usr", link("etc/passwd", "../usr/pw")], id="relative"),
        pytest.param(["etc", "usr", link("etc/passwd", "/usr/pw")], id="absolute, inside"),
        pytest.param(["etc", "usr", link("etc/passwd", "../../../../../usr/pw")], id="above the root"),
        pytest.param(
            ["usr", "usr/etc", link("etc", "usr/etc"), link("usr/etc/passwd", "/usr/./pw")], id="chain"
        ),
    ],
)
def test_links_are_followed_inside_the_image_across_its_layers(store: orlop.Store, lower: list[Any]) -> None:
    """As in a mount: the link in one layer, the file that it names in another."""
    upper = archive("usr", {"name": "usr/pw", "data": USER_5000[1]})
    assert given_out(store, image(store, archive(*lower), upper)) == 5001


def test_an_image_that_needs_too_many_ids_is_refused(open_store: Open, store: orlop.Store) -> None:
    big = image(store, tar("etc/", ("etc/passwd", b"a:x:70000:0\n")))
    layers = store.storage_layers()
    with pytest.raises(errors.LimitExceeded) as caught:
        store.containers.create(image=big, auto_userns=AutoUserNS())
    text = (
        "the container needs a user namespace with size 70001 that is bigger than the maximum value allowed "
    )
    assert str(caught.value) == caught.value.peer == text + "with userns=auto 65536"
    with pytest.raises(errors.LimitExceeded, match=r"size 65537 .* userns=auto 65536"):
        store.containers.create(auto_userns=AutoUserNS(initial_size=65537))
    assert store.storage_layers() == layers
    limits = orlop.Store(
        store.options.replace(auto_userns_min_size=50, auto_userns_max_size=5000, auto_userns_user="me")
    )
    Path(subids.FILES["uid"]).write_text("me:1000:6000\ncontainers:1:1\n")
    Path(subids.FILES["gid"]).write_text("me:1000:6000\n")
    assert given_out(limits, None) == 50
    with pytest.raises(errors.LimitExceeded, match=r"size 5001 .* userns=auto 5000"):
        limits.containers.create(image=image(store, tar("etc/", USER_5000)), auto_userns=AutoUserNS())
    assert given_out(limits, big, size=6000) == 6000


def test_an_image_whose_layers_are_not_all_there_has_no_size(store: orlop.Store) -> None:
    empty = store.images.create().id
    with pytest.raises(errors.LayerUnknown) as caught:
        store.containers.create(image=empty, auto_userns=AutoUserNS())
    assert caught.value.peer == 'cannot find layer ""'
    store.images.delete(empty)
    lower = store.layers.create().id
    upper = store.layers.create(parent=lower).id
    broken = store.images.create(layer=upper).id
    engine = store._engine
    with engine.open(layers="write") as tables:
        row = tables.layers.rows.by_id(upper)
        assert row is not None
        tables.layers.change(row, {"parent": "nobody"})
    with pytest.raises(errors.LayerUnknown) as caught:
        store.containers.create(image=broken, auto_userns=AutoUserNS())
    assert caught.value.peer == 'cannot find layer "nobody"'
    with engine.open(layers="write") as tables:
        row = tables.layers.rows.by_id(upper)
        assert row is not None
        tables.layers.change(row, {"parent": lower})


def test_a_layer_whose_files_are_gone_is_no_image_without_users(store: orlop.Store, place: Path) -> None:
    of_image = image(store, tar("etc/", USER_5000))
    driver, top = store.driver_name, store.images[of_image].layer
    files = place / "graph" / driver / ("dir" if driver == "vfs" else "") / top
    away = files.with_name("away")  # not elsewhere: overlay's home is a mount
    files.rename(away)
    try:
        with pytest.raises((OSError, orlop.StorageError)):
            store.containers.create(image=of_image, auto_userns=AutoUserNS())
    finally:
        away.rename(files)
    assert [layer.id for layer in store.layers] == store.storage_layers() == [top]


def test_trouble_of_our_own_is_not_taken_for_an_empty_file(
    store: orlop.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without a descriptor to spare would give a container too few ids."""
    of_image = image(store, tar("etc/", USER_5000))
    before = store.storage_layers()

    def failing(number: int) -> Callable[..., bytes]:
        def read(*given: object, **more: object) -> bytes:
            raise OSError(number, os.strerror(number))

        return read

    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        with monkeypatch.context() as change:
            change.setattr("orlop.store.userns._read", failing(number))
            with pytest.raises(OSError, match=os.strerror(number)):
                store.containers.create(image=of_image, auto_userns=AutoUserNS())
    assert store.storage_layers() == before
    with monkeypatch.context() as change:
        change.setattr("orlop.store.userns._read", failing(errno.EIO))
        assert given_out(store, of_image) == 1024


class _Nobody:
    """What no driver is."""


def test_an_error_while_cleaning_up_does_not_hide_the_first(
    store: orlop.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orlop.drivers.api.SupportsTrees", _Nobody)  # vfs mounts as others do
    fine = image(store, tar("etc/", USER_5000))
    endless = image(store, tar("etc/", ("etc/passwd", b"\n" * (ACCOUNTS_FILE_MAX + 1))))
    before = store.storage_layers()
    driver = store._engine.ready_driver
    unmount = driver.unmount

    def failing(id: str, **how: bool) -> None:
        unmount(id, **how)
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(driver, "unmount", failing)
    with pytest.raises(OSError, match="busy") as caught:
        store.containers.create(image=fine, auto_userns=AutoUserNS())
    assert [note for note in caught.value.__notes__ if note.startswith("unmounting temporary layer")]
    with pytest.raises(errors.LimitExceeded) as limit:
        store.containers.create(image=endless, auto_userns=AutoUserNS())
    assert [note for note in limit.value.__notes__ if note.startswith("and unmounting temporary layer")]
    monkeypatch.setattr(driver, "unmount", unmount)
    assert store.storage_layers() == before
    assert given_out(store, fine) == 5001


def test_looking_into_an_image_leaves_nothing_behind(
    store: orlop.Store, other: orlop.Store, place: Path
) -> None:
    """No layer, no mount, no count; also if the image is mounted meanwhile, or is not what it should be."""
    of_image = image(store, tar("etc/", USER_5000))
    top = store.images[of_image].layer
    store.mount_image(of_image)
    mounts = peers.mounts_below(place)
    before = ([layer.id for layer in store.layers], store.storage_layers())
    made = other.containers.create(image=of_image, auto_userns=AutoUserNS())
    other.containers.delete(made.id)
    mapped = other.images[of_image].mapped_layers
    assert set(store.storage_layers()) - set(before[1]) == set(mapped)
    assert {layer.id for layer in store.layers} - set(before[0]) == set(mapped)
    assert peers.mounts_below(place) == mounts
    assert store.mount_count(top) == 1
    assert not store.unmount_image(of_image)
    store.images.delete(of_image)
    assert store.storage_layers() == []


def test_layers_with_maps_of_their_own_are_read_as_well(store: orlop.Store) -> None:
    top = store.layers.put(tar("etc/", USER_5000), mappings=IDMappings(maps("0:9000:10"), maps("0:9000:10")))
    assert given_out(store, store.images.create(layer=top.id).id) == 5001


def test_an_image_of_an_additional_store_is_read_there(
    open_store: Open, store: orlop.Store, place: Path
) -> None:
    image(store, tar("etc/", USER_5000), names=["far"])
    before = store.storage_layers()
    driver, options = store.driver_name, [f"{store.driver_name}.imagestore={store.graph_root}"]
    store.close()  # a process has a store to change it or to read it
    with orlop.open_store(
        place / "near", place / "near-run", driver, driver_options=options, durability="none"
    ) as near:
        assert given_out(near, "far") == 5001
        assert near.storage_layers() == []
        near.shutdown()
    assert open_store().storage_layers() == before


# --- several programs ---------------------------------------------------------------------------------------

_MAKE = """
import sys
import orlop
from orlop.system import subids

graph, run, driver, uids, gids, count, image = sys.argv[1:]
subids.FILES = {"uid": uids, "gid": gids}
with orlop.open_store(graph, run, driver, durability="none", lock_timeout=60) as store:
    for _ in range(int(count)):
        store.containers.create(image=image or None, auto_userns=orlop.AutoUserNS(initial_size=1200))
"""


def _program(store: orlop.Store, count: int, image: str = "") -> subprocess.Popen[bytes]:
    words = [store.graph_root, store.run_root, store.driver_name, *subids.FILES.values(), str(count), image]
    return subprocess.Popen([sys.executable, "-c", _MAKE, *words], stderr=subprocess.PIPE)


def test_programs_that_make_containers_at_once_share_no_id(store: orlop.Store) -> None:
    """Fifty containers by four programs, of an image and of none."""
    of_image = image(store, tar("etc/", ("etc/passwd", b"u:x:1199:1\n")))
    programs = [_program(store, count, of_image if count == 12 else "") for count in (12, 13, 12, 13)]
    for program in programs:
        _, said = program.communicate(timeout=300)
        assert program.returncode == 0, said.decode()
    made = list(store.containers)
    assert len(made) == 50
    for side in ("uids", "gids"):
        used = IDSet()
        for container in made:
            new = IDSet((m.host_id, m.host_id + m.size) for m in getattr(container.mappings, side))
            assert new.count == 1200
            used |= new
        assert used.intervals == ((200_000, 200_000 + 50 * 1200),)


def test_containers_are_made_one_at_a_time(store: orlop.Store, place: Path) -> None:
    """Whoever gives out ids, or records maps, waits for `userns.lock`; a container without maps does not."""
    waiting = orlop.Store(store.options.replace(lock_timeout=0.2))
    with open(place / "graph" / "userns.lock", "r+b") as lock:
        whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        fcntl.fcntl(lock, fcntl.F_OFD_SETLK, whole)
        for how in ({"auto_userns": AutoUserNS()}, {"mappings": IDMappings(maps("0:5:5"))}):
            with pytest.raises(errors.LockTimeout, match=r"userns\.lock"):
                waiting.containers.create(**how)
        waiting.containers.create()
    waiting.containers.create(auto_userns=AutoUserNS())


_DIE = """
import os, signal, sys
import orlop
from orlop.store import userns
from orlop.system import subids

graph, run, driver, uids, gids, image = sys.argv[1:]
subids.FILES = {"uid": uids, "gid": gids}
userns._accounts = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
with orlop.open_store(graph, run, driver, durability="none") as store:
    store.containers.create(image=image, auto_userns=orlop.AutoUserNS())
"""


def test_what_a_program_leaves_that_dies_while_it_looks_is_cleaned_up(
    store: orlop.Store, place: Path
) -> None:
    of_image = image(store, tar("etc/", USER_5000))
    before = store.storage_layers()
    words = [store.graph_root, store.run_root, store.driver_name, *subids.FILES.values(), of_image]
    died = subprocess.run([sys.executable, "-c", _DIE, *words], timeout=60, check=False)
    assert died.returncode == -9
    assert [layer.id for layer in store.layers] == before
    assert store.storage_layers() == before
    assert [m for m in peers.mounts_below(place) if m.endswith("/merged")] == []
    assert given_out(store, of_image) == 5001


def test_the_configuration_says_whose_ids_and_how_many(
    open_store: Open, place: Path, monkeypatch: pytest.MonkeyPatch, aside: Callable[..., None]
) -> None:
    with open_store() as store:  # so that the place is a store whichever driver is asked for
        driver = store.driver_name
    (place / "storage.conf").write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{place}/graph"\nrunroot = "{place}/run"\n'
        '[storage.options]\nroot-auto-userns-user = "me"\n'
        "auto-userns-min-size = 50\nauto-userns-max-size = 60\n"
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(place / "storage.conf"))
    aside("me:1000:6000\ncontainers:1:1")
    with orlop.open_store() as store:
        assert store.graph_root == str(place / "graph")
        made = store.containers.create(auto_userns=AutoUserNS())
        assert made.mappings == IDMappings(maps("0:1000:50"), maps("0:1000:50"))
        with pytest.raises(errors.LimitExceeded, match=r"size 61 .* userns=auto 60"):
            store.containers.create(auto_userns=AutoUserNS(initial_size=61))


def test_maps_without_a_root_make_no_layer(open_store: Open) -> None:
    """Nobody would own it. A single id is root, whatever it is called; a layer mapped by its mount has none."""
    store = orlop.Store(open_store().options.replace(shifting=False))
    rootless = IDMappings(maps("5:1000:5"), maps("0:1000:5"))
    text = "container ID 0 cannot be mapped to a host ID"
    with pytest.raises(errors.InvalidMappings, match=text) as caught:
        store.layers.create(id="bare", mappings=rootless)
    assert caught.value.peer == f'creating read-write layer with ID "bare": {text}'
    with pytest.raises(errors.InvalidMappings) as caught:
        store.layers.create(id="bare", mappings=rootless, writable=False)
    assert caught.value.peer == f'creating read-only layer with ID "bare": {text}'
    template = store.layers.create(id="template").id
    with pytest.raises(errors.InvalidMappings) as caught:
        store.layers.create(id="bare", mappings=rootless, template=template)
    assert caught.value.peer.endswith(text)
    assert store.storage_layers() == ["template"]
    single = IDMappings(maps("5:1000:1"), maps("5:1000:1"))
    assert store.layers.create(id="single", mappings=single).mappings == single
