"""A tour of orlop in one run: a root file system goes in, is used and changed, and comes out bit for bit.

    make demo                          a root file system made from this machine's own files
    make demo ARCHIVE=rootfs.tar.zst   one of yours: a tar, plain or gzip, bzip2, xz or zstd

Needs no other program and no root. Everything that touches the store goes through the package's public names.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shlex
import shutil
import stat
import sys
import tarfile
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import orlop

ENTRIES, SIZE = 8_000, 120_000_000  # what the home-made root file system aims at
LEAST = 5_000  # a bare machine may not have that many files: the rest is made up
SOURCES = ("/etc", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/usr/local", "/opt")
LARGEST = 1_500_000  # a few large files would be all of it otherwise
STEPS = 8
NAMESPACE = "_CONTAINERS_USERNS_CONFIGURED"  # set for programs inside a user namespace


# --- talking ------------------------------------------------------------------------------------------------


def main(argv: list[str]) -> None:
    archive = Path(argv[1]).resolve() if len(argv) > 1 else None
    if archive is not None and not archive.is_file():
        raise SystemExit(f"make demo ARCHIVE={argv[1]}: there is no such file")
    how = Powers()
    say("orlop: a root file system goes in, is used and changed, and comes out bit for bit\n")
    say(textwrap.fill(how.sentence, 92, initial_indent="    ", subsequent_indent="    ") + "\n")

    place = Path(tempfile.mkdtemp(prefix="orlop-demo-"))
    try:
        tour(place, archive, how)
    except BaseException:
        print(f"What was made so far is in {place}", file=sys.stderr)
        raise


def tour(place: Path, archive: Path | None, how: Powers) -> None:
    store_roots = {"graph_root": str(place / "graph"), "run_root": str(place / "run"), "driver": "vfs"}
    began = time.perf_counter()

    with step("a root file system"):
        if archive is None:
            archive = place / "rootfs.tar.gz"
            say(make_archive(archive, devices=how.devices))
        tar_digest, tar_size = digest_of_tar(archive)
        say(f"{archive}: {megabytes(archive.stat().st_size)}, {megabytes(tar_size)} unpacked")

    with orlop.open_store(**store_roots, driver_options=how.options) as store:
        with step("import it as a layer"):
            with archive.open("rb") as blob:
                layer = store.layers.put(blob, names=["demo-base"])
            say(f"layer {layer.id[:12]}: diff {layer.diff_digest}")
            rate(layer.diff_size)

        with step("an image over it, with its configuration and manifest"):
            config, manifest = documents(layer)
            image = store.images.create(
                id=hashlib.sha256(config).hexdigest(),
                names=["localhost/orlop-demo:latest"],
                layer=layer.id,
                data={f"sha256:{hashlib.sha256(config).hexdigest()}": config, "manifest": manifest},
            )
            say(f"image {image.id[:12]} named {image.names[0]}, digest {image.digests[0]}")
            say(f"data: {', '.join(key[:24] for key in store.images.data(image.id))}")

        with step("a container on the image"):
            box = store.containers.create(image=image.id, names=["demo-box"])
            say(f"container {box.id[:12]} with its own writable layer {box.layer[:12]}")

        with step("mount it and write"):
            with store.mounted(box.id) as root:
                say(f"mounted at {root}")
                for line in scribble(root):
                    say(line)

        with step("what changed, as a list and as a layer"):
            for change in store.changes(box.layer):
                say(f"{change.kind} {os.fsdecode(change.path)}")
            with store.diff(box.layer) as stream, (place / "changes.tar").open("wb") as out:
                stream.write_to(out.fileno())
            with tarfile.open(place / "changes.tar") as tar:
                say(f"changes.tar: {' '.join(tar.getnames())}")

        with step("export the layer that was imported"):
            exported = place / "exported.tar"
            with store.diff(layer.id, compression=0) as stream, exported.open("wb") as out:
                stream.write_to(out.fileno())
            rate(exported.stat().st_size)

        with step("compare"):
            back, size = digest_of_tar(exported)
            say(f"went in   sha256:{tar_digest}  {tar_size:,} bytes")
            say(f"came out  sha256:{back}  {size:,} bytes")
            if (back, size) != (tar_digest, tar_size):
                raise SystemExit("    NOT THE SAME: this is a bug in orlop, please report it")
            exported.unlink()
            say("the same, to the last bit")

    took = time.perf_counter() - began
    say_tree(place)
    summary(took)
    look_around(place, store_roots, box.layer[:12], how)


def say(text: str) -> None:
    print("\n".join(f"    {line}" if line and CURRENT else line for line in text.split("\n")), flush=True)


CURRENT: list[str] = []
TIMES: list[tuple[str, float]] = []


@contextmanager
def step(title: str) -> Iterator[None]:
    say(f"[{len(TIMES) + 1}/{STEPS}] {title}")
    CURRENT.append(title)
    began = time.perf_counter()
    yield
    TIMES.append((title, time.perf_counter() - began))
    CURRENT.clear()
    say("")


def rate(size: int) -> None:
    RATES[CURRENT[0]] = size


RATES: dict[str, int] = {}


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def summary(took: float) -> None:
    say("Times")
    for title, seconds in TIMES:
        speed = f"{RATES[title] / 1e6 / seconds:7,.0f} MB/s" if title in RATES else ""
        say(f"    {seconds:6.2f} s  {title:55} {speed}".rstrip())
    say(f"    {took:6.2f} s  altogether\n")


# --- what this user may do ----------------------------------------------------------------------------------


class Powers:
    """Root, root of a user namespace with many ids or with one: what ends up on disk depends on it."""

    def __init__(self) -> None:
        self.options: list[str] = []
        self.namespace = NAMESPACE in os.environ
        self.devices = can_make_devices()
        ids = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
        if not self.namespace:
            who, owners = "Running as root", "owners are kept on disk as in the archive"
        elif ids > 1:
            who = "Running as an ordinary user, as root of a user namespace with your subordinate ids"
            owners = "owners are kept, shifted into your range"
        else:
            self.options = ["vfs.ignore_chown_errors=true"]
            who = "Running as an ordinary user without subordinate ids (/etc/subuid), in a user namespace"
            owners = "every file in the store is yours (option vfs.ignore_chown_errors=true)"
        nodes = "device nodes, too" if self.devices else "device nodes are left out"
        self.sentence = f"{who}: {owners}; {nodes}. The export is exact in any case."


def can_make_devices() -> bool:
    with tempfile.TemporaryDirectory() as place:
        try:
            os.mknod(f"{place}/null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        except OSError:
            return False
    return True


def become_root_of_a_namespace(argv: list[str]) -> None:
    """As an ordinary user: run this program again as root of a user namespace of its own, and end with it."""
    if os.geteuid() == 0:
        return
    from orlop.system import userns

    try:
        status = userns.enter_namespace([sys.executable, *argv], environ=os.environ)
    except OSError as error:
        raise SystemExit(
            f"an ordinary user needs a user namespace, and this machine refuses one: {error}"
        ) from error
    sys.exit(status)


# --- a root file system from this machine -------------------------------------------------------------------


def make_archive(path: Path, *, devices: bool) -> str:
    """Some thousand of this machine's files as a tar, with everything that makes root file systems awkward."""
    kinds: Counter[str] = Counter()
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for entry, content in chain(made_up(devices), harvest(), filling(kinds)):
                if entry.isreg():
                    tar.addfile(entry, io.BytesIO(content))
                else:
                    tar.addfile(entry)
                kinds["entries"] += 1
                kinds["symlinks"] += entry.issym()
                kinds["hard links"] += entry.islnk()
                kinds["setuid or setgid"] += entry.isreg() and bool(entry.mode & 0o6000)
                kinds["with extended attributes"] += any("xattr" in key for key in entry.pax_headers)
                kinds["device nodes"] += entry.isdev() and not entry.isfifo()
    counts = [f"{count:,} {what}" for what, count in kinds.items() if count]
    return f"made from this machine's own files: {counts[0]},\n{', '.join(counts[1:])}"


