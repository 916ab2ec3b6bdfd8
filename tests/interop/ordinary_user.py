"""Somebody without root rights, for tests: made, with subordinate ids and a copy of the package, and removed again.

He cannot read an environment below /root, so he gets a copy of the package and of what it needs, and the first
interpreter of this version that he can run.
"""

import compileall
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers

_NEEDED = ("fastcrc", "isal", "backports", "click")  # what the package imports, if it is there
# Where udev runs anybody may open /dev/fuse. Where it does not, he is shown a device of that mode in its place.
_AS_USER = """
[ ! -e "$0" ] || /bin/mount --bind "$0" /dev/fuse || exit 120
user=$1
shift
exec /usr/bin/setpriv --reuid "$user" --regid "$user" --clear-groups "$@"
"""
FIRST_ID = 1_700_000
IDS = 65_536


@dataclass(frozen=True)
class User:
    """Somebody without rights, and what he may read: `place` is his, `library` is for all."""

    uid: int
    name: str
    home: Path
    python: str
    library: Path
    fuse: Path

    def start(self, *argv: str, **environ: str) -> subprocess.Popen[bytes]:
        """A program run by him, in an environment that says no more than a login does. The process is the program."""
        words = {
            "HOME": str(self.home),
            "USER": self.name,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin",
            "PYTHONPATH": str(self.library),
            "TMPDIR": str(self.home),
        }
        return subprocess.Popen(
            ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", _AS_USER, str(self.fuse), str(self.uid), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.home,
            env=words | environ,
        )

    def run(self, *argv: str, data: bytes = b"", ok: bool = True, **environ: str) -> peers.Result:
        """The same, to its end."""
        with self.start(*argv, **environ) as process:
            try:
                out, err = process.communicate(data, timeout=120)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(argv, process.returncode, out, err)
        if ok and done.returncode != 0:
            raise peers.Failed(
                f"{argv}: exit {done.returncode}\n{(done.stdout + done.stderr).decode()[-3000:]}"
            )
        return peers.Result(done.returncode, done.stdout, done.stderr)

    @property
    def program(self) -> tuple[str, str]:
        """Words that run the drop-in."""
        return self.python, str(self.library / "orlop-storage")

    def orlop(self, *args: str, **how: Any) -> peers.Result:
        return self.run(*self.program, *args, **how)


@contextmanager
def made() -> Iterator[User]:
    """A new user with ids set aside, for the length of a block."""
    peers.need_root()
    peers.need("newuidmap", "newgidmap", "useradd", "userdel", "usermod", "setpriv", "unshare")
    room = Path(
        tempfile.mkdtemp(prefix="orlop-user-", dir="/tmp")
    )  # pytest's own directories are root's alone
    room.chmod(0o755)
    name = f"orlop{os.getpid()}"
    ids = f"{FIRST_ID}-{FIRST_ID + IDS - 1}"
    subprocess.run(["useradd", "-m", "-d", room / "home", "-U", "-s", "/bin/sh", name], check=True)
    try:
        for kind in ("uid", "gid"):
            _set_aside(name, kind, ids)
        library = room / "library"
        library.mkdir()
        _install(library)
        entry = subprocess.run(["id", "-u", name], check=True, capture_output=True, text=True)
        uid = int(entry.stdout)
        fuse = room / "fuse"
        if os.path.exists("/dev/fuse"):
            os.mknod(fuse, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
            fuse.chmod(0o666)
        yield User(uid, name, room / "home", _interpreter(uid), library, fuse)
        _expect_no_processes(uid)
    finally:
        peers.unmount_below(room)
        subprocess.run(["userdel", name], check=True, capture_output=True)
        shutil.rmtree(room)


def _set_aside(name: str, kind: str, ids: str) -> None:
    """Exactly these, whatever useradd chose."""
    for line in Path(f"/etc/sub{kind}").read_text().splitlines():
        owner, _, rest = line.partition(":")
        if owner == name:
            start, count = map(int, rest.split(":"))
            given = f"{start}-{start + count - 1}"
            subprocess.run(["usermod", f"--del-sub{kind}s", given, name], check=True)
    subprocess.run(["usermod", f"--add-sub{kind}s", ids, name], check=True)


def _expect_no_processes(uid: int) -> None:
    """Nothing of his may run on; what was killed is given a moment."""
    deadline = time.monotonic() + 10
    while left := [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_his(pid, uid)]:
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.05)


def _is_his(pid: str, uid: int) -> bool:
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return False
    return owner == uid or FIRST_ID <= owner < FIRST_ID + IDS


def _install(library: Path) -> None:
    for module in ("orlop", *_NEEDED):
        found = importlib.util.find_spec(module)
        for place in (found.submodule_search_locations or ()) if found else ():
            shutil.copytree(place, library / module, ignore=shutil.ignore_patterns("__pycache__"))
    (library / "orlop-storage").write_text("from orlop.dropin.main import run\n\nrun()\n")
    # He cannot write there, and would compile all of it for every call.
    compileall.compile_dir(library, quiet=1)
    subprocess.run(["chmod", "-R", "a+rX", library], check=True)


def _interpreter(uid: int) -> str:
    """One of this very version, because compiled modules were made for it."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    ask = "import sys; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            said = subprocess.run(
                [python, "-I", "-c", ask],
                capture_output=True,
                text=True,
                user=uid,
                group=uid,
                check=False,
                cwd="/",
            )
        except OSError:
            continue
        if said.stdout.strip() == version:
            return python
    return peers.missing(f"a Python {version} that an ordinary user can run")
