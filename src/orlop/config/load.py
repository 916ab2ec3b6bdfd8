"""Configuration files and environment become `StoreOptions`; no other room reads either.

Rule 1: files do not merge. Exactly one supplies values; others only fill a missing root.
Rule 2: explicit roots, driver or driver options replace the file, they are not added to it.
Rule 3: the environment is the mapping that was handed in; nothing is changed in it, or remembered of it.

The steps and their order are those of `spec/config.md` sections 3 to 5, 7 and 10.
"""

from __future__ import annotations

import os

from orlop.config import paths
from orlop.errors import ConfigError, IncompleteOptions, StorageError, UnsafePath
from orlop.formats.limits import CONFIG_FILE_MAX
from orlop.model.options import StoreOptions
from orlop.system import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orlop.system.userns import Identity

SYSTEM_FILE = "/usr/share/containers/storage.conf"
OVERRIDE_FILE = "/etc/containers/storage.conf"
GRAPH_ROOT = "/var/lib/containers/storage"
RUN_ROOT = "/run/containers/storage"


def _unheard(message: str) -> None:
    """Warnings go nowhere unless somebody listens: the library prints nothing."""


class Configuration:
    """What the files and the environment say. Each file is read at most once, when it is first needed.

    A program that runs for long keeps one, and calls `update` when it is told that files have changed.
    """

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        file: str | os.PathLike[str] | None = None,
        user: Identity | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """`file` is to a program what CONTAINERS_STORAGE_CONF is to a user: the only file that counts, and stronger.

        `environ` and `user` are those of the process if not given; `warn` is told what is odd about a file.
        """
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self.warn = warn or _unheard
        self._file = None if file is None else os.fspath(file)
        self._user = user
        self._loaded: dict[str, StoreOptions] = {}

    @property
    def user(self) -> Identity:
        """Who the store is for."""
        if self._user is None:
            from orlop.system import userns

            self._user = userns.identity(self.environ)
        return self._user

    def update(self) -> None:
        """Forget what was read: whoever asks next gets what the files and the environment say then."""
        self._loaded.clear()

    # --- the steps ----------------------------------------------------------------------------------------

    def system_defaults(self) -> StoreOptions:
        """Section 3: what the machine says to everybody. Paths are as written.

        Raises:
            ConfigError: a file that cannot be used or looked for, or one that was named and is missing.
            LimitExceeded: a file that is too large, or nested too deeply.
        """
        path = self._only_file()
        if path is None:
            path = self._override() or (SYSTEM_FILE if _exists(SYSTEM_FILE) else None)
        found = StoreOptions() if path is None else self.load(path)
        return found.replace(graph_root=found.graph_root or GRAPH_ROOT, run_root=found.run_root or RUN_ROOT)

    def default_file(self) -> str:
        """Section 4: the path of the configuration file that counts, whether it exists or not."""
        only = self._only_file()
        if only is not None:
            return only
        if self.user.per_user:
            from orlop.config import rootless

            return f"{rootless.config_home(self.user, self.environ)}/containers/storage.conf"
        return self._override() or SYSTEM_FILE

    def effective(self) -> StoreOptions:
        """Section 5: the options of this user, paths expanded: what a store is opened with if nothing is asked for.

        Raises:
            ConfigError, LimitExceeded: as `system_defaults`; or an image store that is the graph root.
        """
        path = self.default_file()
        found = self.system_defaults()
        if self.user.per_user:
            from orlop.config import rootless

            found = rootless.options(found, self.user, self.expand, self.environ, self.warn)
        if _exists(path):
            run_root, graph_root = found.run_root, found.graph_root
            try:
                found = self.load(path)
            except StorageError as error:
                # Only a user's own file gets here: for others `system_defaults` has read the same one.
                self.warn(str(error))
                found = StoreOptions()
            found = found.replace(
                run_root=found.run_root or run_root,
                graph_root=found.graph_root or found.rootless_path or graph_root,
            )
        found = found.replace(
            run_root=self.expand(found.run_root),
            graph_root=self.expand(found.graph_root),
            rootless_path=self.expand(found.rootless_path),
        )
        for name, value in (("runroot", found.run_root), ("graphroot", found.graph_root)):
            if not value:  # a path of nothing but a variable that is not set
                raise ConfigError(f"{name} must be set", path=path, key=f"storage.{name}")
        if found.image_store and found.image_store == found.graph_root:
            raise ConfigError(
                f"imagestore {found.image_store} must either be not set or be a different than graphroot",
                path=path,
                key="storage.imagestore",
            )
        return found

    def load(self, path: str) -> StoreOptions:
        """One file, with what the environment changes while it is read (section 8.5). Nothing is filled in.

        Raises:
            ConfigError: cannot be read, or is not a configuration.
            LimitExceeded: more than `CONFIG_FILE_MAX` bytes, or nested too deeply.
        """
        if path not in self._loaded:
            from orlop.config import storageconf

            wanted = self.environ.get("STORAGE_OPTS")
            self._loaded[path] = storageconf.options_of(
                text_of(path),
                path=path,
                driver=self.environ.get("STORAGE_DRIVER", ""),
                driver_options=None if wanted is None else option_list(wanted),
                warn=self.warn,
            )
        return self._loaded[path]

    def complete(self, options: StoreOptions) -> StoreOptions:
        """Section 10: `options` as a store can be opened with them, roots absolute.

        With no root, driver or driver option in them, what they do not say is that of `effective`; otherwise only the
        second root is added, if there is one.

        Raises:
            IncompleteOptions: a driver or driver options, but neither root.
            ConfigError, LimitExceeded: as `effective`.
        """
        if not (options.graph_root or options.run_root or options.driver or options.driver_options):
            options = options.over(self.effective())
        if not (options.graph_root or options.run_root):
            raise IncompleteOptions(
                "wanted a graph root or a run root, or both; found a driver or driver options without either"
            )
        if not options.graph_root or not options.run_root:
            # An ordinary user can do nothing with the root of the system that is missing here.
            defaults = self.effective() if self.user.per_user else self.system_defaults()
            options = options.replace(
                graph_root=options.graph_root or self.expand(defaults.graph_root),
                run_root=options.run_root or self.expand(defaults.run_root),
            )
        elif self._only_file() is not None:
            # Whoever names a file wants to hear that it is broken, even where nothing of it is needed. The files
            # of the system are not read for that: it would cost every small command more than its own work.
            self.system_defaults()
        return options.replace(
            graph_root=paths.absolute(options.graph_root), run_root=paths.absolute(options.run_root)
        )

    def expand(self, path: str) -> str:
        """Section 7: `$UID`, variables, symbolic links. What a variable holds is not expanded again."""
        if "$" in path:
            path = paths.expanded(path.replace("$UID", str(self.user.uid)), self.environ)
        return paths.resolved(path) if path else ""

    # --- which file ---------------------------------------------------------------------------------------

    def _only_file(self) -> str | None:
        """The file beside which no other counts; an empty name is one, too, and cannot be read."""
        return self.environ.get("CONTAINERS_STORAGE_CONF") if self._file is None else self._file

    def _override(self) -> str:
        """The file that replaces the system's, if there is one.

        The peers heed XDG_CONFIG_HOME for root only if something was opened before; here it always counts.
        """
        home = self.environ.get("XDG_CONFIG_HOME")
        if home is not None and _exists(f"{home}/containers/storage.conf"):
            return f"{home}/containers/storage.conf"
        return OVERRIDE_FILE if _exists(OVERRIDE_FILE) else ""


