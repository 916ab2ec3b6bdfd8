"""Where options come from: files, environment, defaults, in their order (`spec/config.md` 3 to 5, 7, 10).

With environment and files handed in. Users without root rights: test_config_rootless.py.
"""

import os
import time
from contextlib import suppress

import pytest

from configured import CONTAINED, EXPANSIONS, ROOT, USER, VARIABLES, Machine, machine
from orlop.config import load
from orlop.errors import ConfigError, IncompleteOptions, LimitExceeded
from orlop.model.options import StoreOptions
from orlop.system.userns import Identity

__all__ = ["machine"]


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
    assert settings == StoreOptions(graph_root="/etc/g", run_root=load.RUN_ROOT, driver="overlay")


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
    assert settings == StoreOptions(graph_root=load.GRAPH_ROOT, run_root="/only/r", driver="vfs")


@pytest.mark.parametrize("named", ["/no/such/file", ""])
def test_a_named_file_that_is_missing_fails_every_open(machine: Machine, named: str) -> None:
    configuration = machine.configuration(CONTAINERS_STORAGE_CONF=named)
    explicit = StoreOptions("/g", "/r")
    for attempt in (configuration.effective, lambda: configuration.complete(explicit)):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert caught.value.peer == f"stat {named}: no such file or directory"


def test_a_program_may_name_the_one_and_only_file(machine: Machine) -> None:
    """`SetDefaultConfigFilePath` of the peers; it is stronger than the variable, and fails likewise."""
    chosen = machine.write("chosen.conf", '[storage]\ndriver="vfs"\ngraphroot="/chosen/g"\n')
    machine.user_file('[storage]\ndriver="overlay"\n')
    configuration = machine.configuration(file=chosen, CONTAINERS_STORAGE_CONF="/no/such/file")
    assert configuration.default_file() == str(chosen)
    assert configuration.effective() == StoreOptions("/chosen/g", load.RUN_ROOT, driver="vfs")
    of_a_user = machine.configuration(USER, file=chosen)
    assert of_a_user.effective() == StoreOptions(
        "/chosen/g", str(machine.base / "runtime/containers"), driver="vfs"
    )
    with pytest.raises(ConfigError, match="/no/such/file, cannot be read: No such file or directory"):
        machine.configuration(file="/no/such/file").effective()


@pytest.mark.parametrize("user", [ROOT, CONTAINED, USER])
def test_a_place_that_cannot_be_looked_at_is_an_error(machine: Machine, user: Identity) -> None:
    """The file may be there: taking another one would open another store."""
    (machine.base / "file").touch()
    configuration = machine.configuration(user, XDG_CONFIG_HOME=str(machine.base / "file"))
    with pytest.raises(ConfigError) as caught:
        configuration.effective()
    assert caught.value.peer == f"stat {machine.base}/file/containers/storage.conf: not a directory"


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
        ({"STORAGE_OPTS": "a=b,,"}, "overlay", ("a=b", "", "")),  # which the driver then refuses
        ({"STORAGE_OPTS": ""}, "overlay", ()),
    ):
        settings = machine.configuration(**environ).effective()
        assert (settings.driver, settings.driver_options) == (driver, options), environ


@pytest.mark.parametrize("path", EXPANSIONS)
def test_variables_of_a_path_are_expanded(machine: Machine, path: str) -> None:
    """Each as the peers do it (test_config_peer.py asks them): one file must not name two stores."""
    configuration = machine.configuration(USER, **VARIABLES)
    assert configuration.expand(path) == EXPANSIONS[path]


def test_links_are_resolved_if_the_whole_path_exists(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(machine.base)
    (machine.base / "real").mkdir()
    (machine.base / "link").symlink_to("real")
    (machine.base / "nowhere").symlink_to("not-there")
    configuration = machine.configuration(B=str(machine.base))
    for path, wanted in (
        ("$B/link", f"{machine.base}/real"),
        ("$B/link/.", f"{machine.base}/real"),
        ("$B/link/not-there", f"{machine.base}/link/not-there"),
        ("$B/link/not-there/../..", f"{machine.base}"),
        ("$B/nowhere", f"{machine.base}/nowhere"),
        ("link", "real"),  # not made absolute here
        ("not-there/..", "."),
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


# --- files that are no configurations -----------------------------------------------------------------------


def test_a_file_of_a_hundred_megabytes_is_not_read(machine: Machine) -> None:
    with open(machine.override_file, "wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(LimitExceeded, match="1048576 bytes"):
        machine.configuration().effective()


@pytest.mark.parametrize(
    "kind", ["fifo", "device", "directory", "loop", "text of another kind", "a byte order mark"]
)
def test_what_cannot_be_read_is_refused_at_once(machine: Machine, kind: str) -> None:
    """A FIFO would wait for somebody to write, and /dev/zero never ends."""
    path = machine.override_file
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "text of another kind":
        path.write_bytes(b'[storage]\ndriver = "v\xff"\n')
    else:
        path.write_bytes(b"\xef\xbb\xbf[storage]\n")  # the peers refuse it as well
    with pytest.raises(ConfigError) as caught:
        machine.configuration().effective()
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)
    if kind == "text of another kind":
        assert str(caught.value) == f"{path}, line 2: wanted UTF-8, found the byte 0xff"
        assert caught.value.line == 2


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "[" * 50_000 + "]" * 50_000,
        "a = " + "{b = " * 50_000,
        "a" + ".a" * 100_000 + " = 1",
        '"a"' + '."a"' * 100_000 + " = 1",
        "[a" + ".a" * 100_000 + "]",
        "".join(f"[{'.'.join(['a'] * depth)}]\n" for depth in range(1, 600)),
    ],
)
def test_a_file_that_is_nested_too_deeply_is_refused_at_once(machine: Machine, text: str) -> None:
    """tomllib needs a call of its own for each level, and for a dotted key the square of its length in time."""
    machine.override_file.write_text(text)
    with pytest.raises(LimitExceeded, match="32 levels"):
        machine.configuration().effective()


