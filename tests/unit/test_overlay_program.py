"""Overlays mounted by a program: what it is told, what happens when it fails, and how its layers are recognised."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layers
import peers
from orlop.drivers.overlay import program
from orlop.drivers.overlay.driver import Overlay
from orlop.errors import NotSupported
from orlop.model.idmap import IDENTITY, IDMap, IDMappings
from orlop.system import overlayfs

pytest_plugins = ("overlays",)

NAME = "fuse-overlayfs"
ONE = IDMappings([IDMap(0, 7, 1)], [IDMap(0, 8, 1)])
MANY = IDMappings([IDMap(0, 100_000, 10), IDMap(10, 100_010, 5)], [IDMap(0, 200_000, 65_536)])


@pytest.fixture
def fuse() -> str:
    return peers.program(NAME)


# --- what it is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "lowerdir=/l1:/l2,upperdir=/u,workdir=/w"),
        ({"upper": None, "work": None}, "lowerdir=/l1:/l2"),
        ({"data": ["xino=off", "volatile"]}, "lowerdir=/l1:/l2,upperdir=/u,workdir=/w,xino=off,volatile"),
        (
            {"mappings": ONE},
            "lowerdir=/l1:/l2,upperdir=/u,workdir=/w,squash_to_uid=7,squash_to_gid=8",
        ),
        (
            {"mappings": MANY},
            "lowerdir=/l1:/l2,upperdir=/u,workdir=/w,"
            "uidmapping=:0:100000:10:10:100010:5,gidmapping=:0:200000:65536",
        ),
        (
            {"force_mask": True, "label": "u:r:t:s0:c1,c2"},
            'lowerdir=/l1:/l2,upperdir=/u,workdir=/w,xattr_permissions=2,context="u:r:t:s0:c1,c2"',
        ),
    ],
)
def test_the_words_of_a_mount(monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], words: str) -> None:
    ran: list[tuple[list[str], Any]] = []
    monkeypatch.setattr(program, "run", lambda argv, directory: ran.append((argv, directory)))
    given = {
        "home": "/home",
        "lowers": ["/l1", "/l2"],
        "upper": "/u",
        "work": "/w",
        "data": [],
        "mappings": IDENTITY,
        "force_mask": False,
        "label": "",
    }
    program.mount("/p", "/point", **given | arguments)
    assert ran == [(["/p", "-o", words, "/point"], "/home")]
    with pytest.raises(NotSupported, match="cannot be told"):
        program.mount("/p", "/point", **given | {"lowers": ["/a,b"]})


def test_flags_are_not_for_programs_and_no_upper_directory_says_read_only(
    open_overlay: Callable[..., Overlay], place: Path
) -> None:
    script = place / "program"
    script.write_text(f'#!/bin/sh\necho "$@" >> {place}/seen; pwd >> {place}/seen\n')
    script.chmod(0o755)
    driver = open_overlay(f"overlay.mount_program={script}", "overlay.mountopt=nodev,fsync=0")
    driver.create("box", None, writable=True)
    for options in ((), ("ro", "noatime", "a=b"), ("metacopy=on", "rw")):
        driver.mount("box", options=options)
    home, said = driver.home, (place / "seen").read_text().splitlines()
    upper = f"upperdir={home}/box/diff,workdir={home}/box/work"
    assert said == [
        f"-o lowerdir={home}/box/empty,{upper},fsync=0 {home}/box/merged",
        home,
        f"-o lowerdir={home}/box/diff:{home}/box/empty,a=b {home}/box/merged",
        home,
        f"-o lowerdir={home}/box/empty,{upper} {home}/box/merged",
        home,
    ]


def test_what_a_program_says_when_it_fails_is_told(open_overlay: Callable[..., Overlay], place: Path) -> None:
    script = place / "program"
    script.write_text("#!/bin/sh\necho nothing to see; echo no way >&2; exit 5\n")
    script.chmod(0o755)
    driver = open_overlay(f"overlay.mount_program={script}")
    driver.create("box", None, writable=True)
    for _ in range(2):  # a failure is not counted as a mount
        with pytest.raises(OSError, match="no way"):
            driver.mount("box")
    driver.unmount("box")


# --- a real one ---------------------------------------------------------------------------------------------


def _is_fuse(path: Path | str) -> bool:
    return dict(peers.mounts()).get(str(path), "").startswith("fuse")


def test_where_the_kernel_will_not_a_program_that_is_installed_does(
    open_overlay: Callable[..., Overlay], fuse: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(overlayfs, "mount", refused)
    driver = open_overlay()
    assert (Path(driver.home) / ".has-mount-program").read_bytes() == b"true"
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", [layers.file("file", b"x")])
    driver.create("box", "base", writable=True)
    root = Path(driver.mount("box"))
    assert _is_fuse(root)
    assert (root / "file").read_bytes() == b"x"
    driver.unmount("box")
    assert dict(driver.status())["Native Overlay Diff"] == "false"


@pytest.mark.parametrize("end", ["asked", "not asked", "died"])
def test_a_mount_ends_whether_its_program_is_asked_or_gone(
    open_overlay: Callable[..., Overlay], fuse: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = open_overlay(f"overlay.mount_program={fuse}")
    driver.create("box", None, writable=True)
    root = driver.mount("box")
    (Path(root) / "file").write_bytes(b"x")
    pids = _programs_of(root)
    assert len(pids) == 1
    with monkeypatch.context() as patch:
        if end == "not asked":
            patch.setenv("PATH", "/nonexistent")
        elif end == "died":
            os.kill(pids[0], signal.SIGKILL)
            _wait_until(lambda: not _programs_of(root))
            assert not overlayfs.is_fuse(root), "a mount whose program died is none"
        driver.unmount("box")
    assert root not in dict(peers.mounts())
    _wait_until(lambda: not _programs_of(root))
    assert (Path(driver.mount("box")) / "file").read_bytes() == b"x"
    driver.unmount("box")
    driver.unmount("box")  # of what is not mounted


def _programs_of(root: str) -> list[int]:
    """The processes that serve a mount point."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if NAME.encode() in words[0] and os.fsencode(root) in words:
            found.append(int(entry.parts[2]))
    return found


