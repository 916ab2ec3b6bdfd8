"""What a `storage.conf` says: keys, types, and the driver options they become (`spec/config.md` 8)."""

import re
from pathlib import Path
from typing import Any

import pytest

from orlop.config import storageconf
from orlop.errors import ConfigError
from orlop.model.options import StoreOptions


def of(text: str, **how: Any) -> StoreOptions:
    """The options of a file with this text; a warning fails the test unless it is collected."""
    how.setdefault("warn", pytest.fail)
    return storageconf.options_of(text, path="FILE", **how)


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
    assert settings == StoreOptions(
        graph_root="/g",
        run_root="/r",
        image_store="/i",
        rootless_path="$HOME/s",
        driver="vfs",
        driver_priority=("overlay", "vfs"),
        auto_userns_user="storage",
        auto_userns_min_size=5,
        auto_userns_max_size=4294967295,
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


WARNINGS = {
    "": ["The storage 'driver' option should be set in FILE. A driver was picked automatically."],
    "overlay2": ["Switching default driver from overlay2 to the equivalent overlay driver"],
}


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
    assert warnings == WARNINGS.get(driver, [])


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


def test_unknown_keys_are_named_in_one_warning_in_the_order_of_the_file() -> None:
    """A table that nobody knows is named with all that is in it, as the peers do."""
    warnings: list[str] = []
    of(
        '[storage]\ndriver="vfs"\nnope=1\n[storage.options]\nremap-uids="x"\n[zebra]\na=1\nb={c=2}\n[ant]\n',
        warn=warnings.append,
    )
    assert warnings == [
        'Failed to decode the keys ["storage.nope" "storage.options.remap-uids" "zebra" "zebra.a" "zebra.b" '
        '"zebra.b.c" "ant"] from "FILE"'
    ]


def test_no_key_leads_to_another_file(tmp_path: Path) -> None:
    """Nothing is included, so nothing can include itself."""
    again = tmp_path / "storage.conf"
    again.write_text(f'include = ["{again}"]\n[storage]\ndriver = "vfs"\n')
    warnings: list[str] = []
    assert of(again.read_text(), warn=warnings.append) == StoreOptions(driver="vfs")
    assert warnings == ['Failed to decode the keys ["include"] from "FILE"']


def test_the_table_of_a_driver_that_is_no_more_is_left_alone() -> None:
    assert of('[storage]\ndriver="vfs"\n[storage.options.thinpool]\nfs="xfs"\n') == StoreOptions(driver="vfs")


@pytest.mark.parametrize(
    ("text", "line", "key", "problem"),
    [
        ("[storage]\ndriver = 1\n", 2, "storage.driver", "wanted a string, found the integer 1"),
        ("\n# x\n[storage]\n\nDriver = true", 5, "storage.Driver", "wanted a string, found the boolean true"),
        ("storage.driver = 1.5", 1, "storage.driver", "wanted a string, found the value 1.5"),
        ("a = 1\nstorage = { driver = 1 }", 2, "storage.driver", "wanted a string, found the integer 1"),
        (
            "[storage]\ndriver_priority = 'x'\n",
            2,
            "storage.driver_priority",
            'wanted a list of strings, found the string "x"',
        ),
        (
            "[storage]\ndriver_priority = [\n'x',\n1]\n",
            2,
            "storage.driver_priority",
            "wanted a list of strings, found in it the integer 1",
        ),
        (
            "[storage]\ntransient_store = 'true'\n",
            2,
            "storage.transient_store",
            'wanted a boolean, found the string "true"',
        ),
        ("\nstorage = 1\n", 2, "storage", "wanted a table, found the integer 1"),
        ("\n[[storage]]\n", 2, "storage", "wanted a table, found a list"),
        ("[storage]\n[storage.driver]\n", 2, "storage.driver", "wanted a string, found a table"),
        ("[storage]\n[storage.driver.x]\n", 2, "storage.driver", "wanted a string, found a table"),
        ("[storage]\noptions = []\n", 2, "storage.options", "wanted a table, found a list"),
        (
            "[storage.options]\nauto-userns-min-size = -1\n",
            2,
            "storage.options.auto-userns-min-size",
            "wanted an unsigned 32-bit integer, found the integer -1",
        ),
        (
            "[storage.options]\nauto-userns-max-size = 4294967296\n",
            2,
            "storage.options.auto-userns-max-size",
            "wanted an unsigned 32-bit integer, found the integer 4294967296",
        ),
        (
            "[storage.options]\nforce_mask = true\n",
            2,
            "storage.options.force_mask",
            "wanted an unsigned 32-bit integer, found the boolean true",
        ),
        (
            "[storage.options]\nforce_mask = '0o700'\n",
            2,
            "storage.options.force_mask",
            'wanted an unsigned 32-bit integer, found the string "0o700"',
        ),
        (
            "[storage.options]\npull_options = {a = 'x', enable_partial_images = true}\n",
            2,
            "storage.options.pull_options.enable_partial_images",
            "wanted a string, found the boolean true",
        ),
        (
            "[storage.options]\n[storage.options.pull_options]\n\nuse_hard_links = true\n",
            4,
            "storage.options.pull_options.use_hard_links",
            "wanted a string, found the boolean true",
        ),
        (
            "[storage.options]\npull_options = 'none'\n",
            2,
            "storage.options.pull_options",
            'wanted a table of strings, found the string "none"',
        ),
        (
            "[storage.options.overlay]\nmountopt = 'x'\nsize = 1\n",
            3,
            "storage.options.overlay.size",
            "wanted a string, found the integer 1",
        ),
        (
            "[storage.options.overlay]\nmountopt = '''\nsize = 1\n'''\n'size' = 1979-05-27\n",
            5,
            "storage.options.overlay.size",
            "wanted a string, found the value 1979-05-27",
        ),
        (
            '[storage.options.overlay] # size = 1\nmountopt = """\\\n  \\"""\n[x]\nsize = 1"""\nsize = [\n]',
            6,
            "storage.options.overlay.size",
            "wanted a string, found a list",
        ),
        ("[storage]\r\ndriver = 1\r\n", 2, "storage.driver", "wanted a string, found the integer 1"),
        (
            '[storage]\nrunroot = "/a\\u0000b"\n',
            2,
            "storage.runroot",
            "wanted a string, found a string with a NUL in it",
        ),
        (
            f"[storage]\ndriver_priority = '{'x' * 100}'\n",
            2,
            "storage.driver_priority",
            f'wanted a list of strings, found the string "{"x" * 55}...',
        ),
        (
            f"[storage]\ndriver = 0x{'f' * 5000}\n",
            2,
            "storage.driver",
            f"wanted a string, found the integer 0x{'f' * 53}...",
        ),
        (
            "[storage]\nDRIVER = 'vfs'\ndriver = 'overlay'\n",
            3,
            "storage.driver",
            'wanted one spelling, found "DRIVER" as well',
        ),
        ("[storage]\n[Storage]\n", 2, "Storage", 'wanted one spelling, found "storage" as well'),
    ],
)
def test_a_wrong_value_is_refused_with_file_line_and_key(
    text: str, line: int, key: str, problem: str
) -> None:
    """tomllib tells no line once the text is read; with two spellings of a key the peers take either, at random."""
    with pytest.raises(ConfigError) as caught:
        of(text)
    assert str(caught.value) == f"FILE, line {line}: {key}: {problem}"
    assert (caught.value.path, caught.value.line, caught.value.key) == ("FILE", line, key)


def test_what_is_not_toml_is_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"FILE: wanted TOML: .*line 2") as caught:
        of("[storage]\ndriver = \n")
    assert (caught.value.path, caught.value.line) == ("FILE", 2)


