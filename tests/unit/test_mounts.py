"""Mount tables are read as the kernel writes them, mount points recognised, mounts undone and nothing else
(`spec/mounting.md` 7 and 8)."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peers
from orlop.errors import BadRecords
from orlop.system import files, libc, mounts


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory whose mounts are nobody else's, and gone afterwards."""
    peers.need_root()
    yield tmp_path
    peers.unmount_below(tmp_path)


def tmpfs(point: Path) -> Path:
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "test", str(point)], check=True)
    return point


# --- the table ----------------------------------------------------------------------------------------------

TABLE = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
40 27 0:40 / /a\040b/tab\011line\012back\134slash rw shared:7 - fuse.x with\040blank rw
41 27 0:41 / /\377\303\251\043 rw -  rw
42 27 0:42 / /odd\400\08\7 rw - tmpfs
"""


def test_a_table_is_read_line_by_line() -> None:
    table = mounts.parse_mountinfo(
        TABLE.replace(b" -  rw", b" - tmpfs  rw").replace(b"- tmpfs\n", b"- tmpfs x\n")
    )
    proc, ext3, odd, bytes_, not_octal = table
    assert (proc.id, proc.parent, proc.device, proc.root, proc.point) == (22, 27, "0:21", "/", "/proc")
    assert (proc.options, proc.fstype, proc.source, proc.super_options) == (
        "rw,relatime",
        "proc",
        "proc",
        "rw",
    )
    assert (ext3.root, ext3.point, ext3.fstype, ext3.super_options) == (
        "/mnt1",
        "/mnt2",
        "ext3",
        "rw,errors=continue",
    )
    assert odd.point == "/a b/tab\tline\nback\\slash"
    assert odd.source == "with blank"
    assert os.fsencode(bytes_.point) == b"/\xff\xc3\xa9#"
    assert bytes_.source == ""
    assert not_octal.point == "/odd\\400\\08\\7"
    assert not_octal.super_options == ""


@pytest.mark.parametrize(
    "line",
    [b"x", b"1 2 3:4 / /p rw", b"1 2 3:4 / - a b c", b"a 2 3:4 / /p rw - t s o", b"1 2 3:4 / /p rw - t"],
)
def test_a_line_that_the_kernel_does_not_write_is_an_error(line: bytes) -> None:
    with pytest.raises(BadRecords, match="mountinfo"):
        mounts.parse_mountinfo(TABLE.splitlines()[0] + b"\n" + line + b"\n")


@given(st.binary() | st.text("0123456789 /-\\\n:x").map(str.encode))
def test_any_bytes_are_a_table_or_our_error(data: bytes) -> None:
    try:
        mounts.parse_mountinfo(data)
    except BadRecords:
        pass


def test_the_table_of_this_process_is_the_one_that_the_kernel_has() -> None:
    table = mounts.mount_table()
    assert len(table) == len(Path("/proc/self/mountinfo").read_bytes().splitlines())
    assert any(mount.point == "/" for mount in table)
    assert any(mount.fstype == "proc" and mount.point == "/proc" for mount in table)


# --- is it a mount point ------------------------------------------------------------------------------------


@pytest.fixture(params=["openat2", "device", "table"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The three ways to find out, each by itself."""

    def missing(*arguments: object, **named: object) -> int:
        raise OSError(errno.ENOSYS if request.param == "device" else errno.EPERM, "no such call here")

    if request.param != "openat2":
        monkeypatch.setattr(libc, "openat2", missing)
    if request.param != "table":
        monkeypatch.setattr(mounts, "mount_table", list)
    return str(request.param)


def test_mount_points_are_recognised(place: Path, way: str) -> None:
    point = tmpfs(place / "odd name\n")
    (place / "dir").mkdir()
    (place / "bound").mkdir()
    (place / "file").touch()
    (place / "file2").touch()
    subprocess.run(["mount", "--bind", str(place / "dir"), str(place / "bound")], check=True)
    subprocess.run(["mount", "--bind", str(place / "file"), str(place / "file2")], check=True)
    (place / "to point").symlink_to(point)
    (place / "to dir").symlink_to("dir")
    same_device = (
        way != "device"
    )  # what is on the same device on both sides: only the kernel and the table know
    for name, expected in {
        "odd name\n": True,
        "odd name\n/": True,
        "bound": same_device,
        "file2": same_device,
        "to point": True,
        "dir": False,
        "file": False,
        "to dir": False,
        ".": False,
    }.items():
        assert mounts.is_mount_point(str(place / name)) is expected, name
    assert mounts.is_mount_point("/")
    with pytest.raises(FileNotFoundError):
        mounts.is_mount_point(str(place / "missing"))
    with pytest.raises(FileNotFoundError):
        (place / "dangling").symlink_to("missing")
        mounts.is_mount_point(str(place / "dangling"))