def made_up(devices: bool) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """What the machine may not have, or not show to this user."""

    def entry(name: str, kind: bytes, mode: int, **members: Any) -> tarfile.TarInfo:
        made = tarfile.TarInfo(name)
        made.type, made.mode, made.mtime = kind, mode, 1_700_000_000
        for member, value in members.items():
            setattr(made, member, value)
        return made

    yield entry("demo", tarfile.DIRTYPE, 0o1777), b""
    motd = b"This root file system was put together by orlop's demo.\n"
    yield entry("demo/motd", tarfile.REGTYPE, 0o644, size=len(motd)), motd
    yield entry("demo/same-file", tarfile.LNKTYPE, 0o644, linkname="demo/motd"), b""
    yield entry("demo/link", tarfile.SYMTYPE, 0o777, linkname="motd"), b""
    yield entry("demo/sudo", tarfile.REGTYPE, 0o4755, size=len(motd)), motd
    yield entry("demo/of-user-1000", tarfile.REGTYPE, 0o600, uid=1000, gid=100, size=len(motd)), motd
    yield entry("demo/pipe", tarfile.FIFOTYPE, 0o622), b""
    tagged = {
        "SCHILY.xattr.user.orlop.demo": "extended attributes travel along",
        "mtime": "1700000000.123456789",
    }
    yield entry("demo/tagged", tarfile.REGTYPE, 0o644, size=len(motd), pax_headers=tagged), motd
    if devices:
        # cap_net_raw+ep, as ping has it: the kernel's own binary form
        raw = "\x01\x00\x00\x02\x00\x20\x00\x00" + "\x00" * 12
        capable = {"SCHILY.xattr.security.capability": raw}
        yield entry("demo/ping", tarfile.REGTYPE, 0o755, size=len(motd), pax_headers=capable), motd
        yield entry("dev", tarfile.DIRTYPE, 0o755), b""
        for name, kind, major, minor in (
            ("null", tarfile.CHRTYPE, 1, 3),
            ("zero", tarfile.CHRTYPE, 1, 5),
            ("tty", tarfile.CHRTYPE, 5, 0),
            ("vda", tarfile.BLKTYPE, 254, 0),
        ):
            yield entry(f"dev/{name}", kind, 0o660, devmajor=major, devminor=minor), b""


