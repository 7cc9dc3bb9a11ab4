"""What can be configured about an exec outpost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outpost_core.backend import OutpostOptions, option
from outpost_core.errors import UsageError
from outpost_core.hookspecs import CAPABILITIES as ALL
from outpost_core.hookspecs import TRAITS
from outpost_core.nearest import suggest
from outpost_core.types import check_env_name

#: What an exec outpost can at most do: what the protocol has a method for, and all traits.
CAPABILITIES: Final = frozenset(ALL.keys() | TRAITS.keys()) - {"price", "bootstrap"}


@dataclass(frozen=True, kw_only=True)
class ExecOptions(OutpostOptions):
    """Options of an outpost of type `exec`."""

    command: tuple[str, ...] = option(
        "the program and its arguments; no shell looks at them", metavar="ARGUMENT"
    )
    cwd: Path | None = option(
        "where the program runs, if not in the folder of outposts.yaml",
        default=None, metavar="FOLDER",
    )  # fmt: skip
    env: dict[str, str] = option(
        "environment variables that the program gets besides ours", default={}
    )
    options: dict[str, str] = option(
        "what the program is told when it is greeted; never in an argv", default={}
    )
    capabilities: tuple[str, ...] = option(
        "what the program can, of the words of the hooks' reference; `outpost doctor` compares",
        default=(), metavar="WORD",
    )  # fmt: skip
    viewer: tuple[str, ...] = option(
        "the beginning of the command that `outpost attach` may run on this machine when the"
        " program names it; what the program adds are plain words, none of them a flag",
        default=(), metavar="ARGUMENT",
    )  # fmt: skip
    start_timeout: float = option(
        "time that the program has to start and answer", default=8.0, unit="duration", min=0.1
    )

    def __post_init__(self) -> None:
        """Check what the types alone do not say.

        Raises:
            UsageError: a value is mistaken; the configuration adds its line.
        """
        if not self.command or not self.command[0]:
            raise UsageError("command is empty", hint="command: [/path/to/program, --argument]")
        if any("\0" in word for word in self.command):
            raise UsageError("command contains a NUL character")
        for name in self.env:
            check_env_name(name)
        for word in self.capabilities:
            if word not in CAPABILITIES:
                raise UsageError(
                    f"capabilities: {word[:80]!a} is not one of {', '.join(sorted(CAPABILITIES))}",
                    hint=suggest(word, CAPABILITIES),
                )
