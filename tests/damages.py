"""The ways in which the store of `damaged` gets damaged: one thing each, in every kind of file that a store has.

The check tests ask that each is found and named, the repair tests that it is put right with the least loss.
"""

import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from damaged import CAPABILITY, CONFIG, DATA, OTHER, Site, T, digest

Do = Callable[[Site], object]
Change = Callable[[Path], object]

EVERYTHING = ("base", "child", "sibling", "box_layer", "image", "other", "box")


@dataclass(frozen=True)
class Damage:
    """One way of damaging one thing.

    `codes`: of the findings, at least one of which must be there, with this `grade`. `lost`: what is not as it was
    after a repair: things of EVERYTHING that are gone, "exact" (an archive cannot be given back), "names", "item",
    "record" (small parts of a record). `containers`: only a repair that may change containers mends it.
    """

    name: str
    do: Do
    codes: tuple[str, ...]
    lost: tuple[str, ...] = ()
    grade: str = "damage"
    drivers: tuple[str, ...] = ("vfs", "overlay")
    containers: bool = False


# --- what is done to a file -----------------------------------------------------------------------------------


def keeping_time(change: Change) -> Change:
    """What a bad disk does: the times of the file, or of the directory, are as they were."""

    def do(path: Path) -> None:
        status = path.stat()
        change(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return do


def flipped(at: int = -1) -> Change:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at if at >= 0 else len(data) // 2] ^= 0x10
        mode = path.stat().st_mode
        path.write_bytes(data)
        path.chmod(mode & 0o7777)  # writing takes setuid off

    return keeping_time(flip)


def cut(size: int = -1) -> Change:
    return keeping_time(lambda path: os.truncate(path, path.stat().st_size // 2 if size < 0 else size))


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def gone(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def replaced(make: Change) -> Change:
    return lambda path: (gone(path), make(path))


def file(text: str = "") -> Change:
    return lambda path: path.write_text(text)


def directory(path: Path) -> None:
    path.mkdir(parents=True)


def link(target: str) -> Change:
    return lambda path: path.symlink_to(target)


def device(major: int, minor: int) -> Change:
    return lambda path: os.mknod(path, 0o20666, os.makedev(major, minor))


def owned(uid: int, gid: int) -> Change:
    return lambda path: os.chown(path, uid, gid, follow_symlinks=False)


def moded(mode: int) -> Change:
    return lambda path: path.chmod(mode)


def timed(path: Path) -> None:
    os.utime(path, (T + 99, T + 99), follow_symlinks=False)


def marked(name: str, value: bytes) -> Change:
    return lambda path: os.setxattr(path, name, value)


def unmarked(name: str) -> Change:
    return lambda path: os.removexattr(path, name)


def with_added(name: str, make: Change) -> Change:
    return keeping_time(lambda path: make(path / name))


def rezipped(change: Callable[[bytes], bytes]) -> Change:
    def do(path: Path) -> None:
        path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes())), 1, mtime=0))

    return do


# --- trees ----------------------------------------------------------------------------------------------------


def in_tree(path: str, change: Change, layer: str = "base") -> Do:
    return lambda site: change(site.tree(getattr(site, layer)) / path)


def content(name: str, path: str, change: Change, code: str = "content-changed") -> list[Damage]:
    """Content of the lowest layer: vfs has copies of it in other layers, overlay has it nowhere else."""
    do = in_tree(path, change)
    return [
        Damage(name, do, (code,), drivers=("vfs",)),
        Damage(name, do, (code,), EVERYTHING, drivers=("overlay",), containers=True),
    ]


def metadata(name: str, path: str, change: Change, code: str = "tree-changed") -> list[Damage]:
    """What the archive alone tells, so that it can be put right everywhere."""
    return [Damage(name, in_tree(path, change), (code,))]


def upper(name: str, path: str, change: Change, code: str, driver: str) -> list[Damage]:
    """In what the layer above says of the lowest one (overlay), or has copied from it (vfs)."""
    return [Damage(name, in_tree(path, change, "child"), (code,), drivers=(driver,))]


def both_names_gone(path: Path) -> None:
    gone(path / "su")
    gone(path / "doas")


def emptied(path: Path) -> None:
    for below in path.iterdir():
        gone(below)


def shadow(path: Path) -> None:
    os.link(path.with_name("passwd"), path)


def nested(path: Path) -> None:
    directory(path / "deeper")
    file("x")(path / "deeper/file")


