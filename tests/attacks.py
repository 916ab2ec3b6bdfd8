"""Attacks on the unpacker: each case is one archive, built in code, read by our parser and unpacked.

    outcome = attack(member(b"../../x", b"evil"))
    assert outcome.error is None and outcome.path("x").read_bytes() == b"evil"

It is unpacked in several ways: by the unpacker alone, under rules that the test may choose (`under`), and by the
overlay driver into the upper directory of a layer.

Every case runs in a process of its own, in a mount namespace of its own, where everything but the case's directory is
read-only: a wrong step is an error there and harms nobody. Beside the root that is unpacked into lies a canary, and
after each case it must be what it was, to the inode, byte, time and attribute.
"""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

import layers
import peers
import rawtar
import trees
import unpacking
from orlop import errors
from orlop.drivers import registry
from orlop.drivers.api import Driver
from orlop.stream.reader import TarReader
from orlop.stream.unpack import UnpackResult
from orlop.system import libc, xattrs

UNPACKERS = {
    "fork": "fork",
    "spawn": "spawn",
    "user namespace": "fork",
    "no chroot": "beneath",
    "no openat2": "walking",
}
"""How it is unpacked: as root in a worker of either kind, as root of a user namespace only, and in a process that
neither enters the root nor (the last) has the kernel's help."""

DRIVERS = ("overlay", "overlay in a user namespace")
"""By the driver, natively: it chooses rules and whiteouts."""

WAYS = (*UNPACKERS, *DRIVERS)

LAYER = {"rules": "layer"}
TREE = {"rules": "tree"}
"""As for a mount program, which knows whiteouts by their names."""
OVERLAY = {"rules": "tree", "whiteouts": xattrs.OPAQUE_ROOTLESS}
OWN: dict[str, str] = {}
"""What a driver chooses."""


def under(*rules: dict[str, str]) -> pytest.MarkDecorator:
    """A test that runs by every unpacker under each of these rules, as its `options`, and by the drivers."""
    names = {id(LAYER): "layer", id(TREE): "tree", id(OVERLAY): "whiteouts", id(OWN): ""}
    cases = [(way, options) for way in UNPACKERS for options in rules] + [(way, OWN) for way in DRIVERS]
    ids = [f"{way}-{names[id(options)]}".strip("-") for way, options in cases]
    return pytest.mark.parametrize(("way", "options"), cases, ids=ids)


def writes_whiteouts(options: dict[str, str]) -> bool:
    """Whether under these options whiteouts become what the kernel knows as such."""
    return options is OWN or "whiteouts" in options


SECONDS = 60
MEMORY = 1 << 30


@dataclass
class Outcome:
    """What came of an attack. `error` is the name of the exception, `peer` what clients know it by."""

    tree: Path
    error: str | None
    text: str
    peer: str
    number: int | None
    warnings: list[str]

    def path(self, name: str | bytes) -> Path:
        return self.tree / os.fsdecode(name)

    @property
    def names(self) -> list[str]:
        return sorted(trees.listing(self.tree, xattrs=False))[1:]

    def refused(self, *kinds: type[BaseException]) -> None:
        """It was refused, with one of these, or with any error that speaks of the input."""
        assert self.error is not None, self.names
        assert self.error in [kind.__name__ for kind in kinds], (self.error, self.text)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    peers.need_root()
    yield tmp_path
    peers.unmount_below(tmp_path)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(place: Path, way: str) -> Path:
    return make_root(place, way)


def make_root(place: Path, way: str) -> Path:
    """The directory that is unpacked into; of a driver, that of a layer."""
    if way not in DRIVERS:
        (place / "root").mkdir()
        return place / "root"
    for name in ("graph", "run"):
        (place / name).mkdir()
    driver = open_driver(place)
    driver.create(LAYER_ID, None, writable=False)
    return Path(driver.home, LAYER_ID, "diff")


LAYER_ID = "layer"


def open_driver(place: Path, *, rootless: bool = False) -> Driver:
    return registry.open_driver(
        "overlay",
        graph_root=str(place / "graph"),
        run_root=str(place / "run"),
        options=["overlay.skip_mount_home=true"],
        durable=False,
        rootless=rootless,
    )


def plant_canary(root: Path) -> Path:
    outside = root.parent / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "secret").write_bytes(b"canary")
    (outside / "secret").chmod(0o640)
    os.setxattr(outside / "secret", "user.canary", b"sings")
    (outside / "sub/file").write_bytes(b"canary")
    os.symlink("secret", outside / "link")
    for path in (outside / "secret", outside / "sub/file", outside / "sub", outside):
        os.utime(path, ns=(11, 12))
    return outside


