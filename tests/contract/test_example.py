"""The worked example of `drivers/api.py` is true."""

import doctest
from pathlib import Path

import layers
import peers
from conftest import Rubbish
from orlop.drivers import api


def test_the_worked_example_runs_as_it_is_written(tmp_path: Path, rubbish: Rubbish) -> None:
    peers.need_root()
    for name in ("graph", "run"):
        (tmp_path / name).mkdir()
    names = {
        "graph_root": str(tmp_path / "graph"),
        "run_root": str(tmp_path / "run"),
        "archive": [layers.directory("etc"), layers.file("etc/hostname", b"sea\n")],
        "set_aside": rubbish,
    }
    example = doctest.DocTestParser().get_doctest(api.__doc__ or "", names, "api", "api.py", 0)
    assert len(example.examples) > 10
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert result.failed == 0, "".join(said)
