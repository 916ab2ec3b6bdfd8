"""An ordinary user's store: in a user namespace, with the ids that are set aside for him, on every driver."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ordinary_user
import pytest
from ordinary_user import FIRST_ID, IDS, User

import orlop
import peers


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    with ordinary_user.made() as user:
        yield user


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
        _member(tar, "su", b"\x7fELF" * 300, mode=0o4755, uid=IDS, gid=IDS)
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
    assert seen["su"] == ["-rwsr-xr-x", IDS, IDS]
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
    assert set(said["owners"]) >= {0, 7, 33, 1000, IDS}
    assert said["left"] == []
    assert _owners(roots[0]) == {user.uid}  # nothing is left of those that he could not remove as himself


def test_files_of_subordinate_ids_are_removed_by_the_command(
    user: User, roots: tuple[str, str], case: tuple[str, tuple[str, ...]]
) -> None:
    """Each command makes a namespace of its own (`--unshare`), and what an earlier one made is there for it."""
    _run_inside(user, roots, case, keep="1")
    assert _owners(roots[0]) >= {user.uid, FIRST_ID + 999, FIRST_ID + 32, FIRST_ID + IDS - 1}
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


def test_the_command_copies_files_of_any_owner_in_and_out(
    user: User, roots: tuple[str, str], case: tuple[str, tuple[str, ...]]
) -> None:
    driver, options = case
    flags = ["--graph", roots[0], "--run", roots[1], "--storage-driver", driver]
    flags += [word for option in options for word in ("--storage-opt", option)]
    user.orlop(*flags, "import-layer", "-i", "one", data=_layers()[0])
    user.orlop(*flags, "create-layer", "-i", "box", "one")
    user.orlop(*flags, "copy", "box:/private", "box:/copied")
    user.orlop(*flags, "copy", "--chown", "5:6", "box:/private/file", "box:/mine")
    script = "stat -c '%n %u:%g %a' copied copied/file copied/deep copied/deep/file mine"
    root = user.orlop(*flags, "mount", "box").text.strip() if driver == "vfs" else ""
    where = f"cd {root}" if root else f"cd {roots[0]}/overlay/box/diff"
    assert user.orlop(*flags, "unshare", "sh", "-c", f"{where} && {script}").lines == [
        "copied 0:0 755",
        "copied/file 1000:1001 600",
        "copied/deep 33:33 500",
        "copied/deep/file 33:33 400",
        "mine 5:6 600",
    ]
    user.orlop(*flags, "copy", "box:/copied/deep/file", str(user.home / "out"))
    assert (user.home / "out").read_text() == "deep"
    assert (user.home / "out").stat().st_uid == FIRST_ID + 32
    user.orlop(*flags, "unshare", "rm", str(user.home / "out"))
    user.orlop(*flags, "unmount", "-f", "box")
    user.orlop(*flags, "delete-layer", "box")
    user.orlop(*flags, "delete-layer", "one")


def _layer_of(graph: str, driver: str) -> str:
    records = json.loads(Path(graph, f"{driver}-containers", "containers.json").read_text())
    return str(records[0]["layer"])


@pytest.mark.parametrize("flags", [[], ["--unshare"]], ids=["no flag", "--unshare"])
def test_without_any_word_the_store_is_in_the_users_home(user: User, flags: list[str]) -> None:
    """The paths of a rootless user: data in ~/.local/share, the run root where only he gets at. A namespace is made
    for him whether he asks for it or not."""
    environ = {"STORAGE_DRIVER": "vfs"}
    try:
        layer = user.orlop(*flags, "import-layer", data=_layers()[0], **environ).text.strip()
        store = user.home / ".local/share/containers/storage"
        assert (store / "vfs" / "dir" / layer / "private").stat().st_uid == FIRST_ID + 999
        run = user.home / f"storage-run-{user.uid}"
        assert run.stat().st_uid == user.uid
        assert run.stat().st_mode & 0o777 == 0o700
        assert (run / "containers").is_dir()
        status = user.orlop(*flags, "status", **environ)
        assert f"Root: {store}" in (status.out + status.err).decode()
        user.orlop(*flags, "delete-layer", layer, **environ)
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


_AUTO = """
import json, os, sys
import orlop

graph, run, driver, options, blob = sys.argv[1:]
said = {}
with orlop.open_store(graph, run, driver, driver_options=json.loads(options), durability="none") as store:
    store.layers.put(open(blob, "rb"), id="layer")
    store.images.create(layer="layer", names=["image"])
    for name in ("one", "two"):
        box = store.containers.create(image="image", names=[name], auto_userns=orlop.AutoUserNS())
        said[name] = [list(map(str, box.mappings.uids)), list(map(str, box.mappings.gids))]
        with store.mounted(name) as root:
            status = os.lstat(root / "file")
            said[name] += [status.st_uid, status.st_gid]
    try:
        store.containers.create(auto_userns=orlop.AutoUserNS(size=65536))
    except orlop.Conflict as error:
        said["refused"] = str(error)
    for name in ("one", "two"):
        store.containers.delete(name)
    store.images.delete("image")
    said["left"] = [l.id for l in store.layers] + store.storage_layers()
    store.shutdown()
print(json.dumps(said))
"""


@pytest.mark.parametrize("named", [True, False])
def test_a_user_has_his_own_ids_for_automatic_user_namespaces(
    user: User, roots: tuple[str, str], case: tuple[str, tuple[str, ...]], named: bool
) -> None:
    """Those of his namespace, from 1 on: as many as are set aside for him, by whatever name he is known."""
    blob = user.home / "small.tar"
    with tarfile.open(blob, "w") as tar:
        _member(tar, "etc", type=tarfile.DIRTYPE, mode=0o755)
        _member(tar, "etc/passwd", b"u:x:2999:0\n")
        _member(tar, "file", uid=1000, gid=1001, mode=0o600)
    blob.chmod(0o644)
    driver, options = case
    words = [user.python, "-c", _ENTER, "-c", _AUTO, *roots, driver, json.dumps(options), str(blob)]
    said = json.loads(user.run(*words, **({} if named else {"USER": ""})).out)
    assert said["refused"] == (
        "an automatic user namespace of 65536 ids needs 6000 more user ids than there are: "
        f'65536 are set aside for "{user.name}", and 59536 of them are free'
    )
    assert said["one"] == [["0:1:3000"], ["0:1:3000"], 1001, 1002]
    assert said["two"] == [["0:3001:3000"], ["0:3001:3000"], 4001, 4002]
    assert said["left"] == []