@pytest.fixture
def canary(request: pytest.FixtureRequest, place: Path) -> Iterator[Path]:
    """What no attack may touch: `outside`, next to the root, or in `place` for what has no root of ours."""
    outside = plant_canary(
        request.getfixturevalue("root") if "way" in request.fixturenames else place / "root"
    )
    before = known(outside)
    yield outside
    assert known(outside) == before, "the outside was touched"


def known(outside: Path) -> object:
    found = trees.listing(outside, atime=False)
    return found, {name: os.lstat(outside / name).st_ino for name in found}, sorted(os.listdir("/"))


class Attack:
    """`attack(*pieces of a tar, onto=an archive to unpack before, rules=..., ...) -> Outcome`."""

    def __init__(self, place: Path, root: Path, way: str) -> None:
        self.place = place
        self.tree = root
        self.way = way
        self.in_userns = "user namespace" in way
        (
            place / "report"
        ).touch()  # all that the attacked process may write to, beside the tree and the canary
        self._around = sorted(os.listdir(place))

    def __call__(self, *pieces: bytes, onto: bytes = b"", **options: Any) -> Outcome:
        first, *more = self.each(*([onto] if onto else []), b"".join(pieces), **options)
        return first if first.error or not more else more[0]

    def each(self, *tars: bytes, **options: Any) -> list[Outcome]:
        """One after another, into the same tree."""
        if self.way in DRIVERS:
            assert not options, "these are the driver's to choose"
        else:
            options.setdefault("rules", "layer")
            options["way"] = UNPACKERS[self.way]
            options["in_userns"] = self.in_userns
        self._run([(tar, options) for tar in tars])
        assert sorted(os.listdir(self.place)) == self._around
        return [Outcome(self.tree, **found) for found in json.loads((self.place / "report").read_text())]

    def _run(self, attempts: list[tuple[bytes, dict[str, Any]]]) -> None:
        ready, go = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            self._attacked(attempts, ready[1], go[0])
        os.close(ready[1])
        os.close(go[0])
        try:
            os.read(ready[0], 1)
            if self.in_userns:
                for kind in ("uid", "gid"):
                    Path(f"/proc/{pid}/{kind}_map").write_text("0 0 4294967295\n")
            os.write(go[1], b"x")
        finally:
            os.close(ready[0])
            os.close(go[1])
            _, status = os.waitpid(pid, 0)
        assert status == 0, f"the process that was attacked ended with wait status {status}"

    def _attacked(self, attempts: list[tuple[bytes, dict[str, Any]]], ready: int, go: int) -> NoReturn:
        status = 1
        try:
            signal.alarm(SECONDS)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            libc.unshare(libc.CLONE_NEWNS | (libc.CLONE_NEWUSER if self.in_userns else 0))
            os.write(ready, b"x")
            os.read(go, 1)
            make_read_only(self.place, self.in_userns)
            found = [self._attempt(tar, options) for tar, options in attempts]
            (self.place / "report").write_text(json.dumps(found))
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)

    def _attempt(self, tar: bytes, options: dict[str, Any]) -> dict[str, Any]:
        try:
            result = self._unpacked(tar, options)
        except (errors.StorageError, OSError) as error:
            number = error.errno if isinstance(error, OSError) else None
            peer = error.peer if isinstance(error, errors.StorageError) else ""
            facts = (type(error).__name__, str(error), peer, number, [])
        else:
            facts = (None, "", "", None, list(result.warnings))
        return dict(zip(("error", "text", "peer", "number", "warnings"), facts, strict=True))

    def _unpacked(self, tar: bytes, options: dict[str, Any]) -> UnpackResult:
        if self.way not in DRIVERS:
            return unpacking.unpack(self.tree, entries(tar), **options)
        return layers.fill(open_driver(self.place, rootless=self.in_userns), LAYER_ID, entries(tar))


@pytest.fixture
def attack(place: Path, root: Path, way: str, canary: Path) -> Attack:
    return Attack(place, root, way)


def make_read_only(place: Path, in_userns: bool) -> None:
    """Everything but `place`, seen from this process."""
    private, slave, recursive, bind, remount, read_only = 1 << 18, 1 << 19, 0x4000, 0x1000, 0x20, 1
    libc.mount(None, "/", None, recursive | (slave if in_userns else private))
    libc.mount(str(place), str(place), None, bind)
    os.chdir(place)
    # What the mount has already a user namespace may not take from it.
    flags = os.statvfs("/").f_flag
    kept = flags & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME)
    kept |= 1 << 21 if flags & os.ST_RELATIME else 0
    libc.mount(None, "/", None, remount | bind | read_only | kept)


def entries(tar: bytes) -> Iterator[unpacking.Item]:
    reader = TarReader([tar + rawtar.END])
    for entry in reader:
        yield entry, b"".join(reader.payload())
