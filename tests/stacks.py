"""Random stacks of layers, and random changes of a container on top: the same ones for the same seed.

    for layer in stacks.stack(seed):            # 3 to 6 of them, each a tar in some compression
        store.layers.put(io.BytesIO(layer.blob))
    stacks.change(root, seed)                   # the root of a mounted layer; needs root rights

An archive has at most one entry for a path, as both programs ask; nearly all archives are ones that both take.
"""

import bz2
import gzip
import lzma
import os
import random
import shutil
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rawtar

BEFORE_NOW = 1_700_000_000
"""No time in an archive is later, but those that no file can have; what is later on disk was set by a clock."""

_CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
_NAMES = [b"a", b"b", b"c", b"a-b", b"a.c", b"etc", b"bin", b"lib"]
_ODD_NAMES = [
    b"caf\xc3\xa9", b"caf\xe9", b"\xff\xfe", b"line\nbreak", b"tab\t\"quoted\"\\", b" blank ", b"x.wh.", b"...",
    b"n" * 99, b"l" * 101, b"m" * 250, b"\xc3\xa9" * 120, b"..data", b"wh.", b"#h", b"colon:comma,",
]  # fmt: skip
_MODES = [0o644, 0o755, 0o600, 0o4755, 0o2755, 0o6711, 0o1777, 0o2775, 0, 0o7777, 0o111]
_OWNERS = [0, 0, 0, 1, 33, 1000, 65_534, 3_000_000]
_DEVICES = [(1, 3), (5, 0), (259, 70_000), (8, 1), (10, 229)]
_KINDS = "ffffffffdddddllhhhpcbs"


@dataclass(frozen=True)
class Layer:
    """`blob` is `tar` in some compression. `sparse`: a member is, whose holes the peer writes out when it exports."""

    tar: bytes
    blob: bytes
    sparse: bool


def stack(seed: int) -> list[Layer]:
    chance = random.Random(seed)
    tree: dict[bytes, str] = {}  # what is seen through all layers so far: path to kind
    return [_Archive(chance, tree).layer() for _ in range(chance.randint(3, 6))]


