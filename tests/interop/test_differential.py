"""Random stacks of layers in twin stores, one kept by us, one by Debian's containers-storage: everything is equal.

What is seen through the mount, what lies on disk, the records, the exact diffs, the lists of changes and the diffs
that the driver makes. Where the two differ on purpose, or by what is a defect of 1.43, one of the functions below
named `_forgive...` takes the difference out, and says why; docs/compatibility.md lists them, too.
"""

import errno
import io
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import layers
import orlop
import peers
import stacks
import trees
from orlop.dropin.text import quote
from orlop.errors import StillMounted, StorageError
from orlop.stream.writer import encode

DEEP = int(os.environ.get("N") or 500)
DRIVERS = ["overlay", "vfs"]
_WORDS = {"A": "Add", "C": "Modify", "D": "Delete"}
_OF_TODAY = {"created", "names"}
_KERNELS_OWN = [f"trusted.overlay.{name}" for name in ("origin", "impure", "uuid", "nlink")]


class Twins:
    """One stack in two stores. `check` raises at the first difference."""

    def __init__(self, place: Path, driver: str, seed: int) -> None:
        self.driver = driver
        self.seed = seed
        self.theirs = peers.containers_storage(place / "theirs", driver=driver)
        self.graphs = {"ours": place / "ours" / "graph", "theirs": self.theirs.graph}
        self.ours = orlop.open_store(
            self.graphs["ours"], place / "ours" / "run", driver, durability="none", lock_timeout=20
        )

    def close(self) -> None:
        with suppress(StillMounted):
            self.ours.shutdown(force=True)
        self.ours.close()

    def check(self) -> int:
        """The number of layers of the stack that both took (all, but for very few seeds)."""
        below: str | None = None
        taken = 0
        ids = []
        for layer in stacks.stack(self.seed):
            id = f"layer{taken}"
            if not self._put(id, below, layer):
                break
            self._same_files(id)
            self._same_changes(id)
            self._same_exact_diff(id, layer)
            ids.append(id)
            below, taken = id, taken + 1
        if below is not None:
            self._container(below, ids[0])
        self._same_records()
        for id in ["box", *reversed(ids)] if below is not None else ():
            self.ours.layers.delete(id)
            self.theirs("delete-layer", id)
        assert self.ours.storage_layers() == []
        return taken

    # --- steps --------------------------------------------------------------------------------------------

    def _put(self, id: str, below: str | None, layer: stacks.Layer) -> bool:
        """Both take an archive, or both refuse it."""
        args = ["import-layer", "-r", "-i", id, *([below] if below else [])]
        said = self.theirs(*args, data=layer.blob, ok=False)
        refusal = ""
        try:
            self.ours.layers.put(io.BytesIO(layer.blob), id=id, parent=below)
        except (StorageError, OSError) as error:
            refusal = f"{error!r}"
        where = f"seed {self.seed}, {self.driver}, {id}"
        assert bool(refusal) == bool(said.status), f"{where}: one refuses: {refusal}, {said.out + said.err!r}"
        return not refusal

    def _container(self, below: str, bottom: str) -> None:
        """A writable layer, changed in the same way through either one's mount."""
        self.theirs("create-layer", "-i", "box", below)
        self.ours.layers.create(id="box", parent=below)
        roots = {"ours": self.ours.mount("box"), "theirs": self.theirs.line("mount", "box")}
        self._same(trees.listing(roots["ours"]), trees.listing(roots["theirs"]), "the mounted tree")
        for root in roots.values():
            stacks.change(root, self.seed)
        self._same(trees.listing(roots["ours"]), trees.listing(roots["theirs"]), "the tree after changes")
        self.ours.unmount("box")
        self.theirs("unmount", "box")
        self._same_files("box")
        self._same_changes("box")
        self._same_driver_diff("box")
        if bottom != below:  # not its parent: compared as trees
            self._same_changes("box", bottom)
            if self.seed % 4 == 0:  # theirs sleeps until the second is over
                self._same_driver_diff("box", bottom)

    # --- comparisons --------------------------------------------------------------------------------------

    def _directory(self, who: str, id: str) -> Path:
        home = self.graphs[who] / self.driver
        return home / "dir" / id if self.driver == "vfs" else home / id / "diff"

    def _same_files(self, id: str) -> None:
        listings = [trees.listing(self._directory(who, id)) for who in ("ours", "theirs")]
        self._same(*listings, f"the directory of {id}")

    def _same(self, ours: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
        for found in (ours, theirs):
            for path, facts in found.items():
                _forgive_times_of_today(path, facts)
                _forgive_kernel_notes(facts)
        if self.driver == "vfs":
            # Unpacking makes and removes a directory of its own in their root, after its time was set.
            for found in (ours, theirs):
                found["."].pop("mtime")
        for path in {*ours} & {*theirs}:
            _forgive_access(ours[path], theirs[path])
        paths = [path for path in sorted({*ours, *theirs}) if ours.get(path) != theirs.get(path)]
        different = [f"{path!r}: ours {ours.get(path)}, theirs {theirs.get(path)}" for path in paths[:5]]
        assert not different, "\n".join([f"seed {self.seed}, {self.driver}: {what}", *different])

    def _same_changes(self, id: str, reference: str | None = None) -> None:
        ours = [f"{_WORDS[c.kind]} {quote(c.path)}" for c in self.ours.changes(id, reference)]
        said = self.theirs("changes", id, *([reference] if reference else []), ok=False)
        if said.status != 0:
            # 1.43 fails where a lower layer has a file in the place of a directory on the way, or a loop of symlinks.
            assert self.driver == "overlay"
            assert said.err.endswith((b": not a directory\n", b": too many levels of symbolic links\n")), said
            return
        lost, found = {*ours} - {*said.lines}, {*said.lines} - {*ours}
        changed = {quote(change.path): change.path for change in self.ours.changes(id, reference)}
        if self.driver == "overlay":
            # 1.43 follows a symlink of a lower layer, on the host: where it leads nowhere, what replaces it is "new".
            for text, path in changed.items():
                if any(place.is_symlink() for place in self._places(id, path)[1:]):
                    lost -= {f"Modify {text}", f"Delete {text}"}
                    found.discard(f"Add {text}")
        # To 1.43 a block device is a directory, too: what was in the one that it replaced is listed as deleted.
        for text, path in changed.items():
            if self._is_block_device(id, path):
                found = {line for line in found if not line.startswith(f"Delete {text[:-1]}/")}
        assert (lost, found) == (set(), set()), (
            f"seed {self.seed}, {self.driver}: changes of {id}, {reference}: {lost}, {found}"
        )
        size = self.theirs.line("diffsize", id, *([reference] if reference else []))
        assert str(self.ours.diff_size(id, reference)) == size, (
            f"seed {self.seed}, {self.driver}: size of {id}, {reference}"
        )

    def _places(self, id: str, path: bytes) -> list[Path]:
        """Where a path of our layer may lie, the nearest first."""
        below = os.fsdecode(path.lstrip(b"/"))
        if self.driver == "vfs":
            return [self._directory("ours", id) / below]
        home = self.graphs["ours"] / "overlay"
        lower = home / id / "lower"
        links = lower.read_text().split(":") if lower.exists() else []
        return [directory / below for directory in (home / id / "diff", *(home / link for link in links))]

    def _is_block_device(self, id: str, path: bytes) -> bool:
        for place in self._places(id, path):
            with suppress(FileNotFoundError, NotADirectoryError):
                return stat.S_ISBLK(place.lstat().st_mode)
        return False

    def _same_exact_diff(self, id: str, layer: stacks.Layer) -> None:
        where = f"seed {self.seed}, {self.driver}: the diff of {id}"
        ours = b""
        with suppress(OSError, StorageError), self.ours.diff(id, compression=0) as stream:
            ours = stream.read()
        said = self.theirs("diff", "-u", id, ok=False)
        if self.driver == "vfs" and not ours:
            # Layer rules: an opaque mark takes what came before it, if no entry named its directory.
            assert layer.sparse or said.status != 0, where
            return
        assert ours == layer.tar, where
        if not layer.sparse:  # which 1.43 exports as another stream than the one that came
            assert said.out == layer.tar, where

    def _same_driver_diff(self, id: str, reference: str | None = None) -> None:
        with self.ours.diff(id, reference) as stream:
            ours = stream.read()
        theirs = self.theirs("diff", "-u", id, *([reference] if reference else [])).out
        both = [[e for e in _plain(tar) if not self._is_disputed(id, e[0])] for tar in (ours, theirs)]
        assert both[0] == both[1], f"seed {self.seed}, {self.driver}: diff of {id}, {reference}"

    def _is_disputed(self, id: str, name: bytes) -> bool:
        """What follows from the two defects that `_same_changes` speaks of: whiteouts, and opaque directories that
        they leave out, because a symlink in their place below leads to itself."""
        above, slash, base = name.rpartition(b"/")
        if slash and not base:
            return any(_is_loop(place) for place in self._places(id, above)[1:])
        if not slash or not base.startswith(b".wh."):
            return False
        if base == b".wh..wh..opq":
            return any(place.is_symlink() for place in self._places(id, above)[1:])
        return self._is_block_device(id, above)

    def _same_records(self) -> None:
        ours, theirs = [
            {record["id"]: {k: v for k, v in record.items() if k not in _OF_TODAY} for record in records}
            for records in (
                self.theirs.on(base=self.graphs["ours"].parent).json("layers") or [],
                self.theirs.json("layers") or [],
            )
        ]
        assert ours == theirs, f"seed {self.seed}, {self.driver}: records"


def _is_loop(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _forgive_times_of_today(path: str, facts: dict[str, Any]) -> None:
    """Directories that an archive only implies, or that a whiteout changed, have the time of the change."""
    for key in ("mtime", "atime"):
        if facts.get(key, 0) // 10**9 > stacks.BEFORE_NOW:
            facts[key] = "today"
    if path == "." or facts["mode"].startswith("0o4"):
        facts.pop("atime", None)  # whoever lists a directory may move it on


def _forgive_access(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """They read files in passing, which moves their access times; we do not, nor does this test."""
    if "today" in (ours.get("atime"), theirs.get("atime")):
        del ours["atime"], theirs["atime"]


def _forgive_kernel_notes(facts: dict[str, Any]) -> None:
    """What the kernel notes for itself on upper directories names inodes; its whiteouts share one, or do not."""
    for name in _KERNELS_OWN:
        facts["xattrs"].pop(name, None)
    if facts["mode"] == oct(stat.S_IFCHR) and facts.get("device") == 0:
        for key in ("same as", "names", "mtime", "atime"):
            facts.pop(key, None)


def _plain(tar: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Entries without the defects of 1.43: types of files in modes; of whiteouts stale link names, and with those
    the type of a link, and a time that is the moment of export."""
    found = []
    for entry, data in layers.entries([tar]):
        entry.mode = stat.S_IMODE(entry.mode)
        if entry.name.rsplit(b"/", 1)[-1].startswith(b".wh."):
            entry.linkname, entry.type, entry.mtime_ns = b"", ord("0"), 0
        found.append((entry.name, encode(entry), data))
    return found


def _run(place: Path, driver: str, seed: int) -> int:
    peers.need_root()
    base = place / f"{driver}{seed}"
    twins = Twins(base, driver, seed)
    try:
        return twins.check()
    finally:
        twins.close()
        peers.unmount_below(base)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("seed", range(10))
def test_a_random_stack_is_the_same_in_both_stores(place: Path, driver: str, seed: int) -> None:
    assert _run(place, driver, seed) > 0


@pytest.mark.deep
@pytest.mark.parametrize("driver", DRIVERS)
def test_many_random_stacks_are_the_same_in_both_stores(place: Path, driver: str) -> None:
    """N of them, from the eleventh on. Most must be taken whole, or nothing much was compared."""
    whole = 0
    for seed in range(10, 10 + DEEP):
        whole += _run(place, driver, seed) == len(stacks.stack(seed))
        shutil.rmtree(place / f"{driver}{seed}")
    assert whole > DEEP * 0.8