# --- options and mounting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "flags", "data"),
    [
        ("", 0, ""),
        ("ro,nosuid,nodev,noexec", 0xF, ""),
        ("ro,rw", 0, ""),
        ("rw,ro", 1, ""),
        ("nodev,metacopy=on,index=off", 4, "metacopy=on,index=off"),
        ("rbind", 0x5000, ""),
        ("rshared,noatime", 0x104400, ""),
        ("defaults", 0, "defaults"),
        ("RO, ro", 0, "RO, ro"),
        ('a,,ro,context="x:s0:c1,c2",', 1, 'a,,context="x:s0:c1,c2",'),
        ("sync,async,remount,mand,dirsync,strictatime,norelatime,relatime", 0x12000E0, ""),
    ],
)
def test_options_are_flags_or_data(text: str, flags: int, data: str) -> None:
    found, rest = mounts.split_options(text)
    assert (hex(found), rest) == (hex(flags), data)


def test_a_mount_is_made_once(place: Path) -> None:
    (place / "m").mkdir()
    for _ in range(2):
        mounts.mount("test", str(place / "m"), "tmpfs", "nodev,size=64k")
    found = [mount for mount in mounts.mount_table() if mount.point == str(place / "m")]
    assert len(found) == 1
    assert "nodev" in found[0].options
    assert "size=64k" in found[0].super_options


def test_a_bind_mount_can_be_read_only_and_private(place: Path) -> None:
    """The kernel ignores both in the call that makes it."""
    (place / "from").mkdir()
    (place / "to").mkdir()
    mounts.mount(str(place / "from"), str(place / "to"), "none", "bind,ro,nodev,private")
    with pytest.raises(OSError) as caught:
        (place / "to" / "file").touch()
    assert caught.value.errno == errno.EROFS
    (found,) = [mount for mount in mounts.mount_table() if mount.point == str(place / "to")]
    assert {"ro", "nodev"} <= set(found.options.split(","))
    (place / "from" / "file").touch()


def test_a_failed_mount_names_the_target_and_the_call(place: Path) -> None:
    (place / "m").mkdir()
    with pytest.raises(OSError) as caught:
        mounts.mount("x", str(place / "m"), "no-such-type")
    assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, str(place / "m"))
    assert any("mount()" in note for note in caught.value.__notes__)


# --- unmounting ---------------------------------------------------------------------------------------------


def test_an_unmount_takes_the_mount_away_even_if_it_is_in_use(place: Path) -> None:
    point = tmpfs(place / "m")
    with open(point / "file", "w") as file:
        mounts.unmount(str(point))
        assert not mounts.is_mount_point(str(point))
        file.write("still works")


def test_what_is_not_mounted_is_unmounted_already(place: Path) -> None:
    (place / "dir").mkdir()
    mounts.unmount(str(place / "dir"))
    with pytest.raises(FileNotFoundError):
        mounts.unmount(str(place / "missing"))


def test_a_busy_mount_is_tried_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = tmpfs(place / "m")
    file = open(point / "file", "w")
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            file.close()

    monkeypatch.setattr(mounts.time, "sleep", pause)
    mounts.unmount(str(point), lazy=False)
    assert pauses == [0.05] * 3
    assert not mounts.is_mount_point(str(point))


def test_a_mount_that_stays_busy_is_an_error_in_the_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = tmpfs(place / "m")
    monkeypatch.setattr(mounts.time, "sleep", lambda seconds: None)
    with open(point / "file", "w"), pytest.raises(OSError) as caught:
        mounts.unmount(str(point), lazy=False)
    assert (caught.value.errno, caught.value.filename) == (errno.EBUSY, str(point))
    assert mounts.is_mount_point(str(point))


def test_a_link_to_a_mount_point_is_not_followed(place: Path) -> None:
    """Whoever can put a link in the place of a mount point would have us unmount /."""
    point = tmpfs(place / "m")
    (place / "link").symlink_to(point)
    mounts.unmount(str(place / "link"))
    assert mounts.is_mount_point(str(point))
    mounts.unmount_below(str(place / "link"))
    assert mounts.is_mount_point(str(point))


