"""What calls of the library take in a process that runs, on a copy of the large store.

    python bench/library.py again container GRAPH RUN     # prints seconds: by the clock, of the processor

Each call is made several times, after a first one that is not counted; the median.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import bigstore

import orlop

REPEATS = 7


class Measured:
    """A call, and what is done before each of them, which does not count."""

    def __init__(self, *roots: str) -> None:
        self.roots = roots
        self.store = self.open()

    def open(self) -> orlop.Store:
        return orlop.open_store(*self.roots, "vfs", durability="none")

    def before(self) -> None:
        """Nothing, mostly."""

    def call(self, name: str) -> None:
        CALLS[name](self.store)


class Opening(Measured):
    """The store is opened anew, and nothing of it is known."""

    def call(self, name: str) -> None:
        with self.open() as store:
            CALLS[name](store)


class Reloading(Measured):
    """Somebody else has changed one record."""

    def before(self) -> None:
        with self.open() as other:
            other.layers.set_metadata(bigstore.LAYER.id, os.urandom(4).hex())


def layer(store: orlop.Store) -> None:
    store.layers.delete(store.layers.create(parent=bigstore.OTHER.id).id)


def image(store: orlop.Store) -> None:
    store.images.delete(store.images.create(layer=bigstore.LAYER.id).id)


def container(store: orlop.Store) -> None:
    store.containers.delete(store.containers.create(image=bigstore.IMAGE.id).id)


def rename(store: orlop.Store) -> None:
    for name in ("one", "other"):
        store.layers.set_names(bigstore.OTHER.id, [name])


CALLS: dict[str, Callable[[orlop.Store], object]] = {
    "list": lambda store: list(store.layers),
    "snapshot": lambda store: store.snapshot(),
    "find": lambda store: store.layers[bigstore.LAYER.name],
    "prefix": lambda store: store.layers[bigstore.PREFIX],
    "digest": lambda store: store.images.by_digest(bigstore.IMAGE.digest),
    "layer": layer,
    "image": image,
    "container": container,
    "rename": rename,
}
WAYS = {"open": Opening, "again": Measured, "changed": Reloading}


def main() -> None:
    way, name, *roots = sys.argv[1:]
    measured = WAYS[way](*roots)
    taken = []
    for _ in range(REPEATS + 1):
        measured.before()
        wall, processor = time.perf_counter(), time.process_time()
        measured.call(name)
        taken.append((time.perf_counter() - wall, time.process_time() - processor))
    print(*[statistics.median(times) for times in zip(*taken[1:], strict=True)])


if __name__ == "__main__":
    main()
