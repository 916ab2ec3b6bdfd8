"""What went otherwise than it should and stopped nothing, told to whoever listens to the loggers of this package.

Rule: who did not ask is told nothing. Python prints the warnings of a package that nobody listens to on standard
error, where the commands of the drop-in must be silent, because scripts compare what they say.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def warn(logger: str, text: str, *arguments: object) -> None:
    """A warning of the module `logger`; `text` has a `%s` for each argument."""
    import logging

    package = logging.getLogger("orlop")
    if not package.handlers:
        package.addHandler(logging.NullHandler())  # one that nobody reads keeps Python from printing
    logging.getLogger(logger).warning(text, *arguments)


def listen(tell: Callable[[str, str], None]) -> None:
    """From now on `tell` is called with the level, in lower case, and the text of whatever this package logs."""
    import logging

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record.levelname.lower(), record.getMessage())

    logging.getLogger("orlop").addHandler(Listener())
