"""Stories: what a user of a shell does with a store, told line by line to both programs, each on a store of its own.

    pytestmark = stories.told("vfs", "overlay", rest=pytest.mark.deep)

    def test_a_file_is_changed(story):
        story('''
            store create-layer -i base -n first
            ! store delete-layer nothing
            m=$(store mount base); echo ahoy >$m/motd; store unmount base
        ''')

A line is a step, for a shell that stands in the directory with `graph` and `run`, and knows the functions of
`_PRELUDE`. After each, both exit statuses, outputs and error outputs must be the same; a step must succeed, and one
that begins with `!` must fail. `$work` is a directory that both see. At the end nothing may be mounted, and the
stores must be whole.

The ways to tell a story: drivers; a mount program; a transient store (of ours: 1.43 has none, and users see no
difference); "in turns", where each store is used by both programs, every step by the one that did not do the last.
"""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from calls.row import Answer
from twin import Twin

import invariants
import peers

_PROGRAM = f"overlay.mount_program={shutil.which('fuse-overlayfs')}"

_PRELUDE = r"""
sorted() { "$@" >out 2>err; status=$?; sort out; sort err >&2; return $status; }
changes() { sorted store changes "$@"; }     # in no particular order there
tree() {                                     # all that there is below a directory
    (cd "$1" && find . -mindepth 1 -printf '%P %y %m %U:%G %l\n' | sort && find . -type f -print0 |
        sort -z | xargs -0 -r sha256sum)
}
inside() { m=$(store mount "$1") && tree "$m" && store unmount "$1" >unmounted; }
is_mounted() { grep -q " $PWD/$1 " /proc/self/mountinfo; }
layer_of() { store container --json "$1" | sed 's/.*"layer":"\([^"]*\)".*/\1/'; }
"""


@dataclass(frozen=True)
class Way:
    """How a story is told."""

    driver: str
    options: tuple[str, ...] = ()
    transient: bool = False
    turns: bool = False


WAYS = {
    f"{driver}{suffix}": Way(driver.partition(" ")[0], options, **how)
    for driver, options in (("vfs", ()), ("overlay", ()), ("overlay by fuse", (_PROGRAM,)))
    for suffix, how in (
        ("", {}),
        (", transient", {"transient": True}),
        (", in turns", {"turns": True}),
    )
}


def told(
    *ways: str, rest: pytest.MarkDecorator, among: str = "", without: str = "nothing"
) -> pytest.MarkDecorator:
    """A mark for stories that are told in one of these ways always, and in all that there are if `rest` is asked for.

    `among`: only ways that have this in their name. `without`: none that has.
    """
    names = [name for name in WAYS if among in name and without not in name]
    assert {*ways} <= {*names}
    rows = [pytest.param(name, marks=() if name in ways else rest) for name in names]
    return pytest.mark.parametrize("story", rows, indirect=True)


