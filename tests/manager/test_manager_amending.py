"""Plugins that amend orders before they are placed (`outpost_order`)."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from managerkit import Make, order, run

from outpost_core import digest
from outpost_core.discovery import PluginReport
from outpost_core.errors import PluginError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Issue, Order, Secrets
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost


class Address:
    """Tells each agent an address of its own."""

    @hookimpl
    def outpost_order(self, order: Order) -> Order | None:
        if order.issue.id == "plain":
            return None
        env = {**order.agent.env, "AGENT_ADDRESS": f"polecats/{order.issue.id}"}
        return replace(order, agent=replace(order.agent, env=env))


def test_an_order_is_placed_as_plugins_want_it_and_found_again(make: Make) -> None:
    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        first = await manager.spawn(order())
        placed = a.order("gt-1.1")
        assert placed.agent.env["AGENT_ADDRESS"] == "polecats/gt-1"
        assert first.worker.digest == digest(placed) != digest(order())
        again = await manager.spawn(order())
        assert again.adopted
        kept = await manager.ledger.order("gt-1.1")
        assert kept is not None
        assert (await manager.spawn(kept)).adopted, "one that was amended is amended to the same"
        plain = await manager.spawn(order("plain"))
        assert plain.worker.digest == digest(order("plain"))

    run(make(a, plugin=Address()), body)


def test_plugins_amend_one_after_the_other_and_secrets_stay_apart(make: Make) -> None:
    a = FakeOutpost("a")

    class Second:
        @hookimpl(trylast=True)
        def outpost_order(self, order: Order) -> Order:
            env = {**order.agent.env, "SEEN": order.agent.env["AGENT_ADDRESS"]}
            return replace(order, agent=replace(order.agent, env=env))

    async def body(manager: Manager) -> None:
        await manager.spawn(order(secrets=Secrets({"KEY": "s3cret-value"})))
        placed = a.order("gt-1.1")
        assert placed.agent.env["SEEN"] == "polecats/gt-1"
        assert placed.secrets["KEY"] == "s3cret-value"

    manager = make(a, plugin=Address())
    manager.plugins.add(Second(), PluginReport(entry_point="second"))
    run(manager, body)


def _raises(order: Order) -> Any:
    raise RuntimeError(f"no address for {order.secrets['KEY']}")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_raises, "RuntimeError: no address for ***"),
        (lambda _: 7, "answered a int, not an Order"),
        (lambda order: replace(order, attempt=2), "changed the issue or the attempt"),
        (lambda order: replace(order, issue=Issue(id="gt-2")), "changed the issue or the attempt"),
        (lambda order: replace(order, agent=replace(order.agent, env={"A": 7})), "env"),
    ],
)
def test_an_order_that_cannot_be_amended_is_not_placed_and_says_whose_mistake_it_is(
    make: Make, answer: Any, says: str
) -> None:
    class Bad:
        @hookimpl
        def outpost_order(self, order: Order) -> Any:
            return answer(order) if order.issue.id == "gt-1" else None

    a = FakeOutpost("a")

    async def body(manager: Manager) -> None:
        bad = order(secrets=Secrets({"KEY": "s3cret-value"}))
        refused, fine = await manager.spawn_many([bad, order("gt-9")])
        assert isinstance(refused, PluginError)
        assert "outpost-amender 1" in refused.message
        assert says in refused.message
        assert "s3cret" not in str(refused)
        assert not isinstance(fine, Exception), "the others are placed"
        assert await manager.ledger.worker("gt-1.1") is None
        with pytest.raises(PluginError, match="outpost-amender"):
            await manager.explain(bad)
        assert [one.hook for one in manager.failures.read()] == ["outpost_order"]
        assert "s3cret" not in str(manager.failures.read())

    manager = make(a)
    report = PluginReport(entry_point="amender", package="outpost-amender", version="1")
    manager.plugins.add(Bad(), report)
    run(manager, body)


def test_a_plugin_that_hangs_holds_up_no_other_order(make: Make) -> None:
    go = threading.Event()

    class Hangs:
        @hookimpl
        def outpost_order(self, order: Order) -> None:
            if order.issue.id == "gt-1":
                go.wait(60)

    config = "outposts:\n  - {name: a, type: fake}\ndefaults: {spawn_timeout: 0.5}\n"

    async def body(manager: Manager) -> None:
        with pytest.raises(PluginError, match=r"who amends orders \(hangs\) did not answer"):
            await manager.spawn(order())
        assert (await manager.spawn(order("gt-2"))).worker.id == "gt-2.1"
        assert await manager.ledger.worker("gt-1.1") is None
        go.set()

    manager = make(FakeOutpost("a"), config=config)
    manager.plugins.add(Hangs(), PluginReport(entry_point="hangs"))
    run(manager, body)
