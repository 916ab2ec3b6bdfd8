"""An ordinary user's store: in a user namespace, with the ids that are set aside for him, on every driver he can use.

The user is made by the suite, and removed again. He cannot read an environment below /root, so he gets a copy of the
package and of what it needs, and the first interpreter of this version that he can run.
"""

import importlib.util
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import orlop
import peers

_NEEDED = ("fastcrc", "isal", "backports")  # what the package imports, if it is there
# Where udev runs anybody may open /dev/fuse. Where it does not, he is shown a device of that mode in its place.
_AS_USER = """
[ ! -e "$0" ] || mount --bind "$0" /dev/fuse || exit 120
user=$1
shift
exec setpriv --reuid "$user" --regid "$user" --clear-groups "$@"
"""
_FIRST_ID = 1_700_000
_IDS = 65_536


@dataclass(frozen=True)
class User:
    """Somebody without rights, and what he may read: `place` is his, `library` is for all."""

    uid: int
    name: str
    home: Path
    python: str
    library: Path
    fuse: Path

    def run(self, *argv: str, data: bytes = b"", ok: bool = True, **environ: str) -> peers.Result:
        """A program run by him, in an environment that says no more than a login does."""
        words = {
            "HOME": str(self.home),
            "USER": self.name,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin",
            "PYTHONPATH": str(self.library),
            "TMPDIR": str(self.home),
        }
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", _AS_USER, str(self.fuse), str(self.uid), *argv],
            input=data,
            capture_output=True,
            timeout=120,
            cwd=self.home,
            env=words | environ,
            check=False,
        )
        if ok and done.returncode != 0:
            raise peers.Failed(
                f"{argv}: exit {done.returncode}\n{(done.stdout + done.stderr).decode()[-3000:]}"
            )
        return peers.Result(done.returncode, done.stdout, done.stderr)

    def orlop(self, *args: str, **how: Any) -> peers.Result:
        return self.run(self.python, str(self.library / "orlop-storage"), *args, **how)


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    peers.need_root()
    peers.need("newuidmap", "newgidmap", "useradd", "userdel", "usermod", "setpriv", "unshare")
    room = Path(
        tempfile.mkdtemp(prefix="orlop-user-", dir="/tmp")
    )  # pytest's own directories are root's alone
    room.chmod(0o755)
    name = f"orlop{os.getpid()}"
    ids = f"{_FIRST_ID}-{_FIRST_ID + _IDS - 1}"
    subprocess.run(["useradd", "-m", "-d", room / "home", "-U", "-s", "/bin/sh", name], check=True)
    try:
        for kind in ("uid", "gid"):
            _set_aside(name, kind, ids)
        library = room / "library"
        library.mkdir()
        _install(library)
        entry = subprocess.run(["id", "-u", name], check=True, capture_output=True, text=True)
        uid = int(entry.stdout)
        fuse = room / "fuse"
        if os.path.exists("/dev/fuse"):
            os.mknod(fuse, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
            fuse.chmod(0o666)
        yield User(uid, name, room / "home", _interpreter(uid), library, fuse)
    finally:
        peers.unmount_below(room)
        subprocess.run(["userdel", name], check=True, capture_output=True)
        shutil.rmtree(room)


def _set_aside(name: str, kind: str, ids: str) -> None:
    """Exactly these, whatever useradd chose."""
    for line in Path(f"/etc/sub{kind}").read_text().splitlines():
        owner, _, rest = line.partition(":")
        if owner == name:
            start, count = map(int, rest.split(":"))
            given = f"{start}-{start + count - 1}"
            subprocess.run(["usermod", f"--del-sub{kind}s", given, name], check=True)
    subprocess.run(["usermod", f"--add-sub{kind}s", ids, name], check=True)


def _install(library: Path) -> None:
    for module in ("orlop", *_NEEDED):
        found = importlib.util.find_spec(module)
        for place in (found.submodule_search_locations or ()) if found else ():
            shutil.copytree(place, library / module, ignore=shutil.ignore_patterns("__pycache__"))
    (library / "orlop-storage").write_text("from orlop.dropin.main import run\n\nrun()\n")
    subprocess.run(["chmod", "-R", "a+rX", library], check=True)


def _interpreter(uid: int) -> str:
    """One of this very version, because compiled modules were made for it."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    ask = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            said = subprocess.run(
                [python, "-I", "-c", ask],
                capture_output=True,
                text=True,
                user=uid,
                group=uid,
                check=False,
                cwd="/",
            )
        except OSError:
            continue
        if said.stdout.strip() == version:
            return python
    return peers.missing(f"a Python {version} that an ordinary user can run")


PROGRAM = f"overlay.mount_program={shutil.which('fuse-overlayfs')}"
CASES = {
    "vfs": ("vfs", ()),
    "overlay": ("overlay", ()),
    "overlay with fuse-overlayfs": ("overlay", (PROGRAM,)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, tuple[str, ...]]:
    driver, options = CASES[request.param]
    if options:
        peers.need("fuse-overlayfs")
        if not os.path.exists("/dev/fuse"):
            peers.missing("/dev/fuse")
    return driver, options


@pytest.fixture
def roots(user: User) -> Iterator[tuple[str, str]]:
    """A graph root and a run root in the user's home, which must be empty of others' files at the end."""
    base = user.home / "store"
    yield str(base / "graph"), str(base / "run")
    peers.unmount_below(base)
    shutil.rmtree(base, ignore_errors=True)


def _layers() -> tuple[bytes, bytes]:
    """Files of several owners, among them directories that nobody else may enter; then a change of them."""
    lower, upper = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=lower, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _member(tar, "etc", type=tarfile.DIRTYPE, mode=0o755)
        _member(tar, "etc/passwd", b"root:x:0:0\n")
        _member(tar, "private", type=tarfile.DIRTYPE, mode=0o700, uid=1000, gid=1001)
        _member(tar, "private/file", b"secret", mode=0o600, uid=1000, gid=1001)
        _member(tar, "private/deep", type=tarfile.DIRTYPE, mode=0o500, uid=33, gid=33)
        _member(tar, "private/deep/file", b"deep", mode=0o400, uid=33, gid=33)
        _member(tar, "su", b"\x7fELF" * 300, mode=0o4755, uid=_IDS, gid=_IDS)
        _member(tar, "link", type=tarfile.SYMTYPE, linkname="etc/passwd", uid=7)
        _member(tar, "fifo", type=tarfile.FIFOTYPE)
        _member(tar, "null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)
        _member(tar, "noted", b"n", pax_headers={"SCHILY.xattr.user.note": "here"})
        _member(tar, "gone", b"g")
        _member(tar, "opaque", type=tarfile.DIRTYPE, mode=0o755)
        _member(tar, "opaque/old", b"old")
    with tarfile.open(fileobj=upper, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _member(tar, ".wh.gone")
        _member(tar, "opaque", type=tarfile.DIRTYPE, mode=0o755)
        _member(tar, "opaque/.wh..wh..opq")
        _member(tar, "opaque/new", b"new", uid=5)
    return lower.getvalue(), upper.getvalue()


def _member(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), 1_600_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


# Runs as root of the user's namespace. What it finds is printed, and judged outside.
_INSIDE = """
import io, json, os, shutil, stat, sys, tarfile
import orlop
graph, run, driver, options, lower, upper = sys.argv[1:]
said = {}

def facts(root):
    found = {}
    for directory, names, files in os.walk(root):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            found[os.path.relpath(path, root)] = [stat.filemode(status.st_mode), status.st_uid, status.st_gid]
    return found

with orlop.open_store(graph, run, driver, driver_options=json.loads(options), durability="none") as store:
    one = store.layers.put(open(lower, "rb"), id="one")
    two = store.layers.put(open(upper, "rb"), id="two", parent="one")
    image = store.images.create(layer="two", names=["image"])
    box = store.containers.create(image="image", names=["box"])
    with store.mounted(box.id) as root:
        said["seen"] = facts(root)
        table = [line.split() for line in open("/proc/self/mountinfo")]
        said["mounted"] = [row[row.index("-") + 1] for row in table if row[4] == str(root)]
        said["xattr"] = os.getxattr(root / "noted", "user.note").decode()
        (root / "etc/passwd").write_text("changed")
        os.chown(root / "etc/passwd", 12, 13)
        (root / "private/deep/file").unlink()
        shutil.rmtree(root / "opaque")
        (root / "opaque").mkdir()
        (root / "opaque/again").write_text("x")
    said["changes"] = [[c.kind, os.fsdecode(c.path)] for c in store.changes(box.layer)]
    with store.diff(box.layer) as stream:
        diff = stream.read()
    said["diff"] = sorted([m.name, m.uid, m.gid] for m in tarfile.open(fileobj=io.BytesIO(diff)))
    with store.diff("one", compression=0) as stream:
        said["exact"] = stream.read() == open(lower, "rb").read()
    with store.diff("two", compression=0) as stream:
        said["exact too"] = stream.read() == open(upper, "rb").read()
    said["owners"] = sorted({os.lstat(os.path.join(d, n)).st_uid for d, ns, fs in os.walk(graph) for n in ns + fs})
    if "keep" not in os.environ:
        store.containers.delete("box")
        store.images.delete("image")
        said["left"] = [l.id for l in store.layers] + store.storage_layers()
    store.shutdown()
print(json.dumps(said))
"""

_ENTER = """
import os, sys
from orlop.system import userns
sys.exit(userns.enter_namespace([sys.executable, *sys.argv[1:]], environ=os.environ))
"""


def _run_inside(user: User, roots: tuple[str, str], case: tuple[str, tuple[str, ...]], **environ: str) -> Any:
    places = []
    for name, blob in zip(("lower.tar", "upper.tar"), _layers(), strict=True):
        path = user.home / name
        path.write_bytes(blob)
        path.chmod(0o644)
        places.append(str(path))
    driver, options = case
    words = [user.python, "-c", _ENTER, "-c", _INSIDE, *roots, driver, json.dumps(options), *places]
    return json.loads(user.run(*words, **environ).out)


def _owners(directory: str) -> set[int]:
    """The machine's view: who owns what is there."""
    found = set()
    for above, names, files in os.walk(directory):
        found |= {os.lstat(os.path.join(above, name)).st_uid for name in names + files}
    return found


def test_a_store_in_a_users_namespace_works_from_import_to_removal(
    user: User, roots: tuple[str, str], case: tuple[str, tuple[str, ...]]
) -> None:
    """Import, image, container, mount, change, diff, delete; owners as the archive says, but inside."""
    said = _run_inside(user, roots, case)
    seen = said["seen"]
    kinds = {"vfs": [], "overlay": ["fuse.fuse-overlayfs" if case[1] else "overlay"]}
    assert said["mounted"] == kinds[case[0]]
    assert "null" not in seen  # nobody makes devices in a user namespace
    assert "gone" not in seen
    assert "opaque/old" not in seen
    assert seen["private"] == ["drwx------", 1000, 1001]
    assert seen["private/file"] == ["-rw-------", 1000, 1001]
    assert seen["su"] == ["-rwsr-xr-x", _IDS, _IDS]
    assert seen["link"][1:] == [7, 0]
    assert seen["fifo"][0].startswith("p")
    assert seen["opaque/new"][1] == 5
    assert said["xattr"] == "here"
    assert said["exact"]
    assert said["exact too"]
    assert ["C", "/etc/passwd"] in said["changes"]
    assert ["D", "/private/deep/file"] in said["changes"]
    assert ["A", "/opaque/again"] in said["changes"]
    diff = {name: (uid, gid) for name, uid, gid in said["diff"]}
    assert diff["etc/passwd"] == (12, 13)
    assert "private/deep/.wh.file" in diff
    assert "opaque/again" in diff
    assert set(said["owners"]) >= {0, 7, 33, 1000, _IDS}
    assert said["left"] == []
    assert _owners(roots[0]) == {user.uid}  # nothing is left of those that he could not remove as himself


def test_files_of_subordinate_ids_are_removed_by_the_command(
    user: User, roots: tuple[str, str], case: tuple[str, tuple[str, ...]]
) -> None:
    """Each command makes a namespace of its own (`--unshare`), and what an earlier one made is there for it."""
    _run_inside(user, roots, case, keep="1")
    assert _owners(roots[0]) >= {user.uid, _FIRST_ID + 999, _FIRST_ID + 32, _FIRST_ID + _IDS - 1}
    driver, options = case
    flags = ["--unshare", "--graph", roots[0], "--run", roots[1], "--storage-driver", driver]
    flags += [word for option in options for word in ("--storage-opt", option)]
    assert user.orlop(*flags, "layers").text.split()[:1] != []
    assert 'Modify "/etc/passwd"' in user.orlop(*flags, "changes", _layer_of(roots[0], driver)).lines
    assert user.orlop(*flags, "diff", "-u", "one").out == _layers()[0]
    user.orlop(*flags, "delete-container", "box")
    user.orlop(*flags, "delete-image", "image")
    assert user.orlop(*flags, "layers").text == ""
    assert _owners(roots[0]) == {user.uid}


def _layer_of(graph: str, driver: str) -> str:
    records = json.loads(Path(graph, f"{driver}-containers", "containers.json").read_text())
    return str(records[0]["layer"])


def test_without_any_word_the_store_is_in_the_users_home(user: User) -> None:
    """The paths of a rootless user: data in ~/.local/share, the run root where only he gets at."""
    environ = {"STORAGE_DRIVER": "vfs"}
    try:
        layer = user.orlop("--unshare", "import-layer", data=_layers()[0], **environ).text.strip()
        store = user.home / ".local/share/containers/storage"
        assert (store / "vfs" / "dir" / layer / "private").stat().st_uid == _FIRST_ID + 999
        run = user.home / f"storage-run-{user.uid}"
        assert run.stat().st_uid == user.uid
        assert run.stat().st_mode & 0o777 == 0o700
        assert (run / "containers").is_dir()
        status = user.orlop("--unshare", "status", **environ)
        assert f"Root: {store}" in (status.out + status.err).decode()
        user.orlop("--unshare", "delete-layer", layer, **environ)
        assert _owners(str(store)) == {user.uid}
    finally:
        shutil.rmtree(user.home / ".local", ignore_errors=True)


def test_a_store_of_root_is_not_opened_by_him(user: User, place: Path) -> None:
    """Told to use it, he gets an error, and it stays as it was."""
    with orlop.open_store(place / "graph", place / "run", "vfs") as store:
        store.layers.create(id="layer")
    before = (place / "graph" / "vfs-layers" / "layers.json").read_bytes()
    flags = [
        "--unshare",
        "--graph",
        str(place / "graph"),
        "--run",
        str(place / "run"),
        "--storage-driver",
        "vfs",
    ]
    refused = user.orlop(*flags, "delete-layer", "layer", ok=False)
    assert refused.status != 0
    assert b"ermission denied" in refused.out + refused.err
    assert (place / "graph" / "vfs-layers" / "layers.json").read_bytes() == before
