"""Every call of the table is made with Debian's containers-storage (1.43) and with orlop-storage, in twin stores;
standard output, standard error and exit status must be the same.

What differs on purpose stands in the table with the reason: the newer release that `spec/cli.md` describes (1.60)
answers otherwise, or a defect is mended. Such a row pins our answer, and fails if the two agree after all.
"""

import io
import json
import re
import shlex
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import peers


@dataclass(frozen=True)
class Answer:
    """What a call gave. `out` and `err` are normalised text."""

    status: int
    out: str = ""
    err: str = ""


@dataclass(frozen=True)
class Row:
    """One call: words as for a shell, `{work}` for the directory with files, `@C1` for the layer of container C1."""

    call: str
    data: bytes = b""
    ours: Answer | None = None
    why: str = ""
    says: str = ""


def failing(call: str, says: str) -> Row:
    """Both programs fail, with nothing on standard output and these words, which clients look for, in the error."""
    return Row(call, says=says)


def differs(call: str, why: str, status: int, out: str = "", err: str = "", data: bytes = b"") -> Row:
    return Row(call, data, Answer(status, out, err), why)


NEWER = "newer: "  # 1.60 does it as we do
MENDED = "mended: "  # a defect of the peers (docs/compatibility.md)

HASH = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
NOT_GIVEN = "flag provided but not defined: "


def refused(word: str, flag: str) -> str:
    return f"{NOT_GIVEN}{flag}\nSee 'PROGRAM {word} --help'.\n"


FLAGS: list[Row | str] = [
    "bogus",
    "''",
    "layers --bogus",
    "layers -z",
    "layers -xyz",
    "layers -jz",
    "layers --jso",
    "layers --JSON",
    "layers -json",
    "layers ---x",
    "layers --=x",
    "layers -=x",
    "layers --json=perhaps",
    "layers --json=",
    "layers -j=tRue",
    "layers --tree=1 --json=0",
    "create-layer --id",
    "create-layer -n",
    "create-layer -jn",
    "create-layer -ji",
    "create-layer -nfoo",
    "create-layer -rn x -i flag1",
    "create-layer -nr y -i flag2",
    "create-layer -ni z flag3",
    "create-layer --id=flag4 --name='\"a b\"'",
    "create-layer --id=flag5 -n \"'q'\"",
    "create-layer --id flag6 -rj=false",
    "create-layer --id flag7 --json=false -n seven",
    "create-layer --",
    "create-layer -- --name",
    "create-layer -",
    "create-layer ''",
    "create-layer --id=",
    "layer flag1 --json",
    "mount --option x flag1",
    "--debug=false layers -t",
    "layers --debug=false -t",
    differs(
        "create-layer -i --foo",
        MENDED + "an id must be harmless as a file name and as a word of a command line",
        1,
        err="layer id '--foo': wanted letters, digits, '_', '.' and '-', beginning with a letter or digit, "
        "at most 200 bytes; found 5 characters that are not all of that kind: invalid identifier\n",
    ),
    differs(
        "layers -q",
        NEWER + "layers has --quiet",
        0,
        "flag1\nflag2\nflag3\nflag4\nflag5\nflag6\nflag7\nID1\nID2\nID3\n",
    ),
]

BEFORE: list[Row | str] = [
    "",
    "--debug",
    "-D=false",
    "--help",
    "-help",
    "--help layers",
    "--bogus",
    "-z layers",
    "-xyz",
    "-g",
    "-Dg",
    "--debug=x",
    "-=x",
    "--json",
    "--help=false",
    "--graph BASE/graph",
    "--graph BASE/graph bogus",
    "--graph BASE/graph layers --bogus",
    "--graph BASE/graph layer",
    "-s vfs layers",
    differs(
        "-s vfs version a",
        NEWER + "arguments are counted everywhere",
        1,
        "version: too many arguments ([a]).\nHELP\n",
        "TABLE\n",
    ),
    differs(
        "-h",
        "the help once, not twice",
        1,
        "HELP\nflag: help requested while parsing arguments (1)\n",
        "TABLE\n",
    ),
]