def test_the_environment_replaces_what_it_names() -> None:
    """STORAGE_DRIVER comes before everything else, STORAGE_OPTS instead of all options (section 8.5)."""
    text = '[storage]\ndriver="overlay"\n[storage.options]\nmountopt="nodev"\n'
    assert of(text, driver="vfs").driver_options == ("vfs.mountopt=nodev",)
    assert of(text, driver_options=("a=b",)) == StoreOptions(driver="overlay", driver_options=("a=b",))
    assert of(text, driver="vfs", driver_options=()) == StoreOptions(driver="vfs")


def test_the_page_about_configuration_lists_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    listed = {
        key: (kind, set(re.findall(r"`([\w-]+)`", text)))
        for key, kind, text in re.findall(
            r"^\| `(storage\.[\w.-]+)` \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE
        )
    }
    kinds = {"a string": "string", "a list of strings": "list of strings", "a boolean": "boolean"}
    storage = dict(storageconf.KEYS["storage"])
    options = storage.pop("options")
    known = {f"storage.{key}": wanted for key, wanted in storage.items()}
    known |= {f"storage.options.{key}": wanted for key, wanted in options.items()}
    assert listed.keys() == known.keys()
    for key, wanted in known.items():
        kind, named = listed[key]
        if isinstance(wanted, dict):
            assert (kind, named) == ("table of strings", set(wanted)), key
        elif wanted in kinds:
            assert kind == kinds[wanted], key


def test_the_page_about_configuration_lists_every_variable() -> None:
    """Each name in the table is read somewhere, and whatever `config/` reads is in the table."""
    top = Path(__file__).parents[2]
    page = (top / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", page, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    source = {path: path.read_text() for path in (top / "src/orlop").rglob("*.py")}
    for name in listed:
        assert any(re.search(f"[\"']{name}[\"']", text) for text in source.values()), name
    read = {
        name
        for path, text in source.items()
        if path.parent.name == "config"
        for name in re.findall(
            r"""environ(?:\.get\(|\[)["']([A-Z_]+)["']|["']([A-Z_]+)["'] in os\.environ""", text
        )
        for name in name
        if name
    }
    assert read - {"PATH"} <= listed
    assert {"STORAGE_OPTS", "CONTAINERS_STORAGE_CONF", "TMPDIR"} <= read
