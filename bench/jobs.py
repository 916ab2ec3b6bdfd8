"""The rows of the benchmark: what is prepared, what is timed, how one sees that it was done right."""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import archives

ENV = {"LC_ALL": "C", "HOME": "/root"}


@dataclass(frozen=True)
class Program:
    name: str
    path: str

    @property
    def ours(self) -> bool:
        return self.name == "orlop"

    def argv(self, store: Path, driver: str, *args: str) -> list[str]:
        words = ("--root", "--runroot") if self.name == "podman" else ("--graph", "--run")
        roots = [words[0], f"{store}/graph", words[1], f"{store}/run", "--storage-driver", driver]
        return [self.path, *roots, *args]


@dataclass(frozen=True)
class Job:
    """One row. `prepare(program, store)` is not timed; it returns the words that are. `check` sees the result."""

    name: str
    place: str  # "tmpfs" or "ext4"
    driver: str
    prepare: Callable[[Program, Path], list[str]]
    check: Callable[[Program, Path], None] = lambda program, store: None
    durable: bool = False
    fresh: bool = True  # each run in a new store; False: prepare once, run again and again
    store: str = ""  # not fresh, and shared with the other rows that say the same
    piped: bool = False  # standard output goes to `cat`, as to the next program of a pipeline
    loops: int = 1  # commands per run, for very short ones
    peer: str = "containers-storage"  # the program that does it, too
    inside: bool = False  # ours is a program that says itself how long it took, without what went before


def importing(blob: Path, driver: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        return program.argv(store, driver, "import-layer", "--id", "bench", "--file", str(blob))

    return prepare


def imported(name: str, driver: str) -> Callable[[Program, Path], None]:
    """The layer is there, and comes back as the bytes that went in."""

    def check(program: Program, store: Path) -> None:
        argv = program.argv(store, driver, "diff", "--uncompressed", "bench")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment(durable=False)) as process:
            assert process.stdout is not None
            found = hashlib.file_digest(process.stdout, "sha256").hexdigest()
        if process.returncode or found != digest_of(name):
            raise SystemExit(f"{program.name} did not give {name}.tar back (exit {process.returncode})")

    return check


def exporting(name: str, driver: str, target: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        run(importing(archives.archive(name), driver)(program, store), environment(durable=False))
        if target == "pipe":
            return program.argv(store, driver, "diff", "--uncompressed", "bench")
        if target == "gzip":
            return program.argv(store, driver, "diff", "--gzip", "bench")
        words = program.argv(
            store, driver, "diff", "--uncompressed", "--file", f"{store}/exported.tar", "bench"
        )
        # The file of the run before is removed rather than truncated; that counts for both alike.
        return ["sh", "-c", f'rm -f "{store}/exported.tar"; exec "$@"', "sh", *words]

    return prepare


def deleting(name: str, driver: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        run(importing(archives.archive(name), driver)(program, store), environment(durable=False))
        subprocess.run(["sync", "-f", str(store)], check=True)
        return program.argv(store, driver, "delete-layer", "bench")

    return prepare


CYCLE = """
for _ in 1 2 3 4 5; do
    box=$("$@" create-container image) && "$@" mount "$box" && "$@" unmount "$box" && "$@" delete-container "$box"
done >/dev/null
"""

STACK = """
blob=$1; shift
parent= number=0
while [ $number -lt 120 ]; do
    parent=$("$@" import-layer --file "$blob" ${parent:+"$parent"}) || exit 1
    number=$((number + 1))
done
"$@" mount "$("$@" create-layer "$parent")" >/dev/null
"""


def cycling(driver: str) -> Callable[[Program, Path], list[str]]:
    """Five times: a container is made, mounted, unmounted and deleted, each by a command of its own."""

    def prepare(program: Program, store: Path) -> list[str]:
        run(importing(archives.archive("mixed"), driver)(program, store), environment(durable=False))
        run(program.argv(store, driver, "create-image", "--id", "image", "bench"), environment(durable=False))
        return ["sh", "-c", CYCLE, "sh", *program.argv(store, driver)]

    return prepare


def stacking(driver: str) -> Callable[[Program, Path], list[str]]:
    """Small layers, one upon the other, and a mount of the last; 1.43 mounts no more than 128."""

    def prepare(program: Program, store: Path) -> list[str]:
        blob = store / "small-layer.tar"
        with tarfile.open(blob, "w") as tar:
            info = tarfile.TarInfo("etc/file")
            info.size = 1000
            tar.addfile(info, io.BytesIO(b"x" * 1000))
        return ["sh", "-c", STACK, "sh", str(blob), *program.argv(store, driver)]

    return prepare


def small(*words: str) -> Callable[[Program, Path], list[str]]:
    def prepare(program: Program, store: Path) -> list[str]:
        run(program.argv(store, "vfs", "create-layer", "--id", "first"), environment(durable=False))
        return program.argv(store, "vfs", *words)

    return prepare


def jobs(drivers: list[str]) -> Iterator[Job]:
    for driver in drivers:
        for name in archives.NAMES:
            for kind in archives.KINDS:
                blob = archives.CACHE / f"{name}.{kind}"
                yield Job(
                    f"import {name}.{kind}, {driver}, tmpfs",
                    "tmpfs",
                    driver,
                    importing(blob, driver),
                    imported(name, driver),
                )
        for name in archives.NAMES:
            blob = archives.CACHE / f"{name}.tar"
            job, check = importing(blob, driver), imported(name, driver)
            yield Job(f"import {name}.tar, {driver}, ext4, not durable", "ext4", driver, job, check)
            yield Job(f"import {name}.tar, {driver}, ext4, durable", "ext4", driver, job, check, durable=True)
        for name in archives.NAMES:
            for target in ("pipe", "file"):
                yield Job(
                    f"export {name} to a {target}, {driver}, tmpfs",
                    "tmpfs",
                    driver,
                    exporting(name, driver, target),
                    imported(name, driver),
                    fresh=False,
                    piped=target == "pipe",
                )
        job = exporting("mixed", driver, "gzip")
        yield Job(f"export mixed as gzip, {driver}, tmpfs", "tmpfs", driver, job, fresh=False, piped=True)
        yield Job(f"delete small, {driver}, ext4, not durable", "ext4", driver, deleting("small", driver))
        if driver == "overlay":  # vfs would copy every layer into the next
            yield Job(
                "container: make, mount, unmount, delete, x5, overlay, tmpfs",
                "tmpfs",
                driver,
                cycling(driver),
            )
            yield Job("stack of 120 layers, overlay, tmpfs", "tmpfs", driver, stacking(driver))
    yield Job("small command: version", "tmpfs", "vfs", small("version"), fresh=False, loops=20)
    yield Job("small command: images", "tmpfs", "vfs", small("images"), fresh=False, loops=20)


# --- for all of them ----------------------------------------------------------------------------------------


def environment(*, durable: bool) -> dict[str, str]:
    return {**ENV, "ORLOP_DURABILITY": "full" if durable else "none"}


def run(argv: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(argv, env=env, capture_output=True, check=False)
    if done.returncode:
        said = (done.stdout[-500:] + done.stderr[-2000:]).decode(errors="replace")
        raise SystemExit(f"failed ({done.returncode}): {' '.join(argv)}\n{said}")


def digest_of(name: str) -> str:
    if name not in DIGESTS:
        with archives.archive(name).open("rb") as tar:
            DIGESTS[name] = hashlib.file_digest(tar, "sha256").hexdigest()
    return DIGESTS[name]


DIGESTS: dict[str, str] = {}