class _Archive:
    """One layer in the making. `tree` is brought up to date."""

    def __init__(self, chance: random.Random, tree: dict[bytes, str]) -> None:
        self._chance = chance
        self._tree = tree
        self._used: set[bytes] = set()  # names of entries
        self._made: list[bytes] = []  # that a hard link can lead to
        self._hidden: set[bytes] = set()
        self._members: list[bytes] = []
        self._sparse = False

    def layer(self) -> Layer:
        chance = self._chance
        if chance.random() < 0.2:
            self._member(b"./", b"5", chance.choice([0o755, 0o555, 0o700, 0o1777]))
        for _ in range(chance.randint(3, 22)):
            step = chance.choices(
                [self._add, self._replace, self._delete, self._rename, self._opaque], [12, 4, 4, 2, 2]
            )[0]
            step()
        tar = b"".join(self._members) + rawtar.END
        if chance.random() < 0.2:
            tar += bytes(512 * chance.randint(1, 20))
        return Layer(tar, self._compressed(tar), self._sparse)

    def _compressed(self, tar: bytes) -> bytes:
        compress: Callable[[bytes], bytes] = self._chance.choice(
            [bytes, bytes, bytes, lambda data: gzip.compress(data, 1, mtime=0), bz2.compress, lzma.compress]
        )
        return compress(tar)

    # --- steps --------------------------------------------------------------------------------------------

    def _directories(self) -> list[bytes]:
        return [b"", *[p for p, kind in self._tree.items() if kind == "d" and not self._is_hidden(p)]]

    def _is_hidden(self, path: bytes) -> bool:
        return any(path == gone or path.startswith(gone + b"/") for gone in self._hidden)

    def _free(self, path: bytes) -> bool:
        """Whether this archive may say something of the path: once, and not of what it deletes."""
        return path not in self._used and (not self._is_hidden(path) or self._chance.random() < 0.003)

    def _pick_new(self) -> bytes | None:
        chance = self._chance
        above = chance.choice(self._directories())
        if above.count(b"/") > 5:
            above = b""
        base = chance.choice(_ODD_NAMES if chance.random() < 0.25 else _NAMES)
        path = above + b"/" + base if above else base
        if chance.random() < 0.1:  # below directories that no entry names
            path += b"/" + chance.choice(_NAMES)
        return path if self._free(path) else None

    def _fits(self, path: bytes, kind: str) -> bool:
        """Whether nothing else would have to be a directory, or be none, for this. Few archives ask for that."""
        parts = path.split(b"/")
        above = [b"/".join(parts[:n]) for n in range(1, len(parts))]
        blocked = any(self._tree.get(p, "d") != "d" for p in above) or (kind != "d" and self._touched(path))
        return not blocked or self._chance.random() < 0.003

    def _touched(self, path: bytes) -> bool:
        """Whether this archive has something at or below a path."""
        return any(used == path or used.startswith(path + b"/") for used in self._used)

    def _below(self, path: bytes) -> list[bytes]:
        return [p for p in self._tree if p.startswith(path + b"/")]

    def _add(self) -> None:
        path = self._pick_new()
        if path is not None:
            self._put(path, self._chance.choice(_KINDS))

    def _replace(self) -> None:
        """Something else, or the same kind, where something is. A directory may give way with all that is in it."""
        there = [p for p in self._tree if self._free(p)]
        if not there:
            return
        path = self._chance.choice(there)
        kind = self._chance.choice(_KINDS + "dd" if self._tree[path] == "d" else _KINDS)
        self._put(path, kind)

    def _delete(self) -> None:
        there = [p for p in self._tree if self._free(p)]
        if not there:
            return
        path = self._chance.choice(there)
        if self._chance.random() < 0.05:
            path += b"-never-was"
        self._hide(path)

    def _hide(self, path: bytes) -> None:
        above, slash, base = path.rpartition(b"/")
        name = above + slash + b".wh." + base
        if self._touched(path) or name in self._used or len(base) > 250:
            return
        self._member(name, b"0", self._chance.choice([0, 0o644]))
        self._hidden.add(path)
        self._forget(path)

    def _rename(self) -> None:
        """As a tar says it: the old name deleted, and everything again under the new one."""
        there = [p for p in self._tree if self._free(p) and len(self._below(p)) < 8]
        new = self._pick_new()
        if not there or new is None:
            return
        old = self._chance.choice(there)
        if new.startswith(old + b"/") or old.startswith(new + b"/"):
            return
        moved = [(b"", self._tree[old])] + [(p[len(old) :], self._tree[p]) for p in self._below(old)]
        self._hide(old)
        for rest, kind in moved:
            if self._free(new + rest):
                self._put(new + rest, kind)

    def _opaque(self) -> None:
        path = self._chance.choice(self._directories())
        mark = path + b"/.wh..wh..opq" if path else b".wh..wh..opq"
        if mark in self._used or (not path and self._chance.random() < 0.7):
            return
        prefix = path + b"/" if path else b""
        above = {used.rpartition(b"/")[0] for used in self._used if used.startswith(prefix)}
        if not all(p in self._used for p in above if p.startswith(prefix)) and self._chance.random() > 0.003:
            return  # under layer rules the mark takes directories that no entry named, with what was put into them
        if path and path not in self._used and self._chance.random() < 0.8:
            self._put(path, "d")
        self._member(mark, b"0", 0o644)
        for below in [p for p in self._tree if p.startswith(prefix) and p not in self._used]:
            if not any(used.startswith(below + b"/") for used in self._used):
                del self._tree[below]

    def _forget(self, path: bytes) -> None:
        self._tree.pop(path, None)
        for below in self._below(path):
            del self._tree[below]
        self._made = [p for p in self._made if p != path and not p.startswith(path + b"/")]

    # --- entries ------------------------------------------------------------------------------------------

    def _put(self, path: bytes, kind: str) -> None:
        chance = self._chance
        if not self._fits(path, kind):
            return
        mode = chance.choice(_MODES)
        if kind == "s" and len(path) > 80:  # which has no PAX path of its own here
            kind = "f"
        if kind == "h" and not self._made:
            kind = "f"
        if not (kind == "d" and self._tree.get(path) == "d"):
            self._forget(path)
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            self._tree[b"/".join(parts[:depth])] = "d"
        self._tree[path] = {"s": "f", "h": "f"}.get(kind, kind)
        if kind == "f":
            data = chance.randbytes(chance.choice([0, 1, 10, 511, 512, 513, 5000, 70_000]))
            self._member(path, b"0", mode, data, xattrs=self._xattrs(b"security.capability"))
        elif kind == "d":
            slash = b"/" if chance.random() < 0.9 else b""
            self._member(path + slash, b"5", mode | 0o100, xattrs=self._xattrs())
        elif kind == "l":
            texts = [b"a", b"/etc", b"../../..", b"nowhere", b"b/" * 60 + b"c", b"\xff\xfe", b"caf\xc3\xa9"]
            texts += self._directories()[1:]
            self._member(path, b"2", 0o777, linkname=chance.choice(texts))
        elif kind == "h":
            slash = chance.choice([b"", b"", b"/", b"./"])
            self._member(path, b"1", mode, linkname=slash + chance.choice(self._made))
        elif kind == "p":
            self._member(path, b"6", mode)
        elif kind in "cb":
            device = (0, 0) if kind == "c" and chance.random() < 0.03 else chance.choice(_DEVICES)
            self._member(path, b"3" if kind == "c" else b"4", mode, device=device)
        else:
            self._sparse_member(path)
        if kind != "d":
            self._made.append(path)

    def _sparse_member(self, path: bytes) -> None:
        chance = self._chance
        runs, offset = [], 0
        for _ in range(chance.randint(0, 4)):
            offset += chance.randrange(9000)
            data = chance.randbytes(chance.randint(1, 2000))
            runs.append((offset, data))
            offset += len(data)
        write = chance.choice([rawtar.sparse_10, rawtar.sparse_01])
        self._sparse = True
        self._used.add(path)
        self._members.append(write(path, runs, offset + chance.randrange(20_000)))

    def _xattrs(self, *more: bytes) -> dict[bytes, bytes]:
        chance = self._chance
        if chance.random() > 0.25:
            return {}
        found = {b"user.note": chance.choice([b"text", b"a\0b\xff"]), b"user.o\xc3\xa9": b"1"}
        found |= {b"trusted.t": b"t", b"security.capability": _CAPABILITY}
        names = [b"user.note", b"user.o\xc3\xa9", b"trusted.t", *more]
        return {name: found[name] for name in chance.sample(names, chance.randint(1, len(names)))}

    def _member(
        self,
        name: bytes,
        type: bytes,
        mode: int,
        data: bytes = b"",
        *,
        linkname: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        """One entry, in one of the forms that tar has for it."""
        chance = self._chance
        self._used.add(os.path.normpath(name))
        if chance.random() < 0.1 and name != b"./":
            name = chance.choice([b"./", b"/"]) + name
        records = {b"SCHILY.xattr." + key: value for key, value in (xattrs or {}).items()}
        prefix = b""
        wide = len(name) > 100 or (not name.isascii() and chance.random() < 0.5)
        shown, linked = name, linkname
        if wide and chance.random() < 0.3:
            prefix += rawtar.long_name(name)
            shown = name[:100]
        elif wide:
            records[b"path"] = name
            shown = name[:100].rstrip(b"/") or b"x"
        if len(linkname) > 100:
            records[b"linkpath"] = linkname
            linked = linkname[:100]
        seconds = chance.choice([0, 1, 1_000_000_000, chance.randrange(BEFORE_NOW)])
        fraction = chance.choice([0, 0, 1, 500_000_000, chance.randrange(10**9)])
        odd = chance.random()
        if odd < 0.02:
            records[b"mtime"] = chance.choice([b"-5", b"-1.5", b"99999999999", b"-0.25"])
        elif fraction or odd < 0.1:
            records[b"mtime"] = b"%d.%09d" % (seconds, fraction)
        if chance.random() < 0.15:
            records[b"atime"] = b"%d.%d" % (chance.randrange(BEFORE_NOW), chance.randrange(1000))
        uid, gid = chance.choice(_OWNERS), chance.choice(_OWNERS)
        ids: dict[str, int | bytes] = {}
        for kind, number in (("uid", uid), ("gid", gid)):
            ids[kind] = number
            if number > 0o7777777:
                records[kind.encode()] = b"%d" % number
                ids[kind] = 0
            elif chance.random() < 0.05:
                ids[kind] = rawtar.base256(number, 8)
        block = rawtar.header(
            shown,
            len(data),
            type=type,
            mode=mode,
            mtime=seconds,
            linkname=linked,
            magic=rawtar.GNU if prefix or any(isinstance(id, bytes) for id in ids.values()) else rawtar.USTAR,
            devmajor=device[0],
            devminor=device[1],
            **ids,
        )
        head = rawtar.pax(records) if records else b""
        self._members.append(head + prefix + block + rawtar.padded(data))


# --- a container ------------------------------------------------------------------------------------------------


def change(root: Path | str, seed: int, steps: int = 14) -> None:
    """Change the files of a container. Every time that the clock set is then set to one that depends on the path."""
    chance = random.Random(seed)
    top = os.fsencode(os.fspath(root))
    for _ in range(steps):
        paths = _walk(top)
        if not paths:
            _write(top + b"/first", b"first")
            continue
        path = chance.choice(paths)
        other = os.path.join(top, chance.choice([b"new", b"a", b"moved", b"caf\xe9", b"z" * 200]))
        directories = [p for p in paths if stat.S_ISDIR(os.lstat(p).st_mode)]
        if directories and chance.random() < 0.6:
            other = os.path.join(chance.choice(directories), os.path.basename(other))
        data = chance.randbytes(chance.choice([0, 3, 600, 70_000]))
        mode, owner = chance.choice(_MODES), chance.choice(_OWNERS)
        step = chance.choice(
            [
                *(_overwrite, _create, _make_directory, _remove, _remove, _again, _rename, _link, _symlink),
                *(_chmod, _chown, _mark, _touch, _fifo),
            ]
        )
        try:
            step(path, other, data, mode, owner)
        except OSError:
            continue  # a name taken, a directory that the kernel does not move: both programs see the same
    for path in [top, *_walk(top)]:
        status = os.lstat(path)
        if status.st_mtime_ns // 10**9 > BEFORE_NOW:
            number = sum(os.path.relpath(path, top)) * 1_000_003 % BEFORE_NOW
            os.utime(path, ns=(number * 10**9 + 5, number * 10**9 + number % 3), follow_symlinks=False)


def _walk(top: bytes) -> list[bytes]:
    found = []
    waiting = [top]
    while waiting:
        above = waiting.pop()
        for name in sorted(os.listdir(above)):
            path = os.path.join(above, name)
            if not os.path.lexists(
                path
            ):  # a whiteout, which the kernel lists where a directory merges nothing
                continue
            found.append(path)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                waiting.append(path)
    return found


def _write(path: bytes, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_TRUNC, 0o640), "wb") as file:
        file.write(data)


