"""User namespaces: whether we work for an ordinary user, a program in a namespace of its own, one made for its maps.

(`spec/config.md` 2, `spec/userns.md` 5.) The environment comes as an argument: `config` alone reads it.
"""

from __future__ import annotations

import errno
import os

from orlop.model.value import Value
from orlop.system import libc, probe, starting, subids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from orlop.model.idmap import IDMappings
    from orlop.system.confine import Link
    from orlop.system.subids import Kind, Range

CONFIGURED = "_CONTAINERS_USERNS_CONFIGURED"
ROOTLESS_UID = "_CONTAINERS_ROOTLESS_UID"
ROOTLESS_GID = "_CONTAINERS_ROOTLESS_GID"

_SI_KERNEL = 128


# --- who we are ---------------------------------------------------------------------------------------------


class Identity(Value):
    """Who this process works for. `uid` and `gid` are the user's outside of the namespace that we may be in.

    `rootless`: without the powers of the machine's root. `per_user`: the store is the user's own, in his home; root
    in a container is rootless, but has the system's paths.
    """

    __slots__ = ("gid", "per_user", "rootless", "uid")
    __match_args__ = ("uid", "gid", "rootless", "per_user")

    uid: int
    gid: int
    rootless: bool
    per_user: bool

    def __init__(self, uid: int, gid: int, rootless: bool, per_user: bool) -> None:
        self._fill(uid, gid, rootless, per_user)


_identity: Identity | None = None


def identity(environ: Mapping[str, str]) -> Identity:
    """Who we are; found out by the first call, and the same for the life of the process."""
    global _identity
    if _identity is None:
        _identity = decide(
            environ,
            ids=(os.getuid(), os.getgid()),
            effective_uid=os.geteuid(),
            sys_admin=probe.has_capability(probe.CAP_SYS_ADMIN),
            initial_namespace=probe.in_initial_user_namespace(),
        )
    return _identity


def decide(
    environ: Mapping[str, str],
    *,
    ids: tuple[int, int],
    effective_uid: int,
    sys_admin: bool | None,
    initial_namespace: bool,
) -> Identity:
    """The rules by which `identity` decides. `ids` are the real ones, `sys_admin` is None if that is unknown."""
    uid = _number_or(environ.get(ROOTLESS_UID, ""), ids[0])
    gid = _number_or(environ.get(ROOTLESS_GID, ""), ids[1])
    rootless = (
        _number_or(environ.get(ROOTLESS_UID, ""), effective_uid) != 0
        or bool(environ.get(CONFIGURED))
        or sys_admin is False
        or not initial_namespace
    )
    return Identity(uid, gid, rootless, rootless and uid != 0)


def _number_or(text: str, default: int) -> int:
    """The number that a variable holds: 0 if it holds something else, `default` if nothing."""
    if not text:
        return default
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0


# --- entering a namespace -----------------------------------------------------------------------------------


def enter_namespace(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    uids: Sequence[Range] | None = None,
    gids: Sequence[Range] | None = None,
    warn: Callable[[str], object] = str,
) -> int:
    """Run a program in a new user and mount namespace; its exit status, or minus the signal that killed it.

    Inside, id 0 is the caller and the ids from 1 on are the subordinate ones: `uids` and `gids`, or what is set
    aside for the user. An ordinary user's maps are written by `newuidmap` and `newgidmap`; if that fails `warn` is
    told, and 0 is the only id. For the rest see `run_program`. Raises `OSError` without a file name if the namespace
    cannot be made.
    """
    user = _user_name()
    if uids is None:
        uids = _set_aside(user, "uid", warn)
    if gids is None:
        gids = _set_aside(user, "gid", warn)
    ids = (os.geteuid(), os.getegid())
    environment = dict(environ) | {CONFIGURED: "done"}
    if ids[0] != 0:
        environment |= {ROOTLESS_UID: str(ids[0]), ROOTLESS_GID: str(ids[1])}
        environment.setdefault("BUILDAH_ISOLATION", "rootless")

    def write_maps(pid: int) -> None:
        _write_map(pid, "uid", ids[0], uids, environment, warn)
        _write_map(pid, "gid", ids[1], gids, environment, warn)

    return _run_to_its_end(argv, environment, libc.CLONE_NEWUSER | libc.CLONE_NEWNS, write_maps)


