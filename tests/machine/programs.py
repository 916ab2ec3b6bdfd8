"""Programs that use a store: this process, or another that lives as long as the tests do.

    with Worker() as worker:
        here, there = Program(None), Program(worker)
        for program in (here, there):
            program.open(graph, run, durability="none")
        there.do("layers.create", {"id": "a"})          # an Outcome: a plain value, or the name of an error

What the verbs are to answer is in `machine.model`.
"""

import io
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import orlop
from machine.tables import BLOBS, KINDS, MAPS, sha256
from orlop.errors import NotFound, StorageError
from orlop.model.idmap import IDMap, IDMappings

Made = dict[str, str]
"""The id of what was made, and when."""

_MAPPINGS = IDMappings(*[(IDMap(*MAPS[0].values()),)] * 2)


@dataclass
class Outcome:
    """`error` is the class of what was raised, `text` its sentence; `mapped` are the copies that images list."""

    value: Any = None
    error: str = ""
    text: str = ""
    mapped: dict[str, list[Made]] | None = None


# --- the verbs ----------------------------------------------------------------------------------------------


class Verbs:
    """What can be asked of a store; every answer is plain, and compared as it is."""

    def __init__(self, store: orlop.Store) -> None:
        self._store = store

    def layers_create(self, **given: Any) -> Any:
        return _made(self._store.layers.create(**given))

    def layers_put(self, *, blob: str, **given: Any) -> Any:
        return _made(self._store.layers.put(io.BytesIO(BLOBS[blob]), **given))

    def images_create(self, **given: Any) -> Any:
        return _made(self._store.images.create(**given))

    def containers_create(self, *, maps: bool = False, **given: Any) -> Any:
        box = self._store.containers.create(**given, **({"mappings": _MAPPINGS} if maps else {}))
        return {**_made(box), "layer": _made(self._store.layers[box.layer])}

    def _collection(self, kind: str) -> Any:
        return self._store if kind == "any" else getattr(self._store, kind)

    def name(self, *, kind: str, operation: str, ref: str, names: list[str]) -> list[str]:
        return list(getattr(self._collection(kind), f"{operation}_names")(ref, names))

    def set_metadata(self, *, kind: str, ref: str, metadata: str) -> None:
        self._collection(kind).set_metadata(ref, metadata)

    def data_put(self, *, kind: str, ref: str, key: str, data: bytes) -> None:
        self._collection(kind).data(ref).put(key, data)

    def data_get(self, *, kind: str, ref: str, key: str) -> list[Any]:
        data = self._collection(kind).data(ref)
        found: list[Any] = []
        for ask in (data.__getitem__, data.size, data.digest):
            try:
                found.append(ask(key))
            except (NotFound, ValueError) as error:
                found.append(type(error).__name__)
        return [str(item) if isinstance(item, str) else item for item in found]

    def data_keys(self, *, kind: str, ref: str) -> list[str]:
        return list(self._collection(kind).data(ref))

    def look(self, *, kind: str, ref: str) -> dict[str, Any]:
        if kind == "any":
            return {
                "id": self._store.lookup(ref),
                "metadata": self._store.metadata(ref),
                "names": list(self._store.names(ref)),
            }
        record = getattr(self._store, kind)[ref]
        return {"id": str(record.id), "metadata": record.metadata, "names": list(record.names)}

    def has(self, *, kind: str, ref: str) -> bool:
        return self._store.exists(ref) if kind == "any" else ref in getattr(self._store, kind)

    def by(self, *, what: str, value: str) -> list[str]:
        kind, _, method = what.partition(".")
        found = getattr(getattr(self._store, kind), method)(value)
        return sorted(str(record.id) for record in (found if isinstance(found, list) else [found]))

    def diff(self, *, ref: str) -> str | None:
        layer = self._store.layers[ref]
        if layer.diff_digest is None or layer.read_only:
            return None
        with self._store.diff(layer.id, compression=0) as stream:
            return sha256(stream.read())

    def directory(self, *, kind: str, ref: str) -> str:
        path = self._collection(kind).directory(ref)
        assert os.path.isdir(path)
        return os.path.basename(os.path.dirname(path))

    def mount(self, *, ref: str) -> str:
        path = self._store.mount(ref)
        assert os.path.isdir(path)
        return os.path.basename(path)

    def unmount(self, *, ref: str, force: bool) -> bool:
        return self._store.unmount(ref, force=force)

    def mount_count(self, *, ref: str) -> int:
        return self._store.mount_count(ref)

    def shutdown(self, *, force: bool) -> list[str]:
        return self._store.shutdown(force=force)

    def delete(self, *, kind: str, ref: str) -> Any:
        gone = self._collection(kind).delete(ref)
        return None if gone is None else list(map(str, gone))

    def images_dry_run(self, *, ref: str) -> list[str]:
        return list(map(str, self._store.images.delete(ref, dry_run=True)))

    def plan_delete(self, *, refs: list[str]) -> list[tuple[str, str]]:
        return self._applied(self._store.plan_delete(*refs))

    def gc(self) -> list[tuple[str, str]]:
        return self._applied(self._store.plan_gc())

    def _applied(self, plan: Any) -> list[tuple[str, str]]:
        outcome = self._store.apply(plan)
        assert outcome.failed == ()
        assert [(step.kind, step.id) for step in outcome.done] == [
            (step.kind, step.id) for step in plan.steps
        ]
        return sorted([(step.kind, step.id) for step in plan.steps])

    def check(self) -> list[str]:
        """What the check that users have finds."""
        return [finding.text for finding in self._store.check().findings]

    def wipe(self) -> None:
        self._store.wipe()

    def show(self) -> dict[str, Any]:
        """Everything that a store says of itself, each kind as text and as values."""
        shown: dict[str, Any] = {kind: json.loads(getattr(self._store, kind).json()) for kind in KINDS}
        snapshot = self._store.snapshot()
        for kind in KINDS:
            ids = [document["id"] for document in shown[kind]]
            assert [record.id for record in getattr(snapshot, kind)] == ids
            assert len(getattr(self._store, kind)) == len(ids)
        mounts = {str(layer.id): layer.mount_count for layer in snapshot.layers if layer.mount_count}
        return {**shown, "mounts": mounts, "damage": self._store.damage()}


