"""Commands about the store as a whole (`spec/cli.md` 10)."""

from __future__ import annotations

from orlop.dropin.streams import Refusal
from orlop.errors import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from orlop.dropin.streams import Call


def status(call: Call) -> int:
    return _pairs(call, call.store.status())


def version(call: Call) -> int:
    return _pairs(call, call.store.version())


def _pairs(call: Call, pairs: Iterable[tuple[str, str]]) -> int:
    """Text goes to standard error here, although it is the result; scripts of the peers read it there."""
    if call.json:
        call.answer(list(pairs))
    else:
        for key, value in pairs:
            call.complain(f"{key}: {value}")
    return 0


def shutdown(call: Call) -> int:
    return _done(call, "shutdown", lambda: call.store.shutdown(force=call.values.on("force")))


def wipe(call: Call) -> int:
    return _done(call, "wipe", call.store.wipe)


def gc(call: Call) -> int:
    """All is tried; of what could not be taken away the first is told."""

    def collect() -> None:
        for _, error in call.store.gc().failed:
            raise StorageError(error)

    return and_unmount(call, lambda: _done(call, "gc", collect))


def dedup(call: Call) -> int:
    """What is shared now, by this run or by one before it."""
    from orlop.stream.fingerprints import METHODS

    method = call.values.text("hash-method")
    if method not in METHODS:
        raise Refusal(f"invalid hash method: {method}")

    def tell(size: int) -> None:
        if call.json:
            call.answer({"Deduped": size})
        else:
            call.say(f"Deduplicated {size} bytes")

    return _done(call, "dedup", lambda: call.store.dedup(method=method).deduped_bytes, tell)


def and_unmount(call: Call, work: Callable[[], int]) -> int:
    """`check` and `gc` unmount, as with the peers, whatever is mounted when they end, which counts as no failure."""
    from orlop.dropin.text import describe

    try:
        status = work()
    except (StorageError, OSError, Refusal) as error:
        call.complain(describe(error))
        status = 1
    try:
        call.store.shutdown(force=True)
    except (StorageError, OSError) as error:
        call.complain(f"shutdown: {describe(error)}")
    return status


def _done(call: Call, verb: str, work: Callable[[], Any], tell: Callable[[Any], None] | None = None) -> int:
    """`tell` gets what came of it. By default nothing is said in text, and in JSON an empty text.

    A failure is an object without members in JSON.
    """
    try:
        result = work()
    except (StorageError, OSError) as error:
        if not call.json:
            from orlop.dropin.text import describe

            raise Refusal(f"{verb}: {describe(error)}") from error
        call.answer({})
        return 1
    if tell is not None:
        tell(result)
    elif call.json:
        call.answer("")
    return 0


def config(call: Call) -> int:
    """The configuration of this user, or what a file says; the flags of this call have no part in it."""
    from orlop.config.load import Configuration

    configuration = Configuration()
    path = call.args[0] if call.args else ""
    step = "default"
    try:
        options = configuration.effective()
        if path:
            step = "reload"
            options = configuration.load(path)
    except (StorageError, OSError) as error:
        from orlop.dropin.text import describe

        raise Refusal(f"{step}: {describe(error)}") from error
    call.answer_object(options.as_json())
    return 0
