"""A store against a model of it: two processes change and ask it, in turns and at once, and both see what it says.

    make deep-machine                 10,000 steps, in runs of 500; each run has a seed
    make deep-machine N=500 SEED=17   the run of one seed, or the next runs from there

Answers, classes of errors, the records as others read them, files left behind: `tests/machine` predicts them.
"""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hypothesis import seed as seeded
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import invariants
import peers
from machine.model import Model
from machine.operations import (
    ASKS,
    AT_ONCE,
    BEFORE,
    CHANGES,
    DELETES,
    ENDS,
    FINDS,
    MOUNTS,
    PLANS,
    READS,
    RENAMES,
    Nth,
    Op,
    makes,
)
from machine.places import Other, Refused
from machine.programs import Outcome, Program, Worker
from machine.tables import KINDS, NothingMade, Table

N = int(os.environ.get("N") or 10_000)
FIRST = int(os.environ.get("SEED") or 1)
RUN, EXAMPLE = 500, 50  # steps of a run, and of one store in it


WHO = st.integers(0, 1)
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
COMMON = {"durability": "none", "lock_timeout": 30}


class Stores(RuleBasedStateMachine):
    """One store, two programs, one model."""

    worker: Worker
    filled: tuple[Path, Model]  # the graph root of a store with `BEFORE`

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="orlop-machine-", dir=FAST))
        self.notes = self.steps = 0
        self.agreed = True
        self.programs = [Program(None), Program(self.worker)]
        self.model = self.prepared()
        for program in self.programs:
            self.open(program)

    def prepared(self) -> Model:
        """Put down what is there before the store is tried; the model of it."""
        return self.before("graph")

    def before(self, place: str) -> Model:
        graph, model = self.filled
        shutil.copytree(graph, self.base / place)
        return copy.deepcopy(model)

    def open(self, program: Program) -> None:
        program.open(str(self.base / "graph"), str(self.base / "run"), "vfs", **COMMON, **self.options())

    def options(self) -> dict[str, Any]:
        return {}

    # --- steps --------------------------------------------------------------------------------------------

    # Each rule is as probable as another.

    @rule(who=WHO, op=makes(well=True))
    def make(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=makes(well=True))
    def make_more(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=makes(well=False))
    def try_to_make(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=RENAMES)
    def rename(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=RENAMES)
    def rename_again(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=CHANGES)
    def change(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=MOUNTS)
    def mount(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=DELETES)
    def delete(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=PLANS)
    def plan(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=ASKS | READS)
    def ask(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO, op=FINDS)
    def find_by(self, who: int, op: Op) -> None:
        self.step(who, op)

    @precondition(lambda self: self.steps >= 20)
    @rule(who=WHO, op=ENDS)
    def end(self, who: int, op: Op) -> None:
        self.step(who, op)

    @rule(who=WHO)
    def reopen(self, who: int) -> None:
        """A program comes new: it lists the records in the order of the files."""
        self.open(self.programs[who])
        self.same(who, ordered=True)

    @rule(one=AT_ONCE, two=AT_ONCE)
    def do_at_once(self, one: Op, two: Op) -> None:
        """What two programs do at the same moment comes out as if they had done it in turns."""
        ops = [self.resolved(one), self.resolved(two)]
        self.agreed = False
        for who in (1, 0):
            self.programs[who].begin(*ops[who])
        outcomes = [self.programs[0].end(), self.programs[1].end()]
        problems: list[str] = []
        possible = []
        for turns in ((0, 1), (1, 0)):
            model = copy.deepcopy(self.model)
            wrong = [each for who in turns for each in self.judge(model, *ops[who], outcomes[who])]
            if not wrong:
                possible.append(model)
            problems += [f"{turns}: {each}" for each in wrong]
        assert possible, "\n".join(["as if in no turns:", *problems])
        # Which came first may show in the order of the records alone.
        for self.model in possible:
            try:
                self.reopen(0)
            except AssertionError:
                if self.model is possible[-1]:
                    raise
            else:
                break
        self.same(1)
        self.agreed = True

    @rule(kind=st.sampled_from(KINDS), volatile=st.booleans(), quietly=st.booleans())
    def somebody_else_saves(self, kind: str, volatile: bool, quietly: bool) -> None:
        """In another layout, with a member that we do not know; of layers also without telling (edited by hand)."""
        path, home, lock = self.file(kind, volatile=volatile)
        if not path.exists():
            return
        self.notes += 1
        records = invariants.records(path)
        for record in records:
            record["x-newer"] = f"note {self.notes}"
        before = path.stat().st_mtime_ns
        rewrite(path, records)
        os.utime(path, ns=(before + 1, before + 1))
        if kind != "layers" or not quietly:
            with lock.open("r+b") as token:
                token.write(os.urandom(64))
        self.model.note(kind, home, f"note {self.notes}")
        for who in (0, 1):
            self.same(who)

    def step(self, who: int, op: Op) -> None:
        verb, given = self.resolved(op)
        self.steps += 1
        self.agreed = False
        outcome = self.programs[who].do(verb, given)
        problems = self.judge(self.model, verb, given, outcome)
        assert not problems, problems[0]
        self.same(1 - who)
        self.same(who)
        self.agreed = True

    # --- comparing ----------------------------------------------------------------------------------------

    def resolved(self, op: Op) -> Op:
        verb, given = op
        given = {key: self.named(value) for key, value in given.items()}
        if verb == "delete" and given["kind"] == "any" and self.is_of_a_container(given["ref"]):
            # Without asking, this would leave a container that has no layer; another may get one of its id.
            given["kind"] = "layers"
        if given.get("template"):
            # With another parent than its template's, a layer is not what its record says.
            place = self.model.find("layers", given["template"])
            given["parent"] = place[0][place[1]].get("parent") if place else None
        return verb, given

    def named(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.named(each) for each in value]
        return value.ref(self.model) if isinstance(value, Nth) else value

    def is_of_a_container(self, ref: str) -> bool:
        model = self.model
        if model.containers.find(ref) or any(images.find(ref) for images in model.own_images()):
            return False
        layer = model.layers.find(ref)
        return any(box["layer"] == layer for box in model.containers.documents.values())

    def judge(self, model: Model, verb: str, given: dict[str, Any], outcome: Outcome) -> list[str]:
        """Have the model do the same; what it says that is not so."""
        found = {**(outcome.value if isinstance(outcome.value, dict) else {}), "mapped": outcome.mapped}
        what = f"{verb} {given}: found {outcome.error or outcome.value!r} ({outcome.text})"
        try:
            expected = model.apply(verb, given, found)
        except Refused as refused:
            return [] if outcome.error in refused.names else [f"{what}, wanted {refused}"]
        except NothingMade:
            return [f"{what}, wanted something to be made"]
        return [] if not outcome.error and outcome.value == expected else [f"{what}, wanted {expected!r}"]

    def same(self, who: int, *, ordered: bool = False) -> None:
        """What a program says is what the model says."""
        outcome = self.programs[who].do("show", {})
        assert not outcome.error, (outcome.error, outcome.text)
        shown = outcome.value
        assert shown["damage"] == ()
        assert shown["mounts"] == {id: count for id, count in self.model.mounts.items() if count}
        for kind in KINDS:
            wanted = self.model.listed(kind)
            found = shown[kind]
            if not ordered:
                wanted, found = (sorted(each, key=id_of) for each in (wanted, found))
            both = zip_longest(found, wanted)
            different = "\n".join([f"found  {one}\nwanted {two}" for one, two in both if one != two])
            assert not different, f"program {who}, {kind}\n{different}"

    # --- afterwards ---------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.agreed:
                self.reopen(0)
                found = self.programs[0].do("check", {}).value if self.can_be_checked() else []
                for program in self.programs:
                    program.close()
                assert found == [], "\n".join(found)
                self.check_directories()
                if self.can_be_checked():
                    self.check_files()
        finally:
            for program in self.programs:
                program.close()
            shutil.rmtree(self.base)

    def can_be_checked(self) -> bool:
        """There is nothing to be found, as nothing is named that is not there."""
        return self.model.is_whole()

    def check_files(self) -> None:
        """Only for a store that can be checked."""
        invariants.hold(self.base / "graph", self.base / "run")

    def check_directories(self) -> None:
        """What has no record has no directory either."""
        for root in (self.base / "graph", self.base / "run", self.base / "images"):
            for kind in KINDS:
                own = {*getattr(self.model, kind).documents}
                if kind == "images":
                    # Also those of others: callers may keep files of their own with any image.
                    own.update(*[images.documents for images in self.model.tables(kind)])
                places = [root / f"vfs-{kind}", *([root / "vfs" / "dir"] if kind == "layers" else [])]
                for place in filter(Path.exists, places):
                    found = {entry.name for entry in os.scandir(place) if entry.is_dir()}
                    assert found <= own | {"tmp"}, f"{place}: left behind"

    def file(self, kind: str, *, volatile: bool) -> tuple[Path, int, Path]:
        """A file of records that this store may have, its number, and the lock of its table."""
        directory = self.base / "graph" / f"vfs-{kind}"
        lock = directory / f"{kind}.lock"
        if volatile and kind != "images":
            home = self.model.volatile_home if kind == "layers" else 1
            return directory / f"volatile-{kind}.json", home, lock
        return directory / f"{kind}.json", 0, lock


