"""A root directory that a container can run in: a shell and a few programs of this machine."""

import re
import shutil
import subprocess
from pathlib import Path

import peers

PROGRAMS = ("dash", "cat", "ls", "id", "cp", "rm", "mkdir", "chmod")


def make(root: Path) -> Path:
    """Fill `root`, an empty directory, with the programs and the libraries they need."""
    peers.need("ldd", *PROGRAMS)
    for name in ("proc", "dev", "sys", "tmp", "etc", "usr/bin"):
        (root / name).mkdir(parents=True)
    for name in PROGRAMS:
        program = peers.program(name)
        shutil.copy2(program, root / "usr/bin" / name)
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", said):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, root / library[1:])
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "bin").symlink_to("usr/bin")
    return root
