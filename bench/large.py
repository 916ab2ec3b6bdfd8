"""Rows of a large store (`bigstore`): what it costs to ask for one thing among many, or to change it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bigstore
from jobs import Job, Program

LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "library.py")

# Two commands a row, so that the store stays as large as it is.
BOX = 'box=$("$@" create-container "$0") && "$@" delete-container "$box"'
LAYER = 'layer=$("$@" create-layer "$0") && "$@" delete-layer "$layer"'
IMAGE = 'image=$("$@" create-image "$0") && "$@" delete-image "$image"'
NAMES = '"$@" set-names --name one "$0" && "$@" set-names --name other "$0"'

Prepare = Callable[[Program, Path], list[str]]


def asking(*words: str, library: str | None = None) -> Prepare:
    """A command; or against it, `library`: a call of ours in a process that runs."""

    def prepare(program: Program, store: Path) -> list[str]:
        bigstore.copy(store)
        if library is not None and program.ours:
            return [sys.executable, LIBRARY, *library.split(), f"{store}/graph", f"{store}/run"]
        return program.argv(store, "vfs", *words)

    return prepare


def changing(script: str, ref: str, library: str | None = None) -> Prepare:
    """A script over commands of one program: `$0` is what it is about, `$@` how to call the program."""

    def prepare(program: Program, store: Path) -> list[str]:
        command = asking(library=library)(program, store)
        return command if library is not None and program.ours else ["sh", "-c", script, ref, *command]

    return prepare


def beside_podman(words: list[str], ours: list[str]) -> Prepare:
    def prepare(program: Program, store: Path) -> list[str]:
        return asking(*(ours if program.ours else words))(program, store)

    return prepare


def jobs() -> Iterator[Job]:
    store = "20,000 layers, 2,000 images, 500 containers"

    def row(name: str, prepare: Prepare, *, peer: str = "containers-storage", inside: bool = False) -> Job:
        return Job(name, "tmpfs", "vfs", prepare, fresh=False, store="large", peer=peer, inside=inside)

    yield row(f"large store: list layers ({store})", asking("layers"))
    yield row("large store: list layers --json", asking("layers", "--json"))
    yield row("large store: list images", asking("images"))
    yield row("large store: list containers", asking("containers"))
    yield row("large store: a layer by name", asking("layer", bigstore.LAYER.name))
    yield row("large store: a layer by prefix", asking("layer", bigstore.PREFIX))
    yield row("large store: an image by name", asking("image", bigstore.IMAGE.name))
    yield row("large store: images by digest", asking("images-by-digest", bigstore.IMAGE.digest))
    yield row("large store: create, delete a layer", changing(LAYER, bigstore.OTHER.id))
    yield row("large store: create, delete an image", changing(IMAGE, bigstore.LAYER.id))
    yield row("large store: create, delete a container", changing(BOX, bigstore.IMAGE.id))
    yield row("large store: rename a layer, twice", changing(NAMES, bigstore.OTHER.id))
    yield row("large store: rename an image, twice", changing(NAMES, bigstore.image(1).id))
    # Not `podman images`: it was stopped after ten minutes without an answer.
    yield row(
        "large store: an image by name, podman",
        beside_podman(["image", "exists", bigstore.IMAGE.name], ["image", bigstore.IMAGE.name]),
        peer="podman",
    )
    yield row(
        "large store: list containers, podman",
        beside_podman(["ps", "-a", "--external", "--quiet"], ["containers"]),
        peer="podman",
    )
    calls = [
        ("open, list layers", asking("layers", library="open list")),
        ("open, list all at one moment", asking("layers", library="open snapshot")),
        ("open, a layer by name", asking("layer", bigstore.LAYER.name, library="open find")),
        ("a layer by name", asking("layer", bigstore.LAYER.name, library="again find")),
        ("a layer by prefix", asking("layer", bigstore.PREFIX, library="again prefix")),
        ("images by digest", asking("images-by-digest", bigstore.IMAGE.digest, library="again digest")),
        ("create, delete a layer", changing(LAYER, bigstore.OTHER.id, library="again layer")),
        ("create, delete an image", changing(IMAGE, bigstore.LAYER.id, library="again image")),
        ("create, delete a container", changing(BOX, bigstore.IMAGE.id, library="again container")),
        ("rename a layer, twice", changing(NAMES, bigstore.OTHER.id, library="again rename")),
        ("list layers, as somebody changed one", asking("layers", library="changed list")),
    ]
    for name, prepare in calls:
        yield row(f"large store, library: {name}", prepare, inside=True)
