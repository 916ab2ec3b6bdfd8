"""Overlays are mounted by the kernel's newer calls and by mount(2) alike: any number of layers, under any names, with
any options, exactly on the directory that was meant, and nothing is left of what failed (`spec/drivers.md` 4.6)."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import peers
from orlop.errors import LimitExceeded
from orlop.model.idmap import IDMap, IDMappings
from orlop.system import libc, longmount, mounts, newmount, overlayfs, userns


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory below which nothing is mounted in the end; no descriptor and no thread is left either."""
    peers.need_root()
    descriptors = set(os.listdir("/proc/self/fd"))
    threads = set(os.listdir("/proc/self/task"))
    yield tmp_path
    left, still_open = peers.mounts_below(tmp_path), set(os.listdir("/proc/self/fd"))
    peers.unmount_below(tmp_path)
    assert left == []
    assert still_open == descriptors
    end = time.monotonic() + 10
    while not threads >= set(os.listdir("/proc/self/task")):  # one that did its work has yet to vanish
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture(params=["new", "old"])
def method(request: pytest.FixtureRequest) -> str:
    if request.param == "new" and not overlayfs._takes_layers_one_by_one():
        peers.missing("an overlay that takes layers one by one (Linux 6.8)")
    return str(request.param)


class Layers:
    """Directories for an overlay, each with a file that bears its name, and a mount point."""

    def __init__(self, place: Path, names: list[str], *, writable: bool = True) -> None:
        self.place = place
        self.point = place / "merged"
        for name in (*names, "upper", "work", "merged"):
            (place / name).mkdir(parents=True)
        for name in (*names, "upper"):
            (place / name / f"in {os.path.basename(name)}").touch()
        self.arguments: dict[str, Any] = {"lowers": [str(place / name) for name in names], "home": str(place)}
        if writable:
            self.arguments |= {"upper": str(place / "upper"), "work": str(place / "work")}

    def mount(self, method: str | None, options: str = "", **arguments: Any) -> None:
        flags, data = mounts.split_options(options)
        given = {"flags": flags, "data": data.split(",") if data else ()}
        target = arguments.pop("target", str(self.point))
        overlayfs.mount(target, method=method, **self.arguments | given | arguments)

    def unmount(self) -> None:
        mounts.unmount(str(self.point))

    @property
    def entry(self) -> mounts.Mount:
        """What the table of mounts says about the mount."""
        (found,) = [mount for mount in mounts.mount_table() if mount.point == str(self.point)]
        return found

    def files(self) -> set[str]:
        return {name.removeprefix("in ") for name in os.listdir(self.point)}


# --- layers -------------------------------------------------------------------------------------------------


def test_layers_lie_one_over_the_other_and_the_upper_one_is_written(place: Path, method: str) -> None:
    layers = Layers(place, ["near", "far"])
    (place / "near" / "same").write_text("near")
    (place / "far" / "same").write_text("far")
    layers.mount(method)
    assert layers.files() == {"near", "far", "upper", "same"}
    assert (layers.point / "same").read_text() == "near"
    (layers.point / "new").touch()
    assert (place / "upper" / "new").exists()
    assert (layers.entry.fstype, layers.entry.source) == ("overlay", "overlay")
    layers.unmount()
    assert peers.mounts_below(place) == []


def test_without_an_upper_directory_nothing_is_written(place: Path, method: str) -> None:
    layers = Layers(place, ["near", "far"], writable=False)
    layers.mount(method)
    with pytest.raises(OSError) as caught:
        (layers.point / "new").touch()
    assert caught.value.errno == errno.EROFS
    assert layers.files() == {"near", "far"}
    layers.unmount()


