"""`outpost bootstrap`: have an outpost install what a worker needs, step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from outpost_core.errors import PluginError, UsageError
from outpost_core.nearest import suggest
from outpost_core.types import Step
from outpost_manager.offloop import off_loop
from outpost_shared import border

if TYPE_CHECKING:
    from outpost_manager.manager import Manager

#: What a step can be.
STATES: Final = frozenset(("ok", "would", "doing", "done", "failed", "skipped"))


async def steps(
    manager: Manager, name: str, agents: Sequence[str] | None, *, dry_run: bool
) -> AsyncIterator[Step]:
    """Yield each step when it begins (`doing`) and when it has ended; no step has a time limit.

    Args:
        manager: the open manager.
        name: the outpost.
        agents: presets to install; None for the one of the configuration's defaults.
        dry_run: change nothing.

    Raises:
        NotFoundError: no outpost has that name.
        UnsupportedError: it cannot be set up from here.
        UsageError: there is no such agent.
        PluginError: the outpost failed otherwise than by an error of ours, or yielded no step.
    """
    manager.fleet.configured(name)
    presets = manager.agents()
    wanted = [manager.config.defaults.agent] if agents is None else [*agents]
    for agent in wanted:
        if agent not in presets:
            raise UsageError(f"there is no agent named {agent!a}", hint=suggest(agent, presets))
    manager.fleet.require(name, "bootstrap")
    stream = manager.fleet.stream(
        name, "outpost_bootstrap", timeout=None, agents=wanted, dry_run=dry_run
    )
    async with aclosing(stream) as found:
        async for step in found:
            if not (isinstance(step, Step) and step.state in STATES):
                raise PluginError(f"outpost_bootstrap of {name!r} yielded {ascii(step)[:120]}")
            yield border.answer(name, "outpost_bootstrap", Step, step)
    await off_loop(manager.presence.forget, name)