TREES = [
    *content("flip a file", "etc/passwd", flipped()),
    *content("flip a large file", "usr/large", flipped()),
    *content("flip a sparse file", "usr/sparse", flipped(4100), "tree-changed"),
    *content("flip a program", "bin/su", flipped()),
    *content("truncate a file", "bin/ping", cut()),
    *content("empty a file", "bin/ping", cut(0)),
    *content("make a file longer", "bin/ping", longer),
    *content("remove a file", "bin/ping", gone, "content-missing"),
    *content("remove a file at both of its names", "bin", both_names_gone, "content-missing"),
    *content("a symlink for a file", "bin/ping", replaced(link("/etc/hostname"))),
    *content("a directory for a file", "bin/ping", replaced(directory)),
    *content("a FIFO for a file", "bin/ping", replaced(os.mkfifo)),
    *content("a device for a file", "bin/ping", replaced(device(1, 5))),
    *content("remove a directory with its content", "bin", gone, "content-missing"),
    *content("a file for a directory", "bin", replaced(file()), "content-changed"),
    *content("empty a layer", "", emptied, "content-missing"),
    *metadata("remove one of two names", "bin/doas", gone, "tree-missing"),
    *metadata("remove an empty file", "etc/empty", gone, "tree-missing"),
    *metadata("remove a symlink", "bin/sh", gone, "tree-missing"),
    *metadata("remove a device", "dev/null", gone, "tree-missing"),
    *metadata("remove a FIFO", "dev/pipe", gone, "tree-missing"),
    *metadata("a symlink to elsewhere", "bin/sh", replaced(link("doas"))),
    *metadata("another device", "dev/null", replaced(device(1, 5))),
    *metadata("a file for a symlink", "bin/sh", replaced(file("su"))),
    *metadata("a file for a FIFO", "dev/pipe", replaced(file())),
    *metadata("add a file", "etc", with_added("added", file("x")), "tree-added"),
    *metadata("add a directory", "etc", with_added("added", nested), "tree-added"),
    *metadata("add a device", "etc", with_added("added", device(1, 5)), "tree-added"),
    *metadata("add a symlink", "etc", with_added("added", link("/")), "tree-added"),
    *metadata("add a name for a file", "etc", with_added("shadow", shadow), "tree-added"),
    *metadata("add a file at the root", "", with_added("added", file("x")), "tree-added"),
    *metadata("owner of a file", "etc/passwd", owned(5, 4)),
    *metadata("owner of a program", "bin/su", owned(1, 1)),
    *metadata("group of a directory", "etc", owned(0, 5)),
    *metadata("owner of a symlink", "bin/sh", owned(9, 9)),
    *metadata("owner of a device", "dev/null", owned(9, 9)),
    *metadata("mode of a file", "etc/passwd", moded(0o666)),
    *metadata("setuid taken off", "bin/su", moded(0o755)),
    *metadata("setuid given", "bin/ping", moded(0o4755)),
    *metadata("mode of a directory", "etc", moded(0o777)),
    *metadata("sticky bit taken off", "bin", moded(0o755)),
    *metadata("mode of a device", "dev/null", moded(0o600)),
    *metadata("time of a file", "etc/passwd", timed),
    *metadata("time of a directory", "etc", timed),
    *metadata("time of a symlink", "bin/sh", timed),
    *metadata("attribute of a file", "etc/passwd", marked("user.note", b"changed")),
    *metadata("attribute taken off", "etc/passwd", unmarked("user.note")),
    *metadata("attribute given", "etc", marked("user.new", b"x")),
    *metadata("trusted attribute given", "etc/passwd", marked("trusted.new", b"x")),
    *metadata("capability taken off", "bin/ping", unmarked("security.capability")),
    *metadata("capability given", "bin/su", marked("security.capability", CAPABILITY)),
    *upper("remove a whiteout", "dev/pipe", gone, "tree-missing", "overlay"),
    *upper("add a whiteout", "etc", with_added("gone", device(0, 0)), "tree-added", "overlay"),
    *upper("a file for a whiteout", "dev/pipe", replaced(file()), "tree-changed", "overlay"),
    *upper("opaque mark taken off", "srv", unmarked("trusted.overlay.opaque"), "tree-changed", "overlay"),
    *upper("opaque mark given", "etc", marked("trusted.overlay.opaque", b"y"), "tree-changed", "overlay"),
    *upper("flip a copy of a file", "bin/ping", flipped(), "tree-changed", "vfs"),
    *upper("flip a copy of a sparse file", "usr/sparse", flipped(4100), "tree-changed", "vfs"),
    *upper("remove a copy of a file", "bin/ping", gone, "tree-missing", "vfs"),
    *upper("mode of a copy", "usr/large", moded(0o600), "tree-changed", "vfs"),
    *upper("what was deleted is back", "srv", with_added("old", file("old")), "tree-added", "vfs"),
]