def test_five_hundred_layers_can_be_mounted_and_no_more(place: Path, method: str) -> None:
    names = [f"{number:064x}/diff" for number in range(501)]
    layers = Layers(place, names)
    for name in names:
        (place / name / name[60:64]).touch()
    layers.arguments["lowers"].pop()
    layers.mount(method)
    assert set(os.listdir(layers.point)) == {"in upper", "in diff", *(name[60:64] for name in names[:-1])}
    layers.unmount()
    layers.arguments["lowers"].append(str(place / names[-1]))
    with pytest.raises(OSError) as caught:
        layers.mount(method)
    assert caught.value.errno == errno.EINVAL
    if method == "new":
        assert "limit is 500" in caught.value.strerror


def test_many_layers_and_many_options_can_be_mounted(place: Path, method: str) -> None:
    layers = Layers(place, [f"{number:064x}/diff" for number in range(130)])
    layers.mount(method, ",".join(["nodev", *["redirect_dir=nofollow,index=off,xino=off"] * 20]))
    assert "redirect_dir=nofollow" in layers.entry.super_options
    assert "nodev" in layers.entry.options
    layers.unmount()


@pytest.mark.parametrize(("count", "spelled"), [(3, "absolute"), (120, "relative"), (500, "number")])
def test_what_does_not_fit_is_spelled_shorter(place: Path, count: int, spelled: str) -> None:
    """Relative to the home first: that is what people can read in the table of mounts."""
    names = [f"l/{number:026}" for number in range(count)]
    layers = Layers(place, names)
    layers.mount("old")
    words = layers.entry.super_options.split(",")
    first = (
        next(word for word in words if word.startswith("lowerdir=")).removeprefix("lowerdir=").split(":")[0]
    )
    if spelled == "number":
        assert first.isdecimal()
    else:
        assert first == {"absolute": str(place / names[0]), "relative": names[0]}[spelled]
    layers.unmount()


