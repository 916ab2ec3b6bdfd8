"""The operations that the crash suites kill, each with the state before, and how to tell that it happened.

    python operations.py GRAPH RUN DRIVER OPERATION      # prints "done" once the operation returned

The state before (`prepare`): layers base <- middle <- top, image "app" on top with a manifest, container "box", a
lone layer, and a second image. Small on purpose: a killed process costs as much as the operation takes.
"""

import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orlop


def blob(*names: str, size: int = 3000) -> io.BytesIO:
    """A layer tar with a directory, files, a symlink and a hard link, and a whiteout unless it has that file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        directory = tarfile.TarInfo("etc")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)
        for name in names:
            info = tarfile.TarInfo(f"etc/{name}")
            data = (name * size).encode()[:size]
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("etc/link")
        link.type, link.linkname = tarfile.SYMTYPE, names[0]
        tar.addfile(link)
        hard = tarfile.TarInfo("etc/hard")
        hard.type, hard.linkname = tarfile.LNKTYPE, f"etc/{names[0]}"
        tar.addfile(hard)
        if "gone" not in names:
            tar.addfile(tarfile.TarInfo("etc/.wh.gone"))
    out.seek(0)
    return out


def opened(graph: Path | str, run: Path | str, driver: str) -> Any:
    return orlop.open_store(graph, run, driver)


def prepare(graph: Path, run: Path, driver: str) -> None:
    with opened(graph, run, driver) as store:
        store.layers.put(blob("a", "gone"), id="base", names=["base-name"])
        store.layers.put(blob("b"), id="middle", parent="base")
        store.layers.put(blob("c"), id="top", parent="middle")
        store.layers.create(id="lone", names=["lone-name"])
        store.images.create(id="app", layer="top", names=["app-name"], data={"manifest": b"{}"})
        store.images.create(id="other", names=["other-name"])
        store.containers.create(id="box", image="app", layer="box-layer", names=["box-name"])


def _container(store: Any) -> None:
    store.containers.create(id="new", image="app", layer="new-layer", names=["new-name"], data={"k": b"v"})


def _image(store: Any) -> None:
    store.images.create(
        id="new", layer="lone", names=["new-name"], data={"manifest": b"[1]", "sha256:x": b"y"}
    )


def _delete_image(store: Any) -> None:
    store.containers.delete("box")
    store.images.delete("app")


OPERATIONS: dict[str, tuple[Callable[[Any], object], Callable[[Any], bool]]] = {
    "create": (
        lambda s: s.layers.create(id="new", parent="top", names=["new-name"]),
        lambda s: "new" in s.layers,
    ),
    "put": (
        lambda s: s.layers.put(blob("x", "y"), id="new", parent="base", names=["new-name"], data={"k": b"v"}),
        lambda s: "new" in s.layers,
    ),
    "apply": (
        lambda s: s.apply_diff("lone", blob("z")),
        lambda s: s.layers["lone"].diff_digest is not None,
    ),
    "delete-layer": (lambda s: s.layers.delete("lone"), lambda s: "lone" not in s.layers),
    "delete-container": (lambda s: s.containers.delete("box"), lambda s: "box" not in s.containers),
    "delete-image": (_delete_image, lambda s: "app" not in s.images and "base" not in s.layers),
    "image": (_image, lambda s: "new" in s.images and s.images.data("new").get("sha256:x") == b"y"),
    "container": (_container, lambda s: "new" in s.containers and s.containers.data("new").get("k") == b"v"),
    "rename": (
        lambda s: s.layers.set_names("lone", ["base-name", "fresh"]),
        lambda s: s.layers.names("lone") == ("base-name", "fresh") and s.layers.names("base") == (),
    ),
    "image-data": (
        lambda s: s.images.data("app").put("manifest", b'{"v":2}'),
        lambda s: s.images.data("app")["manifest"] == b'{"v":2}',
    ),
    "layer-data": (
        lambda s: s.layers.data("lone").put("Cache", b"c" * 5000),
        lambda s: s.layers.data("lone").get("Cache") == b"c" * 5000,
    ),
    "mount": (lambda s: s.mount("box"), lambda s: s.mount_count("box") >= 1),
    "wipe": (lambda s: s.wipe(), lambda s: len(s.layers) + len(s.images) + len(s.containers) == 0),
}
"""Name -> (the operation, whether it has happened). Each may be repeated after it was killed half-way."""


def main(graph: str, run: str, driver: str, name: str) -> None:
    with opened(graph, run, driver) as store:
        OPERATIONS[name][0](store)
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
