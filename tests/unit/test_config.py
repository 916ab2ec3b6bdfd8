"""Configuration files, environment and defaults (`spec/config.md`), with the environment and the files handed in."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orlop.config import environment, load, rootless, storageconf
from orlop.config.load import Configuration
from orlop.config.settings import Settings
from orlop.errors import ConfigError, IncompleteOptions
from orlop.system import userns
from orlop.system.userns import Identity

ROOT = Identity(0, 0, rootless=False, per_user=False)
USER = Identity(1000, 1000, rootless=True, per_user=True)


class Machine:
    """A directory that stands for the file system of a machine."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.home = base / "home"
        self.system_file = base / "usr/storage.conf"
        self.override_file = base / "etc/storage.conf"
        self.warnings: list[str] = []
        self.environ = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(base / "runtime")}
        for directory in (self.home, base / "usr", base / "etc", base / "runtime"):
            directory.mkdir()

    def configuration(self, user: Identity = ROOT, **environ: str) -> Configuration:
        return Configuration(
            self.environ | environ,
            user=user,
            warn=self.warnings.append,
        )

    def user_file(self, text: str) -> Path:
        path = self.home / ".config/containers/storage.conf"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setattr(load, "SYSTEM_FILE", str(machine.system_file))
    monkeypatch.setattr(load, "OVERRIDE_FILE", str(machine.override_file))
    return machine


def of(text: str, **how: Any) -> Settings:
    """The settings of a file with this text; a warning fails the test unless it is collected."""
    how.setdefault("warn", pytest.fail)
    return storageconf.settings_of(text, path="FILE", **how)


# --- one file -----------------------------------------------------------------------------------------------


def test_every_key_of_a_file_is_read() -> None:
    settings = of(
        """
        [storage]
        driver = "vfs"
        driver_priority = ["overlay", "vfs"]
        runroot = "/r"
        graphroot = "/g"
        imagestore = "/i"
        rootless_storage_path = "$HOME/s"
        transient_store = true
        [storage.options]
        root-auto-userns-user = "storage"
        auto-userns-min-size = 5
        auto-userns-max-size = 4294967295
        disable-volatile = true
        imagestore = "decoded, and of no effect"
        pull_options = {enable_partial_images = "true"}
        [storage.options.thinpool]
        """
    )
    assert settings == Settings(
        graph_root="/g",
        run_root="/r",
        image_store="/i",
        rootless_path="$HOME/s",
        driver="vfs",
        driver_priority=("overlay", "vfs"),
        auto_user="storage",
        auto_min_size=5,
        auto_max_size=4294967295,
        pull_options={"enable_partial_images": "true"},
        disable_volatile=True,
        transient=True,
    )


GENERAL = """
[storage]
driver = "DRIVER"
[storage.options]
additionalimagestores = ["/a", "/b"]
additionallayerstores = ["/c:ref"]
size = "1g"
mount_program = "/p"
skip_mount_home = "true"
ignore_chown_errors = "false"
force_mask = 0o700
mountopt = "nodev"
use_composefs = "only the overlay table counts"
"""
FIRST = [
    ".imagestore=/a",
    ".imagestore=/b",
    ".additionallayerstore=/c:ref",
    ".size=1g",
    ".mount_program=/p",
    ".skip_mount_home=true",
    ".ignore_chown_errors=false",
    ".force_mask=700",
    ".mountopt=nodev",
]
OVERLAY = [
    "overlay.ignore_chown_errors=false",
    "overlay.mount_program=/p",
    "overlay.mountopt=nodev",
    "overlay.size=1g",
    "overlay.skip_mount_home=true",
    "overlay.force_mask=700",  # octal; the peers once print `-rwx------`, which their driver refuses
]


@pytest.mark.parametrize(
    ("driver", "wanted"),
    [
        ("overlay", [f"overlay{option}" for option in FIRST] + OVERLAY),
        ("overlay2", [f"overlay2{option}" for option in FIRST] + OVERLAY),
        ("", FIRST),
        ("vfs", [f"vfs{option}" for option in FIRST] + ["vfs.ignore_chown_errors=false"]),
        ("btrfs", [f"btrfs{option}" for option in FIRST] + ["btrfs.size=1g"]),
        ("zfs", [f"zfs{option}" for option in FIRST] + ["zfs.mountopt=nodev", "zfs.size=1g"]),
        ("aufs", [f"aufs{option}" for option in FIRST] + ["aufs.mountopt=nodev"]),
    ],
)
def test_general_options_become_options_of_the_driver(driver: str, wanted: list[str]) -> None:
    """The first batch bears the name as written, the second that of the driver; a value may come twice."""
    warnings: list[str] = []
    settings = of(GENERAL.replace("DRIVER", driver), warn=warnings.append)
    assert list(settings.driver_options) == wanted
    assert settings.driver == ("overlay" if driver == "overlay2" else driver)
    assert len(warnings) == (0 if driver else 1)


