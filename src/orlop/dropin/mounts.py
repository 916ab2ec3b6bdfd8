"""Mounting (`spec/cli.md` 7). Every argument is tried; what was mounted before a failure stays mounted."""

from __future__ import annotations

from orlop.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop.dropin.streams import Call


def mount(call: Call) -> int:
    """One line an argument, an empty one for a failure: that keeps lines and arguments side by side."""
    label = call.values.text("label")
    mount = call.store.mount_image if call.values.on("read-only") else call.store.mount
    answers = []
    for word in call.args:
        path = failure = ""
        try:
            path = mount(word, label=label)
        except (StorageError, OSError) as error:
            failure = _worded(error)
        answers.append({"id": word, "mountpoint": path, "error": failure})
        if not call.json:
            if failure:
                call.complain(f"{failure} while mounting {word}")
            call.say(path)
    if call.json:
        call.answer_objects(answers)
    return 1 if any(answer["error"] for answer in answers) else 0


def unmount(call: Call) -> int:
    """The line that tells of the last unmount is printed in JSON, too."""
    force = call.values.on("force")
    answers = []
    for word in call.args:
        failure = ""
        try:
            if not call.store.unmount(word, force=force):
                call.say(f"{word} mountpoint unmounted")
        except (StorageError, OSError) as error:
            failure = "" if _unmounted_as_image(call, word, force) else _worded(error)
        answers.append({"id": word, "error": failure})
    return _told(call, answers, "while unmounting {}")


def _unmounted_as_image(call: Call, word: str, force: bool) -> bool:
    """The second try; of two failures the first is told."""
    try:
        call.store.unmount_image(word, force=force)
    except (StorageError, OSError):
        return False
    return True


def mounted(call: Call) -> int:
    answers = []
    for word in call.args:
        failure = ""
        try:
            if call.store.mount_count(word) > 0:
                call.say(f"{word} mounted")
        except (StorageError, OSError) as error:
            failure = _worded(error)
        answers.append({"id": word, "error": failure})
    return _told(call, answers, "checking if {} is mounted")


def _told(call: Call, answers: Sequence[Mapping[str, str]], wording: str) -> int:
    """The failures, after the lines for all arguments; or, in JSON, everything."""
    failures = [answer for answer in answers if answer["error"]]
    if call.json:
        call.answer_objects(answers)
    else:
        for answer in failures:
            call.complain(f"{answer['error']} {wording.format(answer['id'])}")
    return 1 if failures else 0


def _worded(error: Exception) -> str:
    from orlop.dropin.text import describe

    return describe(error)
