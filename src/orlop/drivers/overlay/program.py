"""Mounting by a program, such as fuse-overlayfs, instead of the kernel (`spec/drivers.md` 4.6, 4.7).

It takes one text of options and no flags: what is a flag (`ro`, `nodev`) is not passed on, read-only is said by
giving no upper directory. Ids are mapped by the program.
"""

from __future__ import annotations

import errno
import os

from orlop.errors import NotSupported
from orlop.system import files, mounts, starting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from subprocess import Popen

    from orlop.model.idmap import IDMap, IDMappings

NAME = "fuse-overlayfs"
_UNMOUNTERS = ("fusermount3", "fusermount")
_MESSAGES = 1 << 16
_SPECIAL = frozenset(':,\\"')


def look_for(name: str) -> str:
    """The path of a program, searched for as a shell would; "" if there is none."""
    for directory in os.get_exec_path():
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""


def mount(
    program: str,
    point: str,
    *,
    home: str,
    lowers: Sequence[str],
    upper: str | None,
    work: str | None,
    data: Sequence[str],
    mappings: IDMappings,
    force_mask: bool,
    label: str,
) -> None:
    """Run the program. `OSError` with what it had to say if it fails."""
    for path in (*lowers, *filter(None, (upper, work))):
        if not _SPECIAL.isdisjoint(path):
            raise NotSupported(
                f"{program} cannot be told about {path!r}: the name has a `:`, `,` or quote", path=path
            )
    words = ["lowerdir=" + ":".join(lowers)]
    if upper and work:
        words += [f"upperdir={upper}", f"workdir={work}"]
    words += data
    words += _mapping("uid", mappings.uids) + _mapping("gid", mappings.gids)
    if force_mask:
        words.append("xattr_permissions=2")
    if label:
        words.append(f'context="{label}"')
    # The words may be longer than one argument can be only with some 700 layers, which the depth forbids.
    run([program, "-o", ",".join(words), point], directory=home)


def _mapping(kind: str, maps: tuple[IDMap, ...]) -> list[str]:
    if len(maps) == 1 and maps[0].size == 1:
        return [f"squash_to_{kind}={maps[0].host_id}"]
    text = "".join(f":{m.container_id}:{m.host_id}:{m.size}" for m in maps)
    return [f"{kind}mapping={text}"] if text else []


def unmount(point: str) -> None:
    """Ask the program to go; if it cannot be asked, see that it has written everything, and detach the mount."""
    for name in _UNMOUNTERS:
        path = look_for(name)
        if path:
            try:
                run([path, "-u", point])
                return
            except OSError:
                continue  # not mounted, or not by us: the next, or the kernel, will tell
    try:
        files.sync_filesystem(point)
    except OSError:
        pass  # its program died (ENOTCONN); what it had not written is lost
    mounts.unmount(point)


def run(
    argv: list[str],
    *,
    directory: str | None = None,
    text: Iterable[bytes] | None = None,
    output: int | None = None,
) -> None:
    """Run a program, which reads `text` and writes to the file `output`, and wait for its end.

    Raises `OSError` with what it had to say, if it fails. Its messages go to a file, not to a pipe: what a program
    leaves running in the background may keep one open.
    """
    from subprocess import DEVNULL, PIPE

    with open(os.memfd_create("messages"), "w+b", buffering=0) as messages:
        with starting.program(
            argv,
            cwd=directory,
            stdin=DEVNULL if text is None else PIPE,
            stdout=DEVNULL if output is None else output,
            stderr=messages,
        ) as process:
            read_all = True
            try:
                for piece in text or ():
                    read_all = _feed(process, piece)
                    if not read_all:
                        break
            except BaseException:
                process.kill()
                raise
        if process.returncode or not read_all:
            messages.seek(0)
            said = messages.read(_MESSAGES).decode("utf-8", "replace").strip()
            raise OSError(None, f"{argv[0]} failed: {said or f'exit status {process.returncode}'}")


def _feed(process: Popen[bytes], piece: bytes) -> bool:
    """False if the program ended early; it will have said why."""
    assert process.stdin is not None
    try:
        files.write_all(process.stdin.fileno(), piece)
        return True
    except BrokenPipeError:
        return False


# --- traces of a mount program ------------------------------------------------------------------------------

FLAG = ".has-mount-program"
_WORDS = (b"false", b"true")
_TRACES = ("user.fuseoverlayfs.", "user.containers.")
_MOUNT_POINTS = (b"merged", b"mapped", b"composefs-layers")
"""In a layer's directory: what is seen there is no layer's content, and may be anything."""


def is_needed(home: str) -> bool:
    """Whether layers were made by way of a mount program, which writes whiteouts that the kernel does not know.

    The answer is kept in the home. To give it for the first time every layer is looked through.
    """
    known = _known(home)
    if known in _WORDS:
        return known == _WORDS[True]
    found = _has_traces(home)
    keep_needed(home, found)
    return found


def keep_needed(home: str, needed: bool) -> None:
    """Keep the answer. `storage.lock` is held: who was at this before, and has left a file unfinished, is gone."""
    if _known(home) != _WORDS[needed]:
        files.clear_temporaries(home)
        files.write_atomic(f"{home}/{FLAG}", _WORDS[needed], durable=False)


def _known(home: str) -> bytes:
    try:
        return files.read(f"{home}/{FLAG}", limit=64).strip()
    except OSError:
        return b""


def _has_traces(home: str) -> bool:
    from orlop.system.descent import DIRECTORY, GONE, Descent

    with Descent(home) as at:
        levels = [iter(at.entries())]
        while levels:
            for name, kind, _ in levels[-1]:
                if name.startswith(b".wh."):
                    return True
                if kind != DIRECTORY or (at.depth == 1 and name in _MOUNT_POINTS):
                    continue
                try:
                    at.enter(name)
                except OSError as error:
                    if error.errno in GONE or error.errno == errno.EACCES:
                        continue
                    raise
                if any(attribute.startswith(_TRACES) for attribute in _listed(at.fd)):
                    return True
                levels.append(iter(at.entries()))
                break
            else:
                levels.pop()
                if levels:
                    at.leave()
    return False


def _listed(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError:
        return []