def test_what_fits_in_no_way_is_an_error_that_says_how_much_it_is(place: Path) -> None:
    layers = Layers(place, ["a", "b"])
    page = os.sysconf("SC_PAGESIZE")
    with pytest.raises(LimitExceeded, match=f"takes {page - 1}") as caught:
        layers.mount("old", ",".join(["index=off"] * (page // 10)))
    assert caught.value.peer.startswith("cannot mount layer, mount data ")
    assert caught.value.peer.endswith(f"too large {caught.value.size} >= page size {page}")


ODD = ["co:lon", "com,ma", "back\\slash", "\\", "a\\:b\\,c", 'quo"te', "sp ace", "new\nline", "\udcff", "ä"]


def test_layers_may_have_any_name(place: Path, method: str) -> None:
    layers = Layers(place / "odd:,\\ home", ODD)
    above = {}
    for key in ("upper", "work"):
        (directory := layers.place / f'{key}:,\\" x').mkdir()
        above[key] = str(directory)
    layers.mount(method, "index=off", **above)
    assert layers.files() == set(ODD)
    (layers.point / "new").touch()
    assert os.listdir(above["upper"]) == ["new"]
    layers.unmount()


def test_layers_may_be_open_directories(place: Path, method: str) -> None:
    """However they were opened, and wherever their names lead by now."""
    layers = Layers(place, ["near", "far"])
    flags = (os.O_PATH, os.O_RDONLY)
    lowers = [os.open(path, flag) for path, flag in zip(layers.arguments["lowers"], flags, strict=True)]
    above = {key: os.open(place / key, os.O_PATH) for key in ("upper", "work")}
    for name in ("near", "far", "upper", "work"):
        (place / name).rename(place / f"moved {name}")
        (place / name).symlink_to("/")
    try:
        layers.mount(method, lowers=lowers, **above)
        assert layers.files() == {"near", "far", "upper"}
        layers.unmount()
    finally:
        for fd in (*lowers, *above.values()):
            os.close(fd)


@pytest.mark.parametrize("count", [1, 3])
def test_data_only_layers_are_seen_through_what_refers_to_them(place: Path, method: str, count: int) -> None:
    layers = Layers(place, ["near", "far"])
    data_only = []
    for number in range(count):
        (directory := place / f"data,{number}").mkdir()
        (directory / f"blob{number}").write_text(f"content {number}")
        data_only.append(str(directory))
        (file := place / "far" / f"file{number}").touch()
        os.truncate(file, 9)
        os.setxattr(file, "trusted.overlay.metacopy", b"")
        os.setxattr(file, "trusted.overlay.redirect", b"/blob%d" % number)
    layers.mount(method, "metacopy=on,redirect_dir=on", data_only=data_only)
    for number in range(count):
        assert (layers.point / f"file{number}").read_text() == f"content {number}"
        assert not (layers.point / f"blob{number}").exists()
    layers.unmount()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"lowers": []}, "has lower directories"),
        ({"upper": None}, "neither"),
        ({"work": None}, "neither"),
        ({"lowers": ["relative"]}, "must be absolute"),
        ({"data_only": ["relative"]}, "must be absolute"),
        ({"label": 'x",upperdir="/'}, "quotation mark"),
    ],
)
def test_a_wrong_call_is_not_an_error_of_the_kernel(
    place: Path, method: str, arguments: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        Layers(place, ["a", "b"]).mount(method, **arguments)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_layer_that_is_no_directory_is_named(place: Path, method: str, name: str) -> None:
    layers = Layers(place, ["a", "b"])
    (place / "file").touch()
    with pytest.raises((FileNotFoundError, NotADirectoryError)) as caught:
        layers.mount(method, lowers=[str(place / "a"), str(place / name)])
    assert caught.value.filename == str(place / name)


def test_an_open_file_is_no_layer(place: Path, method: str) -> None:
    layers = Layers(place, ["a", "b"])
    fd = os.open(place / "a" / "in a", os.O_PATH)
    try:
        with pytest.raises(OSError) as caught:
            layers.mount(method, lowers=[str(place / "b"), fd])
        assert caught.value.errno in (errno.EINVAL, errno.ENOTDIR)
        if method == "new":
            assert caught.value.filename == str(place / "a" / "in a")
    finally:
        os.close(fd)


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("", "rw,relatime"),
        ("metacopy=on", "rw,relatime,metacopy=on,redirect_dir=on"),
        ("redirect_dir=on", "redirect_dir=on"),
        ("redirect_dir=nofollow", "redirect_dir=nofollow"),
        ("index=on", "index=on"),
        ("index=off,nfs_export=off", "rw"),
        ("volatile", "fsync=volatile volatile"),
        ("xino=off", "rw"),
        ("userxattr", "userxattr"),
        ("ro", "ro"),
        ("nodev,metacopy=on,nosuid", "nodev,nosuid,metacopy=on"),
        ("noexec,nodiratime", "noexec,nodiratime,relatime"),
        ("noatime", "noatime"),
        ("noatime,strictatime", "rw"),
        ("sync,dirsync", "sync,dirsync"),
        ("ro,rw", "rw"),
        (",,=x,index=off,", "rw"),  # what has no key is passed over
    ],
)
def test_options_do_the_same_by_either_method(place: Path, options: str, shown: str, method: str) -> None:
    layers = Layers(place, ["near", "far"])
    layers.mount(method, options)
    found = {*layers.entry.options.split(","), *layers.entry.super_options.split(",")}
    for word in shown.split(","):  # alternatives: kernels differ
        assert found & set(word.split()), found
    assert ("relatime" in found) is ("atime" not in options.replace("nodiratime", ""))
    assert ("noatime" in found) is (options == "noatime")
    assert found.isdisjoint({"ro", "rw"} - {"ro" if options == "ro" else "rw"})
    layers.unmount()


