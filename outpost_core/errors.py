"""The one error tree of Outpost.

::

    OutpostError                  root; str() is what a user reads
    ├── UsageError                bad input, refused before anything changed        (exit 2)
    │   └── ConfigError           a mistake in outposts.yaml: file, line, column    (exit 2)
    ├── PluginError               a package that cannot be used, and why            (exit 2)
    ├── NotFoundError             no such worker, issue or outpost                  (exit 4)
    ├── ConflictError             the same worker id with another order             (exit 2)
    ├── UnsupportedError          the outpost does not have that capability         (exit 2)
    ├── PlacementError            no outpost could take the order                   (exit 3)
    ├── SpawnRefusedError         this outpost certainly did not start the worker   (exit 3)
    ├── UnreachableError          the outpost did not answer; nothing is known      (exit 5)
    ├── LedgerError               the ledger cannot be read or written              (exit 1)
    └── WorkerError               the far side could not do a step, with its reason (exit 1)

Standard library only, since the far side raises them too.
"""

from __future__ import annotations


class OutpostError(Exception):
    """Root of everything Outpost raises on purpose.

    Args:
        message: what failed and why, one or few lines, no secrets.
        hint: what the user can do next, as a sentence or a command; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class UsageError(OutpostError):
    """Input that was refused before anything changed."""

    exit_code = 2


class ConfigError(UsageError):
    """A mistake in a configuration file.

    Args:
        message: what is wrong.
        hint: the nearest right word or what to write instead.
        file: path of the file as the user knows it, or "" when there is none.
        line: 1-based line of the mistake, 0 when unknown; likewise `column`.
        snippet: the offending line with a caret under the mistake; may be empty.
    """

    def __init__(
        self, message: str, *, hint: str = "", file: str = "", line: int = 0, column: int = 0,
        snippet: str = "",
    ) -> None:  # fmt: skip
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line
        self.column = column
        self.snippet = snippet

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        text = f"{where}: {self.message}" if where else self.message
        if self.snippet:
            text += f"\n{self.snippet}"
        return f"{text}\n  → {self.hint}" if self.hint else text


class PluginError(OutpostError):
    """A package that cannot be used; the rest keeps working without it."""

    exit_code = 2


class NotFoundError(OutpostError):
    """No worker, issue or outpost has that name."""

    exit_code = 4


class ConflictError(OutpostError):
    """The same worker id was asked for with another order (law 1)."""

    exit_code = 2


class UnsupportedError(OutpostError):
    """The outpost does not declare the capability that the verb needs."""

    exit_code = 2


class PlacementError(OutpostError):
    """No outpost could take the order; the message says why for each."""

    exit_code = 3


class SpawnRefusedError(OutpostError):
    """The outpost answered that it did **not** start the worker: another may take it.

    Raise this only when it is certain that nothing runs and nothing will.
    """

    exit_code = 3


class UnreachableError(OutpostError):
    """The outpost could not be asked. Says nothing about its workers (law 2).

    Args:
        message: what was tried and what came back.
        hint: the next step.
        sent: False only when it is certain that the request never left this side, so that a
            spawn may go to the next outpost. True (the default) means that it may have arrived.
    """

    exit_code = 5

    def __init__(self, message: str, *, hint: str = "", sent: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class LedgerError(OutpostError):
    """The ledger cannot be opened, read or written; nothing was changed."""


class WorkerError(OutpostError):
    """A step of the far side failed.

    Args:
        message: what failed and why.
        reason: the stable reason code that goes into the result (see `types.REASONS`).
    """

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
