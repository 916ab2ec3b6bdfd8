"""Names and metadata of layers, images and containers (`spec/cli.md` 6.6 and 6.7)."""

from __future__ import annotations

from orlop.dropin.streams import Refusal
from orlop.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from orlop.dropin.streams import Call


def metadata(call: Call) -> int:
    """Unknown arguments have an empty value in text, and are missing in JSON. One newline at the end is cut."""
    found = {}
    for word in call.args:
        try:
            found[word] = call.store.metadata(word).removesuffix("\n")
        except NotFound:
            continue
    if call.json:
        call.answer(found)
    else:
        for word in call.args:
            value = found.get(word, "")
            call.say(value if call.values.on("quiet") else f"{word}: {value}")
    return 0 if all(word in found for word in call.args) else 1


def set_metadata(call: Call) -> int:
    if not (call.values.text("metadata-file") or call.values.text("metadata")):
        raise Refusal("no new metadata provided")
    call.store.set_metadata(call.args[0], given_metadata(call))
    return 0


def given_metadata(call: Call) -> str:
    """What `--metadata-file` or `--metadata` say; the file has precedence."""
    path = call.values.text("metadata-file")
    if not path:
        return call.values.text("metadata")
    from orlop.dropin.data import opened

    with opened(path) as file:
        # Records hold text. What is not UTF-8 becomes U+FFFD, as it does for the peers when they save it.
        return file.read().decode("utf-8", "replace")


def get_names(call: Call) -> int:
    names = call.store.names(call.args[0])
    if call.json:
        call.answer(names)
    else:
        for name in names:
            call.say(name)
    return 0


def add_names(call: Call) -> int:
    return _told(call, call.store.add_names(call.args[0], call.values.list("name")))


def remove_names(call: Call) -> int:
    return _told(call, call.store.remove_names(call.args[0], call.values.list("name")))


def set_names(call: Call) -> int:
    return _told(call, call.store.set_names(call.args[0], call.values.list("name")))


def _told(call: Call, names: tuple[str, ...]) -> int:
    if call.json:
        call.answer(names or None)
    return 0
