"""Deleting (`spec/cli.md` 9). Every argument is tried; one that fails is told and decides the exit status."""

from __future__ import annotations

from orlop.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from orlop.dropin.streams import Call


def delete(call: Call) -> int:
    """`delete` asks nothing; `delete-layer` and `delete-container` refuse what is in use."""
    store = call.store
    remove: dict[str, Callable[[str], object]] = {
        "": store.delete,
        "layer": store.layers.delete,
        "container": store.containers.delete,
    }
    failures = {}
    for word in call.args:
        try:
            remove[call.command.kind](word)
            failures[word] = ""
        except (StorageError, OSError) as error:
            failures[word] = _worded(error)
    if call.json:
        call.answer(failures)
    else:
        for word, failure in failures.items():
            if failure:
                call.complain(f"{word}: {failure}")
    return 1 if any(failures.values()) else 0


def delete_image(call: Call) -> int:
    """Tells, on standard error, which layers went with the image."""
    answers: dict[str, dict[str, object]] = {}
    for word in call.args:
        try:
            layers = call.store.images.delete(word, dry_run=call.values.on("test"))
            answers[word] = {"deleted-layers": layers} if layers else {}
            if not call.json:
                for id in layers:
                    call.complain(f"{word}: {id}")
        except (StorageError, OSError) as error:
            answers[word] = {"error": _worded(error)}
            if not call.json:
                call.complain(f"{word}: {_worded(error)}")
    if call.json:
        call.answer(answers)
    return 1 if any("error" in answer for answer in answers.values()) else 0


def _worded(error: Exception) -> str:
    from orlop.dropin.text import describe

    return describe(error)
