"""The documents say only what is true today: examples run, links lead somewhere, tables agree with the code."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

import orlop
import peers

TOP = Path(__file__).parents[2]
PAGES = sorted([*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")])
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# What the interface of the Go library (1.58) offers; docs/coming-from-containers-storage.md has a row for each.
METHODS = """
AddNames ApplyDiff ApplyDiffWithDiffer ApplyStagedLayer Changes Check CleanupStagedLayer Container ContainerBigData
ContainerBigDataDigest ContainerBigDataSize ContainerByLayer ContainerDirectory ContainerParentOwners
ContainerRunDirectory ContainerSize Containers CreateContainer CreateImage CreateLayer Dedup Delete DeleteContainer
DeleteImage DeleteLayer Diff DiffSize DifferTarget Exists Free FromContainerDirectory FromContainerRunDirectory
GarbageCollect GetDigestLock GIDMap GraphDriver GraphDriverName GraphOptions GraphRoot Image ImageBigData
ImageBigDataDigest ImageBigDataSize ImageDirectory ImageRunDirectory Images ImagesByDigest ImagesByTopLayer ImageSize
ImageStore Layer LayerBigData LayerParentOwners Layers LayersByCompressedDigest LayersByTOCDigest
LayersByUncompressedDigest LayerSize ListContainerBigData ListImageBigData ListLayerBigData Lookup
LookupAdditionalLayer Metadata Mount Mounted MountImage MultiList Names PrepareStagedLayer PullOptions PutLayer
RemoveNames Repair RunRoot SetContainerBigData SetContainerDirectoryFile SetContainerRunDirectoryFile SetImageBigData
SetLayerBigData SetMetadata SetNames Shutdown Status TransientStore UIDMap Unmount UnmountImage Version Wipe
"""


def named(page: Path) -> str:
    return str(page.relative_to(TOP))


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCED.findall(page.read_text()) if kind == language]


@pytest.fixture
def harbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What the examples expect around them: root, of the machine or of a namespace, and a root file system."""
    peers.need_root()
    with tarfile.open(tmp_path / "rootfs.tar.gz", "w:gz") as tar:
        for directory in ("etc", "bin"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            entry.uid, entry.gid = os.getuid(), os.getgid()
            tar.addfile(entry)
        for name, content in {"etc/hostname": b"harbour\n", "bin/sh": b"#!\n" * 3000}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            entry.uid, entry.gid = os.getuid(), os.getgid()
            tar.addfile(entry, BytesIO(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORLOP_DURABILITY", "none")
    yield tmp_path
    peers.unmount_below(tmp_path)  # of an example that failed


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=named)
def test_examples_in_python_run_in_the_order_of_their_page(page: Path, harbour: Path) -> None:
    """A page is read from top to bottom, so later blocks may use what earlier ones made."""
    names: dict[str, object] = {"__name__": "__example__"}
    for number, text in enumerate(blocks(page, "python"), start=1):
        code = compile(text, f"{named(page)}, block {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        exec(code, names)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "console")], ids=named)
def test_examples_for_the_shell_succeed(page: Path, harbour: Path) -> None:
    """Lines that start with `$ orlop` or `$ orlop-storage` are run with the installed commands."""
    ran = 0
    for text in blocks(page, "console"):
        for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
            words = shlex.split(line)
            assert words[0] in ("orlop", "orlop-storage"), f"{line}: only our own commands can be tried here"
            words[0] = str(Path(sys.executable).parent / words[0])
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            ran += 1
    assert ran


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{named(page)} links to {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [TOP / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [
            (page.parent / target).resolve()
            for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
            if "://" not in target
        ]
    assert not [named(page) for page in PAGES if page not in seen]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_make_targets_and_source_files_exist(page: Path) -> None:
    """`make x` and `src/...`, `tests/...` in running text are promises, too."""
    text = page.read_text()
    targets = set(re.findall(r"^([a-z]+)(?:-%)?:", (TOP / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^ +)make ([a-z]+)", text, re.MULTILINE):
        assert target in targets, f"{named(page)} speaks of make {target}"
    for path in re.findall(r"`((?:src|tests|bench|examples|docs)/[\w./-]+)`", text):
        assert (TOP / path).exists(), f"{named(page)} speaks of {path}"


def test_the_table_of_methods_is_complete_and_true(tmp_path: Path) -> None:
    """Whoever comes from the Go library finds each method; a name in the table is a name in the code."""
    text = (TOP / "docs/coming-from-containers-storage.md").read_text()
    rows = re.findall(r"^\| ([A-Z]\w+) \| (`[\w.]+`|not yet) \|", text, re.MULTILINE)
    assert sorted(method for method, _ in rows) == sorted(METHODS.split())
    assert len(rows) == 90
    with orlop.open_store(graph_root=tmp_path / "graph", run_root=tmp_path / "run", driver="vfs") as store:
        for method, path in rows:
            found: object = store
            for name in path.strip("`").split(".") if path != "not yet" else ():
                assert hasattr(found, name), f"{method} is said to be store.{path.strip('`')}"
                found = getattr(found, name)


def test_the_table_of_limits_is_that_of_the_code() -> None:
    from orlop.formats import limits

    inside = {
        name: value for name, value in vars(limits).items() if name.isupper() and name not in ("KIB", "MIB")
    }
    page = dict(
        re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+)", (TOP / "docs/limits.md").read_text(), re.MULTILINE),
    )
    assert {name: int(value.replace(",", "")) for name, value in page.items()} == inside


def test_every_known_gap_is_documented() -> None:
    """`LIMIT:` in the code promises a line in docs/limits.md."""
    source = TOP / "src/orlop"
    marked = {
        str(path.relative_to(source).with_suffix(""))
        for path in source.rglob("*.py")
        if "LIMIT:" in path.read_text()
    }
    listed = set(
        re.findall(r"^\| `([a-z]+/[a-z/_]+)` \|", (TOP / "docs/limits.md").read_text(), re.MULTILINE)
    )
    assert listed == marked