CREATING: list[Row | str] = [
    "layers",
    differs("layers -j", NEWER + "no layers are null", 0, "null\n"),
    "layers -t",
    "images",
    "images -q",
    "images -j",
    "containers",
    "containers -j",
    "create-layer -i L1 -n base -n base -n other",
    "create-layer -j -i L2 -n top L1",
    differs("storage-layers", NEWER + "storage-layers is new", 0, "L1\nL2\n"),
    differs("storage-layers -j", NEWER + "storage-layers is new", 0, '["L1","L2"]\n'),
    "create-layer -i L1",
    "create-layer -n base",
    "create-layer zz",
    "create-layer -i L3 top",
    "create-layer -i L4 -j --label x --readonly",
    "create-layer",
    "create-image -i I1 -n im1 -n im1b -m meta L2",
    "create-image -j -i I2",
    "create-image -i I3 ''",
    "create-image -i I1",
    "create-image -n im1",
    "create-image zz",
    "create-image -d sha256:x",
    "create-image -d x",
    "create-image -d md5:d41d8cd98f00b204e9800998ecf8427e",
    f"create-image -i I4 -d {HASH} top",
    "create-image -f /nope zz",
    "create-image -m beaten -f {work}/text -i I5",
    "metadata I5",
    "create-container -i C1 -m 'a\nb' im1",
    "create-container -j -i C2 -n c2 ''",
    "create-container -i C1 im1",
    "create-container -n c2 im1",
    "create-container zz",
    "create-container -f /nope zz",
    "create-container --volatile -j -i C3 I2",
    "create-container a b",
    "create-container",
    "create-layer C1",
    "create-layer @C1",
    "layers",
    "layers -t",
    "layers -j",
    "images",
    "images -j",
    "images --quiet",
    "containers",
    "containers --json",
    "images-by-digest x",
    "images-by-digest sha256:ab",
    differs(
        "images-by-digest sha512:ab",
        "more algorithms than sha256",
        1,
        err="sha512:ab: invalid checksum digest length\n",
    ),
    f"images-by-digest {HASH}",
    f"images-by-digest -q {HASH}",
    f"images-by-digest -j {HASH}",
    "images-by-digest sha256:" + "0" * 64,
    "images-by-digest -j sha256:" + "0" * 64,
    differs(
        "create-container -i C4 -n c4 -n c4b im1", NEWER + "a newline ends every name", 0, "C4\n\tc4\n\tc4b\n"
    ),
]

SHOWING: list[Row | str] = [
    "create-layer -i L1 -n n1 -n n1b",
    "create-layer -i abc123 L1",
    "create-image -i I1 -n im1 -m 'line\n' abc123",
    "create-image -i I2",
    "create-container -i C1 -m x\n\n im1",
    "create-container -i C2 ''",
    "layer L1 abc zz",
    "layer -j L1 zz",
    "layer zz",
    "layer -j zz",
    "layer ''",
    "layer n1 n1b",
    "image im1 I2",
    "image I",
    "image -j I1 I2",
    "container C1 C2",
    "container @C1",
    "container -j C1",
    "exists L1 zz",
    "exists -q L1",
    "exists -l I1",
    "exists -i I1 im1",
    "exists -c C1 @C1",
    "exists -i -l I1",
    "exists -j L1 zz im1",
    "exists L1",
    "metadata I1 C1 L1",
    "metadata I1 zz",
    "metadata -q I1 zz",
    "metadata -j I1 C1 zz",
    "metadata zz",
    "set-metadata I1",
    "set-metadata -m '' I1",
    "set-metadata -m new I1",
    "set-metadata -m x zz",
    "set-metadata -f /nope zz",
    "set-metadata -f {work}/text -m beaten L1",
    "set-metadata -f {work}/empty I1",
    "setmetadata -m z C1",
    "metadata I1 C1 L1",
    "get-names L1",
    "get-names -j L1",
    "get-names -j C2",
    "get-names zz",
    "getnames im1",
    "set-names -n a -n b L1",
    "get-names L1",
    "set-names -j -n a abc123",
    "get-names L1",
    "set-names -j L1",
    "set-names -n q zz",
    "add-names -n im2 I2",
    "add-names -n im2 I1 surplus",
    "image I2",
    "add-names -j I2",
    "add-names -j -n x C1",
    differs("get-names -j im1", NEWER + "added names go to the front", 0, '["im2","im1"]\n'),
    "add-names -j -n a -n b I2",
    differs("add-names -j -n c -n d I2", NEWER + "added names go to the front", 0, '["c","d","a","b"]\n'),
    differs("remove-names -j -n c -n a I2", NEWER + "remove-names is new", 0, '["d","b"]\n'),
    differs("removenames -n zz zz", NEWER + "remove-names is new", 1, err="layer not known\n"),
]

