"""Locks with one owner: who has one can be asked without taking it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orlop.system.ownlock import is_owned, own

HOLDING = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)     # as the peers do: a record lock of the process
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_that_nobody_has_is_not_owned_and_asking_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_owned(str(path))
    assert not path.exists()
    path.touch()
    assert not is_owned(str(path))


def test_a_lock_is_owned_until_it_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    held = own(path)
    assert held is not None
    assert is_owned(path)
    assert own(path) is None  # asking did not free it
    held.close()
    assert not is_owned(path)


def test_a_lock_of_a_peer_is_owned_until_he_dies(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLDING, path], stdin=pipe, stdout=pipe) as peer:
        assert peer.stdout
        assert peer.stdout.readline() == b"held\n"
        assert is_owned(path)
        assert own(path) is None
        peer.kill()
    assert not is_owned(path)


def test_what_is_no_file_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="symbolic link"):
        is_owned(str(tmp_path / "link"))
    os.mkfifo(tmp_path / "fifo")
    assert not is_owned(str(tmp_path / "fifo"))  # and it does not wait