def harvest() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """This machine's files that the user can read, with their directories, until there are enough."""
    known: set[str] = set()
    links: dict[tuple[int, int], str] = {}
    entries = size = 0
    for number, source in enumerate(SOURCES, start=1):
        for path in walk(source):
            if entries >= ENTRIES * number // len(SOURCES) or size >= SIZE * number // len(SOURCES):
                break
            try:
                info = path.lstat()
                if stat.S_ISREG(info.st_mode):
                    if info.st_size > LARGEST:
                        continue
                    content = path.read_bytes()
                elif stat.S_ISLNK(info.st_mode):
                    content = b""
                else:
                    continue
            except OSError:
                continue
            name = str(path).lstrip("/")
            for parent in [*reversed(path.parents)][1:]:
                if str(parent) not in known:
                    known.add(str(parent))
                    entries += 1
                    yield described(str(parent).lstrip("/"), parent.stat(), tarfile.DIRTYPE), b""
            inode = (info.st_dev, info.st_ino)
            if stat.S_ISLNK(info.st_mode):
                made = described(name, info, tarfile.SYMTYPE)
                made.linkname, made.mode = os.readlink(path), 0o777
            elif inode in links:
                made = described(name, info, tarfile.LNKTYPE)
                made.linkname = links[inode]
            else:
                made = described(name, info, tarfile.REGTYPE)
                made.size = len(content)
                size += len(content)
                if info.st_nlink > 1:
                    links[inode] = name
            entries += 1
            yield made, content