class Transient(Stores):
    """Containers and volatile layers are kept in the run root."""

    def prepared(self) -> Model:
        self.model = self.before("graph")
        self.model.transient = True
        for kind in ("layers", "containers"):
            path, *_ = self.file(kind, volatile=True)
            path.parent.mkdir(parents=True, mode=0o700)
            shutil.move(self.base / "graph" / f"vfs-{kind}" / path.name, path)
        return self.model

    def options(self) -> dict[str, Any]:
        return {"transient": True}

    def file(self, kind: str, *, volatile: bool) -> tuple[Path, int, Path]:
        path, home, lock = super().file(kind, volatile=volatile)
        run = self.base / "run" / f"vfs-{kind}"
        return run / path.name if home else path, home, run / lock.name if kind == "containers" else lock

    def check_files(self) -> None:
        for kind in ("layers", "containers"):  # to where they are looked for
            path, *_ = self.file(kind, volatile=True)
            if path.exists():
                path.rename(self.base / "graph" / f"vfs-{kind}" / path.name)
        super().check_files()


class OfTwoRoots(Stores):
    def check_files(self) -> None:
        """What is true of one root is not of two; what a third program lists is compared before."""


class Split(OfTwoRoots):
    """Images, and layers of images, go to a root of their own; some were made before that was so."""

    def prepared(self) -> Model:
        before = self.before("graph")
        model = Model(split=True, other=Other(before.images, Table("layers"), own=True))
        model.layers, model.containers = before.layers, before.containers
        volatile = [id for id, home in model.layers.homes.items() if home]
        model.layers.homes |= dict.fromkeys(volatile, model.volatile_home)
        return model

    def options(self) -> dict[str, Any]:
        return {"image_store": str(self.base / "images")}

    def file(self, kind: str, *, volatile: bool) -> tuple[Path, int, Path]:
        path, home, lock = super().file(kind, volatile=volatile)
        images = self.base / "images" / "vfs-images"
        return (images / path.name, home, images / lock.name) if kind == "images" else (path, home, lock)


