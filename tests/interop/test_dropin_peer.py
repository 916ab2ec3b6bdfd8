"""Every call of the table is made with Debian's containers-storage (1.43) and with orlop-storage, in twin stores;
standard output, standard error and exit status must be the same.

The table, and what differs on purpose, is in calls/.
"""

import bz2
import gzip
import io
import lzma
import re
import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from calls import CHAPTERS
from calls.row import MENDED, NEWER, Row
from twin import Twin

import peers
from orlop.dropin import commands
from orlop.dropin.flags import HelpWanted, WrongFlag, parse

TOP = Path(__file__).parents[2]


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
    (work / "tree.tar.gz").write_bytes(gzip.compress(tree, mtime=0))
    (work / "tree.tar.bz2").write_bytes(bz2.compress(tree))
    (work / "tree.tar.xz").write_bytes(lzma.compress(tree))
    subprocess.run([peers.program("zstd"), "-q", work / "tree.tar"], check=True)
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


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_both_programs_answer_alike(
    chapter: str, ours: peers.Program, theirs: peers.Program, work: Path
) -> None:
    """Same words, same answer, to the byte; differences only where the table says so."""
    driver = "overlay" if chapter == "overlay" else "vfs"
    us, them = Twin(ours.on(driver=driver)), Twin(theirs.on(driver=driver))
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


def test_every_difference_is_in_the_docs() -> None:
    rows = re.findall(r"^\| ([^|]+) \|", (TOP / "docs/compatibility.md").read_text(), re.MULTILINE)
    reasons = {
        row.why for chapter in CHAPTERS.values() for row in chapter if isinstance(row, Row) and row.ours
    }
    assert reasons == {row for row in rows if row.startswith((NEWER, MENDED))}


def test_every_command_and_every_flag_is_called() -> None:
    """By each of its names and spellings."""
    missing = {name for command in commands.COMMANDS for name in command.names}
    missing |= {
        f"{command.names[0]} {spelling}"
        for command in commands.COMMANDS
        for flag in command.flags
        for spelling in flag.spellings
    }
    missing |= {spelling for flag in commands.GLOBAL for spelling in flag.spellings}
    entries = [entry for chapter in CHAPTERS.values() for entry in chapter]
    assert len(entries) >= 700
    for entry in entries:
        missing -= set(_used(shlex.split(entry.call if isinstance(entry, Row) else entry)))
    assert missing == set()


def _used(words: list[str]) -> Iterator[str]:
    """Names and spellings that a call has in it: `layers`, `layers -j`, `--graph`."""
    try:
        _, rest = parse(words, (*commands.GLOBAL, commands.HELP))
    except (WrongFlag, HelpWanted):
        return
    yield from _spellings(words[: len(words) - len(rest)])
    command = commands.find(rest[0]) if rest else None
    if command is None:
        return
    yield rest[0]
    for spelling in _spellings(rest[1:]):
        yield f"{command.names[0]} {spelling}"
        yield spelling


def _spellings(words: list[str]) -> Iterator[str]:
    for word in words:
        spelling = word.partition("=")[0]
        yield spelling
        if spelling[:1] == "-" != spelling[1:2]:  # letters of a group
            yield from (f"-{letter}" for letter in spelling[1:])