@pytest.mark.parametrize(
    ("driver", "table", "wanted"),
    [
        (
            "overlay",
            'use_composefs="true"\nforce_mask="shared"\nsize="1"\ninodes="2"\nmountopt="m"\nmount_program="p"\n'
            'ignore_chown_errors="1"\nskip_mount_home="0"',
            "ignore_chown_errors=1 mount_program=p mountopt=m size=1 inodes=2 skip_mount_home=0 force_mask=shared "
            "use_composefs=true",
        ),
        ("vfs", 'ignore_chown_errors="true"', "ignore_chown_errors=true"),
        ("btrfs", 'size="1"', "size=1"),
        ("btrfs", 'size="1"\nmin_space="2"', "min_space=2"),
        ("zfs", 'size="1"\nmountopt="m"\nfsname="pool/x"', "fsname=pool/x mountopt=m size=1"),
        ("aufs", 'mountopt="m"', "mountopt=m"),
    ],
)
def test_the_table_of_the_driver_becomes_options_in_a_fixed_order(
    driver: str, table: str, wanted: str
) -> None:
    text = f'[storage]\ndriver="{driver}"\n[storage.options.{driver}]\n{table}\n'
    assert list(of(text).driver_options) == [f"{driver}.{option}" for option in wanted.split()]


def test_only_the_table_of_the_chosen_driver_counts() -> None:
    text = '[storage]\ndriver="vfs"\n[storage.options.overlay]\nmountopt="nodev"\n'
    assert of(text).driver_options == ()


def test_names_of_keys_match_whatever_their_case() -> None:
    assert of('[Storage]\nDRIVER="vfs"\nGraphRoot="/g"\n').graph_root == "/g"


def test_unknown_keys_are_named_in_one_warning() -> None:
    warnings: list[str] = []
    of(
        '[storage]\ndriver="vfs"\nnope=1\n[storage.options]\nremap-uids="x"\n[other]\na=1\n',
        warn=warnings.append,
    )
    assert warnings == [
        'Failed to decode the keys ["other" "storage.nope" "storage.options.remap-uids"] from "FILE"'
    ]


