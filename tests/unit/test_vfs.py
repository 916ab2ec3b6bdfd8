"""What is vfs's own: where its layers lie, its options, what it does when something fails."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layers
import peers
from orlop.drivers.api import DriverOptions
from orlop.drivers.vfs import VFS
from orlop.errors import ConfigError, NotSupported
from orlop.model.idmap import IDMap, IDMappings
from orlop.stream import treecopy
from orlop.system import files, selinux


@pytest.fixture(autouse=True)
def _root() -> None:
    peers.need_root()


@pytest.fixture
def vfs(tmp_path: Path) -> Callable[..., VFS]:
    def open(*options: str, **settings: Any) -> VFS:
        graph, run = str(tmp_path / "graph"), str(tmp_path / "run")
        settings = {"durable": False} | settings
        return VFS(DriverOptions(f"{graph}/vfs", f"{run}/vfs", graph, run, options=options, **settings))

    return open


def test_layers_lie_in_dir_and_removed_ones_in_tempdirs(vfs: Callable[..., VFS], tmp_path: Path) -> None:
    driver = vfs()
    driver.create("one", None, writable=False)
    home = tmp_path / "graph" / "vfs"
    assert driver.mount("one") == str(home / "dir" / "one")
    assert stat.S_IMODE((home / "dir").stat().st_mode) == 0o700
    assert driver.temp_roots() == (str(home / "tempdirs"),)
    taken: list[tuple[str, str]] = []
    driver.remove("one", lambda path, root: taken.append((path, root)))
    assert taken == [(str(home / "dir" / "one"), str(home / "tempdirs"))]


def test_image_layers_go_to_the_image_store_and_writable_ones_stay_home(
    vfs: Callable[..., VFS], tmp_path: Path
) -> None:
    driver = vfs(image_store=str(tmp_path / "images"))
    driver.create("image", None, writable=False)
    layers.fill(driver, "image", layers.BASE)
    driver.create("box", "image", writable=True)
    images, home = tmp_path / "images" / "vfs", tmp_path / "graph" / "vfs"
    assert driver.mount("image") == str(images / "dir" / "image")
    assert driver.mount("box") == str(home / "dir" / "box")
    assert layers.contents(driver.mount("box")) == layers.contents(driver.mount("image"))
    assert driver.ids() == ["box"]
    assert driver.temp_roots() == (str(home / "tempdirs"), str(images / "tempdirs"))
    taken: list[tuple[str, str]] = []
    driver.remove("image", lambda path, root: taken.append((path, root)))
    driver.remove("box", lambda path, root: taken.append((path, root)))
    assert taken == [
        (str(images / "dir" / "image"), str(images / "tempdirs")),
        (str(home / "dir" / "box"), str(home / "tempdirs")),
    ]


def test_additional_stores_are_read_in_order_and_never_written(
    vfs: Callable[..., VFS], tmp_path: Path
) -> None:
    for store, ids in {"a": ("both",), "b": ("both", "only-b"), "images": ("only-b", "only-image")}.items():
        for id in ids:
            (tmp_path / store / "vfs" / "dir" / id).mkdir(parents=True)
            (tmp_path / store / "vfs" / "dir" / id / "from").write_text(store)
    driver = vfs(
        f"vfs.imagestore={tmp_path / 'a'},{tmp_path / 'nowhere'}",
        f".ImageStore= {tmp_path / 'b'} ",
        image_store=str(tmp_path / "images"),
    )
    assert driver.additional_stores() == tuple(str(tmp_path / name) for name in ("a", "nowhere", "b"))

    def source(id: str) -> str:
        return (Path(driver.mount(id)) / "from").read_text()

    assert [source(id) for id in ("both", "only-b", "only-image")] == ["a", "b", "images"]
    assert driver.exists("only-b")
    assert driver.ids() == []
    driver.create("child", "both", writable=True)
    assert source("child") == "a"
    driver.remove("both", lambda path, root: pytest.fail(f"{path} is another store's"))
    driver.create("both", None, writable=True)
    assert driver.mount("both") == str(tmp_path / "graph" / "vfs" / "dir" / "both")


@pytest.mark.parametrize(
    ("option", "peer"),
    [
        ("vfs.mountopt=nodev", "vfs driver does not support mount options"),
        (".mountopt=nodev", "vfs driver does not support .mountopt options"),
        ("vfs.Size=1g", "vfs driver does not support vfs.size options"),
        ("imagestore=/a", "vfs driver does not support imagestore options"),
        ("overlay.mountopt=x", "vfs driver does not support overlay.mountopt options"),
        ("vfs.ignore_chown_errors=maybe", 'strconv.ParseBool: parsing "maybe": invalid syntax'),
        ("vfs.imagestore", "unable to parse key/value option: vfs.imagestore"),
    ],
)
def test_options_that_it_does_not_have(vfs: Callable[..., VFS], option: str, peer: str) -> None:
    with pytest.raises(ConfigError) as failure:
        vfs(option)
    assert failure.value.peer == peer
    assert option.partition("=")[0] in str(failure.value)


def test_nothing_is_mounted_so_there_are_no_mount_options(vfs: Callable[..., VFS]) -> None:
    driver = vfs()
    driver.create("one", None, writable=True)
    driver.mount("one", options=["ro"])
    for options in (["rw"], ["ro", "nodev"], [""]):
        with pytest.raises(NotSupported) as failure:
            driver.mount("one", options=options)
        assert failure.value.peer == "vfs driver does not support mount options"


def test_nor_options_of_single_layers(vfs: Callable[..., VFS]) -> None:
    driver = vfs()
    with pytest.raises(NotSupported) as failure:
        driver.create("one", None, writable=True, storage_opt={"size": "1g"})
    assert failure.value.peer == "--storage-opt is not supported for vfs"
    assert driver.ids() == []
    driver.create("one", None, writable=True, storage_opt={})


def test_what_is_no_directory_is_no_layer(vfs: Callable[..., VFS], tmp_path: Path) -> None:
    """A link in the place of a layer would have unpacking, re-owning and diffs work on whatever it names."""
    driver = vfs()
    driver.create("one", None, writable=True)
    place = tmp_path / "graph" / "vfs" / "dir"
    (place / "link").symlink_to("/etc")
    (place / "file").touch()
    for id in ("link", "file"):
        with pytest.raises(NotADirectoryError):
            driver.mount(id)
        with pytest.raises(NotADirectoryError):
            driver.create("child", id, writable=True)
    assert driver.ids() == ["one"]


def test_a_copy_that_fails_half_way_is_taken_back(
    vfs: Callable[..., VFS], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = vfs()
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", layers.BASE)

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(treecopy._TreeCopy, "finish_directories", fail)
    with pytest.raises(OSError) as failure:
        driver.create("child", "base", writable=True)
    assert failure.value.errno == errno.ENOSPC
    assert driver.ids() == ["base"]


def test_a_failed_clean_up_does_not_hide_why(
    vfs: Callable[..., VFS], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = vfs()
    driver.create("base", None, writable=False)

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail_too(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(treecopy, "copy_tree", fail)
    monkeypatch.setattr(files, "remove_tree", fail_too)
    with pytest.raises(OSError) as failure:
        driver.create("child", "base", writable=True)
    assert failure.value.errno == errno.ENOSPC
    assert "could not be removed" in failure.value.__notes__[0]


@pytest.mark.parametrize("durable", [True, False])
def test_one_sync_for_a_whole_layer_and_none_if_not_durable(
    vfs: Callable[..., VFS], monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    driver = vfs(durable=durable)
    driver.create("one", None, writable=True)
    synced: list[object] = []
    monkeypatch.setattr(files, "sync_filesystem", synced.append)
    driver.sync("one")
    assert synced == [os.path.dirname(driver.mount("one"))] * durable


def test_the_root_is_re_owned_with_the_rest(vfs: Callable[..., VFS]) -> None:
    driver = vfs()
    maps = IDMappings([IDMap(0, 5000, 100)], [IDMap(0, 6000, 100)])
    driver.create("one", None, writable=True)
    driver.shift("one", IDMappings(), maps)
    status = os.stat(driver.mount("one"))
    assert (status.st_uid, status.st_gid) == (5000, 6000)


@pytest.mark.parametrize("ignore", ["true", "false"])
def test_owners_that_cannot_be_set(vfs: Callable[..., VFS], tmp_path: Path, ignore: str) -> None:
    """For users without subordinate ids: everything then belongs to the one id that they have."""
    driver = vfs(f"vfs.ignore_chown_errors={ignore}", rootless=True)
    tmp_path.chmod(0o755)
    (tmp_path / "graph").mkdir()
    os.chown(tmp_path / "graph", 65534, 65534)
    child = os.fork()
    if not child:
        status = 2
        try:
            os.chdir(tmp_path)
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            driver = VFS(
                DriverOptions(
                    "graph/vfs", "run/vfs", "graph", "run", None, driver.options.options, False, True
                )
            )
            maps = IDMappings([IDMap(0, 5000, 100)], [IDMap(0, 6000, 100)])
            driver.create("one", None, writable=True, mappings=maps)
            status = 0
        except PermissionError:
            status = 1
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    made = os.listdir(tmp_path / "graph" / "vfs" / "dir")
    assert (ended, made) == ((0, ["one"]) if ignore == "true" else (1, []))


def test_the_label_of_containers_comes_from_the_policy(tmp_path: Path) -> None:
    assert selinux.container_file_label(root=str(tmp_path)) == ""
    (tmp_path / "etc" / "selinux" / "targeted" / "contexts").mkdir(parents=True)
    (tmp_path / "etc" / "selinux" / "config").write_text(
        "# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n"
    )
    (tmp_path / "etc" / "selinux" / "targeted" / "contexts" / "lxc_contexts").write_text(
        'process = "system_u:system_r:container_t:s0"\nfile = "system_u:object_r:container_file_t:s0:c1,c2"\n'
    )
    assert selinux.container_file_label(root=str(tmp_path)) == "system_u:object_r:container_file_t:s0"
    (tmp_path / "usr" / "share" / "containers" / "selinux").mkdir(parents=True)
    (tmp_path / "usr" / "share" / "containers" / "selinux" / "contexts").write_text('file = "a:b:c:s1"\n')
    assert selinux.container_file_label(root=str(tmp_path)) == "a:b:c:s0"


def test_a_container_gets_labels_that_no_other_has(tmp_path: Path) -> None:
    """Not run here with SELinux on: the policy's file is played."""
    assert selinux.container_labels([], [], root=str(tmp_path)) == ("", "")
    where = tmp_path / "usr/share/containers/selinux"
    where.mkdir(parents=True)
    (where / "contexts").write_text('process = "su:sr:container_t:s0"\nfile = "su:or:container_file_t:s0"\n')

    def labels(*options: str, taken: tuple[str, ...] = ()) -> tuple[str, str]:
        numbers = iter([9, 3, 7, 7, 5, 1])
        return selinux.container_labels(options, taken, root=str(tmp_path), choose=lambda: next(numbers))

    assert labels() == ("su:sr:container_t:s0:c3,c9", "su:or:container_file_t:s0:c3,c9")
    taken = ("", "su:or:container_file_t:s0:c3,c9")
    assert labels(taken=taken) == ("su:sr:container_t:s0:c1,c5", "su:or:container_file_t:s0:c1,c5")
    assert labels("type:my_t", "filetype:my_file_t", "level:s1:c0", "user:u", "role:r") == (
        "u:r:my_t:s1:c0",
        "u:or:my_file_t:s1:c0",
    )
    assert labels("disable") == ("", "su:or:container_file_t:s0")
    for wrong in ("enable", "kind:x", "type"):
        with pytest.raises(ValueError, match="SELinux option"):
            labels(wrong)
    process, files = selinux.container_labels([], [], root=str(tmp_path))
    assert process.partition(":s0:")[2] == files.partition(":s0:")[2] != ""


@pytest.mark.parametrize("fails", [False, True])
def test_a_new_layer_is_labelled_where_labels_are(
    vfs: Callable[..., VFS], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """A label that cannot be set is logged: the layer is good without it."""
    labelled: list[tuple[str, str]] = []

    def set_label(path: str, label: str) -> None:
        labelled.append((os.path.basename(path), label))
        if fails:
            raise OSError(errno.EOPNOTSUPP, "no labels here")

    monkeypatch.setattr(selinux, "is_enabled", lambda: True)
    monkeypatch.setattr(selinux, "container_file_label", lambda: "u:r:t:s0")
    monkeypatch.setattr(selinux, "set_label", set_label)
    driver = vfs()
    driver.create("one", None, writable=True)
    driver.create("two", "one", writable=True)
    assert labelled == [("one", "u:r:t:s0"), ("two", "u:r:t:s0")]
    assert sorted(driver.ids()) == ["one", "two"]
