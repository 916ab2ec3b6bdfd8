"""An additional store whose tar-split records claim more than there is: terabytes of content, of a line, of padding.

What reads one does so in a process that may have little memory and little time.
"""

import base64
import gzip
import json
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import orlop
from tarballs import tar

PETABYTE = 1 << 50
MEMORY = 700 << 20  # address space, with the interpreter and its threads
SECONDS = 60


def _line(**members: object) -> bytes:
    return json.dumps(members).encode() + b"\n"


def _segment(data: bytes) -> bytes:
    return _line(type=2, payload=base64.b64encode(data).decode(), position=0)


def _a_file_of_a_petabyte() -> Iterator[bytes]:
    yield _line(type=1, name="file", size=PETABYTE, payload="AAAAAAAAAAA=", position=0)


def _with_a_header_that_says_so() -> Iterator[bytes]:
    info = tarfile.TarInfo("file")
    info.size = PETABYTE
    yield _segment(info.tobuf(tarfile.GNU_FORMAT))
    yield from _a_file_of_a_petabyte()


def _a_file_that_there_is_not() -> Iterator[bytes]:
    yield _line(type=1, name="nothing", size=PETABYTE, payload="AAAAAAAAAAA=", position=0)


def _a_line_without_end() -> Iterator[bytes]:
    yield b'{"type":2,"payload":"'
    for _ in range(1000):
        yield b"A" * (1 << 20)


def _a_number_without_end() -> Iterator[bytes]:
    yield b'{"type":1,"name":"file","size":1'
    yield b"0" * (1 << 20)
    yield b"}\n"


def _lists_in_each_other() -> Iterator[bytes]:
    yield b'{"type":2,"payload":' + b"[" * 1_000_000


def _padding_before_an_entry() -> Iterator[bytes]:
    for _ in range(20):
        yield _segment(bytes(6 << 20))
    yield from _a_file_of_a_petabyte()


# What the record is, and what an export of the layer says about it.
CASES: dict[str, tuple[Callable[[], Iterator[bytes]], str]] = {
    "a file of a petabyte": (_a_file_of_a_petabyte, "ContentChanged"),
    "with a header that says so": (_with_a_header_that_says_so, "ContentChanged"),
    "a file that there is not": (_a_file_that_there_is_not, "FileNotFoundError"),
    "a line without end": (_a_line_without_end, "LimitExceeded"),
    "a number without end": (_a_number_without_end, "BadTarSplit"),
    "lists in each other": (_lists_in_each_other, "BadTarSplit"),
    "padding before an entry": (_padding_before_an_entry, "ContentChanged"),
}


def _read(place: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answer = {"error": "", "text": ""}
    with _near(Path(place)) as store:
        try:
            with store.diff("base") as stream:
                while stream.read(1 << 20):
                    pass
        except (orlop.StorageError, OSError) as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        found = [finding.code for finding in store.check().findings]
    print(json.dumps({**answer, "found": found}))


def _near(place: Path) -> orlop.Store:
    return orlop.open_store(
        place / "near/graph",
        place / "near/run",
        "vfs",
        driver_options=[f"vfs.imagestore={place}/far/graph"],
        durability="none",
    )


@pytest.mark.parametrize("case", CASES)
def test_a_claim_takes_neither_memory_nor_time(place: Path, case: str) -> None:
    """The export ends with an error that says what is wrong, and a check tells of it, too."""
    with orlop.open_store(place / "far/graph", place / "far/run", "vfs", durability="none") as far:
        far.layers.put(tar(("file", b"x" * 100)), id="base")
        far.images.create(layer="base")
    record, error = CASES[case]
    with gzip.open(place / "far/graph/vfs-layers/base.tar-split.gz", "wb", compresslevel=1) as out:
        for piece in record():
            out.write(piece)
    words = [sys.executable, __file__, str(place)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=SECONDS, env=environment
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["error"] == error, answer["text"]
    assert len(answer["text"]) < 500
    assert {"tar-split", "content-changed", "tree-added", "digest"} & {*answer["found"]}


if __name__ == "__main__":
    _read(sys.argv[1])