@pytest.mark.parametrize(
    "option", ["x", "frob=1", "metacopy", "index=maybe", "xino=maybe", "defaults", "volatile=1"]
)
def test_an_option_that_the_kernel_refuses_is_named(place: Path, method: str, option: str) -> None:
    layers = Layers(place, ["near", "far"])
    with pytest.raises(OSError) as caught:
        layers.mount(method, f"nodev,{option},index=off")
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(layers.point))
    assert option in caught.value.strerror
    if method == "new":
        key = option.partition("=")[0]
        assert caught.value.strerror.startswith(f"mount option {option}: overlay: ")
        assert f"'{key}'" in caught.value.strerror


@pytest.mark.parametrize("option", ["remount", "bind", "rbind"])
def test_an_option_that_makes_no_new_mount_is_refused(place: Path, method: str, option: str) -> None:
    with pytest.raises(OSError, match="remount, bind") as caught:
        Layers(place, ["near", "far"]).mount(method, option)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("option", "shown"), [("private", b""), ("rshared", b"shared:"), ("unbindable", b"unbindable")]
)
def test_a_mount_is_as_shared_as_it_was_asked_to_be(
    place: Path, method: str, option: str, shown: bytes
) -> None:
    layers = Layers(place, ["near", "far"])
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    subprocess.run(
        ["mount", "--make-shared" if option == "private" else "--make-private", str(place)], check=True
    )
    try:
        layers.mount(method, option)
        table = Path("/proc/self/mountinfo").read_bytes().splitlines()
        (line,) = [line for line in table if line.split(b" ")[4] == os.fsencode(layers.point)]
        optional = line.split(b" ")[6 : line.split(b" ").index(b"-")]
        assert b" ".join(optional).startswith(shown)
        assert bool(optional) is bool(shown)
        with pytest.raises(OSError):  # which fails after the mount is made
            layers.mount(method, f"{option},slave")
        assert len([point for point in peers.mounts_below(place) if point == str(layers.point)]) == 1
    finally:
        peers.unmount_below(place)


class Recorder:
    """Takes the place of both ways to tell the kernel of options, and notes what is said. A label is not passed on:
    a kernel without SELinux does not know the option."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.words: list[str] = []
        self._fsconfig, self._mount = libc.fsconfig, libc.mount
        monkeypatch.setattr(libc, "fsconfig", self.fsconfig)
        monkeypatch.setattr(libc, "mount", self.mount)

    def fsconfig(
        self, context: int, command: int, key: str | None = None, value: str | None = None, number: int = 0
    ) -> None:
        if key is not None:
            self.words.append(key if value is None else f"{key}={value}")
        if key != "context":
            self._fsconfig(context, command, key, value, number)

    def mount(self, source: str, target: str, fstype: str, flags: int = 0, data: str | None = None) -> None:
        self.words += (data or "").split(",")
        self._mount(source, target, fstype, flags, (data or "").partition(",context=")[0])


def test_a_label_is_the_last_option(place: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Layers(place, ["near", "far"])
    recorder = Recorder(monkeypatch)
    layers.mount(method, "nodev,index=off", label="system_u:object_r:container_file_t:s0:c1,c2")
    if method == "new":
        assert recorder.words[-2:] == ["index=off", "context=system_u:object_r:container_file_t:s0:c1,c2"]
    else:
        assert recorder.words[-3:] == [
            "index=off",
            'context="system_u:object_r:container_file_t:s0:c1',
            'c2"',
        ]
    layers.unmount()


def test_a_label_among_the_options_keeps_its_commas(
    place: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = Layers(place, ["near", "far"])
    recorder = Recorder(monkeypatch)
    layers.mount(method, 'index=off,context="a:b:c:s0:c1,c2"')
    quote = '"' if method == "old" else ""  # which is for those who split at commas
    assert ",".join(recorder.words).endswith(f"index=off,context={quote}a:b:c:s0:c1,c2{quote}")
    layers.unmount()
    with pytest.raises(OSError) as caught:
        layers.mount("new", 'context="a,index=off')
    assert caught.value.errno == errno.EINVAL
    assert "quotation mark is missing" in caught.value.strerror


def test_a_label_is_for_kernels_that_know_labels(place: Path, method: str) -> None:
    if os.path.exists("/sys/fs/selinux/enforce"):
        pytest.skip("this machine has SELinux, and takes labels")
    layers = Layers(place, ["near", "far"])
    with pytest.raises(OSError, match="context") as caught:
        layers.mount(method, label="system_u:object_r:container_file_t:s0")
    assert caught.value.errno == errno.EINVAL


# --- which method -------------------------------------------------------------------------------------------


def how(layers: Layers) -> str:
    layers.mount(None)
    shown = layers.entry.super_options
    layers.unmount()
    return "new" if ",lowerdir+=" in shown else "old"


@pytest.fixture
def asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlayfs, "_one_by_one", None)


def test_the_new_method_is_used_where_it_works(place: Path, asked_again: None) -> None:
    assert how(Layers(place, ["near", "far"])) == ("new" if overlayfs._ask_kernel() else "old")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_without_the_calls_mounting_goes_the_old_way(
    place: Path, asked_again: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Linux before 5.2, and sandboxes that do not know the calls."""

    def missing(fstype: str) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(libc, "fsopen", missing)
    assert how(Layers(place, ["near", "far"])) == "old"


