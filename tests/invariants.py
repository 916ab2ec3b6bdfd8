"""What must be true of a store whenever nothing is running in it, whoever made it and whatever was killed.

    invariants.hold(graph, run, driver="vfs")      # raises Broken with every line that does not hold

Written against the formats (docs/formats.md), not against the library, so that it can disagree with it.
"""

import gzip
import hashlib
import json
import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any


class Broken(AssertionError):
    """What does not hold, a line each."""


def records(path: Path) -> list[dict[str, Any]]:
    """The records of one JSON file; a file that does not exist holds none."""
    if not path.exists():
        return []
    found = json.loads(path.read_bytes() or b"[]")
    assert isinstance(found, list)
    return found


def layer_records(graph: Path, run: Path, driver: str) -> list[dict[str, Any]]:
    directory = graph / f"{driver}-layers"
    return records(directory / "layers.json") + records(directory / "volatile-layers.json")


def hold(graph: Path | str, run: Path | str, driver: str = "vfs", *, litter: bool = True) -> None:
    """Check I1 to I6 of the promises. `litter=False` leaves out what the next write would clean up."""
    graph, run = Path(graph), Path(run)
    wrong: list[str] = []
    try:
        layers = layer_records(graph, run, driver)
        images = records(graph / f"{driver}-images" / "images.json")
        containers = records(graph / f"{driver}-containers" / "containers.json")
        containers += records(graph / f"{driver}-containers" / "volatile-containers.json")
    except ValueError as error:
        raise Broken(f"a table is not JSON: {error}") from error
    ids = [layer["id"] for layer in layers]
    if len(set(ids)) != len(ids):
        wrong.append("two layer records have one id")
    stored = set(_stored(graph, driver))
    wrong += [f"I1 layer {id} has a record, and no directory" for id in ids if id not in stored]
    wrong += [f"I1 directory {id} has no record" for id in sorted(stored - set(ids))]
    parents = {layer["id"]: layer.get("parent", "") for layer in layers}
    for id in ids:
        at, steps = id, 0
        while at and steps <= len(ids):
            at, steps = parents.get(at, ""), steps + 1
        if at:
            wrong.append(f"I2 the parents of {id} go in a circle")
        if parents[id] and parents[id] not in parents:
            wrong.append(f"I2 the parent of {id} has no record")
    wrong += [
        f"I3 layer {layer['id']} is incomplete"
        for layer in layers
        if layer.get("flags", {}).get("incomplete")
    ]
    if litter:
        for directory in (
            graph / f"{driver}-layers",
            graph / f"{driver}-images",
            graph / f"{driver}-containers",
        ):
            wrong += [f"I4 {path}" for path in directory.rglob(".tmp-*")]
        for root in (graph / f"{driver}-layers" / "tmp", graph / driver / "tempdirs"):
            wrong += [f"I4 {path}" for path in (root.iterdir() if root.exists() else ())]
        if (graph / driver / "tempdirs").exists():
            wrong.append("I4 an empty tempdirs is left in the driver's home")
    for kind, table in (("images", images), ("containers", containers)):
        for record in table:
            wrong += _data(graph / f"{driver}-{kind}" / record["id"], record)
    layer_directory = graph / f"{driver}-layers"
    for layer in layers:
        wrong += _content(layer_directory, _trees(graph, driver, layer["id"]), layer)
        for key in layer.get("big-data-names", ()):
            if not (layer_directory / layer["id"] / _file(key)).exists():
                wrong.append(f"I5 layer {layer['id']} has no data item {key}")
    for name in os.listdir(layer_directory) if layer_directory.exists() else ():
        if (
            name.endswith(".tar-split.gz")
            and not name.startswith(".")
            and name.removesuffix(".tar-split.gz") not in ids
        ):
            wrong.append(f"I1 {name} belongs to no record")
    for image in images:
        if image.get("layer") and image["layer"] not in ids:
            wrong.append(f"image {image['id']} has a top layer without a record")
    for container in containers:
        if container["layer"] not in ids:
            wrong.append(f"container {container['id']} has a layer without a record")
    if wrong:
        raise Broken("\n".join(wrong))


