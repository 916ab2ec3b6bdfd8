"""Tars as many programs write them, from one tree of the machine's own kinds of things; each a row of a table."""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import peers

Writer = Callable[[Path, Path], bytes]


def tree(where: Path, *, names: str = "any") -> Path:
    """Files, directories, links, odd modes and names; `names="short"` fits the oldest formats."""
    root = where / f"tree-{names}"
    (root / "etc" / "deep" / "er").mkdir(parents=True)
    (root / "etc" / "empty").write_bytes(b"")
    (root / "etc" / "hello").write_text("hello\n")
    (root / "etc" / "deep" / "block").write_bytes(b"b" * 512)
    (root / "etc" / "deep" / "er" / "big").write_bytes(bytes(range(256)) * 700)
    (root / "etc" / "symlink").symlink_to("deep/block")
    os.link(root / "etc" / "hello", root / "etc" / "hardlink")
    (root / "etc" / "hello").chmod(0o4755)
    (root / "etc" / "deep").chmod(0o1777)
    os.mkfifo(root / "fifo")
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        os.chown(root / "etc" / "empty", 1234, 4321)
    if names != "short":
        long = root / ("d" * 90) / ("e" * 90)
        long.mkdir(parents=True)
        (long / ("f" * 120)).write_text("a long name\n")
        (root / "link-far").symlink_to("x" * 180)
        (root / "n\u00e4me \u2028 < & >").write_text("unicode")
        if names == "any":
            (root / os.fsdecode(b"not-utf8-\xff\xfe")).write_text("bytes")
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            os.utime(path, ns=(1_600_000_000_123_456_789, 1_600_000_000_123_456_789))
    return root