# --- beside the trees -----------------------------------------------------------------------------------------


def split(name: str, change: Change, code: str, *lost: str, grade: str = "damage") -> Damage:
    return Damage(name, lambda site: change(site.split(site.base)), (code,), lost, grade)


def without_last_line(data: bytes) -> bytes:
    return data[: data.rindex(b"\n", 0, -1) + 1]


def with_other_checksum(data: bytes) -> bytes:
    at = data.index(b'"size":11,"payload":"') + 21
    return data[:at] + (b"B" if data[at : at + 1] == b"A" else b"A") + data[at + 1 :]


SPLITS = [
    split("remove a tar-split", gone, "tar-split-missing", "exact"),
    split("empty a tar-split", cut(0), "tar-split", "exact"),
    split("truncate a tar-split", cut(), "tar-split", "exact"),
    split("flip a tar-split", flipped(), "tar-split", "exact"),
    split("text for a tar-split", file("{}"), "tar-split", "exact"),
    split("a FIFO for a tar-split", replaced(os.mkfifo), "tar-split", "exact"),
    split("a line of a tar-split is gone", rezipped(without_last_line), "digest", "exact"),
    split("another checksum in a tar-split", rezipped(with_other_checksum), "tar-split", "exact"),
    split("mode of a tar-split", moded(0o666), "mode", grade="oddity"),
    split("owner of a tar-split", owned(7, 7), "owner", grade="oddity"),
]


def item(name: str, key: str, change: Change, code: str, *lost: str, grade: str = "damage") -> Damage:
    return Damage(name, lambda site: change(site.item(key)), (code,), lost, grade, containers="image" in lost)


def box_item(name: str, change: Change, code: str) -> Damage:
    def do(site: Site) -> None:
        change(site.table("container") / site.box / "state")

    return Damage(name, do, (code,), ("item",), containers=True)


def layer_item(name: str, change: Change, code: str) -> Damage:
    def do(site: Site) -> None:
        change(site.table("layer") / site.sibling / "=Tm90ZQ==")

    return Damage(name, do, (code,), ("item",))


_CONFIG = digest(CONFIG)
ITEMS = [
    item("flip a manifest", "manifest", flipped(), "data-digest"),
    item("remove a manifest", "manifest", gone, "data-missing"),
    item("truncate a manifest", "manifest", cut(), "data-size"),
    item("a directory for a manifest", "manifest", replaced(directory), "data-unreadable"),
    item("flip a configuration", _CONFIG, flipped(), "data-digest", "image", "record"),
    item("remove a configuration", _CONFIG, gone, "data-missing", "image", "record"),
    item("remove a signature", "signature", gone, "data-missing", "item"),
    item("make a signature longer", "signature", longer, "data-size", "item"),
    item("mode of an item", "signature", moded(0o644), "mode", grade="oddity"),
    item("owner of an item", "signature", owned(5, 5), "owner", grade="oddity"),
    item("add a file", "foreign", file("?"), "data-unknown", grade="oddity"),
    box_item("remove an item of a container", gone, "data-missing"),
    box_item("flip an item of a container", flipped(), "data-digest"),
    box_item("make an item of a container longer", longer, "data-size"),
    layer_item("remove an item of a layer", gone, "data-missing"),
    layer_item("a FIFO for an item of a layer", replaced(os.mkfifo), "data-unreadable"),
]


# --- records --------------------------------------------------------------------------------------------------


def table(kind: str, *lost: str) -> list[Damage]:
    """A file of records as a whole."""
    changes: list[tuple[str, Change]] = [
        (f"empty {kind}s.json", cut(0)),
        (f"remove {kind}s.json", gone),
        (f"null for {kind}s.json", file("null")),
        (f"half of {kind}s.json", cut()),
        (f"garbage for {kind}s.json", file("\0\x7f{")),
        (f"an object for {kind}s.json", file("{}")),
        (f"a FIFO for {kind}s.json", replaced(os.mkfifo)),
    ]
    codes = ("records-lost", "records-unreadable")

    def on(change: Change) -> Do:
        return lambda site: change(site.file(kind))

    return [
        *[Damage(name, on(change), codes, lost, containers=kind == "container") for name, change in changes],
        Damage(f"mode of {kind}s.json", on(moded(0o666)), ("mode",), grade="oddity"),
        Damage(f"owner of {kind}s.json", on(owned(7, 7)), ("owner",), grade="oddity"),
    ]


def layer(name: str, code: str, *lost: str, of: str = "base", **members: object) -> Damage:
    """Members of a layer's record; `_` in their names stands for `-`."""

    def do(site: Site) -> None:
        site.record("layer", getattr(site, of), **{key.replace("_", "-"): v for key, v in members.items()})

    return Damage(name, do, (code,), lost)