def _wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_with_a_mask_owners_and_modes_are_in_an_attribute_and_seen_all_the_same(
    open_overlay: Callable[..., Overlay], fuse: str
) -> None:
    driver = open_overlay(f"overlay.mount_program={fuse}", "overlay.force_mask=private")
    driver.create("base", None, writable=False)
    layers.fill(driver, "base", [layers.directory("etc"), layers.file("etc/group", b"g", uid=3, gid=4)])
    driver.create("box", "base", writable=True)
    on_disk = (Path(driver.home) / "base/diff/etc/group").stat()
    assert (on_disk.st_uid, on_disk.st_gid, on_disk.st_mode & 0o7777) == (0, 0, 0o700)
    root = Path(driver.mount("box"))
    seen = (root / "etc/group").stat()
    assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) == (3, 4, 0o644)
    driver.unmount("box")
    diff = Path(driver.home) / "box/diff"
    assert diff.stat().st_mode & 0o7777 == 0o700
    assert os.getxattr(diff, "user.containers.override_stat") == b"0:0:0755:dir"


# --- traces -------------------------------------------------------------------------------------------------


def _whiteout(home: Path) -> None:
    (home / "box/diff/deep/er").mkdir(parents=True)
    (home / "box/diff/deep/er/.wh.gone").touch()


def _attribute(home: Path) -> None:
    (home / "box/diff/dir").mkdir()
    os.setxattr(home / "box/diff/dir", "user.fuseoverlayfs.opaque", b"y")


def _override(home: Path) -> None:
    os.setxattr(home / "box/diff", "user.containers.override_stat", b"0:0:0755:dir")


def _elsewhere(home: Path) -> None:
    """What is seen at a mount point is no content; what a symlink leads to neither."""
    (home / "box/merged/.wh.not-ours").touch()
    (home / "box/diff/link").symlink_to(home / "box/merged")
    (home / "box/diff/.w").touch()


@pytest.mark.parametrize(
    ("trace", "needed"), [(_whiteout, True), (_attribute, True), (_override, True), (_elsewhere, False)]
)
@pytest.mark.parametrize("known", ["", "perhaps"])
def test_layers_that_a_program_made_are_recognised(
    open_overlay: Callable[..., Overlay], trace: Callable[[Path], None], needed: bool, known: str
) -> None:
    driver = open_overlay()
    driver.create("box", None, writable=True)
    home = Path(driver.home)
    trace(home)
    flag = home / ".has-mount-program"
    if known:
        flag.write_text(known)
    else:
        flag.unlink()
    assert program.is_needed(driver.home) is needed
    assert flag.read_bytes() == (b"true" if needed else b"false")
    assert flag.stat().st_mode & 0o7777 == 0o600
    flag.write_text(str(not needed).lower())
    assert program.is_needed(driver.home) is not needed, "it is asked once"


# --- as an ordinary user ------------------------------------------------------------------------------------

_INSIDE = """
import sys
from orlop.drivers import registry
import layers
place, *options = sys.argv[1:]
driver = registry.open_driver("overlay", graph_root=place, run_root=place + "/run", options=options, durable=False,
                              rootless=True)
driver.create("base", None, writable=False)
try:
    layers.fill(driver, "base", [layers.file("file", b"x", uid=3)])
except OSError as error:
    print(error.strerror)
else:
    print(open(driver.mount("base", options=["ro"]) + "/file").read())
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_owners_that_cannot_be_given_may_be_ignored(tmp_path: Path, ignored: bool) -> None:
    """By somebody who has one id only."""
    (tmp_path / "run").mkdir()
    option = f"overlay.ignore_chown_errors={str(ignored).lower()}"
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    done = subprocess.run(
        [*enter, sys.executable, "-c", _INSIDE, str(tmp_path), option],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(peers.__file__)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout == "x\n") is ignored, done.stdout
