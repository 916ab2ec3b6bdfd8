"""Where a user without root rights keeps a store (`spec/config.md` 6). Who such a user is, `system/userns` knows."""

from __future__ import annotations

import os

from orlop.errors import ConfigError
from orlop.model.options import StoreOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orlop.system.userns import Identity

    Environment = Mapping[str, str]

RUN_USER = "/run/user"  # where a login session makes each user's runtime directory
_DRIVERS = ("btrfs", "overlay", "overlay2", "vfs")  # usable without root rights
_OWNER_AND_WRITERS = 0o722  # all of the owner, and who else may write


def options(
    system: StoreOptions,
    user: Identity,
    expand: Callable[[str], str],
    environ: Environment,
    warn: Callable[[str], None],
) -> StoreOptions:
    """What a user without root rights gets from the options of the system.

    Raises:
        ConfigError: no directory can be found for the run root.
    """
    from orlop.config.load import option_list
    from orlop.config.storageconf import alias

    graph_root = expand(system.rootless_path) or f"{_data_home(user, environ)}/containers/storage"
    driver = system.driver if system.driver in _DRIVERS else ""
    driver = alias(environ.get("STORAGE_DRIVER") or driver, warn)
    driver_options: tuple[str, ...] = ()
    if driver == "overlay":
        # Everything else of the system's file may need rights that the user does not have.
        driver_options = tuple(o for o in system.driver_options if "ignore_chown_errors" in o)[:1]
    priority = () if driver else system.driver_priority
    if not driver and not priority:
        driver = _driver_of(graph_root) or ("overlay" if _overlay_is_usable(environ) else "vfs")
    return StoreOptions(
        graph_root,
        _run_root(user, environ),
        driver=driver,
        driver_priority=priority,
        driver_options=(*driver_options, *option_list(environ.get("STORAGE_OPTS", ""))),
        pull_options=system.pull_options,
    )


def config_home(user: Identity, environ: Environment) -> str:
    """Where the user keeps configurations.

    Raises:
        ConfigError: no variable tells, and he has no home.
    """
    return environ.get("XDG_CONFIG_HOME") or os.path.join(_home(user, environ), ".config")


def _data_home(user: Identity, environ: Environment) -> str:
    given = environ.get("XDG_DATA_HOME")
    if given:
        return given
    try:
        return os.path.join(_home(user, environ), ".local/share")
    except ConfigError as error:
        raise ConfigError(
            f"there is no place for storage: XDG_DATA_HOME is not set, and {error}",
            peer="could not get either XDG_DATA_HOME or HOME",
        ) from error


def _home(user: Identity, environ: Environment) -> str:
    found = environ.get("HOME", "")
    if not found:
        import pwd

        try:
            found = pwd.getpwuid(user.uid).pw_dir
        except KeyError:
            found = ""
    if not found:
        raise ConfigError(
            f"HOME is not set, and the password file has no home for user {user.uid}",
            peer="cannot determine user's homedir",
        )
    return found


def _run_root(user: Identity, environ: Environment) -> str:
    run_root = f"{_runtime_dir(user, environ)}/containers"
    try:
        os.makedirs(run_root, 0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the run root {run_root} cannot be made: {error.strerror}",
            peer=f"unable to make rootless runtime: mkdir {run_root}: {os.strerror(error.errno or 0).lower()}",
            path=run_root,
        ) from error
    return run_root


def _runtime_dir(user: Identity, environ: Environment) -> str:
    given = environ.get("XDG_RUNTIME_DIR", "")
    if given:
        try:
            return os.path.realpath(given, strict=True)
        except OSError as error:
            raise ConfigError(
                f"XDG_RUNTIME_DIR names {given}, which cannot be used: {error.strerror}", path=given
            ) from error
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
    raise ConfigError(
        f"no runtime directory is this user's alone: set XDG_RUNTIME_DIR, or look at owner and mode of {tried[-1]}",
        peer=f'path "{tried[-1]}" exists and it is not writeable only by the current user',
        path=tried[-1],
    )


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
