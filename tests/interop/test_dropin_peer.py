"""Every call of the table is made with Debian's containers-storage (1.43) and with orlop-storage, in twin stores;
standard output, standard error and exit status must be the same.

The table, and what differs on purpose, is in dropin_calls.py.
"""

import io
import json
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest
from dropin_calls import CHAPTERS, Answer, Row

import peers

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
