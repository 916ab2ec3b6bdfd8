"""The kinds of damage that `spec/check-repair.md` tells of, and what is said of each. For test_check_peer.py."""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from damaged import BASE, Site, T
from damages import (
    directory,
    file,
    flipped,
    gone,
    in_tree,
    keeping_time,
    longer,
    moded,
    owned,
    timed,
    with_added,
)
from orlop.formats.bigdata import file_name

Report = dict[tuple[str, str], list[str]]
"""What is said of each (heading, id)."""
Told = Callable[[Site], list[str]]

DRIVERS = ("vfs", "overlay")
ALL = frozenset(("base", "child", "box_layer", "image", "box"))
NOBODY = "9" * 64
MODIFIED = "layer content modified"
_CHECKSUM = "file integrity checksum failed for"
_GONE = ": no such file or directory"
ORPHAN = "layer in lower level storage driver not accounted for"


def _nothing(_: Site) -> list[str]:
    return []


@dataclass(frozen=True)
class Case:
    """One kind of damage, and what is said of it.

    `of_layers` tells (id, line). `of_image` are the image's own lines, `behind` those behind the lines of its layers.
    `slow`: `--quick` does not find it. `stays`: while there is the container only `--force` mends it. `refused`: on
    these drivers it is tried, and fails. `lost`: what `--force` cannot save there, `always` what it never can.
    """

    name: str
    do: Callable[[Site], object]
    of_layers: Callable[[Site], list[tuple[str, str]]] = lambda site: []
    of_image: Told = _nothing
    behind: Told = _nothing
    of_container: Told = _nothing
    slow: bool = False
    stays: bool = False
    refused: tuple[str, ...] = ()
    lost: frozenset[str] = frozenset()
    always: frozenset[str] = frozenset()

    def report(self, site: Site, *, boxed: bool) -> Report:
        """Images have what is said of their layers too, and containers what is said of their image."""
        found: Report = {}
        for id, line in self.of_layers(site):
            if boxed or id != site.box_layer:
                found.setdefault(("layer", id), []).append(line)
        chain = [line for id in (site.child, site.base) for line in found.get(("layer", id), [])]
        of_image = [*self.of_image(site), *[line for line in chain if ORPHAN not in line], *self.behind(site)]
        of_container = [*self.of_container(site), *of_image] if boxed else []
        found["image", site.image] = of_image
        found["container", site.box] = of_container
        return {subject: lines for subject, lines in found.items() if lines}

    def survivors(self, driver: str, *, boxed: bool) -> set[str]:
        lost = self.always | (self.lost if driver in self.refused else frozenset())
        return set(ALL - lost - (frozenset() if boxed else {"box", "box_layer"}))


# --- cases ----------------------------------------------------------------------------------------------------


def tree(name: str, path: str, change: Callable[[Path], object], *lines: str) -> Case:
    """Differences between the files of a layer and what was put into it."""

    def told(site: Site) -> list[tuple[str, str]]:
        return [(site.base, f"layer {site.base}: {line}, {MODIFIED}") for line in lines]

    return Case(name, in_tree(path, change), told, slow=True)


def record(name: str, line: str, **members: object) -> Case:
    """A layer's record that says something else than its archive."""
    given = {key.replace("_", "-"): value for key, value in members.items()}
    return Case(
        name,
        lambda site: site.record("layer", site.base, **given),
        lambda site: [(site.base, f"layer {site.base}: {line}")],
    )


def archive(name: str, path: str, change: Callable[[Path], object], error: str, *refused: str) -> Case:
    """Content that an archive needs; `refused` where nothing else has it."""

    def told(site: Site) -> list[tuple[str, str]]:
        reason = error.replace("PATH", f"{site.tree(site.base)}/{path}")
        trailer = f"layer {site.base}: consume any trailer after the EOF marker: {reason}"
        return [(site.base, trailer), (site.base, f"layer {site.base}: {reason}")]

    return Case(name, in_tree(path, change), told, refused=refused, lost=ALL)


def item(name: str, kind: str, key: str, change: Callable[[Path], object], error: str) -> Case:
    def owner(site: Site) -> str:
        return {"layer": site.base, "image": site.image, "container": site.box}[kind]

    def do(site: Site) -> None:
        change(site.table(kind) / owner(site) / file_name(key))

    def told(site: Site) -> list[str]:
        return [f'{kind} {owner(site)}: data item "{key}": {kind} data item {error}']

    if kind == "layer":
        return Case(name, do, of_layers=lambda site: [(site.base, *told(site))])
    if kind == "image":
        return Case(name, do, of_image=told)
    return Case(name, do, of_container=told, stays=True)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        before = os.getcwd()
        os.chdir(path)  # the name of a socket has at most 108 bytes
        try:
            bound.bind("socket")
        finally:
            os.chdir(before)


def _orphan(site: Site) -> None:
    site.tree(NOBODY).mkdir(parents=True)


def _image_and_data(site: Site) -> None:
    site.drop("image", site.image)
    gone(site.table("image") / site.image)


def _layer_and_record(site: Site) -> None:
    """Whole, so that nothing is left for a collection of garbage."""
    site.drop("layer", site.child)
    gone(site.split(site.child))
    tree = site.tree(site.child)
    if site.driver == "overlay":
        gone(site.graph / "overlay/l" / tree.with_name("link").read_text())
        tree = tree.parent
    gone(tree)


