"""The contract for those who are root of a user namespace only: the suite runs once more inside one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import peers
from conftest import CASES
from orlop.system import probe

HERE = Path(__file__).parent
_IDS = 300_000

# Every id of the tests is mapped onto itself: what matters is that there is a namespace between us and the machine.
_INSIDE = f"""
import os, sys
from orlop.system import userns
ids = [(1, {_IDS})]
sys.exit(userns.enter_namespace(sys.argv[1:], environ=os.environ, uids=ids, gids=ids))
"""


@pytest.mark.skipif(not probe.in_initial_user_namespace(), reason="this is the run inside")
def test_the_contract_holds_in_a_user_namespace(tmp_path: Path) -> None:
    peers.need_root()
    tmp_path.chmod(0o755)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE)]
    words += ["--basetemp", str(tmp_path / "inside"), "--deselect", f"{HERE}/test_example.py"]
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE, *words],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        env={**os.environ, "CI": os.environ.get("CI", "")},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_there_are_cases_for_where_we_are() -> None:
    assert CASES