def run_program(argv: Sequence[str], *, environ: Mapping[str, str]) -> int:
    """Run a program with our streams; its exit status, or minus the signal that killed it.

    It dies with us, and is sent the HUP, INT and TERM that we get. Raises `OSError`, whose file name is the first
    word, if it cannot be run.
    """
    return _run_to_its_end(argv, environ, 0, lambda pid: None)


def _run_to_its_end(
    argv: Sequence[str], environ: Mapping[str, str], namespaces: int, prepare: Callable[[int], None]
) -> int:
    """`prepare` is told the child's process id when it is in its `namespaces` and waits for its maps."""
    import signal

    forwarded = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*forwarded, signal.SIGCHLD))
    try:
        child = _Child(argv, environ, before, namespaces)
        try:
            child.expect_namespace()
            prepare(child.pid)
            child.run()
        except BaseException:
            child.kill()
            raise
        while True:
            # By the second, because another thread may have been given the signal.
            got = signal.sigtimedwait((*forwarded, signal.SIGCHLD), 1)
            status = child.status()
            if status is not None:
                return status
            typed = got and got.si_signo == signal.SIGINT and got.si_code == _SI_KERNEL
            if got and got.si_signo in forwarded and not typed:  # what is typed goes to the program as well
                os.kill(child.pid, got.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _user_name() -> str:
    """As the system knows him. USER may name somebody else, after `su` or `setpriv`; the peers ignore it, too."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _set_aside(user: str, kind: Kind, warn: Callable[[str], object]) -> tuple[Range, ...]:
    try:
        found = subids.subordinate_ids(user, kind)
    except FileNotFoundError:
        found = ()
    if not found:
        warn(f'Found no {kind.upper()} ranges set aside for user "{user}" in {subids.FILES[kind]}.')
    return found


class _Child:
    """The process that makes the namespace, waits for its maps, and becomes the program."""

    def __init__(
        self, argv: Sequence[str], environ: Mapping[str, str], mask: Iterable[int], namespaces: int
    ) -> None:
        self._program = argv[0]
        # All that imports something comes before the fork: threads of ours may hold the locks that importing needs.
        libc.load()
        places = [""] if "/" in argv[0] else environ.get("PATH", os.defpath).split(":")
        programs = [os.path.join(place, argv[0]) for place in places]
        parent = os.getpid()
        ends: list[int] = []
        try:
            ends += os.pipe()
            ends += os.pipe()
            self._news, say, hear, self._orders = ends
            self.pid = starting.fork(f"a process for {argv[0]}")
        except OSError:
            for fd in ends:
                os.close(fd)
            raise
        if not self.pid:
            try:
                os.close(self._orders)
                self._become(programs, list(argv), dict(environ), mask, namespaces, parent, hear, say)
            except BaseException as error:
                os.write(say, b"%d" % (getattr(error, "errno", None) or errno.EPROTO))
            finally:
                os._exit(127)
        os.close(say)
        os.close(hear)

    def _become(
        self,
        programs: list[str],
        argv: list[str],
        environ: dict[str, str],
        mask: Iterable[int],
        namespaces: int,
        parent: int,
        hear: int,
        say: int,
    ) -> None:
        import signal

        if namespaces:
            libc.unshare(namespaces)
        os.write(say, b"+")
        if not os.read(hear, 1):
            return
        libc.die_with_parent(parent)  # now, because the kernel forgets it when capabilities change
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, which the program would inherit
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        failure = OSError(errno.ENOENT, "")
        for program in programs:
            try:
                os.execve(program, argv, environ)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError as error:  # as a shell does: look on, but say this if there is no other
                failure = error
        raise failure

    def expect_namespace(self) -> None:
        news = os.read(self._news, 16)
        if news != b"+":
            number = int(news or b"0")
            raise OSError(number, f"making a user namespace failed: {os.strerror(number)}")

    def run(self) -> None:
        os.write(self._orders, b"+")
        number = os.read(self._news, 16)  # closed by a successful exec
        if number:
            raise OSError(int(number), os.strerror(int(number)), self._program)
        self._close()

    def status(self) -> int | None:
        """If it ended: its exit status, or minus a signal."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def kill(self) -> None:
        self._close()
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)

    def _close(self) -> None:
        for fd in (self._news, self._orders):
            os.close(fd)


