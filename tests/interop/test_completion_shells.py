"""Real shells complete words of the drop-in, by the scripts that it prints for them."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import orlop
import peers

PROGRAM = Path(sys.executable).parent / "orlop-storage"


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Words that name a store with a few things in it."""
    peers.need_root()
    with orlop.open_store(tmp_path / "graph", tmp_path / "run", "vfs") as store:
        store.layers.create(id="layer1", names=["base", "example.org/base:1"])
        store.images.create(id="image1", layer="layer1", names=["img"])
    return f"-g {tmp_path}/graph -R {tmp_path}/run -s vfs"


class Terminal:
    """A shell in a terminal, to type to."""

    def __init__(self, *argv: str, home: Path) -> None:
        environ = {
            "PATH": f"{PROGRAM.parent}:/usr/bin:/bin",
            "HOME": str(home),
            "TERM": "dumb",
            "PS1": "READY ",
        }
        self._pid, self._fd = os.forkpty()
        if not self._pid:
            os.execve(peers.program(argv[0]), argv, environ)
        self._said = b""

    def expect(self, text: str) -> None:
        """Wait until it said that, after what was expected before."""
        deadline = time.monotonic() + 30
        while text.encode() not in self._said:
            assert time.monotonic() < deadline, self._said
            if select.select([self._fd], [], [], 1)[0]:
                self._said += os.read(self._fd, 4096)
        self._said = self._said.partition(text.encode())[2]

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def close(self) -> None:
        os.close(self._fd)
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    peers.need(request.param)
    argv = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}[request.param]
    terminal = Terminal(*argv, home=tmp_path)
    try:
        terminal.expect("READY")
        prepare = "autoload -U compinit; compinit -u; " if request.param == "zsh" else ""
        terminal.type(f'{prepare}eval "$(orlop-storage completion {request.param})"; echo D"ONE"\n')
        terminal.expect("DONE")
        yield terminal
    finally:
        terminal.close()


def test_a_shell_completes_commands_flags_values_and_names(terminal: Terminal, store: str) -> None:
    terminal.type(f"orlop-storage {store} vers\t--js\t\n")
    terminal.expect('[["Version","')
    terminal.type(f"orlop-storage {store} image im\tg\t\n")
    terminal.expect("ID: image1")
    terminal.type(f"orlop-storage {store} layer exa\t\n")
    terminal.expect("ID: layer1")
    terminal.type("orlop-storage -g /usr/sha\t")
    terminal.expect("re/")


def test_fish_completes_the_same(tmp_path: Path, store: str) -> None:
    peers.need("fish")

    def completed(line: str) -> list[str]:
        done = subprocess.run(
            ["fish", "-c", f"orlop-storage completion fish | source; complete -C '{line}'"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"PATH": f"{PROGRAM.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "TERM": "dumb"},
        )
        return [entry.split("\t")[0] for entry in done.stdout.splitlines()]

    assert completed("orlop-storage vers") == ["version"]
    assert completed("orlop-storage version --js") == ["--json"]
    assert sorted(completed(f"orlop-storage {store} image ")) == ["image1", "img"]
    assert completed(f"orlop-storage {store} layer exa") == ["example.org/base:1"]
    assert "/usr/share/" in completed("orlop-storage -g /usr/sha")
