"""CVE-2024-9676: an image whose /etc/passwd is no small file, and a container with an automatic user namespace.

The files of the image are read by root, outside of any container, before there is one. Whatever the image has in
their place, nothing outside of it is read, nothing blocks, and memory has an end.
"""

import json
import os
import resource
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import attacks
import orlop
from orlop import errors
from orlop.formats.limits import ACCOUNTS_FILE_MAX
from orlop.system import libc, subids
from tarballs import archive, link

SPY = b"spy:x:60000:60000\n"  # whoever reads the host's file gives 60001 ids
SECONDS = 60
SMALL = 1024

DRIVERS = ["vfs", "overlay"]


def special(name: str, type: bytes, major: int = 0, minor: int = 0) -> dict[str, Any]:
    return {"name": name, "type": type, "devmajor": major, "devminor": minor, "mode": 0o666}


def file(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "data": data}


# "@" is a directory of the host.
CASES: dict[str, list[dict[str, Any] | str]] = {
    "a link to a file of the host": ["etc", link("etc/passwd", "@/passwd"), link("etc/group", "@/passwd")],
    "a link that climbs": ["etc", link("etc/passwd", "../" * 40 + "@/passwd")],
    "a linked directory": [link("etc", "@")],
    "a linked directory that climbs": [link("etc", "../" * 40 + "@")],
    "a chain of links": ["etc", link("etc/passwd", "/a"), link("a", "b"), link("b", "@/passwd")],
    "a link through proc": ["etc", link("etc/passwd", "/proc/self/root@/passwd")],
    "a link to the caller's working directory": ["etc", link("etc/passwd", "/proc/self/cwd/host/passwd")],
    "a link to itself": ["etc", link("etc/passwd", "passwd"), link("etc/group", "/etc/group")],
    "a link to a FIFO of the host": ["etc", link("etc/passwd", "@/fifo")],
    "a FIFO": ["etc", special("etc/passwd", tarfile.FIFOTYPE), special("etc/group", tarfile.FIFOTYPE)],
    "a link to a FIFO of the image": ["etc", special("f", tarfile.FIFOTYPE), link("etc/passwd", "../f")],
    "a device without end": ["etc", special("etc/passwd", tarfile.CHRTYPE, 1, 5)],
    "a terminal": ["etc", special("etc/passwd", tarfile.CHRTYPE, 5, 0)],
    "a device that acts when it is opened": ["etc", special("etc/group", tarfile.CHRTYPE, 10, 130)],
    "a disk": ["etc", special("etc/passwd", tarfile.BLKTYPE, 7, 0)],
    "a directory": ["etc", "etc/passwd", "etc/group"],
    "a file where a directory should be": [file("etc", SPY)],
    "one line of 7 MiB": ["etc", file("etc/passwd", b"a:x:9999:0:".ljust(7 << 20, b"x"))],
    "numbers of megabytes": [
        "etc",
        file("etc/passwd", b"a:x:-" + b"9" * 60_000 + b":0\n"),
        file("etc/group", b"a:x:0" + b"x" * (7 << 20)),
    ],
    "only line ends": ["etc", file("etc/passwd", b"\n" * (7 << 20)), file("etc/group", b"\r\n" * 1000)],
}