@pytest.mark.parametrize("answer", ["noted", "unknown"])
def test_without_the_option_mounting_goes_the_old_way(
    place: Path, asked_again: None, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """An overlay that reads options when it is made (Linux before 6.5), and one that does not know this one."""
    real = libc.fsconfig

    def old_overlay(context: int, command: int, key: str | None = None, *rest: Any) -> None:
        if key == "lowerdir+" and answer == "unknown":
            real(context, command, "lowerdir++", *rest)
        elif key != "lowerdir+":
            real(context, command, key, *rest)

    monkeypatch.setattr(libc, "fsconfig", old_overlay)
    assert how(Layers(place, ["near", "far"])) == "old"


def test_an_overlay_that_takes_no_descriptors_gets_their_names(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 6.8 to 6.12; and 6.13 takes none that were opened as paths."""
    real = libc.fsconfig

    def refuse(context: int, command: int, *rest: Any) -> None:
        if command == libc.FSCONFIG_SET_FD:
            raise OSError(errno.EBADF if "lowerdir+" in rest else errno.EINVAL, "no descriptors")
        real(context, command, *rest)

    monkeypatch.setattr(libc, "fsconfig", refuse)
    layers = Layers(place, ODD)
    layers.mount("new")
    assert layers.files() == {*ODD, "upper"}
    layers.unmount()


@pytest.mark.parametrize("where", ["label", "data"])
def test_what_is_too_long_for_the_new_method_goes_the_old_way(
    place: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """fsconfig takes values of 255 bytes; a label with all its categories has more."""
    layers = Layers(place, ["near", "far"])
    recorder = Recorder(monkeypatch)
    label = "system_u:object_r:container_file_t:s0:" + ",".join(f"c{number}" for number in range(80))
    if where == "label":
        layers.mount(None, label=label)
    else:
        layers.mount(None, f'context="{label}"')
    assert ",".join(recorder.words).endswith(f',context="{label}"')
    layers.unmount()


def test_nothing_is_started_to_mount(place: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fork", "posix_spawn", "posix_spawnp", "execve"):
        monkeypatch.setattr(os, name, lambda *_, **__: pytest.fail("a process was started"))
    layers = Layers(place, [f"{number:064x}/diff" for number in range(200)])
    layers.mount(method)
    layers.unmount()


def test_the_working_directory_of_everyone_else_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names relative to the home need a working directory, which a process has one of, and Linux threads may have."""
    layers = Layers(place, [f"{number:064x}/diff" for number in range(200)])
    monkeypatch.chdir(place)
    seen, stop = set(), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(os.getcwd())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(20):
            layers.mount("old")
            layers.unmount()
    finally:
        stop.set()
        looking.join()
    assert seen == {str(place)} == {os.getcwd()}


def test_an_interruption_waits_for_the_mount_and_undoes_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that mounts is not interrupted; if nobody waited for it, its mount would be nobody's."""
    layers = Layers(place, [f"{number:064x}/diff" for number in range(200)])
    real = libc.mount
    mounted = []

    def slow(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        real(*arguments)
        mounted.append(peers.mounts_below(place))

    monkeypatch.setattr(libc, "mount", slow)
    with pytest.raises(KeyboardInterrupt):
        layers.mount("old")
    assert mounted == [[str(layers.point)]]


# --- the mount point ----------------------------------------------------------------------------------------


def test_a_handle_is_the_mount_point_wherever_its_path_leads(place: Path, method: str) -> None:
    layers = Layers(place, ["near", "far"])
    (outside := place / "outside").mkdir()
    fd = os.open(layers.point, os.O_PATH)
    try:
        layers.point.rename(place / "moved")
        layers.point.symlink_to(outside)
        layers.mount(method, target=fd)
        assert peers.mounts_below(place) == [str(place / "moved")]
        mounts.unmount(str(place / "moved"))
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["symlink", "file", "missing"])
def test_a_path_that_is_no_directory_is_no_mount_point(
    place: Path, method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((newmount, "attach"), (longmount, "mount")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("something was mounted for a moment"))
    layers = Layers(place, ["near", "far"])
    layers.point.rename(place / "real")
    if kind == "symlink":
        layers.point.symlink_to("real")
    elif kind == "file":
        layers.point.touch()
    with pytest.raises((NotADirectoryError, FileNotFoundError)) as caught:
        layers.mount(method)
    assert caught.value.filename == str(layers.point)


@pytest.mark.parametrize("replacement", ["symlink", "directory", "nothing"])
def test_a_mount_point_replaced_meanwhile_is_noticed_and_the_mount_undone(
    place: Path, method: str, monkeypatch: pytest.MonkeyPatch, replacement: str
) -> None:
    layers = Layers(place, ["near", "far"])
    (outside := place / "outside").mkdir()

    def replace() -> None:
        layers.point.rename(place / "moved")
        if replacement == "symlink":
            layers.point.symlink_to(outside)
        elif replacement == "directory":
            layers.point.mkdir()

    def after(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            replace()
            return real(*arguments, **named)

        return call

    module, name = (newmount, "attach") if method == "new" else (longmount, "mount")
    monkeypatch.setattr(module, name, after(getattr(module, name)))
    with pytest.raises((NotADirectoryError, FileNotFoundError, OSError)) as caught:
        layers.mount(method)
    assert caught.value.filename == str(layers.point)
    assert caught.value.errno in (errno.ESTALE, errno.ENOTDIR, errno.ENOENT)
    assert peers.mounts_below(place) == []


_SWAP = """
import os, random, sys, time
point, moved, outside = sys.argv[1:]
while True:
    time.sleep(random.random() / 100)
    try:
        os.rename(point, moved)
        os.symlink(outside, point)
        time.sleep(random.random() / 500)
        os.unlink(point)
    except OSError:
        pass  # something is mounted there, so it stays
    while not os.path.isdir(point) or os.path.islink(point):
        try:
            os.rename(moved, point)
        except OSError:
            pass  # until it is unmounted
"""


def test_swapping_the_mount_point_for_a_symlink_leads_nowhere(place: Path, method: str) -> None:
    """J2, CVE-2021-30465: by somebody who never stops. A mount is where it was wanted, or there is none."""
    layers = Layers(place, ["near", "far"])
    (outside := place / "outside").mkdir()
    swapper = subprocess.Popen(
        [sys.executable, "-c", _SWAP, str(layers.point), str(place / "moved"), str(outside)]
    )
    outcomes = {"mounted": 0, "refused": 0}
    refusals = set()
    try:
        end = time.monotonic() + 60
        while min(outcomes.values()) < 2 or sum(outcomes.values()) < 100:
            assert time.monotonic() < end, outcomes
            try:
                layers.mount(method)
            except OSError as error:
                refusals.add(error.errno)
                assert peers.mounts_below(place) == []
                outcomes["refused"] += 1
            else:
                assert peers.mounts_below(place) == [str(layers.point)]
                assert layers.files() == {"near", "far", "upper"}
                outcomes["mounted"] += 1
                layers.unmount()
    finally:
        swapper.kill()
        swapper.wait()
    assert os.listdir(outside) == []
    assert refusals <= {errno.ENOTDIR, errno.ENOENT, errno.ESTALE}


# --- id-mapped layers ---------------------------------------------------------------------------------------


@pytest.fixture
def mapped(place: Path) -> Iterator[tuple[Layers, int]]:
    """Layers whose lower ones are on a mount with maps that hangs nowhere, and the handle of its root."""
    layers = Layers(place / "home", ["near", "far"])
    os.chown(layers.place / "far" / "in far", 7, 8)
    mappings = IDMappings([IDMap(0, 100000, 65536)], [IDMap(0, 200000, 65536)])
    with userns.namespace_for(mappings) as namespace:
        try:
            root = newmount.idmapped(str(layers.place), namespace.fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            peers.missing(f"id-mapped mounts on {peers.filesystem(place)}")
    lowers = [os.open(name, os.O_PATH, dir_fd=root) for name in ("near", "far")]
    layers.arguments["lowers"] = lowers
    yield layers, root
    for fd in (*lowers, root):
        os.close(fd)


def owners(layers: Layers) -> dict[str, tuple[int, int]]:
    found = {path.name.removeprefix("in "): path.stat() for path in layers.point.iterdir()}
    return {name: (status.st_uid, status.st_gid) for name, status in found.items()}


OWNERS = {"near": (100000, 200000), "far": (100007, 200008), "upper": (0, 0)}


def test_owners_of_mapped_layers_are_those_of_the_host(mapped: tuple[Layers, int], method: str) -> None:
    layers, root = mapped
    point = layers.place / "mapped" / "0"
    layers.mount(method, detached=[(root, str(point))])
    assert owners(layers) == OWNERS
    assert peers.mounts_below(layers.place) == [str(layers.point)]
    layers.unmount()


def test_where_layers_must_be_in_the_table_of_mounts_they_are_for_the_moment(
    mapped: tuple[Layers, int], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux 5.19 to 6.14."""
    layers, root = mapped
    point = layers.place / "mapped" / "0"
    module, name = (newmount.Context, "mount") if method == "new" else (longmount, "_mount")
    real = getattr(module, name)
    seen = []

    def kernel(*arguments: Any) -> Any:
        seen.append(peers.mounts_below(layers.place))
        if str(point) not in seen[-1]:
            raise OSError(errno.EINVAL, "a layer is in no mount namespace")
        return real(*arguments)

    monkeypatch.setattr(module, name, kernel)
    layers.mount(method, detached=[(root, str(point))])
    assert seen == [[], [str(point)]]
    assert owners(layers) == OWNERS
    assert peers.mounts_below(layers.place) == [str(layers.point)]
    layers.unmount()


def test_an_error_in_the_second_attempt_leaves_nothing_mounted(
    mapped: tuple[Layers, int], method: str
) -> None:
    layers, root = mapped
    with pytest.raises(OSError, match="frob") as caught:
        layers.mount(method, "frob", detached=[(root, str(layers.place / "mapped" / "0"))])
    assert caught.value.errno == errno.EINVAL
    assert peers.mounts_below(layers.place) == []


# --- in a user namespace ------------------------------------------------------------------------------------

_INSIDE = """
import os, sys
from orlop.system import mounts, overlayfs
method, count = sys.argv[1], int(sys.argv[2])
mounts.mount("test", "/mnt", "tmpfs")
base = "/mnt/" + "x" * 64
lowers = [f"{base}/{number}" for number in range(count)]
for path in (*lowers, base + "/upper", base + "/work", base + "/merged"):
    os.makedirs(path)
    open(path + "/in " + os.path.basename(path), "w").close()
os.makedirs(lowers[0] + "/gone"); os.makedirs(lowers[1] + "/gone")
os.setxattr(lowers[0] + "/gone", "user.overlay.opaque", b"y"); open(lowers[1] + "/gone/file", "w").close()
merged = base + "/merged"
for path in (merged, os.open(merged, os.O_PATH)):
    overlayfs.mount(path, lowers=lowers, upper=base + "/upper", work=base + "/work", data=["userxattr"],
                    flags=4, home=base, method=method)
    assert overlayfs.is_overlay(merged)
    assert len(os.listdir(merged)) == count + 2, os.listdir(merged)
    assert os.listdir(merged + "/gone") == []
    open(merged + "/new", "w").close(); os.unlink(merged + "/new")
    mounts.unmount(merged)
assert os.listdir(merged) == ["in merged"]
try:
    overlayfs.mount(merged, lowers=lowers, data=["frob"], home=base, method=method)
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("count", [2, 100])
def test_an_ordinary_user_mounts_in_a_namespace_of_his_own(place: Path, method: str, count: int) -> None:
    done = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            sys.executable,
            "-c",
            _INSIDE,
            method,
            str(count),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        peers.missing("overlays in user namespaces (Linux 5.11)")
    assert done.stderr == ""
    assert "frob" in done.stdout


# --- where one is mounted -----------------------------------------------------------------------------------


def test_an_overlay_is_recognised_where_it_is_mounted_and_nowhere_else(place: Path, method: str) -> None:
    layers = Layers(place, ["near", "far"])
    (place / "near" / "dir").mkdir()
    (place / "link").symlink_to("merged")
    layers.mount(method)
    (place / "other").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "test", str(place / "other")], check=True)
    try:
        found = {
            name: (overlayfs.is_overlay(str(place / name)), overlayfs.is_fuse(str(place / name)))
            for name in (
                "merged",
                "merged/dir",
                "merged/in near",
                "merged/none",
                "near",
                "other",
                "link",
                "none",
            )
        }
    finally:
        peers.unmount_below(place)
    assert found == dict.fromkeys(found, (False, False)) | {"merged": (True, False)}
    assert not overlayfs.is_overlay(str(layers.point))
    assert not overlayfs.is_overlay("/")


def test_a_file_system_in_user_space_is_recognised_while_its_program_lives(place: Path) -> None:
    program = peers.program("fuse-overlayfs")
    layers = Layers(place, ["near", "far"])
    options = f"lowerdir={place}/near:{place}/far,upperdir={place}/upper,workdir={place}/work"
    running = subprocess.Popen([program, "-f", "-o", options, str(layers.point)])
    try:
        end = time.monotonic() + 10
        while not overlayfs.is_fuse(str(layers.point)):
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not overlayfs.is_overlay(str(layers.point))
        running.kill()
        running.wait()
        assert peers.mounts_below(place) == [str(layers.point)]  # and yet
        assert not overlayfs.is_fuse(str(layers.point))
    finally:
        running.kill()
        running.wait()
        peers.unmount_below(place)


# --- what it costs ------------------------------------------------------------------------------------------


def test_importing_it_imports_nothing_heavy() -> None:
    code = textwrap.dedent("""
        import sys
        from orlop.system import longmount, newmount, overlayfs
        print(*sorted({"ctypes", "threading", "contextlib", "dataclasses", "re", "typing"} & set(sys.modules)))
    """)
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", f"import sys; sys.path = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"