def counted(graph: Path | str, run: Path | str, driver: str = "overlay") -> None:
    """Check I7: what is counted as mounted is in the mount table, once; and what is there is counted.

    Not part of `hold`: between a mount and its count a program may be killed, and the next one puts that right.
    """
    graph, run = Path(os.path.realpath(graph)), Path(os.path.realpath(run))
    entries = records(run / f"{driver}-layers" / "mountpoints.json")
    ids = {layer["id"] for layer in layer_records(graph, run, driver)}
    found: dict[str, int] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4]
        if any(root / driver in Path(point).parents for root in (graph, run)):
            found[point] = found.get(point, 0) + 1
    wrong = [f"I7 {point} is mounted {n} times, one upon the other" for point, n in found.items() if n > 1]
    for entry in entries:
        if entry["id"] not in ids:
            wrong.append(f"I7 {entry['id']} is counted as mounted, and has no record")
        if entry["count"] < 1:
            wrong.append(f"I7 {entry['id']} is listed with count {entry['count']}")
        if driver == "overlay" and os.path.realpath(entry["path"]) not in found:
            wrong.append(f"I7 {entry['id']} is counted as mounted on {entry['path']}, and nothing is there")
    listed = {os.path.realpath(entry["path"]) for entry in entries}
    wrong += [f"I7 {point} is mounted, and not counted" for point in sorted(found.keys() - listed)]
    if wrong:
        raise Broken("\n".join(wrong))


def _file(key: str) -> str:
    plain = set(".0123456789abcdefghijklmnopqrstuvwxyz")
    odd = next((i for i, c in enumerate(key) if c not in plain), len(key))
    return key if odd >= len(key) - 1 else "=" + b64encode(key.encode()).decode()


def _data(directory: Path, record: dict[str, Any]) -> list[str]:
    wrong = []
    for key in record.get("big-data-names", ()):
        path = directory / _file(key)
        if not path.exists():
            wrong.append(f"I5 {record['id']} has no data item {key}")
            continue
        data = path.read_bytes()
        digest = record.get("big-data-digests", {}).get(key, "")
        if record.get("big-data-sizes", {}).get(key, 0) != len(data):
            wrong.append(f"I5 data item {key} of {record['id']} has another size")
        if digest != "sha256:" + hashlib.sha256(data).hexdigest():
            wrong.append(f"I5 data item {key} of {record['id']} has another digest")
    return wrong


def _stored(graph: Path, driver: str) -> list[str]:
    """The layers that lie in the driver's home."""
    home = graph / "vfs" / "dir" if driver == "vfs" else graph / driver
    if not home.exists():
        return []
    own = {"l", "staging", "tempdirs"} if driver == "overlay" else set()
    return [e.name for e in os.scandir(home) if e.is_dir(follow_symlinks=False) and e.name not in own]


def _trees(graph: Path, driver: str, id: str) -> list[Path]:
    """Where the files of a layer are looked up: its own tree, then those below."""
    if driver == "vfs":
        return [graph / "vfs" / "dir" / id]
    home = graph / driver
    lower = home / id / "lower"
    links = lower.read_text().split(":") if lower.exists() else []
    return [home / id / "diff", *(home / link for link in links)]


def _content(directory: Path, trees: list[Path], layer: dict[str, Any]) -> list[str]:
    """I6: the tar put together from tar-split and files has the recorded digest."""
    path = directory / f"{layer['id']}.tar-split.gz"
    if not layer.get("diff-digest"):
        return []
    if not path.exists():
        return [f"I6 layer {layer['id']} has a digest, and no tar-split"]
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(path) as lines:
            for line in lines:
                entry = json.loads(line)
                if entry["type"] == 2:
                    data = b64decode(entry["payload"] or "")
                elif entry.get("size"):
                    raw = entry.get("name_raw")
                    name = b64decode(raw) if raw else entry["name"].encode()
                    places = [tree / os.fsdecode(name.lstrip(b"/")) for tree in trees]
                    data = next((p for p in places if p.exists()), places[0]).read_bytes()
                else:
                    continue
                digest.update(data)
                size += len(data)
    except (OSError, ValueError, EOFError) as error:
        return [f"I6 layer {layer['id']} cannot be put together: {error}"]
    if "sha256:" + digest.hexdigest() != layer["diff-digest"] or size != layer.get("diff-size", 0):
        return [f"I6 layer {layer['id']} is not what was put: {size} of {layer.get('diff-size', 0)} bytes"]
    return []