def run(*argv: str, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    peers.need(argv[0])
    env = {**os.environ, "LC_ALL": "C.UTF-8", "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(argv, cwd=cwd, input=data, capture_output=True, check=False, env=env)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def gnu(*options: str, names: str = "any") -> Writer:
    def write(root: Path, scratch: Path) -> bytes:
        return run("tar", "-c", "--sort=name", *options, "-C", str(tree(root, names=names)), ".")

    return write


def bsd(*options: str, names: str = "any") -> Writer:
    def write(root: Path, scratch: Path) -> bytes:
        return run("bsdtar", "-c", "-f", "-", *options, "-C", str(tree(root, names=names)), "etc")

    return write


def python(format: int, *, names: str = "any") -> Writer:
    def write(root: Path, scratch: Path) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format) as tar:
            tar.add(tree(root, names=names), arcname=".")
        return out.getvalue()

    return write


def git(root: Path, scratch: Path) -> bytes:
    """Has a global PAX header with the commit."""
    source = tree(root, names="utf8")
    (source / "fifo").unlink()
    (source / "null").unlink(missing_ok=True)
    run("git", "init", "-q", cwd=source)
    run("git", "add", ".", cwd=source)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    run("git", *who, "commit", "-q", "-m", "x", cwd=source)
    return run("git", "archive", "HEAD", cwd=source)


def cpio(format: str) -> Writer:
    def write(root: Path, scratch: Path) -> bytes:
        source = tree(root, names="short")
        listing = run("find", ".", "-depth", "-print0", cwd=source)
        return run("cpio", "-o", "-0", "--quiet", "-H", format, cwd=source, data=listing)

    return write


def cpio_converted(root: Path, scratch: Path) -> bytes:
    """A cpio archive read and written as tar by bsdtar."""
    source = tree(root, names="short")
    listing = run("find", ".", "-print0", cwd=source)
    archive = scratch / "archive.cpio"
    archive.write_bytes(run("cpio", "-o", "-0", "--quiet", "-H", "newc", cwd=source, data=listing))
    return run("bsdtar", "-c", "-f", "-", "--format=ustar", f"@{archive}")


def engine_layer(tool: str) -> Writer:
    """A layer out of an image that buildah built and podman saved."""

    def write(root: Path, scratch: Path) -> bytes:
        base = Path(tempfile.mkdtemp(prefix="o-", dir="/tmp"))  # podman wants a short run root
        try:
            return _built(tool, tree(root, names="utf8"), base)
        finally:
            peers.unmount_below(base)
            shutil.rmtree(base)

    return write


def _built(tool: str, source: Path, base: Path) -> bytes:
    roots = ["--root", str(base / "graph"), "--runroot", str(base / "run"), "--storage-driver", "vfs"]
    box = run("buildah", *roots, "from", "scratch").decode().strip()
    (source / "fifo").unlink()
    run("buildah", *roots, "copy", "-q", box, str(source), "/data")
    if tool == "buildah":
        target = base / "oci"
        image = run("buildah", *roots, "commit", "-q", "--disable-compression", box).decode().strip()
        run("buildah", *roots, "push", "-q", "--disable-compression", image, f"oci:{target}:x")
        index = json.loads((target / "index.json").read_text())
        manifest = json.loads(_oci_blob(target, index["manifests"][0]["digest"]))
        return _oci_blob(target, manifest["layers"][0]["digest"])
    run("buildah", *roots, "commit", "-q", box, "localhost/made")
    archive = base / "saved.tar"
    run("podman", *roots, "save", "-q", "-o", str(archive), "localhost/made")
    with tarfile.open(archive) as saved:
        member = saved.extractfile("manifest.json")
        assert member is not None
        layer = saved.extractfile(json.load(member)[0]["Layers"][0])
        assert layer is not None
        return layer.read()


def _oci_blob(target: Path, digest: str) -> bytes:
    blob = (target / "blobs" / digest.replace(":", "/")).read_bytes()
    return gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob


def changed(writer: Writer, change: Callable[[bytes], bytes]) -> Writer:
    return lambda root, scratch: change(writer(root, scratch))


def without_trailer(tar: bytes) -> bytes:
    return tar.rstrip(b"\0") + b"\0" * (-len(tar.rstrip(b"\0")) % 512)


PLAIN = gnu("--format=gnu", names="utf8")

EXACT: dict[str, Writer] = {
    "gnu tar, v7": gnu("--format=v7", "--exclude=./fifo", "--exclude=./null", names="short"),
    "gnu tar, oldgnu": gnu("--format=oldgnu"),
    "gnu tar, gnu": gnu("--format=gnu"),
    "gnu tar, ustar": gnu("--format=ustar", names="short"),
    "gnu tar, posix": gnu("--format=posix"),
    "gnu tar, posix, xattrs and times": gnu("--format=posix", "--xattrs", "--pax-option=atime:=1.5"),
    "gnu tar, posix, global header": gnu("--format=posix", "--pax-option=globexthdr.name=g,comment=hello"),
    "gnu tar, 1 KB blocks": gnu("--format=gnu", "-b", "2"),
    "gnu tar, 10 KB blocks": gnu("--format=gnu", "-b", "20"),
    "gnu tar, 1 MB blocks": gnu("--format=gnu", "-b", "2048"),
    "gnu tar, big numbers": gnu(
        "--format=gnu", "--owner=:4000000000", "--group=:3000000000", "--mtime=@99999999999"
    ),
    "gnu tar, before 1970": gnu("--format=gnu", "--mtime=@-5"),
    "gnu tar, names of users": gnu("--format=gnu", "--owner=somebody:7", "--group=staff:8"),
    "bsdtar, ustar": bsd("--format=ustar", names="short"),
    "bsdtar, pax": bsd("--format=pax"),
    "bsdtar, restricted pax": bsd("--format=pax", "--no-xattrs"),
    "bsdtar, gnutar": bsd("--format=gnutar"),
    "bsdtar, v7tar": bsd("--format=v7tar", names="short"),
    "python, ustar": python(tarfile.USTAR_FORMAT, names="short"),
    "python, gnu": python(tarfile.GNU_FORMAT),
    "python, pax": python(tarfile.PAX_FORMAT),
    "git archive": git,
    "cpio, tar": cpio("tar"),
    "cpio, ustar": cpio("ustar"),
    "bsdtar from cpio": cpio_converted,
    "layer of podman save": engine_layer("podman"),
    "layer of buildah push": engine_layer("buildah"),
    "trailing junk": changed(PLAIN, lambda tar: tar + b"junk after the end" * 50),
    "trailing zeros": changed(PLAIN, lambda tar: tar + bytes(3 << 20)),
    "no trailer": changed(PLAIN, without_trailer),
    "half a trailer": changed(PLAIN, lambda tar: without_trailer(tar) + bytes(512)),
    "nothing at all": lambda root, scratch: b"",
    "only a trailer": lambda root, scratch: bytes(1024),
    "padding that is not zero": changed(PLAIN, lambda tar: tar.replace(b"hello\n\0\0\0", b"hello\nXYZ", 1)),
}
"""Each comes back bit for bit."""

REFUSED: dict[str, tuple[Writer, str]] = {
    "ends in a header": (changed(PLAIN, lambda tar: tar[:700]), "unexpected EOF"),
    "ends in the data": (changed(PLAIN, lambda tar: tar[: len(tar) // 2 // 512 * 512 + 7]), "unexpected EOF"),
    "no tar": (lambda root, scratch: b"x" * 2000, "invalid tar header"),
    "too short for a tar": (lambda root, scratch: b"x" * 100, "unexpected EOF"),
    "one zero block, then more": (
        changed(PLAIN, lambda tar: without_trailer(tar) + bytes(512) + without_trailer(tar)),
        "invalid tar header",
    ),
    "one path twice": (
        changed(PLAIN, lambda tar: without_trailer(tar) + tar),
        "duplicates of file paths not supported",
    ),
    "old sparse": (
        lambda root, scratch: _sparse(scratch, "--format=gnu"),
        "unhandled tar header type",
    ),
}
"""Each is refused by both programs with this text, and leaves nothing."""


def _sparse(scratch: Path, *options: str) -> bytes:
    path = scratch / "holes"
    with path.open("wb") as file:
        file.truncate(4 << 20)
        file.seek(1 << 20)
        file.write(b"island")
    return run("tar", "-c", "-S", *options, "-C", str(scratch), "holes")


SPARSE: dict[str, Writer] = {
    f"gnu tar, sparse {version}": (
        lambda root, scratch, version=version: _sparse(
            scratch, "--format=posix", f"--sparse-version={version}"
        )
    )
    for version in ("0.0", "0.1", "1.0")
}
"""The class that the peer cannot give back."""