class Host:
    """A directory with a store and with what an image must not reach; attempts run beside it, in processes."""

    def __init__(self, place: Path, driver: str) -> None:
        self.place = place
        self.driver = driver
        self.host = place / "host"
        self.host.mkdir()
        (self.host / "passwd").write_bytes(SPY)
        os.mkfifo(self.host / "fifo")
        for name in ("subuid", "subgid"):
            (place / name).write_text("containers:100000:65536\n")
        (place / "report").touch()

    def store(self) -> orlop.Store:
        return orlop.open_store(
            self.place / "graph", self.place / "run", self.driver, durability="none", lock_timeout=10
        )

    def image(self, members: list[dict[str, Any] | str]) -> Path:
        """An image named "image"; where the files of its layer lie."""
        for member in members:
            if isinstance(member, dict) and "linkname" in member:
                member["linkname"] = member["linkname"].replace("@", str(self.host))
        with self.store() as store:
            layer = store.layers.put(archive(*members))
            store.images.create(layer=layer.id, names=["image"])
        home = self.place / "graph" / self.driver
        return home / "dir" / layer.id if self.driver == "vfs" else home / layer.id / "diff"

    def attempt(self) -> tuple[int, str]:
        """Make a container of the image: how many ids it got, or 0 and what was said against it."""
        pid = os.fork()
        if not pid:
            self._in_child()
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"the process that was attacked ended with wait status {status}"
        ids, text = json.loads((self.place / "report").read_text())
        return ids, text

    def _in_child(self) -> NoReturn:
        status = 1
        try:
            signal.alarm(SECONDS)
            resource.setrlimit(resource.RLIMIT_DATA, (attacks.MEMORY, attacks.MEMORY))
            libc.unshare(libc.CLONE_NEWNS)
            attacks.make_read_only(self.place, False)
            subids.FILES.update(uid=str(self.place / "subuid"), gid=str(self.place / "subgid"))
            with self.store() as store:
                try:
                    made = store.containers.create(image="image", auto_userns=orlop.AutoUserNS())
                    found = sum(m.size for m in made.mappings.uids), ""
                    store.containers.delete(made.id)
                except errors.LimitExceeded as error:
                    found = 0, str(error)
                left = {layer.id for layer in store.layers} ^ set(store.storage_layers())
                assert not left, left
                for image in store.images:
                    assert len(store.storage_layers()) == 1 + len(image.mapped_layers)
                store.shutdown()
            (self.place / "report").write_text(json.dumps(found))
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)


@pytest.fixture(params=DRIVERS)
def host(request: pytest.FixtureRequest, place: Path, canary: Path) -> Host:
    return Host(place, request.param)


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_file_of_the_image_counts_as_empty(host: Host, case: str) -> None:
    host.image([dict(m) if isinstance(m, dict) else m for m in CASES[case]])
    assert host.attempt() == (SMALL, "")


def test_the_attacks_would_show_if_one_succeeded(host: Host) -> None:
    """The host's file, taken into the image, gives the ids that no case above may give."""
    host.image(["etc", file("etc/passwd", SPY)])
    assert host.attempt() == (60001, "")


def grown(path: Path, size: int) -> None:
    """A file that takes no room however large it is."""
    with open(path, "ab") as out:
        out.truncate(size)


@pytest.mark.parametrize(
    ("size", "make"),
    [
        pytest.param(10 << 30, grown, id="sparse, 10 GiB"),
        pytest.param(
            ACCOUNTS_FILE_MAX + 1, lambda path, size: path.write_bytes(b"a:x:1:1\n".ljust(size)), id="full"
        ),
    ],
)
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_a_file_with_more_than_anybody_has_users_is_refused(
    host: Host, name: str, size: int, make: Callable[[Path, int], object]
) -> None:
    files = host.image(["etc", file(f"etc/{name}", b"root:x:0:0\n")])
    make(files / "etc" / name, size)
    ids, text = host.attempt()
    assert ids == 0
    assert text == (
        f"/etc/{name} of the image has more than 8388608 bytes; give the size of the namespace instead"
    )


def test_files_as_large_as_they_may_be_are_read_in_little_memory(host: Host) -> None:
    """Lines as short as can be, and one as long as can be."""
    files = host.image(["etc", file("etc/passwd", b""), file("etc/group", b"")])
    (files / "etc/passwd").write_bytes(b"a:x:1\n" * (ACCOUNTS_FILE_MAX // 6))
    (files / "etc/group").write_bytes(b"a:x:2000:".ljust(ACCOUNTS_FILE_MAX, b","))
    assert host.attempt() == (2001, "")
