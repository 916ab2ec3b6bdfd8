"""A machine with configuration files of its own, for tests of where settings come from.

    machine.system_file.write_text(...)                   # /usr/share/containers/storage.conf
    machine.configuration(USER, STORAGE_DRIVER="vfs").effective()

Import the fixture where it is used: `from configured import Machine, machine`.
"""

from pathlib import Path

import pytest

from orlop.config import load
from orlop.config.load import Configuration
from orlop.system.userns import Identity

ROOT = Identity(0, 0, rootless=False, per_user=False)
USER = Identity(1000, 1000, rootless=True, per_user=True)
CONTAINED = Identity(
    0, 0, rootless=True, per_user=False
)  # root in a container: rootless, but with the system's paths

VARIABLES = {"NAME": "x y", "NESTED": "$NAME"}
EXPANSIONS = {  # for USER, with VARIABLES
    "/a/$UID/b": "/a/1000/b",
    "/a/$UIDX": "/a/1000X",  # plain replacement of text
    "/a/${UID}": "/a",  # an ordinary variable, which nobody sets
    "/a/$NAME/${NAME}z/$NOPE": "/a/x y/x yz",
    "/a/$NESTED": "/a/$NAME",  # once only
    "/a/../b//c/.": "/b/c",
    "//a//b": "/a/b",
    "/$": "/$",
    "/a$/b": "/a$/b",
    "/a$.b$+c$~": "/a$.b$+c$~",
    "/a$é": "/a$é",
    "/a/$$b": "/a/b",
    "/a/$$$NAME": "/a/x y",
    "/a/$$NAME": "/a/NAME",
    "/a/$1b$12": "/a/b2",
    "/a/$*$#$@$!$?$-$0b": "/a/b",
    "/a/${1}b${1x}${a b}${*}": "/a/b",
    "/a/${b/c": "/a/b/c",
    "/a/${}b": "/a/b",
    "/a/${NAME$NAME}b": "/a/b",
    "/a/$_x/b": "/a/b",
    "a/../b": "b",
    "$NOPE": "",
    "": "",
}


class Machine:
    """A directory that stands for the file system of a machine."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = base / "home"
        self.system_file = base / "usr/storage.conf"
        self.override_file = base / "etc/storage.conf"
        self.warnings: list[str] = []
        self.environ = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(base / "runtime")}
        for directory in (self.home, base / "usr", base / "etc", base / "runtime"):
            directory.mkdir()

    def configuration(
        self, user: Identity = ROOT, *, file: str | Path | None = None, **environ: str
    ) -> Configuration:
        return Configuration(self.environ | environ, file=file, user=user, warn=self.warnings.append)

    def write(self, name: str, text: str) -> Path:
        """A file below the base; the directories to it are made."""
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def user_file(self, text: str) -> Path:
        return self.write("home/.config/containers/storage.conf", text)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(load, "SYSTEM_FILE", str(made.system_file))
    monkeypatch.setattr(load, "OVERRIDE_FILE", str(made.override_file))
    return made