@pytest.mark.parametrize(
    "text", ["a = [" + "\n" * 500_000, "a = [" + '\n"",' * 200_000 + "\n]", "#" * 1_000_000, "a" * 1_000_000]
)
def test_long_files_take_time_that_grows_with_them_only(machine: Machine, text: str) -> None:
    machine.override_file.write_text(text)
    before = time.process_time()
    with suppress(ConfigError):
        machine.configuration().effective()
    assert time.process_time() - before < 5


def test_a_file_with_the_largest_size_is_read(machine: Machine) -> None:
    text = '[storage]\ndriver = "vfs"\n'
    machine.override_file.write_text(text + "#" * ((1 << 20) - len(text)))
    assert machine.configuration().effective().driver == "vfs"


# --- options that are given ---------------------------------------------------------------------------------


def test_explicit_options_replace_the_file(machine: Machine) -> None:
    machine.override_file.write_text(
        '[storage]\ndriver="overlay"\nrunroot="/r"\ngraphroot="/$HOME/../g"\ntransient_store=true\n'
    )
    configuration = machine.configuration(STORAGE_DRIVER="zfs", HOME="/home")
    for given, wanted in (
        (StoreOptions(), StoreOptions("/g", "/r", driver="zfs", transient=True)),
        (
            StoreOptions(image_store="/i"),
            StoreOptions("/g", "/r", driver="zfs", transient=True, image_store="/i"),
        ),
        (StoreOptions("/x"), StoreOptions("/x", "/r")),
        (StoreOptions(run_root="/x", driver="vfs"), StoreOptions("/g", "/x", driver="vfs")),
        (StoreOptions("//x/../y", "/z"), StoreOptions("/y", "/z")),
    ):
        assert configuration.complete(given) == wanted


def test_files_of_the_system_are_not_read_for_explicit_roots(machine: Machine) -> None:
    """Nothing of them would be used, and reading them costs every small command its time."""
    machine.system_file.write_text("broken")
    settings = machine.configuration().complete(StoreOptions(graph_root="/g", run_root="/r"))
    assert (settings.graph_root, settings.run_root) == ("/g", "/r")


def test_a_root_that_a_user_does_not_name_is_his_own(machine: Machine) -> None:
    """The peers take that of the system, which he may not even make."""
    configuration = machine.configuration(USER)
    assert configuration.complete(StoreOptions("/x")).run_root == f"{machine.base}/runtime/containers"
    assert configuration.complete(StoreOptions(run_root="/x")).graph_root == (
        f"{machine.home}/.local/share/containers/storage"
    )


@pytest.mark.parametrize("given", [StoreOptions(driver="vfs"), StoreOptions(driver_options=("a=b",))])
def test_a_driver_without_roots_is_not_enough(machine: Machine, given: StoreOptions) -> None:
    with pytest.raises(IncompleteOptions):
        machine.configuration().complete(given)


def test_relative_roots_are_made_absolute(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.base)
    found = machine.configuration().complete(StoreOptions("g", "./r"))
    assert (found.graph_root, found.run_root) == (f"{machine.base}/g", f"{machine.base}/r")


# --- reading again ------------------------------------------------------------------------------------------


def test_a_file_is_read_once_until_it_is_to_be_read_again(machine: Machine) -> None:
    """Engines that run for long are told by SIGHUP."""
    machine.override_file.write_text('[storage]\ngraphroot="/g"\n')
    configuration = machine.configuration()
    assert configuration.effective().graph_root == "/g"
    assert len(machine.warnings) == 1  # no driver: said once, though two steps ask for the file
    machine.override_file.write_text('[storage]\ngraphroot="/g2"\ndriver="vfs"\n')
    assert configuration.effective().graph_root == "/g"
    configuration.update()
    assert configuration.effective() == StoreOptions("/g2", load.RUN_ROOT, driver="vfs")
    machine.override_file.unlink()
    configuration.update()
    assert configuration.effective().graph_root == load.GRAPH_ROOT
    assert len(machine.warnings) == 1
