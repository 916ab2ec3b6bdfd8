"""`copy` by Debian's containers-storage and by ours, step by step in twin stores: the same trees come of it.

What differs on purpose: a symlink to a directory is followed as one to a file is, theirs copies nothing; a file alone
keeps its extended attributes; a path that climbs, or leads over a symlink, out of a layer ends inside it; a FIFO is
copied, theirs waits for somebody to write into it; a relative target on the host may be a directory; `--chown` of a
directory that is made means the same ids as for what is in it.
"""

import os
from pathlib import Path
from typing import Any

import pytest
from calls.row import Answer, Row
from twin import Twin

import peers
import stacks
import trees

STEPS = [
    "copy {work}/tree A:/tree",
    "copy {work}/tree A:/made/on/the/way",
    "copy {work}/tree/etc/passwd A:/file",
    "copy {work}/tree/etc/passwd A:/new/parents/file",
    "copy {work}/tree/etc/passwd A:/file",
    "copy {work}/tree/etc A:/tree/etc",
    "copy {work}/link A:/linked",
    "copy {work}/tree/etc/passwd {work}/tree/bin/su A:/last",
    "copy {work}/tree/etc/passwd A:/slash/",
    "copy {work}/tree A:/slashed/",
    "copy {work}/tree A:",
    "copy {work}/tree A:relative",
    "copy A:/tree/bin BASE/out",
    "copy A:/file BASE/out/",
    "copy A:/file BASE/out/other",
    "copy A:/file BASE/far/away/file",
    "copy A:tree/etc BASE/far/etc",
    "copy {work}/tree M:/tree",
    "copy {work}/tree/bin/su M:/su",
    "copy --chown 5 {work}/tree/bin/su M:/su5",
    "copy --chown 5:6 {work}/tree/bin/su M:/su56",
    "copy --chown=7 {work}/tree A:/tree7",
    "copy M:/tree A:/out-of-m",
    "copy A:/tree/etc M:/into-m",
    "copy base:/file A:/by-name",
]

FAILS = [
    ("copy {work}/nope A:/x", "stat {work}/nope: no such file or directory"),
    ("copy {work}/dangling A:/x", "stat {work}/dangling: no such file or directory"),
    ("copy A:/nope A:/x", "no such file or directory"),
    ("copy {work}/tree/etc/passwd A:/tree", "cannot overwrite"),
    ("copy {work}/tree/etc/passwd A:/tree/", "cannot overwrite"),
    ("copy {work}/tree/etc/passwd A:", "cannot overwrite"),
    ("copy {work}/tree A:/file", "not a directory"),
    ("copy {work}/tree/etc/passwd A:/file/below", "not a directory"),
]
# Where the driver maps ids as it mounts, a layer has none of its own.
FAILS_WITH_MAPS = [
    ("copy --chown 5000 {work}/tree/etc/passwd M:/x", "container ID 5000 cannot be mapped to a host ID"),
    ("copy {work}/stranger M:/x", "container ID 5000 cannot be mapped to a host ID"),
]


class Pair:
    def __init__(self, ours: peers.Program, theirs: peers.Program, work: Path) -> None:
        self.twins = [Twin(ours), Twin(theirs)]
        self.work = work

    def __call__(self, call: str) -> tuple[Answer, Answer]:
        ours, theirs = [twin(Row(call), self.work) for twin in self.twins]
        return ours, theirs

    def trees(self) -> list[dict[str, dict[str, Any]]]:
        """What is in the layers of each, and what was copied to the host."""
        found = []
        for twin in self.twins:
            program = twin.program
            roots = {id: _directory(program, id) for id in ("A", "M")}
            roots |= {name: program.base / name for name in ("out", "far")}
            found.append(
                {
                    f"{name}/{path}": _comparable(facts)
                    for name, root in roots.items()
                    if root.exists()
                    for path, facts in trees.listing(root, atime=False).items()
                }
            )
        return found


def _directory(program: peers.Program, id: str) -> Path:
    home = program.graph / program.driver
    return home / "dir" / id if program.driver == "vfs" else home / id / "diff"