def _missing(id: str) -> str:
    return f"layer {id}: layer is missing"


def _without_parent(site: Site) -> list[tuple[str, str]]:
    told = [(site.box_layer, _missing(site.child))]
    lower = site.tree(site.box_layer).with_name("lower")
    if (
        site.driver == "overlay" and lower.exists()
    ):  # it cannot be mounted; for that they have the kernel's word
        first = lower.read_text().partition(":")[0]
        line = f"layer {site.box_layer}: {lower} begins with {first}, which leads to no layer"
        told.insert(0, (site.box_layer, line))
    return told


def _image_missing(site: Site) -> list[str]:
    return [f"image {site.image}: image missing"]


CASES = [
    item("an item of a layer is deleted", "layer", "note", gone, "is missing"),
    item("an item of an image is deleted", "image", "signature", gone, "is missing"),
    item("an item of an image has grown", "image", "signature", longer, "has incorrect size"),
    item("an item of a container is deleted", "container", "state", gone, "is missing"),
    item("an item of a container has grown", "container", "state", longer, "has incorrect size"),
    # On vfs the layer above has copies, unless it has something else there.
    archive("a file is changed", "usr/large", flipped(), f'{_CHECKSUM} "usr/large"', "overlay"),
    archive("a file is deleted", "bin/ping", gone, f"open PATH{_GONE}", "overlay"),
    archive("a directory is deleted", "bin", gone, f"open PATH/ping{_GONE}", "overlay"),
    archive(
        "a changed file that is nowhere else", "etc/passwd", flipped(), f'{_CHECKSUM} "etc/passwd"', *DRIVERS
    ),
    archive("a directory that is nowhere else", "srv", gone, f"open PATH/old{_GONE}", *DRIVERS),
    tree("a file is added", "etc", with_added("more", file("x")), "+/etc/more"),
    tree(
        "a directory is added",
        "etc",
        with_added("more", lambda path: (directory(path / "deep"), file("x")(path / "deep/file"))),
        "+/etc/more/",
        "+/etc/more/deep/",
        "+/etc/more/deep/file",
    ),
    tree("a symlink is gone", "bin", keeping_time(lambda path: gone(path / "sh")), "-/bin/sh"),
    tree(
        "another owner",
        "etc/passwd",
        owned(5, 6),
        "/etc/passwd(uid:3￫5,gid:4￫6)",
        "+/etc/passwd(uid:3￫5,gid:4￫6)",
    ),
    tree(
        "another mode",
        "etc/passwd",
        moded(0o666),
        "/etc/passwd(mode:0640￫0666)",
        "+/etc/passwd(mode:0640￫0666)",
    ),
    tree("another mode of a directory", "etc", moded(0o700), "/etc(mode:0755￫0700)"),
    tree(
        "another time",
        "etc/passwd",
        timed,
        f"/etc/passwd(mtime:0x{T + 1:x}￫0x{T + 99:x})",
        f"+/etc/passwd(mtime:0x{T + 1:x}￫0x{T + 99:x})",
    ),
    tree(
        "a file for a FIFO",
        "dev",
        keeping_time(lambda path: (gone(path / "pipe"), file("x")(path / "pipe"))),
        "/dev/pipe(filetype:54￫48)",
        "+/dev/pipe(filetype:54￫48)",
    ),
    Case(
        "a socket",
        in_tree("etc", keeping_time(_socket)),
        lambda site: [
            (site.base, f"scanning contents of layer {site.base}: archive/tar: sockets not supported")
        ],
        slow=True,
    ),
    record("another digest", "layer content incorrect digest", diff_digest="sha256:" + "0" * 64),
    record(
        "another size",
        f"read {len(BASE)} bytes instead of 5 bytes: layer content incorrect size",
        diff_size=5,
    ),
    record("no digest", "invalid checksum digest format", diff_digest="x"),
    Case("a directory without a record", _orphan, lambda site: [(NOBODY, f"layer {NOBODY}: {ORPHAN}")]),
    Case(
        "the record of a lower layer is lost",
        lambda site: site.drop("layer", site.base),
        lambda site: [
            (site.base, f"layer {site.base}: {ORPHAN}"),
            (site.child, _missing(site.base)),
        ],
        behind=lambda site: [f"image {site.image}: layer {site.base}: image layer is missing"],
    ),
    Case(
        "the record of an image's layer is lost",
        lambda site: site.drop("layer", site.child),
        lambda site: [
            (site.child, f"layer {site.child}: {ORPHAN}"),
            (site.box_layer, _missing(site.child)),
        ],
        behind=lambda site: [f"image {site.image}: layer {site.child}: image layer is missing"],
    ),
    Case(
        "an image's layer is lost",
        _layer_and_record,
        _without_parent,
        behind=lambda site: [f"image {site.image}: layer {site.child}: image layer is missing"],
        refused=DRIVERS,
        lost=ALL - {"base"},
    ),
    Case(
        "the record of an image is lost",
        lambda site: site.drop("image", site.image),
        of_container=_image_missing,
    ),
    Case(
        "an image is lost",
        _image_and_data,
        of_container=_image_missing,
        stays=True,
        always=frozenset(("image",)),
    ),
]
IDS = [case.name for case in CASES]
WITHOUT = [case for case in CASES if case.of_container is _nothing]
"""Without a container there is nothing to damage, or to be told, in the others."""