DATA: list[Row | str] = [
    "create-layer -i L1",
    "create-image -i I1 -n im1 L1",
    "create-container -i C1 im1",
    *[
        row.format(kind=kind, id=id)
        for kind, id in (("layer", "L1"), ("image", "I1"), ("container", "C1"))
        for row in (
            "list-{kind}-data {id}",
            "list-{kind}-data -j {id}",
            "list-{kind}-data zz",
            "set-{kind}-data -f {{work}}/text {id} key",
            "set-{kind}-data -f {{work}}/empty {id} none",
            "set-{kind}-data -f {{work}}/text {id} ''",
            "set-{kind}-data -f /nope {id} key",
            "set-{kind}-data -f /nope zz key",
            "list{kind}data -j {id}",
            "get-{kind}-data {id} key",
            "get-{kind}-data {id} none",
            "get-{kind}-data {id} zz",
            "get-{kind}-data {id} ''",
            "get-{kind}-data zz key",
            "get-{kind}-data -f /nope/x {id} key",
            "get-{kind}-data -f /nope/x zz key",
        )
    ],
    *[
        row.format(kind=kind, id=id)
        for kind, id in (("image", "I1"), ("container", "C1"))
        for row in (
            "get-{kind}-data-size {id} key",
            "get-{kind}-data-size {id} zz",
            "get-{kind}-data-size {id} ''",
            "get-{kind}-data-size zz key",
            "get-{kind}-data-digest {id} key",
            "get-{kind}-data-digest {id} zz",
            "get-{kind}-data-digest {id} ''",
            "get-{kind}-data-digest zz key",
        )
    ],
    Row("set-image-data I1 manifest", b"{}\xff\x00"),
    "get-image-data I1 manifest",
    "get-image-data-digest im1 manifest",
    "image I1",
    "images",
    "images -j",
    "container -j C1",
    "get-image-data I1",
    "get-container-dir C1",
    "getcontainerdir C1",
    "get-container-run-dir C1",
    "get-container-dir zz",
    "get-container-run-dir zz",
    differs("get-image-dir im1", NEWER + "get-image-dir is new", 0, "BASE/graph/vfs-images/I1/userdata\n"),
    differs("getimagerundir I1", NEWER + "get-image-run-dir is new", 0, "BASE/run/vfs-images/I1/userdata\n"),
    differs(
        "get-image-run-dir zz",
        MENDED + "an unknown image has no directory",
        1,
        err='locating image with ID "zz": image not known\n',
    ),
]