def test_everything_below_goes_and_nothing_beside(place: Path) -> None:
    top = tmpfs(place / "top")
    tmpfs(top / "a" / "b")
    tmpfs(top / "a" / "b" / "c d")
    tmpfs(top / "a")  # hides the two before it
    tmpfs(top)  # and this all of them
    beside = tmpfs(place / "topmost")
    (place / "link").symlink_to(".")
    assert mounts.unmount_below(str(place / "link" / "top")) == 5
    assert peers.mounts_below(place) == [str(beside)]
    assert mounts.unmount_below(str(place / "top")) == 0


def test_unmounting_a_copy_of_a_shared_tree_leaves_the_original(place: Path) -> None:
    """`mount --rbind /` in a container's directory: unmounting what is in it used to cost hosts their /dev."""
    host = tmpfs(place / "host")
    subprocess.run(["mount", "--make-shared", str(host)], check=True)
    inner = tmpfs(host / "inner")
    (place / "tree" / "m").mkdir(parents=True)
    subprocess.run(["mount", "--rbind", str(host), str(place / "tree" / "m")], check=True)
    assert mounts.is_mount_point(str(place / "tree" / "m" / "inner"))
    files.remove_tree(str(place / "tree"))
    assert not (place / "tree").exists()
    assert mounts.is_mount_point(str(inner))


# --- the calls themselves -----------------------------------------------------------------------------------


def test_importing_the_calls_costs_nothing_until_one_is_made() -> None:
    code = "import sys; from orlop.system import libc, mounts; print('ctypes' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_path_is_opened_under_the_rules_asked_for(tmp_path: Path) -> None:
    (tmp_path / "root" / "dir").mkdir(parents=True)
    (tmp_path / "root" / "up").symlink_to("..")
    (tmp_path / "root" / "abs").symlink_to("/dir")
    root = os.open(tmp_path / "root", os.O_PATH)
    try:
        fd = libc.openat2(root, b"abs", os.O_PATH, resolve=libc.RESOLVE_IN_ROOT)
        assert os.path.samestat(os.fstat(fd), (tmp_path / "root" / "dir").stat())
        assert not os.get_inheritable(fd)
        os.close(fd)
        with pytest.raises(OSError) as caught:
            libc.openat2(root, "up", os.O_PATH, resolve=libc.RESOLVE_BENEATH)
        assert (caught.value.errno, caught.value.filename) == (errno.EXDEV, "up")
        with pytest.raises(OSError) as caught:
            libc.openat2(root, "abs", os.O_PATH, resolve=libc.RESOLVE_NO_SYMLINKS)
        assert caught.value.errno == errno.ELOOP
        fd = libc.openat2(root, "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, libc.RESOLVE_BENEATH)
        os.close(fd)
        assert (tmp_path / "root" / "new").exists()
    finally:
        os.close(root)


def test_a_race_that_the_kernel_notices_is_run_again_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [errno.EAGAIN] * 3

    def again(name: str, *arguments: object, path: object) -> int:
        if answers:
            raise BlockingIOError(answers.pop(), "again")
        return 77

    monkeypatch.setattr(libc, "syscall", again)
    assert libc.openat2(3, "x", 0, resolve=libc.RESOLVE_IN_ROOT) == 77
    answers += [errno.EAGAIN] * 10_000
    with pytest.raises(BlockingIOError):
        libc.openat2(3, "x", 0, resolve=libc.RESOLVE_IN_ROOT)
    left = len(answers)
    assert left > 9000
    with pytest.raises(BlockingIOError):  # a lease, say: not what trying again is for
        libc.openat2(3, "x", 0)
    assert len(answers) == left - 1


def test_a_text_with_a_nul_never_gets_to_the_kernel() -> None:
    with pytest.raises(ValueError, match="null"):
        libc.umount2("/proc\0/x")


def test_an_unknown_machine_has_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine:
        machine = "pdp11"

    monkeypatch.setattr(os, "uname", Machine)
    with pytest.raises(OSError) as caught:
        libc.pivot_root("/nowhere", "/nowhere")
    assert caught.value.errno == errno.ENOSYS


def test_names_are_exchanged_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        libc.renameat2(fd, "a", fd, b"b", libc.RENAME_EXCHANGE)
        with pytest.raises(FileExistsError):
            libc.renameat2(fd, "a", fd, "b", libc.RENAME_NOREPLACE)
    finally:
        os.close(fd)
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("b", "a")
