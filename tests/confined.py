"""What the workers of tests/unit/test_confine.py do: functions that a worker process finds by name."""

from __future__ import annotations

import os
import time
from typing import Any

from orlop import errors
from orlop.system import beneath
from orlop.system.confine import Link


def echo(link: Link, *arguments: Any) -> Any:
    """Send back every message, then the arguments."""
    while (message := link.receive()) is not None:
        link.note(message)
    return arguments


def state(link: Link) -> dict[str, Any]:
    """What a worker looks like from inside."""
    import sys

    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    return {
        "pid": os.getpid(),
        "umask": link.umask,
        "mask": os.umask(0),
        "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
        "lent": link.lent,
        "ignored": status["SigIgn"],
        "caught": status["SigCgt"],
        "blocked": status["SigBlk"],
        "flags": (sys.flags.isolated, sys.flags.no_site),
    }


def inside(link: Link, path: str) -> tuple[list[str], bytes, bool]:
    """What is in the root directory, and what a path leads to."""
    fd = link.root.open(os.fsencode(path), os.O_RDONLY)
    return sorted(os.listdir(link.root.fd)), os.read(fd, 100), link.root.resolve is beneath.inside_chroot


def plain_open(link: Link, path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def load(link: Link) -> object:
    import trap  # type: ignore[import-not-found]

    return trap.__file__


def fail(link: Link, kind: str) -> None:
    if kind == "ours":
        raise errors.BadArchive("a sentence", peer="unhandled tar header type 55", name=b"\xff", count=3)
    if kind == "system":
        raise OSError(2, "No such file or directory", b"from", None, b"to")
    if kind == "plain":
        os.open("/nowhere/at/all", os.O_RDONLY)
    if kind == "mappings":
        raise errors.InvalidMappings("container ID 5 cannot be mapped to a host ID", id=5)
    if kind == "memory":
        raise MemoryError
    if kind == "defect":
        raise TypeError("a mistake")
    if kind == "killed":
        os.kill(os.getpid(), 9)
    if kind == "exit":
        os._exit(3)
    if kind == "sysexit":
        raise SystemExit(7)


def fail_after(link: Link, messages: int) -> None:
    for _ in range(messages):
        link.receive()
    raise errors.UnsafePath("enough", path=b"x")


def hold(link: Link, path: str) -> None:
    """Tell our process id, and then neither read nor end."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    while True:
        time.sleep(60)


def early(link: Link) -> str:
    """Return without waiting for the pipe to be closed."""
    return "done"


def nonsense(link: Link) -> None:
    os.write(link._answers, b"\x00\xff\xff\xff\xff" + b"x" * 100)
    time.sleep(60)


def flood(link: Link, notes: int) -> int:
    for n in range(notes):
        link.note(b"%d" % n)
    return notes
