"""From what is said to an open store: arguments, configuration, environment (`spec/config.md` 10 and 11)."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import orlop
from configured import Machine, machine
from orlop.errors import ConfigError, DriverNotSupported, IncompleteOptions, LockTimeout
from orlop.model.options import StoreOptions
from orlop.store.opening import completed

__all__ = ["machine"]


@pytest.fixture(autouse=True)
def surroundings(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stands on the machine of the test."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in machine.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ORLOP_DURABILITY", "none")
    monkeypatch.chdir(machine.base)


def configure(machine: Machine, text: str = "", **options: str) -> None:
    lines = [f'{key}="{value}"\n' for key, value in options.items()]
    roots = f'runroot="{machine.base}/cr"\ngraphroot="{machine.base}/cg"\n'
    machine.override_file.write_text("[storage]\n" + "".join(lines) + roots + text)


def opened(**arguments: Any) -> orlop.Store:
    return orlop.open_store(**arguments)


# --- what is said -------------------------------------------------------------------------------------------


def test_when_nothing_is_said_all_is_the_configurations(machine: Machine) -> None:
    configure(
        machine,
        'imagestore="split"\ntransient_store=true\n[storage.options]\ndisable-volatile=true\n'
        'root-auto-userns-user="somebody"\nauto-userns-min-size=5\nauto-userns-max-size=6\n'
        'pull_options={use_hard_links="true"}\nadditionalimagestores=["/x"]\n',
        driver="vfs",
    )
    with opened() as store:
        assert store.options == StoreOptions(
            f"{machine.base}/cg",
            f"{machine.base}/cr",
            driver="vfs",
            driver_options=["vfs.imagestore=/x"],
            image_store=f"{machine.base}/split",
            transient=True,
            disable_volatile=True,
            durable=False,
            auto_userns_user="somebody",
            auto_userns_min_size=5,
            auto_userns_max_size=6,
            pull_options={"use_hard_links": "true"},
            rootless=store.options.rootless,
        )
        assert store.pull_options == {"use_hard_links": "true"}


def test_what_is_said_beside_is_stronger_than_the_configuration(machine: Machine) -> None:
    configure(machine, "[storage.options]\npull_options={a='1'}\nauto-userns-min-size=5\n", driver="vfs")
    with opened(
        pull_options={}, auto_userns_min_size=7, auto_userns_user="me", image_store="other", transient=True
    ) as store:
        assert store.graph_root == f"{machine.base}/cg"
        assert store.image_store == f"{machine.base}/other"
        assert (store.options.auto_userns_min_size, store.options.auto_userns_user) == (7, "me")
        assert store.pull_options == {}
        assert store.transient


@pytest.mark.parametrize(
    ("given", "roots"),
    [
        ({"graph_root": "g"}, ("g", "cr")),
        ({"run_root": "r"}, ("cg", "r")),
        ({"graph_root": "g", "run_root": "r"}, ("g", "r")),
        ({"graph_root": Path("x/../g"), "driver_options": ["vfs.imagestore="]}, ("g", "cr")),
    ],
)
def test_of_a_configuration_that_is_put_aside_only_a_missing_root_is_taken(
    machine: Machine, given: dict[str, Any], roots: tuple[str, str]
) -> None:
    configure(
        machine,
        "transient_store=true\n[storage.options]\npull_options={a='1'}\nauto-userns-min-size=5\n",
        driver="zfs",
    )
    with opened(driver="vfs", **given) as store:
        assert (store.graph_root, store.run_root) == tuple(f"{machine.base}/{root}" for root in roots)
        assert not store.transient
        assert store.pull_options == {}
        assert (store.options.auto_userns_min_size, store.options.auto_userns_max_size) == (1024, 65536)


def test_a_driver_alone_is_not_enough(machine: Machine) -> None:
    configure(machine)
    for given in ({"driver": "vfs"}, {"driver_options": ["a=b"]}):
        with pytest.raises(IncompleteOptions):
            opened(**given)


def test_a_file_that_is_named_and_missing_fails_every_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set the variable wants to hear that it is wrong, whatever else is said."""
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", "nowhere")
    with pytest.raises(ConfigError, match="nowhere"):
        opened(graph_root="g", run_root="r", driver="vfs")
    assert not os.path.exists("g")