@pytest.mark.parametrize(
    ("text", "where", "wanted"),
    [
        ("[storage]\ndriver = 1\n", "storage.driver", "a string"),
        ("[storage]\ndriver_priority = 'x'\n", "storage.driver_priority", "a list of strings"),
        ("[storage]\ndriver_priority = [1]\n", "storage.driver_priority", "a list of strings"),
        ("[storage]\ntransient_store = 'true'\n", "storage.transient_store", "a boolean"),
        ("storage = 1\n", "storage", "a table"),
        ("[storage]\noptions = []\n", "storage.options", "a table"),
        (
            "[storage.options]\nauto-userns-min-size = -1\n",
            "storage.options.auto-userns-min-size",
            "32-bit",
        ),
        (
            "[storage.options]\nauto-userns-max-size = 4294967296\n",
            "storage.options.auto-userns-max-size",
            "32-bit",
        ),
        ("[storage.options]\nforce_mask = true\n", "storage.options.force_mask", "an integer"),
        (
            "[storage.options]\npull_options = {enable_partial_images = true}\n",
            "storage.options.pull_options",
            "a table of strings",
        ),
        ("[storage.options.overlay]\nsize = 1\n", "storage.options.overlay.size", "a string"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(text: str, where: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(text)
    assert f"FILE: {where}: wanted " in str(caught.value)
    assert wanted in str(caught.value)


def test_what_is_not_toml_is_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"FILE: wanted TOML: .*line 2"):
        of("[storage]\ndriver = \n")


# --- where settings come from -------------------------------------------------------------------------------


def test_without_any_file_there_are_the_built_in_roots(machine: Machine) -> None:
    settings = machine.configuration().effective()
    assert (settings.graph_root, settings.run_root) == (load.GRAPH_ROOT, load.RUN_ROOT)
    assert (settings.driver, settings.driver_options) == ("", ())


def test_without_any_file_the_environment_is_not_looked_at(machine: Machine) -> None:
    settings = machine.configuration(STORAGE_DRIVER="vfs", STORAGE_OPTS="a=b").effective()
    assert (settings.driver, settings.driver_options) == ("", ())


def test_files_do_not_merge(machine: Machine) -> None:
    machine.system_file.write_text('[storage]\ndriver="vfs"\nrunroot="/sys/r"\n')
    machine.override_file.write_text('[storage]\ndriver="overlay"\ngraphroot="/etc/g"\n')
    settings = machine.configuration().effective()
    assert settings == Settings(graph_root="/etc/g", run_root=load.RUN_ROOT, driver="overlay")


def test_the_file_of_the_user_counts_for_root_too(machine: Machine) -> None:
    """With the peers that depends on what was asked first."""
    machine.override_file.write_text('[storage]\ndriver="overlay"\n')
    xdg = machine.base / "xdg/containers/storage.conf"
    xdg.parent.mkdir(parents=True)
    xdg.write_text('[storage]\ndriver="vfs"\n')
    configuration = machine.configuration(XDG_CONFIG_HOME=str(machine.base / "xdg"))
    assert configuration.default_file() == str(xdg)
    assert configuration.effective().driver == configuration.system_defaults().driver == "vfs"


def test_the_named_file_is_the_one_and_only(machine: Machine) -> None:
    machine.override_file.write_text('[storage]\ndriver="overlay"\n')
    only = machine.base / "only.conf"
    only.write_text('[storage]\ndriver="vfs"\nrunroot="/only/r"\n')
    settings = machine.configuration(CONTAINERS_STORAGE_CONF=str(only)).effective()
    assert settings == Settings(graph_root=load.GRAPH_ROOT, run_root="/only/r", driver="vfs")


@pytest.mark.parametrize("named", ["/no/such/file", ""])
def test_a_named_file_that_is_missing_fails_every_open(machine: Machine, named: str) -> None:
    configuration = machine.configuration(CONTAINERS_STORAGE_CONF=named)
    explicit = Settings(graph_root="/g", run_root="/r")
    for attempt in (configuration.effective, lambda: configuration.complete(explicit)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert caught.value.peer == f"stat {named}: no such file or directory"


def test_files_of_the_system_are_not_read_for_explicit_roots(machine: Machine) -> None:
    """Nothing of them would be used, and reading them costs every small command its time."""
    machine.system_file.write_text("broken")
    settings = machine.configuration().complete(Settings(graph_root="/g", run_root="/r"))
    assert (settings.graph_root, settings.run_root) == ("/g", "/r")


def test_a_broken_file_of_the_system_is_an_error(machine: Machine) -> None:
    machine.override_file.write_text("broken")
    with pytest.raises(ConfigError, match=str(machine.override_file)):
        machine.configuration().effective()


def test_a_broken_file_of_the_user_is_told_and_passed_over(machine: Machine) -> None:
    machine.user_file("broken")
    settings = machine.configuration(USER).effective()
    assert settings.graph_root == str(machine.home / ".local/share/containers/storage")
    assert "wanted TOML" in machine.warnings[0]


def test_the_environment_replaces_driver_and_options_of_a_file(machine: Machine) -> None:
    machine.override_file.write_text(
        '[storage]\ndriver="overlay"\n[storage.options.overlay]\nmountopt="nodev"\n'
    )
    for environ, driver, options in (
        ({}, "overlay", ("overlay.mountopt=nodev",)),
        ({"STORAGE_DRIVER": ""}, "overlay", ("overlay.mountopt=nodev",)),
        ({"STORAGE_DRIVER": "vfs"}, "vfs", ()),
        ({"STORAGE_OPTS": "a=b,c=d"}, "overlay", ("a=b", "c=d")),
        ({"STORAGE_OPTS": ""}, "overlay", ()),
    ):
        settings = machine.configuration(**environ).effective()
        assert (settings.driver, settings.driver_options) == (driver, options), environ


def test_paths_are_expanded(machine: Machine) -> None:
    (machine.base / "real").mkdir()
    (machine.base / "link").symlink_to("real")
    configuration = machine.configuration(USER, NAME="x y", B=str(machine.base))
    for path, wanted in (
        ("/a/$UID/b", "/a/1000/b"),
        ("/a/$UIDX", "/a/1000X"),
        ("/a/${UID}", "/a"),
        ("/a/$NAME/${NAME}z/$NOPE", "/a/x y/x yz"),
        ("/a/../b//c/.", "/b/c"),
        ("$B/link", f"{machine.base}/real"),
        ("$B/link/not-there", f"{machine.base}/link/not-there"),
        ("/a$/b", "/a$/b"),
        ("$NOPE", ""),
    ):
        assert configuration.expand(path) == wanted, path


def test_a_root_of_nothing_but_an_unset_variable_is_refused(machine: Machine) -> None:
    machine.override_file.write_text('[storage]\ndriver="vfs"\ngraphroot="$NOPE"\n')
    with pytest.raises(ConfigError, match="graphroot must be set"):
        machine.configuration().effective()


def test_the_image_store_must_be_another_place(machine: Machine) -> None:
    machine.override_file.write_text('[storage]\ndriver="vfs"\ngraphroot="/g/."\nimagestore="/g"\n')
    with pytest.raises(
        ConfigError, match="imagestore /g must either be not set or be a different than graphroot"
    ):
        machine.configuration().effective()


# --- users without root rights ------------------------------------------------------------------------------


def test_a_user_keeps_the_store_at_home(machine: Machine) -> None:
    machine.system_file.write_text(
        '[storage]\ndriver="overlay"\nrunroot="/sys/r"\ngraphroot="/sys/g"\n'
        '[storage.options]\npull_options={use_hard_links="true"}\n'
        '[storage.options.overlay]\nmountopt="nodev"\nignore_chown_errors="true"\n'
    )
    settings = machine.configuration(USER).effective()
    assert settings == Settings(
        graph_root=str(machine.home / ".local/share/containers/storage"),
        run_root=str(machine.base / "runtime/containers"),
        driver="overlay",
        driver_options=("overlay.ignore_chown_errors=true",),
        pull_options={"use_hard_links": "true"},
    )
    assert (machine.base / "runtime/containers").stat().st_mode & 0o777 == 0o700


def test_nothing_of_the_system_survives_a_file_of_the_user(machine: Machine) -> None:
    machine.system_file.write_text('[storage]\ndriver="overlay"\n[storage.options]\npull_options={a="b"}\n')
    machine.user_file('[storage]\ndriver="overlay"\n[storage.options]\nmountopt="x"\n')
    settings = machine.configuration(USER).effective()
    assert settings.driver_options == ("overlay.mountopt=x", "overlay.mountopt=x")
    assert settings.pull_options is None
    assert settings.graph_root == str(machine.home / ".local/share/containers/storage")


@pytest.mark.parametrize("user", [USER, ROOT])
def test_the_path_for_users_stands_in_for_a_graph_root(machine: Machine, user: Identity) -> None:
    """Also for root, whose file it is then."""
    text = '[storage]\ndriver="vfs"\nrootless_storage_path="$HOME/rsp/$UID"\n'
    machine.user_file(text) if user is USER else machine.override_file.write_text(text)
    settings = machine.configuration(user).effective()
    assert settings.graph_root == settings.rootless_path == f"{machine.home}/rsp/{user.uid}"


def test_variables_move_the_roots_of_a_user(machine: Machine) -> None:
    machine.system_file.write_text('[storage]\ndriver="zfs"\n')
    settings = machine.configuration(
        USER, XDG_DATA_HOME="/data", STORAGE_DRIVER="vfs", STORAGE_OPTS="a=b,c=d"
    ).effective()
    assert settings.graph_root == "/data/containers/storage"
    assert settings.driver == "vfs"
    assert settings.driver_options[-2:] == ("a=b", "c=d")


def test_the_driver_of_a_store_that_is_there_is_taken(machine: Machine) -> None:
    (machine.home / ".local/share/containers/storage/vfs-images").mkdir(parents=True)
    assert machine.configuration(USER).effective().driver == "vfs"


@pytest.mark.parametrize("trap", ["open to all", "a link"])
def test_a_runtime_directory_that_others_may_write_to_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    """Whoever makes /tmp/storage-run-1000 first would own the locks of user 1000."""
    monkeypatch.setattr(rootless, "RUN_USER", str(machine.system_file / "no directory"))
    machine.system_file.touch()
    trapped = machine.base / "storage-run-1000"
    if trap == "a link":
        trapped.symlink_to(machine.home)
    else:
        trapped.mkdir()
        trapped.chmod(0o777)
    del machine.environ["XDG_RUNTIME_DIR"]
    with pytest.raises(ConfigError, match="exists and it is not writeable only by the current user"):
        machine.configuration(USER, TMPDIR=str(machine.base)).effective()


def test_without_a_session_a_user_runs_in_a_directory_of_his_own(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rootless, "RUN_USER", str(machine.base / "user"))
    del machine.environ["XDG_RUNTIME_DIR"]
    assert machine.configuration(USER).effective().run_root == f"{machine.base}/user/1000/containers"
    assert (machine.base / "user/1000").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "told", [{}, {"_CONTAINERS_ROOTLESS_UID": "1000"}, {"_CONTAINERS_USERNS_CONFIGURED": "done"}]
)
def test_the_short_way_to_know_root_agrees_with_the_long_one(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str]
) -> None:
    monkeypatch.setattr(userns, "_identity", None)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert environment.is_rootless() is userns.identity(os.environ).rootless


# --- opening ------------------------------------------------------------------------------------------------


def test_explicit_settings_replace_the_file(machine: Machine) -> None:
    machine.override_file.write_text('[storage]\ndriver="overlay"\nrunroot="/r"\ngraphroot="/g"\n')
    configuration = machine.configuration(STORAGE_DRIVER="zfs")
    for given_settings, wanted in (
        (Settings(), Settings(graph_root="/g", run_root="/r", driver="zfs")),
        (Settings(graph_root="/x"), Settings(graph_root="/x", run_root="/r")),
        (Settings(run_root="/x", driver="vfs"), Settings(graph_root="/g", run_root="/x", driver="vfs")),
        (Settings(graph_root="/x/../y", run_root="/z"), Settings(graph_root="/y", run_root="/z")),
    ):
        assert configuration.complete(given_settings) == wanted


@pytest.mark.parametrize("given_settings", [Settings(driver="vfs"), Settings(driver_options=("a=b",))])
def test_a_driver_without_roots_is_not_enough(machine: Machine, given_settings: Settings) -> None:
    with pytest.raises(IncompleteOptions):
        machine.configuration().complete(given_settings)


def test_relative_roots_are_made_absolute(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.base)
    settings = machine.configuration().complete(Settings(graph_root="g", run_root="./r"))
    assert (settings.graph_root, settings.run_root) == (f"{machine.base}/g", f"{machine.base}/r")


def test_a_file_is_read_once(machine: Machine) -> None:
    machine.override_file.write_text('[storage]\ngraphroot="/g"\n')
    machine.configuration().effective()
    assert len(machine.warnings) == 1  # no driver: said once, though two steps ask for the file


# --- as JSON ------------------------------------------------------------------------------------------------


def test_settings_as_json_have_an_order_and_leave_out_what_is_empty() -> None:
    assert Settings().json() == '{"RootlessStoragePath":"","PullOptions":null}'
    whole = Settings(
        graph_root="/g",
        run_root="/r",
        image_store="/i",
        rootless_path="/p",
        driver="vfs",
        driver_priority=("a", "b"),
        driver_options=("a=<b>",),
        auto_user="u",
        auto_min_size=1,
        auto_max_size=2,
        pull_options={"z": "1", "a": "2"},
        disable_volatile=True,
        transient=True,
    )
    assert whole.json() == (
        '{"runroot":"/r","root":"/g","imagestore":"/i","RootlessStoragePath":"/p","driver":"vfs",'
        '"driver-priority":["a","b"],"driver-options":["a=\\u003cb\\u003e"],"root_auto_ns_user":"u",'
        '"auto_userns_min_size":1,"auto_userns_max_size":2,"PullOptions":{"a":"2","z":"1"},'
        '"disable-volatile":true,"transient_store":true}'
    )
    assert json.loads(whole.json())


def test_settings_are_frozen_values() -> None:
    settings = Settings(driver="vfs")
    with pytest.raises(AttributeError):
        settings.driver = "overlay"
    assert settings.replace(driver="overlay") == Settings(driver="overlay")
    assert settings.driver == "vfs"
