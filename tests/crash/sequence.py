"""Operations one after the other on one store: what power is cut from (`test_power_operations.py`).

    python sequence.py BASE DRIVER SCENE JOURNAL ANSWERS

builds the scene, then writes to ANSWERS, for the start and after each operation: its name, how long the journal was,
and the facts of the store (`Scene.facts`).
"""

import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # `import peers`, as in tests

import operations
from scenes import SCENES

import peers

SEQUENCES = {
    "plain": [
        *("put", "apply", "image-data", "layer-data", "write-file", "write-deep", "image", "container"),
        *("rename", "delete-image", "delete-container", "plan-wipe"),
    ],
    "additional": ["pull-up", "on-foreign"],
    "split": ["split-put", "split-pull-up", "split-delete", "split-delete-shared"],
    "maps": ["mapped-copy", "delete-mapped"],
    "damaged": ["repair"],
    "sealed": ["on-sealed"],
    "staging": ["staged"],
    "xfs": ["dedup"],
    "btrfs": ["plan-dedup"],
}


def main(place: str, driver: str, name: str, journal: str, answers: str) -> None:
    base, scene = Path(place), SCENES[name]
    scene.build(base, driver)
    os.sync()
    found = []

    def note(called: str) -> None:
        length = os.stat(journal).st_size
        with scene.opened(base, driver) as store:
            found.append((called, length, scene.facts(store, base, driver)))

    note("start")
    for called in SEQUENCES[name]:
        with scene.opened(base, driver) as store:
            operations.OPERATIONS[called].act(store)
        note(called)
    Path(answers).write_bytes(pickle.dumps(found))
    peers.unmount_below(base)


if __name__ == "__main__":
    main(*sys.argv[1:])