class Teller(Twin):
    """One program on one store."""

    def tell(self, line: str, work: Path) -> Answer:
        words = shlex.join(self.program.argv())
        process = self.start(
            f'cd {self.program.base}\nwork={work}\nstore() {{ {words} "$@"; }}\n{_PRELUDE}{line}\n'
        )
        try:
            said, complained = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the shell, and the program that it waits for
            process.communicate()
            raise
        out, err = self._normal(said), self._normal(complained)
        return Answer(process.returncode, out.replace(',"Volatile":true', ""), err)

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """A shell with the script."""
        return subprocess.Popen(
            ["sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **self.program.env},
            start_new_session=True,
        )


class Story:
    """Called with lines; the answer to the last one is returned."""

    def __init__(
        self, way: Way, work: Path, ours: list[Teller], theirs: list[Teller], whole: Callable[..., None]
    ) -> None:
        """`ours` and `theirs`: one for each of two stores. `work`: a directory that is there, for files to read.

        `whole`: what judges a store at the end, by its graph root, run root and driver.
        """
        self.way = way
        self.work = work
        self._whole = whole
        self._ours = ours
        self._theirs = theirs
        for us, them in zip(ours, theirs, strict=True):
            them.ids = us.ids
        self._swapped = False
        self._failed = False

    def programs(self, store: int) -> tuple[peers.Program, peers.Program]:
        """Ours and theirs on the first or the second store, for what need not be told."""
        return self._ours[store].program, self._theirs[store].program

    def __call__(self, text: str) -> Answer:
        wrong = []
        answer = Answer(0)
        for line in _lines(text):
            answer, theirs = self._step(line)
            if answer != theirs:
                wrong.append(f"{line}\n  ours   {answer}\n  theirs {theirs}")
            elif (answer.status != 0) != line.startswith("!"):
                wrong.append(f"{line}\n  both   {answer}")
        self._fail(wrong)
        return answer

    def _step(self, line: str) -> tuple[Answer, Answer]:
        a, b = (1, 0) if self._swapped else (0, 1)
        self._swapped ^= self.way.turns
        line = line.removeprefix("!")
        return self._ours[a].tell(line, self.work), self._theirs[b].tell(line, self.work)

    def differs(self, why: str, line: str, status: int = 0, out: str = "", err: str = "") -> None:
        """One step that the two answer otherwise on purpose: `why` says whose; what ours is.

        In turns, where a store goes on with what was done, it is done by us in both.
        """
        assert why
        expected = Answer(status, out, err)
        if self.way.turns:
            self.ours(line, status, out, err)
            return
        answer, theirs = self._step(line)
        if answer != expected:
            self._fail([f"{line}\n  ours   {answer}\n  wanted {expected}"])
        elif answer == theirs:
            self._fail([f"{line}\n  no difference any more: {why}"])

    def refused(self, line: str, says: str) -> None:
        """One step that both refuse, each in words of its own, ours with the text that clients look for."""
        ours, theirs = self._step(line)
        if ours.status != 1 or ours.out or says not in ours.err or theirs.status == 0:
            self._fail([f"{line}\n  ours   {ours}\n  theirs {theirs}\n  say    {says}"])

    def ours(self, line: str, status: int = 0, out: str = "", err: str = "", instead: str = "true") -> None:
        """One step that 1.43 cannot take; what it does `instead` must succeed. In turns we take it in both stores."""
        expected = Answer(status, out, err)
        for teller in self._ours[: 1 + self.way.turns]:
            answer = teller.tell(line, self.work)
            if answer != expected:
                self._fail([f"{line}\n  ours   {answer}\n  wanted {expected}"])
        if not self.way.turns and self._theirs[1].tell(instead, self.work).status != 0:
            self._fail([instead])

    def _fail(self, wrong: list[str]) -> None:
        if wrong:
            self._failed = True
            raise AssertionError(f"{len(wrong)} steps\n" + "\n".join(wrong))

    def end(self) -> None:
        if self._failed:
            return
        self("store shutdown")
        for number, teller in enumerate(self._ours):
            base = teller.program.base
            left = peers.mounts_below(base)
            assert not left, f"mounted at the end: {left}"
            if number == 0 or self.way.turns:
                self._whole(base / "graph", base / "run", self.way.driver)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


@contextmanager
def telling(place: Path, name: str) -> Iterator[Story]:
    """A story in a way of `WAYS`, and its end."""
    peers.need_root()
    way = WAYS[name]
    need(way)
    work, *bases = (place / name for name in ("work", "one", "other"))
    for path in (work, *bases):
        path.mkdir()
    settings: dict[str, Any] = {"driver": way.driver, "options": way.options}
    flags = ("--transient-store",) if way.transient else ()
    quick = {"ORLOP_DURABILITY": "none"}
    ours = [Teller(peers.orlop_storage(base, env=quick, flags=flags, **settings)) for base in bases]
    theirs = [Teller(peers.containers_storage(base, **settings)) for base in bases]
    story = Story(way, work, ours, theirs, partial(invariants.hold, options=way.options))
    yield story
    story.end()


def need(way: Way) -> None:
    """Skip (in CI: fail) unless this machine has what a way needs."""
    if way.options:
        peers.need("fuse-overlayfs")
        if not os.path.exists("/dev/fuse"):
            peers.missing("/dev/fuse")
