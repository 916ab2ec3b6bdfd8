"""Automatic user namespaces beside podman: one store, one file of subordinate ids, and no id twice.

podman looks at the machine's /etc/subuid. It, and whatever of ours runs here, sees another file in its place, in a
mount namespace of its own; the machine's stays as it is.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import invariants
import orlop
import peers
import rootfs
from orlop import IDMap, IDMappings
from tarballs import archive

FIRST = 300_000

_OURS = """
import sys
import orlop

graph, run, driver, count, image, size = sys.argv[1:]
with orlop.open_store(graph, run, driver, durability="none", lock_timeout=60) as store:
    for _ in range(int(count)):
        box = store.containers.create(image=image or None, auto_userns=orlop.AutoUserNS(size=int(size)))
        print(box.id)
"""

_ALONE = 'mount --bind "$0" /etc/subuid; mount --bind "$0" /etc/subgid; exec "$@"'


@dataclass(frozen=True)
class Place:
    """A store that both use, and the subordinate ids that they see."""

    base: Path
    driver: str

    @property
    def roots(self) -> tuple[str, str]:
        return str(self.base / "graph"), str(self.base / "run")

    def set_aside(self, text: str) -> None:
        (self.base / "aside").write_text(text)

    def start(self, *words: str) -> subprocess.Popen[str]:
        alone = ["unshare", "--mount", "sh", "-ec", _ALONE, str(self.base / "aside")]
        return subprocess.Popen(
            [*alone, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def podman(self, *words: str) -> subprocess.Popen[str]:
        graph, run = self.roots
        roots = ["--root", graph, "--runroot", run, "--storage-driver", self.driver]
        return self.start(peers.program("podman"), *roots, *words)

    def ours(self, count: int, size: int, image: str = "") -> subprocess.Popen[str]:
        return self.start(sys.executable, "-c", _OURS, *self.roots, self.driver, str(count), image, str(size))

    def by_podman(self, userns: str) -> str:
        """The id of a container that podman made."""
        return ended(self.podman("create", f"--userns={userns}", "small", "/bin/true"))

    def by_us(self, size: int, image: str = "") -> str:
        return ended(self.ours(1, size, f"localhost/{image}:latest" if image else ""))

    def open(self) -> orlop.Store:
        return orlop.open_store(*self.roots, self.driver, durability="none")

    def maps(self, id: str) -> str:
        """The map of a container's users, which must be that of its groups."""
        with self.open() as store:
            found = store.containers[id].mappings
        assert found.uids == found.gids
        return ", ".join(map(str, found.uids))

    def delete(self, *ids: str) -> None:
        with self.open() as store:
            for id in ids:
                store.containers.delete(id)


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    if process.returncode != 0:
        raise peers.Failed(f"{process.args}: exit {process.returncode}\n{out[-1000:]}{err[-2000:]}")
    return out.strip()