def text_of(path: str) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: not there, not a file, not UTF-8.
        LimitExceeded: more than `CONFIG_FILE_MAX` bytes.
    """
    try:
        # Never waits, however odd the file: a FIFO is refused, and /dev/zero has an end.
        data = files.read(path, limit=CONFIG_FILE_MAX, follow_symlinks=True)
    except UnsafePath as error:
        raise ConfigError(
            f"the configuration file cannot be read: {error}",
            peer=f"read {path}: is a directory" if os.path.isdir(path) else str(error),
            path=path,
        ) from error
    except OSError as error:
        raise _unusable("the configuration file", path, error) from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: wanted UTF-8, found the byte 0x{data[error.start]:02x}",
            path=path,
            line=line,
        ) from error


def option_list(text: str) -> tuple[str, ...]:
    """The parts of STORAGE_OPTS; nothing at all is no part."""
    return tuple(text.split(",")) if text else ()


def _exists(path: str) -> bool:
    """Whether there is such a file. One that cannot be looked at is an error, not a missing one."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable("the place of a configuration file", path, error) from error
    return True


def _unusable(what: str, path: str, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(
        f"{what}, {path}, cannot be read: {reason}",
        peer=f"stat {path}: {reason[:1].lower()}{reason[1:]}",
        path=path,
    )
