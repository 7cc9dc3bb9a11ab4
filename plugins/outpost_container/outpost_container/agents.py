"""The agents whose programs can be put into the image: where they come from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from outpost_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Agent → the npm package that brings a native program for each platform, and how the packages
#: of the platforms begin. `image/pick` knows what of them is taken.
KNOWN: Final = {
    "claude": ("@anthropic-ai/claude-code", "@anthropic-ai/claude-code-linux-"),
    "codex": ("@openai/codex", "@openai/codex-linux-"),
}
_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Program:
    """One agent in the image.

    Args:
        agent: its name.
        version: the version that was asked for; "" for the newest.
    """

    agent: str
    version: str = ""

    @property
    def package(self) -> str:
        """What npm is asked for."""
        name, _ = KNOWN[self.agent]
        return f"{name}@{self.version}" if self.version else name

    def __str__(self) -> str:
        return f"{self.agent}@{self.version}" if self.version else self.agent


def programs(words: Iterable[str], installed: Path | None) -> tuple[Program, ...]:
    """Read what was asked for, `claude` or `claude@2.1.197`; each agent once, in a fixed order.

    Args:
        words: what was asked for.
        installed: a `node_modules` that the programs are taken from.

    Raises:
        UsageError: an agent is unknown, asked for twice, or not in `installed`.
    """
    found: dict[str, Program] = {}
    for word in words:
        agent, at, version = word.partition("@")
        if agent not in KNOWN:
            raise UsageError(
                f"{agent!r} is not an agent that the image can be built with: those are"
                f" {', '.join(KNOWN)}",
                hint="put others in by a Containerfile of your own that begins with FROM this image"
                " (docs/guides/container.md)",
            )
        if at and not _VERSION.fullmatch(version):
            raise UsageError(f"{word!r}: {version!r} is not a version", hint=f"--agent {agent}")
        if agent in found:
            raise UsageError(f"{agent} is asked for twice", hint=f"once: --agent {word}")
        if installed is not None:
            _demand(agent, installed)
        found[agent] = Program(agent=agent, version=version)
    return tuple(found[agent] for agent in sorted(found))


def _demand(agent: str, installed: Path) -> None:
    name, platforms = KNOWN[agent]
    if not any(installed.glob(f"{platforms}*")):
        raise UsageError(
            f"{installed} has no package {platforms}…, which brings the program of {agent}",
            hint=f"npm install --prefix {installed.parent} {name}, or leave out --agents-from:"
            " the build fetches it",
        )
