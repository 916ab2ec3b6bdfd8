"""Where users without root rights keep a store (`spec/config.md` 2 and 6)."""

import os
import pwd

import pytest

from configured import CONTAINED, ROOT, USER, Machine, machine
from orlop.config import environment, load, rootless
from orlop.errors import ConfigError
from orlop.model.options import StoreOptions
from orlop.system import userns
from orlop.system.userns import Identity

__all__ = ["machine"]


def test_a_user_keeps_the_store_at_home(machine: Machine) -> None:
    machine.system_file.write_text(
        '[storage]\ndriver="overlay"\nrunroot="/sys/r"\ngraphroot="/sys/g"\n'
        '[storage.options]\npull_options={use_hard_links="true"}\n'
        '[storage.options.overlay]\nmountopt="nodev"\nignore_chown_errors="true"\n'
    )
    settings = machine.configuration(USER).effective()
    assert settings == StoreOptions(
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
    with pytest.raises(ConfigError, match="set XDG_RUNTIME_DIR") as caught:
        machine.configuration(USER, TMPDIR=str(machine.base)).effective()
    assert caught.value.peer == f'path "{trapped}" exists and it is not writeable only by the current user'


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


# Section 6 line by line. `home`, `runtime` and `base` are those of the machine.


def test_root_in_a_container_has_the_paths_of_root(machine: Machine) -> None:
    """Rootless, but not a user with a home: sections 2 and 3."""
    machine.user_file('[storage]\ndriver="zfs"\n')
    assert machine.configuration(CONTAINED).effective() == StoreOptions(load.GRAPH_ROOT, load.RUN_ROOT)


@pytest.mark.parametrize(
    ("driver", "environ", "wanted"),
    [
        ("btrfs", {}, "btrfs"),
        ("overlay", {}, "overlay"),
        ("overlay2", {}, "overlay"),
        ("vfs", {}, "vfs"),
        ("zfs", {}, "overlay"),  # which no user can use, so that it is as if nothing was said
        ("aufs", {}, "overlay"),
        ("", {}, "overlay"),
        ("vfs", {"STORAGE_DRIVER": "overlay2"}, "overlay"),
        ("vfs", {"STORAGE_DRIVER": "zfs"}, "zfs"),  # asked for by himself
        ("vfs", {"STORAGE_DRIVER": ""}, "vfs"),
    ],
)
def test_a_users_driver_is_his_own_choice_or_one_of_the_systems_that_he_can_use(
    machine: Machine, driver: str, environ: dict[str, str], wanted: str
) -> None:
    machine.system_file.write_text(f'[storage]\ndriver="{driver}"\n')
    assert machine.configuration(USER, **environ).effective().driver == wanted


def test_of_the_systems_options_a_user_gets_the_first_about_owners(machine: Machine) -> None:
    machine.system_file.write_text(
        '[storage]\ndriver="overlay"\nimagestore="/i"\ntransient_store=true\n[storage.options]\n'
        'mountopt="nodev"\nignore_chown_errors="true"\ndisable-volatile=true\nauto-userns-min-size=7\n'
    )
    found = machine.configuration(USER).effective()
    assert found.driver_options == ("overlay.ignore_chown_errors=true",)
    assert found == StoreOptions(
        found.graph_root, found.run_root, driver="overlay", driver_options=found.driver_options
    )
    with_more = machine.configuration(USER, STORAGE_OPTS="a=b,c=d").effective()
    # While the system's file is read they replace its options; then they are added.
    assert with_more.driver_options == ("a=b", "c=d")


def test_without_a_driver_the_systems_list_is_taken_over(machine: Machine) -> None:
    machine.system_file.write_text('[storage]\ndriver_priority=["btrfs","vfs"]\n')
    (machine.home / ".local/share/containers/storage/vfs-images").mkdir(parents=True)
    found = machine.configuration(USER).effective()
    assert (found.driver, found.driver_priority) == ("", ("btrfs", "vfs"))
    chosen = machine.configuration(USER, STORAGE_DRIVER="vfs").effective()
    assert (chosen.driver, chosen.driver_priority) == ("vfs", ())


def test_of_several_stores_that_are_there_the_first_by_name_counts(machine: Machine) -> None:
    for name in ("vfs-images", "btrfs-images", "aufs-layers"):
        (machine.home / ".local/share/containers/storage" / name).mkdir(parents=True)
    assert machine.configuration(USER).effective().driver == "btrfs"


@pytest.mark.parametrize(
    ("release", "helper", "wanted"),
    [
        ("5.13.0-1-amd64", False, "overlay"),
        ("6.1", False, "overlay"),
        ("10.0.0", False, "overlay"),
        ("5.12.19", False, "vfs"),
        ("4.18.0-553.el8", False, "vfs"),
        ("4.18.0-553.el8", True, "overlay"),
    ],
)
def test_a_new_store_is_overlay_where_the_kernel_or_a_program_lets_users_mount_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, release: str, helper: bool, wanted: str
) -> None:
    kernel = os.uname_result(("Linux", "host", release, "", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: kernel)
    if helper:
        machine.write("bin/fuse-overlayfs", "#!/bin/sh\n").chmod(0o755)
    machine.write("other/fuse-overlayfs", "not to be run")
    found = machine.configuration(USER, PATH=f"{machine.base}/other::{machine.base}/bin").effective()
    assert found.driver == wanted


@pytest.mark.parametrize("link", [False, True])
def test_the_runtime_directory_of_the_session_is_used_by_its_real_name(machine: Machine, link: bool) -> None:
    if link:
        (machine.base / "link").symlink_to("runtime")
        machine.environ["XDG_RUNTIME_DIR"] = str(machine.base / "link")
    assert machine.configuration(USER).effective().run_root == f"{machine.base}/runtime/containers"


def test_a_runtime_directory_that_is_not_there_is_an_error(machine: Machine) -> None:
    """Another place might be one that does not end with the session."""
    (machine.base / "runtime").rmdir()
    with pytest.raises(ConfigError, match=f"XDG_RUNTIME_DIR names {machine.base}/runtime"):
        machine.configuration(USER).effective()


def test_a_run_root_that_cannot_be_made_is_told(machine: Machine) -> None:
    machine.write("runtime/containers", "")
    with pytest.raises(ConfigError, match="cannot be made: File exists") as caught:
        machine.configuration(USER).effective()
    place = f"{machine.base}/runtime/containers"
    assert caught.value.peer == f"unable to make rootless runtime: mkdir {place}: file exists"


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o755, 0o744])
def test_a_directory_below_run_may_be_read_by_others(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    (machine.base / "user").mkdir()
    (machine.base / "user/1000").mkdir(mode)
    monkeypatch.setattr(rootless, "RUN_USER", str(machine.base / "user"))
    del machine.environ["XDG_RUNTIME_DIR"]
    assert machine.configuration(USER).effective().run_root == f"{machine.base}/user/1000/containers"


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o500])
def test_a_directory_below_run_that_will_not_do_is_passed_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    (machine.base / "user/1000").mkdir(parents=True)
    (machine.base / "user/1000").chmod(mode)
    monkeypatch.setattr(rootless, "RUN_USER", str(machine.base / "user"))
    del machine.environ["XDG_RUNTIME_DIR"]
    found = machine.configuration(USER, TMPDIR=str(machine.base)).effective()
    assert found.run_root == f"{machine.base}/storage-run-1000/containers"
    assert (machine.base / "storage-run-1000").stat().st_mode & 0o777 == 0o700


