"""Managers of tests over outposts in memory, and a clock that is set by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from outpost_core.discovery import PluginReport, Plugins
from outpost_core.types import Agent, Delivery, Issue, Order, Result, Secrets, State
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost, fake_backend

#: Seconds that a condition may take to come true, on a machine that is busy.
PATIENCE = 60.0
RIG = "https://git.example/r.git"


class Clock:
    """Says what time it is; it goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """Return the moment."""
        return self.now

    def tick(self, seconds: float) -> None:
        """Let time pass, or go back."""
        self.now += seconds


class Fleet:
    """Outposts in memory, and managers over one ledger.

    Args:
        folder: an empty one.
        sizes: name of an outpost → how many workers it takes.
        more: lines of the configuration below the outposts.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int], more: str = "") -> None:
        self.outposts = {name: FakeOutpost(name) for name in sizes}
        lines = "".join(
            f"  - {{name: {name}, type: fake, max_workers: {size}}}\n"
            for name, size in sizes.items()
        )
        self.config, self.state = folder / "outposts.yaml", folder / "state"
        self.config.write_text(
            f"outposts:\n{lines}policy:\n  default_preference: [{', '.join(sizes)}]\n{more}"
        )

    def manager(self, environ: Mapping[str, str] | None = None) -> Manager:
        """Return a manager that is to be entered."""
        plugins = Plugins.load([])
        plugins.backends["fake"] = fake_backend(dict(self.outposts))
        plugins.homes["fake"] = PluginReport(entry_point="fake", package="fake", version="1")
        more: dict[str, Any] = {} if environ is None else {"environ": environ}
        return Manager.open(config=self.config, state=self.state, plugins=plugins, **more)

    def spawned(self) -> list[str]:
        """Return the workers that were spawned, in that order, outpost by outpost."""
        return [
            worker
            for outpost in self.outposts.values()
            for hook, worker in outpost.calls
            if hook == "outpost_spawn"
        ]

    async def end(self, manager: Manager, worker: str, state: State = State.DONE) -> None:
        """End a worker, and have the ledger know."""
        for outpost in self.outposts.values():
            if any(status.id == worker for status in await outpost.outpost_list()):
                outpost.finish(worker, Result(state=state, reason="ok", exit_code=0))
        await manager.refresh()


def order(
    issue: str,
    *,
    priority: int = 2,
    rig: str = RIG,
    agent: str = "",
    labels: tuple[str, ...] = (),
    secrets: Mapping[str, str] | None = None,
    attempt: int = 1,
) -> Order:
    """Return an order for an issue."""
    return Order(
        issue=Issue(id=issue, priority=priority, labels=labels),
        agent=Agent(name=agent, argv=("true",)),
        rig=rig,
        delivery=Delivery(branch=f"outpost/{issue}", message=issue),
        secrets=Secrets(secrets or {}),
        attempt=attempt,
    )


async def until(true: Callable[[], Awaitable[object]], what: str = "") -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not await true():
        assert time.monotonic() < end, what or "it did not come true"
        await asyncio.sleep(0.01)
