"""What must be true of a store whenever nothing is running in it, whoever made it and whatever was killed.

    invariants.hold(graph, run, driver="vfs")      # raises Broken with every line that does not hold

Asked twice: the check that ships (`Store.check`), which looks further, and a smaller one here that is written against
the formats (docs/formats.md) and not against the library, so that it can disagree with it.
"""

import gzip
import hashlib
import json
import os
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orlop
import peers
from orlop.model.findings import DAMAGE, LEFTOVER


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
    """Of all files that there may be; a transient store has those of containers below its run root."""
    return _all_records(graph, run, driver, "layers")


def _all_records(graph: Path, run: Path, driver: str, kind: str) -> list[dict[str, Any]]:
    places = (f"{driver}-{kind}/{kind}.json", f"{driver}-{kind}/volatile-{kind}.json")
    return [record for root in (graph, run) for place in places for record in records(root / place)]


def hold(
    graph: Path | str,
    run: Path | str,
    driver: str = "vfs",
    *,
    litter: bool = True,
    image_store: Path | None = None,
    additional: Path | None = None,
    options: Iterable[str] = (),
) -> None:
    """Check I1 to I6 of the promises. `litter=False` leaves out what the next write would clean up.

    `image_store` is the second root of a split store. What lies in an `additional` store is only looked up. `options`
    are those of the driver that say how files lie on disk.
    """
    graph, run = Path(graph), Path(run)
    by_formats(graph, run, driver, litter=litter, image_store=image_store, additional=additional)
    if not graph.exists():
        return
    more = [f"{driver}.imagestore={additional}"] if additional else []
    homes = [root / driver for root in (graph, image_store) if root is not None]
    before = {point for home in homes for point in peers.mounts_below(home)}
    wrong: list[str] = []
    for transient in _modes(graph, run, driver):
        with orlop.open_store(
            graph,
            run,
            driver,
            image_store=image_store,
            transient=transient,
            driver_options=[*options, *more],
            durability="none",
            lock_timeout=60,
        ) as store:
            wrong += [
                f"{finding.code} {finding.text}"
                for finding in store.check().findings
                # What a test did to the files of a layer is its own affair.
                if not finding.code.startswith("tree-")
                if finding.grade == DAMAGE
                or (finding.grade == LEFTOVER and litter)
                or finding.code == "tar-split-missing"
            ]
    for home in homes:  # the store of a test that has ended must leave no mount
        for point in set(peers.mounts_below(home)) - before:
            subprocess.run(["umount", "--lazy", point], check=True)
    if wrong:
        raise Broken("\n".join(wrong))


def _modes(graph: Path, run: Path, driver: str) -> list[bool]:
    """Whether to open as a transient store: such ones have records in the run root, which others do not see."""
    names = [f"{driver}-{kind}/volatile-{kind}.json" for kind in ("layers", "containers")]
    return [False, True] if any((run / name).exists() for name in names) else [False]


def by_formats(
    graph: Path,
    run: Path,
    driver: str,
    *,
    litter: bool = True,
    image_store: Path | None = None,
    additional: Path | None = None,
) -> None:
    """See `hold`."""
    roots = [graph, image_store] if image_store else [graph]
    homes = [*roots, additional] if additional else roots
    wrong: list[str] = []
    try:
        layers = layer_records(graph, run, driver)
        if image_store:
            layers += records(image_store / f"{driver}-layers" / "layers.json")
        foreign = records(additional / f"{driver}-layers" / "layers.json") if additional else []
        images = {root: records(root / f"{driver}-images" / "images.json") for root in roots}
        containers = _all_records(graph, run, driver, "containers")
    except ValueError as error:
        raise Broken(f"a table is not JSON: {error}") from error
    ids = [layer["id"] for layer in layers]
    known = {*ids, *[layer["id"] for layer in foreign]}
    if len(set(ids)) != len(ids):
        wrong.append("two layer records have one id")
    stored = {id for root in roots for id in _stored(root, driver)}
    wrong += [f"I1 layer {id} has a record, and no directory" for id in ids if id not in stored]
    wrong += [f"I1 directory {id} has no record" for id in sorted(stored - set(ids))]
    parents = {layer["id"]: layer.get("parent", "") for layer in (*foreign, *layers)}
    for id in ids:
        at, steps = id, 0
        while at and steps <= len(known):
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
    for root in roots if litter else ():
        wrong += _litter(root, driver)
    for root, table in images.items():
        for image in table:
            wrong += _data(root / f"{driver}-images" / image["id"], image)
            if image.get("layer") and image["layer"] not in known:
                wrong.append(f"image {image['id']} has a top layer without a record")
    for container in containers:
        wrong += _data(graph / f"{driver}-containers" / container["id"], container)
        if container["layer"] not in known:
            wrong.append(f"container {container['id']} has a layer without a record")
    layer_directory = graph / f"{driver}-layers"
    for layer in layers:
        wrong += _content(layer_directory, _trees(homes, driver, layer["id"]), layer)
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
    if wrong:
        raise Broken("\n".join(wrong))


def _litter(root: Path, driver: str) -> list[str]:
    """I4: what dead processes leave below one root."""
    found: list[str] = []
    for kind in ("layers", "images", "containers"):
        found += [f"I4 {path}" for path in (root / f"{driver}-{kind}").rglob(".tmp-*")]
    for trash in (root / f"{driver}-layers" / "tmp", root / driver / "tempdirs"):
        found += [f"I4 {path}" for path in (trash.iterdir() if trash.exists() else ())]
    if (root / driver / "tempdirs").exists():
        found.append("I4 an empty tempdirs is left in the driver's home")
    return found


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


def _trees(homes: list[Path], driver: str, id: str) -> list[Path]:
    """Where the files of a layer are looked up: its own tree, then those below."""
    if driver == "vfs":
        places = [home / "vfs" / "dir" / id for home in homes]
        return [next((place for place in places if place.exists()), places[0])]
    drivers = [home / driver for home in homes]
    own = next((home / id for home in drivers if (home / id).exists()), drivers[0] / id)
    lower = own / "lower"
    links = lower.read_text().split(":") if lower.exists() else []
    below = [next((h / link for h in drivers if (h / link).exists()), drivers[0] / link) for link in links]
    return [own / "diff", *below]


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
                    path = os.path.normpath(b"/" + name)[1:].lstrip(b"/")
                    places = [tree / os.fsdecode(path) for tree in trees]
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