def test_who_listens_hears_what_is_odd_about_a_file(machine: Machine) -> None:
    configure(machine, "nope=1\n", driver="vfs")
    heard: list[str] = []
    opened(configuration=orlop.Configuration(warn=heard.append)).close()
    assert heard == [f'Failed to decode the keys ["storage.nope"] from "{machine.override_file}"']


def test_where_a_refused_option_comes_from_is_told(machine: Machine) -> None:
    """The driver knows its options, not who gave them."""
    configure(machine, "[storage.options]\nmountopt='nodev'\n", driver="vfs")
    with pytest.raises(ConfigError, match="mounts nothing") as caught:
        opened()
    assert caught.value.__notes__ == [
        f"what the driver refuses was said by {machine.override_file}, or by STORAGE_OPTS"
    ]
    with pytest.raises(ConfigError) as caught:
        opened(graph_root="g", run_root="r", driver="vfs", driver_options=["a=b"])
    assert not hasattr(caught.value, "__notes__")


def test_the_files_may_be_those_of_another_configuration(machine: Machine) -> None:
    configure(machine, driver="zfs")
    only = machine.write(
        "only.conf", f'[storage]\ndriver="vfs"\nrunroot="{machine.base}/r"\ngraphroot="$HERE/g"\n'
    )
    chosen = orlop.Configuration({"HERE": str(machine.base)}, file=only)
    with opened(configuration=chosen) as store:
        assert (store.graph_root, store.run_root) == (f"{machine.base}/g", f"{machine.base}/r")
    with opened(configuration=chosen, graph_root="g2", driver="vfs") as store:
        assert (store.graph_root, store.run_root) == (f"{machine.base}/g2", f"{machine.base}/r")


# --- durability ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "option", "variable", "wanted"),
    [
        (None, None, None, "full"),
        (None, None, "none", "none"),
        (None, None, "full", "full"),
        (None, "none", None, "none"),
        (None, "none", "full", "none"),
        (None, "full", "none", "full"),
        ("full", "none", "none", "full"),
        ("none", "full", "full", "none"),
    ],
)
def test_durability_is_the_arguments_then_the_options_then_the_environments(
    monkeypatch: pytest.MonkeyPatch,
    argument: str | None,
    option: str | None,
    variable: str | None,
    wanted: str,
) -> None:
    monkeypatch.delenv("ORLOP_DURABILITY")
    if variable:
        monkeypatch.setenv("ORLOP_DURABILITY", variable)
    options = [f" ORLOP.Durability = {option} "] if option else []
    given = StoreOptions("/g", "/r", driver_options=options)
    found = completed(given, durability=argument)
    assert found.durable is (wanted == "full")
    assert found.driver_options == ()  # no driver would know it


def test_of_two_durabilities_the_last_counts() -> None:
    options = ["orlop.durability=none", "vfs.imagestore=", "orlop.durability=full"]
    found = completed(StoreOptions("/g", "/r", driver_options=options))
    assert (found.durable, found.driver_options) == (True, ("vfs.imagestore=",))


@pytest.mark.parametrize("where", ["argument", "option", "option without a value", "environment"])
def test_a_durability_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A misspelt `none` must not cost days of syncs, a misspelt `full` no data."""
    options = {"option": ["orlop.durability=Full"], "option without a value": ["orlop.durability"]}.get(
        where, []
    )
    if where == "environment":
        monkeypatch.setenv("ORLOP_DURABILITY", "FULL")
    with pytest.raises(ConfigError, match="durability: wanted one of full, none; found"):
        completed(
            StoreOptions("/g", "/r", driver_options=options),
            durability="fast" if where == "argument" else None,
        )


def test_durability_comes_with_the_options_of_the_environment(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORLOP_DURABILITY")
    monkeypatch.setenv("STORAGE_OPTS", "orlop.durability=none")
    configure(machine, driver="vfs")
    with opened() as store:
        assert store.durability == "none"
        assert store.driver_options == ()


@pytest.mark.parametrize("where", ["[storage]", "[storage.options]", "[storage.options.vfs]", "[orlop]"])
def test_durability_is_no_matter_of_configuration_files(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Other programs read the file, and would warn about the key."""
    monkeypatch.delenv("ORLOP_DURABILITY")
    machine.override_file.write_text(
        f'{where}\n"orlop.durability" = "none"\ndurability = "none"\n'
        + ("" if where == "[storage]" else "[storage]\n")
        + f'driver="vfs"\nrunroot="{machine.base}/cr"\ngraphroot="{machine.base}/cg"\n'
    )
    heard: list[str] = []
    with opened(configuration=orlop.Configuration(warn=heard.append)) as store:
        assert store.durability == "full"
    assert len(heard) == 1
    assert "durability" in heard[0]


