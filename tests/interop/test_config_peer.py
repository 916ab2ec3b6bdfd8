"""The same files and variables mean the same store to us and to the peers (`spec/config.md`).

Both programs are asked on a machine that is empty but for the files of the test: a mount namespace in which
/etc/containers and /usr/share/containers are directories of the test, and /var/lib and /run are new. They are asked
what they opened (`status`), as `config` is younger than the peers that are at hand.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import peers
from configured import EXPANSIONS, VARIABLES
from orlop.config import saving

OURS = str(Path(sys.executable).parent / "orlop-storage")

_ENTER = """
mount -t tmpfs none /run && mount -t tmpfs none /var/lib &&
mount --bind "$1/etc" /etc/containers && mount --bind "$1/usr" /usr/share/containers || exit 120
shift
exec "$@"
"""
_USER = {
    "_CONTAINERS_ROOTLESS_UID": "1000",
    "_CONTAINERS_ROOTLESS_GID": "1000",
    "_CONTAINERS_USERNS_CONFIGURED": "done",
}
"""What a program is told that runs for user 1000 in a namespace. The paths are then his, whoever runs it."""


@dataclass(frozen=True)
class Place:
    """The empty machine."""

    base: Path

    def write(self, name: str, text: str) -> Path:
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("BASE", str(self.base)))
        return path

    def run(self, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
        words = {
            "PATH": os.environ["PATH"],
            "HOME": f"{self.base}/home",
            "XDG_RUNTIME_DIR": f"{self.base}/runtime",
            "TMPDIR": f"{self.base}/tmp",
        }
        environ = {name: value.replace("BASE", str(self.base)) for name, value in environ.items()}
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", _ENTER, "sh", str(self.base), *argv],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=words | environ,
            cwd=self.base,  # an empty `imagestore=` is made below where 1.43 was started
        )

    def status(self, program: str, *flags: str, **environ: str) -> dict[str, str]:
        """What the program says that it opened."""
        done = self.run(program, *flags, "status", "--json", **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        pairs = dict(json.loads(done.stdout.splitlines()[-1]))
        return {key: pairs[key] for key in ("Root", "Run Root", "Driver Name", "Driver Options")}

    def clear(self) -> None:
        """Away with stores and files, so that the next question is asked of the same machine."""
        for path in self.base.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in ("etc", "usr", "home", "runtime", "tmp"):
            (self.base / name).mkdir(mode=0o700)


@pytest.fixture
def place() -> Iterator[Place]:
    peers.need_root()
    peers.need("containers-storage", "unshare", "mount")
    for directory in ("/etc/containers", "/usr/share/containers"):
        if not os.path.isdir(directory):
            peers.missing(directory)
    with tempfile.TemporaryDirectory(prefix="o-", dir="/tmp") as room:  # podman wants short run roots
        made = Place(Path(room))
        made.clear()
        yield made


ROOTS = 'runroot="BASE/r"\ngraphroot="BASE/g"\n'

# name: files, variables
SAME: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing at all": ({}, {}),
    "no file, and variables": ({}, {"STORAGE_DRIVER": "vfs", "STORAGE_OPTS": "vfs.imagestore="}),
    "the file of the system": ({"usr": f'[storage]\ndriver="vfs"\n{ROOTS}'}, {}),
    "a file that is named": (
        {"etc": '[storage]\ndriver="overlay"\n', "named": f'[storage]\ndriver="vfs"\n{ROOTS}'},
        {"CONTAINERS_STORAGE_CONF": "BASE/named"},
    ),
    "keys in any case": ({"etc": '[Storage]\nDRIVER="vfs"\nGraphRoot="BASE/g"\nRUNROOT="BASE/r"\n'}, {}),
    "a general option": (
        {
            "etc": f'[storage]\ndriver="overlay"\n{ROOTS}[storage.options]\n'
            'mountopt="nodev"\nskip_mount_home="true"\n'
        },
        {},
    ),
    "general options and those of the driver": (
        {
            "etc": f'[storage]\ndriver="overlay"\n{ROOTS}[storage.options]\n'
            'additionalimagestores=["BASE/home","BASE/tmp"]\nmountopt="nodev"\nignore_chown_errors="false"\n[storage.options.overlay]\nmountopt="nosuid"\n'
            'skip_mount_home="false"\n[storage.options.vfs]\nignore_chown_errors="true"\n'
        },
        {},
    ),
    "a driver by its old name": (
        {
            "etc": f'[storage]\ndriver="overlay2"\n{ROOTS}[storage.options]\nmountopt="nodev"\n'
            '[storage.options.overlay]\nmountopt="nosuid"\n'
        },
        {},
    ),
    "a driver by its old name in the environment": (
        {"etc": f'[storage]\ndriver="vfs"\n{ROOTS}[storage.options]\nmountopt="nodev"\n'},
        {"STORAGE_DRIVER": "overlay2"},
    ),
    "an option of the image store that is of no effect": (
        {"etc": f'[storage]\ndriver="vfs"\n{ROOTS}[storage.options]\nimagestore="BASE/images"\n'},
        {},
    ),
    "a driver from the environment": (
        {"etc": f'[storage]\ndriver="overlay"\n{ROOTS}[storage.options.overlay]\nmountopt="nodev"\n'},
        {"STORAGE_DRIVER": "vfs"},
    ),
    "options from the environment": (
        {"etc": f'[storage]\ndriver="vfs"\n{ROOTS}[storage.options.vfs]\nignore_chown_errors="true"\n'},
        {"STORAGE_OPTS": "vfs.imagestore=,.imagestore="},
    ),
    "empty options in the environment": (
        {"etc": f'[storage]\ndriver="overlay"\n{ROOTS}[storage.options.overlay]\nmountopt="nodev"\n'},
        {"STORAGE_OPTS": "", "STORAGE_DRIVER": ""},
    ),
    # Section 5, the rows of its table.
    "a user without a file": (
        {
            "usr": '[storage]\ndriver="overlay"\nrunroot="BASE/s"\ngraphroot="BASE/s"\n[storage.options]\n'
            'pull_options={a="b"}\n[storage.options.overlay]\nmountopt="nodev"\n'
        },
        _USER,
    ),
    "a user, and what root may not have": (
        {
            "usr": '[storage]\ndriver="overlay"\n'
            '[storage.options.overlay]\nignore_chown_errors="true"\nmountopt="nodev"\n'
        },
        _USER,
    ),
    "a user's driver and options": (
        {
            "usr": '[storage]\ndriver="vfs"\n[storage.options]\nignore_chown_errors="true"\n',
            "user": '[storage]\ndriver="overlay"\n[storage.options.overlay]\nmountopt="nodev"\n',
        },
        _USER,
    ),
    "a user's storage path": (
        {"user": '[storage]\ndriver="vfs"\nrootless_storage_path="$HOME/rsp/$UID"\n'},
        _USER,
    ),
    "a user's graph root beside a storage path": (
        {"user": '[storage]\ndriver="vfs"\ngraphroot="BASE/g"\nrootless_storage_path="$HOME/rsp/$UID"\n'},
        _USER,
    ),
    "the system's storage path for users": (
        {"usr": '[storage]\ndriver="vfs"\nrootless_storage_path="$HOME/rsp/$UID"\n'},
        _USER,
    ),
    "a user's data elsewhere": (
        {"usr": '[storage]\ndriver="vfs"\n'},
        _USER | {"XDG_DATA_HOME": "BASE/data"},
    ),
    "a user's variables": (
        {"usr": '[storage]\ndriver="overlay"\n'},
        _USER | {"STORAGE_DRIVER": "vfs", "STORAGE_OPTS": "vfs.imagestore=,.imagestore="},
    ),
    "a user's file elsewhere": (
        {"xdg/containers/storage.conf": '[storage]\ndriver="vfs"\nrunroot="BASE/r"\n'},
        _USER | {"XDG_CONFIG_HOME": "BASE/xdg"},
    ),
    "a user's broken file": ({"usr": '[storage]\ndriver="vfs"\n', "user": "broken"}, _USER),
}
WHERE = {"usr": "usr/storage.conf", "etc": "etc/storage.conf", "user": "home/.config/containers/storage.conf"}


@pytest.mark.parametrize("row", SAME)
def test_both_programs_open_the_same_store(place: Place, row: str) -> None:
    seen = []
    for program in ("containers-storage", OURS):
        place.clear()
        files, environ = SAME[row]
        for name, text in files.items():
            place.write(WHERE.get(name, name), text)
        seen.append(place.status(program, **environ))
    theirs, ours = seen
    assert ours == theirs


def test_a_storage_path_for_users_is_roots_too_since_later_versions(place: Place) -> None:
    """1.43 keeps to the built-in root; newer ones take the path for whoever reads the file without a graph root."""
    seen = []
    for program in ("containers-storage", OURS):
        place.clear()
        place.write(
            "etc/storage.conf",
            '[storage]\ndriver="vfs"\nrunroot="BASE/r"\nrootless_storage_path="$HOME/rsp/$UID"\n',
        )
        seen.append(place.status(program)["Root"])
    assert seen == ["/var/lib/containers/storage", f"{place.base}/home/rsp/0"]


@pytest.mark.parametrize("path", [path for path in EXPANSIONS if path.startswith("/")])
def test_both_programs_expand_a_path_to_the_same(place: Place, path: str) -> None:
    """To the letter, however odd the path: otherwise one file would name two stores."""
    seen = []
    for program in ("containers-storage", OURS):
        place.clear()
        place.write(
            "etc/storage.conf", f'[storage]\ndriver="vfs"\nrunroot="BASE/r"\ngraphroot="BASE{path}"\n'
        )
        seen.append(place.status(program, **VARIABLES)["Root"])
    theirs, ours = seen
    assert ours == theirs
    assert ours == os.path.normpath(str(place.base) + EXPANSIONS[path].replace("1000", "0"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--graph", "BASE/x"],
        ["--run", "BASE/x"],
        ["--graph", "BASE/x", "--run", "BASE/y"],
        ["--graph", "BASE/x", "--storage-opt", "vfs.imagestore="],
    ],
)
def test_explicit_options_put_the_configuration_aside(place: Place, flags: list[str]) -> None:
    """Of which only a missing root is taken, and nothing of the environment."""
    seen = []
    for program in ("containers-storage", OURS):
        place.clear()
        place.write(
            "etc/storage.conf", f'[storage]\ndriver="overlay"\n{ROOTS}[storage.options]\nmountopt="nodev"\n'
        )
        words = [word.replace("BASE", str(place.base)) for word in flags]
        seen.append(
            place.status(program, *words, "--storage-driver", "vfs", STORAGE_DRIVER="zfs", STORAGE_OPTS="a=b")
        )
    theirs, ours = seen
    assert ours == theirs


def podman_info(place: Place, **environ: str) -> dict[str, Any]:
    peers.need("podman")
    done = place.run("podman", "info", "--format", "json", **environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["store"]
    return found


@pytest.mark.parametrize(
    "environ", [{}, {"STORAGE_DRIVER": "vfs"}, {"CONTAINERS_STORAGE_CONF": "BASE/named"}]
)
@pytest.mark.parametrize("root", ["/x", "$HOME/x"])
def test_podman_opens_the_same_store(place: Place, root: str, environ: dict[str, str]) -> None:
    """Also where two files are there, of which containers-storage 1.43 itself takes the wrong one."""
    files = {
        "usr/storage.conf": '[storage]\ndriver="zfs"\nrunroot="BASE/usr/r"\ngraphroot="BASE/usr/g"\n',
        "etc/storage.conf": f'[storage]\ndriver="overlay"\nrunroot="BASE/r"\ngraphroot="BASE{root}"\n'
        '[storage.options.overlay]\nmountopt="nodev"\n',
        "named": f'[storage]\ndriver="vfs"\nrunroot="BASE/n"\ngraphroot="BASE/{root}"\n',
    }
    seen = []
    for ask in (podman_info, lambda place, **environ: place.status(OURS, **environ)):
        place.clear()
        for name, text in files.items():
            place.write(name, text)
        seen.append(ask(place, **environ))
    theirs, ours = seen
    options = " ".join(f"{key}={value}" for key, value in theirs["graphOptions"].items())
    assert ours == {
        "Root": theirs["graphRoot"],
        "Run Root": theirs["runRoot"],
        "Driver Name": theirs["graphDriverName"],
        "Driver Options": f"[{options}]",
    }
    assert theirs["graphDriverName"] == ("vfs" if environ else "overlay")


# --- complaints ---------------------------------------------------------------------------------------------


def complaint(place: Place, program: str, **environ: str) -> str:
    done = place.run(program, "status", **environ)
    return done.stdout + done.stderr


def test_unknown_keys_are_told_in_the_same_words(place: Place) -> None:
    place.write(
        "etc/storage.conf",
        f'top=1\n[storage]\nnope=1\ndriver="vfs"\n{ROOTS}[storage.options]\nnein=1\n[storage.options.vfs]\nnon="x"\n'
        "[zebra]\na=1\n[zebra.b]\nc=1\n[ant]\n",
    )
    told = []
    for program in ("containers-storage", OURS):
        found = re.findall(r'msg="(Failed to decode.*)"$', complaint(place, program), re.MULTILINE)
        assert len(set(found)) == 1
        told.append(found[0])
    theirs, ours = told
    assert ours == theirs


@pytest.mark.parametrize(
    "text",
    [
        "[storage]\ndriver = 1\n",
        "[storage.options]\n\ndisable-volatile = 'true'\n",
        "[storage.options]\nauto-userns-min-size = -1\n",
        "[storage.options]\n\n\nauto-userns-max-size = 4294967296\n",
        "[storage.options]\npull_options = {\n"
        if False
        else "[storage.options]\npull_options = {b = 'x', a = true}\n",
        "[storage]\nrunroot = '''\ndriver = 1\n'''\ndriver = 1\n",
        "[storage.options.overlay]\nsize = 1\n",
    ],
)
def test_a_wrong_value_is_found_in_the_same_line(place: Place, text: str) -> None:
    """Theirs names the last key that it saw, ours the key that is wrong."""
    place.write("etc/storage.conf", text)
    theirs = re.search(r'line (\d+) \(last key "([^"]+)"\)', complaint(place, "containers-storage"))
    ours = re.search(r"storage.conf, line (\d+): ([^:]+): wanted", complaint(place, OURS))
    assert theirs
    assert ours
    assert ours.groups() == theirs.groups()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            {"CONTAINERS_STORAGE_CONF": "BASE/nowhere"},
            "error initializing: stat BASE/nowhere: no such file or directory",
        ),
        ({"CONTAINERS_STORAGE_CONF": ""}, "error initializing: stat : no such file or directory"),
        (
            {"XDG_CONFIG_HOME": "BASE/etc/storage.conf"},
            "error initializing: stat BASE/etc/storage.conf/containers/storage.conf: not a directory",
        ),
        (
            {"STORAGE_DRIVER": "nosuch"},
            "error initializing: failed to GetDriver graph nosuch BASE/g: driver not supported",
        ),
        ({"STORAGE_OPTS": "a"}, "error initializing: unable to parse key/value option: a"),
        ({"STORAGE_OPTS": "a=b"}, "error initializing: vfs driver does not support a options"),
    ],
)
def test_what_cannot_be_used_is_refused_in_the_same_words(
    place: Place, environ: dict[str, str], said: str
) -> None:
    place.write("etc/storage.conf", f'[storage]\ndriver="vfs"\n{ROOTS}')
    for program in ("containers-storage", OURS):
        assert said.replace("BASE", str(place.base)) in complaint(place, program, **environ).splitlines()


# --- which driver -------------------------------------------------------------------------------------------


def test_a_root_with_layers_of_vfs_is_opened_with_vfs_when_no_driver_is_named(place: Place) -> None:
    """They take overlay, show an empty store, and newer ones then open nothing there without a name."""
    seen = []
    for program in ("containers-storage", OURS):
        place.clear()
        roots = ["--graph", f"{place.base}/g", "--run", f"{place.base}/r"]
        assert place.run(program, *roots, "--storage-driver", "vfs", "create-layer").returncode == 0
        seen.append(place.status(program, *roots)["Driver Name"])
    assert seen == ["overlay", "vfs"]


@pytest.mark.parametrize("priority", [["vfs"], ["zfs", "vfs", "overlay"], ["overlay", "vfs"]])
def test_a_priority_list_decides(place: Place, priority: list[str]) -> None:
    """1.43 does not know the key, so only we are asked; the order is that of `spec/config.md` 11."""
    place.write("etc/storage.conf", f"[storage]\ndriver_priority={json.dumps(priority)}\n{ROOTS}")
    assert place.status(OURS)["Driver Name"] == next(name for name in priority if name != "zfs")


# --- saving -------------------------------------------------------------------------------------------------


def test_the_peers_read_what_we_write(place: Place) -> None:
    tables: dict[str, Any] = {
        "storage": {
            "driver": "overlay",
            "graphroot": f'{place.base}/g "1" \\ é',
            "runroot": f"{place.base}/r",
            "options": {
                "additionalimagestores": [f"{place.base}/tmp"],
                "overlay": {"mountopt": "nodev,metacopy=on"},
            },
        }
    }
    saving.write(str(place.base / "etc/storage.conf"), tables)
    theirs = place.status("containers-storage")
    assert theirs["Root"] == tables["storage"]["graphroot"]
    assert theirs["Driver Options"] == (
        f"[overlay.imagestore={place.base}/tmp overlay.mountopt=nodev,metacopy=on]"
    )
    assert place.status(OURS) == theirs
