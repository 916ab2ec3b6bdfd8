"""The operations that the crash suites kill, fail and cut the power of.

    python operations.py BASE DRIVER OPERATION

opens the store of the operation's scene, says "ready", waits for a byte, and says "done" once the operation has
returned. Status 3: it was refused, by an error that callers may expect; what it says is on standard error.
"""

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenes import GAPPED, ID, SCENES, Facts, Scene, blob

from orlop import AutoUserNS
from orlop.errors import NotFound, StorageError

REFUSED = 3


@dataclass(frozen=True)
class Operation:
    """`act`, on the store of a scene.

    seen    what the records do not tell: a value that is the same before and after a crash, or as before or after
    steps   several changes, each of them whole: any number of the first ones may have happened
    opens   opening the store is part of it
    frees   it gives room, and so has to succeed on a full disk
    """

    act: Callable[[Any], object]
    scene: str = "plain"
    seen: Callable[[Any], object] = lambda store: None
    steps: bool = False
    opens: bool = False
    frees: bool = False

    @property
    def place(self) -> Scene:
        return SCENES[self.scene]

    def facts(self, store: Any, base: Path, driver: str) -> Facts:
        return {**self.place.facts(store, base, driver), "seen": self.seen(store)}


def _image(store: Any) -> None:
    store.images.create(
        id=ID["new"], layer="lone", names=["new"], data={"manifest": b"[1]", "sha256:x": b"y"}
    )


def _container(store: Any, image: str = "app", **more: Any) -> None:
    store.containers.create(
        id=ID["new"], image=image, layer=ID["new-layer"], names=["new"], data={"k": b"v"}, **more
    )


def _put(store: Any, parent: str) -> None:
    store.layers.put(blob("x", "y"), id=ID["new"], parent=parent, names=["new"], data={"k": b"v"})


def _staged(store: Any) -> None:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # as in tests
    from differs import TarDiffer

    output = store.prepare_staged_layer(TarDiffer(blob("x", "y"), toc_digest="sha256:" + "7" * 64))
    try:
        store.apply_staged_layer(
            output, id=ID["new"], parent="base", names=["new"], data={"k": b"v"}, flags={"f": 1}
        )
    except BaseException:
        store.cleanup_staged_layer(output)
        raise


def _locked(store: Any) -> None:
    with store.digest_lock("sha256:" + "0" * 64, timeout=20) as lock:
        lock.touch()


def _planned(*refs: str) -> Callable[[Any], object]:
    """Plan the deletion of those that are there, and apply the plan."""
    return lambda store: store.apply(store.plan_delete(*[ref for ref in refs if store.exists(ref)]))


def _garbage(store: Any) -> object:
    plan = store.plan_gc()
    return sorted(step.path for step in plan.steps), [kept.path for kept in plan.keeps]


def _collected(store: Any, outcome: Any) -> None:
    """What could not be read or taken away is told and not raised: here it is as good as an error."""
    left = [error for _, error in outcome.failed] or [kept.reason for kept in store.plan_gc().keeps]
    if left:
        raise OSError("; ".join(left))


def _shared(store: Any, problems: Iterable[object]) -> None:
    """The same of files: where the kernel does not tell which blocks they lie on, they are left as they are."""
    left = [*map(str, problems)] or [f"{size} bytes are not shared" for size in [_unshared(store)] if size]
    if left:
        raise OSError("; ".join(left))


def _damage(store: Any) -> object:
    return [finding.code for finding in store.check().findings if finding.grade != "oddity"]


def _repair(store: Any) -> None:
    outcome = store.apply(store.plan_repair(store.check(), containers=True))
    left = [error for _, error in outcome.failed] or _damage(store)
    if left:
        raise OSError(f"not put right: {left}")


def _unshared(store: Any) -> object:
    """Bytes that other files have as well, on blocks of their own."""
    return sum(step.size_bytes for step in store.plan_dedup().steps)