def _made(record: Any) -> Made:
    return {"id": str(record.id), "created": str(record.created)}


def _done(store: orlop.Store, verb: str, given: dict[str, Any]) -> Outcome:
    outcome = Outcome()
    try:
        outcome.value = getattr(Verbs(store), verb.replace(".", "_"))(**given)
    except (StorageError, OSError) as error:
        outcome.error, outcome.text = type(error).__name__, str(error)
    if verb == "containers.create":
        # Of two places that have one image, the first is meant.
        copies = {str(image.id): image.mapped_layers for image in reversed(list(store.images))}
        there = {layer.id: _made(layer) for layer in store.layers}
        outcome.mapped = {image: [there[id] for id in ids if id in there] for image, ids in copies.items()}
    return outcome


# --- who carries them out -----------------------------------------------------------------------------------


class Worker:
    """Another process. It has the stores that programs opened in it, by their numbers."""

    def __init__(self) -> None:
        tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", "from machine.programs import work; work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=tests,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *args: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def send(self, *words: Any) -> None:
        assert self._process.stdin
        pickle.dump(words, self._process.stdin)
        self._process.stdin.flush()

    def receive(self) -> Any:
        assert self._process.stdout
        answer = pickle.load(self._process.stdout)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Program:
    """Somebody who has a store open: in a worker, or in this process."""

    def __init__(self, worker: Worker | None) -> None:
        self._worker = worker
        self._store: orlop.Store | None = None
        self._begun: tuple[str, dict[str, Any]] | None = None

    def open(self, *args: Any, **options: Any) -> None:
        """As `orlop.open_store`; a store that is open is closed first."""
        self.close()
        if self._worker is None:
            self._store = orlop.open_store(*args, **options)
        else:
            self._worker.send(id(self), "open", (args, options))
            self._worker.receive()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.send(id(self), "close", None)
            self._worker.receive()
        elif self._store is not None:
            self._store.close()
            self._store = None

    def do(self, verb: str, given: dict[str, Any]) -> Outcome:
        self.begin(verb, given)
        return self.end()

    def begin(self, verb: str, given: dict[str, Any]) -> None:
        """A worker begins at once, this process when it is waited for."""
        if self._worker is not None:
            self._worker.send(id(self), verb, given)
        else:
            self._begun = verb, given

    def end(self) -> Outcome:
        if self._worker is not None:
            outcome = self._worker.receive()
            assert isinstance(outcome, Outcome)
            return outcome
        assert self._store is not None
        assert self._begun is not None
        return _done(self._store, *self._begun)


def work() -> None:
    """The life of a worker. What is no error of a store goes back as it is, and is raised over there."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    stores: dict[int, orlop.Store] = {}
    while True:
        try:
            number, verb, given = pickle.load(source)
        except EOFError:
            return
        answer: Any = None
        try:
            if verb == "open":
                stores[number] = orlop.open_store(*given[0], **given[1])
            elif verb == "close":
                if number in stores:
                    stores.pop(number).close()
            else:
                answer = _done(stores[number], verb, given)
        except BaseException as error:
            answer = error
        pickle.dump(answer, sink)
        sink.flush()
