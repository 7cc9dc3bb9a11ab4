"""What the tests of retries share: a manager over fake outposts, and ends of workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ourplugins import ours

from outpost_core.discovery import PluginReport
from outpost_core.types import Agent, Issue, Order, Result, State
from outpost_manager.ledger import Entry, QueueItem
from outpost_manager.manager import Manager
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_mayor.retries.settler import Settler
from outpost_testing import FakeOutpost, fake_backend


def manager(folder: Path, *fakes: FakeOutpost, config: str = "") -> Manager:
    """Return a manager over fakes; calling it again is another process on the same state."""
    plugins = ours()
    plugins.backends["fake"] = fake_backend({fake.name: fake for fake in fakes})
    plugins.homes["fake"] = PluginReport(entry_point="fake", package="outpost-fake", version="1")
    names = "".join(f"  - {{name: {f.name}, type: fake, max_workers: 99}}\n" for f in fakes)
    file = folder / "outposts.yaml"
    file.write_text(f"outposts:\n{names}{config}")
    return Manager.open(
        config=file, state=folder / "state", environ={}, cwd=folder, plugins=plugins
    )


def claude(issue: str = "gt-1", *, model: str = "", secrets: Any = None) -> Order:
    """Return an order for Claude Code."""
    from outpost_agents.presets import PRESETS
    from outpost_manager.orders.presets import resolve

    agent = resolve("claude", PRESETS, interactive=False)
    if model:
        words = list(agent.argv)
        at = words.index("--")
        words[at:at] = ["--model", model]
        agent = Agent(argv=tuple(words), name="claude", output=agent.output)
    more = {} if secrets is None else {"secrets": secrets}
    return Order(issue=Issue(id=issue), agent=agent, prompt="Do it.", **more)


def command(issue: str = "gt-1") -> Order:
    """Return an order of a bare command."""
    return Order(issue=Issue(id=issue), agent=Agent(argv=("true",)))


class Course:
    """One entry of the queue on its way through a manager.

    Args:
        at: the manager, which is entered.
        fakes: its outposts.
        clock: for the settler.
    """

    def __init__(
        self, at: Manager, *fakes: FakeOutpost, clock: Callable[[], float] = time.time
    ) -> None:
        self.at = at
        self.fakes = {fake.name: fake for fake in fakes}
        self.settler = Settler(at, clock=clock, chance=lambda: 1.0)

    async def add(self, order: Order, **more: Any) -> None:
        await self.at.ledger.queue.add([QueueItem(order=order, **more)])

    async def entry(self, issue: str = "gt-1") -> Entry:
        found = await self.at.ledger.queue.entry(issue)
        assert found is not None
        return found

    async def place(self, issue: str = "gt-1") -> str:
        """Place what waits as the dispatcher does, whatever `not_before` says; return where."""
        entry = await self.entry(issue)
        assert entry.state == "waiting", entry
        order = await self.at.ledger.queue.order(issue)
        assert order is not None
        turns = {entry.worker: await Dispatcher(self.at)._turn(entry)}
        (answer,) = await self.at.spawn_many([order], on=entry.place, turns=turns)
        if isinstance(answer, Exception):
            raise answer
        return answer.worker.outpost

    async def finish(self, result: Result, issue: str = "gt-1") -> Entry:
        """End the attempt that runs, decide, and return the entry."""
        entry = await self.entry(issue)
        worker = await self.at.ledger.worker(entry.worker)
        assert worker is not None
        self.fakes[worker.outpost].finish(entry.worker, result)
        await self.at.refresh()
        assert (await self.entry(issue)).state == "settling"
        assert await self.settler.step() == 1
        return await self.entry(issue)

    async def decided(self, issue: str = "gt-1") -> list[dict[str, Any]]:
        return [dict(one.data) for one in await self.at.ledger.queue.decisions(issue)]


def failed(reason: str, **more: Any) -> Result:
    """Return the result of a worker that failed for a reason."""
    return Result(state=State.FAILED, reason=reason, finished_at=time.time(), **more)


def run(at: Manager, body: Callable[[Manager], Any]) -> Any:
    """Run something in a manager."""

    async def whole() -> Any:
        async with at:
            return await body(at)

    return asyncio.run(whole())