def test_without_a_home_the_password_file_is_asked(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = pwd.struct_passwd(("user", "x", 1000, 1000, "", "/home/user", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {1000: entry}[uid])
    del machine.environ["HOME"]
    configuration = machine.configuration(USER)
    assert configuration.default_file() == "/home/user/.config/containers/storage.conf"
    assert configuration.effective().graph_root == "/home/user/.local/share/containers/storage"


def test_a_user_without_any_home_is_told_which_variable_helps(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    del machine.environ["HOME"]
    with pytest.raises(ConfigError) as caught:
        machine.configuration(USER).effective()
    assert caught.value.peer == "cannot determine user's homedir"
    with pytest.raises(ConfigError, match="XDG_DATA_HOME is not set, and HOME is not set") as caught:
        machine.configuration(USER, XDG_CONFIG_HOME="/nowhere").effective()
    assert caught.value.peer == "could not get either XDG_DATA_HOME or HOME"
    found = machine.configuration(USER, XDG_CONFIG_HOME="/nowhere", XDG_DATA_HOME="/data").effective()
    assert found.graph_root == "/data/containers/storage"


def test_a_users_own_graph_root_is_stronger_than_his_storage_path(machine: Machine) -> None:
    machine.user_file('[storage]\ndriver="vfs"\ngraphroot="$HOME/g"\nrootless_storage_path="$HOME/rsp"\n')
    found = machine.configuration(USER).effective()
    assert (found.graph_root, found.rootless_path) == (f"{machine.home}/g", f"{machine.home}/rsp")
