"""What went otherwise than it should and stopped nothing, told to whoever listens to the loggers of this package.

Rule: who did not ask is told nothing. Python prints the warnings of a package that nobody listens to on standard
error, where the commands of the drop-in must be silent, because scripts compare what they say.
"""

from __future__ import annotations


def warn(logger: str, text: str, *arguments: object) -> None:
    """A warning of the module `logger`; `text` has a `%s` for each argument."""
    import logging

    package = logging.getLogger("orlop")
    if not package.handlers:
        package.addHandler(logging.NullHandler())  # one that nobody reads keeps Python from printing
    logging.getLogger(logger).warning(text, *arguments)
