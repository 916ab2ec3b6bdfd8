"""The archives that the benchmark imports: made once from this machine's own files, kept in .cache/bench.

    small   60,000 files of about 3 kB: file creation and headers dominate
    large   700 MB in seven files: bytes dominate
    mixed   500 MB in about 25,000 entries, with directories, symlinks and hard links: like a root file system

each as plain tar, gzip (level 6) and zstd (level 3). Where the machine has too few small files the rest are
cut out of larger ones, so content and compressibility stay those of real files. Owners are root, times whole
seconds, order by name: two machines with the same files make the same bytes.
"""

import io
import os
import stat
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "bench"
NAMES = ("small", "large", "mixed")
KINDS = ("tar", "tar.gz", "tar.zst")
SOURCES = ("/usr/lib", "/usr/share", "/usr/include", "/usr/bin", "/usr/local", "/opt")

SMALL_FILES, SMALL_SIZE = 60_000, 3_000
LARGE_FILES, LARGE_SIZE = 7, 100_000_000
MIXED_ENTRIES, MIXED_SIZE = 25_000, 500_000_000
BLOCK = 1 << 20


def archive(name: str, kind: str = "tar") -> Path:
    """The path of an archive; it and its compressed forms are made if they are not there yet."""
    path = CACHE / f"{name}.{kind}"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"making {path.name} (once)", file=sys.stderr, flush=True)
        temporary = path.with_suffix(".part")
        if kind == "tar":
            MAKERS[name](temporary)
        else:
            COMPRESSORS[kind](archive(name), temporary)
        temporary.rename(path)
    return path


def files_of_this_machine() -> Iterator[tuple[str, os.stat_result]]:
    """Everything below SOURCES but directories, sorted, each once, on one file system."""
    for source in SOURCES:
        if not os.path.isdir(source):
            continue
        device = os.stat(source).st_dev
        for directory, below, names in os.walk(source):
            below.sort()
            if os.lstat(directory).st_dev != device:
                below.clear()
                continue
            for name in sorted(names):
                path = os.path.join(directory, name)
                try:
                    yield path, os.lstat(path)
                except OSError:
                    continue


def header(name: str, size: int = 0, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.mode, entry.mtime = size, kind, mode, 1_700_000_000
    return entry


def make_small(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        done = total = 0

        def add(content: bytes) -> None:
            nonlocal done, total
            if done % 100 == 0:
                out.addfile(header(f"d{done // 100:04}", kind=tarfile.DIRTYPE, mode=0o755))
            out.addfile(header(f"d{done // 100:04}/f{done % 100:02}", len(content)), io.BytesIO(content))
            done, total = done + 1, total + len(content)

        spare: list[str] = []
        for name, info in files_of_this_machine():
            if done == SMALL_FILES:
                return
            if stat.S_ISREG(info.st_mode):
                # Small files as they are while their mean stays at the aim; the others are cut up below.
                if (
                    200 <= info.st_size <= 4 * SMALL_SIZE
                    and total + info.st_size <= (done + 1) * SMALL_SIZE * 1.1
                ):
                    add(read(name))
                elif 20 * SMALL_SIZE <= info.st_size <= 400 * SMALL_SIZE:
                    spare.append(name)
        for name in spare:
            content = read(name)
            for at in range(0, len(content), SMALL_SIZE):
                if done == SMALL_FILES:
                    return
                add(content[at : at + SMALL_SIZE])


def make_large(path: Path) -> None:
    """Seven files, each the machine's largest files one after another."""
    ranked = sorted(
        ((info.st_size, name) for name, info in files_of_this_machine() if stat.S_ISREG(info.st_mode)),
        reverse=True,
    )
    pieces = Endless([name for _, name in ranked])
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as out:
        for number in range(LARGE_FILES):
            out.addfile(header(f"large{number}", LARGE_SIZE), pieces)


def make_mixed(path: Path) -> None:
    """Files as they come, with their directories; a large one waits while bytes run ahead of entries."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as out:
        known: set[str] = set()
        links: dict[tuple[int, int], str] = {}
        entries = size = 0
        for name, info in files_of_this_machine():
            if entries >= MIXED_ENTRIES:
                break
            share = (entries + 1) / MIXED_ENTRIES * MIXED_SIZE
            if stat.S_ISREG(info.st_mode) and size + info.st_size > share + 150_000_000:
                continue
            target = name.lstrip("/")
            for parent in reversed(Path(target).parents):
                if str(parent) != "." and str(parent) not in known:
                    known.add(str(parent))
                    out.addfile(header(str(parent), kind=tarfile.DIRTYPE, mode=0o755))
                    entries += 1
            if stat.S_ISLNK(info.st_mode):
                entry = header(target, kind=tarfile.SYMTYPE, mode=0o777)
                entry.linkname = os.readlink(name)
                out.addfile(entry)
            elif stat.S_ISREG(info.st_mode):
                inode = (info.st_dev, info.st_ino)
                mode = stat.S_IMODE(info.st_mode)
                if inode in links:
                    entry = header(target, kind=tarfile.LNKTYPE, mode=mode)
                    entry.linkname = links[inode]
                    out.addfile(entry)
                else:
                    content = read(name)
                    out.addfile(header(target, len(content), mode=mode), io.BytesIO(content))
                    size += len(content)
                    if info.st_nlink > 1:
                        links[inode] = target
            else:
                continue
            entries += 1


def read(name: str) -> bytes:
    with open(name, "rb") as source:
        return source.read()


class Endless(io.RawIOBase):
    """Files one after another, for ever."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.at, self.file = names, 0, open(names[0], "rb")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self.file.read(size)
        while len(found) < size:
            self.file.close()
            self.at = (self.at + 1) % len(self.names)
            self.file = open(self.names[self.at], "rb")
            found += self.file.read(size - len(found))
        return found


def gzipped(source: Path, target: Path) -> None:
    # zlib at level 6 is what image builders send; a quick encoder's output would also be quicker to unpack.
    press = zlib.compressobj(6, wbits=31)
    with source.open("rb") as tar, target.open("wb") as out:
        while block := tar.read(BLOCK):
            out.write(press.compress(block))
        out.write(press.flush())


def zstandard(source: Path, target: Path) -> None:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    with source.open("rb") as tar, zstd.open(target, "wb", level=3) as out:
        while block := tar.read(BLOCK):
            out.write(block)


MAKERS = {"small": make_small, "large": make_large, "mixed": make_mixed}
COMPRESSORS = {"tar.gz": gzipped, "tar.zst": zstandard}


def describe(name: str) -> str:
    """One line: entries and bytes, counted."""
    with tarfile.open(archive(name)) as tar:
        entries = sum(1 for _ in tar)
    sizes = ", ".join(f"{kind} {archive(name, kind).stat().st_size / 1e6:,.0f} MB" for kind in KINDS)
    return f"{name}: {entries:,} entries; {sizes}"


if __name__ == "__main__":
    for each in NAMES:
        print(describe(each))
