"""Configuration files and environment become `Settings`; no other room reads either.

Rule 1: files do not merge. Exactly one supplies values; others only fill a missing root.
Rule 2: explicit roots, driver or driver options replace the file, they are not added to it.
Rule 3: what the environment says is read from the mapping that was handed in, once.

The steps and their order are those of `spec/config.md` sections 3 to 5, 7 and 10.
"""

from __future__ import annotations

import os

from orlop.config.settings import Settings
from orlop.errors import ConfigError, IncompleteOptions, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orlop.system.userns import Identity

SYSTEM_FILE = "/usr/share/containers/storage.conf"
OVERRIDE_FILE = "/etc/containers/storage.conf"
GRAPH_ROOT = "/var/lib/containers/storage"
RUN_ROOT = "/run/containers/storage"

_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


def _unheard(message: str) -> None:
    """Warnings go nowhere unless somebody listens: the library prints nothing."""


def for_opening(
    graph_root: str,
    run_root: str,
    driver: str,
    driver_options: Iterable[str],
    *,
    warn: Callable[[str], None] = _unheard,
) -> Settings:
    """What a store is opened with when a program says this much; empty is what it does not say.

    Raises:
        IncompleteOptions, ConfigError, OSError: as `Configuration.complete`.
    """
    return Configuration(warn=warn).complete(
        Settings(
            graph_root=graph_root, run_root=run_root, driver=driver, driver_options=tuple(driver_options)
        )
    )


