"""Where users without root rights keep a store (`spec/config.md` 2 and 6)."""

import os

import pytest

from configured import ROOT, USER, Machine, machine
from orlop.config import environment, rootless
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
