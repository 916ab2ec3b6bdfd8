"""Random damage in random stacks: noticed wherever it is done, and put right, so that the store is clean again.

The same seeds give the same damage. One run is many small ones: `make deep-check N=...`.
"""

import io
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import invariants
import orlop
import peers
import stacks
from damaged import Site

Change = Callable[[bytes, os.stat_result, random.Random], object]


def _flip(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return False
    with open(path, "r+b") as file:
        file.seek(chance.randrange(status.st_size))
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1 << chance.randrange(8)]))
    os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return True


def _resize(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return False
    size = chance.choice([0, status.st_size // 2, status.st_size + 1, status.st_size + 5000])
    os.truncate(path, size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return size != status.st_size


def _chmod(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    if stat.S_ISLNK(status.st_mode) or _is_untold(status):
        return False
    os.chmod(path, stat.S_IMODE(status.st_mode) ^ chance.choice([0o1, 0o200, 0o4000, 0o1000]))
    return True


def _chown(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    if _is_untold(status):
        return False
    os.chown(path, status.st_uid + chance.randrange(2), status.st_gid + 1, follow_symlinks=False)
    return True


def _time(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    time = status.st_mtime_ns - chance.randint(2, 100) * 10**9
    os.utime(path, ns=(0, time), follow_symlinks=False)
    return not _is_untold(status) and status.st_mtime_ns > 0


def _mark(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    name = chance.choice(["trusted.x", "user.x"])
    if _is_whiteout(status) or (
        name == "user.x" and stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
    ):
        return False
    os.setxattr(path, name, b"y", follow_symlinks=False)
    return True


def _remove(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    return True


def _replace(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    kind = chance.choice([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO])
    if stat.S_IFMT(status.st_mode) == kind:
        return False
    _remove(path, status, chance)
    if kind == stat.S_IFDIR:
        os.mkdir(path)
    elif kind == stat.S_IFLNK:
        os.symlink(b"/etc", path)
    else:
        os.mknod(path, kind | 0o644)
    return True


def _add(path: bytes, status: os.stat_result, chance: random.Random) -> bool:
    new = os.path.dirname(path) + b"/added!"
    if chance.randrange(2) or stat.S_ISDIR(status.st_mode):
        with open(new, "wb") as file:
            file.write(b"added")
    else:
        os.link(path, new, follow_symlinks=False)
    return True


def _is_untold(status: os.stat_result) -> bool:
    """Whether the archive has no header for it: a directory that it implies has the time when it was unpacked."""
    return _is_whiteout(status) or status.st_mtime_ns > stacks.BEFORE_NOW * 10**9


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


CHANGES: list[Change] = [_flip, _flip, _resize, _chmod, _chown, _time, _mark, _remove, _replace, _add]


def _damage(root: Path, chance: random.Random) -> str:
    """What was done below `root`; "" for nothing."""
    paths = []
    for directory, directories, files in os.walk(os.fsencode(root)):
        paths += [os.path.join(directory, name) for name in sorted(directories) + sorted(files)]
    for _ in range(50):
        if not paths:
            return ""
        path, change = chance.choice(sorted(paths)), chance.choice(CHANGES)
        status = os.lstat(path)
        above = os.stat(os.path.dirname(path))
        if change(path, status, chance):
            os.utime(os.path.dirname(path), ns=(above.st_atime_ns, above.st_mtime_ns))
            return f"{change.__name__} {path!r}"
    return ""


def _fill(store: orlop.Store, seed: int) -> list[str]:
    layers: list[str] = []
    for layer in stacks.stack(seed):
        try:
            below = layers[-1] if layers else None
            layers.append(
                store.layers.put(io.BytesIO(layer.blob), id=f"l{seed}-{len(layers)}", parent=below).id
            )
        except (orlop.StorageError, OSError):
            break  # an archive that contradicts itself
    if layers:
        store.images.create(layer=layers[-1], names=[f"i{seed}"])
    return layers


def _case(seed: int, driver: str, place: Path) -> None:
    site = Site(place / f"{seed}{driver}", driver)
    chance = random.Random(seed)
    with site.open() as store:
        layers = _fill(store, seed % 50)
        if not layers:
            return
        victim = chance.choice(layers)
        done = _damage(site.tree(victim), chance)
        report = store.check()
        if not done:
            assert report.findings == ()
            return
        assert victim in {finding.id for finding in report.findings}, (seed, done)
        outcome = store.apply(store.plan_repair(report, containers=True))
        assert outcome.failed == (), (seed, done)
        again = store.check()
        assert again.findings == (), (seed, done, [finding.text for finding in again.findings])
    peers.unmount_below(site.place)
    invariants.hold(site.graph, site.place / "run", driver)
    subprocess.run(["rm", "-rf", site.place], check=True)


@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("seed", range(6))
def test_random_damage(seed: int, driver: str, place: Path) -> None:
    peers.need_root()
    _case(seed, driver, place)


@pytest.mark.deep
@pytest.mark.parametrize("driver", ["vfs", "overlay"])
def test_more_random_damage(driver: str, place: Path) -> None:
    peers.need_root()
    first = int(os.environ.get("SEED") or 1000)
    for seed in range(first, first + int(os.environ.get("N") or 300)):
        _case(seed, driver, place)