def _is_file(path: bytes) -> bool:
    return stat.S_ISREG(os.lstat(path).st_mode)


def _overwrite(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    if _is_file(path):  # never a device
        _write(path, data)


def _create(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    if not os.path.lexists(other):
        _write(other, data)
        os.chmod(other, mode)


def _make_directory(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    os.mkdir(other)
    os.chmod(other, mode | 0o100)
    _write(other + b"/inside", data)


def _delete(path: bytes) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _remove(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    _delete(path)


def _again(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    """Something of that name again: of a directory, or of another kind."""
    _delete(path)
    if owner:
        os.mkdir(path)
        _write(path + b"/again", data)
    else:
        _write(path, data)


def _rename(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    if not os.path.lexists(other):
        os.rename(path, other)


def _link(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    os.link(path, other, follow_symlinks=False)


def _symlink(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    os.symlink(b"x" * (owner % 150 + 1), other)


def _chmod(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    if not stat.S_ISLNK(os.lstat(path).st_mode):
        os.chmod(path, mode | 0o100)


def _chown(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    os.chown(path, owner, mode, follow_symlinks=False)


def _mark(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    """Attributes: one that tars carry, and one that they do not."""
    os.setxattr(path, b"user.changed", data[:100], follow_symlinks=False)
    os.setxattr(path, b"trusted.changed", b"", follow_symlinks=False)


def _touch(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    os.utime(path, ns=(owner, owner * 10**9 + mode), follow_symlinks=False)


def _fifo(path: bytes, other: bytes, data: bytes, mode: int, owner: int) -> None:
    os.mkfifo(other, 0o600)
