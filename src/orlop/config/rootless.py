"""Where a user without root rights keeps a store (`spec/config.md` 6). Who such a user is, `system/userns` knows."""

from __future__ import annotations

import os

from orlop.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orlop.config.settings import Settings
    from orlop.system.userns import Identity

    Environment = Mapping[str, str]

RUN_USER = "/run/user"  # where a login session makes each user's runtime directory
_DRIVERS = ("btrfs", "overlay", "overlay2", "vfs")  # usable without root rights
_OWNER_AND_WRITERS = 0o722  # all of the owner, and who else may write


def home(user: Identity, environ: Environment) -> str:
    """The user's home directory.

    Raises:
        ConfigError: neither HOME nor the password file knows one.
    """
    found = environ.get("HOME", "")
    if not found:
        import pwd

        try:
            found = pwd.getpwuid(user.uid).pw_dir
        except KeyError:
            found = ""
    if not found:
        raise ConfigError(
            "cannot determine user's homedir: HOME is not set and the password file has no entry"
        )
    return found


def settings(
    system: Settings, user: Identity, expand: Callable[[str], str], environ: Environment
) -> Settings:
    """What a user without root rights gets from the settings of the system.

    Raises:
        ConfigError: no directory can be found for the run root.
    """
    data_home = environ.get("XDG_DATA_HOME") or os.path.join(home(user, environ), ".local/share")
    graph_root = expand(system.rootless_path) if system.rootless_path else f"{data_home}/containers/storage"
    driver = system.driver if system.driver in _DRIVERS else ""
    driver = environ.get("STORAGE_DRIVER") or driver
    driver = "overlay" if driver == "overlay2" else driver
    driver_options: tuple[str, ...] = ()
    if driver == "overlay":
        # Everything else of the system's file may need rights that the user does not have.
        driver_options = tuple(o for o in system.driver_options if "ignore_chown_errors" in o)[:1]
    priority = () if driver else system.driver_priority
    if not driver and not priority:
        driver = _driver_of(graph_root) or ("overlay" if _overlay_is_usable(environ) else "vfs")
    driver_options += tuple(filter(None, environ.get("STORAGE_OPTS", "").split(",")))
    return type(system)(
        graph_root=graph_root,
        run_root=_run_root(user, environ),
        driver=driver,
        driver_priority=priority,
        driver_options=driver_options,
        pull_options=system.pull_options,
    )


def _run_root(user: Identity, environ: Environment) -> str:
    run_root = f"{_runtime_dir(user, environ)}/containers"
    try:
        os.makedirs(run_root, 0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"unable to make rootless runtime: {run_root}: {error.strerror}") from error
    return run_root


def _runtime_dir(user: Identity, environ: Environment) -> str:
    given = environ.get("XDG_RUNTIME_DIR", "")
    if given:
        try:
            return os.path.realpath(given, strict=True)
        except OSError as error:
            raise ConfigError(f"XDG_RUNTIME_DIR names {given}: {error.strerror}") from error
    tried = (f"{RUN_USER}/{user.uid}", f"{environ.get('TMPDIR') or '/tmp'}/storage-run-{user.uid}")
    for path in tried:
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            found = os.lstat(path)
        except OSError:
            continue
        # Anybody may have made this directory in /tmp first: only one that is ours alone will do.
        if found.st_uid == os.geteuid() and found.st_mode & _OWNER_AND_WRITERS == 0o700:
            return path
    raise ConfigError(f'path "{tried[-1]}" exists and it is not writeable only by the current user')


def _driver_of(graph_root: str) -> str:
    """The driver that made the store there: `overlay-images` names overlay."""
    try:
        entries = sorted(os.listdir(graph_root))
    except OSError:
        return ""
    return next((name.removesuffix("-images") for name in entries if name.endswith("-images")), "")


def _overlay_is_usable(environ: Environment) -> bool:
    for directory in environ.get("PATH", "").split(":"):
        if directory and os.access(os.path.join(directory, "fuse-overlayfs"), os.X_OK):
            return True
    major, _, rest = os.uname().release.partition(".")
    minor = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return (int(major), int(minor or 0)) >= (5, 13)  # the first that lets users mount it