MOUNTS: list[Row | str] = [
    "create-layer -i L1 -n base",
    "create-layer -i L2 L1",
    "create-image -i I1 -n im1 L1",
    "create-image -i I2",
    "create-container -j -i C1 -n box im1",
    "mounted L1 C1",
    "mount L1 box zz",
    "mount -j L1 zz",
    "mount im1",
    "mount -l label L2",
    "mounted L1 box",
    "mounted L1 zz im1",
    "mounted -j L1 zz",
    "layers -t",
    "shutdown",
    "shutdown -j",
    "unmount L1",
    "mounted L1",
    "unmount L1",
    "unmount L1",
    "umount zz",
    "unmount -j L1 zz",
    "unmount -f box",
    "unmount @C1",
    "mount -o ro L2",
    "mount --opt ro L2",
    "unmount --force L2",
    "mounted L1 L2 C1",
    "unmount",
    "umount",
    "shutdown",
    "shutdown -j",
    "layer-parent-owners L1 zz",
    "layer-parent-owners -j L1 L2",
    "layer-parent-owners zz",
    "container-parent-owners C1",
    "container-parent-owners -j C1 zz",
    "status",
    "status -j",
    differs(
        "mount base",
        MENDED + "a name is resolved before the driver sees it",
        0,
        "BASE/graph/vfs/dir/L1\n",
    ),
    "unmount base",
    "shutdown -f",
]

DIFFS: list[Row | str] = [
    "import-layer -i L1 -n base -f {work}/tree.tar",
    "import-layer -j -f /nope zz",
    "import-layer -f {work}/tree.tar zz",
    "import-layer -i L1 -f {work}/tree.tar",
    "layer -j L1",
    "import-layer -i L2 -j -f {work}/tree.tar.gz L1",
    "import-layer -i E1 -j -f {work}/empty",
    "create-layer -i L3 L1",
    "changes L1",
    "changes -j L1",
    "changes L3",
    "changes -j L3",
    "changes L3 L1",
    "changes L1 ''",
    "changes zz",
    "applydiff -f {work}/changed.tar L3",
    "changes L3",
    "changes -j L3",
    "changes L1 L3",
    "diffsize L1",
    "diffsize L3",
    "diff-size L3 ''",
    "diffsize zz",
    "diff -u L1",
    "diff -u L2",
    "diff L3",
    "diff --xz L1",
    "diff -b L1",
    "diff --bz2 L1",
    "diff -xbcu L1",
    "diff -f /nope/x L1",
    "diff -f /nope/x zz",
    "diff zz",
    "diff -x zz",
    "diff L1 a b",
    "applydiff -f /nope L1",
    "applydiff -f /nope zz",
    "applydiff -f {work}/tree.tar zz",
    "applydiff",
    Row("applydiff L3"),
    "apply-diff -f {work}/tree.tar.gz L3",
    "layer -j L3",
    differs(
        "changes L1 zz",
        MENDED + "an unknown layer to compare with is an error",
        1,
        err="layer not known\n",
    ),
    failing("import-layer -i bad -f {work}/cut.tar", "unexpected EOF"),
    failing("import-layer -f {work}/short", "unexpected EOF"),
    failing("import-layer -f {work}/noise", "invalid tar header"),
    failing("applydiff -f {work}/cut.tar L3", "unexpected EOF"),
    failing("applydiff -f {work}/noise L3", "invalid tar header"),
    "layers -j",
]

MAPS: list[Row | str] = [
    "create-layer --hostuidmap --uidmap 0:1:2",
    "create-layer --hostuidmap --subuidmap x",
    "create-layer --hostgidmap --subgidmap x",
    "create-layer --hostgidmap --gidmap 0:0:1",
    "create-layer --uidmap 0:1",
    "create-layer --uidmap '0:1: 2'",
    "create-layer --gidmap 0:a:1",
    "create-layer --gidmap 0:4294967296:1",
    "create-layer --subuidmap nobody-of-that-name",
    "create-layer --subgidmap nobody-of-that-name",
    "create-layer -j -i M1 --uidmap 0:1000:10:10:2000:5 --gidmap 0:1000:10",
    "create-layer -j -i M2 M1",
    "create-layer -j -i M3 --hostuidmap --hostgidmap M1",
    "layer M1 M2 M3",
    "import-layer -i M4 -f {work}/tree.tar --uidmap 0:1000:10 --gidmap 0:1000:10",
    "layer -j M4",
    "diff -u M4",
    "layer-parent-owners M1",
    "layer-parent-owners M3 M1 zz",
    "mount M1",
    "layer-parent-owners M1",
    "layer-parent-owners -j M1",
    "create-image -i I1 M3",
    "create-container -j -i C1 --uidmap 0:5000:10 --gidmap 0:6000:10 I1",
    "container-parent-owners C1",
    "container C1",
    "create-container --uidmap 0:5000:10:5:9000:2 I1",
    "create-container --hostuidmap --uidmap 0:0:1 -f /nope zz",
]

