"""Logs through the standard library, at no cost while nobody asked for any.

`Logger` hands records on to `logging` when the program has imported it, and drops them when not:
then nobody can have asked. Loggers are named `outpost.…`; the handler that keeps them quiet by
default is set here, so a program that configures `logging` sees them as those of any library.

What is logged is for people who look for the cause of something: ids, names, durations, errors;
never an order's environment, prompt or secrets.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

#: The name that all loggers begin with.
ROOT = "outpost"


class Logger:
    """A logger by a name, imported when it is first heard.

    Args:
        name: what follows `outpost.` in its name, dotted.
    """

    __slots__ = ("_logger", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._logger: logging.Logger | None = None

    def debug(self, text: str, *values: object) -> None:
        """Log a step that matters to who looks for a defect."""
        self._log(10, text, values)

    def info(self, text: str, *values: object) -> None:
        """Log something that happened as it should."""
        self._log(20, text, values)

    def warning(self, text: str, *values: object, error: BaseException | None = None) -> None:
        """Log something that is not as it should be; with `error`, its traceback at debug."""
        self._log(30, text, values)
        if error is not None:
            self._log(10, text, values, error)

    def _log(
        self, level: int, text: str, values: tuple[object, ...], error: BaseException | None = None
    ) -> None:
        logging = sys.modules.get("logging")
        if logging is None:
            return
        logger = self._logger
        if logger is None:
            logger = self._logger = _quiet(f"{ROOT}.{self._name}")
        if logger.isEnabledFor(level):
            logger.log(level, text, *values, exc_info=error, stacklevel=3)


def _quiet(name: str) -> logging.Logger:
    import logging

    root = logging.getLogger(ROOT)
    if not root.handlers:
        root.addHandler(logging.NullHandler())  # else Python prints warnings by itself
    return logging.getLogger(name)