def filling(kinds: Counter[str]) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Small files until there are enough entries."""
    number = 0
    while kinds["entries"] < LEAST:
        content = f"file {number} of a machine with few files\n".encode() * (1 + number % 50)
        made = tarfile.TarInfo(f"demo/filling-{number:05}")
        made.size = len(content)
        number += 1
        yield made, content


def walk(top: str) -> Iterator[Path]:
    for directory, below, names in os.walk(top):
        below.sort()
        for name in sorted(
            [*names, *(each for each in below if os.path.islink(os.path.join(directory, each)))]
        ):
            yield Path(directory, name)


def described(name: str, info: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.mtime = kind, stat.S_IMODE(info.st_mode), int(info.st_mtime)
    if NAMESPACE not in os.environ:
        made.uid, made.gid = info.st_uid, info.st_gid  # elsewhere owners look like "nobody": they stay root
    return made


# --- the pieces of the steps --------------------------------------------------------------------------------


def digest_of_tar(path: Path) -> tuple[str, int]:
    """SHA-256 and length of the archive once unpacked, worked out without orlop."""
    digest, size = hashlib.sha256(), 0
    with opened(path) as tar:
        while block := tar.read(1 << 20):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        first = file.read(6)
    if first.startswith(b"\x1f\x8b\x08"):
        return gzip.open(path)
    if first.startswith(b"BZh"):
        return bz2.open(path)
    if first == b"\xfd7zXZ\x00":
        return lzma.open(path)
    if first.startswith(b"\x28\xb5\x2f\xfd"):
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        return zstd.open(path)
    return path.open("rb")


def documents(layer: orlop.Layer) -> tuple[bytes, bytes]:
    """An OCI configuration and manifest for an image of this one layer."""
    config = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else os.uname().machine,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_digest)]},
            "history": [{"created_by": "orlop demo"}],
        }
    ).encode()
    suffix = {0: "", 2: "+gzip", 4: "+zstd"}.get(layer.compression, "")
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": f"sha256:{hashlib.sha256(config).hexdigest()}",
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": f"application/vnd.oci.image.layer.v1.tar{suffix}",
                    "digest": str(layer.compressed_digest),
                    "size": layer.compressed_size,
                }
            ],
        }
    ).encode()
    return config, manifest


def scribble(root: Path) -> Iterator[str]:
    """Add, change and remove something in a mounted container."""
    if (root / "demo/sudo").exists():
        sudo, tagged = (root / "demo/sudo").lstat(), root / "demo/tagged"
        yield f"demo/sudo has mode {stat.filemode(sudo.st_mode)}, demo/tagged has {os.listxattr(tagged)}"
    (root / "srv/orlop").mkdir(parents=True)
    (root / "srv/orlop/hello").write_text("ahoy\n")
    yield "wrote srv/orlop/hello"
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    changed, removed = next(files, None), next(files, None)
    if changed is not None:
        with changed.open("ab") as file:
            file.write(b"# one more line\n")
        yield f"changed {changed.relative_to(root)}"
    if removed is not None:
        removed.unlink()
        yield f"removed {removed.relative_to(root)}"


def say_tree(place: Path) -> None:
    """What lies in the store, three levels deep, long names cut."""
    say("What the store holds")
    say(f"    {place}")

    def show(directory: Path, indent: str, depth: int) -> None:
        found = sorted(directory.iterdir())
        for number, path in enumerate(found, start=1):
            last = number == len(found)
            name = path.name if len(path.name) < 40 else path.name[:12] + "…" + path.name[64:]
            if path.is_dir():
                deeper = depth < 3 and path.name not in ("dir",)
                count = "" if deeper else f"  ({sum(1 for _ in path.iterdir())} inside)"
                say(f"    {indent}{'└── ' if last else '├── '}{name}/{count}")
                if deeper or path.name == "dir":
                    show(path, indent + ("    " if last else "│   "), depth + 1 if deeper else 9)
            else:
                say(f"    {indent}{'└── ' if last else '├── '}{name}  {path.lstat().st_size:,} bytes")

    show(place, "", 0)
    say("")


def look_around(place: Path, roots: dict[str, str], layer: str, how: Powers) -> None:
    command = Path(sys.executable).parent / "orlop-storage"
    flags = f"--graph {roots['graph_root']} --run {roots['run_root']} --storage-driver {roots['driver']}"
    for option in how.options:
        flags += f" --storage-opt {option}"
    say("Look around")
    say(f"    alias st={shlex.quote(f'{command} {flags}')}")
    for words, what in (
        ("st layers --tree", "the layers, and who uses them"),
        ("st images", "the image, its digest and data"),
        ("st get-image-data localhost/orlop-demo:latest manifest", "the manifest"),
        (f"st changes {layer}", "what the container changed"),
        ("st mount demo-box", "mount it, and print where"),
        ("st diff --uncompressed demo-base | tar -t", "the layer as an archive"),
    ):
        say(f"    {words:58} # {what}")
    if how.devices:
        for program, words in (("containers-storage", "layers --tree"), ("podman", "images")):
            if shutil.which(program):
                own = f"--root {roots['graph_root']} --runroot {roots['run_root']} --storage-driver vfs"
                called = f"containers-storage {flags}" if program == "containers-storage" else f"podman {own}"
                say(f"    {called} {words}")
    say("\nRemove it all")
    if how.namespace:
        say(f"    {sys.executable} {Path(__file__).resolve()} --remove {place}")
    else:
        say(f"    rm -rf {place}")


def remove(place: Path) -> None:
    """Inside the namespace, where files of subordinate ids can be removed, too."""
    if not place.name.startswith("orlop-demo-"):
        raise SystemExit(f"{place} was not made by this demo")
    shutil.rmtree(place)


if __name__ == "__main__":
    become_root_of_a_namespace(sys.argv)
    if sys.argv[1:2] == ["--remove"]:
        remove(Path(sys.argv[2]))
    else:
        main(sys.argv)