DELETING: list[Row | str] = [
    "create-layer -i L1 -n base",
    "create-layer -i L2 L1",
    "create-layer -i L3",
    "create-image -i I1 -n im1 L2",
    "create-image -i I2 -n im2 L3",
    "create-image -i I3 -n im3",
    "create-container -j -i C1 -n box im1",
    "create-layer -i L4 -n top L2",
    "delete-layer L1 zz",
    "delete-layer -j L1 zz",
    "delete-layer L3",
    "delete-layer @C1",
    "delete-layer C1",
    "delete-layer I1",
    "delete-image I1 zz C1",
    "delete-image -j im1 zz",
    "delete-image -t I2",
    "delete-image --test -j I2",
    "delete-image -t zz",
    "delete-image im2",
    "delete-image I3",
    "layers",
    "delete-container zz I1",
    "delete-container -j box zz",
    "delete-layer top",
    "delete-image -j I1",
    "layers",
    "create-layer -i L1",
    "create-layer -i L2 L1",
    "create-image -i I1 L2",
    "create-container -i C1 I1",
    "mount L2",
    "create-layer -i L5",
    "delete zz",
    "delete -j zz",
    "delete L2",
    "layers -t",
    "delete C1 I1 L1",
    "layers",
    "images",
    "containers",
    "create-layer -i L1",
    "create-container -i C1 ''",
    "wipe",
    "wipe --json",
    "layers",
    differs(
        "wipe surplus",
        NEWER + "arguments are counted everywhere",
        1,
        "wipe: too many arguments ([surplus]).\nHELP\n",
        "TABLE\n",
    ),
    "delete",
    "create-layer -i L1 -n base",
    "create-layer -i L2 L1",
    differs(
        "delete-layer base",
        MENDED + "a name is resolved first, so a layer with children stays",
        1,
        err="base: used by layer L2: layer has children\n",
    ),
]
CHAPTERS = {
    "before": BEFORE,
    "flags": FLAGS,
    "creating": CREATING,
    "showing": SHOWING,
    "data": DATA,
    "mounts": MOUNTS,
    "diffs": DIFFS,
    "maps": MAPS,
    "deleting": DELETING,
}

_HELP = re.compile(r"Usage: PROGRAM .*?\n\nOptions:\n(\n(  -.*\n)+)?", re.DOTALL)
_TABLE = re.compile(r"\n(  -.*\n)+")
_ID = re.compile(r"(?<![0-9a-f:])[0-9a-f]{64}(?![0-9a-f])")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)")