OPERATIONS = {
    "open": Operation(lambda s: len(s.layers), "nothing", opens=True),
    "create": Operation(
        lambda s: s.layers.create(id=ID["new"], parent="top", names=["new"], data={"k": b"v"})
    ),
    "put": Operation(lambda s: _put(s, "base")),
    "staged": Operation(_staged, "staging"),
    "apply": Operation(lambda s: s.apply_diff("lone", blob("z"))),
    "delete-layer": Operation(lambda s: s.layers.delete("lone"), frees=True),
    "delete-container": Operation(lambda s: s.containers.delete("box"), frees=True),
    "delete-image": Operation(lambda s: s.images.delete("spare"), frees=True),
    "delete-record": Operation(lambda s: s.delete("spare"), frees=True),
    "image": Operation(_image),
    "container": Operation(_container),
    "volatile": Operation(lambda s: _container(s, volatile=True)),
    "rename": Operation(lambda s: s.layers.set_names("lone", ["base", "fresh"])),
    "image-data": Operation(lambda s: s.images.data("app").put("manifest", b'{"v":2}')),
    "layer-data": Operation(lambda s: s.layers.data("lone").put("Cache", b"c" * 5000)),
    "write-file": Operation(lambda s: s.containers.write_file("box", "notes/first", b"new" * 2000)),
    "write-deep": Operation(lambda s: s.images.write_file("spare", "a/b/c", b"new" * 2000)),
    "write-run": Operation(lambda s: s.containers.write_file("box", "pid", b"1", run=True)),
    "mount": Operation(lambda s: s.mount("box"), seen=lambda s: s.mount_count("box") > 0),
    "mount-image": Operation(lambda s: s.mount_image("app"), seen=lambda s: s.mount_count("top") > 0),
    "lock": Operation(_locked, seen=_locked),
    "wipe": Operation(lambda s: s.wipe(), steps=True, frees=True),
    "plan-delete": Operation(_planned("box", "app", "spare"), steps=True, frees=True),
    "plan-wipe": Operation(lambda s: s.apply(s.plan_wipe()), steps=True, frees=True),
    "pull-up": Operation(lambda s: s.images.add_names("foreign", ["new", "alias"]), "additional"),
    "foreign-id": Operation(
        lambda s: s.images.create(id=ID["foreign"], layer="lone", names=["new"], data={"manifest": b"own"}),
        "additional",
    ),
    "on-foreign": Operation(lambda s: _container(s, "foreign"), "additional"),
    "split-delete": Operation(lambda s: s.images.delete("spare"), "split", frees=True),
    "split-delete-shared": Operation(lambda s: s.images.delete("shared"), "split", frees=True),
    "split-pull-up": Operation(lambda s: s.add_names("app", ["new"]), "split"),
    "split-put": Operation(lambda s: _put(s, "high"), "split"),
    "split-wipe": Operation(lambda s: s.wipe(), "split", steps=True, frees=True),
    "auto-userns": Operation(lambda s: _container(s, "users", auto_userns=AutoUserNS()), "maps", steps=True),
    "mapped-copy": Operation(lambda s: _container(s, "users", mappings=GAPPED), "maps", steps=True),
    "delete-mapped": Operation(lambda s: s.images.delete("mapped"), "maps", steps=True, frees=True),
    "gc": Operation(lambda s: _collected(s, s.gc()), "rubbish", seen=_garbage, steps=True, frees=True),
    "plan-gc": Operation(
        lambda s: _collected(s, s.apply(s.plan_gc())), "rubbish", seen=_garbage, steps=True, frees=True
    ),
    "repair": Operation(_repair, "damaged", seen=_damage, steps=True),
    "on-sealed": Operation(lambda s: _container(s, "sealed"), "sealed"),
    "mount-sealed": Operation(
        lambda s: s.mount_image("sealed"), "sealed", seen=lambda s: s.mount_count(ID["sealed"]) > 0
    ),
    "delete-sealed": Operation(lambda s: s.images.delete("sealed"), "sealed", frees=True),
    "dedup": Operation(lambda s: _shared(s, s.dedup().skipped), "xfs", seen=_unshared, steps=True),
    "plan-dedup": Operation(
        lambda s: _shared(s, s.apply(s.plan_dedup()).failed), "btrfs", seen=_unshared, steps=True
    ),
}


def next_write(store: Any) -> None:
    """What the next program does by chance: a change of each table, which clears away what a dead one left."""
    if ID["after"] in store.layers:  # the one before came so far
        store.layers.delete(ID["after"])
    store.layers.create(id=ID["after"])
    store.layers.delete(ID["after"])
    for kind, name in ((store.images, "other"), (store.containers, "box")):
        with suppress(NotFound):
            kind.set_metadata(name, os.urandom(4).hex())


def main(place: str, driver: str, name: str) -> int:
    """`name` "recover" is the next write, on the store of the operation after the slash."""
    verb, _, of = name.partition("/")
    operation = OPERATIONS[of or verb]
    act = next_write if of else operation.act
    base = Path(place)
    if operation.opens or of:
        _rendezvous()
    try:
        with operation.place.opened(base, driver) as store:
            if not (operation.opens or of):
                _rendezvous()
            act(store)
            print("done", flush=True)
    except (OSError, StorageError, MemoryError) as error:
        print(f"refused: {type(error).__name__}: {error}", *getattr(error, "__notes__", ()), file=sys.stderr)
        return REFUSED
    return 0


def _rendezvous() -> None:
    """Let whoever watches attach; calls are counted from here on."""
    print("ready", flush=True)
    os.read(0, 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
