"""Any subset of the inputs of a configuration gives what an independent reading of the page says (`spec/config.md`).

The model below knows no files and no TOML: it decides from the table of inputs alone, one rule of the page a line.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configured import CONTAINED, ROOT, USER
from orlop.config import load
from orlop.config.load import Configuration
from orlop.errors import IncompleteOptions
from orlop.model.options import StoreOptions

File = dict[str, Any]

FILES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "driver": st.sampled_from(["vfs", "overlay", "overlay2", "zfs", "btrfs"]),
        "runroot": st.sampled_from(["/file/r", "$B/r/$UID"]),
        "graphroot": st.sampled_from(["/file/g", "$B/g/../g", "/f/$NOPE/g"]),
        "rootless_storage_path": st.sampled_from(["/file/rsp", "$HOME/rsp/$UID"]),
        "imagestore": st.sampled_from(["/file/i"]),
        "transient_store": st.booleans(),
        "driver_priority": st.lists(st.sampled_from(["vfs", "overlay"]), max_size=2),
        "mountopt": st.sampled_from(["nodev", "noexec,nodev"]),
        "ignore_chown_errors": st.sampled_from(["true"]),
        "additionalimagestores": st.lists(st.sampled_from(["/a", "/b"]), max_size=2),
        "pull_options": st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["true", "x"])),
    },
)
INPUTS = st.fixed_dictionaries(
    {
        "user": st.sampled_from([ROOT, CONTAINED, USER]),
        "system": FILES,
        "override": FILES,
        "home": FILES,
        "xdg": FILES,
        "named": FILES,
        "chosen": FILES,
        "XDG_CONFIG_HOME": st.booleans(),
        "XDG_DATA_HOME": st.booleans(),
        "STORAGE_DRIVER": st.sampled_from([None, "", "vfs", "overlay2", "zfs"]),
        "STORAGE_OPTS": st.sampled_from([None, "", "a=b", "a=b,c=d"]),
        "earlier": st.sampled_from(["", "vfs", "overlay"]),
    }
)
SAID = st.fixed_dictionaries(
    {},
    optional={
        "graph_root": st.sampled_from(["/said/g", "said/../g"]),
        "run_root": st.just("/said/r"),
        "driver": st.just("vfs"),
        "driver_options": st.just(("x=y",)),
    },
)

OWN_KEYS = {
    "overlay": ("ignore_chown_errors", "mountopt"),
    "vfs": ("ignore_chown_errors",),
    "zfs": ("mountopt",),
}


class World:
    """The inputs laid out as files and variables; `base` is emptied for each example."""

    def __init__(self, base: str, inputs: dict[str, Any]) -> None:
        self.base = base
        self.inputs = inputs
        self.paths = {
            "system": f"{base}/usr/storage.conf",
            "override": f"{base}/etc/storage.conf",
            "home": f"{base}/home/.config/containers/storage.conf",
            "xdg": f"{base}/xdg/containers/storage.conf",
            "named": f"{base}/named.conf",
            "chosen": f"{base}/chosen.conf",
        }
        for kind, path in self.paths.items():
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if inputs[kind] is not None:
                Path(path).write_text(as_toml(inputs[kind]))
        os.makedirs(f"{base}/run")
        if inputs["earlier"]:
            os.makedirs(f"{base}/home/.local/share/containers/storage/{inputs['earlier']}-images")
        self.environ = {"HOME": f"{base}/home", "XDG_RUNTIME_DIR": f"{base}/run", "B": base, "PATH": ""}
        if inputs["XDG_CONFIG_HOME"]:
            self.environ["XDG_CONFIG_HOME"] = f"{base}/xdg"
        if inputs["XDG_DATA_HOME"]:
            self.environ["XDG_DATA_HOME"] = f"{base}/data"
        if inputs["named"] is not None:
            self.environ["CONTAINERS_STORAGE_CONF"] = self.paths["named"]
        for name in ("STORAGE_DRIVER", "STORAGE_OPTS"):
            if inputs[name] is not None:
                self.environ[name] = inputs[name]

    def configuration(self) -> Configuration:
        chosen = self.paths["chosen"] if self.inputs["chosen"] is not None else None
        return Configuration(self.environ, file=chosen, user=self.inputs["user"])


def as_toml(file: File) -> str:
    top = (
        "driver",
        "runroot",
        "graphroot",
        "rootless_storage_path",
        "imagestore",
        "transient_store",
        "driver_priority",
    )
    lines = {"[storage]": [key for key in top if key in file]}
    lines["[storage.options]"] = [key for key in file if key not in top]
    return "".join(
        head + "\n" + "".join(f"{key} = {value_as_toml(file[key])}\n" for key in keys)
        for head, keys in lines.items()
    )


def value_as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'{key} = "{item}"' for key, item in value.items()) + "}"
    return (
        str(value).replace("'", '"').replace("True", "true").replace("False", "false")
        if not isinstance(value, str)
        else f'"{value}"'
    )


# --- the model ----------------------------------------------------------------------------------------------


def model_effective(world: World) -> dict[str, Any]:
    """Section 5."""
    inputs, user = world.inputs, world.inputs["user"]
    base = model_system(world)
    if user.per_user:
        base = model_rootless(world, base)
        kind = "xdg" if inputs["XDG_CONFIG_HOME"] else "home"
    else:
        kind = model_system_file(world)
    kind = model_only(world) or kind
    if kind and inputs[kind] is not None:
        loaded = model_load(world, inputs[kind])
        base = loaded | {
            "run": loaded["run"] or base["run"],
            "graph": loaded["graph"] or loaded["rsp"] or base["graph"],
        }
    return base | {key: model_expand(world, base[key]) for key in ("run", "graph", "rsp")}


def model_only(world: World) -> str:
    return next((kind for kind in ("chosen", "named") if world.inputs[kind] is not None), "")


def model_system_file(world: World) -> str:
    """Section 3, which of the files."""
    inputs = world.inputs
    order = [model_only(world), "xdg" if inputs["XDG_CONFIG_HOME"] else "", "override", "system"]
    return next((kind for kind in order if kind and inputs[kind] is not None), "")


def model_system(world: World) -> dict[str, Any]:
    kind = model_system_file(world)
    loaded = model_load(world, world.inputs[kind]) if kind else model_load_nothing()
    return loaded | {"run": loaded["run"] or load.RUN_ROOT, "graph": loaded["graph"] or load.GRAPH_ROOT}


def model_load_nothing() -> dict[str, Any]:
    return {
        "run": "",
        "graph": "",
        "rsp": "",
        "driver": "",
        "priority": (),
        "options": (),
        "images": None,
        "transient": False,
        "pull": None,
    }


def model_load(world: World, file: File) -> dict[str, Any]:
    """Section 8."""
    written = world.inputs["STORAGE_DRIVER"] or file.get("driver", "")
    driver = "overlay" if written == "overlay2" else written
    options = [f"{written}.imagestore={path}" for path in file.get("additionalimagestores", ())]
    options += [f"{written}.{key}={file[key]}" for key in ("ignore_chown_errors", "mountopt") if key in file]
    options += [f"{driver}.{key}={file[key]}" for key in OWN_KEYS.get(driver, ()) if key in file]
    given = world.inputs["STORAGE_OPTS"]
    if given is not None:
        options = given.split(",") if given else []
    return {
        "run": file.get("runroot", ""),
        "graph": file.get("graphroot", ""),
        "rsp": file.get("rootless_storage_path", ""),
        "driver": driver,
        "priority": tuple(file.get("driver_priority", ())),
        "options": tuple(options),
        "images": file.get("imagestore"),
        "transient": file.get("transient_store", False),
        "pull": file.get("pull_options"),
    }


def model_rootless(world: World, system: dict[str, Any]) -> dict[str, Any]:
    """Section 6."""
    inputs = world.inputs
    data = f"{world.base}/data" if inputs["XDG_DATA_HOME"] else f"{world.base}/home/.local/share"
    graph = model_expand(world, system["rsp"]) or f"{data}/containers/storage"
    driver = inputs["STORAGE_DRIVER"] or (system["driver"] if system["driver"] != "zfs" else "")
    driver = "overlay" if driver == "overlay2" else driver
    options = [o for o in system["options"] if "ignore_chown_errors" in o][:1] if driver == "overlay" else []
    options += inputs["STORAGE_OPTS"].split(",") if inputs["STORAGE_OPTS"] else []
    priority = () if driver else system["priority"]
    if not driver and not priority:
        at_home = graph == f"{world.base}/home/.local/share/containers/storage"
        driver = (inputs["earlier"] if at_home else "") or "overlay"
    return model_load_nothing() | {
        "run": f"{world.base}/run/containers",
        "graph": graph,
        "driver": driver,
        "priority": priority,
        "options": tuple(options),
        "pull": system["pull"],
    }


def model_expand(world: World, path: str) -> str:
    """Section 7, for the few paths of this test."""
    known = {
        "$UID": str(world.inputs["user"].uid),
        "$HOME": f"{world.base}/home",
        "$B": world.base,
        "$NOPE": "",
    }
    for name, value in known.items():
        path = path.replace(name, value)
    return os.path.normpath(path) if path else ""


def as_model(options: StoreOptions) -> dict[str, Any]:
    return {
        "run": options.run_root,
        "graph": options.graph_root,
        "rsp": options.rootless_path,
        "driver": options.driver,
        "priority": options.driver_priority,
        "options": options.driver_options,
        "images": options.image_store,
        "transient": options.transient,
        "pull": options.pull_options,
    }


# --- the property -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> Any:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="orlop-config-") as room:
        base = os.path.realpath(room) + "/m"
        patch.setattr(load, "SYSTEM_FILE", f"{base}/usr/storage.conf")
        patch.setattr(load, "OVERRIDE_FILE", f"{base}/etc/storage.conf")
        patch.setattr(os, "uname", lambda: os.uname_result(("Linux", "h", "6.1.0", "v", "m")))
        yield base


NOTHING = dict.fromkeys(
    ["system", "override", "home", "xdg", "named", "chosen", "STORAGE_DRIVER", "STORAGE_OPTS"]
)
NOTHING |= {"user": USER, "XDG_CONFIG_HOME": False, "XDG_DATA_HOME": False, "earlier": ""}


@given(inputs=INPUTS, said=SAID)
@example(inputs=NOTHING | {"earlier": "vfs"}, said={})
@example(inputs=NOTHING | {"earlier": "vfs", "system": {"driver_priority": ["overlay"]}}, said={})
def test_any_subset_of_the_inputs_gives_what_the_page_says(
    base: str, inputs: dict[str, Any], said: dict[str, Any]
) -> None:
    shutil.rmtree(base, ignore_errors=True)
    world = World(base, inputs)
    wanted = model_effective(world)
    assert as_model(world.configuration().effective()) == wanted

    given = StoreOptions(**said)
    if not said:
        found = world.configuration().complete(given)
        assert as_model(found) == wanted
    elif not (given.graph_root or given.run_root):
        with pytest.raises(IncompleteOptions):
            world.configuration().complete(given)
    else:
        defaults = wanted if inputs["user"].per_user else model_system(world)
        found = world.configuration().complete(given)
        assert found == given.replace(
            graph_root=os.path.abspath(given.graph_root or model_expand(world, defaults["graph"])),
            run_root=os.path.abspath(given.run_root or model_expand(world, defaults["run"])),
        )