class Additional(OfTwoRoots):
    """An additional store is looked into, and stays as it is."""

    def prepared(self) -> Model:
        before = self.before("additional")  # whose containers are nobody's business
        self.as_it_was = self.contents()
        return Model(other=Other(before.images, before.layers))

    def contents(self) -> dict[str, bytes]:
        places = [place for place in (self.base / "additional").rglob("*") if place.is_file()]
        return {str(place): place.read_bytes() for place in places}

    def options(self) -> dict[str, Any]:
        return {"driver_options": [f"vfs.imagestore={self.base / 'additional'}"]}

    def can_be_checked(self) -> bool:
        """Nor is there another layer of the id of one of theirs: where ids are digests, that would be the same."""
        assert self.model.other is not None
        theirs = self.model.other.layers.documents.keys()
        return super().can_be_checked() and theirs.isdisjoint(self.model.layers.documents)

    def check_directories(self) -> None:
        super().check_directories()
        assert self.contents() == self.as_it_was


def rewrite(path: Path, records: list[dict[str, Any]]) -> None:
    new = path.with_name(path.name + ".new")
    new.touch(0o600)
    new.write_text(json.dumps(records, indent=1, ensure_ascii=False))
    new.rename(path)


def id_of(document: dict[str, Any]) -> str:
    return str(document["id"])


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    peers.need_root()
    with Worker() as worker:
        Stores.worker = worker
        Stores.filled = filled(tmp_path_factory.mktemp("filled"))
        yield worker


def filled(base: Path) -> tuple[Path, Model]:
    model, program = Model(), Program(None)
    program.open(str(base / "graph"), str(base / "run"), "vfs", **COMMON)
    for verb, given in BEFORE:
        outcome = program.do(verb, given)
        assert not outcome.error, outcome.text
        assert model.apply(verb, given, {**outcome.value, "mapped": outcome.mapped}) == outcome.value
    program.close()
    return base / "graph", model


def run(machine: type[Stores], *, examples: int, steps: int, seed: int | None = None) -> None:
    class Tried(machine):  # type: ignore[misc,valid-type]
        pass

    Tried.__qualname__ = machine.__name__
    database = settings().database if seed is None else None
    health = list(settings().suppress_health_check)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=health,
        database=database,
    )
    run_state_machine_as_test(Tried if seed is None else seeded(seed)(Tried), settings=chosen)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("machine", "examples"), [(Stores, 30), (Transient, 10), (Split, 10), (Additional, 10)]
)
def test_two_programs_and_the_model_agree(machine: type[Stores], examples: int) -> None:
    run(machine, examples=examples, steps=30)


@pytest.mark.deep
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("seed", range(FIRST, FIRST + max(1, N // RUN)))
def test_two_programs_and_the_model_agree_for_long(seed: int) -> None:
    """Of four runs, two are of plain stores."""
    machine = (Stores, Split, Stores, Additional if seed % 8 < 4 else Transient)[seed % 4]
    run(machine, examples=RUN // EXAMPLE, steps=EXAMPLE, seed=seed)