def failed(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode != 0, out
    return err


@pytest.fixture(params=["overlay", "vfs"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    peers.need_root()
    peers.need("podman", "unshare")
    base = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))  # podman wants a run root of at most 50 characters
    base.chmod(0o711)
    place = Place(base, request.param)
    try:
        place.set_aside(f"containers:{FIRST}:65536\n")
        small = base / "small.tar"
        small.write_bytes(archive("etc", {"name": "etc/passwd", "data": b"u:x:50:50\n"}).getvalue())
        ended(place.podman("import", str(small), "small"))
        yield place
        with place.open() as store:
            assert store.shutdown() == []
        invariants.hold(base / "graph", base / "run", place.driver)
        assert peers.mounts_below(base) == []
    finally:
        peers.unmount_below(base)
        shutil.rmtree(base)


def test_each_sees_what_the_other_has_given_out(place: Place) -> None:
    """Containers are made in turn; ids of a container that the other deleted are free again."""
    made = [place.by_podman("auto:size=100"), place.by_us(100), place.by_podman("auto:size=100")]
    made.append(place.by_us(100, "small"))
    assert [place.maps(id) for id in made] == [f"0:{FIRST + 100 * n}:100" for n in range(4)]
    place.delete(made[1])
    ended(place.podman("rm", made[2]))
    assert place.maps(place.by_podman("auto:size=150")) == f"0:{FIRST + 100}:150"
    assert place.maps(place.by_us(60)) == f"0:{FIRST + 250}:50, 50:{FIRST + 400}:10"


def test_maps_that_somebody_chose_are_used_for_both(place: Place) -> None:
    with place.open() as store:
        explicit = IDMappings([IDMap(0, FIRST, 10)], [IDMap(0, FIRST, 10)])
        store.containers.create(mappings=explicit)
    assert place.maps(place.by_podman("auto:size=10")) == f"0:{FIRST + 10}:10"
    words = ("create", f"--uidmap=0:{FIRST + 20}:5", f"--gidmap=0:{FIRST + 20}:5", "small", "/bin/true")
    ended(place.podman(*words))
    assert place.maps(place.by_us(10)) == f"0:{FIRST + 25}:10"


def test_additional_entries_are_cut_out_alike(place: Place) -> None:
    """Of the same request both make the same entries."""
    theirs = place.by_podman(f"auto:size=20,uidmapping=5:{FIRST + 3}:2,gidmapping=5:{FIRST + 3}:2")
    with place.open() as store:
        (maps,) = {store.containers[theirs].mappings}
        store.containers.delete(theirs)
    words = [*place.roots, place.driver]
    made = ended(place.start(sys.executable, "-c", _ADDITIONAL, *words, str(FIRST + 3)))
    assert made == f"0:{FIRST}:3, 3:{FIRST + 5}:2, 7:{FIRST + 7}:13, 5:{FIRST + 3}:2"
    # (podman 4.3 puts them in the order of container ids; the order says nothing where no two overlap.)
    assert sorted(made.split(", ")) == sorted(map(str, maps.uids)) == sorted(map(str, maps.gids))


_ADDITIONAL = """
import sys
import orlop

graph, run, driver, host = sys.argv[1:]
extra = [orlop.IDMap(5, int(host), 2)]
wanted = orlop.AutoUserNS(size=20, additional=orlop.IDMappings(extra, extra))
with orlop.open_store(graph, run, driver, durability="none") as store:
    print(*store.containers.create(auto_userns=wanted).mappings.uids, sep=", ")
"""


def test_both_say_that_the_ids_are_used_up(place: Place) -> None:
    place.set_aside(f"containers:{FIRST}:150\n")
    place.by_podman("auto:size=100")
    text = "could not find enough available IDs"  # later versions: errors.NotEnoughIDs.peer
    assert text in failed(place.podman("create", "--userns=auto:size=51", "small", "/bin/true"))
    assert "needs 1 more user ids" in failed(place.ours(1, 51))
    place.by_us(50)
    assert text in failed(place.podman("create", "--userns=auto:size=1", "small", "/bin/true"))


def test_both_at_once_give_out_no_id_twice(place: Place) -> None:
    """They wait for each other at `userns.lock`."""
    ours = [place.ours(6, 10, "localhost/small:latest"), place.ours(6, 10)]
    theirs = []
    for _ in range(4):
        pair = [place.podman("create", "--userns=auto:size=10", "small", "/bin/true") for _ in range(2)]
        theirs += [ended(one) for one in pair]
    made = theirs + [id for one in ours for id in ended(one).split()]
    assert len(set(made)) == 20
    found = sorted(place.maps(id) for id in made)
    assert found == sorted(f"0:{FIRST + 10 * n}:10" for n in range(20))


USERS = {
    "blanks at the ends of a line": b" \ta:x:0:2000 \r\n",
    "blanks of Unicode": b"\xc2\xa0nobody:x:9000:0\na:x:0:2000\xe3\x80\x80\n",
    "a blank in a field": b"a:x: 9000:0\nb:x:2000:0\n",
    "control characters": b"\x1cnobody:x:2000:0\na:x:0:9000\x1f\n",
    "halves of characters": b"a:x:0:9000\x85\nb:x:2000:1\xc2\x85\n",
    "signs and zeros": b"a:x:+00000000000000000000002000:-9000\n",
    "no numbers": b"a:x:9_000:0x9000\nb:x:9000.5:\nc:9000\nd:x:2000\n",
    "the longest line": b"a:x:1:1\n" + b"b:x:2000:0:".ljust(65_535, b"b") + b"\n",
    "comments": b"#a:x:2000:0\n",
}
TOO_LONG = b"a:x:2000:1\n" + b"b:x:3000:0:".ljust(65_536, b"b")


def test_the_users_of_an_image_are_read_alike(place: Place) -> None:
    """podman 4.3 counts one id less than later versions: up to the highest, without it. All else is equal."""
    files = {name: (data, 2000) for name, data in USERS.items()}
    files |= {"a line too long": (TOO_LONG, 1024), "and ended": (TOO_LONG + b"\r\n", 1024)}
    if place.driver == "vfs":  # what is read does not depend on the driver
        files = dict(list(files.items())[::4])
    for name, (data, theirs) in files.items():
        blob = place.base / "users.tar"
        blob.write_bytes(archive("etc", {"name": "etc/passwd", "data": data}).getvalue())
        ended(place.podman("import", str(blob), "users"))
        made = ended(place.podman("create", "--userns=auto", "users", "/bin/true"))
        assert place.maps(made) == f"0:{FIRST}:{theirs}", name
        ended(place.podman("rm", made))
        made = place.by_us(0, "users")
        assert place.maps(made) == f"0:{FIRST}:{theirs + (theirs != 1024)}", name
        place.delete(made)


# --- running ------------------------------------------------------------------------------------------------

_SCRIPT = (
    "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g;"
    "[ -O /etc/passwd ] && echo mine; [ -O /theirs ] || echo not mine; ls -n /theirs; echo x > /tmp/made"
)


@pytest.fixture
def tools(place: Place) -> None:
    """The image "tools", with a file that belongs to user 40 and group 41."""
    root = rootfs.make(place.base / "tools")
    (root / "etc/passwd").write_text("root:x:0:0\nu:x:2500:0\n")
    (root / "theirs").write_text("")
    os.chown(root / "theirs", 40, 41)
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as tar:
        tar.add(root, arcname=".")
    (place.base / "tools.tar").write_bytes(blob.getvalue())
    shutil.rmtree(root)
    ended(place.podman("import", str(place.base / "tools.tar"), "tools"))


def _seen(said: str) -> None:
    """What the script must have found, in a container with `count` ids from FIRST + 100 on."""
    *maps, uid, gid, mine, others, listed = said.splitlines()
    assert [line.split() for line in maps] == [["0", str(FIRST + 100), "2501"]] * 2
    assert (uid, gid, mine, others) == ("0", "0", "mine", "not mine")
    assert listed.split()[2:4] == ["40", "41"]


def test_a_container_runs_with_the_ids_that_it_was_given(place: Place, tools: None) -> None:
    """crun, in a user namespace of the maps that are in the record, on the files that `mount` shows."""
    peers.need("crun")
    place.by_podman("auto:size=100")
    box = place.by_us(0, "tools")
    with place.open() as store:
        mappings = store.containers[box].mappings
        with store.mounted(box) as root:
            _seen(_run(place, root, mappings))
            made = os.lstat(root / "tmp/made")
        assert (made.st_uid, made.st_gid) == mappings.to_host(0, 0)


def _run(place: Place, root: Path, mappings: IDMappings) -> str:
    bundle = place.base / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    maps = {
        f"{kind}Mappings": [
            {"containerID": m.container_id, "hostID": m.host_id, "size": m.size} for m in entries
        ]
        for kind, entries in (("uid", mappings.uids), ("gid", mappings.gids))
    }
    config: dict[str, Any] = {
        "ociVersion": "1.0.0",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", _SCRIPT],
            "env": ["PATH=/usr/bin"],
            "cwd": "/",
        },
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("user", "pid", "network", "ipc", "uts", "mount")],
            **maps,
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    bundle.chmod(0o755)
    # Where it lies in the store, root of the namespace has no way to: the directories above are the real root's.
    script = f"mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount --bind '{root}' '{bundle}/rootfs'; exec "
    script += f"crun --cgroup-manager=disabled --root {place.base}/state run -b {bundle} box"
    try:
        return ended(place.start("sh", "-ec", script))
    finally:
        shutil.rmtree(bundle)
