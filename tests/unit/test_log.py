"""Warnings are for those who listen."""

import logging
import subprocess
import sys

import pytest

from orlop.system import log


def test_a_warning_that_nobody_listens_to_is_printed_nowhere() -> None:
    """In a process of its own: pytest listens."""
    code = "from orlop.system import log; log.warn('orlop.drivers.vfs', 'lost %s', 'one')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_warning_has_its_module_and_its_words(caplog: pytest.LogCaptureFixture) -> None:
    log.warn("orlop.drivers.vfs", "lost %s of %d", "one", 2)
    log.warn("orlop.drivers.vfs", "again")
    assert caplog.record_tuples == [
        ("orlop.drivers.vfs", logging.WARNING, "lost one of 2"),
        ("orlop.drivers.vfs", logging.WARNING, "again"),
    ]


def test_a_listener_is_told_the_level_and_the_text() -> None:
    code = (
        "from orlop.system import log; log.warn('orlop.a', 'before'); log.listen(print); "
        "log.warn('orlop.b', '%s', 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"warning 1\n", b"")