class Configuration:
    """What the files and the environment say. Each file is read at most once, when it is first needed."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        user: Identity | None = None,
        warn: Callable[[str], None] = _unheard,
    ) -> None:
        """`environ` and `user` are those of the process if not given; `warn` is told what is odd about a file."""
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self._user = user
        self.warn = warn
        self._loaded: dict[str, Settings] = {}

    @property
    def user(self) -> Identity:
        """Who the store is for."""
        if self._user is None:
            from orlop.system import userns

            self._user = userns.identity(self.environ)
        return self._user

    def system_defaults(self) -> Settings:
        """Section 3: what a store is opened with if nothing is asked for. Paths are as written.

        Raises:
            ConfigError: a file that cannot be used, or that CONTAINERS_STORAGE_CONF names in vain.
            OSError: a place where files are looked for cannot be looked at.
        """
        only = self.environ.get("CONTAINERS_STORAGE_CONF")
        if only is not None:
            return _filled(self.load(only))
        override = self._override()
        if override:
            return _filled(self.load(override))
        return _filled(self.load(SYSTEM_FILE) if _exists(SYSTEM_FILE) else Settings())

    def default_file(self) -> str:
        """Section 4: the path of the configuration file that counts, whether it exists or not."""
        only = self.environ.get("CONTAINERS_STORAGE_CONF")
        if only is not None:
            return only
        if self.user.per_user:
            from orlop.config import rootless

            home = self.environ.get("XDG_CONFIG_HOME") or os.path.join(
                rootless.home(self.user, self.environ), ".config"
            )
            return f"{home}/containers/storage.conf"
        return self._override() or SYSTEM_FILE

    def effective(self) -> Settings:
        """Section 5: the settings of this user, paths expanded.

        Raises:
            ConfigError, OSError: as `system_defaults`; or an image store that is the graph root.
        """
        path = self.default_file()
        settings = self.system_defaults()
        if self.user.per_user:
            from orlop.config import rootless

            settings = rootless.settings(settings, self.user, self.expand, self.environ)
        if _exists(path):
            run_root, graph_root = settings.run_root, settings.graph_root
            try:
                settings = self.load(path)
            except StorageError as error:
                self.warn(str(error))
                settings = Settings()
            settings = settings.replace(
                run_root=settings.run_root or run_root,
                graph_root=settings.graph_root or settings.rootless_path or graph_root,
            )
        settings = settings.replace(
            run_root=self.expand(settings.run_root),
            graph_root=self.expand(settings.graph_root),
            rootless_path=self.expand(settings.rootless_path) if settings.rootless_path else "",
        )
        for name, value in (("runroot", settings.run_root), ("graphroot", settings.graph_root)):
            if not value:  # a path of nothing but a variable that is not set
                raise ConfigError(f"{name} must be set")
        if settings.image_store and settings.image_store == settings.graph_root:
            raise ConfigError(
                f"imagestore {settings.image_store} must either be not set or be a different than graphroot"
            )
        return settings

    def load(self, path: str) -> Settings:
        """One file, with what the environment changes while it is read (section 8.5). Nothing is filled in.

        Raises:
            ConfigError: cannot be read, or is not a configuration.
        """
        if path not in self._loaded:
            from orlop.config import storageconf

            wanted = self.environ.get("STORAGE_OPTS")
            self._loaded[path] = storageconf.settings_of(
                _text(path),
                path=path,
                driver=self.environ.get("STORAGE_DRIVER", ""),
                driver_options=None if wanted is None else _parts(wanted),
                warn=self.warn,
            )
        return self._loaded[path]

    def complete(self, settings: Settings) -> Settings:
        """Section 10: `settings` as a store can be opened with them, roots absolute.

        Raises:
            IncompleteOptions: a driver or driver options, but neither root.
            ConfigError, OSError: as `system_defaults`.
        """
        if not (settings.graph_root or settings.run_root or settings.driver or settings.driver_options):
            settings = self.system_defaults()
        if not (settings.graph_root or settings.run_root):
            raise IncompleteOptions(
                "wanted a graph root and a run root; found a driver or driver options without either"
            )
        if not settings.graph_root or not settings.run_root:
            defaults = self.system_defaults()
            settings = settings.replace(
                graph_root=settings.graph_root or defaults.graph_root,
                run_root=settings.run_root or defaults.run_root,
            )
        elif "CONTAINERS_STORAGE_CONF" in self.environ:
            # Whoever names a file wants to hear that it is broken, even where nothing of it is needed. The files
            # of the system are not read for that: it would cost every small command more than its own work.
            self.system_defaults()
        return settings.replace(
            graph_root=os.path.abspath(settings.graph_root), run_root=os.path.abspath(settings.run_root)
        )

    def expand(self, path: str) -> str:
        """Section 7: `$UID`, variables, symbolic links."""
        path = path.replace("$UID", str(self.user.uid))
        if "$" in path:
            path = _expanded(path, self.environ)
        if not path:
            return ""
        return os.path.realpath(path) if os.path.lexists(path) else os.path.normpath(path)

    def _override(self) -> str:
        """The file that replaces the system's, if there is one.

        The peers heed XDG_CONFIG_HOME for root only if something was opened before; here it always counts.
        """
        home = self.environ.get("XDG_CONFIG_HOME")
        if home is not None and _exists(f"{home}/containers/storage.conf"):
            return f"{home}/containers/storage.conf"
        return OVERRIDE_FILE if _exists(OVERRIDE_FILE) else ""


def _filled(options: Settings) -> Settings:
    return options.replace(graph_root=options.graph_root or GRAPH_ROOT, run_root=options.run_root or RUN_ROOT)


def _exists(path: str) -> bool:
    """Like `os.path.exists`, but a file that cannot be looked at is an error, not a missing one."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: wanted UTF-8: {error}", path=path) from error
    except OSError as error:
        reason = error.strerror or ""
        raise ConfigError(
            f"the configuration file {path} cannot be read: {reason}",
            peer=f"stat {path}: {reason[:1].lower()}{reason[1:]}",
            path=path,
        ) from error


def _parts(text: str) -> tuple[str, ...]:
    """The parts of a comma list; nothing at all is no part."""
    return tuple(text.split(",")) if text else ()


def _expanded(path: str, environ: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}`, unset ones empty. `os.path.expandvars` leaves those, and imports `re`."""
    done = []
    head, *rest = path.split("$")
    for part in rest:
        if part[:1] == "{" and "}" in part:
            name, _, tail = part[1:].partition("}")
        else:
            tail = part.lstrip(_NAME)
            name = part[: len(part) - len(tail)]
            if not name:
                done.append("$" + part)
                continue
        done.append(environ.get(name, "") + tail)
    return head + "".join(done)