def image(name: str, code: str, *lost: str, **members: object) -> Damage:
    def do(site: Site) -> None:
        site.record("image", site.image, **{key.replace("_", "-"): v for key, v in members.items()})

    return Damage(name, do, (code,), lost)


def _lost_record(kind: str, of: str) -> Do:
    return lambda site: site.drop(kind, getattr(site, of))


def _layer_and_record(site: Site) -> None:
    site.drop("layer", site.sibling)
    gone(site.tree(site.sibling))
    shutil.rmtree(site.graph / "overlay" / site.sibling, ignore_errors=True)


RECORDS = [
    *table("layer", "names", "record"),
    *table("image", "names", "other"),
    *table("container", "names", "record"),
    Damage(
        "a null among layers", lambda s: s.edit("layer", lambda r: r.append(None)), ("record-unreadable",)
    ),
    layer("a layer with an odd time", "record-unreadable", "record", created="yesterday"),
    layer("a layer with odd names", "record-unreadable", "names", names=5),
    image("an image with an odd time", "record-unreadable", "record", created=5),
    image("an image with an odd digest", "record-unreadable", digest="sha256:12"),
    Damage(
        "a container with odd flags",
        lambda s: s.record("container", s.box, flags=[1]),
        ("record-unreadable",),
        ("record",),
    ),
    Damage("a layer twice", lambda s: s.edit("layer", lambda r: r.append(dict(r[0]))), ("duplicate-id",)),
    Damage("an image twice", lambda s: s.edit("image", lambda r: r.append(dict(r[0]))), ("duplicate-id",)),
    layer("a name twice", "duplicate-name", "names", of="sibling", names=["base"]),
    Damage(
        "the record of a lower layer is lost",
        _lost_record("layer", "base"),
        ("record-lost",),
        ("names", "record"),
    ),
    Damage(
        "the record of an image's layer is lost",
        _lost_record("layer", "child"),
        ("record-lost",),
        ("record",),
    ),
    Damage(
        "the record of a container's layer is lost",
        _lost_record("layer", "box_layer"),
        ("record-lost",),
        ("record",),
    ),
    Damage("the record of an image is lost", _lost_record("image", "image"), ("record-lost",), ("names",)),
    Damage(
        "a layer and its record are lost", _layer_and_record, ("image-layer-missing",), ("sibling", "other")
    ),
    Damage(
        "a layer is its own parent", lambda s: s.record("layer", s.base, parent=s.base), ("parent-cycle",)
    ),
    Damage("parents in a circle", lambda s: s.record("layer", s.base, parent=s.child), ("parent-cycle",)),
    layer("another digest", "digest", diff_digest="sha256:" + "0" * 64),
    layer("no digest at all", "bad-digest", diff_digest="sha256:xyz"),
    layer("no digest of the blob", "bad-digest", "record", compressed_diff_digest="?"),
    layer("another size", "size", diff_size=5),
    layer("other owners", "owners", uidset=[0, 99]),
    layer("a compression that there is not", "bad-compression", compression=77),
    Damage(
        "an unfinished layer",
        lambda s: s.record("layer", s.sibling, flags={"incomplete": True}),
        ("incomplete",),
        ("sibling", "other"),
        grade="leftover",
    ),
    image("other sizes of items", "data-size", big_data_sizes={k: len(v) + 1 for k, v in DATA.items()}),
    image("a copy of a layer that never was", "image-layer-missing", mapped_layers=["0" * 64]),
    Damage(
        "an image of a layer that never was",
        lambda s: s.record("image", OTHER, layer="0" * 64),
        ("image-layer-missing",),
        ("other",),
    ),
    Damage(
        "a container of an image that never was",
        lambda s: s.record("container", s.box, image="0" * 64),
        ("container-image-missing",),
        ("record",),
        containers=True,
    ),
    Damage(
        "a container of a layer that never was",
        lambda s: s.record("container", s.box, layer="0" * 64),
        ("container-layer-missing",),
        ("box",),
        containers=True,
    ),
]


# --- places and leftovers -------------------------------------------------------------------------------------


def place(name: str, path: str, change: Change, code: str, *lost: str, of: str = "base") -> Damage:
    """In the directory that the overlay driver has for a layer."""

    def do(site: Site) -> None:
        change(site.graph / "overlay" / getattr(site, of) / path)

    return Damage(name, do, (code,), lost, drivers=("overlay",))