# --- names and places ---------------------------------------------------------------------------------------


def test_a_name_that_leads_elsewhere_makes_nothing(machine: Machine) -> None:
    """The peers make the directory before they find out that there is no such driver."""
    configure(machine, driver="../evil")
    for attempt in (
        opened,
        lambda: opened(graph_root="g", run_root="r", driver="../evil", image_store="i"),
        lambda: orlop.Store(StoreOptions(f"{machine.base}/g", f"{machine.base}/r", driver="../evil")),
    ):
        with pytest.raises(DriverNotSupported) as caught:
            attempt()
        assert caught.value.peer.startswith("failed to GetDriver graph ../evil ")
    assert not (machine.base / "evil").exists()


def test_one_root_by_two_names_is_one_place(machine: Machine) -> None:
    (machine.base / "link").symlink_to(".")
    with opened(graph_root="g", run_root="r", driver="vfs") as first:
        made = first.layers.create(names=["base"])
        for name in (f"/{machine.base}/g", f"{machine.base}//./g/", "x/../g"):
            with opened(graph_root=name, run_root="r", driver="vfs") as again:
                assert again.graph_root == first.graph_root
                assert again.layers["base"].id == made.id
        with opened(graph_root="link/g", run_root="link/r", driver="vfs") as through_link:
            assert through_link.graph_root == f"{machine.base}/link/g"
            assert through_link.layers["base"].id == made.id


# --- the same store twice in one process --------------------------------------------------------------------


def test_two_stores_of_one_process_see_what_the_other_does() -> None:
    """The peers hand out one object; here each is closed by whoever opened it."""
    with opened(graph_root="g", run_root="r", driver="vfs") as one:
        made = one.layers.create(names=["first"])
        with opened(graph_root="g", run_root="r") as two:  # no name: that of the data
            assert two.driver_name == one.driver_name
            two.layers.add_names(made.id, ["second"])
            assert one.layers["second"].id == made.id
            one.layers.delete(made.id)
            assert "first" not in two.layers
        assert one.layers.create().id in one.layers


def test_closing_one_store_takes_no_lock_from_another() -> None:
    """They share the object of each lock; a third store makes a new one, and still they exclude each other."""
    one = opened(graph_root="g", run_root="r", driver="vfs")
    two = opened(graph_root="g", run_root="r", driver="vfs")
    one.close()
    three = opened(graph_root="g", run_root="r", driver="vfs", lock_timeout=0.1)
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with two._engine.graph_lock.writing():
            inside.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert inside.wait(10)
        with pytest.raises(LockTimeout):
            three.layers.create()
    finally:
        done.set()
        holder.join()
    assert three.layers.create().id in two.layers
    two.close()
    three.close()


@pytest.mark.parametrize(
    ("given", "problem", "found"),
    [(-1, ValueError, "-1"), (float("nan"), ValueError, "nan"), ("x", TypeError, "str")],
)
def test_a_time_to_wait_is_a_number_from_0_on(
    tmp_path: Path, given: object, problem: type[Exception], found: str
) -> None:
    """One that is not a number would wait for ever, and a negative one for nothing at all."""
    with pytest.raises(problem, match=f"lock_timeout: wanted seconds, .*; found {found}$"):
        orlop.open_store(tmp_path / "graph", tmp_path / "run", "vfs", lock_timeout=given)  # type: ignore[arg-type]
    assert not (tmp_path / "graph").exists()
