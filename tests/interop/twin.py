"""One of two programs that are asked the same, on a store of its own; its answers in a form that can be compared."""

import json
import re
import shlex
import subprocess
from pathlib import Path

from calls.row import Answer, Row

import peers

_HELP = re.compile(r"Usage: PROGRAM .*?\n\nOptions:\n(\n(  -.*\n)+)?", re.DOTALL)
_TABLE = re.compile(r"\n(  -.*\n)+")
_ID = re.compile(r"(?<![0-9a-f:])[0-9a-f]{64}(?![0-9a-f])")
_GLOBAL = re.compile(r"^(--storage-opt \S+ )+")
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
        if call.startswith("!"):
            argv = ["sh", "-c", call[1:].replace("PROGRAM", shlex.join(self.program.argv()))]
        else:
            argv = [self.program.path, *words] if bare else self.program.argv(*words)
        done = subprocess.run(
            argv,
            input=row.data,
            capture_output=True,
            timeout=60,
            cwd=self.program.directory,
            check=False,
        )
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
        call = _GLOBAL.sub("", row.call)
        if call.startswith(("delete", "exists")):
            return Answer(
                answer.status,
                "".join(sorted(answer.out.splitlines(True))),
                "".join(sorted(answer.err.splitlines(True))),
            )
        if call.startswith("changes -j") and answer.out.startswith("["):
            changes = sorted(json.loads(answer.out), key=lambda change: change["Path"])
            return Answer(answer.status, json.dumps(changes), answer.err)
        if call.startswith("changes"):
            return Answer(answer.status, "".join(sorted(answer.out.splitlines(True))), answer.err)
        return answer


def without_help(answer: Answer) -> Answer:
    """Help texts are worded freely; that there is one, and on which stream, is not."""
    out, helps = _HELP.subn("HELP\n", answer.out)
    err, tables = _TABLE.subn("", answer.err)
    return Answer(answer.status, out, err + "TABLE\n" * bool(tables)) if helps else answer