def short_name(change: Callable[[Path, Site], object]) -> Do:
    def do(site: Site) -> None:
        name = (site.graph / "overlay" / site.base / "link").read_text()
        change(site.graph / "overlay/l" / name, site)

    return do


def _elsewhere(path: Path, site: Site) -> None:
    gone(path)
    path.symlink_to(f"../{site.sibling}/diff")


def _both(path: Path, site: Site) -> None:
    gone(path)
    gone(site.graph / "overlay" / site.base / "link")


def sibling_for_lower(of: str) -> Do:
    def do(site: Site) -> None:
        home = site.graph / "overlay"
        (home / getattr(site, of) / "lower").write_text("l/" + (home / site.sibling / "link").read_text())

    return do


_OVERLAY = ("overlay",)
_LOST = ("sibling", "other")
PLACES = [
    place("remove link", "link", gone, "short-name"),
    place("empty link", "link", file(""), "short-name"),
    place("another link", "link", file("A" * 26), "short-name"),
    Damage("remove a short name", short_name(lambda p, s: gone(p)), ("short-name",), drivers=_OVERLAY),
    Damage("a short name that leads elsewhere", short_name(_elsewhere), ("short-name",), drivers=_OVERLAY),
    Damage("remove link and short name", short_name(_both), ("short-name",), drivers=_OVERLAY),
    Damage(
        "remove all short names", lambda s: gone(s.graph / "overlay/l"), ("short-name",), drivers=_OVERLAY
    ),
    place("remove lower", "lower", gone, "lower", of="child"),
    place("empty lower", "lower", file(""), "lower", of="child"),
    place("garbage for lower", "lower", file("/../x\n"), "lower", of="child"),
    place("half of lower", "lower", cut(), "lower", of="box_layer"),
    Damage("another lower", sibling_for_lower("child"), ("lower",), drivers=_OVERLAY),
    Damage("a lower where nothing lies below", sibling_for_lower("base"), ("lower",), drivers=_OVERLAY),
    place("remove work", "work", gone, "place", of="box_layer"),
    place("a file for work", "work", replaced(file()), "place"),
    place("remove empty", "empty", gone, "place"),
    place("remove diff", "diff", gone, "content-gone", *_LOST, of="sibling"),
    place("remove a layer's directory", "", gone, "layer-gone", *_LOST, of="sibling"),
    Damage(
        "remove a layer's tree",
        lambda s: gone(s.tree(s.sibling)),
        ("layer-gone",),
        _LOST,
        drivers=("vfs",),
    ),
    Damage(
        "a file for a layer",
        lambda s: replaced(file())(s.tree(s.sibling)),
        ("place",),
        _LOST,
        drivers=("vfs",),
    ),
]

_NOBODY = "9" * 64


def leftover(name: str, kind: str, path: str, make: Change, code: str = "leftover") -> Damage:
    def do(site: Site) -> None:
        target = site.table(kind) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        make(target)

    return Damage(name, do, (code,), grade="leftover")


LEFTOVERS = [
    Damage(
        "a layer without a record", lambda s: directory(s.tree(_NOBODY)), ("unaccounted",), grade="leftover"
    ),
    leftover("an unfinished table", "layer", ".tmp-layers.json123", file("[")),
    leftover("data of no image", "image", f"{_NOBODY}/manifest", file("{}")),
    leftover("data of no container", "container", f"{_NOBODY}/x", file("x")),
    leftover("data of no layer", "layer", f"{_NOBODY}/x", file("x")),
    leftover("a tar-split of no layer", "layer", f"{_NOBODY}.tar-split.gz", file("x")),
    leftover("something set aside", "layer", "tmp/temp-dir-7/0-x", directory),
    Damage(
        "an unfinished item",
        lambda s: file("[")(s.table("image") / s.image / ".tmp-manifest1"),
        ("leftover",),
        grade="leftover",
    ),
    Damage(
        "a short name of no layer",
        lambda s: link(f"../{_NOBODY}/diff")(s.graph / "overlay/l/AAAA"),
        ("leftover",),
        grade="leftover",
        drivers=_OVERLAY,
    ),
]

DAMAGES = [*TREES, *SPLITS, *ITEMS, *RECORDS, *PLACES, *LEFTOVERS]


def cases(seed: int) -> list[Any]:
    """Every damage with its drivers, for `parametrize`; all but one of them are `deep`, others for another seed."""
    found = []
    for number, damage in enumerate(DAMAGES):
        quick = damage.drivers[(number + seed) % len(damage.drivers)]
        for driver in damage.drivers:
            marks = [] if driver == quick else [pytest.mark.deep]
            found.append(pytest.param(damage, driver, id=f"{damage.name}-{driver}", marks=marks))
    return found
