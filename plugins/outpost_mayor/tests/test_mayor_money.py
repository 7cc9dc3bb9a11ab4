"""What waits for money or an account says so, and goes when it may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from outpost_agents import plugin as agents
from outpost_core.discovery import PluginReport, Plugins
from outpost_core.types import Agent, Issue, Limits, Order, Result, Secrets, State, Usage
from outpost_manager import plugin as manager_plugin
from outpost_manager.ledger import Entry, QueueItem
from outpost_manager.manager import Manager
from outpost_mayor.dispatch.dispatcher import Dispatcher
from outpost_testing import FakeOutpost, fake_backend

OUTPOSTS = "outposts:\n  - {name: a, type: fake, max_workers: 9}\n"


def opened(
    folder: Path, fake: FakeOutpost, config: str, environ: dict[str, str] | None = None
) -> Manager:
    """Return a manager over one fake outpost."""
    plugins = Plugins.load([])
    for name, plugin in {"agents": agents, "manager": manager_plugin}.items():
        plugins.add(plugin, PluginReport(entry_point=name))
    plugins.backends["fake"] = fake_backend({"a": fake})
    plugins.homes["fake"] = PluginReport(entry_point="fake", package="outpost-fake", version="1")
    file = folder / "outposts.yaml"
    file.write_text(OUTPOSTS + config)
    return Manager.open(
        config=file, state=folder / "state", environ=environ or {}, cwd=folder, plugins=plugins
    )


def run(manager: Manager, body: Callable[[Manager], Coroutine[Any, Any, None]]) -> None:
    """Do something with an open manager."""

    async def all_of_it() -> None:
        async with manager:
            await body(manager)

    asyncio.run(all_of_it())


def item(issue: str, *secrets: str) -> QueueItem:
    """Return an order that may cost a dollar."""
    return QueueItem(
        order=Order(
            issue=Issue(id=issue),
            agent=Agent(argv=("true",), name="claude"),
            limits=Limits(max_agent_cost_usd=1.0),
            secrets=Secrets(dict.fromkeys(secrets, "")),
        )
    )


async def entry(manager: Manager, issue: str) -> Entry:
    """Return an entry of the queue."""
    (found,) = [one for one in await manager.ledger.queue.entries() if one.issue == issue]
    return found


def test_what_waits_for_a_budget_says_until_when_and_goes_then(tmp_path: Path) -> None:
    a = FakeOutpost("a")
    config = "budgets:\n  - {name: hourly, window: hour, usd: 1.5}\n"

    async def body(manager: Manager) -> None:
        dispatcher = Dispatcher(manager)
        await manager.ledger.queue.add([item("gt-1"), item("gt-2")])
        assert await dispatcher.step() == 1
        assert "budget hourly: 1.00 USD of 1.50 USD" in (await entry(manager, "gt-2")).why
        assert dispatcher.next_moment is None
        a.finish("gt-1.1", Result(state=State.DONE, usage=Usage(cost_usd=0.9)))
        await manager.refresh()
        for _ in range(20):
            assert await dispatcher.step() == 0
        waits = await entry(manager, "gt-2")
        assert ", until " in waits.why
        assert dispatcher.next_moment is not None
        assert abs(dispatcher.next_moment - (time.time() + 3600)) < 120
        refusals = [e for e in await manager.ledger.events() if e.kind == "refused"]
        assert len(refusals) == 2, "the same refusal is told once"
        with manager.ledger.direct._store.write() as db:  # an hour later
            db.execute("UPDATE workers SET ended_at = ended_at - 3601")
        assert await dispatcher.step() == 1

    run(opened(tmp_path, a, config), body)


def test_the_dispatcher_sleeps_while_all_that_waits_has_a_moment(tmp_path: Path) -> None:
    a = FakeOutpost("a")
    config = "budgets:\n  - {name: hourly, window: hour, usd: 1.0}\n"

    async def body(manager: Manager) -> None:
        await manager.ledger.queue.add([item("gt-1"), item("gt-2")])
        dispatcher = Dispatcher(manager)
        await dispatcher.step()
        a.finish("gt-1.1", Result(state=State.DONE, usage=Usage(cost_usd=0.9)))
        await manager.refresh()
        await dispatcher.step()
        assert await dispatcher._pause() == 60.0
        last = await manager.ledger.last_event()
        running = asyncio.ensure_future(dispatcher.run())
        await asyncio.sleep(0.5)
        running.cancel()
        assert await manager.ledger.last_event() == last, "nothing was written meanwhile"

    run(opened(tmp_path, a, config), body)


def test_an_entry_gets_the_secrets_of_its_account_when_it_is_placed(tmp_path: Path) -> None:
    a = FakeOutpost("a")
    config = (
        "accounts:\n"
        "  - {name: one, agent: claude, secrets: {KEY: 'env:KEY_1'}, max_workers: 1}\n"
        "  - {name: two, agent: claude, secrets: {KEY: 'env:KEY_2'}, max_workers: 1}\n"
    )

    async def body(manager: Manager) -> None:
        await manager.ledger.queue.add([item(f"gt-{n}", "KEY") for n in range(3)])
        assert await Dispatcher(manager).step() == 2
        assert {a.order(f"gt-{n}.1").secrets["KEY"] for n in (0, 1)} == {"first", "second"}
        assert "account one: 1 of 1 workers use it" in (await entry(manager, "gt-2")).why

    run(opened(tmp_path, a, config, {"KEY_1": "first", "KEY_2": "second"}), body)