def _write_map(
    pid: int,
    kind: Kind,
    own: int,
    ranges: Sequence[Range],
    environ: Mapping[str, str],
    warn: Callable[[str], object],
) -> None:
    entries = [(0, own, 1)]
    first = 1
    for start, count in ranges:
        if count:
            entries.append((first, start, count))
            first += count
    lines = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in entries)
    if os.geteuid() == 0:
        _write(f"/proc/{pid}/{kind}_map", lines)
        return
    problem = "no ranges"
    if ranges:
        words = [str(number) for entry in entries for number in entry]
        problem = _run([f"new{kind}map", str(pid), *words], environ)
        if not problem:
            return
        warn(f"{problem}; using a single {kind.upper()}")
    if kind == "gid":  # whoever could drop groups could get at files that are forbidden to a group
        _write(f"/proc/{pid}/setgroups", "deny")
    _write(f"/proc/{pid}/{kind}_map", f"0 {own} 1\n")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())  # the kernel takes a map in one piece only
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
    finally:
        os.close(fd)


def _run(argv: list[str], environ: Mapping[str, str]) -> str:
    """Run a small program to its end; what it had to say if it failed, else nothing."""
    said, say = os.pipe()
    try:
        try:
            actions = [(os.POSIX_SPAWN_DUP2, say, 1), (os.POSIX_SPAWN_DUP2, say, 2)]
            pid = os.posix_spawnp(argv[0], argv, environ, file_actions=actions, setsigmask=())
        except OSError as error:
            return f"cannot run {argv[0]}: {error.strerror}"
        finally:
            os.close(say)
        words = b""
        while block := os.read(said, 4096):
            words += block
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return ""
        return f"{argv[0]} failed ({status}): {os.fsdecode(words).strip()}"
    finally:
        os.close(said)


# --- a namespace for its maps -------------------------------------------------------------------------------


class Namespace:
    """A user namespace that nobody lives in: there for its maps, while `fd` is open."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.fd)


def namespace_for(mappings: IDMappings) -> Namespace:
    """A user namespace with these maps, for `newmount.idmapped`. To be closed, which leaving a block does.

    Neither list may be empty: ids that nothing is said about would belong to nobody. Making one takes a process,
    for a moment; several mounts may share it.
    """
    if not (mappings.uids and mappings.gids):
        raise ValueError("a user namespace needs maps for users and for groups")
    from orlop.system import confine

    with confine.start("orlop.system.userns:_make_namespace", (os.getpid(),)) as worker:
        worker.notes(wait=True)
        for kind, maps in (("uid", mappings.uids), ("gid", mappings.gids)):
            lines = "".join(f"{entry.container_id} {entry.host_id} {entry.size}\n" for entry in maps)
            _write(f"/proc/{worker.pid}/{kind}_map", lines)
        return Namespace(os.open(f"/proc/{worker.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC))


def _make_namespace(link: Link, parent: int) -> None:
    """In a worker: be in a user namespace until the parent has a handle of it."""
    libc.unshare(libc.CLONE_NEWUSER)
    libc.die_with_parent(parent)  # again, because the kernel forgets it when capabilities change
    link.note(b"")
    link.receive()