class Twin:
    """One of the two programs on its store; gives answers in a form that can be compared."""

    def __init__(self, program: peers.Program) -> None:
        self.program = program
        self.ids: dict[str, str] = {}

    def __call__(self, row: Row, work: Path, *, bare: bool = False) -> Answer:
        """`bare`: only the words of the row, without the flags that name the store."""
        call = row.call.replace("{work}", str(work)).replace("BASE", str(self.program.base))
        words = [self._layer_of(word) for word in shlex.split(call)]
        argv = [self.program.path, *words] if bare else self.program.argv(*words)
        done = subprocess.run(argv, input=row.data, capture_output=True, timeout=60, check=False)
        answer = Answer(done.returncode, self._normal(done.stdout), self._normal(done.stderr))
        return self._sorted(row, without_help(answer))

    def _layer_of(self, word: str) -> str:
        if not word.startswith("@"):
            return word
        layer: str = self.program.json("container", word[1:])[0]["layer"]
        return layer

    def _normal(self, data: bytes) -> str:
        text = data.decode("utf-8", "backslashreplace").replace("\0", "")
        text = text.replace(str(self.program.base), "BASE")
        text = text.replace(self.program.path, "PROGRAM").replace(Path(self.program.path).name, "PROGRAM")
        text = text.replace("PROGRAM PROGRAM", "PROGRAM")  # called by its path, the peer says both
        text = _TIME.sub("TIME", text)
        return _ID.sub(lambda found: self.ids.setdefault(found[0], f"ID{len(self.ids) + 1}"), text)

    def _sorted(self, row: Row, answer: Answer) -> Answer:
        """Changes, and what several arguments gave, are in no particular order there."""
        if row.call.startswith(("delete", "exists")):
            return Answer(
                answer.status,
                "".join(sorted(answer.out.splitlines(True))),
                "".join(sorted(answer.err.splitlines(True))),
            )
        if row.call.startswith("changes -j") and answer.out.startswith("["):
            changes = sorted(json.loads(answer.out), key=lambda change: change["Path"])
            return Answer(answer.status, json.dumps(changes), answer.err)
        if row.call.startswith("changes"):
            return Answer(answer.status, "".join(sorted(answer.out.splitlines(True))), answer.err)
        return answer


def without_help(answer: Answer) -> Answer:
    """Help texts are worded freely; that there is one, and on which stream, is not."""
    out, helps = _HELP.subn("HELP\n", answer.out)
    err, tables = _TABLE.subn("", answer.err)
    return Answer(answer.status, out, err + "TABLE\n" * bool(tables)) if helps else answer


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Files for the calls to read."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "text").write_bytes(b"some <text>\n")
    (work / "empty").write_bytes(b"")
    (work / "short").write_bytes(b"x" * 100)
    (work / "noise").write_bytes(bytes(range(1, 256)) * 8)
    tree = archive(("d", None), ("d/g", b"g" * 1000), ("f", b"first\n"), ("caf\u00e9", b""), ('q"\t', b"x"))
    (work / "tree.tar").write_bytes(tree)
    (work / "cut.tar").write_bytes(archive(("f", b"x" * 2000))[:1200])
    (work / "changed.tar").write_bytes(archive(("f", b"second\n"), ("new", b"n"), ("d/.wh.g", b"")))
    (work / "tree.tar.gz").write_bytes(packed(tree))
    return work


def archive(*members: tuple[str, bytes | None]) -> bytes:
    """A tar of directories (None) and files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mtime = 1_600_000_000
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def packed(data: bytes) -> bytes:
    import gzip

    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_both_programs_answer_alike(
    chapter: str, ours: peers.Program, theirs: peers.Program, work: Path
) -> None:
    """Same words, same answer, to the byte; differences only where the table says so."""
    us, them = Twin(ours), Twin(theirs)
    bare = chapter == "before"
    wrong = []
    for entry in CHAPTERS[chapter]:
        row = entry if isinstance(entry, Row) else Row(entry)
        our_answer = us(row, work, bare=bare)
        their_answer = them(row, work, bare=bare)
        if row.says:
            if not all(a.status == 1 and not a.out and row.says in a.err for a in (our_answer, their_answer)):
                wrong.append(
                    f"{row.call}\n  ours   {our_answer}\n  theirs {their_answer}\n  say    {row.says}"
                )
        elif our_answer != (row.ours or their_answer):
            wrong.append(f"{row.call}\n  ours   {our_answer}\n  wanted {row.ours or their_answer}")
        elif row.ours == their_answer:
            wrong.append(f"{row.call}\n  no difference any more: {row.why}")
    assert not wrong, f"{len(wrong)} rows\n" + "\n".join(wrong)


def test_the_table_is_large() -> None:
    assert sum(map(len, CHAPTERS.values())) >= 120