def _comparable(facts: dict[str, Any]) -> dict[str, Any]:
    if facts["mtime"] // 10**9 > stacks.BEFORE_NOW:
        facts["mtime"] = "today"
    for name in [name for name in facts["xattrs"] if name.startswith("trusted.overlay.")]:
        del facts["xattrs"][name]
    return facts


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Things to copy."""
    work = tmp_path / "work"
    work.mkdir()
    trees.plant(work / "tree")
    (work / "link").symlink_to("tree/etc/passwd")
    (work / "tree-link").symlink_to("tree")
    (work / "dangling").symlink_to("nowhere")
    (work / "stranger").write_bytes(b"s")
    os.chown(work / "stranger", 5000, 0)
    return work


@pytest.fixture(params=["vfs", "overlay"])
def pair(request: pytest.FixtureRequest, ours: peers.Program, theirs: peers.Program, work: Path) -> Pair:
    pair = Pair(ours.on(driver=request.param), theirs.on(driver=request.param), work)
    for call in (
        "create-layer -i A -n base",
        "create-layer -i M --uidmap 0:10000:2000 --gidmap 0:20000:2000",
    ):
        assert [answer.status for answer in pair(call)] == [0, 0]
    return pair


def test_each_step_leaves_the_same_trees(pair: Pair) -> None:
    for step in STEPS:
        ours, theirs = pair(step)
        assert ours == theirs == Answer(0), step
        mine, others = pair.trees()
        different = [path for path in sorted({*mine, *others}) if mine.get(path) != others.get(path)]
        assert not different, "\n".join(
            [step, *(f"{path}: ours {mine.get(path)}, theirs {others.get(path)}" for path in different[:5])]
        )


def test_what_fails_fails_in_both_and_is_told_alike(request: pytest.FixtureRequest, pair: Pair) -> None:
    assert [answer.status for answer in pair("copy {work}/tree A:/tree")] == [0, 0]
    assert [answer.status for answer in pair("copy {work}/tree/etc/passwd A:/file")] == [0, 0]
    shifting = request.node.callspec.params["pair"] == "overlay"
    for call, reason in FAILS if shifting else FAILS + FAILS_WITH_MAPS:
        ours, theirs = pair(call)
        assert (ours.status, ours.out) == (theirs.status, theirs.out) == (1, ""), call
        head = theirs.err[: theirs.err.index('": ') + 3]  # both paths; the reason is worded freely
        assert ours.err.startswith(head), call
        assert reason.replace("{work}", str(pair.work)) in ours.err, call


# --- ours alone ---------------------------------------------------------------------------------------------


@pytest.fixture
def root(ours: peers.Program) -> Path:
    """The directory of the layer A in our store."""
    peers.need_root()
    ours("create-layer", "-i", "A")
    return ours.graph / "vfs" / "dir" / "A"


def test_a_path_does_not_leave_its_layer(ours: peers.Program, root: Path, work: Path) -> None:
    """Neither by climbing nor over symlinks that the layer brought along (CVE-2018-15664)."""
    outside = ours.base / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "absolute").symlink_to(outside)
    (root / "climbing").symlink_to("../" * 20 + str(outside))
    for name in ("absolute", "climbing"):
        said = ours("copy", f"A:/{name}/secret", str(ours.base / "stolen"), ok=False)
        assert (said.status, said.err.endswith(b": no such file or directory\n")) == (1, True)
        said = ours("copy", str(work / "link"), f"A:/{name}/written", ok=False)
        assert said.status == 1
    ours("copy", str(work / "link"), "A:../../../climbed")
    assert (root / "climbed").read_bytes() == (work / "link").read_bytes()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert not (ours.base / "stolen").exists()


def test_a_symlink_to_a_directory_is_the_directory(ours: peers.Program, root: Path, work: Path) -> None:
    """Theirs makes the target and copies nothing."""
    ours("copy", str(work / "tree-link"), "A:/tree")
    assert (root / "tree/etc/passwd").read_bytes() == (work / "tree/etc/passwd").read_bytes()


def test_a_file_alone_keeps_its_attributes_too(ours: peers.Program, root: Path, work: Path) -> None:
    ours("copy", str(work / "tree/bin/bind"), "A:/bind")
    original = trees.listing(work / "tree/bin")["bind"]
    copied = trees.listing(root)["bind"]
    assert copied["xattrs"] == original["xattrs"] != {}
    assert copied["mtime"] == original["mtime"]


def test_a_fifo_is_copied_and_not_waited_for(ours: peers.Program, root: Path, work: Path) -> None:
    ours("copy", str(work / "tree/dev/initctl"), "A:/fifo", timeout=20)
    assert (root / "fifo").is_fifo()


def test_the_targets_of_the_host_are_relative_to_where_we_are(
    ours: peers.Program, root: Path, work: Path, tmp_path: Path
) -> None:
    ours("copy", "work/tree", "A:/tree", cwd=tmp_path)
    ours("copy", "A:/tree", "copied", cwd=tmp_path)
    assert (tmp_path / "copied/etc/passwd").read_bytes() == (work / "tree/etc/passwd").read_bytes()


def test_the_owner_given_is_that_of_the_directories_made_too(ours: peers.Program, work: Path) -> None:
    """Theirs takes the ids for the host's there, and for the layer's in what is below."""
    peers.need_root()
    ours("create-layer", "-i", "M", "--uidmap", "0:10000:2000", "--gidmap", "0:20000:2000")
    ours("copy", "-j", "-o", "5:6", str(work / "tree"), "M:/made/tree")
    root = ours.graph / "vfs" / "dir" / "M"
    for path in ("made", "made/tree", "made/tree/etc/passwd"):
        status = (root / path).stat()
        assert (status.st_uid, status.st_gid) == (10005, 20006), path


def test_a_directory_is_not_copied_into_itself(ours: peers.Program, root: Path) -> None:
    (root / "d/below").mkdir(parents=True)
    for source, target in (("A:/", "A:/copy"), ("A:/d", "A:/d/below/copy"), ("A:/d", "A:/d")):
        said = ours("copy", source, target, ok=False)
        assert (said.status, b"cannot be copied into itself" in said.err) == (1, True)
    ours("copy", "A:/d", "A:/d2")
    assert (root / "d2/below").is_dir()


def test_nothing_stays_mounted(ours: peers.Program, work: Path) -> None:
    peers.need_root()
    ours = ours.on(driver="overlay")
    ours("create-layer", "-i", "A")
    ours("copy", str(work / "link"), "A:/x")
    ours("copy", str(work / "nope"), "A:/x", ok=False)
    ours("copy", str(work / "link"), "zz:/x", ok=False)
    ours("copy", "zz:/x", "A:/y", ok=False)
    assert ours("mounted", "A").text == ""
    ours("mount", "A")
    ours("copy", "A:/x", str(ours.base / "x"))
    assert ours("mounted", "A").text == "A mounted\n"


@pytest.mark.parametrize("name", [".wh.file", ".wh..wh..opq", "caf\u00e9", "a:b"])
def test_any_name_can_be_copied_into_a_layer(ours: peers.Program, root: Path, work: Path, name: str) -> None:
    """No whiteout is meant by a file of that name."""
    (root / "file").write_text("stays")
    ours("copy", str(work / "link"), f"A:/{name}")
    assert sorted(path.name for path in root.iterdir()) == sorted(["file", name])
