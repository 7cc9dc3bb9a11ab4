"""Who takes an order, who is asked next, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from managerkit import Make, order, run

from outpost_core import Assignment
from outpost_core.errors import NotFoundError, PlacementError, SpawnRefusedError
from outpost_core.hookspecs import hookimpl
from outpost_core.types import Candidate, Event, Limits, Order
from outpost_manager.manager import Manager
from outpost_testing import FakeOutpost
from outpost_testing.fake import FakeOptions


def test_the_first_in_the_file_takes_it_and_the_reason_is_kept(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    seen: list[Event] = []

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order(), progress=seen.append)
        assert (spawned.worker.outpost, spawned.adopted) == ("a", False)
        kept = await manager.ledger.explanation("gt-1.1")
        assert kept is not None
        assert [(v.outpost, v.rank) for v in kept.verdicts] == [("a", 1), ("b", 2)]

    run(make(a, b), body)
    assert [event.kind for event in seen] == ["placed", "reserved", "starting", "spawned"]


def test_a_refusal_and_a_cut_line_fall_back_with_their_reasons(make: Make) -> None:
    a, b, c = FakeOutpost("a"), FakeOutpost("b"), FakeOutpost("c")
    a.refuse("no memory")
    b.cut("no route")

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order())
        assert spawned.worker.outpost == "c"
        assert [name for name, _ in spawned.explanation.attempts] == ["a", "b"]
        assert "no memory" in spawned.explanation.attempts[0][1]
        assert (await manager.ledger.active()) == {"c": 1}
        assert [v.state for v in (await manager.outposts())] == [
            "unknown",
            "unreachable",
            "unknown",
        ]

    run(make(a, b, c), body)


def test_an_unreachable_outpost_is_avoided_for_a_while(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.cut()

    async def body(manager: Manager) -> None:
        await manager.spawn(order("gt-1"))
        asked = len(a.calls)
        await manager.spawn(order("gt-2"))
        assert len(a.calls) == asked, "it was not asked again"

    run(make(a, b), body)


def test_when_nobody_takes_it_nothing_stays_and_each_reason_is_said(make: Make) -> None:
    a, b = FakeOutpost("a", FakeOptions(capabilities=())), FakeOutpost("b")
    b.refuse("full house")

    async def body(manager: Manager) -> None:
        with pytest.raises(PlacementError) as caught:
            await manager.spawn(order(rig="https://example.com/x.git"))
        assert "full house" in str(caught.value)
        assert "a: cannot" in str(caught.value)
        assert caught.value.exit_code == 3
        assert (await manager.ledger.worker("gt-1.1")) is None
        assert (await manager.ledger.active()) == {}
        b.refuse("")
        assert (await manager.spawn(order(rig="https://example.com/x.git"))).worker.outpost == "b"

    run(make(a, b), body)


def test_a_policy_plugin_decides_within_the_hard_limits(make: Make) -> None:
    class Last:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> list[str]:
            return [c.name for c in reversed(candidates)]

    a, b, c = FakeOutpost("a"), FakeOutpost("b"), FakeOutpost("c", FakeOptions(capabilities=()))

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order(rig="https://example.com/x.git"))
        assert spawned.worker.outpost == "b", "c cannot do it, whatever the plugin says"

    run(make(a, b, c, plugin=Last()), body)


def test_a_broken_policy_plugin_is_named(make: Make) -> None:
    class Broken:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> list[str]:
            raise RuntimeError("no idea")

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order())
        assert spawned.worker.outpost == "a"
        assert spawned.explanation.rule == "local first", "the next policy decides"
        (note,) = spawned.explanation.notes
        assert "extra" in note
        assert "RuntimeError: no idea" in note
        kept = await manager.ledger.explanation("gt-1.1")
        assert kept is not None
        assert kept.notes == (note,)

    run(make(FakeOutpost("a"), plugin=Broken()), body)


def test_a_policy_that_answers_nonsense_is_named(make: Make) -> None:
    class Odd:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> Any:
            return [["a"]]

    async def body(manager: Manager) -> None:
        (note,) = (await manager.spawn(order())).explanation.notes
        assert "TypeError" in note

    run(make(FakeOutpost("a"), plugin=Odd()), body)


def test_the_reason_of_a_policy_is_in_the_explanation(make: Make) -> None:
    class Policy:
        @hookimpl
        def outpost_assign(self, order: Order, candidates: Sequence[Candidate]) -> Assignment:
            return Assignment("b", reason="b is quiet")

    async def body(manager: Manager) -> None:
        why = await manager.explain(order())
        assert why.rule == "policy of extra: b is quiet"
        assert [(v.outpost, v.rank) for v in why.verdicts] == [("b", 1), ("a", None)]
        assert why.verdicts[0].reason == "b is quiet"
        assert (await manager.spawn(order())).worker.outpost == "b"

    run(make(FakeOutpost("a"), FakeOutpost("b"), plugin=Policy()), body)


@pytest.mark.parametrize("price", [-1.0, float("nan"), 1e12, "x", None])
def test_a_price_that_is_none_is_its_outposts_trouble(make: Make, price: Any) -> None:
    class Dear(FakeOutpost):
        @hookimpl
        def outpost_price(self, order: Order) -> Any:
            return price

    async def body(manager: Manager) -> None:
        spawned = await manager.spawn(order())
        assert spawned.worker.outpost == "b"
        assert "outpost_price" in spawned.explanation.verdicts[-1].reason

    run(make(Dear("a"), FakeOutpost("b")), body)


def test_an_outpost_that_could_not_hold_an_order_is_passed_over_with_its_reason(
    make: Make,
) -> None:
    """Saying so is no failure of its package."""

    class Short(FakeOutpost):
        @hookimpl
        def outpost_price(self, order: Order) -> float:
            raise SpawnRefusedError("it holds a worker for 1h", hint="mode: job for 168h")

    async def body(manager: Manager) -> None:
        why = await manager.explain(order())
        assert [(v.outpost, v.eligible) for v in why.verdicts] == [("b", True), ("a", False)]
        assert why.verdicts[1].reason == "it holds a worker for 1h; mode: job for 168h"
        spawned = await manager.spawn(order())
        assert (spawned.worker.outpost, spawned.explanation.attempts) == ("b", ())
        with pytest.raises(PlacementError, match="a: it holds a worker for 1h"):
            await manager.spawn(order("gt-2"), on="a")
        assert all(report.ok for report in manager.plugins.reports)
        assert next(v.state for v in await manager.outposts()) != "broken"

    run(make(Short("a"), FakeOutpost("b")), body)


def test_what_an_outpost_costs_by_itself_counts_within_its_cap(make: Make) -> None:
    config = "outposts:\n" + "".join(
        f"  - {{name: {name}, type: fake, price: 0.4, standing: 0.3, cost_cap_hourly: 1.0}}\n"
        for name in "ab"
    )
    options = FakeOptions(price=0.4, standing=0.3, cost_cap_hourly=1.0)
    a, b = FakeOutpost("a", options), FakeOutpost("b", options)
    free = Limits(max_agent_cost_usd=0.0)

    async def body(manager: Manager) -> None:
        view = (await manager.outposts())[0]
        assert (view.spent, view.standing) == (0.3, 0.3)
        answers = await manager.spawn_many([order(f"gt-{n}", limits=free) for n in range(3)])
        assert [getattr(a, "worker", None) and a.worker.outpost for a in answers] == [
            "a",
            "b",
            None,
        ]
        assert "$0.70 of $1.00 used, this needs $0.40" in str(answers[2])
        assert (await manager.outposts())[0].spent == pytest.approx(0.7)

    run(make(a, b, config=config), body)


def test_who_reserves_late_hears_that_the_money_went_to_stay_warm(make: Make) -> None:
    """The transaction looks again, so that a crowd of processes is held as well."""
    options = FakeOptions(price=0.4, standing=0.3, cost_cap_hourly=1.0)
    config = "outposts: [{name: a, type: fake, price: 0.4, standing: 0.3, cost_cap_hourly: 1.0}]\n"

    async def body(manager: Manager) -> None:
        free = Limits(max_agent_cost_usd=0.0)
        sheets = await manager.overview.sheets([order(limits=free)], 0.0)
        await manager.spawn(order("gt-1", limits=free))

        async def stale(*_: object) -> Any:
            return sheets

        manager.placement.overview.sheets = stale  # type: ignore[method-assign]
        with pytest.raises(PlacementError, match=r"0\.70 USD of 1\.00 USD are reserved or spent"):
            await manager.spawn(order("gt-2", limits=free))

    run(make(FakeOutpost("a", options), config=config), body)


def test_an_outpost_that_cannot_say_what_it_costs_by_itself_takes_nothing(make: Make) -> None:
    class Vague(FakeOptions):
        def standing_cost(self) -> float:
            return float("nan")

    async def body(manager: Manager) -> None:
        entry = manager.fleet.config.outposts[0]
        object.__setattr__(entry, "options", Vague(cost_cap_hourly=1.0))
        view = (await manager.outposts())[0]
        assert (view.state, view.spent) == ("broken", 0.0)
        assert "standing_cost" in view.detail
        assert (await manager.spawn(order())).worker.outpost == "b"

    run(make(FakeOutpost("a"), FakeOutpost("b")), body)


def test_a_missing_type_is_listed_with_advice_and_passed_over(make: Make) -> None:
    config = "outposts:\n  - {name: far, type: ssh, host: 10.0.0.5}\n  - {name: a, type: fake}\n"

    async def body(manager: Manager) -> None:
        far = (await manager.outposts())[0]
        assert (far.state, far.hint) == (
            "missing",
            "in a clone of Outpost: pip install ./plugins/outpost_ssh",
        )
        assert (await manager.spawn(order())).worker.outpost == "a"
        assert [v.state for v in await manager.refresh()] == ["missing", "ready"]

    run(make(FakeOutpost("a"), config=config), body)


def test_on_names_the_outpost_and_an_unknown_one_is_said(make: Make) -> None:
    a, b = FakeOutpost("alpha"), FakeOutpost("beta")

    async def body(manager: Manager) -> None:
        assert (await manager.spawn(order(), on="beta")).worker.outpost == "beta"
        with pytest.raises(NotFoundError, match="bet") as caught:
            await manager.spawn(order("gt-2"), on="bet")
        assert "beta" in caught.value.hint

    run(make(a, b), body)


def test_an_outpost_may_be_called_policy(make: Make) -> None:
    async def body(manager: Manager) -> None:
        assert (await manager.spawn(order())).worker.outpost == "policy"

    run(make(FakeOutpost("policy")), body)


def test_explain_asks_everyone_and_changes_nothing(make: Make) -> None:
    a, b = FakeOutpost("a"), FakeOutpost("b")
    a.cut("no route")

    async def body(manager: Manager) -> None:
        told = await manager.explain(order())
        assert [(v.outpost, v.eligible) for v in told.verdicts] == [("b", True), ("a", False)]
        assert "no route" in told.verdicts[1].reason
        assert told.rule
        assert told.verdicts[0].reason
        assert (await manager.ledger.workers()) == []
        assert not any(event.worker for event in await manager.ledger.events())

    run(make(a, b), body)
    asked = {hook for outpost in (a, b) for hook, _ in outpost.calls}
    assert "outpost_ping" in asked
    assert asked <= {"outpost_ping", "outpost_price", "outpost_list"}, "it starts nothing"
